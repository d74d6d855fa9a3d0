/* Pages that move to other addresses: those of a cached range that is too small into a larger
   block, those of any into a superslab, and a superslab that holds nothing becomes a cached range.
   To move a page takes a fiftieth of the time in which one is purged and another one fetched. One
   lock (rank ACE), for the records alone: a range that moves is busy. Called by range.c, and by the
   pool through ace.c. */
#include <errno.h>
#include <sys/mman.h>

#include "ace/adapt.h"
#include "ace/range_cache.h"
#include "ace/zero.h"
#include "base/os.h"
#include "base/stats.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/pool.h"

/* Where less than this part of the blocks of a size gets touched, pages are of no use to one. */
#define SPARSE_SHIFT 2
/* What a superslab is made of. */
#define REGION_LEAST ((size_t)512 * HAK_KIB)
/* When the system would not move so many, for which it may have left address space mapped, no more
   are tried. */
#define REFUSED_MOST 64u

static uint32_t n_refused;
static uint32_t is_denied; /* the process may not call mremap: no more are tried at all */

static void lock(void)
{
    hak_lock_acquire(&hak_range_lock);
}

static void unlock(void)
{
    hak_lock_release(&hak_range_lock);
}

void hak_range_count_mapped(size_t bytes)
{
    hak_limit_map(bytes);
    hak_limit_commit(bytes);
}

char *hak_range_map_space(size_t bytes, size_t align)
{
    char *base = (char *)hak_os_map_aligned(NULL, bytes, align);
    if (base && hak_map_ensure(base, bytes)) {
        hak_os_unmap_untouched(base, bytes);
        base = NULL;
    }
    if (!base) {
        hak_fail_map(bytes, ENOMEM);
    }
    return base;
}

/* The pages have not moved. No lock. */
static void note_refused(char *place, size_t bytes, int error)
{
    (void)atomic_add_relaxed(&n_refused, 1u);
    if (error == EPERM || error == ENOSYS) { /* by a filter, before the kernel did anything */
        atomic_store_relaxed(&is_denied, 1u);
        hak_os_unmap_untouched(place, bytes);
    }
    /* Else the kernel may have unmapped `place` before it failed, and another thread may live there
       by now: the address space is left alone. */
    if (error != EFAULT) { /* not one mapping after all: the block comes from elsewhere */
        hak_fail_map(bytes, error);
    }
}

static char *place_for(const struct range *range, size_t bytes, size_t align, size_t committed)
{
    size_t more = committed > range->bytes ? committed - range->bytes : 0;
    return !atomic_load_relaxed(&is_denied) && hak_limit_admit(more, committed, committed)
               ? hak_range_map_space(bytes, align)
               : NULL;
}

char *hak_range_move(struct range *range, size_t bytes, size_t align, size_t committed)
{
    char *place = place_for(range, bytes, align, committed);
    if (HAK_UNLIKELY(!place)) {
        hak_range_write_map(range); /* what was cut from another is in the map by its number */
        return NULL;
    }
    /* First the map: once the pages have moved, the old addresses may be anybody's. */
    hak_range_clear_map(range);
    int saved = errno;
    if (hak_os_ops.mremap(range->base, range->bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) ==
        MAP_FAILED) {
        note_refused(place, bytes, errno);
        errno = saved;
        range->is_torn = 1;
        hak_range_write_map(range);
        return NULL;
    }
    hak_map_purge(range->base, range->bytes);
    hak_map_set(place, bytes / SS_UNIT_BYTES, TAG_RANGE, range->number);
    return place;
}

void hak_range_set_moved(struct range *range, char *place, size_t bytes)
{
    hak_range_set_extent(range, place, bytes);
    range->origin = ++hak_range_records.n_origins;
    range->is_moved = 1;
}

/* Each that has moved is a mapping of its own. */
static int may_move(void)
{
    return hak_limit_may_split() && atomic_load_relaxed(&n_refused) < REFUSED_MOST &&
           !atomic_load_relaxed(&is_denied);
}

/* --- into a block --- */

static int wants_pages(size_t size, enum range_use use)
{
    size_t expected =
        use == RANGE_ZEROED ? size / 256 * hak_zero_touched(size, 1) : hak_zero_expected(size);
    return use != RANGE_GROWING && expected > size >> SPARSE_SHIFT;
}

/* The memory of a superslab that holds nothing becomes a cached range. Lets go of the lock. Returns
   whether there was one. */
static int cache_superslab(void)
{
    size_t dirty;
    hak_range_ready(1);
    struct range *range = hak_range_new();
    if (!range) {
        return 0;
    }
    unlock();
    char *base = hak_ss_take_region(&dirty);
    if (base) {
        hak_range_set_extent(range, base, SS_BYTES);
        hak_range_write_map(range);
    }
    lock();
    if (!base) {
        hak_range_drop(range);
        return 0;
    }
    hak_limit_map(SS_BYTES);
    hak_range_set_moved(range, base, SS_BYTES);
    range->is_huge = 0;
    range->dirt = dirty;
    hak_range_push(range, RANGE_DIRTY, hak_os_ops.clock_ns());
    return 1;
}

int hak_range_refill(size_t size, enum range_use use)
{
    const struct range *range = hak_range_full_below(hak_range_round(size));
    return (!range || range->bytes < size / 2) && hak_ss_has_region() && wants_pages(size, use) &&
           cache_superslab();
}

struct range *hak_range_enlarge(size_t size, size_t align, enum range_use use, size_t *fresh)
{
    size_t bytes = hak_range_round(size);
    struct range *range = may_move() ? hak_range_full_below(bytes) : NULL;
    if (!range || !wants_pages(size, use)) {
        return NULL;
    }
    hak_range_take(range);
    unlock();
    char *place = hak_range_move(range, bytes, align, bytes);
    lock();
    if (!place) {
        hak_range_push(range, RANGE_DIRTY, range->cached_at_ns);
        return NULL;
    }
    *fresh = bytes - range->bytes;
    hak_range_count_mapped(*fresh);
    hak_range_set_moved(range, place, bytes);
    range->is_fresh = 0;
    return range;
}

/* --- into a superslab --- */

/* A busy range of at most SS_BYTES, or NULL. */
static struct range *take_for_region(void)
{
    hak_range_ready(1);
    struct range *range = hak_range_full_above(SS_BYTES);
    if (range && range->bytes > SS_BYTES) {
        return hak_range_take_back(range, SS_BYTES);
    }
    range = range ? range : hak_range_full_below(SS_BYTES);
    if (!range || range->bytes < REGION_LEAST) {
        return NULL;
    }
    hak_range_take(range);
    return range;
}

/* Apart, since every process asks, and few have a range. */
static HAK_COLD HAK_NOINLINE char *move_region(size_t *dirty)
{
    lock();
    struct range *range = take_for_region();
    unlock();
    char *place = range ? hak_range_move(range, SS_BYTES, SS_BYTES, 0) : NULL;
    lock();
    if (place) {
        *dirty = range->bytes;
        hak_limit_unmap(range->bytes);
        hak_range_drop(range);
        hak_adapt_moved(*dirty);
    } else if (range) {
        hak_range_push(range, RANGE_DIRTY, range->cached_at_ns);
    }
    unlock();
    return place;
}

char *hak_range_give_region(size_t *dirty)
{
    int may_have = (size_t)hak_stat_get(large_cached_bytes) >= REGION_LEAST;
    return HAK_UNLIKELY(may_have) && may_move() ? move_region(dirty) : NULL;
}
