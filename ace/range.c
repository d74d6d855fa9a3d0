/* Ranges in use. One lock (rank ACE), for the records alone: while the system is asked, or the map
   written, the range is busy, or pinned if its block is in use. Called by ace.c. */
#include "ace/range.h"

#include <errno.h>
#include <sys/mman.h>

#include "ace/adapt.h"
#include "ace/range_cache.h"
#include "ace/zero.h"
#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/size_classes.h"
#include "base/stats.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/huge.h"
#include "superslab/pool.h"

/* A block that grows may have a range twice as large (in thousandths). */
#define GROWING_WMAX 2000u
/* Address space ahead of a range that grows: as much again as half of it, so that growing costs
   O(log n) moves. Pages are not touched, so it costs no memory. */
#define GROW_SHIFT 1
/* A range that shrinks gives the pages of its end back if they are more than 1/4 of what it keeps,
   and worth the call; but not if it writes most of them, and has grown again so often before. They
   are room then, which a trim takes. */
#define TAIL_SHIFT   2
#define TAIL_MIN     ((size_t)16 * HAK_KIB)
#define REGROWN_MOST 2u
#define DENSE        128u /* pages in 256ths that are written, for that */
enum { REGROWN_STAYS = REGROWN_MOST + 1, REGROWN_SPARSE };
/* And its address space above this, if more than half of it is unused. */
#define KEEP_WHOLE_BYTES (4 * HAK_MIB)
/* Ranges that may lie beside each other without being one mapping. The system allows 65,530
   mappings by default. */
#define GROWING_MAX HAK_TINY_OR(8, 8192)
/* While there are no more of them, one that shrinks to a small block stays: it takes 64 KiB of
   addresses and a mapping, and up to a page more than in a slab. */
#define SMALL_AMONG HAK_TINY_OR(4, 128)
/* Fresh ranges of this size on are marked for huge pages, if nearly all of such blocks gets touched
   (in 256ths). */
#define HUGE_MIN     (32 * HAK_MIB)
#define HUGE_TOUCHED 250u
/* Where less than 1/4 of the blocks of a size gets touched, a range is purged before it is used
   again if earlier owners have left more pages than half of the block, or DIRT_TIMES what is
   expected of this one, and more than DIRT_LEAST: once in several uses, and no block has much more
   resident than that. (Each use is a page fault for each page that it touches after a purge.) */
#define SPARSE_SHIFT 2
#define DIRT_TIMES   32u
#define DIRT_LEAST   ((size_t)64 * HAK_KIB)

/* Fresh pages of a block that is touched all over are fetched together: so many bytes at most,
   since the call takes as long as their first touches would; in pieces, since other threads' calls
   of the system may wait for each. */
#define POPULATE_MOST  ((size_t)4 * HAK_MIB)
#define POPULATE_PIECE ((size_t)512 * HAK_KIB)

/* Address bits of a process: a request for more is refused whatever goes back. */
#define ADDRESS_BITS 47

#define records hak_range_records

static size_t scarce_level; /* bytes mapped when the system refused more; 0: it has not */

static void lock(void)
{
    hak_lock_acquire(&hak_range_lock);
}

static void unlock(void)
{
    hak_lock_release(&hak_range_lock);
}

/* What a block of `size` bytes may be filled to in a range with room. */
static size_t usable_with_room(const struct range *range, size_t size)
{
    size_t usable = (size + (size >> GROW_USABLE_SHIFT) + 15) & ~(size_t)15;
    return usable < range->bytes ? usable : range->bytes;
}

static size_t mapped_bytes(void)
{
    return (size_t)hak_stat_get(large_bytes) + (size_t)hak_stat_get(large_cached_bytes) +
           (size_t)hak_stat_get(large_clean_bytes) + (size_t)hak_stat_get(superslabs) * SS_BYTES;
}

/* The system, or the limit, has refused `bytes`; a request for more than all that is mapped says
   nothing. */
static void note_refusal(size_t bytes)
{
    size_t level = mapped_bytes();
    if (bytes <= level) {
        atomic_store_relaxed(&scarce_level, level);
    }
}

int hak_range_is_scarce(void)
{
    size_t level = atomic_load_relaxed(&scarce_level);
    if (HAK_LIKELY(!level)) {
        return 0;
    }
    size_t mapped = mapped_bytes();
    if (mapped >= level / 2 && mapped <= level + level / 4) {
        return 1;
    }
    atomic_store_relaxed(&scarce_level, (size_t)0);
    return 0;
}

/* What a request that is refused has tried. */
struct tries {
    uint64_t round;
    int n;
};

/* After a refusal: what is kept goes back, at first so much of it as was asked for, then all.
   Returns 1 if it is worth to ask again. Lets go of the lock. */
static int make_way(size_t bytes, struct tries *tries)
{
    note_refusal(bytes);
    if (bytes >> ADDRESS_BITS || tries->n == 2) {
        return 0;
    }
    tries->round = tries->round ? tries->round : hak_range_round_begin();
    return hak_range_make_way(tries->n++ ? SIZE_MAX : bytes, tries->round) != 0;
}

struct ss_lookup hak_range_describe(const void *p, uint32_t number)
{
    static const struct ss_lookup nothing = {SS_RANGE, 0, 0, NULL, 0, 0};
    const struct range *range = (const struct range *)hak_numbered_find(&records.all, number);
    if (!range) {
        return nothing;
    }
    uint32_t version = atomic_load_acquire(&range->version), now;
    for (;; version = now) {
        char *base = atomic_load_relaxed(&range->base);
        size_t bytes = atomic_load_relaxed(&range->bytes);
        int is_used = atomic_load_relaxed(&range->state) == RANGE_USED;
        size_t size = is_used ? atomic_load_relaxed(&range->usable) : bytes;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        now = atomic_load_relaxed(&range->version);
        if (now & 1) {
            return nothing; /* it is becoming another range's, by a thread that this one does not
                               wait for */
        }
        if (now == version) {
            int is_inside = (size_t)((uintptr_t)p - (uintptr_t)base) < bytes;
            return is_inside ? (struct ss_lookup){SS_RANGE, 0, 0, base, size, is_used} : nothing;
        }
    }
}

/* --- a range for a block: busy until its use starts. All of these let go of the lock. --- */

/* The range of the unit at p, if a fresh mapping beside it becomes one with it: the system extends
   a neighbour that has the same advice and was never moved. */
static const struct range *neighbour_at(const char *p, int is_huge)
{
    struct map_entry entry = hak_map_find(p);
    const struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    int is_there = range && (range->state == RANGE_USED || range->state == RANGE_CACHED) &&
                   (size_t)(p - range->base) < range->bytes;
    return is_there && !range->is_moved && range->is_huge == is_huge ? range : NULL;
}

static uint64_t origin_for(const struct range *range)
{
    const struct range *before = neighbour_at(range->base - 1, range->is_huge);
    const struct range *after = neighbour_at(range->base + range->bytes, range->is_huge);
    return before ? before->origin : after ? after->origin : ++records.n_origins;
}

static struct range *map_fresh(size_t bytes, size_t align, int is_huge)
{
    hak_range_ready(1);
    struct range *range = hak_range_new();
    if (!range) {
        return NULL;
    }
    unlock();
    char *base = hak_limit_admit(bytes, bytes, bytes) ? hak_range_map_space(bytes, align) : NULL;
    if (base) {
        if (is_huge) {
            hak_huge_mark(base, bytes);
        }
        hak_range_set_extent(range, base, bytes);
        hak_range_write_map(range);
    }
    lock();
    if (!base) {
        hak_range_drop(range);
        return NULL;
    }
    hak_range_count_mapped(bytes);
    range->is_huge = (uint8_t)is_huge;
    range->is_moved = 0;
    range->origin = origin_for(range);
    return range;
}

static struct range *take_fresh(size_t bytes, size_t align, enum range_use use)
{
    if (use == RANGE_GROWING) {
        struct range *range =
            hak_range_is_scarce()
                ? NULL
                : map_fresh(bytes + hak_range_round(bytes >> GROW_SHIFT), align, 0);
        return range ? range : map_fresh(bytes, align, 0);
    }
    int is_huge = bytes >= HUGE_MIN && align <= HUGE_BYTES &&
                  hak_zero_touched(bytes, use == RANGE_ZEROED) >= HUGE_TOUCHED &&
                  hak_huge_is_wanted((uint64_t)hak_stat_get(large_bytes) +
                                     (uint64_t)hak_stat_get(large_cached_bytes));
    return map_fresh(bytes, is_huge ? HUGE_BYTES : align, is_huge);
}

/* Whether the range may be so large for a block that asks for `bytes`. */
static int is_near(const struct range *range, size_t bytes, enum range_use use)
{
    uint64_t wmax = use == RANGE_GROWING && hak_options.wmax_large < GROWING_WMAX
                        ? GROWING_WMAX
                        : hak_options.wmax_large;
    return range->bytes <=
           bytes + (uint64_t)(bytes / SS_UNIT_BYTES * (wmax - 1000) / 1000) * SS_UNIT_BYTES;
}

/* Whether a range with pages of earlier owners is to be purged before a block of that size. */
static int is_too_dirty(const struct range *range, size_t size, enum range_use use)
{
    size_t expected = hak_zero_expected(size);
    const size_t times = DIRT_TIMES;
    size_t most = expected < size / (2 * times) ? expected * times : size / 2;
    return use == RANGE_FIXED && expected <= size >> SPARSE_SHIFT && range->dirt > DIRT_LEAST &&
           range->dirt > most;
}

/* From the cache; the range's kind stays what it was. */
static struct range *take_cached(size_t size, size_t align, enum range_use use)
{
    size_t bytes = hak_range_round(size);
    hak_range_ready(1);
    struct range *from = hak_range_best(bytes, align), *range = NULL;
    if (!from) {
        return NULL;
    }
    if (!is_near(from, bytes, use)) {
        range = hak_range_take_front(from, bytes);
    }
    int is_part = range != NULL;
    if (!range) {
        hak_range_take(from);
        range = from;
    }
    int is_clean = range->kind == RANGE_CLEAN, purge = is_too_dirty(range, size, use),
        is_admitted = 1;
    if (is_part || is_clean || purge) {
        unlock();
        if (is_part) {
            hak_range_write_map(range);
        }
        if (purge && hak_os_purge(range->base, range->bytes) == 0) {
            is_clean = 1; /* as it was committed, it stays so */
        } else if (is_clean) {
            is_admitted = hak_limit_admit(range->bytes, size, bytes);
        }
        lock();
    }
    if (!is_admitted) {
        hak_range_push(range, RANGE_CLEAN, range->cached_at_ns);
        return NULL;
    }
    if (range->kind == RANGE_CLEAN) {
        hak_limit_commit(range->bytes);
    }
    range->dirt = is_clean || purge ? 0 : range->dirt; /* refused: as if it were gone */
    range->is_fresh = (uint8_t)is_clean;
    return range;
}

int hak_range_may_grow(void)
{
    return hak_stat_get(large_growing) < GROWING_MAX;
}

static void start_use(struct range *range, size_t size, enum range_use use, size_t fresh)
{
    range->touched = size;
    atomic_store_relaxed(&range->usable,
                         use == RANGE_GROWING ? usable_with_room(range, size) : range->bytes);
    hak_stat_add(large_room_bytes, hak_range_room_of(range));
    range->use = (uint8_t)use;
    range->is_pinned = range->is_roomy = range->is_cut = range->n_regrown = 0;
    hak_range_set_state(range, RANGE_USED);
    hak_range_note_room(range);
    hak_stat_add(large_bytes, range->bytes);
    hak_stat_add(large_growing, use == RANGE_GROWING);
    hak_adapt_taken(CONTROL_RANGES, fresh);
    int is_hit = fresh < range->bytes;
    hak_adapt_block_taken(range->bytes, is_hit, is_hit ? range->cached_at_ns : 0);
}

/* Of the block's last `fresh` bytes, those that are within what was asked for. */
static void populate(char *p, size_t size, size_t bytes, size_t fresh, enum range_use use)
{
    size_t page = hak_os_page_size(), from = fresh < bytes ? bytes - fresh : 0;
    size_t to = (size + page - 1) & ~(page - 1);
    if (from < to && use != RANGE_GROWING && !HAK_SECURE) {
        size_t most = to - from < POPULATE_MOST ? to - from : POPULATE_MOST;
        to = hak_zero_fetch_together(size, use == RANGE_ZEROED, most) ? from + most : from;
        for (; from < to; from += POPULATE_PIECE) {
            hak_os_populate(p + from, to - from < POPULATE_PIECE ? to - from : POPULATE_PIECE);
        }
    }
}

void *hak_range_alloc(size_t size, size_t align, enum range_use use)
{
    size_t bytes = hak_range_round(size);
    lock();
    size_t fresh = SIZE_MAX;
    struct range *range = take_cached(size, align, use);
    if (!range && hak_range_refill(size, use)) {
        range = take_cached(size, align, use);
    }
    if (range) {
        /* One that was purged for the block's sake is no fetch; the controller does not hear of the
           purge. */
        fresh = range->kind == RANGE_CLEAN ? range->bytes : 0;
    } else {
        range = hak_range_enlarge(size, align, use, &fresh);
    }
    if (!range) {
        struct tries tries = {0, 0};
        do {
            range = take_fresh(bytes, align, use);
        } while (!range && make_way(bytes, &tries));
        if (range) {
            range->is_fresh = 1;
            fresh = range->bytes;
        }
    }
    void *p = range ? range->base : NULL;
    if (range) {
        start_use(range, size, use, fresh);
    }
    int is_dirty = range && !range->is_fresh;
    bytes = range ? range->bytes : 0;
    unlock();
    if (range && fresh && !range->is_huge) {
        populate(p, size, bytes, fresh, use);
    }
    if (is_dirty && use == RANGE_ZEROED) {
        range->is_fresh = (uint8_t)hak_zero_choose(size)(p, range->bytes);
        range->dirt = range->is_fresh ? 0 : range->bytes;
    }
    return p;
}

/* --- the end of a use --- */

/* The used range that starts at p, or NULL. */
static struct range *used_at(const void *p)
{
    struct map_entry entry = hak_map_find(p);
    struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    return range && range->state == RANGE_USED && range->base == p ? range : NULL;
}

__attribute__((noreturn)) static void refuse_to_free(const void *p)
{
    struct map_entry entry = hak_map_find(p);
    const struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    int is_free = range && range->base == p && range->state != RANGE_USED;
    hak_fatal(is_free ? "block freed twice" : "invalid pointer freed (not the start of a block)",
              p);
}

/* What its block has touched, by what is known. */
static size_t dirt_of_block(const struct range *range)
{
    size_t expected = range->use == RANGE_FIXED ? hak_zero_expected(range->touched) : SIZE_MAX;
    return expected < range->touched ? expected : range->touched;
}

static void end_use(struct range *range)
{
    size_t dirt = range->dirt + dirt_of_block(range);
    hak_stat_sub(large_bytes, range->bytes);
    hak_stat_sub(large_growing, range->use == RANGE_GROWING);
    hak_stat_sub(large_room_bytes, hak_range_room_of(range));
    hak_range_set_state(range, RANGE_BUSY);
    hak_range_note_room(range);
    range->dirt = dirt < range->bytes ? dirt : range->bytes;
    range->refused_in = 0;
}

void hak_range_free(void *p)
{
    lock();
    struct range *range = used_at(p);
    if (!range || range->is_pinned) {
        refuse_to_free(p);
    }
    end_use(range);
    if (range->is_fresh) {
        unlock();
        hak_zero_learn(range->base, range->touched, range->use == RANGE_ZEROED);
        lock();
    }
    size_t bytes = range->bytes;
    hak_adapt_block_given(bytes);
    uint64_t now_ns = hak_os_ops.clock_ns();
    hak_range_push(range, RANGE_DIRTY, now_ns);
    hak_adapt_given(now_ns);
    hak_range_purge_some(bytes);
    unlock();
}

size_t hak_range_size(const void *p)
{
    struct range *range = used_at(p);
    return range ? range->usable : 0;
}

/* --- another size: the range is pinned; all of these let go of the lock --- */

/* Its end, with more units that are written in the map, is the block's. */
static void extend(struct range *range, size_t bytes, size_t fresh)
{
    size_t was = range->bytes;
    hak_range_set_used_bytes(range, bytes);
    hak_adapt_block_resized(was, bytes);
    hak_stat_add(large_bytes, bytes - was);
    hak_adapt_taken(CONTROL_RANGES, fresh);
}

/* The cached neighbour behind it that makes it `bytes` long, or NULL. */
static struct range *enough_after(const struct range *range, size_t bytes)
{
    struct range *after = hak_range_after(range);
    return after && range->bytes + after->bytes >= bytes ? after : NULL;
}

static int may_commit(struct range *range, size_t bytes)
{
    unlock();
    int may = hak_limit_admit(bytes - range->bytes, bytes, bytes);
    lock();
    return may;
}

/* Into a cached neighbour. */
static int grow_into_cached(struct range *range, size_t bytes)
{
    struct range *after = enough_after(range, bytes);
    if (after && after->kind == RANGE_CLEAN) {
        int may = may_commit(range, bytes);
        after = may ? enough_after(range, bytes) : NULL;
    }
    if (!after) {
        return 0;
    }
    char *end = range->base + range->bytes;
    size_t more = bytes - range->bytes;
    int is_clean = after->kind == RANGE_CLEAN, is_whole = after->bytes == more;
    if (is_whole) {
        hak_range_take(after);
    } else {
        hak_range_cut_front(after, more);
    }
    unlock();
    hak_map_set(end, more / SS_UNIT_BYTES, TAG_RANGE, range->number);
    lock();
    if (is_whole) {
        hak_range_drop(after);
    }
    if (is_clean) {
        hak_limit_commit(more);
    } else {
        range->dirt += more;
    }
    extend(range, bytes, is_clean ? more : 0);
    return 1;
}

/* By the system, where it lies. Returns 0 or an errno value. No lock. */
static int map_behind(const struct range *range, size_t bytes)
{
    char *end = range->base + range->bytes;
    size_t more = bytes - range->bytes;
    if (!hak_limit_admit(more, bytes, bytes)) {
        return ENOMEM;
    }
    /* First the system: it refuses what is too much, for which the map must not grow. */
    if (hak_os_ops.mremap(range->base, range->bytes, bytes, 0, NULL) == MAP_FAILED) {
        return errno;
    }
    if (hak_map_ensure(end, more)) {
        hak_os_unmap_untouched(end, more);
        return ENOMEM;
    }
    hak_map_set(end, more / SS_UNIT_BYTES, TAG_RANGE, range->number);
    return 0;
}

/* Makes the range `bytes` long where it lies. Returns 0 or an errno value. */
static int grow_in_place(struct range *range, size_t bytes)
{
    if (grow_into_cached(range, bytes)) {
        return 0;
    }
    unlock();
    int error = map_behind(range, bytes);
    lock();
    if (!error) {
        hak_range_count_mapped(bytes - range->bytes);
        extend(range, bytes, bytes - range->bytes);
    }
    return error;
}

/* Returns 0 or an errno value. */
static int move_pages(struct range *range, size_t bytes)
{
    unlock();
    char *place = hak_range_move(range, bytes, SS_UNIT_BYTES, bytes);
    lock();
    if (!place) {
        return ENOMEM;
    }
    size_t more = bytes - range->bytes;
    hak_range_set_moved(range, place, range->bytes);
    hak_range_count_mapped(more);
    extend(range, bytes, more);
    return 0;
}

/* Makes the range at least `bytes` long, here or elsewhere. Returns 0 or an errno value. */
static int grow(struct range *range, size_t bytes)
{
    size_t ahead = bytes + (hak_range_is_scarce() ? 0 : hak_range_round(bytes >> GROW_SHIFT));
    int error = grow_in_place(range, ahead);
    error = error && ahead > bytes ? grow_in_place(range, bytes) : error;
    /* EFAULT: not one mapping after all; a try to move it would leave its target mapped. */
    if (error && error != EFAULT) {
        error = move_pages(range, ahead);
        error = error && ahead > bytes ? move_pages(range, bytes) : error;
    }
    return error;
}

/* The units behind `bytes` are no longer the block's, and are cached. Nothing is cut if there is no
   description. */
static void cut_tail(struct range *range, size_t bytes)
{
    size_t was = range->bytes;
    struct range *rest = hak_range_new();
    if (!rest) {
        return;
    }
    rest->origin = range->origin;
    rest->is_huge = range->is_huge;
    rest->is_moved = range->is_moved;
    rest->dirt = was - bytes;
    hak_range_set_extent(rest, range->base + bytes, was - bytes);
    hak_range_set_used_bytes(range, bytes);
    hak_adapt_block_resized(was, bytes);
    hak_stat_sub(large_bytes, was - bytes);
    unlock();
    hak_range_write_map(rest);
    lock();
    uint64_t now_ns = hak_os_ops.clock_ns();
    hak_range_push(rest, RANGE_DIRTY, now_ns);
    hak_adapt_given(now_ns);
}

int hak_range_may_be_small(const void *p)
{
    const struct range *range = used_at(p);
    return range && range->use == RANGE_GROWING && hak_stat_get(large_growing) <= SMALL_AMONG;
}

/* The block becomes `size` bytes where it lies. */
static void shrink(struct range *range, size_t size)
{
    size_t bytes = hak_range_round(size);
    if (range->bytes > KEEP_WHOLE_BYTES && bytes < range->bytes / 2) {
        hak_range_set_usable(range, range->usable < bytes ? range->usable : bytes);
        cut_tail(range, bytes);
    }
    hak_range_set_usable(range, usable_with_room(range, size));
    size_t page = hak_os_page_size();
    size_t keep = (size + page - 1) & ~(page - 1), least = size > SC_SMALL_MAX ? TAIL_MIN : 0;
    if (range->touched > keep + least && range->touched - keep > keep >> TAIL_SHIFT) {
        unlock();
        if (range->n_regrown == REGROWN_MOST) { /* once: a look at an untouched page is a fault */
            unsigned seen = hak_zero_seen(range->base + keep, range->touched - keep);
            range->n_regrown = seen >= DENSE ? REGROWN_STAYS : REGROWN_SPARSE;
        }
        int stays = range->n_regrown == REGROWN_STAYS;
        int is_purged = !stays && hak_os_purge(range->base + keep, range->bytes - keep) == 0;
        lock();
        range->is_cut = (uint8_t)is_purged;
        range->touched = is_purged ? keep : range->touched;
        range->dirt = is_purged && range->dirt > keep ? keep : range->dirt;
    }
}

static int grow_or_make_way(struct range *range, size_t bytes)
{
    struct tries tries = {0, 0};
    int error;
    do {
        error = grow(range, bytes);
    } while (error && error != EFAULT && make_way(bytes, &tries));
    return error == 0;
}

void *hak_range_resize(void *p, size_t size)
{
    size_t bytes = hak_range_round(size);
    void *result = NULL;
    int saved = errno;
    lock();
    hak_range_ready(1);
    struct range *range = used_at(p);
    if (!range || range->is_pinned) {
        unlock();
        return NULL;
    }
    range->is_pinned = 1;
    hak_range_note_room(range);
    if (bytes <= range->bytes) {
        shrink(range, size);
        result = p;
    } else if (grow_or_make_way(range, bytes)) {
        hak_range_set_usable(range, usable_with_room(range, size));
        result = range->base;
    }
    if (result && size > range->touched) {
        range->n_regrown += range->is_cut && range->n_regrown < REGROWN_MOST;
        range->is_cut = 0;
        range->touched = size;
    }
    range->is_pinned = 0;
    hak_range_note_room(range);
    unlock();
    errno = saved;
    return result;
}

/* --- for walks --- */

uint32_t hak_ace_n_ranges(void)
{
    return hak_numbered_count(&records.all);
}

size_t hak_ace_range(uint32_t number, void **start)
{
    lock();
    const struct range *range = hak_range_at(number);
    size_t bytes = range->state == RANGE_USED ? range->usable : 0;
    *start = bytes ? range->base : NULL;
    unlock();
    return bytes;
}
