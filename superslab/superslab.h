/* SuperSlab: 2 MiB regions cut into 32 units of 64 KiB. A unit holds a slab of equal blocks; several units in a row are a
   span. All metadata lies apart from the blocks.

   This header is the part's public contract: spans, and the pointer map behind hak_super_lookup. Every function may be
   called by any thread. Internal structure: map.h (pointer map), pool.h (superslabs and spans), slab.h (slabs). */
#ifndef HAKMEM_SUPERSLAB_SUPERSLAB_H
#define HAKMEM_SUPERSLAB_SUPERSLAB_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define SS_BYTES      ((size_t)2 * 1024 * 1024)
#define SS_UNIT_BYTES ((size_t)64 * 1024)
#define SS_UNITS      32u

/* What a pointer belongs to. */
enum ss_kind {
    SS_NOT_OURS,  /* never handed out by hakmem, NULL, the stack, wild */
    SS_FREE_UNIT, /* inside a superslab, in a unit that holds nothing */
    SS_SLAB,      /* in a slab: a block of a size class, or its tail */
    SS_SPAN,      /* in a span of units */
    SS_RANGE,     /* in a mapping of its own (above 1 MiB) */
};

struct ss_lookup {
    enum ss_kind kind;
    uint32_t owner;      /* SS_SLAB: id of the heap that owns the slab */
    uint32_t size_class; /* SS_SLAB */
    void *start;         /* first byte of the block, span or range that holds the pointer; NULL in a slab's tail */
    size_t size;         /* its bytes */
    int is_allocated;    /* 0 if the slab's own bitmap says that the block is free; a block that waits in a thread's
                              cache counts as allocated */
};

/* Tells what any address belongs to: ours, freed, interior, stack, NULL or wild. Never faults, takes no lock. What
   another thread allocates or frees at the same time may be seen before or after. */
HAK_EXPORT struct ss_lookup hak_super_lookup(const void *p);

/* Allocates `n_units` (1 to 32) units in a row, aligned to `align_units` units (a power of two, at most 32). Sets
   *is_zero if the memory is known to read as zero. `tag` and `ref` go into the pointer map for each unit. NULL when the
   system refuses memory. */
void *ss_span_alloc(unsigned n_units, unsigned align_units, int *is_zero);
/* Frees a span by its start. A pointer that is none aborts. */
void ss_span_free(void *p);
/* Bytes of the span that starts at p, or 0 if none starts there. */
size_t ss_span_size(const void *p);
/* Tries to make the span at p `n_units` long in place, growing into free units or giving back the tail.
   Returns 1 on success; otherwise nothing has changed. */
int ss_span_resize(void *p, unsigned n_units);

/* Gives the pages of free units back to the system: all at once, or those that nobody used for `delay_ms`. Returns bytes. */
size_t ss_purge(uint64_t delay_ms);
/* Walks all superslabs and checks every equation of pool.h. 0 if all hold, else a number that tells which failed. */
int ss_verify(void);

HAK_EXTERN_C_END

#endif
