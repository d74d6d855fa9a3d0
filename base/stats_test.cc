/* Tests of the statistics table: counting by threads, and the printed form of each row. */
#include "base/stats.h"

#include <cerrno>
#include <climits>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "testing/count_malloc.h"
#include "testing/failing_os.h"

namespace
{

struct Row {
    const char *name, *unit, *text;
    int64_t hak_stats::*field;
};

const Row rows[] = {
#define STAT(name, kind, unit, text) {#name, unit, text, &hak_stats::name},
#include "base/stats.def"
};

TEST(Stats, EachRowIsPrintedOnALineOfItsOwn)
{
    std::string expected;
    int64_t value = -3;
    for (const Row &row : rows) {
        hak_stats.*row.field = value;
        expected += std::string("hakmem: ") + row.name + " = " + std::to_string(value) + " " +
                    row.unit + "\n";
        value = value * -7 % 1000000007;
    }
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    errno = 77;
    hak_stat_print(fds[1]);
    EXPECT_EQ(errno, 77);
    close(fds[1]);
    std::string text;
    char buffer[256];
    for (ssize_t n; (n = read(fds[0], buffer, sizeof buffer)) > 0;) {
        text.append(buffer, static_cast<size_t>(n));
    }
    close(fds[0]);
    EXPECT_EQ(text, expected);
}

TEST(Stats, ExtremeValues)
{
    int64_t before = hak_stat_get(refills);
    hak_testing::CapturedWrites writes;
    hak_stats.refills = INT64_MAX;
    hak_stat_print(2);
    EXPECT_NE(writes.text().find("refills = 9223372036854775807 "), std::string::npos);
    writes.clear();
    hak_stats.refills = INT64_MIN;
    hak_stat_print(2);
    EXPECT_NE(writes.text().find("refills = -9223372036854775808 "), std::string::npos);
    hak_stats.refills = before;
}

TEST(Stats, RowsAreDescribed)
{
    for (const Row &row : rows) {
        EXPECT_GT(strlen(row.text), 10u) << row.name;
        EXPECT_GT(strlen(row.unit), 0u) << row.name;
    }
    EXPECT_EQ(sizeof rows / sizeof rows[0] * sizeof(int64_t), sizeof(struct hak_stats));
}

TEST(Stats, ThreadsLoseNothing)
{
    const int n_threads = 4, n_rounds = 20000;
    int64_t before = hak_stat_get(refills), other = hak_stat_get(flushes);
    std::vector<std::thread> threads;
    for (int t = 0; t < n_threads; t++) {
        threads.emplace_back([] {
            for (int i = 0; i < n_rounds; i++) {
                hak_stat_add(refills, 3);
                hak_stat_sub(refills, 1);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_stat_get(refills), before + 2 * n_threads * n_rounds);
    EXPECT_EQ(hak_stat_get(flushes), other);
}

TEST(Stats, PrintNeverAllocates)
{
    if (!HAK_COUNTS_MALLOC) {
        GTEST_SKIP() << "the sanitizer brings its own malloc";
    }
    hak_testing::CapturedWrites writes;
    uint64_t before = hak_testing::malloc_calls();
    hak_stat_print(2);
    uint64_t after = hak_testing::malloc_calls();
    EXPECT_EQ(after, before);
    EXPECT_EQ(writes.calls(), static_cast<int>(sizeof rows / sizeof rows[0]));
}

} // namespace
