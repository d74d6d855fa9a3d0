// What the workloads of this folder share: blocks that know what was written to them, threads, and
// the output line.
//
// No locks. Included by one program each. A block made by wl_new holds its size and some random
// bits in its first eight bytes, and a byte of them in its last one; wl_delete reads both back,
// ends the program if they do not agree, and returns the word, so that the sum over all blocks is
// the same whatever the allocator, the threads' order and the addresses are.
#ifndef HAKMEM_BENCH_WORKLOADS_WORKLOAD_H_
#define HAKMEM_BENCH_WORKLOADS_WORKLOAD_H_

#include "bench/common/bench_common.h"

#include <pthread.h>

enum { WL_MIN_SIZE = 8, WL_MAX_THREADS = 64, WL_PAGE = 4096 };

// Sizes are arguments of most programs: a block has to hold its word, and its size 32 bits.
#define WL_MAX_SIZE ((UINT64_C(1) << 32) - 1)

// Zeroed memory that the allocator under test knows nothing about.
static inline void *wl_table(size_t bytes)
{
    return bench_table(bytes);
}

static inline void *wl_check(void *block)
{
    if (BENCH_UNLIKELY(block == NULL))
        bench_die("out of memory");
    return block;
}

static inline void *wl_malloc(size_t size)
{
    return wl_check(malloc(size));
}

// Writes the word and the last byte of a block of `size` bytes, at least WL_MIN_SIZE.
static inline void wl_write(void *block, size_t size, uint64_t random)
{
    uint64_t word = (random & ~UINT64_C(0xffffffff)) | size;
    *(volatile uint64_t *)block = word;
    if (size > WL_MIN_SIZE)
        ((volatile unsigned char *)block)[size - 1] = (unsigned char)(word >> 32);
}

// The word of a block that wl_write has written.
static inline uint64_t wl_read(const void *block)
{
    uint64_t word = *(const volatile uint64_t *)block;
    size_t size = (uint32_t)word;
    if (BENCH_UNLIKELY(size > WL_MIN_SIZE && ((const volatile unsigned char *)block)[size - 1] !=
                                                 (unsigned char)(word >> 32))) {
        fprintf(stderr, "bench: a block of %zu bytes lost what was written to it\n", size);
        exit(1);
    }
    return word;
}

static inline void *wl_new(size_t size, uint64_t random)
{
    void *block = wl_malloc(size);
    wl_write(block, size, random);
    return block;
}

static inline uint64_t wl_delete(void *block)
{
    uint64_t word = wl_read(block);
    free(block);
    return word;
}

// Bytes requested for the blocks that a program still holds at the end of its work, if it counts
// them. The line at the end prints them, so that resident memory can be compared with them. 0: not
// counted.
static uint64_t wl_live;

static inline void wl_count_live(uint64_t bytes)
{
    __atomic_fetch_add(&wl_live, bytes, __ATOMIC_RELAXED);
}

// wl_delete, of a block that was held to the end.
static inline uint64_t wl_delete_last(void *block)
{
    uint64_t word = wl_delete(block);
    wl_count_live((uint32_t)word);
    return word;
}

// A size from min to max, all equally likely, by the upper half of a random number.
static inline size_t wl_size(uint64_t random, uint64_t min, uint64_t max)
{
    return (size_t)(min + bench_scale((uint32_t)(random >> 32), (uint32_t)(max - min + 1)));
}

// Ends with the usage line unless the argument at `min` is at most the one after it.
static inline void wl_range(char **argv, const struct bench_arg *args, int n_args, int min)
{
    if (args[min].value <= args[min + 1].value)
        return;
    fprintf(stderr, "%s: %s is above %s\n", argv[0], args[min].name, args[min + 1].name);
    bench_usage(stderr, argv[0], args, n_args);
    exit(2);
}

// The random stream number `i` of a seed.
static inline uint64_t wl_stream(uint64_t seed, uint64_t i)
{
    return bench_seed(bench_seed(seed) + i);
}

// One thread of a workload. The thread writes `sum`; wl_run adds the sums up when all have ended.
struct wl_thread {
    pthread_t id;
    unsigned index;
    uint64_t random;
    uint64_t sum;
};

// Runs `work` in n threads, each with its own wl_thread as the argument, and returns the sum of
// their sums.
static inline uint64_t wl_run(unsigned n, void *(*work)(void *), uint64_t seed)
{
    static struct wl_thread threads[WL_MAX_THREADS];
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++) {
        threads[i] = (struct wl_thread){.index = i, .random = wl_stream(seed, i)};
        errno = pthread_create(&threads[i].id, NULL, work, &threads[i]);
        if (errno != 0)
            bench_die("pthread_create");
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i].id, NULL);
        sum += threads[i].sum;
    }
    return sum;
}

// The line at the end. `iter` and `ws` are what the program calls its length and its working set.
static inline void wl_finish(uint64_t operations, uint64_t iter, uint64_t ws, uint64_t start_ns,
                             uint64_t sum)
{
    uint64_t ns = bench_now_ns() - start_ns;
    double seconds = (double)(ns != 0 ? ns : 1) * 1e-9;
    printf("Throughput = %.0f ops/s [iter=%llu ws=%llu sum=%016llx", (double)operations / seconds,
           (unsigned long long)iter, (unsigned long long)ws, (unsigned long long)sum);
    if (wl_live != 0)
        printf(" live=%llu", (unsigned long long)wl_live);
    printf("] time=%.3fs\n", seconds);
}

#endif // HAKMEM_BENCH_WORKLOADS_WORKLOAD_H_
