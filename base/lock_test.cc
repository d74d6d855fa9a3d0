/* Tests of ranked locks: mutual exclusion, sleeping and waking, and in debug builds the check of
   ranks. */
#include "base/lock.h"

#include <atomic>
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
                    while (!hak_lock_try(&lock)) {
                        std::this_thread::yield();
                    }
                } else {
                    hak_lock_acquire(&lock);
                }
                uint64_t was = plain;
                if (i % 1024 == 0) {
                    std::this_thread::yield(); /* others come to sleep */
                }
                plain = was + 1;
                hak_lock_release(&lock);
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
    ASSERT_TRUE(hak_lock_try(&lock));
    EXPECT_EQ(lock.word, static_cast<uint32_t>(hak_lock_self));
    EXPECT_TRUE(hak_lock_is_mine(&lock));
    std::thread([&] { EXPECT_FALSE(hak_lock_is_mine(&lock)); }).join();
    int other = -1;
    std::thread([&] { other = hak_lock_try(&lock); }).join();
    EXPECT_EQ(other, 0);
    hak_lock_release(&lock);
    EXPECT_EQ(lock.word, 0u);
    ASSERT_TRUE(hak_lock_try(&lock));
    hak_lock_release(&lock);
}

int n_waits, n_wakes;

/* A waiter sleeps in the futex, marks the lock, keeps errno, and the release wakes it. */
TEST(Lock, WaiterSleepsAndIsWoken)
{
    hak_os_ops.futex_wait = [](uint32_t *word, uint32_t expected) {
        __atomic_add_fetch(&n_waits, 1, __ATOMIC_SEQ_CST);
        return hak_os_real_ops.futex_wait(word, expected);
    };
    hak_os_ops.futex_wake = [](uint32_t *word, int n) {
        __atomic_add_fetch(&n_wakes, 1, __ATOMIC_SEQ_CST);
        errno = 99;
        return hak_os_real_ops.futex_wake(word, n);
    };
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    int entered = 0, errno_of_waiter = 0;
    hak_lock_acquire(&lock);
    std::thread waiter([&] {
        errno = 7;
        hak_lock_acquire(&lock);
        errno_of_waiter = errno;
        __atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
        hak_lock_release(&lock);
    });
    while (__atomic_load_n(&n_waits, __ATOMIC_SEQ_CST) == 0) {
        std::this_thread::yield();
    }
    EXPECT_EQ(__atomic_load_n(&lock.word, __ATOMIC_SEQ_CST),
              static_cast<uint32_t>(hak_lock_self) | LOCK_HAS_WAITERS);
    EXPECT_TRUE(hak_lock_is_mine(&lock));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(__atomic_load_n(&entered, __ATOMIC_SEQ_CST), 0);
    errno = 8;
    hak_lock_release(&lock);
    EXPECT_EQ(errno, 8);
    waiter.join();
    hak_os_ops = hak_os_real_ops;
    EXPECT_EQ(errno_of_waiter, 7);
    EXPECT_GE(n_wakes, 1);
    EXPECT_EQ(lock.word, 0u);
}

TEST(Lock, UncontendedNeedsNoSystemCall)
{
    n_waits = n_wakes = 0;
    hak_os_ops.futex_wait = [](uint32_t *, uint32_t) { return ++n_waits; };
    hak_os_ops.futex_wake = [](uint32_t *, int) { return ++n_wakes; };
    struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    for (int i = 0; i < 100; i++) {
        hak_lock_acquire(&lock);
        hak_lock_release(&lock);
    }
    hak_os_ops = hak_os_real_ops;
    EXPECT_EQ(n_waits + n_wakes, 0);
}

LOCK_DEFINE(listed, LOCK_RANK_POOL);
static LOCK_DEFINE(listed_too, LOCK_RANK_ACE);

struct seen {
    const struct lock *wanted;
    int times;
};

int times_in_list(const struct lock *lock)
{
    struct seen seen = {lock, 0};
    hak_lock_for_each(
        [](struct lock *one, void *context) {
            struct seen *seen = static_cast<struct seen *>(context);
            seen->times += one == seen->wanted;
        },
        &seen);
    return seen.times;
}

/* Static locks, and those of structures made at run time, each once; others not. */
TEST(Lock, TheListHasEach)
{
    struct lock *made = new struct lock; /* for good */
    static struct lock stray = LOCK_INIT(LOCK_RANK_POOL);
    EXPECT_EQ(times_in_list(made), 0);
    hak_lock_init(made, LOCK_RANK_HEAP);
    EXPECT_EQ(times_in_list(made), 1);
    EXPECT_EQ(times_in_list(&listed), 1);
    EXPECT_EQ(times_in_list(&listed_too), 1);
    EXPECT_EQ(times_in_list(&stray), 0);
}

TEST(Lock, TheListGrowsWhileItIsWalked)
{
    std::vector<std::thread> threads;
    static struct lock made[4][100];
    for (auto &mine : made) {
        threads.emplace_back([&mine] {
            for (struct lock &lock : mine) {
                hak_lock_init(&lock, LOCK_RANK_HEAP);
                EXPECT_EQ(times_in_list(&lock), 1);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (auto &mine : made) {
        for (struct lock &lock : mine) {
            EXPECT_EQ(times_in_list(&lock), 1);
        }
    }
}

/* As before an abort: a thread that waits gets on, and what others hold stays theirs. */
TEST(Lock, AllOfOnesOwnAreReleased)
{
    static LOCK_DEFINE(of_other, LOCK_RANK_FALLBACK);
    std::atomic<int> phase(0);
    std::thread other([&] {
        hak_lock_acquire(&of_other);
        phase = 1;
        while (phase != 2) {
            std::this_thread::yield();
        }
        hak_lock_release(&of_other);
    });
    while (phase != 1) {
        std::this_thread::yield();
    }
    hak_lock_acquire(&listed_too);
    hak_lock_acquire(&listed);
    std::thread waiter([&] {
        hak_lock_acquire(&listed);
        hak_lock_release(&listed);
    });
    while (!(__atomic_load_n(&listed.word, __ATOMIC_SEQ_CST) & LOCK_HAS_WAITERS)) {
        std::this_thread::yield();
    }
    EXPECT_EQ(hak_lock_release_mine(), 2u);
    waiter.join();
    EXPECT_EQ(listed.word + listed_too.word, 0u);
    EXPECT_NE(of_other.word, 0u);
    EXPECT_EQ(hak_lock_release_mine(), 0u);
    phase = 2;
    other.join();
    /* The check of ranks has forgotten them too. */
    hak_lock_acquire(&listed_too);
    hak_lock_release(&listed_too);
}

/* Between hak_lock_pass_begin and hak_lock_pass_end a thread goes through locks that others hold,
   and changes none. */
TEST(Lock, AReaderPassesThrough)
{
    hak_lock_acquire(&listed);
    uint32_t word = listed.word;
    std::thread([&] {
        hak_lock_pass_begin();
        EXPECT_TRUE(hak_lock_passes());
        hak_lock_acquire(&listed);
        hak_lock_acquire(&listed_too);
        EXPECT_TRUE(hak_lock_try(&listed));
        EXPECT_EQ(listed.word, word);
        EXPECT_EQ(listed_too.word, 0u);
        hak_lock_release(&listed);
        hak_lock_release(&listed_too);
        EXPECT_EQ(listed.word, word);
        hak_lock_pass_end();
        EXPECT_FALSE(hak_lock_passes());
        EXPECT_FALSE(hak_lock_try(&listed));
    }).join();
    hak_lock_release(&listed);
    EXPECT_EQ(listed.word, 0u);
}

TEST(LockDeathTest, WhoNeedsALostLockDiesWithALine)
{
    static struct lock lost = LOCK_INIT(LOCK_RANK_POOL);
    hak_lock_mark_lost(&lost);
    EXPECT_FALSE(hak_lock_is_mine(&lost));
    EXPECT_FALSE(hak_lock_try(&lost));
    EXPECT_EXIT(hak_lock_acquire(&lost), testing::KilledBySignal(SIGABRT),
                "needs a lock whose holder it does not have");
}

/* Ranks go up; an equal one may be tried, not waited for. */
TEST(Lock, RisingRanksAreAllowed)
{
    struct lock low = LOCK_INIT(LOCK_RANK_HEAPS), high = LOCK_INIT(LOCK_RANK_META);
    struct lock heap = LOCK_INIT(LOCK_RANK_HEAP), other = LOCK_INIT(LOCK_RANK_HEAP);
    hak_lock_acquire(&low);
    hak_lock_acquire(&heap);
    ASSERT_TRUE(hak_lock_try(&other));
    hak_lock_acquire(&high);
    hak_lock_release(&high);
    hak_lock_release(&heap);
    hak_lock_release(&other);
    hak_lock_release(&low);
    /* Nothing is remembered as held. */
    hak_lock_acquire(&high);
    hak_lock_release(&high);
    hak_lock_acquire(&low);
    hak_lock_release(&low);
    EXPECT_EQ(low.word + high.word + heap.word + other.word, 0u);
}

/* What is still held counts, in whichever order the others were released. */
void release_out_of_order_and_break_rank()
{
    static struct lock low = LOCK_INIT(LOCK_RANK_HEAPS), middle = LOCK_INIT(LOCK_RANK_HEAP),
                       high = LOCK_INIT(LOCK_RANK_POOL);
    hak_lock_acquire(&low);
    hak_lock_acquire(&high);
    hak_lock_release(&low);
    hak_lock_acquire(&middle);
}

TEST(LockDeathTest, FallingRankAborts)
{
    if (!HAK_DEBUG) {
        GTEST_SKIP() << "ranks are checked in debug builds";
    }
    static struct lock heap = LOCK_INIT(LOCK_RANK_HEAP), pool = LOCK_INIT(LOCK_RANK_POOL);
    static struct lock other_heap = LOCK_INIT(LOCK_RANK_HEAP),
                       other_pool = LOCK_INIT(LOCK_RANK_POOL);
    EXPECT_EXIT(
        {
            hak_lock_acquire(&pool);
            hak_lock_acquire(&heap);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: lock taken against its rank: 0x");
    EXPECT_EXIT(
        {
            hak_lock_acquire(&pool);
            hak_lock_try(&heap);
        },
        testing::KilledBySignal(SIGABRT), "lock taken against its rank");
    EXPECT_EXIT(
        {
            hak_lock_acquire(&heap);
            hak_lock_acquire(&other_heap);
        },
        testing::KilledBySignal(SIGABRT), "lock taken against its rank");
    EXPECT_EXIT(
        {
            hak_lock_acquire(&pool);
            hak_lock_try(&other_pool);
        },
        testing::KilledBySignal(SIGABRT), "lock taken against its rank");
    EXPECT_EXIT(release_out_of_order_and_break_rank(), testing::KilledBySignal(SIGABRT),
                "lock taken against its rank");
}

TEST(LockDeathTest, ReleaseOfWhatIsNotHeldAborts)
{
    if (!HAK_DEBUG) {
        GTEST_SKIP() << "ranks are checked in debug builds";
    }
    static struct lock pool = LOCK_INIT(LOCK_RANK_POOL);
    EXPECT_EXIT(hak_lock_release(&pool), testing::KilledBySignal(SIGABRT),
                "lock released that is not held");
}

} // namespace
