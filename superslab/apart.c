/* Units that keep the class of their first slab: in the secure variant a unit of superslabs for
   slabs serves no other class, and no span, for ever. What waits for its class's next slab is in a
   list of the class, linked through the description of its last slab, which has no owner then.
   Called by pool.c, lists.c and verify.c, with the pool's lock held; steps are bounded by the units
   of one superslab, except for the verifiers'. */
#include "superslab/apart.h"

#include "base/link.h"
#include "base/list.h"
#include "base/stats.h"
#include "superslab/lists.h"

#if HAK_SECURE

/* What may be free and resident whatever other classes need: one byte in so many that are used, and
   so much. */
#define KEPT_PART  8
#define KEPT_LEAST ((int64_t)512 * HAK_KIB)

struct unit_list {
    struct slab *first, *last;
};

static HAK_LARGE_ZEROS struct unit_list freed[SC_N_CLASSES];
static int64_t owed; /* bytes that were taken from the system while others could have gone to it */
static uint32_t draws;
static int is_apart;

void hak_pool_set_apart(void)
{
    is_apart = 1;
}

int hak_pool_is_apart(void)
{
    return is_apart;
}

static uint32_t unit_of(const struct slab *slab)
{
    return (uint32_t)(((uintptr_t)slab->base & (SS_BYTES - 1)) / SS_UNIT_BYTES);
}

uint32_t hak_pool_apart_draw(uint32_t n)
{
    draws = draws * 0x2C1B3C6Du + ((uint32_t)hak_link_secret() | 1);
    return (uint32_t)(((uint64_t)draws * n) >> 32);
}

void hak_pool_apart_draw_anew(uint32_t chance)
{
    draws ^= chance;
}

/* One of the mask's bits, by chance. */
static uint32_t draw(uint32_t mask)
{
    for (uint32_t n = hak_pool_apart_draw(hak_bits_count(mask)); n; n--) {
        mask &= mask - 1;
    }
    return (uint32_t)__builtin_ctz(mask);
}

struct superslab *hak_pool_apart_choose(uint32_t size_class, uint32_t *unit)
{
    const struct slab *slab = freed[size_class].first;
    if (slab) {
        *unit = unit_of(slab);
        return hak_pool_superslab(hak_map_find(slab->base).ref);
    }
    struct superslab *ss = hak_pool_lists.virgin.first;
    if (ss) {
        *unit = draw(ss->virgin);
    }
    return ss;
}

void hak_pool_apart_made(int was_resident)
{
    int64_t kept = hak_stat_get(heap_used_bytes) / KEPT_PART + KEPT_LEAST;
    if (was_resident || !is_apart || hak_stat_get(heap_dirty_bytes) <= kept) {
        return;
    }
    int64_t bytes = (int64_t)SS_UNIT_BYTES;
    if (atomic_add_relaxed(&owed, bytes) + bytes > 0) {
        int is_last;
        (void)atomic_sub_relaxed(&owed, (int64_t)hak_ss_purge_step(0, &is_last));
    }
}

/* Resident ones first. */
static void list(struct superslab *ss, uint32_t unit)
{
    struct slab *slab = &ss->slabs[unit];
    struct unit_list *of = &freed[slab->size_class];
    if (hak_granules_of_unit(&ss->dirty, unit)) {
        LIST_INSERT(&of->first, &of->last, NULL, slab, next, prev);
    } else {
        LIST_APPEND(&of->first, &of->last, slab, next, prev);
    }
}

static void unlist(struct superslab *ss, uint32_t unit)
{
    struct slab *slab = &ss->slabs[unit];
    struct unit_list *of = &freed[slab->size_class];
    LIST_REMOVE(&of->first, &of->last, slab, next, prev);
}

void hak_pool_apart_refile(struct superslab *ss)
{
    uint32_t is = hak_granules_whole_units(&ss->free) & ~ss->virgin, was = ss->listed;
    for (uint32_t out = was & ~is; out; out &= out - 1) {
        unlist(ss, (uint32_t)__builtin_ctz(out));
    }
    for (uint32_t in = is & ~was; in; in &= in - 1) {
        list(ss, (uint32_t)__builtin_ctz(in));
    }
    ss->listed = is;
}

/* One that keeps classes, and of which nothing is used, is like others from now on: its region may
   go. Pool lock held. */
static uint32_t forget_classes(struct superslab *ss)
{
    uint32_t n_free = hak_granules_count(&ss->free, 0, SS_GRANULES) + hak_pool_guard_granules(ss);
    if (!ss->base || !hak_pool_keeps_classes(ss) || n_free != SS_GRANULES) {
        return 0;
    }
    hak_pool_leave(ss);
    for (; ss->listed; ss->listed &= ss->listed - 1) {
        unlist(ss, (uint32_t)__builtin_ctz(ss->listed));
    }
    ss->virgin = 0;
    ss->keeps_classes = 0;
    hak_pool_enter(ss);
    return 1;
}

uint32_t hak_ss_forget_classes(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < hak_numbered_count(&hak_pool_superslabs); i++) {
        hak_lock_acquire(&hak_pool_lock);
        n += forget_classes(hak_pool_superslab(i));
        hak_lock_release(&hak_pool_lock);
    }
    return n;
}

int hak_pool_apart_is_right(const struct superslab *ss, uint32_t *n_listed)
{
    uint32_t whole = hak_granules_whole_units(&ss->free);
    *n_listed = hak_bits_count(ss->listed);
    for (uint32_t i = 0; i < SS_GRANULES; i++) {
        if (hak_pool_span_granules(ss, i)) {
            return 0;
        }
    }
    return !(ss->virgin & ~whole) && ss->listed == (whole & ~ss->virgin);
}

uint32_t hak_pool_apart_count(void)
{
    uint32_t n = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        const struct slab *before = NULL;
        for (const struct slab *slab = freed[c].first; slab; before = slab, slab = slab->next) {
            const struct superslab *ss = hak_pool_superslab(hak_map_find(slab->base).ref);
            if (slab->prev != before || slab->size_class != c ||
                !(ss->listed >> unit_of(slab) & 1)) {
                return UINT32_MAX;
            }
            n++;
        }
    }
    return n;
}

#endif
