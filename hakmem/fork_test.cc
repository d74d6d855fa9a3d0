/* Tests of fork: the child gets every structure whole, whatever other threads were doing, and adopts their heaps. */
#include <atomic>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

#if defined(__SANITIZE_THREAD__)
#define CHILD_MAY_START_THREADS 0 /* the sanitizer refuses it */
#else
#define CHILD_MAY_START_THREADS 1
#endif

extern "C" void __gcov_exit(void) __attribute__((weak)); /* gcov's own end, in what is built with coverage */

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
            size_t size = rng.one_in(50) ? rng.below(2 << 20) : rng.one_in(5) ? rng.below(40000) : rng.below(500);
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
        int64_t heaps = stat_get(heaps);
        int64_t n_orphans = stat_get(orphans);
        if (n_orphans < 1) {
            return 5; /* the parent's threads have left theirs */
        }
        int result = 0;
        std::thread([&] {
            char *p = static_cast<char *>(hak_malloc(1000));
            result = !p || stat_get(orphans) != n_orphans - 1 ? 6 : 0;
            for (void *q : mine) {
                hak_free(q);
            }
            hak_free(p);
        }).join();
        if (result || stat_get(heaps) != heaps) {
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

int exit_code_of_child(const std::vector<char *> &blocks, int (*f)(const std::vector<char *> &) = try_all)
{
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20); /* a deadlock must not hang the test */
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
    EXPECT_EQ(stat_get(heap_used_bytes), 0) << "the parent has lost nothing";
    EXPECT_EQ(stat_get(large_bytes), 0);
}

TEST(Fork, AChildOfAChild)
{
    std::vector<char *> blocks = some_blocks();
    Traffic traffic(2);
    usleep(2000);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
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

int nothing_is_left(const std::vector<char *> &blocks)
{
    for (char *p : blocks) {
        hak_free(p);
    }
    (void)hak_purge();
    return hak_verify()                                                             ? 1
           : (stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)) != 0 ? 2
           : stat_get(bin_budget) != 0                                              ? 3
                                                                                    : 0;
}

/* What lies in the bins and outboxes of threads that the child does not have. */
TEST(Fork, BinsOfOtherThreadsAreNotLost)
{
    std::vector<char *> blocks = some_blocks(), foreign;
    for (int i = 0; i < 20; i++) {
        foreign.push_back(static_cast<char *>(hak_malloc(200)));
    }
    std::atomic<int> phase(0);
    std::thread other([&] {
        std::vector<void *> own;
        for (size_t i = 0; i < 3000; i++) {
            own.push_back(hak_malloc(i * 11 % 30000));
        }
        for (void *p : own) {
            hak_free(p);
        }
        for (char *p : foreign) {
            hak_free(p); /* stay in its outbox */
        }
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
    });
    while (phase != 1) {
        usleep(1000);
    }
    EXPECT_EQ(exit_code_of_child(blocks, nothing_is_left), 0);
    phase = 2;
    other.join();
    EXPECT_EQ(nothing_is_left(blocks), 0);
}

/* Every heap but the own one waits for a thread, whatever state fork found it in. */
int all_heaps_are_orphans(const std::vector<char *> &)
{
    return stat_get(orphans) != stat_get(heaps) - 1 ? 1 : heap_n_live() != 1 ? 2 : hak_verify() ? 3 : 0;
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
    EXPECT_EQ(exit_code_of_child(some_blocks()), 0);
    EXPECT_EQ(hak_verify(), 0);
    stop = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

} // namespace
