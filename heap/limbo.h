/* Limbo: where requests are served that find the gate closed (gate.h).

   A bump allocator without a lock: a fork may copy it, and a signal or an error stop it, at any
   instruction. Small blocks lie in chunks, large ones in mappings of their own. Each of both has a
   slot: where it lies, and one word with the offset of the next block and the number of references.
   A reference is a live block, being the current chunk, or a look at it. Whoever drops the last one
   unmaps it. To claim a block is one compare-and-swap on the word, from at least one reference: so
   the slot cannot lose its chunk while that is done, and it does not matter if it has got another
   one since it was looked up.

   A record stands before each block: its size, and the first-class heap or the pool that it belongs
   to; a bit in the chunk says that it is live. The pointer map says TAG_LIMBO and the slot's
   number, so that free, realloc and lookups know its blocks as fast as any, and a program that has
   none does not pay for it. Blocks read as zero. What other threads were doing in limbo at a fork
   is lost in the child, and chunks from before it stay mapped there. */
#ifndef HAKMEM_HEAP_LIMBO_H
#define HAKMEM_HEAP_LIMBO_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct owner;
/* The owner of what is no block of the program's. */
#define LIMBO_INTERNAL ((struct owner *)1)

/* `size` bytes of zeros at a multiple of `align` (a power of two; at least 16); NULL if the system
   refuses, or the hard limit does. `owner` or NULL. Any thread, any time. */
void *hak_limbo_alloc(size_t size, size_t align, struct owner *owner);
/* A pointer into limbo, by the map's tag; aborts if no live block starts there. */
void hak_limbo_free(void *p);
/* Usable bytes; 0 if no live block starts at p. */
size_t hak_limbo_size(const void *p);
/* NULL if it belongs to no first-class heap or pool. */
struct owner *hak_limbo_owner(const void *p);
/* Visits the program's live blocks, of that owner alone if it is not NULL, until the first result
   that is not 0, which it returns. An owner counts its blocks (n_in_limbo; in a forked child
   perhaps some more than there are): if it has none, nothing is looked through. */
int hak_limbo_walk(const struct owner *owner, int (*visit)(void *block, size_t size, void *context),
                   void *context);
/* Frees all blocks of a first-class heap or a pool. */
void hak_limbo_free_of(struct owner *owner);
/* In a forked child. */
void hak_limbo_fork_child(void);
/* 0 if every live block lies within its chunk, and slots, map and statistics agree; no other
   thread uses limbo during the call. */
int hak_limbo_verify(void);

HAK_EXTERN_C_END

#endif
