/* What callers say of blocks: realloc, malloc_usable_size, deletes that name size, alignment or
   family, and requests that cannot be met. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "misuse_kinds.h"

static volatile size_t seen_size;

static void realloc_freed(void)
{
    bad_realloc(freed(64), 60);
}
static void realloc_freed_and_grow(void)
{
    bad_realloc(freed(64), 600);
}
static void realloc_freed_after_one(void)
{
    char *volatile other = malloc(64);
    void *p = freed(64);
    free(other);
    bad_realloc(p, 60);
}
static void realloc_freed_span(void)
{
    bad_realloc(freed(200000), 190000);
}
static void realloc_interior(void)
{
    bad_realloc(shifted(3000, 1008), 2900);
}
static void realloc_interior_span(void)
{
    bad_realloc(shifted(200000, 65536), 300000);
}
static void realloc_wild(void)
{
    bad_realloc((void *)0x12345670, 60);
}
static void size_freed(void)
{
    seen_size = malloc_usable_size(freed(64));
}
static void size_interior(void)
{
    seen_size = malloc_usable_size(shifted(3000, 1008));
}
static void size_wild(void)
{
    seen_size = malloc_usable_size((void *)0x12345670);
}
static void delete_wrong_size(void)
{
    _ZdlPvm(malloc(64), 5000);
    go_on(64);
}
static void realloc_freed_of(size_t size)
{
    char *volatile p = freed_between(size);
    bad_realloc(p, size - 1);
}
static void size_freed_of(size_t size)
{
    seen_size = malloc_usable_size(freed_between(size));
}
static void usable_is_more(size_t size)
{
    char *volatile p = malloc(size);
    seen_size = malloc_usable_size(p);
    is_harmed = seen_size > size;
}
static void wrong_sized(size_t size)
{
    _ZdlPvm(_Znwm(size), size - 1);
    go_on(size);
}
static void wrong_free_sized(size_t size)
{
    free_sized_(malloc(size), size - 1);
    go_on(size);
}
static void wrong_alignment(size_t size)
{
    char *volatile p = _Znwm(size), *volatile q = _Znwm(size);
    _ZdlPvSt11align_val_t((uintptr_t)p % 65536 ? p : q, 65536);
    go_on(size);
}
static void delete_of_malloc(size_t size)
{
    _ZdlPv(malloc(size));
    go_on(size);
}
static void free_of_new(size_t size)
{
    free(_Znwm(size));
    go_on(size);
}
static void delete_of_array(size_t size)
{
    _ZdlPv(_Znam(size));
    go_on(size);
}
static void array_delete_of_new(size_t size)
{
    _ZdaPv(_Znwm(size));
    go_on(size);
}
static void realloc_of_new(size_t size)
{
    char *volatile p = realloc(_Znwm(size), 2 * size);
    free(p);
}
static void realloc_inside(size_t size)
{
    char *volatile p = between(size);
    bad_realloc(p + (size / 2 + 15 & ~(size_t)15), size);
}
static void realloc_unaligned(size_t size)
{
    char *volatile p = between(size);
    bad_realloc(p + 1, size);
}
static void size_inside(size_t size)
{
    char *volatile p = between(size);
    seen_size = malloc_usable_size(p + (size / 2 + 15 & ~(size_t)15));
}
static void size_unaligned(size_t size)
{
    char *volatile p = between(size);
    seen_size = malloc_usable_size(p + 1);
}
static void larger_sized(size_t size)
{
    _ZdlPvm(_Znwm(size), 2 * size);
    go_on(size);
}
static void wrong_array_sized(size_t size)
{
    _ZdaPvm(_Znam(size), size - 1);
    go_on(size);
}
static void wrong_aligned_sized(size_t size)
{
    free_aligned_sized_(aligned_alloc(64, (size + 63) & ~(size_t)63), 64, size - 1);
    go_on(size);
}
/* Requests that no memory has: harmed if one is met. */
static void calloc_too_much(size_t size)
{
    (void)size;
    is_harmed = calloc(SIZE_MAX / 2, 3) != NULL || calloc(SIZE_MAX, SIZE_MAX) != NULL;
}
static void reallocarray_too_much(size_t size)
{
    (void)size;
    is_harmed = reallocarray(NULL, SIZE_MAX / 8 + 2, 8) != NULL;
}
static void negative_sizes(size_t size)
{
    (void)size;
    is_harmed = malloc((size_t)-1) || malloc((size_t)-4096) || realloc(malloc(10), (size_t)-100) ||
                calloc(1, (size_t)PTRDIFF_MAX + 1) || aligned_alloc(16, (size_t)-16) ||
                pvalloc((size_t)-100) || valloc((size_t)-1);
}
static void bad_alignments(size_t size)
{
    (void)size;
    void *p = NULL;
    is_harmed = posix_memalign(&p, 24, 10) != EINVAL || posix_memalign(&p, 4, 10) != EINVAL ||
                posix_memalign(&p, 0, 10) != EINVAL || memalign((size_t)1 << 63, 100) ||
                aligned_alloc((size_t)1 << 62, 100);
}
static void larger_by_one(size_t size)
{
    _ZdlPvm(_Znwm(size), size + 1);
    go_on(size);
}

const struct kind misuse_sizes[] = {
    {"realloc_freed", "`realloc` of a freed block, smaller", realloc_freed, 0},
    {"realloc_freed_and_grow", "`realloc` of a freed block, larger", realloc_freed_and_grow, 0},
    {"realloc_freed_after_one", "`realloc` of a freed block, another freed since",
     realloc_freed_after_one, 0},
    {"realloc_freed_span", "`realloc` of freed 200,000 bytes", realloc_freed_span, 0},
    {"realloc_interior", "`realloc` 1,008 into 3,000 bytes", realloc_interior, 0},
    {"realloc_interior_span", "`realloc` 64 KiB into 200,000 bytes", realloc_interior_span, 0},
    {"realloc_wild", "`realloc` of an address where nothing is", realloc_wild, 0},
    {"size_freed", "`malloc_usable_size` of a freed block", size_freed, 0},
    {"size_interior", "`malloc_usable_size` 1,008 into 3,000 bytes", size_interior, 0},
    {"size_wild", "`malloc_usable_size` of an address where nothing is", size_wild, 0},
    {"delete_wrong_size", "`operator delete` with a larger size", delete_wrong_size, 1},
    {NULL, NULL, NULL, 0},
};

const struct sized_kind misuse_sized_sizes[] = {
    {"realloc_freed", "`realloc` after free", realloc_freed_of, 0},
    {"size_freed", "`malloc_usable_size` after free", size_freed_of, 0},
    {"usable", "`malloc_usable_size` allows more than was asked for", usable_is_more, 0},
    {"wrong_sized", "`operator delete` with a size less by 1", wrong_sized, 1},
    {"wrong_free_sized", "`free_sized` with a size less by 1", wrong_free_sized, 3},
    {"wrong_alignment", "`operator delete` with an alignment that it has not", wrong_alignment, 1},
    {"delete_of_malloc", "`malloc`, then `delete`", delete_of_malloc, 1},
    {"free_of_new", "`new`, then `free`", free_of_new, 1},
    {"delete_of_array", "`new[]`, then `delete`", delete_of_array, 1},
    {"array_delete_of_new", "`new`, then `delete[]`", array_delete_of_new, 1},
    {"realloc_of_new", "`new`, then `realloc`", realloc_of_new, 1},
    {"realloc_inside", "`realloc` of its middle", realloc_inside, 0},
    {"realloc_unaligned", "`realloc` 1 byte into it", realloc_unaligned, 0},
    {"size_inside", "`malloc_usable_size` of its middle", size_inside, 0},
    {"size_unaligned", "`malloc_usable_size` 1 byte into it", size_unaligned, 0},
    {"larger_sized", "`operator delete` with twice its size", larger_sized, 1},
    {"wrong_array_sized", "`operator delete[]` with a size less by 1", wrong_array_sized, 1},
    {"wrong_aligned_sized", "`free_aligned_sized` with a size less by 1", wrong_aligned_sized, 3},
    {"calloc_too_much", "`calloc` of more than there can be", calloc_too_much, 4},
    {"reallocarray_too_much", "`reallocarray` of more than there can be", reallocarray_too_much, 4},
    {"negative_sizes", "negative numbers as sizes", negative_sizes, 4},
    {"bad_alignments", "alignments that are none", bad_alignments, 4},
    {"larger_by_1", "`operator delete` with a size more by 1", larger_by_one, 1},
    {NULL, NULL, NULL, 0},
};
