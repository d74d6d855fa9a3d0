// bench_latency ITERATIONS WORKING_SET SEED: how long single calls take, the rare slow ones
// included.
//
// One thread. Each iteration picks a slot: a full one is freed, an empty one gets a block of 16
// bytes to 32 KiB, small ones far more often (the size is uniform in its logarithm). Every call is
// timed by itself, with the clock's own cost left in (some 20 ns, the same for all allocators). A
// histogram of 16 steps a doubling holds the times.
#include "bench/common/bench_common.h"

enum { STEP_BITS = 4, STEPS = 1 << STEP_BITS, BUCKETS = 64 * STEPS, MIN_BITS = 4, MAX_BITS = 15 };

static struct {
    uint64_t count[BUCKETS];
    uint64_t calls, max;
} times;

static uint32_t bucket(uint64_t ns)
{
    if (ns < STEPS)
        return (uint32_t)ns;
    uint32_t top = 63 - (uint32_t)__builtin_clzll(ns);
    return (top - STEP_BITS + 1) * STEPS + (uint32_t)((ns >> (top - STEP_BITS)) & (STEPS - 1));
}

static uint64_t bucket_start(uint32_t i)
{
    if (i < STEPS)
        return i;
    return (uint64_t)(STEPS + i % STEPS) << (i / STEPS - 1);
}

static void count(uint64_t ns)
{
    times.count[bucket(ns)]++;
    times.calls++;
    if (ns > times.max)
        times.max = ns;
}

// The time that `share` of all calls do not pass, to within a step of the histogram.
static uint64_t percentile(double share)
{
    uint64_t seen = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        seen += times.count[i];
        if ((double)seen >= share * (double)times.calls)
            return bucket_start(i);
    }
    return times.max;
}

static void one_call(void **slot, uint64_t random)
{
    uint64_t start;
    if (*slot != NULL) {
        start = bench_now_ns();
        free(*slot);
        count(bench_now_ns() - start);
        *slot = NULL;
        return;
    }
    size_t base = (size_t)1 << (MIN_BITS + bench_scale((uint32_t)random >> 8, MAX_BITS - MIN_BITS));
    size_t size = base + bench_scale((uint32_t)(random >> 40), (uint32_t)base);
    start = bench_now_ns();
    void *block = malloc(size);
    count(bench_now_ns() - start);
    if (BENCH_UNLIKELY(block == NULL))
        bench_die("malloc");
    bench_touch(block, size, random);
    *slot = block;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"ITERATIONS", 1, UINT64_C(1) << 40, 0, 1},
        {"WORKING_SET", 1, UINT64_C(1) << 28, 0, 1},
        {"SEED", 0, UINT64_MAX, 0, 1},
    };
    bench_args(argc, argv, args, 3);
    uint64_t iterations = args[0].value;
    uint32_t n_slots = (uint32_t)args[1].value;
    void **slots = bench_table((size_t)n_slots * sizeof(void *));
    uint64_t random = bench_seed(args[2].value);

    uint64_t start = bench_now_ns();
    for (uint64_t i = 0; i < iterations; i++) {
        random = bench_next(random);
        one_call(&slots[bench_scale((uint32_t)random, n_slots)], bench_next(random ^ i));
    }
    uint64_t ns = bench_now_ns() - start;
    double seconds = (double)(ns != 0 ? ns : 1) * 1e-9;
    for (uint32_t i = 0; i < n_slots; i++)
        free(slots[i]);
    printf("Throughput = %.0f ops/s [iter=%llu ws=%u] time=%.3fs\n", (double)iterations / seconds,
           (unsigned long long)iterations, n_slots, seconds);
    printf("Latency ns: p50=%llu p90=%llu p99=%llu p99.9=%llu p99.99=%llu max=%llu\n",
           (unsigned long long)percentile(0.5), (unsigned long long)percentile(0.9),
           (unsigned long long)percentile(0.99), (unsigned long long)percentile(0.999),
           (unsigned long long)percentile(0.9999), (unsigned long long)times.max);
    return 0;
}
