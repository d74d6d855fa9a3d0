/* Tests of the gate: who is inside is waited for, who comes later is refused, closers do not wait
   for each other. */
#include "heap/gate.h"

#include <atomic>
#include <gtest/gtest.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/lock.h"
#include "hakmem/hakmem.h"

namespace
{

int entered_by_other()
{
    int result = -1;
    std::thread([&] {
        result = hak_gate_enter();
        if (result) {
            hak_gate_leave();
        }
    }).join();
    return result;
}

TEST(Gate, ClosedForOthersOpenForWhoClosedIt)
{
    EXPECT_EQ(entered_by_other(), 1);
    EXPECT_FALSE(hak_gate_is_closed());
    hak_gate_close();
    EXPECT_TRUE(hak_gate_is_closed());
    EXPECT_TRUE(hak_gate_is_mine());
    EXPECT_EQ(entered_by_other(), 0);
    ASSERT_EQ(hak_gate_enter(), 1);
    ASSERT_EQ(hak_gate_enter(), 1);
    hak_gate_leave();
    hak_gate_leave();
    hak_gate_close(); /* a handler that forks */
    EXPECT_EQ(hak_gate_enter(), 1);
    hak_gate_leave();
    hak_gate_open();
    EXPECT_EQ(entered_by_other(), 0) << "still closed once";
    hak_gate_open();
    EXPECT_FALSE(hak_gate_is_mine());
    EXPECT_EQ(entered_by_other(), 1);
}

/* With a heap and without: both kinds of words. */
void waits_for_who_is_inside(bool has_heap)
{
    std::atomic<int> phase(0);
    std::thread other([&] {
        if (has_heap) {
            hak_free(hak_malloc(1));
        }
        ASSERT_EQ(hak_gate_enter(), 1);
        phase = 1;
        while (!hak_gate_is_closed()) {
            usleep(100);
        }
        ASSERT_EQ(hak_gate_enter(), 1) << "who is inside goes on";
        usleep(20000);
        phase = 2;
        hak_gate_leave();
        hak_gate_leave();
        EXPECT_EQ(hak_gate_enter(), 0);
    });
    while (phase != 1) {
        usleep(100);
    }
    hak_gate_close();
    EXPECT_EQ(phase, 2);
    EXPECT_FALSE(hak_gate_saw_others());
    other.join();
    hak_gate_open();
}

TEST(Gate, ClosingWaitsForWhoIsInside)
{
    waits_for_who_is_inside(true);
    waits_for_who_is_inside(false);
}

TEST(Gate, ClosersDoNotWaitForEachOther)
{
    hak_gate_close();
    std::thread([] {
        hak_gate_close();
        EXPECT_EQ(hak_gate_enter(), 0) << "two at once: neither may change anything";
        hak_gate_open();
    }).join();
    EXPECT_EQ(hak_gate_enter(), 1);
    hak_gate_leave();
    hak_gate_open();
}

/* A signal handler's fork, as hak_gate_close sees it: the interrupted code is inside, and another
   thread waits for its lock. */
TEST(Gate, AHandlerDoesNotWaitForWhoNeedsWhatItHolds)
{
    static LOCK_DEFINE(mine, LOCK_RANK_ACE);
    ASSERT_EQ(hak_gate_enter(), 1);
    hak_lock_acquire(&mine);
    std::atomic<int> phase(0);
    std::thread other([&] {
        ASSERT_EQ(hak_gate_enter(), 1);
        phase = 1;
        hak_lock_acquire(&mine);
        hak_lock_release(&mine);
        hak_gate_leave();
    });
    while (phase != 1) {
        usleep(100);
    }
    hak_gate_close();
    EXPECT_TRUE(hak_gate_saw_others());
    EXPECT_EQ(hak_gate_enter(), 0) << "what it interrupted may be half done";
    hak_gate_open();
    EXPECT_EQ(hak_gate_enter(), 1) << "as deep inside as before";
    hak_gate_leave();
    hak_lock_release(&mine);
    hak_gate_leave();
    other.join();
    EXPECT_EQ(entered_by_other(), 1);
    hak_gate_close();
    EXPECT_FALSE(hak_gate_saw_others());
    hak_gate_open();
}

TEST(Gate, ReadersAreInsideOrAlone)
{
    static LOCK_DEFINE(some, LOCK_RANK_ACE);
    enum gate_reader how = hak_gate_enter_to_read();
    EXPECT_EQ(how, GATE_INSIDE);
    hak_gate_leave_reader(how);
    hak_gate_close();
    std::thread([] {
        enum gate_reader mine = hak_gate_enter_to_read();
        EXPECT_EQ(mine, GATE_ALONE);
        hak_lock_acquire(&some);
        EXPECT_EQ(some.word, 0u) << "no lock changes while the process is copied";
        hak_lock_release(&some);
        hak_gate_leave_reader(mine);
        EXPECT_FALSE(hak_lock_passes());
    }).join();
    hak_gate_open();
}

/* What is guarded by being inside is never changed while a closer looks. */
TEST(Gate, ManyThreads)
{
    static uint64_t guarded[2];
    static LOCK_DEFINE(lock, LOCK_RANK_ACE);
    std::atomic<bool> stop(false);
    std::atomic<int64_t> n_refused(0), n_entered(0);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            if (t % 2) {
                hak_free(hak_malloc(1));
            }
            while (!stop) {
                if (hak_gate_enter()) {
                    hak_lock_acquire(&lock);
                    guarded[0]++;
                    guarded[1]++;
                    hak_lock_release(&lock);
                    hak_gate_leave();
                    n_entered++;
                } else {
                    n_refused++;
                    std::this_thread::yield();
                }
            }
        });
    }
    for (int t = 0; t < 2; t++) {
        threads.emplace_back([&] {
            while (n_entered == 0) { /* on a busy machine the others come late */
                std::this_thread::yield();
            }
            for (int i = 0; i < 1000; i++) {
                hak_gate_close();
                ASSERT_EQ(lock.word, 0u);
                uint64_t before = guarded[0];
                ASSERT_EQ(before, guarded[1]);
                for (int k = 0; k < 20; k++) {
                    hak_atomic_pause();
                }
                ASSERT_EQ(before, guarded[0]);
                hak_gate_open();
            }
        });
    }
    threads[4].join();
    threads[5].join();
    stop = true;
    for (int t = 0; t < 4; t++) {
        threads[static_cast<size_t>(t)].join();
    }
    EXPECT_GT(n_entered, 0);
    EXPECT_EQ(guarded[0], guarded[1]);
    EXPECT_FALSE(hak_gate_is_closed());
}

/* Ends the process: nothing opens it again. */
TEST(GateDeathTest, ClosedForEver)
{
    EXPECT_EXIT(
        {
            hak_free(hak_malloc(1));
            hak_gate_close_for_ever();
            bool good = !hak_gate_enter() && hak_gate_enter_to_read() == GATE_REFUSED;
            hak_gate_close();
            hak_gate_open();
            good = good && !hak_gate_enter();
            for (size_t size = 1; size < 10000000; size = size * 3 + 1) {
                void *p = hak_malloc(size);
                good = good && p;
                p = hak_realloc(p, size * 2);
                hak_free(p);
            }
            std::thread([&] { hak_free(hak_malloc(100)); }).join();
            _exit(good && hak_verify() == 0 ? 0 : 1);
        },
        testing::ExitedWithCode(0), "");
}

} // namespace
