/* The records of ranges. The lock is the caller's (rank ACE). Called by range.c, range_return.c and
   range_verify.c. */
#include "ace/range_cache.h"

#include "ace/adapt.h"
#include "base/bits.h"
#include "base/list.h"
#include "base/lock_holds.h"
#include "base/os.h"
#include "base/stats.h"
#include "limit/limit.h"

/* How many cached ranges of a class are looked at for the smallest that fits. */
#define BEST_SEARCH 32

/* Moving less costs about as much as fetching it. */
#define MOVED_LEAST ((size_t)128 * HAK_KIB)

LOCK_DEFINE(hak_range_lock, LOCK_RANK_ACE);
HAK_LARGE_ZEROS struct range_records hak_range_records;

#define records hak_range_records

struct range *hak_range_at(uint32_t number)
{
    return (struct range *)hak_numbered_get(&records.all, number);
}

/* --- descriptions --- */

void hak_range_set_state(struct range *range, enum range_state state)
{
    records.n_busy += (state == RANGE_BUSY) - (range->state == RANGE_BUSY);
    atomic_store_relaxed(&range->state, state);
}

static void push_idle(struct range *range)
{
    range->next = records.idle;
    records.idle = range;
    records.n_idle++;
}

/* One more description. Lets go of the lock while the system may be asked for memory. */
static int describe_more(void)
{
    struct range *range = NULL;
    do { /* again if others came first and took the last numbers that there was room for */
        hak_lock_release(&hak_range_lock);
        int has_room = hak_numbered_reserve(&records.all);
        range = range || !has_room ? range : (struct range *)hak_os_meta_alloc(sizeof *range);
        hak_lock_acquire(&hak_range_lock);
        if (!range || !has_room) {
            return 0;
        }
    } while (!hak_numbered_has_place(&records.all));
    range->number = records.all.n;
    hak_numbered_add(&records.all, range);
    push_idle(range);
    return 1;
}

void hak_range_ready(uint32_t n)
{
    while (records.n_idle < n && describe_more()) {
    }
}

struct range *hak_range_new(void)
{
    struct range *range = records.idle;
    if (range) {
        records.idle = range->next;
        records.n_idle--;
        hak_range_set_state(range, RANGE_BUSY);
        range->dirt = 0;
        range->refused_in = 0;
        range->is_torn = 0;
        hak_stat_add(large_ranges, 1);
        hak_limit_count_mappings(1);
    }
    return range;
}

void hak_range_drop(struct range *range)
{
    hak_range_set_state(range, RANGE_IDLE);
    hak_range_set_extent(range, NULL, 0);
    push_idle(range);
    hak_stat_sub(large_ranges, 1);
    hak_limit_count_mappings(-1);
}

void hak_range_set_bytes(struct range *range, size_t bytes)
{
    atomic_store_relaxed(&range->bytes, bytes);
}

void hak_range_set_extent(struct range *range, char *base, size_t bytes)
{
    atomic_store_relaxed(&range->version, range->version + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    atomic_store_relaxed(&range->base, base);
    atomic_store_relaxed(&range->bytes, bytes);
    atomic_store_release(&range->version, range->version + 1);
}

void hak_range_write_map(const struct range *range)
{
    hak_map_set(range->base, range->bytes / SS_UNIT_BYTES, TAG_RANGE, range->number);
}

void hak_range_clear_map(const struct range *range)
{
    hak_map_set(range->base, range->bytes / SS_UNIT_BYTES, 0, 0);
}

/* --- lists --- */

static int is_clean(const struct range *range)
{
    return range->kind == RANGE_CLEAN;
}

/* The class list of a cached range: the largest class that it can serve. */
static unsigned class_of(size_t bytes)
{
    return hak_ace_class_index(bytes);
}

static void class_remove(struct range *range)
{
    unsigned i = class_of(range->bytes);
    int clean = is_clean(range);
    LIST_TAKE_OUT(&records.classes[clean][i], range, class_next, class_prev);
    if (!records.classes[clean][i]) {
        hak_bits_clear(records.present[clean], i);
    }
    if (clean) {
        hak_stat_sub(large_clean_bytes, range->bytes);
    } else {
        records.class_cached[i] -= range->bytes;
        hak_stat_sub(large_cached_bytes, range->bytes);
    }
}

static void class_push(struct range *range)
{
    unsigned i = class_of(range->bytes);
    int clean = is_clean(range);
    LIST_PUSH(&records.classes[clean][i], range, class_next, class_prev);
    hak_bits_set(records.present[clean], i);
    if (clean) {
        hak_stat_add(large_clean_bytes, range->bytes);
    } else {
        records.class_cached[i] += range->bytes;
        hak_stat_add(large_cached_bytes, range->bytes);
    }
}

size_t hak_range_class_cached(size_t bytes)
{
    return records.class_cached[class_of(bytes)];
}

void hak_range_take(struct range *range)
{
    LIST_REMOVE(&records.oldest[range->kind], &records.newest[range->kind], range, next, prev);
    class_remove(range);
    hak_range_set_state(range, RANGE_BUSY);
}

/* Clocks may go back. */
static void append(struct range *range, enum range_kind kind, uint64_t now_ns)
{
    const struct range *newest = records.newest[kind];
    range->kind = (uint8_t)kind;
    range->cached_at_ns = newest && newest->cached_at_ns > now_ns ? newest->cached_at_ns : now_ns;
    hak_range_set_state(range, RANGE_CACHED);
    LIST_APPEND(&records.oldest[kind], &records.newest[kind], range, next, prev);
    class_push(range);
}

struct range *hak_range_cached_at(const char *p)
{
    struct map_entry entry = hak_map_find(p);
    struct range *range = entry.tag == TAG_RANGE ? hak_range_at(entry.ref) : NULL;
    int is_there =
        range && range->state == RANGE_CACHED && (size_t)(p - range->base) < range->bytes;
    return is_there ? range : NULL;
}

struct range *hak_range_after(const struct range *range)
{
    struct range *after = hak_range_cached_at(range->base + range->bytes);
    return after && after->base == range->base + range->bytes && after->origin == range->origin
               ? after
               : NULL;
}

static struct range *before_of(const struct range *range)
{
    struct range *before = hak_range_cached_at(range->base - 1);
    return before && before->base + before->bytes == range->base && before->origin == range->origin
               ? before
               : NULL;
}

/* The larger one of its neighbours of that kind, or NULL. */
static struct range *neighbour_of(const struct range *range, enum range_kind kind)
{
    struct range *before = before_of(range), *after = hak_range_after(range);
    before = before && before->kind == kind ? before : NULL;
    after = after && after->kind == kind ? after : NULL;
    return before && (!after || after->bytes < before->bytes) ? before : after;
}

/* `range` becomes longer by a busy one that touches it, of which the map is written already. */
static void take_in(struct range *range, struct range *part)
{
    size_t bytes = range->bytes + part->bytes;
    if (part->base < range->base) {
        hak_range_set_extent(range, part->base, bytes);
    } else {
        hak_range_set_bytes(range, bytes);
    }
    range->dirt += part->dirt;
    range->is_torn |= part->is_torn;
    range->refused_in = part->refused_in > range->refused_in ? part->refused_in : range->refused_in;
    hak_range_drop(part);
}

/* The map says of the units of `part`, which is busy, that they are the range's of that number.
   Lets go of the lock. */
static void write_map_for(const struct range *part, uint32_t number)
{
    hak_lock_release(&hak_range_lock);
    hak_map_set(part->base, part->bytes / SS_UNIT_BYTES, TAG_RANGE, number);
    hak_lock_acquire(&hak_range_lock);
}

/* A busy range becomes part of a larger cached one, which keeps its place by age. If that has
   become another range in the meantime nothing changes. Returns 1 if it did. */
static int join(struct range *range, struct range *larger)
{
    enum range_kind kind = larger->kind;
    write_map_for(range, larger->number);
    if (larger->state != RANGE_CACHED || larger->kind != kind ||
        (larger != before_of(range) && larger != hak_range_after(range))) {
        write_map_for(range, range->number);
        return 0;
    }
    class_remove(larger);
    take_in(larger, range);
    class_push(larger);
    return 1;
}

void hak_range_push(struct range *range, enum range_kind kind, uint64_t now_ns)
{
    struct range *other;
    while ((other = neighbour_of(range, kind))) {
        if (other->bytes <= range->bytes) {
            hak_range_take(other);
            write_map_for(other, range->number);
            take_in(range, other);
        } else if (join(range, other)) {
            /* If what is joined touches another one now, the smaller of the two is next. */
            range = neighbour_of(other, kind);
            if (!range) {
                return;
            }
            range = other->bytes < range->bytes ? other : range;
            now_ns = range->cached_at_ns;
            hak_range_take(range);
        }
    }
    append(range, kind, now_ns);
}

/* `bytes` of a range with so much dirt have how much, if it is spread evenly? */
static size_t part_of_dirt(const struct range *range, size_t bytes)
{
    size_t share = range->dirt / SS_UNIT_BYTES * (bytes / SS_UNIT_BYTES) /
                   (range->bytes / SS_UNIT_BYTES) * SS_UNIT_BYTES;
    return share < bytes ? share : bytes;
}

/* A busy range for `bytes` at `base`, which are cut from `range`. */
static struct range *new_part(struct range *range, char *base, size_t bytes)
{
    struct range *part = hak_range_new();
    if (part) {
        part->origin = range->origin;
        part->is_huge = range->is_huge;
        part->is_moved = range->is_moved;
        part->is_torn = range->is_torn;
        part->refused_in = range->refused_in;
        part->kind = range->kind;
        part->cached_at_ns = range->cached_at_ns;
        part->dirt = part_of_dirt(range, bytes);
        hak_range_set_extent(part, base, bytes);
    }
    return part;
}

static void shorten(struct range *range, char *base, size_t bytes, size_t dirt)
{
    size_t rest = range->dirt > dirt ? range->dirt - dirt : 0;
    class_remove(range);
    range->dirt = rest < bytes ? rest : bytes;
    if (range->base == base) {
        hak_range_set_bytes(range, bytes);
    } else {
        hak_range_set_extent(range, base, bytes);
    }
    class_push(range);
}

struct range *hak_range_take_front(struct range *range, size_t bytes)
{
    struct range *part = new_part(range, range->base, bytes);
    if (part) {
        shorten(range, range->base + bytes, range->bytes - bytes, part->dirt);
    }
    return part;
}

struct range *hak_range_take_back(struct range *range, size_t bytes)
{
    struct range *part = new_part(range, range->base + range->bytes - bytes, bytes);
    if (part) {
        shorten(range, range->base, range->bytes - bytes, part->dirt);
    }
    return part;
}

void hak_range_cut_front(struct range *range, size_t bytes)
{
    shorten(range, range->base + bytes, range->bytes - bytes, part_of_dirt(range, bytes));
}

static int is_aligned(const void *p, size_t align)
{
    return ((uintptr_t)p & (align - 1)) == 0;
}

static struct range *best_of(int clean, size_t bytes, size_t align)
{
    struct range *best = NULL;
    const uint64_t *present = records.present[clean];
    for (unsigned i = hak_bits_next(present, ACE_CLASSES, class_of(bytes), 1);
         i < ACE_CLASSES && !best; i = hak_bits_next(present, ACE_CLASSES, i + 1, 1)) {
        int looked = 0;
        for (struct range *range = records.classes[clean][i]; range && looked < BEST_SEARCH;
             range = range->class_next, looked++) {
            hak_lock_step(1);
            if (range->bytes >= bytes && (!best || range->bytes < best->bytes) &&
                is_aligned(range->base, align)) {
                best = range;
            }
        }
    }
    return best;
}

struct range *hak_range_best(size_t bytes, size_t align)
{
    struct range *best = best_of(0, bytes, align);
    return best ? best : best_of(1, bytes, align);
}

static int is_full(const struct range *range)
{
    return range->kind == RANGE_DIRTY && !range->is_torn && !range->is_huge &&
           range->dirt >= range->bytes / 2;
}

struct range *hak_range_full_below(size_t bytes)
{
    struct range *largest = NULL;
    int looked = 0; /* in all */
    for (unsigned i = class_of(bytes), last = class_of(MOVED_LEAST); i >= last && !largest; i--) {
        for (struct range *range = records.classes[0][i]; range && looked < BEST_SEARCH / 2;
             range = range->class_next, looked++) {
            hak_lock_step(1);
            if (range->bytes < bytes && (!largest || range->bytes > largest->bytes) &&
                is_full(range)) {
                largest = range;
            }
        }
    }
    return largest;
}

struct range *hak_range_full_above(size_t bytes)
{
    struct range *range = best_of(0, bytes, 1);
    return range && is_full(range) ? range : NULL;
}

/* --- the room of used ranges --- */

void hak_range_note_room(struct range *range)
{
    int is_roomy = range->state == RANGE_USED && !range->is_pinned && hak_range_room_of(range) != 0;
    if (is_roomy && !range->is_roomy) {
        LIST_APPEND(&records.roomy, &records.last_roomy, range, next, prev);
    } else if (!is_roomy && range->is_roomy) {
        LIST_REMOVE(&records.roomy, &records.last_roomy, range, next, prev);
    }
    range->is_roomy = (uint8_t)is_roomy;
}

void hak_range_set_used_bytes(struct range *range, size_t bytes)
{
    hak_stat_add(large_room_bytes, bytes - range->bytes);
    hak_range_set_bytes(range, bytes);
    range->touched = range->touched < bytes ? range->touched : bytes;
    hak_range_note_room(range);
}

void hak_range_set_usable(struct range *range, size_t usable)
{
    hak_stat_add(large_room_bytes, hak_range_round(range->usable) - hak_range_round(usable));
    atomic_store_relaxed(&range->usable, usable);
    hak_range_note_room(range);
}
