/* idle_lone KIND ROUNDS: one thread fills a heap and frees all of it, so many times, and makes no
   later call. Prints the resident KiB at the most, and at the end. KIND:
     small    blocks of 16 to 515 bytes
     kept     the same, of which in the last round one in 5,000 stays
     mixed    blocks of 512 bytes and of 128 KiB in turn
     mid      blocks of 20 to 60 KB
     growing  buffers of 4 MB and more, each a little larger than the one before, which is freed
   then Run by idle_test.py. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 800000 };
static void **blocks;
static unsigned long long seed = 88172645463325252ull;
static long most;

static long resident_kib(void)
{
    static char text[8192];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (got < 0) {
        return -1;
    }
    text[got] = 0;
    char *at = strstr(text, "Rss:");
    return at ? strtol(at + 4, NULL, 10) : -1;
}

static void note_most(void)
{
    long now = resident_kib();
    most = now > most ? now : most;
}

static size_t next_size(const char *kind, int i)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return strcmp(kind, "mixed") == 0 ? (i % 2 ? 131072 : 512)
           : strcmp(kind, "mid") == 0 ? 20000 + seed % 40000
                                      : 16 + seed % 500;
}

static void fill_and_free(const char *kind, int n, int stays)
{
    for (int i = 0; i < n; i++) {
        size_t size = next_size(kind, i);
        blocks[i] = malloc(size);
        memset(blocks[i], 1, size);
    }
    note_most();
    for (int i = 0; i < n; i++) {
        if (!stays || i % 5000) {
            free(blocks[i]);
        }
    }
}

static void grow(void)
{
    char *last = NULL;
    for (size_t size = 4000000; size < 40000000; size += 262144) {
        char *next = malloc(size);
        memset(next, 1, size);
        note_most();
        free(last);
        last = next;
    }
    free(last);
}

int main(int argc, char **argv)
{
    int rounds = argc == 3 ? atoi(argv[2]) : 0;
    if (rounds < 1) {
        fprintf(stderr, "usage: idle_lone small|kept|mixed|mid|growing ROUNDS\n");
        return 2;
    }
    blocks = mmap(NULL, MOST * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    if (blocks == MAP_FAILED) {
        return 1;
    }
    int n = strcmp(argv[1], "mixed") == 0 ? 3000 : strcmp(argv[1], "mid") == 0 ? 5000 : MOST;
    for (int round = 1; round <= rounds; round++) {
        if (strcmp(argv[1], "growing") == 0) {
            grow();
        } else {
            fill_and_free(argv[1], n, round == rounds && strcmp(argv[1], "kept") == 0);
        }
    }
    printf("%ld %ld\n", most, resident_kib());
    return 0;
}
