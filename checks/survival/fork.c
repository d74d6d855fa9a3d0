/* Children of a process whose other threads allocate: fork, fork in a child, from a thread, in
   handlers of pthread_atfork, vfork, posix_spawn. */
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "checks/survival/cases.h"

#define CHILD_SECONDS 60 /* a child that waits for a lock for ever is ended by SIGALRM */

extern char **environ;

static volatile int stop;
static void *shared_cells[256]; /* what one thread frees, another has allocated */

static void *traffic(void *seed_)
{
    uint64_t seed = (uintptr_t)seed_;
    while (!stop) {
        void *p = malloc(random_size(&seed));
        if (next_random(&seed) % 8 == 0) {
            void *grown = realloc(p, random_size(&seed));
            p = grown ? grown : p;
        }
        free(__atomic_exchange_n(&shared_cells[next_random(&seed) % 256], p, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

enum { N_THREADS = 3 };
static pthread_t threads[N_THREADS];

static void start_traffic(void)
{
    stop = 0;
    for (int i = 0; i < N_THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, traffic, (void *)(uintptr_t)(i + 1)) == 0);
    }
}

static void end_traffic(void)
{
    stop = 1;
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 256; i++) {
        free(shared_cells[i]);
        shared_cells[i] = NULL;
    }
}

static void wait_for(pid_t child)
{
    int status = -1;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

static void in_child(void (*f)(void))
{
    pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        f();
        check_heap();
        _exit(0);
    }
    wait_for(child);
}

static void use_and_free_others(void)
{
    use_malloc(7, 200);
    for (int i = 0; i < 256; i++) {
        free(__atomic_exchange_n(&shared_cells[i], NULL, __ATOMIC_ACQ_REL));
    }
    use_malloc(8, 200);
}

static void *use_in_thread(void *unused)
{
    use_malloc(9, 200);
    return unused;
}

static void use_with_threads(void)
{
    pthread_t thread;
    use_and_free_others();
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&thread, NULL, use_in_thread, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

static void forks(long n)
{
    char *kept = (char *)filled(5000);
    start_traffic();
    for (long i = 0; i < n; i++) {
        in_child(i % 16 ? use_and_free_others : use_with_threads);
    }
    end_traffic();
    CHECK(is_filled(kept, 5000));
    free(kept);
}

/* Each child starts threads of its own and forks while they allocate. */
static int depth;

static void fork_deeper(void)
{
    use_and_free_others();
    if (depth++ < 2) {
        start_traffic();
        for (int i = 0; i < 3; i++) {
            in_child(fork_deeper);
        }
        end_traffic();
    }
}

static void fork_in_fork(long n)
{
    for (long i = 0; i < n; i++) {
        depth = 0;
        start_traffic();
        in_child(fork_deeper);
        end_traffic();
    }
}

/* From threads that have allocated nothing yet, several at once. */
static void *fork_first(void *unused)
{
    in_child(use_with_threads);
    return unused;
}

static void fork_from_threads(long n)
{
    start_traffic();
    for (long i = 0; i < n; i++) {
        pthread_t forking[4];
        for (int k = 0; k < 4; k++) {
            CHECK(pthread_create(&forking[k], NULL, fork_first, NULL) == 0);
        }
        for (int k = 0; k < 4; k++) {
            pthread_join(forking[k], NULL);
        }
    }
    end_traffic();
}

/* Libraries allocate and free in their handlers. */
static void *of_handlers[3];

static void allocate_in_prepare(void)
{
    use_malloc(1, 300);
    of_handlers[0] = filled(100);
}

static void allocate_in_parent(void)
{
    use_malloc(2, 300);
    free(of_handlers[0]);
}

static void allocate_in_child(void)
{
    use_malloc(3, 300);
    free(of_handlers[0]);
}

static void atfork_handlers(long n)
{
    CHECK(pthread_atfork(allocate_in_prepare, allocate_in_parent, allocate_in_child) == 0);
    forks(n);
}

/* The child of a vfork has the parent's memory, and its thread. */
static void vforks(long n)
{
    start_traffic();
    for (long i = 0; i < n; i++) {
        static void *volatile of_child;
        pid_t child =
            vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork): it is what is tested */
        if (child == 0) {
            of_child = filled(3000); /* NOLINT(clang-analyzer-unix.Vfork): and this is */
            (void)close(1);
            execl("/proc/self/exe", "fork", "nothing", (char *)NULL);
            _exit(1);
        }
        wait_for(child);
        CHECK(of_child && is_filled(of_child, 3000));
        free(of_child);
    }
    end_traffic();
}

static void nothing(long n)
{
    (void)n;
}

static void spawns(long n)
{
    static char program[] = "/proc/self/exe", name[] = "nothing";
    char *arguments[] = {program, name, NULL};
    posix_spawn_file_actions_t quiet;
    CHECK(posix_spawn_file_actions_init(&quiet) == 0);
    CHECK(posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", 1, 0) == 0);
    start_traffic();
    for (long i = 0; i < n; i++) {
        pid_t child = 0;
        CHECK(posix_spawn(&child, program, &quiet, NULL, arguments, environ) == 0);
        wait_for(child);
/* the shell is a program of the system's C library, and would be given our LD_PRELOAD */
#ifdef __GLIBC__
        FILE *pipe = popen("exit 0", "r");
        CHECK(pipe && pclose(pipe) == 0);
#endif
    }
    end_traffic();
    posix_spawn_file_actions_destroy(&quiet);
}

static const struct test_case cases[] = {{"forks", forks, 1000, 100},
                                         {"fork_in_fork", fork_in_fork, 5, 1},
                                         {"fork_from_threads", fork_from_threads, 100, 10},
                                         {"atfork_handlers", atfork_handlers, 200, 30},
                                         {"vforks", vforks, 500, 50},
                                         {"spawns", spawns, 200, 10},
                                         {"nothing", nothing, 0, 0},
                                         {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
