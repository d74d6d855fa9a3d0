/* Tests of heaps and thread caches: what they may hold back (the bounds of theap.h), adoption,
   threads that come and go, ids that are used up, allocation when a thread or the process is
   ending. */
#include "heap/theap.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/common.h"
#include "heap/parked.h"
#include "heap/tcache.h"
#include "superslab/superslab.h"
#include "testing/pages.h"
#include "testing/rng.h"
#include "tiny/tiny_class.h"

namespace
{

using hak_testing::Rng;

/* std::thread::join returns when the thread's destructors have run: the heap is an orphan then. */
template <typename F> void in_thread(F f)
{
    std::thread(f).join();
}

class Heap : public testing::Test
{
  protected:
    void SetUp() override
    {
        saved_ = hak_options;
        hak_common_from = COMMON_THREADS; /* fewer have slabs of their own */
        hak_parked_most = 0;
        if (HAK_SECURE) {
            GTEST_SKIP() << "freed blocks wait in a quarantine, not in bins";
        }
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    void TearDown() override
    {
        hak_options = saved_;
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
        EXPECT_EQ(hak_stat_get(bin_budget), 0);
    }

  private:
    struct options saved_;
};

/* --- the bounds of theap.h, from constants --- */

size_t size_of(uint32_t c)
{
    return hak_sc_table[c].size;
}

/* The most blocks that a bin's limit may be within `bytes`. */
size_t limit_within(uint32_t c, size_t bytes)
{
    size_t least = size_of(c) > SC_TINY_MAX ? 1 : 2,
           most = size_of(c) > SC_TINY_MAX ? SIZE_MAX : size_t(TINY_MAX_BLOCKS);
    return std::min(std::max(bytes / size_of(c), least), most);
}

size_t policy_limit(uint32_t c)
{
    return limit_within(c, hak_options.bin_bytes /
                               (size_of(c) > TINY_FULL_SIZE && size_of(c) <= SC_TINY_MAX ? 2 : 1));
}

/* In a large heap. */
size_t largest_limit(uint32_t c)
{
    return size_of(c) > SC_TINY_MAX ? limit_within(c, hak_options.bin_bytes * TC_MID_TIMES)
                                    : policy_limit(c);
}

/* What the limits of mid classes are above their policy's, in bytes. */
size_t bytes_above_policy(const struct theap *heap)
{
    size_t bytes = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        size_t limit = heap->limits[c];
        bytes += limit > policy_limit(c) ? 2 * (limit - policy_limit(c)) * size_of(c) : 0;
    }
    return bytes;
}

/* Takes and frees `n` blocks of the class, some times. */
void swing(uint32_t c, size_t n, size_t rounds)
{
    std::vector<void *> blocks;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < n; i++) {
            blocks.push_back(hak_malloc(size_of(c)));
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        blocks.clear();
    }
}

/* What a chain may be, if one came back from another thread. */
size_t chain_within(uint32_t c)
{
    return std::max<size_t>(std::min<size_t>(OUTBOX_MAX_BYTES / size_of(c), OUTBOX_MAX_BLOCKS), 1);
}

size_t most_blocks_of_a_list(uint32_t c)
{
    return std::max(largest_limit(c), chain_within(c));
}

size_t n_blocks(const void *list)
{
    size_t n = 0;
    for (; list; list = hak_link_next(list)) {
        n++;
    }
    return n;
}

size_t cached_blocks(const struct theap *heap, uint32_t c)
{
    return n_blocks(hak_tc_bin_first(&heap->bins[c])) + n_blocks(heap->spares[c].head);
}

size_t cached_bytes(const struct theap *heap)
{
    size_t bytes = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bytes += cached_blocks(heap, c) * size_of(c);
    }
    return bytes;
}

/* Lists at their first limits. */
size_t first_bytes()
{
    size_t bytes = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bytes +=
            2 *
            std::max(std::min<size_t>(limit_within(c, OWNER_FIRST_BYTES), 16), chain_within(c)) *
            size_of(c);
    }
    return bytes;
}

/* Allocates and frees, so that the limits grow. */
void work_up(size_t rounds)
{
    hak_free(hak_malloc(1));
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        hak_self->window_left = UINT32_MAX; /* no bin is found asleep */
        swing(c, 4 * (policy_limit(c) + 2), rounds);
    }
}

TEST_F(Heap, AThreadWithoutOneFindsEmptyBinsWhereverTheTableLeads)
{
    for (int is_metered : {1, 0}) {
        hak_tc_set_mid_metered(is_metered);
        for (size_t size = SC_TINY_MAX + 1; size <= SC_SMALL_MAX; size += 16) {
            uint16_t offset = hak_tc_mid_bin_of[(size + 15) >> SC_GRANULE_SHIFT];
            const auto *bin = reinterpret_cast<const struct bin *>(
                reinterpret_cast<const char *>(&hak_theap_none) + offset);
            ASSERT_EQ(bin->head, static_cast<const void *>(hak_link_end)) << size;
        }
    }
}

TEST_F(Heap, ACacheIsBounded)
{
    in_thread([] {
        work_up(12);
        const struct theap *heap = hak_self;
        size_t n_grown = 0, n_growable = 0;
        for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
            size_t most = most_blocks_of_a_list(c);
            EXPECT_LE(heap->limits[c], largest_limit(c)) << size_of(c);
            EXPECT_LE(n_blocks(hak_tc_bin_first(&heap->bins[c])), most) << size_of(c);
            EXPECT_LE(n_blocks(heap->spares[c].head), most + 1) << size_of(c);
            size_t first = std::min<size_t>(limit_within(c, OWNER_FIRST_BYTES), 16);
            n_grown += heap->limits[c] > first;
            n_growable += policy_limit(c) > first;
        }
        EXPECT_EQ(n_grown, n_growable) << "this test must reach grown limits";
        EXPECT_GT(cached_bytes(heap), first_bytes() / 4) << "this test must fill the cache";
        EXPECT_LE(cached_bytes(heap), first_bytes() + heap->budget);
        EXPECT_EQ(heap->mid_more, bytes_above_policy(heap));
        EXPECT_EQ(hak_verify(), 0);
    });
    EXPECT_EQ(hak_stat_get(bin_budget), 0) << "an ended thread uses no budget";
}

/* A bin that is not used while others take many slow paths returns its blocks and its budget, half
   and half again. */
TEST_F(Heap, ABinThatSleepsShrinks)
{
    in_thread([] {
        work_up(12);
        const uint32_t asleep = hak_sc_of(48);
        const struct theap *heap = hak_self;
        uint32_t first =
            static_cast<uint32_t>(std::min<size_t>(limit_within(asleep, OWNER_FIRST_BYTES), 16));
        uint32_t limit = heap->limits[asleep];
        if (limit <= first) {
            return; /* the tiny variant's limits cannot grow */
        }
        hak_self->window_left = 0;
        std::vector<void *> held;
        for (int n_smaller = 0; heap->limits[asleep] > first; n_smaller++) {
            ASSERT_LT(n_smaller, 10);
            uint64_t budget = heap->budget;
            while (heap->limits[asleep] == limit) {
                held.push_back(hak_malloc(20000));
                ASSERT_LT(held.size(), 40u * TC_SLEEP_WINDOW);
            }
            EXPECT_EQ(n_blocks(hak_tc_bin_first(&heap->bins[asleep])) +
                          n_blocks(heap->spares[asleep].head),
                      0u);
            EXPECT_LT(heap->budget, budget);
            limit = heap->limits[asleep];
        }
        EXPECT_EQ(hak_verify(), 0);
        for (void *p : held) {
            hak_free(p);
        }
    });
    EXPECT_EQ(hak_stat_get(bin_budget), 0);
}

/* Allocates until a list of the class has come from behind the lock, or its limit and more; returns
   how many blocks it had. */
size_t next_list(uint32_t c, std::vector<void *> &held)
{
    const struct theap *heap = hak_self;
    int64_t before = hak_stat_get(refills);
    for (uint32_t n = 0; n <= 3u * heap->limits[c] && hak_stat_get(refills) == before; n++) {
        held.push_back(hak_malloc(size_of(c)));
    }
    return n_blocks(hak_tc_bin_first(&heap->bins[c])) + 1;
}

/* A class that only grows touches more ahead of need, by how much it has taken; until some of it
   comes back. */
TEST_F(Heap, AClassThatOnlyGrowsTouchesMoreAhead)
{
    in_thread([] {
        work_up(12);
        const uint32_t c = hak_sc_of(64);
        const struct theap *heap = hak_self;
        std::vector<void *> held;
        while (heap->n_fresh[c] == 0) { /* what was there has been used up */
            (void)next_list(c, held);
            ASSERT_LT(held.size(), 1000000u);
        }
        const size_t one = OWNER_FRESH_BYTES / size_of(c);
        size_t begin = held.size(), largest = 0;
        while (largest < std::min<size_t>(hak_owner_refill_blocks(heap->limits[c]), 4 * one)) {
            size_t taken = held.size() - begin, n = next_list(c, held);
            if (heap->refill_is_clean) { /* memory that no slab has had before */
                EXPECT_LE(n, std::max(one, taken / 16));
                largest = std::max(largest, n);
            }
            ASSERT_LT(held.size(), 1000000u);
        }
        EXPECT_EQ(hak_verify(), 0);
        for (void *p : held) {
            hak_free(p);
        }
        EXPECT_EQ(heap->n_fresh[c], 0);
    });
}

/* And a fresh slab's pages are fetched together then, of its front first: no more than such a part
   of what the class has taken, and all in the end. */
TEST_F(Heap, AClassThatOnlyGrowsFetchesPagesTogether)
{
    hak_options.huge_page_bytes = 0;
    in_thread([] {
        const uint32_t c = hak_sc_of(1024);
        const size_t limit = HAK_TINY_OR(1, 6) * size_t(HAK_MIB), slab = SC_SLAB_BYTES;
        std::vector<void *> held;
        size_t part = 0, least = 0;
        for (size_t taken = 0; taken < limit; taken += size_of(c)) {
            const char *p = static_cast<const char *>(hak_malloc(size_of(c)));
            held.push_back(const_cast<char *>(p));
            if (reinterpret_cast<uintptr_t>(p) % slab == 0 && hak_self->refill_is_clean) {
                part = hak_testing::resident(p, slab);
                size_t most = std::max<size_t>(HAK_TINY_OR(slab, slab / 4), taken / 16);
                EXPECT_LE(part, std::min(most, slab));
                EXPECT_GE(part, least) << "no fewer than before";
                least = std::max(least, part / 2);
            }
        }
        EXPECT_EQ(part, hak_testing::can_populate() ? slab : part);
        for (void *p : held) {
            hak_free(p);
        }
    });
}

/* The bins of mid classes grow with the heap, and shrink with it. */
TEST_F(Heap, MidBinsAreAShareOfTheHeap)
{
    in_thread([] {
        const uint32_t c = hak_sc_of(2048);
        const size_t n = 3 * largest_limit(c);
        hak_tc_flush(hak_theap_acquire());
        if (largest_limit(c) == policy_limit(c)) {
            return; /* the tiny variant's limits cannot grow */
        }
        const struct theap *heap = hak_self;
        hak_self->window_left = UINT32_MAX;
        swing(c, policy_limit(c) + 1, 40);
        EXPECT_LE(bytes_above_policy(heap), heap->n_slabs * SC_SLAB_BYTES / TC_MID_SHARE);

        std::vector<void *> held;
        const size_t bytes = 10 * TC_MID_TIMES * std::max<size_t>(hak_options.bin_bytes, 65536);
        for (size_t i = 0; i < bytes / 1024; i++) {
            held.push_back(hak_malloc(1024));
        }
        swing(c, n, 40);
        size_t limit = heap->limits[c];
        EXPECT_EQ(limit, largest_limit(c)) << "this test must reach the largest limit";
        EXPECT_GT(limit, policy_limit(c));
        EXPECT_EQ(heap->mid_more, bytes_above_policy(heap));
        EXPECT_EQ(hak_verify(), 0);

        for (void *p : held) {
            hak_free(p);
        }
        held.clear();
        for (int window = 0; window < 10; window++) {
            hak_self->window_left = 0;
            hak_self->awake = UINT64_MAX; /* it does not sleep */
            while (heap->window_left == 0) {
                held.push_back(hak_malloc(20000));
            }
        }
        EXPECT_LT(heap->limits[c], limit);
        EXPECT_LE(heap->mid_more, heap->n_slabs * SC_SLAB_BYTES / TC_MID_SHARE);
        EXPECT_EQ(hak_verify(), 0);
        for (void *p : held) {
            hak_free(p);
        }
    });
    EXPECT_EQ(hak_stat_get(bin_budget), 0);
}

size_t listed_bytes(const struct theap *heap, uint32_t c)
{
    return (hak_tc_count(heap, c) + heap->spares[c].count) * size_of(c);
}

/* Fills a thread's lists of the class as far as they go, with nothing in use. */
void fill_lists(uint32_t c)
{
    for (int round = 0; round < 12; round++) {
        std::vector<void *> held;
        for (size_t i = 0; i < 4 * SC_SLAB_BYTES / size_of(c); i++) {
            held.push_back(hak_malloc(size_of(c)));
        }
        for (void *p : held) {
            hak_free(p);
        }
    }
}

/* Before fresh memory is taken for a slab of one class, long lists of others go to their slabs. As
   long as the pool has resident memory, they stay. */
TEST_F(Heap, LongListsGoBackBeforeTheProcessGrows)
{
    in_thread([] {
        const uint32_t kept = hak_sc_of(1024), grows = hak_sc_of(4096);
        fill_lists(kept);
        const struct theap *heap = hak_self;
        const size_t listed = listed_bytes(heap, kept);
        if (listed < SC_SLAB_BYTES) {
            return; /* the tiny variant's lists */
        }
        std::vector<void *> held;
        auto take_slab = [&] {
            for (uint32_t n = heap->owner.bank.n_slabs; heap->owner.bank.n_slabs <= n;) {
                held.push_back(hak_malloc(size_of(grows)));
                ASSERT_LT(held.size(), 1000u);
            }
        };
        while (heap->owner.bank.n_slabs < TC_RELIEVE_FROM ||
               hak_stat_get(heap_dirty_bytes) >= static_cast<int64_t>(SC_SLAB_BYTES)) {
            EXPECT_EQ(listed_bytes(heap, kept), listed);
            take_slab();
        }
        /* A spare, then the bin; each time a slab is taken, which is not fresh. */
        const int64_t mapped = hak_stat_get(heap_used_bytes);
        for (int i = 0; i < 4 && listed_bytes(heap, kept); i++) {
            const uint64_t returned = hak_stat_get(slabs_returned);
            size_t before = listed_bytes(heap, kept);
            while (listed_bytes(heap, kept) == before) {
                held.push_back(hak_malloc(size_of(grows)));
                ASSERT_LT(held.size(), 1000u);
            }
            EXPECT_GT(hak_stat_get(slabs_returned), returned);
            EXPECT_LE(hak_stat_get(heap_used_bytes), mapped);
        }
        EXPECT_LT(listed_bytes(heap, kept), SC_SLAB_BYTES / 2);
        EXPECT_EQ(hak_verify(), 0);
        for (void *p : held) {
            hak_free(p);
        }
    });
}

/* Who only frees what others left has no use for large bins. */
TEST_F(Heap, ABinThatIsNeverFilledDoesNotGrow)
{
    const size_t size = 720;
    std::vector<void *> left;
    for (int round = 0; round < 40; round++) {
        in_thread([&] {
            for (int i = 0; i < 1000; i++) {
                left.push_back(hak_malloc(size));
            }
        });
    }
    in_thread([&] {
        hak_free(hak_malloc(16));
        hak_tc_flush(hak_self);
        uint32_t limit = hak_self->limits[hak_sc_of(size)];
        for (void *p : left) {
            hak_free(p);
        }
        EXPECT_EQ(hak_self->limits[hak_sc_of(size)], limit);
        EXPECT_EQ(hak_verify(), 0);
        /* Filled once, it grows as any other. */
        const uint32_t most = largest_limit(hak_sc_of(size));
        left.clear();
        for (uint32_t round = 0; round < 40; round++) {
            for (uint32_t i = 0; i < 4 * most; i++) {
                left.push_back(hak_malloc(size));
            }
            for (void *p : left) {
                hak_free(p);
            }
            left.clear();
        }
        EXPECT_EQ(hak_self->limits[hak_sc_of(size)], most);
    });
}

TEST_F(Heap, BinsMayBeFixed)
{
    hak_options.bin_adapt = 0;
    in_thread([] {
        hak_tc_flush(hak_theap_acquire()); /* an adopted heap has the limits of its thread before */
        for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
            EXPECT_EQ(hak_self->limits[c], policy_limit(c));
        }
        EXPECT_EQ(hak_self->budget, 0u);
        hak_options.bin_adapt = 1;
        hak_tc_flush(hak_self);
    });
}

TEST_F(Heap, AllCachesShareABudget)
{
    hak_options.cache_bytes = 100000;
    hak_options.bin_bytes = 32768;
    const int n_threads = 6;
    std::atomic<int> n_ready(0);
    std::atomic<bool> stop(false);
    std::vector<size_t> held(n_threads);
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; i++) {
        threads.emplace_back([&, i] {
            work_up(3);
            held[static_cast<size_t>(i)] = cached_bytes(hak_self);
            n_ready++;
            while (!stop) {
                usleep(1000);
            }
        });
    }
    while (n_ready < n_threads) {
        usleep(1000);
    }
    /* Threads race for the last of it: each may be one step over. */
    EXPECT_LE(hak_stat_get(bin_budget), 100000 + n_threads * 2 * 32768);
    EXPECT_GT(hak_stat_get(bin_budget), 100000 / 4);
    size_t sum = 0;
    for (size_t bytes : held) {
        sum += bytes;
    }
    EXPECT_LE(sum, n_threads * first_bytes() + static_cast<size_t>(hak_stat_get(bin_budget)));
    stop = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_stat_get(bin_budget), 0);
}

TEST_F(Heap, NoBudgetStillServesEverySize)
{
    hak_options.cache_bytes = 0;
    hak_options.bin_bytes = 0;
    in_thread([] {
        work_up(2);
        EXPECT_EQ(hak_self->budget, 0u);
        EXPECT_LE(cached_bytes(hak_self), first_bytes());
    });
}

TEST_F(Heap, AnIdleHeapHoldsNothing)
{
    in_thread([] { work_up(2); });
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "the thread has ended, all its slabs are empty";
}

TEST_F(Heap, ALiveHeapKeepsAtMostOneEmptySlabAClass)
{
    in_thread([] {
        std::vector<void *> blocks;
        for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
            for (size_t i = 0; i < 3 * size_t(hak_sc_table[c].capacity); i++) {
                blocks.push_back(hak_malloc(size_of(c)));
            }
        }
        int64_t used = hak_stat_get(heap_used_bytes);
        EXPECT_GE(used, 3 * SC_N_CLASSES);
        for (void *p : blocks) {
            hak_free(p);
        }
        hak_tc_flush(hak_self);
        hak_lock_acquire(&hak_self->owner.lock);
        while (hak_remote_collect(hak_self)) { /* what lies in the depot */
        }
        (void)hak_theap_unlock(hak_self);
        EXPECT_LE(hak_stat_get(heap_used_bytes),
                  SC_N_CLASSES * static_cast<int64_t>(SS_UNIT_BYTES));
        EXPECT_EQ(hak_verify(), 0);
    });
}

/* --- adoption --- */

TEST_F(Heap, AnOrphanIsAdoptedWhole)
{
    char *block = nullptr;
    const struct theap *first = nullptr;
    in_thread([&] {
        block = static_cast<char *>(hak_malloc(100));
        memset(block, 7, 100);
        first = hak_self;
    });
    int64_t heaps = hak_stat_get(heaps), orphans = hak_stat_get(orphans);
    EXPECT_GE(orphans, 1);
    EXPECT_FALSE(hak_theap_is_live(first));
    in_thread([&] {
        void *p = hak_malloc(100);
        EXPECT_EQ(hak_self, first);
        EXPECT_TRUE(hak_theap_is_live(first));
        EXPECT_EQ(hak_stat_get(orphans), orphans - 1);
        EXPECT_EQ(hak_super_lookup(p).owner, hak_super_lookup(block).owner);
        EXPECT_EQ(block[99], 7);
        /* The block is the new thread's own now: it goes to a bin, and comes back. */
        hak_free(block);
        EXPECT_EQ(hak_malloc(100), block);
        hak_free(block);
        hak_free(p);
    });
    EXPECT_EQ(hak_stat_get(heaps), heaps);
    EXPECT_EQ(hak_stat_get(orphans), orphans);
}

/* Slabs with free blocks of ended threads serve whoever needs one, before fresh memory does. */
TEST_F(Heap, ASlabOfAnEndedThreadIsTakenOver)
{
    void *kept[3];
    for (void *&block : kept) {
        in_thread([&] { block = hak_malloc(100); });
    }
    int64_t used = (hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)),
            adopted = hak_stat_get(slabs_adopted);
    EXPECT_EQ(used, 1) << "the second and third took the first one's over";
    in_thread([&] {
        std::vector<void *> blocks;
        for (size_t i = 0; i < hak_sc_table[hak_sc_of(100)].capacity - 3; i++) {
            blocks.push_back(hak_malloc(100));
        }
        EXPECT_EQ((hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)), used);
        EXPECT_GT(hak_stat_get(slabs_adopted), adopted);
        EXPECT_EQ(hak_super_lookup(kept[0]).owner, hak_self->owner.id);
        for (void *p : blocks) {
            hak_free(p);
        }
    });
    EXPECT_EQ(hak_verify(), 0);
    for (void *p : kept) {
        hak_free(p);
    }
}

/* Frees that were on their way to the old owner when the slab moved. */
TEST_F(Heap, AStrayBlockIsSentOn)
{
    hak_free(hak_malloc(1));
    (void)hak_purge();
    void *blocks[4];
    uint32_t first_tag = 0;
    in_thread([&] {
        for (void *&block : blocks) {
            block = hak_malloc(SC_SMALL_MAX);
        }
        first_tag = hak_map_find(blocks[0]).tag;
    });
    const struct theap *first = hak_theap_of_owner(hak_owner_by_id(TAG_OWNER(first_tag)));
    hak_free(blocks[0]); /* waits in the own bin */
    hak_remote_free_now(blocks[1], first_tag);
    EXPECT_NE(hak_map_find(blocks[0]).tag, first_tag)
        << "the slab has a free block now, and has moved";
    EXPECT_EQ(first->owner.bank.n_slabs, 1u);
    hak_remote_free_now(blocks[2],
                        hak_map_find(blocks[0]).tag); /* as if its slab had been the other's */
    EXPECT_EQ(hak_verify(), 0);
    hak_free(blocks[3]);
    (void)hak_purge();
    EXPECT_EQ((hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)), 0)
        << "every block has arrived";
}

/* A live heap with more than it needs gives a slab to another that would else take fresh memory. */
/* Of tiny classes, whose blocks share no cache line, a live heap's only slab serves others too,
   now and then; smaller and larger ones do not. */
TEST_F(Heap, TinySlabsAreLevelledBetweenLiveHeaps)
{
    for (size_t size : {size_t(700), size_t(40), size_t(8000)}) {
        void *mine = hak_malloc(size);
        int64_t used = hak_stat_get(heap_used_bytes);
        int64_t more = size == 700 ? 0 : int64_t(SS_UNIT_BYTES);
        in_thread([&] {
            void *p = hak_malloc(size);
            EXPECT_EQ(hak_stat_get(heap_used_bytes) - used, more) << size;
            hak_free(p);
        });
        hak_free(mine);
        (void)hak_purge();
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Heap, ALiveHeapIsHelpedOutByAnother)
{
    const size_t n_slabs = 20;
    std::vector<void *> blocks;
    for (size_t i = 0; i < 2 * n_slabs; i++) {
        blocks.push_back(hak_malloc(SC_SMALL_MAX));
    }
    for (size_t i = 0; i < 2 * n_slabs; i += 2) {
        hak_free(blocks[i]); /* one block of each slab, or nearly */
    }
    hak_tc_flush(hak_self);
    int64_t used = (hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES));
    in_thread([&] {
        void *mine[4];
        for (void *&p : mine) {
            p = hak_malloc(SC_SMALL_MAX);
        }
        EXPECT_EQ((hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)), used);
        for (void *p : mine) {
            hak_free(p);
        }
    });
    EXPECT_EQ(hak_verify(), 0);
    for (size_t i = 1; i < 2 * n_slabs; i += 2) {
        hak_free(blocks[i]);
    }
}

TEST_F(Heap, AThreadWhoseFirstCallIsFreeAdoptsTheOwner)
{
    /* All blocks of a slab: it stays with the heap. */
    void *blocks[2];
    in_thread([&] {
        for (void *&block : blocks) {
            block = hak_malloc(SC_SMALL_MAX);
        }
    });
    in_thread([&] {
        hak_free(blocks[0]);
        EXPECT_EQ(hak_malloc(SC_SMALL_MAX), blocks[0]) << "it was put into the adopted heap's bin";
        hak_free(blocks[0]);
        hak_free(blocks[1]);
    });
}

/* No other thread would use it soon: it is kept at hand, and comes back to its slab when the bin is
   emptied. */
TEST_F(Heap, ABlockFreedToAnOrphanIsKept)
{
    hak_free(hak_malloc(1)); /* this thread gets a heap */
    (void)hak_purge();
    void *blocks[2];
    in_thread([&] {
        blocks[0] = hak_malloc(100);
        blocks[1] = hak_malloc(30000);
    });
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 2 * static_cast<int64_t>(SS_UNIT_BYTES));
    hak_free(blocks[0]);
    hak_free(blocks[1]);
    EXPECT_EQ(hak_malloc(100), blocks[0]);
    EXPECT_EQ(hak_malloc(30000), blocks[1]);
    hak_free(blocks[0]);
    hak_free(blocks[1]);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

TEST_F(Heap, ThreadsThatComeAndGoLeaveNothing)
{
    std::vector<std::thread> threads;
    auto generation = [&](int rounds) {
        for (int round = 0; round < rounds; round++) {
            for (int i = 0; i < 4; i++) {
                threads.emplace_back([i] {
                    std::vector<void *> blocks;
                    Rng rng(static_cast<uint64_t>(i));
                    for (int k = 0; k < 200; k++) {
                        blocks.push_back(hak_malloc(rng.below(20000)));
                    }
                    for (void *p : blocks) {
                        hak_free(p);
                    }
                });
            }
            for (std::thread &thread : threads) {
                thread.join();
            }
            threads.clear();
        }
    };
    generation(3);
    int64_t heaps = hak_stat_get(heaps);
    size_t meta = hak_os_meta_bytes();
    generation(60);
    EXPECT_LE(hak_stat_get(heaps), heaps + 4) << "heaps are adopted, not made";
    EXPECT_LE(hak_os_meta_bytes(), meta + 2 * HAK_MIB);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(heaps) - hak_stat_get(orphans), hak_self == &hak_theap_none ? 0 : 1)
        << "all but this thread's are orphans";
}

TEST_F(Heap, AThreadThatOnlyFreesLeavesNothing)
{
    std::vector<void *> blocks;
    for (int i = 0; i < 5000; i++) {
        blocks.push_back(hak_malloc(static_cast<size_t>(i % 3000)));
    }
    in_thread([&] {
        for (void *p : blocks) {
            hak_free(p);
        }
    });
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* --- ids --- */

TEST_F(Heap, MoreThreadsThanIds)
{
    if (OWNER_MAX > 1000) {
        GTEST_SKIP() << "the tiny variant has few ids";
    }
    const int n_threads = static_cast<int>(OWNER_MAX) + 20;
    std::mutex mutex;
    std::condition_variable changed;
    int n_ready = 0, phase = 0;
    std::vector<void *> kept(static_cast<size_t>(n_threads));
    int n_without = 0, n_failed = 0;
    auto wait_for = [&](int wanted) {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return phase >= wanted; });
    };
    auto set_phase = [&](int wanted) {
        std::unique_lock<std::mutex> lock(mutex);
        phase = wanted;
        changed.notify_all();
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; i++) {
        threads.emplace_back([&, i] {
            char *p = static_cast<char *>(hak_malloc(64));
            {
                std::unique_lock<std::mutex> lock(mutex);
                n_failed += p == nullptr;
                n_without += hak_self == &hak_theap_none;
                n_ready++;
                changed.notify_all();
            }
            wait_for(1);
            for (int k = 0; k < 200; k++) {
                char *q = static_cast<char *>(hak_malloc(static_cast<size_t>(k * 50)));
                if (!q) {
                    std::unique_lock<std::mutex> lock(mutex);
                    n_failed++;
                    continue;
                }
                memset(q, 1, static_cast<size_t>(k * 50));
                hak_free(q);
            }
            {
                std::unique_lock<std::mutex> lock(mutex);
                kept[static_cast<size_t>(i)] = p;
                n_ready++;
                changed.notify_all();
            }
            wait_for(2); /* or an orphan would serve who had none */
        });
    }
    auto wait_until_ready = [&](int wanted) {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return n_ready == wanted; });
    };
    wait_until_ready(n_threads);
    EXPECT_GE(n_without, 20) << "this test must use all ids up";
    EXPECT_EQ(n_failed, 0);
    EXPECT_EQ(hak_verify(), 0);
    size_t meta = hak_os_meta_bytes();
    set_phase(1);
    wait_until_ready(2 * n_threads);
    EXPECT_EQ(n_failed, 0);
    /* Some are what describes superslabs; 20 threads that took memory for a heap each time would
       have taken 40 MiB. */
    EXPECT_LE(hak_os_meta_bytes(), meta + 8 * HAK_MIB)
        << "a thread that gets no heap costs no memory a call";
    EXPECT_EQ(hak_verify(), 0);
    set_phase(2);
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (void *p : kept) {
        hak_free(p);
    }
}

/* --- endings --- */

struct DoesAtEnd {
    std::function<void()> what;
    ~DoesAtEnd()
    {
        if (what) {
            what();
        }
    }
};
thread_local DoesAtEnd at_end_of_thread;

TEST_F(Heap, AllocationInAThreadLocalDestructor)
{
    in_thread([] {
        void *early = hak_malloc(100);
        at_end_of_thread.what = [early] {
            hak_free(early);
            void *p = hak_malloc(200), *q = hak_malloc(100000);
            EXPECT_NE(p, nullptr);
            hak_free(p);
            hak_free(q);
        };
    });
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* A key's destructor that runs after the heap's own: it is set again and again, so that it also
   runs in later rounds. */
struct KeyState {
    /* Atomic for the thread sanitizer, to which a thread has ended before its last destructors run.
     */
    std::atomic<int> rounds{0}, n_failed{0};
    std::atomic<bool> saw_no_heap{false};
    void *kept[4];
};
pthread_key_t late_key;

void late_destructor(void *arg)
{
    KeyState *state = static_cast<KeyState *>(arg);
    state->saw_no_heap = state->saw_no_heap || hak_self == &hak_theap_none;
    size_t sizes[] = {20, 2000, 30000, 200000};
    for (size_t size : sizes) {
        char *p = static_cast<char *>(hak_malloc(size));
        if (!p) {
            state->n_failed++;
            continue;
        }
        memset(p, 1, size);
        p = static_cast<char *>(hak_realloc(p, size * 2));
        hak_free(p);
    }
    hak_free(state->kept[state->rounds]); /* of the heap that has ended */
    if (++state->rounds < 4) {
        pthread_setspecific(late_key, state);
    }
}

TEST_F(Heap, AllocationAfterTheThreadsHeapHasEnded)
{
    ASSERT_EQ(pthread_key_create(&late_key, late_destructor), 0);
    KeyState state;
    in_thread([&] {
        for (void *&p : state.kept) {
            p = hak_malloc(500);
        }
        pthread_setspecific(late_key, &state);
    });
    EXPECT_EQ(state.rounds, 4);
    EXPECT_TRUE(state.saw_no_heap);
    EXPECT_EQ(state.n_failed, 0);
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    pthread_key_delete(late_key);
}

void at_exit()
{
    char *p = static_cast<char *>(hak_calloc(100, 100));
    hak_free(hak_realloc(p, 100000));
    const char text[] = "at exit all is well\n";
    if (hak_verify() == 0) {
        (void)!write(2, text, sizeof text - 1);
    }
}

TEST(HeapDeathTest, AllocationAtExit)
{
    EXPECT_EXIT(
        {
            atexit(at_exit);
            hak_free(hak_malloc(10));
            exit(3);
        },
        testing::ExitedWithCode(3), "at exit all is well");
}

/* The main thread ends before the process does: see main below. */
TEST(HeapDeathTest, AllocationAtExitAfterTheMainThreadEnded)
{
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP()
        << "the thread sanitizer hangs when the main thread ends first, whatever the program";
#endif
    EXPECT_EXIT(
        {
            setenv("HAK_TEST_MAIN_THREAD_ENDS", "1", 1);
            execl("/proc/self/exe", "heap_test", nullptr);
        },
        testing::ExitedWithCode(0), "at exit all is well");
}

void *outlives_main(void *)
{
    usleep(20000);
    hak_free(hak_malloc(10));
    return nullptr;
}

} // namespace

int main(int argc, char **argv)
{
    /* Not within a test: GoogleTest would catch what pthread_exit throws. */
    if (getenv("HAK_TEST_MAIN_THREAD_ENDS")) {
        pthread_t thread;
        atexit(at_exit);
        hak_free(hak_malloc(10));
        pthread_create(&thread, nullptr, outlives_main, nullptr);
        pthread_exit(nullptr);
    }
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
