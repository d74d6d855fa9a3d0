/* Tests of the shared superslabs: spans and slabs at random against an oracle of intervals,
   purging, and every call of the system failing in turn. hak_ss_verify runs after each step. */
#include "superslab/pool.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "superslab/lists.h"
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

/* A slab whose tag holds its class as it is: the pool does not look at these bits. */
struct slab *make_slab(uint32_t owner, uint32_t size_class)
{
    return hak_pool_slab_alloc(owner << TAG_OWNER_SHIFT | size_class, size_class);
}

/* Each test says when free units are purged. */
int is_marked(const void *p)
{
    int is = -1;
    EXPECT_EQ(hak_ss_span_look(p, &is), hak_ss_span_size(p));
    return is;
}

class Pool : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.huge_page_bytes = 0;
        hak_ss_purge(0);
        ASSERT_EQ(hak_ss_verify(), 0);
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
};

const size_t kGranule = SS_GRANULE_BYTES;
const int64_t kUnitBytes = SS_UNIT_BYTES;

int clear_dirty(void *start, size_t size)
{
    memset(start, 0, size);
    return 0;
}

bool is_clean(const struct ss_dirt &dirt)
{
    return dirt.dirty == 0;
}

char *units(size_t n, struct ss_dirt *dirt = nullptr)
{
    return static_cast<char *>(hak_ss_span_alloc(n * SS_UNIT_BYTES, 1, dirt));
}

/* What is allocated, and what every step must keep true. */
class Oracle
{
  public:
    explicit Oracle(uint64_t seed) : rng(seed)
    {
    }

    /* One random call. Returns false if the system refused memory. */
    bool step()
    {
        switch (pieces.size() < 4 ? 0 : rng.below(8)) {
        case 0:
        case 1:
        case 2:
            return alloc_span();
        case 3:
            return alloc_slab();
        case 4:
            resize();
            return true;
        default:
            release_one();
            return true;
        }
    }

    void check()
    {
        ASSERT_EQ(hak_ss_verify(), 0);
        ASSERT_EQ(hak_stat_get(heap_used_bytes), n_granules * static_cast<int64_t>(kGranule));
    }

    void release_all()
    {
        while (!pieces.empty()) {
            release_one();
        }
    }

    struct Piece {
        uint32_t n_granules;
        struct slab *slab;
    };
    std::map<char *, Piece> pieces;
    int64_t n_granules = 0;
    int n_zero = 0, n_resized = 0, n_refused_resizes = 0;
    Rng rng;

  private:
    /* No other piece has these granules, and they lie in one superslab. */
    void add(char *p, uint32_t n, struct slab *slab)
    {
        auto next = pieces.lower_bound(p);
        ASSERT_TRUE(next == pieces.end() || p + n * kGranule <= next->first);
        if (next != pieces.begin()) {
            auto prev = std::prev(next);
            ASSERT_LE(prev->first + prev->second.n_granules * kGranule, p);
        }
        uintptr_t first = reinterpret_cast<uintptr_t>(p), last = first + n * kGranule - 1;
        ASSERT_EQ(first % kGranule, 0u);
        ASSERT_EQ(first / SS_BYTES, last / SS_BYTES);
        pieces[p] = {n, slab};
        n_granules += n;
    }

    /* Some bytes of each page, so that memory that is said to be zero, and is not, is found. */
    void scribble(char *p, uint32_t n)
    {
        for (size_t i = 0; i < n * kGranule; i += 4096) {
            p[i] = 0x5A;
            p[i + 4095] = 0x5A;
        }
    }

    bool alloc_span()
    {
        uint32_t n =
            static_cast<uint32_t>(rng.one_in(4) ? rng.between(1, SS_GRANULES) : rng.between(1, 40));
        size_t align = rng.one_in(3) ? size_t(1) << rng.below(22) : 1;
        struct ss_dirt dirt;
        char *p = static_cast<char *>(
            hak_ss_span_alloc(n * kGranule - rng.below(kGranule), align, &dirt));
        if (!p) {
            return false;
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (align < kGranule ? kGranule : align), 0u);
        /* Clears what is said to be dirty; then all of it must read as zero. */
        n_zero += hak_ss_clear_dirt(p, &dirt, clear_dirty);
        for (size_t i = 0; i < n * kGranule; i += 4096) {
            EXPECT_EQ(p[i] | p[i + 4095], 0) << "said to be zero";
        }
        scribble(p, n);
        add(p, n, nullptr);
        EXPECT_EQ(hak_ss_span_size(p), n * kGranule);
        EXPECT_EQ(hak_ss_span_size(p + 16), 0u);
        return true;
    }

    bool alloc_slab()
    {
        struct slab *slab = make_slab(3, static_cast<uint32_t>(rng.below(SC_N_CLASSES)));
        if (!slab) {
            return false;
        }
        EXPECT_EQ(slab->owner, 3u);
        EXPECT_EQ(hak_slab_is_empty(slab), 1);
        EXPECT_EQ(hak_map_get(slab->base + 5).tag, 3u << TAG_OWNER_SHIFT | slab->size_class);
        EXPECT_EQ(hak_pool_slab_of(hak_map_get(slab->base).ref, slab->base + 65535), slab);
        /* Behind the blocks that were handed out the unit stays as it was. */
        void *head;
        hak_slab_take(slab, static_cast<uint32_t>(rng.between(1, slab->capacity)), SC_SLAB_BYTES,
                      &head);
        for (size_t at = 0; at < size_t(slab->fresh) * slab->size; at += 4096) {
            slab->base[at] = slab->base[at + 4095] = 0x5A;
        }
        add(slab->base, 8, slab);
        EXPECT_EQ(hak_ss_span_size(slab->base), 0u);
        return true;
    }

    std::map<char *, Piece>::iterator any()
    {
        return std::next(pieces.begin(), static_cast<long>(rng.below(pieces.size())));
    }

    void resize()
    {
        auto it = any();
        if (it->second.slab) {
            EXPECT_EQ(hak_ss_span_resize(it->first, 2 * SS_UNIT_BYTES), 0);
            return;
        }
        char *p = it->first;
        uint32_t was = it->second.n_granules,
                 n = static_cast<uint32_t>(rng.between(1, SS_GRANULES));
        if (hak_ss_span_resize(p, n * kGranule)) {
            n_resized += n != was;
            pieces.erase(it);
            n_granules -= was;
            if (n > was) {
                scribble(p + was * kGranule, n - was);
            }
            add(p, n, nullptr);
        } else {
            EXPECT_GT(n, was) << "shrinking always works";
            n_refused_resizes++;
        }
        EXPECT_EQ(hak_ss_span_size(p),
                  (n_refused_resizes && pieces[p].n_granules == was ? was : n) * kGranule);
        EXPECT_EQ(p[0], 0x5A);
    }

    void release_one()
    {
        auto it = any();
        if (it->second.slab) {
            hak_pool_slab_free(it->second.slab);
            hak_ss_purge_due();
        } else {
            hak_ss_span_free(it->first);
        }
        EXPECT_EQ(hak_ss_span_size(it->first), 0u);
        n_granules -= it->second.n_granules;
        pieces.erase(it);
    }
};

TEST_F(Pool, RandomCallsAgreeWithAnOracle)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        Oracle oracle(seed);
        for (int i = 0; i < 1500; i++) {
            ASSERT_TRUE(oracle.step());
            oracle.check();
            if (HasFatalFailure() || HasNonfatalFailure()) {
                FAIL() << "seed " << seed << " step " << i;
            }
            if (i % 100 == 99) {
                hak_ss_purge(0);
                oracle.check();
            }
        }
        EXPECT_GT(oracle.n_zero, 10);
        EXPECT_GT(oracle.n_resized, 10);
        EXPECT_GT(oracle.n_refused_resizes, 10);
        oracle.release_all();
        oracle.check();
        hak_ss_purge(0);
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_stat_get(superslabs), 0);
    }
}

/* With a delay of 0 everything goes back as it is freed. */
TEST_F(Pool, RandomCallsWithoutDelay)
{
    hak_options.purge_delay_ms = 0;
    Oracle oracle(9);
    for (int i = 0; i < 1000; i++) {
        ASSERT_TRUE(oracle.step());
        oracle.check();
        ASSERT_FALSE(HasFailure()) << i;
        ASSERT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    }
    oracle.release_all();
    EXPECT_EQ(hak_stat_get(superslabs), 0);
    EXPECT_EQ(hak_ss_verify(), 0);
}

TEST_F(Pool, BadArgumentsAreRefused)
{
    int local;
    EXPECT_EQ(hak_ss_span_alloc(0, 1, nullptr), nullptr);
    EXPECT_EQ(hak_ss_span_alloc(SS_BYTES + 1, 1, nullptr), nullptr);
    EXPECT_EQ(hak_ss_span_alloc(SIZE_MAX, 1, nullptr), nullptr);
    EXPECT_EQ(hak_ss_span_alloc(1, 0, nullptr), nullptr);
    EXPECT_EQ(hak_ss_span_alloc(1, 2 * SS_BYTES, nullptr), nullptr);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    char *p = units(2);
    EXPECT_EQ(hak_ss_span_resize(p, 0), 0);
    EXPECT_EQ(hak_ss_span_resize(p, SS_BYTES + 1), 0);
    EXPECT_EQ(hak_ss_span_resize(p, SIZE_MAX), 0);
    EXPECT_EQ(hak_ss_span_resize(p + SS_UNIT_BYTES, 1), 0);
    EXPECT_EQ(hak_ss_span_resize(&local, 1), 0);
    EXPECT_EQ(hak_ss_span_resize(p, 2 * SS_UNIT_BYTES), 1);
    EXPECT_EQ(hak_ss_span_size(p), 2 * SS_UNIT_BYTES);
    EXPECT_EQ(hak_ss_span_size(&local), 0u);
    EXPECT_EQ(hak_ss_span_size(nullptr), 0u);
    EXPECT_EQ(is_marked(&local), 0);
    hak_ss_span_free(p);
    EXPECT_EQ(hak_ss_verify(), 0);
}

/* The mark stays with the span, whatever its size becomes, and is gone with it. */
TEST_F(Pool, MarksStayWithTheirSpan)
{
    char *p = units(2), *q = units(1);
    EXPECT_EQ(is_marked(p), 0);
    hak_ss_span_set_mark(p);
    EXPECT_EQ(is_marked(p), 1);
    EXPECT_EQ(is_marked(q), 0);
    EXPECT_EQ(hak_ss_span_size(p), 2 * SS_UNIT_BYTES);
    EXPECT_EQ(hak_ss_span_resize(p, SS_UNIT_BYTES), 1);
    EXPECT_EQ(is_marked(p), 1);
    EXPECT_EQ(hak_ss_span_size(p), SS_UNIT_BYTES);
    EXPECT_EQ(hak_ss_verify(), 0);
    hak_ss_span_free(p);
    EXPECT_EQ(units(1), p);
    EXPECT_EQ(is_marked(p), 0);
    hak_ss_span_free(p);
    hak_ss_span_free(q);
}

/* Of a slab that has none; not where they may be huge, or are there already. */
TEST_F(Pool, PagesOfASlabAreFetchedTogether)
{
    struct slab *clean = make_slab(3, 0);
    EXPECT_EQ(resident(clean->base, SS_UNIT_BYTES), 0u);
    for (uint32_t bytes : {SS_UNIT_BYTES / 4, SS_UNIT_BYTES}) {
        hak_pool_slab_populate(clean, bytes);
        EXPECT_EQ(resident(clean->base, SS_UNIT_BYTES), can_populate() ? bytes : 0u);
    }
    hak_pool_slab_free(clean);
    struct slab *dirty = make_slab(3, 0);
    {
        FailingOs os;
        hak_pool_slab_populate(dirty, SS_UNIT_BYTES);
        EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), 0u);
    }
    hak_pool_slab_free(dirty);
    hak_ss_purge(0);
}

TEST_F(Pool, PurgeGivesMemoryBack)
{
    char *kept = units(1);
    char *freed = units(20);
    char *whole = units(SS_UNITS);
    memset(kept, 1, SS_UNIT_BYTES);
    memset(freed, 1, 20 * SS_UNIT_BYTES);
    memset(whole, 1, SS_BYTES);
    hak_ss_span_free(freed);
    hak_ss_span_free(whole);
    EXPECT_EQ(resident(freed, 20 * SS_UNIT_BYTES), 20 * SS_UNIT_BYTES) << "kept for reuse";
    EXPECT_EQ(resident(whole, SS_BYTES), SS_BYTES);
    int64_t purged = hak_stat_get(heap_purged_bytes);
    EXPECT_EQ(hak_ss_purge(0), (20 + SS_UNITS) * SS_UNIT_BYTES);
    EXPECT_EQ(hak_stat_get(heap_purged_bytes), purged + (20 + SS_UNITS) * kUnitBytes);
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    EXPECT_EQ(resident(freed, 20 * SS_UNIT_BYTES), 0u);
    EXPECT_EQ(resident(whole, SS_BYTES), 0u);
    EXPECT_EQ(resident(kept, SS_UNIT_BYTES), SS_UNIT_BYTES);
    EXPECT_EQ(kept[77], 1);
    EXPECT_EQ(hak_super_lookup(whole).kind, SS_NOT_OURS) << "wholly free: unmapped";
    EXPECT_EQ(hak_stat_get(superslabs), 1);
    EXPECT_EQ(hak_ss_purge(0), 0u);
    /* Purged units are served as zero. */
    struct ss_dirt dirt;
    char *again = units(20, &dirt);
    EXPECT_EQ(again, freed);
    EXPECT_TRUE(is_clean(dirt));
    EXPECT_EQ(again[SS_UNIT_BYTES * 7], 0);
    hak_ss_span_free(again);
    hak_ss_span_free(kept);
    EXPECT_EQ(hak_ss_verify(), 0);
}

/* Of a slab as much is dirty as was handed out, in whole granules; the rest reads as zero still,
   and the next slab there knows how far it is resident. */
TEST_F(Pool, WhatASlabNeverHandedOutIsClean)
{
    if (HAK_SECURE || hak_os_page_size() > kGranule) {
        GTEST_SKIP() << "a unit is kept as a whole, or a page is more than a granule";
    }
    struct slab *kept = make_slab(3, 0);
    for (uint32_t n_pages : {1u, 3u, 16u}) {
        struct slab *slab = make_slab(3, 0);
        void *head;
        EXPECT_EQ(slab->n_touched, 0u);
        hak_slab_take(slab, n_pages * 4096u / slab->size, SC_SLAB_BYTES, &head);
        char *base = slab->base;
        hak_pool_slab_free(slab);
        const int64_t dirty = (n_pages + 1) / 2 * static_cast<int64_t>(kGranule);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), dirty);
        EXPECT_EQ(hak_ss_verify(), 0);
        slab = make_slab(3, 1);
        ASSERT_EQ(slab->base, base) << "resident memory first";
        EXPECT_EQ(slab->n_touched, dirty / SLAB_TOUCHED_BYTES);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
        hak_pool_slab_free(slab);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), dirty) << "whoever has touched it";
        EXPECT_EQ(hak_ss_purge(0), static_cast<size_t>(dirty));
    }
    hak_pool_slab_free(kept);
    EXPECT_EQ(hak_ss_verify(), 0);
}

/* Resident pages come before untouched ones. */
TEST_F(Pool, DirtyUnitsAreReusedFirst)
{
    struct ss_dirt dirt;
    void *first = units(4, &dirt);
    EXPECT_TRUE(is_clean(dirt));
    void *second = units(4);
    hak_ss_span_free(second);
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 4 * kUnitBytes);
    EXPECT_EQ(units(4, &dirt), second);
    EXPECT_FALSE(is_clean(dirt));
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    hak_ss_span_free(second);
    hak_ss_span_free(first);
}

TEST_F(Pool, PurgeWaitsForTheDelay)
{
    FakeClock clock;
    void *kept = units(1);
    void *p = units(4);
    hak_ss_span_free(p);
    clock.advance_ms(499);
    EXPECT_EQ(hak_ss_purge(500), 0u);
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 4 * kUnitBytes);
    clock.advance_ms(1);
    EXPECT_EQ(hak_ss_purge(500), 4 * SS_UNIT_BYTES);
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    hak_ss_span_free(kept);
}

/* Without a call of hak_ss_purge: later frees purge on their way. */
TEST_F(Pool, OldDirtyUnitsArePurgedOnTheWay)
{
    FakeClock clock;
    hak_options.purge_delay_ms = 500;
    char *old = units(SS_UNITS);
    char *other = units(SS_UNITS);
    memset(old, 1, SS_BYTES);
    hak_ss_span_free(old);
    EXPECT_EQ(resident(old, SS_BYTES), SS_BYTES);
    clock.advance_ms(7200000); /* past what earlier tests have set */
    for (uint32_t n = SS_UNITS; n > 1; n--) {
        ASSERT_EQ(hak_ss_span_resize(other, (n - 1) * SS_UNIT_BYTES), 1);
    }
    EXPECT_EQ(resident(old, SS_BYTES), 0u);
    hak_ss_span_free(other);
    EXPECT_EQ(hak_ss_verify(), 0);
}

TEST_F(Pool, PurgeReportsWhatWasPurged)
{
    FailingOs os;
    void *kept = units(1);
    void *p = units(4);
    hak_ss_span_free(p);
    os.fail_always(hak_testing::OS_MADVISE);
    EXPECT_EQ(hak_ss_purge(0), 0u) << "the system refused";
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 4 * kUnitBytes);
    EXPECT_EQ(hak_ss_verify(), 0);
    os.reset();
    EXPECT_EQ(hak_ss_purge(0), 4 * SS_UNIT_BYTES);
    hak_ss_span_free(kept);
}

int n_huge; /* marked regions, since count_huge */

/* Until hak_os_ops is as it was. No first touch is slow. */
void count_huge()
{
    n_huge = 0;
    hak_os_ops.madvise = [](void *addr, size_t length, int advice) {
        n_huge += advice == MADV_HUGEPAGE;
        return hak_os_real_ops.madvise(addr, length, advice);
    };
    hak_os_ops.precise_ns = [] { return uint64_t(0); };
}

/* A huge page would be resident as a whole. */
TEST_F(Pool, NoHugePagesWhereSlabsAreHardlyTouched)
{
    count_huge();
    hak_options.huge_page_bytes = 1;
    int64_t before = hak_stat_get(heap_untouched_bytes);
    std::vector<struct slab *> slabs;
    auto fill = [&](size_t n) { /* a superslab more, of which that many units are handed out */
                                for (size_t i = 0; i < SS_UNITS; i++) {
                                    slabs.push_back(hak_pool_slab_alloc(TAG_FREE_UNIT, 0));
                                    void *head;
                                    if (i < n) {
                                        (void)hak_slab_take(slabs.back(), SC_SLAB_BYTES,
                                                            SC_SLAB_BYTES, &head);
                                    }
                                }
    };
    fill(SS_UNITS * 5 / 8);
    EXPECT_EQ(hak_stat_get(heap_untouched_bytes) - before, 3 * SS_BYTES / 8);
    int first = n_huge;
    fill(SS_UNITS); /* mapped while three eighths were untouched */
    EXPECT_EQ(n_huge, first);
    fill(0); /* three sixteenths */
    EXPECT_EQ(n_huge, first + 1);
    fill(0); /* eleven of twenty-four */
    EXPECT_EQ(n_huge, first + 1);
    hak_options.huge_page_bytes = 0;
    hak_os_ops = hak_os_real_ops;
    for (struct slab *slab : slabs) {
        hak_pool_slab_free(slab);
    }
    EXPECT_EQ(hak_stat_get(heap_untouched_bytes), before);
}

TEST_F(Pool, NoHugePagesWhereManyThreadsHaveLittle)
{
    count_huge();
    hak_options.huge_page_bytes = 1;
    int64_t n_heaps = hak_stat_get(heaps) - hak_stat_get(orphans);
    ASSERT_LE(n_heaps, 2);
    hak_stat_add(heaps, 4 - n_heaps);
    std::vector<struct slab *> slabs;
    auto map_one = [&] { /* a superslab more, all of whose units are handed out */
                         for (size_t i = 0; i < SS_UNITS; i++) {
                             slabs.push_back(hak_pool_slab_alloc(TAG_FREE_UNIT, 0));
                             void *head;
                             (void)hak_slab_take(slabs.back(), SC_SLAB_BYTES, SC_SLAB_BYTES, &head);
                         }
    };
    map_one();
    map_one(); /* mapped while four threads had 2 MiB */
    EXPECT_EQ(n_huge, 0);
    map_one();
    EXPECT_EQ(n_huge, 1) << "4 MiB";
    hak_stat_sub(heaps, 4 - n_heaps);
    hak_options.huge_page_bytes = 0;
    hak_os_ops = hak_os_real_ops;
    for (struct slab *slab : slabs) {
        hak_pool_slab_free(slab);
    }
}

TEST_F(Pool, HugePagesAreAskedForAboveTheLimitOnly)
{
    if (HAK_SECURE) {
        GTEST_SKIP()
            << "its large blocks split superslabs, so that there are no huge pages in them";
    }
    count_huge();
    hak_options.huge_page_bytes = 3 * SS_BYTES;
    std::vector<void *> all;
    for (int i = 0; i < 5; i++) {
        all.push_back(units(SS_UNITS));
        EXPECT_EQ(n_huge, i < 3 ? 0 : i - 2);
    }
    hak_options.huge_page_bytes = 0;
    all.push_back(units(SS_UNITS));
    EXPECT_EQ(n_huge, 2);
    hak_os_ops = hak_os_real_ops;
    for (void *p : all) {
        hak_ss_span_free(p);
    }
}

/* What the system says of the mapping that holds p, in the letters of /proc/PID/smaps. */
std::string flags_of(const void *p)
{
    std::ifstream smaps("/proc/self/smaps");
    std::string line;
    bool is_it = false;
    while (std::getline(smaps, line)) {
        uintptr_t start, end;
        char dash;
        std::istringstream head(line);
        if (head >> std::hex >> start >> dash >> end && dash == '-') {
            is_it = start <= reinterpret_cast<uintptr_t>(p) && reinterpret_cast<uintptr_t>(p) < end;
        } else if (is_it && line.compare(0, 8, "VmFlags:") == 0) {
            return line + " ";
        }
    }
    return "";
}

/* Also where the system gives huge pages to whoever does not ask. */
TEST_F(Pool, ASmallHeapHasSmallPages)
{
    void *p = hak_ss_span_alloc(1000, SS_GRANULE_BYTES, nullptr);
    ASSERT_NE(p, nullptr);
    std::string flags = flags_of(p), map = flags_of(&hak_map_window->tag[hak_map_window_unit(p)]);
    hak_ss_span_free(p);
    if (flags.empty()) {
        GTEST_SKIP() << "no /proc/self/smaps here";
    }
    EXPECT_NE(flags.find(" nh "), std::string::npos) << flags;
    EXPECT_NE(map.find(" nh "), std::string::npos) << map;
}

/* The same calls each time; the n-th call of one function fails, for every n until none is left to
   fail. */
TEST_F(Pool, EveryCallOfTheSystemFailsInTurn)
{
    for (OsCall call : {hak_testing::OS_MMAP, hak_testing::OS_MUNMAP, hak_testing::OS_MADVISE}) {
        uint64_t n = 1;
        for (;; n++) {
            FailingOs os;
            os.fail(call, n);
            Oracle oracle(n % 3);
            for (int i = 0; i < 120; i++) {
                if (!oracle.step()) {
                    ASSERT_TRUE(os.fired()) << "refused without reason";
                }
                if (i % 40 == 39) {
                    hak_ss_purge(0);
                }
                oracle.check();
                ASSERT_FALSE(HasFailure())
                    << hak_testing::os_call_name(call) << " " << n << " step " << i;
            }
            oracle.release_all();
            oracle.check();
            hak_ss_purge(0);
            oracle.check();
            bool fired = os.fired();
            os.reset();
            hak_ss_purge(0);
            ASSERT_EQ(hak_ss_verify(), 0);
            ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
            ASSERT_EQ(hak_stat_get(heap_dirty_bytes), 0);
            if (!fired) {
                break;
            }
        }
        EXPECT_GT(n, 4u) << hak_testing::os_call_name(call);
    }
}

TEST_F(Pool, WithoutAnyMemoryItFailsAndRecovers)
{
    FailingOs os;
    /* One description is there to be used again. */
    hak_ss_span_free(units(1));
    hak_ss_purge(0);
    ASSERT_EQ(hak_stat_get(superslabs), 0);
    size_t meta_bytes = hak_os_meta_bytes();
    os.fail_always(hak_testing::OS_MMAP);
    errno = 3;
    for (int i = 0; i < 1000; i++) {
        ASSERT_EQ(units(1), nullptr);
    }
    EXPECT_EQ(make_slab(1, 0), nullptr);
    EXPECT_EQ(hak_ss_verify(), 0);
    os.reset();
    void *p = units(1);
    ASSERT_NE(p, nullptr);
    hak_ss_span_free(p);
    EXPECT_EQ(errno, 3);
    EXPECT_EQ(hak_os_meta_bytes(), meta_bytes) << "refusals use no metadata up";
}

/* Address space and metadata do not grow with the number of rounds. */
TEST_F(Pool, NoAddressSpaceLeaks)
{
    int64_t after_first = 0;
    FailingOs os;
    for (int round = 0; round < 4; round++) {
        Oracle oracle(5);
        for (int i = 0; i < 300; i++) {
            ASSERT_TRUE(oracle.step());
        }
        oracle.release_all();
        hak_ss_purge(0);
        if (round == 0) {
            after_first = os.mapped_bytes();
        }
        /* Except for a new leaf of the pointer map, where the system chose other addresses. */
        int64_t more = os.mapped_bytes() - after_first, leaf = sizeof(struct map_leaf);
        EXPECT_EQ(more % leaf, 0);
        EXPECT_LE(more, leaf < 65536 ? 16 * leaf : leaf);
    }
    EXPECT_EQ(hak_stat_get(superslabs), 0);
}

TEST_F(Pool, VerifySeesEachBrokenEquation)
{
    char *p = units(3);
    char *free_unit = p + 3 * SS_UNIT_BYTES;
    ASSERT_EQ(hak_super_lookup(free_unit).kind, SS_FREE_UNIT);
    /* The superslab's description, by way of a slab in it. */
    struct slab *slab = make_slab(1, 0);
    struct superslab *ss = hak_pool_superslab(hak_map_get(slab->base).ref);
    ASSERT_EQ(ss->base, reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(p) & ~(SS_BYTES - 1)));
    hak_pool_slab_free(slab);
    ASSERT_EQ(hak_ss_verify(), 0);
    uint32_t first = static_cast<uint32_t>((reinterpret_cast<uintptr_t>(p) % SS_BYTES) / kGranule);
    struct granules saved = ss->free;
    hak_granules_clear(&ss->free, SS_GRANULES - 1, 1);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_FREE_SET);
    ss->free = saved;
    saved = ss->dirty;
    hak_granules_set(&ss->dirty, first, 1);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_FREE_SET);
    ss->dirty = saved;
    ss->largest_run--;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_RUNS);
    ss->largest_run++;
    ss->n_whole--;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_RUNS);
    ss->n_whole++;
    ss->slab_mask |= 1u << (first / 8);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_SPAN_IN_SLAB);
    ss->slab_mask &= ~(1u << (first / 8));
    ss->slab_mask |= 1u << (first / 8 + 1);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_OVERLAP);
    ss->slab_mask &= ~(1u << (first / 8 + 1));
    saved = ss->dirty;
    hak_granules_clear(&ss->dirty, 0, SS_GRANULES);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_LISTS);
    ss->dirty = saved;
    for (uint64_t *present : {&hak_pool_lists.units_present, &hak_pool_lists.runs_present[0],
                              &hak_pool_lists.runs_present[RUN_BITS / 64 - 1]}) {
        for (uint32_t bit : {7u, 63u}) {
            *present ^= uint64_t{1} << bit;
            EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_PRESENT);
            *present ^= uint64_t{1} << bit;
        }
    }
    ss->span_granules[first] = 23;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_FREE_SET);
    ss->span_granules[first] = 257;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_SPAN_LENGTH);
    ss->span_granules[first] = 24;
    hak_map_set(free_unit, 1, TAG_SPAN, ss->number);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_TAG);
    hak_map_set(free_unit, 1, TAG_FREE_UNIT, ss->number + 1);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_NUMBER);
    hak_map_set(free_unit, 1, TAG_FREE_UNIT, ss->number);
    hak_stat_add(heap_used_bytes, 1);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_TOTALS);
    hak_stat_sub(heap_used_bytes, 1);
    char *other = static_cast<char *>(hak_ss_span_alloc(SS_BYTES, 1, nullptr));
    ASSERT_EQ(hak_ss_span_resize(other, SS_UNIT_BYTES),
              1); /* a second superslab with dirty memory */
    uint64_t since_ns = ss->dirty_since_ns;
    ss->dirty_since_ns = UINT64_MAX;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_AGES);
    ss->dirty_since_ns = since_ns;
    hak_ss_span_free(other);
    EXPECT_EQ(hak_ss_verify(), 0);
    hak_ss_span_free(p);
}

/* Slabs and spans by several threads, a verifying and a purging one among them. */
TEST_F(Pool, ThreadsShareSuperslabs)
{
    int n_bad = 0;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&n_bad, t] {
            Rng rng(t);
            std::vector<char *> spans;
            std::vector<struct slab *> slabs;
            for (int i = 0; i < 800; i++) {
                size_t n = rng.between(1, 8);
                if (rng.one_in(2)) {
                    char *p = units(n);
                    p[0] = p[n * SS_UNIT_BYTES - 1] = static_cast<char>(t + 1);
                    spans.push_back(p);
                } else if (rng.one_in(2)) {
                    slabs.push_back(
                        make_slab(static_cast<uint32_t>(t + 1), static_cast<uint32_t>(n)));
                }
                if (spans.size() > 5) {
                    size_t k = rng.below(spans.size());
                    char *p = spans[k];
                    size_t size = hak_ss_span_size(p);
                    if (p[0] != static_cast<char>(t + 1) ||
                        p[size - 1] != static_cast<char>(t + 1)) {
                        __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                    }
                    hak_ss_span_free(p);
                    spans.erase(spans.begin() + static_cast<long>(k));
                }
                if (slabs.size() > 5) {
                    if (slabs[0]->owner != t + 1) {
                        __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                    }
                    hak_pool_slab_free(slabs[0]);
                    slabs.erase(slabs.begin());
                }
                if (t == 0 && i % 50 == 0) {
                    hak_ss_purge(0);
                }
                if (i % 50 == 25 && hak_ss_verify()) {
                    __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                }
            }
            for (char *p : spans) {
                hak_ss_span_free(p);
            }
            for (struct slab *slab : slabs) {
                hak_pool_slab_free(slab);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_ss_verify(), 0);
}

#if !HAK_SECURE
/* Two threads that have taken fresh memory for a while take it from regions of their own, by turns
   as they may come; and from the other's where the system has no more. */
TEST_F(Pool, GrowingThreadsTakeFreshMemoryApart)
{
    const int kFew = 20, kMany = 60;
    std::vector<char *> spans[2];
    std::set<uintptr_t> regions[2];
    std::atomic<int> turn(0);
    auto grow = [&](int self, int n) {
        for (int i = 0; i < n; i++) {
            while (turn.load() % 2 != self) {
                std::this_thread::yield();
            }
            spans[self].push_back(units(1));
            if (i >= kFew) {
                regions[self].insert(reinterpret_cast<uintptr_t>(spans[self].back()) / SS_BYTES);
            }
            turn++;
        }
    };
    std::thread other([&] { grow(1, kMany); });
    grow(0, kMany);
    other.join();
    for (uintptr_t region : regions[0]) {
        EXPECT_EQ(regions[1].count(region), 0u);
    }
    EXPECT_LE(regions[0].size() + regions[1].size(), 6u);
    EXPECT_EQ(hak_ss_verify(), 0);
    {
        FailingOs os;
        os.fail_always(hak_testing::OS_MMAP);
        char *p;
        while ((p = units(1))) {
            spans[0].push_back(p);
        }
    }
    EXPECT_EQ(hak_stat_get(heap_used_bytes), hak_stat_get(superslabs) * (int64_t)SS_BYTES);
    for (const std::vector<char *> &row : spans) {
        for (char *p : row) {
            hak_ss_span_free(p);
        }
    }
    EXPECT_EQ(hak_ss_verify(), 0);
}

/* Where what is near is the other's, the own superslabs lie behind it. */
TEST_F(Pool, GrowingThreadsMapNoRegionForEachSlab)
{
    const size_t kSpanUnits = 20, kSlabs = 4 * SS_UNITS;
    std::vector<char *> spans;
    std::thread([&] {
        for (int i = 0; i < 40; i++) {
            spans.push_back(units(kSpanUnits));
        }
    }).join();
    spans.push_back(units(SS_UNITS)); /* now this thread grows, too */
    int64_t before = hak_stat_get(superslabs);
    std::vector<struct slab *> slabs;
    while (slabs.size() < kSlabs) {
        slabs.push_back(make_slab(3, 0));
    }
    EXPECT_LE(hak_stat_get(superslabs) - before, int64_t(kSlabs / SS_UNITS));
    EXPECT_EQ(hak_ss_verify(), 0);
    for (struct slab *slab : slabs) {
        hak_pool_slab_free(slab);
    }
    for (char *p : spans) {
        hak_ss_span_free(p);
    }
    EXPECT_EQ(hak_ss_verify(), 0);
}
#endif

using PoolDeathTest = Pool;

TEST_F(PoolDeathTest, FreeOfNoSpanAborts)
{
    const char *message = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    int local;
    char *p = units(3);
    EXPECT_EXIT(hak_ss_span_free(p + 16), testing::KilledBySignal(SIGABRT), message);
    EXPECT_EXIT(hak_ss_span_free(p + SS_UNIT_BYTES), testing::KilledBySignal(SIGABRT), message);
    EXPECT_EXIT(hak_ss_span_free(p + 3 * SS_UNIT_BYTES), testing::KilledBySignal(SIGABRT), message);
    EXPECT_EXIT(hak_ss_span_free(&local), testing::KilledBySignal(SIGABRT), message);
    EXPECT_EXIT(hak_ss_span_free(nullptr), testing::KilledBySignal(SIGABRT), message);
    EXPECT_EXIT(
        {
            hak_ss_span_free(p);
            hak_ss_span_free(p);
        },
        testing::KilledBySignal(SIGABRT), message);
    hak_ss_span_free(p);
}

} // namespace
