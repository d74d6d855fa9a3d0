/* First-class heaps: what hak_heap_* of hakmem.h makes. Internal to //hakmem.

   struct hak_heap is never freed: a destroyed one keeps its id and waits in `unused`. It owns
   - a bank of slabs, under `lock`. No thread cache and no outbox holds a block of it: each goes straight to its slab, so that
     the slabs' bitmaps are exact, and that destroying leaves nothing behind anywhere;
   - large blocks (spans and ranges, which carry no owner): nodes in one hash table of the process and in a list of each heap,
     under the lock OWNED. Always: n_large = nodes in the list; each node's address is an allocated block of ACE.
   Its id is not in the table of heap.h: heap_by_id gives NULL for it, and threads' slow paths pass it by.
   user_heap_verify checks. Locks: HEAPS for the registry, HEAP for each, OWNED. */
#ifndef HAKMEM_HAKMEM_USER_HEAP_H
#define HAKMEM_HAKMEM_USER_HEAP_H

#include "base/atomic.h"
#include "base/lock.h"
#include "superslab/bank.h"

HAK_EXTERN_C_BEGIN

struct large_node;

struct hak_heap {
    struct lock lock;
    struct bank bank;
    struct large_node *large; /* OWNED */
    size_t n_large;           /* OWNED */
    uint32_t is_live;         /* atomic */
    struct hak_heap *next_unused;
};

/* Large blocks of all first-class heaps. Where there is none, a free needs one load to know. */
extern size_t user_heap_n_large;

/* The heap of that id, or NULL. */
struct hak_heap *user_heap_by_id(uint32_t id);
/* Gives a small block back to its slab. Aborts if it is no first-class heap's. */
void user_heap_put(void *block, uint32_t tag);
/* The heap that a block belongs to, from the start of the block; NULL if it is no first-class heap's. */
struct hak_heap *user_heap_of(const void *p);
/* Empty slabs go back. */
void user_heap_trim_all(void);
/* 0 if all equations hold. */
int user_heap_verify(void);

/* The end of a heap that has been destroyed: all blocks but those of limbo go back, and it waits for the next. Inside the gate. */
void user_heap_end(struct hak_heap *heap);

void user_heap_forget_large(const void *p);
/* A large block is about to be freed. */
static inline void user_heap_forget(const void *p)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&user_heap_n_large) != 0)) {
        user_heap_forget_large(p);
    }
}

HAK_EXTERN_C_END

#endif
