// What the programs of worst cases share: timed calls, the thread that stalls, the probe of every
// function, the output.
//
// Included by the worst_*.c programs only, each of which is one file and one family of rows, linked
// with libc alone: the allocator is preloaded. A program brings the heap into the state that its
// row is about and times each call by itself. It prints one line a measure:
//   calls NAME LONGEST MEDIAN COUNT    nanoseconds of single calls, some 20 of them the clock's own
//   value NAME NUMBER UNIT [LIMIT]     anything else; above LIMIT it is wrong at any size
//   unfinished SHARE                   the time ran out when this share of the work was done
// No locks but a thread's start and end. Nothing of the measuring itself allocates.
#ifndef HAKMEM_BENCH_WORST_WORST_H_
#define HAKMEM_BENCH_WORST_WORST_H_

#include "bench/common/bench_common.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#define WORST_KIB ((size_t)1024)
#define WORST_MIB ((size_t)1048576)

// A histogram of 16 steps a doubling, for the median.
enum { WORST_STEP_BITS = 4, WORST_STEPS = 1 << WORST_STEP_BITS, WORST_BUCKETS = 64 * WORST_STEPS };
// Calls that write to the whole block get none larger than this: what they write is not what is
// looked for.
enum { WORST_MOST_WRITTEN = 100000 };
enum { WORST_PROBES = 100, WORST_STALL_PAUSE_US = 200, WORST_PAGE = 4096 };

// The calls of one function. One thread writes it.
struct worst_calls {
    const char *name;
    uint64_t longest, n;
    uint32_t count[WORST_BUCKETS];
};

static inline uint32_t worst_bucket(uint64_t ns)
{
    if (ns < WORST_STEPS)
        return (uint32_t)ns;
    uint32_t top = 63 - (uint32_t)__builtin_clzll(ns);
    uint32_t step = (uint32_t)(ns >> (top - WORST_STEP_BITS)) & (WORST_STEPS - 1);
    return (top - WORST_STEP_BITS + 1) * WORST_STEPS + step;
}

static inline void worst_count(struct worst_calls *calls, uint64_t ns)
{
    calls->count[worst_bucket(ns)]++;
    calls->n++;
    if (ns > calls->longest)
        calls->longest = ns;
}

// Runs a statement, and counts its time as one call.
// clang-format off
#define WORST_TIME(calls, statement)                        \
    do {                                                    \
        uint64_t worst_start = bench_now_ns();              \
        statement;                                          \
        worst_count((calls), bench_now_ns() - worst_start); \
    } while (0)
// clang-format on

static inline uint64_t worst_bucket_start(uint32_t i)
{
    if (i < WORST_STEPS)
        return i;
    return (uint64_t)(WORST_STEPS + i % WORST_STEPS) << (i / WORST_STEPS - 1);
}

static uint64_t worst_median(const struct worst_calls *calls)
{
    uint64_t seen = 0;
    for (uint32_t i = 0; i < WORST_BUCKETS; i++) {
        seen += calls->count[i];
        if (2 * seen >= calls->n)
            return worst_bucket_start(i);
    }
    return 0;
}

static void worst_print_calls(const struct worst_calls *calls)
{
    if (calls->n != 0)
        printf("calls %s %llu %llu %llu\n", calls->name, (unsigned long long)calls->longest,
               (unsigned long long)worst_median(calls), (unsigned long long)calls->n);
}

static inline void worst_sleep_ms(uint64_t ms)
{
    struct timespec pause = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {
    }
}

// --- the time that a program may take ---

static uint64_t worst_end_ns;

static inline void worst_set_limit(uint64_t seconds)
{
    worst_end_ns = bench_now_ns() + seconds * 1000000000u;
}

// Whether the time has run out; prints how far the work has come then.
static inline int worst_is_late(uint64_t done, uint64_t all)
{
    if (bench_now_ns() < worst_end_ns)
        return 0;
    printf("unfinished %.6f\n", (double)done / (double)all);
    return 1;
}

// --- the other thread, which allocates beside the timed one ---

static struct {
    pthread_t thread;
    int is_started, stop;
    struct worst_calls calls;
} worst_stall = {.calls = {.name = "stall"}};

// Pairs of calls through the cache, past it, and above the small sizes, each pair timed, with a
// pause in between; once at least.
static void *worst_stall_run(void *unused)
{
    static const size_t sizes[] = {100, 3000, 100000};
    do {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *volatile p;
            WORST_TIME(&worst_stall.calls, p = malloc(sizes[i]); free(p));
        }
        usleep(WORST_STALL_PAUSE_US);
    } while (!__atomic_load_n(&worst_stall.stop, __ATOMIC_RELAXED));
    return unused;
}

static inline void worst_stall_start(uint64_t is_wanted)
{
    if (!is_wanted)
        return;
    if (pthread_create(&worst_stall.thread, NULL, worst_stall_run, NULL) != 0)
        bench_die("pthread_create");
    worst_stall.is_started = 1;
}

static inline void worst_stall_end(void)
{
    if (!worst_stall.is_started)
        return;
    __atomic_store_n(&worst_stall.stop, 1, __ATOMIC_RELAXED);
    pthread_join(worst_stall.thread, NULL);
    worst_print_calls(&worst_stall.calls);
}

// --- every public function ---

struct hak_heap;

enum {
    CALL_FREE,
    CALL_MALLOC,
    CALL_CALLOC,
    CALL_REALLOC,
    CALL_ALIGNED,
    CALL_TRIM,
    CALL_CREATE,
    CALL_HEAP_MALLOC,
    CALL_HEAP_WALK,
    CALL_DESTROY,
    N_CALLS
};

static struct worst_calls worst_calls[N_CALLS] = {
    [CALL_FREE] = {.name = "free"},
    [CALL_MALLOC] = {.name = "malloc"},
    [CALL_CALLOC] = {.name = "calloc"},
    [CALL_REALLOC] = {.name = "realloc"},
    [CALL_ALIGNED] = {.name = "aligned_alloc"},
    [CALL_TRIM] = {.name = "malloc_trim"},
    [CALL_CREATE] = {.name = "hak_heap_create"},
    [CALL_HEAP_MALLOC] = {.name = "hak_heap_malloc"},
    [CALL_HEAP_WALK] = {.name = "hak_heap_walk"},
    [CALL_DESTROY] = {.name = "hak_heap_destroy"},
};

// First-class heaps, which hakmem alone has; NULL elsewhere.
static struct {
    struct hak_heap *(*create)(void);
    void (*destroy)(struct hak_heap *);
    void *(*malloc)(struct hak_heap *, size_t);
    int (*walk)(struct hak_heap *, int (*)(void *, size_t, void *), void *);
} worst_heap;

static void worst_find_heaps(void)
{
    static const char *const names[] = {
        "hak_heap_create",
        "hak_heap_destroy",
        "hak_heap_malloc",
        "hak_heap_walk",
    };
    void *found[4];
    _Static_assert(sizeof found == sizeof worst_heap, "a function's address travels as void *");
    for (int i = 0; i < 4; i++)
        found[i] = dlsym(RTLD_DEFAULT, names[i]);
    memcpy(&worst_heap, found, sizeof found);
}

static int worst_visit(void *block, size_t size, void *context)
{
    (void)block, (void)size, (void)context;
    return 0;
}

static void worst_probe_size(size_t size)
{
    void *p, *q;
    WORST_TIME(&worst_calls[CALL_MALLOC], p = malloc(size));
    if (size <= WORST_MOST_WRITTEN) {
        WORST_TIME(&worst_calls[CALL_REALLOC], q = realloc(p, size + size / 2));
        p = q != NULL ? q : p;
    }
    WORST_TIME(&worst_calls[CALL_FREE], free(p));
    if (size <= WORST_MOST_WRITTEN) {
        WORST_TIME(&worst_calls[CALL_CALLOC], p = calloc(1, size));
        WORST_TIME(&worst_calls[CALL_FREE], free(p));
    }
    size_t whole_pages = (size + WORST_PAGE - 1) / WORST_PAGE * WORST_PAGE;
    WORST_TIME(&worst_calls[CALL_ALIGNED], p = aligned_alloc(WORST_PAGE, whole_pages));
    WORST_TIME(&worst_calls[CALL_FREE], free(p));
}

static void worst_probe_heap(void)
{
    struct hak_heap *heap;
    void *volatile block;
    if (worst_heap.create == NULL)
        return;
    WORST_TIME(&worst_calls[CALL_CREATE], heap = worst_heap.create());
    if (heap == NULL)
        return;
    WORST_TIME(&worst_calls[CALL_HEAP_MALLOC], block = worst_heap.malloc(heap, 100));
    WORST_TIME(&worst_calls[CALL_HEAP_WALK], worst_heap.walk(heap, worst_visit, NULL));
    WORST_TIME(&worst_calls[CALL_DESTROY], worst_heap.destroy(heap));
    (void)block;
}

// Every function many times in the state that the heap is in; malloc_trim last, since it ends the
// state.
static void worst_probe(void)
{
    static const size_t sizes[] = {100000, 100, 3000, 49152, 2 * WORST_MIB};
    for (int i = 0; i < WORST_PROBES && bench_now_ns() < worst_end_ns; i++) {
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++)
            worst_probe_size(sizes[j]);
        worst_probe_heap();
    }
    for (int i = 0; i < 3; i++)
        WORST_TIME(&worst_calls[CALL_TRIM], malloc_trim(0));
}

// --- what the process holds ---

// Numbers of a file of /proc, without stdio, which would allocate. Returns how many bytes were
// read.
static size_t worst_read(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, size - 1);
    if (n < 0)
        bench_die(path);
    close(file);
    text[n] = '\0';
    return (size_t)n;
}

static inline double worst_resident_kib(void)
{
    char text[256];
    long total, resident;
    worst_read("/proc/self/statm", text, sizeof text);
    if (sscanf(text, "%ld %ld", &total, &resident) != 2)
        bench_die("statm");
    return (double)resident * (double)(sysconf(_SC_PAGESIZE) / 1024);
}

static inline void worst_value(const char *name, double value, const char *unit)
{
    printf("value %s %.3f %s\n", name, value, unit);
}

static inline void worst_limited(const char *name, double value, const char *unit, double limit)
{
    printf("value %s %.3f %s %.3f\n", name, value, unit, limit);
}

// --- blocks ---

// Makes every page resident, by writing the first byte of each.
static inline void worst_touch(char *block, size_t size)
{
    for (size_t at = 0; at < size; at += WORST_PAGE)
        ((volatile char *)block)[at] = 0;
}

static inline char *worst_malloc(size_t size)
{
    char *block;
    WORST_TIME(&worst_calls[CALL_MALLOC], block = malloc(size));
    if (block == NULL)
        bench_die("malloc");
    return block;
}

static inline void worst_free(void *block)
{
    WORST_TIME(&worst_calls[CALL_FREE], free(block));
}

// Room for n pointers, all of it resident.
static inline char **worst_table(size_t n)
{
    char **table = bench_table(n * sizeof *table);
    worst_touch((char *)table, n * sizeof *table);
    return table;
}

// Every program's last step: each function in the state that the heap is in, and the output.
static inline int worst_finish(void)
{
    worst_probe();
    worst_stall_end();
    for (int i = 0; i < N_CALLS; i++)
        worst_print_calls(&worst_calls[i]);
    fflush(stdout);
    _exit(0); // what the heap's end costs is not of interest
}

// The start of every program: the arguments, of which the last is always SECONDS.
static inline void worst_begin(int argc, char **argv, struct bench_arg *args, int n_args)
{
    bench_args(argc, argv, args, n_args);
    worst_set_limit(args[n_args - 1].value);
    worst_find_heaps();
}

#endif // HAKMEM_BENCH_WORST_WORST_H_
