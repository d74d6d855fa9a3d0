// wl_working_set [STEPS [BLOCKS [MIN_SIZE [MAX_SIZE [SEED]]]]]: a set of live blocks of a given
// number, replaced at random.
//
// First BLOCKS blocks are allocated; then a step frees a random one and allocates another in its
// place, of MIN_SIZE to MAX_SIZE bytes. An operation is one malloc, of the first ones or of a step,
// with its free.
//
// Stresses: nothing but the number of live blocks: with 64 all of the heap and of the allocator's
// own data is in the cache, with 4 million neither is, so that a short path that touches much
// memory shows its cost. No threads.
#include "bench/workloads/workload.h"

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"STEPS", 1, UINT64_C(1) << 40, 5000000, 0},
        {"BLOCKS", 1, 1 << 26, 65536, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 24, 16, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 128, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    wl_range(argv, args, 5, 2);
    uint64_t steps = args[0].value, n_blocks = args[1].value, min = args[2].value,
             max = args[3].value, sum = 0;
    uint64_t random = bench_seed(args[4].value);
    void **blocks = wl_table(n_blocks * sizeof(void *));
    uint64_t start = bench_now_ns();
    for (uint64_t i = 0; i < n_blocks; i++) {
        random = bench_next(random);
        blocks[i] = wl_new(wl_size(random, min, max), random << 32);
    }
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **block = &blocks[bench_scale((uint32_t)random, (uint32_t)n_blocks)];
        sum += wl_delete(*block);
        *block = wl_new(wl_size(random, min, max), random << 32);
    }
    for (uint64_t i = 0; i < n_blocks; i++)
        sum += wl_delete_last(blocks[i]);
    wl_finish(n_blocks + steps, steps, n_blocks, start, sum);
    return 0;
}
