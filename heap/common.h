/* The common heaps: slabs that many threads share, for the classes of which each holds little.

   A slab of its own costs a thread a page or more of each class, and what it frees there serves no
   other thread. So in a process of COMMON_FEW threads and more the first blocks of a class come
   from a common heap's slabs, a run of about COMMON_RUN_BYTES at a time, and go back to their slabs
   when they are freed, whoever frees them: up to COMMON_KEPT bytes of all classes wait in the
   bins, where the thread's next requests find them, and then all that these classes' bins have goes
   back under one lock. So does what is left in bins when the thread ends. A run takes the lock,
   too. A thread gets slabs of its own, as those of a process of fewer do, when
   - it has had more than COMMON_BLOCKS blocks of the class at a time, or
   - it has come or gone COMMON_USES times within a tick, or
   - its heap has used up its budget: each time that a class comes or goes is a use;
     COMMON_BUDGET of them may come at once, and COMMON_PER_TICK a tick are forgotten; or
   - other threads keep the common heaps' locks: no thread waits for one but with a fresh slab in
     hand.
   So what the locks cost is bounded for each class and each heap: a slow thread may use common
   heaps for ever, and a fast one soon does not. What a heap knows of its use (the bins' fields) it
   keeps for its next thread, half of it if it was little; its budget is what it is.

   The first common heap serves unless its lock is held, then the second, and so on: there are as
   many as threads need at a time. Each is an orphan that no thread adopts and that is in no list of
   orphans. Its lock has the rank HEAP, and is held for a few hundred instructions, or as long as
   what a bin had to keep goes back: blocks that are taken are touched without it, since that may
   take a page fault. Its slabs come from where any heap's do, those with free blocks of other
   common heaps among them (hak_theap_pick); other heaps take over what it has too many of, and with
   less than COMMON_THREADS threads any slab with free blocks of a class that they need much of,
   lest there be two. It keeps one empty slab a class until it rests, or until there are fewer
   threads than share.

   Blocks of less than a cache line are never shared: who asks for one gets a line, of the class
   COMMON_LINE_CLASS, which may be used so much more. (Not in the secure variant, whose checks know
   blocks by the size that was asked for: there such threads have slabs of their own.) Of larger
   blocks a run of fresh ones begins and ends with a line, if the size is at most 1 KiB. */
#ifndef HAKMEM_HEAP_COMMON_H
#define HAKMEM_HEAP_COMMON_H

#include "base/internal.h"

#include "heap/theap.h"

HAK_EXTERN_C_BEGIN

/* From so many threads with heaps on, and from how many on they are many. */
#define COMMON_FEW            HAK_TINY_OR(2u, 6u)
#define COMMON_THREADS        HAK_TINY_OR(3u, 16u)
#define COMMON_USES           HAK_TINY_OR(12u, 128u)
#define COMMON_BLOCKS         HAK_TINY_OR(4u, 32u)
#define COMMON_BUDGET         HAK_TINY_OR(16u, 1024u)
#define COMMON_BUDGET_OF_MANY HAK_TINY_OR(64u, 2048u)
#define COMMON_PER_TICK       HAK_TINY_OR(4u, 16u)
#define COMMON_TICK_SHIFT     24 /* 2^24 ns: about 17 ms */
#define COMMON_RUN_BYTES      1024u
/* What may wait to go back, and what a block counts at least. */
#define COMMON_KEPT       HAK_TINY_OR(512u, 4096u)
#define COMMON_KEPT_BLOCK HAK_TINY_OR(64u, 256u)
/* The class of a whole cache line, whose blocks also serve for smaller ones. */
#define COMMON_LINE_CLASS 3u

/* Whose blocks serve for so many classes. */
static inline uint32_t hak_common_n_served(uint32_t size_class)
{
    return size_class == COMMON_LINE_CLASS ? COMMON_LINE_CLASS + 1 : 1;
}
/* So many blocks of the class a thread may have, and so often it may come or go within a tick. */
static inline uint32_t hak_common_most_blocks(uint32_t size_class)
{
    return hak_common_n_served(size_class) * COMMON_BLOCKS;
}
static inline uint32_t hak_common_most_uses(uint32_t size_class)
{
    return hak_common_n_served(size_class) * COMMON_USES;
}

/* What a heap may use at once. */
static inline uint32_t hak_common_budget(void)
{
    return hak_theap_n_live() < COMMON_THREADS ? COMMON_BUDGET : COMMON_BUDGET_OF_MANY;
}

/* From so many threads with heaps on: COMMON_FEW; and what may wait: COMMON_KEPT, or nothing in the
   secure variant, where what is freed is not handed out next; unless a test says otherwise. */
extern uint32_t hak_common_from HAK_HIDDEN;
extern uint32_t hak_common_kept_most HAK_HIDDEN;

int hak_common_may_serve(struct theap *heap, uint32_t size_class);
/* 1 if the heap's next blocks of the class shall come from a common heap: it has no slab with a
   free block itself. Exact with the heap's lock. */
static inline int hak_common_serves(struct theap *heap, uint32_t size_class)
{
    return HAK_UNLIKELY(!hak_bank_n_partial(&heap->owner.bank, size_class)) &&
           hak_common_may_serve(heap, size_class);
}
/* 1 if a request of that class, whose blocks are smaller than a cache line, shall get a line. By
   the heap's thread, without its lock. */
static inline int hak_common_gives_line(struct theap *heap, uint32_t size_class)
{
    return size_class < COMMON_LINE_CLASS && !HAK_SECURE &&
           !atomic_load_relaxed(&heap->is_metered) &&
           !hak_bank_n_partial(&heap->owner.bank, size_class) &&
           !atomic_load_relaxed(&heap->owner.inbox) && hak_common_serves(heap, COMMON_LINE_CLASS);
}
/* A list of blocks of a common heap's; NULL if all locks are held, or there is no memory. Inside
   the gate, no lock held. heap->refill_is_clean as hak_tc_refill leaves it. */
void *hak_common_take(struct theap *heap, uint32_t size_class, uint32_t *count);
/* Frees a block whose tag is a common heap's, by a thread that has a heap. */
void hak_common_free(struct theap *heap, void *block, uint32_t tag);
/* The same if it can wait in its bin: no lock is taken. Returns 0 if nothing was done, as for any
   other tag, for what is no block, and for what was freed just before. */
int hak_common_keep(struct theap *heap, void *block, uint32_t tag);
/* The heap's thread ends. Inside the gate. */
void hak_common_end_thread(struct theap *heap);

/* So many blocks came from slabs of the heap's own: whether its next thread begins with them. */
static inline void hak_common_note(struct theap *heap, uint32_t size_class, uint32_t count)
{
    uint32_t c = size_class < COMMON_LINE_CLASS ? COMMON_LINE_CLASS : size_class;
    struct bin *bin = &heap->bins[c];
    if (HAK_UNLIKELY(bin->common_uses) && bin->common_blocks <= hak_common_most_blocks(c)) {
        bin->common_blocks = (uint16_t)(bin->common_blocks + count);
    }
}

HAK_EXTERN_C_END

#endif
