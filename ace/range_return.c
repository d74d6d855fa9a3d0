/* Ranges go back to the system. The lock (rank ACE) is held for the records alone: what goes back
   is taken out, one piece at a time, and is busy while the system is asked. Called by range.c and
   ace.c.

   A piece is unmapped. Where that may cost a mapping that the process can ill spare, or is refused,
   its pages are dropped and it stays cached as clean address space; if they are refused too, it is
   stuck. Frees and the background thread look at neither again. A trim, and a request that the
   system has refused, do, each once a round: what is refused is marked with the round and moves to
   the newest end, so that a round has ended when the oldest has its mark. */
#include "ace/adapt.h"
#include "ace/range_cache.h"
#include "base/lock_holds.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "limit/limit.h"
#include "superslab/huge.h"

/* A larger range goes back in pieces: other threads' calls of the system wait for each (4 MiB take
   0.2 to 0.5 ms), and so does who frees. */
#define PIECE HAK_TINY_OR(1 * HAK_MIB, 4 * HAK_MIB)
/* A free purges at most four times what it freed, of so many ranges: what is kept shrinks faster
   than it grows, and no call is long. */
#define SOME_TIMES  4
#define SOME_RANGES 4
/* A call that frees nothing purges so much; a step of the background thread, which rests between
   steps, less. */
#define SOME_LEAST  (4 * PIECE)
#define SOME_UNSEEN ((size_t)4 * HAK_MIB)
/* So many of the oldest are looked at for one of a class that keeps more than it wants. */
#define CLASS_SEARCH 8

#define records hak_range_records

static uint64_t rounds;
static uint64_t
    crowded_at; /* mappings that there were when the system refused to unmap; 0: never */

uint64_t hak_range_round_begin(void)
{
    return ++rounds;
}

/* Whether to unmap costs no mapping, or one that can be spared. Each range and superslab is at most
   one mapping; a hole in the middle makes two of one, a hole at an end does not. */
static int may_unmap(const struct range *range)
{
    uint64_t n = (uint64_t)hak_stat_get(mappings);
    if (crowded_at && n < crowded_at - crowded_at / 16) {
        crowded_at = 0;
    }
    return (hak_limit_may_split() && !crowded_at) || !hak_map_get(range->base - 1).tag ||
           !hak_map_get(range->base + range->bytes).tag;
}

/* How a piece goes back. */
struct giving {
    uint64_t round; /* of a refusal's mark; 0: none */
    int for_space;  /* address space is wanted: unmapped in any case */
};

/* A busy range is gone. */
static void drop_unmapped(struct range *range)
{
    size_t bytes = range->bytes;
    hak_limit_unmap(bytes);
    hak_range_drop(range);
}

/* A busy range, of the kind that it had, goes back. Returns bytes of memory; *space grows by those
   of address space. Lets go of the lock. */
static size_t give_back(struct range *range, struct giving how, size_t *space)
{
    size_t bytes = range->bytes, memory = range->kind == RANGE_CLEAN ? 0 : bytes;
    int unmap = how.for_space || may_unmap(range), is_unmapped = 0, is_refused = 0;
    hak_lock_release(&hak_range_lock);
    if (unmap) {
        hak_range_clear_map(range); /* first: the address space may be another's at once */
        is_unmapped = hak_os_unmap(range->base, bytes) == 0;
    }
    if (is_unmapped) {
        hak_map_purge(range->base, bytes);
    } else {
        hak_range_write_map(range);
        is_refused = memory && hak_os_purge(range->base, bytes) != 0;
    }
    hak_lock_acquire(&hak_range_lock);
    if (!is_refused) {
        hak_limit_uncommit(memory);
    }
    if (is_unmapped) {
        *space += bytes;
        drop_unmapped(range);
        return memory;
    }
    crowded_at = unmap ? (uint64_t)hak_stat_get(mappings) : crowded_at;
    range->dirt = is_refused ? range->dirt : 0;
    range->refused_in = unmap || is_refused ? how.round : range->refused_in;
    hak_range_push(range, is_refused ? RANGE_STUCK : RANGE_CLEAN, range->cached_at_ns);
    return is_refused ? 0 : memory;
}

/* The same of cached memory, of which the controller hears. */
static size_t give_back_cached(struct range *range, struct giving how, size_t *space)
{
    size_t bytes = give_back(range, how, space);
    if (bytes) {
        hak_adapt_purged(CONTROL_RANGES, bytes);
    }
    return bytes;
}

/* A cached range becomes busy, or the end of a long one. */
static struct range *take_piece(struct range *range)
{
    struct range *piece = NULL;
    if (range->bytes > PIECE + PIECE / 2) {
        uintptr_t cut = (uintptr_t)range->base + range->bytes - PIECE;
        uintptr_t even = cut & ~(uintptr_t)(HUGE_BYTES - 1); /* no huge page is torn */
        cut = even > (uintptr_t)range->base ? even : cut;
        piece = hak_range_take_back(range, (size_t)((uintptr_t)range->base + range->bytes - cut));
    }
    if (!piece) {
        hak_range_take(range);
        piece = range;
    }
    return piece;
}

/* --- what is due --- */

struct due {
    uint64_t now_ns, delay_ns;
    size_t limit; /* of cached bytes */
};

static struct range *next_due(const struct due *due)
{
    struct range *oldest = records.oldest[RANGE_DIRTY];
    if (!oldest || due->now_ns - oldest->cached_at_ns >= due->delay_ns) {
        return oldest;
    }
    if ((size_t)hak_stat_get(large_cached_bytes) <= due->limit) {
        return NULL;
    }
    struct range *range = oldest;
    for (int looked = 0; range && looked < CLASS_SEARCH; range = range->next, looked++) {
        hak_lock_step(1);
        if (hak_range_class_cached(range->bytes) > hak_adapt_class_keep(range->bytes)) {
            return range;
        }
    }
    return oldest;
}

/* The rest of a range of which the end has gone back, or NULL if others took it. */
static struct range *rest_of(struct range *range, const char *base)
{
    return range && range->state == RANGE_CACHED && range->kind == RANGE_DIRTY &&
                   range->base == base
               ? range
               : NULL;
}

/* Purges what is due until it was about `bytes`, from at most so many ranges, and each that was
   begun as a whole: what remained of one would be of little use. Returns bytes of memory. */
static size_t give_back_due(const struct due *due, size_t bytes, uint32_t n_ranges)
{
    const struct giving how = {0, 0};
    size_t memory = 0, tried = 0, space = 0;
    struct range *begun = NULL;
    const char *base = NULL;
    for (uint32_t n = 0; tried < bytes && n < n_ranges;) {
        hak_range_ready(1);
        struct range *range = rest_of(begun, base);
        range = range ? range : next_due(due);
        if (!range) {
            break;
        }
        base = range->base;
        struct range *piece = take_piece(range);
        begun = piece == range ? NULL : range;
        n += piece == range;
        tried += piece->bytes;
        memory += give_back_cached(piece, how, &space);
    }
    return memory;
}

static struct due due_now(void)
{
    struct due due = {hak_os_ops.clock_ns(), hak_time_ns_of_ms(hak_adapt_delay_ms()),
                      hak_adapt_range_keep()};
    return due;
}

void hak_range_purge_some(size_t freed)
{
    struct due due = due_now();
    (void)give_back_due(&due, SOME_TIMES * freed, SOME_RANGES);
}

size_t hak_range_purge_excess(void)
{
    struct due due = due_now();
    due.delay_ns = UINT64_MAX; /* of age alone nothing is due here */
    hak_lock_acquire(&hak_range_lock);
    size_t bytes = give_back_due(&due, SOME_LEAST, SOME_RANGES);
    hak_lock_release(&hak_range_lock);
    return bytes;
}

/* --- all that there is --- */

/* Stuck ranges again, each once a round. */
static size_t give_back_stuck(struct giving how, size_t bytes, size_t *space)
{
    size_t memory = 0;
    struct range *range;
    while (*space < bytes && (range = records.oldest[RANGE_STUCK]) &&
           range->refused_in != how.round) {
        hak_range_take(range);
        memory += give_back_cached(range, how, space);
    }
    return memory;
}

/* Clean address space, each range once a round. Unless it is wanted badly, one refusal is taken for
   all. */
static void give_back_clean(struct giving how, size_t bytes, size_t *space)
{
    struct range *range;
    while (*space < bytes && (range = records.oldest[RANGE_CLEAN]) &&
           range->refused_in != how.round &&
           (how.for_space || (!crowded_at && hak_limit_may_split()))) {
        hak_range_take(range);
        (void)give_back(range, how, space);
    }
}

size_t hak_range_purge(uint64_t delay_ms)
{
    struct due due = {hak_os_ops.clock_ns(), hak_time_ns_of_ms(delay_ms), SIZE_MAX};
    size_t space = 0, bytes;
    hak_lock_acquire(&hak_range_lock);
    if (delay_ms) {
        bytes = give_back_due(&due, SOME_UNSEEN, UINT32_MAX);
    } else {
        const struct giving how = {hak_range_round_begin(), 0};
        crowded_at = 0;
        /* What other threads free in the meantime stays. */
        bytes = give_back_due(&due, (size_t)hak_stat_get(large_cached_bytes), UINT32_MAX);
        bytes += give_back_stuck(how, SIZE_MAX, &space);
        give_back_clean(how, SIZE_MAX, &space);
    }
    hak_lock_release(&hak_range_lock);
    return bytes;
}

/* --- the room of used ranges --- */

/* Cuts the room off a used range; what is cut is busy. NULL if there is no description. */
static struct range *take_room(struct range *range)
{
    size_t was = range->bytes, more = hak_range_room_of(range);
    struct range *part = hak_range_new();
    if (part) {
        part->origin = range->origin;
        part->is_huge = range->is_huge;
        part->is_moved = range->is_moved;
        part->kind = RANGE_DIRTY;
        part->cached_at_ns = hak_os_ops.clock_ns();
        part->dirt = more;
        hak_range_set_extent(part, range->base + was - more, more);
        hak_range_set_used_bytes(range, was - more);
        hak_stat_sub(large_bytes, more);
        hak_adapt_block_resized(was, range->bytes);
        hak_adapt_given(part->cached_at_ns);
    }
    return part;
}

/* Until so much went back: of each range once, since what is cut off has left it. */
static size_t give_back_room(struct giving how, size_t bytes)
{
    size_t space = 0;
    while (space < bytes) {
        hak_range_ready(1);
        struct range *part = records.roomy ? take_room(records.roomy) : NULL;
        if (!part) {
            break;
        }
        (void)give_back(part, how, &space);
    }
    return space;
}

size_t hak_range_purge_room(void)
{
    hak_lock_acquire(&hak_range_lock);
    const struct giving how = {hak_range_round_begin(), 0};
    size_t bytes = give_back_room(how, SIZE_MAX);
    hak_lock_release(&hak_range_lock);
    return bytes;
}

size_t hak_range_room(void)
{
    return (size_t)hak_stat_get(large_room_bytes);
}

/* First what holds no memory, then what is kept, oldest first. */
size_t hak_range_make_way(size_t bytes, uint64_t round)
{
    const struct giving how = {round, 1};
    size_t space = 0, memory = 0;
    give_back_clean(how, bytes, &space);
    while (space < bytes && records.oldest[RANGE_DIRTY]) {
        hak_range_ready(1);
        struct range *oldest = records.oldest[RANGE_DIRTY];
        memory += oldest ? give_back_cached(take_piece(oldest), how, &space) : 0;
    }
    if (space < bytes) {
        memory += give_back_stuck(how, bytes, &space);
    }
    if (space < bytes) {
        space += give_back_room(how, bytes - space);
    }
    return space > memory ? space : memory;
}
