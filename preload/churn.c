/* churn THREADS: so many short-lived threads, four at a time. Each allocates 300 blocks of up to 2
   KiB, frees half of them itself, and leaves the rest in cells, from where it frees what others
   left. Prints the resident KiB after a tenth of the threads and after all, and the time. Run by
   idle_test.py. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { AT_ONCE = 4, BLOCKS = 300, CELLS = 4000, MOST = 2048 };
static void *cells[CELLS];

static long resident_kib(void)
{
    char text[64] = {0};
    int fd = open("/proc/self/statm", O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    char *second = got > 0 ? strchr(text, ' ') : NULL;
    return second ? strtol(second, NULL, 10) * (sysconf(_SC_PAGESIZE) / 1024) : -1;
}

static void *live(void *seed)
{
    uint64_t s = 88172645463325252ull + (uintptr_t)seed * 7919;
    void *own[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        size_t size = 1 + (s >> 20) % MOST;
        own[i] = malloc(size);
        memset(own[i], 1, size);
        if (i % 2) {
            free(__atomic_exchange_n(&cells[(s >> 40) % CELLS], own[i], __ATOMIC_ACQ_REL));
        }
    }
    for (int i = 0; i < BLOCKS; i += 2) {
        free(own[i]);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    uintptr_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
    long early = 0;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (uintptr_t i = 0; i < n; i += AT_ONCE) {
        pthread_t threads[AT_ONCE];
        for (uintptr_t k = 0; k < AT_ONCE; k++) {
            if (pthread_create(&threads[k], NULL, live, (void *)(i + k)) != 0) {
                return 1;
            }
        }
        for (int k = 0; k < AT_ONCE; k++) {
            pthread_join(threads[k], NULL);
        }
        if (early == 0 && i + AT_ONCE >= n / 10) {
            early = resident_kib();
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%ld %ld time=%.4f\n", early, resident_kib(),
           (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9);
    return 0;
}
