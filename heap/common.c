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

uint32_t hak_common_from = COMMON_FEW;
uint32_t hak_common_kept_most = HAK_SECURE ? 0 : COMMON_KEPT;

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

/* `blocks` of the class are the thread's now. */
static void count_use(struct theap *heap, uint32_t size_class, uint32_t blocks, uint32_t tick)
{
    struct bin *bin = &heap->bins[size_class];
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
        count_use(heap, size_class, heap->bins[size_class].common_blocks + n, tick_now());
    }
    *count = n;
    return link_blocks(blocks, n);
}

static void count_put(struct theap *heap, uint32_t size_class, uint32_t n, uint32_t tick)
{
    uint32_t before = heap->bins[size_class].common_blocks;
    count_use(heap, size_class, before > n ? before - n : 0, tick);
}

/* 1 if all that the bin has may go back to a common heap. Who has slabs of the class, or is to get
   one, frees to them; so does who has more blocks of it than come from common heaps, as from when
   the process had few threads. */
static int is_shared(const struct theap *heap, uint32_t size_class)
{
    return uses_little(heap, size_class) && !hak_bank_n_partial(&heap->owner.bank, size_class) &&
           hak_tc_count(heap, size_class) <= hak_common_most_blocks(size_class);
}

/* What is in the bin, and `block` before it, or NULL. Common heap's lock held. */
static void put_class(struct theap *heap, struct theap *common, uint32_t size_class, void *block,
                      uint32_t tick)
{
    struct bin *bin = &heap->bins[size_class];
    void *head = hak_tc_bin_first(bin);
    uint32_t n = hak_tc_count(heap, size_class) + (block != NULL);
    if (n) {
        hak_tc_bin_set(bin, NULL);
        bin->room = heap->limits[size_class];
        bin->common_left = 0;
        if (block) {
            hak_link_set(block, head);
            head = block;
        }
        hak_small_put_list(&common->owner, size_class, head); /* slabs may have moved */
        count_put(heap, size_class, n, tick);
    }
}

/* Some of the kept blocks lie in slabs of another common heap, or in own ones: as strays they find
   their way. Lock held. */
static void put_kept(struct theap *heap, struct theap *common, uint32_t tick)
{
    for (uint64_t left = heap->common_kept_in; left; left &= left - 1) {
        uint32_t c = (uint32_t)__builtin_ctzll(left);
        if (is_shared(heap, c)) {
            put_class(heap, common, c, NULL, tick);
        }
    }
    heap->common_kept_in = heap->common_kept = 0;
}

/* Where nothing waits, what is left of a run goes back with the second of two blocks between which
   the thread took none of the class. */
static int takes_left(struct theap *heap, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    uint32_t left = hak_tc_count(heap, size_class), before = bin->common_left;
    bin->common_left = (uint16_t)left;
    return hak_common_kept_most || left == before;
}

/* Returns 0 if another thread has the lock, or the gate is closed. */
static int put(struct theap *heap, struct theap *common, uint32_t size_class, void *block)
{
    int has_own = block && !is_shared(heap, size_class);
    int is_alone = has_own || (block && !takes_left(heap, size_class));
    int is_put = 0;
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        return 0;
    }
    /* Who has slabs of the class needs no other thread's free memory. */
    for (uint32_t n = has_own ? 1 : PUT_TRIES; n && !is_put; n--) {
        is_put = try_lock(common);
        if (!is_put) {
            hak_atomic_pause();
        }
    }
    if (is_put) {
        uint32_t tick = tick_now();
        if (is_alone) {
            hak_link_set(block, NULL);
            hak_small_put_list(&common->owner, size_class, block);
            count_put(heap, size_class, 1, tick);
        } else if (block) {
            put_class(heap, common, size_class, block, tick);
        }
        put_kept(heap, common, tick);
        (void)hak_theap_unlock(common);
    }
    hak_gate_leave();
    return is_put;
}

static void keep(struct theap *heap, void *block, uint32_t size_class)
{
    uint32_t size = hak_sc_table[size_class].size;
    heap->common_kept_in |= (uint64_t)1 << size_class;
    heap->common_kept += size > COMMON_KEPT_BLOCK ? size : COMMON_KEPT_BLOCK;
    hak_remote_keep(heap, block, size_class);
}

/* What was taken again waits no more. */
static void count_kept(struct theap *heap)
{
    uint32_t bytes = 0;
    for (uint64_t left = heap->common_kept_in; left; left &= left - 1) {
        uint32_t c = (uint32_t)__builtin_ctzll(left), size = hak_sc_table[c].size;
        bytes += hak_tc_count(heap, c) * (size > COMMON_KEPT_BLOCK ? size : COMMON_KEPT_BLOCK);
    }
    heap->common_kept = bytes;
}

int hak_common_keep(struct theap *heap, void *block, uint32_t tag)
{
    uint32_t size_class = TAG_CLASS(tag);
    const struct bin *bin = &heap->bins[size_class];
    if (hak_theap_which_common(tag) >= N_COMMON_HEAPS || bin->room <= 0 ||
        heap->common_kept + hak_sc_table[size_class].size > hak_common_kept_most ||
        !is_shared(heap, size_class) || HAK_UNLIKELY(heap->last_slot->head == block) ||
        HAK_UNLIKELY(!hak_sc_is_block((uint32_t)(uintptr_t)block & (SC_SLAB_BYTES - 1), bin->magic,
                                      bin->limit))) {
        return 0;
    }
    keep(heap, block, size_class);
    return 1;
}

void hak_common_free(struct theap *heap, void *block, uint32_t tag)
{
    uint32_t size_class = TAG_CLASS(tag);
    count_kept(heap);
    if (hak_common_keep(heap, block, tag)) {
        return;
    }
    struct theap *common = hak_theap_common(hak_theap_which_common(tag));
    HAK_CHECK(heap->bins[size_class].head != block, "block freed twice", block);
    if (HAK_UNLIKELY(!common)) {
        return; /* lost, and its blocks with it */
    }
    if (!put(heap, common, size_class, block)) {
        keep(heap, block, size_class);
    }
}

void hak_common_end_thread(struct theap *heap)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        struct bin *bin = &heap->bins[c];
        int has_shared = bin->common_uses && hak_tc_count(heap, c) && is_shared(heap, c);
        heap->common_kept_in |= (uint64_t)has_shared << c;
    }
    struct theap *common = heap->common_kept_in ? hak_theap_common(0) : NULL;
    if (common && !HAK_SECURE) {
        (void)put(heap, common, 0, NULL);
    }
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        struct bin *bin = &heap->bins[c];
        if (bin->common_blocks <= hak_common_most_blocks(c)) {
            bin->common_uses /= 2;
        }
        bin->common_blocks = 0;
    }
}
