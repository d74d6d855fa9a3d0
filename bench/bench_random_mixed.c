// bench_random_mixed ITERATIONS WORKING_SET SEED: one thread, blocks of 16 to 1,024 bytes, uniform.
//
// An iteration is one operation: it picks a slot at random; an occupied slot is freed, an empty one
// gets a new block, whose first and last byte are written. So about half of the slots are occupied,
// and half of the operations are allocations. No locks. Run by compare.py, by the callgrind test,
// or by hand.
#include "bench/common/bench_common.h"

enum { MIN_SIZE = 16, MAX_SIZE = 1024 };

// The measured part. Its name is what callgrind's --toggle-collect is given: not static, never
// inlined.
BENCH_NOINLINE void random_mixed_loop(void **slots, uint32_t n_slots, uint64_t iterations,
                                      uint64_t random);

void random_mixed_loop(void **slots, uint32_t n_slots, uint64_t iterations, uint64_t random)
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

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"ITERATIONS", 1, UINT64_C(1) << 40, 0, 1},
        {"WORKING_SET", 1, UINT64_C(1) << 28, 0, 1},
        {"SEED", 0, UINT64_MAX, 0, 1},
    };
    bench_args(argc, argv, args, 3);
    uint64_t iterations = args[0].value;
    uint32_t n_slots = (uint32_t)args[1].value;
    void **slots = bench_table((size_t)n_slots * sizeof(void *));

    uint64_t start = bench_now_ns();
    random_mixed_loop(slots, n_slots, iterations, bench_seed(args[2].value));
    uint64_t ns = bench_now_ns() - start;
    double seconds = (double)(ns != 0 ? ns : 1) * 1e-9;

    for (uint32_t i = 0; i < n_slots; i++)
        free(slots[i]);
    printf("Throughput = %.0f ops/s [iter=%llu ws=%u] time=%.3fs\n", (double)iterations / seconds,
           (unsigned long long)iterations, n_slots, seconds);
    return 0;
}
