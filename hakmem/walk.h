/* Looking at every block of the process. */
#ifndef HAKMEM_HAKMEM_WALK_H
#define HAKMEM_HAKMEM_WALK_H

#include "base/internal.h"

#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

/* What there is now. Blocks in thread caches count as used, except for the calling thread's. */
struct walk_counts {
    size_t n_used[SC_N_CLASSES], n_free[SC_N_CLASSES]; /* blocks of slabs */
    size_t n_own_cached, own_cached_bytes; /* of the free ones: in the calling thread's cache */
    size_t n_spans, span_bytes;
    size_t n_ranges, range_bytes;
};
/* Any thread; no lock held. */
void hak_walk_count(struct walk_counts *counts);

/* hak_walk likewise, but that no cache is flushed: what lies in them is visited too. */
int hak_walk_as_it_is(size_t (*walked)(void **p, size_t usable),
                      int (*visit)(void *block, size_t size, void *context), void *context);
/* Of slabs alone, slab by slab: where its unit begins, and a bit for each block that is free. What
   is in caches is not. */
typedef int (*hak_walk_slab)(char *base, uint32_t size_class, const uint64_t *free, void *context);
int hak_walk_slabs_as_they_are(hak_walk_slab visit, void *context);
/* hak_heap_walk as if `walked` were that of the table of entry points. */
struct hak_heap;
int hak_walk_heap(struct hak_heap *heap, size_t (*walked)(void **p, size_t usable),
                  int (*visit)(void *block, size_t size, void *context), void *context);

HAK_EXTERN_C_END

#endif
