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
#include "hakmem/fork.h"
#include "hakmem/gate.h"
#include "superslab/pool.h"

/* An owner that neither a heap nor a special tag has. */
struct heap heap_none = {.owner_tag = (TAG_SPECIAL_OWNER >> 1) << TAG_OWNER_SHIFT};
HAK_TLS struct heap *hak_self = &heap_none;
HAK_TLS struct heap *heap_own = &heap_none;

/* Set when the thread's destructor has run: it gets no heap any more. */
static HAK_TLS int is_ending;

static void thread_ends(void *heap);

/* How many heaps are asked for a slab, and how many of a class a live heap keeps. */
#define ADOPT_SEARCH 16u
#define ADOPT_SPARES HAK_TINY_OR(1u, 4u)

static LOCK_DEFINE(heaps_lock, LOCK_RANK_HEAPS);
static struct heap *heaps[BANK_MAX_OWNERS + 1];
static struct heap *orphans;
/* An orphan that is never adopted. It holds the slabs with free blocks that ended threads left, until a heap that needs one of
   their class takes it, and serves threads without a heap. Its lock is taken after any other heap's. */
static struct heap *shared;
static uint32_t shared_id; /* reserved at the start: when it is needed, there may be none left */
static uint32_t next_id;   /* an id whose heap could not be made for lack of memory, or 0 */
static uint32_t last_heap; /* the highest id of a heap */
static uint32_t n_live;    /* heaps that have a thread */
/* In a forked child: ids from stale_next to stale_last may be heaps of threads that it does not have, to be adopted. */
static uint32_t stale_next, stale_last;
uint32_t heap_epoch = 1;
static uint32_t is_ready;
static int has_environment; /* not in functions that run before the C library's own start */
static int are_hooked;      /* no thread's fast paths see its heap */
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
    struct heap *heap = id <= BANK_MAX_OWNERS ? atomic_load_acquire(&heaps[id]) : NULL;
    return HAK_LIKELY(heap != &heap_none) ? heap : NULL;
}

uint32_t heap_last_id(void)
{
    return atomic_load_seq(&last_heap);
}

int heap_is_lost(uint32_t id)
{
    return id <= BANK_MAX_OWNERS && atomic_load_acquire(&heaps[id]) == &heap_none;
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
        fork_start();
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
    lock_init(&heap->lock, rank);
    bank_init(&heap->bank, id);
    heap->bank.has_strays_sent = 1;
    heap->bank.keeps_empty = 0; /* until a thread has it */
    tc_init(heap);
    heap->state = HEAP_ORPHAN;
    heap->epoch = heap_epoch;
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
            lock_acquire(&heap->lock);
            heap->lock.rank = LOCK_RANK_SHARED;
            lock_release(&heap->lock);
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

/* Where adopt_from_live begins: behind the own heap, so that threads ask different ones; in a forked child, whose own heap is often
   the only live one, where it stopped, so that all are asked in the end. */
static uint32_t first_asked(const struct heap *heap)
{
    static uint32_t next;
    return heap_epoch == 1 ? heap->id : atomic_add_relaxed(&next, ADOPT_SEARCH) % (atomic_load_relaxed(&last_heap) + 1);
}

/* Takes a slab over from a live heap that has more of the class than it can use soon, or from a stale one. No two threads wait for
   each other's heap: one that is busy is passed by. */
static void adopt_from_live(struct heap *heap, uint32_t size_class)
{
    uint32_t last = atomic_load_relaxed(&last_heap);
    uint32_t id = first_asked(heap);
    for (uint32_t n = last < ADOPT_SEARCH ? last : ADOPT_SEARCH; n; n--) {
        id = id < last ? id + 1 : 1;
        struct heap *from = heap_by_id(id);
        uint32_t spares = from && heap_is_live(from) ? ADOPT_SPARES : 0;
        if (from && from != heap && from->lock.rank == LOCK_RANK_HEAP && bank_n_partial(&from->bank, size_class) > spares &&
            lock_try(&from->lock)) {
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

static void set_live(struct heap *heap, int is_live)
{
    lock_acquire(&heap->lock);
    heap_mend(heap);
    atomic_store_seq(&heap->state, is_live ? heap_epoch : (uint32_t)HEAP_ORPHAN);
    heap->bank.keeps_empty = (uint8_t)is_live;
    lock_release(&heap->lock);
}

void heap_mend(struct heap *heap)
{
    if (HAK_UNLIKELY(heap->epoch != heap_epoch)) {
        (void)atomic_exchange_seq(&heap->inbox, NULL);
        atomic_store_relaxed(&heap->inbox_bytes, 0);
        atomic_store_release(&heap->epoch, heap_epoch);
    }
}

/* While calls are hooked, every thread's `self` is heap_none, so that all of them take the slow paths. */
static void show_to_fast_paths(struct heap *heap)
{
    lock_acquire(&heaps_lock);
    heap->self_at = &hak_self;
    atomic_store_relaxed(&hak_self, are_hooked ? &heap_none : heap);
    lock_release(&heaps_lock);
}

static void hide_from_fast_paths(struct heap *heap)
{
    lock_acquire(&heaps_lock);
    heap->self_at = NULL;
    atomic_store_relaxed(&hak_self, &heap_none);
    lock_release(&heaps_lock);
}

void heap_hook_all(int hooked)
{
    enum gate_reader how = gate_enter_to_read();
    if (how == GATE_REFUSED) {
        return;
    }
    lock_acquire(&heaps_lock);
    are_hooked = hooked;
    for (uint32_t id = 1; id <= last_heap; id++) {
        struct heap *heap = heap_by_id(id);
        if (heap && heap->self_at && heap_is_live(heap)) {
            atomic_store_relaxed(heap->self_at, hooked ? &heap_none : heap);
        }
    }
    lock_release(&heaps_lock);
    gate_leave_reader(how);
}

/* A heap whose thread a forked child does not have; its cache and inbox may be torn, and are forgotten. HEAPS lock held. */
static struct heap *adopt_stale(void)
{
    while (stale_next <= stale_last && stale_next) {
        struct heap *heap = heap_by_id(stale_next++);
        if (heap && heap->state != HEAP_ORPHAN && !heap_is_live(heap)) {
            heap->budget = 0;
            heap->is_inside = 0;
            tc_init(heap);
            stat_sub(orphans, 1);
            return heap;
        }
    }
    return NULL;
}

/* Inside the gate. */
static struct heap *take_heap(void)
{
    lock_acquire(&heaps_lock);
    if (!is_ready) {
        start();
    }
    struct heap *heap = orphans;
    if (heap) {
        orphans = heap->next_orphan;
        stat_sub(orphans, 1);
    } else {
        heap = adopt_stale();
        heap = heap ? heap : new_heap(&next_id, LOCK_RANK_HEAP);
    }
    lock_release(&heaps_lock);
    if (heap) {
        set_live(heap, 1);
        heap_own = heap;
        if (HAK_UNLIKELY(!heap_is_live(heap))) {
            set_live(heap, 1); /* a signal handler has forked in between, and this is the child */
        }
        show_to_fast_paths(heap);
        (void)atomic_add_relaxed(&n_live, 1u);
        background_count();
    }
    return heap;
}

struct heap *heap_acquire(void)
{
    if (heap_own != &heap_none) {
        return heap_own;
    }
    if (is_ending || !gate_enter()) {
        return NULL;
    }
    /* Again: a signal handler may have forked in between, and a handler of that fork allocated. */
    struct heap *heap = heap_own != &heap_none ? heap_own : take_heap();
    gate_leave();
    if (!heap) {
        return NULL;
    }
    /* The next calls may allocate: the heap is in place. They take locks of the C library, which a fork may hold that waits for
       the gate. */
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
    set_live(heap, 0);
    lock_acquire(&heap->lock);
    heap_tidy(heap);
    (void)heap_unlock(heap);
    lock_acquire(&heaps_lock);
    heap->next_orphan = orphans;
    orphans = heap;
    stat_add(orphans, 1);
    lock_release(&heaps_lock);
}

void heap_end_thread(struct heap *heap)
{
    tc_flush(heap);
    make_orphan(heap);
    (void)atomic_sub_relaxed(&n_live, 1u);
    background_count();
}

/* Where nobody may wait for the gate, the thread that opens it ends this one's heap. Its last store here is to the heap's
   self_at, with nobody inside who would follow it. */
static void leave_behind(struct heap *heap)
{
    gate_close();
    heap->self_at = NULL;
    atomic_store_relaxed(&hak_self, &heap_none);
    gate_open();
    fork_defer_thread(heap);
}

static void thread_ends(void *arg)
{
    struct heap *heap = (struct heap *)arg;
    if (heap_own != heap) {
        return;
    }
    is_ending = 1;
    heap_own = &heap_none; /* so that it enters by no word of a heap that may soon be another thread's */
    if (!gate_enter()) {
        leave_behind(heap);
        return;
    }
    hide_from_fast_paths(heap);
    heap_end_thread(heap);
    gate_leave();
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
    if (!gate_enter()) {
        return;
    }
    uint32_t mask = pool_slab_mask(number, &base);
    gate_leave();
    for (; mask; mask &= mask - 1) {
        const char *start = base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES;
        struct map_entry entry = map_get(start);
        struct heap *heap = heap_by_id(TAG_OWNER(entry.tag));
        if (!heap || !gate_enter()) {
            continue;
        }
        lock_acquire(&heap->lock);
        /* It may have been given back or have moved. With the owner's lock held, what the map says stays. */
        struct map_entry now = map_get(start);
        if (now.tag == entry.tag && now.ref == number) {
            stat_add(cold_bytes_purged, slab_purge_cold(pool_slab_of(number, start), tick));
        }
        lock_release(&heap->lock);
        gate_leave();
    }
}

void heap_rest_all(void)
{
    static uint16_t tick;
    tick++;
    for (uint32_t id = 1, last = atomic_load_relaxed(&last_heap); id <= last; id++) {
        struct heap *heap = heap_by_id(id);
        if (heap && gate_enter()) {
            lock_acquire(&heap->lock);
            rest(heap);
            (void)heap_unlock(heap);
            gate_leave();
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
    heap_own = &heap_none;
    atomic_store_relaxed(&hak_self, &heap_none);
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

/* --- fork --- */

/* Own inbox first: what lies in it when the process is copied is lost in the child. Not for a handler that interrupted the slow
   path. */
void heap_receive_own(void)
{
    struct heap *heap = heap_own;
    if (heap != &heap_none && gate_thread.depth == 0 && gate_enter()) {
        lock_acquire(&heap->lock);
        remote_receive(heap);
        (void)heap_unlock(heap);
        gate_leave();
    }
}

/* The new epoch makes every heap but the own one stale. None is touched here: a child that leaves at once copies no page for it. */
void heap_fork_child(void)
{
    struct heap *own = heap_own;
    int64_t n_own = own != &heap_none;
    atomic_store_relaxed(&heap_epoch, heap_epoch + 1);
    stale_next = 1;
    stale_last = last_heap;
    if (n_own) {
        own->state = heap_epoch;
        own->inbox = NULL; /* other threads were pushing */
        own->inbox_bytes = 0;
        own->epoch = heap_epoch;
        atomic_store_relaxed(&hak_self, are_hooked ? &heap_none : own);
    }
    stat_add(orphans, stat_get(heaps) - n_own - stat_get(orphans));
    stat_add(bin_budget, (int64_t)own->budget - stat_get(bin_budget));
    atomic_store_relaxed(&n_live, (uint32_t)n_own);
}

int heap_lose(struct lock *lock)
{
    for (uint32_t id = 1; id <= last_heap && lock->rank == LOCK_RANK_HEAP; id++) {
        if (heaps[id] && &heaps[id]->lock == lock && heaps[id] != heap_own) {
            lock_mark_lost(lock);
            heaps[id] = &heap_none;
            return 1;
        }
    }
    return 0;
}
