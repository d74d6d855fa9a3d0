/* Random distances and weights. No locks: the process's seed is changed by one addition. Called by
   layer.c. The logarithm and the exponential are written out, since the library links no libm. */
#include "profile/meter.h"

#include <string.h>

#include "base/atomic.h"

#define LN2        0.69314718055994530942
#define BLOCKS_MAX 0x7fffffffu

static uint64_t process_seed = UINT64_C(0x9e3779b97f4a7c15);

static uint32_t is_seeded;

void hak_profile_begin_seed(uint64_t seed)
{
    if (!atomic_load_relaxed(&is_seeded)) {
        atomic_store_relaxed(&process_seed, seed);
    }
}

void hak_profile_set_seed(uint64_t seed)
{
    atomic_store_relaxed(&is_seeded, 1u);
    atomic_store_relaxed(&process_seed, seed);
}

/* By splitmix64, which makes of neighbouring numbers what has nothing in common. */
void hak_profile_seed(struct profile_random *random)
{
    const uint64_t step = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = atomic_add_relaxed(&process_seed, step) + step;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    random->state = z ? z : step;
}

static uint64_t next_random(struct profile_random *random)
{
    uint64_t x = random->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    random->state = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

/* ln(x) of a positive, normal number: its exponent, and the series of artanh for the rest, which
   lies between 0.7 and 1.5. */
static double natural_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1022;
    bits = (bits & ~(UINT64_C(0xfff) << 52)) | UINT64_C(1022) << 52;
    memcpy(&x, &bits, sizeof x);
    if (x < 0.70710678) {
        x *= 2;
        exponent--;
    }
    double s = (x - 1) / (x + 1), square = s * s, sum = 0;
#pragma GCC unroll 10 /* no division is left */
    for (int i = 19; i > 0; i -= 2) {
        sum = sum * square + 1.0 / i;
    }
    return 2 * s * sum + exponent * LN2;
}

/* 1 - exp(-x) for x >= 0, exact for small x too: halved until the series is short, then by
   1 - exp(-2y) = q (2 - q), where q = 1 - exp(-y). */
static double one_minus_exp(double x)
{
    int n = 0;
    if (x > 64) {
        return 1;
    }
    for (; x > 0.25; n++) {
        x /= 2;
    }
    double q = 0;
#pragma GCC unroll 12
    for (int i = 12; i > 0; i--) {
        q = x * (1.0 / i) * (1 - q);
    }
    for (; n; n--) {
        q = q * (2 - q);
    }
    return q;
}

double hak_profile_distance(struct profile_random *random, size_t period)
{
    double uniform = ((double)(next_random(random) >> 11) + 0.5) * (1.0 / 9007199254740992.0);
    return -natural_log(uniform) * (double)period;
}

uint32_t hak_profile_blocks(struct profile_random *random, size_t period, size_t size)
{
    double blocks = hak_profile_distance(random, period) / (double)size;
    return blocks < BLOCKS_MAX ? (uint32_t)blocks : BLOCKS_MAX;
}

struct profile_weight hak_profile_weight(size_t period, size_t size)
{
    double objects = 1 / one_minus_exp((double)size / (double)period);
    return (struct profile_weight){(uint64_t)(objects * PROFILE_OBJECT + 0.5),
                                   (uint64_t)(objects * (double)size + 0.5)};
}

struct profile_limit hak_profile_limit_for(uint64_t rate, size_t period)
{
    size_t times = period < PROFILE_PERIOD ? PROFILE_PERIOD / period : 1;
    return (struct profile_limit){rate * times, (int32_t)(PROFILE_BURST * times)};
}

void hak_profile_begin_budget(struct meter_budget *budget, const struct profile_limit *limit,
                              uint64_t now_ms)
{
    *budget = (struct meter_budget){now_ms, limit->burst, 0};
}

int hak_profile_spend(struct meter_budget *budget, const struct profile_limit *limit,
                      uint64_t now_ms)
{
    uint32_t before = budget->shift;
    uint64_t passed_ms = now_ms - budget->since_ms;
    passed_ms = passed_ms < 60000 ? passed_ms : 60000; /* or the clock went back */
    uint64_t earned = passed_ms * limit->rate / 1000;
    if (!limit->rate) {
        return 0;
    }
    if (earned) {
        budget->since_ms = now_ms;
    }
    int64_t samples = budget->samples - 1 + (int64_t)earned, burst = limit->burst;
    for (; samples >= burst && budget->shift; samples -= burst / 2) {
        budget->shift--;
    }
    if (samples < 0 && budget->shift < PROFILE_SHIFT_MAX) {
        budget->shift++;
        samples = burst / 4;
    }
    samples = samples < burst ? samples : burst;
    budget->samples = (int32_t)(samples < 0 ? 0 : samples);
    return budget->shift < before;
}
