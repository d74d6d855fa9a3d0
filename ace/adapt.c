/* The process's controller. Called by range.c, ace.c and, through the policy of ace.c, by the pool.
 */
#include "ace/adapt.h"

#include <string.h>

#include "ace/ace_class.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "superslab/superslab.h"

/* Less is not worth a purge out of turn. */
#define EXCESS ((size_t)128 * HAK_KIB)

static LOCK_DEFINE(lock, LOCK_RANK_CONTROL);
static struct control control;
static size_t superslab_keep = SIZE_MAX, range_keep = SIZE_MAX;
static uint32_t is_helped;             /* for the next note */
static uint64_t delay_ms = UINT64_MAX; /* until something was noted: what the option says */

static int is_pinned(void)
{
    return hak_options.ace_keep != UINT64_MAX;
}

/* The targets that follow from the state. Lock held. */
static void set_targets(void)
{
    if (is_pinned()) {
        atomic_store_relaxed(&superslab_keep, (size_t)hak_options.ace_keep);
        atomic_store_relaxed(&range_keep, (size_t)hak_options.ace_keep);
        atomic_store_relaxed(&delay_ms, hak_options.purge_delay_ms);
    } else {
        uint64_t total = hak_control_keep(&control, CONTROL_TOTAL, SIZE_MAX);
        uint64_t superslabs = hak_control_keep(&control, CONTROL_SUPERSLABS, total);
        uint64_t dirty = (uint64_t)hak_stat_get(heap_dirty_bytes);
        dirty = dirty < superslabs ? dirty : superslabs;
        atomic_store_relaxed(&superslab_keep, (size_t)superslabs);
        atomic_store_relaxed(&range_keep,
                             (size_t)hak_control_keep(&control, CONTROL_RANGES, total - dirty));
        atomic_store_relaxed(&delay_ms, hak_options.purge_delay_ms ? control.horizon_ms : 0);
    }
}

static void note(void)
{
    if (HAK_UNLIKELY(hak_lock_passes())) {
        return; /* this thread only looks */
    }
    uint64_t now_ns = hak_os_ops.clock_ns();
    uint64_t base_ms =
        hak_options.ace_horizon_ms ? hak_options.ace_horizon_ms : hak_options.purge_delay_ms;
    base_ms = base_ms > CONTROL_MIN_MS ? base_ms : CONTROL_MIN_MS;
    if (control.base_ms != base_ms) {
        hak_control_start(&control, now_ns, base_ms);
    }
    hak_control_set_helped(&control, (int)atomic_load_relaxed(&is_helped));
    hak_control_note(&control, (uint64_t)hak_stat_get(heap_used_bytes),
                     (uint64_t)hak_stat_get(large_bytes), now_ns);
    if (hak_options.ace_horizon_ms) {
        control.horizon_ms = base_ms;
    }
    set_targets();
}

/* A class may hold ranges that an option lets be larger than any real one. */
static unsigned class_of(size_t bytes)
{
    unsigned i = hak_ace_class_index(bytes);
    return i < ACE_CLASSES ? i : ACE_CLASSES - 1;
}

void hak_adapt_taken(enum control_pool pool, size_t fresh)
{
    hak_stat_add(fresh_bytes, fresh);
    hak_lock_acquire(&lock);
    note();
    hak_control_fresh(&control, pool, fresh);
    hak_lock_release(&lock);
}

void hak_adapt_given(void)
{
    hak_lock_acquire(&lock);
    note();
    hak_lock_release(&lock);
}

void hak_adapt_set_helped(int helped)
{
    atomic_store_relaxed(&is_helped, (uint32_t)helped);
}

void hak_adapt_block_taken(size_t class_bytes, int is_hit, uint64_t age_ns)
{
    hak_lock_acquire(&lock);
    hak_control_class_note(&control, class_of(class_bytes), (int64_t)class_bytes);
    if (is_hit) {
        hak_control_hit(&control, class_of(class_bytes), age_ns);
    } else {
        hak_control_miss(&control, class_of(class_bytes));
    }
    hak_lock_release(&lock);
}

void hak_adapt_block_given(size_t class_bytes)
{
    hak_lock_acquire(&lock);
    hak_control_class_note(&control, class_of(class_bytes), -(int64_t)class_bytes);
    hak_lock_release(&lock);
}

void hak_adapt_block_resized(size_t before, size_t after)
{
    hak_lock_acquire(&lock);
    hak_control_class_note(&control, class_of(before), -(int64_t)before);
    hak_control_class_note(&control, class_of(after), (int64_t)after);
    hak_lock_release(&lock);
}

void hak_adapt_purged(enum control_pool pool, size_t bytes)
{
    hak_stat_add(returned_bytes, bytes);
    hak_lock_acquire(&lock);
    hak_control_purged(&control, pool, bytes);
    hak_lock_release(&lock);
}

size_t hak_adapt_superslab_keep(void)
{
    return atomic_load_relaxed(&superslab_keep);
}

size_t hak_adapt_range_keep(void)
{
    size_t keep = atomic_load_relaxed(&range_keep);
    return keep < hak_options.large_cache_bytes ? keep : (size_t)hak_options.large_cache_bytes;
}

size_t hak_adapt_class_keep(size_t class_bytes)
{
    hak_lock_acquire(&lock);
    size_t keep =
        is_pinned() ? SIZE_MAX : (size_t)hak_control_class_keep(&control, class_of(class_bytes));
    hak_lock_release(&lock);
    return keep;
}

uint64_t hak_adapt_delay_ms(void)
{
    uint64_t ms = atomic_load_relaxed(&delay_ms);
    return ms == UINT64_MAX ? hak_options.purge_delay_ms : ms;
}

int hak_adapt_ranges_exceed(void)
{
    size_t cached = (size_t)hak_stat_get(large_cached_bytes), keep = hak_adapt_range_keep();
    return cached > EXCESS && cached - EXCESS > keep;
}

int hak_adapt_superslabs_exceed(void)
{
    size_t dirty = (size_t)hak_stat_get(heap_dirty_bytes), keep = hak_adapt_superslab_keep();
    return dirty > EXCESS && dirty - EXCESS > keep;
}

void hak_adapt_state(struct adapt_summary *out)
{
    hak_lock_acquire(&lock);
    note();
    memcpy(out->live, control.live, sizeof out->live);
    out->horizon_ms = control.horizon_ms;
    out->n_epochs = control.n_epochs;
    out->n_longer = control.n_longer;
    out->n_shorter = control.n_shorter;
    hak_lock_release(&lock);
}

void hak_adapt_class_state(size_t class_bytes, struct control_class *out)
{
    hak_lock_acquire(&lock);
    *out = control.classes[class_of(class_bytes)];
    hak_lock_release(&lock);
}

void hak_adapt_forget(void)
{
    hak_lock_acquire(&lock);
    control.base_ms = 0;
    note();
    hak_lock_release(&lock);
}

int hak_adapt_verify(void)
{
    hak_lock_acquire(&lock);
    note();
    int result = hak_control_verify(&control);
    hak_lock_release(&lock);
    return result;
}
