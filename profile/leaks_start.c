/* When leaks are looked for: at exit, at signals, when the program asks; and the child that does
   it. No locks: one report at a time, others are refused. The fork closes the gate for its time
   (fork.h), as any; the child has no handlers of the program's to run, and sends no signal
   when it ends.

   A signal's handler makes the report itself, so that a process that waits for something is served;
   if its thread is within hakmem, that call does it when it ends.

   With AT_SECURE no option is read. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "hakmem/hakmem.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "profile/leaks.h"
#include "profile/profile.h"
#include "profile/roots.h"

/* Of hak_leaks_due: the signal, and whether it ends the process. */
#define DUE_END 0x100u
/* The kernel's signal set. */
#define ALL_SIGNALS_BYTES 8ul
/* Between two passes: a thread that wants to run has done so by then, and keeps no pointer from all
   memory so long. */
#define BETWEEN_MS 100u
/* Of a child that ended otherwise than by _exit of an errno value. */
#define NO_STATUS EIO

uint32_t hak_leaks_due;
static uint64_t began_ms;
static uint32_t is_reporting; /* the epoch of the process that does (theap.h) */
static uint32_t n_reports, n_reports_epoch;
static pid_t not_waited_for; /* of the process that has is_reporting */

static const char *file(void)
{
    return (const char *)(uintptr_t)hak_options.leaks;
}

uint64_t hak_leaks_elapsed_ms(void)
{
    return hak_profile_now_ms() - began_ms;
}

void hak_leaks_sleep_ms(uint32_t ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    (void)syscall(SYS_nanosleep, &time, NULL);
}

/* --- the child --- */

struct report {
    const char *path; /* NULL: to `fd` */
    int fd;
    const char *reason;
    pid_t process;
    const void *stack_end;
    struct leaks_result *result; /* shared with the child */
};

/* What it inherited stays open no longer than in the process itself. */
static void close_others(int fd)
{
#ifdef SYS_close_range
    unsigned keep = fd < 0 ? UINT_MAX : (unsigned)fd;
    if (keep > 0) {
        (void)syscall(SYS_close_range, 0u, keep - 1, 0u);
    }
    if (keep < UINT_MAX) {
        (void)syscall(SYS_close_range, keep + 1, UINT_MAX, 0u);
    }
#else
    (void)fd;
#endif
}

static int find(int fd, const void *report_)
{
    const struct report *report = (const struct report *)report_;
    return hak_leaks_find(fd, report->reason, report->process, report->stack_end, report->result);
}

static void run_child(struct report *report)
{
    close_others(report->path ? -1 : report->fd);
    int error = hak_gate_is_closed() ? EAGAIN
                : report->path       ? hak_profile_replace_file(report->path, find, report)
                                     : find(report->fd, report);
    for (;;) {
        (void)syscall(SYS_exit_group, error);
    }
}

/* --- the process --- */

static int wait_for(pid_t child, int options)
{
    int status = 0;
    long got;
    do {
        got = syscall(SYS_wait4, child, &status, __WALL | options, NULL);
    } while (got < 0 && errno == EINTR);
    return got == 0 ? EBUSY : got < 0 ? errno : WIFEXITED(status) ? WEXITSTATUS(status) : NO_STATUS;
}

/* Signals wait until the fork is over: a handler would run in the child too. */
static pid_t fork_and_run(struct report *report)
{
    uint64_t all = ~UINT64_C(0), before = 0;
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, ALL_SIGNALS_BYTES);
    pid_t child = hak_fork_bare();
    if (child == 0) {
        run_child(report);
    }
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, ALL_SIGNALS_BYTES);
    return child;
}

/* 1 if no other report is being made. One that no thread waited for may have ended, or is waited
   for now. */
static int begin(int waits)
{
    uint32_t before = atomic_load_relaxed(&is_reporting);
    if (before == hak_theap_epoch) {
        pid_t child = atomic_exchange_acq_rel(&not_waited_for, 0);
        if (!child) {
            return 0;
        }
        if (wait_for(child, waits ? 0 : WNOHANG) == EBUSY) {
            atomic_store_release(&not_waited_for, child);
            return 0;
        }
        return 1;
    }
    return atomic_cas_strong(&is_reporting, &before, hak_theap_epoch);
}

static void end(void)
{
    atomic_store_release(&is_reporting, 0u);
}

/* For the function that the program or the C library has called, which does not return before the
   report is made: the end of what is a root of this thread's stack. The registers that a caller may
   still have something in are stored beside the frame's address; below are frames of ours, with
   what earlier calls have left there. */
#define SAVED_BYTES (5 * sizeof(void *)) /* x86-64: rbx, r12 to r15 */
#define STACK_END_HERE()                                                                           \
    (__builtin_unwind_init(), (const char *)__builtin_frame_address(0) - SAVED_BYTES)
/* At the end of that function: no call of its may take its frame's place. */
#define KEEP_FRAME() __asm__ volatile("")

/* Not waited for: what a thread has in a register alone counts as lost. */
static int run_alone(struct report *report)
{
    uint64_t state;
    struct leaks_result *result = report->result;
    result->pass = LEAKS_ALONE;
    result->n_words = hak_roots_of_threads(result->words, LEAKS_WORDS, &state);
    pid_t child = fork_and_run(report);
    if (child > 0) {
        atomic_store_release(&not_waited_for, child);
    }
    return child < 0 ? errno : 0;
}

/* Twice where other threads have run. */
static int run_passes(struct report *report)
{
    struct leaks_result *result = report->result;
    uint64_t before, after;
    result->n_words = hak_roots_of_threads(result->words, LEAKS_WORDS, &before);
    pid_t child = fork_and_run(report);
    int error = child < 0 ? errno : 0;
    (void)hak_roots_of_threads(NULL, 0, &after);
    uint32_t pass = before == ROOTS_RUN || before != after ? LEAKS_FIRST : LEAKS_ALONE;
    atomic_store_release(&result->pass, pass);
    error = error ? error : wait_for(child, 0);
    if (pass == LEAKS_FIRST && error == ECANCELED) { /* 0: it has waited in vain, and reported */
        hak_leaks_sleep_ms(BETWEEN_MS);
        result->pass = LEAKS_SECOND;
        result->n_words = hak_roots_of_threads(result->words, LEAKS_WORDS, &after);
        child = fork_and_run(report);
        error = child < 0 ? errno : wait_for(child, 0);
    }
    return error;
}

static int make(struct report *report, int waits, size_t *bytes)
{
    size_t page = hak_os_page_size(), size = (sizeof(struct leaks_result) + page - 1) & ~(page - 1);
    void *shared =
        hak_os_ops.mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return errno;
    }
    report->result = (struct leaks_result *)shared;
    report->process = getpid();
    int error = waits ? run_passes(report) : run_alone(report);
    *bytes = report->result->bytes;
    (void)!hak_os_unmap(shared, size);
    return error;
}

static int report(struct report *report, int waits, size_t *bytes)
{
    int saved = errno;
    if (!file()) {
        return EINVAL;
    }
    if (!begin(waits)) {
        return EBUSY;
    }
    int error = make(report, waits, bytes);
    if (!atomic_load_relaxed(&not_waited_for)) {
        end();
    }
    errno = saved;
    return error;
}

HAK_NOINLINE int hak_leaks_write(int fd, size_t *bytes)
{
    struct report to = {.fd = fd, .reason = "api", .stack_end = STACK_END_HERE()};
    size_t found = 0;
    int error = report(&to, 1, &found);
    if (!error && bytes) {
        *bytes = found;
    }
    return error;
}

/* --- by options --- */

/* A forked child counts from 1 again. */
static uint32_t next_number(void)
{
    if (atomic_load_relaxed(&n_reports_epoch) != hak_theap_epoch) {
        atomic_store_relaxed(&n_reports, 0u);
        atomic_store_relaxed(&n_reports_epoch, hak_theap_epoch);
    }
    return atomic_add_relaxed(&n_reports, 1u) + 1;
}

static HAK_NOINLINE void write_now(const char *reason, int waits, const void *stack_end)
{
    char path[PATH_MAX];
    struct report to = {.path = path, .fd = -1, .reason = reason, .stack_end = stack_end};
    size_t found;
    hak_profile_make_name(path, file(), next_number());
    int error = report(&to, waits, &found);
    if (error) {
        struct hak_line line = {0, {0}};
        hak_line_text(&line, "hakmem: leaks not written to ");
        hak_line_text(&line, path);
        hak_line_text(&line, ": errno ");
        hak_line_unsigned(&line, (uint64_t)error);
        hak_line_write(&line, 2);
    }
}

/* The action of a signal that ends the process is the default one by now. */
static HAK_NOINLINE void act(uint32_t due, const void *stack_end)
{
    int number = (int)(due & ~DUE_END);
    write_now("signal", (due & DUE_END) != 0, stack_end);
    if (due & DUE_END) {
        (void)syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), number);
    }
}

void hak_leaks_mind(void)
{
    uint32_t due = hak_leaks_is_busy() ? 0 : atomic_exchange_acq_rel(&hak_leaks_due, 0u);
    if (due) {
        act(due, STACK_END_HERE());
    }
    KEEP_FRAME();
}

static HAK_NOINLINE void on(uint32_t due, const void *stack_end)
{
    int saved = errno;
    if (hak_leaks_is_busy()) {
        atomic_store_release(&hak_leaks_due, due);
    } else {
        act(due, stack_end);
    }
    errno = saved;
}

static void on_signal(int number)
{
    on((uint32_t)number, STACK_END_HERE());
    KEEP_FRAME();
}

static void on_end(int number)
{
    on((uint32_t)number | DUE_END, STACK_END_HERE());
    KEEP_FRAME();
}

/* The program may set a handler of its own later, which is what happens then. */
static void watch(int number, void (*handler)(int number), int flags)
{
    struct sigaction before, action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags | SA_ONSTACK;
    if (number && sigaction(number, NULL, &before) == 0 && !(before.sa_flags & SA_SIGINFO) &&
        before.sa_handler == SIG_DFL) {
        (void)sigaction(number, &action, NULL);
    }
}

/* Before the process's first block. */
static void start(void)
{
    if (file()) {
        hak_stack_start();
        began_ms = hak_profile_now_ms();
        hak_entry_add(&hak_leaks_layer);
        watch((int)hak_options.leaks_signal, on_signal, SA_RESTART);
        watch(SIGINT, on_end, (int)SA_RESETHAND);
        watch(SIGTERM, on_end, (int)SA_RESETHAND);
    }
}
ENTRY_AT_START(start);

__attribute__((destructor)) static void at_exit(void)
{
    if (file()) {
        write_now("exit", 1, STACK_END_HERE());
    }
    KEEP_FRAME();
}

/* Which runs no destructors; as show_stats.c does. */
__attribute__((constructor)) static void watch_quick_exit(void)
{
    if (file()) {
        (void)at_quick_exit(at_exit);
    }
}
