/* The decision on huge pages. State: two relaxed atomics. Called by pool.c and by ACE. */
#include "superslab/huge.h"

#include "base/atomic.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"

/* A huge page that takes longer than this to appear is too slow: it costs more than the 512 small
   ones in its place (measured: 0.18 ms for it, 0.8 to 1 ms for them). */
#define DEAR_NS 1000000u
/* What slow ones may cost more, less what cheap ones have saved since: one alone may have been slow
   because its thread was stopped while it waited. */
#define DEBT_MOST 10000000u
/* Beyond, so many regions go without; four times as many after each further one, up to SKIP_MAX. A
   slow one was seen to cost 5 to 10 ms, as much as some fifteen cheap ones save: so it takes
   GOOD_RUN cheap ones in a row to forget one. */
#define SKIP_FIRST 64u
#define SKIP_MAX   4096u
#define GOOD_RUN   16u

static uint32_t skip_now;  /* regions that still go without */
static uint32_t skip_next; /* how many go without after the next slow one */
static uint32_t good_run;  /* cheap ones since the last slow one, modulo GOOD_RUN */
static uint64_t debt_ns;   /* see DEBT_MOST; threads that change it at a time may lose a change */

static uint64_t time_first_touch(char *base)
{
    volatile char *first =
        (volatile char *)(((uintptr_t)base + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    uint64_t before = hak_os_ops.precise_ns();
    *first = 0;
    return hak_os_ops.precise_ns() - before;
}

int hak_huge_is_wanted(uint64_t bytes_in_use)
{
    if (hak_options.huge_page_bytes == 0 || bytes_in_use < hak_options.huge_page_bytes) {
        return 0;
    }
    uint32_t skip = atomic_load_relaxed(&skip_now);
    if (skip) {
        atomic_store_relaxed(&skip_now, skip - 1);
    }
    return skip == 0;
}

void hak_huge_mark(char *base, size_t size)
{
    hak_os_huge_pages(base, size);
    hak_stat_add(huge_regions, 1);
    uint32_t next = atomic_load_relaxed(&skip_next);
    uint64_t took = time_first_touch(base), debt = atomic_load_relaxed(&debt_ns) + took;
    atomic_store_relaxed(&debt_ns, debt > DEAR_NS ? debt - DEAR_NS : 0);
    if (took > DEAR_NS) {
        atomic_store_relaxed(&good_run, 0);
        hak_stat_add(huge_dear, 1);
        if (next || debt > DEBT_MOST) {
            next = next ? next : SKIP_FIRST;
            atomic_store_relaxed(&skip_now, next);
            atomic_store_relaxed(&skip_next, next * 4 < SKIP_MAX ? next * 4 : SKIP_MAX);
        }
    } else if (next && atomic_add_relaxed(&good_run, 1u) % GOOD_RUN == GOOD_RUN - 1) {
        atomic_store_relaxed(&skip_next, next > SKIP_FIRST ? next / 4 : 0);
    }
}
