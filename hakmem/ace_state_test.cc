/* Tests of what the interface says about ACE's controller, and of the statistics that it prints. */
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>

#include "base/attributes.h"
#include "hakmem/hakmem.h"

namespace
{

constexpr size_t MIB = size_t(1) << 20;

/* What print writes to a file descriptor. */
template <class F> std::string written(F print)
{
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    print(ends[1]);
    close(ends[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) {
        text.append(buffer, static_cast<size_t>(n));
    }
    close(ends[0]);
    return text;
}

TEST(AceState, LiveRangesFollowTheProgram)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "freed large blocks wait";
    }
    struct hak_ace_state before, with, after;
    hak_ace_state(&before);
    void *p = hak_malloc(16 * MIB);
    ASSERT_NE(p, nullptr);
    hak_ace_state(&with);
    hak_free(p);
    hak_ace_state(&after);
    EXPECT_GE(with.live_ranges, before.live_ranges + 16 * MIB);
    EXPECT_LE(after.live_ranges + 16 * MIB, with.live_ranges);
    EXPECT_GT(with.horizon_ms, 0u);
}

TEST(AceState, AClassCountsWhereItsBlocksCameFrom)
{
    struct hak_ace_class before, after;
    hak_ace_class(3 * MIB, &before);
    EXPECT_GE(before.class_bytes, 3 * MIB);
    for (int i = 0; i < 10; i++) {
        void *p = hak_malloc(3 * MIB);
        ASSERT_NE(p, nullptr);
        hak_free(p);
    }
    hak_ace_class(3 * MIB, &after);
    EXPECT_GE(after.hits + after.misses, before.hits + before.misses + 10);
    EXPECT_EQ(after.class_bytes, before.class_bytes);
}

TEST(AceState, SizesThatNoClassHas)
{
    struct hak_ace_class smallest, largest;
    hak_ace_class(0, &smallest);
    EXPECT_GT(smallest.class_bytes, 32768u) << "what is smaller is not ACE's";
    hak_ace_class(SIZE_MAX, &largest);
    EXPECT_EQ(largest.hits + largest.misses, 0u);
}

TEST(AceState, IsPrinted)
{
    void *p = hak_malloc(5 * MIB);
    ASSERT_NE(p, nullptr);
    std::string text = written(hak_ace_print);
    hak_free(p);
    EXPECT_EQ(text.find("hakmem: ACE live="), 0u) << text;
    EXPECT_NE(text.find("\nhakmem: ACE class="), std::string::npos) << text;
    EXPECT_EQ(text.back(), '\n');
}

TEST(Stats, ArePrinted)
{
    std::string text = written(hak_print_stats);
    EXPECT_NE(text.find("refills"), std::string::npos) << text;
    EXPECT_NE(text.find("heap_used_bytes"), std::string::npos) << text;
}

} // namespace
