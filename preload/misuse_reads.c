/* Reads beside blocks, after their free, and before they are written. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "misuse_kinds.h"

static void read_freed(size_t size)
{
    is_harmed = holds(freed_between(size), 'p', size);
}
static void read_moved(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 3 * size);
    is_harmed = q != p && holds(p, 'p', size);
}
static void read_fresh(size_t size)
{
    char *volatile p[200];
    int n = size > 100000 ? 4 : 200;
    for (int i = 0; i < n; i++) {
        p[i] = malloc(size);
        memset(p[i], 'p', size);
    }
    for (int i = 0; i < n; i++) {
        free(p[i]);
    }
    for (int i = 0; i < n; i++) {
        is_harmed |= holds(malloc(size), 'p', size);
    }
}
struct three {
    char *volatile before, *volatile p, *volatile after;
    size_t size;
};
static struct three three(size_t size)
{
    struct three blocks = {malloc(size), malloc(size), malloc(size), size};
    memset(blocks.p, 'p', size);
    return blocks;
}
static void fill_neighbours(const struct three *blocks, int value)
{
    memset(blocks->before, value, blocks->size);
    memset(blocks->after, value, blocks->size);
}
/* So many bytes in a row, at most 16, have that value. */
static int has_run(const char *at, char value, size_t n)
{
    size_t wanted = n < 16 ? n : 16, run = 0;
    is_touching = 1;
    for (size_t i = 0; i < n && run < wanted; i++) {
        seen = at[i];
        run = seen == value ? run + 1 : 0;
    }
    is_touching = 0;
    return run == wanted;
}
/* Harmed if they are a neighbour's: they change as that does. */
static void look_beside(const struct three *blocks, const char *at, size_t n)
{
    fill_neighbours(blocks, 'n');
    int was = has_run(at, 'n', n);
    fill_neighbours(blocks, 'm');
    is_harmed = was && has_run(at, 'm', n);
}
static void look_behind(size_t size, size_t n)
{
    struct three blocks = three(size);
    look_beside(&blocks, blocks.p + size, n);
}
static void look_before(size_t size, size_t n)
{
    struct three blocks = three(size);
    look_beside(&blocks, blocks.p - n, n);
}
static void over_read_1(size_t size)
{
    look_behind(size, 1);
}
static void over_read_8(size_t size)
{
    look_behind(size, 8);
}
static void over_read_page(size_t size)
{
    look_behind(size, 4096);
}
static void over_read_1m(size_t size)
{
    look_behind(size, MIB);
}
static void under_read_1(size_t size)
{
    look_before(size, 1);
}
static void under_read_8(size_t size)
{
    look_before(size, 8);
}
static void under_read_page(size_t size)
{
    look_before(size, 4096);
}
static void under_read_1m(size_t size)
{
    look_before(size, MIB);
}
/* A string without an end: where it ends. */
static void string_read(size_t size)
{
    struct three blocks = three(size);
    fill_neighbours(&blocks, 'n');
    is_touching = 1;
    size_t length = strlen(blocks.p);
    is_harmed = memchr(blocks.p, 'n', length) != NULL && length >= size + 16;
    is_touching = 0;
}
static void read_freed_delayed(size_t size)
{
    is_harmed = holds(freed_long_ago(size), 'p', size);
}
/* What realloc adds to a block, after others had it. */
static void read_grown(size_t size)
{
    char *volatile p[50];
    int n = size > 100000 ? 4 : 50;
    for (int i = 0; i < n; i++) {
        p[i] = malloc(2 * size);
        memset(p[i], 'p', 2 * size);
    }
    for (int i = 0; i < n; i++) {
        free(p[i]);
    }
    for (int i = 0; i < n; i++) {
        char *volatile q = realloc(malloc(size), 2 * size);
        is_harmed |= holds(q + size, 'p', size);
    }
}
/* Of 0 bytes; `size` is not used. */
static void empty_read(size_t size)
{
    (void)size;
    char *volatile p = malloc(0);
    is_touching = 1;
    seen = *p;
    is_touching = 0;
}
/* Others have written to it since. */
static void read_freed_reused(size_t size)
{
    char *volatile p = freed_between(size);
    for (int i = 0; i < 10; i++) {
        memset(malloc(size), 'q', size);
    }
    is_harmed = holds(p, 'q', size);
}
static void read_cut_off(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, size / 2);
    is_harmed = holds(q + size / 2, 'p', size - size / 2);
}
/* It grows again to where it was. */
static void read_cut_and_grown(size_t size)
{
    char *volatile p = between(size);
    p = realloc(p, size / 2);
    p = realloc(p, size);
    is_harmed = holds(p + size / 2, 'p', size - size / 2);
}
static void over_read_32(size_t size)
{
    look_behind(size, 32);
}
static void under_read_32(size_t size)
{
    look_before(size, 32);
}

const struct sized_kind misuse_sized_reads[] = {
    {"read_freed", "read after free", read_freed, 0},
    {"read_moved", "read after realloc moved it", read_moved, 0},
    {"read_fresh", "read before it is written, after others had it", read_fresh, 0},
    {"over_read_1", "1 byte read behind", over_read_1, 0},
    {"over_read_8", "8 bytes read behind", over_read_8, 0},
    {"over_read_page", "4,096 bytes read behind", over_read_page, 0},
    {"over_read_1m", "1 MiB read behind", over_read_1m, 0},
    {"under_read_1", "1 byte read before", under_read_1, 0},
    {"under_read_8", "8 bytes read before", under_read_8, 0},
    {"under_read_page", "4,096 bytes read before", under_read_page, 0},
    {"under_read_1m", "1 MiB read before", under_read_1m, 0},
    {"string_read", "a string without an end read", string_read, 0},
    {"read_freed_delayed", "read after free, 100 others freed since", read_freed_delayed, 0},
    {"read_grown", "what `realloc` adds is read, after others had it", read_grown, 0},
    {"empty_read", "a block of 0 bytes read", empty_read, 4},
    {"read_freed_reused", "read after free, others written since", read_freed_reused, 0},
    {"read_cut_off", "what `realloc` has cut off is read", read_cut_off, 0},
    {"read_cut_and_grown", "cut by `realloc`, grown again, and read", read_cut_and_grown, 0},
    {"over_read_32", "32 bytes read behind", over_read_32, 0},
    {"under_read_32", "32 bytes read before", under_read_32, 0},
    {NULL, NULL, NULL, 0},
};
