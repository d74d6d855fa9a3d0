// wl_touch [THREADS [STEPS [SLOTS [MIN_SIZE [MAX_SIZE [HOW [TOUCH [SEED]]]]]]]]: large blocks, one
// after another, asked for in each way, and touched not at all, a byte a page, or all over.
//
// Each thread has SLOTS places. A step frees the block of a random place and allocates another one
// of MIN_SIZE to MAX_SIZE bytes there: by malloc (HOW 0), calloc (1), aligned_alloc to 4 KiB (3);
// or it gives the place's block that size by realloc (2). Then it touches nothing (TOUCH 0; not
// even the first byte), writes one byte of each page (1), or all bytes (2). Where something is
// touched, the block's word and last byte are read back when its turn comes again; calloc's bytes
// at the pages' starts have to be zero. An operation is one step.
//
// Stresses: what a large block costs by itself, and what its pages cost: whether memory that comes
// back is kept for the next block. The idea is calloc-large of public suites, with the ways of
// asking and of touching varied. No locks, nothing shared.
#include "bench/workloads/workload.h"

enum { HOW_MALLOC, HOW_CALLOC, HOW_REALLOC, HOW_ALIGNED };
enum { TOUCH_NONE, TOUCH_PAGES, TOUCH_ALL };

static uint64_t steps, n_slots, min_size, max_size, how, touch;

static void check_zero(volatile unsigned char *block, size_t size)
{
    for (size_t at = 0; at < size; at += WL_PAGE) {
        if (block[at] != 0) {
            fprintf(stderr, "bench: calloc's block of %zu bytes is not zero at %zu\n", size, at);
            exit(1);
        }
        block[at] = 1;
    }
}

static void touch_block(void *block, size_t size, uint64_t random)
{
    volatile unsigned char *bytes = block;
    if (touch == TOUCH_NONE)
        return;
    if (how == HOW_CALLOC)
        check_zero(bytes, size);
    if (touch == TOUCH_ALL)
        memset(block, (int)(random >> 56), size);
    for (size_t at = 0; touch == TOUCH_PAGES && at < size; at += WL_PAGE)
        bytes[at] = 1;
    wl_write(block, size, random);
}

static void *block_new(void *old, size_t size)
{
    if (how == HOW_REALLOC)
        return wl_check(realloc(old, size));
    if (old != NULL)
        free(old);
    if (how == HOW_ALIGNED)
        return wl_check(aligned_alloc(WL_PAGE, (size + WL_PAGE - 1) / WL_PAGE * WL_PAGE));
    return wl_check(how == HOW_CALLOC ? calloc(size, 1) : malloc(size));
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **slots = wl_table(n_slots * sizeof(void *));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **slot = &slots[bench_scale((uint32_t)random, (uint32_t)n_slots)];
        sum += *slot != NULL && touch != TOUCH_NONE ? wl_read(*slot) : 0;
        size_t size = wl_size(random, min_size, max_size);
        *slot = block_new(*slot, size);
        touch_block(*slot, size, random << 32);
        sum += touch == TOUCH_NONE ? size : 0;
    }
    for (uint64_t i = 0; i < n_slots; i++)
        free(slots[i]);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0},
        {"STEPS", 1, UINT64_C(1) << 32, 600, 0},
        {"SLOTS", 1, 1 << 20, 5, 0},
        {"MIN_SIZE", 1 << 12, 1 << 30, 1 << 16, 0},
        {"MAX_SIZE", 1 << 12, 1 << 30, 1 << 22, 0},
        {"HOW", HOW_MALLOC, HOW_ALIGNED, HOW_MALLOC, 0},
        {"TOUCH", TOUCH_NONE, TOUCH_ALL, TOUCH_PAGES, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 8);
    wl_range(argv, args, 8, 3);
    steps = args[1].value;
    n_slots = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    how = args[5].value;
    touch = args[6].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[7].value);
    wl_finish(args[0].value * steps, steps, n_slots, start, sum);
    return 0;
}
