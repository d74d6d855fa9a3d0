// wl_realloc [THREADS [STEPS [SLOTS [MIN_SIZE [MAX_SIZE [SEED [TOUCH]]]]]]]: blocks that change
// their size at random.
//
// Each thread has SLOTS blocks. A step gives a random one of them a new random size of MIN_SIZE to
// MAX_SIZE bytes, checks that its first eight bytes and, if it grew, its last one are still there,
// and writes those of the new size. With TOUCH 1 a block's first byte alone is written and checked.
// An operation is one realloc.
//
// Stresses: realloc, up and down: whether a block can stay where it is, and what it costs to move.
// No locks, nothing shared.
#include "bench/workloads/workload.h"

static uint64_t steps, n_slots, min_size, max_size, touch;

static uint64_t resize(void **slot, size_t size, uint64_t random)
{
    uint64_t word = wl_read(*slot);
    unsigned char *block = wl_check(realloc(*slot, size));
    uint64_t kept;
    memcpy(&kept, block, sizeof(kept));
    uint32_t had = (uint32_t)word;
    if (kept != word || (size >= had && wl_read(block) != word)) {
        fprintf(stderr, "bench: realloc from %u to %zu bytes lost what was in the block\n", had,
                size);
        exit(1);
    }
    wl_write(block, size, random);
    *slot = block;
    return word;
}

// The same for a block of which one byte is written.
static uint64_t resize_byte(void **slot, size_t size, uint64_t random)
{
    unsigned char had = *(volatile unsigned char *)*slot;
    unsigned char *block = wl_check(realloc(*slot, size));
    if (*(volatile unsigned char *)block != had) {
        fprintf(stderr, "bench: realloc to %zu bytes lost what was in the block\n", size);
        exit(1);
    }
    *(volatile unsigned char *)block = (unsigned char)(random >> 32);
    *slot = block;
    return had;
}

static void *make(uint64_t random)
{
    if (!touch)
        return wl_new(min_size, random);
    unsigned char *block = wl_malloc(min_size);
    *(volatile unsigned char *)block = (unsigned char)(random >> 32);
    return block;
}

static uint64_t drop(void *block)
{
    if (!touch)
        return wl_delete_last(block);
    uint64_t byte = *(volatile unsigned char *)block;
    free(block);
    return byte;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **slots = wl_table(n_slots * sizeof(void *));
    for (uint64_t i = 0; i < n_slots; i++)
        slots[i] = make(random + (i << 32));
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **slot = &slots[bench_scale((uint32_t)random, (uint32_t)n_slots)];
        size_t size = wl_size(random, min_size, max_size);
        sum += touch ? resize_byte(slot, size, random << 32) : resize(slot, size, random << 32);
    }
    for (uint64_t i = 0; i < n_slots; i++)
        sum += drop(slots[i]);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0},
        {"STEPS", 1, UINT64_C(1) << 32, 4000000, 0},
        {"SLOTS", 1, 1 << 24, 1000, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 30, 16, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 30, 1024, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
        {"TOUCH", 0, 1, 0, 0},
    };
    bench_args(argc, argv, args, 7);
    wl_range(argv, args, 7, 3);
    steps = args[1].value;
    n_slots = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    touch = args[6].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[5].value);
    wl_finish(args[0].value * steps, steps, n_slots, start, sum);
    return 0;
}
