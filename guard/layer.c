/* The guarding layer's table of entry points, its start, and the public functions. No locks of its
   own. */
#include "guard/guard.h"

#include <errno.h>
#include <string.h>

#include "base/atomic.h"
#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "guard/report.h"
#include "guard/sampler.h"
#include "guard/slots.h"
#include "guard/ticker.h"
#include "hakmem/fast.h"
#include "hakmem/fault.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/plain.h"
#include "stack/stack.h"
#include "stack/trace.h"

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_guard_layer);
}

/* --- allocating --- */

/* A thread's first trace may allocate, and a signal handler comes at any time. */
static HAK_TLS uint8_t is_inside;

static HAK_NOINLINE void *sample(size_t size, size_t alignment, struct hak_heap *heap)
{
    int saved = errno;
    struct guard_slot *slot;
    if (is_inside) {
        return NULL;
    }
    is_inside = 1;
    /* What is written to behind is more frequent than what is written to before. */
    struct guard_wish wish = {size, alignment, heap, hak_guard_random(&hak_guard_sampler) % 4 != 0};
    void *p = hak_guard_take(&wish, &slot);
    if (p) {
        hak_stack_trace_here(&slot->traces[GUARD_ALLOCATED]);
    }
    is_inside = 0;
    hak_stat_add(guard_samples, p != NULL);
    hak_stat_add(guard_missed, p == NULL);
    errno = saved;
    return p;
}

/* A guarded block, or NULL if this allocation shall have none. */
static HAK_NOINLINE void *turn(size_t size, size_t alignment, struct hak_heap *heap)
{
    if (!atomic_load_relaxed(&hak_guard_is_busy)) {
        atomic_store_relaxed(&hak_guard_is_busy, 1u);
    }
    return hak_guard_turn(&hak_guard_sampler, size) ? sample(size, alignment, heap) : NULL;
}

/* Where the layer sees every call, and none below does more, the thread's bins serve as they do on
   the fast paths. */
static HAK_ALWAYS_INLINE int has_hidden_bins(const struct entry_table *table)
{
    return table == &hak_entry_plain && hak_theap_is_hidden();
}

static HAK_ALWAYS_INLINE void start_wanted(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_guard_ticker) == TICKER_WANTED)) {
        hak_guard_start_ticker();
    }
}

static HAK_NOINLINE void *seeing_malloc(size_t size)
{
    const struct entry_table *table = below();
    start_wanted();
    void *p = turn(size, 1, NULL);
    if (!p && size <= SC_SMALL_MAX && has_hidden_bins(table)) {
        p = hak_tc_bin_take(&hak_theap_own->bins[hak_sc_of(size)]);
    }
    return p ? p : table->malloc(size);
}

/* A call outside of slices has come by a slow path, and is not counted: more of them do than of
   others. */
static void *guard_malloc(size_t size)
{
    if (HAK_UNLIKELY(hak_theap_is_hidden())) {
        return seeing_malloc(size);
    }
    start_wanted();
    return below()->malloc(size);
}

static void *guard_calloc(size_t bytes)
{
    void *p = hak_theap_is_hidden() ? turn(bytes, 1, NULL) : NULL;
    return p ? p : below()->calloc(bytes);
}

static void *guard_aligned(size_t alignment, size_t size)
{
    void *p = hak_theap_is_hidden() ? turn(size, alignment, NULL) : NULL;
    return p ? p : below()->aligned(alignment, size);
}

static void *guard_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    void *p = hak_theap_is_hidden() ? turn(size, alignment, heap) : NULL;
    return p ? p : below()->heap_alloc(heap, size, alignment, is_zeroed);
}

/* --- freeing --- */

/* The slot of a block in use; ends the process if p is none. */
static struct guard_slot *slot_in_use(const void *p, const char *if_none, const char *if_freed)
{
    struct guard_slot *slot = hak_guard_slot_of(p);
    if (!slot) {
        hak_guard_blame(if_none, p);
    }
    if (atomic_load_acquire(&slot->state) != GUARD_USED) {
        hak_guard_blame(if_freed, p);
    }
    return slot;
}

static const char twice[] = "block freed twice";

static void give_slot(struct guard_slot *slot)
{
    const void *p = slot->block;
    enum guard_place written = hak_guard_check(slot);
    if (written != GUARD_NOWHERE) {
        hak_guard_blame(written == GUARD_BEHIND ? "block written to behind its end"
                                                : "block written to before its start",
                        p);
    }
    if (!hak_guard_begin_give(slot)) {
        hak_guard_blame(twice, p); /* by another thread, at once */
    }
    hak_stack_trace_here(&slot->traces[GUARD_FREED]);
    hak_guard_end_give(slot);
}

static HAK_NOINLINE void give(void *p)
{
    int saved = errno;
    give_slot(slot_in_use(p, "invalid pointer freed (not the start of a block)", twice));
    errno = saved;
}

static void guard_free(void *p)
{
    if (HAK_UNLIKELY(hak_guard_holds(p))) {
        give(p);
    } else {
        below()->free(p);
    }
}

static size_t guard_usable_size(const void *p)
{
    return HAK_UNLIKELY(hak_guard_holds(p))
               ? slot_in_use(p, "invalid pointer given to malloc_usable_size",
                             "freed block given to malloc_usable_size")
                     ->size
               : below()->usable_size(p);
}

/* --- realloc --- */

/* A guarded block moves, guarded again or not, and stays in its heap. */
static void *move(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    const struct guard_slot *slot =
        slot_in_use(p, "invalid pointer given to realloc", "freed block given to realloc");
    size_t kept = slot->size;
    HAK_CHECK(!heap || heap == slot->heap, "block of another heap given to hak_heap_realloc", p);
    if (!size) {
        give(p);
        return NULL;
    }
    void *q = slot->heap  ? guard_heap_alloc(slot->heap, size, SC_MIN_ALIGN, is_zeroed)
              : is_zeroed ? guard_calloc(size)
                          : guard_malloc(size);
    if (q) {
        memcpy(q, p, kept < size ? kept : size);
        give(p);
    }
    return q;
}

/* Where the secure layer is below, it alone knows which heap a block is of that is no slab's. */
static int has_unknown_heap(const struct hak_heap *heap, const void *p)
{
    return HAK_SECURE && !heap && !TAG_IS_SLAB(hak_map_find(p).tag) &&
           hak_address_count(&hak_heap_large) != 0;
}

/* A block from below moves into a slot if it is this call's turn, and stays elsewhere. `heap`: as
   realloc's caller says. A large one stays always: realloc rarely copies it below, and a copy here
   is expensive. */
static HAK_NOINLINE void *move_in(void *p, size_t size, struct hak_heap *heap)
{
    if (size > SC_SMALL_MAX) {
        return p;
    }
    struct hak_heap *its = heap ? heap : hak_heap_of(p);
    void *q = has_unknown_heap(its, p) ? NULL : turn(size, 1, its);
    if (!q) {
        return p;
    }
    memcpy(q, p, size);
    below()->free(p);
    return q;
}

static void *guard_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    if (HAK_UNLIKELY(hak_guard_holds(p))) {
        return move(p, size, heap, is_zeroed);
    }
    void *q = below()->realloc(p, size, heap, is_zeroed);
    return q && hak_theap_is_hidden() ? move_in(q, size, heap) : q;
}

/* --- the rest --- */

/* Its guarded blocks are freed one by one: what was written beside them is reported, and what
   touches them later. */
static void guard_heap_destroy(struct hak_heap *heap)
{
    struct guard_slot *slot;
    int saved = errno;
    for (uint32_t i = 0; (slot = hak_guard_next_used(&i)) != NULL;) {
        if (slot->heap == heap) {
            give_slot(slot);
        }
    }
    errno = saved;
    below()->heap_destroy(heap);
}

static size_t guard_walked(void **p, size_t usable)
{
    return below()->walked(p, usable);
}

/* Families are not compared here. */
static void guard_name(void *p, enum entry_family family)
{
    if (HAK_LIKELY(!hak_guard_holds(p))) {
        below()->name(p, family);
    }
}

static void guard_claim(void *p, const struct entry_claim *claim)
{
    if (HAK_LIKELY(!hak_guard_holds(p))) {
        below()->claim(p, claim);
    }
}

struct entry_layer hak_guard_layer = {
    .place = ENTRY_PLACE_SAMPLES,
    .wants = ENTRY_WANTS_SLOW,
    .below = &hak_entry_plain,
    .table =
        {
            .malloc = guard_malloc,
            .calloc = guard_calloc,
            .aligned = guard_aligned,
            .realloc = guard_realloc,
            .free = guard_free,
            .usable_size = guard_usable_size,
            .heap_alloc = guard_heap_alloc,
            .heap_destroy = guard_heap_destroy,
            .walked = guard_walked,
            .name = guard_name,
            .claim = guard_claim,
        },
};

/* --- starting and stopping --- */

static uint32_t is_changing; /* a thread is in set_rate */

/* hak_walk's and hak_heap_walk's part: where there is nothing, none is visited. */
static int walk(const struct hak_heap *heap, hak_walk_callback visit, void *context)
{
    const struct guard_slot *slot;
    int result = 0;
    for (uint32_t i = 0; !result && (slot = hak_guard_next_used(&i)) != NULL;) {
        if (slot->size && (!heap || slot->heap == heap)) {
            result = visit(slot->block, slot->size, context);
        }
    }
    return result;
}

static int (*verify_others)(void);

static int verify(void)
{
    int result = verify_others ? verify_others() : 0;
    return result ? result : hak_guard_verify();
}

/* hak_verify and walks ask this layer too. */
static void join_others(void)
{
    if (hak_entry_verify != verify) {
        verify_others = hak_entry_verify;
        atomic_store_release(&hak_entry_verify, verify);
    }
    atomic_store_release(&hak_entry_walk, walk);
}

static int make_slots(void)
{
    return hak_guard_make((uint32_t)hak_options.guard_slots, hak_options.guard_large);
}

static int set_rate(uint64_t rate, enum guard_unit unit, int may_start)
{
    int error = hak_guard_bytes ? 0 : make_slots();
    error = error ? error : hak_fault_watch(hak_guard_report_fault);
    if (!error) {
        hak_stack_start();
        join_others();
        error = hak_guard_set_rate(rate, unit, may_start);
    }
    return error;
}

int hak_guard_start_by(size_t rate, enum guard_unit unit)
{
    uint32_t no = 0;
    if (!rate) {
        return EINVAL;
    }
    hak_entry_begin();
    if (!atomic_cas_strong(&is_changing, &no, 1u)) {
        return EBUSY;
    }
    int saved = errno;
    int error = set_rate(rate, unit, 1);
    errno = saved;
    atomic_store_release(&is_changing, 0u);
    return error;
}

int hak_guard_start(size_t rate)
{
    return hak_guard_start_by(rate, GUARD_BLOCKS);
}

/* The layer stays: blocks that are guarded are still to be freed. */
void hak_guard_stop(void)
{
    uint32_t no = 0;
    if (hak_guard_bytes && atomic_cas_strong(&is_changing, &no, 1u)) {
        int saved = errno;
        (void)hak_guard_set_rate(0, GUARD_BLOCKS, 0);
        errno = saved;
        atomic_store_release(&is_changing, 0u);
    }
}

int hak_guard_report(const void *address)
{
    return hak_guard_report_fault(address, FAULT_TOUCHED, NULL);
}

static void start(void)
{
    uint64_t bytes = hak_options.guard_bytes, rate = bytes ? bytes : hak_options.guard;
    if (rate) {
        struct hak_line line = {0, {0}};
        if (set_rate(rate, bytes ? GUARD_BYTES : GUARD_BLOCKS, 0)) {
            hak_line_text(&line, "hakmem: HAKMEM_GUARD: nothing is guarded: the system refuses");
            hak_line_write(&line, 2);
        }
    }
}
ENTRY_AT_START(start);
