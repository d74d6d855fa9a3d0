/* Searches in sets of granules. No state. Called by pool.c and span.c. */
#include "superslab/granules.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

uint32_t hak_granules_best_fit(const struct granules *set, uint32_t n, uint32_t align)
{
    uint32_t best = SS_GRANULES, best_run = SS_GRANULES + 1, end;
    for (uint32_t first = hak_granules_next(set, 0, 1); first < SS_GRANULES;
         first = hak_granules_next(set, end, 1)) {
        end = hak_granules_next(set, first, 0);
        uint32_t place = (first + align - 1) & ~(align - 1);
        if (place + n <= end && end - first < best_run) {
            best = place;
            best_run = end - first;
        }
    }
    return best;
}

uint32_t hak_granules_longest_run(const struct granules *set)
{
    uint32_t longest = 0, end;
    for (uint32_t first = hak_granules_next(set, 0, 1); first < SS_GRANULES;
         first = hak_granules_next(set, end, 1)) {
        end = hak_granules_next(set, first, 0);
        longest = end - first > longest ? end - first : longest;
    }
    return longest;
}

uint32_t hak_granules_run_around(const struct granules *set, uint32_t first, uint32_t n)
{
    return hak_granules_next(set, first + n, 0) - hak_bits_behind_last(set->word, first, 0);
}

#ifdef __SSE2__

/* A bit for each byte of the set that is `value`: 0 or all ones. */
static uint32_t bytes_that_are(const struct granules *set, uint8_t value)
{
    const __m128i all = _mm_set1_epi8((char)value), *half = (const __m128i *)(const void *)set;
    uint32_t low = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(half), all)),
             high = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(half + 1), all));
    return low | high << 16;
}

#else

/* Of one word: a bit for each byte of all ones. */
static uint32_t whole_bytes(uint64_t word)
{
    /* A byte of all ones becomes its lowest bit. */
    word &= word >> 4;
    word &= word >> 2;
    word &= word >> 1;
    word &= 0x0101010101010101u;
    /* Gathers the eight bits in the top byte. */
    return (uint32_t)(word * 0x0102040810204080u >> 56);
}

/* A bit for each byte of the set that is `value`: 0 or all ones. */
static uint32_t bytes_that_are(const struct granules *set, uint8_t value)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        bits |= whole_bytes(value ? set->word[i] : ~set->word[i]) << (8 * i);
    }
    return bits;
}

#endif

uint32_t hak_granules_whole_units(const struct granules *set)
{
    return bytes_that_are(set, 0xFF);
}

uint32_t hak_granules_touched_units(const struct granules *set)
{
    return ~bytes_that_are(set, 0);
}
