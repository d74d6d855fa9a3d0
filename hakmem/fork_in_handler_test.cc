/* Tests of a fork in a signal handler that has interrupted the allocator: what other threads hold
   is lost to the child, or made again, and it lives. */
#include <atomic>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/stats.h"
#include "hakmem/fork_testing.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "heap/theap.h"
#include "mid_mt/mid_mt.h"

namespace
{

using namespace fork_testing;

std::atomic<int> step_of_purge;

int madvise_that_waits(void *addr, size_t length, int advice)
{
    if (step_of_purge == 0) {
        step_of_purge = 1;
        while (step_of_purge == 1) {
            usleep(1000);
        }
    }
    return hak_os_real_ops.madvise(addr, length, advice);
}

int count_all(void *, size_t, void *context)
{
    ++*static_cast<int *>(context);
    return 0;
}

/* A fork in a signal handler does not wait for ever for others that are inside. In its child a heap
   and a pool whose locks they hold are lost, and can be used; a slab whose pages another thread is
   purging stays away from its heap, which can be used as well. */
TEST(ForkInAHandler, WhatOthersHold)
{
    (void)hak_purge();
    struct hak_heap *lost = hak_heap_create(), *purged = hak_heap_create();
    struct mid_pool pool;
    ASSERT_EQ(hak_mid_pool_init(&pool), 0);
    void *small = hak_heap_malloc(lost, 100), *large = hak_heap_malloc(lost, 100000),
         *of_pool = hak_mid_pool_alloc(&pool, 3000);
    std::vector<void *> blocks;
    for (int i = 0; i < 60; i++) {
        blocks.push_back(hak_heap_malloc(purged, 1024));
    }
    for (size_t i = 20; i < 60; i++) {
        hak_free(blocks[i]);
    }
    blocks.resize(20);
    std::atomic<int> n_held{0}, stop{0};
    auto hold = [&](struct lock *lock) {
        ASSERT_EQ(hak_gate_enter(), 1);
        hak_lock_acquire(lock);
        n_held++;
        while (!stop) {
            usleep(1000);
        }
        hak_lock_release(lock);
        hak_gate_leave();
    };
    step_of_purge = 0;
    hak_os_ops.madvise = madvise_that_waits;
    std::thread purges([] { (void)hak_theap_purge_all(); });
    while (step_of_purge == 0) {
        usleep(1000);
    }
    std::thread one(hold, &lost->owner.lock), two(hold, &pool.owner->lock);
    while (n_held != 2) {
        usleep(1000);
    }
    ASSERT_EQ(hak_gate_enter(), 1); /* the interrupted code */
    pid_t pid = fork();
    hak_gate_leave();
    if (pid == 0) {
        alarm(60);
        step_of_purge = 2;
        int n = 0, result = hak_owner_is_lost(&lost->owner) && hak_owner_is_lost(pool.owner) &&
                                    !hak_owner_is_lost(&purged->owner)
                                ? 0
                                : 1;
        hak_free(small);
        hak_free(large);
        hak_mid_pool_free(&pool, of_pool);
        result |= hak_heap_malloc(lost, 100) && hak_heap_malloc(lost, 100000) ? 0 : 2;
        result |= hak_mid_pool_alloc(&pool, 3000) ? 0 : 2;
        hak_mid_pool_trim(&pool);
        result |= hak_heap_walk(lost, count_all, &n) || n != 2 ? 4 : 0;
        n = 0;
        result |= hak_heap_walk(purged, count_all, &n) || n != 20 ? 8 : 0;
        result |= hak_heap_malloc(purged, 1024) ? 0 : 2;
        hak_free(blocks.back());
        (void)hak_purge();
        result |= hak_verify() || hak_mid_pool_verify(&pool) ? 16 : 0;
        hak_heap_destroy(lost);
        hak_heap_destroy(purged);
        hak_mid_pool_destroy(&pool);
        for (int i = 0; i < 3; i++) {
            struct hak_heap *heap = hak_heap_create();
            result |= heap && heap != lost && hak_heap_malloc(heap, 10) ? 0 : 32;
            hak_heap_destroy(heap);
        }
        leave(result | (hak_verify() ? 64 : 0));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
    stop = 1;
    step_of_purge = 2;
    one.join();
    two.join();
    purges.join();
    hak_os_ops.madvise = hak_os_real_ops.madvise;
    hak_heap_destroy(lost);
    hak_heap_destroy(purged);
    hak_mid_pool_destroy(&pool);
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

LOCK_DEFINE(lower_lock, LOCK_RANK_ACE);
LOCK_DEFINE(higher_lock, LOCK_RANK_POOL);

/* What a signal handler interrupted that forks: it holds `mine`, and then needs `next`. */
int fork_holding(struct lock *mine, struct lock *next, std::atomic<int> *n_held)
{
    if (!hak_gate_enter()) {
        return -1;
    }
    hak_lock_acquire(mine);
    ++*n_held;
    while (*n_held != 2) {
        usleep(1000);
    }
    usleep(next ? 0 : 100000); /* who should go first comes last */
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        if (next) {
            hak_lock_acquire(next);
            hak_lock_release(next);
        }
    }
    hak_lock_release(mine);
    hak_gate_leave();
    if (pid == 0) {
        void *p = hak_malloc(3000), *q = hak_malloc(3 << 20);
        leave(p && q ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

/* Two threads that fork in handlers wait for each other. If both gave up at the same time, each
   child would lack a lock, and one of them goes on to need it. Who holds the higher one needs
   nothing that the other holds: it goes first. */
TEST(ForkInAHandler, TwoThatHoldLocks)
{
    std::atomic<int> n_held{0};
    int lower = -1, higher = -1;
    std::thread one([&] { lower = fork_holding(&lower_lock, &higher_lock, &n_held); });
    std::thread two([&] { higher = fork_holding(&higher_lock, nullptr, &n_held); });
    one.join();
    two.join();
    EXPECT_EQ(lower, 0);
    EXPECT_EQ(higher, 0);
    EXPECT_EQ(hak_gate_is_closed(), 0);
    EXPECT_EQ(hak_verify(), 0);
}

/* The one with the higher lock is interrupted again before it has got on: the other one's patience
   begins again each time, and does not end while it is forking. */
TEST(ForkInAHandler, OneThatForksAgain)
{
    constexpr int FORKS = 3;
    std::atomic<int> n_held{0}, n_failed{0};
    int lower = -1;
    std::thread one([&] { lower = fork_holding(&lower_lock, &higher_lock, &n_held); });
    std::thread two([&] {
        ASSERT_EQ(hak_gate_enter(), 1);
        hak_lock_acquire(&higher_lock);
        ++n_held;
        while (n_held != 2) {
            usleep(1000);
        }
        for (int i = 0; i < FORKS; i++) {
            pid_t pid = fork();
            if (pid == 0) {
                leave(0);
            }
            int status = -1;
            waitpid(pid, &status, 0);
            n_failed += status != 0;
        }
        hak_lock_release(&higher_lock);
        hak_gate_leave();
    });
    one.join();
    two.join();
    EXPECT_EQ(lower, 0);
    EXPECT_EQ(n_failed, 0);
}

/* Counts how often a thread that closes the gate waits; at WAITS_FOR_IT `phase` becomes 2, and then
   it is waited for until that is 3. */
constexpr int WAITS_FOR_IT = 20;
std::atomic<int> phase_of_other, n_waits;

int wait_and_count(uint32_t *word, uint32_t expected, uint64_t ms)
{
    if (++n_waits == WAITS_FOR_IT) {
        phase_of_other = 2;
        while (phase_of_other != 3) {
            usleep(1000);
        }
    }
    return hak_os_real_ops.futex_wait_ms(word, expected, ms);
}

/* Forks as a handler does that has interrupted the thread inside; returns how the child ends. */
int fork_and_count()
{
    n_waits = 0;
    hak_os_ops.futex_wait_ms = wait_and_count;
    pid_t pid = fork();
    hak_os_ops.futex_wait_ms = hak_os_real_ops.futex_wait_ms;
    if (pid == 0) {
        leave(0);
    }
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return status;
}

/* A thread that is inside, and neither holds a lock nor waits for one, may have had no processor
   for long. It takes locks when it gets one, perhaps just when the process is copied: so it is
   waited for. */
TEST(ForkInAHandler, AnotherThatGetsOnLate)
{
    hak_free(hak_malloc(1));
    phase_of_other = 0;
    std::thread other([] {
        hak_free(hak_malloc(1));
        ASSERT_EQ(hak_gate_enter(), 1);
        for (phase_of_other = 1; phase_of_other != 2;) {
            usleep(1000);
        }
        hak_gate_leave();
        phase_of_other = 3;
    });
    while (phase_of_other != 1) {
        usleep(100);
    }
    ASSERT_EQ(hak_gate_enter(), 1);
    EXPECT_EQ(fork_and_count(), 0);
    EXPECT_EQ(phase_of_other, 3) << n_waits << " waits";
    phase_of_other = 2;
    hak_gate_leave();
    other.join();
}

/* One that sleeps until the interrupted thread releases a lock would be waited for in vain. */
TEST(ForkInAHandler, AnotherThatWaitsForAnOwnLock)
{
    hak_free(hak_malloc(1));
    phase_of_other = 3;
    std::atomic<struct theap *> its{nullptr};
    ASSERT_EQ(hak_gate_enter(), 1);
    hak_lock_acquire(&higher_lock);
    std::thread other([&] {
        hak_free(hak_malloc(1));
        ASSERT_EQ(hak_gate_enter(), 1);
        its = hak_theap_own;
        hak_lock_acquire(&higher_lock);
        hak_lock_release(&higher_lock);
        hak_gate_leave();
    });
    while (!its || !atomic_load_seq(&its.load()->waits_for)) {
        usleep(100);
    }
    EXPECT_EQ(fork_and_count(), 0);
    EXPECT_LT(n_waits, WAITS_FOR_IT);
    hak_lock_release(&higher_lock);
    hak_gate_leave();
    other.join();
    EXPECT_EQ(atomic_load_seq(&its.load()->waits_for), nullptr);
}

/* What is gathered of the static locks of a rank. */
struct of_rank {
    uint32_t rank;
    std::vector<struct lock *> locks;
};

void gather(struct lock *lock, void *context)
{
    struct of_rank *of = static_cast<struct of_rank *>(context);
    if (lock->rank == of->rank && lock->word == 0) {
        of->locks.push_back(lock);
    }
}

/* In the child of a thread that was interrupted inside, and that needs the lock now. Returns what
   is wrong, 0 if nothing. */
int go_on_with(struct lock *lock)
{
    alarm(60);
    if (lock->word || hak_gate_is_closed()) {
        return 1;
    }
    hak_lock_acquire(lock);
    hak_lock_release(lock);
    hak_gate_leave();
    int64_t in_limbo = hak_stat_get(limbo_bytes);
    for (size_t size : sizes) {
        void *p = hak_malloc(size);
        if (!p) {
            return 2;
        }
        hak_free(p);
    }
    hak_heap_destroy(hak_heap_create());
    (void)hak_purge();
    return hak_stat_get(limbo_bytes) != in_limbo ? 3 : hak_verify() ? 4 : 0;
}

/* Locks whose holder the child does not have, and which guard what can be made again: it goes on as
   if they had been free. */
TEST(ForkInAHandler, LocksThatAreMended)
{
    hak_free(hak_malloc(1));
    int n = 0;
    for (uint32_t rank :
         {LOCK_RANK_DEFERRED, LOCK_RANK_OWNERS, LOCK_RANK_CONTROL, LOCK_RANK_META}) {
        struct of_rank of = {rank, {}};
        hak_lock_for_each(gather, &of);
        for (struct lock *lock : of.locks) {
            std::atomic<int> phase{0};
            std::thread other([&] {
                if (hak_gate_enter()) {
                    hak_lock_acquire(lock);
                    phase = 1;
                    while (phase == 1) {
                        usleep(1000);
                    }
                    hak_lock_release(lock);
                    hak_gate_leave();
                }
            });
            while (phase == 0) {
                usleep(100);
            }
            ASSERT_EQ(hak_gate_enter(), 1);
            pid_t pid = fork();
            if (pid == 0) {
                leave(go_on_with(lock));
            }
            hak_gate_leave();
            int status = -1;
            EXPECT_EQ(waitpid(pid, &status, 0), pid);
            EXPECT_EQ(status, 0) << "rank " << rank;
            phase = 2;
            other.join();
            n++;
        }
    }
    EXPECT_EQ(n, 5);
    EXPECT_EQ(hak_verify(), 0);
}

/* Another thread is doing something to a heap that no thread has any more: in the child it is given
   to none. */
TEST(ForkInAHandler, AnOrphanThatAnotherHolds)
{
    uint32_t parked_most = hak_parked_most;
    hak_parked_most = 0;
    struct theap *orphan = nullptr;
    void *left = nullptr;
    std::thread([&] {
        left = hak_malloc(100);
        orphan = hak_theap_own;
    }).join();
    ASSERT_FALSE(hak_theap_is_live(orphan));
    std::atomic<int> phase{0};
    std::thread other([&] {
        if (hak_gate_enter()) {
            hak_lock_acquire(&orphan->owner.lock);
            phase = 1;
            while (phase == 1) {
                usleep(1000);
            }
            hak_lock_release(&orphan->owner.lock);
            hak_gate_leave();
        }
    });
    while (phase == 0) {
        usleep(100);
    }
    ASSERT_EQ(hak_gate_enter(), 1);
    pid_t pid = fork();
    hak_gate_leave();
    if (pid == 0) {
        alarm(60);
        std::atomic<int> result{hak_owner_is_lost(&orphan->owner) ? 0 : 1};
        for (int i = 0; i < 3; i++) {
            std::thread([&] {
                void *p = hak_malloc(100);
                if (!p || hak_theap_own == orphan || hak_theap_own == &hak_theap_none) {
                    result |= 2;
                }
                hak_free(p);
            }).join();
        }
        hak_free(left);
        leave(result | (hak_verify() ? 4 : 0));
    }
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    phase = 2;
    other.join();
    hak_free(left);
    hak_parked_most = parked_most;
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
