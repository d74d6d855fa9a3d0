/* A fork in a signal handler after each instruction of what is done inside the allocator, of its
   door, and of a fork that is under way. The processor's trap flag makes it certain. The child goes
   on with what was interrupted: all must be whole then, and nothing held or lost. */
#include <atomic>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <thread>
#include <ucontext.h>
#include <unistd.h>

#include "ace/adapt.h"
#include "base/lock.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "heap/theap.h"

namespace
{

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)

const char *scenario;
int step, every; /* one instruction in so many */
bool is_child, failed;

#define STEP(on)                                                                                   \
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; " on "; popfq; lea 128(%%rsp), %%rsp" ::     \
                         : "memory", "cc")

/* The child goes on without the flag. */
void fork_here(int, siginfo_t *, void *context)
{
    int status = -1;
    if (++step % every || failed) {
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        is_child = true;
        static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL] &= ~0x100LL;
        return;
    }
    while (waitpid(child, &status, 0) < 0) {
    }
    if (status != 0) {
        char line[200];
        int n = snprintf(line, sizeof line, "%s: forked after instruction %d, status %x\n",
                         scenario, step, static_cast<unsigned>(status));
        (void)!write(2, line, static_cast<size_t>(n));
        failed = true;
    }
}

void see_held(struct lock *lock, void *n_held)
{
    *static_cast<int *>(n_held) += lock->word != 0;
}

/* Whether an allocation of each kind is served by the heap, not by limbo. */
bool serves()
{
    int64_t in_limbo = hak_stat_get(limbo_bytes);
    for (size_t size : {40, 3000, 100000, 3000000}) {
        void *blocks[40];
        size_t n = size < 100000 ? 40 : 3;
        for (size_t i = 0; i < n; i++) {
            blocks[i] = hak_malloc(size);
            if (!blocks[i]) {
                return false;
            }
            memset(blocks[i], 1, 16);
        }
        for (size_t i = 0; i < n; i++) {
            hak_free(blocks[i]);
        }
    }
    return hak_stat_get(limbo_bytes) == in_limbo;
}

/* What is wrong when nothing is going on: 0 if nothing. */
int look()
{
    int n_held = 0;
    hak_lock_for_each(see_held, &n_held);
    if (n_held) {
        return 1;
    }
    if (hak_gate_is_closed() || hak_gate_thread.depth || hak_gate_thread.kept_depth ||
        hak_gate_thread.n_closings || hak_gate_thread.is_counted) {
        return 2;
    }
    if (hak_verify()) {
        return 3;
    }
    if (!serves()) {
        return 4;
    }
    /* A second thread finds a heap, and leaves it. */
    int64_t n_heaps = hak_stat_get(heaps), n_orphans = hak_stat_get(orphans);
    pthread_t thread;
    auto run = [](void *) -> void * { return serves() ? nullptr : &scenario; };
    void *result = &scenario;
    if (pthread_create(&thread, nullptr, run, nullptr) || pthread_join(thread, &result) || result) {
        return 5;
    }
    int64_t n_more = n_orphans ? 0 : 1;
    if (hak_stat_get(heaps) != n_heaps + n_more || hak_stat_get(orphans) != n_orphans + n_more) {
        return 6;
    }
    return hak_verify() ? 7 : 0;
}

/* In a long work; a hunt sets HAK_FORK_STEPS. */
int forks_at_most()
{
    const char *most = getenv("HAK_FORK_STEPS");
    return most ? atoi(most) : 60;
}

template <class F> void with_flag(F work)
{
    STEP("orq $0x100, (%%rsp)");
    work();
    STEP("andq $~0x100, (%%rsp)");
}

/* Forks after each instruction of `work`, or after each n-th one, n_most times at the most. `work`
   is done twice before, so that first times are over. Returns its number of instructions. */
template <class F> int step_through(const char *name, int n_most, F work)
{
    struct sigaction action = {}, old;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = fork_here;
    scenario = name;
    failed = is_child = false;
    work();
    EXPECT_EQ(look(), 0) << name;
    sigaction(SIGTRAP, &action, &old);
    step = 0;
    every = INT_MAX;
    with_flag(work);
    every = step / n_most + 1;
    step = 0;
    with_flag(work);
    if (is_child) {
        _exit(look());
    }
    sigaction(SIGTRAP, &old, nullptr);
    EXPECT_FALSE(failed) << name;
    EXPECT_EQ(look(), 0) << name;
    return step;
}

class ForkSteps : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_free(hak_malloc(1));
        std::thread([] { hak_free(hak_malloc(1)); }).join();
    }
};

/* Of a fork, which has not interrupted the allocator. */
TEST_F(ForkSteps, InAForkUnderWay)
{
    EXPECT_GT(step_through("close and open", INT_MAX,
                           [] {
                               hak_gate_close();
                               hak_gate_open();
                           }),
              50);
}

TEST_F(ForkSteps, InsideByAHeap)
{
    EXPECT_GT(step_through("enter and leave", INT_MAX,
                           [] {
                               if (hak_gate_enter()) {
                                   hak_gate_leave();
                               }
                           }),
              20);
}

/* Of a fork in a handler that interrupted a slow path. */
TEST_F(ForkSteps, InAForkThatInterruptedASlowPath)
{
    EXPECT_GT(step_through("enter, close, open, leave", INT_MAX,
                           [] {
                               if (hak_gate_enter()) {
                                   hak_gate_close();
                                   hak_gate_open();
                                   hak_gate_leave();
                               }
                           }),
              60);
}

/* Threads that have no heap share a counter. */
TEST_F(ForkSteps, WithoutAHeap)
{
    struct theap *mine = hak_theap_own;
    EXPECT_GT(step_through("without a heap", INT_MAX,
                           [mine] {
                               hak_theap_own = &hak_theap_none;
                               if (hak_gate_enter()) {
                                   hak_gate_close();
                                   hak_gate_open();
                                   hak_gate_leave();
                               }
                               hak_theap_own = mine;
                           }),
              60);
}

TEST_F(ForkSteps, InSlowPaths)
{
    static void *blocks[40];
    step_through("bins are filled and flushed", forks_at_most(), [] {
        for (void *&p : blocks) {
            p = hak_malloc(20000);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        (void)hak_purge();
    });
    step_through("spans", forks_at_most(), [] {
        for (size_t i = 0; i < 8; i++) {
            blocks[i] = hak_malloc(100000 + 50000 * i);
        }
        for (size_t i = 0; i < 8; i++) {
            hak_free(blocks[i]);
        }
    });
    step_through("ranges", forks_at_most(), [] {
        void *p = hak_malloc(3 << 20), *q = hak_calloc(5 << 20, 1);
        p = hak_realloc(p, 9 << 20);
        hak_free(q);
        hak_free(p);
    });
    step_through("heaps of one's own", forks_at_most(), [] {
        struct hak_heap *heap = hak_heap_create();
        if (heap) {
            hak_free(hak_heap_malloc(heap, 100));
            (void)!hak_heap_malloc(heap, 100000);
            (void)!hak_heap_malloc(heap, 3 << 20);
            hak_heap_destroy(heap);
        }
    });
}

/* --- another thread is at a step, for good --- */

int stop_at; /* the instruction */
std::atomic<bool> is_there, may_go_on;
std::atomic<uint64_t> clock_now; /* stands still, so that all turns take the same instructions */

void wait_here(int, siginfo_t *, void *context)
{
    if (++step == stop_at) {
        static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL] &= ~0x100LL;
        is_there = true;
        while (!may_go_on) {
            usleep(100);
        }
    }
}

uint64_t clock_that_stands()
{
    return clock_now;
}

/* So that who waits for others in vain knows at once. */
int no_wait(uint32_t *, uint32_t, uint64_t)
{
    return 0;
}

/* The law, at the end of an epoch. */
void decide()
{
    hak_adapt_purged(CONTROL_RANGES, 8 << 20);
    hak_adapt_taken(CONTROL_RANGES, 8 << 20);
}

void decide_stepping()
{
    struct adapt_summary state;
    if (hak_gate_enter()) {
        hak_adapt_forget();
        hak_adapt_state(&state);
        clock_now += state.horizon_ms * 1000000 / CONTROL_EPOCHS;
        with_flag(decide);
        hak_gate_leave();
    }
    is_there = true; /* where it took fewer instructions than when they were counted */
}

void see_control_held(struct lock *lock, void *is_held)
{
    *static_cast<bool *>(is_held) |= lock->rank == LOCK_RANK_CONTROL && lock->word;
}

/* In the child of a thread that was interrupted inside. */
[[noreturn]] void go_on_with_what_needs_it(bool is_half_changed)
{
    struct adapt_summary state;
    alarm(60);
    hak_adapt_given();
    hak_adapt_state(&state);
    int result = hak_adapt_verify() ? 100 : is_half_changed && state.n_epochs ? 101 : 0;
    hak_gate_leave();
    _exit(result ? result : look());
}

/* The other thread is in the controller's arithmetic, at every instruction: its lock has no holder
   in the child, and what it guards is half changed. The child starts it again. */
TEST_F(ForkSteps, WhileAnotherThreadDecides)
{
    struct sigaction action = {}, old;
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = wait_here;
    sigaction(SIGTRAP, &action, &old);
    clock_now = hak_os_real_ops.clock_ns();
    hak_os_ops.clock_ns = clock_that_stands;
    hak_os_ops.futex_wait_ms = no_wait;
    step = 0;
    stop_at = INT_MAX;
    std::thread(decide_stepping).join();
    int n_steps = step, n_forked = 0, n_held = 0;
    EXPECT_GT(n_steps, 500);
    for (stop_at = 1; stop_at <= n_steps && !HasFailure(); stop_at += n_steps / 25 + 1) {
        step = 0;
        is_there = may_go_on = false;
        std::thread other(decide_stepping);
        while (!is_there) {
            usleep(10);
        }
        bool is_held = false;
        hak_lock_for_each(see_control_held, &is_held);
        n_held += is_held;
        ASSERT_EQ(hak_gate_enter(), 1);
        pid_t pid = fork();
        if (pid == 0) {
            go_on_with_what_needs_it(is_held);
        }
        hak_gate_leave();
        int status = -1;
        EXPECT_EQ(waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0) << "after instruction " << stop_at;
        n_forked++;
        may_go_on = true;
        other.join();
    }
    EXPECT_GE(n_forked, 12);
    EXPECT_GE(n_held, 8);
    hak_os_ops.futex_wait_ms = hak_os_real_ops.futex_wait_ms;
    hak_os_ops.clock_ns = hak_os_real_ops.clock_ns;
    sigaction(SIGTRAP, &old, nullptr);
    hak_adapt_forget(); /* the clock has gone back */
    EXPECT_EQ(look(), 0);
}

#else

TEST(ForkSteps, InAForkUnderWay)
{
    GTEST_SKIP() << "needs a trap flag, and children that may start threads";
}

#endif

} // namespace
