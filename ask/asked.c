/* asked: a program that `hakmem profile PID` samples. Does what each line of standard input says,
   and answers "done":
   keep N    keeps N blocks of 1,000 bytes more
   aside N   the same, by another function
   churn N   N threads allocate and free from now on
   births    threads are born, allocate and end, until the next line
   fork      a child prints its pid and the word `child`, and keeps blocks until it is killed
   load      loads and unloads libraries
   exec      becomes itself
   end       ends
   Its own hak_profile_start and hak_profile_stop: start, stop. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

extern int hak_profile_start(size_t period) __attribute__((weak));
extern void hak_profile_stop(void) __attribute__((weak));

void *volatile kept[1000000];
static size_t n_kept;
static volatile int is_over;

__attribute__((noinline, aligned(64))) void keep_small(void)
{
    kept[n_kept++] = malloc(1000);
}

static void *volatile aside[1000000];
static size_t n_aside;

__attribute__((noinline, aligned(64))) void keep_aside(void)
{
    aside[n_aside++] = malloc(1000);
}

static void churn_some(unsigned seed)
{
    void *blocks[300] = {NULL};
    for (int i = 0; i < 3000; i++) {
        unsigned at = (unsigned)rand_r(&seed) % 300;
        free(blocks[at]);
        blocks[at] = malloc((unsigned)rand_r(&seed) % (i % 50 ? 3000 : 90000));
    }
    for (int i = 0; i < 300; i++) {
        free(blocks[i]);
    }
}

static void *churn(void *seed)
{
    while (!is_over) {
        churn_some((unsigned)(size_t)seed);
    }
    return NULL;
}

static void *live_once(void *seed)
{
    churn_some((unsigned)(size_t)seed);
    return NULL;
}

static void *bear(void *unused)
{
    while (!is_over) {
        pthread_t threads[4];
        for (size_t i = 0; i < 4; i++) {
            pthread_create(&threads[i], NULL, live_once, (void *)i);
        }
        for (size_t i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    return unused;
}

static void load(void)
{
    static const char *const names[] = {"libBrokenLocale.so.1", "libanl.so.1", "libutil.so.1"};
    for (size_t i = 0; i < 60; i++) {
        void *library = dlopen(names[i % 3], RTLD_NOW);
        if (library) {
            dlclose(library);
        }
    }
}

static void say(const char *what)
{
    char line[64];
    int n = snprintf(line, sizeof line, "%ld %s\n", (long)getpid(), what);
    if (write(1, line, (size_t)n) != n) {
        exit(1);
    }
}

static void begin(void *(*what)(void *), long n)
{
    for (long i = 0; i < n; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, what, (void *)(i + 1)) != 0) {
            exit(1);
        }
        pthread_detach(thread);
    }
}

static void obey(const char *line, char **argv)
{
    long n = strtol(strchr(line, ' ') ? strchr(line, ' ') : "1", NULL, 10);
    if (strncmp(line, "keep", 4) == 0) {
        while (n--) {
            keep_small();
        }
    } else if (strncmp(line, "aside", 5) == 0) {
        while (n--) {
            keep_aside();
        }
    } else if (strncmp(line, "churn", 5) == 0) {
        begin(churn, n);
    } else if (strncmp(line, "births", 6) == 0) {
        begin(bear, 1);
    } else if (strncmp(line, "load", 4) == 0) {
        load();
    } else if (strncmp(line, "start", 5) == 0) {
        hak_profile_start(4096);
    } else if (strncmp(line, "stop", 4) == 0) {
        hak_profile_stop();
    } else if (strncmp(line, "exec", 4) == 0) {
        execv("/proc/self/exe", argv);
        exit(1);
    } else if (strncmp(line, "end", 3) == 0) {
        exit(0);
    } else if (strncmp(line, "fork", 4) == 0 && fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        say("child");
        for (;;) {
            keep_small();
            usleep(1000);
        }
    }
}

int main(int argc, char **argv)
{
    char line[64];
    (void)argc;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setvbuf(stdin, NULL, _IONBF, 0);
    say("ready");
    while (fgets(line, sizeof line, stdin)) {
        obey(line, argv);
        say("done");
    }
    return 0;
}
