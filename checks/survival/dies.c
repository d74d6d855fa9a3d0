/* Errors that hakmem finds, in a program whose handler of SIGABRT allocates, frees, forks, and
   waits for a thread that allocates. Each case runs in a child, which must get through its handler.
   */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "checks/survival/cases.h"

#define DEADLOCK_SECONDS 60
#define THROUGH          3 /* the handler's exit */

static void *use_in_thread(void *unused)
{
    use_malloc(2, 300);
    return unused;
}

/* What a handler may find: small and large blocks, one of before, a first thread of its own. */
static char *from_before[3];

static void handler(int number)
{
    pthread_t thread;
    int status = -1;
    (void)number;
    use_malloc(1, 300);
    for (int i = 0; i < 20000; i++) {
        free(filled((size_t)64 << (i % 11)));
    }
    free(filled(5000000));
    for (int i = 0; i < 3; i++) {
        from_before[i] = (char *)realloc(from_before[i], 300000);
        CHECK(from_before[i] && from_before[i][0] == 7);
        free(from_before[i]);
    }
    CHECK(pthread_create(&thread, NULL, use_in_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(DEADLOCK_SECONDS);
        use_malloc(3, 300);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    (void)hak_purge();
    _exit(THROUGH);
}

static volatile int stop;

static void *traffic(void *seed)
{
    while (!stop) {
        use_malloc((uintptr_t)seed, 100);
    }
    return NULL;
}

/* With other threads allocating, and without; without alone where a thread may have got the block
   between two frees: then it is its block that is freed. */
static void dies_in(void (*misuse)(void), int most_threads)
{
    for (int n_threads = 0; n_threads <= most_threads; n_threads += 2) {
        int status = -1;
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            alarm(DEADLOCK_SECONDS);
            CHECK(freopen("/dev/null", "w", stderr) != NULL);
            for (int i = 0; i < n_threads; i++) {
                CHECK(pthread_create(&thread, NULL, traffic, (void *)(uintptr_t)(i + 1)) == 0);
            }
            size_t sizes[3] = {50, 100000, 3000000};
            for (int i = 0; i < 3; i++) {
                from_before[i] = (char *)malloc(sizes[i]);
                CHECK(from_before[i]);
                from_before[i][0] = 7;
            }
            CHECK(signal(SIGABRT, handler) != SIG_ERR);
            misuse();
            _exit(4); /* not noticed */
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == THROUGH);
    }
}

static void inside_a_range(void)
{
    char *p = (char *)malloc(5000000);
    free(p + 1048576);
}

static void inside_a_span(void)
{
    char *p = (char *)malloc(200000);
    free(p + 65536);
}

static void inside_100_kb(void)
{
    char *p = (char *)malloc(100000);
    free(p + 16);
}

static void range_twice(void)
{
    void *volatile p = malloc(2 << 20);
    free(p);
    free(p);
}

static void span_twice(void)
{
    void *volatile p = malloc(100000), *volatile q = malloc(100000);
    free(p);
    free(p);
    free(q);
}

static void small_twice_in_a_row(void)
{
    void *volatile p = malloc(64);
    free(p);
    free(p);
}

/* Found when they come back to their slab, with the heap's lock held. */
static void small_twice_with_others_between(void)
{
    static void *q[20000];
    for (int i = 0; i < 20000; i++) {
        q[i] = malloc(64);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 20000; i++) {
            free(q[i]);
        }
    }
}

static void inside_a_small_one(void)
{
    char *p = (char *)malloc(64);
    free(p + 8);
}

static void not_allocated(void)
{
    static char outside[64];
    free(outside);
}

#define CASE(name, most_threads)                                                                   \
    static void case_##name(long n)                                                                \
    {                                                                                              \
        (void)n;                                                                                   \
        dies_in(name, most_threads);                                                               \
    }
CASE(inside_a_range, 2)
CASE(inside_a_span, 2)
CASE(inside_100_kb, 2)
CASE(range_twice, 0)
CASE(span_twice, 0)
CASE(small_twice_in_a_row, 2)
CASE(small_twice_with_others_between, 0)
CASE(inside_a_small_one, 2)
CASE(not_allocated, 2)

#define ROW(name)                                                                                  \
    {                                                                                              \
#name, case_##name, 1, 1                                                                   \
    }
static const struct test_case cases[] = {ROW(inside_a_range),
                                         ROW(inside_a_span),
                                         ROW(inside_100_kb),
                                         ROW(range_twice),
                                         ROW(span_twice),
                                         ROW(small_twice_in_a_row),
                                         ROW(small_twice_with_others_between),
                                         ROW(inside_a_small_one),
                                         ROW(not_allocated),
                                         {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
