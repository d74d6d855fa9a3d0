/* The slow half of ranked locks: names of threads, spinning, waiting, and the list. Called through
   lock.h. */
#include "base/lock.h"

#include <errno.h>

#include "base/error.h"
#include "base/os.h"

#define PASS ((int32_t)0x80000000u)

/* The section's ends, if any lock is linked. */
extern struct lock __start_hak_locks[] __attribute__((weak, visibility("hidden")));
extern struct lock __stop_hak_locks[] __attribute__((weak, visibility("hidden")));

HAK_TLS int32_t hak_lock_self;
void (*hak_lock_sleeps_for)(const struct lock *lock);
static uint32_t last_name;
static struct lock *made; /* at run time */

/* Even, positive, and used again after 2^30 threads, which is harmless unless two of them fork in
   signal handlers. */
static uint32_t name_of_thread(void)
{
    if (hak_lock_self == 0) {
        uint32_t name = (atomic_add_relaxed(&last_name, 2u) + 2) & 0x7FFFFFFEu;
        hak_lock_self = (int32_t)(name ? name : 2);
    }
    return (uint32_t)hak_lock_self;
}

void hak_lock_pass_begin(void)
{
    hak_lock_self |= PASS;
}

void hak_lock_pass_end(void)
{
    hak_lock_self &= ~PASS;
}

void hak_lock_init(struct lock *lock, enum lock_rank rank)
{
    *lock = (struct lock)LOCK_INIT(rank);
    struct lock *first = atomic_load_relaxed(&made);
    do {
        lock->u.next = first;
    } while (!atomic_cas_weak_seq(&made, &first, lock));
}

void hak_lock_for_each(void (*visit)(struct lock *lock, void *context), void *context)
{
    for (struct lock *lock = __start_hak_locks; lock < __stop_hak_locks; lock++) {
        visit(lock, context);
    }
    for (struct lock *lock = atomic_load_acquire(&made); lock; lock = lock->u.next) {
        visit(lock, context);
    }
}

int hak_lock_mend(struct lock *lock)
{
    if (lock < __start_hak_locks || lock >= __stop_hak_locks || !lock->u.mend) {
        return 0;
    }
    lock->u.mend();
    atomic_store_relaxed(&lock->word, 0u);
    return 1;
}

void hak_lock_mend_left(void)
{
    for (struct lock *lock = __start_hak_locks; lock < __stop_hak_locks; lock++) {
        if (lock->u.mend && lock->word && !hak_lock_is_mine(lock)) {
            (void)hak_lock_mend(lock);
        }
    }
}

/* Takes the lock if it is free. `mark` is added to the word: a thread that has waited does not know
   whether others still do. */
static int take(struct lock *lock, uint32_t mark)
{
    uint32_t expected = 0;
    return atomic_load_relaxed(&lock->word) == 0 &&
           atomic_cas_strong(&lock->word, &expected, name_of_thread() | mark);
}

static void sleep_for(struct lock *lock, uint32_t word)
{
    void (*note)(const struct lock *lock) = atomic_load_acquire(&hak_lock_sleeps_for);
    if (note) {
        note(lock);
    }
    (void)hak_os_ops.futex_wait(&lock->word, word);
    if (note) {
        note(NULL);
    }
}

static void wait_for(struct lock *lock)
{
    uint32_t word = atomic_load_relaxed(&lock->word);
    HAK_CHECK(word != LOCK_LOST, "a forked child needs a lock whose holder it does not have", lock);
    if (word && (word & LOCK_HAS_WAITERS ||
                 atomic_cas_strong(&lock->word, &word, word | LOCK_HAS_WAITERS))) {
        sleep_for(lock, word | LOCK_HAS_WAITERS);
    }
}

void hak_lock_acquire_slow(struct lock *lock)
{
    if (hak_lock_passes()) {
        return;
    }
    /* Critical sections last well under a microsecond: spin a little before sleeping. */
    for (int i = 0; i < 100; i++) {
        if (take(lock, 0)) {
            return;
        }
        hak_atomic_pause();
    }
    int saved = errno;
    while (!take(lock, LOCK_HAS_WAITERS)) {
        wait_for(lock);
    }
    errno = saved;
}

int hak_lock_try_slow(struct lock *lock)
{
    if (hak_lock_passes()) {
        return 1;
    }
    (void)name_of_thread();
    return hak_lock_try(lock);
}

void hak_lock_wake(struct lock *lock)
{
    int saved = errno;
    (void)hak_os_ops.futex_wake(&lock->word, 1);
    errno = saved;
}

static void release_if_mine(struct lock *lock, void *context)
{
    if (hak_lock_is_mine(lock)) {
        (*(uint32_t *)context)++;
        if (__atomic_exchange_n(&lock->word, 0u, __ATOMIC_RELEASE) & LOCK_HAS_WAITERS) {
            hak_lock_wake(lock);
        }
    }
}

uint32_t hak_lock_release_mine(void)
{
    uint32_t n = 0;
    hak_lock_pass_end();
    hak_lock_for_each(release_if_mine, &n);
    hak_lock_rank_forget();
    return n;
}
