/* The common heaps: when they serve, and how their blocks come and go. Locks: a common heap's,
   tried except for a fresh slab. Called by the thread cache's slow half and by remote.c. */
#include "heap/common.h"

#include "base/error.h"
#include "base/os.h"
#include "heap/gate.h"
#include "heap/small.h"

#define LINE_BYTES 64u
#define RUN_MOST   8u
/* Tries for a lock: about as long as another thread, if it runs, has it. */
#define TRIES     HAK_TINY_OR(2u, 64u)
#define PUT_TRIES HAK_TINY_OR(1u, 16u)
/* In a bin's common_left: more than it was filled with. */
#define KEPT UINT16_MAX

uint32_t hak_common_from = COMMON_FEW;

static int are_in_use(void)
{
    return HAK_UNLIKELY(hak_theap_n_live() >= hak_common_from);
}

static uint32_t tick_now(void)
{
    return (uint32_t)(hak_os_ops.clock_ns() >> COMMON_TICK_SHIFT);
}

/* Time forgets uses. */
static void leak(struct theap *heap, uint32_t tick)
{
    uint32_t less = tick - heap->common_tick;
    if (less) {
        less = less < COMMON_BUDGET_OF_MANY ? less * COMMON_PER_TICK : COMMON_BUDGET_OF_MANY;
        heap->common_uses -= less < heap->common_uses ? less : heap->common_uses;
        heap->common_tick = tick;
    }
}

static int has_budget(struct theap *heap)
{
    uint32_t budget = hak_common_budget();
    if (heap->common_uses >= budget) {
        leak(heap, tick_now());
    }
    return heap->common_uses < budget;
}

/* The thread uses little of the class. */
static int uses_little(const struct theap *heap, uint32_t size_class)
{
    return heap->bins[size_class].common_uses < hak_common_most_uses(size_class);
}

int hak_common_may_serve(struct theap *heap, uint32_t size_class)
{
    return are_in_use() && has_budget(heap) && uses_little(heap, size_class) &&
           size_class >= COMMON_LINE_CLASS;
}

/* `n` blocks were taken, or one was freed. */
static void count_use(struct theap *heap, uint32_t size_class, uint32_t n)
{
    struct bin *bin = &heap->bins[size_class];
    uint32_t tick = tick_now();
    uint32_t before = bin->common_blocks, blocks = n ? before + n : before - (before != 0);
    leak(heap, tick);
    heap->common_uses += heap->common_uses < COMMON_BUDGET_OF_MANY;
    if (bin->common_uses >= hak_common_most_uses(size_class)) {
        return;
    }
    if (bin->common_tick != (uint16_t)tick) {
        bin->common_tick = (uint16_t)tick;
        bin->common_uses = 0;
    }
    bin->common_uses = blocks > hak_common_most_blocks(size_class)
                           ? (uint16_t)hak_common_most_uses(size_class)
                           : (uint16_t)(bin->common_uses + 1);
    bin->common_blocks = (uint16_t)blocks;
}

/* An empty slab stays as long as the common heaps serve. */
static int try_lock(struct theap *common)
{
    int is_locked =
        !atomic_load_relaxed(&common->owner.lock.word) && hak_lock_try(&common->owner.lock);
    if (is_locked) {
        common->owner.bank.keeps_empty = (uint8_t)are_in_use();
    }
    return is_locked;
}

/* The first one whose lock becomes free soon, with the lock held: so there are as many as are
   needed. NULL if there is none. */
static struct theap *lock_any(void)
{
    for (uint32_t n = 0; n < TRIES; n++) {
        struct theap *common = hak_theap_common(n / (TRIES / N_COMMON_HEAPS));
        if (common && try_lock(common)) {
            return common;
        }
        hak_atomic_pause();
    }
    return NULL;
}

/* Four blocks of any size are whole lines. */
static uint32_t run_blocks(uint32_t size)
{
    uint32_t n = COMMON_RUN_BYTES / size;
    n = n > RUN_MOST ? RUN_MOST : n > 1 ? n : 1;
    return size % LINE_BYTES && size <= COMMON_RUN_BYTES ? (n + 3) & ~3u : n;
}

/* Common heap's lock held; released. */
static uint32_t pick_and_unlock(struct theap *heap, struct theap *common, uint32_t size_class,
                                void **blocks)
{
    uint32_t n =
        hak_theap_pick(common, size_class, run_blocks(hak_sc_table[size_class].size), blocks);
    heap->refill_is_clean = n && common->owner.bank.took_clean;
    (void)hak_theap_unlock(common);
    return n;
}

/* No lock held: a block may lie on a page that was never touched, and the fault takes longer than
   all that others wait for. */
static void *link_blocks(void *const *blocks, uint32_t n)
{
    void *head = NULL;
    while (n--) {
        hak_link_set(blocks[n], head);
        head = blocks[n];
    }
    return head;
}

void *hak_common_take(struct theap *heap, uint32_t size_class, uint32_t *count)
{
    struct theap *common = lock_any();
    if (!common) {
        return NULL;
    }
    void *blocks[RUN_MOST];
    uint32_t n = pick_and_unlock(heap, common, size_class, blocks);
    struct slab *fresh = n ? NULL : hak_bank_make(size_class);
    if (fresh) {
        heap->made_slab = 1;
        hak_lock_acquire(&common->owner.lock);
        hak_bank_add(&common->owner.bank, fresh);
        n = pick_and_unlock(heap, common, size_class, blocks);
    }
    if (n) {
        count_use(heap, size_class, n);
    }
    *count = n;
    return link_blocks(blocks, n);
}

/* What is left of a run, in the bin, goes back with the second of two blocks between which the
   thread took none of the class: it may take none for long. So do blocks that had to be kept.
   Returns those blocks. */
static void *take_left(struct theap *heap, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    uint32_t left = hak_tc_count(heap, size_class), before = bin->common_left;
    void *head = NULL;
    if (((left == before && left <= RUN_MOST) || before == KEPT) && uses_little(heap, size_class) &&
        !hak_bank_n_partial(&heap->owner.bank, size_class)) {
        head = hak_tc_bin_first(bin);
        hak_tc_bin_set(bin, NULL);
        bin->room = heap->limits[size_class];
        left = 0;
    }
    bin->common_left = (uint16_t)left;
    return head;
}

/* Returns 0 if another thread has the lock. Inside the gate. */
static int put(struct theap *heap, struct theap *common, void *block, uint32_t size_class,
               uint32_t n_tries)
{
    for (; n_tries; n_tries--) {
        if (try_lock(common)) {
            hak_link_set(block, take_left(heap, size_class));
            hak_small_put_list(&common->owner, size_class, block); /* its slab may have moved */
            (void)hak_theap_unlock(common);
            return 1;
        }
        hak_atomic_pause();
    }
    return 0;
}

void hak_common_free(struct theap *heap, void *block, uint32_t tag)
{
    uint32_t size_class = TAG_CLASS(tag);
    struct theap *common = hak_theap_common(hak_theap_which_common(tag));
    struct bin *bin = &heap->bins[size_class];
    int is_put = 0;
    HAK_CHECK(bin->head != block, "block freed twice", block);
    if (HAK_UNLIKELY(!common)) {
        return; /* lost, and its blocks with it */
    }
    count_use(heap, size_class, 0);
    if (HAK_LIKELY(hak_gate_enter())) {
        /* Who has slabs of the class needs no other thread's free memory. */
        is_put =
            put(heap, common, block, size_class, uses_little(heap, size_class) ? PUT_TRIES : 1);
        hak_gate_leave();
    }
    if (!is_put) {
        bin->common_left = KEPT;
        hak_remote_keep(heap, block, size_class);
    }
}

void hak_common_end_thread(struct theap *heap)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        struct bin *bin = &heap->bins[c];
        if (bin->common_blocks <= hak_common_most_blocks(c)) {
            bin->common_uses /= 2;
        }
        bin->common_blocks = 0;
    }
}
