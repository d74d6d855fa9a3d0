/* The shared pool of superslabs: which granules are taken, and those that come back. One lock (rank
   POOL), held for a few bit operations, and never while the system works. Called by banks (slabs)
   and span.c. */
#include "superslab/pool.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/lock_holds.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "limit/limit.h"
#include "superslab/lists.h"

/* How many superslabs of the best lists are looked at for resident memory before the first one is
   taken. */
#define DIRTY_SEARCH 8

LOCK_DEFINE(hak_pool_lock, LOCK_RANK_POOL);

/* --- the policy --- */

static void ignore_bytes(size_t bytes)
{
    (void)bytes;
}

static void ignore_time(uint64_t now_ns)
{
    (void)now_ns;
}

static size_t keep_all(void)
{
    return SIZE_MAX;
}

static uint64_t delay_of_option(void)
{
    return hak_options.purge_delay_ms;
}

static struct ss_lookup no_range(const void *p, uint32_t number)
{
    (void)p;
    (void)number;
    return (struct ss_lookup){SS_NOT_OURS, 0, 0, NULL, 0, 0};
}

static uint32_t none_aside(void)
{
    return 0;
}

static char *no_region(size_t *dirty)
{
    *dirty = 0;
    return NULL;
}

static const struct ss_policy default_policy = {ignore_bytes, ignore_time,     ignore_bytes,
                                                keep_all,     delay_of_option, no_range,
                                                none_aside,   no_region};
static const struct ss_policy *policy_in_force = &default_policy;

const struct ss_policy *hak_pool_policy(void)
{
    return atomic_load_acquire(&policy_in_force);
}

void hak_ss_set_policy(const struct ss_policy *policy)
{
    atomic_store_release(&policy_in_force, policy);
}

/* --- taking --- */

/* Threads that touch fresh pages side by side wait for each other in the kernel, for what guards
   the mapping and the 2 MiB; and threads that take from one superslab, for the lines that describe
   it. So a thread that has taken GROWS_FROM fresh granules has superslabs of its own, as far as
   that costs no memory: other such threads take no fresh memory there, and resident memory only if
   none is near elsewhere. A superslab is its own until all of them have taken memory OTHERS_FOR
   times since it last did so there. In huge pages there is no page to wait for. */
#define GROWS_FROM (SS_GRANULES / 2)
#define OTHERS_FOR 256u

static HAK_TLS uint32_t n_fresh; /* granules; no more are counted. Its address is the thread's */
static uint32_t n_takes;         /* of all such threads. Pool lock */

static int is_growing(void)
{
    return n_fresh >= GROWS_FROM;
}

/* Another growing thread's. */
static int is_others(const struct superslab *ss)
{
    return !HAK_SECURE && ss->taker && ss->taker != &n_fresh && is_growing() && !ss->is_huge &&
           n_takes - ss->taken_at < OTHERS_FOR;
}

static void claim(struct superslab *ss, uint32_t fresh)
{
    if (HAK_UNLIKELY(!is_growing())) {
        n_fresh += fresh;
    } else if (!is_others(ss)) {
        ss->taker = &n_fresh;
        ss->taken_at = ++n_takes;
    }
}

/* Returns how many of the granules may hold old data. A unit of which a part is resident is not
   counted as fetched: it was used before. */
static uint32_t take(struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t n_dirty = hak_pool_clean(ss, first, n);
    uint32_t fresh = n_dirty && n == SS_GRANULES_OF_A_UNIT ? 0 : n - n_dirty;
    hak_pool_remove_free(ss, first, n);
    hak_stat_add_locked(heap_used_bytes, n * SS_GRANULE_BYTES);
    if (n_dirty < n) {
        hak_limit_commit((n - n_dirty) * SS_GRANULE_BYTES);
    }
    claim(ss, fresh);
    hak_pool_policy()->taken(fresh * SS_GRANULE_BYTES);
    return n_dirty;
}

/* The place for a span in one superslab: resident granules first. SS_GRANULES if none. */
static uint32_t place_in(const struct superslab *ss, uint32_t n, uint32_t align)
{
    uint32_t place = hak_granules_best_fit(&ss->dirty, n, align);
    return place < SS_GRANULES ? place : hak_granules_best_fit(&ss->free, n, align);
}

/* The next length of a run, from `run` up, that some superslab has as its longest; RUN_BITS if
   none. */
static uint32_t next_run(uint32_t run)
{
    return hak_bits_next(hak_pool_lists.runs_present, RUN_BITS, run, 1);
}

/* A superslab in which n granules fit at a multiple of `align` wherever its longest run begins. */
static struct superslab *choose_surely(uint32_t n, uint32_t align)
{
    uint32_t sure = n + align - 1;
    uint32_t run = next_run(sure < SS_GRANULES ? sure : SS_GRANULES);
    return run <= SS_GRANULES ? hak_pool_lists.by_run[run].first : NULL;
}

/* The superslab with the shortest run that fits, one with resident granules if it is near, rather
   not another thread's; then *place is where they fit, else SS_GRANULES. NULL if none of those that
   are near fits. `may_share`: fresh memory of another thread's too. */
static struct superslab *choose(uint32_t n, uint32_t align, uint32_t *place, int may_share)
{
    struct superslab *fallback = NULL, *others = NULL;
    uint32_t others_place = SS_GRANULES;
    int looked = 0;
    *place = SS_GRANULES;
    for (uint32_t run = next_run(n); run <= SS_GRANULES && looked < DIRTY_SEARCH;
         run = next_run(run + 1)) {
        for (struct superslab *ss = hak_pool_lists.by_run[run].first; ss && looked < DIRTY_SEARCH;
             ss = ss->next[SS_BY_RUN], looked++) {
            hak_lock_step(1);
            int is_own = !is_others(ss);
            if ((is_own || !others) && !hak_granules_is_empty(&ss->dirty) &&
                (*place = hak_granules_best_fit(&ss->dirty, n, align)) < SS_GRANULES) {
                if (is_own) {
                    return ss;
                }
                others = ss;
                others_place = *place;
            }
            if (!fallback && (is_own || may_share) &&
                (align == 1 || hak_granules_best_fit(&ss->free, n, align) < SS_GRANULES)) {
                fallback = ss;
            }
        }
    }
    *place = others_place;
    if (others || fallback || looked < DIRTY_SEARCH) {
        return others ? others : fallback;
    }
    return choose_surely(n, align);
}

/* Whether the memory limit admits n granules of which some may be committed already. */
static int admit(const struct superslab *ss, uint32_t first, uint32_t n)
{
    if (HAK_LIKELY(!hak_limit_is_set())) {
        return 1;
    }
    size_t bytes = n * SS_GRANULE_BYTES;
    return hak_limit_admit((n - hak_granules_count(&ss->dirty, first, n)) * SS_GRANULE_BYTES, bytes,
                           bytes);
}

struct superslab *hak_pool_take(uint32_t n, uint32_t align, uint32_t *first, struct granules *dirty,
                                uint32_t *n_dirty)
{
    struct superslab *ss;
    do {
        ss = choose(n, align, first, 0);
    } while ((*first == SS_GRANULES && hak_pool_policy()->give_aside()) || /* none is resident */
             (!ss && hak_pool_open()));
    if (!ss) {
        hak_lock_release(&hak_pool_lock);
        ss = hak_pool_map_region(n, align);
        ss = ss ? ss : choose(n, align, first, 1);
    }
    if (!ss) {
        return NULL;
    }
    *first = *first < SS_GRANULES ? *first : place_in(ss, n, align);
    HAK_CHECK(*first < SS_GRANULES, "superslab lists are corrupt", ss);
    if (!admit(ss, *first, n)) {
        return NULL;
    }
    *dirty = ss->dirty;
    *n_dirty = take(ss, *first, n);
    return ss;
}

int hak_pool_take_at(struct superslab *ss, uint32_t first, uint32_t n)
{
    if (first + n > SS_GRANULES || hak_granules_count(&ss->free, first, n) != n ||
        !admit(ss, first, n)) {
        return 0;
    }
    (void)take(ss, first, n);
    return 1;
}

/* A superslab with as many wholly free units as any has, whoever's it is. */
static struct superslab *choose_emptiest(uint32_t *unit)
{
    uint32_t n = 63 - (uint32_t)__builtin_clzll(hak_pool_lists.units_present);
    struct superslab *ss = hak_pool_lists.by_units[n].first;
    *unit = (uint32_t)__builtin_ctz(hak_granules_whole_units(&ss->free));
    return ss;
}

/* A wholly free unit: of a superslab that has few of them, a resident one if it is near. NULL if
   there is none. `guarded`: of one that has guards. Where all that are near are other threads', the
   own ones may lie behind them, and a region more for each slab would be without bound. */
static struct superslab *choose_unit(uint32_t *unit, int guarded, int may_share)
{
    struct superslab *best = NULL, *others = NULL;
    uint32_t others_unit = 0;
    int looked = 0;
    uint64_t left = hak_pool_lists.units_present & ~(uint64_t)1;
    for (; left && looked < DIRTY_SEARCH; left &= left - 1) {
        uint32_t n = (uint32_t)__builtin_ctzll(left);
        for (struct superslab *ss = hak_pool_lists.by_units[n].first; ss && looked < DIRTY_SEARCH;
             ss = ss->next[SS_BY_UNITS]) {
            hak_lock_step(1);
            looked++;
            if (HAK_SECURE && guarded && !hak_pool_guards(ss)) {
                continue;
            }
            int is_own = !is_others(ss);
            uint32_t whole = hak_granules_whole_units(&ss->free);
            uint32_t resident = whole & hak_granules_touched_units(&ss->dirty);
            if (resident && is_own) {
                *unit = (uint32_t)__builtin_ctz(resident);
                return ss;
            }
            if (resident && !others) {
                others = ss;
                others_unit = (uint32_t)__builtin_ctz(resident);
            }
            if (!best && (is_own || may_share)) {
                best = ss;
                *unit = (uint32_t)__builtin_ctz(whole);
            }
        }
    }
    if (!HAK_SECURE && !best && !others && looked >= DIRTY_SEARCH) {
        return choose_emptiest(unit);
    }
    *unit = others ? others_unit : *unit;
    return others ? others : best;
}

/* The granules, of a span or else a slab, become free; the first n_dirty of them, one at least, may
   be resident. */
static void give(struct superslab *ss, uint32_t first, uint32_t n, uint32_t n_dirty, int were_span)
{
    uint64_t now_ns = hak_pool_not_before_last(hak_os_ops.clock_ns());
    hak_granules_set(&ss->free, first, n);
    hak_granules_set(&ss->dirty, first, n_dirty);
    hak_pool_mark_free_part(ss, first, n, were_span);
    hak_pool_add_free(ss, first, n);
    hak_pool_file_youngest(ss, now_ns);
    hak_stat_add_locked(heap_dirty_bytes, n_dirty * SS_GRANULE_BYTES);
    hak_stat_add_locked(heap_used_bytes, -(int64_t)(n * SS_GRANULE_BYTES));
    if (n_dirty < n) {
        hak_limit_uncommit((n - n_dirty) * SS_GRANULE_BYTES);
    }
    hak_pool_policy()->given(now_ns);
    hak_pool_note_freed(n * SS_GRANULE_BYTES, now_ns);
}

void hak_pool_give(struct superslab *ss, uint32_t first, uint32_t n)
{
    give(ss, first, n, n, 1);
}

/* So many of a slab's granules were touched since its unit read as zero: what is behind them is not
   kept memory, and reads as zero still. A huge page is resident as a whole, and stays so where its
   mark was taken from it. */
static uint32_t dirty_granules(const struct superslab *ss, const struct slab *slab)
{
    size_t page = hak_os_page_size() > SS_GRANULE_BYTES ? hak_os_page_size() : SS_GRANULE_BYTES;
    size_t bytes = (size_t)slab->n_touched * SLAB_TOUCHED_BYTES;
    if (HAK_SECURE || ss->is_huge || ss->was_huge || bytes > SS_UNIT_BYTES - page) {
        return SS_GRANULES_OF_A_UNIT;
    }
    return (uint32_t)((bytes ? (bytes + page - 1) / page * page : page) / SS_GRANULE_BYTES);
}

/* In the secure variant: whether the unit's free blocks are, except for links, what a slab of the
   class has: where units keep their class they are as the last slab has left them, and a write to
   one is found when it is handed out. Pool lock held. */
static int is_tidy(const struct superslab *ss, uint32_t unit)
{
    return hak_pool_keeps_classes(ss) && !(ss->virgin >> unit & 1) &&
           hak_slab_is_empty(&ss->slabs[unit]);
}

/* In the secure variant a slab's blocks that were never handed out are zero. No lock held. */
static void scrub(char *base, uint32_t dirty)
{
    for (uint32_t i = 0; HAK_SECURE && i < SS_GRANULES_OF_A_UNIT; i++) {
        if (dirty >> i & 1) {
            memset(base + i * SS_GRANULE_BYTES, 0, SS_GRANULE_BYTES);
        }
    }
}

static struct superslab *choose_for_slab(uint32_t size_class, uint32_t *unit)
{
    if (hak_pool_is_apart()) {
        return hak_pool_apart_choose(size_class, unit);
    }
    struct superslab *ss = choose_unit(unit, hak_pool_is_guarded(), 0);
    if (!(ss && hak_granules_of_unit(&ss->dirty, *unit)) && hak_pool_policy()->give_aside()) {
        ss = choose_unit(unit, hak_pool_is_guarded(), 0);
    }
    return ss;
}

/* The fresh superslab's; if there is none, one of other threads, or, in the secure variant, among
   large blocks. */
static struct superslab *choose_of_fresh(struct superslab *ss, uint32_t size_class, uint32_t *unit)
{
    if (!ss) {
        return choose_unit(unit, 0, 1);
    }
    if (hak_pool_is_apart()) {
        return hak_pool_apart_choose(size_class, unit);
    }
    *unit = (uint32_t)__builtin_ctz(~hak_pool_guards(ss));
    return ss;
}

/* How far a unit with these dirty granules may be resident, in the slab's measure. */
static uint8_t touched_of(uint32_t dirty)
{
    uint32_t n = 32 - (uint32_t)__builtin_clz(dirty);
    return (uint8_t)(n * (SS_GRANULE_BYTES / SLAB_TOUCHED_BYTES) & 31);
}

struct slab *hak_pool_slab_alloc(uint32_t tag, uint32_t size_class)
{
    uint32_t unit = 0;
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = choose_for_slab(size_class, &unit);
    if (!ss && hak_pool_open()) {
        ss = choose_for_slab(size_class, &unit);
    }
    if (!ss) {
        hak_lock_release(&hak_pool_lock);
        ss = choose_of_fresh(hak_pool_map_region(0, 1), size_class, &unit);
    }
    if (ss && !admit(ss, unit * SS_GRANULES_OF_A_UNIT, SS_GRANULES_OF_A_UNIT)) {
        ss = NULL;
    }
    uint32_t dirty = 0, untidy = 0;
    if (ss) {
        dirty = hak_granules_of_unit(&ss->dirty, unit);
        untidy = is_tidy(ss, unit) ? 0 : dirty;
        ss->virgin &= ~(1u << unit);
        (void)take(ss, unit * SS_GRANULES_OF_A_UNIT, SS_GRANULES_OF_A_UNIT);
        /* With the lock held: whoever walks the slabs sees none that is half made. */
        ss->slab_mask |= 1u << unit;
        hak_slab_init(&ss->slabs[unit], ss->base + unit * SS_UNIT_BYTES, TAG_OWNER(tag), size_class,
                      ss->far_bits[unit], !dirty);
        if (dirty) {
            ss->slabs[unit].n_touched = touched_of(dirty);
        }
        /* Between what describes it and its tag: who has read an older description, and then the
           tag, sees another version. */
        atomic_store_release(&ss->slab_version, ss->slab_version + 1);
    }
    hak_lock_release(&hak_pool_lock);
    if (!ss) {
        return NULL;
    }
    struct slab *slab = &ss->slabs[unit];
    scrub(slab->base, untidy);
    hak_map_set(slab->base, 1, tag, ss->number);
    hak_stat_add(slabs_made, 1);
    hak_stat_add(heap_untouched_bytes, hak_slab_untouched_bytes(slab));
    hak_pool_apart_made(dirty != 0);
    return slab;
}

void hak_pool_slab_populate(struct slab *slab, uint32_t bytes)
{
    if (slab->is_clean && !hak_pool_superslab(hak_map_find(slab->base).ref)->is_huge) {
        hak_os_populate(slab->base, bytes);
        slab->n_touched = (uint8_t)(bytes / SLAB_TOUCHED_BYTES & 31);
    }
}

void hak_pool_slab_free(struct slab *slab)
{
    uint32_t unit = (uint32_t)(((uintptr_t)slab->base & (SS_BYTES - 1)) / SS_UNIT_BYTES);
    struct superslab *ss = hak_pool_superslab(hak_map_find(slab->base).ref);
    hak_stat_add(slabs_returned, 1);
    hak_stat_sub(heap_untouched_bytes, hak_slab_untouched_bytes(slab));
    hak_lock_acquire(&hak_pool_lock);
    slab->is_used = 0;
    ss->slab_mask &= ~(1u << unit);
    give(ss, unit * SS_GRANULES_OF_A_UNIT, SS_GRANULES_OF_A_UNIT, dirty_granules(ss, slab), 0);
    hak_lock_release(&hak_pool_lock);
}

uint32_t hak_pool_slab_mask(uint32_t number, char **base)
{
    struct superslab *ss = hak_pool_superslab(number);
    hak_lock_acquire(&hak_pool_lock);
    *base = ss->base;
    uint32_t mask = ss->base ? ss->slab_mask : 0;
    hak_lock_release(&hak_pool_lock);
    return mask;
}
