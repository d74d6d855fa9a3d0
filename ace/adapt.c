/* The process's controller. Called by range.c, ace.c and, through the policy of ace.c, by the pool.

   The law is noted with the lock held where a note changes it; as long as none does (`seen`), calls
   take no lock. */
#include "ace/adapt.h"

#include "ace/ace_class.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "base/verify.h"
#include "superslab/superslab.h"

/* Less is not worth a purge out of turn. */
#define EXCESS ((size_t)128 * HAK_KIB)

static void start_again(void);
static LOCK_DEFINE_MENDED(lock, LOCK_RANK_CONTROL, start_again);
static HAK_LARGE_ZEROS struct control control;
extern struct control hak_adapt_control __attribute__((alias("control")));
static uint32_t is_helped; /* for the next note */

/* What the last note left; written with the lock held, read by any thread, relaxed. At first all is
   0, and the first call is noted. */
static struct {
    uint64_t most[CONTROL_POOLS];  /* what each may have, live and kept */
    uint64_t peaks[CONTROL_POOLS]; /* of this epoch: more live bytes are to be noted */
    uint64_t lone, valley;         /* control.h */
    uint64_t ends_ns;              /* the epoch */
    uint64_t base_ms, horizon_ms;  /* the option's, when noted; how long memory is kept */
    /* Since the last note: calls, of which some are missed that come at the same time; live bytes
       after the last one. */
    uint32_t n_calls;
    uint64_t live[CONTROL_TOTAL];
    uint64_t taken_ns[CONTROL_TOTAL]; /* when the pool last served a request */
    int64_t moved; /* dirty bytes that came from ranges, and are not used or purged yet, at most */
} seen;

static int is_pinned(void)
{
    return hak_options.ace_keep != UINT64_MAX;
}

static uint64_t base_ms_now(void)
{
    uint64_t ms =
        hak_options.ace_horizon_ms ? hak_options.ace_horizon_ms : hak_options.purge_delay_ms;
    return ms > CONTROL_MIN_MS ? ms : CONTROL_MIN_MS;
}

/* Live bytes. What threads keep in freed spans is kept; what growing blocks have ahead was never
   touched, nor were the blocks of slabs that were never handed out: what is kept of slabs, which is
   counted likewise, replaces what was resident. (The secure variant keeps units as a whole.)
   Another thread may be between two of these statistics. */
static inline uint64_t untouched(void)
{
    int64_t bytes = HAK_SECURE ? 0 : hak_stat_get(heap_untouched_bytes);
    return bytes > 0 ? (uint64_t)bytes : 0;
}

/* What superslabs keep beside free units: spans and rows of free blocks, each of which may be
   wanted as it is. */
static inline int64_t besides(void)
{
    return hak_stat_get(span_cache_bytes) + hak_stat_get(depot_row_bytes);
}

static inline uint64_t live_superslabs(void)
{
    int64_t bytes = hak_stat_get(heap_used_bytes) - besides() - (int64_t)untouched();
    return bytes > 0 ? (uint64_t)bytes : 0;
}

/* Of them, what is no slab. */
static uint64_t live_spans(void)
{
    int64_t slabs = hak_stat_get(slabs_made) - hak_stat_get(slabs_returned),
            bytes = (int64_t)(live_superslabs() + untouched()) + hak_stat_get(depot_row_bytes) -
                    slabs * (int64_t)SS_UNIT_BYTES;
    return bytes > 0 ? (uint64_t)bytes : 0;
}

static inline uint64_t live_ranges(void)
{
    int64_t bytes = hak_stat_get(large_bytes) - hak_stat_get(large_room_bytes);
    return bytes > 0 ? (uint64_t)bytes : 0;
}

/* Of a pool, or of both. How far the heap is below its highest goes by what slabs take, too. */
static HAK_ALWAYS_INLINE uint64_t live(enum control_pool pool)
{
    return pool == CONTROL_SUPERSLABS ? live_superslabs()
           : pool == CONTROL_RANGES   ? live_ranges()
                                      : live_superslabs() + untouched() + live_ranges();
}

static void set_seen(void)
{
    for (int pool = 0; pool < CONTROL_POOLS; pool++) {
        atomic_store_relaxed(&seen.most[pool], hak_control_most(&control, (enum control_pool)pool));
        atomic_store_relaxed(&seen.peaks[pool], control.peaks[pool][control.epoch]);
    }
    atomic_store_relaxed(&seen.lone, hak_control_lone(&control));
    atomic_store_relaxed(&seen.valley, hak_control_valley(&control));
    atomic_store_relaxed(&seen.ends_ns, hak_control_ends_ns(&control));
    atomic_store_relaxed(&seen.horizon_ms, control.horizon_ms);
    atomic_store_relaxed(&seen.base_ms, control.base_ms);
    atomic_store_relaxed(&seen.n_calls, 0u);
}

static void note_now(void)
{
    uint64_t now_ns = hak_os_ops.clock_ns(), base_ms = base_ms_now();
    if (control.base_ms != base_ms) {
        hak_control_start(&control, now_ns, base_ms);
    }
    hak_control_set_helped(&control, (int)atomic_load_relaxed(&is_helped));
    hak_control_skip(&control, atomic_load_relaxed(&seen.n_calls),
                     atomic_load_relaxed(&seen.live[CONTROL_SUPERSLABS]),
                     atomic_load_relaxed(&seen.live[CONTROL_RANGES]));
    hak_control_set_spans(&control, live_spans());
    hak_control_set_untouched(&control, untouched());
    hak_control_note(&control, live(CONTROL_SUPERSLABS), live(CONTROL_RANGES), now_ns);
    if (hak_options.ace_horizon_ms) {
        control.horizon_ms = base_ms;
    }
    set_seen();
}

static void note(void)
{
    if (HAK_LIKELY(!hak_lock_passes())) { /* else this thread only looks */
        note_now();
    }
}

/* With an empty history. What is live is counted elsewhere: the pools' bytes by statistics, the
   classes' by atomic additions that the lock does not guard. */
static void start_again(void)
{
    control.base_ms = 0;
    atomic_store_relaxed(&seen.n_calls, 0u);
    atomic_store_relaxed(&seen.moved, (int64_t)0);
    note_now();
}

/* Whether a note would change nothing; then the call is counted. */
static int is_quiet(uint64_t now_ns)
{
    uint64_t superslabs = live_superslabs(), ranges = live_ranges(),
             total = superslabs + untouched() + ranges;
    uint32_t n_calls = atomic_load_relaxed(&seen.n_calls) + 1;
    if (superslabs > atomic_load_relaxed(&seen.peaks[CONTROL_SUPERSLABS]) ||
        ranges > atomic_load_relaxed(&seen.peaks[CONTROL_RANGES]) ||
        total > atomic_load_relaxed(&seen.peaks[CONTROL_TOTAL]) ||
        total < atomic_load_relaxed(&seen.valley) || n_calls >= CONTROL_EPOCH_OPS ||
        base_ms_now() != atomic_load_relaxed(&seen.base_ms) ||
        now_ns >= atomic_load_relaxed(&seen.ends_ns)) {
        return 0;
    }
    atomic_store_relaxed(&seen.n_calls, n_calls);
    atomic_store_relaxed(&seen.live[CONTROL_SUPERSLABS], superslabs);
    atomic_store_relaxed(&seen.live[CONTROL_RANGES], ranges);
    return 1;
}

static uint64_t above(uint64_t most, uint64_t bytes)
{
    return most > bytes ? most - bytes : 0;
}

/* A class may hold ranges that an option lets be larger than any real one. */
static unsigned class_of(size_t bytes)
{
    unsigned i = hak_ace_class_index(bytes);
    return i < ACE_CLASSES ? i : ACE_CLASSES - 1;
}

void hak_adapt_taken(enum control_pool pool, size_t fresh)
{
    uint64_t now_ns = hak_os_ops.clock_ns();
    atomic_store_relaxed(&seen.taken_ns[pool], now_ns);
    if (!fresh && is_quiet(now_ns)) {
        return;
    }
    hak_stat_add(fresh_bytes, fresh);
    hak_lock_acquire(&lock);
    note();
    if (fresh) {
        hak_control_fresh(&control, pool, fresh);
        set_seen();
    }
    hak_lock_release(&lock);
}

void hak_adapt_given(uint64_t now_ns)
{
    if (is_quiet(now_ns)) {
        return;
    }
    hak_lock_acquire(&lock);
    note();
    hak_lock_release(&lock);
}

void hak_adapt_moved(size_t bytes)
{
    (void)atomic_add_relaxed(&seen.moved, (int64_t)bytes);
}

/* So many are gone, or all: some of those that were purged had not come from ranges, and another
   thread may count at the same time. */
static void forget_moved(int64_t bytes)
{
    int64_t moved = atomic_load_relaxed(&seen.moved);
    while (moved > 0 &&
           !atomic_cas_weak_seq(&seen.moved, &moved, moved > bytes ? moved - bytes : (int64_t)0)) {
    }
}

/* What superslabs keep of it, dirty bytes being so many. What is gone is forgotten; another thread
   may do so at the same time. */
static uint64_t moved_of(uint64_t dirty)
{
    int64_t moved = atomic_load_relaxed(&seen.moved);
    if (HAK_UNLIKELY(moved > (int64_t)dirty)) {
        moved = (int64_t)dirty;
        atomic_store_relaxed(&seen.moved, moved);
    }
    return moved > 0 ? (uint64_t)moved : 0;
}

void hak_adapt_set_helped(int helped)
{
    atomic_store_relaxed(&is_helped, (uint32_t)helped);
    atomic_store_relaxed(&seen.ends_ns, (uint64_t)0); /* the next call is noted */
}

/* The clock was read when the pool served the request. */
void hak_adapt_block_taken(size_t class_bytes, int is_hit, uint64_t since_ns)
{
    uint64_t superslabs_ns = atomic_load_relaxed(&seen.taken_ns[CONTROL_SUPERSLABS]),
             ranges_ns = atomic_load_relaxed(&seen.taken_ns[CONTROL_RANGES]),
             now_ns = superslabs_ns > ranges_ns ? superslabs_ns : ranges_ns;
    hak_control_class_note(&control, class_of(class_bytes), (int64_t)class_bytes);
    if (is_hit) {
        hak_control_hit(&control, class_of(class_bytes), above(now_ns, since_ns));
    } else {
        hak_control_miss(&control, class_of(class_bytes));
    }
}

void hak_adapt_block_given(size_t class_bytes)
{
    hak_control_class_note(&control, class_of(class_bytes), -(int64_t)class_bytes);
}

void hak_adapt_class_taken(size_t class_bytes)
{
    hak_control_class_note(&control, class_of(class_bytes), (int64_t)class_bytes);
}

void hak_adapt_class_given(unsigned class_index, size_t bytes)
{
    hak_control_class_note(&control, class_index, -(int64_t)bytes);
}

void hak_adapt_block_resized(size_t before, size_t after)
{
    hak_control_class_note(&control, class_of(before), -(int64_t)before);
    hak_control_class_note(&control, class_of(after), (int64_t)after);
}

void hak_adapt_purged(enum control_pool pool, size_t bytes)
{
    hak_stat_add(returned_bytes, bytes);
    if (pool == CONTROL_SUPERSLABS) {
        forget_moved((int64_t)bytes);
    }
    hak_lock_acquire(&lock);
    note(); /* of a valley it matters where the heap is now */
    hak_control_purged(&control, pool, bytes);
    hak_lock_release(&lock);
}

/* --- what may be kept --- */

static HAK_ALWAYS_INLINE uint64_t keep_of(enum control_pool pool, uint64_t budget)
{
    uint64_t keep = above(atomic_load_relaxed(&seen.most[pool]), live(pool));
    return keep < budget ? keep : budget;
}

/* Before the first note nothing was freed yet. */
static uint64_t total_keep(void)
{
    return atomic_load_relaxed(&seen.base_ms)
               ? keep_of(CONTROL_TOTAL, atomic_load_relaxed(&seen.lone))
               : UINT64_MAX;
}

/* Superslabs have served nothing since the epoch before the last request of ranges. */
static int superslabs_rest(void)
{
    uint64_t ranges_ns = atomic_load_relaxed(&seen.taken_ns[CONTROL_RANGES]),
             superslabs_ns = atomic_load_relaxed(&seen.taken_ns[CONTROL_SUPERSLABS]);
    return ranges_ns > superslabs_ns &&
           ranges_ns - superslabs_ns >
               hak_time_ns_of_ms(atomic_load_relaxed(&seen.base_ms)) / CONTROL_EPOCHS;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The same and, of superslabs, what came from ranges: within the total. */
static uint64_t keep_with_moved(enum control_pool pool, uint64_t total)
{
    uint64_t keep = keep_of(pool, total);
    if (pool == CONTROL_SUPERSLABS) {
        keep = least(keep + moved_of((uint64_t)hak_stat_get(heap_dirty_bytes)), total);
    }
    return keep;
}

/* Of the total. Superslabs have the first claim, unless they rest: then what they keep is the
   older memory. */
static uint64_t keep_now(enum control_pool pool)
{
    uint64_t total = total_keep();
    if (total == UINT64_MAX) {
        return total;
    }
    enum control_pool first = superslabs_rest() ? CONTROL_RANGES : CONTROL_SUPERSLABS;
    uint64_t claim = keep_with_moved(first, total);
    if (pool == first) {
        return claim;
    }
    uint64_t used =
        (uint64_t)(first == CONTROL_SUPERSLABS ? hak_stat_get(heap_dirty_bytes) + besides()
                                               : hak_stat_get(large_cached_bytes));
    return keep_with_moved(pool, total - least(used, claim));
}

size_t hak_adapt_superslab_keep(void)
{
    uint64_t keep = is_pinned() ? hak_options.ace_keep : keep_now(CONTROL_SUPERSLABS);
    return (size_t)above(keep, (uint64_t)besides());
}

int hak_adapt_lists_exceed(void)
{
    uint64_t kept = (uint64_t)(hak_stat_get(heap_dirty_bytes) + besides());
    return hak_adapt_delay_ms() == 0 ||
           kept > (is_pinned() ? hak_options.ace_keep : keep_now(CONTROL_SUPERSLABS));
}

int hak_adapt_may_keep_span(size_t bytes)
{
    uint64_t kept = (uint64_t)(hak_stat_get(heap_dirty_bytes) + besides());
    /* What is live now will be less by these bytes, and what may be kept more. */
    return hak_adapt_delay_ms() != 0 && (is_pinned() ? kept + bytes <= hak_options.ace_keep
                                                     : kept <= keep_now(CONTROL_SUPERSLABS));
}

size_t hak_adapt_range_keep(void)
{
    return (size_t)least(is_pinned() ? hak_options.ace_keep : keep_now(CONTROL_RANGES),
                         hak_options.large_cache_bytes);
}

size_t hak_adapt_class_keep(size_t class_bytes)
{
    return is_pinned() ? SIZE_MAX : (size_t)hak_control_class_keep(&control, class_of(class_bytes));
}

uint64_t hak_adapt_delay_ms(void)
{
    uint64_t ms = atomic_load_relaxed(&seen.horizon_ms);
    return is_pinned() || !hak_options.purge_delay_ms || !ms ? hak_options.purge_delay_ms : ms;
}

int hak_adapt_ranges_exceed(void)
{
    size_t cached = (size_t)hak_stat_get(large_cached_bytes);
    return cached > EXCESS && cached - EXCESS > hak_adapt_range_keep();
}

int hak_adapt_superslabs_exceed(void)
{
    size_t dirty = (size_t)hak_stat_get(heap_dirty_bytes);
    return dirty > EXCESS && dirty - EXCESS > hak_adapt_superslab_keep();
}

void hak_adapt_state(struct adapt_summary *out)
{
    hak_lock_acquire(&lock);
    note();
    for (int pool = 0; pool < CONTROL_POOLS; pool++) { /* a thread that only looks notes nothing */
        out->live[pool] = live((enum control_pool)pool);
    }
    out->horizon_ms = control.horizon_ms;
    out->n_epochs = control.n_epochs;
    out->n_longer = control.n_longer;
    out->n_shorter = control.n_shorter;
    hak_lock_release(&lock);
}

void hak_adapt_class_state(size_t class_bytes, struct control_class *out)
{
    const struct control_class *class = &control.classes[class_of(class_bytes)];
    *out = (struct control_class){.live = atomic_load_relaxed(&class->live),
                                  .hits = atomic_load_relaxed(&class->hits),
                                  .misses = atomic_load_relaxed(&class->misses),
                                  .age_ns = atomic_load_relaxed(&class->age_ns)};
}

void hak_adapt_forget(void)
{
    hak_lock_acquire(&lock);
    start_again();
    hak_lock_release(&lock);
}

int hak_adapt_verify(void)
{
    hak_lock_acquire(&lock);
    note();
    int result = atomic_load_relaxed(&seen.moved) < 0 ? VERIFY_CONTROL_MOVED
                                                      : hak_control_verify_pools(&control);
    hak_lock_release(&lock);
    return result ? result : hak_control_verify_classes(&control);
}
