/* Tests of the heap profile that is switched from outside of the process. */
#include <atomic>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "hakmem/hakmem.h"
#include "hakmem/profile_layout.h"
#include "profile/profile.h"
#include "profile/profile_testing.h"
#include "profile/sample.h"
#include "testing/rng.h"

namespace
{

using namespace profile_testing;
using hak_testing::Rng;
using hak_testing::total;

uint64_t fake_ns;
uint64_t fake_clock()
{
    return fake_ns;
}

extern "C" struct hak_profile_layout hak_profile_layout HAK_HIDDEN;

/* As `hakmem profile PID` writes it. */
void ask(uint32_t what, uint32_t epoch = hak_theap_epoch, uint64_t lease_ms = 3600000,
         size_t period = 64)
{
    struct hak_profile_control *control = hak_profile_layout.control;
    control->period = period;
    control->lease_ms = lease_ms;
    control->epoch = epoch;
    atomic_store_release(hak_profile_layout.request, what);
}

/* Takes memory until the request is gone. Returns 1 if it was answered, with *error. */
int allocate_until_heard(int *error)
{
    struct hak_profile_control *control = hak_profile_layout.control;
    uint32_t before = control->n_answers;
    std::vector<void *> blocks;
    while (atomic_load_acquire(hak_profile_layout.request) && blocks.size() < 100000) {
        blocks.push_back(hak_malloc(500));
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    EXPECT_EQ(*hak_profile_layout.request, uint32_t(PROFILE_ASK_NOTHING));
    *error = control->error;
    return control->n_answers != before;
}

TEST(ProfileAsked, TheLayoutIsWhereItSays)
{
    const struct hak_profile_layout &layout = hak_profile_layout;
    EXPECT_EQ(memcmp(layout.magic, PROFILE_LAYOUT_MAGIC, 16), 0);
    EXPECT_EQ(layout.self, &layout);
    EXPECT_EQ(uintptr_t(&layout) % 64, 0u);
    EXPECT_EQ(layout.bytes, sizeof layout);
}

TEST(ProfileAsked, OnAndOff)
{
    int error = -1;
    ask(PROFILE_ASK_ON);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    ask(PROFILE_ASK_ON); /* once more: a longer lease */
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
    ask(PROFILE_ASK_OFF);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
    EXPECT_EQ(*hak_profile_layout.period, 0u);
    ask(PROFILE_ASK_OFF);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
}

TEST(ProfileAsked, LargeBlocksHearItToo)
{
    ask(PROFILE_ASK_ON);
    std::vector<void *> blocks;
    for (int i = 0; i < 1000 && *hak_profile_layout.request; i++) {
        blocks.push_back(hak_malloc(3000000));
    }
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    for (void *p : blocks) {
        hak_free(p);
    }
    hak_profile_stop();
    int error;
    ask(PROFILE_ASK_OFF);
    EXPECT_TRUE(allocate_until_heard(&error));
}

TEST(ProfileAsked, TheProgramsOwnIsNotTheAskers)
{
    Sampling sampling(128);
    int error = 0;
    for (uint32_t what : {uint32_t(PROFILE_ASK_ON), uint32_t(PROFILE_ASK_OFF)}) {
        ask(what);
        ASSERT_TRUE(allocate_until_heard(&error));
        EXPECT_EQ(error, EBUSY);
        EXPECT_EQ(*hak_profile_layout.period, 128u);
    }
}

TEST(ProfileAsked, ALeaseEnds)
{
    struct hak_os_ops before = hak_os_ops;
    fake_ns = before.clock_ns();
    hak_os_ops.clock_ns = fake_clock;
    int error = -1;
    ask(PROFILE_ASK_ON, hak_theap_epoch, 1000);
    ASSERT_TRUE(allocate_until_heard(&error));
    fake_ns += UINT64_C(999000000);
    for (int i = 0; i < 1000; i++) {
        hak_free(hak_malloc(100));
    }
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    fake_ns += UINT64_C(2000000);
    for (int i = 0; i < 1000; i++) {
        hak_free(hak_malloc(100));
    }
    EXPECT_EQ(*hak_profile_layout.period, 0u);
    hak_os_ops.clock_ns = before.clock_ns;
}

TEST(ProfileAsked, AnotherProcesssRequestIsPassedBy)
{
    int error;
    ask(PROFILE_ASK_ON, hak_theap_epoch - 1);
    EXPECT_FALSE(allocate_until_heard(&error));
    EXPECT_EQ(*hak_profile_layout.period, 0u);
}

TEST(ProfileAsked, AForkedChildEndsWhatWasAskedOfItsParent)
{
    int error = -1;
    ask(PROFILE_ASK_ON);
    ASSERT_TRUE(allocate_until_heard(&error));
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 1000; i++) {
            hak_free(hak_malloc(100));
        }
        _exit(*hak_profile_layout.period == 0 ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    ask(PROFILE_ASK_OFF);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(*hak_profile_layout.period, 0u);
}

/* Threads allocate, and one of them hears; others are switched with it. */
TEST(ProfileAsked, ByThreads)
{
    hak_profile_rate = PROFILE_RATE;
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 3; i++) {
        threads.emplace_back([&, i] {
            Rng rng(i);
            std::vector<void *> blocks(200);
            while (!is_over) {
                void *&block = blocks[rng.next() % blocks.size()];
                hak_free(block);
                block = hak_malloc(rng.next() % 5000);
            }
            for (void *block : blocks) {
                hak_free(block);
            }
        });
    }
    for (int i = 0; i < 10; i++) {
        uint32_t before = atomic_load_acquire(&hak_profile_layout.control->n_answers);
        ask(i % 2 ? PROFILE_ASK_OFF : PROFILE_ASK_ON, hak_theap_epoch, 3600000, 65536);
        int error;
        (void)allocate_until_heard(&error);
        while (atomic_load_acquire(&hak_profile_layout.control->n_answers) == before) {
            std::this_thread::yield();
        }
        EXPECT_EQ(hak_profile_layout.control->error, 0);
        EXPECT_EQ(*hak_profile_layout.period, i % 2 ? 0u : 65536u);
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

} // namespace
