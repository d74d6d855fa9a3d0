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

/* What is to be cleared of a block of that size: the rest is zero, or is found not to be when the
   block is handed out. `n`: the bytes before its tail. */
static HAK_ALWAYS_INLINE size_t hak_secure_touched(size_t size, size_t n)
{
    size = (size + TAIL_FILLED + 7) & ~(size_t)7;
    return size < n ? size : n;
}

static HAK_ALWAYS_INLINE void hak_secure_zero_before(void *p, size_t size, size_t n)
{
    if (n <= IN_LINE - TAIL_BYTES) {
        hak_secure_zero_short(p, n);
    } else {
        hak_secure_zero(p, hak_secure_touched(size, n));
    }
}

#if defined(__x86_64__)
/* Of any four words in a row all are set; of those from the second one on all but the last. */
extern const uint64_t hak_secure_but_tail[5] HAK_HIDDEN;

/* Blocks of up to SHORT_BYTES as five vectors of 32 bytes, likewise; the shortest class has not
   even one before its tail, which lies in all five (cache.h): it is not looked at, and whoever
   clears writes it afterwards. Longer vectors lie across two lines more often, and beyond the
   block. */
WIDE_BEGIN_AVX512
typedef uint64_t short_vector __attribute__((vector_size(32), aligned(8), may_alias));

static HAK_ALWAYS_INLINE int hak_secure_is_zero_short_avx512(const void *p,
                                                             const struct short_shape *shape)
{
    size_t d = shape->step;
    const char *at = (const char *)p, *mid = at + 2 * d;
    short_vector any =
        *(const short_vector *)(const void *)at | *(const short_vector *)(const void *)(at + d) |
        *(const short_vector *)(const void *)mid | *(const short_vector *)(const void *)(mid + d) |
        *(const short_vector *)(const void *)(mid + 2 * d);
    short_vector where =
        *(const short_vector *)(const void *)((const char *)hak_secure_but_tail + shape->but_tail);
    return _mm256_testz_si256((__m256i)any, (__m256i)where);
}

static HAK_ALWAYS_INLINE void hak_secure_zero_short_avx512(void *p, const struct short_shape *shape)
{
    size_t d = shape->step;
    char *at = (char *)p, *mid = at + 2 * d;
    short_vector zero = {0, 0, 0, 0};
    __asm__("" : "+x"(zero)); /* or gcc calls memset */
    *(short_vector *)(void *)at = zero;
    *(short_vector *)(void *)(at + d) = zero;
    *(short_vector *)(void *)mid = zero;
    *(short_vector *)(void *)(mid + d) = zero;
    *(short_vector *)(void *)(mid + 2 * d) = zero;
}

/* hak_secure_tail_fill_is_right of a filling of n bytes: a pair at most, or two; a longer one is
   not right. */
static HAK_ALWAYS_INLINE int hak_secure_fill_is_right_pair_avx512(const uint64_t *tail, size_t n)
{
    tail_pair wrong =
        *hak_secure_tail_pair((const char *)tail, 0 - TAIL_PAIR) ^ hak_secure_tail_filling();
    return _mm_testz_si128((__m128i)wrong, (__m128i)hak_secure_tail_end(n));
}

static HAK_ALWAYS_INLINE int hak_secure_fill_is_right_two_avx512(const uint64_t *tail, size_t n)
{
    const char *end = (const char *)tail;
    tail_pair fill = hak_secure_tail_filling();
    if (n > 2 * TAIL_PAIR) {
        return 0;
    }
    tail_pair wrong = (*hak_secure_tail_pair(end, 0 - TAIL_PAIR) ^ fill) |
                      (*hak_secure_tail_pair(end, 0 - n) ^ fill);
    return _mm_testz_si128((__m128i)wrong, (__m128i)wrong);
}

/* Sums and products with what is read from memory. gcc reads some of it to registers first, and
   must then save others. */
static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_key_folded(const uint64_t *tail)
{
    uint64_t key = (uint64_t)(uintptr_t)tail;
    __asm__("imulq %1, %0\n\taddq %2, %0"
            : "+r"(key)
            : "m"(hak_secure_secrets.factor), "m"(hak_secure_secrets.plus)
            : "cc");
    return key;
}

/* Of a tail's word, the key exchanged for 0, the bits that are exchanged; and what such a word
   would be for these bits. */
static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_picked(uint64_t word)
{
    uint64_t info;
    __asm__("pextq %2, %1, %0" : "=r"(info) : "r"(word), "m"(hak_secure_secrets.pick));
    return info;
}

static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_info_word_folded(uint64_t info)
{
    __asm__("imulq %1, %0" : "+r"(info) : "m"(hak_secure_secrets.spread) : "cc");
    return info;
}
WIDE_END
#endif

HAK_EXTERN_C_END

#endif
