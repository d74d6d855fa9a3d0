/* Tests of parked heaps: the next thread has what the last one had; what is held back is bounded,
   serves others, and goes back when the process grows, in time, with a trim, and in a forked child.
 */
#include "heap/parked.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/common.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/tcache.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

template <typename F> void in_thread(F f)
{
    std::thread(f).join();
}

uint32_t n_parked()
{
    return static_cast<uint32_t>(std::find(hak_parked, hak_parked + PARKED_MOST, nullptr) -
                                 hak_parked);
}

class Parked : public testing::Test
{
  protected:
    void SetUp() override
    {
        saved_ = hak_options;
        hak_common_from = COMMON_THREADS; /* fewer have slabs of their own */
        if (HAK_SECURE) {
            GTEST_SKIP() << "none is parked";
        }
        hak_options.purge_delay_ms = 3600000;
        hak_free(hak_malloc(1));
        (void)hak_purge();
        ASSERT_EQ(n_parked(), 0u);
    }
    void TearDown() override
    {
        EXPECT_EQ(hak_verify(), 0);
        hak_options = saved_;
        hak_parked_most = PARKED_MOST;
        (void)hak_purge();
        EXPECT_EQ(n_parked(), 0u);
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
        EXPECT_EQ(hak_stat_get(bin_budget), 0);
    }

  private:
    struct options saved_;
};

/* So many threads at a time, each of which has used one block. */
void several(uint32_t n)
{
    std::atomic<uint32_t> n_there(0);
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < n; i++) {
        threads.emplace_back([&] {
            void *p = hak_malloc(100);
            n_there++;
            while (n_there < n) {
                sched_yield();
            }
            hak_free(p);
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* The heap that a thread has parked; blocks of the size lie in its bins. */
struct theap *park_one(size_t size)
{
    struct theap *heap = nullptr;
    in_thread([&] {
        hak_free(hak_malloc(size));
        heap = hak_self;
    });
    return heap;
}

TEST_F(Parked, TheNextThreadHasWhatTheLastOneHad)
{
    void *block = nullptr;
    const struct theap *heap = nullptr;
    int64_t heaps = 0, orphans = hak_stat_get(orphans);
    in_thread([&] {
        block = hak_malloc(100);
        hak_free(block);
        heap = hak_self;
        heaps = hak_stat_get(heaps);
    });
    EXPECT_EQ(n_parked(), 1u);
    EXPECT_FALSE(hak_theap_is_live(heap));
    EXPECT_EQ(hak_stat_get(orphans), orphans + 1);
    int64_t refills = hak_stat_get(refills);
    in_thread([&] {
        void *again = hak_malloc(100);
        EXPECT_EQ(again, block);
        EXPECT_EQ(hak_self, heap);
        EXPECT_TRUE(hak_theap_is_live(heap));
        EXPECT_EQ(n_parked(), 0u);
        hak_free(again);
    });
    EXPECT_EQ(hak_stat_get(refills), refills);
    EXPECT_EQ(hak_stat_get(heaps), heaps);
    EXPECT_EQ(hak_stat_get(orphans), orphans + 1);
}

TEST_F(Parked, NotMoreThanSoMany)
{
    std::vector<std::thread> threads;
    std::atomic<int> phase(0);
    std::thread other([&] { /* so that this is not the only thread that is left */
                            hak_free(hak_malloc(1));
                            phase = 1;
                            while (phase != 2) {
                                sched_yield();
                            }
    });
    while (phase != 1) {
        sched_yield();
    }
    several(PARKED_MOST + 2);
    EXPECT_EQ(n_parked(), PARKED_MOST);
    EXPECT_EQ(hak_verify(), 0);
    several(PARKED_MOST + 2);
    EXPECT_EQ(n_parked(), PARKED_MOST);
    phase = 2;
    other.join();
    EXPECT_EQ(n_parked(), 1u) << "one thread is left";
}

TEST_F(Parked, NotMoreBytesThanSoMany)
{
    in_thread([] {
        std::vector<void *> blocks;
        for (size_t size = 16; size <= 1024; size += 16) {
            for (size_t n = 0; n < 16 * PARKED_BYTES / size / 64 + 8; n++) {
                blocks.push_back(hak_malloc(size));
            }
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        EXPECT_GT(hak_tc_bytes(hak_self), uint64_t(PARKED_BYTES));
    });
    for (const struct theap *heap : hak_parked) {
        if (heap) {
            EXPECT_LE(hak_tc_bytes(heap), uint64_t(PARKED_BYTES));
            EXPECT_LE(heap->budget, uint64_t(PARKED_BUDGET));
            EXPECT_LE(heap->depot_bytes[0] + heap->depot_bytes[1], uint64_t(PARKED_INBOX_BYTES));
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* What metering has left in a heap counts, and serves the next thread. */
TEST_F(Parked, MeteredListsWaitToo)
{
    constexpr uint32_t kBlocks = HAK_TINY_OR(1, 5); /* a list of the tiny variant has no more */
    const uint32_t size_class = hak_sc_of(100);
    void *left = nullptr;
    in_thread([&] {
        void *blocks[kBlocks];
        for (void *&p : blocks) {
            p = hak_malloc(100);
        }
        hak_tc_flush(hak_theap_own);
        for (void *p : blocks) {
            hak_free(p);
        }
        hak_tc_set_metered(hak_theap_own, 1);
        ASSERT_EQ(hak_tc_meter(hak_theap_own, size_class, UINT32_MAX), kBlocks);
        left = hak_tc_bin_first(&hak_theap_own->metered[size_class]);
        hak_tc_set_metered(hak_theap_own, 0);
    });
    ASSERT_EQ(n_parked(), 1u);
    EXPECT_EQ(hak_tc_bytes(hak_parked[0]), kBlocks * hak_sc_table[size_class].size);
    EXPECT_EQ(hak_verify(), 0);
    in_thread([&] {
        void *p = hak_malloc(100);
        EXPECT_EQ(p, left);
        hak_free(p);
    });
    ASSERT_EQ(n_parked(), 1u);
    hak_tc_shrink(hak_parked[0], hak_tc_bytes(hak_parked[0]), 0);
    EXPECT_EQ(hak_tc_bytes(hak_parked[0]), 0u);
}

TEST_F(Parked, WhatItHoldsCountsAsCached)
{
    long long live_before = 0, live = 0, cached = 0;
    ASSERT_EQ(hak_stat("live_bytes", &live_before), 0);
    (void)park_one(1000);
    ASSERT_EQ(n_parked(), 1u);
    ASSERT_EQ(hak_stat("live_bytes", &live), 0);
    ASSERT_EQ(hak_stat("cached_bytes", &cached), 0);
    EXPECT_LT(live, live_before + 1000);
    EXPECT_GE(cached, 1000);
}

/* Blocks that others free wait for the heap's next thread, and more than so many go back to its
   slabs, which stay its own. */
TEST_F(Parked, WhatComesBackWaitsWithinBounds)
{
    constexpr size_t kSize = 500, kBlocks = size_t(PARKED_INBOX_BYTES) / kSize * 2;
    std::vector<void *> blocks;
    in_thread([&] {
        for (size_t i = 0; i < kBlocks; i++) {
            blocks.push_back(hak_malloc(kSize));
        }
    });
    ASSERT_EQ(n_parked(), 1u);
    struct owner *owner = &hak_parked[0]->owner;
    ASSERT_GT(owner->bank.n_slabs, 0u);
    size_t n_waiting = 0, n_collected = 0;
    while (blocks.size() > 1) {
        hak_remote_free_now(blocks.back(), hak_map_find(blocks.back()).tag);
        blocks.pop_back();
        EXPECT_LT(atomic_load_relaxed(&owner->inbox_bytes), PARKED_INBOX_BYTES);
        (atomic_load_relaxed(&owner->inbox) ? n_waiting : n_collected)++;
    }
    EXPECT_GT(n_waiting, 0u);
    EXPECT_GE(n_collected, 1u);
    EXPECT_LE(n_collected, 2u);
    EXPECT_EQ(hak_verify(), 0);
    in_thread([&] {
        hak_free(blocks[0]);
        std::vector<void *> again;
        for (size_t i = 0; i < kBlocks / 2; i++) {
            again.push_back(hak_malloc(kSize));
        }
        EXPECT_EQ(atomic_load_relaxed(&owner->inbox), nullptr);
        for (void *p : again) {
            hak_free(p);
        }
    });
}

/* Limits that have grown too large begin again; the heap waits all the same, with its slabs. */
TEST_F(Parked, LargeLimitsBeginAgain)
{
    const struct theap *heap = nullptr;
    void *left = nullptr;
    in_thread([&] {
        left = hak_malloc(1000);
        heap = hak_self;
        std::vector<void *> blocks;
        for (int round = 0; round < 40 && (!round || hak_self->budget <= PARKED_BUDGET); round++) {
            for (size_t size = 16; size <= 1024; size += 16) {
                for (size_t n = 0; n < 20000 / size + 4; n++) {
                    blocks.push_back(hak_malloc(size));
                }
            }
            for (void *p : blocks) {
                hak_free(p);
            }
            blocks.clear();
        }
        EXPECT_TRUE(HAK_TINY_OR(1, 0) || heap->budget > uint64_t(PARKED_BUDGET));
    });
    ASSERT_EQ(n_parked(), 1u);
    EXPECT_EQ(hak_parked[0], heap);
    EXPECT_LE(heap->parked_budget, uint64_t(PARKED_BUDGET));
    EXPECT_LE(hak_tc_bytes(heap), uint64_t(PARKED_BYTES));
    EXPECT_GT(heap->owner.bank.n_slabs, 0u);
    EXPECT_EQ(hak_verify(), 0);
    hak_free(left);
}

TEST_F(Parked, ItsSlabsServeOthers)
{
    (void)park_one(700);
    ASSERT_EQ(n_parked(), 1u);
    int64_t used = hak_stat_get(heap_used_bytes), adopted = hak_stat_get(slabs_adopted);
    void *p = hak_malloc(700);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), used) << "no fresh slab";
    EXPECT_EQ(hak_stat_get(slabs_adopted), adopted + 1);
    EXPECT_EQ(n_parked(), 1u);
    in_thread([] { /* what is in the parked heap's bins lies in this thread's slab by now */
                   void *q = hak_malloc(700);
                   memset(q, 1, 700);
                   hak_free(q);
    });
    hak_free(p);
}

TEST_F(Parked, ItEndsBeforeTheProcessGrows)
{
    struct theap *heap = park_one(700);
    ASSERT_EQ(n_parked(), 1u);
    (void)hak_ss_purge(0);
    void *p = hak_malloc(40); /* a fresh slab */
    EXPECT_EQ(n_parked(), 0u);
    EXPECT_EQ(hak_tc_bytes(heap), 0u);
    hak_free(p);
    (void)park_one(700);
    ASSERT_EQ(n_parked(), 1u);
    p = hak_malloc(100000);
    EXPECT_EQ(n_parked(), 0u);
    hak_free(p);
}

/* A tick for the threads that may come, the next one ends it. */
TEST_F(Parked, ItEndsWhenNoThreadComes)
{
    (void)park_one(100);
    in_thread([] { hak_theap_rest_all(); });
    EXPECT_EQ(n_parked(), 1u);
    in_thread([] {
        hak_free(hak_malloc(100)); /* it is used again, and parked again */
    });
    in_thread([] { hak_theap_rest_all(); });
    EXPECT_EQ(n_parked(), 1u);
    in_thread([] { hak_theap_rest_all(); });
    EXPECT_EQ(n_parked(), 0u);
}

TEST_F(Parked, ATrimEndsIt)
{
    (void)park_one(100);
    EXPECT_EQ(n_parked(), 1u);
    (void)hak_purge();
    EXPECT_EQ(n_parked(), 0u);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* The child has the parked heap as it was, and its first thread is another one's child. */
TEST_F(Parked, AForkedChildHasItToo)
{
    void *block = nullptr;
    in_thread([&] {
        block = hak_malloc(100);
        hak_free(block);
    });
    ASSERT_EQ(n_parked(), 1u);
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        int error = hak_verify() != 0 || n_parked() != 1;
        in_thread([&] {
            void *again = hak_malloc(100);
            error |= again != block ? 2 : 0;
            hak_free(again);
        });
        error |= hak_verify() != 0 ? 4 : 0;
        (void)hak_purge();
        error |= n_parked() != 0 || hak_stat_get(bin_budget) != 0 ? 8 : 0;
        error |= hak_stat_get(orphans) + 1 != hak_stat_get(heaps) ? 16 : 0;
        _exit(error);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

/* In a forked child a heap may be lost: no thread takes it, nor ends it. */
TEST_F(Parked, ALostOneIsNone)
{
    in_thread([] {
        hak_free(hak_malloc(1));
        several(2);
        ASSERT_EQ(n_parked(), 2u);
        struct theap *lost = hak_parked[0], *whole = hak_parked[1];
        lost->owner.kind |= OWNER_LOST;
        hak_parked_fork_child();
        EXPECT_EQ(n_parked(), 1u);
        EXPECT_EQ(hak_parked[0], whole);
        lost->owner.kind &= ~static_cast<uint32_t>(OWNER_LOST);
        hak_parked[1] = lost;
    });
}

/* Threads come and go, hand blocks on, trim, rest and grow: each block keeps what was written. */
TEST_F(Parked, ThreadsThatComeAndGo)
{
    constexpr int n_chains = 3, n_generations = HAK_TINY_OR(40, 120);
    std::atomic<uint32_t> n_wrong(0);
    auto chain = [&](int number) {
        std::vector<unsigned char *> blocks(200);
        std::vector<size_t> sizes(200);
        for (int i = 0; i < n_generations; i++) {
            in_thread([&] {
                Rng rng(uint64_t(number) * 1000 + uint64_t(i));
                for (int step = 0; step < 600; step++) {
                    size_t at = rng.below(blocks.size());
                    unsigned char mark = static_cast<unsigned char>(at + size_t(number));
                    if (blocks[at]) {
                        n_wrong += blocks[at][0] != mark || blocks[at][sizes[at] - 1] != mark;
                        hak_free(blocks[at]);
                        blocks[at] = nullptr;
                    } else {
                        sizes[at] = rng.between(1, rng.below(20) ? 600 : 20000);
                        blocks[at] = static_cast<unsigned char *>(hak_malloc(sizes[at]));
                        blocks[at][0] = blocks[at][sizes[at] - 1] = mark;
                    }
                }
                if (rng.below(8) == 0) {
                    (void)hak_purge();
                }
                if (rng.below(4) == 0 && hak_gate_enter()) {
                    hak_parked_rest();
                    hak_gate_leave();
                }
            });
        }
        for (unsigned char *p : blocks) {
            hak_free(p);
        }
    };
    std::vector<std::thread> chains;
    for (int i = 0; i < n_chains; i++) {
        chains.emplace_back(chain, i);
    }
    for (std::thread &thread : chains) {
        thread.join();
    }
    EXPECT_EQ(n_wrong, 0u);
}

/* It has no part of the process's budget, and comes back with what it had only where that is left.
 */
TEST_F(Parked, ItsBudgetServesOthers)
{
    const uint32_t c = hak_sc_of(32);
    auto work = [&] {
        std::vector<void *> blocks(40);
        for (int round = 0; round < 3; round++) {
            for (void *&p : blocks) {
                p = hak_malloc(32);
            }
            for (void *p : blocks) {
                hak_free(p);
            }
        }
    };
    int64_t before = hak_stat_get(bin_budget);
    uint64_t budget = 0;
    uint16_t limit = 0;
    in_thread([&] {
        work();
        budget = hak_self->budget;
        limit = hak_self->limits[c];
    });
    if (budget == 0) {
        return; /* the tiny variant's limits cannot grow */
    }
    ASSERT_EQ(n_parked(), 1u);
    EXPECT_EQ(hak_stat_get(bin_budget), before);
    in_thread([&] {
        hak_free(hak_malloc(32));
        EXPECT_EQ(hak_self->budget, budget);
        EXPECT_EQ(hak_self->limits[c], limit);
    });
    EXPECT_EQ(hak_stat_get(bin_budget), before);
    hak_options.cache_bytes = 0;
    in_thread([&] {
        hak_free(hak_malloc(32));
        EXPECT_EQ(hak_self->budget, 0u);
        EXPECT_LT(hak_self->limits[c], limit);
    });
    EXPECT_EQ(hak_stat_get(bin_budget), before);
}

/* Of many threads, few are parked, and none for long. */
TEST_F(Parked, NoneWhereThereMayBeNone)
{
    hak_parked_most = 0;
    (void)park_one(100);
    EXPECT_EQ(n_parked(), 0u);
}

} // namespace
