/* Which allocations are guarded: one in hak_guard_rate of those that the layer is shown, or those
   that have one in so many bytes, at exponential distances that each thread counts down.

   A low rate is counted exactly: the layer sees every call of every thread all the time. Above
   GUARD_EXACT_RATE that would cost too much, and the fast paths stay except for slices of time
   (ticker.h), in which it sees every call as well, and samples more often by as much as slices are
   shorter than what lies between them. So each call is as likely to be the sample as any other,
   whether the fast paths would have served it or not, and outside of slices nothing is paid. That a
   distance is drawn again where a slice begins changes nothing: exponential distances have no
   memory. */
#ifndef HAKMEM_GUARD_SAMPLER_H
#define HAKMEM_GUARD_SAMPLER_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* What is counted. By bytes a block of many times the rate is nearly always guarded. */
enum guard_unit { GUARD_BLOCKS, GUARD_BYTES };

/* One in so many, now; 0: none. */
extern uint64_t hak_guard_rate HAK_HIDDEN;
extern uint32_t hak_guard_unit HAK_HIDDEN; /* enum guard_unit */

struct guard_sampler {
    int64_t left;    /* blocks or bytes until the next sample */
    uint64_t rate;   /* for which it was drawn */
    uint64_t random; /* state of the generator; 0 before the first call */
};

/* The calling thread's. */
extern HAK_TLS struct guard_sampler hak_guard_sampler HAK_HIDDEN;

/* An allocation of so many bytes. Returns 1 if it is to be guarded. */
int hak_guard_turn(struct guard_sampler *sampler, size_t size);
/* 64 random bits. */
uint64_t hak_guard_random(struct guard_sampler *sampler);
/* A distance of that mean, at least 1. */
int64_t hak_guard_distance(struct guard_sampler *sampler, uint64_t mean);

HAK_EXTERN_C_END

#endif
