/* misuse CASE: does one wrong or hard thing to the malloc that serves it. Prints "survived" if it
   gets to the end. Run by misuse_test.py. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

#define EXPECT(e)                                                                                  \
    ((e) ? (void)0 : (void)(failures++, fprintf(stderr, "line %d: not so: %s\n", __LINE__, #e)))

/* Frees p + offset; says first which pointer. */
static void bad_free(char *p, size_t offset)
{
    printf("%#zx\n", (size_t)(p + offset));
    fflush(stdout);
    free(p + offset);
}

static void free_twice(size_t size)
{
    char *p = malloc(size);
    printf("%#zx\n", (size_t)p);
    fflush(stdout); /* now: printing allocates */
    free(p);
    free(p);
}

static void out_of_memory(void)
{
    struct rlimit limit = {200u << 20, 200u << 20};
    setrlimit(RLIMIT_AS, &limit);
    for (size_t size = 100; size <= 4u << 20; size = size * 7 + 13) {
        int n = 0;
        errno = 0;
        size_t wanted = (400u << 20) / size;
        void *last = &n;
        void **chain = NULL;
        while (wanted-- > 0 && (last = malloc(size)) != NULL) {
            *(void **)last = chain;
            chain = last;
            n++;
        }
        EXPECT(last == NULL && errno == ENOMEM && n > 0);
        while (chain) {
            void *next = *chain;
            free(chain);
            chain = next;
        }
        void *again = malloc(size);
        EXPECT(again != NULL);
        free(again);
    }
    char *kept = malloc(1000);
    memset(kept, 7, 1000);
    errno = 0;
    EXPECT(realloc(kept, (size_t)1 << 40) == NULL && errno == ENOMEM);
    EXPECT(kept[0] == 7 && kept[999] == 7);
    free(kept);
}

static void too_large(void)
{
    volatile size_t huge = PTRDIFF_MAX, all = SIZE_MAX;
    errno = 0;
    EXPECT(malloc(huge) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(malloc(all) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(calloc(all / 2, 3) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(reallocarray(NULL, all / 2, 3) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(aligned_alloc(64, all - 32) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(aligned_alloc(24, 100) == NULL && errno == EINVAL);
    void *p = &p;
    EXPECT(posix_memalign(&p, 3, 10) == EINVAL && p == &p);
    EXPECT(posix_memalign(&p, 64, all) == ENOMEM && p == &p);
    errno = 5;
    free(malloc(1));
    EXPECT(errno == 5);
}

static volatile int stop;

static void *churn(void *arg)
{
    (void)arg;
    void *blocks[64] = {0};
    for (unsigned i = 0; !stop; i++) {
        free(blocks[i % 64]);
        blocks[i % 64] = malloc((i * 2654435761u >> 16) % 40000);
    }
    for (int i = 0; i < 64; i++) {
        free(blocks[i]);
    }
    return NULL;
}

static void *use_and_end(void *arg)
{
    (void)arg;
    free(malloc(100));
    return NULL;
}

static void fork_among_threads(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, churn, NULL);
    }
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child == 0) {
            void *p = malloc(1000), *q = calloc(1, 100000);
            pthread_t thread;
            if (pthread_create(&thread, NULL, use_and_end, NULL) == 0) {
                pthread_join(thread, NULL);
            }
            free(p);
            free(q);
            _exit(p && q ? 0 : 1);
        }
        int status = -1;
        EXPECT(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
    stop = 1;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* glibc's list of fork handlers has so many places before it allocates. */
#define HANDLERS 48

static void on_fork(void)
{
}

static void register_handlers(int n)
{
    while (n-- > 0) {
        EXPECT(pthread_atfork(on_fork, on_fork, on_fork) == 0);
    }
}

/* Before libraries' constructors: the first handlers that one registers make the list grow. */
static void start_before_all(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "handlers") == 0) {
        register_handlers(HANDLERS);
    }
}
__attribute__((section(".preinit_array"),
               used)) static void (*const before_all)(int, char **) = start_before_all;

static void fork_with_handlers(void)
{
    register_handlers(4 * HANDLERS);
    fork_among_threads();
}

int main(int argc, char **argv)
{
    const char *name = argc == 2 ? argv[1] : "";
    char local[64];
    char *p = malloc(100);
#define CASE(word) else if (strcmp(name, word) == 0)
    if (0) {
    }
    CASE("nothing")
    {
    }
    CASE("free_stack") bad_free(local, 0);
    CASE("free_static") bad_free((char *)&failures, 0);
    CASE("free_wild") bad_free((char *)0x12345670, 0);
    CASE("free_not_canonical") bad_free((char *)0x6b6b6b6b6b6b6b6b, 0);
    CASE("free_high") bad_free((char *)UINTPTR_MAX - 15, 0);
    CASE("free_small_interior") bad_free(p, 16);
    CASE("free_small_unaligned") bad_free(p, 1);
    CASE("free_mid_interior") bad_free(malloc(5000), 4096);
    CASE("free_span_interior") bad_free(malloc(200000), 65536);
    CASE("free_range_interior") bad_free(malloc(5000000), 1048576);
    CASE("free_twice_small") free_twice(64);
    CASE("free_twice_mid") free_twice(20000);
    CASE("free_twice_span") free_twice(200000);
    CASE("free_twice_range") free_twice(5000000);
    CASE("realloc_wild") p = realloc((void *)0x12345670, 10);
    CASE("out_of_memory") out_of_memory();
    CASE("too_large") too_large();
    CASE("fork") fork_among_threads();
    CASE("handlers") fork_with_handlers();
    else
    {
        fprintf(stderr, "usage: misuse CASE\n");
        return 2;
    }
    if (failures) {
        return 1;
    }
    puts("survived");
    return 0;
}
