/* A system that refuses, and what the memory limit counts. */
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/options.h"
#include "base/stats.h"
#include "guard/guard_testing.h"
#include "guard/slots.h"
#include "hakmem/hakmem.h"
#include "limit/limit.h"
#include "testing/failing_os.h"

namespace
{

using namespace guard_testing;
using hak_testing::FailingOs;

TEST_F(Guard, WhereProtectionIsRefusedABlockIsServedAsEver)
{
    void *p;
    {
        FailingOs os;
        os.fail_always(hak_testing::OS_MPROTECT);
        p = hak_malloc(100);
        EXPECT_TRUE(os.fired());
    }
    EXPECT_FALSE(hak_guard_holds(p));
    hak_free(p);
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Guard, WherePagesCannotBeDroppedTheyAreCleared)
{
    FailingOs os;
    for (size_t i = 0; i < 3 * hak_options.guard_slots; i++) {
        os.fail_always(hak_testing::OS_MADVISE);
        char *p = guarded(3000);
        ASSERT_TRUE(std::all_of(p, p + 3000, [](char c) { return c == 0; })) << i;
        memset(p, 0x77, 3000);
        hak_free(p);
    }
}

TEST_F(Guard, WhereAFreedBlockCannotBeProtectedItIsFreedAllTheSame)
{
    char *p = guarded(100);
    FailingOs os;
    os.fail_always(hak_testing::OS_MPROTECT);
    hak_free(p);
    os.reset();
    EXPECT_EQ(hak_guard_n_used(), 0u);
    for (size_t i = 0; i < 2 * hak_options.guard_slots; i++) {
        hak_free(guarded(100));
    }
}

/* Bytes that the memory limit counts, and mappings. */
struct Counted {
    int64_t committed = hak_stat_get(committed_bytes), mappings = hak_stat_get(mappings);
};

TEST_F(Guard, TheMemoryLimitCountsGuardedBlocks)
{
    hak_free(guarded(100));
    for (size_t size : {size_t(0), size_t(100), page() + 1, large()}) {
        Counted before;
        char *p = guarded(size);
        Counted with;
        hak_free(p);
        Counted after;
        EXPECT_EQ(with.committed - before.committed,
                  static_cast<int64_t>((size + page() - 1) & ~(page() - 1)))
            << size;
        EXPECT_EQ(with.mappings - before.mappings, size ? 2 : 0);
        EXPECT_EQ(after.committed, before.committed);
        EXPECT_EQ(after.mappings, before.mappings);
    }
    uint64_t soft = hak_limit_soft_set, hard = hak_limit_hard_set;
    hak_limit_configure(0, hak_limit_committed() + page() - 1);
    void *p = hak_malloc(100), *q = hak_malloc(0);
    EXPECT_FALSE(hak_guard_holds(p)) << "beyond the limit";
    EXPECT_TRUE(hak_guard_holds(q)) << "has no page";
    hak_limit_configure(soft, hard);
    hak_free(p);
    hak_free(q);
}

/* Where the system leaves a freed block's pages resident, they count until they are used again. */
TEST_F(GuardSignals, PagesThatTheSystemLeavesStayCounted)
{
    EXPECT_EXIT(
        {
            (void)hak_guard_start(1);
            hak_free(hak_malloc(100));
            Counted before;
            {
                FailingOs os;
                os.fail_always(hak_testing::OS_MADVISE);
                hak_free(hak_malloc(100));
            }
            Counted refused;
            for (size_t i = 0; i < 2 * hak_options.guard_slots; i++) {
                hak_free(hak_malloc(100));
            }
            Counted after;
            _exit(refused.committed - before.committed == static_cast<int64_t>(page()) &&
                          after.committed == before.committed && after.mappings == before.mappings
                      ? 0
                      : 1);
        },
        testing::ExitedWithCode(0), "");
}

TEST_F(GuardSignals, WithoutMemoryNothingIsGuarded)
{
    EXPECT_EXIT(
        {
            hak_free(hak_malloc(1));
            int error = 0;
            {
                FailingOs os;
                os.fail_always(hak_testing::OS_MMAP);
                error = hak_guard_start(1);
            }
            void *p = hak_malloc(100);
            int is_guarded = hak_guard_holds(p);
            hak_free(p);
            int again = hak_guard_start(1);
            _exit(error == ENOMEM && !is_guarded && again == 0 && hak_guard_holds(hak_malloc(9))
                      ? 0
                      : 1);
        },
        testing::ExitedWithCode(0), "");
}

TEST_F(GuardSignals, WithoutAddressSpaceForLargeSlotsThereAreSmallOnes)
{
    EXPECT_EXIT(
        {
            hak_free(hak_malloc(1));
            int error;
            {
                FailingOs os;
                os.fail(hak_testing::OS_MMAP, 1, 0);
                error = hak_guard_start(1);
            }
            void *p = hak_malloc(100);
            void *q = hak_malloc(large());
            _exit(error == 0 && hak_guard_holds(p) && !hak_guard_holds(q) && hak_guard_verify() == 0
                      ? 0
                      : 1);
        },
        testing::ExitedWithCode(0), "");
}

} // namespace
