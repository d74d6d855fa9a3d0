/* Clearing and giving back. State: a table of averages, relaxed atomics; a lost update is harmless. Called by ace.c. */
#include "ace/zero.h"

#include <string.h>

#include "base/atomic.h"
#include "base/os.h"

/* Below this, clearing costs less than a system call. */
#define GIVE_BACK_MIN ((size_t)64 * HAK_KIB)
/* Clears if more than this part (in 256ths) of such blocks is touched. */
#define TOUCHED_FEW 16u
/* Of blocks that would be cleared, one in so many is given back all the same: otherwise nothing more would be learnt. */
#define EXPLORE_EVERY 512u
/* Of blocks that could be looked at, one in so many is. */
#define LEARN_EVERY 8u
/* An average moves by this part of the distance to what is seen. */
#define LEARN_SHIFT 1
/* So many pages of it are looked at: one in each of so many even parts, or fewer where pages are large. */
#define SAMPLES      16u
#define SAMPLE_BYTES (SAMPLES * 4096u)
#define SAMPLES_MIN  4u

/* By what was asked for and log2 of the size: the average in 256ths, plus one; 0 as long as nothing was seen. */
static uint32_t touched[2][64];
static uint32_t turn;

static uint32_t *average_of(size_t size, int is_zeroed)
{
    return &touched[is_zeroed][63 - __builtin_clzll((unsigned long long)size)];
}

unsigned zero_touched(size_t size, int is_zeroed)
{
    uint32_t average = atomic_load_relaxed(average_of(size, is_zeroed));
    return average ? average - 1 : 0;
}

void zero_forget(void)
{
    memset(touched, 0, sizeof touched);
    turn = 0;
}

int zero_clear(void *start, size_t size)
{
    int few = zero_touched(size, 1) <= TOUCHED_FEW || atomic_add_relaxed(&turn, 1u) % EXPLORE_EVERY == 0;
    if (size < GIVE_BACK_MIN || !few || os_purge(start, size)) {
        memset(start, 0, size);
        return 0;
    }
    return 1;
}

/* Only zeros? The block is being freed: nobody writes to it. */
static int is_zero(const char *page, size_t size)
{
    const uint64_t *word = (const uint64_t *)(const void *)page;
    for (size_t i = 0; i < size / sizeof *word; i++) {
        if (word[i]) {
            return 0;
        }
    }
    return 1;
}

/* The part of `n` pages that was touched, in 256ths, from one page in each of the even parts. Which one
   differs from time to time, so that no pattern of the program's stays unseen. */
static uint32_t sample(const char *start, size_t n, size_t page, uint32_t seed)
{
    size_t wanted = SAMPLE_BYTES / page;
    wanted = wanted > SAMPLES_MIN ? wanted : SAMPLES_MIN;
    wanted = wanted < n ? wanted : n;
    uint32_t found = 0;
    for (size_t i = 0; i < wanted; i++) {
        size_t first = n * i / wanted, end = n * (i + 1) / wanted;
        seed = seed * 1664525u + 1013904223u;
        found += !is_zero(start + (first + (seed >> 8) % (end - first)) * page, page);
    }
    return (uint32_t)(found * 256u / wanted);
}

void zero_learn(const void *start, size_t size, int is_zeroed)
{
    uint32_t *average = average_of(size, is_zeroed);
    uint32_t seed = atomic_add_relaxed(&turn, 1u);
    size_t page = os_page_size();
    if (size < GIVE_BACK_MIN || size < page || (seed % LEARN_EVERY && atomic_load_relaxed(average))) {
        return;
    }
    int32_t now = (int32_t)atomic_load_relaxed(average);
    int32_t found = (int32_t)sample((const char *)start, size / page, page, seed) + 1;
    int32_t step = now ? (found - now) / (1 << LEARN_SHIFT) : found;
    atomic_store_relaxed(average, (uint32_t)(now + (step ? step : (found > now) - (found < now))));
}
