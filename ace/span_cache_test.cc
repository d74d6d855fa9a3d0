/* Tests of the span cache: what it keeps, for how long, and that no function takes a span in it for
   a block; another thread that takes spans out while its own goes on. */
#include "ace/span_cache.h"

#include <atomic>
#include <cstring>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include "ace/ace.h"
#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/zero.h"
#include "base/options.h"
#include "base/stats.h"
#include "base/verify.h"
#include "superslab/pool.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::OsCall;
using hak_testing::Rng;

const size_t kSize = 40 * 1024; /* of all variants' caches */

struct span_cache cache;

class Spans : public testing::Test
{
  protected:
    void SetUp() override
    {
        options_ = hak_options;
        hak_options.purge_delay_ms = 3600000;
        hak_options.huge_page_bytes = 0;
        hak_options.cache_bytes = size_t{48} << 20;
        cache = span_cache{};
        hak_spans_own = [] { return &cache; };
        hak_zero_forget();
        hak_ace_set_helped(1);
        hak_adapt_forget();
        hak_ace_purge(0);
        hak_ss_purge(0);
        if (HAK_SECURE) {
            GTEST_SKIP() << "the secure variant keeps none";
        }
    }
    void TearDown() override
    {
        hak_spans_end(&cache);
        hak_spans_own = nullptr;
        hak_ace_purge(0);
        hak_ss_purge(0);
        EXPECT_EQ(hak_ace_verify(), 0);
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
        EXPECT_EQ(hak_stat_get(span_cache_bytes), 0);
        EXPECT_EQ(cache.reserved, 0);
        hak_options = options_;
    }

  private:
    decltype(hak_options) options_;
};

using SpansDeathTest = Spans;

void *alloc(size_t size, size_t align = 1)
{
    void *p = hak_spans_take(&cache, size, align, 0);
    if (!p) {
        hak_spans_missed(&cache);
        p = hak_ace_alloc(size, align);
    }
    EXPECT_NE(p, nullptr);
    return p;
}

void give(void *p)
{
    if (!hak_spans_put(&cache, p)) {
        hak_ace_free_to(&cache, p);
    }
    EXPECT_EQ(hak_spans_verify(&cache), 0);
}

uint32_t n_kept()
{
    uint32_t n = 0;
    for (uint64_t slot : cache.slots) {
        n += slot != 0;
    }
    return n;
}

size_t kept_bytes()
{
    size_t bytes = 0;
    for (uint64_t slot : cache.slots) {
        bytes += (slot & (SS_GRANULE_BYTES - 1)) * SS_GRANULE_BYTES;
    }
    return bytes;
}

TEST_F(Spans, AFreedSpanServesTheNextRequest)
{
    void *p = alloc(kSize);
    give(p);
    EXPECT_EQ(n_kept(), 1U);
    EXPECT_EQ(hak_stat_get(span_cache_bytes), int64_t(kSize));
    EXPECT_EQ(hak_ace_usable_size(p), 0U) << "it is no block";
    EXPECT_EQ(hak_super_lookup(p).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_super_lookup(static_cast<char *>(p) + 9000).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_ace_resize(p, 2 * kSize), nullptr);
    EXPECT_EQ(hak_spans_take(&cache, kSize + SS_GRANULE_BYTES, 1, 0), nullptr) << "another class";
    EXPECT_EQ(hak_spans_take(&cache, 100, 1, 0), nullptr);
    EXPECT_EQ(hak_spans_take(&cache, size_t{1} << 60, 1, 0), nullptr);
    int64_t used = hak_stat_get(heap_used_bytes);
    EXPECT_EQ(alloc(kSize - 5000), p);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), used) << "nobody else was asked";
    EXPECT_EQ(hak_ace_usable_size(p), kSize);
    EXPECT_EQ(hak_super_lookup(p).size, kSize);
    EXPECT_EQ(n_kept(), 0U);
    give(p);
}

TEST_F(Spans, WhatIsKeptCountsAsKept)
{
    struct adapt_summary before, after;
    void *p = alloc(kSize), *other = alloc(2 * kSize);
    hak_adapt_state(&before);
    give(p);
    hak_adapt_state(&after);
    EXPECT_EQ(before.live[CONTROL_SUPERSLABS] - after.live[CONTROL_SUPERSLABS], kSize);
    hak_options.ace_keep = 10 * kSize;
    EXPECT_EQ(hak_adapt_superslab_keep(), 9 * kSize);
    hak_options.ace_keep = 0;
    EXPECT_EQ(hak_adapt_superslab_keep(), 0U);
    hak_options.ace_keep = UINT64_MAX;
    give(other);
}

TEST_F(Spans, AZeroedBlockIsZero)
{
    for (int i = 0; i < 100; i++) {
        char *p = static_cast<char *>(hak_spans_take(&cache, kSize, 1, 1));
        p = p ? p : static_cast<char *>(hak_ace_alloc_zeroed(kSize, 1));
        for (size_t at = 0; at < kSize; at++) {
            ASSERT_EQ(p[at], 0) << at;
        }
        memset(p, 0xA5, i % 2 ? kSize : 1);
        give(p);
    }
}

TEST_F(Spans, ABlockIsAlignedAsAskedFor)
{
    std::vector<void *> all;
    for (int i = 0; i < 8; i++) {
        all.push_back(alloc(kSize));
    }
    for (void *p : all) {
        give(p);
    }
    for (size_t align = SS_GRANULE_BYTES; align <= SS_UNIT_BYTES; align *= 2) {
        void *p = alloc(kSize, align);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0U);
        give(p);
    }
}

TEST_F(Spans, TheCacheIsBounded)
{
    for (int round = 0; round < 20; round++) {
        std::vector<void *> all;
        for (size_t size = kSize; size <= ACE_SPAN_MAX; size = hak_ace_class_bytes(size + 1)) {
            all.push_back(alloc(size));
        }
        for (void *p : all) {
            give(p);
            EXPECT_LE(kept_bytes(), SPAN_CACHE_BYTES);
            EXPECT_LE(cache.reserved, int64_t(SPAN_CACHE_BYTES));
            EXPECT_GE(cache.reserved, int64_t(kept_bytes()));
        }
    }
}

TEST_F(Spans, TheSystemIsAskedLast)
{
    void *stays = alloc(kSize); /* so that the region stays */
    void *p = alloc(2 * kSize);
    give(p);
    ASSERT_EQ(n_kept(), 1U);
    int64_t fresh = hak_stat_get(fresh_bytes);
    void *q = hak_ace_alloc(kSize + SS_GRANULE_BYTES, 1); /* fits into what is kept */
    EXPECT_EQ(hak_stat_get(fresh_bytes), fresh);
    EXPECT_EQ(n_kept(), 0U);
    hak_ace_free(q);
    p = alloc(SS_UNIT_BYTES, SS_UNIT_BYTES); /* likewise for a slab */
    give(p);
    hak_ss_purge(0);
    ASSERT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    fresh = hak_stat_get(fresh_bytes);
    struct slab *slab = hak_pool_slab_alloc(1U << TAG_OWNER_SHIFT, 0);
    ASSERT_NE(slab, nullptr);
    EXPECT_EQ(hak_stat_get(fresh_bytes), fresh);
    EXPECT_EQ(n_kept(), 0U);
    hak_pool_slab_free(slab);
    hak_ace_free(stays);
}

TEST_F(Spans, WhatRestsGoesBack)
{
    void *p = alloc(kSize), *q = alloc(2 * kSize);
    give(p);
    hak_spans_tick();
    give(q);
    EXPECT_EQ(hak_spans_rest(&cache), 1);
    EXPECT_EQ(n_kept(), 2U) << "neither has rested for a whole tick";
    hak_spans_tick();
    EXPECT_EQ(hak_spans_rest(&cache), 1);
    EXPECT_EQ(kept_bytes(), 2 * kSize);
    EXPECT_EQ(hak_ace_usable_size(p), 0U);
    hak_spans_tick();
    EXPECT_EQ(hak_spans_rest(&cache), 0);
    EXPECT_EQ(n_kept(), 0U);
    EXPECT_EQ(hak_stat_get(span_cache_bytes), 0);
}

TEST_F(Spans, NothingIsKeptWhereOptionsSayNo)
{
    auto keeps = [] {
        void *p = alloc(kSize);
        give(p);
        return n_kept() != 0;
    };
    hak_options.purge_delay_ms = 0;
    EXPECT_FALSE(keeps());
    hak_options.purge_delay_ms = 3600000;
    uint64_t cache_bytes = hak_options.cache_bytes;
    hak_options.cache_bytes = kSize - 1;
    EXPECT_FALSE(keeps());
    hak_options.cache_bytes = cache_bytes;
    hak_options.ace_keep = 0;
    EXPECT_FALSE(keeps());
    hak_options.ace_keep = UINT64_MAX;
    hak_options.wmax_mid = 1000; /* what is rounded up is a range */
    EXPECT_TRUE(keeps());
    EXPECT_EQ(hak_spans_take(&cache, kSize - 1, 1, 0), nullptr);
}

/* A program that asks for each size once has no use for it. */
TEST_F(Spans, ACacheWithoutHitsGoesOff)
{
    size_t size = kSize;
    int n_off = 0;
    for (int i = 0; i < 3000; i++) {
        give(alloc(size)); /* when it comes again, it has made room for others */
        size = size >= SPAN_CACHE_BYTES ? kSize : hak_ace_class_bytes(size + 1);
        n_off += cache.off != 0;
        EXPECT_TRUE(!cache.off || n_kept() == 0);
    }
    EXPECT_GE(n_off, 2000);
    for (int i = 0; i < 3000; i++) {
        give(alloc(kSize));
    }
    EXPECT_EQ(n_kept(), 1U) << "and comes on again";
    EXPECT_EQ(cache.off, 0U);
}

TEST_F(SpansDeathTest, ABlockFreedTwice)
{
    void *p = alloc(kSize);
    give(p);
    EXPECT_EXIT(give(p), testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    EXPECT_EXIT(hak_ace_free(p), testing::KilledBySignal(SIGABRT),
                "^hakmem: block freed twice: 0x");
    uint16_t *word = hak_ss_span_word(p), was = *word;
    *word = 1;
    EXPECT_EXIT(alloc(kSize), testing::KilledBySignal(SIGABRT), "freed span is corrupt: 0x");
    *word = was;
}

TEST_F(Spans, VerifyNamesTheBrokenEquation)
{
    void *p = alloc(kSize);
    give(p);
    uint16_t *word = hak_ss_span_word(p);
    *word ^= SPAN_ASIDE;
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_SLOT);
    *word ^= SPAN_ASIDE;
    cache.reserved--;
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_RESERVED);
    cache.reserved++;
    EXPECT_EQ(hak_spans_verify(&cache), 0);
}

/* The system refuses each of its calls in turn, while spans are kept. */
TEST_F(Spans, EveryCallOfTheSystemFailsInTurn)
{
    for (int call = OsCall::OS_MMAP; call <= OsCall::OS_MPROTECT; call++) {
        for (int n = 1; n < 4; n++) {
            FailingOs os;
            os.fail(static_cast<OsCall>(call), n);
            for (size_t size = kSize; size <= ACE_SPAN_MAX; size = hak_ace_class_bytes(size + 1)) {
                void *p = hak_spans_take(&cache, size, 1, 0);
                p = p ? p : hak_ace_alloc(size, 1);
                if (p) {
                    memset(p, 1, size);
                    give(p);
                }
            }
            hak_spans_flush(&cache);
            hak_ss_purge(0);
            ASSERT_EQ(hak_ss_verify(), 0);
        }
    }
}

/* The thread goes on in its cache while others take spans out of it. */
TEST_F(Spans, OthersTakeSpansOut)
{
    std::atomic<bool> stop(false);
    std::vector<std::thread> others;
    for (int i = 0; i < 2; i++) {
        others.emplace_back([&stop, i] {
            for (uint32_t n = 0; !stop; n++) {
                hak_spans_tick();
                (void)(i ? hak_spans_rest(&cache) : 0);
                if (!i && n % 4 == 0) {
                    hak_spans_flush(&cache);
                }
                std::this_thread::yield();
            }
        });
    }
    Rng rng(7);
    struct block {
        unsigned char *p;
        size_t size;
        unsigned char mark;
    };
    std::vector<block> blocks(4, block{nullptr, 0, 0});
    for (int i = 0; i < 30000; i++) {
        struct block &b = blocks[rng.below(blocks.size())];
        if (b.p) {
            ASSERT_EQ(b.p[0], b.mark);
            ASSERT_EQ(b.p[b.size - 1], b.mark);
            if (!hak_spans_put(&cache, b.p)) {
                hak_ace_free_to(&cache, b.p);
            }
            b.p = nullptr;
        } else {
            b.size = kSize << rng.below(2);
            b.mark = static_cast<unsigned char>(i);
            b.p = static_cast<unsigned char *>(alloc(b.size));
            b.p[0] = b.p[b.size - 1] = b.mark;
        }
        ASSERT_EQ(hak_spans_verify(&cache), 0);
    }
    stop = true;
    for (std::thread &t : others) {
        t.join();
    }
    for (struct block &b : blocks) {
        if (b.p) {
            give(b.p);
        }
    }
}

} // namespace
