/* planted CASE: a bug for memcheck and AddressSanitizer to find, or none. Blocks by hak_* if they
   are linked, else by malloc, with the rest of hak_* from libhakmem.so. */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PLANTED_HAK
#include "hakmem/hakmem.h"
#define malloc  hak_malloc
#define calloc  hak_calloc
#define realloc hak_realloc
#define free    hak_free
#else
/* hakmem.h would have them linked. */
struct hak_heap;
struct hak_heap *hak_heap_create(void) __attribute__((weak));
void *hak_heap_malloc(struct hak_heap *heap, size_t size) __attribute__((weak));
void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size) __attribute__((weak));
void *hak_heap_realloc(struct hak_heap *heap, void *p, size_t size) __attribute__((weak));
int hak_heap_walk(struct hak_heap *heap, int (*visit)(void *, size_t, void *), void *context)
    __attribute__((weak));
void hak_heap_destroy(struct hak_heap *heap) __attribute__((weak));
size_t hak_malloc_batch(size_t size, size_t n, void **out) __attribute__((weak));
void hak_free_batch(void **blocks, size_t n) __attribute__((weak));
void *hak_rezalloc(void *p, size_t size) __attribute__((weak));
#endif

static volatile char sink;

/* Everything that is allowed, at length, so that a false report would show. */
static void correct(void)
{
    unsigned state = 1;
    char *blocks[100] = {NULL};
    for (int i = 0; i < 20000; i++) {
        state = state * 1103515245u + 12345u;
        int k = (int)(state >> 16) % 100;
        size_t size = (state >> 8) % (i % 50 ? 2000 : 300000);
        if (blocks[k] && state >> 30 == 0) {
            blocks[k] = (char *)realloc(blocks[k], size + 1);
        } else {
            free(blocks[k]);
            blocks[k] = (char *)(i % 3 ? malloc(size + 1) : calloc(1, size + 1));
            sink = i % 3 ? 0 : blocks[k][size];
        }
        memset(blocks[k], 1, size + 1);
    }
    for (int k = 0; k < 100; k++) {
        free(blocks[k]);
    }
}

static int count(void *block, size_t size, void *context)
{
    memset(block, 3, size);
    ++*(int *)context;
    return 0;
}

/* Heaps that are destroyed with blocks that live, that are freed, and that were freed just
   before. */
static void correct_heaps(void)
{
    for (int round = 0; round < 20; round++) {
        struct hak_heap *heap = hak_heap_create();
        char *blocks[200];
        for (int i = 0; i < 200; i++) {
            size_t size = (size_t)(i % 20 ? i * 7 : i * 5000) + 1;
            blocks[i] =
                (char *)(i % 3 ? hak_heap_malloc(heap, size) : hak_heap_calloc(heap, 1, size));
            sink = i % 3 ? 0 : blocks[i][size - 1];
            memset(blocks[i], 1, size);
        }
        int n = 0, n_live = 200;
        for (int i = round; i < 200; i += 2 + round) {
            blocks[i] = (char *)(i % 2 ? realloc(blocks[i], 300)
                                       : hak_heap_realloc(heap, blocks[i], 70000));
            memset(blocks[i], 2, i % 2 ? 300 : 70000);
        }
        for (int i = 0; i < 200; i += 5) {
            free(blocks[i]);
            n_live--;
        }
        (void)hak_heap_walk(heap, count, &n);
        if (n != n_live) {
            printf("%d blocks of %d\n", n, n_live);
        }
        hak_heap_destroy(heap);
    }
}

static void correct_batches(void)
{
    void *blocks[500];
    for (size_t size = 1; size < 100000; size = size * 3 + 5) {
        size_t n = hak_malloc_batch(size, 500, blocks);
        for (size_t i = 0; i < n; i++) {
            memset(blocks[i], 1, size);
        }
        hak_free_batch(blocks, n);
    }
    char *p = NULL;
    for (size_t size = 1; size < 1000000; size = size * 3 + 5) {
        p = (char *)hak_rezalloc(p, size);
        sink = p[size / 2] ? p[size - 1] : p[size / 3];
        memset(p, 1, size);
    }
    free(p);
}

static int is_hak_bug(const char *name)
{
    void *blocks[10];
    struct hak_heap *heap = hak_heap_create();
    char *volatile p = (char *)hak_heap_malloc(heap, 40);
    char *volatile other = (char *)hak_heap_realloc(heap, NULL, 50);
    if (strcmp(name, "overflow_in_heap") == 0) {
        p[40] = 1;
    } else if (strcmp(name, "overflow_after_heap_realloc") == 0) {
        p = (char *)hak_heap_realloc(heap, p, 30);
        sink = p[30];
    } else if (strcmp(name, "overflow_in_batch") == 0) {
        for (int i = 0; i < 1200; i++) {
            free(malloc(40)); /* so that the thread's bin has some */
        }
        (void)hak_malloc_batch(40, 10, blocks);
        p = (char *)blocks[3];
        sink = p[40];
    } else if (strcmp(name, "read_after_free_batch") == 0) {
        (void)hak_malloc_batch(40, 10, blocks);
        hak_free_batch(blocks, 10);
        p = (char *)blocks[3];
        sink = p[39];
    } else {
        return 0;
    }
    free(other);
    return 1;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    char *volatile p = (char *)malloc(40);
    memset(p, 1, 40);
    if (strcmp(name, "read_after_free") == 0) {
        free(p);
        sink = p[0];
    } else if (strcmp(name, "read_after_free_and_malloc") == 0) {
        free(p);
        for (int i = 0; i < 100; i++) {
            memset(malloc(40), 2, 40);
        }
        sink = p[8];
    } else if (strcmp(name, "write_after_free") == 0) {
        free(p);
        p[39] = 1;
    } else if (strcmp(name, "overflow_by_one") == 0) {
        p[40] = 1;
    } else if (strcmp(name, "overflow_of_large") == 0) {
        char *volatile large = (char *)malloc(100000);
        large[100000] = 1;
    } else if (strcmp(name, "overflow_after_realloc") == 0) {
        p = (char *)realloc(p, 20);
        sink = p[20];
    } else if (strcmp(name, "twice") == 0) {
        free(p);
        free(malloc(40));
        free(p);
    } else if (strcmp(name, "correct") != 0) {
        if (!is_hak_bug(name)) {
            fprintf(stderr, "planted: no case '%s'\n", name);
            return 2;
        }
    } else {
        correct();
        correct_heaps();
        correct_batches();
        for (int i = 0; i < 3000; i++) {
            free(malloc(40)); /* so that blocks that waited are freed */
        }
        free(p);
    }
    puts("end");
    return 0;
}
