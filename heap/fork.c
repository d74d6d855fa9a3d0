/* Fork handlers, what is put off during a fork, and the last steps before an error's abort. One
   lock (rank DEFERRED), held while what was put off is done, so that two threads who must find
   nothing waiting do not pass each other; who adds to it only tries. Called by the C library's
   fork, by slow paths that find the gate closed, and by hak_fatal. */
#include "heap/fork.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/os.h"
#include "base/stats.h"
#include "heap/background.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "heap/small.h"
#include "heap/theap.h"
#include "superslab/superslab.h"

/* Less is not worth the calls; and what was freed just now is likely to be used. */
#define FORK_PURGE_BYTES ((int64_t)HAK_TINY_OR(64 * HAK_KIB, 4 * HAK_MIB))
#define FORK_PURGE_MS    1u

static void forget_deferred(void);
static LOCK_DEFINE_MENDED(deferred_lock, LOCK_RANK_DEFERRED, forget_deferred);
static void *blocks;            /* linked through their first words */
static struct owner *destroyed; /* by next_unused */
static struct theap *left;      /* by next_orphan */
static uint32_t is_uncollected; /* an orphan has an inbox */
static uint32_t
    n_ended; /* threads whose heaps were left; hak_background_count is called when it is 0 again */

static void catch_up_if_open(void);

/* In a forked child. */
static void forget_deferred(void)
{
    blocks = NULL;
    destroyed = NULL;
    left = NULL;
    n_ended = 0;
    is_uncollected = 0;
}

/* A large block's first page, which the program may have left without the right to write to it. */
static void make_writable(void *p)
{
    size_t page = hak_os_page_size();
    uint32_t tag = hak_map_find(p).tag;
    if (tag && !TAG_IS_SLAB(tag) && (uintptr_t)p % page == 0 && hak_ace_usable_size(p) >= page) {
        (void)!hak_os_protect(p, page, OS_WRITABLE);
    }
}

void hak_fork_defer_block(void *p)
{
    make_writable(p);
    void *first = atomic_load_relaxed(&blocks);
    do {
        *(void **)p = first;
    } while (!atomic_cas_weak_seq(&blocks, &first, p));
    catch_up_if_open();
}

void hak_fork_defer_end(struct owner *owner)
{
    struct owner *first = atomic_load_relaxed(&destroyed);
    do {
        owner->next_unused = first;
    } while (!atomic_cas_weak_seq(&destroyed, &first, owner));
    catch_up_if_open();
}

void hak_fork_defer_thread(struct theap *heap)
{
    struct theap *first = atomic_load_relaxed(&left);
    do {
        heap->next_orphan = first;
    } while (!atomic_cas_weak_seq(&left, &first, heap));
    catch_up_if_open();
}

void hak_fork_defer_collect(void)
{
    atomic_store_seq(&is_uncollected, 1u);
}

/* Not by plain free: this may be a signal handler that has interrupted the thread while it was
   changing its bins, its outbox or its freed spans. Small blocks are first-class heaps' and pools'.
 */
static void free_block(void *p)
{
    uint32_t tag = hak_map_find(p).tag;
    if (!TAG_IS_SLAB(tag)) {
        hak_entry_fork_parts.free_large(p);
        return;
    }
    struct owner *owner = hak_owner_by_id(TAG_OWNER(tag));
    HAK_CHECK(owner, "invalid pointer freed (it belongs to a pool of its own)", p);
    if (hak_owner_is_lost(owner)) {
        return; /* by a handler's fork in between: its blocks go nowhere */
    }
    hak_lock_acquire(&owner->lock);
    hak_small_put(owner, TAG_CLASS(tag), p);
    hak_owner_release(owner);
    hak_ss_purge_due();
}

/* A block that was freed twice while the gate was closed is in the list twice, and the list may go
   round: each is looked at before it is touched. */
static void free_blocks(void *p)
{
    while (p) {
        struct ss_lookup found = hak_super_lookup(p);
        HAK_CHECK(found.is_allocated && found.start == p,
                  "block freed twice, or invalid pointer freed (not the start of a block)", p);
        void *next = *(void **)p;
        free_block(p);
        p = next;
    }
}

static void end_owner(struct owner *owner)
{
    if (!hak_entry_fork_parts.end_heap(owner)) {
        hak_owner_end_pool(owner);
    }
}

/* Who has closed the gate himself may enter, but finds no inbox (remote.c): he collects when he has
   opened it. */
static int must_collect(void)
{
    return atomic_load_seq(&is_uncollected) && !hak_gate_is_mine();
}

static void do_all(void)
{
    struct owner *owner = atomic_exchange_seq(&destroyed, NULL);
    struct theap *heap = atomic_exchange_seq(&left, NULL);
    if (must_collect() && atomic_exchange_seq(&is_uncollected, 0u)) {
        hak_theap_collect_orphans();
    }
    /* Last: what was freed before its heap was destroyed is in this list, or has been freed. */
    free_blocks(atomic_exchange_seq(&blocks, NULL));
    while (owner) {
        struct owner *next = owner->next_unused;
        end_owner(owner);
        owner = next;
    }
    while (heap) {
        struct theap *next = heap->next_orphan;
        hak_theap_end_thread(heap);
        (void)atomic_add_relaxed(&n_ended, 1u);
        heap = next;
    }
}

static int is_any(void)
{
    return atomic_load_seq(&blocks) || atomic_load_seq(&destroyed) || atomic_load_seq(&left) ||
           must_collect();
}

/* Another thread may still be about what this one must find done. */
static int is_any_or_busy(void)
{
    return is_any() || atomic_load_seq(&deferred_lock.word);
}

/* Whoever has done something looks again after it has released the lock: so a thread that has added
   something, and then finds the lock held, may go. */
static void do_all_and_release(void)
{
    do_all();
    hak_lock_release(&deferred_lock);
    atomic_fence_seq();
}

void hak_fork_catch_up_inside(void)
{
    while (is_any_or_busy()) {
        hak_lock_acquire(&deferred_lock);
        do_all_and_release();
    }
}

static void count_ended(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&n_ended) != 0) && !hak_gate_is_inside() &&
        atomic_exchange_seq(&n_ended, 0u)) {
        hak_background_count(); /* outside of the gate: it may wait */
    }
}

void hak_fork_catch_up_opened(void)
{
    if (is_any_or_busy() && hak_gate_enter()) {
        hak_fork_catch_up_inside();
        hak_gate_leave();
    }
    count_ended();
}

void hak_fork_catch_up(void)
{
    hak_fork_catch_up_opened();
    hak_entry_fork_parts.free_libcs();
}

/* For a free, which waits for no thread that is about it. If the gate is closed by now, whoever has
   closed it does this. */
static void catch_up_if_open(void)
{
    if (!hak_gate_is_closed() && hak_gate_enter()) {
        while (is_any()) {
            atomic_fence_seq();
            if (!hak_lock_try(&deferred_lock)) {
                break;
            }
            do_all_and_release();
        }
        hak_gate_leave();
    }
    count_ended();
}

/* Freed memory that stays resident makes fork longer by each of its pages, and each costs a fault
   when it is used next, kept or not. So it goes first, where there is much of it. Not in a signal
   handler that has interrupted who holds a lock, or may, or who reads with the gate closed. */
static void purge_for_fork(void)
{
    if (hak_stat_get(heap_dirty_bytes) + hak_stat_get(large_cached_bytes) >= FORK_PURGE_BYTES &&
        hak_gate_thread.depth == 0 && !hak_gate_is_mine() && !hak_theap_holds_outside() &&
        hak_gate_enter()) {
        (void)hak_ace_purge(FORK_PURGE_MS);
        (void)hak_ss_purge(FORK_PURGE_MS);
        hak_gate_leave();
    }
}

static void prepare(void)
{
    purge_for_fork();
    hak_theap_receive_own();
    hak_gate_close();
}

static void in_parent(void)
{
    hak_gate_open();
}

static void lose(struct lock *lock, void *context)
{
    (void)context;
    if (lock->word && !hak_lock_is_mine(lock) && !hak_theap_lose(lock) && !hak_lock_mend(lock)) {
        hak_lock_mark_lost(lock);
        hak_gate_close_for_ever();
    }
}

/* No thread was inside, so that all locks are free and every structure whole: the child has nothing
   to mend but what lies outside of the gate, all at once by a new epoch (theap.h). If others were
   inside, what they hold is lost. */
static void in_child(void)
{
    if (hak_gate_saw_others()) {
        hak_lock_for_each(lose, NULL);
    }
    hak_lock_mend_left();
    forget_deferred();
    hak_limbo_fork_child();
    hak_theap_fork_child();
    hak_background_init();
    hak_gate_open_in_child();
}

pid_t hak_fork_bare(void)
{
    prepare();
    pid_t child = (pid_t)syscall(SYS_clone, 0ul, NULL, NULL, NULL, NULL);
    int saved = errno;
    if (child == 0) {
        in_child();
    } else {
        in_parent();
    }
    errno = saved;
    return child;
}

/* The thread that dies allocates from limbo alone, and so do all others from now on: what it was
   changing is half changed. */
static void before_abort(void)
{
    hak_gate_close_for_ever();
    (void)hak_lock_release_mine();
    hak_theap_refuse();
    hak_gate_forget();
}

/* --- pools used alone --- */

static int enter_for_pool(void)
{
    return hak_gate_enter();
}

static void leave_for_pool(void)
{
    hak_gate_leave();
}

static void *alloc_for_pool(size_t size, size_t align, struct owner *owner)
{
    return hak_limbo_alloc(size, align, owner ? owner : LIMBO_INTERNAL);
}

static void free_for_pool(void *block, const struct owner *owner)
{
    HAK_CHECK(hak_limbo_owner(block) == owner,
              "block freed twice, or invalid pointer freed (not the start of a block)", block);
    hak_limbo_free(block);
}

void hak_fork_start(void)
{
    static const struct hak_owner_gate for_pools = {
        enter_for_pool,    leave_for_pool,       alloc_for_pool,     free_for_pool,
        hak_limbo_free_of, hak_fork_defer_block, hak_fork_defer_end, hak_fork_catch_up_inside};
    atomic_store_release(&hak_owner_gate, &for_pools);
    atomic_store_release(&hak_lock_sleeps_for, hak_gate_note_sleep);
    hak_fatal_before_abort = before_abort;
    (void)pthread_atfork(prepare, in_parent, in_child);
}
