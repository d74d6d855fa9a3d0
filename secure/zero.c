/* Zeroing and looking. Called by small.c, large.c and pages.c. */
#include "secure/zero.h"

#include <stdint.h>

#if HAK_SECURE

typedef uint64_t four __attribute__((vector_size(32), aligned(8), may_alias));
#define ZERO_BYTES ((size_t)256) /* eight of them */
/* From so many bytes on, pieces are looked at before they are written: lines, and pages, that
   no program wrote to stay clean. */
#define LOOK_FIRST ((size_t)1024)

/* 1 if any bit is set: for every processor, and for those with AVX. */
#define ANY_BY_WORDS(v) (((v)[0] | (v)[1] | (v)[2] | (v)[3]) != 0)
#define ANY_BY_AVX(v)   (!__builtin_ia32_ptestz256((quad)(v), (quad)(v)))

/* Half a piece from each of two places. No function: it would return what is passed on otherwise
   where there is no AVX. */
#define HALF(p)      (((p)[0] | (p)[1]) | ((p)[2] | (p)[3]))
#define ALL_OF(p, q) (HALF((const four *)(p)) | HALF((const four *)(q)))

static HAK_ALWAYS_INLINE void clear_both(void *p, void *q)
{
    four *a = (four *)p, *b = (four *)q;
    a[0] = a[1] = a[2] = a[3] = b[0] = b[1] = b[2] = b[3] = (four){0, 0, 0, 0};
}

/* Or gcc makes a call of memset from the loop. */
#define KEEP_LOOP(at) __asm__ volatile("" : "+r"(at))

/* What is compiled twice. Whole pieces, and the last one, which may overlap the one before; what is
   shorter than a piece, in two halves that may overlap. So few branches depend on the length. */
#define LOOK(p, n, ANY)                                                                            \
    const char *at = (const char *)(p),                                                            \
               *last = at + (n) - ((n) < ZERO_BYTES ? ZERO_BYTES / 2 : ZERO_BYTES);                \
    if ((n) < ZERO_BYTES) {                                                                        \
        four some = ALL_OF(at, last);                                                              \
        return !ANY(some);                                                                         \
    }                                                                                              \
    for (; at < last; at += ZERO_BYTES) {                                                          \
        four some = ALL_OF(at, at + ZERO_BYTES / 2);                                               \
        if (ANY(some)) {                                                                           \
            return 0;                                                                              \
        }                                                                                          \
    }                                                                                              \
    four rest = ALL_OF(last, last + ZERO_BYTES / 2);                                               \
    return !ANY(rest)

#define CLEAR(p, n, ANY)                                                                           \
    char *at = (char *)(p), *last = at + (n) - ((n) < ZERO_BYTES ? ZERO_BYTES / 2 : ZERO_BYTES);   \
    if ((n) < ZERO_BYTES) {                                                                        \
        clear_both(at, last);                                                                      \
        return;                                                                                    \
    }                                                                                              \
    if ((n) < LOOK_FIRST) {                                                                        \
        for (; at < last; at += ZERO_BYTES) {                                                      \
            clear_both(at, at + ZERO_BYTES / 2);                                                   \
            KEEP_LOOP(at);                                                                         \
        }                                                                                          \
        clear_both(last, last + ZERO_BYTES / 2);                                                   \
        return;                                                                                    \
    }                                                                                              \
    for (; at < last; at += ZERO_BYTES) {                                                          \
        four some = ALL_OF(at, at + ZERO_BYTES / 2);                                               \
        if (ANY(some)) {                                                                           \
            clear_both(at, at + ZERO_BYTES / 2);                                                   \
        }                                                                                          \
    }                                                                                              \
    four rest = ALL_OF(last, last + ZERO_BYTES / 2);                                               \
    if (ANY(rest)) {                                                                               \
        clear_both(last, last + ZERO_BYTES / 2);                                                   \
    }

static HAK_NOINLINE int look_anywhere(const void *p, size_t n)
{
    LOOK(p, n, ANY_BY_WORDS);
}

static HAK_NOINLINE void clear_anywhere(void *p, size_t n)
{
    CLEAR(p, n, ANY_BY_WORDS)
}

#if defined(__x86_64__)
static int has_avx2;

typedef long long quad __attribute__((vector_size(32)));

static HAK_NOINLINE __attribute__((target("avx2"))) int look_by_avx2(const void *p, size_t n)
{
    LOOK(p, n, ANY_BY_AVX);
}

static HAK_NOINLINE __attribute__((target("avx2"))) void clear_by_avx2(void *p, size_t n)
{
    CLEAR(p, n, ANY_BY_AVX)
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

void hak_secure_zero(void *p, size_t n)
{
    HAK_LIKELY(has_avx2) ? clear_by_avx2(p, n) : clear_anywhere(p, n);
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
    clear_anywhere(p, n);
}
#endif

#endif
