/* Forks beside a thread that is in the process's first call: its heap is being made, and layers
   come. The child begins where that thread was, without it. */
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <pthread.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "testing/steps.h"

namespace
{

/* One thread asks who wants to observe, and another one waits for it. */
const char WAITS[] = "HAK_FORK_WAITS";
pid_t parent;
std::atomic<bool> is_asking, may_end, has_child_ended;
std::atomic<int> child_status{-1};
thread_local pid_t forked;

extern "C" void wait_in_start()
{
    if (parent && getpid() == parent) {
        is_asking = true;
        while (!may_end) {
            usleep(100);
        }
    }
}
ENTRY_AT_START(wait_in_start);

void fork_in_handler(int)
{
    forked = fork();
    if (forked > 0) {
        int status = -1;
        waitpid(forked, &status, 0);
        child_status = status;
        has_child_ended = true;
    } else {
        alarm(10);
    }
}

void *wait_for_start(void *is_about_to)
{
    *static_cast<std::atomic<bool> *>(is_about_to) = true;
    void *p = hak_malloc(100);
    if (!forked) {
        _exit(!p || hak_verify());
    }
    hak_free(p);
    return nullptr;
}

/* In a process of its own. */
TEST(ForkAtStart, AWaitForAStart)
{
    if (!getenv(WAITS)) {
        GTEST_SKIP() << "the others run it";
    }
    parent = getpid();
    signal(SIGUSR1, fork_in_handler);
    std::thread first([] { hak_free(hak_malloc(100)); });
    while (!is_asking) {
        usleep(100);
    }
    std::atomic<bool> is_about_to{false};
    pthread_t second;
    ASSERT_EQ(pthread_create(&second, nullptr, wait_for_start, &is_about_to), 0);
    while (!is_about_to) {
        usleep(100);
    }
    usleep(20000); /* more than it needs to make its heap */
    pthread_kill(second, SIGUSR1);
    while (!has_child_ended) {
        usleep(100);
    }
    may_end = true;
    first.join();
    pthread_join(second, nullptr);
    EXPECT_EQ(child_status, 0);
}

/* Returns how a process ends that has one test more to run, with these variables. */
int status_with(const char *test, const std::vector<const char *> &environment)
{
    pid_t child = fork();
    if (child == 0) {
        for (const char *variable : environment) {
            putenv(const_cast<char *>(variable));
        }
        execl("/proc/self/exe", "fork_start", test, nullptr);
        _exit(127);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
}

TEST(ForkAtStart, InAHandlerThatInterruptedWhoWaitsForTheStart)
{
    EXPECT_EQ(status_with("--gtest_filter=ForkAtStart.AWaitForAStart", {"HAK_FORK_WAITS=1"}), 0);
}

#if HAK_CAN_STEP

using namespace hak_testing;

/* Of a first call, about; and how long the thread waits where it is forked beside: the fork may
   wait for it. */
constexpr int INSTRUCTIONS = 18000, WAIT_US = 5000;
const char POINTS[] = "HAK_FORK_POINTS";

int every;
std::atomic<int> step, stop, n_passed;
std::atomic<bool> has_forked, has_ended;

void wait_at_points(int, siginfo_t *, void *)
{
    if (++step % every == 0 && n_passed == stop) { /* else that one's fork is under way still */
        has_forked = false;
        int number = ++stop;
        for (int us = 0; n_passed < number && (us < WAIT_US || has_forked); us += 50) {
            usleep(50);
        }
    }
}

void *use_all_sizes(void *failure)
{
    for (size_t size : {1, 100, 3000, 30000, 100000, 3000000}) {
        std::vector<void *> blocks(20);
        for (void *&p : blocks) {
            p = hak_malloc(size);
            if (!p) {
                return failure;
            }
            memset(p, 1, size);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
    }
    return nullptr;
}

/* Returns what is wrong. */
int live_as_child()
{
    static char failure;
    alarm(20);
    if (hak_verify()) {
        return 1;
    }
    struct hak_heap *heap = hak_heap_create();
    if (!heap || !hak_heap_malloc(heap, 100) || !hak_heap_malloc(heap, 100000) ||
        use_all_sizes(&failure)) {
        return 2;
    }
    hak_heap_destroy(heap);
    pthread_t thread;
    void *result = &failure;
    if (pthread_create(&thread, nullptr, use_all_sizes, &failure) ||
        pthread_join(thread, &result) || result) {
        return 3;
    }
    (void)hak_purge();
    return hak_verify() ? 4 : 0;
}

void fork_once(int number)
{
    int status = -1, at = step;
    pid_t child = fork();
    if (child == 0) {
        _exit(live_as_child());
    }
    has_forked = true;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "beside stop " << number << ", at instruction " << at;
}

void step_through_first_call()
{
    with_steps([] { hak_free(hak_malloc(100)); });
    has_ended = true;
}

/* In a process of its own, whose first call it is: the other tests run it. */
TEST(ForkAtStart, AStart)
{
    if (!getenv(POINTS)) {
        GTEST_SKIP() << "the others run it";
    }
    every = INSTRUCTIONS / atoi(getenv(POINTS)) + 1;
    OnStep waits(wait_at_points);
    std::thread first(step_through_first_call);
    while (!has_ended) {
        if (stop > n_passed) {
            if (!HasFailure()) {
                fork_once(n_passed + 1);
            }
            ++n_passed;
        }
    }
    first.join();
    EXPECT_EQ(live_as_child(), 0);
    EXPECT_GE(n_passed, 1);
}

/* A hunt sets HAK_FORK_POINTS. */
void start_with(std::vector<const char *> environment)
{
    const char *what = environment.empty() ? "" : environment[0];
    if (!getenv(POINTS)) {
        environment.push_back("HAK_FORK_POINTS=24");
    }
    EXPECT_EQ(status_with("--gtest_filter=ForkAtStart.AStart", environment), 0) << what;
}

TEST(ForkAtStart, BesideTheFirstCall)
{
    start_with({});
}

TEST(ForkAtStart, WhileLayersCome)
{
    start_with({"HAKMEM_GUARD=3", "HAKMEM_GUARD_SLOTS=8", "HAKMEM_GUARD_LARGE=256k"});
    start_with({"HAKMEM_SECURE_STACKS=3", "HAKMEM_GUARD=3"}); /* rates that need no ticker */
}

#else

TEST(ForkAtStart, BesideTheFirstCall)
{
    GTEST_SKIP() << "needs a trap flag";
}

#endif

} // namespace
