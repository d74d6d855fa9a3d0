/* Tests of the mid-MT pool used alone: a seeded stress with a pattern in each block, by one thread and by four. */
#include "mid_mt/mid_mt.h"

#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include "base/lock.h"
#include "base/options.h"
#include "base/stats.h"
#include "mid_mt/mid_class.h"
#include "superslab/bank.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

/* One pool for all tests: owners are few in the tiny variant. */
struct mid_pool *pool()
{
    static struct mid_pool the_pool;
    static int error = mid_pool_init(&the_pool);
    EXPECT_EQ(error, 0);
    return &the_pool;
}

class MidMt : public testing::Test
{
  protected:
    void SetUp() override
    {
        options.purge_delay_ms = 3600000;
    }
    void TearDown() override
    {
        EXPECT_EQ(mid_pool_verify(pool()), 0);
        mid_pool_trim(pool());
        EXPECT_EQ(mid_pool_verify(pool()), 0);
        EXPECT_EQ(stat_get(heap_used_bytes), 0) << "nothing stays after a trim";
        EXPECT_EQ(ss_verify(), 0);
    }
};

/* A block knows its size and who wrote it: the size in its first bytes, a pattern made from it in all others. */
struct Block {
    unsigned char *p;
    size_t size;
    uint64_t key;

    unsigned char expected(size_t i) const
    {
        return static_cast<unsigned char>((key >> (i % 8 * 8)) + i);
    }
    void fill() const
    {
        for (size_t i = 0; i < size; i++) {
            p[i] = expected(i);
        }
    }
    bool intact() const
    {
        for (size_t i = 0; i < size; i++) {
            if (p[i] != expected(i)) {
                return false;
            }
        }
        return true;
    }
};

TEST_F(MidMt, EverySizeIsServedByTheSmallestClassAboveTinyOnes)
{
    for (size_t size = 0; size <= MID_MAX_BYTES; size += size < 2100 ? 1 : 37) {
        void *p = mid_pool_alloc(pool(), size);
        ASSERT_NE(p, nullptr);
        uint32_t c = sc_of(size > SC_TINY_MAX ? size : SC_TINY_MAX + 1);
        EXPECT_TRUE(mid_is_class(c));
        ASSERT_EQ(mid_usable_size(p), sc_table[c].size) << size;
        ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
        memset(p, 1, mid_usable_size(p));
        mid_pool_free(pool(), p);
    }
    void *largest = mid_pool_alloc(pool(), MID_MAX_BYTES);
    EXPECT_EQ(mid_usable_size(largest), MID_MAX_BYTES);
    mid_pool_free(pool(), largest);
}

TEST_F(MidMt, WhatItDoesNotServeIsENOMEM)
{
    for (size_t size : {MID_MAX_BYTES + 1, size_t(1) << 40, SIZE_MAX}) {
        errno = 0;
        EXPECT_EQ(mid_pool_alloc(pool(), size), nullptr);
        EXPECT_EQ(errno, ENOMEM);
    }
    mid_pool_free(pool(), nullptr);
    EXPECT_EQ(mid_usable_size(nullptr), 0u);
    int local;
    EXPECT_EQ(mid_usable_size(&local), 0u);
}

TEST_F(MidMt, Policy)
{
    EXPECT_FALSE(mid_is_class(sc_of(SC_TINY_MAX)));
    EXPECT_TRUE(mid_is_class(sc_of(SC_TINY_MAX + 1)));
    for (uint32_t c = sc_of(MID_MIN_BYTES); c < SC_N_CLASSES; c++) {
        EXPECT_EQ(mid_list_limit(c, 0), 1u);
        EXPECT_EQ(mid_list_limit(c, 1), 1u);
        EXPECT_EQ(mid_list_limit(c, 1 << 20), (1u << 20) / sc_table[c].size);
    }
}

TEST_F(MidMt, StressWithAnOracle)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        Rng rng(seed);
        std::vector<Block> live;
        for (int step = 0; step < 4000; step++) {
            bool growing = step % 1000 < 600;
            if (live.empty() || rng.below(10) < (growing ? 7u : 3u)) {
                size_t size = rng.between(MID_MIN_BYTES, rng.one_in(4) ? MID_MAX_BYTES : 4096);
                Block block = {static_cast<unsigned char *>(mid_pool_alloc(pool(), size)), size, rng.next()};
                ASSERT_NE(block.p, nullptr);
                block.fill();
                live.push_back(block);
            } else {
                size_t i = rng.below(live.size());
                ASSERT_TRUE(live[i].intact()) << "seed " << seed << " step " << step;
                mid_pool_free(pool(), live[i].p);
                live[i] = live.back();
                live.pop_back();
            }
            if (step % 50 == 0) {
                ASSERT_EQ(mid_pool_verify(pool()), 0);
                ASSERT_EQ(ss_verify(), 0);
            }
            if (step % 997 == 0) {
                mid_pool_trim(pool());
            }
        }
        for (const Block &block : live) {
            ASSERT_TRUE(block.intact());
            mid_pool_free(pool(), block.p);
        }
        EXPECT_LE(stat_get(slabs_made) - stat_get(slabs_returned), static_cast<int64_t>(SC_N_CLASSES)) << "at most one empty slab a class";
    }
}

/* Four threads on one pool; half of the blocks are freed by another thread than the one that took them. */
TEST_F(MidMt, FourThreads)
{
    struct Shared {
        struct lock lock = LOCK_INIT(LOCK_RANK_HEAPS);
        std::vector<Block> blocks;
    } shared;
    int n_bad = 0, n_passed_on = 0;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            Rng rng(100 + t);
            std::vector<Block> live;
            auto end = [&](const Block &block) {
                if (!block.intact()) {
                    __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                }
                mid_pool_free(pool(), block.p);
            };
            for (int step = 0; step < 2000; step++) {
                size_t size = rng.between(MID_MIN_BYTES, 6000);
                Block block = {static_cast<unsigned char *>(mid_pool_alloc(pool(), size)), size, rng.next()};
                block.fill();
                if (rng.one_in(2)) {
                    live.push_back(block);
                } else {
                    /* Leaves it to whoever comes next, and takes somebody's. */
                    Block got = block;
                    lock_acquire(&shared.lock);
                    shared.blocks.push_back(block);
                    size_t i = rng.below(shared.blocks.size());
                    std::swap(got, shared.blocks[i]);
                    shared.blocks[i] = shared.blocks.back();
                    shared.blocks.pop_back();
                    if (got.p == block.p) {
                        got.p = nullptr;
                        shared.blocks.push_back(block);
                    }
                    lock_release(&shared.lock);
                    if (got.p) {
                        end(got);
                        __atomic_add_fetch(&n_passed_on, 1, __ATOMIC_RELAXED);
                    }
                }
                if (live.size() > 100) {
                    size_t i = rng.below(live.size());
                    end(live[i]);
                    live[i] = live.back();
                    live.pop_back();
                }
                if (step % 400 == 0) {
                    if (mid_pool_verify(pool())) {
                        __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                    }
                    mid_pool_trim(pool());
                }
            }
            for (const Block &block : live) {
                end(block);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (const Block &block : shared.blocks) {
        EXPECT_TRUE(block.intact());
        mid_pool_free(pool(), block.p);
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_GT(n_passed_on, 100);
}

/* The n-th call of mmap fails, for every n; requests that fail say ENOMEM, all others are served, nothing is lost. */
TEST_F(MidMt, EveryMappingRefusedInTurn)
{
    uint64_t n = 1;
    for (;; n++) {
        mid_pool_trim(pool());
        ss_purge(0);
        FailingOs os;
        os.fail(hak_testing::OS_MMAP, n);
        std::vector<void *> live;
        int n_failed = 0;
        for (int i = 0; i < 200; i++) {
            errno = 0;
            void *p = mid_pool_alloc(pool(), 32768);
            if (p) {
                live.push_back(p);
            } else {
                EXPECT_EQ(errno, ENOMEM);
                n_failed++;
            }
        }
        EXPECT_LE(n_failed, 1);
        EXPECT_EQ(mid_pool_verify(pool()), 0);
        for (void *p : live) {
            mid_pool_free(pool(), p);
        }
        EXPECT_EQ(mid_pool_verify(pool()), 0);
        EXPECT_EQ(ss_verify(), 0);
        if (!os.fired()) {
            EXPECT_EQ(n_failed, 0);
            break;
        }
    }
    EXPECT_GT(n, 4u);
}

using MidMtDeathTest = MidMt;

TEST_F(MidMtDeathTest, BadPointersAbort)
{
    const char *invalid = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    char *p = static_cast<char *>(mid_pool_alloc(pool(), 2000));
    int local;
    EXPECT_EXIT(mid_pool_free(pool(), p + 16), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(mid_pool_free(pool(), &local), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(
        {
            mid_pool_free(pool(), p);
            mid_pool_free(pool(), p);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    struct mid_pool other;
    ASSERT_EQ(mid_pool_init(&other), 0);
    EXPECT_EXIT(mid_pool_free(&other, p), testing::KilledBySignal(SIGABRT), invalid);
    mid_pool_free(pool(), p);
}

/* Must stay the last test: it uses all owners up. */
TEST_F(MidMt, TooManyPools)
{
    struct mid_pool many;
    int error = 0;
    for (uint32_t i = 0; i <= BANK_MAX_OWNERS && !error; i++) {
        error = mid_pool_init(&many);
    }
    EXPECT_EQ(error, EAGAIN);
}

} // namespace
