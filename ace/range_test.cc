/* Tests of ranges and the system: what happens in the middle of its calls, what it refuses, how
   much goes back in one call, and blocks that are hardly touched. */
#include "ace/range.h"

#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "ace/ace.h"
#include "ace/adapt.h"
#include "ace/range_cache.h"
#include "ace/zero.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "limit/limit.h"
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
const int kMany = HAK_TINY_OR(40, 200);
const uint64_t kPieces = HAK_TINY_OR(2, 1); /* in which 2 MiB go back */

class Range : public testing::Test
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
        hak_limit_most_mappings = LIMIT_MAPPINGS;
        hak_options.ace_keep = UINT64_MAX;
        purge_all();
        EXPECT_EQ(hak_ace_verify(), 0);
        EXPECT_EQ(hak_stat_get(large_bytes), 0);
        EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
        EXPECT_EQ(hak_stat_get(large_clean_bytes), 0);
        EXPECT_EQ(hak_stat_get(large_ranges), 0);
    }
    static void purge_all()
    {
        hak_ace_purge(0);
        hak_ss_purge(0);
    }
};

char *alloc(size_t size)
{
    char *p = static_cast<char *>(hak_ace_alloc(size, 1));
    EXPECT_NE(p, nullptr);
    return p;
}

/* `n` blocks of `size` side by side, cut from one range. */
std::vector<char *> row(int n, size_t size)
{
    hak_ace_free(alloc(static_cast<size_t>(n) * size));
    std::vector<char *> blocks;
    for (int i = 0; i < n; i++) {
        blocks.push_back(alloc(size));
        EXPECT_EQ(blocks.back(), blocks[0] + static_cast<size_t>(i) * size);
    }
    return blocks;
}

void free_all(const std::vector<char *> &blocks)
{
    for (char *p : blocks) {
        hak_ace_free(p);
    }
}

int64_t clean_bytes()
{
    return hak_stat_get(large_clean_bytes);
}

int64_t cached_bytes()
{
    return hak_stat_get(large_cached_bytes);
}

/* Calls the function in the middle of each call that maps, unmaps, moves or advises, unless it is
   such a call itself that calls. The n-th call in `refuse_every` is refused. */
struct Between {
    static inline void (*run)();
    static inline bool is_inside;
    static inline uint64_t n_calls, refuse_every;
    static bool is_refused()
    {
        if (!is_inside) {
            is_inside = true;
            n_calls++;
            run();
            is_inside = false;
            errno = ENOMEM;
            return refuse_every && n_calls % refuse_every == 0;
        }
        return false;
    }
    explicit Between(void (*function)(), uint64_t every = 0)
    {
        run = function;
        refuse_every = every;
        n_calls = 0;
        hak_os_ops.mmap = [](void *at, size_t length, int prot, int flags, int fd, off_t offset) {
            return is_refused() ? MAP_FAILED
                                : hak_os_real_ops.mmap(at, length, prot, flags, fd, offset);
        };
        hak_os_ops.munmap = [](void *at, size_t length) {
            return is_refused() ? -1 : hak_os_real_ops.munmap(at, length);
        };
        hak_os_ops.mremap = [](void *at, size_t length, size_t now, int flags, void *to) {
            return is_refused() ? MAP_FAILED : hak_os_real_ops.mremap(at, length, now, flags, to);
        };
        hak_os_ops.madvise = [](void *at, size_t length, int advice) {
            return is_refused() ? -1 : hak_os_real_ops.madvise(at, length, advice);
        };
    }
    ~Between()
    {
        hak_os_ops = hak_os_real_ops;
    }
};

/* Blocks with a mark at both ends. */
struct Blocks {
    struct Block {
        char *p;
        size_t size;
        char mark;
    };
    std::vector<Block> live;
    Rng rng;
    int n_bad = 0;

    explicit Blocks(uint64_t seed) : rng(seed)
    {
    }
    void write(Block block)
    {
        block.p[0] = block.p[block.size - 1] = block.mark;
        live.push_back(block);
    }
    void make()
    {
        size_t size = rng.between(kMiB + 1, rng.one_in(4) ? 12 * kMiB : 3 * kMiB);
        int kind = static_cast<int>(rng.below(3));
        char *p = static_cast<char *>(kind == 0   ? hak_ace_alloc(size, 1)
                                      : kind == 1 ? hak_ace_alloc_zeroed(size, 1)
                                                  : hak_ace_alloc_growing(size));
        if (p) {
            n_bad += kind == 1 && (p[0] || p[size / 2] || p[size - 1]);
            write({p, size, static_cast<char>(rng.between(1, 100))});
        }
    }
    Block take()
    {
        size_t i = rng.below(live.size());
        Block block = live[i];
        live[i] = live.back();
        live.pop_back();
        n_bad += block.p[0] != block.mark || block.p[block.size - 1] != block.mark;
        return block;
    }
    void resize()
    {
        Block block = take();
        size_t size = rng.between(kMiB, 10 * kMiB);
        char *moved = static_cast<char *>(hak_ace_resize(block.p, size));
        if (moved) {
            n_bad += moved[0] != block.mark;
            block.p = moved;
            block.size = size;
        }
        write(block);
    }
    void step()
    {
        switch (live.size() < 4 ? 0 : rng.below(live.size() > 12 ? 4 : 6)) {
        case 0:
        case 4:
            return make();
        case 1:
        case 5:
            return resize();
        case 2:
            if (rng.one_in(8)) {
                hak_ace_purge(rng.below(2));
            }
            [[fallthrough]];
        default:
            hak_ace_free(take().p);
        }
    }
    void end()
    {
        while (!live.empty()) {
            hak_ace_free(take().p);
        }
    }
};

int n_wrong;

void expect_no_lock()
{
    hak_lock_for_each(
        [](struct lock *lock, void *) {
            n_wrong += lock->rank == LOCK_RANK_ACE && hak_lock_is_mine(lock);
        },
        nullptr);
}

/* The lock is free in every call of the system, also where the call is refused. */
TEST_F(Range, NoCallOfTheSystemWithTheLockHeld)
{
    for (uint64_t refuse_every : {0, 2, 3, 7}) {
        for (int64_t most_mappings : {6, LIMIT_MAPPINGS}) {
            hak_limit_most_mappings = most_mappings;
            hak_options.large_cache_bytes = refuse_every == 3 ? 0 : 20 * kMiB;
            Between between(expect_no_lock, refuse_every);
            Blocks blocks(refuse_every);
            n_wrong = 0;
            for (int i = 0; i < 500; i++) {
                blocks.step();
                ASSERT_EQ(hak_ace_verify(), 0);
            }
            blocks.end();
            hak_ace_purge(0);
            EXPECT_EQ(n_wrong, 0);
            EXPECT_EQ(blocks.n_bad, 0);
            EXPECT_GT(Between::n_calls, 50u);
        }
    }
}

/* Whatever may happen in another thread happens in the middle of each call of the system. */
Blocks *others;

TEST_F(Range, AnythingMayHappenInTheMiddleOfACall)
{
    Blocks inner(5);
    others = &inner;
    n_wrong = 0;
    for (uint64_t refuse_every : {0, 2, 3, 5}) {
        hak_limit_most_mappings = refuse_every == 2 ? 8 : LIMIT_MAPPINGS;
        hak_options.large_cache_bytes = 24 * kMiB;
        Between between(
            [] {
                n_wrong += hak_ace_verify() != 0;
                others->step();
                if (others->rng.one_in(5)) {
                    hak_ace_purge(0);
                }
                n_wrong += hak_ace_verify() != 0;
            },
            refuse_every);
        Blocks outer(refuse_every + 10);
        for (int i = 0; i < 400; i++) {
            outer.step();
            ASSERT_EQ(hak_ace_verify(), 0) << i;
        }
        outer.end();
        hak_ace_purge(0);
        EXPECT_EQ(outer.n_bad + inner.n_bad + n_wrong, 0);
    }
    inner.end();
}

/* A range whose block is being resized keeps its room for itself. */
TEST_F(Range, RoomOfABlockInAResizeStays)
{
    static char *p;
    p = static_cast<char *>(hak_ace_alloc_growing(2 * kMiB));
    memset(p, 1, 2 * kMiB);
    ASSERT_GT(hak_ace_room(), 0u);
    static size_t went;
    went = 0;
    {
        Between between([] { went += hak_range_purge_room(); });
        EXPECT_EQ(hak_ace_resize(p, kMiB), p); /* its end is purged */
        EXPECT_GE(Between::n_calls, 1u);
    }
    EXPECT_EQ(went, 0u);
    EXPECT_GT(hak_range_purge_room(), 0u);
    hak_ace_free(p);
}

uint64_t n_calls(const FailingOs &os)
{
    return os.calls(hak_testing::OS_MUNMAP) + os.calls(hak_testing::OS_MADVISE);
}

/* What cannot be unmapped is purged and stays, and is not asked for again. */
TEST_F(Range, WhatCannotBeUnmappedIsPurgedOnce)
{
    std::vector<char *> blocks = row(kMany, 2 * kMiB);
    hak_options.large_cache_bytes = 0;
    FailingOs os;
    os.fail_always(hak_testing::OS_MUNMAP);
    for (int i = 1; i < kMany; i += 2) {
        char *p = blocks[static_cast<size_t>(i)];
        p[0] = 1;
        uint64_t before = n_calls(os);
        hak_ace_free(p);
        EXPECT_LE(n_calls(os) - before, kPieces + 2); /* emptied, refused, purged */
        EXPECT_EQ(resident(p, 2 * kMiB), 0u);
        ASSERT_EQ(hak_ace_verify(), 0);
    }
    EXPECT_LE(os.calls(hak_testing::OS_MUNMAP), 2u) << "after a refusal only what costs no mapping";
    EXPECT_EQ(cached_bytes(), 0);
    EXPECT_EQ(clean_bytes(), static_cast<int64_t>(kMany) / 2 * 2 * static_cast<int64_t>(kMiB));
    /* It serves again, as zeroed memory, and without a call. */
    uint64_t before = n_calls(os), n_mmap = os.calls(hak_testing::OS_MMAP);
    char *p = static_cast<char *>(hak_ace_alloc_zeroed(2 * kMiB, 1));
    EXPECT_EQ(p[0], 0);
    EXPECT_EQ(n_calls(os), before);
    EXPECT_EQ(os.calls(hak_testing::OS_MMAP), n_mmap);
    hak_ace_free(p);
    /* A trim asks once more. */
    before = os.calls(hak_testing::OS_MUNMAP);
    hak_ace_purge(0);
    EXPECT_EQ(os.calls(hak_testing::OS_MUNMAP) - before, 1u);
    os.reset();
    hak_ace_purge(0);
    EXPECT_EQ(clean_bytes(), 0);
    for (int i = 0; i < kMany; i += 2) {
        hak_ace_free(blocks[static_cast<size_t>(i)]);
    }
}

/* Nor is what cannot be purged at all, until a trim. */
TEST_F(Range, WhatIsRefusedAltogetherIsAskedForByATrimOnly)
{
    hak_limit_most_mappings = 0; /* pages alone go back, where both neighbours stay */
    std::vector<char *> blocks = row(21, 2 * kMiB);
    hak_options.large_cache_bytes = 0;
    FailingOs os;
    os.fail_always(hak_testing::OS_MADVISE);
    for (size_t i = 1; i < 21; i += 2) {
        uint64_t before = n_calls(os);
        hak_ace_free(blocks[i]);
        EXPECT_EQ(n_calls(os) - before, kPieces) << "the block's own";
        ASSERT_EQ(hak_ace_verify(), 0);
    }
    EXPECT_EQ(cached_bytes(), static_cast<int64_t>(20 * kMiB));
    EXPECT_EQ(clean_bytes(), 0);
    uint64_t before = n_calls(os);
    EXPECT_EQ(hak_ace_purge(0), 0u);
    EXPECT_EQ(n_calls(os) - before, 10u) << "each once";
    EXPECT_EQ(hak_ace_purge(1), 0u);
    EXPECT_EQ(hak_range_purge_excess(), 0u);
    EXPECT_EQ(n_calls(os) - before, 10u);
    /* They serve again. */
    char *p = alloc(2 * kMiB);
    EXPECT_EQ(cached_bytes(), static_cast<int64_t>(18 * kMiB));
    os.reset();
    hak_ace_free(p);
    EXPECT_EQ(hak_ace_purge(0), 18 * kMiB);
    EXPECT_EQ(cached_bytes(), 0);
    for (size_t i = 0; i < 21; i += 2) {
        hak_ace_free(blocks[i]);
    }
}

/* From half of the system's limit on no holes are made, and neighbours become one. */
TEST_F(Range, ManyMappingsMakeNoHoles)
{
    hak_limit_most_mappings = 3;
    std::vector<char *> blocks = row(kMany, 2 * kMiB);
    hak_options.large_cache_bytes = 0;
    FailingOs os;
    for (int i = 1; i < kMany - 1; i++) {
        hak_ace_free(blocks[static_cast<size_t>(i)]);
        ASSERT_EQ(hak_ace_verify(), 0);
    }
    EXPECT_EQ(os.calls(hak_testing::OS_MUNMAP), 0u);
    EXPECT_EQ(clean_bytes(), static_cast<int64_t>(kMany - 2) * 2 * static_cast<int64_t>(kMiB));
    EXPECT_EQ(hak_stat_get(large_ranges), 3);
    /* A hole at an end costs nothing. */
    hak_ace_free(blocks.back());
    EXPECT_EQ(os.calls(hak_testing::OS_MUNMAP), kPieces);
    /* A request that is refused gets it. */
    os.fail(hak_testing::OS_MMAP, 1);
    char *p = alloc(1024 * kMiB);
    EXPECT_EQ(clean_bytes(), 0);
    hak_ace_free(p);
    hak_ace_free(blocks[0]);
}

/* Clean address space counts against the limit when it is used. */
TEST_F(Range, CleanRangesAreCommittedWhenTheyAreUsed)
{
    hak_limit_most_mappings = 0;
    std::vector<char *> blocks = row(3, 4 * kMiB);
    int64_t before = hak_stat_get(committed_bytes), mapped = hak_stat_get(mapped_bytes);
    hak_options.large_cache_bytes = 0;
    hak_ace_free(blocks[1]);
    EXPECT_EQ(before - hak_stat_get(committed_bytes), static_cast<int64_t>(4 * kMiB));
    EXPECT_EQ(hak_stat_get(mapped_bytes), mapped);
    /* Its neighbour grows into it. */
    EXPECT_EQ(hak_ace_resize(blocks[0], 6 * kMiB), blocks[0]);
    EXPECT_EQ(blocks[0][5 * kMiB], 0);
    EXPECT_EQ(before - hak_stat_get(committed_bytes), static_cast<int64_t>(2 * kMiB));
    EXPECT_EQ(hak_stat_get(mapped_bytes), mapped);
    ASSERT_EQ(hak_ace_verify(), 0);
    hak_ace_free(blocks[0]);
    hak_ace_free(blocks[2]);
}

/* Much falls due at once: each free purges in proportion, in pieces, and in the end all is
   gone. */
size_t longest_unmap, all_unmapped;

/* Without what hak_map_purge claims for a moment. */
void watch_unmaps()
{
    static void *claimed;
    longest_unmap = all_unmapped = 0;
    hak_os_ops.mmap = [](void *at, size_t length, int prot, int flags, int fd, off_t offset) {
        void *p = hak_os_real_ops.mmap(at, length, prot, flags, fd, offset);
        claimed = flags & MAP_FIXED_NOREPLACE ? p : claimed;
        return p;
    };
    hak_os_ops.munmap = [](void *at, size_t length) {
        if (at != claimed) {
            longest_unmap = length > longest_unmap ? length : longest_unmap;
            all_unmapped += length;
        }
        claimed = NULL;
        return hak_os_real_ops.munmap(at, length);
    };
}

TEST_F(Range, ABacklogGoesBackLittleByLittle)
{
    FakeClock clock;
    std::vector<char *> blocks = row(100, 2 * kMiB);
    hak_ace_free(alloc(150 * kMiB)); /* one range */
    clock.advance_ms(1000);
    hak_options.purge_delay_ms = 500;
    hak_adapt_forget();
    watch_unmaps();
    size_t n = 0;
    for (; n < 100 && cached_bytes() > static_cast<int64_t>(4 * kMiB); n++) {
        size_t before = all_unmapped;
        hak_ace_free(blocks[n]);
        EXPECT_GT(all_unmapped, before);
        EXPECT_LE(all_unmapped - before, 12 * kMiB);
        ASSERT_EQ(hak_ace_verify(), 0);
        clock.advance_ms(1000);
    }
    EXPECT_LE(longest_unmap, 8 * kMiB);
    EXPECT_GT(n, 10u);
    EXPECT_LE(cached_bytes(), static_cast<int64_t>(4 * kMiB));
    for (; n < 100; n++) {
        hak_ace_free(blocks[n]);
    }
}

/* A trim too asks for pieces. */
TEST_F(Range, ATrimGoesByPieces)
{
    char *p = alloc(100 * kMiB + 3 * kUnit);
    hak_ace_free(p);
    watch_unmaps();
    EXPECT_EQ(hak_ace_purge(0), 100 * kMiB + 3 * kUnit);
    EXPECT_LE(longest_unmap, 8 * kMiB);
    EXPECT_EQ(all_unmapped, 100 * kMiB + 3 * kUnit);
}

/* What is cut off a cached range is as old as the rest. */
TEST_F(Range, TheRestOfARangeKeepsItsAge)
{
    FakeClock clock;
    std::vector<char *> blocks = row(4, 10 * kMiB);
    hak_ace_free(blocks[0]);
    clock.advance_ms(100);
    hak_ace_free(blocks[2]);
    char *p = alloc(9 * kMiB);
    char *cut = alloc(3 * kMiB);
    ASSERT_EQ(p, blocks[2]);
    ASSERT_EQ(cut, blocks[0]);
    clock.advance_ms(50);
    size_t went = 0;
    while (size_t bytes = hak_ace_purge(150)) {
        went += bytes;
    }
    EXPECT_EQ(went, 7 * kMiB);
    hak_ace_free(p);
    hak_ace_free(cut);
    hak_ace_free(blocks[1]);
    hak_ace_free(blocks[3]);
}

/* Blocks that are hardly touched do not gather their earlier owners' pages. */
TEST_F(Range, SparseBlocksStaySparse)
{
    const size_t n = 20;
    std::vector<char *> slots(n);
    std::vector<size_t> sizes(n);
    Rng rng(3);
    for (int i = 0; i < 4000; i++) {
        size_t at = rng.below(n), size = rng.between(kMiB + kUnit, 4 * kMiB);
        if (slots[at]) {
            hak_ace_free(slots[at]);
        }
        slots[at] = alloc(size);
        sizes[at] = size;
        memset(slots[at], 1, size / 50);
    }
    size_t all = 0, pages = 0;
    for (size_t at = 0; at < n; at++) {
        if (slots[at]) {
            all += sizes[at];
            pages += resident(slots[at], sizes[at] / 4096 * 4096);
        }
    }
    EXPECT_LT(pages, all / 4);
    free_all(slots);
}

/* Where blocks are written everywhere their pages are worth more than a call. */
TEST_F(Range, DenseBlocksAreReusedAsTheyAre)
{
    FailingOs os;
    uint64_t before = 0;
    for (int i = 0; i < 100; i++) {
        size_t size = kMiB + kUnit * static_cast<size_t>(1 + i % 9);
        char *p = alloc(size);
        memset(p, 1, size);
        hak_ace_free(p);
        if (i == 9) { /* what the largest lacked was fetched */
            before = os.calls(hak_testing::OS_MADVISE);
        }
    }
    EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), before);
}

/* Fresh pages come together where blocks are written everywhere, and one by one where they are not,
   and in the secure variant. */
TEST_F(Range, FreshPagesOfDenseBlocksComeTogether)
{
    const size_t size = 2 * kMiB + 100;
    for (size_t part : {1u, 50u}) {
        hak_zero_forget();
        char *p = alloc(size);
        EXPECT_EQ(resident(p, 2 * kMiB), 0u) << "nothing is known";
        memset(p, 1, size / part);
        hak_ace_free(p);
        (void)hak_ace_purge(0);
        errno = 11;
        p = alloc(size);
        EXPECT_EQ(errno, 11);
        bool is_whole = part == 1 && can_populate() && !HAK_SECURE;
        EXPECT_EQ(resident(p, 2 * kMiB + 4096), is_whole ? 2 * kMiB + 4096 : 0) << part;
        hak_ace_free(p);
        (void)hak_ace_purge(0);
    }
}

TEST_F(Range, EveryCallOfTheSystemFailsInTurn)
{
    for (OsCall call : {hak_testing::OS_MMAP, hak_testing::OS_MUNMAP, hak_testing::OS_MREMAP,
                        hak_testing::OS_MADVISE}) {
        uint64_t n = 1;
        for (bool fired = true; fired; n++) {
            hak_limit_most_mappings = 6;
            hak_options.large_cache_bytes = 8 * kMiB;
            FailingOs os;
            os.fail(call, n);
            Blocks blocks(call + 1);
            for (int i = 0; i < 60; i++) {
                blocks.step();
                ASSERT_EQ(hak_ace_verify(), 0)
                    << hak_testing::os_call_name(call) << " " << n << " step " << i;
            }
            blocks.end();
            hak_ace_purge(0);
            ASSERT_EQ(hak_ace_verify(), 0);
            ASSERT_EQ(blocks.n_bad, 0);
            fired = os.fired();
            os.reset();
            hak_limit_most_mappings = LIMIT_MAPPINGS;
            purge_all();
            ASSERT_EQ(hak_stat_get(large_ranges), 0);
        }
        EXPECT_GT(n, 3u) << hak_testing::os_call_name(call) << " was hardly called";
    }
}

/* Threads that share what is cached, while the system refuses now and then. */
std::atomic<uint64_t> n_asked;

bool is_refused_now()
{
    errno = ENOMEM;
    return n_asked.fetch_add(1, std::memory_order_relaxed) % 7 == 0;
}

TEST_F(Range, ThreadsWhileTheSystemRefuses)
{
    hak_options.large_cache_bytes = 20 * kMiB;
    hak_limit_most_mappings = 30;
    hak_os_ops.munmap = [](void *at, size_t length) {
        return is_refused_now() ? -1 : hak_os_real_ops.munmap(at, length);
    };
    hak_os_ops.madvise = [](void *at, size_t length, int advice) {
        return is_refused_now() ? -1 : hak_os_real_ops.madvise(at, length, advice);
    };
    hak_os_ops.mremap = [](void *at, size_t length, size_t now, int flags, void *to) {
        return is_refused_now() ? MAP_FAILED : hak_os_real_ops.mremap(at, length, now, flags, to);
    };
    std::atomic<int> n_bad(0);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&n_bad, t] {
            Blocks blocks(100 + t);
            for (int i = 0; i < 1500; i++) {
                blocks.step();
                if (i % 10 == 0) {
                    n_bad += hak_ace_verify() != 0;
                }
            }
            blocks.end();
            n_bad += blocks.n_bad;
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_EQ(hak_ace_verify(), 0);
}

TEST_F(Range, VerifyLooksAtEachKind)
{
    hak_limit_most_mappings = 0;
    std::vector<char *> blocks = row(5, 2 * kMiB);
    hak_ace_free(blocks[1]);
    EXPECT_EQ(hak_ace_purge(0), 2 * kMiB);
    hak_ace_free(blocks[3]);
    struct range *clean = hak_range_cached_at(blocks[1]), *dirty = hak_range_cached_at(blocks[3]);
    ASSERT_EQ(clean->kind, RANGE_CLEAN);
    ASSERT_EQ(dirty->kind, RANGE_DIRTY);
    EXPECT_EQ(hak_ace_verify(), 0);
    clean->kind = RANGE_DIRTY;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_LISTS);
    clean->kind = RANGE_CLEAN;
    dirty->dirt = dirty->bytes + 1;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_LISTS);
    dirty->dirt = 0;
    hak_range_records.class_cached[0]++;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_LISTS);
    hak_range_records.class_cached[0]--;
    hak_range_records.n_busy++;
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_TOTALS);
    hak_range_records.n_busy--;
    hak_stat_add(large_clean_bytes, 1);
    EXPECT_EQ(hak_ace_verify(), VERIFY_RANGE_TOTALS);
    hak_stat_sub(large_clean_bytes, 1);
    EXPECT_EQ(hak_ace_verify(), 0);
    hak_limit_most_mappings = LIMIT_MAPPINGS;
    for (size_t i : {0, 2, 4}) {
        hak_ace_free(blocks[i]);
    }
}

} // namespace
