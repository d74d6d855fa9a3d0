// wl_exchange [THREADS [ROUNDS [BATCH [MIN_SIZE [MAX_SIZE [FOREIGN [TOUCH [SEED]]]]]]]]: batches of
// blocks of many sizes, freed in a random order, some of them by another thread.
//
// A round allocates BATCH blocks of MIN_SIZE to MAX_SIZE bytes and puts the batch in the place of
// the oldest of the thread's TABLE batches, whose blocks it frees in a random order. In FOREIGN of
// 100 rounds, at random, the old batch is first swapped with one that another thread left. TOUCH
// says what is written of a block besides its first word and last byte: nothing more (0), a byte a
// page (1), or all of it (2). An operation is one malloc or one free.
//
// Stresses: bins of many classes at once, that fill and run dry by turns, blocks that come back in
// no order and to another thread; with few blocks of mid sizes a slab, slabs that fill and empty.
// No locks: the place where batches are exchanged is swapped atomically.
#include "bench/workloads/workload.h"

enum { TABLE = 4, TOUCH_PAGES = 1, TOUCH_ALL = 2 };

static uint64_t rounds, batch_size, min_size, max_size, foreign, touch;
static void **exchange;

static void touch_block(unsigned char *block, size_t size, uint64_t random)
{
    if (touch == TOUCH_ALL)
        memset(block, (int)(random >> 56), size);
    for (size_t at = 0; at < size && touch == TOUCH_PAGES; at += WL_PAGE)
        ((volatile unsigned char *)block)[at] = 1;
}

static void **new_batch(uint64_t *random)
{
    void **blocks = wl_malloc(batch_size * sizeof(void *));
    for (uint64_t i = 0; i < batch_size; i++) {
        *random = bench_next(*random);
        size_t size = wl_size(*random, min_size, max_size);
        blocks[i] = wl_malloc(size);
        touch_block(blocks[i], size, *random);
        wl_write(blocks[i], size, *random << 32);
    }
    return blocks;
}

static uint64_t delete_batch(void **blocks, uint64_t *random)
{
    uint64_t sum = 0;
    if (blocks == NULL)
        return 0;
    for (uint64_t left = batch_size; left > 0; left--) {
        *random = bench_next(*random);
        uint64_t i = bench_scale((uint32_t)(*random >> 32), (uint32_t)left);
        sum += wl_delete(blocks[i]);
        blocks[i] = blocks[left - 1];
    }
    free(blocks);
    return sum;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, order = wl_stream(random, 1), sum = 0;
    void **table[TABLE] = {0};
    for (uint64_t i = 0; i < rounds; i++) {
        void **old = table[i % TABLE];
        table[i % TABLE] = new_batch(&random);
        random = bench_next(random);
        if (bench_scale((uint32_t)(random >> 32), 100) < foreign)
            old = __atomic_exchange_n(&exchange, old, __ATOMIC_ACQ_REL);
        sum += delete_batch(old, &order);
    }
    for (uint64_t i = 0; i < TABLE; i++)
        sum += delete_batch(table[i], &order);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0},
        {"ROUNDS", 1, UINT64_C(1) << 32, 2000, 0},
        {"BATCH", 1, 1 << 24, 1000, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 24, 8, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 16000, 0},
        {"FOREIGN", 0, 100, 50, 0},
        {"TOUCH", 0, TOUCH_ALL, 0, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 8);
    wl_range(argv, args, 8, 3);
    rounds = args[1].value;
    batch_size = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    foreign = args[5].value;
    touch = args[6].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[7].value);
    uint64_t random = args[7].value;
    sum += delete_batch(exchange, &random);
    wl_finish(2 * args[0].value * rounds * (batch_size + 1), rounds, batch_size, start, sum);
    return 0;
}
