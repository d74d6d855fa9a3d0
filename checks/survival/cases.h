/* A program of cases. `PROGRAM CASE [N]` runs one and ends with "survived"; N is how often it
   repeats its work. Without arguments it prints the names. A case that finds something wrong says
   where and ends the process with 1, as does a program whose blocks hakmem does not serve, or whose
   hak_verify() finds anything. Nothing here allocates. */
#ifndef HAKMEM_CHECKS_SURVIVAL_CASES_H
#define HAKMEM_CHECKS_SURVIVAL_CASES_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif
/* NULL unless hakmem serves malloc. */
extern int hak_owns(const void *p) __attribute__((weak));
extern int hak_verify(void) __attribute__((weak));
extern size_t hak_purge(void) __attribute__((weak));
#ifdef __cplusplus
}
#endif

struct test_case {
    const char *name;
    void (*run)(long n);
    /* How often, if the command line does not say: with SURVIVAL_FULL in the environment, and
       without. */
    long full, brief;
};

static inline void say(const char *text)
{
    (void)!write(2, text, strlen(text));
}

#define CASES_TEXT_(x) #x
#define CASES_TEXT(x)  CASES_TEXT_(x)
/* _exit: this may be a child, or a place where nothing else works. */
#define CHECK(e)                                                                                   \
    ((e) ? (void)0 : (say(__FILE__ ":" CASES_TEXT(__LINE__) ": not so: " #e "\n"), _exit(1)))

/* A block of `size` bytes with its own address in every word at both ends, and its check. */
static inline void *filled(size_t size)
{
    unsigned char *p = (unsigned char *)malloc(size);
    if (p) {
        size_t ends = size < 64 ? size : 64;
        memset(p, (int)((uintptr_t)p >> 4 & 0xFF), ends);
        memset(p + size - ends, (int)((uintptr_t)p >> 4 & 0xFF), ends);
    }
    return p;
}

static inline int is_filled(const void *block, size_t size)
{
    const unsigned char *p = (const unsigned char *)block;
    size_t ends = size < 64 ? size : 64;
    for (size_t i = 0; i < ends; i++) {
        if (p[i] != ((uintptr_t)p >> 4 & 0xFF) || p[size - 1 - i] != ((uintptr_t)p >> 4 & 0xFF)) {
            return 0;
        }
    }
    return 1;
}

static inline uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Mostly small, at times up to 2 MiB. */
static inline size_t random_size(uint64_t *state)
{
    uint32_t r = next_random(state);
    return 1 + next_random(state) % (r % 100 == 0 ? 2u << 20 : r % 10 == 0 ? 40000 : 500);
}

/* Blocks of all kinds come and go; fails if one cannot be had or does not hold. */
static inline void use_malloc(uint64_t seed, int rounds)
{
    enum { N = 64 };
    void *blocks[N] = {NULL};
    size_t sizes[N] = {0};
    for (int i = 0; i < rounds; i++) {
        uint32_t k = next_random(&seed) % N;
        CHECK(!blocks[k] || is_filled(blocks[k], sizes[k]));
        free(blocks[k]);
        sizes[k] = random_size(&seed);
        blocks[k] = filled(sizes[k]);
        CHECK(blocks[k]);
    }
    for (int k = 0; k < N; k++) {
        free(blocks[k]);
    }
}

/* What must hold at the end of every case, and in every child. A program with a malloc of its own
   defines SURVIVAL_OWN_MALLOC. */
static inline void check_heap(void)
{
    CHECK(hak_owns && hak_verify);
#ifndef SURVIVAL_OWN_MALLOC
    void *volatile p = malloc(100);
    CHECK(p && hak_owns(p));
    free(p);
#endif
    CHECK(hak_verify() == 0);
}

static inline int run_cases(int argc, char **argv, const struct test_case *cases)
{
    for (; cases->name; cases++) {
        if (argc < 2) {
            puts(cases->name);
        } else if (strcmp(argv[1], cases->name) == 0) {
            cases->run(argc > 2                  ? atol(argv[2])
                       : getenv("SURVIVAL_FULL") ? cases->full
                                                 : cases->brief);
            check_heap();
            puts("survived");
            return 0;
        }
    }
    return argc < 2 ? 0 : 2;
}

#endif
