/* Tests of the purge of slabs in use: all that may happen to a slab while the system is asked, with
   no lock held, for its pages. The system's call is replaced by one that does it. */
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/lock.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/parked.h"
#include "heap/theap.h"
#include "owner/owner.h"
#include "superslab/map.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"
#include "testing/rng.h"
#include "tiny/tiny.h"

namespace
{

/* Does something at the first madvise of one slab. */
class AtPurgeOf
{
  public:
    AtPurgeOf(const void *block, std::function<void()> action)
    {
        unit() = reinterpret_cast<uintptr_t>(block) / SS_UNIT_BYTES;
        what() = std::move(action);
        hak_os_ops.madvise = hook;
    }
    ~AtPurgeOf()
    {
        hak_os_ops.madvise = hak_os_real_ops.madvise;
        EXPECT_FALSE(what()) << "the slab was not purged";
    }
    AtPurgeOf(const AtPurgeOf &) = delete;
    AtPurgeOf &operator=(const AtPurgeOf &) = delete;

  private:
    static uintptr_t &unit()
    {
        static uintptr_t u;
        return u;
    }
    static std::function<void()> &what()
    {
        static std::function<void()> f;
        return f;
    }
    static int hook(void *addr, size_t length, int advice)
    {
        if (what() && reinterpret_cast<uintptr_t>(addr) / SS_UNIT_BYTES == unit()) {
            std::function<void()> action;
            action.swap(what());
            action();
        }
        return hak_os_real_ops.madvise(addr, length, advice);
    }
};

size_t count_blocks(struct hak_heap *heap)
{
    size_t n = 0;
    auto visit = [](void *, size_t, void *context) {
        ++*static_cast<size_t *>(context);
        return 0;
    };
    EXPECT_EQ(hak_heap_walk(heap, visit, &n), 0);
    return n;
}

class Trim : public testing::Test
{
  protected:
    void SetUp() override
    {
        if (hak_os_page_size() != 4096) {
            GTEST_SKIP() << "pages of 4 KiB";
        }
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
        heap = hak_heap_create();
    }
    void TearDown() override
    {
        hak_heap_destroy(heap);
        EXPECT_EQ(hak_verify(), 0);
        (void)hak_purge();
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    /* Most of a slab's blocks of 1 KiB, of which the second half is free again. */
    std::vector<char *> half_a_slab()
    {
        std::vector<char *> blocks;
        for (int i = 0; i < 60; i++) {
            blocks.push_back(static_cast<char *>(hak_heap_malloc(heap, 1024)));
            memset(blocks.back(), 1, 1024);
        }
        for (int i = 30; i < 60; i++) {
            hak_free(blocks[static_cast<size_t>(i)]);
        }
        blocks.resize(30);
        return blocks;
    }
    struct hak_heap *heap = nullptr;
};

TEST_F(Trim, GivesBackEveryPageOfFreeBlocks)
{
    const size_t n = 64 * 100;
    std::vector<char *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(static_cast<char *>(hak_malloc(1024)));
        memset(blocks.back(), 1, 1024);
    }
    for (size_t i = 0; i < n; i++) {
        if (i % 64) {
            hak_free(blocks[i]);
        }
    }
    EXPECT_GE(hak_purge(), n / 64 * 14 * 4096) << "15 of 16 pages, about";
    for (size_t i = 0; i < n; i += 64) {
        EXPECT_EQ(std::count(blocks[i], blocks[i] + 1024, 1), 1024);
        hak_free(blocks[i]);
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Trim, NoLockIsHeldWhileTheSystemIsAsked)
{
    std::vector<char *> blocks = half_a_slab();
    static int n_mine;
    n_mine = -1;
    {
        AtPurgeOf hook(blocks[0], [] {
            n_mine = 0;
            hak_lock_for_each([](struct lock *lock, void *) { n_mine += hak_lock_is_mine(lock); },
                              nullptr);
        });
        EXPECT_GT(hak_theap_purge_all(), 0u);
    }
    EXPECT_EQ(n_mine, 0);
}

/* To lookups, walks, verifiers and frees nothing has changed; no block of the slab is served. */
TEST_F(Trim, AllElseGoesOnMeanwhile)
{
    std::vector<char *> blocks = half_a_slab();
    char *freed = blocks[0] + 59 * 1024, *served = nullptr;
    auto unit = [](const void *p) { return reinterpret_cast<uintptr_t>(p) / SS_UNIT_BYTES; };
    ASSERT_EQ(unit(freed), unit(blocks[0]));
    {
        AtPurgeOf hook(blocks[0], [&] {
            EXPECT_EQ(hak_verify(), 0);
            EXPECT_EQ(count_blocks(heap), 30u);
            EXPECT_EQ(hak_super_lookup(freed).is_allocated, 0);
            EXPECT_EQ(hak_super_lookup(blocks[29]).is_allocated, 1);
            hak_free(blocks[29]);
            EXPECT_EQ(hak_super_lookup(blocks[29]).is_allocated, 0);
            served = static_cast<char *>(hak_heap_malloc(heap, 1024));
            EXPECT_NE(unit(served), unit(freed));
            (void)hak_purge();
            EXPECT_EQ(hak_verify(), 0);
        });
        EXPECT_GT(hak_purge(), 0u);
    }
    EXPECT_EQ(count_blocks(heap), 30u);
    hak_free(served);
    std::vector<char *> again;
    for (int i = 0; i < 35; i++) {
        again.push_back(static_cast<char *>(hak_heap_malloc(heap, 1024)));
    }
    EXPECT_TRUE(std::any_of(again.begin(), again.end(), [&](char *p) {
        return unit(p) == unit(freed);
    })) << "it serves again";
}

using TrimDeathTest = Trim;

TEST_F(TrimDeathTest, ABlockFreedTwiceMeanwhile)
{
    std::vector<char *> blocks = half_a_slab();
    EXPECT_EXIT(
        {
            AtPurgeOf hook(blocks[0], [&] {
                hak_free(blocks[29]);
                hak_free(blocks[29]);
            });
            (void)hak_purge();
        },
        testing::KilledBySignal(SIGABRT), "block freed twice");
}

TEST_F(Trim, ItsLastBlockIsFreedMeanwhile)
{
    std::vector<char *> blocks = half_a_slab();
    {
        AtPurgeOf hook(blocks[0], [&] {
            for (char *p : blocks) {
                hak_free(p);
            }
        });
        (void)hak_theap_purge_all();
    }
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "an empty slab goes on to the pool";
}

TEST_F(Trim, ItsHeapIsDestroyedMeanwhile)
{
    std::vector<char *> blocks = half_a_slab();
    {
        AtPurgeOf hook(blocks[0], [&] {
            hak_heap_destroy(heap);
            EXPECT_EQ(hak_super_lookup(blocks[0]).kind, SS_FREE_UNIT);
            EXPECT_EQ(hak_verify(), 0);
            heap = hak_heap_create(); /* which gets the same id */
            std::vector<char *> others = half_a_slab();
            EXPECT_GE(std::abs(others[0] - blocks[0]), ptrdiff_t(SS_UNIT_BYTES))
                << "the unit is nobody's else yet";
        });
        (void)hak_theap_purge_all();
    }
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_EQ(count_blocks(heap), 30u);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), int64_t(SS_UNIT_BYTES));
}

TEST_F(Trim, APoolIsDestroyedMeanwhile)
{
    struct tiny_pool pool;
    ASSERT_EQ(hak_tiny_pool_init(&pool), 0);
    std::vector<void *> blocks;
    for (int i = 0; i < 60; i++) {
        blocks.push_back(hak_tiny_pool_alloc(&pool, 1024));
    }
    for (size_t i = 10; i < 60; i++) {
        hak_tiny_pool_free(&pool, blocks[i]);
    }
    {
        AtPurgeOf hook(blocks[0], [&] { hak_tiny_pool_destroy(&pool); });
        EXPECT_GT(hak_purge(), 0u);
    }
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* It comes back to a heap without a thread, and goes on to the shared one, where all find it. */
TEST_F(Trim, ItsThreadEndsMeanwhile)
{
    hak_parked_most = 0; /* a parked heap keeps its slabs */
    std::vector<char *> blocks;
    std::atomic<int> step{0};
    uint32_t id = 0;
    std::thread owner([&] {
        for (int i = 0; i < 60; i++) {
            blocks.push_back(static_cast<char *>(hak_malloc(1024)));
        }
        for (size_t i = 10; i < 60; i++) {
            hak_free(blocks[i]);
        }
        hak_tc_flush(hak_theap_own);
        id = hak_theap_own->owner.id;
        step = 1;
        while (step == 1) {
            std::this_thread::yield();
        }
    });
    while (step == 0) {
        std::this_thread::yield();
    }
    ASSERT_EQ(hak_super_lookup(blocks[0]).owner, id);
    {
        AtPurgeOf hook(blocks[0], [&] {
            step = 2;
            owner.join();
            EXPECT_EQ(hak_super_lookup(blocks[0]).owner, id) << "it does not move yet";
        });
        (void)hak_theap_purge_all();
    }
    EXPECT_NE(hak_super_lookup(blocks[0]).owner, id);
    EXPECT_EQ(hak_verify(), 0);
    for (size_t i = 0; i < 10; i++) {
        hak_free(blocks[i]);
    }
    hak_parked_most = PARKED_MOST;
}

/* As in a signal handler: the child goes on with what was interrupted. */
TEST_F(Trim, TheProcessForksMeanwhile)
{
    std::vector<char *> blocks = half_a_slab();
    pid_t child = -1;
    int status = -1;
    {
        AtPurgeOf hook(blocks[0], [&] { child = fork(); });
        (void)hak_theap_purge_all();
    }
    if (child == 0) {
        alarm(60);
        size_t n = count_blocks(heap);
        for (char *p : blocks) {
            hak_free(p);
        }
        int error = hak_verify();
        (void)hak_purge();
        _exit(n != 30 ? 101 : error ? error : hak_stat_get(heap_used_bytes) ? 102 : 0);
    }
    ASSERT_GT(child, 0);
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(count_blocks(heap), 30u);
}

TEST_F(Trim, WhatWasRefusedIsNotAskedForAgain)
{
    std::vector<char *> blocks;
    for (int i = 0; i < 60 * 50; i++) {
        blocks.push_back(static_cast<char *>(hak_heap_malloc(heap, 1024)));
    }
    for (size_t i = 0; i < blocks.size(); i++) {
        if (i % 40) {
            hak_free(blocks[i]);
        }
    }
    hak_testing::FailingOs os;
    os.fail_always(hak_testing::OS_MADVISE);
    EXPECT_EQ(hak_theap_purge_all(), 0u);
    EXPECT_GE(os.calls(hak_testing::OS_MADVISE), 40u);
    os.fail_always(hak_testing::OS_MADVISE);
    EXPECT_EQ(hak_theap_purge_all(), 0u);
    EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), 0u);
    EXPECT_EQ(hak_verify(), 0);
}

/* Threads use heaps of both kinds, make and end them, while two others purge all the time: no block
   in use ever loses what it holds. */
TEST_F(Trim, NoBlockLosesWhatItHolds)
{
    std::atomic<bool> stop{false};
    std::atomic<int> n_bad{0};
    auto work = [&](uint64_t seed) {
        hak_testing::Rng rng(seed);
        struct Cell {
            unsigned char *p;
            size_t size;
            unsigned char pattern;
        };
        std::vector<Cell> cells(300);
        struct hak_heap *own = hak_heap_create();
        for (int i = 0; i < HAK_TINY_OR(3000, 30000); i++) {
            Cell &cell = cells[rng.below(cells.size())];
            if (cell.p) {
                for (size_t k = 0; k < cell.size; k += 64) {
                    n_bad += cell.p[k] != cell.pattern;
                }
                hak_free(cell.p);
                cell.p = nullptr;
            } else {
                cell.size = rng.between(1, 4000);
                cell.p = static_cast<unsigned char *>(
                    rng.one_in(2) ? hak_heap_malloc(own, cell.size) : hak_malloc(cell.size));
                cell.pattern = static_cast<unsigned char>(rng.next());
                memset(cell.p, cell.pattern, cell.size);
            }
            if (i % 3000 == 2999) { /* what is left in it goes with it */
                for (Cell &c : cells) {
                    struct owner *owner =
                        c.p ? hak_owner_by_id(hak_super_lookup(c.p).owner) : nullptr;
                    if (owner && owner->kind == OWNER_HEAP) {
                        c.p = nullptr;
                    }
                }
                hak_heap_destroy(own);
                own = hak_heap_create();
            }
        }
        for (Cell &cell : cells) {
            hak_free(cell.p);
        }
        hak_heap_destroy(own);
    };
    std::vector<std::thread> purgers;
    for (int t = 0; t < 2; t++) {
        purgers.emplace_back([&, t] {
            while (!stop) {
                if (t) {
                    hak_theap_rest_all();
                    n_bad += hak_verify() != 0;
                } else {
                    (void)hak_purge();
                }
            }
        });
    }
    for (uint64_t round = 0; round < 3; round++) {
        std::thread one(work, 2 * round), two(work, 2 * round + 1);
        one.join();
        two.join();
    }
    stop = true;
    for (std::thread &purger : purgers) {
        purger.join();
    }
    EXPECT_EQ(n_bad, 0);
}

/* Resident pages of the window's tags. */
size_t resident_map_pages()
{
    size_t page = hak_os_page_size(), n = sizeof hak_map_window->tag / page;
    std::vector<unsigned char> resident(n);
    EXPECT_EQ(mincore(hak_map_window->tag, n * page, resident.data()), 0);
    return static_cast<size_t>(
        std::count_if(resident.begin(), resident.end(), [](unsigned char r) { return r & 1; }));
}

/* Blocks all over the address space, small and large, leave no map behind. */
TEST(Purge, TheMapGoesBack)
{
    if (HAK_TINY_OR(true, false)) {
        GTEST_SKIP() << "a window of four pages, each with metadata";
    }
    if (HAK_SECURE) {
        GTEST_SKIP() << "superslabs for small blocks stay, and so does what the map says of them";
    }
    const size_t n = 400, bytes = size_t(8) << 20;
    (void)hak_purge();
    size_t before = resident_map_pages();
    std::vector<void *> large, small;
    for (size_t i = 0; i < n; i++) {
        large.push_back(hak_malloc(bytes)); /* hardly touched */
        for (int k = 0; k < 64; k++) {
            small.push_back(hak_malloc(30000));
        }
    }
    size_t most = resident_map_pages();
    for (void *p : small) {
        hak_free(p);
    }
    for (void *p : large) {
        hak_free(p);
    }
    (void)hak_purge();
    if (hak_os_page_size() == 4096) {
        EXPECT_GE(most, before + 40);
    }
    /* A page stays where anything else is mapped, such as metadata. */
    EXPECT_LE(resident_map_pages(), before + 2 + (most - before) / 8);
}

} // namespace
