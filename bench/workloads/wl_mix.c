// wl_mix [THREADS [STEPS [PERCENT [MIN_SIZE [MAX_SIZE [SEED]]]]]]: a heap that only grows, or
// mostly.
//
// In PERCENT of 100 steps a thread allocates a block of MIN_SIZE to MAX_SIZE bytes, else it frees a
// random one of those it has. With 100 nothing is ever freed, not even in the end; below,
// everything is. An operation is one step.
//
// Stresses: fresh memory: new blocks, system calls and page faults; with 90 also holes that have to
// be found again. No locks, nothing shared.
#include "bench/workloads/workload.h"

static uint64_t steps, percent, min_size, max_size;

// A block that is never freed.
static uint64_t keep(const void *block)
{
    uint64_t word = wl_read(block);
    wl_count_live((uint32_t)word);
    return word;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0, n = 0;
    void **blocks = wl_table(steps * sizeof(void *));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        if (n == 0 || bench_scale((uint32_t)(random >> 32), 100) < percent) {
            uint64_t next = bench_next(random);
            blocks[n++] = wl_new(wl_size(next, min_size, max_size), next << 32);
            continue;
        }
        void **chosen = &blocks[bench_scale((uint32_t)random, (uint32_t)n)];
        sum += wl_delete(*chosen);
        *chosen = blocks[--n];
    }
    for (uint64_t i = 0; i < n; i++)
        sum += percent == 100 ? keep(blocks[i]) : wl_delete_last(blocks[i]);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0},
        {"STEPS", 1, UINT64_C(1) << 31, 3000000, 0},
        {"PERCENT", 1, 100, 100, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 24, 16, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 256, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 6);
    wl_range(argv, args, 6, 3);
    steps = args[1].value;
    percent = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[5].value);
    wl_finish(args[0].value * steps, steps, percent, start, sum);
    return 0;
}
