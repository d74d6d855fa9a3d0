/* Blocks freed twice, and frees of what is no block. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "misuse_kinds.h"

static void free_twice(size_t size, int n_between)
{
    void *volatile others[1000];
    for (int i = 0; i < n_between; i++) {
        others[i] = malloc(size);
    }
    char *volatile p = malloc(size);
    memset(p, 'p', size);
    free(p);
    for (int i = 0; i < n_between; i++) {
        free(others[i]);
    }
    free(p);
    go_on(size);
}
static void twice_in_a_row(void)
{
    free_twice(64, 0);
}
static void twice_after_one(void)
{
    free_twice(64, 1);
}
static void twice_after_many(void)
{
    free_twice(64, 100);
}
static void twice_after_purge(void)
{
    char *volatile kept = malloc(64);
    char *volatile p = malloc(64);
    free(p);
    malloc_trim(0);
    free(p);
    free(kept);
    go_on(64);
}
static void twice_reused(void)
{
    char *volatile p = malloc(64);
    free(p);
    char *volatile q = malloc(64); /* the same, as a rule */
    free(p);
    free(q);
    go_on(64);
}
static void twice_mid(void)
{
    free_twice(20000, 0);
}
static void twice_mid_after_one(void)
{
    free_twice(20000, 1);
}
static void twice_span(void)
{
    free_twice(200000, 0);
}
static void twice_span_after_one(void)
{
    free_twice(200000, 1);
}
static void twice_range(void)
{
    free_twice(5000000, 0);
}
static void twice_huge(void)
{
    free_twice((size_t)200 << 20, 0);
}
static void twice_two_threads(void)
{
    char *volatile p = malloc(600);
    in_thread(free_it, p);
    free(p);
    go_on(600);
}
static void *free_it_twice(void *p)
{
    free(p);
    free(p);
    return NULL;
}
static void twice_other_threads(void)
{
    char *volatile p = malloc(600);
    in_thread(free_it_twice, p);
    go_on(600);
}
static void bad_free(void *p)
{
    free(p);
    go_on(64);
}
static void free_interior(void)
{
    bad_free(shifted(64, 16));
}
static void free_unaligned(void)
{
    bad_free(shifted(64, 1));
}
static void free_interior_mid(void)
{
    bad_free(shifted(5000, 4096));
}
static void free_interior_span(void)
{
    bad_free(shifted(200000, 65536));
}
static void free_interior_range(void)
{
    bad_free(shifted(5000000, 1 << 20));
}
static void free_tail(void)
{
    char *volatile p = malloc(48), *volatile near = malloc(300);
    char *volatile tail = (char *)((uintptr_t)p & ~(uintptr_t)65535) + 65520;
    free(tail);
    is_harmed = malloc(48) == (void *)tail;
    (void)near;
}
static void free_never_allocated(void)
{
    char *volatile p = malloc(64);
    free(p + malloc_usable_size(p)); /* the next block's start, as it may be */
    go_on(64);
}
static void free_stack(void)
{
    char local[256];
    bad_free((char *)((uintptr_t)(local + 63) & ~(uintptr_t)15));
}
static void free_static(void)
{
    static char block[256] __attribute__((aligned(64)));
    bad_free(block + 64);
}
static void free_code(void)
{
    bad_free((void *)(uintptr_t)free_code);
}
static void free_wild(void)
{
    bad_free((void *)0x12345670);
}
static void free_not_canonical(void)
{
    bad_free((void *)0x6b6b6b6b6b6b6b60);
}
static void free_high(void)
{
    bad_free((void *)(UINTPTR_MAX - 15));
}
static void free_small_number(void)
{
    bad_free((void *)16);
}
static void free_mapping(void)
{
    char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bad_free(p + 4096);
}
static void heap_twice(void)
{
    struct hak_heap *heap = heap_create();
    heap_destroy(heap);
    heap_destroy(heap);
}
static void heap_block_after(void)
{
    struct hak_heap *heap = heap_create();
    void *p = heap_malloc(heap, 64);
    heap_destroy(heap);
    bad_free(p);
}
static void heap_block_twice(void)
{
    struct hak_heap *heap = heap_create();
    void *kept = heap_malloc(heap, 64), *p = heap_malloc(heap, 64);
    (void)kept;
    free(p);
    bad_free(p);
}
static void heap_block_realloc(void)
{
    heap_realloc(heap_create(), heap_malloc(heap_create(), 64), 5000);
}
static void two(size_t size)
{
    char *volatile p = between(size);
    free(p);
    free(p);
    go_on(size);
}
static void two_delayed(size_t size)
{
    char *volatile p = between(size), *volatile q[100];
    for (int i = 0; i < 100; i++) {
        q[i] = malloc(size);
    }
    free(p);
    for (int i = 0; i < 100; i++) {
        free(q[i]);
    }
    free(p);
    go_on(size);
}
static void two_interleaved(size_t size)
{
    char *volatile p = malloc(size), *volatile q = malloc(size);
    free(p);
    free(q);
    free(p);
    go_on(size);
}
static void two_threads(size_t size)
{
    char *volatile p = between(size);
    in_thread(free_it, p);
    free(p);
    go_on(size);
}
static void inside(size_t size)
{
    char *volatile p = between(size);
    free(p + (size / 2 + 15 & ~(size_t)15));
    go_on(size);
}
static void unaligned(size_t size)
{
    char *volatile p = between(size);
    free(p + 1);
    go_on(size);
}
static void before(size_t size)
{
    char *volatile p = between(size);
    free(p - 16);
    go_on(size);
}
static void two_by_realloc(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 0);
    (void)q;
    free(p);
    go_on(size);
}
static void two_by_delete(size_t size)
{
    char *volatile p = _Znwm(size);
    _ZdlPv(p);
    _ZdlPv(p);
    go_on(size);
}
static void near_it(size_t size)
{
    char *volatile p = between(size);
    free(p + MIB);
    go_on(size);
}
static void far_from_it(size_t size)
{
    char *volatile p = between(size);
    free(p + 1024 * MIB);
    go_on(size);
}
static void empty_twice(size_t size)
{
    (void)size;
    char *volatile p = malloc(0);
    free(p);
    free(p);
}
static void two_and_end(size_t size)
{
    char *volatile p = between(size), *volatile q = malloc(size);
    free(p);
    free(q);
    free(p);
}
static void two_threads_and_end(size_t size)
{
    char *volatile p = between(size);
    in_thread(free_it, p);
    free(p);
}
static void two_other_threads(size_t size)
{
    char *volatile p = between(size);
    in_thread(free_it, p);
    in_thread(free_it, p);
    go_on(size);
}
/* By who had it before, and has it no more: if it is another's by now. */
static void two_reallocated(size_t size)
{
    char *volatile p = between(size);
    free(p);
    for (int i = 0; i < 20; i++) {
        char *volatile q = malloc(size);
        memset(q, 'q', size);
    }
    free(p);
    go_on(size);
}
static void *moved_from;
static void two_after_move(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 4 * size);
    moved_from = p;
    free(q);
    free(moved_from);
    go_on(size);
}
static void page_behind_it(size_t size)
{
    char *volatile p = between(size);
    free(p + 4096);
    go_on(size);
}
static void page_before_it(size_t size)
{
    char *volatile p = between(size);
    free(p - 4096);
    go_on(size);
}

const struct kind misuse_frees[] = {
    {"twice_in_a_row", "a block freed twice in a row", twice_in_a_row, 0},
    {"twice_after_one", "freed twice, another one in between", twice_after_one, 0},
    {"twice_after_many", "freed twice, a hundred others in between", twice_after_many, 0},
    {"twice_after_purge", "freed twice, `malloc_trim` in between", twice_after_purge, 0},
    {"twice_reused", "freed, handed out again, freed by both", twice_reused, 0},
    {"twice_mid", "20,000 bytes freed twice in a row", twice_mid, 0},
    {"twice_mid_after_one", "20,000 bytes freed twice, another one in between", twice_mid_after_one,
     0},
    {"twice_span", "200,000 bytes freed twice in a row", twice_span, 0},
    {"twice_span_after_one", "200,000 bytes freed twice, another one in between",
     twice_span_after_one, 0},
    {"twice_range", "5 MB freed twice", twice_range, 0},
    {"twice_huge", "200 MiB freed twice", twice_huge, 0},
    {"twice_two_threads", "freed by another thread, and by its own", twice_two_threads, 0},
    {"twice_other_threads", "freed twice by another thread", twice_other_threads, 0},
    {"free_interior", "`free` of an address 16 bytes into a block", free_interior, 0},
    {"free_unaligned", "`free` one byte into a block", free_unaligned, 0},
    {"free_interior_mid", "`free` 4,096 into 5,000 bytes", free_interior_mid, 0},
    {"free_interior_span", "`free` 64 KiB into 200,000 bytes", free_interior_span, 0},
    {"free_interior_range", "`free` 1 MiB into 5 MB", free_interior_range, 0},
    {"free_tail", "`free` behind a slab's last block", free_tail, 0},
    {"free_never_allocated", "`free` of the start of a block that was not handed out",
     free_never_allocated, 0},
    {"free_stack", "`free` of the stack", free_stack, 0},
    {"free_static", "`free` of a static variable", free_static, 0},
    {"free_code", "`free` of a function", free_code, 0},
    {"free_wild", "`free` of an address where nothing is", free_wild, 0},
    {"free_not_canonical", "`free` of an address that cannot be", free_not_canonical, 0},
    {"free_high", "`free` of an address at the end of memory", free_high, 0},
    {"free_small_number", "`free` of 16", free_small_number, 0},
    {"free_mapping", "`free` of the program's own mapping", free_mapping, 0},
    {"heap_twice", "a first-class heap destroyed twice", heap_twice, 2},
    {"heap_block_after", "`free` of a destroyed heap's block", heap_block_after, 2},
    {"heap_block_twice", "a heap's block freed twice", heap_block_twice, 2},
    {"heap_block_realloc", "`hak_heap_realloc` of another heap's block", heap_block_realloc, 2},
    {NULL, NULL, NULL, 0},
};

const struct sized_kind misuse_sized_frees[] = {
    {"two", "freed twice in a row", two, 0},
    {"two_delayed", "freed twice, 100 others in between", two_delayed, 0},
    {"two_interleaved", "freed twice, another one in between", two_interleaved, 0},
    {"two_threads", "freed by two threads", two_threads, 0},
    {"inside", "`free` of its middle", inside, 0},
    {"unaligned", "`free` 1 byte into it", unaligned, 0},
    {"before", "`free` of 16 bytes before it", before, 0},
    {"two_by_realloc", "freed by `realloc` to 0, and by `free`", two_by_realloc, 0},
    {"two_by_delete", "deleted twice", two_by_delete, 1},
    {"near_it", "`free` of 1 MiB behind its start", near_it, 0},
    {"far_from_it", "`free` of 1 GiB behind its start", far_from_it, 0},
    {"empty_twice", "a block of 0 bytes freed twice", empty_twice, 4},
    {"two_and_end", "freed twice, another one in between, and the program ends", two_and_end, 0},
    {"two_threads_and_end", "freed by two threads, and the program ends", two_threads_and_end, 0},
    {"two_other_threads", "freed by two other threads", two_other_threads, 0},
    {"two_reallocated", "freed twice, 20 allocated in between", two_reallocated, 0},
    {"two_after_move", "freed where `realloc` moved it from", two_after_move, 0},
    {"page_behind_it", "`free` of 4,096 bytes behind its start", page_behind_it, 0},
    {"page_before_it", "`free` of 4,096 bytes before its start", page_before_it, 0},
    {NULL, NULL, NULL, 0},
};
