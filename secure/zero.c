/* Zeroing and looking. Called by small.c, large.c and pages.c. */
#include "secure/zero.h"

#if HAK_SECURE

#define hak_secure_wide(name) name##_anywhere
#define WIDE_VECTOR           wide_32
#define WIDE_ANY              WIDE_ANY_BY_WORDS
#include "secure/wide.h"

static HAK_NOINLINE int look_anywhere(const void *p, size_t n)
{
    return is_zero_anywhere(p, n);
}

static HAK_NOINLINE void zero_anywhere(void *p, size_t n)
{
    (void)clear_anywhere(p, n);
}

#if defined(__x86_64__)
enum wide_set hak_secure_wide_set;

WIDE_BEGIN_AVX2
#define hak_secure_wide(name) name##_avx2
#define WIDE_VECTOR           wide_32
#define WIDE_ANY              WIDE_ANY_BY_AVX2
#include "secure/wide.h"

static HAK_NOINLINE int look_by_avx2(const void *p, size_t n)
{
    return is_zero_avx2(p, n);
}

static HAK_NOINLINE void zero_by_avx2(void *p, size_t n)
{
    (void)clear_avx2(p, n);
}
WIDE_END

WIDE_BEGIN_AVX512
#define hak_secure_wide(name) name##_avx512
#define WIDE_VECTOR           wide_64
#define WIDE_ANY              WIDE_ANY_BY_AVX512
#include "secure/wide.h"

static HAK_NOINLINE int look_by_avx512(const void *p, size_t n)
{
    return is_zero_avx512(p, n);
}

static HAK_NOINLINE void zero_by_avx512(void *p, size_t n)
{
    (void)clear_avx512(p, n);
}
WIDE_END

/* Processors that have VBMI2 do not become slower for vectors of 64 bytes. */
void hak_secure_zero_start(void)
{
    __builtin_cpu_init();
    int has_512 = __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2");
    hak_secure_wide_set = !__builtin_cpu_supports("avx2") ? WIDE_FOR_ALL
                          : !has_512                      ? WIDE_AVX2
                                                          : WIDE_AVX512;
}

int hak_secure_is_zero(const void *p, size_t n)
{
    return HAK_LIKELY(hak_secure_wide_set == WIDE_AVX512) ? look_by_avx512(p, n)
           : hak_secure_wide_set == WIDE_AVX2             ? look_by_avx2(p, n)
                                                          : look_anywhere(p, n);
}

void hak_secure_zero(void *p, size_t n)
{
    if (HAK_LIKELY(hak_secure_wide_set == WIDE_AVX512)) {
        zero_by_avx512(p, n);
    } else if (hak_secure_wide_set == WIDE_AVX2) {
        zero_by_avx2(p, n);
    } else {
        zero_anywhere(p, n);
    }
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
