// wl_batches [THREADS [ROUNDS [BATCH [MAX_SIZE [FOREIGN [SEED]]]]]]: blocks allocated and freed in
// batches of one size.
//
// A round allocates BATCH blocks of one random size up to MAX_SIZE, small ones far more often, and
// files the batch in a table of TABLE batches, from which it takes an old one and frees it: first
// to last, last to first, or every other block and then the rest, in turn. With FOREIGN 1, the old
// batch is first swapped with one that another thread left. An operation is one malloc or one free.
//
// Stresses: long runs of one size, freed in orders that suit lists badly; with FOREIGN, whole
// batches that belong to other threads. The idea is that of MicroQuill's sh6bench and sh8bench. No
// locks: the place where batches are exchanged is swapped atomically.
#include "bench/workloads/workload.h"

enum { TABLE = 64, MIN_SIZE = 8 };

static uint64_t rounds, batch_size, max_size, foreign;
static void **exchange;

static void **new_batch(uint64_t random)
{
    void **blocks = wl_malloc(batch_size * sizeof(void *));
    // The product of two random numbers below 1 is small more often than not.
    uint32_t below = bench_scale((uint32_t)random, (uint32_t)(max_size - MIN_SIZE) + 1);
    size_t size = MIN_SIZE + bench_scale((uint32_t)(random >> 32), below + 1);
    for (uint64_t i = 0; i < batch_size; i++)
        blocks[i] = wl_new(size, random + (i << 32));
    return blocks;
}

static uint64_t delete_batch(void **blocks, uint64_t order)
{
    uint64_t sum = 0;
    if (blocks == NULL)
        return 0;
    for (uint64_t i = 0; i < batch_size && order == 0; i++)
        sum += wl_delete(blocks[i]);
    for (uint64_t i = batch_size; i > 0 && order == 1; i--)
        sum += wl_delete(blocks[i - 1]);
    for (uint64_t first = 0; first < 2 && order == 2; first++)
        for (uint64_t i = first; i < batch_size; i += 2)
            sum += wl_delete(blocks[i]);
    free(blocks);
    return sum;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **table[TABLE] = {0};
    for (uint64_t i = 0; i < rounds; i++) {
        random = bench_next(random);
        void ***place = &table[(random >> 20) % TABLE];
        void **old = *place;
        *place = new_batch(random);
        if (foreign != 0)
            old = __atomic_exchange_n(&exchange, old, __ATOMIC_ACQ_REL);
        sum += delete_batch(old, i % 3);
    }
    for (uint64_t i = 0; i < TABLE; i++)
        sum += delete_batch(table[i], i % 3);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0},
        {"ROUNDS", 1, UINT64_C(1) << 32, 20000, 0},
        {"BATCH", 1, 1 << 24, 200, 0},
        {"MAX_SIZE", MIN_SIZE, 1 << 24, 1000, 0},
        {"FOREIGN", 0, 1, 0, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 6);
    rounds = args[1].value;
    batch_size = args[2].value;
    max_size = args[3].value;
    foreign = args[4].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[5].value);
    sum += delete_batch(exchange, 0);
    wl_finish(2 * args[0].value * rounds * (batch_size + 1), rounds, batch_size, start, sum);
    return 0;
}
