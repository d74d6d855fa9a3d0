// wl_thread_exit [THREADS [LIVE [BLOCKS [MAX_SIZE [SEED]]]]]: many short-lived threads that leave
// blocks behind.
//
// THREADS threads in all, LIVE at a time. Each allocates BLOCKS blocks of 8 to MAX_SIZE bytes,
// frees every other one, and ends; the main thread frees the rest later, when LIVE other threads
// have started. An operation is one malloc or one free.
//
// Stresses: what it costs that a thread starts and ends, and whether the memory that it had cached,
// and its blocks that are freed after its end, are used again: peak memory should not depend on
// THREADS. The idea is mleak of Leijen's suite. No locks: threads hand their blocks over by being
// joined.
#include "bench/workloads/workload.h"

struct visitor {
    pthread_t id;
    int runs;
    uint64_t random, sum;
    void **blocks; // those left behind
};

static uint64_t n_blocks, max_size;

static void *visit(void *argument)
{
    struct visitor *visitor = argument;
    uint64_t random = visitor->random, sum = 0;
    for (uint64_t i = 0; i < n_blocks; i++) {
        random = bench_next(random);
        visitor->blocks[i] = wl_new(wl_size(random, WL_MIN_SIZE, max_size), random << 32);
    }
    for (uint64_t i = 0; i < n_blocks; i += 2)
        sum += wl_delete(visitor->blocks[i]);
    visitor->sum = sum;
    return NULL;
}

// Waits for the visitor's end and frees what it left.
static uint64_t leave(struct visitor *visitor)
{
    if (!visitor->runs)
        return 0;
    pthread_join(visitor->id, NULL);
    visitor->runs = 0;
    uint64_t sum = visitor->sum;
    for (uint64_t i = 1; i < n_blocks; i += 2)
        sum += wl_delete(visitor->blocks[i]);
    return sum;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, 1 << 24, 10000, 0}, {"LIVE", 1, WL_MAX_THREADS, 4, 0},
        {"BLOCKS", 1, 1 << 24, 200, 0},    {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 1000, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    n_blocks = args[2].value;
    max_size = args[3].value;
    uint64_t start = bench_now_ns(), sum = 0, live = args[1].value;
    struct visitor *visitors = wl_table(live * sizeof(struct visitor));
    for (uint64_t i = 0; i < live; i++)
        visitors[i].blocks = wl_table(n_blocks * sizeof(void *));
    for (uint64_t i = 0, at = 0; i < args[0].value; i++) {
        struct visitor *visitor = &visitors[at];
        at = at + 1 < live ? at + 1 : 0;
        sum += leave(visitor);
        visitor->random = wl_stream(args[4].value, i);
        errno = pthread_create(&visitor->id, NULL, visit, visitor);
        if (errno != 0)
            bench_die("pthread_create");
        visitor->runs = 1;
    }
    for (uint64_t i = 0; i < live; i++)
        sum += leave(&visitors[i]);
    wl_finish(2 * args[0].value * n_blocks, args[0].value, n_blocks, start, sum);
    return 0;
}
