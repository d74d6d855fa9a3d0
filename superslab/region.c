/* The regions of superslabs and their descriptions: mapped and unmapped with no lock held. Called
   by pool.c and purge.c. */
#include <errno.h>

#include "base/numbered.h"
#include "base/os.h"
#include "base/stats.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/huge.h"
#include "superslab/lists.h"

/* Memory for descriptions is taken for so many at a time. */
#define DESCRIPTIONS HAK_TINY_OR(2u, 16u)
/* Regions ask for huge pages while at most one byte in so many of what slabs and spans take was
   never handed out. */
#define UNTOUCHED_PART 4u
/* And while slabs and spans take so much for each thread's heap but one. */
#define HUGE_A_HEAP HAK_MIB

/* Descriptions that were never used: memory for n_left of them, and more such memory behind it. */
struct room {
    struct superslab *next;
    struct superslab_slabs *next_slabs;
    uint32_t n_left;
};

HAK_LARGE_ZEROS struct numbered hak_pool_superslabs; /* descriptions made so far */
static struct superslab *regionless; /* those without a region, the last one first */
static struct room room, spare_room;
static char *last_region;
static struct superslab *closed; /* in the lists, and not all open yet (make_window). Pool lock */

struct slab *hak_pool_slab_numbered(uint32_t number)
{
    return &hak_pool_superslab((number - 1) / SS_UNITS)->slabs[(number - 1) % SS_UNITS];
}

uint32_t hak_pool_n_superslabs(void)
{
    return hak_numbered_count(&hak_pool_superslabs);
}

void hak_pool_drop_description(struct superslab *ss)
{
    ss->next[SS_BY_RUN] = regionless;
    regionless = ss;
}

/* Memory for DESCRIPTIONS of them: together, so that what stays of each is small. Returns whether
   there is some. No lock held. */
static int make_room(struct room *fresh)
{
    size_t page = hak_os_page_size();
    char *memory = (char *)hak_os_meta_alloc(
        DESCRIPTIONS * (sizeof(struct superslab) + sizeof(struct superslab_slabs)) + page);
    if (!memory) {
        return 0;
    }
    fresh->next = (struct superslab *)(void *)memory;
    fresh->next_slabs =
        (struct superslab_slabs *)(((uintptr_t)(fresh->next + DESCRIPTIONS) + page - 1) &
                                   ~(uintptr_t)(page - 1));
    fresh->n_left = DESCRIPTIONS;
    return 1;
}

/* Another thread may have made some before: then this waits behind it. What two threads too many
   have made at the same moment stays untouched. Pool lock held. */
static void keep_room(const struct room *fresh)
{
    *(room.n_left ? &spare_room : &room) = *fresh;
}

/* One that never had a region; those behind it are not touched. Pool lock held. */
static struct superslab *first_use(void)
{
    uint32_t number = hak_pool_superslabs.n;
    struct superslab *ss = room.next++;
    ss->slabs = room.next_slabs->slabs;
    ss->far_bits = room.next_slabs->far_bits;
    ss->number = number;
    room.next_slabs++;
    if (--room.n_left == 0) {
        room = spare_room;
        spare_room.n_left = 0;
    }
    hak_numbered_add(&hak_pool_superslabs, ss);
    return ss;
}

/* Regions of the secure variant lie apart from the last one by fewer than so many others. */
#define GAPS 8u

/* See REGIONS_APART. */
static size_t gap_before(void)
{
    if (hak_pool_is_apart()) {
        return hak_pool_apart_draw(GAPS) * SS_BYTES;
    }
    return !HAK_SECURE && hak_stat_get(superslabs) < REGIONS_APART ? SS_BYTES : 0;
}

/* Its place is where it was, so that a program whose need swings stays within the same addresses,
   which the map knows already; else below the last one, near it, where the kernel merges neighbours
   into one mapping; where superslabs keep classes, at a distance by chance. */
static char *best_place(const struct superslab *ss)
{
    return ss->last_base ? ss->last_base
           : last_region ? last_region - SS_BYTES - gap_before()
                         : NULL;
}

/* NULL if there is none; then *needs_room says whether memory for more would help. */
static struct superslab *try_description(char **hint, int *needs_room)
{
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = regionless;
    if (ss) {
        regionless = ss->next[SS_BY_RUN];
    } else if (room.n_left && hak_numbered_has_place(&hak_pool_superslabs)) {
        ss = first_use();
    }
    *needs_room = !room.n_left;
    *hint = ss ? best_place(ss) : NULL;
    hak_lock_release(&hak_pool_lock);
    return ss;
}

static struct superslab *take_description(char **hint)
{
    for (;;) {
        int needs_room, has_place = hak_numbered_reserve(&hak_pool_superslabs);
        struct superslab *ss = try_description(hint, &needs_room);
        struct room fresh;
        if (ss || !has_place || (needs_room && !make_room(&fresh))) {
            return ss;
        }
        if (needs_room) {
            hak_lock_acquire(&hak_pool_lock);
            keep_room(&fresh);
            hak_lock_release(&hak_pool_lock);
        }
    }
}

static char *map_region(char *hint)
{
    char *base = (char *)hak_os_map_aligned(hint, SS_BYTES, SS_BYTES);
    if (base && hak_map_ensure(base, SS_BYTES)) {
        hak_os_unmap_untouched(base, SS_BYTES);
        base = NULL;
    }
    return base;
}

/* Its first bytes are dirty already. Pool lock held. */
static void set_dirty(struct superslab *ss, size_t bytes)
{
    if (bytes) {
        hak_granules_set(&ss->dirty, 0, (uint32_t)(bytes / SS_GRANULE_BYTES));
        ss->dirty_since_ns = hak_pool_not_before_last(hak_os_ops.clock_ns());
        hak_stat_add_locked(heap_dirty_bytes, bytes);
    }
}

/* Into the lists. Pool lock held. */
static void enter(struct superslab *ss, char *base, size_t dirty)
{
    ss->slab_mask = 0;
    ss->free = hak_pool_all_granules(ss);
    ss->virgin = hak_pool_keeps_classes(ss) ? ~hak_pool_guards(ss) : 0;
    ss->listed = 0;
    ss->taker = NULL;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        ss->dirty.word[i] = ss->refused.word[i] = ss->leaving.word[i] = 0;
    }
    set_dirty(ss, dirty);
    atomic_store_relaxed(&ss->base, base);
    if (!last_region) { /* it points to a block, perhaps */
        hak_os_note_own(&last_region, sizeof last_region);
    }
    ss->last_base = last_region = base;
    hak_stat_add(superslabs, 1);
    hak_pool_enter(ss);
    hak_pool_keep_closed(ss);
}

/* A huge page is resident as a whole: not where much of what slabs take was never handed out, nor
   where many threads use a little of many classes, which are all that the process has. Nor where it
   would soon be split: by guards, or where secure's large blocks have it, of which only what is
   used has pages. */
static int is_huge_wanted(int is_for_slabs)
{
    if (HAK_SECURE && (!is_for_slabs || hak_pool_is_guarded())) {
        return 0;
    }
    uint64_t used = (uint64_t)hak_stat_get(heap_used_bytes);
    int64_t untouched = hak_stat_get(heap_untouched_bytes);
    int64_t n_heaps = hak_stat_get(heaps) - hak_stat_get(orphans);
    return untouched <= (int64_t)(used / UNTOUCHED_PART) &&
           n_heaps <= (int64_t)(used / HUGE_A_HEAP) + 1 && hak_huge_is_wanted(used);
}

/* Every second unit, and both ends; what lies a MiB before or behind a unit that is used is one. */
#define GUARD_UNITS 0xAAAAD555u
HAK_STATIC_ASSERT(((GUARD_UNITS | GUARD_UNITS << 16 | GUARD_UNITS >> 16) ^ GUARD_UNITS) ==
                      (GUARD_UNITS ^ 0xFFFFFFFFu),
                  "16 units from one that is used lies a guard");
/* Guards are made until a half of the mappings that superslabs and ranges may have are used. */
#define GUARD_SHARE 2
static int is_guarded;

void hak_pool_set_guarded(void)
{
    is_guarded = 1;
}

int hak_pool_is_guarded(void)
{
    return HAK_SECURE && is_guarded;
}

/* The fresh region's guards. What the system refuses stays a hole that may be touched. */
static uint32_t make_guards(char *base)
{
    if (!hak_pool_is_guarded() || hak_stat_get(mappings) >= hak_limit_most_mappings / GUARD_SHARE) {
        return 0;
    }
    for (uint32_t unit = 0; unit < SS_UNITS; unit++) {
        if (GUARD_UNITS >> unit & 1 &&
            hak_os_protect(base + unit * SS_UNIT_BYTES, SS_UNIT_BYTES, OS_UNTOUCHABLE)) {
            break;
        }
    }
    return GUARD_UNITS;
}

/* Of the process's first region only WINDOW units, in its second half, where by chance, may be
   touched until they are all used: what writes or reads far beyond a small program's blocks, in
   either direction, faults, and does not reach the map that lies below the region. At least a MiB
   before them is closed, and a unit behind. The secure variant guards all. */
#define WINDOW       8u
#define WINDOW_FIRST (SS_UNITS / 2)
/* A span of so many granules fits there at a multiple of so many. */
#define WINDOW_SPAN (WINDOW / 2 * SS_GRANULES_OF_A_UNIT)

static uint32_t has_had_first;

/* The units of a fresh region that are closed; none where the system refuses. */
static uint32_t make_window(char *base)
{
    uint32_t first = WINDOW_FIRST + (uint32_t)(hak_link_secret() >> 40) % WINDOW,
             end = first + WINDOW;
    if (HAK_SECURE || atomic_exchange_seq(&has_had_first, 1u) ||
        hak_os_protect(base, first * SS_UNIT_BYTES, OS_UNTOUCHABLE)) {
        return 0;
    }
    uint32_t before = (1u << first) - 1, behind = ~((1u << end) - 1);
    return hak_os_protect(base + end * SS_UNIT_BYTES, SS_BYTES - end * SS_UNIT_BYTES,
                          OS_UNTOUCHABLE)
               ? before
               : before | behind;
}
HAK_STATIC_ASSERT(WINDOW_FIRST + 2 * WINDOW <= SS_UNITS, "a closed unit lies behind");

/* Granules of the units that are about to be opened neither are free nor let the region go. */
static void set_leaving(struct superslab *ss, uint32_t units, int is_leaving)
{
    for (; units; units &= units - 1) {
        uint32_t first = (uint32_t)__builtin_ctz(units) * SS_GRANULES_OF_A_UNIT;
        (is_leaving ? hak_granules_set : hak_granules_clear)(&ss->leaving, first,
                                                             SS_GRANULES_OF_A_UNIT);
    }
}

/* Returns which of the units may be touched now. One system call for each run of them: between them
   lie blocks, of which the program may have protected pages itself. No lock held. */
static uint32_t open_units(char *base, uint32_t units)
{
    uint32_t opened = 0;
    while (units) {
        uint32_t first = (uint32_t)__builtin_ctz(units);
        uint32_t n = (uint32_t)__builtin_ctz(~(units >> first)); /* a window is open: never all */
        uint32_t run = ((1u << n) - 1) << first;
        if (hak_os_protect(base + first * SS_UNIT_BYTES, n * SS_UNIT_BYTES, OS_WRITABLE) == 0) {
            opened |= run;
        }
        units &= ~run;
    }
    return opened;
}

HAK_COLD static int open_rest(struct superslab *ss)
{
    uint32_t units = ss->guards;
    closed = NULL;
    ss->guards = 0;
    set_leaving(ss, units, 1);
    hak_pool_relist(ss);
    hak_lock_release(&hak_pool_lock);
    uint32_t opened = open_units(ss->base, units);
    hak_lock_acquire(&hak_pool_lock);
    set_leaving(ss, units, 0);
    ss->guards = units & ~opened;
    for (uint32_t left = opened; left; left &= left - 1) {
        hak_granules_set(&ss->free, (uint32_t)__builtin_ctz(left) * SS_GRANULES_OF_A_UNIT,
                         SS_GRANULES_OF_A_UNIT);
    }
    hak_pool_keep_closed(ss);
    hak_pool_relist(ss);
    return opened != 0;
}

int hak_pool_open(void)
{
    return HAK_UNLIKELY(closed != NULL) && open_rest(closed);
}

void hak_pool_keep_closed(struct superslab *ss)
{
    closed = !HAK_SECURE && ss->guards ? ss : closed;
}

void hak_pool_forget_closed(const struct superslab *ss)
{
    closed = closed == ss ? NULL : closed;
}

HAK_COLD struct superslab *hak_pool_map_region(uint32_t n, uint32_t align)
{
    int is_for_slabs = n == 0;
    char *hint;
    struct superslab *ss = take_description(&hint);
    int is_huge = is_huge_wanted(is_for_slabs);
    size_t dirty = 0;
    char *base = ss && !HAK_SECURE && !is_huge ? hak_pool_policy()->region(&dirty) : NULL;
    base = base || !ss ? base : map_region(hint);
    if (base) {
        ss->is_huge = (uint8_t)is_huge;
        ss->was_huge = 0;
        if (ss->is_huge) {
            hak_huge_mark(base, SS_BYTES);
        } else {
            hak_os_small_pages(base, SS_BYTES);
        }
        hak_map_touch(base);
        hak_map_set(base, SS_UNITS, TAG_FREE_UNIT, ss->number);
        ss->guards = is_for_slabs ? make_guards(base) : 0;
        if (!HAK_SECURE && !ss->is_huge && !dirty && n <= WINDOW_SPAN && align <= WINDOW_SPAN) {
            ss->guards = make_window(base);
        }
        ss->keeps_classes = (uint8_t)(is_for_slabs && hak_pool_is_apart());
        /* A window's two closed ends are two more, of the process's first region alone. */
        hak_limit_count_mappings(HAK_SECURE && ss->guards ? (int)SS_UNITS : 1);
        hak_limit_map(SS_BYTES);
    } else {
        hak_fail_map(SS_BYTES, ENOMEM);
    }
    hak_lock_acquire(&hak_pool_lock);
    if (base) {
        enter(ss, base, dirty);
    } else if (ss) {
        hak_pool_drop_description(ss);
        ss = NULL;
    }
    return ss;
}
