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

/* The place behind the last bit before `before` that is `value`; 0 if there is none. */
static inline uint32_t hak_bits_behind_last(const uint64_t *words, uint32_t before, int value)
{
    while (before) {
        uint32_t last = before - 1;
        uint64_t word = (value ? words[last / 64] : ~words[last / 64]) << (63 - last % 64);
        if (word) {
            return before - (uint32_t)__builtin_clzll(word);
        }
        before = last / 64 * 64;
    }
    return 0;
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
