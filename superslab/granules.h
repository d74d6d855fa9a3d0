/* Sets of granules: the 8 KiB pieces of a superslab, one bit each, 256 of them in four words. A
   granule is the unit in which spans are cut; eight of them are a unit of 64 KiB, which is a byte
   of the set. Plain values, no locks. */
#ifndef HAKMEM_SUPERSLAB_GRANULES_H
#define HAKMEM_SUPERSLAB_GRANULES_H

#include "base/internal.h"

#include "base/bits.h"
#include "superslab/superslab.h"

HAK_EXTERN_C_BEGIN

#define SS_GRANULE_WORDS      (SS_GRANULES / 64)
#define SS_GRANULES_OF_A_UNIT ((uint32_t)(SS_UNIT_BYTES / SS_GRANULE_BYTES))
HAK_STATIC_ASSERT(SS_UNIT_BYTES / SS_GRANULE_BYTES == 8, "a unit is a byte of the set");

struct granules {
    uint64_t word[SS_GRANULE_WORDS];
};

/* The first bit at or after `from` that is `value`; SS_GRANULES if there is none. */
static inline uint32_t hak_granules_next(const struct granules *set, uint32_t from, int value)
{
    return hak_bits_next(set->word, SS_GRANULES, from, value);
}

/* For each word that some of granules `first` to `first + n - 1` lie in; and its bits that belong
   to them. */
#define GRANULE_WORDS(i, first, n) for (uint32_t i = (first) / 64; i * 64 < (first) + (n); i++)

static inline uint64_t hak_granules_part(uint32_t i, uint32_t first, uint32_t n)
{
    uint32_t last = first + n - 1;
    uint64_t from = i == first / 64 ? ~(uint64_t)0 << (first % 64) : ~(uint64_t)0;
    uint64_t to = i == last / 64 ? ~(uint64_t)0 >> (63 - last % 64) : ~(uint64_t)0;
    return from & to;
}

static inline void hak_granules_set(struct granules *set, uint32_t first, uint32_t n)
{
    GRANULE_WORDS(i, first, n)
    {
        set->word[i] |= hak_granules_part(i, first, n);
    }
}

static inline void hak_granules_clear(struct granules *set, uint32_t first, uint32_t n)
{
    GRANULE_WORDS(i, first, n)
    {
        set->word[i] &= ~hak_granules_part(i, first, n);
    }
}

/* How many of the granules are in the set. */
static inline uint32_t hak_granules_count(const struct granules *set, uint32_t first, uint32_t n)
{
    uint32_t count = 0;
    GRANULE_WORDS(i, first, n)
    {
        count += hak_bits_count(set->word[i] & hak_granules_part(i, first, n));
    }
    return count;
}

static inline int hak_granules_is_empty(const struct granules *set)
{
    return !(set->word[0] | set->word[1] | set->word[2] | set->word[3]);
}

/* The eight bits of a unit. */
static inline uint32_t hak_granules_of_unit(const struct granules *set, uint32_t unit)
{
    return (uint32_t)(set->word[unit / 8] >> (unit % 8 * 8)) & 0xFF;
}

/* The smallest run of the set in which n granules fit at a multiple of `align`; returns its first
   place that fits, or SS_GRANULES. */
uint32_t hak_granules_best_fit(const struct granules *set, uint32_t n, uint32_t align);
/* The length of the run that n granules from `first` on make with what is in the set before and
   behind them. */
uint32_t hak_granules_run_around(const struct granules *set, uint32_t first, uint32_t n);
/* The length of the longest run. */
uint32_t hak_granules_longest_run(const struct granules *set);
/* Units all of whose granules are in the set, as a mask. */
uint32_t hak_granules_whole_units(const struct granules *set);
/* Units one of whose granules at least is in the set. */
uint32_t hak_granules_touched_units(const struct granules *set);

HAK_EXTERN_C_END

#endif
