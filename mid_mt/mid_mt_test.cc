/* Tests of the mid-MT pool used alone; pool_test.h has what tiny's are too. */
#include "mid_mt/mid_class.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>

#include "base/link.h"
#include "base/options.h"
#include "base/stats.h"
#include "testing/pool_test.h"

namespace
{

using namespace hak_testing;

struct Mid {
    using Pool = struct mid_pool;
    static constexpr size_t min_bytes = MID_MIN_BYTES, max_bytes = MID_MAX_BYTES;
    static constexpr auto init = hak_mid_pool_init;
    static constexpr auto alloc = hak_mid_pool_alloc;
    static constexpr auto free = hak_mid_pool_free;
    static constexpr auto usable_size = hak_mid_usable_size;
    static constexpr auto trim = hak_mid_pool_trim;
    static constexpr auto destroy = hak_mid_pool_destroy;
    static constexpr auto verify = hak_mid_pool_verify;
};

class MidMt : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        ASSERT_EQ(hak_mid_pool_init(&pool), 0);
    }
    void TearDown() override
    {
        EXPECT_EQ(hak_mid_pool_verify(&pool), 0);
        hak_mid_pool_trim(&pool);
        EXPECT_EQ(hak_mid_pool_verify(&pool), 0);
        EXPECT_EQ(hak_owner_verify_all(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "nothing stays after a trim";
        hak_mid_pool_destroy(&pool);
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_owner_verify_all(), 0);
    }
    struct mid_pool pool;
};

TEST_F(MidMt, EverySizeIsServedByTheSmallestClassAboveTinyOnes)
{
    for (size_t size = 0; size <= MID_MAX_BYTES; size += size < 2100 ? 1 : 37) {
        void *p = hak_mid_pool_alloc(&pool, size);
        ASSERT_NE(p, nullptr);
        uint32_t c = hak_sc_of(size > SC_TINY_MAX ? size : SC_TINY_MAX + 1);
        EXPECT_TRUE(hak_mid_is_class(c));
        ASSERT_EQ(hak_mid_usable_size(p), hak_sc_table[c].size) << size;
        ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
        memset(p, 1, hak_mid_usable_size(p));
        hak_mid_pool_free(&pool, p);
    }
    void *largest = hak_mid_pool_alloc(&pool, MID_MAX_BYTES);
    EXPECT_EQ(hak_mid_usable_size(largest), SC_LAST_BYTES);
    hak_mid_pool_free(&pool, largest);
}

TEST_F(MidMt, WhatItDoesNotServeIsENOMEM)
{
    for (size_t size : {MID_MAX_BYTES + 1, size_t(1) << 40, SIZE_MAX}) {
        errno = 0;
        EXPECT_EQ(hak_mid_pool_alloc(&pool, size), nullptr);
        EXPECT_EQ(errno, ENOMEM);
    }
    hak_mid_pool_free(&pool, nullptr);
    EXPECT_EQ(hak_mid_usable_size(nullptr), 0u);
    int local;
    EXPECT_EQ(hak_mid_usable_size(&local), 0u);
}

TEST_F(MidMt, Policy)
{
    EXPECT_FALSE(hak_mid_is_class(hak_sc_of(SC_TINY_MAX)));
    EXPECT_TRUE(hak_mid_is_class(hak_sc_of(SC_TINY_MAX + 1)));
    hak_options.bin_adapt = 1;
    for (uint32_t c = hak_sc_of(MID_MIN_BYTES); c < SC_N_CLASSES; c++) {
        EXPECT_EQ(hak_owner_list_limit(&hak_mid_policy, c, 0), 1u);
        EXPECT_EQ(hak_owner_list_limit(&hak_mid_policy, c, 1), 1u);
        EXPECT_EQ(hak_owner_list_limit(&hak_mid_policy, c, 1 << 20),
                  (1u << 20) / hak_sc_table[c].size);
        EXPECT_EQ(hak_owner_largest_limit(&hak_mid_policy, c),
                  hak_owner_list_limit(&hak_mid_policy, c, hak_options.bin_bytes));
        EXPECT_EQ(hak_owner_first_limit(&hak_mid_policy, c),
                  hak_owner_list_limit(&hak_mid_policy, c, OWNER_FIRST_BYTES));
    }
    hak_options.bin_adapt = 0;
    EXPECT_EQ(hak_owner_first_limit(&hak_mid_policy, SC_N_TINY),
              hak_owner_largest_limit(&hak_mid_policy, SC_N_TINY));
    hak_options.bin_adapt = 1;
}

/* Fresh blocks come one at a time: a page holds none or few. */
TEST_F(MidMt, TakesFreshBlocksByThePage)
{
    for (uint32_t c = SC_N_TINY; c < SC_N_CLASSES; c++) {
        uint32_t by_page = OWNER_FRESH_BYTES / hak_sc_table[c].size;
        void *head, *next;
        (void)hak_ss_purge(0); /* else it is taken as far as an earlier slab was touched */
        struct slab *slab = hak_bank_make(c);
        hak_lock_acquire(&pool.owner->lock);
        EXPECT_EQ(hak_mid_take(pool.owner, c, 1, &head), 0u) << "memory comes from outside";
        hak_bank_add(&pool.owner->bank, slab);
        EXPECT_EQ(hak_mid_take(pool.owner, c, 1000, &head),
                  std::min(std::max(by_page, 1u), hak_sc_table[c].capacity));
        for (; head; head = next) {
            next = hak_link_next(head);
            hak_mid_put(pool.owner, head);
        }
        EXPECT_EQ(pool.owner->bank.n_partial[c],
                  hak_sc_table[c].size <= MID_KEEP_EMPTY_MAX ? 1u : 0u)
            << "an empty slab of large blocks is not kept";
        hak_lock_release(&pool.owner->lock);
    }
}

TEST_F(MidMt, StressWithAnOracle)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        pool_stress<Mid>(&pool, seed, 4000);
        EXPECT_LE(pool.owner->bank.n_slabs, static_cast<uint32_t>(SC_N_CLASSES - SC_N_TINY))
            << "at most one empty slab a class";
    }
}

TEST_F(MidMt, FourThreads)
{
    pool_four_threads<Mid>(&pool);
}

TEST_F(MidMt, EveryMappingRefusedInTurn)
{
    EXPECT_GT(pool_every_mapping_refused<Mid>(&pool, 200, [] { (void)hak_ss_purge(0); }), 4u);
}

TEST_F(MidMt, IsDestroyedWithAllItsBlocks)
{
    pool_destroyed_and_made_again<Mid>(&pool, 200, [] { return hak_stat_get(heap_used_bytes); });
}

using MidMtDeathTest = MidMt;

TEST_F(MidMtDeathTest, BadPointersAbort)
{
    const char *invalid = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    char *p = static_cast<char *>(hak_mid_pool_alloc(&pool, 2000));
    int local;
    EXPECT_EXIT(hak_mid_pool_free(&pool, p + 16), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_mid_pool_free(&pool, &local), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(
        {
            hak_mid_pool_free(&pool, p);
            hak_mid_pool_free(&pool, p);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    struct mid_pool other;
    ASSERT_EQ(hak_mid_pool_init(&other), 0);
    EXPECT_EXIT(hak_mid_pool_free(&other, p), testing::KilledBySignal(SIGABRT), invalid);
    hak_mid_pool_destroy(&other);
    hak_mid_pool_free(&pool, p);
}

TEST_F(MidMt, AsManyPoolsAsThereAreIds)
{
    size_t n = pool_until_no_id_is_left<Mid>(OWNER_MAX);
    EXPECT_GE(n, size_t(OWNER_MAX - 4)) << "this test's own pool has one";
    EXPECT_EQ(pool_until_no_id_is_left<Mid>(OWNER_MAX), n) << "and again";
}

} // namespace
