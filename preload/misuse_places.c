/* Where blocks lie: what comes back, how soon, and what a stranger can know of it. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "misuse_kinds.h"

static void reused_at_once(size_t size)
{
    char *volatile p = malloc(size);
    free(p);
    char *volatile q = malloc(size);
    is_harmed = p == q;
}
#define N_PLACES 16

static void take(char **places, size_t size)
{
    for (int i = 0; i < N_PLACES; i++) {
        places[i] = malloc(size);
    }
}
/* Each lies as far from the last as that from the one before. */
static void in_a_row(size_t size)
{
    char *places[N_PLACES];
    take(places, size);
    is_harmed = 1;
    for (int i = 2; i < N_PLACES; i++) {
        is_harmed &= places[i] - places[i - 1] == places[i - 1] - places[i - 2];
    }
}
/* What was freed last comes first. */
static void last_comes_first(size_t size)
{
    char *places[N_PLACES], *again[N_PLACES];
    take(places, size);
    for (int i = 0; i < N_PLACES; i++) {
        free(places[i]);
    }
    take(again, size);
    is_harmed = 1;
    for (int i = 0; i < N_PLACES; i++) {
        is_harmed &= again[i] == places[N_PLACES - 1 - i];
    }
}
static void reused_soon(size_t size)
{
    char *volatile p = malloc(size);
    free(p);
    for (int i = 0; i < 10; i++) {
        is_harmed |= malloc(size) == (void *)p;
    }
}
/* A freed block's address lies in one of another size. */
static void other_size(size_t size)
{
    char *volatile p = malloc(size);
    free(p);
    for (int i = 0; i < (size > 100000 ? 20 : 1000); i++) {
        char *volatile q = malloc(size / 2 + 1);
        is_harmed |= (uintptr_t)p - (uintptr_t)q < size / 2 + 1;
        q = malloc(2 * size);
        is_harmed |= (uintptr_t)p - (uintptr_t)q < 2 * size;
    }
}
/* A forked child is served what its parent is, one for one. */
static void same_in_child(size_t size)
{
    char *mine[N_PLACES], *its[N_PLACES];
    int ends[2];
    for (int i = 0; i < 100; i++) {
        char *volatile p = malloc(size);
        free(p);
    }
    (void)pipe(ends);
    if (fork() == 0) {
        take(its, size);
        _exit(write(ends[1], its, sizeof its) != sizeof its);
    }
    take(mine, size);
    (void)read(ends[0], its, sizeof its);
    (void)wait(NULL);
    is_harmed = memcmp(mine, its, sizeof its) == 0;
}

const struct sized_kind misuse_sized_places[] = {
    {"reused_at_once", "handed out again at once", reused_at_once, 0},
    {"reused_soon", "handed out again, among the next ten", reused_soon, 0},
    {"last_comes_first", "freed last, handed out first, of 16", last_comes_first, 0},
    {"in_a_row", "16 that lie in a row", in_a_row, 0},
    {"other_size", "freed, and part of one of another size", other_size, 0},
    {"same_in_child", "a forked child is served the same ones", same_in_child, 0},
    {NULL, NULL, NULL, 0},
};
