/* A guest in the process: no call of the allocator may surprise it. Pending cancellations,
   sandboxes that kill at unexpected system calls, the background thread, and the moment at which
   the program has one thread again. */
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "checks/survival/cases.h"
#include "testing/sandbox.h"

/* The rest of hak_*, there if hakmem is. */
extern void *hak_heap_create(void) __attribute__((weak));
extern void *hak_heap_malloc(void *heap, size_t size) __attribute__((weak));
extern void *hak_heap_calloc(void *heap, size_t n, size_t size) __attribute__((weak));
extern void *hak_heap_realloc(void *heap, void *p, size_t size) __attribute__((weak));
extern void hak_heap_destroy(void *heap) __attribute__((weak));
extern void hak_print_stats(int fd) __attribute__((weak));
extern void hak_ace_print(int fd) __attribute__((weak));
extern void hak_limit_set(size_t soft, size_t hard) __attribute__((weak));
extern void hak_limit_get(size_t *soft, size_t *hard, size_t *committed) __attribute__((weak));

static const size_t MIB = 1 << 20;

/* --- every function, on its slow paths --- */

static void touch(void *p, size_t size)
{
    for (size_t i = 0; p && i < size; i += 4096) {
        ((volatile char *)p)[i] = 1;
    }
}

static void *volatile kept[4096];
static int nowhere = 2;

/* More and more of one size until `bytes` are there, then all freed. */
static void fill(size_t size, size_t bytes)
{
    size_t n = bytes / size < 4096 ? bytes / size : 4096;
    for (size_t i = 0; i < n; i++) {
        kept[i] = malloc(size);
        CHECK(kept[i]);
        *(volatile char *)kept[i] = 1;
    }
    for (size_t i = 0; i < n; i++) {
        free(kept[i]);
        kept[i] = NULL;
    }
}

static void resize(void)
{
    char *p = NULL;
    for (size_t size = 100; size < 40 * MIB; size += size / 2) {
        p = realloc(p, size);
        CHECK(p);
        p[size - 1] = 1;
    }
    for (size_t size = 40 * MIB; size > 100; size /= 3) {
        p = realloc(p, size);
        CHECK(p);
    }
    free(p);
    CHECK(realloc(malloc(10), (size_t)1 << 46) == NULL);
}

static void aligned(void)
{
    for (size_t align = 8; align <= 4 * MIB; align *= 2) {
        void *p = NULL;
        CHECK(posix_memalign(&p, align, 3 * align) == 0);
        CHECK((uintptr_t)p % align == 0);
        free(p);
        free(aligned_alloc(align, align));
        free(memalign(align, 50000));
    }
#ifdef __GLIBC__
    free(valloc(5000));
    free(pvalloc(5000));
#endif
}

static void zeroed(void)
{
    for (int i = 0; i < 300; i++) {
        size_t size = (size_t)(i % 10 + 1) * 700000;
        char *p = calloc(1, size);
        CHECK(p && p[0] == 0 && p[size / 2] == 0);
        touch(p, i % 3 ? size : 1);
        free(p);
    }
    for (int i = 0; i < 100; i++) {
        free(calloc((size_t)i, 16)); /* as pthread_create asks */
    }
}

static void heaps(void)
{
    void *heap = hak_heap_create ? hak_heap_create() : NULL;
    for (size_t size = 16; heap && size < 10 * MIB; size *= 3) {
        CHECK(hak_heap_malloc(heap, size) && hak_heap_calloc(heap, 1, size));
        CHECK(hak_heap_realloc(heap, hak_heap_malloc(heap, size), 2 * size));
    }
    if (heap) {
        hak_heap_destroy(heap);
    }
}

static void reports(void)
{
    size_t soft, hard, committed;
#ifdef __GLIBC__
    (void)mallinfo2();
    (void)mallopt(M_MXFAST, 0);
    malloc_stats();
    CHECK(malloc_trim(0) >= 0);
#endif
    CHECK(malloc_usable_size(NULL) == 0);
    hak_print_stats(nowhere);
    hak_ace_print(nowhere);
    hak_limit_get(&soft, &hard, &committed);
    (void)hak_purge();
    CHECK(hak_verify() == 0);
}

/* Requests that are refused, by the limit and by the system. */
static void refused(void)
{
    size_t soft, hard, committed;
    (void)hak_purge(); /* what is kept could make way */
    hak_limit_get(&soft, &hard, &committed);
    hak_limit_set(soft, committed + 4 * MIB);
    CHECK(malloc(100 * MIB) == NULL);
    CHECK(calloc(1, 100 * MIB) == NULL);
    hak_limit_set(committed + 4 * MIB, 0);
    fill(MIB, 30 * MIB); /* passes the soft limit */
    hak_limit_set(soft, hard);
    for (int i = 0; i < 30; i++) {
        CHECK(malloc((size_t)1 << 46) == NULL);
    }
}

static void everything(void)
{
    free(NULL);
    fill(100, MIB);
    fill(30000, 100 * MIB);
    fill(2 * MIB, 200 * MIB);
    free(malloc(100 * MIB));
    resize();
    aligned();
    zeroed();
    heaps();
    refused();
    reports();
    use_malloc(1, 3000);
}

/* --- cancellation --- */

static volatile int went_on;

static void *cancelled(void *type)
{
    int old, is_asynchronous = type != NULL;
    /* Asynchronous cancellation is for code that calls nothing: malloc may be called only while it
       is switched off. */
    CHECK(pthread_setcancelstate(is_asynchronous ? PTHREAD_CANCEL_DISABLE : PTHREAD_CANCEL_ENABLE,
                                 NULL) == 0);
    CHECK(pthread_setcanceltype(
              is_asynchronous ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, NULL) == 0);
    CHECK(pthread_cancel(pthread_self()) == 0);
    everything();
    went_on = 1;
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old) == 0);
    CHECK(old == (is_asynchronous ? PTHREAD_CANCEL_DISABLE : PTHREAD_CANCEL_ENABLE));
    pthread_testcancel();
    went_on = 2;
    return NULL;
}

static void cancel(void *type)
{
    pthread_t thread;
    went_on = 0;
    CHECK(pthread_create(&thread, NULL, cancelled, type) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(went_on ==
          1); /* it ended where cancellation was let in, or at its own pthread_testcancel */
    use_malloc(3, 2000); /* no lock was left behind */
}

static void cancel_deferred(long n)
{
    for (long i = 0; i < n; i++) {
        cancel(NULL);
    }
}

static void cancel_asynchronous(long n)
{
    for (long i = 0; i < n; i++) {
        cancel((void *)&went_on);
    }
}

/* The same with a line for each step that fails. */
static void again_with_trace(const char *name)
{
    if (!getenv("HAKMEM_ACE_TRACE")) {
        setenv("HAKMEM_ACE_TRACE", "1", 1);
        execl("/proc/self/exe", "guest", name, (char *)NULL);
        CHECK(!"execl");
    }
}

static void cancel_traced(long n)
{
    again_with_trace("cancel_traced");
    cancel_deferred(n);
}

/* A thread with a pending cancellation makes the program's first other thread, and so ours. */
static void *makes_a_thread(void *unused)
{
    (void)unused;
    pthread_t thread;
    CHECK(pthread_cancel(pthread_self()) == 0);
    CHECK(pthread_create(&thread, NULL, cancelled, NULL) == 0);
    CHECK(pthread_detach(thread) == 0);
    went_on = 3;
    pthread_testcancel();
    return NULL;
}

static void cancel_while_making(long n)
{
    pthread_t thread;
    void *result = NULL;
    (void)n;
    CHECK(pthread_create(&thread, NULL, makes_a_thread, NULL) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(went_on);
}

/* --- sandboxes --- */

#if HAS_SANDBOX
static const int of_malloc[] = {SANDBOX_MALLOC};
/* A program that ends its threads in the sandbox. */
static const int of_threads_end[] = {SANDBOX_MALLOC, SANDBOX_THREAD_END};
static const int of_threads[] = {SANDBOX_MALLOC, SANDBOX_THREADS, SANDBOX_THREAD_END};
#define ENTER(list, all) CHECK(sandbox_enter((list), sizeof(list) / sizeof *(list), (all)) == 0)

/* In a child, which must end by itself. */
static void in_child(void (*work)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work();
        check_heap();
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

/* Time that passes without a system call. */
static void spin_ms(long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    long end = t.tv_sec * 1000 + t.tv_nsec / 1000000 + ms;
    do {
        clock_gettime(CLOCK_MONOTONIC, &t);
    } while (t.tv_sec * 1000 + t.tv_nsec / 1000000 < end);
}

static void sandboxed_alone(void)
{
    ENTER(of_malloc, 1);
    everything();
}

static void sandbox(long n)
{
    for (long i = 0; i < n; i++) {
        in_child(sandboxed_alone);
    }
}

static void sandbox_traced(long n)
{
    again_with_trace("sandbox_traced");
    sandbox(n);
}

static volatile int may_go, n_begun;
static pthread_barrier_t both;

static void *allocates_when_told(void *seed)
{
    (void)__atomic_add_fetch(&n_begun, 1, __ATOMIC_SEQ_CST);
    while (!may_go) {
    }
    use_malloc((uintptr_t)seed, 20000);
    return NULL;
}

static pthread_t make(void *(*run)(void *), uintptr_t seed)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, (void *)seed) == 0);
    return thread;
}

/* Threads that are there before the sandbox, and allocate for the first time in it. */
static void threads_then_sandbox(void)
{
    n_begun = 0;
    pthread_t first = make(allocates_when_told, 1), second = make(allocates_when_told, 2);
    while (n_begun != 2) {
    }
    ENTER(of_threads_end, 1);
    may_go = 1;
    everything();
    CHECK(pthread_join(first, NULL) == 0 && pthread_join(second, NULL) == 0);
    everything();
}

static void *nothing(void *unused)
{
    return unused;
}

/* The same, by stacks that the C library keeps from threads before. */
static void threads_again_then_sandbox(void)
{
    may_go = 1;
    CHECK(pthread_join(make(allocates_when_told, 1), NULL) == 0);
    CHECK(pthread_join(make(nothing, 1), NULL) == 0);
    may_go = 0;
    threads_then_sandbox();
}

static void *enters(void *seed)
{
    ENTER(of_threads_end, 0);
    use_malloc((uintptr_t)seed, 20000);
    return NULL;
}

/* Each thread has a sandbox of its own. */
static void threads_that_enter(void)
{
    for (uintptr_t i = 0; i < 20; i++) {
        pthread_t thread = make(enters, i), other = make(i % 2 ? enters : nothing, i);
        use_malloc(i, 1000);
        CHECK(pthread_join(thread, NULL) == 0 && pthread_join(other, NULL) == 0);
    }
}

/* The sandbox allows threads, and nothing besides what making one takes. */
static void sandbox_then_threads(void)
{
    ENTER(of_threads, 1);
    may_go = 1;
    for (uintptr_t i = 0; i < 10; i++) {
        pthread_t thread = make(allocates_when_told, i),
                  other = make(i % 2 ? nothing : allocates_when_told, i + 100);
        use_malloc(i, 20000);
        CHECK(pthread_join(thread, NULL) == 0 && pthread_join(other, NULL) == 0);
    }
    everything();
}

static void *waits_for_main(void *unused)
{
    free(malloc(1000));
    pthread_barrier_wait(&both);
    pthread_barrier_wait(&both);
    return unused;
}

/* Long enough for the background thread to purge, in the sandbox. */
static void sandbox_and_time(void)
{
    CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
    pthread_t thread = make(waits_for_main, 0);
    pthread_barrier_wait(&both);
    ENTER(of_threads_end, 1);
    everything();
    spin_ms(1500);
    everything();
    pthread_barrier_wait(&both);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void sandbox_threads(long n)
{
    for (long i = 0; i < n; i++) {
        in_child(threads_then_sandbox);
        in_child(threads_again_then_sandbox);
        in_child(threads_that_enter);
        in_child(sandbox_then_threads);
    }
}

static void sandbox_time(long n)
{
    (void)n;
    in_child(sandbox_and_time);
}
#endif

/* --- one thread again --- */

static int count_threads(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/task");
    CHECK(folder);
    for (const struct dirent *entry; (entry = readdir(folder));) {
        n += entry->d_name[0] != '.';
    }
    closedir(folder);
    return n;
}

static void *loud(void *unused)
{
    free(malloc(100));
    return unused;
}

static void *quiet(void *unused)
{
    return unused;
}

static void join_all(void *(*run)(void *), int n)
{
    pthread_t threads[8];
    for (int i = 0; i < n; i++) {
        CHECK(pthread_create(&threads[i], NULL, run, NULL) == 0);
    }
    for (int i = 0; i < n; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    /* The system takes a thread out of its list a moment after pthread_join has returned, with
       every malloc; on a busy machine that may be long. */
    int left = count_threads();
    for (int i = 0; left != 1 && i < 20000; i++) {
        sched_yield();
        usleep(i < 400 ? 100 : 1000);
        left = count_threads();
    }
    CHECK(left == 1);
}

static void alone_after_join(long n)
{
    for (long i = 0; i < n; i++) {
        pid_t child = fork(); /* a process in which there was no thread yet */
        CHECK(child >= 0);
        if (child == 0) {
            join_all(i % 2 ? loud : quiet, (int)(i / 2 % 4) + 1);
            join_all(i % 3 ? loud : quiet, 8);
            join_all(i % 5 ? loud : quiet, 1);
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
}

/* --- the background thread --- */

/* glibc alone tells of a thread that is being made, and of its end only if it is a library of its
   own. */
#if defined(__GLIBC__) && !NO_DLOPEN
#define HAS_BACKGROUND 1
static volatile int stage;
static volatile pid_t known[2];

/* What it must not pass on. */
static void *allocates_apart(void *unused)
{
    cpu_set_t all, one;
    struct sched_param batch = {0};
    known[1] = gettid();
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
        }
    }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(pthread_setschedparam(pthread_self(), SCHED_BATCH, &batch) == 0);
    use_malloc(1, 3000);
    stage = 1;
    while (stage == 1) {
        usleep(1000);
    }
    return unused;
}

/* The thread of this process that the program does not know; 0 if there is none. */
static pid_t find_ours(void)
{
    pid_t found = 0;
    DIR *folder = opendir("/proc/self/task");
    CHECK(folder);
    for (const struct dirent *entry; (entry = readdir(folder));) {
        pid_t id = (pid_t)atoi(entry->d_name);
        found = id && id != known[0] && id != known[1] ? id : found;
    }
    closedir(folder);
    return found;
}

static unsigned long long blocked_signals(pid_t thread)
{
    char path[64], line[200];
    unsigned long long mask = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)thread);
    FILE *file = fopen(path, "r");
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "SigBlk:", 7) == 0) {
            mask = strtoull(line + 7, NULL, 16);
        }
    }
    fclose(file);
    return mask;
}

static void background_is_apart(long n)
{
    pthread_t thread;
    cpu_set_t mine, its;
    (void)n;
    known[0] = getpid();
    CHECK(pthread_create(&thread, NULL, allocates_apart, NULL) == 0);
    while (stage != 1) {
        usleep(1000);
    }
    use_malloc(2, 3000);
    pid_t ours = find_ours();
    CHECK(ours);
    CHECK(sched_getscheduler(ours) == SCHED_OTHER);
    CHECK(sched_getaffinity(0, sizeof mine, &mine) == 0 &&
          sched_getaffinity(ours, sizeof its, &its) == 0);
    CHECK(CPU_EQUAL(&mine, &its));
    static const int signals[] = {SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGALRM, SIGPROF, SIGSYS};
    unsigned long long blocked = 0;
    for (int i = 0; i < 1000 && !blocked; i++) { /* it has begun, perhaps, but not run */
        blocked = blocked_signals(ours);
        usleep(1000);
    }
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        CHECK(blocked >> (signals[i] - 1) & 1);
    }
    stage = 2;
    CHECK(pthread_join(thread, NULL) == 0);
}

/* --- what a thread is that has been given other processors, another policy and priority --- */

static volatile int second_stage;

static void *waits_in_background(void *unused)
{
    use_malloc(3, 100);
    second_stage = 1;
    while (second_stage == 1) {
        usleep(1000);
    }
    return unused;
}

struct as_first {
    cpu_set_t processors;
    int nice;
};

/* How many threads are as the process was at first, and how many are not. */
static void count_apart(const struct as_first *first, int *n_as_first, int *n_as_mine)
{
    DIR *folder = opendir("/proc/self/task");
    CHECK(folder);
    *n_as_first = *n_as_mine = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        pid_t id = (pid_t)atoi(entry->d_name);
        cpu_set_t its;
        if (id && sched_getaffinity(id, sizeof its, &its) == 0) {
            int is_first = sched_getscheduler(id) == SCHED_OTHER &&
                           CPU_EQUAL(&its, &first->processors) &&
                           getpriority(PRIO_PROCESS, (id_t)id) == first->nice;
            *n_as_first += is_first;
            *n_as_mine += !is_first;
        }
    }
    closedir(folder);
}

/* The thread that it makes needs a stack, and so a vector from calloc. */
static void *makes_one_apart(void *first_)
{
    const struct as_first *first = (const struct as_first *)first_;
    pthread_t thread;
    pthread_attr_t large;
    struct sched_param idle = {0};
    cpu_set_t one;
    int n = 0;
    CHECK(sched_getaffinity(0, sizeof one, &one) == 0);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        n += CPU_ISSET(i, &one) != 0;
        if (n > 1) {
            CPU_CLR(i, &one);
        }
    }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(pthread_setschedparam(pthread_self(), SCHED_IDLE, &idle) == 0);
    CHECK(setpriority(PRIO_PROCESS, (id_t)gettid(), first->nice < 10 ? 10 : 19) == 0);
    CHECK(pthread_attr_init(&large) == 0 && pthread_attr_setstacksize(&large, 32 << 20) == 0);
    CHECK(pthread_create(&thread, &large, waits_in_background, NULL) == 0);
    CHECK(pthread_attr_destroy(&large) == 0);
    while (second_stage != 1) {
        usleep(1000);
    }
    use_malloc(4, 3000);
    /* There is none, or it is as the process was at first. Threads that have been joined may still
       be in the system's list. */
    int n_as_first, n_as_mine;
    count_apart(first, &n_as_first, &n_as_mine);
    for (int i = 0; n_as_mine != 2 && i < 20000; i++) {
        usleep(1000);
        count_apart(first, &n_as_first, &n_as_mine);
    }
    CHECK(n_as_first >= 1 && n_as_mine == 2); /* the first thread, and ours; this one and its own */
    second_stage = 2;
    CHECK(pthread_join(thread, NULL) == 0);
    return NULL;
}

/* The background thread is made by the first thread alone, before one that is apart could, and
   after all others have ended, and a thread has got an ended one's stack. */
static void first_thread_in_each_mode(void)
{
    static const char *const modes[] = {"0", "1", "2"};
    for (size_t i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            (void)setenv("HAKMEM_BACKGROUND", modes[i], 1);
            (void)setenv("SURVIVAL_MODE", modes[i], 1);
            (void)execl("/proc/self/exe", "guest", "background_of_first_thread", "1", NULL);
            _exit(1);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static void background_of_first_thread(long n)
{
    pthread_t thread;
    struct as_first first;
    (void)n;
    if (!getenv("SURVIVAL_MODE")) {
        first_thread_in_each_mode();
        return;
    }
    first.nice = getpriority(PRIO_PROCESS, 0);
    CHECK(sched_getaffinity(0, sizeof first.processors, &first.processors) == 0);
    for (int i = 0; i < 3; i++) {
        second_stage = 0;
        CHECK(pthread_create(&thread, NULL, makes_one_apart, &first) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

/* A process that may have two threads of its own, and no third. */
static void no_thread_for_us(long n)
{
    struct rlimit limit = {0, 0};
    pthread_t thread;
    (void)n;
    CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0); /* root is not bound by it: then this shows less */
    if (pthread_create(&thread, NULL, loud, NULL) == 0) {
        CHECK(pthread_join(thread, NULL) == 0);
    }
    use_malloc(5, 10000);
}
#else
#define HAS_BACKGROUND 0
#endif

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        {"cancel_deferred", cancel_deferred, 20, 2},
        {"cancel_asynchronous", cancel_asynchronous, 20, 2},
        {"cancel_traced", cancel_traced, 20, 1},
        {"cancel_while_making", cancel_while_making, 1, 1},
#if HAS_SANDBOX
        {"sandbox", sandbox, 20, 2},
        {"sandbox_traced", sandbox_traced, 20, 1},
        {"sandbox_threads", sandbox_threads, 50, 3},
        {"sandbox_time", sandbox_time, 1, 1},
#endif
        {"alone_after_join", alone_after_join, 2000, 100},
#if HAS_BACKGROUND
        {"background_is_apart", background_is_apart, 1, 1},
        {"background_of_first_thread", background_of_first_thread, 1, 1},
        {"no_thread_for_us", no_thread_for_us, 1, 1},
#endif
        {NULL, NULL, 0, 0},
    };
    nowhere = open("/dev/null", O_WRONLY);
    return run_cases(argc, argv, cases);
}
