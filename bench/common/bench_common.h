// What the workloads share: argument parsing, the clock, the random numbers, and the answer to "who
// serves malloc here?".
//
// No locks. Included by the bench_*.c programs only, each of which is one file and is linked once
// for every allocator. Nothing here allocates: the tables of the workloads come from mmap, so that
// the allocator is asked for nothing but the blocks that the workload is about.
#ifndef HAKMEM_BENCH_BENCH_COMMON_H_
#define HAKMEM_BENCH_BENCH_COMMON_H_

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BENCH_NOINLINE    __attribute__((noinline))
#define BENCH_UNLIKELY(e) __builtin_expect(!!(e), 0)

// Present only where hakmem itself is linked in statically.
extern const char *hak_version(void) __attribute__((weak));

// A random 64-bit number from the one before it (Marsaglia's xorshift, shifts 13, 7, 17); the state
// is never 0.
static inline uint64_t bench_next(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

// A start state from a seed (splitmix64's finaliser), so that seeds 1, 2, 3 begin far apart.
static inline uint64_t bench_seed(uint64_t seed)
{
    uint64_t x = seed + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return x != 0 ? x : 1;
}

// Maps 32 random bits onto 0 .. n - 1 by a multiplication instead of a division.
static inline uint32_t bench_scale(uint32_t bits, uint32_t n)
{
    return (uint32_t)(((uint64_t)bits * n) >> 32);
}

static inline uint64_t bench_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Writes the first and the last byte of a block; volatile, so that neither the block nor its writes
// can be elided.
static inline void bench_touch(void *block, size_t size, uint64_t value)
{
    volatile unsigned char *bytes = block;
    bytes[0] = (unsigned char)value;
    bytes[size - 1] = (unsigned char)value;
}

__attribute__((cold, noreturn)) static void bench_die(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

// Zeroed memory of `bytes` bytes that does not come from the allocator under test. Never NULL,
// never freed.
static void *bench_table(size_t bytes)
{
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        bench_die("mmap");
    return table;
}

// Reads `text` as a decimal number within [min, max]. 0, or EINVAL when it is anything else.
static int bench_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    char *end;
    if (*text < '0' || *text > '9')
        return EINVAL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || v < min || v > max)
        return EINVAL;
    *value = v;
    return 0;
}

// One positional argument of a workload. `value` holds the default; `required` arguments have none.
struct bench_arg {
    const char *name;
    uint64_t min, max;
    uint64_t value;
    int required;
};

// The name of the object that defines `symbol` for this process: a path, or "static" (with the
// version, where it is hakmem's) when it lies in the program itself.
static void bench_print_owner(const char *symbol)
{
    Dl_info program, owner;
    void *address = dlsym(RTLD_DEFAULT, symbol);
    if (address == NULL || dladdr(address, &owner) == 0 ||
        dladdr((void *)(uintptr_t)&bench_print_owner, &program) == 0)
        printf("%s: unknown\n", symbol);
    else if (owner.dli_fbase != program.dli_fbase)
        printf("%s: %s\n", symbol, owner.dli_fname);
    else
        printf("%s: static%s%s\n", symbol, hak_version ? " hakmem " : "",
               hak_version ? hak_version() : "");
}

__attribute__((cold)) static void bench_usage(FILE *to, const char *program,
                                              const struct bench_arg *args, int n_args)
{
    const char *slash = strrchr(program, '/');
    fprintf(to, "usage: %s", slash ? slash + 1 : program);
    for (int i = 0; i < n_args; i++)
        fprintf(to, args[i].required ? " %s" : " [%s]", args[i].name);
    fprintf(to, " | --whoami | --help\n");
}

// Fills `args` from the command line. Answers --whoami and --help itself; a bad argument ends with
// a usage line, exit 2.
static void bench_args(int argc, char **argv, struct bench_arg *args, int n_args)
{
    if (argc == 2 && strcmp(argv[1], "--whoami") == 0) {
        bench_print_owner("malloc");
        bench_print_owner("free");
        exit(0);
    }
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        bench_usage(stdout, argv[0], args, n_args);
        for (int i = 0; i < n_args; i++) {
            printf("  %-12s %llu to %llu", args[i].name, (unsigned long long)args[i].min,
                   (unsigned long long)args[i].max);
            if (!args[i].required)
                printf(" (default %llu)", (unsigned long long)args[i].value);
            printf("\n");
        }
        exit(0);
    }
    int given = argc - 1;
    for (int i = 0; i < n_args; i++) {
        if (i >= given && !args[i].required)
            continue;
        if (i >= given || bench_parse(argv[i + 1], args[i].min, args[i].max, &args[i].value) != 0) {
            fprintf(stderr, "%s: %s %s: a number from %llu to %llu is wanted\n", argv[0],
                    args[i].name, i < given ? argv[i + 1] : "(missing)",
                    (unsigned long long)args[i].min, (unsigned long long)args[i].max);
            bench_usage(stderr, argv[0], args, n_args);
            exit(2);
        }
    }
    if (given > n_args) {
        fprintf(stderr, "%s: too many arguments\n", argv[0]);
        bench_usage(stderr, argv[0], args, n_args);
        exit(2);
    }
}

#endif // HAKMEM_BENCH_BENCH_COMMON_H_
