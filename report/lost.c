/* lost MODE: a program that loses known memory, for leaks_command_test.py.
   none      nothing
   some      30 blocks of 1,000 bytes by lose_some, which lead to as many of 50 by lose_inner
   status N  the same, and ends with status N
   _exit, quick_exit   the same, and ends by that
   kill N    the same, and sends itself signal N
   handled   the same with a handler of its own for SIGTERM, which it gets
   ask       asks by hak_leaks_write what is lost; prints the errno value, and the bytes
   fork      a child loses the same; it loses nothing itself
   signals   the same, 20 signals SIGUSR2 while another thread allocates; prints that it goes on */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 30 };

static volatile sig_atomic_t is_over;
void *volatile sink;

__attribute__((noinline)) void *lose_inner(void)
{
    void *p = malloc(50);
    sink = p;
    sink = NULL;
    return p;
}

__attribute__((noinline)) void lose_some(void)
{
    void **p = malloc(1000);
    sink = p;
    memset(p, 0, 1000);
    p[10] = lose_inner();
    sink = NULL;
}

static void lose(void)
{
    for (int i = 0; i < N; i++) {
        lose_some();
    }
}

static int ask(void)
{
    int (*write_leaks)(int fd, size_t *bytes) =
        (int (*)(int, size_t *))dlsym(RTLD_DEFAULT, "hak_leaks_write");
    size_t bytes = 0;
    int error = write_leaks ? write_leaks(-1, &bytes) : -1;
    printf("%d %zu\n", error, bytes);
    return 0;
}

static void end(int number)
{
    (void)number;
    _exit(7);
}

static void *churn(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !is_over; i++) {
        sink = malloc(1 + i % 5000);
        free(sink);
    }
    return NULL;
}

static void *signals(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, churn, NULL);
    for (int i = 0; i < 10; i++) {
        kill(getpid(), SIGUSR2);
        pthread_kill(thread, SIGUSR2);
        free(malloc(100));
    }
    is_over = 1;
    pthread_join(thread, NULL);
    puts("it goes on");
    return NULL;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "none";
    int n = argc > 2 ? atoi(argv[2]) : 0;
    if (strcmp(mode, "fork") == 0) {
        int status = -1;
        if (fork() == 0) {
            lose();
            exit(0);
        }
        wait(&status);
        return status;
    }
    if (strcmp(mode, "handled") == 0) {
        signal(SIGTERM, end);
        n = SIGTERM;
    }
    if (strcmp(mode, "none") != 0) {
        lose();
    }
    if (strcmp(mode, "status") == 0) {
        return n;
    }
    if (strcmp(mode, "_exit") == 0) {
        _exit(0);
    }
    if (strcmp(mode, "quick_exit") == 0) {
        quick_exit(0);
    }
    if (strcmp(mode, "kill") == 0 || strcmp(mode, "handled") == 0) {
        kill(getpid(), n);
        pause();
    }
    if (strcmp(mode, "signals") == 0) {
        signals();
    }
    return strcmp(mode, "ask") == 0 ? ask() : 0;
}
