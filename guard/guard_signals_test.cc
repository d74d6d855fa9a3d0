/* Faults and handlers: ours, and the program's. */
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>

#include "base/options.h"
#include "guard/guard_testing.h"
#include "hakmem/hakmem.h"
#include "hakmem/tell.h"

namespace
{

using namespace guard_testing;

std::atomic<int> n_handled;
sigjmp_buf back;

void handler_of_old(int)
{
    n_handled++;
    static const char text[] = "the program's handler\n";
    (void)!write(2, text, sizeof text - 1);
    _exit(7);
}

void handler_that_recovers(int, siginfo_t *info, void *context)
{
    n_handled += info && context;
    siglongjmp(back, 1);
}

void install(void (*old)(int), void (*modern)(int, siginfo_t *, void *))
{
    struct sigaction action = {};
    if (modern) {
        action.sa_sigaction = modern;
        action.sa_flags = SA_SIGINFO;
    } else {
        action.sa_handler = old;
    }
    ASSERT_EQ(sigaction(SIGSEGV, &action, nullptr), 0);
}

TEST_F(GuardSignals, TheProgramsHandlerRunsAfterTheReport)
{
    EXPECT_EXIT(
        {
            install(handler_of_old, nullptr);
            hak_guard_start(1);
            touch(guarded_at(96, true) + 96);
        },
        testing::ExitedWithCode(7), "block " WRITTEN " behind(.*\n)*the program's handler");
}

TEST_F(GuardSignals, FaultsElsewhereAreTheProgramsAndMoreMayCome)
{
    EXPECT_EXIT(
        {
            install(nullptr, handler_that_recovers);
            hak_guard_start(1);
            for (volatile int i = 0; i < 3; i = i + 1) {
                if (!sigsetjmp(back, 1)) {
                    touch(static_cast<char *>(escape(reinterpret_cast<void *>(16))));
                }
            }
            fprintf(stderr, "handled %d\n", n_handled.load());
            if (!sigsetjmp(back, 1)) {
                touch(guarded_at(96, true) + 96);
            }
            _exit(n_handled == 4 ? 0 : 1);
        },
        testing::ExitedWithCode(0), "handled 3\nhakmem: block " WRITTEN " behind");
}

TEST_F(GuardSignals, WithoutAHandlerAFaultElsewhereEndsTheProcessInSilence)
{
    EXPECT_EXIT(
        {
            hak_guard_start(1);
            touch(static_cast<char *>(escape(reinterpret_cast<void *>(16))));
        },
        testing::KilledBySignal(SIGSEGV), "^$");
    EXPECT_EXIT(
        {
            hak_guard_start(1);
            raise(SIGSEGV);
        },
        testing::KilledBySignal(SIGSEGV), "^$");
}

TEST_F(GuardSignals, AnIgnoredSignalStaysIgnored)
{
    EXPECT_EXIT(
        {
            install(SIG_IGN, nullptr);
            hak_guard_start(1);
            kill(getpid(), SIGSEGV);
            _exit(3);
        },
        testing::ExitedWithCode(3), "^$");
}

/* A program that installs its own later asks. */
void handler_that_asks(int, siginfo_t *info, void *)
{
    _exit(hak_guard_report(info->si_addr) ? 5 : 6);
}

TEST_F(GuardSignals, ALaterHandlerMayAskForTheReport)
{
    EXPECT_EXIT(
        {
            hak_guard_start(1);
            install(nullptr, handler_that_asks);
            touch(guarded_at(96, true) + 96);
        },
        testing::ExitedWithCode(5), "hakmem: block touched behind its end: 0x");
}

/* HAKMEM_SHOW_STATS's handlers and ours, in either order, the program's own there or not. */

const char *const STATISTICS = "(.*\n)*hakmem: superslabs = [0-9]+ ";

void show_stats()
{
    hak_options.show_stats = 1;
    hak_tell_watch_signals();
}

void watch(bool are_stats_first)
{
    if (are_stats_first) {
        show_stats();
    }
    ASSERT_EQ(hak_guard_start(1), 0);
    if (!are_stats_first) {
        show_stats();
    }
}

TEST_F(GuardSignals, TheStatisticsComeBehindTheReport)
{
    for (bool are_stats_first : {false, true}) {
        EXPECT_EXIT(
            {
                watch(are_stats_first);
                touch(guarded_at(96, true) + 96);
            },
            testing::KilledBySignal(SIGSEGV),
            std::string("hakmem: block " WRITTEN " behind its end") + STATISTICS);
    }
}

TEST_F(GuardSignals, TheStatisticsComeAtAFaultElsewhereAndAtASignalThatWasSent)
{
    for (bool are_stats_first : {false, true}) {
        EXPECT_EXIT(
            {
                watch(are_stats_first);
                touch(static_cast<char *>(escape(reinterpret_cast<void *>(16))));
            },
            testing::KilledBySignal(SIGSEGV), STATISTICS);
        EXPECT_EXIT(
            {
                watch(are_stats_first);
                raise(SIGSEGV);
            },
            testing::KilledBySignal(SIGSEGV), STATISTICS);
    }
}

/* Its own handler runs last, and what it handles is its own to print. */
TEST_F(GuardSignals, TheProgramsHandlerRunsAfterTheReportWithStatisticsOn)
{
    for (bool are_stats_first : {false, true}) {
        EXPECT_EXIT(
            {
                install(handler_of_old, nullptr);
                watch(are_stats_first);
                touch(guarded_at(96, true) + 96);
            },
            testing::ExitedWithCode(7), "block " WRITTEN " behind(.*\n)*the program's handler\n");
    }
}

TEST_F(GuardSignals, OneThatTheProgramInstallsBetweenTheTwoRunsAfterTheReport)
{
    EXPECT_EXIT(
        {
            show_stats();
            install(handler_of_old, nullptr);
            hak_guard_start(1);
            touch(guarded_at(96, true) + 96);
        },
        testing::ExitedWithCode(7), "block " WRITTEN " behind(.*\n)*the program's handler\n");
}

} // namespace
