/* Blocks of size 0: distinct addresses in memory that can be neither read nor written.

   A reservation of EMPTY_BLOCKS addresses, 16 bytes apart, made with the first such block, and a
   byte for each that says what it is: 0 free, else the family whose functions allocated it. The
   addresses are handed out in turn, so that each comes back as late as it can. Where all are in
   use, or there is no room for them, size 0 is served as any small size. No lock: each byte changes
   by compare-and-swap, in a forked child too. */
#ifndef HAKMEM_SECURE_EMPTY_H
#define HAKMEM_SECURE_EMPTY_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/size_classes.h"
#include "hakmem/entry.h"
#include "secure/secure.h"

HAK_EXTERN_C_BEGIN

#define EMPTY_BLOCKS ((size_t)1 << 20)

extern char *hak_secure_empty_base HAK_HIDDEN; /* NULL until there is one */

/* 1 if p lies where such blocks do. */
static inline int hak_secure_is_empty(const void *p)
{
    uintptr_t base = (uintptr_t)atomic_load_relaxed(&hak_secure_empty_base);
    return base && (uintptr_t)p - base < EMPTY_BLOCKS * SC_MIN_ALIGN;
}

/* One at a multiple of `alignment`, a power of two of at most 64 KiB; NULL if there can be none. */
void *hak_secure_empty_alloc(size_t alignment);
/* These abort if p is no such block. */
void hak_secure_empty_free(void *p);
/* Checks that it is one, for `asker`. */
void hak_secure_empty_check(const void *p, enum secure_asker asker);
void hak_secure_empty_name(const void *p, enum entry_family family);
void hak_secure_empty_claim(const void *p, const struct entry_claim *claim);

HAK_EXTERN_C_END

#endif
