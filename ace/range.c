/* Ranges. One lock (rank ACE), also held while the system maps or unmaps: such calls are rare and
   long, and the caller touches far more memory than they cost. Called by ace.c. */
#include "ace/range.h"

#include <errno.h>
#include <sys/mman.h>

#include "ace/ace.h"
#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/zero.h"
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
#include "superslab/pool.h"

/* A block that grows may have a range twice as large (in thousandths). */
#define GROWING_WMAX 2000u
/* Address space ahead of a range that grows: as much again as half of it, so that growing costs
   O(log n) moves. Pages are not touched, so it costs no memory. */
#define GROW_SHIFT 1
/* A block that grows may be filled to 1/16 above what was asked for, and is not asked about again
   within that. Programs account by malloc_usable_size, so that all the room would be too much. */
#define GROW_USABLE_SHIFT 4
/* A range that shrinks gives the pages of its end back if they are more than 1/4 of what it keeps,
   and worth the call. */
#define TAIL_SHIFT 2
#define TAIL_MIN   ((size_t)64 * HAK_KIB)
/* And its address space above this, if more than half of it is unused. */
#define KEEP_WHOLE_BYTES (4 * HAK_MIB)
/* Ranges that may lie beside each other without being one mapping. The system allows 65,530
   mappings by default. */
#define GROWING_MAX HAK_TINY_OR(8, 8192)
/* Fresh ranges of this size on are marked for huge pages, if nearly all of such blocks gets touched
   (in 256ths). */
#define HUGE_MIN     (32 * HAK_MIB)
#define HUGE_TOUCHED 250u
/* How many cached ranges of a class are looked at for the smallest that fits. */
#define BEST_SEARCH 32

static LOCK_DEFINE(ace_lock, LOCK_RANK_ACE);
static struct numbered ranges;
static uint64_t n_origins;
static struct range *idle;
static struct range *oldest, *newest;
static struct range *classes[ACE_CLASSES];
static uint64_t classes_present[ACE_CLASSES / 64];
static size_t class_cached[ACE_CLASSES]; /* bytes */
static size_t room;                      /* ahead of used ranges, in bytes */
static size_t stuck_room;                /* as much of it as the system would not take back */
static uint32_t room_at;                 /* the number of the range that was looked at last */
static size_t scarce_level; /* bytes mapped when the system refused more; 0: it has not */

static size_t round_units(size_t size)
{
    return (size + SS_UNIT_BYTES - 1) & ~(SS_UNIT_BYTES - 1);
}

struct range *hak_range_at(uint32_t number)
{
    return (struct range *)hak_numbered_get(&ranges, number);
}

/* Its end changes. */
static void set_bytes(struct range *range, size_t bytes)
{
    atomic_store_relaxed(&range->bytes, bytes);
}

/* Where it lies changes. */
static void set_extent(struct range *range, char *base, size_t bytes)
{
    atomic_store_relaxed(&range->version, range->version + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    atomic_store_relaxed(&range->base, base);
    atomic_store_relaxed(&range->bytes, bytes);
    atomic_store_release(&range->version, range->version + 1);
}

static struct range *new_range(void)
{
    struct range *range = idle;
    if (range) {
        idle = range->next;
        hak_stat_add(large_ranges, 1);
        hak_limit_count_mappings(1);
        return range;
    }
    range = hak_numbered_reserve(&ranges) ? (struct range *)hak_os_meta_alloc(sizeof *range) : NULL;
    if (range) {
        range->number = ranges.n;
        hak_numbered_add(&ranges, range);
        hak_stat_add(large_ranges, 1);
        hak_limit_count_mappings(1);
    }
    return range;
}

static void drop_range(struct range *range)
{
    atomic_store_relaxed(&range->state, RANGE_IDLE);
    set_extent(range, NULL, 0);
    range->next = idle;
    idle = range;
    hak_stat_sub(large_ranges, 1);
    hak_limit_count_mappings(-1);
}

static void map_range(const struct range *range)
{
    hak_map_set(range->base, range->bytes / SS_UNIT_BYTES, TAG_RANGE, range->number);
}

/* Of a used range: address space behind the units that its block may be filled to. */
static size_t room_of(const struct range *range)
{
    return range->bytes - round_units(range->usable);
}

/* The end of a used range changes, and with it how much room there is. */
static void set_used_bytes(struct range *range, size_t bytes)
{
    atomic_store_relaxed(&room, room - range->bytes + bytes);
    set_bytes(range, bytes);
    range->touched = range->touched < bytes ? range->touched : bytes;
}

static void set_usable(struct range *range, size_t usable)
{
    atomic_store_relaxed(&room, room + round_units(range->usable) - round_units(usable));
    atomic_store_relaxed(&range->usable, usable);
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
           (size_t)hak_stat_get(superslabs) * SS_BYTES;
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

/* The class list of a cached range: the largest class that it can serve. */
static unsigned class_of(size_t bytes)
{
    return hak_ace_class_index(bytes);
}

static void class_remove(struct range *range)
{
    unsigned i = class_of(range->bytes);
    class_cached[i] -= range->bytes;
    LIST_TAKE_OUT(&classes[i], range, class_next, class_prev);
    if (!classes[i]) {
        hak_bits_clear(classes_present, i);
    }
}

static void class_push(struct range *range)
{
    unsigned i = class_of(range->bytes);
    class_cached[i] += range->bytes;
    LIST_PUSH(&classes[i], range, class_next, class_prev);
    hak_bits_set(classes_present, i);
}

static void cache_remove(struct range *range)
{
    LIST_REMOVE(&oldest, &newest, range, next, prev);
    class_remove(range);
    hak_stat_sub(large_cached_bytes, range->bytes);
}

/* Into the list by age, after the last one that is not younger. */
static void cache_push(struct range *range, uint64_t cached_at_ns)
{
    struct range *after = newest;
    while (after && after->cached_at_ns > cached_at_ns) {
        after = after->prev;
    }
    atomic_store_relaxed(&range->state, RANGE_CACHED);
    range->cached_at_ns = cached_at_ns;
    LIST_INSERT(&oldest, &newest, after, range, next, prev);
    class_push(range);
    hak_stat_add(large_cached_bytes, range->bytes);
}

/* The cached range that holds the unit at p, or NULL. */
static struct range *cached_at(const char *p)
{
    struct map_entry entry = hak_map_get(p);
    struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    return range && range->state == RANGE_CACHED ? range : NULL;
}

/* Of ranges all that is mapped counts as committed. */
static void count_mapped(size_t bytes)
{
    hak_limit_map(bytes);
    hak_limit_commit(bytes);
}

static void count_unmapped(size_t bytes)
{
    hak_limit_uncommit(bytes);
    hak_limit_unmap(bytes);
}

/* Purges a cached range. Returns bytes; 0 if it refused (the range stays). */
static size_t give_back(struct range *range)
{
    size_t bytes = range->bytes;
    hak_map_set(range->base, bytes / SS_UNIT_BYTES, 0, 0);
    if (hak_os_unmap(range->base, bytes)) {
        map_range(range);
        return 0;
    }
    cache_remove(range);
    drop_range(range);
    count_unmapped(bytes);
    hak_adapt_purged(CONTROL_RANGES, bytes);
    return bytes;
}

static size_t purge_older(uint64_t now_ns, uint64_t delay_ns)
{
    size_t bytes = 0;
    struct range *next;
    for (struct range *range = oldest; range && now_ns - range->cached_at_ns >= delay_ns;
         range = next) {
        next = range->next;
        bytes += give_back(range);
    }
    return bytes;
}

/* Purges what is more than the limit: first of classes that keep more than they want, oldest
   first, then of any. */
static size_t keep_within(size_t limit)
{
    size_t bytes = 0;
    for (int any = 0; any < 2; any++) {
        struct range *next;
        for (struct range *range = oldest;
             range && (size_t)hak_stat_get(large_cached_bytes) > limit; range = next) {
            next = range->next;
            if (any || class_cached[class_of(range->bytes)] > hak_adapt_class_keep(range->bytes)) {
                bytes += give_back(range);
            }
        }
    }
    return bytes;
}

/* Unmaps the room of a used range. Returns bytes; 0 if the system refused. */
static size_t cut_room(struct range *range)
{
    size_t was = range->bytes, more = range->state == RANGE_USED ? room_of(range) : 0;
    if (!more) {
        return 0;
    }
    char *end = range->base + was - more;
    hak_map_set(end, more / SS_UNIT_BYTES, 0, 0);
    if (hak_os_unmap(end, more)) {
        map_range(range);
        return 0;
    }
    set_used_bytes(range, was - more);
    count_unmapped(more);
    hak_stat_sub(large_bytes, more);
    hak_adapt_block_resized(was, range->bytes);
    hak_adapt_given();
    return more;
}

/* Cuts the room of used ranges until `wanted` bytes went back, in turn, so that a call for little
   does not look at all ranges each time. */
static size_t give_back_room(size_t wanted)
{
    size_t bytes = 0;
    if (room <= stuck_room) {
        return 0;
    }
    for (uint32_t n = ranges.n; n && room && bytes < wanted; n--) {
        room_at = room_at + 1 < ranges.n ? room_at + 1 : 0;
        bytes += cut_room(hak_range_at(room_at));
    }
    atomic_store_relaxed(&stuck_room, bytes ? (size_t)0 : room);
    return bytes;
}

/* After a refusal: purges whatever is kept. Returns 1 if it is worth to ask again. */
static int make_way(size_t bytes)
{
    note_refusal(bytes);
    size_t purged = purge_older(hak_os_ops.clock_ns(), 0);
    return give_back_room(bytes) != 0 || purged != 0;
}

/* The cached range of the same origin that begins where `range` ends, or NULL. */
static struct range *cached_after(const struct range *range)
{
    struct range *after = cached_at(range->base + range->bytes);
    return after && after->base == range->base + range->bytes && after->origin == range->origin
               ? after
               : NULL;
}

/* Takes in the cached neighbour behind it, if there is one of its origin. */
static void absorb_after(struct range *range)
{
    struct range *after = cached_after(range);
    if (after) {
        cache_remove(after);
        set_bytes(range, range->bytes + after->bytes);
        drop_range(after);
    }
}

/* Cuts `range` after `bytes`; the rest becomes a cached range. If there is no description for it,
   nothing is cut. */
static void split(struct range *range, size_t bytes, uint64_t now_ns)
{
    struct range *rest = new_range();
    if (!rest) {
        return;
    }
    set_extent(rest, range->base + bytes, range->bytes - bytes);
    rest->origin = range->origin;
    rest->is_huge = range->is_huge;
    rest->is_moved = range->is_moved;
    set_bytes(range, bytes);
    absorb_after(rest);
    map_range(rest);
    cache_push(rest, now_ns);
}

static int is_aligned(const void *p, size_t align)
{
    return ((uintptr_t)p & (align - 1)) == 0;
}

/* The first class from `i` up that has a cached range; ACE_CLASSES if none. */
static unsigned next_class(unsigned i)
{
    return hak_bits_next(classes_present, ACE_CLASSES, i, 1);
}

/* The smallest cached range that fits, among the first ones of the lowest class that has one. */
static struct range *best_cached(size_t bytes, size_t align)
{
    struct range *best = NULL;
    for (unsigned i = next_class(class_of(bytes)); i < ACE_CLASSES && !best;
         i = next_class(i + 1)) {
        int looked = 0;
        for (struct range *range = classes[i]; range && looked < BEST_SEARCH;
             range = range->class_next, looked++) {
            if (range->bytes >= bytes && (!best || range->bytes < best->bytes) &&
                is_aligned(range->base, align)) {
                best = range;
            }
        }
    }
    return best;
}

/* The range of the unit at p, if a fresh mapping beside it becomes one with it: the system extends
   a neighbour that has the same advice and was never moved. */
static const struct range *neighbour_at(const char *p, int is_huge)
{
    struct map_entry entry = hak_map_get(p);
    const struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    return range && !range->is_moved && range->is_huge == is_huge ? range : NULL;
}

static uint64_t origin_for(const struct range *range)
{
    const struct range *before = neighbour_at(range->base - 1, range->is_huge);
    const struct range *after = neighbour_at(range->base + range->bytes, range->is_huge);
    return before ? before->origin : after ? after->origin : ++n_origins;
}

static struct range *map_fresh(size_t bytes, size_t align, int is_huge)
{
    struct range *range = hak_limit_admit(bytes, bytes, bytes) ? new_range() : NULL;
    if (!range) {
        return NULL;
    }
    char *base = (char *)hak_os_map_aligned(NULL, bytes, align);
    if (base && hak_map_ensure(base, bytes)) {
        hak_os_unmap_untouched(base, bytes);
        base = NULL;
    }
    if (!base) {
        hak_fail_map(bytes, ENOMEM);
        drop_range(range);
        return NULL;
    }
    if (is_huge) {
        hak_huge_mark(base, bytes);
    }
    count_mapped(bytes);
    set_extent(range, base, bytes);
    range->is_huge = (uint8_t)is_huge;
    range->is_moved = 0;
    range->origin = origin_for(range);
    return range;
}

struct ss_lookup hak_range_describe(const void *p, uint32_t number)
{
    static const struct ss_lookup nothing = {SS_RANGE, 0, 0, NULL, 0, 0};
    const struct range *range = (const struct range *)hak_numbered_find(&ranges, number);
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

/* From the cache. ACE lock held. */
static struct range *take_cached(size_t bytes, size_t align, enum range_use use)
{
    struct range *range = best_cached(bytes, align);
    if (range) {
        cache_remove(range);
        uint64_t wmax = use == RANGE_GROWING && hak_options.wmax_large < GROWING_WMAX
                            ? GROWING_WMAX
                            : hak_options.wmax_large;
        if (range->bytes >
            bytes + (uint64_t)(bytes / SS_UNIT_BYTES * (wmax - 1000) / 1000) * SS_UNIT_BYTES) {
            split(range, bytes, range->cached_at_ns);
        }
    }
    return range;
}

static struct range *take_fresh(size_t bytes, size_t align, enum range_use use)
{
    if (use == RANGE_GROWING) {
        struct range *range = hak_range_is_scarce()
                                  ? NULL
                                  : map_fresh(bytes + round_units(bytes >> GROW_SHIFT), align, 0);
        return range ? range : map_fresh(bytes, align, 0);
    }
    int is_huge = bytes >= HUGE_MIN && align <= HUGE_BYTES &&
                  hak_zero_touched(bytes, use == RANGE_ZEROED) >= HUGE_TOUCHED &&
                  hak_huge_is_wanted((uint64_t)hak_stat_get(large_bytes) +
                                     (uint64_t)hak_stat_get(large_cached_bytes));
    return map_fresh(bytes, is_huge ? HUGE_BYTES : align, is_huge);
}

int hak_range_may_grow(void)
{
    return hak_stat_get(large_growing) < GROWING_MAX;
}

static void start_use(struct range *range, size_t size, enum range_use use, int is_fresh)
{
    range->touched = size;
    atomic_store_relaxed(&range->usable,
                         use == RANGE_GROWING ? usable_with_room(range, size) : range->bytes);
    atomic_store_relaxed(&room, room + room_of(range));
    range->use = (uint8_t)use;
    range->is_fresh = (uint8_t)is_fresh;
    atomic_store_relaxed(&range->state, RANGE_USED);
    map_range(range);
    hak_stat_add(large_bytes, range->bytes);
    hak_stat_add(large_growing, use == RANGE_GROWING);
    hak_adapt_taken(CONTROL_RANGES, is_fresh ? range->bytes : 0);
    hak_adapt_block_taken(range->bytes, !is_fresh,
                          is_fresh ? 0 : hak_os_ops.clock_ns() - range->cached_at_ns);
}

void *hak_range_alloc(size_t size, size_t align, enum range_use use)
{
    size_t bytes = round_units(size);
    hak_lock_acquire(&ace_lock);
    struct range *range = take_cached(bytes, align, use);
    int is_fresh = !range;
    if (!range) {
        range = take_fresh(bytes, align, use);
        if (!range && make_way(bytes)) {
            range = take_fresh(bytes, align, use);
        }
    }
    void *p = range ? range->base : NULL;
    if (range) {
        start_use(range, size, use, is_fresh);
    }
    hak_lock_release(&ace_lock);
    if (p && use == RANGE_ZEROED && !is_fresh) {
        range->is_fresh = (uint8_t)hak_zero_clear(p, range->bytes);
    }
    return p;
}

/* The used range that starts at p, or NULL. */
static struct range *used_at(const void *p)
{
    struct map_entry entry = hak_map_get(p);
    struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    return range && range->state == RANGE_USED && range->base == p ? range : NULL;
}

static struct range *cached_before(const struct range *range)
{
    struct range *before = cached_at(range->base - 1);
    return before && before->base + before->bytes == range->base && before->origin == range->origin
               ? before
               : NULL;
}

/* Merges a range that is about to be cached with cached neighbours. */
static struct range *merge(struct range *range)
{
    absorb_after(range);
    struct range *before = cached_before(range);
    if (before) {
        cache_remove(before);
        set_bytes(before, before->bytes + range->bytes);
        drop_range(range);
        range = before;
    }
    map_range(range);
    return range;
}

void hak_range_free(void *p)
{
    hak_lock_acquire(&ace_lock);
    struct range *range = used_at(p);
    if (!range) {
        struct range *cached = cached_at((const char *)p);
        hak_fatal(cached && cached->base == p ? "block freed twice"
                                              : "invalid pointer freed (not the start of a block)",
                  p);
    }
    if (range->is_fresh) {
        hak_zero_learn(range->base, range->touched, range->use == RANGE_ZEROED);
    }
    hak_stat_sub(large_bytes, range->bytes);
    hak_stat_sub(large_growing, range->use == RANGE_GROWING);
    atomic_store_relaxed(&room, room - room_of(range));
    uint64_t now_ns = hak_os_ops.clock_ns();
    hak_adapt_block_given(range->bytes);
    cache_push(merge(range), now_ns);
    hak_adapt_given();
    (void)purge_older(now_ns, hak_time_ns_of_ms(hak_adapt_delay_ms()));
    (void)keep_within(hak_adapt_range_keep());
    hak_lock_release(&ace_lock);
}

size_t hak_range_size(const void *p)
{
    struct range *range = used_at(p);
    return range ? range->usable : 0;
}

/* Like split, of a used range. */
static void split_used(struct range *range, size_t bytes, uint64_t now_ns)
{
    size_t was = range->bytes;
    split(range, bytes, now_ns);
    atomic_store_relaxed(&room, room - was + range->bytes);
}

/* Makes the range `bytes` long where it lies. Returns 1 on success. ACE lock held. */
static int grow_in_place(struct range *range, size_t bytes)
{
    char *end = range->base + range->bytes;
    struct range *after = cached_after(range);
    if (after && range->bytes + after->bytes >= bytes) {
        cache_remove(after);
        size_t was = range->bytes;
        uint64_t cached_at_ns = after->cached_at_ns;
        set_used_bytes(range, was + after->bytes);
        drop_range(after);
        if (range->bytes - bytes >= SS_UNIT_BYTES) {
            split_used(range, bytes, cached_at_ns);
        }
        hak_adapt_block_resized(was, range->bytes);
        hak_stat_add(large_bytes, range->bytes - was);
        hak_adapt_taken(CONTROL_RANGES, 0);
        map_range(range);
        return 1;
    }
    size_t more = bytes - range->bytes;
    if (!hak_limit_admit(more, bytes, bytes)) {
        return 0;
    }
    /* First the system: it refuses what is too much, for which the map must not grow. */
    if (hak_os_ops.mremap(range->base, range->bytes, bytes, 0, NULL) == MAP_FAILED) {
        return 0;
    }
    if (hak_map_ensure(end, more)) {
        hak_os_unmap_untouched(end, more);
        return 0;
    }
    hak_adapt_block_resized(range->bytes, bytes);
    set_used_bytes(range, bytes);
    hak_stat_add(large_bytes, more);
    count_mapped(more);
    hak_adapt_taken(CONTROL_RANGES, more);
    map_range(range);
    return 1;
}

/* Moves the range's pages to a new place of `bytes`. Returns 1 on success. ACE lock held. */
static int move_pages(struct range *range, size_t bytes)
{
    if (!hak_limit_admit(bytes - range->bytes, bytes, bytes)) {
        return 0;
    }
    char *place = (char *)hak_os_map_aligned(NULL, bytes, SS_UNIT_BYTES);
    if (!place) {
        hak_fail_map(bytes, ENOMEM);
        return 0;
    }
    if (hak_map_ensure(place, bytes)) {
        hak_os_unmap_untouched(place, bytes);
        return 0;
    }
    /* First the map: once the pages have moved, the old addresses may be anybody's. */
    hak_map_set(range->base, range->bytes / SS_UNIT_BYTES, 0, 0);
    if (hak_os_ops.mremap(range->base, range->bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) ==
        MAP_FAILED) {
        /* The kernel may have unmapped `place` before it failed, and another thread may live there
           by now: the address space is left alone. */
        hak_fail_map(bytes, errno);
        map_range(range);
        return 0;
    }
    hak_stat_add(large_bytes, bytes - range->bytes);
    count_mapped(bytes - range->bytes);
    hak_adapt_taken(CONTROL_RANGES, bytes - range->bytes);
    hak_adapt_block_resized(range->bytes, bytes);
    atomic_store_relaxed(&room, room - range->bytes + bytes);
    set_extent(range, place, bytes);
    range->origin = ++n_origins;
    range->is_moved = 1;
    map_range(range);
    return 1;
}

/* The block becomes `size` bytes where it lies. ACE lock held. */
static void shrink(struct range *range, size_t size)
{
    size_t bytes = round_units(size);
    if (range->bytes > KEEP_WHOLE_BYTES && bytes < range->bytes / 2) {
        size_t was = range->bytes;
        split_used(range, bytes, hak_os_ops.clock_ns());
        range->touched = range->touched < range->bytes ? range->touched : range->bytes;
        hak_adapt_block_resized(was, range->bytes);
        hak_stat_sub(large_bytes, was - range->bytes);
        hak_adapt_given();
    }
    set_usable(range, usable_with_room(range, size));
    size_t page = hak_os_page_size();
    size_t keep = (size + page - 1) & ~(page - 1);
    if (range->touched > keep + TAIL_MIN && range->touched - keep > keep >> TAIL_SHIFT &&
        hak_os_purge(range->base + keep, range->bytes - keep) == 0) {
        range->touched = keep;
    }
}

/* Makes the range at least `bytes` long, here or elsewhere. Returns 1 on success. ACE lock held. */
static int grow(struct range *range, size_t bytes)
{
    size_t ahead = bytes + (hak_range_is_scarce() ? 0 : round_units(bytes >> GROW_SHIFT));
    errno = 0;
    if (grow_in_place(range, ahead) || (ahead > bytes && grow_in_place(range, bytes))) {
        return 1;
    }
    /* EFAULT: not one mapping after all; a try to move it would leave its target mapped. */
    return errno != EFAULT &&
           (move_pages(range, ahead) || (ahead > bytes && move_pages(range, bytes)));
}

void *hak_range_resize(void *p, size_t size)
{
    size_t bytes = round_units(size);
    void *result = NULL;
    int saved = errno;
    hak_lock_acquire(&ace_lock);
    struct range *range = used_at(p);
    if (range && bytes <= range->bytes) {
        shrink(range, size);
        result = p;
    } else if (range &&
               (grow(range, bytes) || (errno != EFAULT && make_way(bytes) && grow(range, bytes)))) {
        set_usable(range, usable_with_room(range, size));
        result = range->base;
    }
    if (result && size > range->touched) {
        range->touched = size;
    }
    hak_lock_release(&ace_lock);
    errno = saved;
    return result;
}

size_t hak_range_purge_excess(void)
{
    hak_lock_acquire(&ace_lock);
    size_t bytes = keep_within(hak_adapt_range_keep());
    hak_lock_release(&ace_lock);
    return bytes;
}

size_t hak_range_purge(uint64_t delay_ms)
{
    hak_lock_acquire(&ace_lock);
    size_t bytes = purge_older(hak_os_ops.clock_ns(), hak_time_ns_of_ms(delay_ms));
    hak_lock_release(&ace_lock);
    return bytes;
}

size_t hak_range_purge_room(void)
{
    hak_lock_acquire(&ace_lock);
    size_t bytes = give_back_room(SIZE_MAX);
    hak_lock_release(&ace_lock);
    return bytes;
}

size_t hak_range_room(void)
{
    size_t all = atomic_load_relaxed(&room), stuck = atomic_load_relaxed(&stuck_room);
    return all > stuck ? all - stuck : 0;
}

uint32_t hak_ace_n_ranges(void)
{
    hak_lock_acquire(&ace_lock);
    uint32_t n = ranges.n;
    hak_lock_release(&ace_lock);
    return n;
}

size_t hak_ace_range(uint32_t number, void **start)
{
    hak_lock_acquire(&ace_lock);
    const struct range *range = hak_range_at(number);
    size_t bytes = range->state == RANGE_USED ? range->usable : 0;
    *start = range->base;
    hak_lock_release(&ace_lock);
    return bytes;
}

static int verify_range(const struct range *range)
{
    for (size_t at = 0; at < range->bytes; at += SS_UNIT_BYTES) {
        struct map_entry entry = hak_map_get(range->base + at);
        if (entry.tag != TAG_RANGE || entry.ref != range->number) {
            return VERIFY_RANGE_MAP;
        }
    }
    if (range->state == RANGE_CACHED && cached_after(range)) {
        return VERIFY_RANGE_MERGED;
    }
    if (range->state == RANGE_USED && (!range->usable || range->usable > range->bytes)) {
        return VERIFY_RANGE_USABLE;
    }
    return range->bytes % SS_UNIT_BYTES ? VERIFY_RANGE_UNITS : 0;
}

/* The lists by age and by class hold the same. Returns their bytes, or SIZE_MAX if they are wrong.
 */
static size_t verify_lists(void)
{
    size_t by_age = 0, by_class = 0;
    for (const struct range *range = oldest; range; range = range->next) {
        by_age += range->bytes;
        if (range->state != RANGE_CACHED ||
            (range->next && range->next->cached_at_ns < range->cached_at_ns)) {
            return SIZE_MAX;
        }
    }
    for (unsigned i = 0; i < ACE_CLASSES; i++) {
        if (!classes[i] != !hak_bits_has(classes_present, i)) {
            return SIZE_MAX;
        }
        for (const struct range *range = classes[i]; range; range = range->class_next) {
            by_class += class_of(range->bytes) == i ? range->bytes : SIZE_MAX / 2;
        }
    }
    return by_age == by_class ? by_age : SIZE_MAX;
}

int hak_range_verify(void)
{
    int result = 0;
    size_t used = 0, cached = 0, growing = 0, ahead = 0, n = 0;
    hak_lock_acquire(&ace_lock);
    for (uint32_t i = 0; i < ranges.n && !result; i++) {
        const struct range *range = hak_range_at(i);
        if (range->state != RANGE_IDLE) {
            n++;
            result = verify_range(range);
            *(range->state == RANGE_USED ? &used : &cached) += range->bytes;
            growing += range->state == RANGE_USED && range->use == RANGE_GROWING;
            ahead += range->state == RANGE_USED ? room_of(range) : 0;
        }
    }
    if (!result && cached != verify_lists()) {
        result = VERIFY_RANGE_LISTS;
    }
    if (!result && (used != (size_t)hak_stat_get(large_bytes) || ahead != room ||
                    growing != (size_t)hak_stat_get(large_growing) ||
                    n != (size_t)hak_stat_get(large_ranges) ||
                    cached != (size_t)hak_stat_get(large_cached_bytes))) {
        result = VERIFY_RANGE_TOTALS;
    }
    hak_lock_release(&ace_lock);
    return result;
}
