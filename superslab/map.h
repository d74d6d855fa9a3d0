/* The pointer map: from any address to what its 64 KiB unit holds, exact for every pointer, never
   full, no probing.

   Two levels over units counted from `hak_map_base`, modulo 2^32 units (48 address bits): the
   directory is indexed by the upper 12 bits of the unit number, a leaf by its lower 20 bits, so
   that a leaf covers 64 GiB. `hak_map_base` is chosen below the first superslab, so that leaf 0
   (the window) covers all superslabs of nearly every process. Leaves are mapped on demand and stay
   mapped; untouched pages of a leaf cost nothing. A leaf's page of tags covers 64 MiB.

   Writers: whoever owns the unit (pool lock or range's owner) writes its entry before anybody gets
   a pointer into it, and clears it after the last; entries are single words, read with relaxed
   loads: a reader that holds a valid pointer into the unit has got it after the entry was written
   (it was handed over with at least release/acquire by the program). Who owns a unit has it mapped,
   and clears its entries before it unmaps it.

   Pages go back. When the last that was mapped in the address space of a page of tags is unmapped,
   hak_map_purge drops the page, and that of numbers. Writers take no lock, so it keeps them out by
   what they need: it maps that address space itself, without access, only where nothing is mapped.
   For that time no thread owns a unit there, nor gets one from the system, and so none writes.
   Readers find 0 before and after. (For some microseconds 64 MiB more of address space are taken,
   as when glibc makes an arena.)

   Views. The fast path of free looks at one array of tags, through its heap's view: where the array
   begins, how far it reaches, where it is. A view is written by its heap's thread alone, so that
   the three are read as they belong together, without a fence. At first it is the window's. The
   first free of a slab's block that lies beyond it makes the *flat array*: a tag for each unit of
   the user's address space, 8 GiB of address space of which only the pages that are written to cost
   memory. From then on the heap's view is the flat array, and other heaps' views follow with their
   first free beyond the window.

   The flat array is a cache of the leaves. Of each unit of a slab it has the leaf's tag, or 0; of
   other units 0. With 0 a free takes the slow path, which asks the leaves, and fills the tag in. So
   the array is never copied, nor waited for: a unit that was there before costs one slow free.
     filler  (has a block of the unit): t = leaf; if flat == 0 then flat = t, by compare-and-swap;
             fence; if leaf != t then flat = 0, by compare-and-swap from t
     writer  (owns the unit): leaf = t; fence; if there is an array: flat = t, if that is a slab's
             tag, else 0
   Both may write at once. If the writer's fence is the first, the filler reads the new leaf, and
   takes back what it wrote; if the filler's is, the writer sees the array and its tag, and writes
   over it. In between, a valid pointer may find the tag that its slab had before it changed its
   heap, which a free may see anyway (theap.h); only if other pointers are freed twice at that very
   time, what the unit was before. checks/model/map.pml searches all orders, those of a store buffer
   too.

   Writable is what belongs to leaves that such a free has met. All else is mapped for reading, so
   that any pointer may be looked up, and the array counts as committed nowhere: strict overcommit
   and RLIMIT_DATA let it be, and mlockall(MCL_CURRENT) fills it with the page of zeros alone (at
   most 16 MiB of page tables). It is not made where future mappings are locked
   (mlockall(MCL_FUTURE)), nor where less than eight times its size of address space is left
   (RLIMIT_AS). Then, or if the system refuses, views stay windows, and frees beyond them take the
   slow path. It is asked once: for the array, and for each leaf. */
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

/* `hak_map_base` is such that no user address lies in the window before the first hak_map_ensure.
 */
extern uintptr_t hak_map_base HAK_HIDDEN;
extern struct map_leaf *hak_map_window HAK_HIDDEN;

struct map_entry {
    uint32_t tag;
    uint32_t ref;
};

/* What a heap's fast path sees of the map. */
struct map_view {
    uintptr_t base;
    size_t n_units; /* 0: nothing yet; every pointer is beyond it */
    const uint32_t *tags;
    int is_final; /* the flat array was refused */
};

/* The flat array leaves out unit 0, so that NULL is beyond every view. */
#if defined(__aarch64__)
#define MAP_FLAT_UNITS ((size_t)1 << (48 - MAP_UNIT_SHIFT))
#else
#define MAP_FLAT_UNITS ((size_t)1 << (47 - MAP_UNIT_SHIFT))
#endif
#define MAP_FLAT_BYTES (MAP_FLAT_UNITS * sizeof(uint32_t))

/* Makes sure that leaves exist for the range; the first call chooses the window around it. Returns
   0 or ENOMEM. Takes no lock. */
HAK_MUST_CHECK int hak_map_ensure(const void *start, size_t bytes);
/* Writes the entry of `n_units` units from `start`; the leaves exist. */
void hak_map_set(const void *start, size_t n_units, uint32_t tag, uint32_t ref);
/* Changes the tags of units of one superslab, one at least, none of which is a slab's before or
   afterwards. */
void hak_map_change(const void *start, size_t n_units, uint32_t tag);
/* Before hak_map_set of units that perhaps are the first on their page of the map. */
void hak_map_touch(const void *start);
/* [start, start + bytes) was unmapped, with its entries cleared before: drops pages of the map that
   have no entries any more. A hint; if the system refuses, they stay. No lock held. Keeps errno. */
void hak_map_purge(const void *start, size_t bytes);
/* The entry of any address; {0, 0} if it is not ours. If the unit changes hands during the call,
   the tag may be an older one than the number. */
struct map_entry hak_map_get(const void *p);

/* The best view that there is now. */
void hak_map_view_begin(struct map_view *view);
/* At a free of a slab's block whose tag the view does not show: from now on it does, if the system
   lets it. By the view's thread, before the block is freed; no lock held. */
void hak_map_view_extend(struct map_view *view, const void *p);
/* 0 if the flat array has 0 or the map's tag for each unit. The units' owner does not write. */
int hak_map_verify(const void *start, size_t n_units);

/* The number of p's unit in the view; not less than n_units if p is beyond it. */
static HAK_ALWAYS_INLINE size_t hak_map_view_unit(const struct map_view *view, const void *p)
{
    return ((uintptr_t)p - view->base) >> MAP_UNIT_SHIFT;
}

/* The tag that the view shows of p: 0 if p is beyond it. */
static inline uint32_t hak_map_view_tag(const struct map_view *view, const void *p)
{
    size_t unit = hak_map_view_unit(view, p);
    return HAK_LIKELY(unit < view->n_units) ? atomic_load_relaxed(&view->tags[unit]) : 0;
}

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
        const struct map_leaf *window = hak_map_window;
        struct map_entry entry = {atomic_load_acquire(&window->tag[unit]),
                                  atomic_load_relaxed(&window->ref[unit])};
        return entry;
    }
    return hak_map_get(p);
}

HAK_EXTERN_C_END

#endif
