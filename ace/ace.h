/* ACE, the Adaptive Cache Engine: every size above 32 KiB. Up to 1 MiB: classes, four a doubling,
   cut from superslabs as spans. Above, and for what grows by realloc: ranges, mappings of their
   own, kept for reuse when freed. Any thread may call; NULL means that the system refused memory.
   Depends on base and superslab. Can be used alone. */
#ifndef HAKMEM_ACE_ACE_H
#define HAKMEM_ACE_ACE_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define ACE_SPAN_MAX ((size_t)1024 * 1024)
/* A block that grows by realloc to this size or more gets a range, in which growing is a system
   call or nothing, and no copy. */
#define ACE_GROWING_MIN ((size_t)128 * 1024)
/* A block that has grown so stays in its range when it shrinks, down to this size, as long as there
   are few of them: no page more than its own stays resident. Below, it is copied, since a page is
   more than half of it. */
#define ACE_RANGE_LEAST ((size_t)8 * 1024)

/* `size` bytes at a multiple of `align` (a power of two; at least 8 KiB is given). NULL and errno
   ENOMEM if it cannot be. */
void *hak_ace_alloc(size_t size, size_t align);
/* The same, reading as zero up to hak_ace_usable_size; memory that is known to be zero is not
   cleared again. */
void *hak_ace_alloc_zeroed(size_t size, size_t align);
/* The same for a block that was just too small: from 128 KiB on with address space ahead, so that
   it grows without a copy. */
void *hak_ace_alloc_growing(size_t size);
/* Frees a block by its start. Anything else aborts with one line. */
void hak_ace_free(void *p);
/* The same; a span may be kept in the cache, which is the calling thread's (span_cache.h). */
struct span_cache;
void hak_ace_free_to(struct span_cache *cache, void *p);
/* Bytes that the block at p may hold (not all that is kept for a block to grow into); 0 if no block
   of ACE starts at p. */
size_t hak_ace_usable_size(const void *p);
/* Makes the block at p hold `size` bytes (above 32 KiB, or ACE_RANGE_LEAST and more if it is in a
   range) without copying: in place, into free neighbours, or by moving its pages. Returns its
   address, or NULL if it would have to be copied, or should be, since the copy takes less address
   space and there is little (nothing has changed then). */
void *hak_ace_resize(void *p, size_t size);
/* Purges cached ranges: all of them, and address space that holds nothing, or some of those unused
   for `delay_ms`: call again while it returns bytes. Returns bytes of memory. */
size_t hak_ace_purge(uint64_t delay_ms);
/* The address space ahead of growing blocks that a purge could return to the system. */
size_t hak_ace_room(void);
/* Purges a bounded part of what the controller does not want to keep any longer, as one pool has
   grown at the other's cost. Cheap if there is nothing. Returns bytes. */
size_t hak_ace_purge_excess(void);
/* Whether another thread purges what falls due while the program sleeps. If none does, which is so
   at first, less is kept. */
void hak_ace_set_helped(int is_helped);
/* How long freed memory is worth keeping (ms): the controller's horizon. */
uint64_t hak_ace_delay_ms(void);
/* Gives superslabs the controller's policy; the first hak_ace_alloc does the same. */
void hak_ace_start(void);
/* For walks: ranges have numbers below hak_ace_n_ranges; hak_ace_range tells the bytes and the
   start of one that is in use, 0 if it is not. */
uint32_t hak_ace_n_ranges(void);
size_t hak_ace_range(uint32_t number, void **start);
/* 0 if the records of ranges agree with the pointer map and the statistics. */
int hak_ace_verify(void);

HAK_EXTERN_C_END

#endif
