/* Zeroing and looking. Called by small.c, large.c and pages.c. */
#include "secure/zero.h"

#include <stdint.h>

#if HAK_SECURE

/* For every processor. */
#define WIDE(name) name##_anywhere
#define WIDE_ANY   WIDE_ANY_BY_WORDS
#include "secure/wide.h"

static HAK_NOINLINE int look_anywhere(const void *p, size_t n)
{
    return is_zero_anywhere(p, n);
}

static HAK_NOINLINE void zero_anywhere(void *p, size_t n)
{
    clear_anywhere(p, n);
}

#if defined(__x86_64__)
int hak_secure_has_avx2;

WIDE_BEGIN_AVX2
#undef WIDE
#undef WIDE_ANY
#define WIDE(name) name##_by_avx2
#define WIDE_ANY   WIDE_ANY_BY_AVX2
#include "secure/wide.h"

static HAK_NOINLINE int look_by_avx2(const void *p, size_t n)
{
    return is_zero_by_avx2(p, n);
}

static HAK_NOINLINE void zero_by_avx2(void *p, size_t n)
{
    clear_by_avx2(p, n);
}
WIDE_END_AVX2

void hak_secure_zero_start(void)
{
    __builtin_cpu_init();
    hak_secure_has_avx2 = __builtin_cpu_supports("avx2") != 0;
}

int hak_secure_is_zero(const void *p, size_t n)
{
    return HAK_LIKELY(hak_secure_has_avx2) ? look_by_avx2(p, n) : look_anywhere(p, n);
}

void hak_secure_zero(void *p, size_t n)
{
    HAK_LIKELY(hak_secure_has_avx2) ? zero_by_avx2(p, n) : zero_anywhere(p, n);
}
#else
void hak_secure_zero_start(void)
{
}

int hak_secure_is_zero(const void *p, size_t n)
{
    return look_anywhere(p, n);
}

void hak_secure_zero(void *p, size_t n)
{
    zero_anywhere(p, n);
}
#endif

#endif
