/* HAKMEM_SHOW_STATS: prints the statistics when the process ends. With the option off nothing of
   this does anything.

   Its signal handlers stand only where the program has the default action when the first block is
   asked for; one that the program installs later replaces ours, as does one for which it looks
   first whether there is one. They print what is kept alone, since a computed row may run into what
   ended the process. Then the signal has its default action. Where the guard's handler of SIGSEGV
   stands already, that asks for them (hak_tell_before_end). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/lock_holds.h"
#include "base/options.h"
#include "base/stats.h"
#include "hakmem/entry.h"
#include "hakmem/tell.h"

static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGTERM};
static HAK_LARGE_ZEROS char path[4096]; /* absolute; empty: standard error */

/* By no function that is a cancellation point. */
static int open_output(void)
{
    if (!*path) {
        return 2;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path,
                        O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
}

static void print(void (*tell)(int fd, const char *whose))
{
    struct hak_line whose = {0, {0}};
    int saved = errno, fd = open_output();
    hak_line_unsigned(&whose, (uint64_t)getpid());
    hak_line_text(&whose, " ");
    hak_line_text(&whose, program_invocation_short_name ? program_invocation_short_name : "?");
    whose.text[whose.length < 200 ? whose.length : 200] = '\0';
    if (fd >= 0) {
        tell(fd, whose.text);
        if (fd != 2) {
            (void)syscall(SYS_close, fd);
        }
    } else {
        struct hak_line line = {0, {0}};
        hak_line_text(&line, "hakmem: HAKMEM_SHOW_STATS: ");
        hak_line_text(&line, path);
        hak_line_text(&line, ": cannot be written: errno ");
        hak_line_unsigned(&line, (uint64_t)errno);
        hak_line_write(&line, 2);
    }
    errno = saved;
}

__attribute__((destructor)) static void print_at_end(void)
{
    if (hak_options.show_stats) {
        print(hak_tell_stats);
    }
}

/* Which runs no destructors. Not by start: the C library may ask for the first block while it holds
   the lock of the list that this goes to. */
__attribute__((constructor)) static void watch_quick_exit(void)
{
    if (hak_options.show_stats) {
        (void)at_quick_exit(print_at_end);
    }
}

void hak_tell_before_end(void)
{
    if (hak_options.show_stats) {
        (void)hak_lock_refuse_system_calls(0);
        print(hak_stat_print_of);
    }
}

/* The action is the default one by now, and the signal comes again when this returns. */
static void print_at_signal(int signal)
{
    int saved = errno;
    hak_tell_before_end();
    (void)syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), signal);
    errno = saved;
}

static void keep_path(const char *file)
{
    size_t n = 0;
    if (*file != '/' && getcwd(path, sizeof path / 2)) {
        n = strlen(path);
        path[n++] = '/';
    }
    if (n + strlen(file) < sizeof path) {
        memcpy(path + n, file, strlen(file) + 1);
    } else {
        *path = '\0';
    }
}

void hak_tell_watch_signals(void)
{
    struct sigaction now, ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = print_at_signal;
    ours.sa_flags = (int)(SA_RESETHAND | SA_ONSTACK);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) {
        if (sigaction(fatal[i], NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
            now.sa_handler == SIG_DFL) {
            (void)sigaction(fatal[i], &ours, NULL);
        }
    }
}

static void start(void)
{
    if (!hak_options.show_stats) {
        return;
    }
    if (hak_opt_file(hak_options.show_stats)) {
        keep_path(hak_opt_file(hak_options.show_stats));
    }
    hak_tell_watch_signals();
}
ENTRY_AT_START(start);
