/* The slow half of ranked locks: spinning, waiting, and the debug check of ranks. Called through lock.h. */
#include "base/lock.h"

#include <errno.h>

#include "base/error.h"
#include "base/os.h"

enum { MAX_SKIPPED = 16 };
const void *lock_forking;
/* Taken by the forking thread although the fork holds them; the last one last. */
static const struct lock *skipped[MAX_SKIPPED];
static uint32_t n_skipped;
static HAK_TLS char this_thread;

void lock_fork_begin(void)
{
    n_skipped = 0;
    atomic_store_relaxed(&lock_forking, (const void *)&this_thread);
}

void lock_fork_end(void)
{
    atomic_store_relaxed(&lock_forking, (const void *)NULL);
}

int lock_is_forker(void)
{
    return atomic_load_relaxed(&lock_forking) == &this_thread;
}

static void skip(const struct lock *lock)
{
    HAK_CHECK(n_skipped < MAX_SKIPPED, "too many locks taken in a handler of fork", lock);
    skipped[n_skipped++] = lock;
}

int lock_skip_release(const struct lock *lock)
{
    for (uint32_t i = n_skipped; i-- > 0;) {
        if (skipped[i] == lock) {
            skipped[i] = skipped[--n_skipped];
            return 1;
        }
    }
    return 0;
}

void lock_acquire_slow(struct lock *lock)
{
    if (lock_is_in_fork()) {
        skip(lock);
        return;
    }
    /* Critical sections last well under a microsecond: spin a little before sleeping. */
    for (int i = 0; i < 100; i++) {
        uint32_t expected = 0;
        if (atomic_load_relaxed(&lock->word) == 0 && atomic_cas_strong(&lock->word, &expected, 1u)) {
            return;
        }
        atomic_pause();
    }
    int saved = errno;
    while (__atomic_exchange_n(&lock->word, 2u, __ATOMIC_ACQUIRE) != 0) {
        (void)os_ops.futex_wait(&lock->word, 2);
    }
    errno = saved;
}

void lock_wake(struct lock *lock)
{
    int saved = errno;
    (void)os_ops.futex_wake(&lock->word, 1);
    errno = saved;
}

#if HAK_DEBUG
enum { MAX_HELD = 16 };
static HAK_TLS uint32_t held[MAX_HELD];
static HAK_TLS uint32_t n_held;

void lock_rank_push(const struct lock *lock)
{
    if (lock_is_in_fork()) {
        return; /* it holds the highest rank of all */
    }
    /* Beyond MAX_HELD (fork holds every heap's lock) only the count is kept. */
    if (n_held > 0 && n_held <= MAX_HELD && held[n_held - 1] > lock->rank) {
        hak_fatal("lock taken against its rank", lock);
    }
    if (n_held < MAX_HELD) {
        held[n_held] = lock->rank;
    }
    n_held++;
}

void lock_rank_pop(const struct lock *lock)
{
    if (lock_is_in_fork()) {
        return;
    }
    if (n_held == 0) {
        hak_fatal("lock released that is not held", lock);
    }
    n_held--;
    /* Mostly the last one taken; else close the gap, so that the rest stays in order of rank. */
    for (uint32_t i = n_held; n_held < MAX_HELD && i-- > 0 && held[n_held] != lock->rank;) {
        uint32_t rank = held[i];
        held[i] = held[n_held];
        held[n_held] = rank;
    }
}
#endif

void lock_reset(struct lock *lock)
{
    lock_rank_pop(lock);
    atomic_store_relaxed(&lock->word, 0u);
}
