/* The shared pool of superslabs. One lock (rank POOL), held for a few bit operations; also while
   the system is asked for memory or gets some back. Called by banks (slabs), span.c,
   hak_super_lookup and purge. */
#include "superslab/pool.h"

#include <errno.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/numbered.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "base/verify.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/huge.h"

/* Memory for descriptions is taken for so many at a time. */
#define DESCRIPTIONS HAK_TINY_OR(2u, 16u)
/* How many superslabs of the best lists are looked at for resident memory before the first one is
   taken. */
#define DIRTY_SEARCH 8
/* A superslab that is marked for huge pages loses the mark when it is purged with less than this
   part of it in use: each small block there would bring 2 MiB back. */
#define HUGE_SPARSE 2u

/* A bit for each length of a run, 0 to SS_GRANULES. */
#define RUN_BITS (SS_GRANULES + 64)

struct ss_list {
    struct superslab *first, *last;
};

LOCK_DEFINE(hak_pool_lock, LOCK_RANK_POOL);
static struct numbered superslabs;             /* descriptions made so far */
static struct ss_list by_run[SS_GRANULES + 1]; /* by largest_run */
static uint64_t runs_present[RUN_BITS / 64];
static struct ss_list by_units[SS_UNITS + 1]; /* by n_whole */
static struct ss_list by_age;                 /* with dirty granules, oldest first */
static struct superslab *given_back;          /* descriptions without a region */
static struct superslab
    *room; /* the next one that was never used, if superslabs.n % DESCRIPTIONS is not 0 */
static struct superslab_slabs *room_slabs;
static char *last_region;

/* --- the policy --- */

static void ignore_bytes(size_t bytes)
{
    (void)bytes;
}

static void ignore(void)
{
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

static const struct ss_policy default_policy = {ignore_bytes, ignore,          ignore_bytes,
                                                keep_all,     delay_of_option, no_range};
static const struct ss_policy *policy_in_force = &default_policy;

const struct ss_policy *hak_pool_policy(void)
{
    return atomic_load_acquire(&policy_in_force);
}

void hak_ss_set_policy(const struct ss_policy *policy)
{
    atomic_store_release(&policy_in_force, policy);
}

/* --- descriptions and their lists --- */

struct superslab *hak_pool_superslab(uint32_t number)
{
    return (struct superslab *)hak_numbered_get(&superslabs, number);
}

struct superslab *hak_pool_superslab_around(uint32_t number, const void *p)
{
    struct superslab *ss = (struct superslab *)hak_numbered_find(&superslabs, number);
    uintptr_t base = ss ? (uintptr_t)atomic_load_relaxed(&ss->base) : 0;
    return base && base == ((uintptr_t)p & ~(uintptr_t)(SS_BYTES - 1)) ? ss : NULL;
}

static void list_remove(struct ss_list *list, struct superslab *ss, enum ss_list_kind kind)
{
    LIST_REMOVE(&list->first, &list->last, ss, next[kind], prev[kind]);
}

static void list_append(struct ss_list *list, struct superslab *ss, enum ss_list_kind kind)
{
    LIST_APPEND(&list->first, &list->last, ss, next[kind], prev[kind]);
}

static void list_by_run(struct superslab *ss, uint32_t run)
{
    ss->largest_run = (uint16_t)run;
    list_append(&by_run[run], ss, SS_BY_RUN);
    hak_bits_set(runs_present, run);
}

static void unlist_by_run(struct superslab *ss)
{
    uint32_t run = ss->largest_run;
    list_remove(&by_run[run], ss, SS_BY_RUN);
    if (!by_run[run].first) {
        hak_bits_clear(runs_present, run);
    }
}

static void list_by_units(struct superslab *ss, uint32_t n_whole)
{
    ss->n_whole = (uint16_t)n_whole;
    list_append(&by_units[n_whole], ss, SS_BY_UNITS);
}

/* After `free` changed: into the lists where it belongs. */
static void relist(struct superslab *ss)
{
    uint32_t run = hak_granules_longest_run(&ss->free);
    uint32_t n_whole = (uint32_t)__builtin_popcount(hak_granules_whole_units(&ss->free));
    if (run != ss->largest_run) {
        unlist_by_run(ss);
        list_by_run(ss, run);
    }
    if (n_whole != ss->n_whole) {
        list_remove(&by_units[ss->n_whole], ss, SS_BY_UNITS);
        list_by_units(ss, n_whole);
    }
}

/* The next length of a run, from `run` up, that some superslab has as its longest; RUN_BITS if
   none. */
static uint32_t next_run(uint32_t run)
{
    return hak_bits_next(runs_present, RUN_BITS, run, 1);
}

static void drop_description(struct superslab *ss)
{
    atomic_store_relaxed(&ss->base, NULL);
    ss->next[SS_BY_RUN] = given_back;
    given_back = ss;
}

/* Memory for DESCRIPTIONS of them: together, so that what stays of each is small. Returns whether
   there is some. */
static int make_room(void)
{
    size_t page = hak_os_page_size();
    char *memory = (char *)hak_os_meta_alloc(
        DESCRIPTIONS * (sizeof(struct superslab) + sizeof(struct superslab_slabs)) + page);
    if (!memory) {
        return 0;
    }
    room = (struct superslab *)(void *)memory;
    room_slabs = (struct superslab_slabs *)(((uintptr_t)(room + DESCRIPTIONS) + page - 1) &
                                            ~(uintptr_t)(page - 1));
    return 1;
}

/* One that never had a region; those behind it are not touched. */
static struct superslab *first_use(void)
{
    uint32_t number = superslabs.n;
    if (!hak_numbered_reserve(&superslabs) || (number % DESCRIPTIONS == 0 && !make_room())) {
        return NULL;
    }
    struct superslab *ss = room++;
    ss->slabs = room_slabs->slabs;
    ss->far_bits = room_slabs->far_bits;
    ss->number = number;
    room_slabs++;
    hak_numbered_add(&superslabs, ss);
    return ss;
}

static struct superslab *new_description(void)
{
    struct superslab *ss = given_back;
    if (!ss) {
        return first_use();
    }
    given_back = ss->next[SS_BY_RUN];
    return ss;
}

/* After its region went back: what described its slabs is not needed, and reads as 0. */
static void drop_slabs(const struct superslab *ss)
{
    if (sizeof(struct superslab_slabs) % hak_os_page_size() == 0) {
        int refused = hak_os_purge(ss->slabs, sizeof(struct superslab_slabs));
        (void)refused; /* then it stays, which costs no more than before */
    }
}

static struct superslab *new_superslab(void)
{
    struct superslab *ss = new_description();
    if (!ss) {
        return NULL;
    }
    /* Below the last one, where the kernel merges neighbours into one mapping. */
    char *hint = last_region ? last_region - SS_BYTES : NULL;
    char *base = (char *)hak_os_map_aligned(hint, SS_BYTES, SS_BYTES);
    if (base && hak_map_ensure(base, SS_BYTES)) {
        hak_os_unmap_untouched(base, SS_BYTES);
        base = NULL;
    }
    if (!base) {
        hak_fail_map(SS_BYTES, ENOMEM);
        drop_description(ss);
        return NULL;
    }
    last_region = base;
    ss->is_huge = (uint8_t)hak_huge_is_wanted((uint64_t)hak_stat_get(heap_used_bytes));
    if (ss->is_huge) {
        hak_huge_mark(base, SS_BYTES);
    }
    atomic_store_relaxed(&ss->base, base);
    ss->slab_mask = 0;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        ss->free.word[i] = ~(uint64_t)0;
        ss->dirty.word[i] = 0;
    }
    list_by_run(ss, SS_GRANULES);
    list_by_units(ss, SS_UNITS);
    hak_map_set(base, SS_UNITS, TAG_FREE_UNIT, ss->number);
    hak_stat_add(superslabs, 1);
    hak_limit_count_mappings(1);
    hak_limit_map(SS_BYTES);
    return ss;
}

/* Granules that are not dirty any more are not committed either. */
static void clean(struct superslab *ss, uint32_t first, uint32_t n)
{
    size_t bytes = hak_granules_count(&ss->dirty, first, n) * SS_GRANULE_BYTES;
    hak_stat_sub(heap_dirty_bytes, bytes);
    hak_limit_uncommit(bytes);
    hak_granules_clear(&ss->dirty, first, n);
    if (hak_granules_is_empty(&ss->dirty)) {
        list_remove(&by_age, ss, SS_BY_AGE);
    }
}

static void take(struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t n_dirty = hak_granules_count(&ss->dirty, first, n);
    if (n_dirty) {
        clean(ss, first, n);
    }
    hak_granules_clear(&ss->free, first, n);
    relist(ss);
    hak_stat_add(heap_used_bytes, n * SS_GRANULE_BYTES);
    hak_limit_commit(n * SS_GRANULE_BYTES);
    hak_pool_policy()->taken((n - n_dirty) * SS_GRANULE_BYTES);
}

/* The place for a span in one superslab: resident granules first. SS_GRANULES if none. */
static uint32_t place_in(const struct superslab *ss, uint32_t n, uint32_t align)
{
    uint32_t place = hak_granules_best_fit(&ss->dirty, n, align);
    return place < SS_GRANULES ? place : hak_granules_best_fit(&ss->free, n, align);
}

/* The superslab with the shortest run that fits, one with resident granules if it is near. */
static struct superslab *choose(uint32_t n, uint32_t align)
{
    struct superslab *fallback = NULL;
    int looked = 0;
    for (uint32_t run = next_run(n); run <= SS_GRANULES; run = next_run(run + 1)) {
        for (struct superslab *ss = by_run[run].first; ss; ss = ss->next[SS_BY_RUN]) {
            if (!hak_granules_is_empty(&ss->dirty) &&
                hak_granules_best_fit(&ss->dirty, n, align) < SS_GRANULES) {
                return ss;
            }
            if (!fallback &&
                (align == 1 || hak_granules_best_fit(&ss->free, n, align) < SS_GRANULES)) {
                fallback = ss;
            }
            if (++looked >= DIRTY_SEARCH && fallback) {
                return fallback;
            }
        }
    }
    return fallback;
}

/* Whether the memory limit admits n granules of which some may be committed already. */
static int admit(const struct superslab *ss, uint32_t first, uint32_t n)
{
    size_t bytes = n * SS_GRANULE_BYTES;
    return hak_limit_admit((n - hak_granules_count(&ss->dirty, first, n)) * SS_GRANULE_BYTES, bytes,
                           bytes);
}

struct superslab *hak_pool_take(uint32_t n, uint32_t align, uint32_t *first, struct granules *dirty)
{
    struct superslab *ss = choose(n, align);
    ss = ss ? ss : new_superslab();
    if (!ss) {
        return NULL;
    }
    *first = place_in(ss, n, align);
    HAK_CHECK(*first < SS_GRANULES, "superslab lists are corrupt", ss);
    if (!admit(ss, *first, n)) {
        return NULL;
    }
    *dirty = ss->dirty;
    take(ss, *first, n);
    return ss;
}

int hak_pool_take_at(struct superslab *ss, uint32_t first, uint32_t n)
{
    if (first + n > SS_GRANULES || hak_granules_count(&ss->free, first, n) != n ||
        !admit(ss, first, n)) {
        return 0;
    }
    take(ss, first, n);
    return 1;
}

/* A wholly free unit: of a superslab that has few of them, a resident one if it is near. NULL if
   there is none. */
static struct superslab *choose_unit(uint32_t *unit)
{
    struct superslab *best = NULL;
    int looked = 0;
    for (uint32_t n = 1; n <= SS_UNITS && looked < DIRTY_SEARCH; n++) {
        for (struct superslab *ss = by_units[n].first; ss && looked < DIRTY_SEARCH;
             ss = ss->next[SS_BY_UNITS]) {
            uint32_t whole = hak_granules_whole_units(&ss->free);
            uint32_t resident = whole & hak_granules_touched_units(&ss->dirty);
            if (resident) {
                *unit = (uint32_t)__builtin_ctz(resident);
                return ss;
            }
            if (!best) {
                best = ss;
                *unit = (uint32_t)__builtin_ctz(whole);
            }
            looked++;
        }
    }
    return best;
}

/* A superslab that is wholly free goes back to the system. Returns 0 if it refused. Pool lock held.
 */
static int unmap_superslab(struct superslab *ss)
{
    hak_map_set(ss->base, SS_UNITS, 0, 0);
    if (hak_os_unmap(ss->base, SS_BYTES)) {
        hak_map_set(ss->base, SS_UNITS, TAG_FREE_UNIT, ss->number);
        return 0;
    }
    if (!hak_granules_is_empty(&ss->dirty)) {
        clean(ss, 0, SS_GRANULES);
    }
    unlist_by_run(ss);
    list_remove(&by_units[ss->n_whole], ss, SS_BY_UNITS);
    drop_slabs(ss);
    drop_description(ss);
    hak_stat_sub(superslabs, 1);
    hak_limit_count_mappings(-1);
    hak_limit_unmap(SS_BYTES);
    return 1;
}

/* Unmaps the superslab if it is wholly free; else, or if the system refuses, purges its dirty
   granules. Returns how many bytes of them went. Pool lock held. */
static size_t purge_superslab(struct superslab *ss)
{
    size_t bytes = hak_granules_count(&ss->dirty, 0, SS_GRANULES) * SS_GRANULE_BYTES;
    if (ss->n_whole == SS_UNITS && unmap_superslab(ss)) {
        hak_stat_add(heap_purged_bytes, bytes);
        return bytes;
    }
    if (ss->is_huge &&
        hak_granules_count(&ss->free, 0, SS_GRANULES) > SS_GRANULES - SS_GRANULES / HUGE_SPARSE) {
        hak_os_small_pages(ss->base, SS_BYTES);
        ss->is_huge = 0;
    }
    bytes = 0;
    uint32_t end;
    for (uint32_t first = hak_granules_next(&ss->dirty, 0, 1); first < SS_GRANULES;
         first = hak_granules_next(&ss->dirty, end, 1)) {
        end = hak_granules_next(&ss->dirty, first, 0);
        size_t size = (end - first) * SS_GRANULE_BYTES;
        if (hak_os_purge(ss->base + first * SS_GRANULE_BYTES, size) == 0) {
            clean(ss, first, end - first);
            bytes += size;
        }
    }
    hak_stat_add(heap_purged_bytes, bytes);
    return bytes;
}

/* Purges superslabs, oldest first, as long as they have not been used for delay_ns or more than
   `keep` bytes are dirty. Pool lock held. */
static size_t purge_older(uint64_t now_ns, uint64_t delay_ns, size_t keep)
{
    size_t bytes = 0;
    struct superslab *next;
    for (struct superslab *ss = by_age.first; ss; ss = next) {
        if (now_ns - ss->dirty_since_ns < delay_ns &&
            (size_t)hak_stat_get(heap_dirty_bytes) <= keep) {
            break;
        }
        next = ss->next[SS_BY_AGE];
        bytes += purge_superslab(ss);
    }
    if (bytes) {
        hak_pool_policy()->purged(bytes);
    }
    return bytes;
}

/* Units of granules `first` to `first + n - 1` that are wholly free. */
static void mark_free_units(const struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t whole = hak_granules_whole_units(&ss->free);
    for (uint32_t unit = first / SS_GRANULES_OF_A_UNIT;
         unit <= (first + n - 1) / SS_GRANULES_OF_A_UNIT; unit++) {
        if (whole >> unit & 1) {
            hak_map_set(ss->base + unit * SS_UNIT_BYTES, 1, TAG_FREE_UNIT, ss->number);
        }
    }
}

void hak_pool_give(struct superslab *ss, uint32_t first, uint32_t n)
{
    uint64_t now_ns = hak_os_ops.clock_ns();
    if (!hak_granules_is_empty(&ss->dirty)) {
        list_remove(&by_age, ss, SS_BY_AGE);
    }
    list_append(&by_age, ss, SS_BY_AGE);
    ss->dirty_since_ns = now_ns;
    hak_granules_set(&ss->free, first, n);
    hak_granules_set(&ss->dirty, first, n);
    mark_free_units(ss, first, n);
    relist(ss);
    hak_stat_add(heap_dirty_bytes, n * SS_GRANULE_BYTES);
    hak_stat_sub(heap_used_bytes, n * SS_GRANULE_BYTES);
    const struct ss_policy *policy = hak_pool_policy();
    policy->given();
    (void)purge_older(now_ns, hak_time_ns_of_ms(policy->delay_ms()), policy->keep_bytes());
}

struct slab *hak_pool_slab_alloc(uint32_t tag, uint32_t size_class)
{
    uint32_t unit = 0;
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = choose_unit(&unit);
    ss = ss ? ss : new_superslab();
    if (ss && !admit(ss, unit * SS_GRANULES_OF_A_UNIT, SS_GRANULES_OF_A_UNIT)) {
        ss = NULL;
    }
    int is_clean = 0;
    if (ss) {
        is_clean = !hak_granules_of_unit(&ss->dirty, unit);
        take(ss, unit * SS_GRANULES_OF_A_UNIT, SS_GRANULES_OF_A_UNIT);
        /* With the lock held: whoever walks the slabs sees none that is half made. */
        ss->slab_mask |= 1u << unit;
        hak_slab_init(&ss->slabs[unit], ss->base + unit * SS_UNIT_BYTES, TAG_OWNER(tag), size_class,
                      ss->far_bits[unit], is_clean);
        /* Between what describes it and its tag: who has read an older description, and then the
           tag, sees another version. */
        atomic_store_release(&ss->slab_version, ss->slab_version + 1);
    }
    hak_lock_release(&hak_pool_lock);
    if (!ss) {
        return NULL;
    }
    struct slab *slab = &ss->slabs[unit];
    hak_map_set(slab->base, 1, tag, ss->number);
    hak_stat_add(slabs_made, 1);
    return slab;
}

void hak_pool_slab_free(struct slab *slab)
{
    uint32_t unit = (uint32_t)(((uintptr_t)slab->base & (SS_BYTES - 1)) / SS_UNIT_BYTES);
    struct superslab *ss = hak_pool_superslab(hak_map_find(slab->base).ref);
    hak_stat_add(slabs_returned, 1);
    hak_lock_acquire(&hak_pool_lock);
    slab->is_used = 0;
    ss->slab_mask &= ~(1u << unit);
    hak_pool_give(ss, unit * SS_GRANULES_OF_A_UNIT, SS_GRANULES_OF_A_UNIT);
    hak_lock_release(&hak_pool_lock);
}

struct slab *hak_pool_slab_of(uint32_t ref, const void *p)
{
    return &hak_pool_superslab(ref)->slabs[((uintptr_t)p & (SS_BYTES - 1)) / SS_UNIT_BYTES];
}

uint32_t hak_pool_n_superslabs(void)
{
    return hak_numbered_count(&superslabs);
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

size_t hak_ss_purge(uint64_t delay_ms)
{
    hak_lock_acquire(&hak_pool_lock);
    size_t bytes = purge_older(hak_os_ops.clock_ns(), hak_time_ns_of_ms(delay_ms),
                               hak_pool_policy()->keep_bytes());
    hak_lock_release(&hak_pool_lock);
    return bytes;
}

static int is_listed(const struct ss_list *list, const struct superslab *ss, enum ss_list_kind kind)
{
    const struct superslab *other = list->first;
    while (other && other != ss) {
        other = other->next[kind];
    }
    return other != NULL;
}

/* What slabs and spans use against the set of free granules. */
static int verify_used(const struct superslab *ss)
{
    struct granules used = {{0}};
    for (uint32_t i = 0; i < SS_GRANULES; i++) {
        uint32_t unit = i / SS_GRANULES_OF_A_UNIT;
        int is_slab = i % SS_GRANULES_OF_A_UNIT == 0 && (ss->slab_mask >> unit & 1);
        uint32_t n = hak_pool_span_granules(ss, i);
        if (n > SS_GRANULES - i) {
            return VERIFY_POOL_SPAN_LENGTH;
        }
        if (n && is_slab) {
            return VERIFY_POOL_SPAN_IN_SLAB;
        }
        n = is_slab ? SS_GRANULES_OF_A_UNIT : n;
        if (hak_granules_count(&used, i, n)) {
            return VERIFY_POOL_OVERLAP;
        }
        hak_granules_set(&used, i, n);
    }
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        if (used.word[i] != ~ss->free.word[i] || ss->dirty.word[i] & ~ss->free.word[i]) {
            return VERIFY_POOL_FREE_SET;
        }
    }
    return 0;
}

static int verify_map(const struct superslab *ss)
{
    for (uint32_t unit = 0; unit < SS_UNITS; unit++) {
        struct map_entry entry = hak_map_get(ss->base + unit * SS_UNIT_BYTES);
        uint32_t free = hak_granules_of_unit(&ss->free, unit);
        if (entry.ref != ss->number) {
            return VERIFY_POOL_NUMBER;
        }
        if (free == 0xFF ? entry.tag != TAG_FREE_UNIT : free && entry.tag != TAG_SPAN) {
            return VERIFY_POOL_TAG;
        }
    }
    return 0;
}

static int verify_superslab(const struct superslab *ss)
{
    int result = verify_used(ss);
    result = result ? result : verify_map(ss);
    if (result) {
        return result;
    }
    uint32_t n_whole = (uint32_t)__builtin_popcount(hak_granules_whole_units(&ss->free));
    if (ss->largest_run != hak_granules_longest_run(&ss->free) || ss->n_whole != n_whole) {
        return VERIFY_POOL_RUNS;
    }
    int is_dirty = !hak_granules_is_empty(&ss->dirty);
    if (!is_listed(&by_run[ss->largest_run], ss, SS_BY_RUN) ||
        !is_listed(&by_units[n_whole], ss, SS_BY_UNITS) ||
        is_listed(&by_age, ss, SS_BY_AGE) != is_dirty) {
        return VERIFY_POOL_LISTS;
    }
    return 0;
}

static int verify_ages(void)
{
    for (const struct superslab *ss = by_age.first; ss && ss->next[SS_BY_AGE];
         ss = ss->next[SS_BY_AGE]) {
        if (ss->dirty_since_ns > ss->next[SS_BY_AGE]->dirty_since_ns) {
            return VERIFY_POOL_AGES;
        }
    }
    return 0;
}

int hak_ss_verify(void)
{
    int result;
    int64_t used = 0, dirty = 0, regions = 0;
    hak_lock_acquire(&hak_pool_lock);
    result = verify_ages();
    for (uint32_t i = 0; i < superslabs.n && !result; i++) {
        const struct superslab *ss = hak_pool_superslab(i);
        if (ss->base) {
            result = verify_superslab(ss);
            regions++;
            used += SS_GRANULES - hak_granules_count(&ss->free, 0, SS_GRANULES);
            dirty += hak_granules_count(&ss->dirty, 0, SS_GRANULES);
        }
    }
    const int64_t bytes = (int64_t)SS_GRANULE_BYTES;
    if (!result &&
        (used * bytes != hak_stat_get(heap_used_bytes) ||
         dirty * bytes != hak_stat_get(heap_dirty_bytes) || regions != hak_stat_get(superslabs))) {
        result = VERIFY_POOL_TOTALS;
    }
    hak_lock_release(&hak_pool_lock);
    return result;
}
