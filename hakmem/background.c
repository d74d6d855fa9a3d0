/* The background thread. No lock of its own; what it calls takes the locks of heaps, pool and ACE, one at a time. Started by
   api.c, told by heap.c how many heaps live. */
#include "hakmem/background.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "ace/ace.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/gate.h"
#include "hakmem/heap.h"
#include "superslab/superslab.h"

#define STACK_BYTES (256 * HAK_KIB) /* static thread-local storage of the program included; pages are touched at need */
#define LEAST_MS    10u
#define ASLEEP_MS   10000u
#define RETRY_NS    1000000000u
/* Ticks without any slow path until it sleeps: blocks that came back, then pages of slabs that have become cold. */
#define QUIET_TICKS 3u
/* Ticks for what ended threads left, once one thread is left; the time between two is then at most ALONE_MS. */
#define ALONE_TICKS 3u
#define ALONE_MS    1000u

uint32_t background_state;
uint32_t background_is_asleep;

static pid_t process;
static uint32_t wakes;       /* futex: changes with each wake */
static uint64_t next_try_ns; /* state FAILED */

void background_init(void)
{
    process = getpid();
    atomic_store_relaxed(&background_is_asleep, 0u);
    atomic_store_seq(&background_state, (uint32_t)BACKGROUND_IDLE);
}

void background_wake(void)
{
    int saved = errno;
    atomic_store_relaxed(&background_is_asleep, 0u);
    __atomic_add_fetch(&wakes, 1u, __ATOMIC_SEQ_CST);
    (void)os_ops.futex_wake(&wakes, 1);
    errno = saved;
}

void background_count(void)
{
    uint32_t n_live = heap_n_live();
    uint32_t state = atomic_load_seq(&background_state);
    if (n_live >= 2 && state == BACKGROUND_IDLE && options.background) {
        (void)atomic_cas_strong(&background_state, &state, (uint32_t)BACKGROUND_WANTED);
    } else if (n_live < 2 && state >= BACKGROUND_WANTED) {
        (void)atomic_cas_strong(&background_state, &state, (uint32_t)BACKGROUND_IDLE);
    } else if (state == BACKGROUND_RUNNING &&
               (n_live == 0 || (n_live == 1 && atomic_load_relaxed(&background_is_asleep)))) {
        background_wake();
    }
}

static int64_t activity(void)
{
    return stat_get(refills) + stat_get(flushes) + stat_get(chains_sent);
}

/* One thing at a time, and nothing while the gate is closed: a fork does not wait long. */
static void give_back(size_t (*purge)(uint64_t delay_ms))
{
    if (gate_enter()) {
        (void)purge(ace_delay_ms());
        gate_leave();
    }
}

/* Gives back what is due. Returns 1 if more may become due by time alone. */
static int tick(void)
{
    static int64_t seen;
    static uint32_t n_quiet;
    stat_add(background_ticks, 1);
    heap_rest_all();
    give_back(ace_purge);
    give_back(ss_purge);
    int64_t now = activity();
    n_quiet = now == seen ? n_quiet + 1 : 0;
    seen = now;
    return n_quiet < QUIET_TICKS || stat_get(heap_dirty_bytes) > 0 || stat_get(large_cached_bytes) > 0;
}

/* Tries to be no more. Returns 0 if a thread has come meanwhile. */
static int end(void)
{
    uint32_t state = BACKGROUND_IDLE;
    atomic_store_seq(&background_state, state);
    return heap_n_live() < 2 || !atomic_cas_strong(&background_state, &state, (uint32_t)BACKGROUND_RUNNING);
}

/* Until somebody wakes it, or the time has come. */
static void wait_for(uint32_t seen, uint64_t ms)
{
    (void)os_ops.futex_wait_ms(&wakes, seen, ms);
    atomic_store_relaxed(&background_is_asleep, 0u);
}

static void *run(void *unused)
{
    uint32_t alone = 0;
    uint64_t next_ns = 0;
    int has_more = 1;
    heap_refuse();
    atomic_store_seq(&background_state, (uint32_t)BACKGROUND_RUNNING);
    (void)pthread_setname_np(pthread_self(), "hakmem");
    for (;;) {
        uint32_t seen = atomic_load_seq(&wakes);
        uint32_t n = heap_n_live();
        uint64_t ms = options.purge_delay_ms > LEAST_MS ? options.purge_delay_ms : LEAST_MS;
        ms = n < 2 && ms > ALONE_MS ? ALONE_MS : ms;
        uint64_t now_ns = os_ops.clock_ns();
        int is_time = now_ns >= next_ns;
        if (is_time) {
            has_more = next_ns ? tick() : 1; /* what it was woken for is not due at once */
            alone = n < 2 ? alone + 1 : 0;
            next_ns = has_more ? now_ns + ms * 1000000u : 0;
        }
        if ((n == 0 || (n == 1 && (!has_more || alone > ALONE_TICKS))) && end()) {
            return unused;
        }
        if (!has_more) {
            atomic_store_seq(&background_is_asleep, 1u);
            wait_for(seen, ASLEEP_MS);
        } else {
            wait_for(seen, (next_ns - now_ns) / 1000000u + 1);
        }
    }
}

void background_start(void)
{
    uint32_t state = atomic_load_relaxed(&background_state);
    if ((state == BACKGROUND_FAILED && os_ops.clock_ns() < atomic_load_relaxed(&next_try_ns)) ||
        state < BACKGROUND_WANTED || heap_n_live() < 2 || getpid() != process || gate_is_mine() ||
        !atomic_cas_strong(&background_state, &state, (uint32_t)BACKGROUND_STARTING)) {
        return; /* too early, or another thread does it; a child of vfork, or of a fork under way, is not the process */
    }
    int saved = errno;
    /* pthread_create allocates: that comes back here, and finds STARTING. */
    if (os_ops.start_thread(run, STACK_BYTES)) {
        atomic_store_relaxed(&next_try_ns, os_ops.clock_ns() + RETRY_NS);
        atomic_store_seq(&background_state, (uint32_t)BACKGROUND_FAILED);
    } else {
        stat_add(background_starts, 1);
    }
    errno = saved;
}
