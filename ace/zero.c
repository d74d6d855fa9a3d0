/* Clearing and giving back. State: a table of averages, relaxed atomics; a lost update is harmless. Called by ace.c. */
#include "ace/zero.h"

#include <errno.h>
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
/* mincore looks at so many pages at most, evenly spread over the block. */
#define PIECES      8u
#define PIECE_PAGES 64u

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

/* Resident pages of a piece, and how many were looked at. */
static void count_piece(const char *start, size_t size, uint32_t *resident, uint32_t *seen)
{
    unsigned char map[PIECE_PAGES];
    size_t page = os_page_size();
    size_t n = size / page < PIECE_PAGES ? size / page : PIECE_PAGES;
    if (n == 0 || os_ops.mincore((void *)(uintptr_t)start, n * page, map)) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        *resident += map[i] & 1u;
    }
    *seen += (uint32_t)n;
}

void zero_learn(const void *start, size_t size, int is_zeroed)
{
    uint32_t resident = 0, seen = 0;
    uint32_t *average = average_of(size, is_zeroed);
    if (size < GIVE_BACK_MIN || (atomic_add_relaxed(&turn, 1u) % LEARN_EVERY && atomic_load_relaxed(average))) {
        return;
    }
    int saved = errno;
    size_t page = os_page_size();
    size_t apart = size / PIECES / page * page;
    if (apart <= PIECE_PAGES * page) {
        for (size_t at = 0; at < size; at += PIECE_PAGES * page) {
            count_piece((const char *)start + at, size - at, &resident, &seen);
        }
    } else {
        for (size_t i = 0; i < PIECES; i++) {
            count_piece((const char *)start + i * apart, apart, &resident, &seen);
        }
    }
    errno = saved;
    if (seen) {
        int32_t now = (int32_t)atomic_load_relaxed(average);
        int32_t found = (int32_t)(resident * 256u / seen) + 1;
        int32_t step = now ? (found - now) / (1 << LEARN_SHIFT) : found;
        atomic_store_relaxed(average, (uint32_t)(now + (step ? step : (found > now) - (found < now))));
    }
}
