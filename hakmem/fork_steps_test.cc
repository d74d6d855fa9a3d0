/* A fork in a signal handler after each instruction of what is done inside the allocator, of its
   door, and of a fork that is under way. The child goes on with what was interrupted: all must be
   whole then, and nothing held or lost. */
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
#include <unistd.h>
#include <vector>

#include "ace/adapt.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "limit/limit.h"
#include "testing/steps.h"

namespace
{

#if HAK_CAN_STEP

using namespace hak_testing;

const char *scenario;
int step, every; /* one instruction in so many */
bool is_child, failed;

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
        end_steps(context);
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

/* Forks after each instruction of `work`, or after each n-th one, n_most times at the most. `work`
   is done twice before, so that first times are over. Returns its number of instructions. */
template <class F> int step_through(const char *name, int n_most, F work)
{
    scenario = name;
    failed = is_child = false;
    work();
    EXPECT_EQ(look(), 0) << name;
    OnStep forks(fork_here, SA_NODEFER);
    step = 0;
    every = INT_MAX;
    with_steps(work);
    every = step / n_most + 1;
    step = 0;
    with_steps(work);
    if (is_child) {
        _exit(look());
    }
    EXPECT_FALSE(failed) << name;
    EXPECT_EQ(look(), 0) << name;
    return step;
}

std::atomic<uint64_t> clock_now;

uint64_t clock_that_stands()
{
    return clock_now;
}

/* The clock stands still while this lives, so that all turns take the same instructions. Else three
   of four are the controller's, which is called after epochs of slow steps. */
class StandingClock
{
  public:
    StandingClock()
    {
        clock_now = hak_os_real_ops.clock_ns();
        hak_os_ops.clock_ns = clock_that_stands;
    }
    ~StandingClock()
    {
        hak_os_ops.clock_ns = hak_os_real_ops.clock_ns;
        hak_adapt_forget(); /* the clock has gone back */
    }
};

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

void use_own_heap()
{
    struct hak_heap *heap = hak_heap_create();
    if (heap) {
        hak_free(hak_heap_malloc(heap, 100));
        (void)!hak_heap_malloc(heap, 100000);
        (void)!hak_heap_malloc(heap, 3 << 20);
        hak_heap_destroy(heap);
    }
}

TEST_F(ForkSteps, InSlowPaths)
{
    static void *blocks[40];
    StandingClock clock;
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
    step_through("heaps of one's own", forks_at_most(), use_own_heap);
}

/* --- another thread is at a step, for good --- */

int stop_at; /* the instruction */
std::atomic<bool> is_there, may_go_on;

void wait_here(int, siginfo_t *, void *context)
{
    if (++step == stop_at) {
        end_steps(context);
        is_there = true;
        while (!may_go_on) {
            usleep(100);
        }
    }
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
        with_steps(decide);
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
    hak_adapt_given(hak_os_ops.clock_ns());
    hak_adapt_state(&state);
    int result = hak_adapt_verify() ? 100 : is_half_changed && state.n_epochs ? 101 : 0;
    hak_gate_leave();
    _exit(result ? result : look());
}

/* The other thread is in the controller's arithmetic, at every instruction: its lock has no holder
   in the child, and what it guards is half changed. The child starts it again. */
TEST_F(ForkSteps, WhileAnotherThreadDecides)
{
    OnStep waits(wait_here);
    StandingClock clock;
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
    EXPECT_EQ(look(), 0);
}

/* --- another thread is somewhere with a lock that cannot be mended --- */

/* Instructions of the thread's work, by the ranks that it held: in all, and so far. */
int n_under[1 << LOCK_N_RANKS], n_so_far[1 << LOCK_N_RANKS];
std::atomic<int> n_stops, n_passed; /* where it waited; how often it was let go on */
std::atomic<bool> has_ended;

void see_held_by_me(struct lock *lock, void *ranks)
{
    if (hak_lock_is_mine(lock)) {
        *static_cast<unsigned *>(ranks) |= 1u << lock->rank;
    }
}

unsigned ranks_held()
{
    unsigned ranks = 0;
    hak_lock_for_each(see_held_by_me, &ranks);
    return ranks;
}

void count_instruction(int, siginfo_t *, void *)
{
    n_under[ranks_held()]++;
}

/* At the first, the last, and some instructions between, of those with the same locks held. */
void wait_at_points(int, siginfo_t *, void *)
{
    constexpr int n_parts = HAK_SECURE ? 1 : HAK_DEBUG ? 2 : 4;
    unsigned ranks = ranks_held();
    int n = n_under[ranks], at = n_so_far[ranks]++;
    bool is_point = at == n - 1;
    for (int part = 0; part < n_parts; part++) {
        is_point |= at == n * part / n_parts;
    }
    if (ranks && n && is_point) {
        for (int stop = ++n_stops; n_passed != stop;) {
            usleep(100);
        }
    }
}

/* The parent's blocks, of each kind. */
struct belongings {
    void *blocks[4];
    struct hak_heap *heap;
    void *of_heap[3];
    void *of_libc;
};

void *mark(void *block, size_t size)
{
    unsigned char *p = static_cast<unsigned char *>(block);
    p[0] = p[size - 1] = 7;
    return block;
}

belongings make_belongings()
{
    belongings mine = {};
    size_t i = 0;
    for (size_t size : {40, 3000, 100000, 1200000}) {
        mine.blocks[i++] = mark(hak_malloc(size), size);
    }
    mine.heap = hak_heap_create();
    i = 0;
    for (size_t size : {40, 100000, 1200000}) {
        mine.of_heap[i++] = mark(hak_heap_malloc(mine.heap, size), size);
    }
    (void)hak_purge();
    hak_options.ld_safe = 1;
    hak_limit_configure(0, 1);
    mine.of_libc = hak_malloc(9 << 20);
    hak_limit_configure(0, 0);
    hak_options.ld_safe = 0;
    EXPECT_FALSE(hak_owns(mine.of_libc));
    return mine;
}

/* Blocks of all kinds, each with what it was given. Returns the argument if something is wrong. */
void *use_all_kinds(void *wrong)
{
    struct {
        unsigned char *p;
        size_t size;
    } blocks[24];
    unsigned char mark = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(&blocks) >> 12);
    size_t i = 0;
    for (auto &block : blocks) {
        block.size = i % 12 == 11 ? 1200000 : i % 4 == 3 ? 100000 : 17 * (i + 1) * (i + 1);
        block.p = static_cast<unsigned char *>(hak_malloc(block.size));
        if (!block.p) {
            return wrong;
        }
        memset(block.p, mark, block.size < 5000 ? block.size : 16);
        block.p[block.size - 1] = mark;
        i++;
    }
    for (auto &block : blocks) {
        unsigned char *p = static_cast<unsigned char *>(hak_realloc(block.p, block.size + 5000));
        if (!p || p[0] != mark || p[block.size - 1] != mark) {
            return wrong;
        }
        hak_free(p);
    }
    return nullptr;
}

bool is_lost(lock_rank rank)
{
    struct {
        lock_rank rank;
        bool is_lost;
    } seen = {rank, false};
    auto see = [](struct lock *lock, void *context) {
        auto *of = static_cast<decltype(seen) *>(context);
        of->is_lost |= lock->rank == of->rank && lock->word == LOCK_LOST;
    };
    hak_lock_for_each(see, &seen);
    return seen.is_lost;
}

/* In the child, which lacks the holder: it goes on for ever, with limbo if it must. Returns what is
   wrong. */
int live_on(const belongings &mine)
{
    alarm(60);
    hak_options.ld_safe = 0;
    hak_limit_configure(0, 0);
    hak_gate_leave();
    for (unsigned char *p : {static_cast<unsigned char *>(mine.blocks[3]),
                             static_cast<unsigned char *>(mine.of_heap[2])}) {
        if (p[0] != 7 || p[1199999] != 7) {
            return 11;
        }
    }
    static char failure;
    pthread_t threads[3];
    for (pthread_t &thread : threads) {
        if (pthread_create(&thread, nullptr, use_all_kinds, &failure)) {
            return 12;
        }
    }
    int result = use_all_kinds(&failure) ? 13 : 0;
    for (pthread_t thread : threads) {
        void *wrong = nullptr;
        if (pthread_join(thread, &wrong) || wrong) {
            result = 14;
        }
    }
    void *moved = hak_realloc(mine.blocks[0], 500000);
    if (!moved || *static_cast<char *>(moved) != 7) {
        return 15;
    }
    hak_free(moved);
    for (size_t i = 1; i < 4; i++) {
        hak_free(mine.blocks[i]);
    }
    hak_free(mine.of_heap[1]);
    if (!is_lost(LOCK_RANK_FALLBACK) && hak_usable_size(mine.of_libc) < 9 << 20) {
        return 19;
    }
    hak_free(mine.of_libc);
    if (!hak_heap_malloc(mine.heap, 100) || !hak_heap_malloc(mine.heap, 200000)) {
        return 16;
    }
    hak_heap_destroy(mine.heap);
    struct hak_heap *heap = hak_heap_create();
    if (!heap || !hak_heap_malloc(heap, 4000000)) {
        return 17;
    }
    hak_heap_destroy(heap);
    (void)hak_purge();
    return hak_verify() ? 18 : result;
}

struct held_work {
    const char *name;
    void (*work)();
    bool is_empty_handed; /* nothing that was kept may serve it */
};

void step_alone(const held_work *at)
{
    static void *left[4];    /* in slabs of a thread that has ended */
    hak_free(hak_malloc(1)); /* it has a heap */
    at->work();
    std::thread([] {
        for (void *&p : left) {
            p = hak_malloc(20000);
        }
    }).join();
    if (at->is_empty_handed) {
        (void)hak_purge();
    }
    with_steps(at->work);
    for (void *p : left) {
        hak_free(p);
    }
    has_ended = true;
}

/* Forks; the child says what is wrong. */
void fork_beside(const char *name, const belongings &mine)
{
    unsigned held = 0;
    auto see = [](struct lock *lock, void *all) {
        *static_cast<unsigned *>(all) |= lock->word ? 1u << lock->rank : 0;
    };
    hak_lock_for_each(see, &held);
    EXPECT_EQ(hak_gate_enter(), 1); /* what a handler interrupted */
    pid_t pid = fork();
    if (pid == 0) {
        _exit(live_on(mine));
    }
    hak_gate_leave();
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0) << name << ", at stop " << n_stops << ", ranks " << held;
}

/* Forks beside the thread wherever it waits; returns how often. */
int fork_beside_all(const held_work &at)
{
    memset(n_under, 0, sizeof n_under);
    {
        OnStep counts(count_instruction);
        std::thread(step_alone, &at).join();
    }
    belongings mine = make_belongings();
    OnStep waits(wait_at_points);
    memset(n_so_far, 0, sizeof n_so_far);
    n_stops = n_passed = 0;
    has_ended = false;
    std::thread other(step_alone, &at);
    while (!has_ended) {
        if (n_stops == n_passed) {
            usleep(200);
        } else {
            if (!testing::Test::HasFailure()) {
                fork_beside(at.name, mine);
            }
            ++n_passed;
        }
    }
    other.join();
    for (void *p : mine.blocks) {
        hak_free(p);
    }
    hak_free(mine.of_libc);
    hak_heap_destroy(mine.heap);
    return n_stops;
}

/* Whatever another thread was changing, and whichever lock it holds, the child lives: with what is
   mended, or on limbo for ever. */
TEST_F(ForkSteps, WhileAnotherThreadHoldsALock)
{
    static void *blocks[60];
    const held_work works[] = {
        {"small blocks",
         [] {
             for (void *&p : blocks) {
                 p = hak_malloc(20000);
             }
             for (void *p : blocks) {
                 hak_free(p);
             }
         },
         false},
        {"spans and ranges",
         [] {
             void *p = hak_malloc(3 << 20), *q = hak_malloc(150000);
             p = hak_realloc(p, 9 << 20);
             hak_free(q);
             hak_free(p);
         },
         false},
        {"heaps of one's own", use_own_heap, false},
        {"blocks of libc",
         [] {
             hak_options.ld_safe = 1;
             hak_limit_configure(0, 1);
             for (size_t i = 0; i < 3; i++) {
                 blocks[i] = hak_malloc(100000);
             }
             for (size_t i = 0; i < 3; i++) {
                 hak_free(blocks[i]);
             }
             hak_limit_configure(0, 0);
             hak_options.ld_safe = 0;
         },
         true},
    };
    clock_now = hak_os_real_ops.clock_ns();
    hak_os_ops.clock_ns = clock_that_stands; /* else each step takes as long as an epoch's work */
    hak_os_ops.futex_wait_ms = no_wait;
    unsigned wanted = 0, all = 0;
    for (lock_rank rank : {LOCK_RANK_HEAPS, LOCK_RANK_OWNERS, LOCK_RANK_HEAP, LOCK_RANK_SHARED,
                           LOCK_RANK_OWNED, LOCK_RANK_ACE, LOCK_RANK_POOL, LOCK_RANK_FALLBACK}) {
        wanted |= 1u << rank;
    }
    int n_forks = 0;
    /* Again where the thread has gone other ways than when its steps were counted. */
    for (int turn = 0; turn < 4 && (n_forks < 30 || (all & wanted) != wanted); turn++) {
        for (const held_work &at : works) {
            n_forks += fork_beside_all(at);
            for (unsigned ranks = 1; ranks < 1u << LOCK_N_RANKS; ranks++) {
                all |= n_so_far[ranks] ? ranks : 0;
            }
        }
    }
    EXPECT_GE(n_forks, 30);
    EXPECT_EQ(all & wanted, wanted) << "no fork while locks of some of these ranks were held";
    hak_os_ops.futex_wait_ms = hak_os_real_ops.futex_wait_ms;
    hak_os_ops.clock_ns = hak_os_real_ops.clock_ns;
    (void)hak_purge();
    EXPECT_EQ(look(), 0);
}

#else

TEST(ForkSteps, InAForkUnderWay)
{
    GTEST_SKIP() << "needs a trap flag, and children that may start threads";
}

#endif

} // namespace
