// wl_pareto [THREADS [STEPS [CELLS [MAX_BITS [SEED]]]]]: sizes of every magnitude in cells of which
// a few are busy.
//
// A step picks one of CELLS cells, by Pareto's rule of 80 and 20 applied to itself: most steps go
// to few cells. A full cell is emptied, an empty one gets a block of up to 2^MAX_BITS bytes, whose
// magnitude is random, so that small blocks are as frequent as large ones. Every 64th byte of a
// block is written. An operation is one step.
//
// Stresses: few blocks that live for a moment among many that live long, of all sizes. The idea is
// Ivan Shcherbakov's and Sergey Ignatchenko's alloc-test. No locks, nothing shared.
#include "bench/workloads/workload.h"

enum { LINE = 64, MIN_BITS = 4 };

static uint64_t steps, n_cells, max_bits;

// A cell number: three times out of four (roughly 80 %), keep to the first fifth of what is left.
static uint32_t pareto_cell(uint64_t random)
{
    uint32_t range = (uint32_t)n_cells;
    for (unsigned i = 0; i < 3 && (random >> (2 * i)) % 4 != 0 && range >= 5; i++)
        range /= 5;
    return bench_scale((uint32_t)(random >> 32), range);
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **cells = wl_table(n_cells * sizeof(void *));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **cell = &cells[pareto_cell(random)];
        if (*cell != NULL) {
            sum += wl_delete(*cell);
            *cell = NULL;
            continue;
        }
        uint64_t bits =
            MIN_BITS + bench_scale((uint32_t)bench_seed(random), (uint32_t)(max_bits - MIN_BITS));
        size_t size = wl_size(random << 20, UINT64_C(1) << bits, (UINT64_C(2) << bits) - 1);
        volatile unsigned char *block = wl_malloc(size);
        for (size_t at = LINE; at < size; at += LINE)
            block[at] = (unsigned char)at;
        wl_write((void *)block, size, random);
        *cell = (void *)block;
    }
    for (uint64_t i = 0; i < n_cells; i++)
        sum += cells[i] != NULL ? wl_delete_last(cells[i]) : 0;
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0}, {"STEPS", 1, UINT64_C(1) << 32, 8000000, 0},
        {"CELLS", 1, 1 << 24, 4096, 0},       {"MAX_BITS", MIN_BITS + 1, 30, 10, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    steps = args[1].value;
    n_cells = args[2].value;
    max_bits = args[3].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[4].value);
    wl_finish(args[0].value * steps, steps, n_cells, start, sum);
    return 0;
}
