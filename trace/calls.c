/* calls MODE: a program whose calls of malloc and free record_test.py and bench/replay's test know.
   Sizes tell them from the C library's own. The calls of each mode are written down in
   record_test.py a second time. */
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20000, SHORT_THREADS = 300 };

static void known(void)
{
    void *a = malloc(100001), *b = calloc(3, 40001), *c = NULL, *d = memalign(64, 100005);
    if (posix_memalign(&c, 4096, 100003) != 0) {
        _exit(1);
    }
    a = realloc(a, 300007);
    free(b);
    void *e = realloc(NULL, 100007), *f = aligned_alloc(128, 128128),
         *g = reallocarray(NULL, 11, 10007);
    free(d);
    free(a);
    e = realloc(e, 50021);
    free(f);
    /* Frees g, and then nothing. */
    free(realloc(g, 0)); /* NOLINT(clang-analyzer-optin.portability.UnixAPI): meant */
    (void)c, (void)e;    /* alive at the end */
}

/* Slots that all threads share: each takes out what another one has put in. */
static void *slots[64];

static void *mix(void *argument)
{
    uint64_t x = 88172645463325252u + (uintptr_t)argument;
    for (int i = 0; i < ROUNDS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        void **slot = &slots[x >> 8 & 63], *block = malloc(200000 + 16 * (uintptr_t)argument);
        if (x >> 40 & 1) {
            block = realloc(block, 210000);
        }
        free(__atomic_exchange_n(slot, block, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static void *once(void *argument)
{
    free(argument);
    return malloc(300001);
}

static void many(void *(*work)(void *), int n, int at_once)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < n; i += at_once) {
        for (int k = 0; k < at_once; k++) {
            pthread_create(&threads[k], NULL, work,
                           work == mix ? (void *)(uintptr_t)k : malloc(300017));
        }
        for (int k = 0; k < at_once; k++) {
            void *left = NULL;
            pthread_join(threads[k], &left);
            free(left);
        }
    }
}

/* The child frees a block of its parent's, and makes blocks of its own. */
static void forked(void)
{
    void *both = malloc(100011);
    pid_t child = fork();
    if (child == 0) {
        free(both);
        void *own = malloc(100013);
        free(malloc(100015));
        _exit(own ? 5 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    free(both);
    free(malloc(100017 + (size_t)WEXITSTATUS(status)));
}

int main(int argc, char **argv)
{
    const char *mode = argc == 2 ? argv[1] : "";
    if (strcmp(mode, "known") == 0) {
        known();
    } else if (strcmp(mode, "threads") == 0) {
        many(mix, THREADS, THREADS);
    } else if (strcmp(mode, "short") == 0) {
        many(once, SHORT_THREADS, 1);
    } else if (strcmp(mode, "fork") == 0) {
        forked();
    } else if (strcmp(mode, "exit") == 0) {
        known();
        _exit(3);
    } else if (strcmp(mode, "kill") == 0) {
        known();
        raise(SIGKILL);
    } else if (strcmp(mode, "close") == 0) { /* as daemons do */
        for (int fd = 0; fd < 1000; fd++) {
            close(fd);
        }
        many(mix, THREADS, THREADS);
    } else if (strcmp(mode, "none") != 0) {
        return 2;
    }
    return 0;
}
