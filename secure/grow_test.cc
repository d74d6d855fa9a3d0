/* Large blocks that become another size, what they leave, and which of their pages are touched or
   kept. */
#include <algorithm>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>

#include "base/os.h"
#include "base/verify.h"
#include "hakmem/hakmem.h"
#include "secure/large.h"
#include "secure/pages.h"
#include "testing/failing_os.h"

namespace
{

bool is_zero(const unsigned char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

unsigned char *take(size_t size)
{
    auto *p = static_cast<unsigned char *>(hak_malloc(size));
    EXPECT_NE(p, nullptr);
    return p;
}

TEST(Secure, LargeBlocksChangeTheirSizeWhereTheyLie)
{
    unsigned char *p = take(100000);
    memset(p, 7, 100000);
    p = static_cast<unsigned char *>(hak_realloc(p, 200000)); /* with room ahead from now on */
    unsigned char *first = p;
    for (size_t size : {210000u, 230000u, 299000u, 250000u, 200001u, 290000u}) {
        size_t before = hak_usable_size(p);
        p = static_cast<unsigned char *>(hak_realloc(p, size));
        EXPECT_EQ(p, first) << size;
        ASSERT_EQ(hak_usable_size(p), size);
        EXPECT_TRUE(is_zero(p + std::min(before, size), size - std::min(before, size)));
        for (size_t i = 0; i < 100000; i += 1000) {
            ASSERT_EQ(p[i], 7);
        }
        EXPECT_EQ(hak_verify(), 0);
    }
    hak_free(p);
    EXPECT_EQ(hak_secure_large_verify(), 0);
}

/* Down to the sixteenth part of its container. */
TEST(SecureDeathTest, ALargeBlockThatShrinksStaysAndLeavesNothingBehind)
{
    unsigned char *p = take(1000000), *first = p;
    memset(p, 7, 1000000);
    for (size_t size : {600000u, 200003u, 70001u}) {
        p = static_cast<unsigned char *>(hak_realloc(p, size));
        ASSERT_EQ(p, first) << size;
        EXPECT_EQ(hak_usable_size(p), size);
        EXPECT_EXIT((void)static_cast<volatile unsigned char *>(p)[size + 4096],
                    testing::KilledBySignal(SIGSEGV), "");
        EXPECT_DEATH((p[size] ^= 1, hak_free(p)), "behind its end|^$");
        EXPECT_EQ(hak_verify(), 0);
    }
    p = static_cast<unsigned char *>(hak_realloc(p, 100000));
    EXPECT_TRUE(is_zero(p + 70001, 29999));
    EXPECT_EQ(p[70000], 7);
    hak_free(p);
}

/* Where the program touches neither end of its blocks, to watch them costs two page faults. */
TEST(SecureDeathTest, EdgesOfBlocksThatAreNotTouchedAreWatchedOnceInSixteen)
{
    const size_t size = 300001;
    for (bool is_behind : {true, false}) {
        EXPECT_DEATH(
            {
                for (int i = 0; i < 100; i++) {
                    hak_free(take(size));
                }
                for (int i = 0; i < 16; i++) {
                    unsigned char *p = take(size);
                    p[is_behind ? size : -size_t(1)] = 1;
                    hak_free(p);
                }
            },
            is_behind ? "behind its end" : "before its start");
    }
}

/* With the system's help, and without. */
TEST(SecureDeathTest, ALargeBlockThatGrowsLeavesNothingBehind)
{
    for (int refused : {0, 1}) {
        for (size_t size : {70000u, 100001u, 131072u, 700003u}) {
            hak_testing::FailingOs os;
            if (refused) {
                os.fail_always(hak_testing::OS_MREMAP);
            }
            unsigned char *p = take(size);
            for (size_t i = 0; i < size; i++) {
                p[i] = static_cast<unsigned char>(i * 7 + i / 4096);
            }
            auto *q = static_cast<unsigned char *>(hak_realloc(p, size * 5));
            ASSERT_NE(q, nullptr);
            ASSERT_NE(q, p);
            EXPECT_EQ(hak_usable_size(q), size * 5);
            for (size_t i = 0; i < size; i++) {
                ASSERT_EQ(q[i], static_cast<unsigned char>(i * 7 + i / 4096)) << i;
            }
            EXPECT_TRUE(is_zero(q + size, size * 4));
            EXPECT_EQ(hak_verify(), 0);
            EXPECT_EXIT((void)static_cast<volatile unsigned char *>(p)[size / 2],
                        testing::KilledBySignal(SIGSEGV), "");
            EXPECT_DEATH(hak_free(p), "block freed twice");
            EXPECT_DEATH((q[-1] = 1, hak_free(q)), "before its start|^$");
            EXPECT_DEATH((q[size * 5] = 1, hak_free(q)), "behind its end|^$");
            hak_free(q);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Pages are kept by the recent peak, not by what is in use at the moment. */
TEST(Secure, PagesOfLargeBlocksAreKeptAsLongAsTheirPeakIsRecent)
{
    const size_t size = 1 << 20, n = 8;
    void *all[n];
    size_t page = hak_os_page_size();
    for (int round = 0; round < 40; round++) {
        for (void *&p : all) {
            p = memset(take(size), 1, size);
        }
        for (void *p : all) {
            hak_free(p);
        }
    }
    if (!hak_secure_pages_kept) {
        GTEST_SKIP() << "no pages are lent here";
    }
    EXPECT_GT(hak_secure_pages_kept, (n - 1) * size / page);
    EXPECT_LE(hak_secure_pages_kept, 2 * n * (size + page) / page);
    for (int i = 0; i < 1000; i++) {
        hak_free(memset(take(100000), 1, 100000));
    }
    EXPECT_LE(hak_secure_pages_kept, 5 * size / page);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Secure, TheVerifierSeesAWrongCount)
{
    hak_free(take(100000));
    ASSERT_EQ(hak_verify(), 0);
    hak_secure_large_waiting += 4096;
    EXPECT_EQ(hak_verify(), VERIFY_SECURE_LARGE);
    hak_secure_large_waiting -= 4096;
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
