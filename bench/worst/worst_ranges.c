// worst_ranges RANGES OTHERS SECONDS: blocks above 1 MiB of different sizes are freed one after
// another, in random order.
//
// An allocator that keeps them for reuse inserts each among all before it. No page but what the
// allocator writes is touched.
#include "bench/worst/worst.h"

enum { LEAST = 1200000, SPREAD = 3000000 };

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"RANGES", 1, UINT64_C(1) << 24, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    size_t n = args[0].value;
    char **blocks = worst_table(n);
    uint64_t random = bench_seed(1);
    for (size_t i = 0; i < n; i++) {
        random = bench_next(random);
        blocks[i] = worst_malloc(LEAST + bench_scale((uint32_t)random, SPREAD));
    }
    worst_stall_start(args[1].value);
    for (size_t left = n; left > 0 && (left % 64 != 0 || !worst_is_late(n - left, n)); left--) {
        random = bench_next(random);
        size_t i = bench_scale((uint32_t)random, (uint32_t)left);
        worst_free(blocks[i]);
        blocks[i] = blocks[left - 1];
    }
    return worst_finish();
}
