// bench_mid_mt_gap [THREADS [ITERATIONS [WORKING_SET [SEED]]]]: threads that each allocate and free
// blocks of 1 to 8 KiB.
//
// An iteration is one operation, as in bench_random_mixed; every thread does ITERATIONS of them on
// WORKING_SET slots of its own, so that nothing is shared but the allocator. The clock runs from
// the moment when all threads are ready until the last one has done. No locks but the barrier at
// the start. Run by compare.py, the callgrind test, or by hand.
#include "bench/common/bench_common.h"

#include <pthread.h>

enum { MIN_SIZE = 1024, MAX_SIZE = 8192, MAX_THREADS = 1024 };

// One thread's work; written before it starts, except `done_ns`, which the thread writes and main
// reads after the join.
struct worker {
    pthread_t thread;
    void **slots;
    uint32_t n_slots;
    uint64_t iterations;
    uint64_t random;
    uint64_t done_ns;
};

static pthread_barrier_t ready;

// The measured part. Its name is what callgrind's --toggle-collect is given: not static, never
// inlined.
BENCH_NOINLINE void mid_mt_loop(void **slots, uint32_t n_slots, uint64_t iterations,
                                uint64_t random);

void mid_mt_loop(void **slots, uint32_t n_slots, uint64_t iterations, uint64_t random)
{
    for (uint64_t i = 0; i < iterations; i++) {
        random = bench_next(random);
        void **slot = &slots[bench_scale((uint32_t)random, n_slots)];
        if (*slot != NULL) {
            free(*slot);
            *slot = NULL;
        } else {
            size_t size = MIN_SIZE + bench_scale((uint32_t)(random >> 32), MAX_SIZE - MIN_SIZE + 1);
            void *block = malloc(size);
            if (BENCH_UNLIKELY(block == NULL))
                bench_die("malloc");
            bench_touch(block, size, random);
            *slot = block;
        }
    }
}

static void *work(void *argument)
{
    struct worker *self = argument;
    pthread_barrier_wait(&ready);
    mid_mt_loop(self->slots, self->n_slots, self->iterations, self->random);
    self->done_ns = bench_now_ns();
    for (uint32_t i = 0; i < self->n_slots; i++)
        free(self->slots[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, MAX_THREADS, 2, 0},
        {"ITERATIONS", 1, UINT64_C(1) << 40, 500000, 0},
        {"WORKING_SET", 1, UINT64_C(1) << 24, 256, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 4);
    unsigned n_threads = (unsigned)args[0].value;
    uint64_t iterations = args[1].value;
    uint32_t n_slots = (uint32_t)args[2].value;

    struct worker *workers = bench_table(n_threads * sizeof(*workers));
    pthread_barrier_init(&ready, NULL, n_threads + 1);
    for (unsigned i = 0; i < n_threads; i++) {
        workers[i] = (struct worker){.slots = bench_table((size_t)n_slots * sizeof(void *)),
                                     .n_slots = n_slots,
                                     .iterations = iterations,
                                     .random = bench_seed(args[3].value + i)};
        errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (errno != 0)
            bench_die("pthread_create");
    }
    uint64_t start = bench_now_ns();
    pthread_barrier_wait(&ready);
    uint64_t end = start + 1;
    for (unsigned i = 0; i < n_threads; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].done_ns > end)
            end = workers[i].done_ns;
    }
    double seconds = (double)(end - start) * 1e-9;
    printf("Throughput = %.2f M operations per second, relative time: %.6f s.\n",
           (double)iterations * n_threads / seconds * 1e-6, seconds);
    return 0;
}
