/* The lists that superslabs are in. Called by pool.c, region.c and purge.c, with the pool's lock
   held; every function takes a bounded number of steps. */
#include "superslab/lists.h"

#include "base/list.h"
#include "base/stats.h"
#include "limit/limit.h"

HAK_LARGE_ZEROS struct pool_lists hak_pool_lists;

void hak_pool_touch(void)
{
    hak_atomic_touch(&hak_pool_lists.touched_first);
    hak_atomic_touch(&hak_pool_lists.touched_units);
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
    list_append(&hak_pool_lists.by_run[run], ss, SS_BY_RUN);
    hak_bits_set(hak_pool_lists.runs_present, run);
}

static void unlist_by_run(struct superslab *ss)
{
    uint32_t run = ss->largest_run;
    list_remove(&hak_pool_lists.by_run[run], ss, SS_BY_RUN);
    if (!hak_pool_lists.by_run[run].first) {
        hak_bits_clear(hak_pool_lists.runs_present, run);
    }
}

struct ss_list *hak_pool_units_list(const struct superslab *ss, uint32_t n_whole)
{
    return hak_pool_keeps_classes(ss) && n_whole ? &hak_pool_lists.virgin
                                                 : &hak_pool_lists.by_units[n_whole];
}

/* Who purges looks at it without the lock. */
static void count_empty(const struct superslab *ss, int change)
{
    if (HAK_UNLIKELY(hak_pool_is_empty(ss))) {
        atomic_store_relaxed(&hak_pool_lists.n_empty, hak_pool_lists.n_empty + (uint32_t)change);
    }
}

static void list_by_units(struct superslab *ss, uint32_t n_whole)
{
    ss->n_whole = (uint16_t)n_whole;
    struct ss_list *list = hak_pool_units_list(ss, n_whole);
    list_append(list, ss, SS_BY_UNITS);
    if (list == &hak_pool_lists.by_units[n_whole]) {
        hak_pool_lists.units_present |= (uint64_t)1 << n_whole;
    }
    count_empty(ss, 1);
}

static void unlist_by_units(struct superslab *ss)
{
    list_remove(hak_pool_units_list(ss, ss->n_whole), ss, SS_BY_UNITS);
    if (!hak_pool_lists.by_units[ss->n_whole].first) {
        hak_pool_lists.units_present &= ~((uint64_t)1 << ss->n_whole);
    }
    count_empty(ss, -1);
}

uint32_t hak_pool_longest_run(const struct superslab *ss)
{
    return hak_pool_keeps_classes(ss) ? 0 : hak_granules_longest_run(&ss->free);
}

uint32_t hak_pool_whole_units(const struct superslab *ss)
{
    if (hak_pool_keeps_classes(ss)) {
        return hak_bits_count(ss->virgin);
    }
    uint32_t n = hak_bits_count(hak_granules_whole_units(&ss->free)), guards = hak_pool_guards(ss);
    return guards && n + hak_bits_count(guards) == SS_UNITS ? SS_UNITS : n;
}

void hak_pool_put_last(struct superslab *ss)
{
    unlist_by_units(ss);
    list_by_units(ss, ss->n_whole);
}

void hak_pool_enter(struct superslab *ss)
{
    ss->age_list = SS_NOT_DIRTY;
    list_by_run(ss, hak_pool_longest_run(ss));
    list_by_units(ss, hak_pool_whole_units(ss));
    hak_pool_refile(ss);
}

static void relist_by_run(struct superslab *ss, uint32_t run)
{
    if (run != ss->largest_run) {
        unlist_by_run(ss);
        list_by_run(ss, run);
    }
}

static void relist_by_units(struct superslab *ss, uint32_t n_whole)
{
    if (n_whole != ss->n_whole) {
        unlist_by_units(ss);
        list_by_units(ss, n_whole);
    }
}

void hak_pool_relist(struct superslab *ss)
{
    relist_by_run(ss, hak_pool_longest_run(ss));
    relist_by_units(ss, hak_pool_whole_units(ss));
    if (hak_pool_keeps_classes(ss)) {
        hak_pool_apart_refile(ss);
    }
}

/* How many units are wholly free among those of n granules from `first` on, which are free; *unit
   is the first one. All between the ends are. */
static uint32_t whole_units_of_part(const struct granules *free, uint32_t first, uint32_t n,
                                    uint32_t *unit)
{
    uint32_t from = first / SS_GRANULES_OF_A_UNIT, last = (first + n - 1) / SS_GRANULES_OF_A_UNIT;
    uint32_t is_first = hak_granules_of_unit(free, from) == 0xFF,
             is_last = hak_granules_of_unit(free, last) == 0xFF;
    *unit = from + !is_first;
    return from == last ? is_first : last - from - 1 + is_first + is_last;
}

/* Where only granules count. */
static int is_plain(const struct superslab *ss)
{
    return HAK_LIKELY(!hak_pool_keeps_classes(ss) && !hak_pool_guards(ss));
}

/* Only the run that they are part of has changed; all are looked at if it was the longest, perhaps,
   and is shorter now. */
void hak_pool_add_free(struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t unit, run = hak_granules_run_around(&ss->free, first, n);
    if (!is_plain(ss)) {
        hak_pool_relist(ss);
        return;
    }
    if (run > ss->largest_run) {
        relist_by_run(ss, run);
    }
    relist_by_units(ss, ss->n_whole + whole_units_of_part(&ss->free, first, n, &unit));
}

void hak_pool_remove_free(struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t unit, run = hak_granules_run_around(&ss->free, first, n),
                   n_whole = whole_units_of_part(&ss->free, first, n, &unit);
    hak_granules_clear(&ss->free, first, n);
    if (!is_plain(ss)) {
        hak_pool_relist(ss);
        return;
    }
    if (run >= ss->largest_run) {
        relist_by_run(ss, hak_granules_longest_run(&ss->free));
    }
    relist_by_units(ss, ss->n_whole - n_whole);
}

/* All that was dirty has been refused. */
static int is_all_refused(const struct superslab *ss)
{
    uint64_t other = 0;
    if (HAK_LIKELY(!hak_pool_lists.refused_bytes)) {
        return 0;
    }
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        other |= ss->dirty.word[i] & ~ss->refused.word[i];
    }
    return !other;
}

static void file_under(struct superslab *ss, enum ss_age_list list)
{
    if (ss->age_list == SS_AGED) {
        list_remove(&hak_pool_lists.aged, ss, SS_BY_AGE);
        hak_pool_lists.n_aged--;
    } else if (ss->age_list == SS_REFUSED) {
        list_remove(&hak_pool_lists.refused, ss, SS_BY_AGE);
        hak_pool_lists.n_refused--;
    }
    if (list == SS_AGED) {
        list_append(&hak_pool_lists.aged, ss, SS_BY_AGE);
        hak_pool_lists.n_aged++;
    } else if (list == SS_REFUSED) {
        list_append(&hak_pool_lists.refused, ss, SS_BY_AGE);
        hak_pool_lists.n_refused++;
    }
    ss->age_list = (uint8_t)list;
}

void hak_pool_refile(struct superslab *ss)
{
    enum ss_age_list list = hak_granules_is_empty(&ss->dirty) ? SS_NOT_DIRTY
                            : is_all_refused(ss)              ? SS_REFUSED
                                                              : SS_AGED;
    if (list != (enum ss_age_list)ss->age_list) {
        file_under(ss, list);
    }
}

void hak_pool_file_youngest(struct superslab *ss, uint64_t now_ns)
{
    ss->dirty_since_ns = now_ns;
    if (hak_pool_lists.aged.last != ss) {
        file_under(ss, SS_AGED);
    }
}

void hak_pool_unfile(struct superslab *ss)
{
    file_under(ss, SS_NOT_DIRTY);
}

void hak_pool_leave(struct superslab *ss)
{
    unlist_by_run(ss);
    unlist_by_units(ss);
    hak_pool_unfile(ss);
}

uint32_t hak_pool_clean(struct superslab *ss, uint32_t first, uint32_t n)
{
    uint64_t missing = 0;
    GRANULE_WORDS(i, first, n)
    {
        missing |= ~ss->dirty.word[i] & hak_granules_part(i, first, n);
    }
    uint32_t count = missing ? hak_granules_count(&ss->dirty, first, n) : n; /* mostly all */
    if (!count) {
        return 0;
    }
    hak_stat_add_locked(heap_dirty_bytes, -(int64_t)(count * SS_GRANULE_BYTES));
    hak_granules_clear(&ss->dirty, first, n);
    if (HAK_UNLIKELY(hak_pool_lists.refused_bytes)) {
        hak_pool_lists.refused_bytes -=
            hak_granules_count(&ss->refused, first, n) * SS_GRANULE_BYTES;
        hak_granules_clear(&ss->refused, first, n);
    }
    hak_pool_refile(ss);
    return count;
}

void hak_pool_mark_free_units(const struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t unit = first / SS_GRANULES_OF_A_UNIT, last = (first + n - 1) / SS_GRANULES_OF_A_UNIT;
    struct granules unused;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        unused.word[i] = ss->free.word[i] | ss->leaving.word[i];
    }
    /* A unit more than there are ends the last run. */
    uint64_t left = hak_granules_whole_units(&unused) & (((uint64_t)2 << last) - 1) >> unit << unit;
    while (left) {
        uint32_t start = (uint32_t)__builtin_ctzll(left),
                 n_units = (uint32_t)__builtin_ctzll(~(left >> start));
        hak_map_set(ss->base + start * SS_UNIT_BYTES, n_units, TAG_FREE_UNIT, ss->number);
        left &= left + ((uint64_t)1 << start); /* without the lowest run */
    }
}

void hak_pool_mark_free_part(const struct superslab *ss, uint32_t first, uint32_t n, int were_span)
{
    if (HAK_UNLIKELY(!hak_granules_is_empty(&ss->leaving))) {
        hak_pool_mark_free_units(ss, first, n);
        return;
    }
    uint32_t unit, n_units = whole_units_of_part(&ss->free, first, n, &unit);
    char *start = ss->base + unit * SS_UNIT_BYTES;
    if (!n_units) {
        return; /* `start` may be behind the superslab, where no leaf is */
    }
    if (were_span) {
        hak_map_change(start, n_units, TAG_FREE_UNIT);
    } else {
        hak_map_set(start, n_units, TAG_FREE_UNIT, ss->number);
    }
}

uint64_t hak_pool_not_before_last(uint64_t now_ns)
{
    const struct superslab *last = hak_pool_lists.aged.last;
    return last && last->dirty_since_ns > now_ns ? last->dirty_since_ns : now_ns;
}

size_t hak_pool_purgeable_bytes(void)
{
    return (size_t)hak_stat_get(heap_dirty_bytes) - hak_pool_lists.refused_bytes;
}
