/* Tests of what may be left to libc: nothing by default, and what each option allows; such blocks
   go through the whole API. */
#include "base/attributes.h"
#include "hakmem/fallback.h"

#include <atomic>
#include <climits>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <malloc.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "limit/limit.h"
#include "testing/count_malloc.h"
#include "testing/in_child.h"
#include "testing/rng.h"
#include "testing/steps.h"

namespace
{

class Fallback : public testing::Test
{
  protected:
    void SetUp() override
    {
        if (!HAK_COUNTS_MALLOC) {
            GTEST_SKIP() << "the sanitizer stands in for some of libc's names and not for others";
        }
        hak_free(hak_malloc(1));
        before = hak_stat_get(libc_fallbacks);
    }
    void TearDown() override
    {
        hak_options.ld_safe = 0;
        hak_options.ld_block_jemalloc = 0;
        hak_limit_configure(0, 0);
        EXPECT_EQ(hak_verify(), 0);
    }
    int64_t fallbacks() const
    {
        return hak_stat_get(libc_fallbacks) - before;
    }
    int64_t before;
};

TEST_F(Fallback, NothingByDefault)
{
    hak_limit_configure(0, 1);
    for (size_t size : {size_t(100), size_t(33000), size_t(5000000)}) {
        std::vector<void *> all;
        void *p;
        while ((p = hak_malloc(size))) {
            all.push_back(p);
        }
        for (void *q : all) {
            EXPECT_EQ(hak_owns(q), 1);
            hak_free(q);
        }
    }
    EXPECT_EQ(fallbacks(), 0);
}

/* Who opens the gate may be a signal handler that has interrupted libc's malloc: a block that was
   freed while it was closed waits for the next call. */
TEST_F(Fallback, FreedDuringAFork)
{
    hak_options.ld_safe = 1;
    hak_limit_configure(0, 1);
    void *p = hak_malloc(200000), *q = hak_malloc(200000), *r = hak_malloc(200000);
    ASSERT_EQ(fallbacks(), 3);
    hak_gate_close();
    std::thread([&] {
        hak_free(p);
        hak_free(q);
    }).join();
    EXPECT_TRUE(hak_fallback_holds(p) && hak_fallback_holds(q));
    hak_gate_open();
    EXPECT_TRUE(hak_fallback_holds(p) && hak_fallback_holds(q));
    hak_free(r);
    EXPECT_FALSE(hak_fallback_holds(p) || hak_fallback_holds(q) || hak_fallback_holds(r));
    p = hak_malloc(200000);
    hak_gate_close();
    std::thread([&] { hak_free(p); }).join();
    hak_fallback_catch_up();
    EXPECT_TRUE(hak_fallback_holds(p)) << "as long as the gate is closed";
    hak_gate_open();
    (void)hak_purge();
    EXPECT_FALSE(hak_fallback_holds(p));
}

void free_twice_during_a_fork()
{
    hak_options.ld_safe = 1;
    hak_limit_configure(0, 1);
    void *p = hak_malloc(200000);
    hak_gate_close();
    std::thread([&] {
        hak_free(p);
        hak_free(p);
    }).join();
    hak_gate_open();
    (void)hak_purge();
}

TEST_F(Fallback, FreedTwiceDuringAFork)
{
    EXPECT_DEATH(free_twice_during_a_fork(), "block freed twice");
}

#if HAK_CAN_STEP

int n_steps, close_at;
std::atomic<bool> is_wanted_closed, may_open;

/* Another thread closes the gate. */
void close_here(int, siginfo_t *, void *context)
{
    if (++n_steps == close_at) {
        hak_testing::end_steps(context);
        is_wanted_closed = true;
        while (!hak_gate_is_closed()) {
            usleep(10);
        }
    }
}

/* Blocks have waited, and the gate closes again after that many instructions of their end. Dies, or
   all are free in the end. */
void close_in_the_middle(int after, bool is_double)
{
    alarm(60);
    hak_options.ld_safe = 1;
    hak_limit_configure(0, 1);
    void *blocks[3], *last = hak_malloc(200000);
    for (void *&p : blocks) {
        p = hak_malloc(200000);
    }
    blocks[2] = is_double ? blocks[0] : blocks[2];
    hak_gate_close();
    std::thread([&] {
        for (void *p : blocks) {
            hak_free(p);
        }
    }).join();
    hak_gate_open();
    is_wanted_closed = may_open = false;
    std::thread closer([] {
        while (!is_wanted_closed) {
            usleep(10);
        }
        hak_gate_close();
        while (!may_open) {
            usleep(10);
        }
        hak_gate_open();
    });
    n_steps = 0;
    close_at = after;
    {
        hak_testing::OnStep closes(close_here);
        hak_testing::with_steps([] { hak_fallback_catch_up(); });
    }
    hak_free(last); /* joins them where the gate is closed */
    is_wanted_closed = may_open = true;
    closer.join();
    hak_fallback_catch_up();
    for (void *p : blocks) {
        ASSERT_FALSE(hak_fallback_holds(p));
    }
    ASSERT_FALSE(hak_fallback_holds(last));
}

/* Where the gate closes upon them again, nothing is written into what libc has back. */
TEST_F(Fallback, TheGateClosesWhileTheyAreFreed)
{
    close_in_the_middle(INT_MAX, false);
    const int n_all = n_steps;
    EXPECT_GT(n_all, 300);
    for (int at = 1; at <= n_all && !HasFailure(); at += n_all / 20 + 1) {
        hak_testing::in_child([at] { close_in_the_middle(at, false); });
        EXPECT_DEATH(close_in_the_middle(at, true), "block freed twice");
    }
}

#endif

/* 1: what hakmem cannot serve. */
TEST_F(Fallback, RefusedRequests)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "usable sizes of containers";
    }
    hak_options.ld_safe = 1;
    void *ours = hak_malloc(100000);
    EXPECT_EQ(hak_owns(ours), 1);
    hak_limit_configure(0, 1);
    char *theirs = static_cast<char *>(hak_malloc(200000));
    ASSERT_NE(theirs, nullptr);
    EXPECT_EQ(hak_owns(theirs), 0);
    EXPECT_EQ(hak_usable_size(theirs), 200000u);
    EXPECT_EQ(fallbacks(), 1);
    theirs[199999] = 7;
    /* From libc to libc, and back when there is room. */
    theirs = static_cast<char *>(hak_realloc(theirs, 5000000));
    ASSERT_NE(theirs, nullptr);
    EXPECT_EQ(hak_owns(theirs), 0);
    EXPECT_EQ(theirs[199999], 7);
    hak_limit_configure(0, 0);
    theirs = static_cast<char *>(hak_realloc(theirs, 300000));
    EXPECT_EQ(hak_owns(theirs), 1);
    EXPECT_EQ(theirs[199999], 7);
    hak_free(theirs);
    hak_free(ours);
    hak_limit_configure(0, 1);
    unsigned char *zeroed = static_cast<unsigned char *>(hak_calloc(1000, 999));
    ASSERT_NE(zeroed, nullptr);
    for (size_t i = 0; i < 999000; i++) {
        ASSERT_EQ(zeroed[i], 0);
    }
    void *aligned = hak_aligned_alloc(1 << 20, 40000);
    ASSERT_NE(aligned, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % (1 << 20), 0u);
    hak_free(aligned);
    hak_free(zeroed);
}

/* 2: everything. Threads allocate and free each other's, at random sizes. */
TEST_F(Fallback, Everything)
{
    hak_options.ld_safe = 2;
    (void)hak_purge(); /* what the secure variant has in its hand */
    std::vector<std::thread> threads;
    std::vector<std::pair<unsigned char *, size_t>> blocks[4];
    for (unsigned t = 0; t < 4; t++) {
        threads.emplace_back([&blocks, t] {
            hak_testing::Rng rng(t);
            for (int i = 0; i < 2000; i++) {
                size_t size = rng.between(0, rng.one_in(10) ? 100000 : 300);
                auto *p = static_cast<unsigned char *>(rng.one_in(2) ? hak_malloc(size)
                                                                     : hak_calloc(1, size));
                memset(p, static_cast<int>(t + 1), size);
                if (rng.one_in(3)) {
                    hak_free(p);
                } else {
                    blocks[t].push_back({p, size});
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(fallbacks(), 8000);
    std::thread other([&blocks] {
        for (unsigned t = 0; t < 4; t++) {
            for (auto &block : blocks[t]) {
                for (size_t i = 0; i < block.second; i++) {
                    if (block.first[i] != t + 1) {
                        ADD_FAILURE() << "contents";
                        break;
                    }
                }
                EXPECT_EQ(hak_owns(block.first), 0);
                EXPECT_GE(hak_usable_size(block.first), block.second);
                hak_free(block.first);
            }
        }
    });
    other.join();
}

/* Whatever the alignment and the size (except for the class that SetUp has blocks of), and through
   each function that takes one. */
void expect_aligned(int (*owned)(const void *))
{
    for (size_t align = 16; align <= 65536; align *= 2) {
        for (size_t size = 20; size <= 200000; size = size * 3 + 1) {
            void *blocks[3] = {hak_aligned_alloc(align, size), hak_memalign(align, size), nullptr};
            EXPECT_EQ(hak_posix_memalign(&blocks[2], align, size), 0);
            for (void *p : blocks) {
                ASSERT_NE(p, nullptr);
                EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u) << align << " " << size;
                EXPECT_EQ(owned(p), 0);
                EXPECT_GE(hak_usable_size(p), size);
                memset(p, 1, size);
                hak_free(p);
            }
        }
    }
}

TEST_F(Fallback, EverythingIsAligned)
{
    hak_options.ld_safe = 2;
    (void)hak_purge(); /* what the secure variant has in its hand */
    expect_aligned(hak_owns);
    if (!HAK_SECURE) { /* which asks for large containers first */
        EXPECT_EQ(fallbacks(), 13 * 9 * 3);
    }
}

TEST_F(Fallback, RefusedRequestsAreAligned)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "containers of other sizes are asked for";
    }
    /* What bins and slabs still have is taken first. */
    hak_limit_configure(0, 1);
    std::vector<void *> all;
    for (size_t align = 16; align <= 65536; align *= 2) {
        for (size_t size = 20; size <= 200000; size = size * 3 + 1) {
            while (void *p = hak_aligned_alloc(align, size)) {
                all.push_back(p);
            }
        }
    }
    hak_options.ld_safe = 1;
    expect_aligned(hak_owns);
    if (!HAK_SECURE) { /* which asks for large containers first */
        EXPECT_EQ(fallbacks(), 13 * 9 * 3);
    }
    for (void *p : all) {
        hak_free(p);
    }
}

/* Under a limit that has room for the smaller of them, and at times for a block but not for what a
   variant lays around it: each is served, by hakmem or by libc, and none for ever. */
TEST_F(Fallback, AlignedWhereTheLimitIsNear)
{
    alarm(60);
    hak_options.ld_safe = 1;
    for (size_t mib = 1; mib <= 6; mib++) {
        hak_limit_configure(0, static_cast<size_t>(hak_stat_get(committed_bytes)) + (mib << 20));
        std::vector<void *> all;
        for (size_t align = 32; align <= 65536; align *= 2) {
            for (size_t size : {100, 5000, 40000, 100000, 400000}) {
                void *p = hak_aligned_alloc(align, size);
                ASSERT_NE(p, nullptr);
                EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u) << align << " " << size;
                memset(p, 1, size);
                all.push_back(p);
            }
        }
        for (void *p : all) {
            hak_free(p);
        }
    }
    alarm(0);
}

/* The class of such blocks has free ones, at no such place; those of the others have none, and the
   limit is reached. */
TEST_F(Fallback, AlignedWhereOtherBlocksAreFree)
{
    alarm(60);
    hak_options.ld_safe = 1;
    hak_limit_configure(0, static_cast<size_t>(hak_stat_get(committed_bytes)) + (4 << 20));
    std::vector<void *> all;
    for (void *p; all.size() < 4000 && (p = hak_malloc(4000)) != nullptr;) {
        all.push_back(p);
    }
    for (size_t i = 0; i < all.size(); i += 2) {
        hak_free(all[i]);
        all[i] = nullptr;
    }
    for (int i = 0; i < 300; i++) {
        void *p = hak_aligned_alloc(4096, 4096);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 4096, 0u);
        memset(p, 1, 4096);
        all.push_back(p);
    }
    for (void *p : all) {
        hak_free(p);
    }
    alarm(0);
}

/* There is no jemalloc in this process: nothing is left to libc. */
TEST_F(Fallback, WithoutJemallocNothing)
{
    hak_options.ld_block_jemalloc = 1;
    EXPECT_EQ(hak_fallback_all(), 0);
    void *p = hak_malloc(100);
    EXPECT_EQ(hak_owns(p), 1);
    hak_free(p);
    EXPECT_EQ(fallbacks(), 0);
}

TEST_F(Fallback, APointerOfNeitherStillAborts)
{
    hak_options.ld_safe = 1;
    hak_limit_configure(0, 1);
    void *p = hak_malloc(5000001);
    ASSERT_NE(p, nullptr);
    ASSERT_EQ(hak_owns(p), 0);
    int local;
    EXPECT_EXIT(hak_free(&local), testing::KilledBySignal(SIGABRT),
                "invalid pointer freed \\(not allocated by hakmem\\)");
    EXPECT_EXIT(hak_free(static_cast<char *>(p) + 16), testing::KilledBySignal(SIGABRT),
                "invalid pointer freed");
    EXPECT_EXIT(
        {
            hak_free(p);
            hak_free(p);
        },
        testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    hak_free(p);
    /* Where libc serves all, it finds what it finds. */
    hak_options.ld_safe = 2;
    (void)hak_purge(); /* what the secure variant has in its hand */
    p = hak_malloc(5000001);
    EXPECT_EXIT(hak_free(static_cast<char *>(p) + 8), testing::KilledBySignal(SIGABRT),
                "\\(\\): invalid pointer");
    hak_free(p);
}

/* libc's blocks and hakmem's are the same then, wherever they come from and go. */
TEST_F(Fallback, BlocksCrossOver)
{
    hak_options.ld_safe = 2;
    (void)hak_purge(); /* what the secure variant has in its hand */
    for (size_t size = 20; size < 5000000; size = size * 3 + 1) {
        char *p = static_cast<char *>(malloc(size));
        memset(p, 1, size);
        EXPECT_EQ(hak_usable_size(p), malloc_usable_size(p));
        p = static_cast<char *>(hak_realloc(p, 2 * size));
        EXPECT_EQ(p[0] + p[size - 1], 2);
        free(p);
        hak_free(aligned_alloc(4096, size));
        p = static_cast<char *>(hak_aligned_alloc(4096, size));
        EXPECT_EQ(hak_usable_size(p), malloc_usable_size(p));
        free(p);
        hak_free(calloc(1, size));
        free(hak_calloc(1, size));
    }
    EXPECT_EQ(hak_usable_size(nullptr), 0u);
}

} // namespace
