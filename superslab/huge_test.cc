/* Tests of the decision on huge pages, with a clock that makes each first touch cheap or slow. */
#include "superslab/huge.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"

namespace
{

uint64_t now_ns, touch_ns;
int n_asked;

class Huge : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.huge_page_bytes = 1000;
        hak_os_ops.precise_ns = [] { return now_ns += touch_ns; };
        hak_os_ops.madvise = [](void *, size_t, int advice) {
            n_asked += advice == MADV_HUGEPAGE;
            return 0;
        };
        region = static_cast<char *>(hak_os_map_aligned(nullptr, HUGE_BYTES, HUGE_BYTES));
        ASSERT_NE(region, nullptr);
        n_asked = 0;
        /* Cheap ones until what earlier tests have left is forgotten. */
        touch_ns = 1;
        for (int i = 0; i < 200; i++) {
            while (!hak_huge_is_wanted(1000)) {
            }
            hak_huge_mark(region, HUGE_BYTES);
        }
    }
    void TearDown() override
    {
        hak_os_ops = hak_os_real_ops;
        EXPECT_EQ(munmap(region, HUGE_BYTES), 0);
    }
    /* Regions that go without before the next one is wanted. */
    static int skipped()
    {
        int n = 0;
        while (!hak_huge_is_wanted(1000)) {
            n++;
        }
        return n;
    }
    char *region;
};

TEST_F(Huge, OnlyFromTheLimitOn)
{
    EXPECT_EQ(hak_huge_is_wanted(999), 0);
    EXPECT_EQ(hak_huge_is_wanted(1000), 1);
    hak_options.huge_page_bytes = 0;
    EXPECT_EQ(hak_huge_is_wanted(UINT64_MAX), 0);
}

TEST_F(Huge, MarkAsksAndTouches)
{
    int asked = n_asked;
    int64_t regions = hak_stat_get(huge_regions);
    hak_huge_mark(region, HUGE_BYTES);
    EXPECT_EQ(n_asked, asked + 1);
    EXPECT_EQ(hak_stat_get(huge_regions), regions + 1);
    unsigned char resident = 0;
    ASSERT_EQ(mincore(region, 4096, &resident), 0);
    EXPECT_EQ(resident & 1, 1);
    EXPECT_EQ(region[0], 0) << "still zero";
}

/* One whose thread was stopped costs less than the cheap ones around it save. */
TEST_F(Huge, ASlowOneAloneDoesNotStopIt)
{
    for (int i = 0; i < 10; i++) {
        touch_ns = 8000000;
        hak_huge_mark(region, HUGE_BYTES);
        EXPECT_EQ(skipped(), 0);
        touch_ns = 250000;
        for (int n = 0; n < 10; n++) {
            hak_huge_mark(region, HUGE_BYTES);
            EXPECT_EQ(skipped(), 0);
        }
    }
    touch_ns = 12000000;
    hak_huge_mark(region, HUGE_BYTES);
    EXPECT_EQ(skipped(), 64);
}

/* Each slow one makes the pause four times as long; runs of cheap ones shorten it again. */
TEST_F(Huge, DearOnesStopTheMarking)
{
    int64_t dear = hak_stat_get(huge_dear);
    touch_ns = 5000000;
    for (int i = 0; i < 2; i++) { /* 8 ms more than small pages take */
        hak_huge_mark(region, HUGE_BYTES);
        EXPECT_EQ(skipped(), 0);
    }
    const int pauses[] = {64, 256, 1024, 4096, 4096};
    for (int pause : pauses) {
        hak_huge_mark(region, HUGE_BYTES);
        EXPECT_EQ(skipped(), pause);
    }
    EXPECT_EQ(hak_stat_get(huge_dear), dear + 7);
    touch_ns = 1;
    for (int i = 0; i < 16; i++) {
        hak_huge_mark(region, HUGE_BYTES);
        EXPECT_EQ(skipped(), 0);
    }
    touch_ns = 5000000;
    hak_huge_mark(region, HUGE_BYTES);
    EXPECT_EQ(skipped(), 1024) << "one step was forgotten";
}

} // namespace
