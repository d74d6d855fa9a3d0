/* Writes behind and before blocks, and after their free. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "misuse_kinds.h"

/* One byte behind a block of which all is used, with a used block behind it. */
static void overflow_by_one(void)
{
    char *volatile p = malloc(64), *volatile q = malloc(64);
    p[malloc_usable_size(p)] = 0x41;
    free(q);
    free(p);
    go_on(64);
}
/* Over the first word of the blocks behind it, which are free. */
static void overflow_into_free(void)
{
    char *volatile p[4];
    for (int i = 0; i < 4; i++) {
        p[i] = malloc(64);
    }
    size_t usable = malloc_usable_size(p[0]);
    for (int i = 1; i < 4; i++) {
        free(p[i]);
    }
    memset(p[0] + usable, 'A', 32 + 2 * usable);
    go_on(64);
}
static void underflow(void)
{
    char *volatile before = malloc(64), *volatile p = malloc(64);
    memset(p - 16, 'A', 16);
    (void)before;
    free(p);
    go_on(64);
}
static void use_after_free(int value, size_t from, size_t n)
{
    char *volatile p = freed(64);
    memset(p + from, value, n);
    go_on(64);
}
static void write_first_word(void)
{
    use_after_free('A', 0, 8);
}
static void write_second_word(void)
{
    use_after_free('A', 8, 8);
}
static void write_all(void)
{
    use_after_free('A', 0, 64);
}
static void write_zeros(void)
{
    use_after_free(0, 0, 64);
}
static void write_ones(void)
{
    use_after_free(0xFF, 0, 64);
}
static void write_address(void)
{
    static char target[256] __attribute__((aligned(64)));
    char *volatile p = freed(64), *volatile to = target;
    memcpy(p, (void *)&to, sizeof to);
    char *volatile q = malloc(64), *volatile r = malloc(64);
    is_harmed = q == target || r == target;
}
static void write_after_other_thread(void)
{
    char *volatile p = malloc(600);
    in_thread(free_it, p);
    memset(p, 'A', 600);
    for (int i = 0; i < 300; i++) {
        go_on(600);
        void *volatile kept = malloc(600);
        (void)kept;
    }
}
static void write_freed_mid(void)
{
    char *volatile p = freed(20000);
    memset(p, 'A', 20000);
    go_on(20000);
}
static void write_freed_span(void)
{
    char *volatile p = freed(200000);
    memset(p, 'A', 200000);
    go_on(200000);
}
static void over(size_t size, size_t n, int value)
{
    char *volatile p = between(size);
    touch(p + size, value, n);
    free(p);
    go_on(size);
}
static void under(size_t size, size_t n)
{
    char *volatile p = between(size);
    touch(p - n, 'A', n);
    free(p);
    go_on(size);
}
static void over_1(size_t size)
{
    over(size, 1, 'A');
}
static void over_nul(size_t size)
{
    over(size, 1, 0);
}
static void over_8(size_t size)
{
    over(size, 8, 'A');
}
static void over_32(size_t size)
{
    over(size, 32, 'A');
}
static void over_1m(size_t size)
{
    over(size, MIB, 'A');
}
static void under_1(size_t size)
{
    under(size, 1);
}
static void under_32(size_t size)
{
    under(size, 32);
}
static void under_1m(size_t size)
{
    under(size, MIB);
}
static void write_freed(size_t size, size_t at, size_t n)
{
    char *volatile p = freed_between(size);
    touch(p + at, 'A', n);
    go_on(size);
}
static void write_freed_start(size_t size)
{
    write_freed(size, 0, 8);
}
static void write_freed_middle(size_t size)
{
    write_freed(size, size / 2, 1);
}
static void write_freed_end(size_t size)
{
    write_freed(size, size - 1, 1);
}
static void write_freed_reuse(size_t size)
{
    char *volatile p = freed_between(size);
    touch(p + size / 2, 'A', 1);
    bring_round(size);
}
static void write_moved(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 3 * size);
    if (q != p) {
        touch(p + size / 2, 'A', 1);
    }
    go_on(size);
}
static void over_page(size_t size)
{
    over(size, 4096, 'A');
}
static void under_8(size_t size)
{
    under(size, 8);
}
static void under_page(size_t size)
{
    under(size, 4096);
}
/* A string that is longer by one than the block that it is copied to. */
static void over_string(size_t size)
{
    char *volatile p = between(size), *volatile text = malloc(2 * size);
    memset(text, 's', size);
    text[size] = 0;
    is_touching = 1;
    strcpy(p, text);
    is_touching = 0;
    free(p);
    go_on(size);
}
static void write_freed_delayed(size_t size)
{
    char *volatile p = freed_long_ago(size);
    touch(p + size / 2, 'A', 1);
    bring_round(size);
}
static void empty_write(size_t size)
{
    (void)size;
    char *volatile p = malloc(0);
    touch(p, 'A', 1);
    free(p);
}
/* The program ends, and does not use the heap again. */
static void over_and_end(size_t size)
{
    char *volatile p = malloc(size);
    touch(p + size, 'A', 8);
}
static void write_freed_and_end(size_t size)
{
    char *volatile p = freed_between(size);
    touch(p, 'A', size);
}
/* Text that is put together behind another one. */
static void over_appended(size_t size)
{
    char *volatile p = between(size);
    memset(p, 's', size - 1);
    p[size - 1] = 0;
    is_touching = 1;
    strcat(p, "1234567");
    is_touching = 0;
    free(p);
    go_on(size);
}
/* Moved up by eight bytes within itself. */
static void over_moved_up(size_t size)
{
    char *volatile p = between(size);
    is_touching = 1;
    memmove(p + 8, p, size);
    is_touching = 0;
    free(p);
    go_on(size);
}
static void over_realloc(size_t size)
{
    char *volatile p = between(size);
    touch(p + size, 'A', 8);
    p = realloc(p, 2 * size);
    free(p);
}
static void under_realloc(size_t size)
{
    char *volatile p = between(size);
    touch(p - 8, 'A', 8);
    p = realloc(p, 2 * size);
    free(p);
}
/* What realloc has cut off. */
static void write_cut_off(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, size / 2);
    touch(q + size / 2, 'A', 8);
    free(q);
    go_on(size);
}
static void empty_calloc_write(size_t size)
{
    (void)size;
    char *volatile p = calloc(0, 16);
    touch(p, 'A', 1);
    free(p);
}
static void empty_realloc_write(size_t size)
{
    (void)size;
    char *volatile p = realloc(NULL, 0);
    touch(p, 'A', 1);
    free(p);
}
static void empty_aligned_write(size_t size)
{
    (void)size;
    char *volatile p = aligned_alloc(64, 0);
    touch(p, 'A', 1);
    free(p);
}

const struct kind misuse_writes[] = {
    {"overflow_by_one", "a byte written behind a block, before one in use", overflow_by_one, 0},
    {"overflow_into_free", "written behind a block, over free ones", overflow_into_free, 0},
    {"underflow", "16 bytes written before a block", underflow, 0},
    {"write_first_word", "a freed block's first word written", write_first_word, 0},
    {"write_second_word", "a freed block's second word written", write_second_word, 0},
    {"write_all", "a freed block filled with text", write_all, 0},
    {"write_zeros", "a freed block filled with zeros", write_zeros, 0},
    {"write_ones", "a freed block filled with ones", write_ones, 0},
    {"write_address", "an address written into a freed block", write_address, 0},
    {"write_after_other_thread", "a block written to after another thread freed it",
     write_after_other_thread, 0},
    {"write_freed_mid", "20,000 freed bytes written to", write_freed_mid, 0},
    {"write_freed_span", "200,000 freed bytes written to", write_freed_span, 0},
    {NULL, NULL, NULL, 0},
};

const struct sized_kind misuse_sized_writes[] = {
    {"over_1", "1 byte written behind", over_1, 0},
    {"over_nul", "a 0 written behind", over_nul, 0},
    {"over_8", "8 bytes written behind", over_8, 0},
    {"over_32", "32 bytes written behind", over_32, 0},
    {"over_1m", "1 MiB written behind", over_1m, 0},
    {"under_1", "1 byte written before", under_1, 0},
    {"under_32", "32 bytes written before", under_32, 0},
    {"under_1m", "1 MiB written before", under_1m, 0},
    {"write_freed_start", "the start written after free", write_freed_start, 0},
    {"write_freed_middle", "a byte in the middle written after free", write_freed_middle, 0},
    {"write_freed_end", "the last byte written after free", write_freed_end, 0},
    {"write_freed_reuse", "written after free, many allocated since", write_freed_reuse, 0},
    {"write_moved", "written after realloc moved it", write_moved, 0},
    {"over_page", "4,096 bytes written behind", over_page, 0},
    {"over_string", "a string copied that is longer by its end", over_string, 0},
    {"under_8", "8 bytes written before", under_8, 0},
    {"under_page", "4,096 bytes written before", under_page, 0},
    {"write_freed_delayed", "written after free, 100 others freed since", write_freed_delayed, 0},
    {"empty_write", "a block of 0 bytes written", empty_write, 4},
    {"over_and_end", "8 bytes written behind, and the program ends", over_and_end, 0},
    {"write_freed_and_end", "written after free, and the program ends", write_freed_and_end, 0},
    {"over_appended", "a string appended to that fills it", over_appended, 0},
    {"over_moved_up", "moved up by 8 bytes within itself", over_moved_up, 0},
    {"over_realloc", "8 bytes written behind, then `realloc`", over_realloc, 0},
    {"under_realloc", "8 bytes written before, then `realloc`", under_realloc, 0},
    {"write_cut_off", "8 bytes written behind where `realloc` has cut it", write_cut_off, 0},
    {"empty_calloc_write", "a block of 0 bytes by `calloc` written", empty_calloc_write, 4},
    {"empty_realloc_write", "a block of 0 bytes by `realloc` written", empty_realloc_write, 4},
    {"empty_aligned_write", "a block of 0 bytes by `aligned_alloc` written", empty_aligned_write,
     4},
    {NULL, NULL, NULL, 0},
};
