/* The ticker, and the one place where the rate changes and what the layer wants to see. No lock
   but a flag that is spun for, around hak_entry_add: its holder is rarely met. */
#include "guard/ticker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "guard/guard.h"
#include "guard/sampler.h"
#include "guard/slots.h"
#include "heap/theap.h"

#define STACK_BYTES      (256 * HAK_KIB) /* static thread-local storage of the program included */
#define LONGEST_SLICE_NS (TICKER_LONGEST_NS / TICKER_DUTY)

uint32_t hak_guard_ticker;
uint32_t hak_guard_is_busy;

static uint64_t wanted;       /* the rate that was asked for */
static uint32_t has_loaded;   /* the library's constructors have run */
static uint32_t calls_left;   /* calls of malloc until a child's ticker is made */
static uint32_t is_switching; /* a thread changes what the layer sees */
static uint32_t wakes;        /* futex: changes with each change of the rate */
static pid_t process;         /* a child of vfork is another, and has this memory too */

/* --- what the layer sees --- */

/* Waits for a switch of another thread's: some stores. */
static void begin_switch(void)
{
    uint32_t no = 0;
    while (!atomic_cas_strong(&is_switching, &no, 1u)) {
        no = 0;
        hak_atomic_pause();
    }
}

static void set(int sees_all, uint64_t rate)
{
    atomic_store_relaxed(&hak_guard_layer.wants, sees_all ? ENTRY_WANTS_ALL : ENTRY_WANTS_SLOW);
    atomic_store_relaxed(&hak_guard_rate, rate);
}

static void end_switch(int sees_all, uint64_t rate)
{
    set(sees_all, rate);
    hak_entry_add(&hak_guard_layer);
    atomic_store_release(&is_switching, 0u);
}

static uint64_t most_exact(void)
{
    return atomic_load_relaxed(&hak_guard_unit) == GUARD_BYTES ? GUARD_EXACT_BYTES
                                                               : GUARD_EXACT_RATE;
}

static int is_exact(uint64_t rate)
{
    return rate && rate <= most_exact();
}

/* As it is outside of slices. A ticker that is wanted is made by the next call. */
static int sees_all_at(uint64_t rate)
{
    return is_exact(rate) || atomic_load_relaxed(&hak_guard_ticker) == TICKER_WANTED;
}

static void switch_to(uint64_t rate)
{
    end_switch(sees_all_at(rate), rate);
}

/* --- the thread --- */

struct ticker {
    uint64_t slice_ns;    /* how long the next one is to last */
    uint64_t late_ns;     /* how much longer they do last */
    uint64_t interval_ns; /* until the next */
    uint64_t end_ns;      /* when the last one ended */
};

static void sleep_ns(uint64_t ns)
{
    struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

/* From half of the interval to one and a half: a program's own rhythm is not met at one place. */
static uint64_t next_pause(const struct ticker *ticker)
{
    return ticker->interval_ns / 2 +
           hak_guard_random(&hak_guard_sampler) % (ticker->interval_ns + 1);
}

/* What one in `rate` calls of all time means for a slice after so long a time. */
static uint64_t rate_in_slice(const struct ticker *ticker, uint64_t rate, uint64_t gap_ns)
{
    uint64_t lasts_ns = ticker->slice_ns + ticker->late_ns;
    double part = (double)lasts_ns / (double)(lasts_ns + gap_ns);
    double in_slice = (double)rate * part + 0.5;
    return in_slice < 1 ? 1 : (uint64_t)in_slice;
}

/* A slice without a call: no thread allocates; or those that do were waiting for a processor, which
   they get for some milliseconds at a time. The next one lasts longer. */
static void plan_next(struct ticker *ticker, uint64_t last_ns)
{
    uint64_t late_ns = last_ns > ticker->slice_ns ? last_ns - ticker->slice_ns : 0;
    ticker->late_ns = (3 * ticker->late_ns + late_ns) / 4;
    if (atomic_load_relaxed(&hak_guard_is_busy)) {
        uint64_t lasts_ns = ticker->slice_ns + ticker->late_ns;
        ticker->interval_ns = TICKER_DUTY * (last_ns > lasts_ns ? last_ns : lasts_ns);
        ticker->slice_ns =
            ticker->slice_ns / 2 > TICKER_SLICE_NS ? ticker->slice_ns / 2 : TICKER_SLICE_NS;
        return;
    }
    if (ticker->interval_ns < TICKER_LONGEST_NS) {
        ticker->interval_ns *= 2;
    }
    ticker->slice_ns =
        ticker->slice_ns * 2 < LONGEST_SLICE_NS ? ticker->slice_ns * 2 : LONGEST_SLICE_NS;
}

static void do_slice(struct ticker *ticker, uint64_t rate)
{
    uint64_t begin_ns = hak_os_ops.precise_ns();
    begin_switch();
    if (atomic_load_relaxed(&wanted) != rate) {
        atomic_store_release(&is_switching, 0u);
        return;
    }
    atomic_store_relaxed(&hak_guard_is_busy, 0u);
    end_switch(1, rate_in_slice(ticker, rate, begin_ns - ticker->end_ns));
    sleep_ns(ticker->slice_ns);
    begin_switch();
    switch_to(atomic_load_relaxed(&wanted));
    ticker->end_ns = hak_os_ops.precise_ns();
    plan_next(ticker, ticker->end_ns - begin_ns);
}

static void *tick(void *unused)
{
    struct ticker ticker = {TICKER_SLICE_NS, 0, (uint64_t)TICKER_DUTY * TICKER_SLICE_NS,
                            hak_os_ops.precise_ns()};
    hak_theap_refuse();
    for (;;) {
        uint32_t seen = atomic_load_acquire(&wakes);
        uint64_t rate = atomic_load_relaxed(&wanted);
        if (rate > most_exact()) {
            sleep_ns(next_pause(&ticker));
            do_slice(&ticker, rate);
        } else {
            (void)hak_os_ops.futex_wait(&wakes, seen);
            ticker.end_ns = hak_os_ops.precise_ns();
        }
    }
    return unused;
}

/* --- making it --- */

/* All signals are blocked in it from its first instruction on. */
static int make(void)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;
    int error = pthread_attr_init(&attributes);
    if (error) {
        return error;
    }
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attributes, tick, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return error;
}

/* It allocates, which comes back to the layer, and finds STARTING. */
static int start(void)
{
    uint32_t state = TICKER_WANTED;
    if (!atomic_cas_strong(&hak_guard_ticker, &state, (uint32_t)TICKER_STARTING)) {
        return 0; /* another thread does */
    }
    int error = make();
    begin_switch();
    atomic_store_relaxed(&hak_guard_ticker, (uint32_t)(error ? TICKER_FAILED : TICKER_RUNNING));
    switch_to(atomic_load_relaxed(&wanted));
    return error;
}

void hak_guard_start_ticker(void)
{
    uint32_t left = atomic_load_relaxed(&calls_left);
    if (left) {
        atomic_store_relaxed(&calls_left, left - 1);
        return;
    }
    int saved = errno;
    if (getpid() == process && start()) {
        struct hak_line line = {0, {0}};
        hak_line_text(&line, "hakmem: HAKMEM_GUARD: nothing is guarded: no thread can be made");
        hak_line_write(&line, 2);
    }
    errno = saved;
}

static void want(void)
{
    uint32_t none = TICKER_NONE, failed = TICKER_FAILED;
    if (!HAK_SECURE && atomic_load_relaxed(&wanted) > most_exact() &&
        !atomic_cas_strong(&hak_guard_ticker, &none, (uint32_t)TICKER_WANTED)) {
        (void)atomic_cas_strong(&hak_guard_ticker, &failed, (uint32_t)TICKER_WANTED);
    }
}

static void in_child(void);

static void watch_forks(void)
{
    if (!process) {
        (void)pthread_atfork(NULL, NULL, in_child);
        process = getpid();
    }
}

/* Before that, the C library may not be ready for threads. The process's first call may be one that
   it makes while it registers handlers of fork, and then none can be registered: what options ask
   for is here. */
__attribute__((constructor)) static void load(void)
{
    if (hak_options.guard || hak_options.guard_bytes || atomic_load_relaxed(&wanted)) {
        watch_forks();
    }
    atomic_store_relaxed(&has_loaded, 1u);
    if (atomic_load_relaxed(&wanted)) {
        begin_switch();
        want();
        switch_to(wanted);
    }
}

/* The child has no ticker, and may have been forked in the middle of a slice. */
static void in_child(void)
{
    process = getpid();
    hak_guard_fork_child();
    atomic_store_relaxed(&is_switching, 0u);
    atomic_store_relaxed(&calls_left, TICKER_CHILD_CALLS);
    atomic_store_relaxed(&hak_guard_ticker, (uint32_t)TICKER_NONE);
    if (!hak_entry_has_begun() || !hak_guard_bytes) {
        return; /* the next call starts the process, and this layer; or nothing is guarded */
    }
    want();
    if (hak_theap_holds_outside()) {
        uint64_t rate = atomic_load_relaxed(&wanted);
        set(sees_all_at(rate), rate);
        return; /* a handler has forked that interrupted a switch, which goes on behind it; the
                   ticker is made by a call that comes by a slow path */
    }
    begin_switch();
    switch_to(atomic_load_relaxed(&wanted));
}

int hak_guard_set_rate(uint64_t rate, enum guard_unit unit, int may_start)
{
    if (atomic_load_relaxed(&has_loaded)) {
        watch_forks();
    }
    begin_switch();
    atomic_store_relaxed(&wanted, rate);
    atomic_store_relaxed(&hak_guard_unit, (uint32_t)unit);
    if (atomic_load_relaxed(&has_loaded)) {
        want();
    }
    switch_to(rate);
    __atomic_add_fetch(&wakes, 1u, __ATOMIC_SEQ_CST);
    (void)hak_os_ops.futex_wake(&wakes, 1);
    return may_start && atomic_load_relaxed(&hak_guard_ticker) == TICKER_WANTED ? start() : 0;
}
