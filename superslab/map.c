/* The pointer map. No locks: leaves are added by a compare-and-swap and stay. Called by the pool,
   by ACE for ranges, by limbo, and by every free. */
#include "superslab/map.h"

#include <errno.h>

#include "base/os.h"

/* Before the first hak_map_ensure every user address minus this base is beyond the window. */
#define NO_BASE     ((uintptr_t)1 << 63)
#define TAGS_A_PAGE (4096 / sizeof(uint32_t))
uintptr_t hak_map_base = NO_BASE;
struct map_leaf *hak_map_window;

static struct map_leaf *directory[MAP_DIRECTORY_ENTRIES];

/* Unit number modulo 2^32; addresses have at most 48 bits here. */
static uint32_t unit_of(const void *p)
{
    return (uint32_t)(((uintptr_t)p - atomic_load_relaxed(&hak_map_base)) >> MAP_UNIT_SHIFT);
}

static struct map_leaf *leaf_of(uint32_t unit)
{
    return atomic_load_acquire(&directory[unit >> MAP_LEAF_SHIFT]);
}

/* The leaf of that index, made if there is none; NULL if there is no memory. Whoever comes second
   throws his away. */
static struct map_leaf *ensure_leaf(uint32_t index)
{
    struct map_leaf *leaf = atomic_load_acquire(&directory[index]);
    if (HAK_LIKELY(leaf != NULL)) {
        return leaf;
    }
    struct map_leaf *fresh =
        (struct map_leaf *)hak_os_map_aligned(NULL, sizeof *fresh, hak_os_page_size());
    if (fresh && !atomic_cas_strong(&directory[index], &leaf, fresh)) {
        hak_os_unmap_untouched(fresh, sizeof *fresh);
        fresh = leaf;
    }
    return fresh;
}

/* Chooses the window around the first address and maps its leaf. Returns 0 or ENOMEM. */
static HAK_COLD int choose_window(const void *first)
{
    /* New mappings are placed below older ones: most of the window lies below the first, and so
       does most of what is on its page of tags, which a small heap then does without a second one.
       */
    uintptr_t window = (uintptr_t)MAP_LEAF_UNITS << MAP_UNIT_SHIFT,
              page = (uintptr_t)TAGS_A_PAGE << MAP_UNIT_SHIFT;
    uintptr_t below = window / 4 * 3 + page / 4 * 3;
    uintptr_t base = (uintptr_t)first > below ? (uintptr_t)first - below : 0, none = NO_BASE;
    struct map_leaf *leaf = ensure_leaf(0);
    if (!leaf) {
        return ENOMEM;
    }
    /* The base is written last: who sees it sees the window too. The first one stays. */
    atomic_store_release(&hak_map_window, leaf);
    (void)atomic_cas_strong(&hak_map_base, &none, base & ~((uintptr_t)(2 * HAK_MIB) - 1));
    return 0;
}

int hak_map_ensure(const void *start, size_t bytes)
{
    if (HAK_UNLIKELY(atomic_load_acquire(&hak_map_base) == NO_BASE) && choose_window(start)) {
        return ENOMEM;
    }
    uint32_t first = unit_of(start) >> MAP_LEAF_SHIFT;
    uint32_t last = unit_of((const char *)start + bytes - 1) >> MAP_LEAF_SHIFT;
    for (uint32_t i = first;; i = (uint32_t)((i + 1) % MAP_DIRECTORY_ENTRIES)) {
        if (!ensure_leaf(i)) {
            return ENOMEM;
        }
        if (i == last) {
            return 0;
        }
    }
}

void hak_map_set(const void *start, size_t n_units, uint32_t tag, uint32_t ref)
{
    uint32_t unit = unit_of(start);
    for (size_t i = 0; i < n_units; i++, unit++) {
        struct map_leaf *leaf = leaf_of(unit);
        atomic_store_relaxed(&leaf->ref[unit & (MAP_LEAF_UNITS - 1)], ref);
        atomic_store_release(&leaf->tag[unit & (MAP_LEAF_UNITS - 1)], tag);
    }
}

struct map_entry hak_map_get(const void *p)
{
    struct map_entry entry = {0, 0};
    if ((uintptr_t)p >> 48 == 0 && atomic_load_acquire(&hak_map_window)) {
        uint32_t unit = unit_of(p);
        struct map_leaf *leaf = leaf_of(unit);
        if (leaf) {
            entry.tag = atomic_load_acquire(&leaf->tag[unit & (MAP_LEAF_UNITS - 1)]);
            entry.ref = atomic_load_relaxed(&leaf->ref[unit & (MAP_LEAF_UNITS - 1)]);
        }
    }
    return entry;
}
