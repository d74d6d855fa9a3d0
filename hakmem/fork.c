/* Fork handlers, what is put off meanwhile, and the last steps before an error's abort. One lock (rank DEFERRED), held while what
   was put off is done, so that two threads who must find nothing waiting do not pass each other. Called by the C library's fork,
   by slow paths that find the gate closed, and by hak_fatal. */
#include "hakmem/fork.h"

#include <pthread.h>

#include "base/error.h"
#include "base/lock.h"
#include "hakmem/background.h"
#include "hakmem/fallback.h"
#include "hakmem/gate.h"
#include "hakmem/heap.h"
#include "hakmem/limbo.h"
#include "hakmem/plain.h"
#include "hakmem/small.h"
#include "hakmem/user_heap.h"
#include "superslab/superslab.h"

static LOCK_DEFINE(deferred_lock, LOCK_RANK_DEFERRED);
static void *blocks;              /* linked through their first words */
static struct owner *destroyed; /* by next_unused */
static struct heap *left;         /* by next_orphan */
static uint32_t n_ended;          /* threads whose heaps were left; told to background_count when it is 0 again */

static void catch_up_if_open(void)
{
    if (!gate_is_closed()) {
        fork_catch_up();
    }
}

void fork_defer_block(void *p)
{
    void *first = atomic_load_relaxed(&blocks);
    do {
        *(void **)p = first;
    } while (!atomic_cas_weak_seq(&blocks, &first, p));
    catch_up_if_open();
}

void fork_defer_end(struct owner *owner)
{
    struct owner *first = atomic_load_relaxed(&destroyed);
    do {
        owner->next_unused = first;
    } while (!atomic_cas_weak_seq(&destroyed, &first, owner));
    catch_up_if_open();
}

void fork_defer_thread(struct heap *heap)
{
    struct heap *first = atomic_load_relaxed(&left);
    do {
        heap->next_orphan = first;
    } while (!atomic_cas_weak_seq(&left, &first, heap));
    catch_up_if_open();
}

/* A pool's blocks come back through it alone, which has looked whose it is. */
static void free_block(void *p)
{
    uint32_t tag = map_find(p).tag;
    struct owner *owner = TAG_IS_SLAB(tag) ? owner_by_id(TAG_OWNER(tag)) : NULL;
    if (!owner || owner->kind != OWNER_POOL) {
        plain_free(p);
        return;
    }
    lock_acquire(&owner->lock);
    small_put(owner, TAG_CLASS(tag), p);
    owner_release(owner);
}

/* A block that was freed twice meanwhile is in the list twice, and the list may go round: each is looked at before it is touched. */
static void free_blocks(void *p)
{
    while (p) {
        struct ss_lookup found = hak_super_lookup(p);
        HAK_CHECK(found.kind == SS_NOT_OURS ? fallback_holds(p) != 0 : found.is_allocated && found.start == p,
                  "block freed twice, or invalid pointer freed (not the start of a block)", p);
        void *next = *(void **)p;
        free_block(p);
        p = next;
    }
}

static void end_owner(struct owner *owner)
{
    struct hak_heap *heap = user_heap_of_owner(owner);
    if (heap) {
        user_heap_end(heap);
    } else {
        owner_end_pool(owner);
    }
}

static void do_all(void)
{
    struct owner *owner = atomic_exchange_seq(&destroyed, NULL);
    struct heap *heap = atomic_exchange_seq(&left, NULL);
    /* Last: what was freed before its heap was destroyed is in this list, or has been freed. */
    free_blocks(atomic_exchange_seq(&blocks, NULL));
    while (owner) {
        struct owner *next = owner->next_unused;
        end_owner(owner);
        owner = next;
    }
    while (heap) {
        struct heap *next = heap->next_orphan;
        heap_end_thread(heap);
        (void)atomic_add_relaxed(&n_ended, 1u);
        heap = next;
    }
}

static int is_any(void)
{
    return atomic_load_seq(&blocks) || atomic_load_seq(&destroyed) || atomic_load_seq(&left);
}

void fork_catch_up(void)
{
    static HAK_TLS int is_busy; /* what is done here may open the gate, and come here again */
    while (!is_busy && is_any() && gate_enter()) {
        is_busy = 1;
        lock_acquire(&deferred_lock);
        do_all();
        lock_release(&deferred_lock);
        is_busy = 0;
        gate_leave();
    }
    /* Who is emptying the lists now may have taken what this thread must find done. */
    if (!is_busy && atomic_load_relaxed(&deferred_lock.word) && gate_enter()) {
        lock_acquire(&deferred_lock);
        lock_release(&deferred_lock);
        gate_leave();
    }
    if (HAK_UNLIKELY(atomic_load_relaxed(&n_ended) != 0) && !gate_is_inside() && atomic_exchange_seq(&n_ended, 0u)) {
        background_count(); /* outside of the gate: it may wait */
    }
}

static void prepare(void)
{
    heap_receive_own();
    gate_close();
}

static void in_parent(void)
{
    gate_open();
}

static void lose(struct lock *lock, void *context)
{
    (void)context;
    if (lock->word && !lock_is_mine(lock) && !heap_lose(lock)) {
        lock_mark_lost(lock);
        gate_close_for_ever();
    }
}

/* Nobody was inside, so that all locks are free and every structure whole: the child has nothing to mend but what lies outside of
   the gate, all at once by a new epoch (heap.h). If others were inside, what they hold is lost. */
static void in_child(void)
{
    if (gate_saw_others()) {
        lock_for_each(lose, NULL);
    }
    blocks = NULL;
    destroyed = NULL;
    left = NULL;
    n_ended = 0;
    limbo_fork_child();
    heap_fork_child();
    background_init();
    gate_open_in_child();
}

/* The thread that dies allocates from limbo alone, and so do all others from now on: what it was changing is half changed. */
static void before_abort(void)
{
    gate_close_for_ever();
    (void)lock_release_mine();
    heap_refuse();
    gate_forget();
}

/* --- pools used alone --- */

static int enter_for_pool(void)
{
    return gate_enter();
}

static void leave_for_pool(void)
{
    gate_leave();
}

static void *alloc_for_pool(size_t size, size_t align, struct owner *owner)
{
    return limbo_alloc(size, align, owner ? owner : LIMBO_INTERNAL);
}

void fork_start(void)
{
    static const struct owner_gate for_pools = {enter_for_pool, leave_for_pool,   alloc_for_pool, limbo_free,
                                                limbo_free_of,  fork_defer_block, fork_defer_end, fork_catch_up};
    atomic_store_release(&owner_gate, &for_pools);
    error_before_abort = before_abort;
    (void)pthread_atfork(prepare, in_parent, in_child);
}
