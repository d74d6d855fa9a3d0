/* Searches in sets of granules. No state. Called by pool.c and span.c. */
#include "superslab/granules.h"

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

uint32_t hak_granules_whole_units(const struct granules *set)
{
    return whole_bytes(set->word[0]) | whole_bytes(set->word[1]) << 8 |
           whole_bytes(set->word[2]) << 16 | whole_bytes(set->word[3]) << 24;
}

uint32_t hak_granules_touched_units(const struct granules *set)
{
    struct granules others = {{0}};
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        others.word[i] = ~set->word[i];
    }
    return ~hak_granules_whole_units(&others);
}
