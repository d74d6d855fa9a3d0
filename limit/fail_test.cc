/* Tests of the trace of failures: each line, the path of a request, rate limiting, the callback,
   and that nothing allocates. */
#include "limit/fail.h"
#include "limit/limit.h"

#include <algorithm>
#include <cerrno>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "testing/count_malloc.h"
#include "testing/failing_os.h"

namespace
{

using hak_testing::CapturedWrites;
using hak_testing::FakeClock;

class Fail : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.ace_trace = 1;
        static uint64_t n_tests;
        clock.advance_ms(++n_tests * 100000); /* another second than the tests before */
        hak_fail_begin();
    }
    void TearDown() override
    {
        hak_options.ace_trace = 0;
        hak_fail_set_callback(nullptr, nullptr);
    }
    FakeClock clock;
};

TEST_F(Fail, Threshold)
{
    int64_t before = hak_stat_get(fail_threshold);
    CapturedWrites writes;
    hak_fail_threshold(33792, 40960, 1010);
    EXPECT_EQ(writes.text(), "[ACE-FAIL] Threshold  size=33792 class=40960 wmax=1.01\n");
    EXPECT_EQ(writes.last_fd(), 2);
    EXPECT_EQ(hak_stat_get(fail_threshold), before + 1);
}

TEST_F(Fail, Exhaustion)
{
    int64_t before = hak_stat_get(fail_exhaustion);
    CapturedWrites writes;
    hak_fail_exhaustion(1000, 1024, 777, 888);
    hak_fail_tell();
    EXPECT_EQ(writes.text(),
              "[ACE-FAIL] Exhaustion size=1000 class=1024 pool_bytes=777 limit=888\n");
    EXPECT_EQ(hak_stat_get(fail_exhaustion), before + 1);
}

TEST_F(Fail, MapFail)
{
    static int n_asked;
    n_asked = 0;
    hak_os_ops.address_limit = [] {
        n_asked++;
        return uint64_t(123456789);
    };
    hak_fail_start();
    EXPECT_EQ(n_asked, 1);
    int64_t before = hak_stat_get(fail_map);
    CapturedWrites writes;
    /* From here on nothing is asked of the system but to write: a sandbox may forbid it. */
    hak_os_ops.open = [](const char *) {
        n_asked++;
        return -1;
    };
    ASSERT_NE(hak_os_meta_alloc(1), nullptr);
    hak_limit_count_mappings(540);
    errno = 3;
    hak_fail_map(5000, ENOMEM);
    hak_fail_tell();
    hak_limit_count_mappings(-540);
    std::string text = writes.text();
    EXPECT_EQ(text.rfind("[ACE-FAIL] MapFail    size=5000 errno=12 (ENOMEM) mapped=", 0), 0u)
        << text;
    EXPECT_NE(text.find(" rlimit_as=123456789\n"), std::string::npos) << text;
    size_t vma = std::stoul(text.substr(text.find(" vma=") + 5));
    EXPECT_GE(vma, 541u);
    EXPECT_LT(vma, 600u);
    EXPECT_EQ(errno, 3);
    EXPECT_EQ(hak_stat_get(fail_map), before + 1);
    EXPECT_EQ(n_asked, 1);
    hak_os_ops.address_limit = [] { return UINT64_MAX; };
    hak_fail_start();
    hak_fail_map(6000, 999);
    hak_fail_tell();
    EXPECT_NE(writes.text().find("errno=999 (?)"), std::string::npos) << writes.text();
    EXPECT_NE(writes.text().find(" rlimit_as=unlimited\n"), std::string::npos) << writes.text();
    hak_os_ops = hak_os_real_ops;
}

/* Without the trace, not even the start asks for it. */
TEST_F(Fail, OnlyATraceAsksForTheLimitOfAddressSpace)
{
    static int n_asked;
    n_asked = 0;
    hak_os_ops.address_limit = [] {
        n_asked++;
        return uint64_t(1);
    };
    hak_options.ace_trace = 0;
    hak_fail_start();
    hak_options.ace_trace = 1;
    EXPECT_EQ(n_asked, 0);
    hak_os_ops = hak_os_real_ops;
}

TEST_F(Fail, ARequestTellsItsWholePath)
{
    CapturedWrites writes;
    hak_fail_end(10, 16, &writes);
    EXPECT_EQ(writes.text(), "") << "nothing failed";
    hak_fail_threshold(1, 2, 1000);
    hak_fail_map(1, ENOMEM);
    hak_fail_tell();
    EXPECT_EQ(hak_fail_any(), 1);
    size_t length = writes.text().size();
    hak_fail_end(10, 16, &writes);
    EXPECT_EQ(writes.text().size(), length) << "failed steps are no failed request";
    hak_fail_reclaim();
    hak_fail_map(1, ENOMEM);
    hak_fail_tell();
    length = writes.text().size();
    hak_fail_end(10, 64, nullptr);
    EXPECT_EQ(writes.text().substr(length),
              "[ACE-FAIL] Request    size=10 align=64 path=Threshold,MapFail,Reclaim,MapFail\n");
    hak_fail_begin();
    EXPECT_EQ(hak_fail_any(), 0);
    length = writes.text().size();
    hak_fail_end(11, 1, nullptr);
    EXPECT_EQ(writes.text().substr(length),
              "[ACE-FAIL] Request    size=11 align=1 path=TooLarge\n");
    for (int i = 0; i < 20; i++) {
        hak_fail_reclaim(); /* more than a path holds: the first ones stay */
    }
    length = writes.text().size();
    hak_fail_end(12, 1, nullptr);
    std::string line = writes.text().substr(length);
    EXPECT_EQ(std::count(line.begin(), line.end(), ','), 7) << line;
}

/* Ten lines of a reason a second; the next one says how many were held back. */
TEST_F(Fail, RepeatsAreCountedNotPrinted)
{
    CapturedWrites writes;
    int64_t held = hak_stat_get(fail_lines_held), counted = hak_stat_get(fail_threshold);
    for (int i = 0; i < 1000; i++) {
        hak_fail_threshold(33792, 40960, 1010);
    }
    EXPECT_EQ(writes.calls(), static_cast<int>(FAIL_LINES));
    EXPECT_EQ(hak_stat_get(fail_threshold), counted + 1000);
    EXPECT_EQ(hak_stat_get(fail_lines_held), held + 1000 - FAIL_LINES);
    hak_fail_exhaustion(1, 1, 1, 1);
    hak_fail_tell();
    EXPECT_EQ(writes.calls(), static_cast<int>(FAIL_LINES) + 1) << "each reason has its own";
    clock.advance_ms(1000);
    size_t length = writes.text().size();
    hak_fail_threshold(33792, 40960, 1010);
    EXPECT_EQ(writes.text().substr(length),
              "[ACE-FAIL] Threshold  size=33792 class=40960 wmax=1.01 held_back=990\n");
    clock.advance_ms(1000);
    length = writes.text().size();
    hak_fail_threshold(33792, 40960, 1010);
    EXPECT_EQ(writes.text().substr(length),
              "[ACE-FAIL] Threshold  size=33792 class=40960 wmax=1.01\n");
}

TEST_F(Fail, WithoutTheTraceItOnlyCounts)
{
    hak_options.ace_trace = 0;
    CapturedWrites writes;
    int64_t map = hak_stat_get(fail_map), fallbacks = hak_stat_get(libc_fallbacks);
    hak_fail_map(1, ENOMEM);
    hak_fail_tell();
    hak_fail_fallback(1, "x");
    hak_fail_end(1, 1, nullptr);
    EXPECT_EQ(writes.text(), "");
    EXPECT_EQ(hak_stat_get(fail_map), map + 1);
    EXPECT_EQ(hak_stat_get(libc_fallbacks), fallbacks + 1);
}

struct Told {
    size_t size, align;
    std::vector<int> path;
    int failed;
};
std::vector<Told> told;

void tell(size_t size, size_t align, const struct fail_path *path, int failed, void *context)
{
    Told one = {size, align, {}, failed};
    for (uint8_t reason : path->reasons) {
        if (reason != FAIL_NONE) {
            one.path.push_back(reason);
        }
    }
    told.push_back(one);
    ++*static_cast<int *>(context);
    errno = 99;
    /* A request of its own that fails is not reported. */
    hak_fail_begin();
    hak_fail_map(1, ENOMEM);
    hak_fail_tell();
    hak_fail_end(1, 1, nullptr);
}

TEST_F(Fail, TheCallbackIsToldOncePerRequest)
{
    CapturedWrites writes;
    int n = 0, p;
    told.clear();
    hak_fail_set_callback(tell, &n);
    hak_fail_end(5, 16, &p);
    EXPECT_EQ(n, 0) << "nothing failed";
    hak_fail_threshold(5, 8, 1000);
    errno = 2;
    hak_fail_end(5, 16, &p);
    EXPECT_EQ(errno, 2);
    ASSERT_EQ(told.size(), 1u);
    EXPECT_EQ(told[0].failed, 0);
    EXPECT_EQ(told[0].path, std::vector<int>{FAIL_THRESHOLD});
    hak_fail_begin();
    hak_fail_exhaustion(7, 8, 1, 1);
    hak_fail_end(7, 32, nullptr);
    ASSERT_EQ(told.size(), 2u);
    EXPECT_EQ(told[1].size, 7u);
    EXPECT_EQ(told[1].align, 32u);
    EXPECT_EQ(told[1].failed, 1);
    EXPECT_EQ(n, 2);
    hak_fail_set_callback(nullptr, nullptr);
    hak_fail_end(7, 32, nullptr);
    EXPECT_EQ(n, 2);
}

/* A step may fail with a lock held: its line waits, in its place, until the request ends or the
   next one begins. What has no room to wait is counted as held back. */
TEST_F(Fail, LinesOfStepsWaitUntilNoLockIsHeld)
{
    CapturedWrites writes;
    static struct lock lock = LOCK_INIT(LOCK_RANK_POOL);
    hak_lock_acquire(&lock);
    hak_fail_exhaustion(1, 2, 3, 4);
    hak_fail_map(5, ENOMEM);
    EXPECT_EQ(writes.calls(), 0);
    hak_lock_release(&lock);
    hak_fail_threshold(6, 7, 1500);
    EXPECT_EQ(writes.calls(), 3);
    std::string text = writes.text();
    size_t exhaustion = text.find("Exhaustion size=1 class=2 pool_bytes=3 limit=4\n"),
           map = text.find("MapFail    size=5 errno=12"), threshold = text.find("Threshold");
    EXPECT_LT(exhaustion, map);
    EXPECT_LT(map, threshold);
    EXPECT_NE(threshold, std::string::npos);
    hak_fail_map(8, ENOMEM);
    hak_fail_begin();
    EXPECT_EQ(writes.calls(), 4);
    int64_t held = hak_stat_get(fail_lines_held);
    for (uint32_t i = 0; i < FAIL_LINES; i++) {
        hak_fail_exhaustion(i, 0, 0, 0);
        hak_fail_map(i, ENOMEM);
    }
    EXPECT_EQ(writes.calls(), 4);
    hak_fail_tell();
    EXPECT_GT(hak_stat_get(fail_lines_held), held);
    EXPECT_EQ(writes.calls() - 4 + hak_stat_get(fail_lines_held) - held, 2 * FAIL_LINES);
}

TEST_F(Fail, NeverAllocates)
{
    if (!HAK_COUNTS_MALLOC) {
        GTEST_SKIP() << "the sanitizer brings its own malloc";
    }
    CapturedWrites writes;
    uint64_t before = hak_testing::malloc_calls();
    hak_fail_threshold(1, 2, 1500);
    hak_fail_exhaustion(1, 2, 3, 4);
    hak_fail_map(1, ENOMEM);
    hak_fail_fallback(1, "because");
    hak_fail_end(1, 1, nullptr);
    EXPECT_EQ(hak_testing::malloc_calls(), before);
    EXPECT_EQ(writes.calls(), 5);
}

} // namespace
