// worst_huge HEAPS OTHERS SECONDS: requests of 1 EiB, which no reclaim can serve, with many heaps and something dirty.
//
// The heaps are first-class ones where the allocator has them; others are measured with the dirty memory alone.
#include "bench/worst/worst.h"

enum { ROUNDS = 50, DIRTY = 100000 };

static const size_t EXBIBYTE = (size_t)1 << 60;

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"HEAPS", 1, 60000, 0, 1}, {"OTHERS", 0, 1, 0, 1}, {"SECONDS", 1, 3600, 0, 1}};
    worst_begin(argc, argv, args, 3);
    for (uint64_t i = 0; i < args[0].value && worst_heap.create != NULL; i++) {
        struct hak_heap *heap = worst_heap.create();
        if (heap == NULL || worst_heap.malloc(heap, 100) == NULL)
            bench_die("hak_heap_create");
    }
    worst_stall_start(args[1].value);
    char *small = worst_malloc(100), *block;
    for (int i = 0; i < ROUNDS && !worst_is_late((uint64_t)i, ROUNDS); i++) {
        char *dirty = worst_malloc(DIRTY);
        worst_touch(dirty, DIRTY);
        worst_free(dirty);
        volatile size_t size = EXBIBYTE; // the compiler knows that nobody can have so much
        WORST_TIME(&worst_calls[CALL_MALLOC], block = malloc(size));
        WORST_TIME(&worst_calls[CALL_CALLOC], block = block != NULL ? block : calloc(size / 8, 8));
        WORST_TIME(&worst_calls[CALL_REALLOC], block = block != NULL ? block : realloc(small, size));
        WORST_TIME(&worst_calls[CALL_ALIGNED], block = block != NULL ? block : aligned_alloc(WORST_PAGE, size));
        if (block != NULL)
            bench_die("1 EiB was served");
    }
    return worst_finish();
}
