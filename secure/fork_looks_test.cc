/* Looks at blocks while a fork is under way, when no thread waits for a lock: another thread, or
   the child, looks wherever a thread is that changes them, and blocks change wherever a thread is
   that looks. */
#include <atomic>
#include <climits>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "secure/edges.h"
#include "secure/large.h"
#include "testing/steps.h"

namespace
{

#if HAK_CAN_STEP

using namespace hak_testing;

/* Sizes with edges: no multiple of a page. */
constexpr size_t LARGE = 67241, SMALLER = 50001;

/* After instruction `first`, and each `every`-th from there on; for at most so long. */
struct stops {
    int first, every, most_us;
};
stops where;
std::atomic<int> step;
std::atomic<bool> is_stopped, may_go, is_over;

/* The other thread may wait for this one: after a while it goes on. */
void stop_here(int, siginfo_t *, void *)
{
    int beyond = ++step - where.first;
    if (beyond >= 0 && beyond % where.every == 0) {
        may_go = false;
        is_stopped = true;
        for (int us = 0; !may_go && us < where.most_us; us += 50) {
            usleep(50);
        }
        is_stopped = false;
    }
}

/* `beside` runs wherever `work`, in a thread that has done it before, stops; returns how often. */
template <class Work, class Beside> int stop_in(stops at, Work work, Beside beside)
{
    std::atomic<int> n_stops{0};
    std::atomic<bool> is_warm{false}, begins{false};
    OnStep stops(stop_here);
    step = 0;
    where = at;
    is_over = is_stopped = false;
    std::thread thread([&] {
        for (int i = 0; i < 3; i++) {
            work();
        }
        is_warm = true;
        while (!begins) {
            std::this_thread::yield();
        }
        with_steps(work);
        is_over = true;
    });
    while (!is_warm) {
        std::this_thread::yield();
    }
    hak_gate_close(); /* as a fork does */
    begins = true;
    while (!is_over) {
        if (is_stopped && !may_go) {
            n_stops++;
            beside();
            may_go = true;
        }
    }
    thread.join();
    hak_gate_open();
    return n_stops;
}

void look_in_another_thread()
{
    std::thread([] { EXPECT_EQ(hak_verify(), 0); }).join();
}

/* This thread has closed the gate once more than its fork. `live` in the child: what is right. */
template <class F> void fork_and(F live)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        hak_gate_open();
        int result = hak_verify() ? 1 : 0;
        result = live() ? result : 3;
        for (size_t size : {1u, 100u, 3000u, 32769u, 100000u, 5000000u}) {
            hak_free(hak_malloc(size));
        }
        _exit(hak_verify() ? 2 : result);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "at instruction " << step;
}

bool do_nothing()
{
    return true;
}

void look_and_fork()
{
    static int turn;
    look_in_another_thread();
    if (turn++ % 4 == 0) {
        fork_and(do_nothing);
    }
}

void use(void *p, size_t size)
{
    memset(p, 1, size);
}

TEST(SecureForkLooks, WhereSmallBlocksChange)
{
    for (size_t size : {20u, 100u, 150u, 700u, 3000u}) {
        EXPECT_GT(stop_in(
                      {1, 67, 100000},
                      [=] {
                          void *p = hak_malloc(size), *q = hak_malloc(size);
                          use(p, size);
                          p = hak_realloc(p, size - 3);
                          p = hak_realloc(p, size);
                          hak_free(q);
                          hak_free(p);
                      },
                      look_and_fork),
                  10)
            << size;
    }
}

/* Of the main thread's heap, and of a first-class heap. */
TEST(SecureForkLooks, WhereOthersSmallBlocksAreFreed)
{
    struct hak_heap *heap = hak_heap_create();
    std::vector<void *> blocks;
    for (int i = 0; i < 4; i++) {
        for (size_t size : {20u, 100u, 150u, 700u, 3000u}) {
            blocks.push_back(hak_malloc(size));
            use(blocks.back(), size);
            blocks.push_back(hak_heap_malloc(heap, size));
            use(blocks.back(), size);
        }
    }
    EXPECT_GT(stop_in(
                  {1, 101, 100000},
                  [&] {
                      for (int i = 0; i < 10; i++) {
                          hak_free(blocks.back());
                          blocks.pop_back();
                      }
                  },
                  look_and_fork),
              10);
    hak_heap_destroy(heap);
    EXPECT_EQ(hak_verify(), 0);
}

/* Freed, made smaller where they are, and of a heap that ends. */
TEST(SecureForkLooks, WhereLargeBlocksChange)
{
    hak_secure_edges_forget();
    struct hak_heap *heaps[4];
    std::vector<void *> blocks;
    for (auto &heap : heaps) {
        heap = hak_heap_create();
        for (int i = 0; i < 2; i++) {
            blocks.push_back(hak_malloc(LARGE));
            use(blocks.back(), LARGE);
        }
        use(hak_heap_malloc(heap, LARGE), LARGE);
    }
    int turn = 0;
    EXPECT_GT(stop_in(
                  {1, 251, 100000},
                  [&] {
                      hak_free(blocks.back());
                      blocks.pop_back();
                      blocks.back() = hak_realloc(blocks.back(), SMALLER);
                      blocks.pop_back();
                      hak_heap_destroy(heaps[turn++]);
                  },
                  look_and_fork),
              10);
    EXPECT_EQ(hak_verify(), 0);
}

/* What another thread does to the block that is looked at; returns what is left of it. */
struct change {
    bool is_of_heap;
    void *(*make)(void *p, struct hak_heap *heap);
};

/* Looks at a block that changes at that instruction; returns how many there are. */
int change_at(int at, const change &how, int most_us)
{
    hak_secure_edges_forget();
    struct hak_heap *heap = how.is_of_heap ? hak_heap_create() : nullptr;
    void *p = heap ? hak_heap_malloc(heap, LARGE) : hak_malloc(LARGE);
    use(p, LARGE);
    void *container = hak_secure_large_find(p).container;
    void *rest = nullptr;
    auto change = [&] { std::thread([&] { rest = how.make(p, heap); }).join(); };
    auto look = [=] {
        if (hak_gate_is_closed()) {
            hak_secure_large_check(container);
        }
    };
    if (!stop_in({at, INT_MAX, most_us}, look, change)) {
        change();
    }
    hak_free(rest);
    return step;
}

/* The change waits for the look, or finds that this lasts too long: the thread that looks goes on
   at once, or when all is done. Edges are read some hundred instructions before the end. */
void change_where_a_thread_looks(const change &how)
{
    int n = change_at(INT_MAX, how, 0), n_changes = 0;
    for (int at = 1; at < n; at += at < n - 650 || at > n - 300 ? 150 : 17) {
        (void)change_at(at, how, n_changes++ % 4 ? 3000 : 200000);
    }
    EXPECT_GT(n_changes, 10);
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_FALSE(hak_secure_large_is_stuck());
}

TEST(SecureForkLooks, LargeBlocksAreFreedWhereAThreadLooks)
{
    change_where_a_thread_looks({false, [](void *p, struct hak_heap *) -> void * {
                                     hak_free(p);
                                     return nullptr;
                                 }});
}

TEST(SecureForkLooks, LargeBlocksBecomeSmallerWhereAThreadLooks)
{
    change_where_a_thread_looks(
        {false, [](void *p, struct hak_heap *) -> void * { return hak_realloc(p, SMALLER); }});
}

TEST(SecureForkLooks, HeapsEndWhereAThreadLooks)
{
    change_where_a_thread_looks({true, [](void *, struct hak_heap *heap) -> void * {
                                     hak_heap_destroy(heap);
                                     return nullptr;
                                 }});
}

/* The child does not have the thread that looked, and waits for none. */
TEST(SecureForkLooks, AChildIsForkedWhereAThreadLooks)
{
    void *p = hak_malloc(LARGE);
    use(p, LARGE);
    void *container = hak_secure_large_find(p).container;
    auto free_in_a_fork = [=] {
        hak_gate_close();
        std::thread([=] { hak_free(p); }).join();
        hak_gate_open();
        return !hak_secure_large_is_stuck();
    };
    EXPECT_GT(stop_in(
                  {1, 37, 100000}, [=] { hak_secure_large_check(container); },
                  [=] { fork_and(free_in_a_fork); }),
              10);
    hak_free(p);
    EXPECT_EQ(hak_verify(), 0);
}

#else

TEST(SecureForkLooks, WhereSmallBlocksChange)
{
    GTEST_SKIP() << "needs a trap flag";
}

#endif

} // namespace
