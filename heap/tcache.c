/* The thread cache's slow half: filling an empty bin, emptying a full one. The bins belong to the
   calling thread; the heap's lock is taken for what lies behind them. Called by the fast paths
   through api.c, and at a thread's end. */
#include <errno.h>
#include <string.h>

#include "ace/adapt.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "heap/background.h"
#include "heap/common.h"
#include "heap/depot.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "heap/small.h"
#include "heap/tcache.h"

#include <string.h>

/* One slow path in so many sends what waits in the outbox, so that a thread that rarely frees
   remotely holds nothing long. */
#define SEND_EVERY 64u
HAK_STATIC_ASSERT(SC_N_CLASSES <= 64, "a bit for each class");
/* The bin of a thread that only frees is halved, down to so many blocks. */
#define SHRINK_TO HAK_TINY_OR(2u, 32u)
/* See note_swing. */
#define MID_SWING_MOST 64
#define MID_SWING_LOSS 4
/* Lists of so many bytes may be what keeps a slab from being empty; so many blocks at most are
   flushed for a slab that is to be made; and at most so many are made without where that is in
   vain. */
#define RELIEVE_LEAST HAK_TINY_OR(64u, SC_SLAB_BYTES / 2)
#define RELIEVE_MOST  HAK_TINY_OR(64u, 4096u)
#define RELIEVE_PAUSE HAK_TINY_OR(3u, 63u)
/* A heap falls once it has flushed half of its slabs' bytes more than it took, if they are so many
   times what lists may keep. Lists have so many blocks when it has flushed three quarters. */
#define FALL_TIMES HAK_TINY_OR(256u, 4u)
#define FALL_TO    HAK_TINY_OR(2u, 8u)
/* A list is scattered if so many of its first links lead to other slabs, of so many looked at. */
#define SCATTER_LOOK  HAK_TINY_OR(3u, 8u)
#define SCATTER_LEAST HAK_TINY_OR(2u, 4u)
/* While rows wait and more is kept than may be, so many times what is freed goes back. */
#define SHORTEN_TIMES 4u
/* After two and three times so many lists in a row of blocks that were never handed out, two and
   four times as much of them is touched at a time: at most one part in RISE_FRESH of what the class
   has taken by then. */
#define RISE_FRESH HAK_TINY_OR(3u, 32u)
/* Then the pages at a fresh slab's front that the next list touches are fetched together, and more
   of them the longer that goes on: all after 6 * RISE_FRESH lists, one part in RISE_FRESH of those.
   Not those of blocks above a page, whose program may touch one page of each. */
HAK_STATIC_ASSERT(6 * RISE_FRESH <= UINT8_MAX, "n_fresh counts so far");

HAK_LARGE_DATA uint16_t hak_tc_mid_bin_of[(SC_SMALL_MAX >> SC_GRANULE_SHIFT) + 1] = {
#define C(size_class) (size_class) << TAG_BIN_SHIFT,
#include "base/size_class_of.def"
#undef C
};
HAK_STATIC_ASSERT(offsetof(struct theap, metered) + sizeof(((struct theap *)0)->metered) <=
                      UINT16_MAX,
                  "bins are found by offsets of 16 bits");

/* Both limits as the class's pool wants them. */
static uint32_t largest_limit(uint32_t size_class)
{
    return hak_owner_largest_limit(hak_small_policy(size_class), size_class);
}

static uint32_t first_limit(uint32_t size_class)
{
    return hak_owner_first_limit(hak_small_policy(size_class), size_class);
}

/* --- metered bins --- */

static uint16_t offset_of(uint32_t size_class, int is_metered)
{
    return (uint16_t)((is_metered ? offsetof(struct theap, metered) : 0) +
                      (size_class << TAG_BIN_SHIFT));
}

static void init_metered(struct theap *heap)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        hak_tc_bin_set(&heap->metered[c], NULL);
        heap->metered[c].room = 0;
        heap->metered[c].size = (uint16_t)hak_sc_table[c].size;
    }
    heap->has_metered = 1;
}

void hak_tc_set_metered(struct theap *heap, int is_metered)
{
    if (is_metered && !heap->has_metered) {
        init_metered(heap);
    }
    atomic_store_release(&heap->is_metered, (uint32_t)is_metered);
    for (uint32_t i = 0; i < TINY_GRANULES; i++) {
        atomic_store_release(&heap->tiny_bin[i], offset_of(hak_sc_of_granules[i], is_metered));
    }
}

void hak_tc_set_mid_metered(int is_metered)
{
    if (is_metered && !hak_theap_none.has_metered) {
        init_metered(&hak_theap_none);
    }
    for (uint32_t i = 0; i < sizeof hak_tc_mid_bin_of / sizeof hak_tc_mid_bin_of[0]; i++) {
        uint32_t size_class = hak_sc_of((size_t)i << SC_GRANULE_SHIFT);
        atomic_store_release(&hak_tc_mid_bin_of[i], offset_of(size_class, is_metered));
    }
}

uint32_t hak_tc_meter(struct theap *heap, uint32_t size_class, uint32_t most)
{
    struct bin *from = &heap->bins[size_class], *to = &heap->metered[size_class];
    uint32_t count = hak_tc_count(heap, size_class);
    void *head = hak_tc_bin_first(from);
    HAK_DEBUG_ASSERT(heap->has_metered && !hak_tc_bin_first(to) && to->room == 0);
    if (!head || !most) {
        return 0;
    }
    if (HAK_LIKELY(count <= most)) {
        to->head = head;
        hak_tc_bin_set(from, NULL);
        from->room = heap->limits[size_class];
    } else {
        void *last = head;
        for (count = 1; count < most; count++) {
            last = hak_link_next(last);
        }
        hak_tc_bin_set(from, hak_link_next(last));
        from->room += (int32_t)count;
        hak_link_set(last, NULL);
        to->head = head;
    }
    to->room = -(int32_t)count;
    return count;
}

/* What metering has left; the list, whose length goes to *count. */
static void *take_metered(struct theap *heap, uint32_t size_class, uint32_t *count)
{
    struct bin *bin = &heap->metered[size_class];
    void *head = heap->has_metered ? hak_tc_bin_first(bin) : NULL;
    if (HAK_UNLIKELY(head != NULL)) {
        *count = (uint32_t)-bin->room;
        bin->room = 0;
        hak_tc_bin_set(bin, NULL);
        bin->left += *count;
    }
    return head;
}

/* --- limits --- */

/* Lists of the class may be long enough to be flushed before the process grows (relieve). */
static void note_long(struct theap *heap, uint32_t size_class)
{
    int is_long =
        (heap->limits[size_class] + (size_t)1) * hak_sc_table[size_class].size >= RELIEVE_LEAST;
    heap->long_limits &= ~((uint64_t)1 << size_class);
    heap->long_limits |= (uint64_t)is_long << size_class;
}

HAK_COLD void hak_tc_init(struct theap *heap)
{
    heap->awake = heap->is_largest = 0;
    heap->mid_more = heap->fallen = 0;
    heap->mid_swing = 0;
    heap->common_kept_in = heap->common_kept = 0;
    heap->window_left = TC_SLEEP_WINDOW;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        heap->n_overflows[c] =
            TC_ONLY_FREES; /* until it is filled once: who only frees needs no larger bin */
        heap->n_fresh[c] = 0;
        atomic_store_relaxed(&heap->limits[c], (uint16_t)first_limit(c));
        note_long(heap, c);
        struct bin *bin = &heap->bins[c]; /* what the thread has used of common heaps stays */
        hak_tc_bin_set(bin, NULL);
        bin->room = (int32_t)heap->limits[c];
        bin->magic = hak_sc_table[c].magic;
        bin->limit = hak_sc_table[c].limit;
        bin->size = (uint16_t)hak_sc_table[c].size;
        bin->slack = (uint16_t)(bin->size - hak_sc_least_kept(bin->size));
        heap->spares[c] = (struct spare){NULL, 0};
    }
    if (!heap->tiny_bin[TINY_GRANULES - 1]) { /* later other threads write it too */
        hak_tc_set_metered(heap, 0);
    }
    if (heap->has_metered) {
        init_metered(heap);
    }
    for (uint32_t i = 0; i < OUTBOX_SLOTS; i++) {
        heap->outbox[i] = (struct outbox_slot){(void *)(uintptr_t)hak_link_end, 0, 0, 0, 0};
    }
    heap->last_slot = &heap->outbox[0];
}

static void set_limit(struct theap *heap, uint32_t size_class, uint32_t limit, int64_t bytes)
{
    hak_stat_add(bin_budget, bytes);
    heap->budget += (uint64_t)bytes;
    heap->bins[size_class].room += (int32_t)(limit - heap->limits[size_class]);
    atomic_store_relaxed(&heap->limits[size_class], (uint16_t)limit);
    note_long(heap, size_class);
}

/* How much more of the budget the class's two lists take with that limit: every class may have its
   first one. */
static int64_t bytes_between(const struct theap *heap, uint32_t size_class, uint32_t limit)
{
    uint32_t first = first_limit(size_class), was = heap->limits[size_class];
    return ((int64_t)(limit > first ? limit : first) - (was > first ? was : first)) * 2 *
           hak_sc_table[size_class].size;
}

/* Whether a heap's mid blocks swing: of its refills, nearly all come out of the depot. Where slabs
   fill and empty by turns, large bins would only keep memory from other classes. */
static void note_swing(struct theap *heap, uint32_t size_class, int is_from_depot)
{
    if (hak_mid_is_class(size_class)) {
        int32_t swing = heap->mid_swing + (is_from_depot ? 1 : -MID_SWING_LOSS);
        heap->mid_swing = swing < 0 ? 0 : swing > MID_SWING_MOST ? MID_SWING_MOST : swing;
    }
}

static uint64_t mid_share(const struct theap *heap)
{
    return (uint64_t)heap->n_slabs * (SC_SLAB_BYTES / TC_MID_SHARE);
}

static void set_smaller_limit(struct theap *heap, uint32_t size_class, uint32_t smaller)
{
    heap->is_largest &= ~((uint64_t)1 << size_class);
    uint32_t most = largest_limit(size_class);
    if (HAK_UNLIKELY(heap->limits[size_class] > most)) {
        heap->mid_more +=
            (uint64_t)bytes_between(heap, size_class, smaller > most ? smaller : most);
    }
    set_limit(heap, size_class, smaller, bytes_between(heap, size_class, smaller));
}

/* The lists of a mid class may hold more than its policy says, if the heap is large: what they hold
   comes and goes by no lock, while each list of the depot costs two slow paths, which look at each
   of its blocks. */
static void grow_mid_limit(struct theap *heap, uint32_t size_class)
{
    uint32_t limit = heap->limits[size_class];
    uint32_t most =
        hak_owner_list_limit(&hak_mid_policy, size_class, hak_options.bin_bytes * TC_MID_TIMES);
    if (limit >= most || !hak_options.bin_adapt) {
        heap->is_largest |= (uint64_t)1 << size_class;
        return;
    }
    uint32_t grown = limit * 2 < most ? limit * 2 : most;
    int64_t bytes = bytes_between(heap, size_class, grown);
    if (heap->mid_swing == MID_SWING_MOST && heap->mid_more + (uint64_t)bytes <= mid_share(heap) &&
        hak_stat_get(bin_budget) + bytes <= (int64_t)hak_options.cache_bytes / 2) {
        heap->mid_more += (uint64_t)bytes;
        set_limit(heap, size_class, grown, bytes);
    }
}

/* A bin that was missed earns a larger limit, within the class's largest and the process's budget.
 */
static void grow_limit(struct theap *heap, uint32_t size_class)
{
    uint32_t limit = heap->limits[size_class];
    if (heap->is_largest >> size_class & 1) {
        return;
    }
    uint32_t most = largest_limit(size_class);
    if (limit >= most && hak_mid_is_class(size_class)) {
        grow_mid_limit(heap, size_class);
        return;
    }
    if (limit >= most) {
        heap->is_largest |= (uint64_t)1 << size_class;
        return;
    }
    uint32_t grown = limit * 2 < most ? limit * 2 : most;
    int64_t bytes = bytes_between(heap, size_class, grown);
    if (hak_stat_get(bin_budget) + bytes > (int64_t)hak_options.cache_bytes) {
        return;
    }
    set_limit(heap, size_class, grown, bytes);
    heap->is_largest |= (uint64_t)(grown == most && !hak_mid_is_class(size_class)) << size_class;
}

/* A thread that frees and frees needs no large bin, and would leave one full of blocks from all
   over its slabs behind it when it goes to sleep. The bin holds at most one block now. */
static void shrink_limit(struct theap *heap, uint32_t size_class, uint32_t least)
{
    uint32_t limit = heap->limits[size_class];
    if (limit > least) {
        set_smaller_limit(heap, size_class, limit / 2 > least ? limit / 2 : least);
    }
}

/* --- a heap that falls --- */

static void note_flushed(struct theap *heap, uint32_t size_class, uint32_t count)
{
    heap->fallen += (uint64_t)count * hak_sc_table[size_class].size;
}

/* What is taken counts twice: who frees and allocates by turns does not fall. */
static void note_taken(struct theap *heap, uint32_t size_class, uint32_t count)
{
    uint64_t taken = (uint64_t)count * 2 * hak_sc_table[size_class].size;
    heap->fallen -= taken < heap->fallen ? taken : heap->fallen;
}

/* 1 if the heap was large and half of it is free, 2 if three quarters are. Its lists would hold
   single blocks from all over its slabs, each of which keeps 64 KiB, and may be all that is left
   when the thread goes to sleep. While it keeps freeing, lists go to their slabs, and with each a
   list of the depot; in the end they are short. */
static int falls(const struct theap *heap)
{
    uint64_t bytes = (uint64_t)heap->n_slabs * SC_SLAB_BYTES;
    if (HAK_LIKELY(heap->fallen <= bytes / 2) || bytes <= hak_options.cache_bytes * FALL_TIMES) {
        return 0;
    }
    return heap->fallen <= bytes / 4 * 3 ? 1 : 2;
}

/* Flushes a list and forgets it under the lock, so that no block is in a bin and, once the lock is
   free, in another thread's hands. `empty`: what *head is then. A free may end here, and the
   system fail: errno stays. */
static void put_list(struct theap *heap, uint32_t size_class, void **head, const void *empty)
{
    int saved = errno;
    hak_lock_acquire(&heap->owner.lock);
    hak_remote_receive(heap);
    hak_small_put_list(&heap->owner, size_class, *head);
    *head = (void *)(uintptr_t)empty;
    hak_theap_unlock(heap);
    errno = saved;
    hak_stat_add(flushes, 1);
}

/* 1 if the list's first blocks lie in slabs by turns: then so do the others, as a rule. */
static int is_scattered(const void *head)
{
    uint32_t n = 0;
    const void *block = head;
    for (uint32_t i = 0; i < SCATTER_LOOK && block != (const void *)hak_link_end; i++) {
        const void *next = hak_link_follow(block);
        n += !hak_slab_is_same(block, next);
        block = next;
        if (i == SCATTER_LOOK / 2 && !n) {
            return 0;
        }
    }
    return n >= SCATTER_LEAST;
}

static void note_slow(struct theap *heap)
{
    atomic_store_relaxed(&heap->n_slow, heap->n_slow + 1);
}

/* 1 if the list's first blocks lie in a row: side by side or two apart, in one direction. */
static int lies_in_row(const void *head, size_t size)
{
    const char *block = head, *next = hak_link_follow(block);
    ptrdiff_t step = next - block;
    if (next == (const char *)hak_link_end || (size_t)step + 2 * size > 4 * size) {
        return 0;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < SCATTER_LOOK && next != (const char *)hak_link_end; i++) {
        block = next;
        next = hak_link_follow(block);
        n += next - block == step;
    }
    return n >= SCATTER_LOOK - 1;
}

/* What waits goes back when the thread sleeps; a lone one sleeps with all that it keeps. */
static int is_seen_to(void)
{
    return atomic_load_relaxed(&hak_background_state) == BACKGROUND_RUNNING ||
           hak_theap_n_live() < 2;
}

/* A row may wait in the depot: lists did not leave it in vain of late, and what waits is no more
   than may be kept. Variants that validate look at each block as soon as a bin overflows. */
static int may_row_wait(struct theap *heap, uint32_t size_class, const void *head)
{
    if (HAK_VALIDATE || HAK_SECURE || !is_seen_to() ||
        !lies_in_row(head, hak_sc_table[size_class].size)) {
        return 0;
    }
    uint32_t wait = atomic_load_relaxed(&heap->row_wait);
    if (wait) {
        atomic_store_relaxed(&heap->row_wait, wait - 1);
    }
    hak_adapt_given(hak_os_ops.clock_ns()); /* what waits is free, though its slabs are not */
    return wait <= 1 && !hak_adapt_lists_exceed();
}

/* A list that a bin overflowed with goes to the depot, if it is of mid blocks or scattered, or a
   row that may wait, and there is room, which is returned, or to its slabs. A free may end here,
   and the system fail: errno stays. */
static int retire_list(struct theap *heap, uint32_t size_class, void *head, uint32_t count)
{
    int saved = errno;
    int may_wait = hak_mid_is_class(size_class) || is_scattered(head);
    int is_row = !may_wait && may_row_wait(heap, size_class, head);
    note_slow(heap);
    hak_lock_acquire(&heap->owner.lock);
    hak_remote_receive(heap);
    int is_falling = falls(heap);
    int is_kept = !is_falling && (may_wait || is_row) &&
                  hak_depot_put(heap, size_class, head, count, is_row ? DEPOT_ROW : DEPOT_LIST);
    if (!is_kept) {
        hak_small_put_list(&heap->owner, size_class, head);
        note_flushed(heap, size_class, count);
    }
    if (is_falling) {
        uint64_t before = heap->depot_bytes[0] + heap->depot_bytes[1];
        (void)hak_depot_give_back(heap, 1);
        heap->fallen += before - heap->depot_bytes[0] - heap->depot_bytes[1];
    } else if (!is_kept && heap->row_bytes && hak_adapt_lists_exceed()) {
        hak_depot_shorten(heap, (uint64_t)count * hak_sc_table[size_class].size * SHORTEN_TIMES);
    }
    hak_theap_unlock(heap);
    errno = saved;
    hak_stat_add(flushes, 1);
    return is_kept;
}

/* A bin that took no slow path for a whole window sleeps: what it holds goes back, and half of its
   limit. So it does of a mid class whose bins may hold more than the heap has become worth. */
static void lull(struct theap *heap, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    struct spare *spare = &heap->spares[size_class];
    uint32_t limit = heap->limits[size_class], first = first_limit(size_class);
    if (limit <= first) {
        return;
    }
    if (hak_tc_bin_first(bin)) {
        put_list(heap, size_class, &bin->head, hak_link_end);
        bin->room = (int32_t)limit;
    }
    if (spare->head) {
        put_list(heap, size_class, &spare->head, NULL);
        spare->count = 0;
    }
    set_smaller_limit(heap, size_class, limit / 2 > first ? limit / 2 : first);
}

/* Once in TC_SLEEP_WINDOW slow paths of the heap. */
static void end_window(struct theap *heap)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        int is_too_large = heap->mid_more > mid_share(heap) && heap->limits[c] > largest_limit(c);
        if (!(heap->awake >> c & 1) || is_too_large) {
            lull(heap, c);
        }
    }
    hak_depot_end_window(heap, heap->awake);
    hak_parked_rest();
    heap->awake = 0;
    heap->window_left = TC_SLEEP_WINDOW;
    heap->n_levelled = 0;
}

void hak_tc_overflow(struct theap *heap, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    struct spare *spare = &heap->spares[size_class];
    void *old = spare->head;
    uint32_t old_count = spare->count;
    if (old && HAK_UNLIKELY(!hak_gate_enter())) {
        return; /* the bin holds more than its limit until the gate is open */
    }
    heap->awake |= (uint64_t)1 << size_class;
    heap->n_fresh[size_class] = 0;
    /* The newest block stays, so that a block freed twice in a row is seen here too. */
    void *newest = bin->head, *others = hak_link_next(newest);
    hak_link_set(newest, NULL);
    bin->head = newest;
    /* Whoever looks from a signal handler (exit.h) sees no block in two lists. */
    __atomic_signal_fence(__ATOMIC_RELEASE);
    spare->head = others;
    spare->count = (uint32_t)(heap->limits[size_class] - bin->room) - 1;
    bin->room = heap->limits[size_class] - 1;
    if (old) {
        int is_kept = retire_list(heap, size_class, old, old_count);
        int falling = falls(heap);
        if (HAK_UNLIKELY(falling > 1)) {
            shrink_limit(heap, size_class, FALL_TO);
        } else if (!falling && !hak_tc_only_frees(heap, size_class)) {
            heap->n_overflows[size_class]++;
            grow_limit(heap, size_class);
        } else if (!falling && !is_kept) {
            uint32_t first = first_limit(size_class);
            shrink_limit(heap, size_class, first > SHRINK_TO ? first : SHRINK_TO);
        }
        hak_gate_leave();
    }
}

/* The class's spare, or its bin, goes back. Returns its bytes. Heap lock held. */
static uint64_t put_one_list(struct theap *heap, uint32_t size_class, int is_spare)
{
    struct bin *bin = &heap->bins[size_class];
    struct spare *spare = &heap->spares[size_class];
    uint32_t count = is_spare ? spare->count : hak_tc_count(heap, size_class), metered = 0;
    hak_small_put_list(&heap->owner, size_class, is_spare ? spare->head : hak_tc_bin_first(bin));
    if (is_spare) {
        *spare = (struct spare){NULL, 0};
        hak_small_put_list(&heap->owner, size_class, take_metered(heap, size_class, &metered));
    } else {
        hak_tc_bin_set(bin, NULL);
        bin->room = heap->limits[size_class];
    }
    return (uint64_t)(count + metered) * hak_sc_table[size_class].size;
}

/* The pool has a slab's worth of memory that is resident, as far as free units are. */
static int has_resident(void)
{
    return hak_stat_get(heap_dirty_bytes) >= (int64_t)SC_SLAB_BYTES;
}

/* The process is about to grow by a slab, and the pool has no resident memory for it. Long lists of
   the heap's own, of other classes, are flushed in turn, spares first, until a slab has become
   empty; then the slabs that are kept empty are returned. That costs about what a slab's page
   faults do, and only while the process grows: a program that swings within its highest keeps its
   lists. Where it empties no slab, as in a heap that only grows, the next 1, 3, 7, ... slabs are
   made without. (In the secure variant what one class returns serves no other. A heap of few slabs
   grows by classes, whose first slabs take a page.) */
static HAK_NOINLINE void relieve(struct theap *heap)
{
    uint32_t blocks = 0;
    if (heap->relieve_wait) {
        heap->relieve_wait--;
        return;
    }
    const uint32_t n_long = hak_bits_count(heap->long_limits);
    for (uint32_t n = 0; n < 2 * n_long && blocks < RELIEVE_MOST; n++) {
        int is_spare = n < n_long;
        uint64_t below = heap->long_limits & (((uint64_t)1 << heap->relieved) - 1);
        uint32_t c = 63 - (uint32_t)__builtin_clzll(below ? below : heap->long_limits);
        heap->relieved = c;
        uint32_t count = is_spare ? heap->spares[c].count : hak_tc_count(heap, c);
        if ((size_t)count * hak_sc_table[c].size >= RELIEVE_LEAST) {
            hak_lock_acquire(&heap->owner.lock);
            (void)put_one_list(heap, c, is_spare);
            (void)hak_theap_unlock(heap);
            blocks += count;
            if (has_resident()) {
                heap->relieve_pause = 0;
                return;
            }
        }
    }
    if (hak_bank_n_empty()) {
        hak_lock_acquire(&heap->owner.lock);
        hak_bank_release_empty(&heap->owner.bank);
        (void)hak_theap_unlock(heap);
    }
    if (has_resident()) {
        heap->relieve_pause = 0;
    } else if (blocks) {
        heap->relieve_pause += heap->relieve_pause < RELIEVE_PAUSE ? heap->relieve_pause + 1 : 0;
    }
    heap->relieve_wait = heap->relieve_pause;
}

/* hak_theap_take; how much is touched ahead goes by how long the class has only grown. Heap lock
   held. */
static uint32_t take_blocks(struct theap *heap, uint32_t size_class, uint32_t want, void **head)
{
    uint8_t *n = &heap->n_fresh[size_class];
    struct bank *bank = &heap->owner.bank;
    uint32_t rise = *n / RISE_FRESH;
    bank->fresh_times = (uint8_t)(rise < 2 ? 1 : rise < 3 ? 2 : 4);
    uint32_t count = hak_theap_take(heap, size_class, want, head);
    heap->refill_is_clean = count && bank->took_clean;
    if (count) {
        *n = bank->took_fresh ? (uint8_t)(*n + (*n < UINT8_MAX)) : 0;
    }
    return count;
}

/* The front of a slab that the class fetches together. */
static uint32_t together(const struct theap *heap, uint32_t size_class)
{
    uint32_t n = heap->n_fresh[size_class];
    if (n < 3 * RISE_FRESH || hak_sc_table[size_class].size > hak_os_page_size()) {
        return 0;
    }
    uint32_t more = (n - 3 * RISE_FRESH) * (SC_SLAB_BYTES / 4) / RISE_FRESH;
    uint32_t bytes = (SC_SLAB_BYTES / 4 + more) & ~(uint32_t)(SLAB_TOUCHED_BYTES - 1);
    return bytes < SC_SLAB_BYTES ? bytes : SC_SLAB_BYTES;
}

/* From a slab that had no owner. */
static HAK_NOINLINE void *take_fresh(struct theap *heap, uint32_t size_class, uint32_t want,
                                     uint32_t *count)
{
    void *head;
    struct slab *slab = hak_bank_make(size_class);
    if (!slab) {
        return NULL;
    }
    uint32_t bytes = together(heap, size_class);
    if (bytes) {
        hak_pool_slab_populate(slab, bytes);
    }
    heap->made_slab = 1;
    hak_lock_acquire(&heap->owner.lock);
    hak_bank_add(&heap->owner.bank, slab);
    *count = take_blocks(heap, size_class, want, &head);
    hak_theap_unlock(heap);
    return head;
}

/* A list of a common heap's. */
static void *take_common(struct theap *heap, uint32_t size_class, uint32_t *count)
{
    void *head = hak_common_take(heap, size_class, count);
    hak_stat_add(refills, head != NULL);
    return head;
}

/* A list from behind the lock: what came back from other threads, else from the slabs, those of
   the common heap if the thread uses little of the class; then its limit stays. */
static void *take_list(struct theap *heap, uint32_t size_class, uint32_t *count)
{
    uint32_t want = hak_owner_refill_blocks(heap->limits[size_class]);
    void *head;
    int shares = 0;
    note_slow(heap);
    /* Where nothing of the class lies behind the own lock, that is not taken. */
    if (hak_common_serves(heap, size_class) && !atomic_load_relaxed(&heap->owner.inbox) &&
        !atomic_load_relaxed(&heap->depot[size_class]) &&
        (head = take_common(heap, size_class, count)) != NULL) {
        note_swing(heap, size_class, 0);
        return head;
    }
    hak_lock_acquire(&heap->owner.lock);
    hak_remote_receive(heap);
    head = hak_depot_take(heap, size_class, count);
    note_swing(heap, size_class, head != NULL);
    heap->refill_is_clean = 0;
    if (head) {
        heap->n_fresh[size_class] = 0;
    } else {
        shares = hak_common_serves(heap, size_class);
        *count = shares ? 0 : take_blocks(heap, size_class, want, &head);
        if (!head && heap->depot_bytes[1]) {
            (void)hak_depot_give_back(heap, SC_SLAB_BYTES); /* instead of what is made now */
        }
    }
    heap->n_slabs = heap->owner.bank.n_slabs;
    hak_theap_unlock(heap);
    if (HAK_UNLIKELY(shares) && (head = take_common(heap, size_class, count)) != NULL) {
        return head;
    }
    if (!head) {
        if (atomic_load_relaxed(&heap->row_bytes) && !has_resident()) {
            hak_depot_make_room(heap);
        }
        if (!HAK_SECURE && heap->n_slabs >= TC_RELIEVE_FROM && !has_resident()) {
            relieve(heap);
        }
        hak_depot_relieve(SC_SLAB_BYTES);
        hak_parked_relieve(SC_SLAB_BYTES);
        head = take_fresh(heap, size_class, want, count);
    }
    hak_stat_add(refills, 1);
    hak_common_note(heap, size_class, *count);
    if (head) {
        note_taken(heap, size_class, *count);
        grow_limit(heap, size_class);
    }
    return head;
}

/* A list that has run out has as many blocks as were counted. A block that another thread had freed
   first leads into that one's chain, or, once the chain has come home, to the end of all. A signal
   handler that frees in the middle of a fast path, or leaves it for good, costs the list a block
   and leaves the count one off: a few are no reason to end a program. */
#define COUNT_OFF_MOST (HAK_DEBUG ? 0 : 2)

static void check_count(const struct bin *bin, int64_t limit)
{
    int64_t off = bin->room - limit;
    HAK_CHECK(off <= COUNT_OFF_MOST && -off <= COUNT_OFF_MOST,
              "block freed twice, or written to after its free (a free list does not have as many "
              "as it had)",
              NULL);
}

static void *refill(struct theap *heap, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    struct spare *spare = &heap->spares[size_class];
    heap->awake |= (uint64_t)1 << size_class;
    void *block = spare->head;
    uint32_t count = spare->count;
    heap->n_overflows[size_class] = 0;
    HAK_DEBUG_ASSERT(!hak_tc_bin_first(bin));
    check_count(bin, heap->limits[size_class]);
    if (block) {
        spare->head = NULL;
        spare->count = 0;
        heap->refill_is_clean = 0;
    } else if (HAK_UNLIKELY((block = take_metered(heap, size_class, &count)) != NULL)) {
        heap->refill_is_clean = 0;
    } else {
        if (++heap->slow_count % SEND_EVERY == 0) {
            hak_remote_send_all(heap);
        }
        if (heap->window_left-- == 0 && hak_options.bin_adapt) {
            end_window(heap);
        }
        block = take_list(heap, size_class, &count);
        if (!block) {
            return NULL;
        }
    }
    /* A chain may hold more than the limit: the next push then overflows, as it should. */
    hak_tc_bin_set(bin, hak_link_next(block));
    bin->room = (int32_t)heap->limits[size_class] - (int32_t)count + 1;
    return block;
}

static void *line_of(struct theap *heap)
{
    struct bin *bin = &heap->bins[COMMON_LINE_CLASS];
    void *first = hak_tc_bin_first(bin);
    if (!first) {
        return refill(heap, COMMON_LINE_CLASS);
    }
    void *block = hak_tc_bin_take(bin);
    if (HAK_UNLIKELY(!block)) {
        hak_link_broken(first);
    }
    heap->refill_is_clean = 0;
    return block;
}

/* A whole cache line, for a smaller request. Who wants zeros clears what the class has: what is
   behind it is zero. */
static HAK_NOINLINE void *take_line(struct theap *heap, uint32_t size_class)
{
    char *block = (char *)line_of(heap);
    size_t size = hak_sc_table[size_class].size;
    if (block) {
        memset(block + size, 0, hak_sc_table[COMMON_LINE_CLASS].size - size);
    }
    return block;
}

void *hak_tc_refill(struct theap *heap, uint32_t size_class)
{
    if (HAK_UNLIKELY(size_class < COMMON_LINE_CLASS) && !heap->spares[size_class].head &&
        HAK_UNLIKELY(hak_common_gives_line(heap, size_class))) {
        return take_line(heap, size_class);
    }
    return refill(heap, size_class);
}

void (*hak_tc_flush_kept)(struct theap *heap);

void hak_tc_flush(struct theap *heap)
{
    if (HAK_SECURE && heap->kept_room) {
        hak_tc_flush_kept(heap);
    }
    hak_remote_send_all(heap);
    hak_lock_acquire(&heap->owner.lock);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        hak_small_put_list(&heap->owner, c, hak_tc_bin_first(&heap->bins[c]));
        hak_small_put_list(&heap->owner, c, heap->spares[c].head);
        uint32_t count;
        hak_small_put_list(&heap->owner, c, take_metered(heap, c, &count));
    }
    hak_stat_sub(bin_budget, heap->budget);
    heap->budget = 0;
    /* With the lock held: so no block is in two places for anybody. */
    hak_tc_init(heap);
    hak_theap_unlock(heap);
}

uint64_t hak_tc_bytes(const struct theap *heap)
{
    uint64_t bytes = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        uint64_t n =
            hak_tc_count(heap, c) + heap->spares[c].count - (uint64_t)heap->metered[c].room;
        bytes += n * hak_sc_table[c].size;
    }
    return bytes;
}

void hak_tc_shrink(struct theap *heap, uint64_t bytes, uint64_t most)
{
    hak_lock_acquire(&heap->owner.lock);
    for (int is_spare = 1; is_spare >= 0; is_spare--) {
        for (uint32_t c = SC_N_CLASSES; c-- > 0 && bytes > most;) {
            bytes -= put_one_list(heap, c, is_spare);
        }
    }
    hak_theap_unlock(heap);
}

void hak_tc_begin_again(struct theap *heap)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        uint32_t first = first_limit(c);
        if (heap->limits[c] <= first) {
            continue;
        }
        hak_lock_acquire(&heap->owner.lock);
        if (heap->spares[c].count > first + 1) {
            (void)put_one_list(heap, c, 1);
        }
        if (hak_tc_count(heap, c) > first) {
            (void)put_one_list(heap, c, 0);
        }
        set_smaller_limit(heap, c, first);
        hak_theap_unlock(heap);
    }
}

/* UINT32_MAX if a link is broken. */
static uint32_t list_length(const void *head, uint32_t stop_after)
{
    uint32_t n = 0;
    int is_broken = 0;
    for (; head && n <= stop_after; head = hak_link_look(head, &is_broken)) {
        n++;
    }
    return is_broken ? UINT32_MAX : n;
}

/* 1 if p is among the first `most` of the list. What lies behind the last block holds no link. */
static HAK_ALWAYS_INLINE int list_holds(const void *head, const void *p, uint32_t most)
{
    for (int64_t word; most && head != p; head = (const void *)(uintptr_t)word, most--) {
        word = *(const int64_t *)head;
        if (HAK_UNLIKELY(hak_link_decode(&word))) {
            return 0;
        }
    }
    return most != 0;
}

int hak_tc_holds(const struct theap *heap, uint32_t size_class, const void *p, uint32_t most)
{
    const void *spare = heap->spares[size_class].head;
    return list_holds(heap->bins[size_class].head, p, most) ||
           (spare && list_holds(spare, p, most)) ||
           (HAK_UNLIKELY(heap->has_metered) && list_holds(heap->metered[size_class].head, p, most));
}

int hak_tc_verify(const struct theap *heap)
{
    uint64_t mid_more = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        if (heap->limits[c] > largest_limit(c)) {
            mid_more -= (uint64_t)bytes_between(heap, c, largest_limit(c));
        }
        int64_t in_bin = (int64_t)heap->limits[c] - heap->bins[c].room;
        if (in_bin < 0 ||
            list_length(hak_tc_bin_first(&heap->bins[c]), (uint32_t)in_bin) != (uint32_t)in_bin) {
            return VERIFY_TC_BIN;
        }
        if (list_length(heap->spares[c].head, heap->spares[c].count) != heap->spares[c].count) {
            return VERIFY_TC_SPARE;
        }
        uint32_t metered = (uint32_t)-heap->metered[c].room;
        if (heap->has_metered &&
            list_length(hak_tc_bin_first(&heap->metered[c]), metered) != metered) {
            return VERIFY_TC_METERED;
        }
    }
    if (mid_more != heap->mid_more) {
        return VERIFY_TC_MORE;
    }
    return hak_remote_verify(heap);
}
