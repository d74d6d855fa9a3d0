/* The walker of ranges. Takes the lock (rank ACE). Called by ace.c. */
#include "ace/range_cache.h"
#include "base/bits.h"
#include "base/stats.h"
#include "base/verify.h"

#define records hak_range_records

static int is_mapped(const struct range *range)
{
    for (size_t at = 0; at < range->bytes; at += SS_UNIT_BYTES) {
        struct map_entry entry = hak_map_get(range->base + at);
        if (entry.tag != TAG_RANGE || entry.ref != range->number) {
            return 0;
        }
    }
    return 1;
}

static int verify_range(const struct range *range)
{
    int is_pinned = range->state == RANGE_USED && range->is_pinned;
    if (!is_pinned && !is_mapped(range)) {
        return VERIFY_RANGE_MAP;
    }
    const struct range *after = range->state == RANGE_CACHED ? hak_range_after(range) : NULL;
    if (after && after->kind == range->kind) {
        return VERIFY_RANGE_MERGED;
    }
    if (range->state == RANGE_USED && (!range->usable || range->usable > range->bytes)) {
        return VERIFY_RANGE_USABLE;
    }
    return range->bytes % SS_UNIT_BYTES ? VERIFY_RANGE_UNITS : 0;
}

/* The list of a kind, by age. Returns its bytes, or SIZE_MAX if it is wrong. */
static size_t verify_list(enum range_kind kind)
{
    size_t bytes = 0;
    for (const struct range *range = records.oldest[kind]; range; range = range->next) {
        bytes += range->bytes;
        if (range->state != RANGE_CACHED || range->kind != kind || range->dirt > range->bytes ||
            (range->next && range->next->cached_at_ns < range->cached_at_ns)) {
            return SIZE_MAX;
        }
    }
    return bytes;
}

/* The class lists of ranges with pages, or of clean ones. Returns their bytes, or SIZE_MAX. */
static size_t verify_classes(int clean)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < ACE_CLASSES; i++) {
        size_t before = bytes;
        if (!records.classes[clean][i] != !hak_bits_has(records.present[clean], i)) {
            return SIZE_MAX;
        }
        for (const struct range *range = records.classes[clean][i]; range;
             range = range->class_next) {
            bytes += hak_ace_class_index(range->bytes) == i ? range->bytes : SIZE_MAX / 2;
        }
        if (!clean && bytes - before != records.class_cached[i]) {
            return SIZE_MAX;
        }
    }
    return bytes;
}

static size_t count_roomy(void)
{
    size_t n = 0;
    for (const struct range *range = records.roomy; range; range = range->next) {
        n += range->is_roomy ? 1 : SIZE_MAX / 2;
    }
    return n;
}

struct sums {
    size_t used, cached, clean, growing, room, n, n_busy, n_roomy;
};

static int verify_all(struct sums *sums)
{
    for (uint32_t i = 0; i < records.all.n; i++) {
        const struct range *range = hak_range_at(i);
        int is_used = range->state == RANGE_USED;
        sums->n += range->state != RANGE_IDLE;
        sums->n_busy += range->state == RANGE_BUSY;
        if (range->state == RANGE_IDLE || range->state == RANGE_BUSY) {
            continue;
        }
        int result = verify_range(range);
        if (result) {
            return result;
        }
        *(is_used                      ? &sums->used
          : range->kind == RANGE_CLEAN ? &sums->clean
                                       : &sums->cached) += range->bytes;
        sums->growing += is_used && range->use == RANGE_GROWING;
        sums->room += is_used ? hak_range_room_of(range) : 0;
        sums->n_roomy += is_used && !range->is_pinned && hak_range_room_of(range);
    }
    return 0;
}

static int verify_lists(const struct sums *sums)
{
    size_t dirty = verify_list(RANGE_DIRTY), stuck = verify_list(RANGE_STUCK);
    return dirty != SIZE_MAX && stuck != SIZE_MAX && dirty + stuck == sums->cached &&
                   verify_list(RANGE_CLEAN) == sums->clean && verify_classes(0) == sums->cached &&
                   verify_classes(1) == sums->clean && count_roomy() == sums->n_roomy
               ? 0
               : VERIFY_RANGE_LISTS;
}

static int verify_totals(const struct sums *sums)
{
    return sums->used == (size_t)hak_stat_get(large_bytes) &&
                   sums->room == (size_t)hak_stat_get(large_room_bytes) &&
                   sums->growing == (size_t)hak_stat_get(large_growing) &&
                   sums->n == (size_t)hak_stat_get(large_ranges) &&
                   sums->n_busy == records.n_busy &&
                   sums->cached == (size_t)hak_stat_get(large_cached_bytes) &&
                   sums->clean == (size_t)hak_stat_get(large_clean_bytes)
               ? 0
               : VERIFY_RANGE_TOTALS;
}

int hak_range_verify(void)
{
    struct sums sums = {0};
    hak_lock_acquire(&hak_range_lock);
    int result = verify_all(&sums);
    result = result ? result : verify_lists(&sums);
    result = result ? result : verify_totals(&sums);
    hak_lock_release(&hak_range_lock);
    return result;
}
