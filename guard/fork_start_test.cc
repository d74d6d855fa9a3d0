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

#include "hakmem/hakmem.h"
#include "testing/steps.h"

namespace
{

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
void start_with(const std::vector<const char *> &environment)
{
    pid_t child = fork();
    if (child == 0) {
        if (!getenv(POINTS)) {
            setenv(POINTS, "24", 1);
        }
        for (const char *variable : environment) {
            putenv(const_cast<char *>(variable));
        }
        execl("/proc/self/exe", "fork_start", "--gtest_filter=ForkAtStart.AStart", nullptr);
        _exit(127);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << (environment.empty() ? "" : environment[0]);
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
