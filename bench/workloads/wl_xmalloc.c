// wl_xmalloc [PAIRS [BATCHES [BATCH [MIN_SIZE [MAX_SIZE [SEED]]]]]]: PAIRS threads allocate, as
// many free what those have allocated.
//
// The producers put batches of BATCH blocks of MIN_SIZE to MAX_SIZE bytes into one common queue
// of at most QUEUE batches; any consumer takes the next one and frees it. A batch is itself a
// block. An operation is one malloc or one free.
//
// Stresses: every block is freed by a thread that never allocates, so that memory is reused only if
// blocks return to the threads that allocated them. The idea is Lever's and Boreham's malloc-test,
// in the form called xmalloc. One mutex guards the queue, taken once a batch at each end.
#include "bench/workloads/workload.h"

enum { QUEUE = 32 };

struct batch {
    struct batch *next;
    void *blocks[];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_full, not_empty;
    struct batch *first;
    uint64_t length, left; // left: batches that no consumer has taken yet
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .not_full = PTHREAD_COND_INITIALIZER,
           .not_empty = PTHREAD_COND_INITIALIZER};

static uint64_t n_pairs, n_batches, batch_size, min_size, max_size;

static void put(struct batch *batch)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.length >= QUEUE)
        pthread_cond_wait(&queue.not_full, &queue.lock);
    batch->next = queue.first;
    queue.first = batch;
    queue.length++;
    pthread_cond_signal(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
}

// The batch put last; NULL when all have been taken.
static struct batch *get(void)
{
    struct batch *batch = NULL;
    pthread_mutex_lock(&queue.lock);
    if (queue.left > 0) {
        queue.left--;
        while (queue.first == NULL)
            pthread_cond_wait(&queue.not_empty, &queue.lock);
        batch = queue.first;
        queue.first = batch->next;
        queue.length--;
        pthread_cond_signal(&queue.not_full);
    }
    pthread_mutex_unlock(&queue.lock);
    return batch;
}

static void produce(struct wl_thread *thread)
{
    uint64_t random = thread->random;
    for (uint64_t i = 0; i < n_batches; i++) {
        struct batch *batch = wl_malloc(sizeof(struct batch) + batch_size * sizeof(void *));
        for (uint64_t j = 0; j < batch_size; j++) {
            random = bench_next(random);
            batch->blocks[j] = wl_new(wl_size(random, min_size, max_size), random << 32);
        }
        put(batch);
    }
}

static void consume(struct wl_thread *thread)
{
    uint64_t sum = 0;
    for (struct batch *batch = get(); batch != NULL; batch = get()) {
        for (uint64_t j = 0; j < batch_size; j++)
            sum += wl_delete(batch->blocks[j]);
        free(batch);
    }
    thread->sum = sum;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    if (thread->index < n_pairs)
        produce(thread);
    else
        consume(thread);
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"PAIRS", 1, WL_MAX_THREADS / 2, 1, 0},
        {"BATCHES", 1, UINT64_C(1) << 32, 20000, 0},
        {"BATCH", 1, 1 << 16, 120, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 24, 16, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 256, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 6);
    wl_range(argv, args, 6, 3);
    n_pairs = args[0].value;
    n_batches = args[1].value;
    batch_size = args[2].value;
    min_size = args[3].value;
    max_size = args[4].value;
    queue.left = n_pairs * n_batches;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)n_pairs * 2, work, args[5].value);
    wl_finish(2 * n_pairs * n_batches * (batch_size + 1), n_batches, batch_size, start, sum);
    return 0;
}
