/* First-class heaps: what hak_heap_* of hakmem.h makes.

   struct hak_heap is an owner (owner.h) of the kind OWNER_HEAP. It is never freed: a destroyed one
   frees its id and waits in `unused`. One that was made while the gate was closed (gate.h) is
   registered with its first block that is not of limbo; one that is lost in a forked child goes on
   in limbo. It owns
   - a bank of slabs, under the owner's lock. No thread cache and no outbox holds a block of it:
     each goes straight to its slab, so that the slabs' bitmaps are exact, and that destroying
     leaves nothing behind anywhere;
   - large blocks (spans and ranges, which carry no owner): nodes in one hash table of the process
     and in a list of each heap, under the lock OWNED. Always: n_large = nodes in the list; each
     node's address is an allocated block of ACE.
   hak_heap_verify checks the large blocks, hak_owner_verify_all the rest. Locks: HEAPS for the
   registry, HEAP for each, OWNED. */
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
