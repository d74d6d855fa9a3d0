/* holder [own | undumpable]: holds blocks that the test knows, in two threads, says so by a line,
   and waits to be killed. `own`: prints the library's own hak_stats_json first. `undumpable`: may
   not be read. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

extern int hak_stats_json(int fd) __attribute__((weak));

enum { SMALL = 4000, MID = 300, LARGE = 20, HUGE_BLOCKS = 2 };

static void *kept[2][SMALL + MID + LARGE + HUGE_BLOCKS];
static pthread_barrier_t ready;

static void fill(void **out)
{
    for (int i = 0; i < SMALL; i++) {
        *out++ = malloc(96);
    }
    for (int i = 0; i < MID; i++) {
        *out++ = malloc(3000);
    }
    for (int i = 0; i < LARGE; i++) {
        *out++ = malloc(100000);
    }
    for (int i = 0; i < HUGE_BLOCKS; i++) {
        *out++ = malloc(3000000);
    }
}

static void *run(void *context)
{
    fill(context);
    pthread_barrier_wait(&ready);
    pause();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    const char *mode = argc > 1 ? argv[1] : "";
    pthread_barrier_init(&ready, NULL, 2);
    fill(kept[0]);
    if (pthread_create(&thread, NULL, run, kept[1]) != 0) {
        return 1;
    }
    pthread_barrier_wait(&ready);
    if (strcmp(mode, "undumpable") == 0) {
        prctl(PR_SET_DUMPABLE, 0);
    }
    if (strcmp(mode, "own") == 0 && hak_stats_json && hak_stats_json(1) != 0) {
        return 1;
    }
    if (write(1, "ready\n", 6) != 6) {
        return 1;
    }
    for (;;) {
        pause();
    }
}
