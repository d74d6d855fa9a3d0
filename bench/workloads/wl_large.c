// wl_large [THREADS [STEPS [SLOTS [MIN_SIZE [MAX_SIZE [CALLOC [SEED]]]]]]]: few and large blocks,
// replaced at random.
//
// Each thread has SLOTS places. A step frees the block of a random place and allocates another one
// of MIN_SIZE to MAX_SIZE bytes there, by malloc, or by calloc (CALLOC 1). After malloc each page
// of the block is written; after calloc one page in 64 is read, has to be zero, and is written. An
// operation is one step.
//
// Stresses: where large blocks come from and go to: system calls, page faults, memory kept for
// reuse; with calloc, whether memory is cleared that is known to be zero. The ideas are
// malloc-large of Leijen's suite, and calloc in long-lived servers. No locks, nothing shared.
#include "bench/workloads/workload.h"

enum { CALLOC_STEP = 64 * WL_PAGE };

static uint64_t steps, n_slots, min_size, max_size, use_calloc;

static void *large_new(size_t size, uint64_t random)
{
    volatile unsigned char *block = wl_check(use_calloc ? calloc(size, 1) : malloc(size));
    size_t step = use_calloc ? CALLOC_STEP : WL_PAGE;
    for (size_t at = use_calloc ? 0 : step; at < size; at += step) {
        if (use_calloc && block[at] != 0) {
            fprintf(stderr, "bench: calloc's block of %zu bytes is not zero at %zu\n", size, at);
            exit(1);
        }
        block[at] = 1;
    }
    wl_write((void *)block, size, random);
    return (void *)block;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **slots = wl_table(n_slots * sizeof(void *));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **slot = &slots[bench_scale((uint32_t)random, (uint32_t)n_slots)];
        sum += *slot != NULL ? wl_delete(*slot) : 0;
        *slot = large_new(wl_size(random, min_size, max_size), random << 32);
    }
    for (uint64_t i = 0; i < n_slots; i++)
        sum += slots[i] != NULL ? wl_delete_last(slots[i]) : 0;
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0},
        {"STEPS", 1, UINT64_C(1) << 32, 600, 0},
        {"SLOTS", 1, 1 << 20, 20, 0},
        {"MIN_SIZE", 1 << 14, 1 << 30, 5 << 20, 0},
        {"MAX_SIZE", 1 << 14, 1 << 30, 25 << 20, 0},
        {"CALLOC", 0, 1, 0, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 7);
    wl_range(argv, args, 7, 3);
    steps = args[1].value;
    n_slots = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    use_calloc = args[5].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[6].value);
    wl_finish(args[0].value * steps, steps, n_slots, start, sum);
    return 0;
}
