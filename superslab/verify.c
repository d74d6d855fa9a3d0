/* The equations of the pool (pool.h), checked over all superslabs. Called by tests, fuzzers and
   hak_verify. */
#include "base/verify.h"
#include "base/stats.h"
#include "superslab/lists.h"

/* So often a superslab is looked at that seems wrong, while threads keep spans. */
#define LOOKS 1000u

static int is_listed(const struct ss_list *list, const struct superslab *ss, enum ss_list_kind kind)
{
    const struct superslab *other = list->first;
    while (other && other != ss) {
        other = other->next[kind];
    }
    return other != NULL;
}

/* Whether the span at granule i, set aside, begins and ends within another one, up to `end`: it is
   being cut off, or joined (pool.h). */
static int is_within(uint32_t word, uint32_t i, uint32_t end)
{
    return word & SPAN_ASIDE && i + (word & ~SPAN_BITS) <= end;
}

/* What slabs and spans use against the set of free granules. */
static int look_at_used(const struct superslab *ss)
{
    struct granules used = {{0}};
    uint64_t wrong = 0;
    uint32_t aside_end = 0;
    for (uint32_t i = 0; i < SS_GRANULES; i++) {
        uint32_t unit = i / SS_GRANULES_OF_A_UNIT;
        int is_slab = i % SS_GRANULES_OF_A_UNIT == 0 && (ss->slab_mask >> unit & 1);
        uint32_t word = atomic_load_relaxed(&ss->span_granules[i]), n = word & ~SPAN_BITS;
        if (n > SS_GRANULES - i) {
            return VERIFY_POOL_SPAN_LENGTH;
        }
        if (n && is_slab) {
            return VERIFY_POOL_SPAN_IN_SLAB;
        }
        if (is_within(word, i, aside_end)) {
            continue;
        }
        aside_end = word & SPAN_ASIDE ? i + n : aside_end;
        n = is_slab ? SS_GRANULES_OF_A_UNIT : n;
        if (hak_granules_count(&used, i, n)) {
            return VERIFY_POOL_OVERLAP;
        }
        hak_granules_set(&used, i, n);
    }
    struct granules all = hak_pool_all_granules(ss);
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        used.word[i] |= ~all.word[i];
        uint64_t free = ss->free.word[i], leaving = ss->leaving.word[i], dirty = ss->dirty.word[i];
        wrong |= (used.word[i] ^ ~(free | leaving)) | (free & leaving) | (dirty & ~free) |
                 (ss->refused.word[i] & ~dirty);
    }
    return wrong ? VERIFY_POOL_FREE_SET : 0;
}

/* Spans that are set aside may be cut or joined while they are looked at. */
static int verify_used(const struct superslab *ss)
{
    int result = look_at_used(ss);
    for (uint32_t n = 0; result && n < LOOKS && hak_stat_get(span_cache_bytes); n++) {
        result = look_at_used(ss);
    }
    return result;
}

static int verify_map(const struct superslab *ss)
{
    for (uint32_t unit = 0; unit < SS_UNITS; unit++) {
        struct map_entry entry = hak_map_get(ss->base + unit * SS_UNIT_BYTES);
        uint32_t free =
            hak_granules_of_unit(&ss->free, unit) | hak_granules_of_unit(&ss->leaving, unit);
        if (entry.ref != ss->number) {
            return VERIFY_POOL_NUMBER;
        }
        if (free == 0xFF ? entry.tag != TAG_FREE_UNIT : free && entry.tag != TAG_SPAN) {
            return VERIFY_POOL_TAG;
        }
    }
    return 0;
}

/* What all superslabs together have, in granules or each. */
struct totals {
    int64_t used, dirty, refused, regions, aged, all_refused, empty, listed;
};

static int verify_classes(const struct superslab *ss, struct totals *all)
{
    uint32_t n_listed = 0;
    int is_right = !hak_pool_keeps_classes(ss) || hak_pool_apart_is_right(ss, &n_listed);
    all->listed += n_listed;
    return is_right ? 0 : VERIFY_POOL_CLASSES;
}

static int verify_superslab(const struct superslab *ss, struct totals *all)
{
    int result = verify_used(ss);
    result = result ? result : verify_map(ss);
    result = result ? result : verify_classes(ss, all);
    if (result) {
        return result;
    }
    uint32_t n_whole = hak_pool_whole_units(ss);
    if (ss->largest_run != hak_pool_longest_run(ss) || ss->n_whole != n_whole) {
        return VERIFY_POOL_RUNS;
    }
    uint64_t dirty = 0, asked = 0;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        dirty |= ss->dirty.word[i];
        asked |= ss->dirty.word[i] & ~ss->refused.word[i];
    }
    enum ss_age_list list = asked ? SS_AGED : dirty ? SS_REFUSED : SS_NOT_DIRTY;
    int is_right = is_listed(&hak_pool_lists.by_run[ss->largest_run], ss, SS_BY_RUN) &&
                   is_listed(hak_pool_units_list(ss, n_whole), ss, SS_BY_UNITS) &&
                   (enum ss_age_list)ss->age_list == list &&
                   is_listed(&hak_pool_lists.aged, ss, SS_BY_AGE) == (list == SS_AGED) &&
                   is_listed(&hak_pool_lists.refused, ss, SS_BY_AGE) == (list == SS_REFUSED);
    return is_right ? 0 : VERIFY_POOL_LISTS;
}

static int verify_ages(void)
{
    for (const struct superslab *ss = hak_pool_lists.aged.first; ss && ss->next[SS_BY_AGE];
         ss = ss->next[SS_BY_AGE]) {
        if (ss->dirty_since_ns > ss->next[SS_BY_AGE]->dirty_since_ns) {
            return VERIFY_POOL_AGES;
        }
    }
    return 0;
}

static void count(struct totals *all, const struct superslab *ss)
{
    all->regions++;
    all->used += SS_GRANULES - hak_granules_count(&ss->free, 0, SS_GRANULES) -
                 hak_granules_count(&ss->leaving, 0, SS_GRANULES) - hak_pool_guard_granules(ss);
    all->dirty += hak_granules_count(&ss->dirty, 0, SS_GRANULES);
    all->refused += hak_granules_count(&ss->refused, 0, SS_GRANULES);
    all->aged += ss->age_list == SS_AGED;
    all->all_refused += ss->age_list == SS_REFUSED;
    all->empty += hak_pool_is_empty(ss) != 0;
}

/* The bits that say which lists have a superslab. */
static int verify_present(void)
{
    const struct pool_lists *lists = &hak_pool_lists;
    int is_right = !(lists->units_present >> SS_UNITS >> 1);
    for (uint32_t n = 0; n <= SS_UNITS; n++) {
        is_right &= (lists->units_present >> n & 1) == (lists->by_units[n].first != NULL);
    }
    for (uint32_t run = 0; run < RUN_BITS; run++) {
        int is_present = (int)(lists->runs_present[run / 64] >> run % 64 & 1);
        is_right &= is_present == (run <= SS_GRANULES && lists->by_run[run].first != NULL);
    }
    return is_right ? 0 : VERIFY_POOL_PRESENT;
}

static int verify_totals(const struct totals *all)
{
    const int64_t bytes = (int64_t)SS_GRANULE_BYTES;
    const struct pool_lists *lists = &hak_pool_lists;
    int is_right = all->used * bytes == hak_stat_get(heap_used_bytes) &&
                   all->dirty * bytes == hak_stat_get(heap_dirty_bytes) &&
                   all->regions == hak_stat_get(superslabs) &&
                   all->refused * bytes == (int64_t)lists->refused_bytes &&
                   all->aged == lists->n_aged && all->all_refused == lists->n_refused &&
                   all->empty == lists->n_empty && all->listed == (int64_t)hak_pool_apart_count();
    return is_right ? 0 : VERIFY_POOL_TOTALS;
}

int hak_ss_verify(void)
{
    struct totals all = {0};
    hak_lock_acquire(&hak_pool_lock);
    int result = verify_ages();
    result = result ? result : verify_present();
    for (uint32_t i = 0; i < hak_pool_n_superslabs() && !result; i++) {
        const struct superslab *ss = hak_pool_superslab(i);
        if (ss->base) {
            result = verify_superslab(ss, &all);
            count(&all, ss);
        }
    }
    result = result ? result : verify_totals(&all);
    hak_lock_release(&hak_pool_lock);
    return result;
}
