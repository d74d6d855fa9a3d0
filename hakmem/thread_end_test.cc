/* What is freed behind the destructors of a thread's keys, as the C library does when a detached
   thread ends: a heap that the thread got then would be no thread's for ever. */
#include <atomic>
#include <climits>
#include <gtest/gtest.h>
#include <pthread.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "heap/theap.h"

namespace
{

/* A key whose destructor frees blocks in its last round, behind all that others do. */
pthread_key_t last_of_all;
std::vector<void *> freed_last;
thread_local int rounds_left;

void free_in_last_round(void *value)
{
    if (--rounds_left) {
        (void)pthread_setspecific(last_of_all, value);
    } else {
        for (void *p : freed_last) {
            hak_free(p);
        }
        freed_last.clear();
    }
}

class ThreadEnd : public testing::Test
{
  protected:
    void SetUp() override
    {
        freed_last.assign(1, hak_malloc(100));
        std::thread([] { hak_free(hak_malloc(100)); }).join(); /* leaves a heap that can be taken */
        ASSERT_EQ(pthread_key_create(&last_of_all, free_in_last_round), 0);
        n_live_ = hak_theap_n_live();
        n_held_ = held();
    }
    void TearDown() override
    {
        EXPECT_TRUE(freed_last.empty());
        EXPECT_EQ(hak_theap_n_live(), n_live_);
        EXPECT_EQ(held(), n_held_);
        EXPECT_EQ(hak_verify(), 0);
        pthread_key_delete(last_of_all);
    }
    static int64_t held()
    {
        return hak_stat_get(heaps) - hak_stat_get(orphans);
    }
    static void free_at_the_end()
    {
        rounds_left = PTHREAD_DESTRUCTOR_ITERATIONS;
        (void)pthread_setspecific(last_of_all, &last_of_all);
    }

  private:
    uint32_t n_live_;
    int64_t n_held_;
};

TEST_F(ThreadEnd, WithoutACallBefore)
{
    std::thread(free_at_the_end).join();
}

TEST_F(ThreadEnd, WithAHeap)
{
    std::thread([] {
        hak_free(hak_malloc(100));
        free_at_the_end();
    }).join();
}

/* It lives while another thread forks. */
TEST_F(ThreadEnd, WhereItWasRefusedAHeap)
{
    std::atomic<int> phase{0};
    while (freed_last.size() < 100) { /* more than are freed without a heap */
        freed_last.push_back(hak_malloc(100));
    }
    hak_gate_close();
    std::thread refused([&] {
        free_at_the_end();
        hak_free(hak_malloc(100));
        EXPECT_EQ(hak_theap_own, &hak_theap_none);
        for (phase = 1; phase == 1;) {
            usleep(100);
        }
    });
    while (phase == 0) {
        usleep(100);
    }
    hak_gate_open();
    phase = 2;
    refused.join();
}

/* One that frees much gets one, and leaves it. */
TEST_F(ThreadEnd, WhereItHasOnlyFreed)
{
    std::vector<void *> blocks(1000);
    for (void *&p : blocks) {
        p = hak_malloc(100);
    }
    std::thread([&] {
        for (void *p : blocks) {
            hak_free(p);
        }
        EXPECT_NE(hak_theap_own, &hak_theap_none);
        free_at_the_end();
    }).join();
}

} // namespace
