/* Tests of what goes on while another thread forks: no thread waits for it, and nothing is lost. */
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "ace/ace.h"
#include "base/attributes.h"
#include "base/stats.h"
#include "hakmem/fork_testing.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/walk.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "heap/parked.h"
#include "heap/theap.h"
#include "mid_mt/mid_mt.h"
#include "superslab/superslab.h"

namespace
{

using namespace fork_testing;

/* Also of threads that have ended: their heaps are orphans, all but the caller's. */
void expect_all_back()
{
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_EQ(hak_limbo_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
    EXPECT_EQ(hak_stat_get(orphans), hak_stat_get(heaps) - 1);
}

/* What a thread leaves is an orphan: nothing waits in it for the next thread. */
class NoneParked
{
  public:
    NoneParked()
    {
        hak_parked_most = 0;
    }
    ~NoneParked()
    {
        hak_parked_most = PARKED_MOST;
    }
};

/* A fork that is under way in this thread. */
class Closed
{
  public:
    Closed()
    {
        alarm(60); /* who waits for it waits for ever */
        hak_gate_close();
    }
    ~Closed()
    {
        hak_gate_open();
        alarm(0);
    }
};

void check_filled(const char *p, size_t size, char with)
{
    for (size_t i = 0; i < size; i += i < 64 ? 1 : 61) {
        ASSERT_EQ(p[i], with) << i << " of " << size;
    }
}

/* Every kind of request, by threads that have heaps and by new ones; none waits, and afterwards
   nothing is lost. */
void use_everything()
{
    for (size_t size : sizes) {
        char *p = static_cast<char *>(hak_malloc(size));
        ASSERT_NE(p, nullptr);
        ASSERT_GE(hak_usable_size(p), size);
        EXPECT_EQ(hak_owns(p), 1);
        memset(p, 1, size);
        char *zeroed = static_cast<char *>(hak_calloc(1, size));
        ASSERT_NE(zeroed, nullptr);
        check_filled(zeroed, hak_usable_size(zeroed), 0);
        p = static_cast<char *>(hak_realloc(p, size * 3));
        ASSERT_NE(p, nullptr);
        check_filled(p, size, 1);
        memset(p, 2, size * 3);
        p = static_cast<char *>(hak_realloc(p, size));
        check_filled(p, size, 2);
        for (size_t align = 16; align <= 1 << 21; align *= 2) {
            void *aligned = hak_aligned_alloc(align, size);
            ASSERT_NE(aligned, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % align, 0u) << align;
            hak_free(aligned);
        }
        hak_free(p);
        hak_free(zeroed);
    }
    EXPECT_EQ(hak_malloc(PTRDIFF_MAX), nullptr);
    EXPECT_EQ(hak_malloc(SIZE_MAX), nullptr);
    EXPECT_EQ(hak_aligned_alloc(static_cast<size_t>(1) << 62, 10), nullptr);
    (void)hak_purge();
}

TEST(ForkUnderWay, NobodyWaits)
{
    hak_free(hak_malloc(1));
    const int64_t limbo_bytes = hak_stat_get(limbo_bytes); /* of spare heaps and pools */
    std::vector<char *> blocks = some_blocks();
    std::atomic<int> phase(0);
    std::thread with_heap([&] {
        hak_free(hak_malloc(1));
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
        use_everything();
    });
    while (phase != 1) {
        usleep(1000);
    }
    {
        Closed closed;
        phase = 2;
        with_heap.join();
        std::thread(use_everything).join();
        std::thread([&] {
            for (char *p : blocks) {
                hak_free(p); /* of all kinds, another thread's */
            }
        }).join();
        EXPECT_NE(hak_stat_get(large_bytes) + hak_stat_get(heap_used_bytes), 0) << "they wait";
    }
    expect_all_back();
    EXPECT_LE(hak_stat_get(limbo_bytes), limbo_bytes + (1 << 20));
}

/* A bin may hold more than its limit; all of it is back afterwards. */
TEST(ForkUnderWay, BinsHoldWhatIsFreed)
{
    std::vector<void *> blocks(50000);
    std::atomic<int> phase(0);
    std::thread other([&] {
        for (void *&p : blocks) {
            p = hak_malloc(100);
        }
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        EXPECT_EQ(hak_tc_verify(hak_theap_own), 0);
        phase = 3;
        while (phase != 4) {
            usleep(1000);
        }
        for (int i = 0; i < 20000; i++) {
            hak_free(hak_malloc(100));
        }
        for (int i = 0; i < 3000; i++) {
            hak_free(hak_malloc(static_cast<size_t>(i)));
        }
        EXPECT_EQ(hak_tc_verify(hak_theap_own), 0);
    });
    while (phase != 1) {
        usleep(1000);
    }
    {
        Closed closed;
        phase = 2;
        while (phase != 3) {
            usleep(1000);
        }
    }
    phase = 4;
    other.join();
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_verify(), 0);
}

int count_blocks(void *, size_t, void *context)
{
    ++*static_cast<int *>(context);
    return 0;
}

/* Made, used, walked and destroyed during the fork; or one of it before, or after. */
TEST(ForkUnderWay, FirstClassHeaps)
{
    struct hak_heap *before = hak_heap_create(), *both = hak_heap_create();
    void *small = hak_heap_malloc(before, 100), *large = hak_heap_malloc(before, 100000);
    ASSERT_TRUE(small && large && hak_heap_malloc(before, 3000000) && hak_heap_malloc(both, 10));
    struct hak_heap *after = nullptr;
    void *kept = nullptr;
    {
        Closed closed;
        std::thread([&] {
            hak_free(small);
            hak_free(large);
            EXPECT_TRUE(hak_heap_malloc(before, 200) && hak_heap_malloc(before, 200000));
            int n = 0;
            EXPECT_EQ(hak_heap_walk(before, count_blocks, &n), 0);
            EXPECT_EQ(n, HAK_SECURE ? 3 : 5) << "two of them wait to be freed";
            hak_heap_destroy(before);
            struct hak_heap *meanwhile = hak_heap_create();
            ASSERT_NE(meanwhile, nullptr);
            EXPECT_TRUE(hak_heap_malloc(meanwhile, 300) && hak_heap_malloc(meanwhile, 300000));
            n = 0;
            EXPECT_EQ(hak_heap_walk(meanwhile, count_blocks, &n), 0);
            EXPECT_EQ(n, 2);
            hak_heap_destroy(meanwhile);
            after = hak_heap_create();
            kept = hak_heap_malloc(after, 1000);
            kept = hak_heap_realloc(after, kept, 100000);
            kept = hak_realloc(kept, 50);
            memset(kept, 9, 50);
        }).join();
    }
    ASSERT_TRUE(after && kept);
    check_filled(static_cast<char *>(kept), 50, 9);
    kept = hak_realloc(kept, 5000000); /* becomes a block of the usual kind, and the heap's still */
    check_filled(static_cast<char *>(kept), 50, 9);
    EXPECT_NE(hak_heap_malloc(after, 10), nullptr);
    int n = 0;
    EXPECT_EQ(hak_heap_walk(after, count_blocks, &n), 0);
    EXPECT_EQ(n, 2);
    hak_heap_destroy(after);
    hak_heap_destroy(both);
    for (int i = 0; i < 5; i++) { /* those of limbo come round again */
        struct hak_heap *again = hak_heap_create();
        EXPECT_NE(hak_heap_malloc(again, 100), nullptr);
        hak_heap_destroy(again);
    }
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
}

/* Heaps and pools come and go while the gate is closed, and take no new memory each time; one that
   got its memory of limbo is used again, inside the gate or not. */
TEST(ForkUnderWay, HeapsAndPoolsComeRoundAgain)
{
    struct mid_pool pool;
    std::vector<struct hak_heap *> made;
    int64_t bytes = 0;
    {
        Closed closed;
        std::thread([&] {
            for (int i = 0; i < 500; i++) {
                struct hak_heap *heap = hak_heap_create(), *other = hak_heap_create();
                ASSERT_TRUE(heap && other && heap != other);
                ASSERT_NE(hak_heap_malloc(heap, 100), nullptr);
                hak_heap_destroy(heap);
                hak_heap_destroy(other);
                ASSERT_EQ(hak_mid_pool_init(&pool), 0);
                ASSERT_NE(hak_mid_pool_alloc(&pool, 2000), nullptr);
                hak_mid_pool_destroy(&pool);
                bytes = i == 10 ? hak_stat_get(limbo_bytes) : bytes;
            }
            made = {hak_heap_create(), hak_heap_create()};
        }).join();
        EXPECT_LE(hak_stat_get(limbo_bytes), bytes + (2 << 20)) << "a chunk or two more";
    }
    for (struct hak_heap *heap : made) {
        EXPECT_NE(hak_heap_malloc(heap, 100), nullptr);
        hak_heap_destroy(heap);
    }
    std::vector<struct hak_heap *> inside = {hak_heap_create(), hak_heap_create()}, aside;
    std::sort(made.begin(), made.end());
    std::sort(inside.begin(), inside.end());
    EXPECT_EQ(inside, made);
    for (struct hak_heap *heap : inside) {
        hak_heap_destroy(heap);
    }
    {
        Closed closed;
        std::thread([&] { aside = {hak_heap_create(), hak_heap_create()}; }).join();
    }
    std::sort(aside.begin(), aside.end());
    EXPECT_EQ(aside, made);
    for (struct hak_heap *heap : aside) {
        hak_heap_destroy(heap);
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* It waits in a list through its first word, which the program has protected. */
TEST(ForkUnderWay, ABlockThatCannotBeWrittenTo)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "large blocks do not begin at a page";
    }
    (void)hak_purge();
    for (int prot : {PROT_NONE, PROT_READ}) {
        for (size_t size : {200000, 3 << 20}) {
            void *p = hak_malloc(size);
            ASSERT_EQ(mprotect(p, 65536, prot), 0);
            {
                Closed closed;
                std::thread([&] { hak_free(p); }).join();
            }
            EXPECT_EQ(hak_super_lookup(p).is_allocated, 0);
            /* Unmapped, perhaps. */
            EXPECT_TRUE(mprotect(p, 65536, PROT_READ | PROT_WRITE) == 0 || errno == ENOMEM);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Walks and verifiers look at what no thread can change. */
TEST(ForkUnderWay, WhoReadsGoesOn)
{
    std::vector<char *> blocks = some_blocks();
    char *range = static_cast<char *>(hak_malloc(3 << 20));
    {
        Closed closed;
        std::thread([&] {
            char *of_limbo = static_cast<char *>(hak_malloc(77));
            struct seen {
                std::vector<void *> all;
            } seen;
            EXPECT_EQ(hak_walk(
                          [](void *p, size_t, void *context) {
                              static_cast<struct seen *>(context)->all.push_back(p);
                              return 0;
                          },
                          &seen),
                      0);
            for (char *p : blocks) {
                EXPECT_EQ(std::count(seen.all.begin(), seen.all.end(), p), 1);
            }
            EXPECT_EQ(std::count(seen.all.begin(), seen.all.end(), range), 1);
            EXPECT_EQ(std::count(seen.all.begin(), seen.all.end(), of_limbo), 1);
            EXPECT_EQ(hak_verify(), 0);
            struct walk_counts counts;
            hak_walk_count(&counts);
            EXPECT_GE(counts.n_ranges, 2u);
            struct hak_ace_state state;
            hak_ace_state(&state);
            EXPECT_GT(state.live_ranges, 0u);
            static const struct hak_hooks hooks = {nullptr, nullptr, nullptr};
            hak_hooks_set(&hooks);
            hak_free(hak_malloc(5));
            hak_hooks_set(nullptr);
            hak_free(of_limbo);
        }).join();
    }
    hak_free(range);
    for (char *p : blocks) {
        hak_free(p);
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* What was put off is not lost where the gate opens and closes all the time. */
TEST(ForkUnderWay, OpenAndClosedInTurn)
{
    {
        Traffic traffic(3);
        std::atomic<bool> stop(false);
        std::thread comes_and_goes([&] {
            while (!stop) {
                std::thread([] {
                    struct hak_heap *heap = hak_heap_create();
                    if (heap) { /* the tiny variant has few ids */
                        void *p = hak_heap_malloc(heap, 100);
                        hak_free(p);
                        p = hak_heap_malloc(heap, 100000);
                        hak_free(p);
                        EXPECT_NE(hak_heap_malloc(heap, 50), nullptr);
                        hak_heap_destroy(heap);
                    }
                    hak_free(hak_malloc(10));
                }).join();
            }
        });
        std::thread another([&] {
            while (!stop) {
                hak_gate_close();
                hak_gate_open();
            }
        });
        for (int i = 0; i < 300; i++) {
            hak_gate_close();
            if (i % 2) {
                usleep(200);
            }
            hak_gate_open();
            if (i % 3 == 0) {
                usleep(200);
            }
            if (i % 50 == 0) {
                EXPECT_EQ(hak_verify(), 0) << i;
            }
        }
        stop = true;
        comes_and_goes.join();
        another.join();
    }
    expect_all_back();
}

/* Blocks of an orphan come home when the gate opens, without anybody's next call. */
TEST(ForkUnderWay, WhatIsSentToAnOrphan)
{
    NoneParked none_parked;
    hak_free(hak_malloc(1));
    void *p = nullptr;
    uint32_t id = 0;
    std::thread([&] {
        p = hak_malloc(3000);
        id = hak_theap_own->owner.id;
    }).join();
    void *of_owner = p;
    uint32_t owner =
        hak_super_lookup(of_owner).owner; /* its heap, or the one that has taken its slab over */
    {
        Closed closed;
        std::thread([&] {
            hak_free(of_owner);
        }).join(); /* by a thread without a heap: sent at once */
        EXPECT_NE(hak_owner_by_id(owner)->inbox, nullptr);
    }
    EXPECT_EQ(hak_owner_by_id(owner)->inbox, nullptr);
    EXPECT_EQ(hak_super_lookup(of_owner).is_allocated, 0);
    EXPECT_NE(id, 0u);
}

/* An inner closing that is opened takes no inbox, and the outer one still knows. */
TEST(ForkUnderWay, WhatIsSentToAnOrphanOfTwoClosings)
{
    NoneParked none_parked;
    void *p = nullptr;
    std::thread([&] { p = hak_malloc(3000); }).join();
    uint32_t owner = hak_super_lookup(p).owner;
    {
        Closed outer;
        {
            Closed inner;
            std::thread([&] { hak_free(p); }).join();
        }
        EXPECT_NE(hak_owner_by_id(owner)->inbox, nullptr);
    }
    EXPECT_EQ(hak_owner_by_id(owner)->inbox, nullptr);
    EXPECT_EQ(hak_super_lookup(p).is_allocated, 0);
}

/* Blocks of limbo have owners too: a pool frees its own ones alone. */
TEST(ForkUnderWay, APoolTakesItsOwnBlocksAlone)
{
    struct mid_pool pool, other;
    ASSERT_EQ(hak_mid_pool_init(&pool), 0);
    ASSERT_EQ(hak_mid_pool_init(&other), 0);
    auto frees = [&](void *(*make)(struct mid_pool *), struct mid_pool *from) {
        hak_gate_close();
        std::thread([&] { hak_mid_pool_free(&pool, make(from)); }).join();
        hak_gate_open();
        exit(0);
    };
    auto of_pool = [](struct mid_pool *from) { return hak_mid_pool_alloc(from, 3000); };
    auto of_malloc = [](struct mid_pool *) { return hak_malloc(3000); };
    EXPECT_EXIT(frees(of_pool, &pool), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(frees(of_pool, &other), testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    EXPECT_EXIT(frees(of_malloc, &pool), testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    hak_mid_pool_destroy(&pool);
    hak_mid_pool_destroy(&other);
}

/* Pools that were made before and while it is closed: what can wait waits, and all is back
 * afterwards. */
TEST(ForkUnderWay, PoolsUsedAlone)
{
    (void)hak_purge();
    struct mid_pool before, ended, meanwhile, both;
    ASSERT_EQ(hak_mid_pool_init(&before), 0);
    ASSERT_EQ(hak_mid_pool_init(&ended), 0);
    std::vector<void *> blocks, of_limbo;
    for (int i = 0; i < 50; i++) {
        blocks.push_back(hak_mid_pool_alloc(&before, 3000));
        ASSERT_NE(hak_mid_pool_alloc(&ended, 3000), nullptr);
    }
    {
        Closed closed;
        std::thread([&] {
            for (int i = 0; i < 50; i++) {
                of_limbo.push_back(hak_mid_pool_alloc(&before, 3000));
                ASSERT_NE(of_limbo.back(), nullptr);
                memset(of_limbo.back(), 1, 3000);
                hak_mid_pool_free(&before, blocks.back());
                blocks.pop_back();
            }
            hak_mid_pool_trim(&before);
            EXPECT_EQ(hak_mid_pool_verify(&before), 0);
            hak_mid_pool_destroy(&ended);
            ASSERT_EQ(hak_mid_pool_init(&meanwhile), 0);
            ASSERT_NE(hak_mid_pool_alloc(&meanwhile, 3000), nullptr);
            hak_mid_pool_destroy(&meanwhile);
            ASSERT_EQ(hak_mid_pool_init(&both), 0);
            ASSERT_NE(hak_mid_pool_alloc(&both, 3000), nullptr);
        }).join();
    }
    EXPECT_NE(hak_mid_pool_alloc(&both, 3000), nullptr);
    EXPECT_EQ(hak_mid_pool_verify(&both), 0);
    for (void *p : of_limbo) {
        hak_mid_pool_free(&before, p);
    }
    EXPECT_EQ(before.owner->n_in_limbo, 0u);
    EXPECT_EQ(both.owner->n_in_limbo, 1u);
    hak_mid_pool_trim(&before);
    EXPECT_EQ(hak_mid_pool_verify(&before), 0);
    hak_mid_pool_destroy(&before);
    hak_mid_pool_destroy(&both);
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* Freed twice while it waits: found when it is done, at the latest. */
void free_twice_meanwhile(size_t size)
{
    void *p = hak_malloc(size), *q = hak_malloc(size);
    {
        Closed closed;
        std::thread([&] {
            hak_free(p);
            hak_free(q);
            hak_free(p);
        }).join();
    }
    (void)hak_purge();
}

TEST(ForkUnderWayDeathTest, ABlockFreedTwice)
{
    hak_free(hak_malloc(1));
    EXPECT_EXIT(free_twice_meanwhile(100000), testing::KilledBySignal(SIGABRT),
                "block freed twice");
    EXPECT_EXIT(free_twice_meanwhile(3000000), testing::KilledBySignal(SIGABRT),
                "block freed twice");
}

} // namespace
