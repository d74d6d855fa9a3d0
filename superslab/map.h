/* The pointer map: from any address to what its 64 KiB unit holds, exact for every pointer, never
   full, no probing.

   Two levels over units counted from `hak_map_base`, modulo 2^32 units (48 address bits): the
   directory is indexed by the upper 12 bits of the unit number, a leaf by its lower 20 bits, so
   that a leaf covers 64 GiB. `hak_map_base` is chosen below the first superslab, so that leaf 0
   (the window) covers all superslabs of nearly every process: the fast path of free looks at the
   window alone, by one subtraction and one load. Leaves are mapped on demand and never freed;
   untouched pages of a leaf cost nothing. A leaf's page of tags covers 64 MiB.

   Writers: whoever owns the unit (pool lock or range's owner) writes its entry before anybody gets
   a pointer into it, and clears it after the last; entries are single words, read with relaxed
   loads: a reader that holds a valid pointer into the unit has got it after the entry was written
   (it was handed over with at least release/acquire by the program). */
#ifndef HAKMEM_SUPERSLAB_MAP_H
#define HAKMEM_SUPERSLAB_MAP_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define MAP_UNIT_SHIFT        16
#define MAP_LEAF_SHIFT        HAK_TINY_OR(12, 20)
#define MAP_LEAF_UNITS        ((size_t)1 << MAP_LEAF_SHIFT)
#define MAP_DIRECTORY_ENTRIES ((size_t)1 << (32 - MAP_LEAF_SHIFT))

/* A tag: owner in the upper 20 bits, the lower 12 are the owner's. 0: nothing of ours. */
#define TAG_OWNER_SHIFT   12
#define TAG_LOW_MASK      0xFFFu
#define TAG_SPECIAL_OWNER 0xFFFFFu /* no heap has this id */
#define TAG_FREE_UNIT     ((TAG_SPECIAL_OWNER << TAG_OWNER_SHIFT) | 1u)
#define TAG_SPAN          ((TAG_SPECIAL_OWNER << TAG_OWNER_SHIFT) | 2u)
#define TAG_RANGE         ((TAG_SPECIAL_OWNER << TAG_OWNER_SHIFT) | 3u)
#define TAG_LIMBO                                                                                  \
    ((TAG_SPECIAL_OWNER << TAG_OWNER_SHIFT) | 4u) /* heap/limbo.h; the ref is its own */
/* A slab's: the lower bits mean what its owner says (bank.h). */
#define TAG_IS_SLAB(tag)                                                                           \
    ((tag) - (1u << TAG_OWNER_SHIFT) < (TAG_SPECIAL_OWNER - 1) << TAG_OWNER_SHIFT)
#define TAG_OWNER(tag) ((tag) >> TAG_OWNER_SHIFT)

struct map_leaf {
    uint32_t tag[MAP_LEAF_UNITS];
    uint32_t ref[MAP_LEAF_UNITS]; /* number of the superslab or range, for slow paths */
};

/* Read by the fast path of free. `hak_map_base` is such that no user address lies in the window
   before the first hak_map_ensure. */
extern uintptr_t hak_map_base HAK_HIDDEN;
extern struct map_leaf *hak_map_window HAK_HIDDEN;

struct map_entry {
    uint32_t tag;
    uint32_t ref;
};

/* Makes sure that leaves exist for the range; the first call chooses the window around it. Returns
   0 or ENOMEM. Takes no lock. */
HAK_MUST_CHECK int hak_map_ensure(const void *start, size_t bytes);
/* Writes the entry of `n_units` units from `start`; the leaves exist. */
void hak_map_set(const void *start, size_t n_units, uint32_t tag, uint32_t ref);
/* The entry of any address; {0, 0} if it is not ours. If the unit changes hands during the call,
   the tag may be an older one than the number. */
struct map_entry hak_map_get(const void *p);

/* The unit number of p in the window; not less than MAP_LEAF_UNITS if p is outside. */
static HAK_ALWAYS_INLINE size_t hak_map_window_unit(const void *p)
{
    /* A plain read, which folds into the subtraction: written once, before any address of ours is
       handed out. */
    return ((uintptr_t)p - hak_map_base) >> MAP_UNIT_SHIFT;
}

/* hak_map_get, without a call for addresses in the window. */
static inline struct map_entry hak_map_find(const void *p)
{
    size_t unit = hak_map_window_unit(p);
    if (HAK_LIKELY(unit < MAP_LEAF_UNITS)) {
        struct map_entry entry = {atomic_load_acquire(&hak_map_window->tag[unit]),
                                  atomic_load_relaxed(&hak_map_window->ref[unit])};
        return entry;
    }
    return hak_map_get(p);
}

HAK_EXTERN_C_END

#endif
