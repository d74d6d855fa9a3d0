// wl_threads [THREADS [STEPS [SLOTS [SEED]]]]: threads that replace blocks of sizes as real
// programs ask for.
//
// Each thread has SLOTS places; a step frees the block of a random one and allocates another one
// there, of 16 bytes to 4 KiB, a size twice as large being half as frequent. An operation is one
// step.
//
// Stresses: the common paths in several threads that share nothing but the allocator. The idea is
// malloc-thread of glibc's micro-benchmarks. No locks, nothing shared.
#include "bench/workloads/workload.h"

enum { MIN_BITS = 4, MAX_BITS = 11 };

static uint64_t steps, n_slots;

static size_t some_size(uint64_t random)
{
    uint64_t bits =
        MIN_BITS + (uint64_t)__builtin_ctzll(random | UINT64_C(1) << (MAX_BITS - MIN_BITS));
    return ((size_t)1 << bits) + ((random >> 8) & (((size_t)1 << bits) - 1));
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **slots = wl_table(n_slots * sizeof(void *));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **slot = &slots[bench_scale((uint32_t)(random >> 32), (uint32_t)n_slots)];
        sum += *slot != NULL ? wl_delete(*slot) : 0;
        *slot = wl_new(some_size(random), random);
    }
    for (uint64_t i = 0; i < n_slots; i++)
        sum += slots[i] != NULL ? wl_delete_last(slots[i]) : 0;
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0},
        {"STEPS", 1, UINT64_C(1) << 32, 5000000, 0},
        {"SLOTS", 1, 1 << 24, 1024, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 4);
    steps = args[1].value;
    n_slots = args[2].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[3].value);
    wl_finish(args[0].value * steps, steps, n_slots, start, sum);
    return 0;
}
