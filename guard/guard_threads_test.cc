/* Forks, and threads against an oracle. */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/lock.h"
#include "base/os.h"
#include "guard/guard.h"
#include "guard/guard_testing.h"
#include "guard/slots.h"
#include "guard/ticker.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "testing/in_child.h"
#include "testing/rng.h"
#include "testing/steps.h"

namespace
{

using namespace guard_testing;
using hak_testing::Rng;

TEST_F(Guard, AChildHasItsParentsBlocksAndItsOwn)
{
    char *p = guarded(100);
    memset(p, 9, 100);
    hak_testing::in_child([&] {
        EXPECT_EQ(p[99], 9);
        hak_free(p);
        for (int i = 0; i < 200; i++) {
            hak_free(guarded(50));
        }
        EXPECT_EQ(hak_verify(), 0);
    });
    EXPECT_EQ(p[99], 9);
    hak_free(p);
}

void find_queue_lock(struct lock *lock, void *found)
{
    if (lock->rank == LOCK_RANK_GUARD) {
        *static_cast<struct lock **>(found) = lock;
    }
}

/* The child lacks the thread that takes a slot, or queues one. */
TEST_F(Guard, ForksWhileAnotherThreadHoldsTheQueue)
{
    struct lock *queue = nullptr;
    hak_lock_for_each(find_queue_lock, &queue);
    ASSERT_NE(queue, nullptr);
    char *p = guarded(100);
    std::atomic<int> phase{0};
    std::thread other([&] {
        hak_lock_acquire(queue);
        phase = 1;
        while (phase == 1) {
            usleep(1000);
        }
        hak_lock_release(queue);
    });
    while (phase == 0) {
        usleep(100);
    }
    hak_testing::in_child([&] {
        alarm(60);
        hak_free(p);
        for (int i = 0; i < 200; i++) {
            hak_free(guarded(50));
        }
        EXPECT_EQ(hak_guard_verify(), 0);
        EXPECT_EQ(hak_verify(), 0);
    });
    phase = 2;
    other.join();
    hak_free(p);
}

#if HAK_CAN_STEP

int n_steps, stop_at; /* instructions of the other thread's work; where it waits */
std::atomic<int> stop_phase;

void wait_at_stop(int, siginfo_t *, void *context)
{
    if (++n_steps == stop_at) {
        hak_testing::end_steps(context);
        stop_phase = 1;
        while (stop_phase == 1) {
            usleep(100);
        }
    }
}

void use_guarded(bool is_ours)
{
    char *p = static_cast<char *>(escape(hak_malloc(50)));
    char *q = static_cast<char *>(escape(hak_malloc(large())));
    ASSERT_TRUE(!is_ours || (hak_guard_holds(p) && hak_guard_holds(q)));
    hak_free(p);
    hak_free(q);
}

void step_through_guarded()
{
    hak_free(hak_malloc(1));
    hak_testing::with_steps([] { use_guarded(false); });
    stop_phase = 1; /* if it took fewer instructions than when they were counted */
}

/* So that who waits for others in vain knows at once. */
int no_wait(uint32_t *, uint32_t, uint64_t)
{
    return 0;
}

/* From a signal handler that has interrupted the allocator; the child lacks a thread that is
   anywhere with a slot, or with the queue. Some of its slots are lost. */
TEST_F(Guard, ForksInAHandlerWhileAnotherThreadIsAtAnyStep)
{
    hak_testing::OnStep waits(wait_at_stop);
    stop_at = n_steps = 0;
    std::thread(step_through_guarded).join();
    const int n_all = n_steps;
    EXPECT_GT(n_all, 500);
    hak_os_ops.futex_wait_ms = no_wait;
    char *p = guarded(100), *q = guarded(large());
    for (stop_at = 1; stop_at <= n_all && !HasFailure(); stop_at += n_all / 30 + 1) {
        n_steps = 0;
        stop_phase = 0;
        std::thread other(step_through_guarded);
        while (stop_phase == 0) {
            usleep(100);
        }
        ASSERT_EQ(hak_gate_enter(), 1);
        hak_testing::in_child([&] {
            alarm(60);
            hak_gate_leave();
            hak_free(p);
            hak_free(q);
            for (int i = 0; i < 100; i++) {
                use_guarded(true);
            }
            EXPECT_EQ(hak_guard_verify(), 0);
            EXPECT_EQ(hak_verify(), 0);
        });
        hak_gate_leave();
        stop_phase = 2;
        other.join();
    }
    hak_os_ops.futex_wait_ms = hak_os_real_ops.futex_wait_ms;
    hak_free(p);
    hak_free(q);
}

int fork_every;
bool is_child_of_switch, has_child_failed;
uint64_t rate_in_child; /* when fork returned */

/* Whether it ends well. One that waits does so before fork returns in it: no alarm of its own. */
bool ends_well(pid_t child)
{
    int status = -1;
    for (int ms = 0; waitpid(child, &status, WNOHANG) != child; ms++) {
        usleep(1000);
        if (ms == 60000) {
            kill(child, SIGKILL);
        }
    }
    return status == 0;
}

void fork_at_step(int, siginfo_t *, void *context)
{
    if (++n_steps % fork_every || has_child_failed) {
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        hak_testing::end_steps(context);
        is_child_of_switch = true;
        rate_in_child = hak_guard_rate;
        return;
    }
    has_child_failed = !ends_well(child);
}

/* 0: the child allocates, and gets its ticker. */
int look_in_child()
{
    uint32_t wanted = HAK_SECURE ? TICKER_NONE : TICKER_RUNNING;
    static void *blocks[4 * TICKER_CHILD_CALLS];
    for (void *&p : blocks) {
        p = escape(hak_malloc(20000)); /* nearly all by slow paths */
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    return hak_guard_ticker != wanted ? 1 : hak_guard_verify() || hak_verify() ? 2 : 0;
}

/* The child goes on with the switch, whose lock its own handlers of fork may not wait for. */
TEST_F(Guard, ForksInAHandlerThatInterruptedASwitch)
{
    static size_t rate = 5000;
    auto change = [] { (void)!hak_guard_start(rate++); };
    change();
    hak_testing::OnStep forks(fork_at_step, SA_NODEFER);
    fork_every = INT_MAX;
    n_steps = 0;
    hak_testing::with_steps(change);
    EXPECT_GT(n_steps, 100);
    fork_every = n_steps / 60 + 1;
    n_steps = 0;
    hak_testing::with_steps(change);
    if (is_child_of_switch) {
        _exit(look_in_child());
    }
    EXPECT_FALSE(has_child_failed) << "after instruction " << n_steps;
}

/* In the child there is no slice: the ticker that would end it is the parent's. */
TEST_F(Guard, ForksInAHandlerThatInterruptedASwitchInASlice)
{
    static const uint64_t wanted = 7777;
    auto change = [] {
        hak_guard_rate = 3; /* as the ticker leaves it in a slice */
        hak_entry_add(&hak_guard_layer);
    };
    ASSERT_EQ(hak_guard_start(wanted), 0);
    hak_testing::OnStep forks(fork_at_step, SA_NODEFER);
    fork_every = INT_MAX;
    n_steps = 0;
    hak_testing::with_steps(change);
    EXPECT_GT(n_steps, 100);
    fork_every = n_steps / 10 + 1;
    n_steps = 0;
    hak_testing::with_steps(change);
    if (is_child_of_switch) {
        _exit(rate_in_child != wanted);
    }
    EXPECT_FALSE(has_child_failed) << "after instruction " << n_steps;
    EXPECT_EQ(hak_guard_start(wanted), 0);
}

#endif

TEST_F(Guard, ForksWhileOtherThreadsAllocate)
{
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++) {
        threads.emplace_back([&] {
            while (!is_over) {
                void *p = hak_malloc(100);
                hak_free(p);
            }
        });
    }
    for (int i = 0; i < 60; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int k = 0; k < 20; k++) {
                char *p = static_cast<char *>(hak_malloc(100));
                memset(p, 1, 100);
                hak_free(p);
            }
            _exit(hak_guard_verify());
        }
        int status = -1;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

struct Owned {
    unsigned char *p;
    size_t size;
    unsigned char mark;
};

void check_and_free(Owned &block)
{
    for (size_t i = 0; i < block.size; i++) {
        ASSERT_EQ(block.p[i], block.mark) << i << " of " << block.size;
    }
    hak_free(block.p);
    block.p = nullptr;
}

void work(uint64_t seed, int n)
{
    Rng rng(seed);
    std::vector<Owned> blocks(60);
    for (int i = 0; i < n; i++) {
        Owned &block = blocks[rng.below(blocks.size())];
        size_t size = rng.one_in(50) ? rng.between(1, 60000) : rng.between(1, 900);
        if (block.p && rng.one_in(3)) {
            unsigned char *moved = static_cast<unsigned char *>(hak_realloc(block.p, size));
            ASSERT_NE(moved, nullptr);
            for (size_t k = 0; k < std::min(size, block.size); k++) {
                ASSERT_EQ(moved[k], block.mark);
            }
            block.p = moved;
        } else {
            if (block.p) {
                check_and_free(block);
            }
            block.p = static_cast<unsigned char *>(rng.one_in(4)   ? hak_calloc(1, size)
                                                   : rng.one_in(4) ? hak_aligned_alloc(64, size)
                                                                   : hak_malloc(size));
            ASSERT_NE(block.p, nullptr);
        }
        block.size = size;
        block.mark = static_cast<unsigned char>(rng.next());
        memset(block.p, block.mark, size);
    }
    for (Owned &block : blocks) {
        if (block.p) {
            check_and_free(block);
        }
    }
}

TEST_F(Guard, ThreadsAgainstAnOracleAtEveryKindOfRate)
{
    for (size_t rate : {size_t(1), size_t(3), size_t(40), size_t(200), size_t(5000)}) {
        ASSERT_EQ(hak_guard_start(rate), 0);
        std::vector<std::thread> threads;
        for (uint64_t t = 0; t < 4; t++) {
            threads.emplace_back(work, rate * 10 + t, 8000);
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_guard_n_used(), 0u);
    }
}

TEST_F(Guard, ABlockMayBeFreedByAnotherThread)
{
    std::vector<char *> blocks;
    for (size_t i = 0; i < most_at_once(); i++) {
        blocks.push_back(guarded(30));
    }
    std::thread([&] {
        for (char *p : blocks) {
            hak_free(p);
        }
    }).join();
}

TEST_F(Guard, TheRateChangesWhileThreadsRun)
{
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 3; t++) {
        threads.emplace_back([&is_over, t] {
            while (!is_over) {
                work(t, 300);
            }
        });
    }
    for (int i = 0; i < 40; i++) {
        static const size_t rates[] = {1, 100, 10, 5000};
        ASSERT_EQ(hak_guard_start(rates[i % 4]), 0);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (i % 7 == 0) {
            hak_guard_stop();
        }
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

} // namespace
