/* The common heaps: slabs that many threads share, for the classes of which each holds little.

   A slab of its own costs a thread a page or more of each class, and what it frees there serves no
   other thread. So in a process of many threads the first blocks of a class come from a common
   heap's slabs, a run of about COMMON_RUN_BYTES at a time, and go straight back to their slab when
   they are freed, whoever frees them. That costs a lock each time. A thread gets slabs of its own,
   as every thread has in a process of few, when
   - it has had more than COMMON_BLOCKS blocks of the class at a time, or
   - it has come or gone COMMON_USES times within a tick, or
   - other threads keep the common heaps' locks: no thread waits for one but with a fresh slab in
     hand.
   So what the locks cost is bounded for each thread and class: a slow thread may use common heaps
   for ever, and a fast one soon does not. What a heap knows of its use (the bins' fields) it keeps
   for its next thread, half of it if it was little.

   The first common heap serves unless its lock is held, then the second, and so on: there are as
   many as threads need at a time. Each is an orphan that no thread adopts and that is in no list of
   orphans. Its lock has the rank HEAP. Its slabs come from where any heap's do (hak_theap_take);
   other heaps take over what it has too many of. It keeps one empty slab a class until it rests, or
   until there are fewer threads.

   Blocks of less than a cache line are never shared. Of larger ones a run of fresh blocks begins
   and ends with a line, if the size is at most 1 KiB. */
#ifndef HAKMEM_HEAP_COMMON_H
#define HAKMEM_HEAP_COMMON_H

#include "base/internal.h"

#include "heap/theap.h"

HAK_EXTERN_C_BEGIN

/* From so many threads with heaps on. */
#define COMMON_THREADS    HAK_TINY_OR(3u, 16u)
#define COMMON_USES       HAK_TINY_OR(12u, 128u)
#define COMMON_BLOCKS     HAK_TINY_OR(4u, 12u)
#define COMMON_TICK_SHIFT 24 /* 2^24 ns: about 17 ms */
#define COMMON_RUN_BYTES  1024u
#define COMMON_MIN_SIZE   64u

int hak_common_may_serve(const struct theap *heap, uint32_t size_class);
/* 1 if the heap's next blocks of the class shall come from a common heap: it has no slab with a
   free block itself. Heap lock held. */
static inline int hak_common_serves(const struct theap *heap, uint32_t size_class)
{
    return HAK_UNLIKELY(!hak_bank_n_partial(&heap->owner.bank, size_class)) &&
           hak_common_may_serve(heap, size_class);
}
/* A list of blocks of a common heap's; NULL if all locks are held, or there is no memory. Inside
   the gate, no lock held. heap->refill_is_clean as hak_tc_refill leaves it. */
void *hak_common_take(struct theap *heap, uint32_t size_class, uint32_t *count);
/* Frees a block whose tag is a common heap's, by a thread that has a heap. */
void hak_common_free(struct theap *heap, void *block, uint32_t tag);
/* The heap's thread ends. */
void hak_common_end_thread(struct theap *heap);

/* So many blocks came from slabs of the heap's own: whether its next thread begins with them. */
static inline void hak_common_note(struct theap *heap, uint32_t size_class, uint32_t count)
{
    struct bin *bin = &heap->bins[size_class];
    if (HAK_UNLIKELY(bin->common_uses) && bin->common_blocks <= COMMON_BLOCKS) {
        bin->common_blocks = (uint16_t)(bin->common_blocks + count);
    }
}

HAK_EXTERN_C_END

#endif
