/* Tests of zeroing and looking: every length and place of one byte that is not zero. */
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <vector>

#include "secure/zero.h"

namespace
{

alignas(4096) unsigned char room[5 * 4096];

/* Each set of instructions that the processor has. */
class SecureZero : public testing::TestWithParam<int>
{
  protected:
#if defined(__x86_64__)
    void SetUp() override
    {
        hak_secure_zero_start();
        if (GetParam() > hak_secure_wide_set) {
            GTEST_SKIP() << "the processor does not have them";
        }
        hak_secure_wide_set = static_cast<wide_set>(GetParam());
    }
    void TearDown() override
    {
        hak_secure_zero_start();
    }
#endif
};
INSTANTIATE_TEST_SUITE_P(Sets, SecureZero, testing::Range(0, 3));

TEST_P(SecureZero, FindsOneByteWhereverItIs)
{
    for (size_t at = 0; at < 48; at += 8) {
        for (size_t n : {128u, 136u, 152u, 248u, 256u, 264u, 272u, 280u, 504u, 512u, 520u, 1000u,
                         1016u, 1024u, 4088u, 4096u, 9000u}) {
            ASSERT_EQ(hak_secure_is_zero(room + at, n), 1) << n;
            for (size_t i = 0; i < n; i += n < 600 ? 1 : 61) {
                room[at + i] = 0x80;
                ASSERT_EQ(hak_secure_is_zero(room + at, n), 0) << n << " " << i;
                room[at + i] = 0;
            }
            room[at + n] = 1; /* behind */
            ASSERT_EQ(hak_secure_is_zero(room + at, n), 1) << n;
            room[at + n] = 0;
        }
    }
}

TEST_P(SecureZero, ZeroesThatAndNoMore)
{
    for (size_t at : {0u, 8u, 4088u, 4096u}) {
        for (size_t n : {128u, 152u, 248u, 256u, 264u, 504u, 512u, 520u, 640u, 1016u, 1024u, 1032u,
                         4088u, 4096u, 4104u, 12000u}) {
            memset(room, 7, sizeof room);
            hak_secure_zero(room + at, n);
            for (size_t i = 0; i < sizeof room; i++) {
                ASSERT_EQ(room[i], i < at || i >= at + n ? 7 : 0) << at << " " << n << " " << i;
            }
        }
    }
    memset(room, 0, sizeof room);
}

TEST_P(SecureZero, WritesNothingWhereAllIsZero)
{
    ASSERT_EQ(mprotect(room, sizeof room, PROT_READ), 0);
    for (size_t n : {1024u, 1032u, 4088u, 4096u, 9000u}) {
        hak_secure_zero(room + 8, n);
    }
    ASSERT_EQ(mprotect(room, sizeof room, PROT_READ | PROT_WRITE), 0);
}

} // namespace
