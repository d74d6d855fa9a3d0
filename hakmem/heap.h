/* First-class heaps: what hak_heap_* of hakmem.h makes.

   struct hak_heap is an owner (owner.h) of the kind OWNER_HEAP. It is never freed: a destroyed one
   frees its id and waits among the spares. One that was made while the gate was closed (gate.h) is
   registered with its first block that is not of limbo; one that is lost in a forked child goes on
   in limbo. It owns
   - a bank of slabs, under the owner's lock. No thread cache and no outbox holds a block of it:
     each goes straight to its slab, so that the slabs' bitmaps are exact, and that destroying
     leaves nothing behind anywhere;
   - large blocks (spans and ranges, which carry no owner): nodes in one hash table of the process
     and in a list of each heap, the newest first, under the lock OWNED. Always: n_large = nodes in
     the list; each node's address is an allocated block of ACE; serials fall along the list.
   hak_heap_verify checks the large blocks, hak_owner_verify_all the rest. Locks: HEAPS while one
   gets its id, HEAP for each, OWNED. */
#ifndef HAKMEM_HAKMEM_HEAP_H
#define HAKMEM_HAKMEM_HEAP_H

#include "base/internal.h"

#include "base/address_table.h"
#include "base/lock.h"
#include "owner/owner.h"

HAK_EXTERN_C_BEGIN

struct large_node;

struct hak_heap {
    struct owner owner;
    struct large_node *large; /* OWNED */
    size_t n_large;           /* OWNED */
};

/* Large blocks of all first-class heaps. Where there is none, a free needs one load to know. */
extern struct address_table hak_heap_large;

/* The first-class heap that the owner is part of, lost or not; NULL if it is NULL or of another
   kind. */
static inline struct hak_heap *hak_heap_of_owner(struct owner *owner)
{
    return owner && (owner->kind & ~(uint32_t)OWNER_LOST) == OWNER_HEAP
               ? (struct hak_heap *)(void *)((char *)owner - offsetof(struct hak_heap, owner))
               : NULL;
}

/* hak_ace_resize of a block of the heap. Inside the gate. */
void *hak_heap_resize(struct hak_heap *heap, void *p, size_t size);
/* The heap that a block belongs to, from the start of the block; NULL if it is no first-class
   heap's. */
struct hak_heap *hak_heap_of(const void *p);
/* 0 if the equations of large blocks hold. */
int hak_heap_verify(void);

/* The end of a heap that has been destroyed: all blocks but those of limbo go back, and it waits
   for the next. Inside the gate. */
void hak_heap_end(struct hak_heap *heap);

/* The next large blocks of a heap for a walk, from the newest to the oldest, some at a time, since
   the lock is every heap's. Begins with n = n_nodes = 0. Returns place->n; 0 at the end. Blocks
   that come during the walk, or move within realloc, are newer than all that is left: none is
   visited twice. How to go on: behind the node that is farthest in the list and still there, of
   those that were visited last and the one after them; only if all of them were freed the list is
   looked through. The gate is passed for reading. */
#define LARGE_AT_ONCE HAK_TINY_OR(2u, 32u)
struct heap_large_walk {
    uint32_t n, n_nodes; /* n_nodes = n + 1 if there is a next one */
    void *blocks[LARGE_AT_ONCE];
    struct large_node *nodes[LARGE_AT_ONCE + 1];
    uint64_t serials[LARGE_AT_ONCE + 1];
};
uint32_t hak_heap_next_large(struct hak_heap *heap, struct heap_large_walk *place);
/* Bytes of the heap's large block at p; 0 if it has none there. */
size_t hak_heap_large_size(struct hak_heap *heap, const void *p);

void hak_heap_forget_large(const void *p);
/* A large block is about to be freed. Inside the gate. */
static inline void hak_heap_forget(const void *p)
{
    if (HAK_UNLIKELY(hak_address_count(&hak_heap_large) != 0)) {
        hak_heap_forget_large(p);
    }
}

HAK_EXTERN_C_END

#endif
