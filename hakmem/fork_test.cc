/* Tests of fork: the child gets every structure whole, whatever other threads were doing, and
   adopts their heaps; no other thread waits for the one that forks, and nothing is lost. */
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "ace/ace.h"
#include "base/attributes.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/walk.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "heap/parked.h"
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

extern "C" void __gcov_exit(void)
    __attribute__((weak)); /* gcov's own end, in what is built with coverage */

namespace
{

using hak_testing::Rng;

/* What goes on in the background: blocks of all kinds, in part freed by the neighbour. */
class Traffic
{
  public:
    explicit Traffic(size_t n_threads) : cells_(256)
    {
        for (size_t i = 0; i < n_threads; i++) {
            threads_.emplace_back([this, i] { run(i); });
        }
    }
    ~Traffic()
    {
        stop_ = true;
        for (std::thread &thread : threads_) {
            thread.join();
        }
        for (auto &cell : cells_) {
            hak_free(cell);
        }
    }

  private:
    void run(size_t seed)
    {
        Rng rng(seed);
        while (!stop_) {
            size_t size = rng.one_in(50)  ? rng.below(2 << 20)
                          : rng.one_in(5) ? rng.below(40000)
                                          : rng.below(500);
            void *p = hak_malloc(size);
            p = rng.one_in(10) ? hak_realloc(p, size + size / 2 + 1) : p;
            hak_free(cells_[rng.below(cells_.size())].exchange(p));
        }
    }
    std::vector<std::atomic<void *>> cells_;
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

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

/* _exit, but what the child reached counts as covered. */
[[noreturn]] void leave(int code)
{
    if (__gcov_exit) {
        __gcov_exit();
    }
    _exit(code);
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

std::vector<char *> some_blocks()
{
    std::vector<char *> blocks;
    for (int i = 0; i < 100; i++) {
        size_t size = 100 + static_cast<size_t>(i) * 700;
        blocks.push_back(static_cast<char *>(hak_malloc(size)));
        memset(blocks.back(), 42, size);
    }
    return blocks;
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

/* --- while another thread forks, and waits in a handler for whoever waits for it --- */

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

const size_t sizes[] = {1,     16,     100,     1000,          5000,   32768,
                        32769, 100000, 1 << 20, (1 << 20) + 1, 5 << 20};

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
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_EQ(hak_limbo_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
    EXPECT_EQ(hak_stat_get(orphans), hak_stat_get(heaps) - 1);
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
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_EQ(hak_limbo_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
    EXPECT_EQ(hak_stat_get(orphans), hak_stat_get(heaps) - 1);
}

/* Blocks of an orphan come home when the gate opens, without anybody's next call. */
TEST(ForkUnderWay, WhatIsSentToAnOrphan)
{
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

std::atomic<int> step_of_purge;

int madvise_that_waits(void *addr, size_t length, int advice)
{
    if (step_of_purge == 0) {
        step_of_purge = 1;
        while (step_of_purge == 1) {
            usleep(1000);
        }
    }
    return hak_os_real_ops.madvise(addr, length, advice);
}

int count_all(void *, size_t, void *context)
{
    ++*static_cast<int *>(context);
    return 0;
}

/* A fork in a signal handler does not wait for ever for others that are inside. In its child a heap
   and a pool whose locks they hold are lost, and can be used; a slab whose pages another thread is
   purging stays away from its heap, which can be used as well. */
TEST(ForkInAHandler, WhatOthersHold)
{
    (void)hak_purge();
    struct hak_heap *lost = hak_heap_create(), *purged = hak_heap_create();
    struct mid_pool pool;
    ASSERT_EQ(hak_mid_pool_init(&pool), 0);
    void *small = hak_heap_malloc(lost, 100), *large = hak_heap_malloc(lost, 100000),
         *of_pool = hak_mid_pool_alloc(&pool, 3000);
    std::vector<void *> blocks;
    for (int i = 0; i < 60; i++) {
        blocks.push_back(hak_heap_malloc(purged, 1024));
    }
    for (size_t i = 20; i < 60; i++) {
        hak_free(blocks[i]);
    }
    blocks.resize(20);
    std::atomic<int> n_held{0}, stop{0};
    auto hold = [&](struct lock *lock) {
        ASSERT_EQ(hak_gate_enter(), 1);
        hak_lock_acquire(lock);
        n_held++;
        while (!stop) {
            usleep(1000);
        }
        hak_lock_release(lock);
        hak_gate_leave();
    };
    step_of_purge = 0;
    hak_os_ops.madvise = madvise_that_waits;
    std::thread purges([] { (void)hak_theap_purge_all(); });
    while (step_of_purge == 0) {
        usleep(1000);
    }
    std::thread one(hold, &lost->owner.lock), two(hold, &pool.owner->lock);
    while (n_held != 2) {
        usleep(1000);
    }
    ASSERT_EQ(hak_gate_enter(), 1); /* the interrupted code */
    pid_t pid = fork();
    hak_gate_leave();
    if (pid == 0) {
        alarm(60);
        step_of_purge = 2;
        int n = 0, result = hak_owner_is_lost(&lost->owner) && hak_owner_is_lost(pool.owner) &&
                                    !hak_owner_is_lost(&purged->owner)
                                ? 0
                                : 1;
        hak_free(small);
        hak_free(large);
        hak_mid_pool_free(&pool, of_pool);
        result |= hak_heap_malloc(lost, 100) && hak_heap_malloc(lost, 100000) ? 0 : 2;
        result |= hak_mid_pool_alloc(&pool, 3000) ? 0 : 2;
        hak_mid_pool_trim(&pool);
        result |= hak_heap_walk(lost, count_all, &n) || n != 2 ? 4 : 0;
        n = 0;
        result |= hak_heap_walk(purged, count_all, &n) || n != 20 ? 8 : 0;
        result |= hak_heap_malloc(purged, 1024) ? 0 : 2;
        hak_free(blocks.back());
        (void)hak_purge();
        result |= hak_verify() || hak_mid_pool_verify(&pool) ? 16 : 0;
        hak_heap_destroy(lost);
        hak_heap_destroy(purged);
        hak_mid_pool_destroy(&pool);
        for (int i = 0; i < 3; i++) {
            struct hak_heap *heap = hak_heap_create();
            result |= heap && heap != lost && hak_heap_malloc(heap, 10) ? 0 : 32;
            hak_heap_destroy(heap);
        }
        leave(result | (hak_verify() ? 64 : 0));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
    stop = 1;
    step_of_purge = 2;
    one.join();
    two.join();
    purges.join();
    hak_os_ops.madvise = hak_os_real_ops.madvise;
    hak_heap_destroy(lost);
    hak_heap_destroy(purged);
    hak_mid_pool_destroy(&pool);
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

LOCK_DEFINE(lower_lock, LOCK_RANK_ACE);
LOCK_DEFINE(higher_lock, LOCK_RANK_POOL);

/* What a signal handler interrupted that forks: it holds `mine`, and then needs `next`. */
int fork_holding(struct lock *mine, struct lock *next, std::atomic<int> *n_held)
{
    if (!hak_gate_enter()) {
        return -1;
    }
    hak_lock_acquire(mine);
    ++*n_held;
    while (*n_held != 2) {
        usleep(1000);
    }
    usleep(next ? 0 : 100000); /* who should go first comes last */
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        if (next) {
            hak_lock_acquire(next);
            hak_lock_release(next);
        }
    }
    hak_lock_release(mine);
    hak_gate_leave();
    if (pid == 0) {
        void *p = hak_malloc(3000), *q = hak_malloc(3 << 20);
        leave(p && q ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

/* Two threads that fork in handlers wait for each other. If both gave up at the same time, each
   child would lack a lock, and one of them goes on to need it. Who holds the higher one needs
   nothing that the other holds: it goes first. */
TEST(ForkInAHandler, TwoThatHoldLocks)
{
    std::atomic<int> n_held{0};
    int lower = -1, higher = -1;
    std::thread one([&] { lower = fork_holding(&lower_lock, &higher_lock, &n_held); });
    std::thread two([&] { higher = fork_holding(&higher_lock, nullptr, &n_held); });
    one.join();
    two.join();
    EXPECT_EQ(lower, 0);
    EXPECT_EQ(higher, 0);
    EXPECT_EQ(hak_gate_is_closed(), 0);
    EXPECT_EQ(hak_verify(), 0);
}

/* What is gathered of the static locks of a rank. */
struct of_rank {
    uint32_t rank;
    std::vector<struct lock *> locks;
};

void gather(struct lock *lock, void *context)
{
    struct of_rank *of = static_cast<struct of_rank *>(context);
    if (lock->rank == of->rank && lock->word == 0) {
        of->locks.push_back(lock);
    }
}

/* In the child of a thread that was interrupted inside, and that needs the lock now. Returns what
   is wrong, 0 if nothing. */
int go_on_with(struct lock *lock)
{
    alarm(60);
    if (lock->word || hak_gate_is_closed()) {
        return 1;
    }
    hak_lock_acquire(lock);
    hak_lock_release(lock);
    hak_gate_leave();
    int64_t in_limbo = hak_stat_get(limbo_bytes);
    for (size_t size : sizes) {
        void *p = hak_malloc(size);
        if (!p) {
            return 2;
        }
        hak_free(p);
    }
    hak_heap_destroy(hak_heap_create());
    (void)hak_purge();
    return hak_stat_get(limbo_bytes) != in_limbo ? 3 : hak_verify() ? 4 : 0;
}

/* Locks whose holder the child does not have, and which guard what can be made again: it goes on as
   if they had been free. */
TEST(ForkInAHandler, LocksThatAreMended)
{
    hak_free(hak_malloc(1));
    int n = 0;
    for (uint32_t rank : {LOCK_RANK_DEFERRED, LOCK_RANK_CONTROL, LOCK_RANK_META}) {
        struct of_rank of = {rank, {}};
        hak_lock_for_each(gather, &of);
        for (struct lock *lock : of.locks) {
            std::atomic<int> phase{0};
            std::thread other([&] {
                if (hak_gate_enter()) {
                    hak_lock_acquire(lock);
                    phase = 1;
                    while (phase == 1) {
                        usleep(1000);
                    }
                    hak_lock_release(lock);
                    hak_gate_leave();
                }
            });
            while (phase == 0) {
                usleep(100);
            }
            ASSERT_EQ(hak_gate_enter(), 1);
            pid_t pid = fork();
            if (pid == 0) {
                leave(go_on_with(lock));
            }
            hak_gate_leave();
            int status = -1;
            EXPECT_EQ(waitpid(pid, &status, 0), pid);
            EXPECT_EQ(status, 0) << "rank " << rank;
            phase = 2;
            other.join();
            n++;
        }
    }
    EXPECT_EQ(n, 4);
    EXPECT_EQ(hak_verify(), 0);
}

/* Another thread is doing something to a heap that no thread has any more: in the child it is given
   to none. */
TEST(ForkInAHandler, AnOrphanThatAnotherHolds)
{
    uint32_t parked_most = hak_parked_most;
    hak_parked_most = 0;
    struct theap *orphan = nullptr;
    void *left = nullptr;
    std::thread([&] {
        left = hak_malloc(100);
        orphan = hak_theap_own;
    }).join();
    ASSERT_FALSE(hak_theap_is_live(orphan));
    std::atomic<int> phase{0};
    std::thread other([&] {
        if (hak_gate_enter()) {
            hak_lock_acquire(&orphan->owner.lock);
            phase = 1;
            while (phase == 1) {
                usleep(1000);
            }
            hak_lock_release(&orphan->owner.lock);
            hak_gate_leave();
        }
    });
    while (phase == 0) {
        usleep(100);
    }
    ASSERT_EQ(hak_gate_enter(), 1);
    pid_t pid = fork();
    hak_gate_leave();
    if (pid == 0) {
        alarm(60);
        std::atomic<int> result{hak_owner_is_lost(&orphan->owner) ? 0 : 1};
        for (int i = 0; i < 3; i++) {
            std::thread([&] {
                void *p = hak_malloc(100);
                if (!p || hak_theap_own == orphan || hak_theap_own == &hak_theap_none) {
                    result |= 2;
                }
                hak_free(p);
            }).join();
        }
        hak_free(left);
        leave(result | (hak_verify() ? 4 : 0));
    }
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    phase = 2;
    other.join();
    hak_free(left);
    hak_parked_most = parked_most;
    EXPECT_EQ(hak_verify(), 0);
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
