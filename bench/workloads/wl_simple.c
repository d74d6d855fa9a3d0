// wl_simple [ROUNDS [BLOCKS [SIZE [SEED]]]]: blocks of one size, allocated in a row and freed in
// the same order.
//
// A round allocates BLOCKS blocks of SIZE bytes and frees them first to last. An operation is one
// malloc or one free.
//
// Stresses: the shortest path there is, with BLOCKS 25 inside every cache, with 1,600 beyond most.
// The idea is malloc-simple of glibc's micro-benchmarks. No threads are ever started; glibc is
// faster in such a process.
#include "bench/workloads/workload.h"

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"ROUNDS", 1, UINT64_C(1) << 40, 400000, 0},
        {"BLOCKS", 1, 1 << 24, 25, 0},
        {"SIZE", WL_MIN_SIZE, 1 << 24, 128, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 4);
    uint64_t rounds = args[0].value, n_blocks = args[1].value, size = args[2].value, sum = 0;
    uint64_t random = bench_seed(args[3].value);
    void **blocks = wl_table(n_blocks * sizeof(void *));
    uint64_t start = bench_now_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        random = bench_next(random);
        for (uint64_t j = 0; j < n_blocks; j++)
            blocks[j] = wl_new(size, random + (j << 32));
        for (uint64_t j = 0; j < n_blocks; j++)
            sum += wl_delete(blocks[j]);
    }
    wl_finish(2 * rounds * n_blocks, rounds, n_blocks, start, sum);
    return 0;
}
