/* The process's first region: its middle is open, the rest follows when it is needed. Each test in
   a child, whose first region it makes. The secure variant guards its units instead. */
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <set>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::in_child;

class Window : public testing::Test
{
  protected:
    void SetUp() override
    {
        if (HAK_SECURE) {
            GTEST_SKIP() << "every second unit is a guard there";
        }
    }
};

uintptr_t region_of(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) & ~(SS_BYTES - 1);
}

/* Which of the region's units may be read. */
uint32_t open_units(uintptr_t region)
{
    uint32_t open = 0;
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_NONBLOCK), 0);
    for (uint32_t unit = 0; unit < SS_UNITS; unit++) {
        const void *at = reinterpret_cast<const void *>(region + unit * SS_UNIT_BYTES);
        open |= static_cast<uint32_t>(write(ends[1], at, 1) == 1) << unit;
    }
    close(ends[0]);
    close(ends[1]);
    return open;
}

/* Eight in a row in the second half, and closed units on both sides. */
void expect_window(uint32_t open)
{
    uint32_t first = static_cast<uint32_t>(__builtin_ctz(open));
    EXPECT_EQ(open >> first, 0xFFu);
    EXPECT_GE(first, 16u);
    EXPECT_LT(first, 24u);
}

/* Blocks until they lie in `n` regions. */
std::vector<void *> fill(size_t n)
{
    std::vector<void *> blocks;
    std::set<uintptr_t> regions;
    while (regions.size() < n) {
        void *p = hak_malloc(30000);
        memset(p, 'p', 30000);
        blocks.push_back(p);
        regions.insert(region_of(p));
    }
    return blocks;
}

/* Programs keep code and guards of their own in aligned blocks. */
TEST_F(Window, PagesThatTheProgramHasProtectedStaySo)
{
    in_child([] {
        auto *p = static_cast<volatile char *>(hak_aligned_alloc(4096, 4096));
        *p = 'r';
        ASSERT_EQ(mprotect(const_cast<char *>(p), 4096, PROT_READ), 0);
        (void)fill(2);
        EXPECT_EQ(*p, 'r');
        EXPECT_EXIT(*p = 'w', testing::KilledBySignal(SIGSEGV), "");
    });
}

size_t n_in(const std::vector<void *> &blocks, uintptr_t region)
{
    std::set<uintptr_t> units;
    for (void *p : blocks) {
        if (region_of(p) == region) {
            units.insert(reinterpret_cast<uintptr_t>(p) / SS_UNIT_BYTES);
        }
    }
    return units.size();
}

TEST_F(Window, TheMiddleIsOpenFirstAndAllIsUsedBeforeAnotherRegionIs)
{
    in_child([] {
        void *p = hak_malloc(64);
        expect_window(open_units(region_of(p)));
        EXPECT_EQ(hak_verify(), 0);
        std::vector<void *> blocks = fill(2);
        EXPECT_EQ(open_units(region_of(p)), UINT32_MAX);
        EXPECT_GE(n_in(blocks, region_of(p)), SS_UNITS - 3);
        EXPECT_EQ(open_units(region_of(blocks.back())), UINT32_MAX) << "only the first has it";
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST_F(Window, LargeBlocksOpenItTooAndLongOnesHaveNone)
{
    in_child([] {
        void *p = hak_malloc(100000);
        expect_window(open_units(region_of(p)));
        void *q = hak_malloc(700000);
        EXPECT_EQ(region_of(q), region_of(p));
        EXPECT_EQ(open_units(region_of(p)), UINT32_MAX);
        EXPECT_EQ(hak_verify(), 0);
    });
    in_child([] {
        void *p = hak_malloc(700000);
        EXPECT_EQ(open_units(region_of(p)), UINT32_MAX);
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST_F(Window, WhereTheSystemRefusesItIsOpenOrStaysClosed)
{
    in_child([] {
        FailingOs os;
        os.fail_always(hak_testing::OS_MPROTECT);
        void *p = hak_malloc(64);
        EXPECT_EQ(open_units(region_of(p)), UINT32_MAX);
        EXPECT_EQ(hak_verify(), 0);
    });
    in_child([] {
        void *p = hak_malloc(64);
        std::vector<void *> blocks;
        {
            FailingOs os;
            os.fail_always(hak_testing::OS_MPROTECT);
            blocks = fill(3);
            expect_window(open_units(region_of(p)));
            EXPECT_EQ(hak_verify(), 0);
        }
        for (void *block : blocks) {
            hak_free(block);
        }
        hak_free(p);
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        fill(3);
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST_F(Window, ARegionOfWhichNothingIsUsedGoesClosedUnitsAndAll)
{
    in_child([] {
        int64_t mappings = hak_stat_get(mappings);
        for (int i = 0; i < 5; i++) {
            hak_free(hak_malloc(64));
            (void)hak_purge();
            EXPECT_EQ(hak_verify(), 0);
        }
        EXPECT_LE(hak_stat_get(mappings), mappings + 1);
        for (void *p : fill(2)) {
            hak_free(p);
        }
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST_F(Window, ThreadsThatNeedItAtOnce)
{
    for (int round = 0; round < 5; round++) {
        in_child([] {
            std::vector<std::thread> threads;
            for (uint64_t seed = 0; seed < 4; seed++) {
                threads.emplace_back([seed] {
                    hak_testing::Rng rng(seed);
                    std::vector<void *> blocks;
                    for (int i = 0; i < 400; i++) {
                        size_t size = rng.below(60000) + 1;
                        blocks.push_back(hak_malloc(size));
                        memset(blocks.back(), 'p', size);
                        if (rng.below(3) == 0) {
                            hak_free(blocks.back());
                            blocks.pop_back();
                        }
                    }
                    for (void *p : blocks) {
                        hak_free(p);
                    }
                });
            }
            /* All is free now and then, so that the region goes while others want more of it. */
            for (int i = 0; i < 50; i++) {
                (void)hak_purge();
            }
            for (std::thread &thread : threads) {
                thread.join();
            }
            EXPECT_EQ(hak_verify(), 0);
        });
    }
}

} // namespace
