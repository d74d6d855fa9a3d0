// wl_larson [THREADS [SLOTS [STEPS [GENERATIONS [MIN_SIZE [MAX_SIZE [SEED]]]]]]]: a server whose
// threads inherit blocks.
//
// THREADS chains run at once. A chain owns SLOTS blocks. Its thread replaces blocks at random,
// STEPS times: the old one is freed, a new one of MIN_SIZE to MAX_SIZE bytes takes its place. Then
// the thread ends, and a new one goes on with the same blocks; GENERATIONS threads in all a chain.
// An operation is one free and one malloc.
//
// Stresses: blocks freed by another thread than the one that allocated them, whose owners have
// mostly ended; threads that come and go, each with a full cache. The idea is Larson's and
// Krishnan's server benchmark. No locks: a chain is passed on by joining one thread and starting
// the next.
#include "bench/workloads/workload.h"

struct chain {
    void **slots;
    uint64_t random, sum;
};

static uint64_t n_slots, steps, generations, min_size, max_size;

static void *serve(void *argument)
{
    struct chain *chain = argument;
    uint64_t random = chain->random, sum = 0;
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **slot = &chain->slots[bench_scale((uint32_t)random, (uint32_t)n_slots)];
        sum += wl_delete(*slot);
        *slot = wl_new(wl_size(random, min_size, max_size), random << 32);
    }
    chain->random = random;
    chain->sum += sum;
    return NULL;
}

static void *run_chain(void *argument)
{
    struct wl_thread *thread = argument;
    struct chain chain = {.slots = wl_table(n_slots * sizeof(void *)), .random = thread->random};
    for (uint64_t i = 0; i < n_slots; i++)
        chain.slots[i] = wl_new(wl_size(bench_seed(i), min_size, max_size), bench_seed(i) << 32);
    for (uint64_t i = 0; i < generations; i++) {
        pthread_t server;
        errno = pthread_create(&server, NULL, serve, &chain);
        if (errno != 0)
            bench_die("pthread_create");
        pthread_join(server, NULL);
    }
    for (uint64_t i = 0; i < n_slots; i++)
        chain.sum += wl_delete_last(chain.slots[i]);
    thread->sum = chain.sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0},
        {"SLOTS", 1, 1 << 24, 1000, 0},
        {"STEPS", 1, UINT64_C(1) << 32, 10000, 0},
        {"GENERATIONS", 1, 1 << 24, 100, 0},
        {"MIN_SIZE", WL_MIN_SIZE, 1 << 24, 8, 0},
        {"MAX_SIZE", WL_MIN_SIZE, 1 << 24, 1000, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 7);
    wl_range(argv, args, 7, 4);
    n_slots = args[1].value;
    steps = args[2].value;
    generations = args[3].value;
    min_size = args[4].value;
    max_size = args[5].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, run_chain, args[6].value);
    wl_finish(args[0].value * steps * generations, steps * generations, n_slots, start, sum);
    return 0;
}
