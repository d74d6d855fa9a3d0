/* The edges of a large block: what lies around it in its first and last page. Before it is zero,
   behind it (up to 15 bytes, for alignment) are filled (tail.h); both are checked when it is freed.

   To fill and to look cost a page fault each if the program touches neither page (4 us of 6 for a
   pair of malloc and free here). So it is learnt, of blocks of about the same size, whether the
   first and the last page are touched: where they were not, lately, the edges of one block in
   EDGES_EVERY are watched, else of each. No lock. */
#ifndef HAKMEM_SECURE_EDGES_H
#define HAKMEM_SECURE_EDGES_H

#include "base/internal.h"

#include <stddef.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define EDGES_EVERY 16u

/* Bits. */
enum { EDGE_BEFORE = 1, EDGE_BEHIND = 2 };

/* A block, and the pages [first, end) around it. */
struct edges {
    char *start, *behind; /* of the block */
    char *first, *end;
};

/* The edges to watch of a new block of so many bytes; all if its pages are there anyway. */
unsigned hak_secure_edges_choose(size_t bytes, int is_resident);
/* The block's end is filled, if that edge is watched. */
void hak_secure_edges_fill(const struct edges *edges, unsigned watched);
/* The watched one that was written to, or 0. Of what another thread frees at that time, anything.
 */
unsigned hak_secure_edges_look(const struct edges *edges, unsigned watched);
/* Aborts if that was written to: what looking found. */
void hak_secure_edges_blame(const struct edges *edges, unsigned written);
/* Aborts if a watched one was written to. */
void hak_secure_edges_check(const struct edges *edges, unsigned watched);
/* A block is freed. */
void hak_secure_edges_learn(const struct edges *edges, unsigned watched);
/* Forgets all that was learnt: each edge is watched again. For tests. */
void hak_secure_edges_forget(void);

HAK_EXTERN_C_END

#endif
