/* The ticker: a thread that lets the layer see every call for short slices of time.

   It exists once a rate above GUARD_EXACT_RATE is asked for: made by hak_guard_start, or, where the
   option asks, by the first malloc after the library's constructors; in a forked child by a later
   one (TICKER_CHILD_CALLS), so that children that call exec soon have none. It blocks
   all signals, allocates nothing, and makes no system call but futex and clock_nanosleep. It never
   ends; while there is nothing to sample it sleeps. Where it cannot be made, nothing is guarded.

   A slice lasts about TICKER_SLICE_NS, and the time between two TICKER_DUTY times as long as the
   last slices did. Behind one in which no thread has allocated, both are twice as long, up to
   TICKER_LONGEST_NS: on a busy machine a thread is not running in most of the shortest slices, and
   hardly ever in one that begins when the ticker takes its processor. In a slice, one in
   rate * slice / (slice + time since the last one) calls is sampled.

   Where every call comes to the layer anyway (secure variant), there is none. */
#ifndef HAKMEM_GUARD_TICKER_H
#define HAKMEM_GUARD_TICKER_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"
#include "guard/sampler.h"

HAK_EXTERN_C_BEGIN

#define TICKER_SLICE_NS    100000u
#define TICKER_DUTY        200u
#define TICKER_LONGEST_NS  1000000000u
#define TICKER_CHILD_CALLS 256u

enum ticker_state { TICKER_NONE, TICKER_WANTED, TICKER_STARTING, TICKER_RUNNING, TICKER_FAILED };
extern uint32_t hak_guard_ticker HAK_HIDDEN; /* enum ticker_state */
/* Set by who samples: a thread allocates. */
extern uint32_t hak_guard_is_busy HAK_HIDDEN;

/* One in `rate`, from now on, of all calls, or of all bytes; 0: none. One thread at a time.
   `may_start`: the caller is the program, and not within malloc. Returns 0, or why there can be no
   ticker. */
int hak_guard_set_rate(uint64_t rate, enum guard_unit unit, int may_start);
/* From malloc, while there is no ticker and one is wanted. Keeps errno. */
void hak_guard_start_ticker(void);

HAK_EXTERN_C_END

#endif
