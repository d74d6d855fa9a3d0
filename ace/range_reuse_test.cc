/* Tests of pages that move: into a larger block, into a superslab, and back; and where the system
   does not move them. */
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <vector>

#include "ace/ace.h"
#include "ace/adapt.h"
#include "ace/range.h"
#include "ace/range_cache.h"
#include "ace/zero.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "limit/limit.h"
#include "superslab/pool.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

const size_t kMiB = HAK_MIB;

class Reuse : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.large_cache_bytes = size_t(1) << 40;
        hak_options.ace_keep = size_t(1) << 40;
        hak_options.huge_page_bytes = 0;
        hak_zero_forget();
        hak_adapt_forget();
        purge_all();
    }
    void TearDown() override
    {
        hak_os_ops = hak_os_real_ops;
        hak_options.ace_keep = UINT64_MAX;
        purge_all();
        expect_sound();
        EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
        EXPECT_EQ(hak_stat_get(large_ranges), 0);
    }
    static void purge_all()
    {
        hak_ace_purge(0);
        hak_ss_purge(0);
    }
    static void expect_sound()
    {
        EXPECT_EQ(hak_ace_verify(), 0);
        EXPECT_EQ(hak_ss_verify(), 0);
    }
};

char *alloc(size_t size, bool is_zeroed = false)
{
    char *p =
        static_cast<char *>(is_zeroed ? hak_ace_alloc_zeroed(size, 1) : hak_ace_alloc(size, 1));
    EXPECT_NE(p, nullptr);
    return p;
}

char *filled(size_t size)
{
    char *p = alloc(size);
    memset(p, 0x5A, size);
    return p;
}

int64_t fresh()
{
    return hak_stat_get(fresh_bytes);
}

TEST_F(Reuse, ASmallerRangeBecomesLarger)
{
    hak_ace_free(filled(3 * kMiB));
    int64_t before = fresh(), committed = hak_stat_get(committed_bytes);
    char *p = alloc(5 * kMiB);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
    EXPECT_EQ(fresh() - before, static_cast<int64_t>(2 * kMiB)) << "the rest";
    EXPECT_EQ(hak_stat_get(committed_bytes) - committed, static_cast<int64_t>(2 * kMiB));
    EXPECT_EQ(hak_ace_usable_size(p), 5 * kMiB);
    EXPECT_EQ(p[3 * kMiB - 1], 0x5A) << "the very pages";
    expect_sound();
    memset(p, 1, 5 * kMiB);
    hak_ace_free(p);
    EXPECT_EQ(alloc(5 * kMiB), p);
    hak_ace_free(p);
}

TEST_F(Reuse, ZeroedBlocksReadAsZero)
{
    for (int i = 0; i < 4; i++) { /* such blocks are written */
        char *p = alloc(5 * kMiB, true);
        memset(p, 1, 5 * kMiB);
        hak_ace_free(p);
        purge_all();
    }
    hak_ace_free(filled(3 * kMiB));
    int64_t before = fresh();
    char *p = alloc(5 * kMiB, true);
    EXPECT_EQ(fresh() - before, static_cast<int64_t>(2 * kMiB));
    for (size_t at = 0; at < 5 * kMiB; at += 64) {
        ASSERT_EQ(p[at], 0) << at;
    }
    hak_ace_free(p);
}

/* Pages that no program touches are worth nothing. */
TEST_F(Reuse, UntouchedRangesStay)
{
    for (int i = 0; i < 8; i++) {
        hak_ace_free(alloc(3 * kMiB));
        purge_all();
    }
    hak_ace_free(alloc(3 * kMiB));
    char *p = alloc(4 * kMiB);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), static_cast<int64_t>(3 * kMiB));
    hak_ace_free(p);
}

TEST_F(Reuse, WhatTheSystemDoesNotMoveIsAskedForOnce)
{
    hak_ace_free(filled(3 * kMiB));
    FailingOs os;
    os.fail_always(hak_testing::OS_MREMAP);
    char *p = alloc(5 * kMiB), *q = alloc(5 * kMiB);
    EXPECT_EQ(os.calls(hak_testing::OS_MREMAP), 1u);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), static_cast<int64_t>(3 * kMiB));
    expect_sound();
    os.reset();
    hak_ace_free(p);
    hak_ace_free(q);
}

/* By a filter of system calls. Nothing stays mapped where the pages would have gone. In a child,
   since it is not asked again. */
TEST_F(Reuse, WhereMremapIsDeniedNothingStaysMapped)
{
    auto grows_by_copies = [] {
        hak_ace_free(filled(64 * kMiB)); /* the map knows the addresses around */
        purge_all();
        FailingOs os;
        static int n_denied;
        n_denied = 0;
        hak_os_ops.mremap = [](void *, size_t, size_t, int, void *) {
            n_denied++;
            errno = EPERM;
            return MAP_FAILED;
        };
        errno = 5;
        for (int i = 0; i < 5; i++) {
            hak_ace_free(filled(3 * kMiB));
            char *p = alloc(5 * kMiB);
            void *larger = hak_ace_resize(p, 8 * kMiB);
            hak_ace_free(larger ? larger : p);
            purge_all();
        }
        EXPECT_EQ(errno, 5);
        EXPECT_GE(n_denied, 1);
        EXPECT_LT(os.mapped_bytes(), static_cast<int64_t>(kMiB)) << "but metadata";
        expect_sound();
        exit(HasFailure());
    };
    EXPECT_EXIT(grows_by_copies(), testing::ExitedWithCode(0), "");
}

/* Two mappings to the system, as after mprotect: the block comes from elsewhere. */
TEST_F(Reuse, ATornRangeIsNoneToMove)
{
    char *p = filled(3 * kMiB);
    ASSERT_EQ(madvise(p + kMiB, kMiB, MADV_DONTFORK), 0);
    hak_ace_free(p);
    char *q = filled(5 * kMiB);
    EXPECT_EQ(hak_ace_usable_size(q), 5 * kMiB);
    expect_sound();
    hak_ace_free(q);
}

#if !HAK_SECURE
TEST_F(Reuse, ARangeBecomesASuperslab)
{
    hak_ace_free(filled(3 * kMiB));
    int64_t before = fresh(), n = hak_stat_get(superslabs);
    int64_t committed = hak_stat_get(committed_bytes);
    char *p = alloc(kMiB);
    EXPECT_EQ(hak_stat_get(superslabs), n + 1);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), static_cast<int64_t>(kMiB));
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), static_cast<int64_t>(kMiB));
    EXPECT_EQ(fresh(), before);
    EXPECT_EQ(hak_stat_get(committed_bytes), committed);
    EXPECT_EQ(p[0], 0x5A);
    expect_sound();
    struct ss_lookup what = hak_super_lookup(p + 100);
    EXPECT_EQ(what.kind, SS_SPAN);
    EXPECT_EQ(what.start, p);
    hak_ace_free(p);
}

/* Of a larger range too, of which a part was to move. */
TEST_F(Reuse, WithoutAPlaceARangeStaysWhereItIs)
{
    for (size_t size : {2 * kMiB + kMiB / 2, 3 * kMiB, 8 * kMiB}) {
        char *large = filled(size);
        hak_ace_free(large);
        FailingOs os;
        os.fail_always(hak_testing::OS_MMAP);
        EXPECT_EQ(hak_ace_alloc(kMiB, 1), nullptr) << size;
        EXPECT_TRUE(os.fired());
        EXPECT_EQ(hak_stat_get(large_cached_bytes), static_cast<int64_t>(size));
        expect_sound();
        os.reset();
        EXPECT_EQ(alloc(size), large);
        EXPECT_EQ(hak_ace_usable_size(large), size);
        hak_ace_free(large);
        purge_all();
    }
}

TEST_F(Reuse, PartOfASuperslabIsClean)
{
    hak_ace_free(filled(kMiB + kMiB / 2));
    char *p = alloc(kMiB, true);
    for (size_t at = 0; at < kMiB; at += 64) {
        ASSERT_EQ(p[at], 0) << at;
    }
    char *q = alloc(kMiB, true);
    for (size_t at = 0; at < kMiB; at += 64) {
        ASSERT_EQ(q[at], 0) << at;
    }
    expect_sound();
    hak_ace_free(p);
    hak_ace_free(q);
}

/* What is purged of superslabs need not have come from ranges. */
TEST_F(Reuse, MoreIsPurgedThanHasMoved)
{
    hak_adapt_moved(kMiB);
    hak_adapt_purged(CONTROL_SUPERSLABS, 3 * kMiB);
    EXPECT_EQ(hak_adapt_verify(), 0);
    hak_adapt_forget();
    hak_adapt_moved(SIZE_MAX); /* one less */
    EXPECT_EQ(hak_adapt_verify(), VERIFY_CONTROL_MOVED);
    hak_adapt_moved(1);
    EXPECT_EQ(hak_adapt_verify(), 0);
}

TEST_F(Reuse, ASuperslabBecomesARange)
{
    char *p = filled(kMiB), *q = filled(kMiB);
    hak_ace_free(p);
    hak_ace_free(q);
    int64_t before = fresh(), n = hak_stat_get(superslabs);
    int64_t committed = hak_stat_get(committed_bytes);
    char *large = alloc(2 * kMiB);
    EXPECT_EQ(hak_stat_get(superslabs), n - 1);
    EXPECT_EQ(fresh(), before);
    EXPECT_EQ(hak_stat_get(committed_bytes), committed);
    EXPECT_EQ(large[kMiB], 0x5A);
    expect_sound();
    EXPECT_EQ(hak_super_lookup(large + 100).start, large);
    hak_ace_free(large);
}

/* What of it was not committed counts, as it would in a fresh range. */
TEST_F(Reuse, ASuperslabBecomesNoRangeBeyondTheLimit)
{
    for (size_t room : {0 * kMiB, kMiB}) {
        char *p = filled(700 * 1024), *q = filled(700 * 1024);
        hak_ace_free(p);
        hak_ace_free(q);
        int64_t n = hak_stat_get(superslabs);
        hak_limit_configure(0, hak_limit_committed() + room);
        char *large = static_cast<char *>(hak_ace_alloc(2 * kMiB, 1));
        EXPECT_LE(hak_limit_committed(), hak_limit_hard());
        EXPECT_EQ(hak_stat_get(superslabs), n - (room != 0));
        hak_limit_configure(0, 0);
        if (large) {
            hak_ace_free(large);
        }
        expect_sound();
        purge_all();
    }
}
#endif

/* Blocks of both kinds, all with what was written in them, and what is kept passes between them. */
TEST_F(Reuse, Stress)
{
    Rng rng(7);
    struct Block {
        char *p;
        size_t size;
        char mark;
    };
    std::vector<Block> blocks;
    hak_options.ace_keep = 8 * kMiB;
    for (int i = 0; i < 3000; i++) {
        if (blocks.size() == 12 || (!blocks.empty() && rng.below(2))) {
            size_t at = rng.below(blocks.size());
            const Block block = blocks[at];
            ASSERT_EQ(block.p[0], block.mark);
            ASSERT_EQ(block.p[block.size / 2], block.mark);
            ASSERT_EQ(block.p[block.size - 1], block.mark);
            hak_ace_free(block.p);
            blocks[at] = blocks.back();
            blocks.pop_back();
            continue;
        }
        bool is_zeroed = rng.below(2) != 0;
        size_t size = i / 500 % 2 ? rng.between(64 * 1024, kMiB) : rng.between(kMiB, 6 * kMiB);
        char *p = alloc(size, is_zeroed), mark = static_cast<char>(1 + rng.below(100));
        for (size_t at = 0; is_zeroed && at < size; at += 1024) {
            ASSERT_EQ(p[at], 0);
        }
        memset(p, mark, size);
        blocks.push_back({p, size, mark});
        if (i % 64 == 0) {
            expect_sound();
        }
    }
    for (const Block &block : blocks) {
        hak_ace_free(block.p);
    }
}

} // namespace
