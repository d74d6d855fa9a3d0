/* idle_memory MIB ORDER WHO WAIT_MS: two threads; one allocates MIB MiB of 512-byte blocks and
   touches them, then all are freed in the order of allocation or at random (ORDER: order, random),
   by the thread that allocated or by the other (WHO: self, other); then both sleep and no thread
   calls the allocator. Prints the resident KiB before, with the load, and after the wait, the KiB
   of the table of pointers among them, and the number of threads at the end. Run by
   idle_test.py. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 512 };
static void **blocks;
static size_t n;
static int is_random, is_other;
static pthread_barrier_t barrier;

/* A number from a file of /proc, read without the allocator. */
static long read_number(const char *path, const char *key, int column)
{
    static char text[8192];
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (got < 0) {
        return -1;
    }
    text[got] = 0;
    char *at = key ? strstr(text, key) : text;
    at = at && key ? at + strlen(key) : at;
    for (int i = 0; at && i < column; i++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at ? strtol(at, NULL, 10) : -1;
}

static long resident_kib(void)
{
    return read_number("/proc/self/smaps_rollup", "Rss:", 0);
}

static void allocate(void)
{
    for (size_t i = 0; i < n; i++) {
        blocks[i] = malloc(BLOCK);
        memset(blocks[i], 1, BLOCK);
    }
}

static void free_all(void)
{
    for (size_t i = 0; i < n; i++) {
        free(blocks[i]);
    }
}

static void shuffle(void)
{
    unsigned long long s = 88172645463325252ull;
    for (size_t i = n; is_random && i > 1; i--) {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        void *swapped = blocks[i - 1];
        blocks[i - 1] = blocks[s % i];
        blocks[s % i] = swapped;
    }
}

static void *worker(void *unused)
{
    free(malloc(1));
    pthread_barrier_wait(&barrier); /* both threads have allocated */
    pthread_barrier_wait(&barrier); /* the first measurement is taken */
    allocate();
    shuffle();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* the second */
    if (!is_other) {
        free_all();
    }
    pthread_barrier_wait(&barrier);
    for (;;) {
        pause();
    }
    return unused;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: idle_memory MIB order|random self|other WAIT_MS\n");
        return 2;
    }
    n = (size_t)atol(argv[1]) * 1024 * 1024 / BLOCK;
    is_random = strcmp(argv[2], "random") == 0;
    is_other = strcmp(argv[3], "other") == 0;
    struct timespec wait = {atol(argv[4]) / 1000, atol(argv[4]) % 1000 * 1000000};
    blocks =
        mmap(NULL, n * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (blocks == MAP_FAILED) {
        return 1;
    }
    memset(blocks, 1, n * sizeof *blocks);
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    free(malloc(1));
    if (pthread_create(&thread, NULL, worker, NULL) != 0) {
        return 1;
    }
    pthread_barrier_wait(&barrier);
    long before = resident_kib();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    long loaded = resident_kib();
    pthread_barrier_wait(&barrier);
    if (is_other) {
        free_all();
    }
    pthread_barrier_wait(&barrier);
    nanosleep(&wait, NULL);
    long after = resident_kib();
    long threads = read_number("/proc/self/status", "Threads:", 0);
    printf("%ld %ld %ld %zu %ld\n", before, loaded, after, n * sizeof *blocks / 1024, threads);
    return 0;
}
