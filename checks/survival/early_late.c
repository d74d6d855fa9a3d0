/* malloc at the edges of a process and of its threads: before main, after it, in destructors of
   threads, after the thread's heap is gone; threads that only free, and very many of them. */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "checks/survival/cases.h"

/* --- before main --- */

enum { N_EARLY = 4 };
static const size_t early_sizes[N_EARLY] = {1, 3000, 200000, 3000000};
static void *early[3][N_EARLY];

static void allocate_early(int when)
{
    free(NULL);
    for (int i = 0; i < N_EARLY; i++) {
        early[when][i] = realloc(filled(early_sizes[i] / 2 + 1), early_sizes[i]);
        free(early[when][i]);
        early[when][i] = filled(early_sizes[i]);
    }
}

static void handler_before_all(void)
{
    use_malloc(5, 500);
}

/* Before any library's own start, the allocator's included. */
static void before_libraries(int argc, char **argv, char **environment)
{
    (void)environment;
    free(NULL);
    /* A handler that is older than those of the allocator runs while the allocator holds its
       locks. */
    if (argc > 1 && strcmp(argv[1], "early_handler") == 0) {
        (void)pthread_atfork(handler_before_all, handler_before_all, handler_before_all);
    }
    allocate_early(0);
}

#ifdef __GLIBC__
__attribute__((section(".preinit_array"),
               used)) static void (*const preinit)(int, char **, char **) = before_libraries;
#else
__attribute__((constructor(101))) static void preinit(void)
{
    before_libraries(0, NULL, NULL);
}
#endif

__attribute__((constructor(102))) static void construct_first(void)
{
    allocate_early(1);
}

__attribute__((constructor)) static void construct(void)
{
    allocate_early(2);
}

static void before_main(long n)
{
    (void)n;
    for (int when = 0; when < 3; when++) {
        for (int i = 0; i < N_EARLY; i++) {
            CHECK(early[when][i] && hak_owns(early[when][i]));
            CHECK(is_filled(early[when][i], early_sizes[i]));
            free(early[when][i]);
        }
    }
}

/* --- after main --- */

static void *late;

static void at_exit(void)
{
    use_malloc(1, 2000);
    CHECK(is_filled(late, 70000));
    free(late);
    late = filled(300);
    check_heap();
}

/* After every atexit function. */
__attribute__((destructor(102))) static void destruct(void)
{
    if (late) {
        use_malloc(2, 2000);
        CHECK(is_filled(late, 300));
        free(late);
        check_heap();
        say("destructed\n");
    }
}

static void after_main(long n)
{
    (void)n;
    late = filled(70000);
    CHECK(atexit(at_exit) == 0);
}

/* --- the end of a thread --- */

/* POSIX: a destructor may set its key again, and is called again, four times in all at least. Two
   keys, so that one's come before the allocator's own, the other's after it. */
static pthread_key_t keys[2];
static int n_destroyed;

static void destroy_and_set_again(void *value, int which)
{
    CHECK(is_filled(value, 4000));
    free(value);
    use_malloc((uint64_t)which, 300);
    (void)__atomic_add_fetch(&n_destroyed, 1, __ATOMIC_RELAXED);
    /* The last round's would be lost. */
    static __thread int rounds[2];
    if (++rounds[which] < 4) {
        CHECK(pthread_setspecific(keys[which], filled(4000)) == 0);
    }
}

static void destroy_first(void *value)
{
    destroy_and_set_again(value, 0);
}

static void destroy_second(void *value)
{
    destroy_and_set_again(value, 1);
}

static void *end_with_keys(void *unused)
{
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_setspecific(keys[i], filled(4000)) == 0);
    }
    return unused;
}

static void in_threads(long n, void *(*f)(void *))
{
    enum { AT_ONCE = 4 };
    pthread_t threads[AT_ONCE];
    for (long i = 0; i < n; i += AT_ONCE) {
        for (int k = 0; k < AT_ONCE; k++) {
            CHECK(pthread_create(&threads[k], NULL, f, NULL) == 0);
        }
        for (int k = 0; k < AT_ONCE; k++) {
            CHECK(pthread_join(threads[k], NULL) == 0);
        }
    }
}

static size_t peak_kib(void)
{
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return (size_t)usage.ru_maxrss;
}

static void key_destructors(long n)
{
    CHECK(pthread_key_create(&keys[0], destroy_first) == 0 &&
          pthread_key_create(&keys[1], destroy_second) == 0);
    in_threads(n, end_with_keys);
    size_t early_peak = peak_kib();
    in_threads(4 * n, end_with_keys);
    CHECK(n_destroyed == 5 * n * 8);
    CHECK(peak_kib() < early_peak + early_peak / 4 + 4096);
}

#ifdef __GLIBC__
extern int __cxa_thread_atexit_impl(void (*destroy)(void *), void *object, void *dso);
extern void *__dso_handle;

static void destroy_thread_local(void *object)
{
    CHECK(is_filled(object, 100));
    free(object);
    use_malloc(4, 300);
}

static void *end_with_thread_locals(void *unused)
{
    CHECK(__cxa_thread_atexit_impl(destroy_thread_local, filled(100), &__dso_handle) == 0);
    use_malloc(5, 300);
    CHECK(__cxa_thread_atexit_impl(destroy_thread_local, filled(100), &__dso_handle) == 0);
    return unused;
}

/* The code that C++ generates for thread_local objects with destructors. */
static void thread_local_destructors(long n)
{
    in_threads(n, end_with_thread_locals);
}
#endif

/* --- blocks that other threads free --- */

static void **given;
static long n_given;

static void *only_free(void *unused)
{
    for (long i = 0; i < n_given; i++) {
        CHECK(is_filled(given[i], (size_t)i % 3000 + 1));
        free(given[i]);
    }
    return unused;
}

/* Again and again: the memory of such a thread must be used again. */
static void only_frees(long n)
{
    size_t first_peak = 0;
    n_given = 10000;
    given = (void **)calloc((size_t)n_given, sizeof *given);
    CHECK(given);
    for (long round = 0; round < n; round++) {
        for (long i = 0; i < n_given; i++) {
            given[i] = filled((size_t)i % 3000 + 1);
            CHECK(given[i]);
        }
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, only_free, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        first_peak = first_peak ? first_peak : peak_kib();
    }
    free(given);
    CHECK(peak_kib() < first_peak * 2);
}

/* --- many threads --- */

static pthread_barrier_t all_started, all_freed;
static void **crossed;
static long n_crossed;

static void *live_together(void *index_)
{
    long index = (long)(intptr_t)index_;
    crossed[index] = filled((size_t)index % 2000 + 1);
    CHECK(crossed[index]);
    (void)pthread_barrier_wait(&all_started);
    long other = (index + 1) % n_crossed;
    CHECK(is_filled(crossed[other], (size_t)other % 2000 + 1));
    free(crossed[other]);
    free(filled((size_t)index % 40000 + 1));
    (void)pthread_barrier_wait(&all_freed);
    return NULL;
}

/* All live at once, each with a block, which another one frees. In the tiny variant these are more
   threads than heaps. */
static void many_threads(long n)
{
    pthread_attr_t small;
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 131072) == 0);
    pthread_t *threads = (pthread_t *)calloc((size_t)n, sizeof *threads);
    crossed = (void **)calloc((size_t)n, sizeof *crossed);
    n_crossed = n;
    CHECK(threads && crossed);
    CHECK(pthread_barrier_init(&all_started, NULL, (unsigned)n) == 0);
    CHECK(pthread_barrier_init(&all_freed, NULL, (unsigned)n) == 0);
    for (long i = 0; i < n; i++) {
        CHECK(pthread_create(&threads[i], &small, live_together, (void *)(intptr_t)i) == 0);
    }
    for (long i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    free(threads);
    free(crossed);
}

/* --- fork with a handler older than the allocator's --- */

static void early_handler(long n)
{
    alarm(60);
    for (long i = 0; i < n; i++) {
        pid_t child = fork();
        if (child == 0) {
            check_heap();
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static const struct test_case cases[] = {
    {"before_main", before_main, 1, 1},
    {"after_main", after_main, 1, 1},
    {"key_destructors", key_destructors, 400, 40},
#ifdef __GLIBC__
    {"thread_local_destructors", thread_local_destructors, 1000, 50},
#endif
    {"only_frees", only_frees, 100, 20},
    {"many_threads", many_threads, 5000, 5000},
    {"early_handler", early_handler, 500, 20},
    {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
