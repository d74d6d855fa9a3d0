/* Tests of lines on standard error and of the one fatal end. */
#include "base/error.h"

#include <cerrno>
#include <gtest/gtest.h>
#include <string>

#include "testing/failing_os.h"

namespace
{

using hak_testing::CapturedWrites;

TEST(Error, LineHoldsTextAndNumbers)
{
    CapturedWrites writes;
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "a ");
    hak_line_unsigned(&line, 0);
    hak_line_text(&line, " ");
    hak_line_unsigned(&line, UINT64_MAX);
    hak_line_text(&line, " ");
    hak_line_hex(&line, 0);
    hak_line_text(&line, " ");
    hak_line_hex(&line, 0xFEDCBA9876543210u);
    hak_line_write(&line, 5);
    EXPECT_EQ(writes.text(), "a 0 18446744073709551615 0x0 0xfedcba9876543210\n");
    EXPECT_EQ(writes.calls(), 1);
    EXPECT_EQ(writes.last_fd(), 5);
    /* It can be used again. */
    hak_line_text(&line, "b");
    hak_line_write(&line, 5);
    EXPECT_EQ(writes.text(), "a 0 18446744073709551615 0x0 0xfedcba9876543210\nb\n");
}

TEST(Error, WhatDoesNotFitIsCut)
{
    struct {
        struct hak_line line;
        char guard[64];
    } s;
    memset(&s, 0x5A, sizeof s);
    s.line.length = 0;
    CapturedWrites writes;
    for (int i = 0; i < 100; i++) {
        hak_line_text(&s.line, "0123456789");
        hak_line_unsigned(&s.line, 12345);
    }
    hak_line_write(&s.line, 2);
    std::string text = writes.text();
    EXPECT_EQ(text.size(), sizeof s.line.text);
    EXPECT_EQ(text.find('\n'), text.size() - 1);
    for (char c : s.guard) {
        EXPECT_EQ(c, 0x5A);
    }
}

int n_short_writes;
std::string short_text;

TEST(Error, ShortWritesAreContinuedAndFailedOnesGivenUp)
{
    auto real = hak_os_ops.write;
    hak_os_ops.write = [](int, const void *data, size_t size) -> ssize_t {
        size_t n = size < 3 ? size : 3;
        short_text.append(static_cast<const char *>(data), n);
        n_short_writes++;
        return static_cast<ssize_t>(n);
    };
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "abcdefgh");
    hak_line_write(&line, 2);
    EXPECT_EQ(short_text, "abcdefgh\n");
    EXPECT_EQ(n_short_writes, 3);

    n_short_writes = 0;
    hak_os_ops.write = [](int, const void *, size_t) -> ssize_t {
        n_short_writes++;
        errno = EBADF;
        return -1;
    };
    errno = 42;
    hak_line_text(&line, "x");
    hak_line_write(&line, 2);
    hak_os_ops.write = real;
    EXPECT_EQ(n_short_writes, 1);
    EXPECT_EQ(errno, 42);
}

TEST(ErrorDeathTest, FatalNamesReasonAndPointerAndAborts)
{
    EXPECT_EXIT(hak_fatal("some reason", reinterpret_cast<void *>(0x1234abcd)),
                testing::KilledBySignal(SIGABRT), "^hakmem: some reason: 0x1234abcd\n$");
}

TEST(ErrorDeathTest, ChecksOfEachBuild)
{
    int n_evaluated = 0;
    HAK_CHECK(++n_evaluated, "never", nullptr);
    EXPECT_EQ(n_evaluated, 1);
    EXPECT_EXIT(HAK_CHECK(n_evaluated == 7, "a check", &n_evaluated),
                testing::KilledBySignal(SIGABRT), "^hakmem: a check: 0x[0-9a-f]+\n$");
    if (HAK_DEBUG) {
        EXPECT_EXIT(HAK_DEBUG_ASSERT(n_evaluated == 7), testing::KilledBySignal(SIGABRT),
                    "assertion failed: n_evaluated == 7: 0x0");
    } else {
        HAK_DEBUG_ASSERT(++n_evaluated == 7);
        EXPECT_EQ(n_evaluated, 1);
    }
}

} // namespace
