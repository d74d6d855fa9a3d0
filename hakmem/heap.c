/* Heaps: made, found, adopted, orphaned; start of the process, end of a thread, fork. Locks: HEAPS for the table and the
   orphans, then a heap's own. Called by the slow paths of api.c, by pthread (end of a thread) and by fork handlers. */
#include "hakmem/heap.h"

#include <pthread.h>

#include "ace/ace.h"
#include "ace/adapt.h"
#include "base/error.h"
#include "base/limit.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/background.h"
#include "hakmem/fallback.h"
#include "hakmem/user_heap.h"
#include "superslab/pool.h"

/* An owner that neither a heap nor a special tag has. */
struct heap heap_none = {.bins = {[0 ... SC_N_CLASSES - 1] = {.head = (void *)(uintptr_t)link_end}},
                         .owner_tag = (TAG_SPECIAL_OWNER >> 1) << TAG_OWNER_SHIFT};
HAK_TLS struct heap *hak_self = &heap_none;
HAK_TLS struct heap *heap_own = &heap_none;

/* Set when the thread's destructor has run: it gets no heap any more. */
static HAK_TLS int is_ending;

static void thread_ends(void *heap);
static void fork_prepare(void);
static void fork_parent(void);
static void fork_child(void);

/* How many heaps are asked for a slab, and how many of a class a live heap keeps. */
#define ADOPT_SEARCH 16u
#define ADOPT_SPARES HAK_TINY_OR(1u, 4u)

static struct lock heaps_lock = LOCK_INIT(LOCK_RANK_HEAPS);
static struct heap *heaps[BANK_MAX_OWNERS + 1];
static struct heap *orphans;
/* An orphan that is never adopted. It holds the slabs with free blocks that ended threads left, until a heap that needs one of
   their class takes it, and serves threads without a heap. Its lock is taken after any other heap's. */
static struct heap *shared;
static uint32_t shared_id; /* reserved at the start: when it is needed, there may be none left */
static uint32_t next_id;   /* an id whose heap could not be made for lack of memory, or 0 */
static uint32_t last_heap; /* the highest id of a heap */
static uint32_t n_live;    /* heaps that have a thread */
static uint32_t is_ready;
static int has_environment; /* not in functions that run before the C library's own start */
static int are_hidden = 1;  /* no thread's fast paths see its heap */
static pthread_key_t end_key;
static int has_end_key;

__attribute__((destructor)) static void print_at_end(void)
{
    if (options.show_stats) {
        stat_print(2);
    }
}

struct heap *heap_by_id(uint32_t id)
{
    return id <= BANK_MAX_OWNERS ? atomic_load_acquire(&heaps[id]) : NULL;
}

static void print_banner(void)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: variant=" HAKMEM_VARIANT);
    for (size_t i = 0; i < opt_n_rows; i++) {
        hak_line_text(&line, " ");
        hak_line_text(&line, opt_rows[i].name);
        hak_line_text(&line, "=");
        opt_line_value(&line, &opt_rows[i],
                       *(const uint64_t *)(const void *)((const char *)&options + opt_rows[i].offset));
    }
    hak_line_write(&line, 2);
}

static void read_options(void)
{
    char **environment = os_ops.environ_();
    has_environment = environment != NULL;
    opt_init(&options, environment);
    limit_set(options.limit_soft, options.limit_hard);
    if (options.verbose) {
        print_banner();
    }
}

/* Once, under the HEAPS lock, before the first heap. Neither call below allocates in glibc at this point; if one did, it
   would find this thread without a heap and be served uncached. */
static void start(void)
{
    read_options();
    link_start();
    ace_start();
    background_init();
    shared_id = bank_new_owner();
    atomic_store_release(&is_ready, 1u);
}

/* What needs the C library's locks happens outside of ours. A second thread waits until the first has the key: otherwise its
   end would go unnoticed. */
static void start_threads(void)
{
    enum { NOT_STARTED, STARTING, STARTED };
    static uint32_t state;
    uint32_t expected = NOT_STARTED;
    if (HAK_LIKELY(atomic_load_acquire(&state) == STARTED)) {
        return;
    }
    if (atomic_cas_strong(&state, &expected, (uint32_t)STARTING)) {
        has_end_key = pthread_key_create(&end_key, thread_ends) == 0;
        (void)pthread_atfork(fork_prepare, fork_parent, fork_child);
        atomic_store_release(&state, (uint32_t)STARTED);
    }
    while (atomic_load_acquire(&state) != STARTED) {
        atomic_pause();
    }
}

/* In a program of one thread nobody waits for the key. */
__attribute__((constructor)) static void start_early(void)
{
    (void)heap_acquire();
    if (!has_environment) {
        read_options();
    }
}

/* A heap of the id that waits in *reserved, or of a new one; NULL if there is no id or no memory. HEAPS lock held. */
static struct heap *new_heap(uint32_t *reserved, enum lock_rank rank)
{
    uint32_t id = *reserved ? *reserved : bank_new_owner();
    struct heap *heap = id ? (struct heap *)os_meta_alloc(sizeof *heap) : NULL;
    if (!heap) {
        *reserved = id;
        return NULL;
    }
    *reserved = 0;
    heap->id = id;
    heap->owner_tag = id << TAG_OWNER_SHIFT;
    heap->lock = (struct lock)LOCK_INIT(rank);
    bank_init(&heap->bank, id);
    heap->bank.has_strays_sent = 1;
    heap->bank.keeps_empty = 0; /* until a thread has it */
    tc_init(heap);
    heap->state = HEAP_ORPHAN;
    atomic_store_release(&heaps[id], heap);
    atomic_store_relaxed(&last_heap, id > last_heap ? id : last_heap);
    stat_add(heaps, 1);
    return heap;
}

/* The shared heap, made at need: when the first thread ends, or finds no heap. NULL if there is no memory. */
static struct heap *get_shared(void)
{
    struct heap *heap = atomic_load_acquire(&shared);
    if (HAK_LIKELY(heap != NULL)) {
        return heap;
    }
    lock_acquire(&heaps_lock);
    if (!is_ready) {
        start();
    }
    if (!shared) {
        heap = new_heap(&shared_id, LOCK_RANK_SHARED);
        if (!heap && orphans) {
            heap = orphans;
            orphans = heap->next_orphan;
            stat_sub(orphans, 1);
        }
        if (heap) {
            stat_sub(heaps, 1);
            atomic_store_release(&shared, heap);
        }
    }
    heap = shared;
    lock_release(&heaps_lock);
    return heap;
}

int heap_unlock(struct heap *heap)
{
    void *strays = heap->bank.strays;
    heap->bank.strays = NULL;
    heap->n_uses++;
    lock_release(&heap->lock);
    background_poke();
    if (HAK_UNLIKELY(strays != NULL)) {
        remote_send_list(strays);
    }
    return strays != NULL;
}

/* Takes a slab over from a live heap that has more of the class than it can use soon. No two threads wait for each other's
   heap: one that is busy is passed by. */
static void adopt_from_live(struct heap *heap, uint32_t size_class)
{
    uint32_t last = atomic_load_relaxed(&last_heap);
    uint32_t id = heap->id;
    for (uint32_t n = last < ADOPT_SEARCH ? last : ADOPT_SEARCH; n; n--) {
        id = id < last ? id + 1 : 1;
        struct heap *from = heap_by_id(id);
        if (from && from != heap && bank_n_partial(&from->bank, size_class) > ADOPT_SPARES && lock_try(&from->lock)) {
            bank_move_one(&from->bank, &heap->bank, size_class);
            lock_release(&from->lock);
            stat_add(slabs_adopted, 1);
            return;
        }
    }
}

/* Before fresh memory is taken: a slab with free blocks that somebody else does not use. Heap lock held. */
static void adopt_slab(struct heap *heap, uint32_t size_class)
{
    struct heap *from = atomic_load_acquire(&shared);
    if (from == heap) {
        return;
    }
    if (from && bank_n_partial(&from->bank, size_class)) {
        lock_acquire(&from->lock);
        bank_move_one(&from->bank, &heap->bank, size_class);
        lock_release(&from->lock);
        stat_add(slabs_adopted, 1);
    } else {
        adopt_from_live(heap, size_class);
    }
}

uint32_t heap_take(struct heap *heap, uint32_t size_class, uint32_t want, void **head)
{
    if (HAK_UNLIKELY(!bank_n_partial(&heap->bank, size_class))) {
        adopt_slab(heap, size_class);
    }
    return bank_take(&heap->bank, size_class, want, head);
}

void heap_tidy(struct heap *heap)
{
    struct heap *to = atomic_load_acquire(&shared);
    remote_collect(heap);
    if (heap != to) {
        bank_release_empty(&heap->bank);
        if (to) {
            lock_acquire(&to->lock);
            bank_move_all(&heap->bank, &to->bank);
            lock_release(&to->lock);
        }
    }
}

static void set_state(struct heap *heap, enum heap_state state)
{
    lock_acquire(&heap->lock);
    atomic_store_seq(&heap->state, (uint32_t)state);
    heap->bank.keeps_empty = state == HEAP_LIVE;
    lock_release(&heap->lock);
}

/* While calls go to a layer, every thread's `self` is heap_none, so that all of them take the slow paths. */
static void show_to_fast_paths(struct heap *heap)
{
    lock_acquire(&heaps_lock);
    heap->self_at = &hak_self;
    atomic_store_relaxed(&hak_self, are_hidden ? &heap_none : heap);
    lock_release(&heaps_lock);
}

static void hide_from_fast_paths(struct heap *heap)
{
    lock_acquire(&heaps_lock);
    heap->self_at = NULL;
    atomic_store_relaxed(&hak_self, &heap_none);
    lock_release(&heaps_lock);
}

void heap_switch(int (*change)(void *context), void *context)
{
    lock_acquire(&heaps_lock);
    are_hidden = change(context);
    for (uint32_t id = 1; id <= last_heap; id++) {
        struct heap *heap = heaps[id];
        if (heap && heap->self_at) {
            atomic_store_relaxed(heap->self_at, are_hidden ? &heap_none : heap);
        }
    }
    lock_release(&heaps_lock);
}

struct heap *heap_acquire(void)
{
    if (heap_own != &heap_none) {
        return heap_own;
    }
    if (is_ending) {
        return NULL;
    }
    lock_acquire(&heaps_lock);
    if (!is_ready) {
        start();
    }
    struct heap *heap = orphans;
    if (heap) {
        orphans = heap->next_orphan;
        stat_sub(orphans, 1);
    } else {
        heap = new_heap(&next_id, LOCK_RANK_HEAP);
    }
    lock_release(&heaps_lock);
    if (!heap) {
        return NULL;
    }
    set_state(heap, HEAP_LIVE);
    heap_own = heap;
    show_to_fast_paths(heap);
    (void)atomic_add_relaxed(&n_live, 1u);
    background_count();
    /* The next calls may allocate: the heap is in place. */
    start_threads();
    if (has_end_key) {
        (void)pthread_setspecific(end_key, heap);
    }
    return heap;
}

/* Leaves a heap whose cache is flushed to the next thread. */
static void make_orphan(struct heap *heap)
{
    (void)get_shared();
    set_state(heap, HEAP_ORPHAN);
    lock_acquire(&heap->lock);
    heap_tidy(heap);
    (void)heap_unlock(heap);
    lock_acquire(&heaps_lock);
    heap->next_orphan = orphans;
    orphans = heap;
    stat_add(orphans, 1);
    lock_release(&heaps_lock);
}

static void thread_ends(void *arg)
{
    struct heap *heap = (struct heap *)arg;
    if (heap_own == heap) {
        is_ending = 1;
        hide_from_fast_paths(heap);
        heap_own = &heap_none;
        tc_flush(heap);
        make_orphan(heap);
        (void)atomic_sub_relaxed(&n_live, 1u);
        background_count();
    }
}

void *heap_alloc_uncached(uint32_t size_class)
{
    void *block = NULL;
    struct heap *heap = get_shared();
    if (heap) {
        lock_acquire(&heap->lock);
        (void)bank_take(&heap->bank, size_class, 1, &block);
        lock_release(&heap->lock);
    }
    return block;
}

void heap_trim_all(void)
{
    if (heap_own != &heap_none) {
        tc_flush(heap_own);
    }
    /* Once more if blocks were sent on: perhaps to a heap that had been done. */
    for (int rounds = 2, n_sent_on = 1; rounds && n_sent_on; rounds--) {
        n_sent_on = 0;
        for (uint32_t id = 1, last = atomic_load_relaxed(&last_heap); id <= last; id++) {
            struct heap *heap = heap_by_id(id);
            if (heap) {
                lock_acquire(&heap->lock);
                remote_collect(heap);
                bank_release_empty(&heap->bank);
                n_sent_on += heap_unlock(heap);
            }
        }
    }
}

/* Gives back what a heap keeps for a thread that sleeps. Heap lock held. */
static void rest(struct heap *heap)
{
    if (heap->n_uses != heap->seen_uses) {
        heap->has_rested = 0;
    } else if (!heap->has_rested || atomic_load_relaxed(&heap->inbox)) {
        remote_collect(heap);
        bank_release_empty(&heap->bank);
        heap->has_rested = 1;
    }
    heap->seen_uses = heap->n_uses + 1; /* heap_unlock will count the caller too */
}

/* Of the slabs of one superslab, those that nobody used since the last tick. */
static void purge_cold_slabs(uint32_t number, uint16_t tick)
{
    char *base;
    for (uint32_t mask = pool_slab_mask(number, &base); mask; mask &= mask - 1) {
        const char *start = base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES;
        struct map_entry entry = map_get(start);
        struct heap *heap = heap_by_id(TAG_OWNER(entry.tag));
        if (!heap) {
            continue;
        }
        lock_acquire(&heap->lock);
        /* It may have been given back or have moved. With the owner's lock held, what the map says stays. */
        struct map_entry now = map_get(start);
        if (now.tag == entry.tag && now.ref == number) {
            stat_add(cold_bytes_purged, slab_purge_cold(pool_slab_of(number, start), tick));
        }
        lock_release(&heap->lock);
    }
}

void heap_rest_all(void)
{
    static uint16_t tick;
    tick++;
    for (uint32_t id = 1, last = atomic_load_relaxed(&last_heap); id <= last; id++) {
        struct heap *heap = heap_by_id(id);
        if (heap) {
            lock_acquire(&heap->lock);
            rest(heap);
            (void)heap_unlock(heap);
        }
    }
    for (uint32_t number = 0, n = pool_n_superslabs(); number < n; number++) {
        purge_cold_slabs(number, tick);
    }
}

uint32_t heap_n_live(void)
{
    return atomic_load_seq(&n_live);
}

void heap_refuse(void)
{
    is_ending = 1;
}

int heap_verify_all(void)
{
    int result = heap_own != &heap_none ? tc_verify(heap_own) : 0;
    for (uint32_t id = 1, last = atomic_load_relaxed(&last_heap); id <= last && !result; id++) {
        struct heap *heap = heap_by_id(id);
        if (heap) {
            lock_acquire(&heap->lock);
            result = bank_verify(&heap->bank);
            lock_release(&heap->lock);
        }
    }
    return result;
}

/* Fork: all locks in rank order, so that the child gets every structure whole. Older handlers, which run between ours, may
   allocate (lock.h): this thread gets its heap now. */
static void fork_prepare(void)
{
    (void)heap_acquire();
    lock_acquire(&heaps_lock);
    user_heap_fork_prepare();
    for (uint32_t id = 1; id <= last_heap; id++) {
        if (heaps[id] && heaps[id] != shared) {
            lock_acquire(&heaps[id]->lock);
        }
    }
    if (shared) {
        lock_acquire(&shared->lock);
    }
    user_heap_fork_large(lock_acquire);
    ace_lock_acquire();
    pool_lock_acquire();
    map_lock_acquire();
    adapt_lock_acquire();
    fallback_lock_acquire();
    os_meta_lock_acquire();
    lock_fork_begin();
}

static void fork_parent(void)
{
    lock_fork_end();
    os_meta_lock_release();
    fallback_lock_release();
    adapt_lock_release();
    map_lock_release();
    pool_lock_release();
    ace_lock_release();
    user_heap_fork_large(lock_release);
    if (shared) {
        lock_release(&shared->lock);
    }
    for (uint32_t id = last_heap; id >= 1; id--) {
        if (heaps[id] && heaps[id] != shared) {
            lock_release(&heaps[id]->lock);
        }
    }
    user_heap_fork_end(lock_release);
    lock_release(&heaps_lock);
}

/* Gives back a list of blocks that a thread left when fork stopped it. A push and a pop change one word, so that every list is
   whole; in the middle of a slow path two lists may share blocks: each is looked at before it is believed. */
static void salvage(void *head)
{
    while (head) {
        struct ss_lookup found = hak_super_lookup(head);
        struct heap *heap = found.kind == SS_SLAB ? heap_by_id(found.owner) : NULL;
        if (!heap || found.start != head || !found.is_allocated) {
            return;
        }
        int is_broken;
        void *next = link_look(head, &is_broken);
        lock_acquire(&heap->lock);
        bank_put(&heap->bank, head);
        (void)heap_unlock(heap);
        head = next;
    }
}

static void salvage_cache(const struct heap *heap)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        salvage(bin_first(&heap->bins[c]));
        salvage(heap->spares[c].head);
    }
    for (uint32_t i = 0; i < OUTBOX_SLOTS; i++) {
        salvage(heap->outbox[i].head);
    }
}

/* The other threads are gone. What lay in their bins goes back to the slabs, their heaps are adopted by the child's next
   threads. What they held in the middle of a slow path, a list each at most, is left allocated. */
static void fork_child(void)
{
    lock_fork_end();
    os_meta_lock_reset();
    fallback_lock_reset();
    adapt_lock_reset();
    map_lock_reset();
    pool_lock_reset();
    ace_lock_reset();
    user_heap_fork_large(lock_reset);
    if (shared) {
        lock_reset(&shared->lock);
    }
    for (uint32_t id = last_heap; id >= 1; id--) {
        if (heaps[id] && heaps[id] != shared) {
            lock_reset(&heaps[id]->lock);
        }
    }
    user_heap_fork_end(lock_reset);
    lock_reset(&heaps_lock);
    background_init();
    /* List and count are made anew: a thread that was just taking or leaving its heap had it in no list, counted or not. */
    orphans = NULL;
    stat_sub(orphans, stat_get(orphans));
    atomic_store_relaxed(&n_live, heap_own != &heap_none ? 1u : 0u);
    for (uint32_t id = 1; id <= last_heap; id++) {
        struct heap *heap = heaps[id];
        if (heap && heap != heap_own && heap->state == HEAP_LIVE) {
            stat_sub(bin_budget, heap->budget);
            heap->budget = 0;
            salvage_cache(heap);
            tc_init(heap);
        }
    }
    for (uint32_t id = 1; id <= last_heap; id++) {
        if (heaps[id] && heaps[id] != heap_own && heaps[id] != shared) {
            heaps[id]->self_at = NULL;
            make_orphan(heaps[id]);
        }
    }
}
