// wl_mstress [THREADS [STEPS [GENERATIONS [RETAINED [SEED]]]]]: random sizes, threads that come and
// go, blocks that migrate.
//
// GENERATIONS times, THREADS threads start, work, and end. In each of STEPS steps a thread
// allocates a block (half of them freed at once, the others kept among at most RETAINED, where they
// push out another one), and now and then swaps one of its blocks with a place in a table that all
// threads share; sizes are powers of two from 16 bytes to 1 KiB and random below, one in 1,000 up
// to 64 KiB. Some blocks outlive their generation in the shared table. An operation is one step.
//
// Stresses: everything at once: mixed sizes and lifetimes, frees by other threads, threads that end
// while their blocks live. The idea is Leijen's mstress. No locks: places of the shared table are
// swapped atomically.
#include "bench/workloads/workload.h"

enum { SHARED = 1000, SWAP_ONE_IN = 16, LARGE_ONE_IN = 1000, SMALL_BITS = 6, LARGE = 65536 };

static uint64_t steps, n_retained;
static void *shared[SHARED];

static size_t some_size(uint64_t random)
{
    if (random % LARGE_ONE_IN == 0)
        return wl_size(random, 1024, LARGE);
    size_t base = (size_t)16 << (random >> 10) % (SMALL_BITS + 1);
    return base - (random >> 20) % (base / 2);
}

static uint64_t delete_if(void *block)
{
    return block != NULL ? wl_delete(block) : 0;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **retained = wl_check(calloc(n_retained, sizeof(void *)));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void *block = wl_new(some_size(random), random);
        void **place = &retained[bench_scale((uint32_t)(random >> 32), (uint32_t)n_retained)];
        if (i % 2 == 0) {
            void *old = *place;
            *place = block;
            block = old;
        }
        sum += delete_if(block);
        if (i % SWAP_ONE_IN == 0)
            *place =
                __atomic_exchange_n(&shared[(random >> 16) % SHARED], *place, __ATOMIC_ACQ_REL);
    }
    for (uint64_t i = 0; i < n_retained; i++)
        sum += delete_if(retained[i]);
    free(retained);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 4, 0}, {"STEPS", 1, UINT64_C(1) << 32, 50000, 0},
        {"GENERATIONS", 1, 1 << 24, 50, 0},   {"RETAINED", 1, 1 << 24, 2000, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    steps = args[1].value;
    n_retained = args[3].value;
    uint64_t start = bench_now_ns(), sum = 0;
    for (uint64_t i = 0; i < args[2].value; i++)
        sum += wl_run((unsigned)args[0].value, work, wl_stream(args[4].value, i));
    for (uint64_t i = 0; i < SHARED; i++)
        sum += delete_if(shared[i]);
    wl_finish(args[0].value * steps * args[2].value, steps * args[2].value, n_retained, start, sum);
    return 0;
}
