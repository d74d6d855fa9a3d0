/* Tests of the span cache: what it keeps, for how long, and that no function takes a span in it for
   a block; another thread that takes spans out while its own goes on. */
#include "ace/span_cache.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <iterator>
#include <map>
#include <thread>
#include <vector>

#include "ace/ace.h"
#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/zero.h"
#include "base/options.h"
#include "base/size_classes.h"
#include "base/stats.h"
#include "base/verify.h"
#include "superslab/pool.h"
#include "testing/failing_os.h"
#include "testing/rng.h"
#include "testing/steps.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::OsCall;
using hak_testing::Rng;

const size_t kSize = 40 * 1024; /* of all variants' caches */

struct span_cache cache;
thread_local bool is_others; /* the cache is another thread's */

size_t live_of_class(size_t size)
{
    struct control_class state;
    hak_adapt_class_state(size, &state);
    return state.live;
}

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
        hak_spans_own = [] { return is_others ? nullptr : &cache; };
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
        for (size_t size = kSize; size <= ACE_SPAN_MAX; size = hak_ace_class_bytes(size + 1)) {
            EXPECT_EQ(live_of_class(size), 0U) << "what the controller has heard of " << size;
        }
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
    EXPECT_EQ(hak_ss_span_size(p), kSize);
    EXPECT_GE(hak_ace_usable_size(p), kSize - 5000);
    EXPECT_LT(hak_ace_usable_size(p), kSize - 5000 + kSize / 64);
    EXPECT_EQ(hak_super_lookup(p).size, hak_ace_usable_size(p));
    EXPECT_EQ(n_kept(), 0U);
    give(p);
}

/* The front serves, the rest stays; and what touches is one span again. */
TEST_F(Spans, ALargerSpanIsCutAndJoined)
{
    const size_t large = hak_ace_class_bytes(3 * kSize), rest = large - kSize;
    char *p = static_cast<char *>(alloc(large));
    give(p);
    int64_t used = hak_stat_get(heap_used_bytes);
    EXPECT_EQ(alloc(kSize), p);
    EXPECT_EQ(hak_ace_usable_size(p), kSize);
    EXPECT_EQ(kept_bytes(), rest);
    EXPECT_EQ(hak_super_lookup(p + kSize).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_super_lookup(p + large - 1).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_super_lookup(p + kSize - 1).start, p);
    EXPECT_EQ(hak_ss_verify(), 0);
    EXPECT_EQ(alloc(kSize), p + kSize);
    EXPECT_EQ(kept_bytes(), rest - kSize);
    give(p + kSize);
    give(p);
    EXPECT_EQ(n_kept(), 1U);
    EXPECT_EQ(alloc(large), p);
    EXPECT_EQ(n_kept(), 0U);
    EXPECT_EQ(hak_ace_usable_size(p), large);
    EXPECT_EQ(hak_ace_usable_size(p + kSize), 0U);
    EXPECT_EQ(hak_super_lookup(p + large - 1).start, p);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), used) << "the pool was not asked";
    EXPECT_EQ(hak_ss_verify(), 0);
    give(p);
}

TEST_F(Spans, TheSmallestThatFitsIsCut)
{
    char *small = static_cast<char *>(alloc(2 * kSize)), *stays = static_cast<char *>(alloc(kSize));
    char *large = static_cast<char *>(alloc(hak_ace_class_bytes(3 * kSize)));
    give(small);
    give(large);
    if (n_kept() == 2) { /* the tiny variant has room for one */
        EXPECT_EQ(alloc(kSize), small);
        give(small);
    }
    give(stays);
}

/* Two regions may touch, and are two. */
TEST_F(Spans, NothingIsJoinedAcrossRegions)
{
    std::vector<void *> all, before; /* those that lie apart */
    const size_t size = 64 * 1024;
    for (int i = 0; i < REGIONS_APART; i++) {
        before.push_back(hak_ss_span_alloc(SS_BYTES, 1, nullptr));
    }
    for (int i = 0; i < 200; i++) {
        all.push_back(hak_ace_alloc(size, size));
    }
    std::sort(all.begin(), all.end());
    int n_looked = 0;
    for (size_t i = 1; i < all.size(); i++) {
        auto address = reinterpret_cast<uintptr_t>(all[i]);
        if (address % SS_BYTES == 0 && reinterpret_cast<uintptr_t>(all[i - 1]) + size == address) {
            give(all[i - 1]);
            give(all[i]);
            ASSERT_EQ(n_kept(), 2U);
            EXPECT_EQ(hak_spans_take(&cache, 2 * size, 1, 0), nullptr);
            EXPECT_EQ(n_kept(), 2U);
            ASSERT_EQ(hak_ss_verify(), 0);
            all[i - 1] = alloc(size);
            all[i] = alloc(size);
            n_looked++;
        }
    }
    EXPECT_GT(n_looked, 0);
    for (void *p : all) {
        hak_ace_free(p);
    }
    for (void *p : before) {
        hak_ss_span_free(p);
    }
}

/* With hits, and without fetching from the system, it may keep more. */
TEST_F(Spans, WhatIsOfUseGrows)
{
    const size_t n = SPAN_CACHE_BYTES / kSize + 2;
    std::vector<void *> all(n);
    auto round = [&] {
        for (void *&p : all) {
            p = alloc(kSize);
        }
        for (void *p : all) {
            give(p);
            EXPECT_LE(kept_bytes(), SPAN_CACHE_LEAST << cache.n_doublings);
        }
        return kept_bytes();
    };
    EXPECT_LE(round(), SPAN_CACHE_LEAST);
    for (int i = 0; i < 8; i++) {
        for (int hits = 0; hits < 1000; hits++) {
            give(alloc(kSize));
        }
        round();
    }
    EXPECT_GT(kept_bytes() + 2 * kSize, SPAN_CACHE_BYTES);
    hak_spans_fetched();
    hak_spans_flush(&cache);
    EXPECT_LE(round(), SPAN_CACHE_LEAST);
}

/* The controller hears of a class at last when spans go back; never of fewer bytes than are live.
 */
TEST_F(Spans, TheControllerHearsOfClasses)
{
    void *p = alloc(kSize);
    EXPECT_EQ(live_of_class(kSize), kSize);
    for (int i = 0; i < 10; i++) {
        give(p);
        EXPECT_EQ(live_of_class(kSize), kSize) << "not yet";
        EXPECT_EQ(alloc(kSize), p);
    }
    EXPECT_EQ(live_of_class(kSize), kSize);
    give(p);
    EXPECT_EQ(hak_spans_flush(&cache), kSize);
    EXPECT_EQ(live_of_class(kSize), 0U);
    size_t large = hak_ace_class_bytes(3 * kSize);
    char *q = static_cast<char *>(alloc(large));
    give(q);
    EXPECT_EQ(alloc(kSize), q);
    EXPECT_EQ(live_of_class(kSize), kSize) << "at once: it was not freed before";
    hak_spans_flush(&cache);
    EXPECT_EQ(live_of_class(large), 0U);
    EXPECT_EQ(live_of_class(kSize), kSize);
    give(q);
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

/* Also one that has begun with the least again while it had more, as where a realloc in place takes
   fresh memory. */
TEST_F(Spans, WhatBeginsAgainIsBounded)
{
    std::vector<void *> all;
    for (int i = 0; i < 12; i++) {
        all.push_back(hak_ace_alloc(SPAN_CACHE_LARGEST, 1));
    }
    for (void *p : all) {
        cache.n_since = 1000; /* as if it were of much use */
        give(p);
        EXPECT_LE(kept_bytes(), SPAN_CACHE_BYTES);
        if (cache.n_doublings == 2) {
            hak_spans_fetched();
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
    void *p = alloc(kSize), *between = alloc(kSize), *q = alloc(2 * kSize);
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
    hak_ace_free(between);
}

/* Else each small one that is freed beside a large unused one would make that young again. */
TEST_F(Spans, WhatIsJoinedIsAsOldAsItsLargerPart)
{
    void *p = alloc(kSize), *q = alloc(2 * kSize);
    give(q);
    hak_spans_tick();
    hak_spans_tick();
    give(p);
    ASSERT_EQ(n_kept(), 1U);
    EXPECT_EQ(hak_spans_rest(&cache), 0);
    EXPECT_EQ(n_kept(), 0U);
    p = alloc(kSize);
    q = alloc(2 * kSize);
    give(p);
    hak_spans_tick();
    hak_spans_tick();
    give(q);
    ASSERT_EQ(n_kept(), 1U);
    EXPECT_EQ(hak_spans_rest(&cache), 1);
    EXPECT_EQ(n_kept(), 1U);
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

/* A program that asks for more than it has freed has no use for it. */
TEST_F(Spans, ACacheWithoutHitsGoesOff)
{
    const int n = 3000;
    std::vector<void *> small, others;
    int n_off = 0;
    for (int i = 0; i < n; i++) {
        small.push_back(hak_ace_alloc(kSize, 1));
        others.push_back(hak_ace_alloc(SS_GRANULE_BYTES, 1)); /* so that those do not touch */
    }
    for (void *p : small) {
        give(p);
        others.push_back(alloc(2 * kSize));
        n_off += cache.off != 0;
        EXPECT_TRUE(!cache.off || n_kept() == 0);
    }
    EXPECT_GE(n_off, 2000);
    for (int i = 0; i < 9000; i++) {
        give(alloc(kSize));
    }
    EXPECT_GE(n_kept(), 1U) << "and comes on again";
    EXPECT_EQ(cache.off, 0U);
    for (void *p : others) {
        hak_ace_free(p);
    }
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
    char *q = static_cast<char *>(alloc(kSize)), *r = static_cast<char *>(alloc(kSize));
    ASSERT_EQ(r, q + kSize);
    give(r);
    give(q);
    ASSERT_EQ(alloc(2 * kSize), q); /* joins the two */
    give(q);
    ASSERT_EQ(n_kept(), 1U);
    EXPECT_EXIT(give(r), testing::KilledBySignal(SIGABRT),
                "^hakmem: block freed twice, or invalid pointer freed .in free memory.: 0x");
}

TEST_F(Spans, VerifyNamesTheBrokenEquation)
{
    void *p = alloc(kSize);
    give(p);
    uint16_t *word = hak_ss_span_word(p);
    *word ^= SPAN_ASIDE;
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_SLOT);
    *word ^= SPAN_ASIDE;
    for (uint16_t *&noted : cache.words) {
        noted += noted == word;
    }
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_SLOT);
    for (uint16_t *&noted : cache.words) {
        noted -= noted == word + 1;
    }
    word[2] = 1 | SPAN_ASIDE;
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_INSIDE);
    EXPECT_EQ(hak_ss_verify(), 0) << "such a one is being cut off";
    word[2] = 9 | SPAN_ASIDE;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_OVERLAP);
    word[2] = 1;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_OVERLAP);
    word[2] = 0;
    cache.reserved--;
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_RESERVED);
    cache.reserved++;
    cache.bytes++;
    EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_RESERVED);
    cache.bytes--;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        for (uint32_t *field : {&cache.starts[i], &cache.ends[i]}) {
            ++*field;
            EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_SLOT);
            --*field;
        }
        cache.keys[i] += SPAN_CACHE_SLOTS;
        EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_SLOT);
        cache.keys[i] -= SPAN_CACHE_SLOTS;
        cache.filled ^= 1u << i;
        EXPECT_EQ(hak_spans_verify(&cache), VERIFY_SPANS_SLOT);
        cache.filled ^= 1u << i;
    }
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

/* Blocks of all sizes with what is written in them, none of which may overlap another one. */
class Blocks
{
  public:
    explicit Blocks(size_t n) : blocks_(n)
    {
    }
    void step(Rng *rng)
    {
        Block &b = blocks_[rng->below(blocks_.size())];
        if (b.p) {
            end(&b);
        } else {
            begin(&b, rng);
        }
    }
    void end_all()
    {
        for (Block &b : blocks_) {
            if (b.p) {
                end(&b);
            }
        }
    }

  private:
    struct Block {
        char *p = nullptr;
        size_t size = 0;
        char mark = 0;
    };
    static const size_t kStep = SS_GRANULE_BYTES / 2;

    void begin(Block *b, Rng *rng)
    {
        size_t align = size_t{1} << rng->below(18);
        int is_zeroed = rng->below(4) == 0;
        b->size = SC_SMALL_MAX + 1 + rng->below(SPAN_CACHE_LARGEST - SC_SMALL_MAX);
        b->mark = static_cast<char>(1 + rng->below(100));
        b->p = static_cast<char *>(hak_spans_take(&cache, b->size, align, is_zeroed));
        if (!b->p) {
            hak_spans_missed(&cache);
            b->p = static_cast<char *>(is_zeroed ? hak_ace_alloc_zeroed(b->size, align)
                                                 : hak_ace_alloc(b->size, align));
        }
        ASSERT_NE(b->p, nullptr);
        ASSERT_EQ(reinterpret_cast<uintptr_t>(b->p) % align, 0U);
        ASSERT_EQ(hak_super_lookup(b->p + b->size - 1).start, b->p);
        auto next = live_.lower_bound(b->p);
        ASSERT_TRUE(next == live_.end() || b->p + b->size <= next->first);
        ASSERT_TRUE(next == live_.begin() || std::prev(next)->second <= b->p);
        live_[b->p] = b->p + b->size;
        for (size_t at = 0; at < b->size; at += kStep) {
            ASSERT_TRUE(!is_zeroed || b->p[at] == 0);
            b->p[at] = b->mark;
        }
        b->p[b->size - 1] = b->mark;
    }
    void end(Block *b)
    {
        for (size_t at = 0; at < b->size; at += kStep) {
            ASSERT_EQ(b->p[at], b->mark);
        }
        ASSERT_EQ(b->p[b->size - 1], b->mark);
        live_.erase(b->p);
        if (!hak_spans_put(&cache, b->p)) {
            hak_ace_free_to(&cache, b->p);
        }
        b->p = nullptr;
    }

    std::vector<Block> blocks_;
    std::map<char *, char *> live_; /* start, end */
};

TEST_F(Spans, BlocksOfAllSizes)
{
    Rng rng(11);
    for (size_t n : {3, 8, 40}) {
        Blocks blocks(n);
        for (int i = 0; i < 6000; i++) {
            blocks.step(&rng);
            ASSERT_FALSE(HasFatalFailure());
            ASSERT_EQ(hak_spans_verify(&cache), 0);
            if (i % 16 == 0) {
                ASSERT_EQ(hak_ss_verify(), 0);
            }
        }
        blocks.end_all();
    }
}

/* While another thread has the cache, the pool serves. */
TEST_F(Spans, WhoFindsItHeldGoesToThePool)
{
    void *p = alloc(kSize), *q = alloc(kSize);
    give(p);
    cache.reserved += 2 * kSize;
    hak_stat_add(span_cache_bytes, 2 * kSize);
    cache.holder = SPAN_CACHE_OTHERS;
    EXPECT_EQ(hak_spans_take(&cache, kSize, 1, 0), nullptr);
    EXPECT_EQ(hak_spans_put(&cache, q), 0);
    EXPECT_EQ(hak_spans_put_surely(&cache, q), 0);
    EXPECT_EQ(hak_spans_give_own(), 0U);
    EXPECT_EQ(hak_spans_rest(&cache), 1) << "there may be more";
    EXPECT_EQ(hak_spans_flush(&cache), 0U) << "it waits, but not for ever";
    cache.holder = SPAN_CACHE_OWN;
    EXPECT_EQ(hak_spans_flush(&cache), 0U) << "it does not wait for itself";
    EXPECT_EQ(n_kept(), 1U);
    cache.holder = SPAN_CACHE_FREE;
    EXPECT_EQ(hak_spans_take(&cache, kSize, 1, 0), p);
    give(p);
    give(q);
    EXPECT_EQ(kept_bytes(), 2 * kSize);
}

/* Who had the cache does not go on: what it was about to change is made from the slots. */
TEST_F(Spans, WhatWasHalfChangedIsMadeAgain)
{
    void (*const ends[])(struct span_cache *) = {hak_spans_let_go, hak_spans_fork_child};
    for (uint32_t holder : {SPAN_CACHE_OWN, SPAN_CACHE_OTHERS}) {
        void *p = alloc(kSize);
        give(p);
        struct span_cache whole = cache;
        cache.holder = holder;
        cache.bytes += kSize;
        cache.filled = 0xF0;
        memset(cache.keys, 1, sizeof cache.keys);
        memset(cache.starts, 1, sizeof cache.starts);
        memset(cache.words, 0, sizeof cache.words);
        EXPECT_EQ(hak_spans_take(&cache, kSize, 1, 0), nullptr);
        ends[holder != SPAN_CACHE_OTHERS](&cache);
        EXPECT_EQ(cache.holder, holder) << "the other one's";
        ends[holder == SPAN_CACHE_OTHERS](&cache);
        EXPECT_EQ(hak_spans_verify(&cache), 0);
        EXPECT_EQ(memcmp(&whole, &cache, sizeof cache), 0);
        hak_spans_flush(&cache);
    }
}

#if HAK_CAN_STEP

int step, forks_at;

void fork_in_child(int, siginfo_t *, void *context)
{
    if (++step == forks_at) {
        hak_testing::end_steps(context);
        hak_spans_fork_child(&cache);
    }
}

/* The child of a fork in a handler, which has interrupted the cache's thread while it flushes it:
   what was interrupted goes on. */
TEST_F(Spans, AForkedChildGoesOnWithWhatItsThreadBegan)
{
    hak_testing::OnStep forks(fork_in_child);
    for (forks_at = 1; forks_at <= 500 && !HasFailure(); forks_at += 5) {
        void *p = alloc(kSize), *between = alloc(kSize), *q = alloc(kSize);
        give(p);
        give(q);
        step = 0;
        hak_testing::with_steps([] { hak_spans_flush(&cache); });
        EXPECT_EQ(n_kept(), 0U);
        EXPECT_EQ(hak_spans_verify(&cache), 0) << "after instruction " << forks_at;
        hak_ace_free(between);
    }
    EXPECT_GE(step, 400);
}

#endif

/* The cache's thread waits a little for another one that has the cache, too. */
TEST_F(Spans, ATrimWaitsForWhoHasTheCache)
{
    void *p = alloc(kSize);
    give(p);
    cache.holder = SPAN_CACHE_OTHERS;
    std::thread other([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        __atomic_store_n(&cache.holder, SPAN_CACHE_FREE, __ATOMIC_RELEASE);
    });
    EXPECT_EQ(hak_spans_flush(&cache), kSize);
    other.join();
}

/* The thread goes on in its cache while others take spans out of it, and look at everything. */
TEST_F(Spans, OthersTakeSpansOut)
{
    std::atomic<bool> stop(false);
    std::atomic<int> n_bad(0);
    std::vector<std::thread> others;
    for (int i = 0; i < 2; i++) {
        others.emplace_back([&stop, &n_bad, i] {
            is_others = true;
            for (uint32_t n = 0; !stop; n++) {
                hak_spans_tick();
                (void)(i ? hak_spans_rest(&cache) : 0);
                if (!i && n % 64 == 0) {
                    hak_spans_flush(&cache);
                }
                n_bad += !i && hak_ss_verify() != 0;
                std::this_thread::yield();
            }
        });
    }
    Rng rng(7);
    Blocks blocks(6);
    for (int i = 0; i < 30000 && !HasFatalFailure(); i++) {
        blocks.step(&rng);
        EXPECT_EQ(hak_spans_verify(&cache), 0);
    }
    stop = true;
    for (std::thread &t : others) {
        t.join();
    }
    blocks.end_all();
    EXPECT_EQ(n_bad, 0);
}

#if HAK_CAN_STEP

/* --- a signal handler between two instructions --- */

const size_t kBlocks = 256;
const int kStride = 7;
void *handlers[kBlocks]; /* what the handler frees */
size_t n_handlers;
int n_steps;

void free_in_between(int, siginfo_t *, void *)
{
    if (++n_steps % kStride == 0 && n_handlers) {
        void *p = handlers[--n_handlers];
        if (!hak_spans_put(&cache, p)) {
            hak_ace_free_to(&cache, p);
        }
    }
}

void *alloc_stepping(size_t size)
{
    void *p = nullptr;
    hak_testing::with_steps([&] { p = hak_spans_take(&cache, size, 1, 0); });
    return p ? p : hak_ace_alloc(size, 1);
}

void give_stepping(void *p)
{
    int is_kept = 0;
    hak_testing::with_steps([&] { is_kept = hak_spans_put(&cache, p); });
    if (!is_kept) {
        hak_ace_free_to(&cache, p);
    }
}

/* Slots fill, spans are cut and joined, and each step of that is interrupted. */
TEST_F(Spans, AHandlerThatFreesLosesNone)
{
    hak_testing::OnStep on_step(free_in_between);
    const std::initializer_list<size_t> sizes = {2, 1, 1, 2, 1, 3};
    for (int turn = 0; turn < kStride && !HasFailure(); turn++) {
        for (n_handlers = 0; n_handlers < kBlocks; n_handlers++) {
            handlers[n_handlers] = hak_ace_alloc(kSize, 1);
        }
        n_steps = turn;
        for (int i = 0; i < 6; i++) {
            std::vector<void *> blocks;
            for (size_t n : sizes) {
                blocks.push_back(alloc_stepping(n * kSize));
            }
            for (void *p : blocks) {
                give_stepping(p);
            }
            EXPECT_EQ(hak_spans_verify(&cache), 0) << "turn " << turn;
        }
        while (n_handlers) {
            give(handlers[--n_handlers]);
        }
        EXPECT_GT(n_steps, 1000);
        hak_spans_end(&cache);
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0) << "turn " << turn << ": a span is lost";
    }
}

int n_missed;

void miss_in_between(int, siginfo_t *, void *)
{
    cache.n_slow = 1u << 20; /* the end of a window, each time */
    cache.off = 0;
    cache.n_hits = 1u << 20; /* it was of use */
    n_missed++;
    hak_spans_missed(&cache);
}

/* A handler asks in vain while a span is in no slot. */
TEST_F(Spans, AHandlerThatMissesLeavesWhatIsReserved)
{
    hak_testing::OnStep on_step(miss_in_between);
    void *p = alloc(2 * kSize), *q = alloc(kSize);
    give(p);
    for (int i = 0; i < 4; i++) {
        void *front = alloc_stepping(kSize); /* cuts */
        EXPECT_EQ(hak_spans_verify(&cache), 0);
        give_stepping(front); /* joins */
        ASSERT_EQ(hak_spans_verify(&cache), 0);
    }
    give(q);
    EXPECT_GT(n_missed, 100);
}

int at_step;

void keep_at_step(int, siginfo_t *, void *)
{
    if (++n_steps == at_step) {
        n_handlers -= hak_spans_put(&cache, handlers[0]) != 0;
    }
}

/* And while room is made. */
TEST_F(Spans, AHandlerThatFreesWhileRoomIsMadeLosesNone)
{
    hak_testing::OnStep on_step(keep_at_step);
    void *p = hak_ace_alloc(kSize, 1), *between = hak_ace_alloc(kSize, 1);
    hak_ace_free(p);
    give(between);
    for (at_step = n_steps = 0; n_steps >= at_step && !HasFailure(); at_step++) {
        p = hak_ace_alloc(kSize, 1);
        between = hak_ace_alloc(kSize, 1);
        handlers[0] = hak_ace_alloc(kSize, 1);
        n_handlers = 1;
        n_steps = 0;
        cache.reserved += 2 * kSize; /* for what the handler frees */
        hak_stat_add(span_cache_bytes, 2 * kSize);
        int is_kept = 0;
        hak_testing::with_steps([&] { is_kept = hak_spans_put_surely(&cache, p); });
        EXPECT_EQ(hak_spans_verify(&cache), 0) << "step " << at_step;
        for (void *q : {is_kept ? nullptr : p, between, n_handlers ? handlers[0] : nullptr}) {
            if (q) {
                give(q);
            }
        }
        hak_spans_end(&cache);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "step " << at_step << ": a span is lost";
    }
    EXPECT_GT(at_step, 100);
}

#endif

} // namespace
