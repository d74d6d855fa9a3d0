/* The depot: lists of free blocks behind a heap's lock, a stack of lists a class. In it lies what
   came back from other threads, and the lists of mid blocks with which bins overflowed; a bin that
   is empty takes the list that came last, whose blocks are the likeliest to be in the processor's
   caches, and to be resident. So blocks that swing between the program and the heap do not become
   bits of their slabs and blocks again, one by one, nor do their slabs go to the pool and come
   back.

   A list is linked through the blocks' first words; the second word of its first block is the next
   list (lower 48 bits) and the number of its blocks (upper 16). Blocks count as allocated in their
   slabs. Those of mid classes are held: a bit in their slab (slab.h) says that they are in a depot,
   so that a block that is freed twice is found when it comes here, as it is when it comes to its
   slab.

   How much: tiny blocks DEPOT_LEAST_BYTES, mid blocks as much or a share of the heap's slabs, at
   most HAKMEM_CACHE_BYTES. Nor does a depot let a heap grow: before a fresh slab is made, as many
   bytes go to their slabs. Whatever empties a heap empties its depot: trims, an idle time, the
   thread's end. All functions: heap lock held. */
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

/* Puts a list of `count` blocks of the class, some of which may be other heaps' by now: those are
   gathered as strays (bank.h). Returns 0, and does nothing, if there is no room: the list goes to
   its slabs. */
HAK_MUST_CHECK int hak_depot_put(struct theap *heap, uint32_t size_class, void *head,
                                 uint32_t count);
/* The list of the class that came last: its head, and its number of blocks in *count; NULL if there
   is none. */
void *hak_depot_take(struct theap *heap, uint32_t size_class, uint32_t *count);
/* Gives lists to their slabs, of as many bytes at least. Returns 1 if there are more. */
int hak_depot_give_back(struct theap *heap, uint64_t bytes);
/* 0 if the sums are those of the lists, and each mid block of the heap's slabs in them is held. */
int hak_depot_verify(const struct theap *heap);

HAK_EXTERN_C_END

#endif
