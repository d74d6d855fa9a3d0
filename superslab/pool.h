/* The shared pool of superslabs: hands out units (slabs) and spans to every heap.

   struct superslab describes one region of 2 MiB and lives apart from it, for ever; a region that was given back leaves its
   description for the next one. All fields but `slabs` are written with the pool lock held; slabs[i] belongs to the heap
   that holds unit i while it is a slab.
   A unit is used (slab, or part of a span) or free; a free unit is dirty (its pages may be resident) or clean (reads as 0).
   Always: dirty is a subset of free; largest_run = length of the longest run of 1 bits in free; the superslab is in the
   list of its largest_run; n_units[i] > 0 exactly for the first unit i of a span, and all n_units[i] units from i are used;
   in the pointer map each free unit has TAG_FREE_UNIT. ss_verify checks. */
#ifndef HAKMEM_SUPERSLAB_POOL_H
#define HAKMEM_SUPERSLAB_POOL_H

#include "superslab/map.h"
#include "superslab/slab.h"
#include "superslab/superslab.h"

HAK_EXTERN_C_BEGIN

struct superslab {
    struct slab slabs[SS_UNITS];
    char *base; /* NULL while the region is given back */
    uint32_t number;
    uint32_t free, dirty;
    uint32_t slab_mask; /* units that are slabs */
    uint32_t largest_run;
    uint8_t n_units[SS_UNITS];
    struct superslab *next, *prev; /* in the list of its largest_run, or of free descriptions */
    uint64_t dirty_since_ns;       /* when a unit last became dirty */
    uint64_t far_bits[SS_UNITS][SLAB_MAX_WORDS];
};

/* A fresh slab of the class for that owner, its map entry written; NULL when the system refuses memory. */
struct slab *pool_slab_alloc(uint32_t owner, uint32_t size_class);
/* Gives back a slab whose blocks are all free; the caller has it in no list. */
void pool_slab_free(struct slab *slab);
/* The slab that holds p, whose map entry `ref` was read as a slab's. */
struct slab *pool_slab_of(uint32_t ref, const void *p);
/* Calls visit for each slab of that owner (any owner if 0); the pool lock is held. Stops at the first non-zero result. */
int pool_for_each_slab(uint32_t owner, int (*visit)(const struct slab *slab, void *context), void *context);

/* Set by ACE: describes a range from its map entry, for hak_super_lookup. */
extern struct ss_lookup (*ss_range_lookup)(const void *p, uint32_t ref);

/* For fork. */
void pool_lock_acquire(void);
void pool_lock_release(void);
void pool_lock_reset(void);

HAK_EXTERN_C_END

#endif
