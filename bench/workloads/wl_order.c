// wl_order [THREADS [ROUNDS [BLOCKS [MIN_SIZE [MAX_SIZE [ORDER [SEED]]]]]]]: many blocks, all freed
// in one order.
//
// A round allocates BLOCKS blocks of MIN_SIZE to MAX_SIZE bytes and frees them all: last to first
// (ORDER 0), first to last (1), or in a random order (2). An operation is one malloc or one free.
//
// Stresses: how free copes with an order that suits or breaks its lists and its merging of
// neighbours, and what the next round finds. No locks, nothing shared.
#include "bench/workloads/workload.h"

enum { REVERSE, FORWARD, RANDOM };

static uint64_t rounds, n_blocks, min_size, max_size, order;

static void shuffle(void **blocks, uint64_t random)
{
    for (uint64_t i = n_blocks - 1; i > 0; i--) {
        random = bench_next(random);
        uint64_t j = bench_scale((uint32_t)(random >> 32), (uint32_t)(i + 1));
        void *block = blocks[i];
        blocks[i] = blocks[j];
        blocks[j] = block;
    }
}

static uint64_t delete_all(void **blocks, int is_last)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n_blocks; i++) {
        void *block = blocks[order == REVERSE ? n_blocks - 1 - i : i];
        sum += is_last ? wl_delete_last(block) : wl_delete(block);
    }
    return sum;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **blocks = wl_table(n_blocks * sizeof(void *));
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t i = 0; i < n_blocks; i++) {
            random = bench_next(random);
            blocks[i] = wl_new(wl_size(random, min_size, max_size), random << 32);
        }
        if (order == RANDOM)
            shuffle(blocks, random);
        sum += delete_all(blocks, round + 1 == rounds);
    }
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0},
        {"ROUNDS", 1, UINT64_C(1) << 32, 40, 0},
        {"BLOCKS", 1, 1 << 24, 50000, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 24, 16, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 512, 0},
        {"ORDER", REVERSE, RANDOM, REVERSE, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 7);
    wl_range(argv, args, 7, 3);
    rounds = args[1].value;
    n_blocks = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    order = args[5].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[6].value);
    wl_finish(2 * args[0].value * rounds * n_blocks, rounds, n_blocks, start, sum);
    return 0;
}
