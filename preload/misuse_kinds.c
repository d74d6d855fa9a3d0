/* misuse_kinds [KIND]: misuses whatever malloc serves it in one way, and prints "passed" if it gets
   to the end, "harmed" if by then two owners have one block, or a block lies outside of what was
   allocated. Without an argument: the kinds and what they are. Run by misuse_kinds_test.py. The
   kinds are in misuse_frees.c, misuse_writes.c, misuse_reads.c, misuse_sizes.c and
   misuse_places.c. */
#define _GNU_SOURCE
#include "misuse_kinds.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct hak_heap *(*heap_create)(void);
void (*heap_destroy)(struct hak_heap *heap);
void *(*heap_malloc)(struct hak_heap *heap, size_t size);
void *(*heap_realloc)(struct hak_heap *heap, void *p, size_t size);
void (*free_sized_)(void *p, size_t size);
void (*free_aligned_sized_)(void *p, size_t alignment, size_t size);

int is_harmed;
volatile sig_atomic_t is_touching;
volatile char seen;

char *freed(size_t size)
{
    char *volatile before = malloc(size);
    char *volatile p = malloc(size);
    char *volatile after = malloc(size);
    (void)before;
    (void)after;
    memset(p, 'p', size);
    free(p);
    return p;
}

void go_on(size_t size)
{
    char *volatile blocks[8];
    for (int i = 0; i < 8; i++) {
        blocks[i] = malloc(size);
        memset(blocks[i], i, size);
    }
    for (int i = 0; i < 8; i++) {
        is_harmed |= blocks[i][0] != i || blocks[i][size - 1] != i;
    }
    for (int i = 0; i < 8; i++) {
        free(blocks[i]);
    }
}

void in_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    pthread_create(&thread, NULL, function, argument);
    pthread_join(thread, NULL);
}

void *free_it(void *p)
{
    free(p);
    return NULL;
}

void *shifted(size_t size, size_t offset)
{
    char *volatile p = malloc(size);
    memset(p, 'p', size);
    return p + offset;
}

void bad_realloc(void *p, size_t size)
{
    char *volatile q = realloc(p, size);
    char *volatile r = malloc(size);
    is_harmed = q == r;
    (void)q;
}

static void on_fault(int signal_)
{
    if (is_touching) {
        _exit(42);
    }
    signal(signal_, SIG_DFL);
    raise(signal_);
}

void touch(char *at, int value, size_t n)
{
    is_touching = 1;
    memset(at, value, n);
    is_touching = 0;
}

int holds(const char *at, char value, size_t n)
{
    is_touching = 1;
    for (size_t i = 0; i < n; i++) {
        seen = at[i];
        if (seen == value) {
            is_touching = 0;
            return 1;
        }
    }
    is_touching = 0;
    return 0;
}

char *between(size_t size)
{
    char *volatile before = malloc(size), *volatile p = malloc(size),
                   *volatile after = malloc(size);
    (void)before;
    (void)after;
    memset(p, 'p', size);
    return p;
}

char *freed_between(size_t size)
{
    char *volatile p = between(size);
    free(p);
    return p;
}

void bring_round(size_t size)
{
    for (int i = 0; i < 300; i++) {
        void *volatile q = malloc(size);
        free(q);
    }
}

char *freed_long_ago(size_t size)
{
    char *volatile p = between(size), *volatile q[100];
    for (int i = 0; i < 100; i++) {
        q[i] = malloc(size);
    }
    free(p);
    for (int i = 0; i < 100; i++) {
        free(q[i]);
    }
    return p;
}

static const struct kind *const tables[] = {misuse_frees, misuse_writes, misuse_sizes};
static const struct sized_kind *const sized_tables[] = {misuse_sized_frees, misuse_sized_writes,
                                                        misuse_sized_reads, misuse_sized_sizes,
                                                        misuse_sized_places};
static const size_t sizes[] = {24, 200, 5000, 20000, 196608, 5242880};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int is_missing(int needs)
{
    return (needs == 1 && !_ZdlPvm) || (needs == 2 && !heap_create) || (needs == 3 && !free_sized_);
}

/* Runs it if it is the one that is named, or prints it if none is. Returns whether it did run. */
static int of_one_size(const struct kind *kind, const char *wanted)
{
    if (!wanted) {
        printf("%s\t%s\n", kind->name, kind->text);
        return 0;
    }
    if (strcmp(wanted, kind->name) != 0) {
        return 0;
    }
    if (is_missing(kind->needs)) {
        puts("none");
        return 1;
    }
    kind->run();
    puts(is_harmed ? "harmed" : "passed");
    return 1;
}

static int of_a_size(const struct sized_kind *kind, size_t size, const char *wanted)
{
    char name[64];
    snprintf(name, sizeof name, kind->needs == 4 ? "%s" : "%s_%zu", kind->name, size);
    if (!wanted) {
        printf(kind->needs == 4 ? "%s\t%s\n" : "%s\t%s: %zu\n", name, kind->text, size);
        return 0;
    }
    if (strcmp(name, wanted) != 0) {
        return 0;
    }
    if (is_missing(kind->needs)) {
        puts("none");
        return 1;
    }
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    kind->run(size);
    puts(is_harmed ? "harmed" : "passed");
    return 1;
}

static int all(const char *wanted)
{
    for (size_t t = 0; t < COUNT(tables); t++) {
        for (const struct kind *kind = tables[t]; kind->name; kind++) {
            if (of_one_size(kind, wanted)) {
                return 1;
            }
        }
    }
    for (size_t t = 0; t < COUNT(sized_tables); t++) {
        for (const struct sized_kind *kind = sized_tables[t]; kind->name; kind++) {
            for (size_t k = 0; k < (kind->needs == 4 ? 1 : COUNT(sizes)); k++) {
                if (of_a_size(kind, sizes[k], wanted)) {
                    return 1;
                }
            }
        }
    }
    return 0;
}

static void find_heaps(void)
{
    *(void **)&heap_create = dlsym(RTLD_DEFAULT, "hak_heap_create");
    *(void **)&heap_destroy = dlsym(RTLD_DEFAULT, "hak_heap_destroy");
    *(void **)&heap_malloc = dlsym(RTLD_DEFAULT, "hak_heap_malloc");
    *(void **)&heap_realloc = dlsym(RTLD_DEFAULT, "hak_heap_realloc");
    *(void **)&free_sized_ = dlsym(RTLD_DEFAULT, "free_sized");
    *(void **)&free_aligned_sized_ = dlsym(RTLD_DEFAULT, "free_aligned_sized");
}

int main(int argc, char **argv)
{
    static char buffer[65536];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    find_heaps();
    return all(argc < 2 ? NULL : argv[1]) || argc < 2 ? 0 : 2;
}
