/* Tests of ACE: spans and ranges at random against an oracle with a pattern in each block, growing
   in place and by moving pages, the cache of freed ranges, and every call of the system failing in
   turn. */
#include "ace/ace.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/range.h"
#include "ace/zero.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "superslab/pool.h"
#include "testing/failing_os.h"
#include "testing/pages.h"
#include "testing/rng.h"

namespace
{

using hak_testing::can_populate;
using hak_testing::FailingOs;
using hak_testing::FakeClock;
using hak_testing::OsCall;
using hak_testing::resident;
using hak_testing::Rng;

const size_t kUnit = SS_UNIT_BYTES;
const size_t kMiB = HAK_MIB;

size_t round_units(size_t size)
{
    return (size + kUnit - 1) / kUnit * kUnit;
}

void expect_sound()
{
    ASSERT_EQ(hak_ace_verify(), 0);
    ASSERT_EQ(hak_ss_verify(), 0);
    /* What is reported to limit.h. */
    ASSERT_EQ(hak_stat_get(committed_bytes),
              hak_stat_get(heap_used_bytes) + hak_stat_get(heap_dirty_bytes) +
                  hak_stat_get(large_bytes) + hak_stat_get(large_cached_bytes));
    ASSERT_EQ(hak_stat_get(mapped_bytes),
              hak_stat_get(superslabs) * static_cast<int64_t>(SS_BYTES) +
                  hak_stat_get(large_bytes) + hak_stat_get(large_cached_bytes) +
                  hak_stat_get(large_clean_bytes));
}

class Ace : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.large_cache_bytes = size_t(1) << 40;
        hak_options.huge_page_bytes = 0;
        hak_zero_forget();
        hak_ace_set_helped(1);
        hak_adapt_forget();
        hak_ace_purge(0);
        hak_ss_purge(0);
    }
    void TearDown() override
    {
        hak_ace_purge(0);
        hak_ss_purge(0);
        expect_sound();
        EXPECT_EQ(hak_stat_get(large_bytes), 0);
        EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
};

char *alloc(size_t size, size_t align = 1)
{
    char *p = static_cast<char *>(hak_ace_alloc(size, align));
    EXPECT_NE(p, nullptr);
    return p;
}

/* Blocks with a mark in each unit, so that a wrong copy, a lost page or a neighbour's write is
   seen. */
class Oracle
{
  public:
    explicit Oracle(uint64_t seed) : rng(seed)
    {
    }
    struct Block {
        size_t size;
        uint64_t key;
    };

    size_t random_size()
    {
        switch (rng.below(4)) {
        case 0:
            return rng.between(32 * 1024 + 1, kMiB);
        case 1:
            return kMiB + rng.below(2 * kUnit);
        case 2:
            return rng.between(kMiB, 4 * kMiB);
        default:
            return rng.between(kMiB, largest);
        }
    }

    bool alloc_one()
    {
        size_t size = random_size(), align = rng.one_in(3) ? size_t(1) << rng.between(4, 26) : 16;
        int kind = static_cast<int>(rng.below(3));
        align = kind == 2 ? 1 : align;
        errno = 0;
        char *p = static_cast<char *>(kind == 0   ? hak_ace_alloc(size, align)
                                      : kind == 1 ? hak_ace_alloc_zeroed(size, align)
                                                  : hak_ace_alloc_growing(size));
        if (!p) {
            EXPECT_EQ(errno, ENOMEM);
            return false;
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) %
                      (align < SS_GRANULE_BYTES ? SS_GRANULE_BYTES : align),
                  0u);
        size_t usable = hak_ace_usable_size(p);
        EXPECT_GE(usable, size);
        if (kind == 1) {
            n_zero++;
            for (size_t i = 0; i < usable; i += 8192) {
                if (p[i] || p[i + 8191]) {
                    ADD_FAILURE() << "said to be zero";
                    break;
                }
            }
        }
        add(p, usable, rng.next());
        return true;
    }

    void free_one()
    {
        auto it = any();
        check(it->first, it->second.size, it->second.key);
        char *p = it->first;
        blocks.erase(it);
        hak_ace_free(p);
        EXPECT_EQ(hak_ace_usable_size(p), 0u);
    }

    void resize_one()
    {
        auto it = any();
        char *p = it->first;
        Block block = it->second;
        size_t size = rng.one_in(2) ? block.size + rng.below(block.size) : random_size();
        errno = 5;
        char *moved = static_cast<char *>(hak_ace_resize(p, size));
        EXPECT_EQ(errno, 5);
        if (!moved) {
            n_not_resized++;
            EXPECT_EQ(hak_ace_usable_size(p), block.size) << "nothing has changed";
            check(p, block.size, block.key);
            return;
        }
        n_resized += moved == p;
        n_moved += moved != p;
        blocks.erase(it);
        if (moved != p) {
            EXPECT_EQ(hak_ace_usable_size(p), 0u);
        }
        size_t usable = hak_ace_usable_size(moved);
        EXPECT_GE(usable, size);
        check(moved, size < block.size ? size : block.size, block.key);
        add(moved, usable, block.key);
    }

    bool step()
    {
        switch (blocks.size() < 3 ? 0 : rng.below(blocks.size() > 12 ? 5 : 8)) {
        case 0:
        case 5:
        case 6:
            return alloc_one();
        case 1:
        case 2:
        case 7:
            resize_one();
            return true;
        default:
            free_one();
            return true;
        }
    }

    void free_all()
    {
        while (!blocks.empty()) {
            free_one();
        }
    }

    std::map<char *, Block> blocks;
    int n_zero = 0, n_resized = 0, n_moved = 0, n_not_resized = 0;
    size_t largest = 30 * kMiB;
    Rng rng;

  private:
    static uint64_t mark(uint64_t key, size_t offset)
    {
        return key ^ (offset * 0x9E3779B97F4A7C15u);
    }

    void add(char *p, size_t size, uint64_t key)
    {
        auto next = blocks.lower_bound(p);
        ASSERT_TRUE(next == blocks.end() || p + size <= next->first);
        ASSERT_TRUE(next == blocks.begin() ||
                    std::prev(next)->first + std::prev(next)->second.size <= p);
        for (size_t i = 0; i < size; i += kUnit) {
            *reinterpret_cast<uint64_t *>(p + i) = mark(key, i);
        }
        p[size - 1] = 1;
        blocks[p] = {size, key};
    }

    void check(const char *p, size_t size, uint64_t key)
    {
        for (size_t i = 0; i < size; i += kUnit) {
            ASSERT_EQ(*reinterpret_cast<const uint64_t *>(p + i), mark(key, i))
                << "offset " << i << " of " << size;
        }
    }

    std::map<char *, Block>::iterator any()
    {
        return std::next(blocks.begin(), static_cast<long>(rng.below(blocks.size())));
    }
};

TEST_F(Ace, RandomCallsAgreeWithAnOracle)
{
    Oracle oracle(1);
    for (int i = 0; i < 700; i++) {
        ASSERT_TRUE(oracle.step());
        expect_sound();
        ASSERT_FALSE(HasFailure()) << "step " << i;
        if (i % 200 == 199) {
            hak_ace_purge(0);
            expect_sound();
        }
    }
    oracle.free_all();
    EXPECT_GT(oracle.n_zero, 20);
    EXPECT_GT(oracle.n_resized, 20);
    EXPECT_GT(oracle.n_moved, 5);
    EXPECT_GT(oracle.n_not_resized, 5);
}

TEST_F(Ace, RandomCallsWithASmallCacheAndNoDelay)
{
    hak_options.purge_delay_ms = 0;
    hak_options.large_cache_bytes = 0;
    Oracle oracle(2);
    for (int i = 0; i < 300; i++) {
        ASSERT_TRUE(oracle.step());
        expect_sound();
        ASSERT_FALSE(HasFailure()) << "step " << i;
    }
    oracle.free_all();
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
}

/* What a size is rounded to: granules, from 8 KiB on four classes a doubling, units above 1 MiB. */
size_t rounded(size_t size, bool is_span)
{
    if (!is_span) {
        return round_units(size ? size : 1);
    }
    size_t step = SS_GRANULE_BYTES;
    for (size_t doubling = 64 * 1024; doubling < size; doubling *= 2) {
        step = doubling / 4;
    }
    return size ? (size + step - 1) / step * step : step;
}

/* Every size around the edges: spans of a class to 1 MiB, ranges above. */
TEST_F(Ace, SizesAndKinds)
{
    for (size_t size :
         {size_t(0), size_t(1), size_t(32769), size_t(40960), size_t(40961), size_t(65537),
          size_t(99999), kUnit - 1, kUnit, kUnit + 1, kMiB - 1, kMiB, kMiB + 1, 30 * kMiB}) {
        for (size_t align : {size_t(1), kUnit, kMiB, 2 * kMiB, 4 * kMiB, 64 * kMiB}) {
            char *p = alloc(size, align);
            ASSERT_NE(p, nullptr) << size << " at " << align;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            bool is_span = size <= ACE_SPAN_MAX && align <= SS_BYTES;
            size_t all = rounded(size, is_span), said = hak_ace_usable_size(p);
            EXPECT_EQ(is_span ? hak_ss_span_size(p) : said, all) << size << " at " << align;
            EXPECT_GE(said, size) << " at " << align;
            if (all / 2 < size) { /* else it says about half */
                EXPECT_LE(said, is_span ? size + all / 64 : all) << size << " at " << align;
            }
            struct ss_lookup got = hak_super_lookup(p + hak_ace_usable_size(p) - 1);
            EXPECT_EQ(got.kind, is_span ? SS_SPAN : SS_RANGE);
            EXPECT_EQ(got.start, p);
            EXPECT_EQ(got.size, hak_ace_usable_size(p));
            EXPECT_EQ(got.is_allocated, 1);
            memset(p, 1, hak_ace_usable_size(p) < kMiB ? hak_ace_usable_size(p) : kUnit);
            expect_sound();
            hak_ace_free(p);
            hak_ace_purge(0);
            expect_sound();
        }
    }
}

TEST_F(Ace, ImpossibleSizesAreENOMEM)
{
    int local;
    for (size_t size : {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX / 2, SIZE_MAX / 2 + 1, SIZE_MAX / 4,
                        size_t(1) << 50}) {
        for (size_t align : {size_t(1), kMiB, size_t(1) << 40, size_t(1) << 62, size_t(1) << 63}) {
            errno = 0;
            EXPECT_EQ(hak_ace_alloc(size, align), nullptr) << size << " at " << align;
            EXPECT_EQ(errno, ENOMEM);
        }
    }
    errno = 0;
    EXPECT_EQ(hak_ace_alloc(100000, size_t(1) << 63), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    char *p = alloc(2 * kMiB);
    EXPECT_EQ(hak_ace_resize(p, SIZE_MAX), nullptr);
    EXPECT_EQ(hak_ace_resize(p, SIZE_MAX / 2), nullptr);
    EXPECT_EQ(hak_ace_resize(p, size_t(1) << 50), nullptr);
    EXPECT_EQ(hak_ace_usable_size(p), 2 * kMiB);
    EXPECT_EQ(hak_ace_resize(&local, 2 * kMiB), nullptr);
    EXPECT_EQ(hak_ace_usable_size(&local), 0u);
    EXPECT_EQ(hak_ace_usable_size(nullptr), 0u);
    EXPECT_EQ(hak_ace_usable_size(p + 1), 0u);
    EXPECT_EQ(hak_ace_usable_size(p + kUnit), 0u);
    expect_sound();
    hak_ace_free(p);
}

TEST_F(Ace, FreedRangesAreServedAgain)
{
    char *p = alloc(8 * kMiB);
    p[5] = 1;
    hak_ace_free(p);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), static_cast<int64_t>(8 * kMiB));
    EXPECT_EQ(hak_super_lookup(p).kind, SS_RANGE);
    EXPECT_EQ(hak_super_lookup(p).is_allocated, 0);
    FailingOs os;
    os.fail_always(hak_testing::OS_MMAP);
    EXPECT_EQ(hak_ace_alloc(8 * kMiB, 1), p);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
    EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 0u) << "no system call";
    hak_ace_free(p);
}

/* A cached range that is much larger is split; its neighbours merge again when they are freed, in
   any order. */
TEST_F(Ace, CachedRangesAreSplitAndMerged)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (const auto &order : orders) {
        char *whole = alloc(24 * kMiB);
        hak_ace_free(whole);
        char *parts[3];
        int64_t cached = hak_stat_get(large_cached_bytes);
        EXPECT_EQ(cached, static_cast<int64_t>(24 * kMiB));
        FailingOs os;
        os.fail_always(hak_testing::OS_MMAP);
        for (int i = 0; i < 3; i++) {
            parts[i] = alloc(8 * kMiB);
            EXPECT_EQ(parts[i], whole + static_cast<size_t>(i) * 8 * kMiB);
            EXPECT_EQ(hak_ace_usable_size(parts[i]), 8 * kMiB);
            expect_sound();
        }
        EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
        for (int i : order) {
            hak_ace_free(parts[i]);
            expect_sound();
        }
        EXPECT_EQ(hak_stat_get(large_cached_bytes), cached);
        EXPECT_EQ(alloc(24 * kMiB), whole) << "one range again";
        hak_ace_free(whole);
        os.reset();
        EXPECT_EQ(hak_ace_purge(0), 24 * kMiB);
    }
}

/* A little larger is not split, and the whole of it is usable. */
TEST_F(Ace, NearlyFittingRangesStayWhole)
{
    char *p = alloc(9 * kMiB);
    hak_ace_free(p);
    EXPECT_EQ(alloc(9 * kMiB - 4 * kUnit), p);
    EXPECT_EQ(hak_ace_usable_size(p), 9 * kMiB);
    hak_ace_free(p);
}

TEST_F(Ace, TheSmallestCachedRangeThatFitsIsTaken)
{
    /* Cut from one range, so that the walls lie between the others. */
    char *whole = alloc(44 * kMiB);
    hak_ace_free(whole);
    char *a = alloc(20 * kMiB), *wall1 = alloc(2 * kMiB), *b = alloc(6 * kMiB),
         *wall2 = alloc(2 * kMiB), *c = alloc(14 * kMiB);
    ASSERT_EQ(c, whole + 30 * kMiB);
    for (char *p : {a, b, c}) {
        hak_ace_free(p);
    }
    char *p = alloc(6 * kMiB - kUnit);
    EXPECT_EQ(p, b);
    char *q = alloc(13 * kMiB);
    EXPECT_EQ(q, c);
    for (char *r : {p, q, wall1, wall2}) {
        hak_ace_free(r);
    }
}

TEST_F(Ace, CacheStaysWithinItsLimit)
{
    hak_options.large_cache_bytes = 10 * kMiB;
    std::vector<char *> blocks;
    for (int i = 0; i < 12; i++) {
        blocks.push_back(alloc(3 * kMiB));
    }
    for (size_t i = 0; i < blocks.size(); i++) {
        hak_ace_free(blocks[(i * 5) % 12]);
        EXPECT_LE(hak_stat_get(large_cached_bytes), static_cast<int64_t>(10 * kMiB));
        expect_sound();
    }
    /* Each free returns up to twice its bytes. */
    hak_options.large_cache_bytes = 0;
    for (int i = 0; i < 5; i++) {
        hak_ace_free(alloc(3 * kMiB));
    }
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
}

TEST_F(Ace, PurgeWaitsForTheDelayAndUnmaps)
{
    FakeClock clock;
    char *p = alloc(3 * kMiB);
    memset(p, 1, 3 * kMiB);
    hak_ace_free(p);
    clock.advance_ms(99);
    EXPECT_EQ(hak_ace_purge(100), 0u);
    clock.advance_ms(1);
    EXPECT_EQ(hak_ace_purge(100), 3 * kMiB);
    unsigned char page;
    EXPECT_EQ(mincore(p, 4096, &page), -1) << "not mapped any more";
    EXPECT_EQ(hak_super_lookup(p).kind, SS_NOT_OURS);
    /* On the way of another free. */
    hak_options.purge_delay_ms = 100;
    char *whole = alloc(45 * kMiB); /* cut, so that the two are no neighbours */
    hak_ace_free(whole);
    p = alloc(3 * kMiB);
    char *wall = alloc(2 * kMiB), *other = alloc(40 * kMiB);
    ASSERT_EQ(other, p + 5 * kMiB);
    hak_ace_free(p);
    clock.advance_ms(100);
    hak_ace_free(other);
    EXPECT_EQ(hak_super_lookup(p).kind, SS_NOT_OURS);
    hak_ace_free(wall);
}

TEST_F(Ace, PurgeReportsWhatWent)
{
    FailingOs os;
    char *p = alloc(3 * kMiB);
    hak_ace_free(p);
    os.fail_always(hak_testing::OS_MUNMAP);
    EXPECT_EQ(hak_ace_purge(0), 3 * kMiB) << "the system refused, but took the pages";
    expect_sound();
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_clean_bytes), static_cast<int64_t>(3 * kMiB));
    os.reset();
    EXPECT_EQ(hak_ace_purge(0), 0u) << "no memory, but address space";
    EXPECT_EQ(os.mapped_bytes(), 0);
}

TEST_F(Ace, ShrinksInPlace)
{
    char *p = alloc(20 * kMiB);
    memset(p, 3, kMiB * 2);
    EXPECT_EQ(hak_ace_resize(p, 15 * kMiB), p);
    EXPECT_EQ(hak_stat_get(large_bytes), static_cast<int64_t>(20 * kMiB))
        << "address space ahead stays";
    EXPECT_LE(hak_ace_usable_size(p), 16 * kMiB) << "but is not said to be the block's";
    EXPECT_EQ(hak_ace_resize(p, 2 * kMiB), p);
    EXPECT_EQ(hak_ace_usable_size(p), 2 * kMiB) << "but not more than half";
    EXPECT_EQ(hak_super_lookup(p + 2 * kMiB).is_allocated, 0);
    EXPECT_EQ(hak_stat_get(large_cached_bytes), static_cast<int64_t>(18 * kMiB))
        << "what was cut off is kept for reuse";
    EXPECT_EQ(p[2 * kMiB - 1], 3);
    expect_sound();
    EXPECT_EQ(hak_ace_resize(p, 30000), nullptr) << "to a small block: copied";
    EXPECT_EQ(hak_ace_usable_size(p), 2 * kMiB);
    hak_ace_free(p);
    char *span = alloc(kMiB);
    EXPECT_EQ(hak_ace_resize(span, 2 * kMiB), nullptr) << "from a span: copied";
    EXPECT_EQ(hak_ace_resize(span, 3 * kUnit), span);
    EXPECT_EQ(hak_ace_usable_size(span), 3 * kUnit);
    hak_ace_free(span);
}

/* Those that have grown by realloc may become small where they lie, while they are few. */
TEST_F(Ace, AFewThatHaveGrownBecomeSmallInPlace)
{
    std::vector<char *> all;
    bool stays = true;
    while (stays && all.size() < 1000) {
        all.push_back(static_cast<char *>(hak_ace_alloc_growing(kMiB)));
        char *p = all.back();
        ASSERT_NE(p, nullptr);
        memset(p, 3, kMiB);
        stays = hak_ace_resize(p, ACE_RANGE_LEAST) == p;
        EXPECT_EQ(hak_ace_resize(p, ACE_RANGE_LEAST - 1), nullptr);
        if (stays) {
            EXPECT_GE(hak_ace_usable_size(p), ACE_RANGE_LEAST);
            EXPECT_LT(hak_ace_usable_size(p), ACE_RANGE_LEAST * 17 / 16 + 16);
            EXPECT_EQ(resident(p, kMiB), ACE_RANGE_LEAST);
            EXPECT_EQ(hak_ace_resize(p, kMiB), p);
        }
        EXPECT_EQ(p[ACE_RANGE_LEAST - 1], 3);
        expect_sound();
    }
    EXPECT_GT(all.size(), HAK_TINY_OR(4u, 100u));
    EXPECT_LT(all.size(), 1000u) << "each takes a mapping, and a page more than in a slab";
    for (char *p : all) {
        hak_ace_free(p);
    }
}

/* Of malloc's spans that had no resident pages some are looked at, apart from calloc's; where they
   are written everywhere, fresh pages come together. */
TEST_F(Ace, FreshPagesOfDenseSpansComeTogether)
{
    const size_t size = 200 * 1024;
    for (size_t part : {1u, 50u}) {
        hak_zero_forget();
        for (int i = 0; i < 3; i++) {
            hak_ss_purge(0);
            char *p = alloc(size);
            bool is_whole = i && part == 1 && can_populate() && !HAK_SECURE;
            EXPECT_EQ(resident(p, size), is_whole ? size : 0) << i << " " << part;
            memset(p, 1, size / part);
            hak_ace_free(p);
            EXPECT_EQ(hak_zero_touched(size, 1), 0u);
            p = static_cast<char *>(hak_ace_alloc_zeroed(size, 1));
            hak_ace_free(p);
        }
        expect_sound();
    }
}

/* The end of a block that shrinks goes back, its address space stays. */
TEST_F(Ace, TheEndOfAShrunkBlockGoesBack)
{
    char *p = static_cast<char *>(hak_ace_alloc_growing(kMiB));
    memset(p, 1, kMiB);
    int64_t mapped = hak_stat_get(large_bytes);
    EXPECT_EQ(hak_ace_resize(p, 300 * 1024), p);
    EXPECT_EQ(hak_stat_get(large_bytes), mapped);
    EXPECT_EQ(resident(p, kMiB), 300u * 1024);
    EXPECT_EQ(p[300 * 1024 - 1], 1);
    /* A little less keeps all, and so does growing again. */
    FailingOs os;
    EXPECT_EQ(hak_ace_resize(p, 280 * 1024), p);
    EXPECT_EQ(hak_ace_resize(p, kMiB), p);
    EXPECT_EQ(os.calls(hak_testing::OS_MADVISE) + os.calls(hak_testing::OS_MREMAP), 0u);
    memset(p, 2, kMiB);
    EXPECT_EQ(hak_ace_resize(p, ACE_RANGE_LEAST), p);
    EXPECT_EQ(resident(p, kMiB), ACE_RANGE_LEAST) << "nor has a small one a large end";
    expect_sound();
    hak_ace_free(p);
}

/* A block that shrinks and grows as a habit keeps the pages of its end, until a trim. */
TEST_F(Ace, TheEndOfABlockThatSwingsStays)
{
    char *p = static_cast<char *>(hak_ace_alloc_growing(kMiB));
    FailingOs os;
    for (int i = 0; i < 10; i++) {
        EXPECT_EQ(hak_ace_resize(p, kMiB), p);
        memset(p, i + 1, kMiB);
        EXPECT_EQ(hak_ace_resize(p, 300 * 1024), p);
        EXPECT_EQ(p[300 * 1024 - 1], i + 1);
        EXPECT_LE(os.calls(hak_testing::OS_MADVISE), 2u) << "twice is chance";
    }
    EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), 2u);
    EXPECT_EQ(resident(p, kMiB), kMiB);
    EXPECT_GT(hak_ace_room(), 0u);
    hak_ace_purge(0);
    EXPECT_EQ(resident(p, 320 * 1024), 320u * 1024);
    EXPECT_EQ(hak_super_lookup(p + 400 * 1024).kind, SS_NOT_OURS);
    expect_sound();
    hak_ace_free(p);
}

/* A block that grows has address space ahead, as long as there are not too many of them. */
TEST_F(Ace, GrowingBlocksAreRangesWithinALimit)
{
    std::vector<char *> blocks;
    size_t ranges = 0;
    for (int i = 0; i < (HAK_TINY_OR(20, 200)); i++) {
        char *p = static_cast<char *>(hak_ace_alloc_growing(200000));
        ASSERT_NE(p, nullptr);
        ranges += hak_super_lookup(p).kind == SS_RANGE;
        blocks.push_back(p);
    }
    EXPECT_EQ(ranges, static_cast<size_t>(HAK_TINY_OR(8, 200)));
    char *p = blocks[0];
    EXPECT_EQ(hak_ace_resize(p, 290000), p);
    for (char *block : blocks) {
        hak_ace_free(block);
    }
    EXPECT_EQ(hak_stat_get(large_growing), 0);
    p = static_cast<char *>(hak_ace_alloc_growing(100000));
    EXPECT_EQ(hak_super_lookup(p).kind, SS_SPAN) << "small ones are spans";
    hak_ace_free(p);
}

/* calloc of a block that was used: cleared, or purged where little of such blocks is touched. */
TEST_F(Ace, ZeroedBlocksLearnWhatIsTouched)
{
    FailingOs os;
    for (int dense = 0; dense < 2; dense++) {
        const size_t size = dense ? 700 * 1024 : 300 * 1024;
        for (int i = 0; i < 100; i++) {
            os.reset();
            char *p = static_cast<char *>(hak_ace_alloc_zeroed(size, 1));
            ASSERT_NE(p, nullptr);
            if (i >= 90) {
                EXPECT_EQ(resident(p, 64 * 1024), 0u + (dense ? 64u * 1024 : 0)) << i;
            }
            /* Reading touches too. */
            for (size_t at = 0; at < size && (dense || i == 99); at += 4096) {
                ASSERT_EQ(p[at], 0);
            }
            if (dense) {
                memset(p, 1, size);
            } else {
                p[0] = 1;
            }
            hak_ace_free(p);
        }
    }
}

/* What is touched may change: sparse, dense, sparse again. Looking makes nothing resident, and is
   no system call. */
TEST_F(Ace, WhatIsTouchedIsLearntAnew)
{
    const size_t size = 500 * 1024;
    FailingOs os;
    for (int dense : {0, 1, 0}) {
        int n_cleared = 0, n_rounds = dense ? 200 : 20000;
        for (int i = 0; i < n_rounds; i++) {
            char *p = static_cast<char *>(hak_ace_alloc_zeroed(size, 1));
            ASSERT_NE(p, nullptr);
            n_cleared = i >= n_rounds / 2 && i % 50 == 0 ? n_cleared + (resident(p, size) == size)
                                                         : n_cleared;
            for (size_t at = 0; at < size; at += dense ? 4096 : 40 * 4096) {
                p[at] = 1;
            }
            hak_ace_free(p);
        }
        EXPECT_EQ(n_cleared > 0, dense != 0);
    }
    EXPECT_LT(hak_zero_touched(size, 1), 25u);
}

/* A sparse block that is looked at has no more resident pages than before. */
TEST_F(Ace, LookingMakesNothingResident)
{
    const size_t size = 3 * kMiB;
    char *p = static_cast<char *>(hak_os_map_aligned(nullptr, size, 4096));
    ASSERT_NE(p, nullptr);
    ASSERT_EQ(madvise(p, size, MADV_NOHUGEPAGE), 0);
    p[0] = 1;
    struct Pages {
        static size_t resident_kib()
        {
            std::ifstream status("/proc/self/statm");
            size_t total = 0, pages = 0;
            status >> total >> pages;
            return pages * 4;
        }
    };
    size_t before = Pages::resident_kib();
    for (int i = 0; i < 3200; i++) {
        hak_zero_learn(p, size, 1);
    }
    EXPECT_LT(Pages::resident_kib(), before + 1024);
    EXPECT_LT(hak_zero_touched(size, 1), 25u);
    memset(p, 1, size);
    for (int i = 0; i < 3200; i++) {
        hak_zero_learn(p, size, 1);
    }
    EXPECT_GT(hak_zero_touched(size, 1), 250u);
    EXPECT_EQ(hak_os_unmap(p, size), 0);
}

/* Into a cached neighbour: no system call. */
TEST_F(Ace, GrowsIntoACachedNeighbour)
{
    char *whole = alloc(24 * kMiB);
    hak_ace_free(whole);
    char *p = alloc(4 * kMiB);
    ASSERT_EQ(p, whole);
    memset(p, 9, 4 * kMiB);
    FailingOs os;
    EXPECT_EQ(hak_ace_resize(p, 5 * kMiB), p);
    EXPECT_GE(hak_ace_usable_size(p), 5 * kMiB);
    EXPECT_LE(hak_ace_usable_size(p), 8 * kMiB);
    EXPECT_EQ(os.calls(hak_testing::OS_MREMAP) + os.calls(hak_testing::OS_MMAP), 0u);
    EXPECT_EQ(hak_stat_get(large_bytes) + hak_stat_get(large_cached_bytes),
              static_cast<int64_t>(24 * kMiB));
    EXPECT_EQ(p[4 * kMiB - 1], 9);
    expect_sound();
    hak_ace_free(p);
    EXPECT_EQ(alloc(24 * kMiB), whole);
    hak_ace_free(whole);
}

/* Where something is in the way the pages move: contents stay, and nothing is copied (the source's
   pages are gone). */
TEST_F(Ace, MovesPagesWhereItCannotGrow)
{
    /* Something right behind it, so that it cannot grow in place. */
    char *whole = alloc(8 * kMiB);
    hak_ace_free(whole);
    char *p = alloc(4 * kMiB), *wall = alloc(4 * kMiB);
    ASSERT_EQ(p + 4 * kMiB, wall);
    for (size_t i = 0; i < 4 * kMiB; i += 4096) {
        *reinterpret_cast<size_t *>(p + i) = i;
    }
    memset(wall, 7, 4 * kMiB);
    FailingOs os;
    char *moved = static_cast<char *>(hak_ace_resize(p, 6 * kMiB));
    ASSERT_NE(moved, nullptr);
    EXPECT_NE(moved, p);
    EXPECT_GE(os.calls(hak_testing::OS_MREMAP), 1u);
    for (size_t i = 0; i < 4 * kMiB; i += 4096) {
        ASSERT_EQ(*reinterpret_cast<size_t *>(moved + i), i);
    }
    for (size_t i = 4 * kMiB; i < 6 * kMiB; i += 4096) {
        ASSERT_EQ(moved[i], 0);
        moved[i] = 1;
    }
    EXPECT_EQ(wall[0] + wall[4 * kMiB - 1], 14);
    EXPECT_EQ(hak_super_lookup(p).kind, SS_NOT_OURS);
    EXPECT_EQ(hak_super_lookup(moved + 5 * kMiB).start, moved);
    EXPECT_EQ(hak_ace_usable_size(p), 0u);
    expect_sound();
    hak_ace_free(moved);
    hak_ace_free(wall);
}

/* The system moves no two mappings by one call. A range merged from several must be copied then,
   and nothing may be left behind by the try. */
TEST_F(Ace, ARangeOfSeveralMappingsIsNotMoved)
{
    char *whole = alloc(8 * kMiB);
    hak_ace_free(whole);
    char *p = alloc(4 * kMiB), *wall = alloc(4 * kMiB);
    ASSERT_EQ(p + 4 * kMiB, wall);
    ASSERT_EQ(madvise(p + 2 * kMiB, 2 * kMiB, MADV_DONTDUMP),
              0); /* a mapping of its own from now on */
    p[0] = p[4 * kMiB - 1] = 5;
    FailingOs os;
    EXPECT_EQ(hak_ace_resize(p, 6 * kMiB), nullptr);
    EXPECT_EQ(os.mapped_bytes(), 0);
    EXPECT_EQ(hak_ace_usable_size(p), 4 * kMiB);
    EXPECT_EQ(p[0] + p[4 * kMiB - 1], 10);
    expect_sound();
    hak_ace_free(p);
    hak_ace_free(wall);
}

/* The address space that a moved or unmapped range leaves may belong to another mapping at once:
   the pointer map must have let go of it before. */
const char *watched;
int n_still_ours;

TEST_F(Ace, TheMapLetsGoBeforeTheAddressSpaceDoes)
{
    char *whole = alloc(8 * kMiB);
    hak_ace_free(whole);
    char *p = alloc(4 * kMiB), *wall = alloc(4 * kMiB);
    ASSERT_EQ(p + 4 * kMiB, wall);
    watched = p;
    n_still_ours = 0;
    hak_os_ops.mremap = [](void *old_addr, size_t old_size, size_t new_size, int flags,
                           void *new_addr) {
        n_still_ours += (flags & MREMAP_FIXED) && hak_map_get(watched).tag != 0;
        return hak_os_real_ops.mremap(old_addr, old_size, new_size, flags, new_addr);
    };
    hak_os_ops.munmap = [](void *addr, size_t length) {
        n_still_ours += hak_map_get(addr).tag != 0;
        return hak_os_real_ops.munmap(addr, length);
    };
    char *moved = static_cast<char *>(hak_ace_resize(p, 6 * kMiB));
    EXPECT_NE(moved, p);
    ASSERT_NE(moved, nullptr);
    EXPECT_EQ(hak_ace_resize(moved, 2 * kMiB), moved);
    hak_ace_free(moved);
    hak_ace_free(wall);
    hak_ace_purge(0);
    hak_os_ops = hak_os_real_ops;
    EXPECT_EQ(n_still_ours, 0);
}

TEST_F(Ace, GrowingStepByStepMovesSeldom)
{
    char *p = alloc(kMiB + 1);
    int n_moves = 0;
    for (size_t size = 2 * kMiB; size <= 64 * kMiB; size += kMiB) {
        p[size - kMiB - 1] = 5;
        char *grown = static_cast<char *>(hak_ace_resize(p, size));
        ASSERT_NE(grown, nullptr);
        n_moves += grown != p;
        p = grown;
        ASSERT_EQ(p[size - kMiB - 1], 5);
        ASSERT_GE(hak_ace_usable_size(p), size);
        ASSERT_LE(hak_ace_usable_size(p), 2 * size);
    }
    EXPECT_LE(n_moves, 12);
    expect_sound();
    hak_ace_free(p);
}

/* Programs account by it: a block that grows, or has shrunk, says at most 1/8 more than was asked
   for, and all of that is its own. */
TEST_F(Ace, UsableIsNearWhatWasAskedFor)
{
    FailingOs os;
    char *p = static_cast<char *>(hak_ace_alloc_growing(200000));
    int n_resized = 0;
    for (size_t size = 200000; size < 40 * kMiB; size += size / 50) {
        if (hak_ace_usable_size(p) < size) {
            char *grown = static_cast<char *>(hak_ace_resize(p, size));
            ASSERT_NE(grown, nullptr);
            p = grown;
            n_resized++;
        }
        size_t usable = hak_ace_usable_size(p);
        ASSERT_GE(usable, size);
        ASSERT_LE(usable, size + size / 8);
        EXPECT_EQ(hak_super_lookup(p + usable - 1).size, usable);
        p[usable - 1] = 1;
    }
    uint64_t n_calls = os.calls(hak_testing::OS_MREMAP) + os.calls(hak_testing::OS_MMAP);
    EXPECT_LE(n_calls, 80u) << "most of it in the room that it has";
    EXPECT_GT(n_resized, 60);
    for (size_t size : {30 * kMiB, 17 * kMiB, 3 * kMiB, kMiB, kMiB / 2, kMiB / 4 - 100}) {
        EXPECT_EQ(hak_ace_resize(p, size), p);
        EXPECT_LE(hak_ace_usable_size(p), size + size / 8);
        expect_sound();
    }
    hak_ace_free(p);
}

/* A system with so much address space. */
struct Budget {
    static inline int64_t left;
    static inline struct hak_os_ops before;
    static void *map(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
    {
        if (static_cast<int64_t>(length) > left) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
        void *result = before.mmap(addr, length, prot, flags, fd, offset);
        left -= result == MAP_FAILED ? 0 : static_cast<int64_t>(length);
        return result;
    }
    static int unmap(void *addr, size_t length)
    {
        left += static_cast<int64_t>(length);
        return before.munmap(addr, length);
    }
    static void *remap(void *addr, size_t length, size_t now, int flags, void *to)
    {
        if (!to && static_cast<int64_t>(now - length) > left) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
        void *result = before.mremap(addr, length, now, flags, to);
        if (result != MAP_FAILED) {
            left += static_cast<int64_t>(length) - (to ? 0 : static_cast<int64_t>(now));
        }
        return result;
    }
    explicit Budget(size_t bytes)
    {
        left = static_cast<int64_t>(bytes);
        before = hak_os_ops;
        hak_os_ops.mmap = map;
        hak_os_ops.munmap = unmap;
        hak_os_ops.mremap = remap;
    }
    ~Budget()
    {
        hak_os_ops = before;
    }
};

/* What is kept ahead of blocks goes back before a request fails, and little is kept from then on.
 */
TEST_F(Ace, RoomGoesBackBeforeARequestFails)
{
    const int n = HAK_TINY_OR(8, 40);
    std::vector<char *> blocks;
    Budget budget(static_cast<size_t>(n) * 2 * kMiB + 4 * kMiB);
    for (int i = 0; i < n; i++) {
        char *p = static_cast<char *>(hak_ace_alloc_growing(kMiB));
        ASSERT_NE(p, nullptr) << i;
        p[0] = static_cast<char>(i);
        char *grown = static_cast<char *>(hak_ace_resize(p, 2 * kMiB - kUnit));
        ASSERT_NE(grown, nullptr) << i;
        blocks.push_back(grown);
    }
    EXPECT_LT(hak_ace_room(), static_cast<size_t>(n) * kMiB / 2);
    expect_sound();
    for (int i = 0; i < n; i++) {
        char *p = blocks[static_cast<size_t>(i)];
        EXPECT_EQ(p[0], static_cast<char>(i));
        memset(p, 1, hak_ace_usable_size(p));
        hak_ace_free(p);
    }
    expect_sound();
}

/* hak_ace_purge takes it too; a block may grow again all the same. */
TEST_F(Ace, PurgingAllTakesTheRoom)
{
    char *p = static_cast<char *>(hak_ace_alloc_growing(2 * kMiB));
    EXPECT_GE(hak_ace_room(), kMiB / 2);
    (void)hak_ace_purge(0);
    EXPECT_EQ(hak_ace_room(), 0u);
    EXPECT_EQ(hak_super_lookup(p + 3 * kMiB - 1).kind, SS_NOT_OURS);
    expect_sound();
    FailingOs os;
    p = static_cast<char *>(hak_ace_resize(p, 4 * kMiB));
    ASSERT_NE(p, nullptr);
    memset(p, 1, 4 * kMiB);
    os.fail_always(hak_testing::OS_MUNMAP);
    EXPECT_GT(hak_ace_room(), 0u);
    (void)hak_ace_purge(0);
    EXPECT_EQ(hak_ace_room(), 0u) << "the system does not want it: not asked again";
    expect_sound();
    os.reset();
    hak_ace_free(p);
}

TEST_F(Ace, EveryCallOfTheSystemFailsInTurn)
{
    for (OsCall call : {hak_testing::OS_MMAP, hak_testing::OS_MUNMAP, hak_testing::OS_MREMAP}) {
        uint64_t n = 1;
        for (;; n++) {
            FailingOs os;
            os.fail(call, n);
            Oracle oracle(11);
            oracle.largest = 4 * kMiB;
            for (int i = 0; i < 40; i++) {
                if (!oracle.step()) {
                    ASSERT_TRUE(os.fired()) << "refused without reason";
                }
                if (i % 10 == 9) {
                    hak_ace_purge(0);
                    hak_ss_purge(0);
                }
                expect_sound();
                ASSERT_FALSE(HasFailure())
                    << hak_testing::os_call_name(call) << " " << n << " step " << i;
            }
            oracle.free_all();
            hak_ace_purge(0);
            hak_ss_purge(0);
            expect_sound();
            bool fired = os.fired();
            os.reset();
            hak_ace_purge(0);
            hak_ss_purge(0);
            ASSERT_EQ(hak_stat_get(large_bytes), 0);
            ASSERT_EQ(hak_stat_get(large_cached_bytes), 0);
            ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
            if (!fired) {
                break;
            }
        }
        EXPECT_GT(n, 1u) << hak_testing::os_call_name(call) << " was never called";
    }
}

/* What is cached helps a request that the system refuses. */
TEST_F(Ace, CachedRangesGoBackBeforeARequestFails)
{
    char *small = alloc(2 * kMiB);
    hak_ace_free(small);
    FailingOs os;
    os.fail(hak_testing::OS_MMAP, 1, 1); /* to enlarge it, and to map another one */
    char *p = alloc(20 * kMiB);
    EXPECT_TRUE(os.fired());
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
    ASSERT_NE(p, nullptr);
    hak_ace_free(p);
}

TEST_F(Ace, NoAddressSpaceLeaks)
{
    FailingOs os;
    int64_t after_first = 0;
    for (int round = 0; round < 3; round++) {
        Oracle oracle(6);
        for (int i = 0; i < 200; i++) {
            ASSERT_TRUE(oracle.step());
        }
        oracle.free_all();
        hak_ace_purge(0);
        hak_ss_purge(0);
        if (round == 0) {
            after_first = os.mapped_bytes();
        }
        /* Except for a new leaf of the pointer map, where the system chose other addresses. */
        int64_t more = os.mapped_bytes() - after_first, leaf = sizeof(struct map_leaf);
        EXPECT_EQ(more % leaf, 0);
        EXPECT_LE(more, leaf < 65536 ? 16 * leaf : leaf);
    }
}

TEST_F(Ace, ThreadsAndLookups)
{
    int n_bad = 0, stop = 0;
    char *kept = alloc(2 * kMiB);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 3; t++) {
        threads.emplace_back([&n_bad, t] {
            Rng rng(t);
            std::vector<std::pair<char *, size_t>> live;
            for (int i = 0; i < 250; i++) {
                size_t size = rng.between(40000, rng.one_in(2) ? kMiB : 4 * kMiB);
                char *p = static_cast<char *>(hak_ace_alloc(size, 1));
                p[0] = p[size - 1] = static_cast<char>(t + 1);
                live.push_back({p, size});
                size_t k = rng.below(live.size());
                if (char *moved = static_cast<char *>(hak_ace_resize(live[k].first, size))) {
                    int bad = moved[0] != static_cast<char>(t + 1);
                    __atomic_add_fetch(&n_bad, bad, __ATOMIC_RELAXED);
                    moved[size - 1] = static_cast<char>(t + 1);
                    live[k] = {moved, size};
                }
                if (live.size() > 6) {
                    k = rng.below(live.size());
                    int bad = live[k].first[0] != static_cast<char>(t + 1) ||
                              live[k].first[live[k].second - 1] != static_cast<char>(t + 1);
                    __atomic_add_fetch(&n_bad, bad, __ATOMIC_RELAXED);
                    hak_ace_free(live[k].first);
                    live.erase(live.begin() + static_cast<long>(k));
                }
                if (i % 20 == 0) {
                    __atomic_add_fetch(&n_bad, hak_ss_verify() != 0, __ATOMIC_RELAXED);
                    __atomic_add_fetch(&n_bad, hak_ace_verify() != 0, __ATOMIC_RELAXED);
                    hak_ace_purge(0);
                }
            }
            for (const auto &block : live) {
                hak_ace_free(block.first);
            }
        });
    }
    std::thread asker([&] {
        Rng rng(77);
        while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
            struct ss_lookup got = hak_super_lookup(kept + rng.below(2 * kMiB));
            int bad = got.kind != SS_RANGE || got.start != kept || got.size != 2 * kMiB ||
                      !got.is_allocated;
            __atomic_add_fetch(&n_bad, bad, __ATOMIC_RELAXED);
            (void)hak_super_lookup(kept - 64 * kMiB + rng.below(128 * kMiB));
        }
    });
    for (std::thread &thread : threads) {
        thread.join();
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    asker.join();
    EXPECT_EQ(n_bad, 0);
    hak_ace_free(kept);
    expect_sound();
}

using AceDeathTest = Ace;

TEST_F(AceDeathTest, BadPointersAbort)
{
    const char *invalid = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    char *range = alloc(3 * kMiB), *span = alloc(3 * kUnit);
    int local;
    EXPECT_EXIT(hak_ace_free(range + 16), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_ace_free(range + kUnit), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_ace_free(span + kUnit), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_ace_free(&local), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(
        {
            hak_ace_free(range);
            hak_ace_free(range);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    EXPECT_EXIT(
        {
            hak_ace_free(span);
            hak_ace_free(span);
        },
        testing::KilledBySignal(SIGABRT), invalid);
    hak_ace_free(range);
    hak_ace_free(span);
}

TEST_F(Ace, VerifyNamesTheBrokenEquation)
{
    char *p = static_cast<char *>(hak_ace_alloc(16 * kMiB, 1));
    ASSERT_EQ(hak_ace_resize(p, 2 * kMiB), p); /* what is behind it is cached */
    struct map_entry entry = hak_map_get(p), behind = hak_map_get(p + 8 * kMiB);
    ASSERT_EQ(entry.tag, TAG_RANGE);
    ASSERT_EQ(behind.tag, TAG_RANGE);
    ASSERT_NE(entry.ref, behind.ref);
    struct range *used = hak_range_at(entry.ref), *cached = hak_range_at(behind.ref);
    hak_map_set(p, 1, TAG_RANGE, entry.ref + 1);
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_MAP);
    hak_map_set(p, 1, TAG_RANGE, entry.ref);
    used->state = RANGE_CACHED;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_MERGED);
    used->state = RANGE_USED;
    size_t usable = used->usable;
    used->usable = used->bytes + 1;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_USABLE);
    used->usable = 1;
    used->bytes--;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_UNITS);
    used->bytes++;
    used->usable = usable;
    cached->usable = 1;
    cached->state = RANGE_USED;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_LISTS);
    cached->state = RANGE_CACHED;
    hak_stat_add(large_growing, 1);
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_TOTALS);
    hak_stat_sub(large_growing, 1);
    EXPECT_EQ(hak_ace_verify(), 0);
    hak_ace_free(p);
}

} // namespace

/* What HAKMEM_WMAX_MID does not let a span waste becomes a range of whole units. */
TEST_F(Ace, ASpanThatWastesTooMuchIsARange)
{
    uint64_t before = hak_options.wmax_mid;
    size_t size = 256 * 1024 + 1;
    while (size < ACE_SPAN_MAX && hak_ace_class_bytes(size) == size) {
        size++;
    }
    hak_options.wmax_mid = 1000; /* nothing */
    char *p = alloc(size);
    EXPECT_GT(hak_stat_get(large_bytes), 0);
    EXPECT_EQ(hak_ace_usable_size(p), round_units(size));
    hak_options.wmax_mid = before;
    char *q = alloc(size);
    EXPECT_EQ(hak_ss_span_size(q), hak_ace_class_bytes(size));
    expect_sound();
    hak_ace_free(p);
    hak_ace_free(q);
}

/* A large block of a kind that its owners write everywhere asks for huge pages; one that is hardly
   touched does not. */
TEST_F(Ace, RangesThatAreWrittenEverywhereAskForHugePages)
{
    const size_t size = 36 * kMiB, sparse = 150 * kMiB;
    hak_options.huge_page_bytes = 1;
    char *other = alloc(2 * kMiB); /* huge pages are for heaps that are large already */
    int64_t before = hak_stat_get(huge_regions);
    for (int i = 0; i < 200 && hak_stat_get(huge_regions) == before; i++) {
        char *p = alloc(size);
        memset(p, 1, size);
        hak_ace_free(p);
        hak_ace_purge(0);
    }
    EXPECT_GT(hak_stat_get(huge_regions), before);
    before = hak_stat_get(huge_regions);
    for (int i = 0; i < 20; i++) {
        char *p = alloc(sparse);
        p[0] = 1;
        hak_ace_free(p);
        hak_ace_purge(0);
        expect_sound();
    }
    EXPECT_EQ(hak_stat_get(huge_regions), before);
    hak_ace_free(other);
}

/* What superslabs kept for a phase that is over goes first, as soon as ranges need it. */
TEST_F(Ace, RestingSuperslabsKeepWhatRangesLeave)
{
    FakeClock clock;
    hak_options.purge_delay_ms = 500;
    hak_adapt_forget();
    std::vector<char *> small, large;
    for (int i = 0; i < 200; i++) {
        small.push_back(alloc(kMiB / 2));
    }
    for (char *p : small) {
        hak_ace_free(p);
    }
    ASSERT_GE(hak_stat_get(heap_dirty_bytes), 90 * static_cast<int64_t>(kMiB));
    /* 80 MiB of ranges; half of them are freed, and larger ones do not fit there. */
    clock.advance_ms(150);
    for (int i = 0; i < 40; i++) {
        large.push_back(alloc(2 * kMiB));
    }
    for (size_t i = 0; i < large.size(); i++) {
        hak_ace_free(large[i]);
        large.erase(large.begin() + static_cast<ptrdiff_t>(i));
    }
    for (int i = 0; i < 10; i++) {
        large.push_back(alloc(4 * kMiB));
    }
    for (int i = 0; i < 100; i++) {
        hak_ace_purge_excess();
    }
    EXPECT_GE(hak_stat_get(large_cached_bytes), 10 * static_cast<int64_t>(kMiB)) << "their slack";
    EXPECT_LE(hak_stat_get(heap_dirty_bytes), 26 * static_cast<int64_t>(kMiB)) << "what is left";
    for (char *p : large) {
        hak_ace_free(p);
    }
    expect_sound();
}

/* HAKMEM_ACE_KEEP and HAKMEM_ACE_HORIZON_MS take the controller's choice away. */
TEST_F(Ace, PinnedTargetsStay)
{
    uint64_t keep = hak_options.ace_keep, horizon = hak_options.ace_horizon_ms;
    hak_options.ace_keep = 3 * kMiB;
    hak_adapt_forget();
    for (int i = 0; i < 50; i++) {
        hak_ace_free(alloc(2 * kMiB + static_cast<size_t>(i) * kUnit));
        EXPECT_EQ(hak_adapt_range_keep(), 3 * kMiB);
        EXPECT_EQ(hak_adapt_delay_ms(), hak_options.purge_delay_ms);
    }
    EXPECT_EQ(hak_adapt_class_keep(2 * kMiB), SIZE_MAX);
    hak_options.ace_keep = keep;
    hak_options.ace_horizon_ms = 77;
    hak_adapt_forget();
    for (int i = 0; i < 50; i++) {
        hak_ace_free(alloc(2 * kMiB));
        struct adapt_summary state;
        hak_adapt_state(&state);
        EXPECT_EQ(state.horizon_ms, 77u);
    }
    hak_options.ace_horizon_ms = horizon;
    hak_adapt_forget();
    expect_sound();
}
