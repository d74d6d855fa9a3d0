/* What may be left to libc's malloc: nothing, unless HAKMEM_LD_SAFE or HAKMEM_LD_BLOCK_JEMALLOC
   allows it (base/options.def). Each block that libc serves in hakmem's place is recorded, so that
   it is found again by free, realloc and malloc_usable_size, and that a pointer of neither is still
   an error. Where libc serves all, nothing is recorded: what hakmem does not know is libc's, which
   finds errors itself. Then blocks may also come from libc behind hakmem's back, and go there
   (RTLD_DEEPBIND: docs/preloading.md). Counted in stats.libc_fallbacks, traced by HAKMEM_ACE_TRACE.

   Any thread. One lock (rank FALLBACK), never held while libc is called. Only under glibc, whose
   malloc has other names besides. */
#ifndef HAKMEM_HAKMEM_FALLBACK_H
#define HAKMEM_HAKMEM_FALLBACK_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* 1 if libc_names.c is linked, whose definition is stronger: then libc has no malloc of its own. A
   weak definition and not a weak reference, which gold loses in links with LTO. */
extern const char hak_names_of_libc HAK_HIDDEN;
/* 1 if every request is left to libc. */
int hak_fallback_all(void);
/* A block of libc at a multiple of `align` (a power of two), zeroed if asked; NULL if it is not
   allowed, or libc has none. `is_refused`: hakmem cannot serve the request. */
void *hak_fallback_alloc(size_t size, size_t align, int is_zeroed, int is_refused);
/* Bytes of a block that libc serves; 0 if p is none. If libc serves all, p must be a block. */
size_t hak_fallback_size(const void *p);
/* The same of recorded blocks alone, whatever p is. */
size_t hak_fallback_holds(const void *p);
/* Frees a block that libc serves; 0 if p is none. It waits while the gate is closed. */
int hak_fallback_free(void *p);
/* Frees what has waited, as the next call for libc does too: never who opens the gate, since its
   fork may be a signal handler's that has interrupted libc's malloc. No lock held, outside of the
   gate. */
void hak_fallback_catch_up(void);
/* In a forked child: what waits stays allocated there. */
void hak_fallback_fork_child(void);

HAK_EXTERN_C_END

#endif
