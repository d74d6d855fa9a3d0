/* Signals that interrupt the allocator, cancellation, and jumps out of the callback of failed
   requests. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "checks/survival/cases.h"

/* --- a handler that does async-signal-safe work --- */

static volatile long n_handled;

static void handler(int signal)
{
    int saved = errno;
    struct timespec now;
    char byte = 0;
    (void)signal;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)!write(-1, &byte, 1); /* sets errno */
    (void)__atomic_add_fetch(&n_handled, 1, __ATOMIC_RELAXED);
    errno = saved;
}

static void handle(int number)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    CHECK(sigaction(number, &action, NULL) == 0);
}

enum { N_INTERRUPTED = 3 };
static pthread_t interrupted[N_INTERRUPTED];
static void *shared_cells[64];
static volatile int stop;

/* What one thread frees another has allocated, so that they wait for each other's locks. */
static void *exchange(void *seed_)
{
    uint64_t seed = (uintptr_t)seed_;
    while (!stop) {
        void *p = malloc(random_size(&seed));
        CHECK(p);
        free(__atomic_exchange_n(&shared_cells[next_random(&seed) % 64], p, __ATOMIC_ACQ_REL));
        errno = 0;
        free(__atomic_exchange_n(&shared_cells[next_random(&seed) % 64], NULL, __ATOMIC_ACQ_REL));
        CHECK(errno == 0);
    }
    return NULL;
}

/* This thread sends signals to others, which only allocate. */
static void interrupts(long n)
{
    handle(SIGUSR1);
    for (int i = 0; i < N_INTERRUPTED; i++) {
        CHECK(pthread_create(&interrupted[i], NULL, exchange, (void *)(uintptr_t)(i + 1)) == 0);
    }
    for (long i = 0; n_handled < n; i++) {
        CHECK(pthread_kill(interrupted[i % N_INTERRUPTED], SIGUSR1) == 0);
        usleep(10);
    }
    stop = 1;
    for (int i = 0; i < N_INTERRUPTED; i++) {
        CHECK(pthread_join(interrupted[i], NULL) == 0);
    }
    for (int i = 0; i < 64; i++) {
        free(shared_cells[i]);
    }
}

/* The same by a timer, as often as the system can. */
static void timer(long n)
{
    struct itimerval often = {{0, 20}, {0, 20}}, never = {{0, 0}, {0, 0}};
    handle(SIGALRM);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (uint64_t seed = 1; n_handled < n; seed++) {
        use_malloc(seed, 200);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* A handler may fork (the child does safe work alone) wherever the allocator is. */
static void fork_in_handler(int number)
{
    handler(number);
    if (_Fork() == 0) {
        _exit(0);
    }
}

static void forks_in_handlers(long n)
{
    struct sigaction action;
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    memset(&action, 0, sizeof action);
    action.sa_handler = fork_in_handler;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (uint64_t seed = 1; n_handled < n; seed++) {
        use_malloc(seed, 200);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* --- cancellation --- */

static void free_it(void *block)
{
    free(block);
}

/* Deferred: malloc and free are no cancellation points, though they take locks and make system
   calls. */
static void *until_cancelled(void *seed_)
{
    void *kept = filled(3000);
    pthread_cleanup_push(free_it, kept);
    for (uint64_t seed = (uintptr_t)seed_;; seed += 1000) {
        use_malloc(seed, 50);
        pthread_testcancel();
    }
    pthread_cleanup_pop(1);
    return NULL;
}

/* Asynchronous, allowed between calls only. */
static void *until_cancelled_at_once(void *seed_)
{
    int before;
    volatile unsigned long spin = 0;
    for (uint64_t seed = (uintptr_t)seed_;; seed += 1000) {
        use_malloc(seed, 20);
        CHECK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before) == 0);
        for (int i = 0; i < 1000; i++) {
            spin++;
        }
        CHECK(pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &before) == 0);
    }
    return NULL;
}

static void cancels(long n)
{
    for (long i = 0; i < n; i++) {
        pthread_t threads[4];
        for (int k = 0; k < 4; k++) {
            CHECK(pthread_create(&threads[k], NULL,
                                 k % 2 ? until_cancelled : until_cancelled_at_once,
                                 (void *)(uintptr_t)(i * 4 + k)) == 0);
        }
        usleep(500);
        for (int k = 0; k < 4; k++) {
            void *result = NULL;
            CHECK(pthread_cancel(threads[k]) == 0 && pthread_join(threads[k], &result) == 0);
            CHECK(result == PTHREAD_CANCELED);
        }
        CHECK(hak_verify() == 0);
    }
}

/* --- jumps --- */

struct hak_fail;
extern void hak_ace_on_fail(void (*callback)(const struct hak_fail *fail, void *context),
                            void *context) __attribute__((weak));

static jmp_buf before_request;
static int n_jumps;

static void jump(const struct hak_fail *fail, void *context)
{
    (void)fail;
    (void)context;
    n_jumps++;
    longjmp(before_request, 1);
}

/* The request is given up, and nothing is left locked or counted wrongly; later failures are
   reported again. */
static void jumps(long n)
{
    CHECK(hak_ace_on_fail != NULL);
    hak_ace_on_fail(jump, NULL);
    for (volatile long i = 0; i < n; i++) {
        if (setjmp(before_request) == 0) {
            void *volatile p = malloc((size_t)1 << 46);
            CHECK(p == NULL);
            CHECK(!"the callback was not called");
        }
        CHECK(n_jumps == i + 1);
        use_malloc((uint64_t)i, 100);
        CHECK(hak_verify() == 0);
    }
    hak_ace_on_fail(NULL, NULL);
}

static const struct test_case cases[] = {{"interrupts", interrupts, 50000, 2000},
                                         {"timer", timer, 1000000, 20000},
                                         {"forks_in_handlers", forks_in_handlers, 1000, 100},
                                         {"cancels", cancels, 500, 20},
                                         {"jumps", jumps, 1000, 50},
                                         {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
