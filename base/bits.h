/* Sets of bits in words of 64. */
#ifndef HAKMEM_BASE_BITS_H
#define HAKMEM_BASE_BITS_H

#include "base/internal.h"

#include "base/attributes.h"

/* The first bit at or after `from` that is `value`, of `n_bits`, a multiple of 64; n_bits if
   there is none. */
static inline uint32_t hak_bits_next(const uint64_t *words, uint32_t n_bits, uint32_t from,
                                     int value)
{
    while (from < n_bits) {
        uint64_t word = (value ? words[from / 64] : ~words[from / 64]) >> (from % 64);
        if (word) {
            return from + (uint32_t)__builtin_ctzll(word);
        }
        from = (from / 64 + 1) * 64;
    }
    return n_bits;
}

/* The number of bits from `from` down to the first one that is not set, which is not counted. */
static inline uint32_t hak_bits_run_down(const uint64_t *words, uint32_t from)
{
    uint32_t at = from;
    uint64_t zeros = ~words[at / 64] << (63 - at % 64);
    while (!zeros) {
        if (at < 64) {
            return from + 1;
        }
        at = at / 64 * 64 - 1;
        zeros = ~words[at / 64];
    }
    return from - at + (uint32_t)__builtin_clzll(zeros);
}

/* How many bits are set. Without the processor's instruction, which not all have, the compiler's
   builtin is a call. */
static inline uint32_t hak_bits_count(uint64_t word)
{
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) + (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (uint32_t)(word * UINT64_C(0x0101010101010101) >> 56);
}

static inline void hak_bits_set(uint64_t *words, uint32_t bit)
{
    words[bit / 64] |= (uint64_t)1 << (bit % 64);
}

static inline void hak_bits_clear(uint64_t *words, uint32_t bit)
{
    words[bit / 64] &= ~((uint64_t)1 << (bit % 64));
}

static inline int hak_bits_has(const uint64_t *words, uint32_t bit)
{
    return (int)(words[bit / 64] >> (bit % 64) & 1);
}

#endif
