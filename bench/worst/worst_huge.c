// worst_huge HEAPS OTHERS SECONDS: requests of 1 EiB, which no purge can serve, with many heaps and
// something dirty.
//
// The heaps are first-class ones where the allocator has them; others are measured with the dirty
// memory alone.
#include "bench/worst/worst.h"

enum { ROUNDS = 50, DIRTY = 100000 };

static volatile size_t exbibyte = (size_t)1 << 60; // volatile: the compiler knows of it
static struct worst_calls refused[] = {
    {.name = "malloc(1EiB)"},
    {.name = "calloc(1EiB)"},
    {.name = "realloc(1EiB)"},
    {.name = "aligned_alloc(1EiB)"},
};

static void make_dirty(void)
{
    char *dirty = worst_malloc(DIRTY);
    worst_touch(dirty, DIRTY);
    worst_free(dirty);
}

static void check(const void *block)
{
    if (block != NULL)
        bench_die("1 EiB was served");
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"HEAPS", 1, 60000, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    for (uint64_t i = 0; i < args[0].value && worst_heap.create != NULL; i++) {
        struct hak_heap *heap = worst_heap.create();
        if (heap == NULL || worst_heap.malloc(heap, 100) == NULL)
            bench_die("hak_heap_create");
    }
    worst_stall_start(args[1].value);
    char *small = worst_malloc(100), *block;
    for (int i = 0; i < ROUNDS && !worst_is_late((uint64_t)i, ROUNDS); i++) {
        make_dirty();
        WORST_TIME(&refused[0], block = malloc(exbibyte));
        check(block);
        make_dirty();
        WORST_TIME(&refused[1], block = calloc(exbibyte / 8, 8));
        check(block);
        make_dirty();
        WORST_TIME(&refused[2], block = realloc(small, exbibyte));
        check(block);
        make_dirty();
        WORST_TIME(&refused[3], block = aligned_alloc(WORST_PAGE, exbibyte));
        check(block);
    }
    worst_free(small);
    for (int i = 0; i < 4; i++)
        worst_print_calls(&refused[i]);
    return worst_finish();
}
