/* Heaps: made, found, orphaned; start of the process, end of a thread, and what a forked child
   changes. Locks: HEAPS for the orphans, then the table of owners' and a heap's own. Called by the
   slow paths of plain.c, by pthread (end of a thread), by entry.c and by fork.c. */
#include "heap/theap.h"

#include <pthread.h>
#include <unistd.h>

#include "ace/ace.h"
#include "ace/adapt.h"
#include "base/error.h"
#include "base/lock_holds.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "heap/background.h"
#include "heap/common.h"
#include "heap/depot.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "heap/small.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/pool.h"

/* An owner that neither a heap nor a special tag has, and a view that shows nothing. Its metered
   bins are made when they may be looked at. */
struct theap hak_theap_none = {
    .bins = {[0 ... SC_N_CLASSES - 1] = {.head = (void *)(uintptr_t)hak_link_end}},
    .owner_tag = (TAG_SPECIAL_OWNER >> 1) << TAG_OWNER_SHIFT,
    .view = {.is_final = 1},
    .last_slot = &hak_theap_none.outbox[0]};
HAK_TLS struct theap *hak_self = &hak_theap_none;
HAK_TLS struct theap *hak_theap_own = &hak_theap_none;

/* Set when the thread's destructor has run: it gets no heap any more. */
static HAK_TLS uint8_t is_ending;
/* note_end_without_heap was called; frees that got no heap. */
static HAK_TLS uint8_t is_noted, n_frees;
/* The heap that the thread's destructor is giving up, for a signal handler that forks then. */
static HAK_TLS struct theap *leaving;

static void thread_ends(void *heap);

/* How many slabs go to the shared heap at a time: every thread may want its lock. */
#define MOVE_SLABS HAK_TINY_OR(2u, 16u)
/* How many frees of a thread get no heap. */
#define FREES_WITHOUT 8u
/* How many owners are looked at for a stale heap before a new one is made. */
#define STALE_SEARCH 64u

static LOCK_DEFINE(heaps_lock, LOCK_RANK_HEAPS);
static struct theap *orphans;
struct theap *hak_theap_shared;
static uint32_t shared_id; /* reserved at the start: when it is needed, there may be none left */
static struct theap *commons[N_COMMON_HEAPS]; /* written with the HEAPS lock held */
uint32_t hak_theap_common_tag = (OWNER_MAX + 1) << TAG_OWNER_SHIFT; /* no owner has that id */
static struct theap *unused;       /* memory of heaps that were not made, by next_orphan */
static struct theap *first_memory; /* the first heap's memory, until it is made */
uint32_t hak_theap_live;
uint32_t hak_theap_has_ended;
/* In a forked child: heaps of threads that it does not have are to be adopted, from the id after
   stale_id on. */
static uint32_t has_stale, stale_id;
uint32_t hak_theap_epoch = 1;
static uint32_t is_ready;
static int has_environment; /* not in functions that run before the C library's own start */
static pthread_key_t end_key;
static int has_end_key;

/* The public interface's, which is not there in tests of parts alone. */
const char *hak_version(void) __attribute__((weak));

static void print_banner(void)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: active pid=");
    hak_line_unsigned(&line, (uint64_t)getpid());
    hak_line_text(&line, " version=");
    hak_line_text(&line, hak_version ? hak_version() : "none");
    hak_line_text(&line, " variant=" HAKMEM_VARIANT);
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        hak_line_text(&line, " ");
        hak_line_text(&line, hak_opt_rows[i].name);
        hak_line_text(&line, "=");
        hak_opt_line_value(
            &line, &hak_opt_rows[i],
            *(const uint64_t *)(const void *)((const char *)&hak_options + hak_opt_rows[i].offset));
    }
    hak_line_write(&line, 2);
}

static void read_options(void)
{
    char **environment = hak_os_ops.environ_();
    has_environment = environment != NULL;
    /* Who starts a program that has more privileges than he must not be able to tell it anything,
       nor to have it write anything. */
    hak_opt_init(&hak_options, hak_os_ops.is_secure() ? NULL : environment);
    hak_fail_start();
    hak_limit_configure(hak_options.limit_soft, hak_options.limit_hard);
    if (hak_options.verbose) {
        print_banner();
    }
}

/* Ids in a row: pools used alone may have taken some before. Where there are none, there are no
   common heaps. */
static void reserve_common(void)
{
    uint32_t first = hak_owner_reserve(), last = first;
    for (uint32_t i = 1; i < N_COMMON_HEAPS && last == first + i - 1; i++) {
        last = hak_owner_reserve();
    }
    if (first && last == first + N_COMMON_HEAPS - 1) {
        hak_theap_common_tag = first << TAG_OWNER_SHIFT;
    }
}

static struct span_cache *spans_of_thread(void)
{
    return &hak_theap_own->spans;
}

/* Once, under the HEAPS lock, before the first heap. Nothing below allocates. */
static void start(void)
{
    read_options();
    hak_link_start();
    hak_spans_own = spans_of_thread;
    hak_ace_start();
    hak_background_init();
    shared_id = hak_owner_reserve();
    reserve_common();
    atomic_store_release(&is_ready, 1u);
}

static pthread_once_t threads_once = PTHREAD_ONCE_INIT, handlers_once = PTHREAD_ONCE_INIT;
static uint32_t has_threads;
static void *registers; /* the thread that registers the handlers of fork */

static void register_handlers_once(void)
{
    atomic_store_relaxed(&registers, (void *)&hak_theap_own);
    hak_fork_start();
    atomic_store_relaxed(&registers, (void *)NULL);
}

/* The C library allocates as it registers them, musl always, glibc where its list grows: that call
   does not wait for the one that it is part of. */
static void register_handlers(void)
{
    if (atomic_load_relaxed(&registers) != (void *)&hak_theap_own) {
        (void)pthread_once(&handlers_once, register_handlers_once);
    }
}

static void start_threads_once(void)
{
    has_end_key = has_end_key || pthread_key_create(&end_key, thread_ends) == 0;
    register_handlers();
}

/* What needs the C library's locks happens outside of ours. A second thread waits until the first
   has the key: otherwise its end would go unnoticed. In a child that another thread forks while
   this goes on, glibc's pthread_once begins again. */
static void start_threads(void)
{
    if (HAK_UNLIKELY(!atomic_load_acquire(&has_threads))) {
        (void)pthread_once(&threads_once, start_threads_once);
        atomic_store_release(&has_threads, 1u);
    }
}

/* Reads the options, but makes no heap: a program that never allocates has none. The memory for one
   is there, untouched: the program may lower its limits before its first call. Before this object's
   other constructors, which look at the options. The handlers of fork come first: where the C
   library's malloc is not this one, the first call may be a thread's while another one forks, and
   what makes its heap takes locks. */
__attribute__((constructor(65000))) static void start_early(void)
{
    register_handlers();
#ifndef __GLIBC__
    /* glibc's pthread_create allocates: before the first call there is one thread. musl's does not,
       and a thread could make that call while another forks, before the handlers of fork are there.
     */
    (void)hak_theap_acquire();
#endif
    hak_atomic_touch(&hak_gate_closed); /* and what lies beside it */
    if (hak_gate_enter()) {
        struct theap *memory =
            hak_theap_n_live() ? NULL : (struct theap *)hak_os_meta_alloc(sizeof *memory);
        hak_lock_acquire(&heaps_lock);
        if (!is_ready) {
            start();
        }
        first_memory = memory;
        hak_lock_release(&heaps_lock);
        hak_gate_leave();
    }
    if (!has_environment) {
        read_options();
    }
    if (hak_options.limit_soft == LIMIT_AUTO || hak_options.limit_hard == LIMIT_AUTO) {
        hak_limit_read_cgroup(); /* before main: later no file may be opened */
    }
    hak_background_load();
    hak_os_part_code();
}

/* Memory for a heap; NULL if there is none. No lock held. */
static struct theap *take_memory(void)
{
    hak_lock_acquire(&heaps_lock);
    struct theap *memory = unused ? unused : first_memory;
    if (unused) {
        unused = memory->next_orphan;
    } else {
        first_memory = NULL;
    }
    hak_lock_release(&heaps_lock);
    return memory ? memory : (struct theap *)hak_os_meta_alloc(sizeof *memory);
}

/* It is not needed, after all. HEAPS lock held. */
static void keep_memory(struct theap *memory)
{
    memory->next_orphan = unused;
    unused = memory;
}

static void make_heap(struct theap *heap, uint32_t id, enum lock_rank rank)
{
    heap->owner_tag = id << TAG_OWNER_SHIFT;
    heap->next_orphan = NULL;
    hak_tc_init(heap);
    heap->owner.state = HEAP_ORPHAN;
    heap->owner.epoch = hak_theap_epoch;
    hak_owner_register_as(&heap->owner, id, OWNER_THREAD, rank);
}

/* A thread's heap; NULL if there is no id or no memory. No lock held. */
static struct theap *new_heap(void)
{
    struct theap *heap = take_memory();
    uint32_t id = heap ? hak_owner_reserve() : 0;
    if (id) {
        hak_pool_touch();
        make_heap(heap, id, LOCK_RANK_HEAP);
        hak_stat_add(heaps, 1);
        return heap;
    }
    if (heap) {
        hak_lock_acquire(&heaps_lock);
        keep_memory(heap);
        hak_lock_release(&heaps_lock);
    }
    return NULL;
}

/* One that is lost in a forked child leaves the list here, and serves none: what another thread did
   to it is half done. */
static struct theap *take_orphan(void)
{
    while (HAK_UNLIKELY(orphans && hak_owner_is_lost(&orphans->owner))) {
        hak_lock_step(1);
        orphans = orphans->next_orphan;
    }
    struct theap *heap = orphans;
    if (heap) {
        orphans = heap->next_orphan;
        hak_stat_sub(orphans, 1);
    }
    return heap;
}

/* From the memory, or, if it is NULL, from an orphan. Returns 1 if the memory was used. HEAPS lock
   held. */
static int make_shared(struct theap *memory)
{
    struct theap *heap = memory;
    if (memory) {
        make_heap(memory, shared_id, LOCK_RANK_SHARED);
    } else if ((heap = take_orphan()) != NULL) {
        hak_stat_sub(heaps, 1);
        hak_lock_acquire(&heap->owner.lock);
        heap->owner.lock.rank = LOCK_RANK_SHARED;
        hak_lock_release(&heap->owner.lock);
    }
    atomic_store_release(&hak_theap_shared, heap);
    return memory != NULL;
}

/* The shared heap, made at need: when the first thread ends, or finds no heap. NULL if there is no
   memory. */
static struct theap *get_shared(void)
{
    struct theap *heap = atomic_load_acquire(&hak_theap_shared);
    if (HAK_LIKELY(heap != NULL)) {
        return heap;
    }
    struct theap *memory = take_memory();
    hak_lock_acquire(&heaps_lock);
    if (!is_ready) {
        start();
    }
    int is_used = !hak_theap_shared && make_shared(memory);
    if (memory && !is_used) {
        keep_memory(memory);
    }
    heap = hak_theap_shared;
    hak_lock_release(&heaps_lock);
    return heap;
}

/* HEAPS lock held. Returns 1 if the memory was used. */
static int make_common(struct theap *memory, uint32_t i)
{
    if (!memory || commons[i] || TAG_OWNER(hak_theap_common_tag) > OWNER_MAX) {
        return 0;
    }
    make_heap(memory, (hak_theap_common_tag >> TAG_OWNER_SHIFT) + i, LOCK_RANK_HEAP);
    atomic_store_release(&commons[i], memory);
    return 1;
}

static HAK_NOINLINE void try_make_common(uint32_t i)
{
    struct theap *memory = take_memory();
    hak_lock_acquire(&heaps_lock);
    if (!make_common(memory, i) && memory) {
        keep_memory(memory);
    }
    hak_lock_release(&heaps_lock);
}

struct theap *hak_theap_common_if_made(uint32_t i)
{
    struct theap *common = atomic_load_acquire(&commons[i]);
    return common ? hak_theap_of_owner(&common->owner) : NULL;
}

struct theap *hak_theap_common(uint32_t i)
{
    if (HAK_UNLIKELY(!atomic_load_acquire(&commons[i]))) {
        try_make_common(i);
    }
    return hak_theap_common_if_made(i);
}

int hak_theap_unlock(struct theap *heap)
{
    void *strays = heap->owner.bank.strays;
    heap->owner.bank.strays = NULL;
    hak_owner_release(&heap->owner);
    hak_background_poke();
    if (HAK_UNLIKELY(strays != NULL)) {
        hak_remote_send_list(strays);
    }
    hak_ss_purge_due();
    return strays != NULL;
}

/* Slabs with free blocks go to the shared heap, some at a time. Heap lock held. Returns 1 while
   there are more. */
static int leave_some(struct theap *heap)
{
    struct theap *to = atomic_load_acquire(&hak_theap_shared);
    int is_more = 0;
    if (heap != to && !hak_theap_is_common(heap) && !atomic_load_relaxed(&heap->is_parked)) {
        hak_bank_release_empty(&heap->owner.bank);
        if (to) {
            hak_lock_acquire(&to->owner.lock);
            is_more = hak_bank_move_some(&heap->owner.bank, &to->owner.bank, MOVE_SLABS);
            hak_lock_release(&to->owner.lock);
        }
    }
    return is_more;
}

/* Heap lock held. Returns 1 while there is more. */
static int tidy_some(struct theap *heap)
{
    return hak_remote_collect(heap) || leave_some(heap);
}

/* Returns 0 if it must not wait and another thread has the lock. */
static int lock_for(struct theap *heap, int must)
{
    if (must) {
        hak_lock_acquire(&heap->owner.lock);
    }
    return must || hak_lock_try(&heap->owner.lock);
}

/* Does `some` until it returns 0. Heap lock held; released. */
static void finish_and_unlock(struct theap *heap, int (*some)(struct theap *heap))
{
    while (some(heap)) {
        (void)hak_theap_unlock(heap);
        hak_lock_acquire(&heap->owner.lock);
    }
    (void)hak_theap_unlock(heap);
}

int hak_theap_tidy(struct theap *heap, int must)
{
    int is_locked = lock_for(heap, must);
    if (is_locked) {
        finish_and_unlock(heap, tidy_some);
    }
    return is_locked;
}

int hak_theap_relieve(struct theap *heap, int must)
{
    if (!lock_for(heap, must)) {
        return 0;
    }
    uint32_t n_slow = atomic_load_relaxed(&heap->n_slow);
    if (HAK_UNLIKELY(!hak_theap_is_live(heap))) {
        finish_and_unlock(heap, tidy_some); /* its thread has ended since the sender looked */
    } else if (heap->seen_slow == n_slow) {
        hak_remote_collect_inbox(heap);
        finish_and_unlock(heap, leave_some);
    } else {
        heap->seen_slow = n_slow;
        hak_remote_receive(heap);
        (void)hak_theap_unlock(heap);
    }
    return 1;
}

static void set_live(struct theap *heap, int is_live)
{
    hak_lock_acquire(&heap->owner.lock);
    hak_theap_mend(heap);
    atomic_store_seq(&heap->owner.state, is_live ? hak_theap_epoch : HEAP_ORPHAN);
    heap->owner.bank.keeps_empty = (uint8_t)is_live;
    hak_lock_release(&heap->owner.lock);
}

void hak_theap_mend(struct theap *heap)
{
    if (HAK_UNLIKELY(heap->owner.epoch != hak_theap_epoch)) {
        (void)atomic_exchange_seq(&heap->owner.inbox, NULL);
        atomic_store_relaxed(&heap->owner.inbox_bytes, 0);
        atomic_store_release(&heap->owner.epoch, hak_theap_epoch);
    }
}

/* A heap whose thread a forked child does not have; its cache and inbox may be torn, and are
   forgotten. HEAPS lock held. */
static struct theap *adopt_stale(void)
{
    for (uint32_t n = STALE_SEARCH; has_stale && n; n--) {
        hak_lock_step(1);
        struct owner *owner = hak_owner_next(&stale_id);
        struct theap *heap = hak_theap_of_owner(owner);
        has_stale = owner != NULL;
        if (heap && heap->owner.state != HEAP_ORPHAN && !hak_theap_is_live(heap)) {
            heap->budget = 0;
            heap->spans = (struct span_cache){.reserved = 0}; /* forgotten, as its bins */
            heap->is_inside = heap->is_parked = 0;
            heap->waits_for = NULL;
            heap->self_at = NULL;
            hak_tc_init(heap);
            hak_stat_sub(orphans, 1);
            return heap;
        }
    }
    return NULL;
}

/* One that has no thread; NULL if there is none. */
static struct theap *adopt_heap(void)
{
    struct theap *heap = hak_parked_take();
    if (heap) {
        return heap;
    }
    hak_lock_acquire(&heaps_lock);
    if (!is_ready) {
        start();
    }
    heap = take_orphan();
    heap = heap ? heap : adopt_stale();
    hak_lock_release(&heaps_lock);
    return heap;
}

/* Inside the gate. */
static struct theap *take_heap(void)
{
    struct theap *heap = adopt_heap();
    heap = heap ? heap : new_heap();
    if (heap) {
        set_live(heap, 1);
        /* A thread that a forked child does not have may have left some. Before the heap is this
           thread's: in the child of a handler's fork it would be taken for its own. */
        heap->kept = NULL;
        heap->has_kept = 0;
        heap->n_levelled = 0;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        hak_theap_own = heap;
        if (HAK_UNLIKELY(!hak_theap_is_live(heap))) {
            set_live(heap, 1); /* a signal handler has forked in between, and this is the child */
        }
        hak_map_view_begin(&heap->view);
        hak_theap_show(heap);
        (void)atomic_add_relaxed(&hak_theap_live, 1u);
    }
    return heap;
}

/* A thread that gets no heap now may get one as late as when the C library frees what was the
   thread's, behind the destructors of its keys: then no one would notice its end. */
static void note_end_without_heap(void)
{
    if (!is_noted && atomic_load_acquire(&has_threads) && has_end_key) {
        is_noted = 1; /* first: it may allocate */
        (void)pthread_setspecific(end_key, &hak_theap_none);
    }
}

struct theap *hak_theap_acquire_first(void)
{
    if (is_ending || hak_gate_thread.depth || hak_theap_holds_outside()) {
        return NULL;
    }
    if (!hak_gate_enter()) {
        note_end_without_heap();
        return NULL;
    }
    /* Again: a signal handler may have forked in between, and a handler of that fork allocated. */
    struct theap *heap = hak_theap_own != &hak_theap_none ? hak_theap_own : take_heap();
    hak_gate_leave();
    if (!heap) {
        return NULL;
    }
    /* Outside of the gate, since they wait, or take locks of the C library, which a fork may hold
       that waits for the gate. They may allocate: the heap is in place. */
    hak_background_count();
    start_threads();
    if (has_end_key) {
        (void)pthread_setspecific(end_key, heap);
    }
    return heap;
}

struct theap *hak_theap_acquire_to_free(void)
{
    if (hak_theap_own == &hak_theap_none && n_frees < FREES_WITHOUT) {
        n_frees++;
        return NULL;
    }
    return hak_theap_acquire();
}

/* Leaves a heap to the next thread, and its slabs to all. */
void hak_theap_end_cache(struct theap *heap)
{
    hak_tc_flush(heap);
    (void)get_shared();
    set_live(heap, 0);
    (void)hak_theap_tidy(heap, 1);
    hak_lock_acquire(&heaps_lock);
    heap->next_orphan = orphans;
    orphans = heap;
    hak_stat_add(orphans, 1);
    hak_lock_release(&heaps_lock);
}

/* They serve no more: what they keep empty goes back. */
static void rest_commons(void)
{
    for (uint32_t i = 0; i < N_COMMON_HEAPS && atomic_load_acquire(&commons[i]); i++) {
        struct theap *common = hak_theap_common(i);
        if (common) {
            hak_lock_acquire(&common->owner.lock);
            common->owner.bank.keeps_empty = 0;
            hak_bank_release_empty(&common->owner.bank);
            (void)hak_theap_unlock(common);
        }
    }
}

/* The heap is an orphan from here on: no chain is lost, see remote.c. Returns 0 if it may not
   wait as it is. */
static int park(struct theap *heap)
{
    if (!hak_parked_may()) {
        return 0;
    }
    if (heap->budget > PARKED_BUDGET) {
        hak_tc_begin_again(heap);
    }
    uint64_t bytes = hak_tc_bytes(heap);
    if (bytes > PARKED_BYTES) {
        hak_tc_shrink(heap, bytes, PARKED_BYTES / 2);
    }
    hak_remote_send_all(heap);
    atomic_store_relaxed(&heap->is_parked, 1u);
    set_live(heap, 0);
    hak_lock_acquire(&heap->owner.lock);
    hak_bank_release_empty(&heap->owner.bank);
    if (heap->depot_bytes[0] + heap->depot_bytes[1] > PARKED_INBOX_BYTES ||
        atomic_load_relaxed(&heap->owner.inbox_bytes) > PARKED_INBOX_BYTES) {
        finish_and_unlock(heap, tidy_some);
    } else {
        (void)hak_theap_unlock(heap);
    }
    if (hak_parked_put(heap)) {
        return 1;
    }
    atomic_store_seq(&heap->is_parked, 0u);
    return 0;
}

void hak_theap_end_thread(struct theap *heap)
{
    atomic_store_relaxed(&hak_theap_has_ended, 1u);
    hak_common_end_thread(heap);
    hak_spans_let_go(&heap->spans);
    (void)hak_spans_end(&heap->spans);
    if (!park(heap)) {
        hak_theap_end_cache(heap);
    }
    uint32_t n_before = atomic_sub_relaxed(&hak_theap_live, 1u);
    if (n_before == hak_common_from) {
        rest_commons();
    }
    if (n_before <= 2) {
        hak_parked_end(1);
    }
}

/* musl runs a cancelled thread's destructors on the stack as it was where the thread was
   interrupted. */
HAK_ANY_STACK static void thread_ends(void *arg)
{
    struct theap *heap = (struct theap *)arg;
    if (hak_theap_own != heap) {
        return;
    }
    is_ending = 1;
    if (heap == &hak_theap_none) {
        return; /* it was refused one, and gets none now (note_end_without_heap) */
    }
    leaving = heap;
    hak_theap_own = &hak_theap_none; /* so that it enters by no word of a heap that may soon be
                                        another thread's */
    hak_theap_hide(heap);
    if (hak_gate_enter()) {
        hak_theap_end_thread(heap);
        leaving = NULL;
        hak_gate_leave();
        hak_background_count();
    } else {
        hak_fork_defer_thread(
            heap); /* no thread may wait for the gate: whoever opens it ends the heap */
        leaving = NULL;
    }
}

void *hak_theap_alloc_uncached(uint32_t size_class)
{
    struct theap *heap = get_shared();
    int is_clean;
    return heap ? hak_owner_take_one(&heap->owner, size_class, hak_small_take, &is_clean) : NULL;
}

void hak_theap_refuse(void)
{
    struct theap *heap = hak_theap_own;
    is_ending = 1;
    hak_theap_own = &hak_theap_none;
    if (heap != &hak_theap_none) {
        hak_theap_hide(heap);
    }
}

int hak_theap_is_ending(void)
{
    return is_ending;
}

static int verify_depot(struct owner *owner, void *context)
{
    const struct theap *heap = hak_theap_of_owner(owner);
    (void)context;
    return heap ? hak_depot_verify(heap) : 0;
}

int hak_theap_verify_all(void)
{
    int result = hak_theap_own != &hak_theap_none ? hak_tc_verify(hak_theap_own) : 0;
    result = result ? result : hak_spans_verify(&hak_theap_own->spans);
    result = result ? result : hak_parked_verify();
    result = result ? result : hak_owner_for_each(verify_depot, NULL);
    return result ? result : hak_owner_verify_all();
}

/* --- fork --- */

int hak_theap_holds_outside(void)
{
    return hak_lock_is_mine(&hak_theap_shown_lock) || hak_owner_holds_spares() ||
           hak_lock_rank_any();
}

/* Own inbox first, and those of parked heaps: what lies in one when the process is copied is lost
   in the child. Not for a handler that interrupted a slow path, or who reads with the gate closed.
 */
void hak_theap_receive_own(void)
{
    struct theap *heap = hak_theap_own;
    if (heap != &hak_theap_none && hak_gate_thread.depth == 0 && !hak_gate_is_mine() &&
        !hak_theap_holds_outside() && hak_gate_enter()) {
        hak_lock_acquire(&heap->owner.lock);
        hak_remote_receive(heap);
        (void)hak_theap_unlock(heap);
        hak_parked_collect();
        hak_gate_leave();
    }
}

/* The new epoch makes every heap but the own one stale. None is touched here: a child that leaves
   at once copies no page for it. */
void hak_theap_fork_child(void)
{
    struct theap *own = leaving ? leaving : hak_theap_own;
    int64_t n_own = own != &hak_theap_none;
    atomic_store_relaxed(&hak_theap_epoch, hak_theap_epoch + 1);
    has_stale = 1;
    stale_id = 0;
    if (n_own) {
        own->owner.state = own->owner.state == HEAP_ORPHAN ? HEAP_ORPHAN : hak_theap_epoch;
        own->owner.inbox = NULL; /* other threads were pushing */
        own->owner.inbox_bytes = 0;
        own->owner.epoch = hak_theap_epoch;
    }
    hak_stat_add(orphans, hak_stat_get(heaps) - n_own - hak_stat_get(orphans));
    hak_stat_add(bin_budget, (int64_t)own->budget - hak_stat_get(bin_budget));
    hak_spans_fork_child(&own->spans);
    hak_stat_add(span_cache_bytes, own->spans.reserved - hak_stat_get(span_cache_bytes));
    atomic_store_relaxed(&hak_theap_live, (uint32_t)n_own);
    if (has_end_key) { /* which another thread has made; its pthread_once may hang in the child */
        atomic_store_release(&has_threads, 1u);
    }
    hak_theap_mend_shown();
    hak_owner_fork_child();
    if (HAK_UNLIKELY(hak_gate_saw_others())) {
        hak_parked_fork_child();
    }
    hak_entry_fork_parts.in_child();
}

int hak_theap_lose(struct lock *lock)
{
    return lock == &hak_theap_shown_lock ||
           hak_owner_lose(lock, hak_theap_own != &hak_theap_none ? &hak_theap_own->owner : NULL);
}
