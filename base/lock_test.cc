/* Tests of ranked locks: mutual exclusion, sleeping and waking, and in debug builds the check of ranks. */
#include "base/lock.h"

#include <cerrno>
#include <chrono>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include "base/os.h"

namespace
{

TEST(Lock, OnlyOneThreadAtATime)
{
    static struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    static uint64_t plain; /* not atomic: lost updates show a broken lock, and tsan sees it */
    const int n_threads = 4, n_rounds = 20000;
    std::vector<std::thread> threads;
    for (int t = 0; t < n_threads; t++) {
        threads.emplace_back([] {
            for (int i = 0; i < n_rounds; i++) {
                if (i % 8 == 0) {
                    while (!lock_try(&lock)) {
                        std::this_thread::yield();
                    }
                } else {
                    lock_acquire(&lock);
                }
                uint64_t was = plain;
                if (i % 1024 == 0) {
                    std::this_thread::yield(); /* others come to sleep */
                }
                plain = was + 1;
                lock_release(&lock);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(plain, static_cast<uint64_t>(n_threads) * n_rounds);
    EXPECT_EQ(lock.word, 0u);
}

TEST(Lock, TryTakesAFreeLockOnly)
{
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    ASSERT_TRUE(lock_try(&lock));
    EXPECT_EQ(lock.word, 1u);
    int other = -1;
    std::thread([&] { other = lock_try(&lock); }).join();
    EXPECT_EQ(other, 0);
    lock_release(&lock);
    EXPECT_EQ(lock.word, 0u);
    ASSERT_TRUE(lock_try(&lock));
    lock_release(&lock);
}

int n_waits, n_wakes;

/* A waiter sleeps in the futex, marks the lock, keeps errno, and the release wakes it. */
TEST(Lock, WaiterSleepsAndIsWoken)
{
    os_ops.futex_wait = [](uint32_t *word, uint32_t expected) {
        __atomic_add_fetch(&n_waits, 1, __ATOMIC_SEQ_CST);
        return os_real_ops.futex_wait(word, expected);
    };
    os_ops.futex_wake = [](uint32_t *word, int n) {
        __atomic_add_fetch(&n_wakes, 1, __ATOMIC_SEQ_CST);
        errno = 99;
        return os_real_ops.futex_wake(word, n);
    };
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    int entered = 0, errno_of_waiter = 0;
    lock_acquire(&lock);
    std::thread waiter([&] {
        errno = 7;
        lock_acquire(&lock);
        errno_of_waiter = errno;
        __atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
        lock_release(&lock);
    });
    while (__atomic_load_n(&n_waits, __ATOMIC_SEQ_CST) == 0) {
        std::this_thread::yield();
    }
    EXPECT_EQ(__atomic_load_n(&lock.word, __ATOMIC_SEQ_CST), 2u);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(__atomic_load_n(&entered, __ATOMIC_SEQ_CST), 0);
    errno = 8;
    lock_release(&lock);
    EXPECT_EQ(errno, 8);
    waiter.join();
    os_ops = os_real_ops;
    EXPECT_EQ(errno_of_waiter, 7);
    EXPECT_GE(n_wakes, 1);
    EXPECT_EQ(lock.word, 0u);
}

TEST(Lock, UncontendedNeedsNoSystemCall)
{
    n_waits = n_wakes = 0;
    os_ops.futex_wait = [](uint32_t *, uint32_t) { return ++n_waits; };
    os_ops.futex_wake = [](uint32_t *, int) { return ++n_wakes; };
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    for (int i = 0; i < 100; i++) {
        lock_acquire(&lock);
        lock_release(&lock);
    }
    os_ops = os_real_ops;
    EXPECT_EQ(n_waits + n_wakes, 0);
}

TEST(Lock, ResetFreesAHeldLock)
{
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    lock_acquire(&lock);
    lock.word = 2; /* somebody waited when the process forked */
    lock_reset(&lock);
    EXPECT_EQ(lock.word, 0u);
    ASSERT_TRUE(lock_try(&lock));
    lock_release(&lock);
}

/* Between lock_fork_begin and lock_fork_end the forking thread passes through the locks that it holds, and nobody else does. */
TEST(Lock, TheForkingThreadPassesThroughItsLocks)
{
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL), other = LOCK_INIT(LOCK_RANK_MAP),
                free_one = LOCK_INIT(LOCK_RANK_POOL);
    lock_acquire(&lock);
    lock_acquire(&other);
    lock_fork_begin();
    for (int i = 0; i < 3; i++) {
        lock_acquire(&lock);
        lock_acquire(&other);
        lock_acquire(&free_one);
        EXPECT_EQ(free_one.word, 1u);
        lock_release(&lock);
        lock_release(&other);
        lock_release(&free_one);
        EXPECT_EQ(free_one.word, 0u);
        EXPECT_NE(lock.word, 0u) << "it is the fork's still";
        EXPECT_NE(other.word, 0u);
    }
    EXPECT_TRUE(lock_is_in_fork());
    uint32_t has_it = 0, has_tried = 0;
    std::thread thread([&] {
        EXPECT_FALSE(lock_is_in_fork());
        EXPECT_FALSE(lock_try(&lock));
        atomic_store_seq(&has_tried, 1u);
        lock_acquire(&lock);
        atomic_store_seq(&has_it, 1u);
        lock_release(&lock);
    });
    while (!atomic_load_seq(&has_tried)) {
        std::this_thread::yield();
    }
    lock_fork_end();
    EXPECT_FALSE(lock_is_in_fork());
    lock_release(&other);
    EXPECT_EQ(atomic_load_seq(&has_it), 0u);
    lock_release(&lock);
    thread.join();
    EXPECT_EQ(has_it, 1u);
}

/* Ranks go up, or stay (heaps, in id order, more than are remembered). */
TEST(Lock, RisingAndEqualRanksAreAllowed)
{
    struct lock low = LOCK_INIT(LOCK_RANK_HEAPS), high = LOCK_INIT(LOCK_RANK_META);
    struct lock heaps[40];
    lock_acquire(&low);
    for (struct lock &lock : heaps) {
        lock = LOCK_INIT(LOCK_RANK_HEAP);
        lock_acquire(&lock);
    }
    lock_acquire(&high);
    lock_release(&high);
    for (int i = 39; i >= 0; i--) {
        lock_release(&heaps[i]);
    }
    lock_release(&low);
    /* Nothing is remembered as held. */
    lock_acquire(&high);
    lock_release(&high);
    lock_acquire(&low);
    lock_release(&low);
    EXPECT_EQ(low.word + high.word, 0u);
}

/* What is still held counts, in whichever order the others were released. */
void release_out_of_order_and_break_rank()
{
    static struct lock low = LOCK_INIT(LOCK_RANK_HEAPS), middle = LOCK_INIT(LOCK_RANK_HEAP),
                       high = LOCK_INIT(LOCK_RANK_POOL);
    lock_acquire(&low);
    lock_acquire(&high);
    lock_release(&low);
    lock_acquire(&middle);
}

TEST(LockDeathTest, FallingRankAborts)
{
    if (!HAK_DEBUG) {
        GTEST_SKIP() << "ranks are checked in debug builds";
    }
    static struct lock heap = LOCK_INIT(LOCK_RANK_HEAP), pool = LOCK_INIT(LOCK_RANK_POOL);
    EXPECT_EXIT(
        {
            lock_acquire(&pool);
            lock_acquire(&heap);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: lock taken against its rank: 0x");
    EXPECT_EXIT(
        {
            lock_acquire(&pool);
            lock_try(&heap);
        },
        testing::KilledBySignal(SIGABRT), "lock taken against its rank");
    EXPECT_EXIT(release_out_of_order_and_break_rank(), testing::KilledBySignal(SIGABRT), "lock taken against its rank");
}

TEST(LockDeathTest, ReleaseOfWhatIsNotHeldAborts)
{
    if (!HAK_DEBUG) {
        GTEST_SKIP() << "ranks are checked in debug builds";
    }
    static struct lock pool = LOCK_INIT(LOCK_RANK_POOL);
    EXPECT_EXIT(lock_release(&pool), testing::KilledBySignal(SIGABRT), "lock released that is not held");
}

} // namespace
