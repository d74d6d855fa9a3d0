/* Ranges above 1 MiB. One lock (rank ACE), also held while the system maps or unmaps: such calls are rare and long, and the
   caller touches far more memory than they cost. Called by ace.c. */
#include "ace/range.h"

#include <errno.h>
#include <sys/mman.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "superslab/pool.h"

#define TABLE_CHUNK  1024u
#define TABLE_CHUNKS 16384u
/* A cached range that is larger than the request by more than 1/8 is split. */
#define SPLIT_SHIFT 3
/* Address space ahead of a range that grows: as much again as half of it, so that growing costs O(log n) moves. Pages are
   not touched, so it costs no memory. */
#define GROW_SHIFT 1

static struct lock ace_lock = LOCK_INIT(LOCK_RANK_ACE);
static struct range **table[TABLE_CHUNKS];
static uint32_t n_ranges;
static struct range *idle;
static struct range *oldest, *newest;

static size_t round_units(size_t size)
{
    return (size + SS_UNIT_BYTES - 1) & ~(SS_UNIT_BYTES - 1);
}

static struct range *range_at(uint32_t number)
{
    return atomic_load_acquire(&table[number / TABLE_CHUNK])[number % TABLE_CHUNK];
}

static struct range *new_range(void)
{
    struct range *range = idle;
    if (range) {
        idle = range->next;
        return range;
    }
    uint32_t number = n_ranges;
    if (number >= TABLE_CHUNK * TABLE_CHUNKS) {
        return NULL;
    }
    if (!table[number / TABLE_CHUNK]) {
        struct range **chunk = (struct range **)os_meta_alloc(TABLE_CHUNK * sizeof *chunk);
        if (!chunk) {
            return NULL;
        }
        atomic_store_release(&table[number / TABLE_CHUNK], chunk);
    }
    range = (struct range *)os_meta_alloc(sizeof *range);
    if (range) {
        range->number = number;
        atomic_store_release(&table[number / TABLE_CHUNK][number % TABLE_CHUNK], range);
        n_ranges = number + 1;
    }
    return range;
}

static void drop_range(struct range *range)
{
    atomic_store_relaxed(&range->state, RANGE_IDLE);
    atomic_store_relaxed(&range->base, NULL);
    range->next = idle;
    idle = range;
}

static void map_range(const struct range *range)
{
    map_set(range->base, range->bytes / SS_UNIT_BYTES, TAG_RANGE, range->number);
}

static void cache_remove(struct range *range)
{
    *(range->prev ? &range->prev->next : &oldest) = range->next;
    *(range->next ? &range->next->prev : &newest) = range->prev;
    stat_sub(large_cached_bytes, range->bytes);
}

static void cache_push(struct range *range, uint64_t now_ns)
{
    atomic_store_relaxed(&range->state, RANGE_CACHED);
    range->cached_at_ns = now_ns;
    range->next = NULL;
    range->prev = newest;
    *(newest ? &newest->next : &oldest) = range;
    newest = range;
    stat_add(large_cached_bytes, range->bytes);
}

/* The cached range that holds the unit at p, or NULL. */
static struct range *cached_at(const char *p)
{
    struct map_entry entry = map_get(p);
    struct range *range = entry.tag == TAG_RANGE ? range_at(entry.ref) : NULL;
    return range && range->state == RANGE_CACHED ? range : NULL;
}

/* Gives a cached range back to the system. Returns bytes; 0 if it refused (the range stays). */
static size_t give_back(struct range *range)
{
    size_t bytes = range->bytes;
    map_set(range->base, bytes / SS_UNIT_BYTES, 0, 0);
    if (os_unmap(range->base, bytes)) {
        map_range(range);
        return 0;
    }
    cache_remove(range);
    drop_range(range);
    return bytes;
}

static size_t purge_older(uint64_t now_ns, uint64_t delay_ns)
{
    size_t bytes = 0;
    struct range *next;
    for (struct range *range = oldest; range && now_ns - range->cached_at_ns >= delay_ns; range = next) {
        next = range->next;
        bytes += give_back(range);
    }
    return bytes;
}

static void keep_within(size_t limit)
{
    struct range *next;
    for (struct range *range = oldest; range && (size_t)stat_get(large_cached_bytes) > limit; range = next) {
        next = range->next;
        (void)give_back(range);
    }
}

/* Cuts `range` after `bytes`; the rest becomes a cached range. If there is no description for it, nothing is cut. */
static void split(struct range *range, size_t bytes, uint64_t now_ns)
{
    struct range *rest = new_range();
    if (!rest) {
        return;
    }
    atomic_store_relaxed(&rest->base, range->base + bytes);
    atomic_store_relaxed(&rest->bytes, range->bytes - bytes);
    atomic_store_relaxed(&range->bytes, bytes);
    map_range(rest);
    cache_push(rest, now_ns);
}

static int is_aligned(const void *p, size_t align)
{
    return ((uintptr_t)p & (align - 1)) == 0;
}

/* The smallest cached range that fits. */
static struct range *best_cached(size_t bytes, size_t align)
{
    struct range *best = NULL;
    for (struct range *range = newest; range; range = range->prev) {
        if (range->bytes >= bytes && (!best || range->bytes < best->bytes) && is_aligned(range->base, align)) {
            best = range;
        }
    }
    return best;
}

static struct range *map_fresh(size_t bytes, size_t align)
{
    struct range *range = new_range();
    if (!range) {
        return NULL;
    }
    char *base = (char *)os_map_aligned(NULL, bytes, align);
    if (base && map_ensure(base, bytes)) {
        os_unmap_untouched(base, bytes);
        base = NULL;
    }
    if (!base) {
        drop_range(range);
        return NULL;
    }
    atomic_store_relaxed(&range->base, base);
    atomic_store_relaxed(&range->bytes, bytes);
    return range;
}

static struct ss_lookup describe(const void *p, uint32_t ref)
{
    struct range *range = range_at(ref);
    (void)p;
    struct ss_lookup result = {SS_RANGE,
                               0,
                               0,
                               atomic_load_relaxed(&range->base),
                               atomic_load_relaxed(&range->bytes),
                               atomic_load_relaxed(&range->state) == RANGE_USED};
    return result;
}

void *range_alloc(size_t size, size_t align, int *is_zero)
{
    size_t bytes = round_units(size);
    void *p = NULL;
    lock_acquire(&ace_lock);
    atomic_store_relaxed(&ss_range_lookup, describe);
    struct range *range = best_cached(bytes, align);
    *is_zero = !range;
    if (range) {
        cache_remove(range);
        if (range->bytes - bytes > bytes >> SPLIT_SHIFT) {
            split(range, bytes, range->cached_at_ns);
        }
    } else {
        range = map_fresh(bytes, align);
        if (!range && purge_older(os_ops.clock_ns(), 0)) {
            range = map_fresh(bytes, align);
        }
    }
    if (range) {
        atomic_store_relaxed(&range->state, RANGE_USED);
        map_range(range);
        stat_add(large_bytes, range->bytes);
        p = range->base;
    }
    lock_release(&ace_lock);
    return p;
}

/* The used range that starts at p, or NULL. */
static struct range *used_at(const void *p)
{
    struct map_entry entry = map_get(p);
    struct range *range = entry.tag == TAG_RANGE ? range_at(entry.ref) : NULL;
    return range && range->state == RANGE_USED && range->base == p ? range : NULL;
}

/* Merges a range that is about to be cached with cached neighbours. */
static struct range *merge(struct range *range)
{
    struct range *after = cached_at(range->base + range->bytes);
    if (after && after->base == range->base + range->bytes) {
        cache_remove(after);
        atomic_store_relaxed(&range->bytes, range->bytes + after->bytes);
        drop_range(after);
    }
    struct range *before = cached_at(range->base - 1);
    if (before && before->base + before->bytes == range->base) {
        cache_remove(before);
        atomic_store_relaxed(&before->bytes, before->bytes + range->bytes);
        drop_range(range);
        range = before;
    }
    map_range(range);
    return range;
}

void range_free(void *p)
{
    lock_acquire(&ace_lock);
    struct range *range = used_at(p);
    if (!range) {
        struct range *cached = cached_at((const char *)p);
        hak_fatal(
            cached && cached->base == p ? "block freed twice" : "invalid pointer freed (not the start of a block)", p);
    }
    stat_sub(large_bytes, range->bytes);
    uint64_t now_ns = os_ops.clock_ns();
    cache_push(merge(range), now_ns);
    uint64_t delay_ns = options.purge_delay_ms * 1000000u;
    purge_older(now_ns, delay_ns ? delay_ns : 1);
    if (delay_ns == 0) {
        purge_older(now_ns, 0);
    }
    keep_within(options.large_cache_bytes);
    lock_release(&ace_lock);
}

size_t range_size(const void *p)
{
    struct range *range = used_at(p);
    return range ? range->bytes : 0;
}

/* Makes the range `bytes` long where it lies. Returns 1 on success. ACE lock held. */
static int grow_in_place(struct range *range, size_t bytes)
{
    char *end = range->base + range->bytes;
    struct range *after = cached_at(end);
    if (after && after->base == end && range->bytes + after->bytes >= bytes) {
        cache_remove(after);
        size_t was = range->bytes;
        atomic_store_relaxed(&range->bytes, range->bytes + after->bytes);
        drop_range(after);
        if (range->bytes - bytes >= SS_UNIT_BYTES) {
            split(range, bytes, os_ops.clock_ns());
        }
        stat_add(large_bytes, range->bytes - was);
        map_range(range);
        return 1;
    }
    size_t more = bytes - range->bytes;
    /* First the system: it refuses what is too much, for which the map must not grow. */
    if (os_ops.mremap(range->base, range->bytes, bytes, 0, NULL) == MAP_FAILED) {
        return 0;
    }
    if (map_ensure(end, more)) {
        os_unmap_untouched(end, more);
        return 0;
    }
    atomic_store_relaxed(&range->bytes, bytes);
    stat_add(large_bytes, more);
    map_range(range);
    return 1;
}

/* Moves the range's pages to a new place of `bytes`. Returns 1 on success. ACE lock held. */
static int move_pages(struct range *range, size_t bytes)
{
    char *place = (char *)os_map_aligned(NULL, bytes, SS_UNIT_BYTES);
    if (!place) {
        return 0;
    }
    if (map_ensure(place, bytes)) {
        os_unmap_untouched(place, bytes);
        return 0;
    }
    /* First the map: once the pages have moved, the old addresses may be anybody's. */
    map_set(range->base, range->bytes / SS_UNIT_BYTES, 0, 0);
    if (os_ops.mremap(range->base, range->bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) {
        /* The kernel may have unmapped `place` before it failed, and another thread may live there by now: the address
           space is left alone. */
        map_range(range);
        return 0;
    }
    stat_add(large_bytes, bytes - range->bytes);
    atomic_store_relaxed(&range->base, place);
    atomic_store_relaxed(&range->bytes, bytes);
    map_range(range);
    return 1;
}

static void shrink(struct range *range, size_t bytes)
{
    size_t less = range->bytes - bytes;
    map_set(range->base + bytes, less / SS_UNIT_BYTES, 0, 0);
    if (os_unmap(range->base + bytes, less)) {
        map_range(range);
        return;
    }
    atomic_store_relaxed(&range->bytes, bytes);
    stat_sub(large_bytes, less);
}

void *range_resize(void *p, size_t size)
{
    size_t bytes = round_units(size);
    void *result = NULL;
    int saved = errno;
    lock_acquire(&ace_lock);
    struct range *range = used_at(p);
    if (range && bytes <= range->bytes) {
        /* Address space ahead stays, unless more than half of the range is unused. */
        if (bytes < range->bytes / 2) {
            shrink(range, bytes);
        }
        result = p;
    } else if (range) {
        size_t ahead = bytes + round_units(bytes >> GROW_SHIFT);
        errno = 0;
        int grown = grow_in_place(range, ahead) || grow_in_place(range, bytes);
        /* EFAULT: merged from several mappings, which no mremap moves as one; a try would leave its target mapped. */
        if (grown || (errno != EFAULT && (move_pages(range, ahead) || move_pages(range, bytes)))) {
            result = range->base;
        }
    }
    lock_release(&ace_lock);
    errno = saved;
    return result;
}

size_t range_purge(uint64_t delay_ms)
{
    lock_acquire(&ace_lock);
    size_t bytes = purge_older(os_ops.clock_ns(), delay_ms * 1000000u);
    lock_release(&ace_lock);
    return bytes;
}

static int verify_range(const struct range *range)
{
    for (size_t at = 0; at < range->bytes; at += SS_UNIT_BYTES) {
        struct map_entry entry = map_get(range->base + at);
        if (entry.tag != TAG_RANGE || entry.ref != range->number) {
            return 40;
        }
    }
    struct range *after = cached_at(range->base + range->bytes);
    if (range->state == RANGE_CACHED && after && after->base == range->base + range->bytes) {
        return 41;
    }
    return range->bytes % SS_UNIT_BYTES ? 42 : 0;
}

int range_verify(void)
{
    int result = 0;
    size_t used = 0, cached = 0, listed = 0;
    lock_acquire(&ace_lock);
    for (uint32_t i = 0; i < n_ranges && !result; i++) {
        const struct range *range = range_at(i);
        if (range->state != RANGE_IDLE) {
            result = verify_range(range);
            *(range->state == RANGE_USED ? &used : &cached) += range->bytes;
        }
    }
    for (const struct range *range = oldest; range; range = range->next) {
        listed += range->bytes;
    }
    if (!result &&
        (used != (size_t)stat_get(large_bytes) || cached != listed || cached != (size_t)stat_get(large_cached_bytes))) {
        result = 43;
    }
    lock_release(&ace_lock);
    return result;
}

void ace_lock_acquire(void)
{
    lock_acquire(&ace_lock);
}

void ace_lock_release(void)
{
    lock_release(&ace_lock);
}

void ace_lock_reset(void)
{
    lock_reset(&ace_lock);
}
