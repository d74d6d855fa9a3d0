// bench_prod_cons [BLOCKS [BATCH [DEPTH [SEED]]]]: one thread allocates, another one frees; blocks
// of 16 to 256 bytes.
//
// The blocks travel in batches of BATCH pointers through a ring of DEPTH batches, so that the ring
// costs one release store and one acquire load a batch, and at most BATCH * (DEPTH + 1) blocks are
// on their way. The producer writes the first and last byte of each block, the consumer reads the
// first. An operation is one malloc or one free: there are two a block. Each thread is bound to a
// processor of its own: left to itself, the kernel often runs both on one for the whole run, as
// they wake each other, and then nothing crosses between caches, at twice the speed. No locks:
// `head` belongs to the producer, `tail` to the consumer. Run by compare.py, or by hand.
#include "bench/common/bench_common.h"

#include <pthread.h>
#include <sched.h>

enum { MIN_SIZE = 16, MAX_SIZE = 256, CACHE_LINE = 64, SPINS = 256 };

// A ring between exactly two threads. tail <= head <= tail + depth always; batch number i lies in
// the place i % depth (depth is a power of two) and belongs to the consumer while tail <= i < head,
// to the producer otherwise.
static struct {
    void **places;
    uint64_t n_batches;
    uint32_t batch;
    uint32_t mask;
    uint64_t random;
    _Alignas(CACHE_LINE) uint64_t head; // batches filled: written by the producer, release
    _Alignas(CACHE_LINE) uint64_t tail; // batches emptied: written by the consumer, release
} ring;

static pthread_barrier_t ready;

// Waits until `*counter` has reached `wanted`: spins for a moment, then lets others have the
// processor.
static inline void wait_for(const uint64_t *counter, uint64_t wanted)
{
    for (unsigned spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < wanted; spins++) {
        if (spins < SPINS)
            __builtin_ia32_pause();
        else
            sched_yield();
    }
}

// The measured parts, named for callgrind: not static, never inlined.
BENCH_NOINLINE void prod_loop(void);
BENCH_NOINLINE uint64_t cons_loop(void);

void prod_loop(void)
{
    uint64_t random = ring.random;
    uint32_t depth = ring.mask + 1;
    for (uint64_t i = 0; i < ring.n_batches; i++) {
        if (i >= depth)
            wait_for(&ring.tail, i - depth + 1);
        void **place = &ring.places[(size_t)(i & ring.mask) * ring.batch];
        for (uint32_t j = 0; j < ring.batch; j++) {
            random = bench_next(random);
            size_t size = MIN_SIZE + bench_scale((uint32_t)(random >> 32), MAX_SIZE - MIN_SIZE + 1);
            void *block = malloc(size);
            if (BENCH_UNLIKELY(block == NULL))
                bench_die("malloc");
            bench_touch(block, size, random);
            place[j] = block;
        }
        __atomic_store_n(&ring.head, i + 1, __ATOMIC_RELEASE);
    }
}

uint64_t cons_loop(void)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < ring.n_batches; i++) {
        wait_for(&ring.head, i + 1);
        void **place = &ring.places[(size_t)(i & ring.mask) * ring.batch];
        for (uint32_t j = 0; j < ring.batch; j++) {
            sum += *(volatile unsigned char *)place[j];
            free(place[j]);
        }
        __atomic_store_n(&ring.tail, i + 1, __ATOMIC_RELEASE);
    }
    return sum;
}

// Binds the calling thread to the n-th of the processors that this process may use, if it may use
// that many.
static void bind_to_processor(int n)
{
    cpu_set_t allowed, wanted;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) <= n)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && n-- == 0) {
            CPU_ZERO(&wanted);
            CPU_SET(cpu, &wanted);
            pthread_setaffinity_np(pthread_self(), sizeof(wanted), &wanted);
            return;
        }
    }
}

static void *produce(void *unused)
{
    (void)unused;
    bind_to_processor(0);
    pthread_barrier_wait(&ready);
    prod_loop();
    return NULL;
}

static void *consume(void *done_ns)
{
    bind_to_processor(1);
    pthread_barrier_wait(&ready);
    cons_loop();
    *(uint64_t *)done_ns = bench_now_ns();
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BLOCKS", 1, UINT64_C(1) << 40, 2000000, 0},
        {"BATCH", 1, 1 << 16, 64, 0},
        {"DEPTH", 1, 1 << 16, 32, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 4);
    uint64_t depth = args[2].value;
    if ((depth & (depth - 1)) != 0) {
        fprintf(stderr, "%s: DEPTH %llu: a power of two is wanted\n", argv[0],
                (unsigned long long)depth);
        bench_usage(stderr, argv[0], args, 4);
        return 2;
    }
    ring.batch = (uint32_t)args[1].value;
    ring.mask = (uint32_t)depth - 1;
    ring.n_batches =
        (args[0].value + ring.batch - 1) / ring.batch; // a last batch is always a full one
    ring.random = bench_seed(args[3].value);
    ring.places = bench_table((size_t)depth * ring.batch * sizeof(void *));

    pthread_t producer = 0, consumer = 0;
    uint64_t done_ns = 0;
    pthread_barrier_init(&ready, NULL, 3);
    errno = pthread_create(&producer, NULL, produce, NULL);
    if (errno == 0)
        errno = pthread_create(&consumer, NULL, consume, &done_ns);
    if (errno != 0)
        bench_die("pthread_create");
    uint64_t start = bench_now_ns();
    pthread_barrier_wait(&ready);
    pthread_join(producer, NULL);
    pthread_join(consumer, NULL);
    double seconds = (double)(done_ns > start ? done_ns - start : 1) * 1e-9;
    double operations = 2.0 * (double)(ring.n_batches * ring.batch);
    printf("Throughput = %.2f M operations per second, relative time: %.6f s.\n",
           operations / seconds * 1e-6, seconds);
    return 0;
}
