/* Zeroing and looking. Called by small.c and large.c. */
#include "secure/zero.h"

#include <stdint.h>
#include <string.h>

#if HAK_SECURE

/* Not aligned: the last vector may overlap the one before. */
typedef uint64_t four __attribute__((vector_size(32), aligned(8), may_alias));
#define AT_ONCE 8

/* Compiled twice, for every processor and for those with AVX2. */
static HAK_ALWAYS_INLINE int look(const void *p, size_t n)
{
    const four *at = (const four *)p;
    const four *last = (const four *)(const void *)((const char *)p + n) - 1;
    for (; last - at >= AT_ONCE; at += AT_ONCE) {
        four some = ((at[0] | at[1]) | (at[2] | at[3])) | ((at[4] | at[5]) | (at[6] | at[7]));
        if (some[0] | some[1] | some[2] | some[3]) {
            return 0;
        }
    }
    four rest = *last;
    for (; at < last; at++) {
        rest |= *at;
    }
    return !(rest[0] | rest[1] | rest[2] | rest[3]);
}

static HAK_NOINLINE int look_anywhere(const void *p, size_t n)
{
    return look(p, n);
}

#if defined(__x86_64__)
static int has_avx2;

static HAK_NOINLINE __attribute__((target("avx2"))) int look_by_avx2(const void *p, size_t n)
{
    return look(p, n);
}

void hak_secure_zero_start(void)
{
    __builtin_cpu_init();
    has_avx2 = __builtin_cpu_supports("avx2") != 0;
}

int hak_secure_is_zero(const void *p, size_t n)
{
    return HAK_LIKELY(has_avx2) ? look_by_avx2(p, n) : look_anywhere(p, n);
}
#else
void hak_secure_zero_start(void)
{
}

int hak_secure_is_zero(const void *p, size_t n)
{
    return look_anywhere(p, n);
}
#endif

static int is_zero(const char *p, size_t n)
{
    if (n >= ZERO_SHORT) {
        return hak_secure_is_zero(p, n);
    }
    const uint64_t *at = (const uint64_t *)(const void *)p;
    uint64_t any = 0;
    for (size_t i = 0; i < n / sizeof *at; i++) {
        any |= at[i];
    }
    return !any;
}

void hak_secure_zero(void *p, size_t n)
{
    char *at = (char *)p, *end = at + n;
    if (n < LOOK_FIRST) {
        memset(p, 0, n);
        return;
    }
    while (at < end) {
        size_t piece = LOOK_FIRST - (uintptr_t)at % LOOK_FIRST, left = (size_t)(end - at);
        piece = piece < left ? piece : left;
        if (!is_zero(at, piece)) {
            memset(at, 0, piece);
        }
        at += piece;
    }
}

#endif
