/* The process's controller. Called by range.c, ace.c and, through the policy of ace.c, by the pool. */
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
static uint64_t delay_ms = UINT64_MAX; /* until something was noted: what the option says */

static int is_pinned(void)
{
    return options.ace_keep != UINT64_MAX;
}

/* The targets that follow from the state. Lock held. */
static void set_targets(void)
{
    if (is_pinned()) {
        atomic_store_relaxed(&superslab_keep, (size_t)options.ace_keep);
        atomic_store_relaxed(&range_keep, (size_t)options.ace_keep);
        atomic_store_relaxed(&delay_ms, options.purge_delay_ms);
    } else {
        uint64_t total = control_keep(&control, CONTROL_TOTAL, SIZE_MAX);
        uint64_t superslabs = control_keep(&control, CONTROL_SUPERSLABS, total);
        uint64_t dirty = (uint64_t)stat_get(heap_dirty_bytes);
        dirty = dirty < superslabs ? dirty : superslabs;
        atomic_store_relaxed(&superslab_keep, (size_t)superslabs);
        atomic_store_relaxed(&range_keep, (size_t)control_keep(&control, CONTROL_RANGES, total - dirty));
        atomic_store_relaxed(&delay_ms, options.purge_delay_ms ? control.horizon_ms : 0);
    }
}

static void note(void)
{
    if (HAK_UNLIKELY(lock_passes())) {
        return; /* this thread only looks */
    }
    uint64_t now_ns = os_ops.clock_ns();
    uint64_t base_ms = options.ace_horizon_ms ? options.ace_horizon_ms : options.purge_delay_ms;
    base_ms = base_ms > CONTROL_MIN_MS ? base_ms : CONTROL_MIN_MS;
    if (control.base_ms != base_ms) {
        control_start(&control, now_ns, base_ms);
    }
    control_note(&control, (uint64_t)stat_get(heap_used_bytes), (uint64_t)stat_get(large_bytes), now_ns);
    if (options.ace_horizon_ms) {
        control.horizon_ms = base_ms;
    }
    set_targets();
}

/* A class may hold ranges that an option lets be larger than any real one. */
static unsigned class_of(size_t bytes)
{
    unsigned i = ace_class_index(bytes);
    return i < ACE_CLASSES ? i : ACE_CLASSES - 1;
}

void adapt_taken(enum control_pool pool, size_t fresh)
{
    stat_add(fresh_bytes, fresh);
    lock_acquire(&lock);
    note();
    control_fresh(&control, pool, fresh);
    lock_release(&lock);
}

void adapt_given(void)
{
    lock_acquire(&lock);
    note();
    lock_release(&lock);
}

void adapt_block_taken(size_t class_bytes, int is_hit, uint64_t age_ns)
{
    lock_acquire(&lock);
    control_class_note(&control, class_of(class_bytes), (int64_t)class_bytes);
    if (is_hit) {
        control_hit(&control, class_of(class_bytes), age_ns);
    } else {
        control_miss(&control, class_of(class_bytes));
    }
    lock_release(&lock);
}

void adapt_block_given(size_t class_bytes)
{
    lock_acquire(&lock);
    control_class_note(&control, class_of(class_bytes), -(int64_t)class_bytes);
    lock_release(&lock);
}

void adapt_block_resized(size_t before, size_t after)
{
    lock_acquire(&lock);
    control_class_note(&control, class_of(before), -(int64_t)before);
    control_class_note(&control, class_of(after), (int64_t)after);
    lock_release(&lock);
}

void adapt_purged(enum control_pool pool, size_t bytes)
{
    stat_add(returned_bytes, bytes);
    lock_acquire(&lock);
    control_purged(&control, pool, bytes);
    lock_release(&lock);
}

size_t adapt_superslab_keep(void)
{
    return atomic_load_relaxed(&superslab_keep);
}

size_t adapt_range_keep(void)
{
    size_t keep = atomic_load_relaxed(&range_keep);
    return keep < options.large_cache_bytes ? keep : (size_t)options.large_cache_bytes;
}

size_t adapt_class_keep(size_t class_bytes)
{
    lock_acquire(&lock);
    size_t keep = is_pinned() ? SIZE_MAX : (size_t)control_class_keep(&control, class_of(class_bytes));
    lock_release(&lock);
    return keep;
}

uint64_t adapt_delay_ms(void)
{
    uint64_t ms = atomic_load_relaxed(&delay_ms);
    return ms == UINT64_MAX ? options.purge_delay_ms : ms;
}

int adapt_ranges_exceed(void)
{
    size_t cached = (size_t)stat_get(large_cached_bytes), keep = adapt_range_keep();
    return cached > EXCESS && cached - EXCESS > keep;
}

int adapt_superslabs_exceed(void)
{
    size_t dirty = (size_t)stat_get(heap_dirty_bytes), keep = adapt_superslab_keep();
    return dirty > EXCESS && dirty - EXCESS > keep;
}

void adapt_state(struct adapt_summary *out)
{
    lock_acquire(&lock);
    note();
    memcpy(out->live, control.live, sizeof out->live);
    out->horizon_ms = control.horizon_ms;
    out->n_epochs = control.n_epochs;
    out->n_longer = control.n_longer;
    out->n_shorter = control.n_shorter;
    lock_release(&lock);
}

void adapt_class_state(size_t class_bytes, struct control_class *out)
{
    lock_acquire(&lock);
    *out = control.classes[class_of(class_bytes)];
    lock_release(&lock);
}

void adapt_forget(void)
{
    lock_acquire(&lock);
    control.base_ms = 0;
    note();
    lock_release(&lock);
}

int adapt_verify(void)
{
    lock_acquire(&lock);
    note();
    int result = control_verify(&control);
    lock_release(&lock);
    return result;
}
