// wl_grow [ROUNDS [KIB [STEP_KIB]]]: one block grown by realloc from 4 KiB to KIB KiB, as a buffer
// that is appended to.
//
// It grows by STEP_KIB KiB at a time, or by half of its size where STEP_KIB is 0. Each new page is
// written; in the end all of them are read. ROUNDS times. An operation is one realloc.
//
// Stresses: whether a large block grows in place or moves without a copy, or is copied again and
// again. No threads, and no random numbers.
#include "bench/workloads/workload.h"

// Writes the number of each page from `from` to `to` at its start.
static void append(unsigned char *block, uint64_t from, uint64_t to)
{
    for (uint64_t at = from; at < to; at += WL_PAGE)
        *(volatile uint64_t *)(block + at) = at / WL_PAGE;
}

static uint64_t grow(uint64_t end, uint64_t step, uint64_t *n_steps)
{
    uint64_t size = WL_PAGE, sum = 0;
    unsigned char *block = wl_malloc(size);
    append(block, 0, size);
    while (size < end) {
        uint64_t larger = size + (step != 0 ? step : (size / 2 + WL_PAGE - 1) / WL_PAGE * WL_PAGE);
        larger = larger < end ? larger : end;
        block = wl_check(realloc(block, larger));
        append(block, size, larger);
        size = larger;
        ++*n_steps;
    }
    for (uint64_t at = 0; at < end; at += WL_PAGE)
        sum += bench_seed(*(volatile uint64_t *)(block + at) + at);
    free(block);
    return sum;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"ROUNDS", 1, 1 << 24, 1, 0},
        {"KIB", 4, 1 << 24, 1 << 20, 0},
        {"STEP_KIB", 0, 1 << 20, 0, 0},
    };
    bench_args(argc, argv, args, 3);
    uint64_t start = bench_now_ns(), sum = 0, n_steps = 0;
    if (args[1].value % 4 != 0 || args[2].value % 4 != 0) {
        fprintf(stderr, "%s: KIB and STEP_KIB: whole pages of 4 KiB are wanted\n", argv[0]);
        bench_usage(stderr, argv[0], args, 3);
        return 2;
    }
    for (uint64_t i = 0; i < args[0].value; i++)
        sum += grow(args[1].value * 1024, args[2].value * 1024, &n_steps);
    wl_count_live(args[1].value * 1024); // at the end of each round
    wl_finish(n_steps, args[0].value, args[1].value, start, sum);
    return 0;
}
