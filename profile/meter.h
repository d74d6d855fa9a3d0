/* Which allocations are sampled: bytes are counted, and the distances between samples are random.

   Allocations follow each other on a line of bytes, on which points lie that are distributed as a
   Poisson process with one point in `period` bytes on average; an allocation that has a point is
   sampled. So one of `size` bytes is sampled with probability
       p(size) = 1 - exp(-size / period)
   independently of all others, and 1 / p(size) allocations and size / p(size) bytes stand for it:
   the sum over the samples is an unbiased estimate of the sum over all (D. Horvitz, D. Thompson: A
   Generalization of Sampling Without Replacement, J. Am. Stat. Assoc. 47, 1952), with the variance
   sum of size^2 (1 - p) / p over all allocations.

   Points have no memory: each size class of each thread has a line of its own, on which the
   distance to the next point is a number of blocks. So the fast paths need not count: the layer
   (layer.c) gives them just as many blocks as may pass (hak_tc_meter). `size` is what the block
   takes, its size class; above 32 KiB, what was asked for. */
#ifndef HAKMEM_PROFILE_METER_H
#define HAKMEM_PROFILE_METER_H

#include "base/internal.h"

#include "base/attributes.h"
#include "heap/theap.h"

HAK_EXTERN_C_BEGIN

#define PROFILE_PERIOD ((size_t)512 * 1024)
#define PROFILE_RATE   256u

/* What a sample stands for. */
struct profile_weight {
    uint64_t objects; /* in 1 / PROFILE_OBJECT */
    uint64_t bytes;
};
#define PROFILE_OBJECT 65536u

/* A generator of random bits (xorshift64*). Never 0. */
struct profile_random {
    uint64_t state;
};
/* Seeds the calling thread's from the process's seed, which it changes. */
void hak_profile_seed(struct profile_random *random);
/* The process's seed, unless it was set. For tests, it is set: for the threads that come. */
void hak_profile_begin_seed(uint64_t seed);
void hak_profile_set_seed(uint64_t seed);

/* The bytes to the next point. */
double hak_profile_distance(struct profile_random *random, size_t period);
/* How many blocks of `size` pass before the next one is sampled. */
uint32_t hak_profile_blocks(struct profile_random *random, size_t period, size_t size);
struct profile_weight hak_profile_weight(size_t period, size_t size);

/* How often a thread samples: `rate` times a second in the long run, whatever it allocates, and
   PROFILE_BURST times more at once. Where that is not enough, its period is doubled, again and
   again, and halved when it samples less. The next distance is drawn with it, and whoever is
   sampled then stands for as much more: since no distance that was drawn is given up for a longer
   one, the sums stay unbiased. A shorter one may begin at any block whose distance says that it is
   not sampled: behind that block.

   Spends one sample. Returns 1 if the period has become shorter. */
#define PROFILE_BURST 64
/* What one sample stands for is what all sums may be wrong by: no more than this. */
#define PROFILE_SHIFT_MAX 5u
struct profile_limit {
    uint64_t rate; /* 0: any number */
    int32_t burst;
};
/* Whoever asks for a shorter period than the default one wants as many more samples. */
struct profile_limit hak_profile_limit_for(uint64_t rate, size_t period);
int hak_profile_spend(struct meter_budget *budget, const struct profile_limit *limit,
                      uint64_t now_ms);
void hak_profile_begin_budget(struct meter_budget *budget, const struct profile_limit *limit,
                              uint64_t now_ms);

HAK_EXTERN_C_END

#endif
