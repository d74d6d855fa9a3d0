// worst_fork THREADS OTHERS SECONDS: fork while the caches of THREADS threads are full.
//
// Each thread fills and frees blocks of nine sizes, then sleeps. The time is that of fork, the
// child's _exit and the wait.
#include "bench/worst/worst.h"

#include <sys/wait.h>

enum { BLOCKS = 2000, ROUNDS = 3, FORKS = 10, STACK_KIB = 256 };

static pthread_barrier_t full;
static struct worst_calls forks = {.name = "fork"};

static void *fill(void *unused)
{
    static const size_t sizes[] = {16, 32, 48, 64, 96, 128, 256, 512, 1024};
    static __thread void *blocks[BLOCKS];
    for (int round = 0; round < ROUNDS; round++)
        for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
            for (int i = 0; i < BLOCKS; i++)
                blocks[i] = malloc(sizes[c]);
            for (int i = 0; i < BLOCKS; i++)
                free(blocks[i]);
        }
    pthread_barrier_wait(&full);
    for (;;)
        pause();
    return unused;
}

static void one_fork(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    if (child < 0 || waitpid(child, NULL, 0) != child)
        bench_die("fork");
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, 30000, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    unsigned n = (unsigned)args[0].value;
    pthread_attr_t small_stack;
    pthread_attr_init(&small_stack);
    pthread_attr_setstacksize(&small_stack, STACK_KIB * WORST_KIB);
    pthread_barrier_init(&full, NULL, n + 1);
    for (unsigned i = 0; i < n; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &small_stack, fill, NULL) != 0)
            bench_die("pthread_create");
    }
    pthread_barrier_wait(&full);
    worst_stall_start(args[1].value);
    worst_sleep_ms(50);
    for (int i = 0; i < FORKS; i++)
        WORST_TIME(&forks, one_fork());
    worst_print_calls(&forks);
    return worst_finish();
}
