/* Ranked locks: a small futex mutex that never allocates. A thread may take a lock only if its rank is above the ranks
   of all locks that it holds (or equal, for heap locks taken in id order by fork); debug builds check that. */
#ifndef HAKMEM_BASE_LOCK_H
#define HAKMEM_BASE_LOCK_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* In the order in which they may be taken. */
enum lock_rank {
    LOCK_RANK_HEAPS = 1, /* the table of heaps and the orphans */
    LOCK_RANK_HEAP,      /* one heap's slabs */
    LOCK_RANK_SHARED,    /* the slabs of heaps whose thread has ended */
    LOCK_RANK_OWNED,     /* large blocks of first-class heaps */
    LOCK_RANK_ACE,       /* cached large ranges */
    LOCK_RANK_POOL,      /* the shared pool */
    LOCK_RANK_MAP,       /* leaves of the pointer map */
    LOCK_RANK_CONTROL,   /* the controller's arithmetic */
    LOCK_RANK_FALLBACK,  /* blocks that libc serves */
    LOCK_RANK_META,      /* metadata memory */
};

struct lock {
    uint32_t word; /* 0 free, 1 held, 2 held and somebody waits */
    uint32_t rank;
};

#define LOCK_INIT(r)                                                                                                   \
    {                                                                                                                  \
        0, (r)                                                                                                         \
    }

void lock_acquire_slow(struct lock *lock);
void lock_wake(struct lock *lock);

/* While a thread forks, it holds every lock, and still may come into the allocator: handlers of pthread_atfork that are older
   than ours run between our own. Between the two calls, a lock that is held is that thread's own, and taking and releasing
   it does nothing. */
extern const void *lock_forking; /* names that thread; NULL if none forks */
void lock_fork_begin(void);
void lock_fork_end(void);
int lock_is_forker(void);
/* Returns 1 if the lock was the fork's when it was taken. */
int lock_skip_release(const struct lock *lock);

/* 1 in the thread that forks. */
static inline int lock_is_in_fork(void)
{
    return HAK_UNLIKELY(atomic_load_relaxed(&lock_forking) != NULL) && lock_is_forker();
}

#if HAK_DEBUG
void lock_rank_push(const struct lock *lock);
void lock_rank_pop(const struct lock *lock);
#else
static inline void lock_rank_push(const struct lock *lock)
{
    (void)lock;
}
static inline void lock_rank_pop(const struct lock *lock)
{
    (void)lock;
}
#endif

static inline void lock_acquire(struct lock *lock)
{
    uint32_t expected = 0;
    lock_rank_push(lock);
    if (HAK_UNLIKELY(!__atomic_compare_exchange_n(&lock->word, &expected, 1u, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))) {
        lock_acquire_slow(lock);
    }
}

/* Returns 1 if taken. */
static inline int lock_try(struct lock *lock)
{
    uint32_t expected = 0;
    if (!__atomic_compare_exchange_n(&lock->word, &expected, 1u, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        return 0;
    }
    lock_rank_push(lock);
    return 1;
}

static inline void lock_release(struct lock *lock)
{
    if (lock_is_in_fork() && lock_skip_release(lock)) {
        return;
    }
    lock_rank_pop(lock);
    if (HAK_UNLIKELY(__atomic_exchange_n(&lock->word, 0u, __ATOMIC_RELEASE) == 2)) {
        lock_wake(lock);
    }
}

/* In a forked child, for a lock that the parent's forking thread held: free again, whoever waited is gone. */
void lock_reset(struct lock *lock);

HAK_EXTERN_C_END

#endif
