/* Tests of the tiny pool used alone; pool_test.h has what tiny_mt's are too. */
#include "tiny/tiny_class.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>

#include "base/options.h"
#include "base/stats.h"
#include "testing/pool_test.h"

namespace
{

using namespace hak_testing;

struct TinyTraits {
    using Pool = struct tiny_pool;
    static constexpr size_t min_bytes = 0, max_bytes = TINY_MAX_BYTES;
    static constexpr auto init = hak_tiny_pool_init;
    static constexpr auto alloc = hak_tiny_pool_alloc;
    static constexpr auto free = hak_tiny_pool_free;
    static constexpr auto usable_size = hak_tiny_usable_size;
    static constexpr auto trim = hak_tiny_pool_trim;
    static constexpr auto destroy = hak_tiny_pool_destroy;
    static constexpr auto verify = hak_tiny_pool_verify;
};

class Tiny : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        ASSERT_EQ(hak_tiny_pool_init(&pool), 0);
    }
    void TearDown() override
    {
        EXPECT_EQ(hak_tiny_pool_verify(&pool), 0);
        hak_tiny_pool_trim(&pool);
        EXPECT_EQ(hak_tiny_pool_verify(&pool), 0);
        EXPECT_EQ(hak_owner_verify_all(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "nothing stays after a trim";
        hak_tiny_pool_destroy(&pool);
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_owner_verify_all(), 0);
    }
    struct tiny_pool pool;
};

TEST_F(Tiny, EverySizeIsServedByItsClass)
{
    for (size_t size = 0; size <= TINY_MAX_BYTES; size++) {
        void *p = hak_tiny_pool_alloc(&pool, size);
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(hak_tiny_is_class(hak_sc_of(size)));
        ASSERT_EQ(hak_tiny_usable_size(p), hak_sc_table[hak_sc_of(size)].size) << size;
        ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
        memset(p, 1, hak_tiny_usable_size(p));
        hak_tiny_pool_free(&pool, p);
    }
}

TEST_F(Tiny, WhatItDoesNotServeIsENOMEM)
{
    for (size_t size : {TINY_MAX_BYTES + 1, size_t(1) << 40, SIZE_MAX}) {
        errno = 0;
        EXPECT_EQ(hak_tiny_pool_alloc(&pool, size), nullptr);
        EXPECT_EQ(errno, ENOMEM);
    }
    hak_tiny_pool_free(&pool, nullptr);
    EXPECT_EQ(hak_tiny_usable_size(nullptr), 0u);
    int local;
    EXPECT_EQ(hak_tiny_usable_size(&local), 0u);
}

TEST_F(Tiny, Policy)
{
    EXPECT_TRUE(hak_tiny_is_class(hak_sc_of(TINY_MAX_BYTES)));
    EXPECT_FALSE(hak_tiny_is_class(hak_sc_of(TINY_MAX_BYTES + 1)));
    hak_options.bin_adapt = 1;
    for (uint32_t c = 0; c < SC_N_TINY; c++) {
        uint32_t size = hak_sc_table[c].size;
        EXPECT_EQ(hak_owner_list_limit(&hak_tiny_policy, c, 0), 2u);
        EXPECT_EQ(hak_owner_list_limit(&hak_tiny_policy, c, 3 * size), 3u);
        EXPECT_EQ(hak_owner_list_limit(&hak_tiny_policy, c, SIZE_MAX), TINY_MAX_BLOCKS);
        size_t bytes = hak_options.bin_bytes / (size > 128 ? 2 : 1);
        EXPECT_EQ(hak_owner_largest_limit(&hak_tiny_policy, c),
                  hak_owner_list_limit(&hak_tiny_policy, c, bytes));
        EXPECT_EQ(hak_owner_first_limit(&hak_tiny_policy, c),
                  std::min(hak_owner_list_limit(&hak_tiny_policy, c, OWNER_FIRST_BYTES), 16u));
    }
    hak_options.bin_adapt = 0;
    EXPECT_EQ(hak_owner_first_limit(&hak_tiny_policy, 0),
              hak_owner_largest_limit(&hak_tiny_policy, 0));
    hak_options.bin_adapt = 1;
}

TEST_F(Tiny, TakesFreshBlocksByThePageAndKeepsAnEmptySlab)
{
    for (uint32_t c = 0; c < SC_N_TINY; c++) {
        void *head;
        struct slab *slab = hak_bank_make(c);
        hak_lock_acquire(&pool.owner->lock);
        EXPECT_EQ(hak_tiny_take(pool.owner, c, 1, &head), 0u) << "memory comes from outside";
        hak_bank_add(&pool.owner->bank, slab);
        /* More where an earlier slab of the unit has left pages. */
        uint32_t touched = slab->n_touched * SLAB_TOUCHED_BYTES, size = hak_sc_table[c].size,
                 n = hak_tiny_take(pool.owner, c, 1000, &head);
        EXPECT_GE(n, OWNER_FRESH_BYTES / size);
        EXPECT_LE(n, std::max<uint32_t>(OWNER_FRESH_BYTES, touched) / size);
        EXPECT_EQ(hak_tiny_put_list(pool.owner, head), n);
        EXPECT_EQ(pool.owner->bank.n_partial[c], 1u);
        hak_lock_release(&pool.owner->lock);
    }
}

TEST_F(Tiny, StressWithAnOracle)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        pool_stress<TinyTraits>(&pool, seed, 4000);
        EXPECT_LE(pool.owner->bank.n_slabs, static_cast<uint32_t>(SC_N_TINY))
            << "at most one empty slab a class";
    }
}

TEST_F(Tiny, FourThreads)
{
    pool_four_threads<TinyTraits>(&pool);
}

TEST_F(Tiny, EveryMappingRefusedInTurn)
{
    EXPECT_GT(pool_every_mapping_refused<TinyTraits>(&pool, 6000, [] { (void)hak_ss_purge(0); }),
              3u);
}

TEST_F(Tiny, IsDestroyedWithAllItsBlocks)
{
    pool_destroyed_and_made_again<TinyTraits>(&pool, 200,
                                              [] { return hak_stat_get(heap_used_bytes); });
}

using TinyDeathTest = Tiny;

TEST_F(TinyDeathTest, BadPointersAbort)
{
    const char *invalid = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    char *p = static_cast<char *>(hak_tiny_pool_alloc(&pool, 500));
    int local;
    EXPECT_EXIT(hak_tiny_pool_free(&pool, p + 16), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_tiny_pool_free(&pool, &local), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(
        {
            hak_tiny_pool_free(&pool, p);
            hak_tiny_pool_free(&pool, p);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    struct tiny_pool other;
    ASSERT_EQ(hak_tiny_pool_init(&other), 0);
    EXPECT_EXIT(hak_tiny_pool_free(&other, p), testing::KilledBySignal(SIGABRT), invalid);
    hak_tiny_pool_destroy(&other);
    hak_tiny_pool_free(&pool, p);
}

TEST_F(Tiny, AsManyPoolsAsThereAreIds)
{
    size_t n = pool_until_no_id_is_left<TinyTraits>(OWNER_MAX);
    EXPECT_GE(n, size_t(OWNER_MAX - 4)) << "this test's own pool has one";
    EXPECT_EQ(pool_until_no_id_is_left<TinyTraits>(OWNER_MAX), n) << "and again";
}

} // namespace
