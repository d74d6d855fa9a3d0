/* Looking at short blocks, and clearing them, in line: what small.c does for most pairs of malloc
   and free. No state, no locks. `p` is a block, n the bytes before its tail. */
#ifndef HAKMEM_SECURE_SHORT_H
#define HAKMEM_SECURE_SHORT_H

#include "base/internal.h"

#include "base/attributes.h"
#include "secure/cache.h"
#include "secure/tail.h"
#include "secure/zero.h"

HAK_EXTERN_C_BEGIN

typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias));
/* Or gcc makes the zero again for each store, or calls memset. */
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(pair) __asm__("" : "+x"(pair))
#else
#define KEEP_IN_REGISTER(pair) __asm__("" : "+w"(pair))
#endif

/* Classes of up to so many bytes are handled in line: as nine pairs at equal distances, which
   overlap as far as the class is shorter, and end at the tail. So no branch depends on the class: a
   program of mixed sizes would take the wrong one half the time.
   Every class has 32 bytes at least (hak_secure_tail_room). */
#define IN_LINE 144u
#define N_PAIRS 9u

static HAK_ALWAYS_INLINE pair *hak_secure_pair_at(const void *p, size_t offset)
{
    return (pair *)(void *)((char *)(uintptr_t)p + offset);
}

/* Of the pairs, in the n bytes before the tail: a multiple of 8. */
static HAK_ALWAYS_INLINE size_t hak_secure_pair_distance(size_t n)
{
    return (n - sizeof(pair)) / (N_PAIRS - 1);
}
HAK_STATIC_ASSERT((IN_LINE - TAIL_BYTES - sizeof(pair)) / (N_PAIRS - 1) <= sizeof(pair),
                  "nothing is left out between pairs");

static HAK_ALWAYS_INLINE int hak_secure_is_zero_short(const void *p, size_t n)
{
    size_t d = hak_secure_pair_distance(n);
    const char *mid = (const char *)p + 4 * d;
    pair any = (*hak_secure_pair_at(p, 0) | *hak_secure_pair_at(p, d)) |
               (*hak_secure_pair_at(p, 2 * d) | *hak_secure_pair_at(p, 3 * d));
    any |= (*hak_secure_pair_at(mid, 0) | *hak_secure_pair_at(mid, d)) |
           (*hak_secure_pair_at(mid, 2 * d) | *hak_secure_pair_at(mid, 3 * d));
    any |= *hak_secure_pair_at(mid, 4 * d);
    return !(any[0] | any[1]);
}

static HAK_ALWAYS_INLINE void hak_secure_zero_short(void *p, size_t n)
{
    size_t d = hak_secure_pair_distance(n);
    char *mid = (char *)p + 4 * d;
    pair zero = {0, 0};
    KEEP_IN_REGISTER(zero);
    *hak_secure_pair_at(p, 0) = *hak_secure_pair_at(p, d) = *hak_secure_pair_at(p, 2 * d) =
        *hak_secure_pair_at(p, 3 * d) = zero;
    *hak_secure_pair_at(mid, 0) = *hak_secure_pair_at(mid, d) = *hak_secure_pair_at(mid, 2 * d) =
        *hak_secure_pair_at(mid, 3 * d) = zero;
    *hak_secure_pair_at(mid, 4 * d) = zero;
}

#if defined(__x86_64__)
/* Blocks of up to SHORT_BYTES as five vectors of 32 bytes, likewise; the shortest class has not
   even one before its tail, so that the words of each are masked (cache.h). Longer vectors lie
   across two lines more often, and beyond the block. */
WIDE_BEGIN_AVX512
static HAK_ALWAYS_INLINE int hak_secure_is_zero_short_avx512(const void *p,
                                                             const struct short_shape *shape)
{
    __mmask8 words = (__mmask8)shape->words;
    const char *at = (const char *)p;
    size_t d = shape->step;
    __m256i a = _mm256_maskz_loadu_epi64(words, at), b = _mm256_maskz_loadu_epi64(words, at + d);
    a = _mm256_or_si256(a, _mm256_maskz_loadu_epi64(words, at + 2 * d));
    b = _mm256_or_si256(b, _mm256_maskz_loadu_epi64(words, at + 3 * d));
    a = _mm256_or_si256(a, _mm256_maskz_loadu_epi64(words, at + 4 * d));
    a = _mm256_or_si256(a, b);
    return _mm256_testz_si256(a, a);
}

static HAK_ALWAYS_INLINE void hak_secure_zero_short_avx512(void *p, const struct short_shape *shape)
{
    __mmask8 words = (__mmask8)shape->words;
    char *at = (char *)p;
    size_t d = shape->step;
    __m256i zero = _mm256_setzero_si256();
    _mm256_mask_storeu_epi64(at, words, zero);
    _mm256_mask_storeu_epi64(at + d, words, zero);
    _mm256_mask_storeu_epi64(at + 2 * d, words, zero);
    _mm256_mask_storeu_epi64(at + 3 * d, words, zero);
    _mm256_mask_storeu_epi64(at + 4 * d, words, zero);
}

/* hak_secure_tail_fill_is_right of a filling of two pairs at most; a longer one is none to it.
   By its end, so that the block's start and size are not needed any more. */
static HAK_ALWAYS_INLINE int hak_secure_fill_is_right_short_avx512(const void *p, size_t size,
                                                                   const uint64_t *tail)
{
    size_t n = (size_t)((const char *)tail - ((const char *)p + size));
    __asm__("" : "+r"(n)); /* or gcc makes sums of the others again */
    const char *end = (const char *)tail;
    tail_pair fill = hak_secure_tail_filling(),
              wrong = *hak_secure_tail_pair(end, 0 - TAIL_PAIR) ^ fill;
    if (HAK_LIKELY(n <= TAIL_PAIR)) {
        return _mm_testz_si128((__m128i)wrong, (__m128i)hak_secure_tail_end(n));
    }
    wrong |= *hak_secure_tail_pair(end, 0 - n) ^ fill;
    return n <= 2 * TAIL_PAIR && _mm_testz_si128((__m128i)wrong, (__m128i)wrong);
}
WIDE_END
#endif

HAK_EXTERN_C_END

#endif
