/* Tests of fork: the child gets every structure whole, whatever other threads were doing, and
   adopts their heaps; and the parent loses nothing. */
#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "ace/ace.h"
#include "base/attributes.h"
#include "base/stats.h"
#include "hakmem/fork_testing.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "mid_mt/mid_mt.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

#if defined(__SANITIZE_THREAD__)
#define CHILD_MAY_START_THREADS 0 /* the sanitizer refuses it */
#else
#define CHILD_MAY_START_THREADS 1
#endif

namespace
{

using namespace fork_testing;
using hak_testing::Rng;

/* In the child. Returns what is wrong, 0 if nothing. */
int try_all(const std::vector<char *> &blocks)
{
    if (hak_verify()) {
        return 1;
    }
    for (char *p : blocks) {
        for (int i = 0; i < 100; i++) {
            if (p[i] != 42) {
                return 2;
            }
        }
        hak_free(p);
    }
    std::vector<void *> mine;
    Rng rng(1);
    for (int i = 0; i < 2000; i++) {
        size_t size = rng.one_in(100) ? rng.below(3 << 20) : rng.below(30000);
        char *p = static_cast<char *>(hak_malloc(size));
        if (!p) {
            return 3;
        }
        if (size) {
            p[0] = p[size - 1] = 1;
        }
        mine.push_back(p);
        if (rng.one_in(2)) {
            std::swap(mine[rng.below(mine.size())], mine.back());
            hak_free(mine.back());
            mine.pop_back();
        }
    }
    if (hak_verify()) {
        return 4;
    }
    if (CHILD_MAY_START_THREADS) {
        int64_t heaps = hak_stat_get(heaps);
        int64_t n_orphans = hak_stat_get(orphans);
        if (n_orphans < 1) {
            return 5; /* the parent's threads have left theirs */
        }
        int result = 0;
        std::thread([&] {
            char *p = static_cast<char *>(hak_malloc(1000));
            result = !p || hak_stat_get(orphans) != n_orphans - 1 ? 6 : 0;
            for (void *q : mine) {
                hak_free(q);
            }
            hak_free(p);
        }).join();
        if (result || hak_stat_get(heaps) != heaps) {
            return result ? result : 7;
        }
    }
    (void)hak_purge();
    return hak_verify() ? 8 : 0;
}

int look_only(const std::vector<char *> &)
{
    return hak_verify();
}

int exit_code_of_child(const std::vector<char *> &blocks,
                       int (*f)(const std::vector<char *> &) = try_all)
{
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60); /* a deadlock must not hang the test */
        leave(f(blocks));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST(Fork, OfAThreadAlone)
{
    std::vector<char *> blocks = some_blocks();
    std::thread([&] { hak_free(hak_malloc(10)); }).join(); /* one orphan */
    EXPECT_EQ(exit_code_of_child(blocks), 0);
    EXPECT_EQ(hak_verify(), 0);
    for (char *p : blocks) {
        hak_free(p);
    }
}

TEST(Fork, WhileOthersAllocate)
{
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "gcc's ASan does not hold its own locks over fork: the child hangs in it";
#endif
    std::vector<char *> blocks = some_blocks();
    {
        Traffic traffic(3);
        for (int i = 0; i < 100; i++) {
            usleep(300);
            ASSERT_EQ(exit_code_of_child(blocks, i % 10 ? look_only : try_all), 0) << i;
        }
        /* From a thread that is not the first, and has no heap yet. */
        std::thread([&] { EXPECT_EQ(exit_code_of_child(blocks), 0); }).join();
    }
    EXPECT_EQ(hak_verify(), 0);
    for (char *p : blocks) {
        hak_free(p);
    }
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "the parent has lost nothing";
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
}

TEST(Fork, AChildOfAChild)
{
    std::vector<char *> blocks = some_blocks();
    Traffic traffic(2);
    usleep(2000);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        hak_free(hak_malloc(300));
        leave(exit_code_of_child(blocks));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    for (char *p : blocks) {
        hak_free(p);
    }
}

int64_t most_left;

/* What other threads kept in caches is lost, nothing else. */
int little_is_left(const std::vector<char *> &blocks)
{
    for (char *p : blocks) {
        hak_free(p);
    }
    (void)hak_purge();
    return hak_verify()                                ? 1
           : hak_stat_get(heap_used_bytes) > most_left ? 2
           : hak_stat_get(bin_budget) != 0             ? 3
                                                       : 0;
}

/* Thousands of blocks of a thread that the child does not have, which the child frees: their slabs
   serve it. */
TEST(Fork, SlabsOfOtherThreadsServeTheChild)
{
    std::vector<char *> blocks = some_blocks();
    std::atomic<int> phase(0);
    std::vector<void *> own(20000);
    std::thread other([&] {
        for (void *&p : own) {
            p = hak_malloc(200);
        }
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
        for (void *p : own) {
            hak_free(p);
        }
    });
    while (phase != 1) {
        usleep(1000);
    }
    (void)hak_purge();
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        int64_t used = hak_stat_get(heap_used_bytes);
        for (void *p : own) {
            hak_free(p);
        }
        std::vector<void *> again;
        for (size_t i = 0; i < own.size() - 4000; i++) {
            again.push_back(hak_malloc(200));
        }
        int result = hak_stat_get(heap_used_bytes) > used + 4 * static_cast<int64_t>(SS_UNIT_BYTES)
                         ? 1
                     : hak_verify() ? 2
                                    : 0;
        for (void *p : again) {
            hak_free(p);
        }
        most_left = 512 * 1024;
        leave(result ? result : little_is_left(blocks) ? 3 : 0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
    phase = 2;
    other.join();
    most_left = 0;
    EXPECT_EQ(little_is_left(blocks), 0);
}

/* Every heap but the own one waits for a thread, whatever state fork found it in. */
int all_heaps_are_orphans(const std::vector<char *> &)
{
    return hak_stat_get(orphans) != hak_stat_get(heaps) - 1 ? 1
           : hak_theap_n_live() != 1                        ? 2
           : hak_verify()                                   ? 3
                                                            : 0;
}

/* Threads that just take their heap, or leave it: it is in no list then. */
TEST(Fork, WhileOthersComeAndGo)
{
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "gcc's ASan does not hold its own locks over fork: the child hangs in it";
#endif
    hak_free(hak_malloc(1));
    std::atomic<bool> stop(false);
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++) {
        threads.emplace_back([&] {
            while (!stop) {
                std::thread([] { hak_free(hak_malloc(10)); }).join();
            }
        });
    }
    std::vector<char *> none;
    for (int i = 0; i < 300; i++) {
        EXPECT_EQ(exit_code_of_child(none, all_heaps_are_orphans), 0) << i;
    }
    stop = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Freed memory that is kept for reuse goes first, or each of its pages would make fork longer;
   little of it stays. Nor does a handler purge that has interrupted a slow path. */
TEST(Fork, MuchFreedMemoryGoesFirst)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "large blocks lose their pages when they are freed";
    }
    if (HAK_TINY_OR(1, 0)) {
        GTEST_SKIP() << "keeps nothing";
    }
    hak_testing::FakeClock clock;
    auto kept = [] { return hak_stat_get(heap_dirty_bytes) + hak_stat_get(large_cached_bytes); };
    auto free_spans = [&clock](int n) {
        std::vector<void *> blocks;
        for (int i = 0; i < n; i++) {
            blocks.push_back(hak_malloc(100000));
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        clock.advance_ms(10);
    };
    auto fork_once = [] {
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        EXPECT_EQ(status, 0);
    };
    hak_ace_set_helped(1); /* more is kept where another thread purges */
    hak_purge();
    free_spans(10);
    int64_t little = kept();
    ASSERT_GT(little, 0);
    fork_once();
    EXPECT_EQ(kept(), little);
    free_spans(200);
    ASSERT_GT(kept(), 10 << 20);
    ASSERT_TRUE(hak_gate_enter());
    fork_once();
    EXPECT_GT(kept(), 10 << 20);
    hak_gate_leave();
    fork_once();
    EXPECT_LT(kept(), 4 << 20);
    EXPECT_EQ(hak_verify(), 0);
    hak_ace_set_helped(0);
}

/* More heaps than the debug check of lock ranks keeps. */
TEST(Fork, WithManyHeaps)
{
    std::vector<std::thread> threads;
    std::atomic<int> n_ready(0);
    std::atomic<bool> stop(false);
    for (int i = 0; i < 30; i++) {
        threads.emplace_back([&] {
            void *p = hak_malloc(100);
            n_ready++;
            while (!stop) {
                usleep(1000);
            }
            hak_free(p);
        });
    }
    while (n_ready < 30) {
        usleep(1000);
    }
    std::vector<char *> blocks = some_blocks();
    EXPECT_EQ(exit_code_of_child(blocks), 0);
    EXPECT_EQ(hak_verify(), 0);
    for (char *p : blocks) {
        hak_free(p);
    }
    stop = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* A child finds the spares in any state: it has some, or makes new ones. */
TEST(Fork, WhileHeapsComeAndGo)
{
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "gcc's ASan does not hold its own locks over fork: the child hangs in it";
#endif
    std::atomic<bool> stop(false);
    std::vector<std::thread> threads;
    auto come_and_go = [](int n) {
        int result = 0;
        for (int i = 0; i < n; i++) {
            struct hak_heap *heap = hak_heap_create();
            struct mid_pool pool;
            if (!heap || hak_mid_pool_init(&pool)) {
                return 1;
            }
            result |= !hak_heap_malloc(heap, 50) || !hak_mid_pool_alloc(&pool, 1500);
            hak_heap_destroy(heap);
            hak_mid_pool_destroy(&pool);
        }
        return result;
    };
    for (int i = 0; i < 2; i++) {
        threads.emplace_back([&] {
            while (!stop) {
                EXPECT_EQ(come_and_go(10), 0);
            }
        });
    }
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            int result = come_and_go(20);
            leave(result ? result : hak_verify());
        }
        int status = -1;
        waitpid(pid, &status, 0);
        ASSERT_EQ(status, 0) << i;
    }
    stop = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_LE(hak_stat_get(limbo_bytes), 16 << 20) << "a few spares, in a chunk each at most";
}

/* A heap that was being left when the process was copied is no worse than others. */
TEST(ForkUnderWay, AChildHasTheHeapsThatWereBeingLeft)
{
    hak_free(hak_malloc(1));
    hak_gate_close();
    std::thread([] { hak_free(hak_malloc(10)); }).join(); /* starts: without a heap */
    hak_gate_open();
    std::atomic<int> phase(0);
    std::thread ends([&] {
        hak_free(hak_malloc(10));
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
    });
    while (phase != 1) {
        usleep(1000);
    }
    hak_gate_close();
    phase = 2;
    ends.join(); /* its heap waits */
    std::vector<char *> none;
    EXPECT_EQ(exit_code_of_child(none,
                                 [](const std::vector<char *> &) {
                                     hak_gate_open(); /* the parent's handlers are not through */
                                     return all_heaps_are_orphans({});
                                 }),
              0);
    hak_gate_open();
    EXPECT_EQ(hak_stat_get(orphans), hak_stat_get(heaps) - 1);
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
