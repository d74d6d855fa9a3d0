/* test_ace_trace: provokes each failure of an allocation for real, for the trace of
   HAKMEM_ACE_TRACE=1.

   usage: test_ace_trace threshold|exhaustion|mapfail|fork|signal|fallback|hoard

   threshold   a request of 33 KiB; run it with HAKMEM_WMAX_MID=1.01 HAKMEM_WMAX_LARGE=1.01
   exhaustion  blocks of 1 MB until there are no more; run it with HAKMEM_LIMIT_HARD=64m
   mapfail     blocks of 5 MB under an RLIMIT_AS of 64 MiB above what is mapped, with which it
               starts itself again: the trace tells the limit that a process started with
   fork        the same in a forked child
   signal      a request of 5 TiB in a signal handler, which does nothing else
   fallback    a request of 100 MB; run it with HAKMEM_LIMIT_HARD=64m HAKMEM_LD_SAFE=1
   hoard       60,000 blocks of 500 bytes, then as exhaustion; waits to be killed, so that it can be
               asked who holds the memory

   Prints `OK` or `NULL` for the last request, and exits with 0. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile last;

/* Set in the environment of a process that has its limit. */
#define IS_LIMITED "TEST_ACE_TRACE_IS_LIMITED"

/* Every block, each with the one before in its first word. */
static void *filled;

/* Allocates until it fails, at most n blocks, and touches each. Returns the last result. */
static void *fill(size_t size, int n)
{
    void **p = NULL;
    for (int i = 0; i < n; i++) {
        p = (void **)malloc(size);
        if (!p) {
            break;
        }
        memset(p, 1, size);
        *p = filled;
        filled = p;
    }
    return p;
}

static size_t mapped_bytes(void)
{
    char text[100] = {0};
    FILE *file = fopen("/proc/self/statm", "r");
    if (file) {
        if (!fgets(text, sizeof text, file)) {
            text[0] = 0;
        }
        fclose(file);
    }
    return strtoul(text, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static void limit_address_space(void)
{
    struct rlimit limit = {mapped_bytes() + ((size_t)64 << 20), RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &limit)) {
        perror("setrlimit");
        exit(1);
    }
}

/* Limits the address space from the start of the process on. */
static void start_limited(char **argv)
{
    if (!getenv(IS_LIMITED)) {
        limit_address_space();
        setenv(IS_LIMITED, "1", 1);
        execv("/proc/self/exe", argv);
        perror("execv");
        exit(1);
    }
}

static void handler(int number)
{
    (void)number;
    /* NOLINTNEXTLINE(bugprone-signal-handler): the trace must hold in a handler */
    last = malloc((size_t)5 << 40);
}

static int say(const void *p)
{
    printf("%s\n", p ? "OK" : errno == ENOMEM ? "NULL" : "NULL without ENOMEM");
    return 0;
}

static int in_child(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        last = fill(5000000, 100);
        say(last);
        fflush(stdout);
        _exit(0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return status != 0;
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    setvbuf(stdout, NULL, _IONBF, 0); /* printing must not allocate */
    if (!strcmp(what, "threshold")) {
        last = malloc((size_t)33 << 10);
    } else if (!strcmp(what, "exhaustion")) {
        last = fill(1000000, 1000);
    } else if (!strcmp(what, "mapfail")) {
        start_limited(argv);
        last = fill(5000000, 100);
    } else if (!strcmp(what, "fork")) {
        start_limited(argv);
        return in_child();
    } else if (!strcmp(what, "signal")) {
        signal(SIGUSR1, handler);
        raise(SIGUSR1);
    } else if (!strcmp(what, "fallback")) {
        last = malloc(100000000);
    } else if (!strcmp(what, "hoard")) {
        (void)fill(500, 60000);
        last = fill(1000000, 1000);
        say(last);
        pause();
        return 1;
    } else {
        fprintf(stderr,
                "usage: test_ace_trace threshold|exhaustion|mapfail|fork|signal|fallback|hoard\n");
        return 2;
    }
    return say(last);
}
