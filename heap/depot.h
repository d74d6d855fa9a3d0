/* The depot: lists of free blocks behind a heap's lock, a stack of lists a class. In it lies what
   came back from other threads, and lists with which bins overflowed: those of mid blocks, and
   those of tiny blocks that are scattered, that is whose blocks lie in many slabs by turns, or lie
   in a row, side by side or two apart. A bin
   that is empty takes the list that came last, whose blocks are the likeliest to be in the
   processor's caches, and to be resident. So blocks that swing between the program and the heap do
   not become bits of their slabs and blocks again, one by one, nor do their slabs go to the pool
   and come back. (What is neither, as the nodes of a tree, comes out of its slabs in the order of
   its addresses.)

   Rows are what empties slabs, so that they may wait only while that costs no memory. They count as
   kept, not as live (ace/adapt.h): no more of them waits than superslabs may keep, and while more
   is kept, four times what overflows goes to its slabs. When the heap needs a slab and the pool has
   none that is resident, rows make one first. After lists have left so, in vain, the next 32 rows
   for each go to their slabs at once, twice as many each time, until bins have taken as many lists.
   Of several threads none lets rows wait without the background thread: who sleeps keeps them.
   Variants that validate let none wait: they look at each block when its bin overflows.

   A list is linked through the blocks' first words; the second word of its first block is the next
   list (lower 48 bits) and the number of its blocks (upper 16). Blocks count as allocated in their
   slabs. Those of mid classes have a mark in their third word, and are held if they are of this
   heap's slabs: a bit in their slab (slab.h) says that they are in a depot. So a block that is
   freed twice is found when it comes here, as it is when it comes to its slab. A tiny one is found
   when the list goes to its slabs.

   What a bin of a mid class overflowed with last is loose: it is held when the next list comes, or
   the process exits. Most such lists are taken again before, as one more spare, and nothing of
   their slabs has been looked at then. (None is in variants that validate.)

   A thread that allocates of a mid class keeps what it frees of other heaps' too (remote.c), so
   that it may lie here; it counts as this heap's.

   How much: of tiny chains DEPOT_LEAST_BYTES; of mid blocks as much or a share of the heap's slabs,
   of other heaps' the share alone; of tiny blocks, scattered lists included, as much as the slabs;
   at most HAKMEM_CACHE_BYTES. Nor does a depot let a heap grow: before a fresh slab is made, as
   many bytes of mid blocks go to their slabs. Scattered tiny blocks keep slabs that are all but
   empty. So when any thread needs memory that is not resident in the pool, for a slab or a large
   block, some of the lists of the heap that kept some last go to their slabs, twice as many each
   time, until a list is taken again. Lists of classes that take no slow path for a window of the
   heap's go too. Whatever empties a heap empties its depot: trims, an idle time, the thread's end.
   All functions: heap lock held, where nothing else is said. */
#ifndef HAKMEM_HEAP_DEPOT_H
#define HAKMEM_HEAP_DEPOT_H

#include "base/internal.h"

#include "heap/theap.h"

HAK_EXTERN_C_BEGIN

/* The second word of a list's first block: the next list, and the number of blocks. */
static inline uintptr_t *hak_depot_word(void *block)
{
    return (uintptr_t *)block + 1;
}

/* Read for the last time. Free blocks of the secure variant are zero behind their links. */
static inline uintptr_t hak_depot_take_word(void *block)
{
    uintptr_t word = *hak_depot_word(block);
    if (HAK_SECURE) {
        *hak_depot_word(block) = 0;
    }
    return word;
}

/* A list that a bin overflowed with; one of those whose blocks lie in a row; one that comes from
   another thread. */
enum depot_list { DEPOT_LIST, DEPOT_CHAIN, DEPOT_ROW };
/* Puts a list of `count` blocks of the class. Returns 0, and does nothing, if there is no room: the
   list goes to its slabs. */
HAK_MUST_CHECK int hak_depot_put(struct theap *heap, uint32_t size_class, void *head,
                                 uint32_t count, enum depot_list kind);
/* The list of the class that came last: its head, and its number of blocks in *count; NULL if there
   is none. */
void *hak_depot_take(struct theap *heap, uint32_t size_class, uint32_t *count);
/* What is loose is held. */
void hak_depot_hold(struct theap *heap);
/* Gives lists to their slabs, of as many bytes at least. Returns 1 if there are more. */
int hak_depot_give_back(struct theap *heap, uint64_t bytes);
/* The process is about to grow by so many bytes: some lists of tiny blocks of the heap that put
   some last go to their slabs, unless as many bytes of the pool are resident. At each such time
   twice as many go, until lists are taken again. When that heap has none left, the next time is
   another's that has rows. No lock held; inside the gate. */
void hak_depot_relieve_by(struct theap *heap, size_t bytes);
extern struct theap *hak_depot_last HAK_HIDDEN;
static inline void hak_depot_relieve(size_t bytes)
{
    struct theap *heap = atomic_load_acquire(&hak_depot_last);
    if (HAK_UNLIKELY(heap != NULL)) {
        hak_depot_relieve_by(heap, bytes);
    }
}
/* Lists of tiny blocks of so many bytes go to their slabs, those of the class that has most there
   first. */
void hak_depot_shorten(struct theap *heap, uint64_t bytes);
/* The heap is about to grow by a slab: so do lists of as much, and rows wait no more for a while.
   Takes the heap's lock. */
void hak_depot_make_room(struct theap *heap);
/* For end_window: lists of tiny classes without a bit in `awake` go to their slabs, some at a time.
   Takes the heap's lock. */
void hak_depot_end_window(struct theap *heap, uint64_t awake);
/* 0 if the sums are those of the lists, and each mid block in them that are not loose has its mark
   and is noted. */
int hak_depot_verify(const struct theap *heap);

HAK_EXTERN_C_END

#endif
