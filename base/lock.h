/* Ranked locks: a small futex mutex that never allocates, and the one list of all of them.

   A thread waits only for a lock whose rank is above the ranks of all locks that it holds, so that
   no two threads wait for each other. A lock of rank HEAP it may *try* while it holds another of
   that rank, since it does not wait for it: a heap that takes a slab over from another live heap
   tries that heap's lock while it holds its own. Debug builds check both, and count what is done
   under each lock (lock_holds.h). docs/locks.md says who takes which lock, and for how long.

   A lock's word names the thread that holds it. So a fork in a signal handler, and an error found
   with locks held, tell by a walk of the list (hak_lock_for_each) which locks are this thread's,
   and nothing has to be kept by the way.

   Every lock is in the list: static ones by LOCK_DEFINE, which places them in a section of their
   own; those of structures that are made at run time, and never freed, by hak_lock_init.

   In the child of a fork in a signal handler another thread's lock has no holder, and what it
   guards may be half changed. Where that can be made again from nothing, LOCK_DEFINE_MENDED says
   how. */
#ifndef HAKMEM_BASE_LOCK_H
#define HAKMEM_BASE_LOCK_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* In the order in which they may be taken. */
enum lock_rank {
    LOCK_RANK_NONE, /* no lock's */
#define LOCK_RANK(name, waits, most, guards, holds) LOCK_RANK_##name,
#include "base/lock_ranks.def"
#undef LOCK_RANK
    LOCK_N_RANKS
};

struct lock {
    uint32_t word; /* 0 free; else the holder's name, plus LOCK_HAS_WAITERS if a thread waits */
    uint32_t rank;
    union {
        struct lock *next;  /* of the list of those made at run time */
        void (*mend)(void); /* of a static one; NULL: what it guards cannot be made again */
    } u;
};

#define LOCK_HAS_WAITERS 1u
#define LOCK_LOST        0x80000000u /* no thread's name */
/* For LOCK_DEFINE, hak_lock_init and tests; such a lock is in no list by itself. */
#define LOCK_INIT(r)                                                                               \
    {                                                                                              \
        0, (r),                                                                                    \
        {                                                                                          \
            NULL                                                                                   \
        }                                                                                          \
    }
/* Defines a lock that is in the list; `static` may stand before it. The linker gathers the section,
   in whatever a program links of the library, and hidden start and end symbols keep two copies in
   one process apart. */
#define LOCK_DEFINE(name, r)                                                                       \
    struct lock name __attribute__((section("hak_locks"), used, aligned(sizeof(struct lock)))) =   \
        LOCK_INIT(r)
/* The same, and `mend` brings what the lock guards into a sound state, whatever it was in. It runs
   in a fork's child (hak_lock_mend), so that no other thread does; it takes no lock and makes no
   system call except for the clock. The child's thread may have been interrupted while it waited
   for the lock, or where it reads without it. */
#define LOCK_DEFINE_MENDED(name, r, how)                                                           \
    struct lock name __attribute__((section("hak_locks"), used, aligned(sizeof(struct lock)))) = { \
        0, (r), {.mend = (how)}}

/* A lock in memory that is never freed: into the list, for good. */
void hak_lock_init(struct lock *lock, enum lock_rank rank);
/* Calls visit for every lock of the list. Takes no lock; any thread, a signal handler included. */
void hak_lock_for_each(void (*visit)(struct lock *lock, void *context), void *context);

/* The calling thread's name: an even number, given at its first lock; 0 before that, and negative
   between hak_lock_pass_begin and hak_lock_pass_end. */
extern HAK_TLS int32_t hak_lock_self HAK_HIDDEN;

/* Set once: called by a thread with the lock that it is about to sleep for, and with NULL when it
   is awake, before it looks whether it gets the lock. */
extern void (*hak_lock_sleeps_for)(const struct lock *lock) HAK_HIDDEN;

void hak_lock_acquire_slow(struct lock *lock);
int hak_lock_try_slow(struct lock *lock);
void hak_lock_wake(struct lock *lock);

/* Between the two, the calling thread takes and releases locks by doing nothing. For reading what
   no thread can write (heap/gate.h). */
void hak_lock_pass_begin(void);
void hak_lock_pass_end(void);
static inline int hak_lock_passes(void)
{
    return hak_lock_self < 0;
}

/* 1 if the calling thread holds it. */
static inline int hak_lock_is_mine(const struct lock *lock)
{
    uint32_t name = (uint32_t)hak_lock_self & ~LOCK_LOST;
    return name && (atomic_load_relaxed(&lock->word) & ~LOCK_HAS_WAITERS) == name;
}
/* Releases every listed lock that the calling thread holds; returns how many. What they guard may
   be half changed. */
uint32_t hak_lock_release_mine(void);
/* In a forked child, for a lock that a thread held which the child does not have. Returns 1 if what
   it guards is made again, and the lock is free; else it is held as before. */
int hak_lock_mend(struct lock *lock);
/* Does so for all that can be mended: some are taken where a fork waits for no thread, as the lock
   of metadata is at the process's start. */
void hak_lock_mend_left(void);
/* For one that cannot be mended: no thread gets it any more. hak_lock_try fails, and who waits
   for it dies with a line. */
static inline void hak_lock_mark_lost(struct lock *lock)
{
    atomic_store_relaxed(&lock->word, LOCK_LOST);
}

/* lock_holds.c. Forget: after hak_lock_release_mine, which asks no rank. Any: the thread has a
   rank, perhaps of a lock that it has not got yet. */
#if HAK_DEBUG
void hak_lock_rank_push(const struct lock *lock, int is_try);
void hak_lock_rank_pop(const struct lock *lock);
void hak_lock_rank_forget(void);
int hak_lock_rank_any(void);
#else
static inline void hak_lock_rank_push(const struct lock *lock, int is_try)
{
    (void)lock;
    (void)is_try;
}
static inline void hak_lock_rank_pop(const struct lock *lock)
{
    (void)lock;
}
static inline void hak_lock_rank_forget(void)
{
}
static inline int hak_lock_rank_any(void)
{
    return 0;
}
#endif

static inline void hak_lock_acquire(struct lock *lock)
{
    uint32_t expected = 0, self = (uint32_t)hak_lock_self;
    hak_lock_rank_push(lock, 0);
    if (HAK_UNLIKELY((int32_t)self <= 0 ||
                     !__atomic_compare_exchange_n(&lock->word, &expected, self, 0, __ATOMIC_ACQUIRE,
                                                  __ATOMIC_RELAXED))) {
        hak_lock_acquire_slow(lock);
    }
}

/* Returns 1 if taken. */
static inline int hak_lock_try(struct lock *lock)
{
    uint32_t expected = 0, self = (uint32_t)hak_lock_self;
    if (HAK_UNLIKELY((int32_t)self <= 0)) {
        return hak_lock_try_slow(lock);
    }
    if (!__atomic_compare_exchange_n(&lock->word, &expected, self, 0, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED)) {
        return 0;
    }
    hak_lock_rank_push(lock, 1);
    return 1;
}

static inline void hak_lock_release(struct lock *lock)
{
    if (HAK_UNLIKELY(hak_lock_passes())) {
        return;
    }
    hak_lock_rank_pop(lock);
    if (HAK_UNLIKELY(__atomic_exchange_n(&lock->word, 0u, __ATOMIC_RELEASE) & LOCK_HAS_WAITERS)) {
        hak_lock_wake(lock);
    }
}

HAK_EXTERN_C_END

#endif
