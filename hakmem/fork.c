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
#include "hakmem/request.h"
#include "hakmem/user_heap.h"
#include "superslab/superslab.h"

static LOCK_DEFINE(deferred_lock, LOCK_RANK_DEFERRED);
static void *blocks;              /* linked through their first words */
static struct hak_heap *destroyed; /* by next_unused */
static struct heap *left;         /* by next_orphan */

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

void fork_defer_destroy(struct hak_heap *heap)
{
    struct hak_heap *first = atomic_load_relaxed(&destroyed);
    do {
        heap->next_unused = first;
    } while (!atomic_cas_weak_seq(&destroyed, &first, heap));
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

/* A block that was freed twice meanwhile is in the list twice, and the list may go round: each is looked at before it is touched. */
static void free_blocks(void *p)
{
    while (p) {
        struct ss_lookup found = hak_super_lookup(p);
        HAK_CHECK(found.kind == SS_NOT_OURS ? fallback_size(p) != 0 : found.is_allocated && found.start == p,
                  "block freed twice, or invalid pointer freed (not the start of a block)", p);
        void *next = *(void **)p;
        free_plain(p);
        p = next;
    }
}

static void do_all(void)
{
    struct hak_heap *user = atomic_exchange_seq(&destroyed, NULL);
    struct heap *heap = atomic_exchange_seq(&left, NULL);
    /* Last: what was freed before its heap was destroyed is in this list, or has been freed. */
    free_blocks(atomic_exchange_seq(&blocks, NULL));
    while (user) {
        struct hak_heap *next = user->next_unused;
        user_heap_end(user);
        user = next;
    }
    while (heap) {
        struct heap *next = heap->next_orphan;
        heap_end_thread(heap);
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
    limbo_fork_child();
    heap_fork_child();
    background_init();
    gate_open_in_child();
}

/* The thread that dies allocates from limbo alone, and so do all others from now on: what it was changing is half changed. */
static void before_abort(void)
{
    gate_close_for_ever();
    heap_refuse();
    (void)lock_release_mine();
    gate_forget();
}

void fork_start(void)
{
    error_before_abort = before_abort;
    (void)pthread_atfork(prepare, in_parent, in_child);
}
