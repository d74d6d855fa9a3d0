/* Tests of the debug variant's counts of what is done under locks. */
#include "base/lock_holds.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <thread>

#include "base/os.h"
#include "testing/failing_os.h"

namespace
{

#if HAK_DEBUG
using hak_testing::CapturedWrites;

class LockHolds : public testing::Test
{
  protected:
    LockHolds()
    {
        hak_lock_forget_worst();
    }
    struct lock low = LOCK_INIT(LOCK_RANK_HEAP), other = LOCK_INIT(LOCK_RANK_HEAP),
                high = LOCK_INIT(LOCK_RANK_POOL);
};

uint32_t steps(enum lock_rank rank)
{
    return hak_lock_worst(rank).steps;
}

uint32_t calls(enum lock_rank rank)
{
    return hak_lock_worst(rank).system_calls;
}

void call_the_system()
{
    hak_os_huge_pages(nullptr, 0);
}

TEST_F(LockHolds, StepsCountForEachLockThatIsHeld)
{
    hak_lock_step(1000);
    hak_lock_acquire(&low);
    hak_lock_step(3);
    hak_lock_acquire(&high);
    hak_lock_step(2);
    hak_lock_release(&high);
    hak_lock_step(1);
    hak_lock_release(&low);
    hak_lock_step(1000);
    EXPECT_EQ(steps(LOCK_RANK_HEAP), 6u);
    EXPECT_EQ(steps(LOCK_RANK_POOL), 2u);
    EXPECT_STREQ(hak_lock_worst(LOCK_RANK_HEAP).steps_in, "TestBody");
    EXPECT_EQ(steps(LOCK_RANK_ACE), 0u);
    EXPECT_EQ(hak_lock_worst(LOCK_RANK_ACE).steps_in, nullptr);
}

TEST_F(LockHolds, TheWorstHoldStays)
{
    for (uint32_t n : {5u, 9u, 7u}) {
        hak_lock_acquire(&low);
        hak_lock_step(n);
        hak_lock_release(&low);
    }
    EXPECT_EQ(steps(LOCK_RANK_HEAP), 9u);
    hak_lock_forget_worst();
    EXPECT_EQ(steps(LOCK_RANK_HEAP), 0u);
    std::thread([this] {
        hak_lock_acquire(&low);
        hak_lock_step(4);
        hak_lock_release(&low);
    }).join();
    EXPECT_EQ(steps(LOCK_RANK_HEAP), 4u) << "any thread's";
}

/* A lock that is released before a higher or an equal one counts no longer. */
TEST_F(LockHolds, ReleasedInAnyOrder)
{
    hak_lock_acquire(&low);
    ASSERT_TRUE(hak_lock_try(&other));
    hak_lock_acquire(&high);
    hak_lock_step(1);
    hak_lock_release(&low);
    hak_lock_step(2);
    hak_lock_release(&other);
    hak_lock_step(4);
    call_the_system();
    hak_lock_release(&high);
    EXPECT_LE(steps(LOCK_RANK_HEAP), 3u);
    EXPECT_EQ(steps(LOCK_RANK_POOL), 7u);
    EXPECT_EQ(calls(LOCK_RANK_HEAP), 0u);
    EXPECT_EQ(calls(LOCK_RANK_POOL), 1u);
}

TEST_F(LockHolds, EverySystemCallOfMemoryCounts)
{
    size_t page = hak_os_page_size();
    hak_lock_acquire(&high);
    char *p = static_cast<char *>(hak_os_map_aligned(nullptr, 4 * page, page));
    EXPECT_EQ(calls(LOCK_RANK_POOL), 1u);
    EXPECT_STREQ(hak_lock_worst(LOCK_RANK_POOL).system_call, "mmap");
    EXPECT_EQ(hak_os_purge(p, page), 0);
    EXPECT_EQ(calls(LOCK_RANK_POOL), 2u);
    hak_os_huge_pages(p, page);
    hak_os_small_pages(p, page);
    EXPECT_EQ(calls(LOCK_RANK_POOL), 4u);
    p = static_cast<char *>(hak_os_ops.mremap(p, 4 * page, 2 * page, 0, nullptr));
    EXPECT_EQ(calls(LOCK_RANK_POOL), 5u);
    hak_os_unmap_untouched(p + page, page);
    EXPECT_EQ(hak_os_unmap(p, page), 0);
    EXPECT_EQ(calls(LOCK_RANK_POOL), 7u);
    EXPECT_STREQ(hak_lock_worst(LOCK_RANK_POOL).system_call, "munmap");
    (void)hak_os_ops.clock_ns();
    (void)hak_os_ops.futex_wake(&high.word, 0);
    EXPECT_EQ(calls(LOCK_RANK_POOL), 7u);
    hak_lock_release(&high);
}

/* A chunk of metadata is mapped without the lock, whatever is asked for. */
TEST_F(LockHolds, MetadataIsMappedWithoutItsLock)
{
    for (size_t size : {size_t{64}, size_t{100000}, size_t{3} * 1024 * 1024}) {
        for (int i = 0; i < 40; i++) {
            ASSERT_NE(hak_os_meta_alloc(size), nullptr);
        }
    }
    EXPECT_EQ(calls(LOCK_RANK_META), 0u);
}

TEST_F(LockHolds, ALineForEachRankThatDidAnything)
{
    CapturedWrites writes;
    hak_lock_print_worst(2);
    EXPECT_EQ(writes.text(), "");
    hak_lock_acquire(&low);
    hak_lock_step(12);
    hak_lock_acquire(&high);
    call_the_system();
    hak_lock_release(&high);
    hak_lock_release(&low);
    hak_lock_print_worst(2);
    EXPECT_EQ(writes.text(),
              "hakmem: lock HEAP: longest hold 12 steps in TestBody, 1 system calls, the last "
              "madvise\n"
              "hakmem: lock POOL: longest hold 0 steps, 1 system calls, the last madvise\n");
}

TEST_F(LockHolds, RanksThatMallocWaitsFor)
{
    EXPECT_FALSE(hak_lock_ranks_waited_for() & 1u << LOCK_RANK_DEFERRED);
    EXPECT_TRUE(hak_lock_ranks_waited_for() & 1u << LOCK_RANK_POOL);
    EXPECT_FALSE(hak_lock_ranks_waited_for() & 1u << LOCK_RANK_NONE);
}

TEST_F(LockHolds, SystemCallsAreRefused)
{
    hak_lock_refuse_system_calls(1u << LOCK_RANK_POOL);
    hak_lock_acquire(&low);
    call_the_system(); /* that rank may */
    hak_lock_release(&low);
    EXPECT_EXIT(
        {
            hak_lock_acquire(&high);
            call_the_system();
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: system call with a lock held: POOL: 0x0\n");
    EXPECT_EQ(hak_lock_refuse_system_calls(0), 1u << LOCK_RANK_POOL);
    hak_lock_acquire(&high);
    call_the_system();
    hak_lock_release(&high);
}
#else
TEST(LockHolds, OtherBuildsCountNothing)
{
    int evaluated = 0;
    hak_lock_step(evaluated++);
    EXPECT_EQ(evaluated, 0);
}
#endif

} // namespace
