/* Tests of lent pages: what is moved, what comes back, bounds, refusals, and what is learnt. */
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "secure/pages.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

const size_t ANY = SIZE_MAX;

/* Address space as freed blocks have it. */
class SecurePages : public testing::Test
{
  protected:
    void SetUp() override
    {
        (void)hak_secure_pages_trim(0);
        room = static_cast<char *>(hak_os_reserve(N * page));
        ASSERT_NE(room, nullptr);
        probe = hak_secure_pages_lend(room, 1);
        if (!probe.n) {
            GTEST_SKIP() << "no such system call: blocks have their own pages";
        }
        EXPECT_EQ(hak_secure_pages_return(probe, room, 1, 0), 0u);
    }
    void TearDown() override
    {
        EXPECT_TRUE(hak_secure_pages_verify());
        EXPECT_EQ(hak_os_unmap(room, N * page), 0);
    }
    bool is_zero(const char *p, size_t n) const
    {
        return p[0] == 0 && memcmp(p, p + 1, n * page - 1) == 0;
    }

    static const size_t N = 4096;
    const size_t page = hak_os_page_size();
    char *room = nullptr;
    struct pages probe = {0, 0};
};

TEST_F(SecurePages, LentPagesAreZeroAndComeBackClean)
{
    for (int round = 0; round < 5; round++) {
        struct pages lent = hak_secure_pages_lend(room + 8 * page, 100);
        ASSERT_EQ(lent.n, 100u);
        EXPECT_TRUE(is_zero(room + 8 * page, 100));
        memset(room + 8 * page, 0x5A, 100 * page);
        EXPECT_EQ(hak_secure_pages_return(lent, room + 8 * page, 100, ANY), 100u);
        EXPECT_GE(hak_secure_pages_kept, 100u);
        EXPECT_TRUE(is_zero(room + 8 * page, 100)) << "they have left";
    }
    EXPECT_EQ(hak_secure_pages_kept, 100u) << "the same ones each time";
    EXPECT_EQ(hak_secure_pages_trim(0), 1);
    EXPECT_EQ(hak_secure_pages_kept, 0u);
}

TEST_F(SecurePages, NoMoreAreKeptThanMayBe)
{
    struct pages lent = hak_secure_pages_lend(room, 64);
    ASSERT_EQ(lent.n, 64u);
    EXPECT_EQ(hak_secure_pages_return(lent, room, 64, 10), 10u);
    EXPECT_EQ(hak_secure_pages_kept, 10u);
    lent = hak_secure_pages_lend(room, 64);
    EXPECT_EQ(hak_secure_pages_return(lent, room, 20, ANY), 20u) << "a block that has shrunk";
    EXPECT_EQ(hak_secure_pages_kept, 20u);
}

/* Blocks of random lengths at random, against what each must hold. */
TEST_F(SecurePages, AtRandom)
{
    hak_testing::Rng rng(7);
    struct Block {
        struct pages lent;
        char *at;
        char value;
    };
    std::vector<Block> blocks(16);
    for (size_t i = 0; i < blocks.size(); i++) {
        blocks[i] = {{0, 0}, room + i * (N / 16) * page, 0};
    }
    for (int step = 0; step < 3000; step++) {
        Block &b = blocks[rng.below(blocks.size())];
        if (!b.lent.n) {
            b.lent = hak_secure_pages_lend(b.at, rng.between(1, N / 16));
            ASSERT_GT(b.lent.n, 0u);
            ASSERT_TRUE(is_zero(b.at, b.lent.n));
            b.value = static_cast<char>(rng.between(1, 100));
            memset(b.at, b.value, b.lent.n * page);
            continue;
        }
        ASSERT_EQ(b.at[0], b.value);
        ASSERT_EQ(memcmp(b.at, b.at + 1, b.lent.n * page - 1), 0);
        size_t most = rng.one_in(3) ? rng.below(500) : 1000;
        (void)hak_secure_pages_return(b.lent, b.at, b.lent.n, most);
        ASSERT_EQ(hak_os_purge(b.at, b.lent.n * page), 0);
        ASSERT_EQ(hak_os_protect(b.at, b.lent.n * page, OS_UNTOUCHABLE), 0);
        b.lent.n = 0;
        if (rng.one_in(50)) {
            (void)hak_secure_pages_trim(rng.below(200));
        }
        ASSERT_TRUE(hak_secure_pages_verify());
    }
    for (Block &b : blocks) {
        if (b.lent.n) {
            (void)hak_secure_pages_return(b.lent, b.at, b.lent.n, 0);
        }
    }
}

TEST_F(SecurePages, AreReadableAgainWhereTheProgramHasForbiddenIt)
{
    struct pages lent = hak_secure_pages_lend(room, 16);
    ASSERT_EQ(lent.n, 16u);
    memset(room, 1, 16 * page);
    ASSERT_EQ(hak_os_protect(room, 16 * page, OS_READABLE), 0);
    (void)hak_secure_pages_return(lent, room, 16, ANY);
    lent = hak_secure_pages_lend(room, 16);
    ASSERT_EQ(lent.n, 16u);
    EXPECT_TRUE(is_zero(room, 16));
    memset(room, 1, 16 * page);
    (void)hak_secure_pages_return(lent, room, 16, 0);
}

TEST_F(SecurePages, BlocksThatAreTouchedGetThem)
{
    const size_t size = 3 << 20, n = size / page;
    ASSERT_EQ(hak_os_protect(room, N * page, OS_WRITABLE), 0);
    for (int i = 0; i < 200; i++) {
        hak_secure_pages_learn(room, size, 0);
    }
    EXPECT_FALSE(hak_secure_pages_are_wanted(size));
    memset(room, 1, n * page);
    for (int i = 0; i < 200; i++) {
        hak_secure_pages_learn(room, size, 0);
    }
    EXPECT_TRUE(hak_secure_pages_are_wanted(size));
    EXPECT_EQ(hak_os_purge(room, N * page), 0);
    for (int i = 0; i < 20; i++) {
        hak_secure_pages_learn(room, size, 1);
    }
    EXPECT_FALSE(hak_secure_pages_are_wanted(size));
}

TEST_F(SecurePages, ARefusalIsSurvived)
{
    {
        hak_testing::FailingOs os;
        os.fail_always(hak_testing::OS_MREMAP);
        EXPECT_EQ(hak_secure_pages_lend(room, 8).n, 0u);
    }
    struct pages lent = hak_secure_pages_lend(room, 8);
    ASSERT_EQ(lent.n, 8u);
    {
        hak_testing::FailingOs os;
        os.fail_always(hak_testing::OS_MREMAP);
        EXPECT_EQ(hak_secure_pages_return(lent, room, 8, ANY), 0u);
    }
    EXPECT_EQ(hak_secure_pages_kept, 0u);
}

/* What the kernel unmaps before it refuses becomes another thread's at once, if `is_taken`. */
bool is_taken;
char *taken;
size_t taken_bytes;
void *mremap_and_lose(void *from, size_t old_size, size_t new_size, int flags, void *to)
{
    void *p = hak_os_real_ops.mremap(from, old_size, new_size, flags, to);
    int error = errno;
    if (is_taken && p == MAP_FAILED && (flags & MREMAP_FIXED)) {
        void *other = mmap(to, new_size, PROT_READ | PROT_WRITE, /* shared: no data to the limit */
                           MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        taken = other == to ? static_cast<char *>(memset(to, 'o', new_size)) : nullptr;
        taken_bytes = new_size;
    }
    errno = error;
    return p;
}

/* Returns a run while the kernel refuses; what else is lent then. 0, or what is wrong. */
int return_refused(char *room, size_t page)
{
    const size_t n = 64, n_others = 20;
    struct pages lent = hak_secure_pages_lend(room, n);
    memset(room, 1, n * page);
    rlimit before, none;
    if (lent.n != n || getrlimit(RLIMIT_DATA, &before)) {
        return 1;
    }
    none = {page, before.rlim_max};
    hak_os_ops.mremap = mremap_and_lose;
    int is_set = setrlimit(RLIMIT_DATA, &none) == 0;
    size_t n_moved = hak_secure_pages_return(lent, room, n, ANY);
    is_set &= setrlimit(RLIMIT_DATA, &before) == 0;
    hak_os_ops.mremap = hak_os_real_ops.mremap;
    if (!is_set || n_moved || hak_secure_pages_kept || (taken != nullptr) != is_taken) {
        return 2;
    }
    if (std::count(room, room + n * page, 1) != static_cast<ptrdiff_t>(n * page)) {
        return 3; /* they are where they were */
    }
    for (int round = 0; round < 2; round++) {
        struct pages others[n_others];
        for (size_t i = 0; i < n_others; i++) {
            char *to = room + (i + 1) * n * page;
            others[i] = hak_secure_pages_lend(to, n);
            if (others[i].n != n || std::count(to, to + n * page, 0) != ptrdiff_t(n * page) ||
                (is_taken && others[i].first < lent.first + n &&
                 lent.first < others[i].first + n)) {
                return 4;
            }
            memset(to, 2, n * page);
        }
        for (size_t i = 0; i < n_others; i++) {
            if (hak_secure_pages_return(others[i], room + (i + 1) * n * page, n, ANY) != n) {
                return 5;
            }
        }
        if (hak_secure_pages_kept != n_others * n || !hak_secure_pages_trim(0)) {
            return 6;
        }
    }
    if (taken && std::count(taken, taken + taken_bytes, 'o') != ptrdiff_t(taken_bytes)) {
        return 7;
    }
    return hak_secure_pages_verify() ? 0 : 8;
}

/* By the kernel: the run is given up, or its place claimed again; then others come back by the
   careful way. In a child, before any other refusal: only the first one is met so. */
using SecurePagesDeathTest = SecurePages;
TEST_F(SecurePagesDeathTest, ARefusalOfTheKernelIsSurvived)
{
    for (bool taken_first : {false, true}) {
        is_taken = taken_first;
        EXPECT_EXIT(_exit(return_refused(room, page)), testing::ExitedWithCode(0), "") << is_taken;
    }
}

} // namespace
