/* The shared pool of superslabs. One lock (rank POOL), held for a few bit operations; also while the system is asked for
   memory or gets some back. Called by banks (slabs), ACE (spans), hak_super_lookup and purge. */
#include "superslab/pool.h"

#include <errno.h>

#include "base/error.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"

#define ALL_UNITS    0xFFFFFFFFu
#define TABLE_CHUNK  4096u
#define TABLE_CHUNKS 16384u /* 2^26 superslabs of 2 MiB: all of a 47-bit address space */
/* How many superslabs of the best list are looked at for resident pages before the first one is taken. */
#define DIRTY_SEARCH 8
/* Purge looks at the clock once in so many freed units. */
#define PURGE_TICK 16u

static struct lock pool_lock = LOCK_INIT(LOCK_RANK_POOL);
static struct superslab **table[TABLE_CHUNKS];
static uint32_t n_superslabs;                 /* descriptions made so far; numbers are below it */
static struct superslab *lists[SS_UNITS + 1]; /* by largest_run */
static struct superslab *given_back;          /* descriptions without a region */
static char *last_region;
static uint64_t next_purge_ns;
static uint32_t purge_tick;

static struct superslab *superslab_at(uint32_t number)
{
    struct superslab **chunk = atomic_load_acquire(&table[number / TABLE_CHUNK]);
    return atomic_load_acquire(&chunk[number % TABLE_CHUNK]);
}

/* Units i .. i + n - 1 as a mask; n from 1 to 32. */
static uint32_t unit_mask(uint32_t i, uint32_t n)
{
    return (ALL_UNITS >> (SS_UNITS - n)) << i;
}

/* Bit i is 1 exactly if units i .. i + n - 1 are all in mask. */
static uint32_t run_starts(uint32_t mask, uint32_t n)
{
    uint32_t have = 1;
    while (have < n && mask) {
        uint32_t more = n - have < have ? n - have : have;
        mask &= mask >> more;
        have += more;
    }
    return mask;
}

static uint32_t longest_run(uint32_t mask)
{
    uint32_t n = 0;
    for (; mask; mask &= mask << 1) {
        n++;
    }
    return n;
}

/* Bits at multiples of `align` units. */
static uint32_t aligned_units(uint32_t align)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < SS_UNITS; i += align) {
        mask |= 1u << i;
    }
    return mask;
}

static void list_remove(struct superslab **list, struct superslab *ss)
{
    if (ss->prev) {
        ss->prev->next = ss->next;
    } else {
        *list = ss->next;
    }
    if (ss->next) {
        ss->next->prev = ss->prev;
    }
}

static void list_push(struct superslab **list, struct superslab *ss)
{
    ss->prev = NULL;
    ss->next = *list;
    if (*list) {
        (*list)->prev = ss;
    }
    *list = ss;
}

/* After `free` changed: into the list of its longest run. */
static void relist(struct superslab *ss)
{
    uint32_t run = longest_run(ss->free);
    if (run != ss->largest_run) {
        list_remove(&lists[ss->largest_run], ss);
        ss->largest_run = run;
        list_push(&lists[run], ss);
    }
}

static struct superslab *new_description(void)
{
    struct superslab *ss = given_back;
    if (ss) {
        given_back = ss->next;
        return ss;
    }
    uint32_t number = n_superslabs;
    if (number >= TABLE_CHUNK * TABLE_CHUNKS) {
        return NULL;
    }
    if (!table[number / TABLE_CHUNK]) {
        struct superslab **chunk = (struct superslab **)os_meta_alloc(TABLE_CHUNK * sizeof *chunk);
        if (!chunk) {
            return NULL;
        }
        atomic_store_release(&table[number / TABLE_CHUNK], chunk);
    }
    ss = (struct superslab *)os_meta_alloc(sizeof *ss);
    if (ss) {
        ss->number = number;
        atomic_store_release(&table[number / TABLE_CHUNK][number % TABLE_CHUNK], ss);
        atomic_store_release(&n_superslabs, number + 1);
    }
    return ss;
}

static void drop_description(struct superslab *ss)
{
    ss->base = NULL;
    ss->prev = NULL;
    ss->next = given_back;
    given_back = ss;
}

static struct superslab *new_superslab(void)
{
    struct superslab *ss = new_description();
    if (!ss) {
        return NULL;
    }
    /* Below the last one, where the kernel merges neighbours into one mapping. */
    char *hint = last_region ? last_region - SS_BYTES : NULL;
    char *base = (char *)os_map_aligned(hint, SS_BYTES, SS_BYTES);
    if (!base) {
        drop_description(ss);
        return NULL;
    }
    if (map_ensure(base, SS_BYTES)) {
        os_unmap_untouched(base, SS_BYTES);
        drop_description(ss);
        return NULL;
    }
    last_region = base;
    uint64_t heap_bytes = (uint64_t)stat_get(units_used) * SS_UNIT_BYTES;
    if (options.huge_page_bytes && heap_bytes >= options.huge_page_bytes) {
        os_huge_pages(base, SS_BYTES);
    }
    ss->base = base;
    ss->free = ALL_UNITS;
    ss->dirty = ss->slab_mask = 0;
    ss->largest_run = SS_UNITS;
    list_push(&lists[SS_UNITS], ss);
    map_set(base, SS_UNITS, TAG_FREE_UNIT, ss->number);
    stat_add(superslabs, 1);
    return ss;
}

/* The first place for n units at that alignment in one superslab: resident pages first. Returns SS_UNITS if none. */
static uint32_t place_in(const struct superslab *ss, uint32_t n, uint32_t align_mask)
{
    uint32_t starts = run_starts(ss->dirty, n) & align_mask;
    if (!starts) {
        starts = run_starts(ss->free, n) & align_mask;
    }
    return starts ? (uint32_t)__builtin_ctz(starts) : SS_UNITS;
}

/* The fullest superslab that fits, one with resident free pages if it is near. */
static struct superslab *choose(uint32_t n, uint32_t align_mask)
{
    struct superslab *fallback = NULL;
    int looked = 0;
    for (uint32_t run = n; run <= SS_UNITS; run++) {
        for (struct superslab *ss = lists[run]; ss; ss = ss->next) {
            if (run_starts(ss->dirty, n) & align_mask) {
                return ss;
            }
            if (!fallback && (run_starts(ss->free, n) & align_mask)) {
                fallback = ss;
            }
            if (++looked >= DIRTY_SEARCH && fallback) {
                return fallback;
            }
        }
    }
    return fallback;
}

/* Takes n units; pool lock held. Returns the superslab and *unit, and whether all were clean. */
static struct superslab *take_units(uint32_t n, uint32_t align, uint32_t *unit, int *is_zero)
{
    uint32_t align_mask = aligned_units(align);
    struct superslab *ss = choose(n, align_mask);
    if (!ss) {
        ss = new_superslab();
        if (!ss) {
            return NULL;
        }
    }
    uint32_t i = place_in(ss, n, align_mask);
    HAK_CHECK(i < SS_UNITS, "superslab lists are corrupt", ss);
    uint32_t mask = unit_mask(i, n);
    *is_zero = !(ss->dirty & mask);
    stat_sub(units_dirty, __builtin_popcount(ss->dirty & mask));
    stat_add(units_used, n);
    ss->free &= ~mask;
    ss->dirty &= ~mask;
    relist(ss);
    *unit = i;
    return ss;
}

/* Gives pages of dirty units back; a superslab that is wholly free goes back itself. Returns the bytes that went. Pool lock
   held. */
static size_t purge_superslab(struct superslab *ss)
{
    uint32_t dirty = ss->dirty;
    size_t bytes = 0;
    if (ss->free == ALL_UNITS) {
        map_set(ss->base, SS_UNITS, 0, 0);
        if (os_unmap(ss->base, SS_BYTES) == 0) {
            ss->dirty = 0;
            list_remove(&lists[ss->largest_run], ss);
            drop_description(ss);
            stat_sub(superslabs, 1);
            stat_sub(units_dirty, __builtin_popcount(dirty));
            stat_add(units_purged, __builtin_popcount(dirty));
            return (size_t)__builtin_popcount(dirty) * SS_UNIT_BYTES;
        }
        map_set(ss->base, SS_UNITS, TAG_FREE_UNIT, ss->number);
    }
    while (dirty) {
        uint32_t first = (uint32_t)__builtin_ctz(dirty);
        uint32_t rest = ~(dirty >> first);
        uint32_t n = rest ? (uint32_t)__builtin_ctz(rest) : SS_UNITS - first;
        uint32_t mask = unit_mask(first, n);
        if (os_purge(ss->base + first * SS_UNIT_BYTES, n * SS_UNIT_BYTES) == 0) {
            ss->dirty &= ~mask;
            stat_sub(units_dirty, n);
            stat_add(units_purged, n);
            bytes += n * SS_UNIT_BYTES;
        }
        dirty &= ~mask;
    }
    return bytes;
}

/* Purges what has been dirty and untouched for delay_ns. Pool lock held. */
static size_t purge_older(uint64_t now_ns, uint64_t delay_ns)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < n_superslabs && stat_get(units_dirty) > 0; i++) {
        struct superslab *ss = superslab_at(i);
        if (ss->base && ss->dirty && now_ns - ss->dirty_since_ns >= delay_ns) {
            bytes += purge_superslab(ss);
        }
    }
    return bytes;
}

/* Now and then, on the way of a freed unit. Pool lock held. */
static void purge_on_the_way(uint64_t now_ns)
{
    uint64_t delay_ns = options.purge_delay_ms * 1000000u;
    if (now_ns >= next_purge_ns || delay_ns == 0) {
        purge_older(now_ns, delay_ns);
        next_purge_ns = now_ns + delay_ns / 2;
    }
}

/* Units become free and dirty. Pool lock held; `ss` may be gone afterwards. */
static void free_units(struct superslab *ss, uint32_t unit, uint32_t n)
{
    uint32_t mask = unit_mask(unit, n);
    map_set(ss->base + unit * SS_UNIT_BYTES, n, TAG_FREE_UNIT, ss->number);
    ss->free |= mask;
    ss->dirty |= mask;
    stat_add(units_dirty, n);
    stat_sub(units_used, n);
    relist(ss);
    purge_tick += n;
    if (purge_tick >= PURGE_TICK || options.purge_delay_ms == 0) {
        purge_tick = 0;
        uint64_t now_ns = os_ops.clock_ns();
        ss->dirty_since_ns = now_ns;
        purge_on_the_way(now_ns);
    } else if (ss->dirty == mask) {
        ss->dirty_since_ns = os_ops.clock_ns();
    }
}

struct slab *pool_slab_alloc(uint32_t owner, uint32_t size_class)
{
    uint32_t unit;
    int is_zero;
    lock_acquire(&pool_lock);
    struct superslab *ss = take_units(1, 1, &unit, &is_zero);
    if (ss) {
        /* With the lock held: whoever walks the slabs sees none that is half made. */
        ss->slab_mask |= 1u << unit;
        slab_init(&ss->slabs[unit], ss->base + unit * SS_UNIT_BYTES, owner, size_class, ss->far_bits[unit]);
    }
    lock_release(&pool_lock);
    if (!ss) {
        return NULL;
    }
    struct slab *slab = &ss->slabs[unit];
    map_set(slab->base, 1, TAG_SLAB(owner, size_class), ss->number);
    stat_add(slabs_made, 1);
    return slab;
}

void pool_slab_free(struct slab *slab)
{
    uint32_t unit = (uint32_t)(((uintptr_t)slab->base & (SS_BYTES - 1)) / SS_UNIT_BYTES);
    struct superslab *ss = (struct superslab *)(void *)(slab - unit);
    stat_add(slabs_returned, 1);
    lock_acquire(&pool_lock);
    slab->is_used = 0;
    ss->slab_mask &= ~(1u << unit);
    free_units(ss, unit, 1);
    lock_release(&pool_lock);
}

struct slab *pool_slab_of(uint32_t ref, const void *p)
{
    return &superslab_at(ref)->slabs[((uintptr_t)p & (SS_BYTES - 1)) / SS_UNIT_BYTES];
}

int pool_for_each_slab(uint32_t owner, int (*visit)(const struct slab *slab, void *context), void *context)
{
    int result = 0;
    for (uint32_t i = 0; i < n_superslabs && !result; i++) {
        struct superslab *ss = superslab_at(i);
        for (uint32_t mask = ss->base ? ss->slab_mask : 0; mask && !result; mask &= mask - 1) {
            struct slab *slab = &ss->slabs[__builtin_ctz(mask)];
            if (!owner || slab->owner == owner) {
                result = visit(slab, context);
            }
        }
    }
    return result;
}

void *ss_span_alloc(unsigned n_units, unsigned align_units, int *is_zero)
{
    uint32_t unit;
    if (n_units == 0 || n_units > SS_UNITS || align_units == 0 || align_units > SS_UNITS) {
        return NULL;
    }
    lock_acquire(&pool_lock);
    struct superslab *ss = take_units(n_units, align_units, &unit, is_zero);
    if (ss) {
        atomic_store_relaxed(&ss->n_units[unit], (uint8_t)n_units);
    }
    lock_release(&pool_lock);
    if (!ss) {
        return NULL;
    }
    char *start = ss->base + unit * SS_UNIT_BYTES;
    map_set(start, n_units, TAG_SPAN, ss->number);
    return start;
}

/* The superslab and first unit of a span that starts at p, or NULL. */
static struct superslab *span_at(const void *p, uint32_t *unit)
{
    struct map_entry entry = map_get(p);
    if (entry.tag != TAG_SPAN || (uintptr_t)p & (SS_UNIT_BYTES - 1)) {
        return NULL;
    }
    struct superslab *ss = superslab_at(entry.ref);
    *unit = (uint32_t)(((uintptr_t)p & (SS_BYTES - 1)) / SS_UNIT_BYTES);
    return atomic_load_relaxed(&ss->n_units[*unit]) ? ss : NULL;
}

size_t ss_span_size(const void *p)
{
    uint32_t unit;
    struct superslab *ss = span_at(p, &unit);
    return ss ? atomic_load_relaxed(&ss->n_units[unit]) * SS_UNIT_BYTES : 0;
}

void ss_span_free(void *p)
{
    uint32_t unit;
    lock_acquire(&pool_lock);
    struct superslab *ss = span_at(p, &unit);
    HAK_CHECK(ss, "invalid pointer freed (not the start of a block)", p);
    uint32_t n = ss->n_units[unit];
    atomic_store_relaxed(&ss->n_units[unit], (uint8_t)0);
    free_units(ss, unit, n);
    lock_release(&pool_lock);
}

int ss_span_resize(void *p, unsigned n_units)
{
    uint32_t unit;
    int done = 0;
    lock_acquire(&pool_lock);
    struct superslab *ss = span_at(p, &unit);
    if (ss && n_units && n_units <= SS_UNITS - unit) {
        uint32_t n = ss->n_units[unit];
        if (n_units < n) {
            atomic_store_relaxed(&ss->n_units[unit], (uint8_t)n_units);
            free_units(ss, unit + n_units, n - n_units);
            done = 1;
        } else if (n_units > n) {
            uint32_t mask = unit_mask(unit + n, n_units - n);
            if ((ss->free & mask) == mask) {
                stat_sub(units_dirty, __builtin_popcount(ss->dirty & mask));
                stat_add(units_used, n_units - n);
                ss->free &= ~mask;
                ss->dirty &= ~mask;
                relist(ss);
                atomic_store_relaxed(&ss->n_units[unit], (uint8_t)n_units);
                map_set((char *)p + n * SS_UNIT_BYTES, n_units - n, TAG_SPAN, ss->number);
                done = 1;
            }
        } else {
            done = 1;
        }
    }
    lock_release(&pool_lock);
    return done;
}

size_t ss_purge(uint64_t delay_ms)
{
    lock_acquire(&pool_lock);
    size_t bytes = purge_older(os_ops.clock_ns(), delay_ms * 1000000u);
    lock_release(&pool_lock);
    return bytes;
}

static int verify_superslab(const struct superslab *ss)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < SS_UNITS; i++) {
        uint32_t n = ss->n_units[i];
        if (n > SS_UNITS - i) {
            return 10;
        }
        uint32_t mask = n ? unit_mask(i, n) : ss->slab_mask & (1u << i);
        if ((used & mask) || (n && ss->slab_mask >> i & 1)) {
            return 11;
        }
        used |= mask;
        struct map_entry entry = map_get(ss->base + i * SS_UNIT_BYTES);
        if (entry.ref != ss->number) {
            return 12;
        }
        if ((ss->free & (1u << i)) && entry.tag != TAG_FREE_UNIT) {
            return 13;
        }
    }
    if (used != ~ss->free || (ss->dirty & ~ss->free) || ss->largest_run != longest_run(ss->free)) {
        return 14;
    }
    for (const struct superslab *other = lists[ss->largest_run]; other; other = other->next) {
        if (other == ss) {
            return 0;
        }
    }
    return 15;
}

int ss_verify(void)
{
    int result = 0;
    int64_t used = 0, dirty = 0, regions = 0;
    lock_acquire(&pool_lock);
    for (uint32_t i = 0; i < n_superslabs && !result; i++) {
        const struct superslab *ss = superslab_at(i);
        if (ss->base) {
            result = verify_superslab(ss);
            regions++;
            used += __builtin_popcount(~ss->free);
            dirty += __builtin_popcount(ss->dirty);
        }
    }
    if (!result &&
        (used != stat_get(units_used) || dirty != stat_get(units_dirty) || regions != stat_get(superslabs))) {
        result = 16;
    }
    lock_release(&pool_lock);
    return result;
}

void pool_lock_acquire(void)
{
    lock_acquire(&pool_lock);
}

void pool_lock_release(void)
{
    lock_release(&pool_lock);
}

void pool_lock_reset(void)
{
    lock_reset(&pool_lock);
}
