/* A program whose heap is profiled: profiled MODE. What it holds is known.
   leak      3,000 blocks of 1,000 bytes by one function, 20 of 200,000 by another; it keeps them
   quick     the same, and ends by quick_exit
   signal    leak; sends itself SIGUSR2 and goes on
   lose      1,000 blocks of 1,000 bytes to which nothing leads, and 100 that it keeps
   grow      64 MiB in blocks of 10,000 bytes, kept
   fork      three threads that allocate; 20 children that allocate, load a library and exit
   libraries threads that allocate while others load and unload libraries
   threads   400 threads that allocate, hand blocks on and end
   seconds   allocates for three to four seconds
   stacks    threads whose first calls ask for their own stack, for which libc allocates
   exec      becomes itself in mode leak */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_SMALL 3000
#define N_LARGE 20

void *volatile kept[100000];
static size_t n_kept;
static volatile int is_over;

__attribute__((noinline)) void keep_small(void)
{
    kept[n_kept++] = malloc(1000);
}

__attribute__((noinline)) void keep_large(void)
{
    kept[n_kept++] = malloc(200000);
}

static void leak(void)
{
    for (int i = 0; i < N_SMALL; i++) {
        keep_small();
        free(malloc(500));
    }
    for (int i = 0; i < N_LARGE; i++) {
        keep_large();
    }
}

__attribute__((noinline)) void lose_one(void)
{
    kept[0] = malloc(1000);
    kept[0] = NULL;
}

static void lose(void)
{
    n_kept = 1;
    for (int i = 0; i < 1000; i++) {
        lose_one();
        if (i % 10 == 0) {
            keep_small();
        }
    }
}

static void grow(void)
{
    for (size_t i = 0; i < ((size_t)64 << 20) / 10000; i++) {
        kept[n_kept++] = malloc(10000);
    }
}

static void *churn(void *most)
{
    void *blocks[64] = {NULL};
    unsigned seed = 1;
    for (long i = 0; i < (long)most && !is_over; i++) {
        unsigned at = rand_r(&seed) % 64;
        free(blocks[at]);
        blocks[at] = malloc(rand_r(&seed) % (i % 50 ? 3000 : 90000));
    }
    for (int i = 0; i < 64; i++) {
        free(blocks[i]);
    }
    return NULL;
}

static void load(void)
{
    static const char *const names[] = {"libBrokenLocale.so.1", "libanl.so.1", "libutil.so.1"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *library = dlopen(names[i], RTLD_NOW);
        if (library) {
            dlclose(library);
        }
    }
}

static void *load_often(void *n)
{
    for (long i = 0; i < (long)n; i++) {
        load();
    }
    return NULL;
}

static int fork_often(void)
{
    int bad = 0;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(30);
            churn((void *)3000);
            load();
            exit(0); /* which writes a profile too */
        }
        int status = -1;
        waitpid(child, &status, 0);
        bad |= status;
    }
    return bad;
}

static int with_threads(void *(*what)(void *), long n, int n_threads, int (*meanwhile)(void))
{
    pthread_t threads[16];
    for (int i = 0; i < n_threads; i++) {
        pthread_create(&threads[i], NULL, i % 2 ? churn : what, (void *)n);
    }
    int bad = meanwhile ? meanwhile() : 0;
    is_over = meanwhile != NULL;
    for (int i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    return bad;
}

static void *ask_for_stack(void *n)
{
    for (long i = 0; i < (long)n; i++) {
        pthread_attr_t attributes;
        if (pthread_getattr_np(pthread_self(), &attributes) != 0) {
            return "refused";
        }
        pthread_attr_destroy(&attributes);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const char *mode = argc == 2 ? argv[1] : "";
    int bad = 0;
    if (strcmp(mode, "nothing") == 0) {
        return 0;
    }
    if (strcmp(mode, "leak") == 0 || strcmp(mode, "quick") == 0) {
        leak();
    } else if (strcmp(mode, "lose") == 0) {
        lose();
    } else if (strcmp(mode, "signal") == 0) {
        leak();
        raise(SIGUSR2);
        churn((void *)100000);
    } else if (strcmp(mode, "grow") == 0) {
        grow();
    } else if (strcmp(mode, "fork") == 0) {
        bad = with_threads(churn, 1l << 40, 3, fork_often);
    } else if (strcmp(mode, "libraries") == 0) {
        bad = with_threads(load_often, 200, 4, NULL);
    } else if (strcmp(mode, "threads") == 0) {
        for (int i = 0; i < 25; i++) {
            bad |= with_threads(churn, 3000, 16, NULL);
        }
    } else if (strcmp(mode, "seconds") == 0) {
        for (time_t end = time(NULL) + 4; time(NULL) < end;) {
            churn((void *)1000);
        }
    } else if (strcmp(mode, "stacks") == 0) {
        for (int i = 0; i < 10; i++) {
            bad |= with_threads(ask_for_stack, 100, 16, NULL);
        }
    } else if (strcmp(mode, "exec") == 0) {
        execl(argv[0], argv[0], "leak", (char *)NULL);
        bad = 1;
    } else {
        fprintf(stderr, "usage: profiled MODE\n");
        return 2;
    }
    if (strcmp(mode, "quick") == 0) {
        quick_exit(0);
    }
    return bad != 0;
}
