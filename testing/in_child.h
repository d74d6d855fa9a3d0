/* Runs a test's body in a forked child, for what is once a process; the child's failures are
   printed, and are the test's. */
#ifndef HAKMEM_TESTING_IN_CHILD_H
#define HAKMEM_TESTING_IN_CHILD_H

#include <cstdio>
#include <functional>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hak_testing
{

inline void in_child(const std::function<void()> &body)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        body();
        fflush(stdout);
        _exit(testing::Test::HasFailure());
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

} // namespace hak_testing

#endif
