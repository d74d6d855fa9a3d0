// wl_false_sharing [THREADS [ROUNDS [WRITES [SIZE [PASSIVE [SEED]]]]]]: small blocks that two
// threads write at once.
//
// In each of ROUNDS rounds every thread allocates a block of SIZE bytes, writes into it WRITES
// times, and frees it. With PASSIVE 1, one thread first allocates a block for each thread, one
// after the other, and the threads begin by freeing theirs: an allocator that hands that block out
// again to the thread that freed it lets threads share a line for ever. An operation is one round
// of one thread.
//
// Stresses: nothing but whether blocks of two threads lie in one cache line: actively, handed out
// side by side (PASSIVE 0, the idea of cache-thrash), or passively (1, cache-scratch), both of
// Berger's Hoard benchmarks. No locks.
#include "bench/workloads/workload.h"

static uint64_t rounds, writes, size;
static void *given[WL_MAX_THREADS];

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    if (given[thread->index] != NULL)
        sum += wl_delete(given[thread->index]);
    for (uint64_t i = 0; i < rounds; i++) {
        random = bench_next(random);
        void *block = wl_new(size, random);
        volatile unsigned char *counter = (unsigned char *)block + WL_MIN_SIZE - 1;
        *counter = 0;
        for (uint64_t j = 0; j < writes; j++)
            *counter = (unsigned char)(*counter + 1);
        *counter = (unsigned char)(random >> 56);
        sum += wl_delete(block);
    }
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0},
        {"ROUNDS", 1, UINT64_C(1) << 32, 200000, 0},
        {"WRITES", 1, 1 << 20, 1000, 0},
        {"SIZE", WL_MIN_SIZE, 1 << 20, 8, 0},
        {"PASSIVE", 0, 1, 0, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 6);
    rounds = args[1].value;
    writes = args[2].value;
    size = args[3].value;
    for (uint64_t i = 0; i < args[0].value && args[4].value != 0; i++)
        given[i] = wl_new(size, wl_stream(args[5].value, i));
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[5].value);
    wl_finish(args[0].value * rounds, rounds, args[0].value, start, sum);
    return 0;
}
