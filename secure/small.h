/* Small blocks of the secure variant: dressed with a tail when they are handed out (tail.h),
   undressed and zeroed when they are freed, then in the quarantine (cache.h). No lock held. */
#ifndef HAKMEM_SECURE_SMALL_H
#define HAKMEM_SECURE_SMALL_H

#include "base/internal.h"

#include "hakmem/entry.h"
#include "secure/cache.h"
#include "secure/secure.h"

HAK_EXTERN_C_BEGIN

struct hak_heap;

/* A block of the class for `size` bytes, at most SECURE_SMALL_MAX, all zero. NULL and ENOMEM. */
void *hak_secure_small_alloc(uint32_t size_class, size_t size);
#if defined(__x86_64__)
/* malloc and free, of whatever size, for processors whose hak_secure_wide_set is WIDE_AVX512. */
void *hak_secure_malloc_avx512(size_t size);
void hak_secure_free_avx512(void *p);
#endif
/* The same of a first-class heap. */
void *hak_secure_small_alloc_of(struct hak_heap *heap, uint32_t size_class, size_t size);
/* `tag` is the map's of p, a slab's. These abort if p is no block in use. errno is kept. */
void hak_secure_small_free(void *p, uint32_t tag);
/* What was asked for. */
size_t hak_secure_small_size(const void *p, uint32_t tag, enum secure_asker asker);
/* Makes it so many bytes where it lies; 0 if its class is not that of the size. `must_stay`: the
   size is smaller, and there is no other block for it. *was: what was asked for before. */
int hak_secure_small_resize(void *p, uint32_t tag, size_t size, int must_stay, size_t *was);
void hak_secure_small_name(void *p, uint32_t tag, enum entry_family family);
void hak_secure_small_claim(void *p, uint32_t tag, const struct entry_claim *claim);
/* Whether the slab is one of a pool that is used alone: its blocks have no tails. */
int hak_secure_small_is_of_pool(uint32_t tag);

/* look.c. For a walk: what was asked for; 0 if the program does not have the block. `end`: its heap
   is about to be destroyed, and the block becomes a freed one. */
size_t hak_secure_small_walked(void *p, uint32_t tag, int end);

/* Abort if the block was written to where it may not be: a free one that the calling thread keeps;
   any block of a slab, which another thread may have. */
void hak_secure_small_check_freed(const void *p, uint32_t size_class, enum secure_kept how);
void hak_secure_small_check(const void *p, uint32_t tag);
/* The same of all blocks of a slab but those whose bits are set; returns how many they are. */
uint32_t hak_secure_small_check_slab(char *base, uint32_t size_class, const uint64_t *free);

HAK_EXTERN_C_END

#endif
