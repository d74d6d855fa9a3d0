/* Things with numbers, 0, 1, 2, ...: descriptions that live for ever. Whoever adds holds a lock
   of the owner's; anybody may ask at any time, without one. */
#ifndef HAKMEM_BASE_NUMBERED_H
#define HAKMEM_BASE_NUMBERED_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define NUMBERED_CHUNK  4096u
#define NUMBERED_CHUNKS 16384u /* 2^26 in all, more than there can be of what is numbered */

struct numbered {
    void **chunks[NUMBERED_CHUNKS];
    uint32_t n;       /* numbers are below it */
    uint32_t touched; /* beside it, in the same page: hak_numbered_reserve alone writes it */
};

/* Makes a place for one more, from metadata. Returns whether there is one. No lock needed: so it is
   called before the owner's lock is taken, and then, since another thread may have been first,
   hak_numbered_has_place. */
int hak_numbered_reserve(struct numbered *all);
/* Gives `item` the next number, for which there is a place. */
void hak_numbered_add(struct numbered *all, void *item);

static inline uint32_t hak_numbered_count(const struct numbered *all)
{
    return atomic_load_acquire(&all->n);
}

static inline int hak_numbered_has_place(const struct numbered *all)
{
    uint32_t index = hak_numbered_count(all) / NUMBERED_CHUNK;
    return index < NUMBERED_CHUNKS && atomic_load_acquire(&all->chunks[index]);
}

/* The one of that number, which was given. */
static inline void *hak_numbered_get(const struct numbered *all, uint32_t number)
{
    void **chunk = atomic_load_acquire(&all->chunks[number / NUMBERED_CHUNK]);
    return atomic_load_acquire(&chunk[number % NUMBERED_CHUNK]);
}

/* Any number; NULL if it was not given. */
static inline void *hak_numbered_find(const struct numbered *all, uint32_t number)
{
    return number < hak_numbered_count(all) ? hak_numbered_get(all, number) : NULL;
}

HAK_EXTERN_C_END

#endif
