/* Tests of the common heaps: when they serve, that a thread which uses much of a class gets slabs
   of its own, that blocks go back wherever they are freed, and what many threads cost. */
#include "heap/common.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <pthread.h>
#include <thread>
#include <vector>

#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/parked.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

uint64_t now_ns;

uint64_t fake_clock()
{
    return now_ns;
}

class Barrier
{
  public:
    explicit Barrier(size_t n)
    {
        pthread_barrier_init(&barrier_, nullptr, static_cast<unsigned>(n));
    }
    ~Barrier()
    {
        pthread_barrier_destroy(&barrier_);
    }
    void wait()
    {
        pthread_barrier_wait(&barrier_);
    }

  private:
    pthread_barrier_t barrier_;
};

/* Another thread that has a lock, until release() is called. */
class Holder
{
  public:
    explicit Holder(struct lock *lock) : barrier_(2)
    {
        thread_ = std::thread([this, lock] {
            hak_lock_acquire(lock);
            barrier_.wait();
            barrier_.wait();
            hak_lock_release(lock);
        });
        barrier_.wait();
    }
    void release()
    {
        barrier_.wait();
        thread_.join();
    }

  private:
    Barrier barrier_;
    std::thread thread_;
};

/* Threads that have heaps, and wait. */
class Crowd
{
  public:
    explicit Crowd(size_t n) : barrier_(n + 1)
    {
        for (size_t i = 0; i < n; i++) {
            threads_.emplace_back([this] {
                hak_free(hak_malloc(16));
                barrier_.wait();
                barrier_.wait();
            });
        }
        barrier_.wait();
    }
    ~Crowd()
    {
        barrier_.wait();
        for (std::thread &thread : threads_) {
            thread.join();
        }
    }

  private:
    Barrier barrier_;
    std::vector<std::thread> threads_;
};

bool is_common(const void *p)
{
    return hak_theap_which_common(hak_map_find(p).tag) < N_COMMON_HEAPS;
}

bool is_own(const void *p)
{
    return TAG_OWNER(hak_map_find(p).tag) == hak_theap_own->owner.id;
}

class Common : public testing::Test
{
  protected:
    void SetUp() override
    {
        saved_ = hak_os_ops;
        now_ns += (uint64_t)COMMON_BUDGET_OF_MANY << COMMON_TICK_SHIFT; /* uses are forgotten */
        hak_os_ops.clock_ns = fake_clock;
        if (HAK_SECURE) {
            GTEST_SKIP() << "freed blocks wait in a quarantine first";
        }
        hak_common_from = 2;
        hak_common_kept_most = 0; /* what is freed goes back at once */
        hak_parked_most = 0;      /* what a thread leaves goes back at once */
        hak_free(hak_malloc(16)); /* the test's thread has a heap */
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    void TearDown() override
    {
        hak_common_from = COMMON_FEW;
        hak_common_kept_most = COMMON_KEPT;
        hak_os_ops = saved_;
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
        EXPECT_EQ(hak_stat_get(heap_untouched_bytes), 0);
    }
    /* In a new thread, in a process of that many others that have heaps. */
    static void in_crowd(size_t n, const std::function<void()> &f)
    {
        Crowd crowd(n);
        std::thread([&] {
            hak_free(hak_malloc(16));
            for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
                hak_theap_own->bins[c].common_uses = 0; /* of an earlier thread */
            }
            f();
        }).join();
    }

  private:
    struct hak_os_ops saved_;
};

TEST_F(Common, OneThreadHasItsOwnSlabs)
{
    ASSERT_EQ(hak_theap_n_live(), 1u);
    for (size_t size : {16, 1000, 20000}) {
        void *p = hak_malloc(size);
        EXPECT_TRUE(is_own(p)) << size;
        hak_free(p);
    }
}

/* Allocates and frees, of one class after the other, until a block is the thread's own. Returns
   how often it used the common heaps. */
uint32_t use_until_own(uint32_t *size_class)
{
    struct theap *heap = hak_theap_own;
    for (; *size_class < SC_N_CLASSES; ++*size_class) {
        for (uint32_t i = 0; i < COMMON_USES / 2 - 1; i++) { /* less than the class may have */
            uint32_t before = heap->common_uses;
            void *p = hak_malloc(hak_sc_table[*size_class].size);
            int ends = is_own(p);
            hak_free(p);
            if (ends) {
                return before;
            }
        }
    }
    return 0;
}

TEST_F(Common, FewThreadsShareWithinABudget)
{
    in_crowd(0, [] { /* the test's thread is the other */
                     struct theap *heap = hak_theap_own;
                     uint32_t c = COMMON_LINE_CLASS;
                     heap->common_uses = 0;
                     uint32_t uses = use_until_own(&c);
                     c++;
                     EXPECT_GE(uses, COMMON_BUDGET);
                     EXPECT_LE(uses, COMMON_BUDGET + 1) << "a block that goes back is a use, too";
                     EXPECT_GE(use_until_own(&c), COMMON_BUDGET) << "time has not passed";
                     uses = heap->common_uses;
                     now_ns += (uint64_t)1 << COMMON_TICK_SHIFT;
                     c++;
                     void *p = hak_malloc(hak_sc_table[c].size);
                     EXPECT_TRUE(is_common(p));
                     EXPECT_EQ(heap->common_uses, uses - COMMON_PER_TICK + 1);
                     hak_free(p);
                     now_ns += (uint64_t)COMMON_BUDGET << COMMON_TICK_SHIFT;
                     p = hak_malloc(hak_sc_table[c].size);
                     hak_free(p);
                     EXPECT_LE(heap->common_uses, 2u);
    });
}

/* Nor is what they had of it lost to the others. */
TEST_F(Common, AmongFewThreadsWhoUsesMuchGetsTheSlab)
{
    in_crowd(0, [] {
        hak_theap_own->common_uses = 0;
        void *first = hak_malloc(2000);
        ASSERT_TRUE(is_common(first));
        hak_theap_own->common_uses = COMMON_BUDGET;
        void *second = hak_malloc(2000);
        EXPECT_TRUE(is_own(second));
        EXPECT_TRUE(is_own(first)) << "they lie in one slab";
        hak_free(first);
        hak_free(second);
    });
}

TEST_F(Common, ManyThreadsShareSlabs)
{
    in_crowd(COMMON_THREADS, [] {
        for (size_t size : {64, 80, 100, 512, 1000, 2000, 20000, 32768}) {
            char *p = static_cast<char *>(hak_malloc(size));
            ASSERT_NE(p, nullptr);
            EXPECT_TRUE(is_common(p)) << size;
            memset(p, 1, size);
            hak_free(p);
            EXPECT_FALSE(hak_super_lookup(p).is_allocated) << "it is back in its slab: " << size;
        }
    });
}

/* Of less than a cache line, since several lie in one. */
TEST_F(Common, ForSmallBlocksThreadsGetLines)
{
    in_crowd(COMMON_THREADS, [] {
        std::vector<char *> blocks;
        for (size_t size : {1, 16, 17, 48, 33, 40}) {
            char *p = static_cast<char *>(hak_malloc(size));
            EXPECT_TRUE(is_common(p)) << size;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u) << size;
            EXPECT_EQ(hak_usable_size(p), 64u) << size;
            memset(p, 1, 64);
            blocks.push_back(p);
        }
        for (size_t size : {1, 16, 32, 48}) { /* what was written before is gone, all of it */
            hak_free(blocks.back());
            blocks.back() = static_cast<char *>(hak_calloc(1, size));
            EXPECT_EQ(hak_usable_size(blocks.back()), 64u);
            EXPECT_EQ(std::count(blocks.back(), blocks.back() + 64, 0), 64) << size;
            memset(blocks.back(), 1, 64);
        }
        for (char *p : blocks) {
            hak_free(p);
            EXPECT_FALSE(hak_super_lookup(p).is_allocated);
        }
        /* Who uses many gets slabs of its own, of the size that it asks for. */
        blocks.clear();
        do {
            blocks.push_back(static_cast<char *>(hak_malloc(48)));
        } while (!is_own(blocks.back()) && blocks.size() < 1000);
        EXPECT_GE(blocks.size() + 8, hak_common_most_blocks(COMMON_LINE_CLASS));
        EXPECT_LE(blocks.size(), hak_common_most_blocks(COMMON_LINE_CLASS) + 8);
        EXPECT_EQ(hak_usable_size(blocks.back()), 48u);
        for (char *p : blocks) {
            hak_free(p);
        }
    });
}

/* Two threads' fresh runs have no line in common. */
TEST_F(Common, RunsAreWholeLines)
{
    in_crowd(COMMON_THREADS, [] {
        for (uint32_t c = 0; c < SC_N_TINY; c++) {
            size_t size = hak_sc_table[c].size;
            void *mine = hak_malloc(size), *theirs = nullptr;
            std::thread([&] { theirs = hak_malloc(size); }).join();
            auto line = [](const void *p) { return reinterpret_cast<uintptr_t>(p) / 64; };
            auto last = [&](const void *p) {
                return line(static_cast<const char *>(p) + size - 1);
            };
            EXPECT_TRUE(last(mine) < line(theirs) || last(theirs) < line(mine)) << size;
            hak_free(mine);
            hak_free(theirs);
        }
    });
}

/* The blocks of one size until one is the thread's own; they are freed. */
size_t taken_until_own(size_t size)
{
    std::vector<void *> blocks;
    do {
        blocks.push_back(hak_malloc(size));
    } while (!is_own(blocks.back()) && blocks.size() < 1000);
    for (void *p : blocks) {
        hak_free(p);
    }
    return blocks.size() - 1;
}

TEST_F(Common, WhoHoldsManyBlocksGetsASlab)
{
    in_crowd(COMMON_THREADS, [] {
        for (size_t size : {64, 1000, 20000}) {
            size_t n = taken_until_own(size);
            uint32_t c = hak_sc_of(size);
            EXPECT_GT(n, hak_common_most_blocks(c)) << size;
            EXPECT_LE(n, hak_common_most_blocks(c) + 8) << size;
            EXPECT_EQ(hak_theap_own->bins[c].common_uses, hak_common_most_uses(c));
        }
    });
}

TEST_F(Common, WhoComesOftenGetsASlab)
{
    in_crowd(COMMON_THREADS, [] {
        uint32_t n = 0;
        for (; n <= COMMON_USES; n++) {
            void *p = hak_malloc(2000);
            int ends = is_own(p);
            hak_free(p);
            if (ends) {
                break;
            }
        }
        EXPECT_EQ(n, COMMON_USES / 2) << "each block is a use when it comes, and one when it goes";
    });
}

TEST_F(Common, WhoComesSlowlyNeverDoes)
{
    in_crowd(COMMON_THREADS, [] {
        for (uint32_t n = 0; n < 4 * COMMON_USES; n++) {
            void *p = hak_malloc(2000);
            EXPECT_TRUE(is_common(p));
            hak_free(p);
            now_ns += (uint64_t)1 << COMMON_TICK_SHIFT;
        }
    });
}

TEST_F(Common, ABusyLockIsNotWaitedFor)
{
    in_crowd(COMMON_THREADS, [] {
        void *first = hak_malloc(2000);
        ASSERT_TRUE(is_common(first));
        Barrier barrier(2);
        std::thread holder([&] {
            for (uint32_t i = 0; i < N_COMMON_HEAPS; i++) {
                ASSERT_NE(hak_theap_common(i), nullptr);
            }
            for (uint32_t i = 0; i < N_COMMON_HEAPS; i++) {
                struct theap *common = hak_theap_common(i);
                if (i == 0) {
                    hak_lock_acquire(&common->owner.lock);
                } else {
                    ASSERT_TRUE(hak_lock_try(&common->owner.lock));
                }
            }
            barrier.wait();
            barrier.wait();
            for (uint32_t i = N_COMMON_HEAPS; i--;) {
                hak_lock_release(&hak_theap_common(i)->owner.lock);
            }
        });
        barrier.wait();
        void *second = hak_malloc(3000);
        EXPECT_TRUE(is_own(second)) << "it gets a slab of its own";
        hak_free(first);
        EXPECT_TRUE(hak_super_lookup(first).is_allocated) << "it waits in the bin";
        barrier.wait();
        holder.join();
        hak_free(second);
        EXPECT_EQ(hak_malloc(2000), first);
        hak_free(first);
    });
}

TEST_F(Common, TheNextCommonHeapServesIfTheFirstIsBusy)
{
    in_crowd(COMMON_THREADS, [] {
        struct theap *first = hak_theap_common(0);
        Holder holder(&first->owner.lock);
        void *p = hak_malloc(2000);
        EXPECT_EQ(hak_theap_which_common(hak_map_find(p).tag), 1u);
        hak_free(p);
        holder.release();
    });
}

/* What the others had to serve with while its lock was held does not lie about. */
TEST_F(Common, TheFirstCommonHeapTakesOverWhatOthersHave)
{
    in_crowd(COMMON_THREADS, [] {
        struct theap *first = hak_theap_common(0);
        Holder holder(&first->owner.lock);
        void *p = hak_malloc(2000), *other = hak_malloc(2000);
        EXPECT_EQ(hak_theap_which_common(hak_map_find(p).tag), 1u);
        hak_free(p);
        holder.release();
        EXPECT_EQ(hak_malloc(2000), p);
        EXPECT_EQ(hak_theap_which_common(hak_map_find(p).tag), 0u);
        EXPECT_EQ(hak_theap_which_common(hak_map_find(other).tag), 0u);
        hak_free(p);
        hak_free(other);
        EXPECT_FALSE(hak_super_lookup(other).is_allocated);
    });
}

/* Who frees and frees has no use for it. */
TEST_F(Common, WhatIsLeftOfARunGoesBack)
{
    in_crowd(COMMON_THREADS, [] {
        const uint32_t c = hak_sc_of(288);
        struct theap *heap = hak_theap_own;
        std::vector<void *> blocks;
        for (int i = 0; i < 2 * HAK_TINY_OR(1, 5); i++) { /* who does it by turns keeps it */
            void *p = hak_malloc(288);
            ASSERT_TRUE(is_common(p));
            uint32_t left = hak_tc_count(heap, c);
            hak_free(p);
            EXPECT_EQ(hak_tc_count(heap, c), left);
        }
        do {
            blocks.push_back(hak_malloc(288));
            ASSERT_TRUE(is_common(blocks.back()));
        } while (blocks.size() < 2 || !hak_tc_count(heap, c));
        void *left = hak_tc_bin_first(&heap->bins[c]);
        EXPECT_TRUE(hak_super_lookup(left).is_allocated);
        for (void *p : blocks) {
            hak_free(p);
            EXPECT_FALSE(hak_super_lookup(p).is_allocated);
        }
        EXPECT_EQ(hak_tc_count(heap, c), 0u);
        EXPECT_EQ(hak_tc_bin_first(&heap->bins[c]), nullptr);
        EXPECT_FALSE(hak_super_lookup(left).is_allocated);
        EXPECT_EQ(hak_verify(), 0);
    });
}

/* What the thread of a heap did counts for the next one. */
TEST_F(Common, AHeapKeepsWhatItLearnt)
{
    Crowd crowd(COMMON_THREADS);
    struct theap *heap = nullptr;
    auto next = [&](size_t n, uint32_t uses) {
        std::thread([&] {
            std::vector<void *> blocks;
            hak_free(hak_malloc(16));
            heap = heap ? heap : hak_theap_own;
            EXPECT_EQ(hak_theap_own, heap);
            struct bin *bin = &heap->bins[hak_sc_of(2000)];
            EXPECT_EQ(bin->common_uses, uses);
            for (size_t i = 0; i < n; i++) {
                blocks.push_back(hak_malloc(2000));
            }
            for (void *p : blocks) {
                hak_free(p);
            }
        }).join();
    };
    std::thread([&] { /* a heap that knows nothing comes first */
                      hak_free(hak_malloc(16));
                      hak_theap_own->bins[hak_sc_of(2000)].common_uses = 0;
    })
        .join();
    next(1, 0);
    next(0, 1);
    next(4 * COMMON_BLOCKS, 0);
    next(4 * COMMON_BLOCKS, COMMON_USES);
    next(0, COMMON_USES);
    next(0, COMMON_USES / 2);
}

TEST_F(Common, BlocksGoBackWhoeverFreesThem)
{
    std::vector<void *> blocks;
    in_crowd(COMMON_THREADS, [&] {
        for (size_t size = 64; size <= SC_SMALL_MAX; size *= 2) {
            blocks.push_back(hak_malloc(size));
            EXPECT_TRUE(is_common(blocks.back()));
        }
        std::thread([&] { /* one with a heap, one without */
                          hak_free(blocks.back());
                          blocks.pop_back();
        })
            .join();
    });
    for (void *p : blocks) { /* with few threads, too */
        hak_free(p);
        EXPECT_FALSE(hak_super_lookup(p).is_allocated);
    }
}

TEST_F(Common, NothingStaysWhenTheThreadsHaveEnded)
{
    {
        Crowd crowd(COMMON_THREADS);
        std::thread([] { hak_free(hak_malloc(1000)); }).join();
    }
    (void)hak_theap_trim_own();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

TEST_F(Common, ADoubleFreeIsFound)
{
    in_crowd(COMMON_THREADS, [] {
        void *p = hak_malloc(1000), *q = hak_malloc(1000);
        ASSERT_TRUE(is_common(p));
        hak_free(p);
        EXPECT_DEATH(hak_free(p), "block freed twice");
        hak_free(q);
        EXPECT_DEATH(hak_free(p), "block freed twice") << "with another between";
        void *inside = hak_malloc(1000);
        EXPECT_DEATH(hak_free(static_cast<char *>(inside) + 16), "not the start of a block");
        hak_free(inside);
    });
}

/* What a thread frees waits for its next requests, as much as may, and then goes back together. */
TEST_F(Common, WhatIsFreedWaitsAndGoesBackTogether)
{
    if (HAK_TINY_OR(1, 0)) {
        GTEST_SKIP() << "a run is more than may wait, and its blocks more than the class may have";
    }
    in_crowd(COMMON_THREADS, [] {
        hak_common_kept_most = COMMON_KEPT;
        struct theap *heap = hak_theap_own;
        void *p = hak_malloc(300);
        ASSERT_TRUE(is_common(p));
        uint32_t uses = heap->common_uses;
        hak_free(p);
        EXPECT_DEATH(hak_free(p), "block freed twice");
        ASSERT_EQ(hak_malloc(300), p);
        for (int i = 0; i < 1000; i++) {
            hak_free(p);
            EXPECT_TRUE(hak_super_lookup(p).is_allocated) << "it waits in the bin";
            ASSERT_EQ(hak_malloc(300), p);
        }
        EXPECT_EQ(heap->common_uses, uses) << "no lock was taken, or few";
        std::vector<void *> blocks{p};
        for (size_t size : {64, 200, 500, 700, 1000, 100, 400}) {
            blocks.push_back(hak_malloc(size));
            ASSERT_TRUE(is_common(blocks.back()));
        }
        hak_common_kept_most = 8 * COMMON_KEPT;
        for (void *block : blocks) {
            hak_free(block);
            EXPECT_TRUE(hak_super_lookup(block).is_allocated);
        }
        EXPECT_EQ(hak_verify(), 0);
        hak_common_kept_most = 0;
        hak_free(hak_malloc(2000)); /* all of it goes back with this one */
        for (void *block : blocks) {
            EXPECT_FALSE(hak_super_lookup(block).is_allocated);
        }
        EXPECT_EQ(heap->common_kept, 0u);
        EXPECT_EQ(heap->common_kept_in, 0u);
        EXPECT_EQ(hak_verify(), 0);
    });
}

/* However many blocks are freed, no more of them wait than may. */
TEST_F(Common, NoMoreWaitsThanMay)
{
    in_crowd(COMMON_THREADS, [] {
        hak_common_kept_most = COMMON_KEPT;
        struct theap *heap = hak_theap_own;
        Rng rng(7);
        std::vector<void *> blocks(HAK_TINY_OR(12, 100));
        for (int i = 0; i < 20000; i++) {
            void *&block = blocks[rng.below(blocks.size())];
            if (block) {
                hak_free(block);
                block = nullptr;
                ASSERT_LE(heap->common_kept, COMMON_KEPT + 2 * COMMON_KEPT_BLOCK);
            } else {
                size_t size = size_t(16) << rng.below(9);
                block = hak_malloc(size + rng.below(size));
            }
            now_ns += (uint64_t)1 << COMMON_TICK_SHIFT; /* it shares for ever */
        }
        EXPECT_EQ(hak_verify(), 0);
        for (void *block : blocks) {
            hak_free(block);
        }
    });
}

/* What a thread has of its own from when they were few does not go that way: its long list would
   travel home block by block, and others wait for the lock. */
TEST_F(Common, ALongListStays)
{
    if (HAK_TINY_OR(1, 0)) {
        GTEST_SKIP() << "no list is long";
    }
    in_crowd(COMMON_THREADS, [] {
        hak_common_kept_most = COMMON_KEPT;
        struct theap *heap = hak_theap_own;
        const size_t size = 300;
        const uint32_t c = hak_sc_of(size), most = hak_common_most_blocks(c);
        std::vector<void *> shared, own;
        while (shared.size() < most) {
            shared.push_back(hak_malloc(size));
            ASSERT_TRUE(is_common(shared.back()));
            heap->bins[c].common_uses = 0;
        }
        hak_common_from = UINT32_MAX;
        while (own.size() < 1000 || hak_bank_n_partial(&heap->owner.bank, c)) {
            own.push_back(hak_malloc(size));
        }
        while (hak_tc_count(heap, c) <= most) {
            hak_free(own.back());
            own.pop_back();
        }
        ASSERT_EQ(hak_bank_n_partial(&heap->owner.bank, c), 0u);
        hak_common_from = 2;
        uint32_t n = hak_tc_count(heap, c);
        int64_t sent = hak_stat_get(chains_sent);
        for (void *p : shared) {
            hak_free(p);
        }
        EXPECT_GE(hak_tc_count(heap, c), n);
        EXPECT_EQ(hak_stat_get(chains_sent), sent);
        for (void *p : own) {
            hak_free(p);
        }
    });
}

/* Its slab has become a common heap's since the first free, which put it into the outbox. */
TEST_F(Common, ABlockFreedTwiceInARowWhoseSlabHasMoved)
{
    hak_common_kept_most = COMMON_KEPT;
    in_crowd(COMMON_THREADS, [] {
        hak_common_from = UINT32_MAX;
        std::vector<void *> blocks(10);
        Barrier barrier(2);
        std::thread owner([&] {
            for (void *&block : blocks) {
                block = hak_malloc(300);
            }
            barrier.wait();
            barrier.wait();
        });
        barrier.wait();
        hak_free(blocks[0]);
        ASSERT_EQ(hak_theap_own->last_slot->head, blocks[0]);
        barrier.wait();
        owner.join();
        hak_common_from = 2;
        void *p = hak_malloc(300);
        EXPECT_TRUE(is_common(blocks[0]));
        EXPECT_DEATH(hak_free(blocks[0]), "block freed twice");
        hak_free(p);
        for (size_t i = 1; i < blocks.size(); i++) {
            hak_free(blocks[i]);
        }
    });
}

/* When a thread ends, its last blocks lie in their slabs. */
TEST_F(Common, WhatWaitsGoesBackWhenTheThreadEnds)
{
    Crowd crowd(COMMON_THREADS);
    hak_common_kept_most = COMMON_KEPT;
    void *p = nullptr, *q = nullptr;
    std::thread([&] {
        p = hak_malloc(300);
        q = hak_malloc(2000);
        ASSERT_TRUE(is_common(p) && is_common(q));
        hak_free(p);
        hak_free(q);
    }).join();
    EXPECT_FALSE(hak_super_lookup(p).is_allocated);
    EXPECT_FALSE(hak_super_lookup(q).is_allocated);
}

/* Many threads, each with a few blocks of every class, of which half are freed: one's freed blocks
   serve the others. */
TEST_F(Common, ManyThreadsTakeNotMuchMoreThanTheyAskFor)
{
    const size_t n_threads = HAK_TINY_OR(8, 100), n_blocks = HAK_TINY_OR(40, 300);
    std::atomic<int64_t> bytes{0};
    std::vector<std::thread> threads;
    Barrier barrier(n_threads + 1);
    for (size_t i = 0; i < n_threads; i++) {
        threads.emplace_back([&, i] {
            std::vector<std::pair<void *, size_t>> blocks;
            Rng rng(i);
            for (size_t k = 0; k < n_blocks; k++) {
                size_t size = size_t(16) << rng.below(9);
                size += rng.below(size);
                void *p = hak_malloc(size);
                ASSERT_NE(p, nullptr);
                memset(p, static_cast<int>(i), size);
                blocks.emplace_back(p, size);
            }
            for (size_t k = 0; k < n_blocks; k += 2) {
                hak_free(blocks[k].first);
            }
            for (size_t k = 1; k < n_blocks; k += 2) {
                bytes += static_cast<int64_t>(blocks[k].second);
            }
            barrier.wait();
            barrier.wait();
            for (size_t k = 1; k < n_blocks; k += 2) {
                const char *p = static_cast<const char *>(blocks[k].first);
                for (size_t at = 0; at < blocks[k].second; at++) {
                    ASSERT_EQ(p[at], static_cast<char>(i));
                }
                hak_free(blocks[k].first);
            }
        });
    }
    barrier.wait();
    int64_t touched = hak_stat_get(heap_used_bytes) - hak_stat_get(heap_untouched_bytes);
    EXPECT_EQ(hak_verify(), 0);
    if (!HAK_TINY_OR(1, 0)) {
        /* 550 KiB a thread with slabs of their own, for 200; the first threads have them, as do
           those that find all locks taken. */
        EXPECT_LE(touched, 2 * bytes + static_cast<int64_t>(COMMON_THREADS * 512 * 1024));
    }
    barrier.wait();
    for (std::thread &thread : threads) {
        thread.join();
    }
}

} // namespace
