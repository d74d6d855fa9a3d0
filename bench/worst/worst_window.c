// worst_window GIB SECONDS: the time of small calls after the program has mapped GIB GiB itself,
// over the time without.
//
// Two children do the same work, one of them after the mapping; the least processor time of several
// pairs counts.
#include "bench/worst/worst.h"

#include <sys/wait.h>

enum { SLOTS = 200000, STEPS = 2000000, PAIRS = 3 };

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Not to be read or written: address space alone.
static void map_first(uint64_t gib)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (gib != 0 && mmap(NULL, gib << 30, PROT_NONE, flags, -1, 0) == MAP_FAILED)
        bench_die("mmap");
}

static uint64_t work(uint64_t gib)
{
    static void *slots[SLOTS];
    map_first(gib);
    for (uint32_t i = 0; i < SLOTS; i++)
        slots[i] = malloc(16 + i * 37 % 1000);
    uint64_t random = bench_seed(7), start = cpu_ns();
    for (int i = 0; i < STEPS; i++) {
        random = bench_next(random);
        uint32_t at = bench_scale((uint32_t)random, SLOTS);
        free(slots[at]);
        slots[at] = malloc(16 + bench_scale((uint32_t)(random >> 32), 1000));
    }
    return cpu_ns() - start;
}

// The work in a child, which tells its time through memory that both share.
static uint64_t child_work(uint64_t gib)
{
    static uint64_t *told;
    if (told == NULL)
        told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        *told = work(gib);
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        bench_die("the child failed");
    return *told;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"GIB", 1, 100000, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 2);
    worst_free(worst_malloc(100)); // the allocator starts before the program maps
    uint64_t inside = UINT64_MAX, outside = UINT64_MAX;
    for (int i = 0; i < PAIRS && (i == 0 || !worst_is_late((uint64_t)i, PAIRS)); i++) {
        uint64_t with = child_work(args[0].value), without = child_work(0);
        outside = with < outside ? with : outside;
        inside = without < inside ? without : inside;
    }
    worst_limited("time_ratio", (double)outside / (double)inside, "times", 1.15);
    map_first(args[0].value);
    return worst_finish();
}
