/* Countdowns. No locks. */
#include "guard/sampler.h"

#include "base/atomic.h"
#include "base/link.h"

uint64_t hak_guard_rate;
uint32_t hak_guard_unit;
HAK_TLS struct guard_sampler hak_guard_sampler;

/* splitmix64. */
uint64_t hak_guard_random(struct guard_sampler *sampler)
{
    uint64_t z = sampler->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* log2(1 + m) for m from 0 to 1, within 0.0002: a cubic through both ends. */
static double log2_of_mantissa(double m)
{
    return m * (1.42286530 + m * (-0.58208536 + m * 0.15922006));
}

/* -ln(u) * mean for u from 0 to 1, evenly distributed. */
int64_t hak_guard_distance(struct guard_sampler *sampler, uint64_t mean)
{
    uint64_t u = hak_guard_random(sampler) | 1;
    int zeros = __builtin_clzll(u);
    double mantissa = (double)((u << zeros) << 1) * 0x1p-64;
    double log2_u = 63.0 - zeros + log2_of_mantissa(mantissa) - 64.0;
    int64_t distance = (int64_t)(-log2_u * 0.6931471805599453 * (double)mean) + 1;
    return mean <= 1 ? 1 : distance;
}

/* Of a block of no bytes one is counted. Distances have no memory: what of a block lies behind the
   byte that chose it need not be counted. */
static int64_t weight_of(size_t size)
{
    int64_t bytes = size > PTRDIFF_MAX ? PTRDIFF_MAX : (int64_t)size;
    return atomic_load_relaxed(&hak_guard_unit) != GUARD_BYTES || !bytes ? 1 : bytes;
}

int hak_guard_turn(struct guard_sampler *sampler, size_t size)
{
    uint64_t rate = atomic_load_relaxed(&hak_guard_rate);
    if (HAK_UNLIKELY(sampler->rate != rate)) {
        sampler->random =
            sampler->random ? sampler->random : hak_link_secret() ^ (uint64_t)(uintptr_t)sampler;
        sampler->rate = rate;
        sampler->left = rate ? hak_guard_distance(sampler, rate) : 0;
    }
    if (HAK_LIKELY(!rate)) {
        return 0;
    }
    sampler->left -= weight_of(size);
    if (HAK_LIKELY(sampler->left > 0)) {
        return 0;
    }
    sampler->left = hak_guard_distance(sampler, rate);
    return 1;
}
