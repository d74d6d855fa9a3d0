/* The background thread. No lock of its own; what it calls takes the locks of heaps, pool and ACE,
   one at a time. Started by plain.c and malloc.c; theap.c and fork.c call it when the number of
   live heaps changes. */
#include "heap/background.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "ace/ace.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "heap/theap.h"
#include "superslab/superslab.h"

#define STACK_BYTES                                                                                \
    (256 *                                                                                         \
     HAK_KIB) /* static thread-local storage of the program included; pages are touched at need */
#define LEAST_MS  10u
#define ASLEEP_MS 10000u
#define RETRY_NS  1000000000u
/* Ticks without any slow path until it sleeps: blocks that came back, then pages of slabs that have
   become cold. */
#define QUIET_TICKS 3u
/* It rests so long whenever it has purged for so long: one that makes a system call after the other
   takes the lock of the address space again before a thread that waits for it has woken (a stall of
   30 ms and more while 4 GiB go; the kernel sees to it after 4 ms a call only). */
#define WORK_NS 400000u
#define REST_MS 1u
/* How long an ending thread waits for it at most: a tick may be long, and the machine busy. */
#define LONGEST_WAIT_MS 2000u
#define WAIT_SLICE_MS   50u

uint32_t hak_background_state;
uint32_t hak_background_is_asleep;
uintptr_t hak_background_null_end = 1;

static pid_t process; /* mode EAGER alone asks */
static int is_apart;  /* how it was made */
static uint32_t must_end;
static HAK_TLS uint8_t is_self;  /* the background thread's */
static HAK_TLS uint8_t is_first; /* the process's first thread, or that of a forked child */
static uint32_t has_begun;       /* futex */
static uint32_t has_ended;       /* futex: its last instruction but a few */
static uint32_t wakes;           /* futex: changes with each wake */
static uint64_t next_try_ns;     /* when making it was refused */
/* A thread is being made that has no heap yet: the background thread lives although one heap does.
 */
static uint32_t is_ahead;

/* glibc: 1 until the first pthread_create begins. */
extern char __libc_single_threaded __attribute__((weak, visibility("default")));
static int was_single;           /* when the process started */
static const void *thread_maker; /* where pthread_create's code calls calloc */
/* libc's mapping; NULL: not found, or linked statically */
static const char *libc_start, *libc_end;

static int is_single(void)
{
    return &__libc_single_threaded && __libc_single_threaded;
}

/* Whether `at` lies in the object that is loaded at `base`. */
static int is_in_object(const char *base, const void *at)
{
    size_t end_offset = 0;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)(const void *)base;
    const ElfW(Phdr) *part = (const ElfW(Phdr) *)(const void *)(base + header->e_phoff);
    for (unsigned i = 0; i < header->e_phnum; i++) {
        size_t part_end = part[i].p_vaddr + part[i].p_memsz;
        end_offset = part[i].p_type == PT_LOAD && part_end > end_offset ? part_end : end_offset;
    }
    return (const char *)at >= base && (const char *)at < base + end_offset;
}

static int is_in_libc(const void *at)
{
    return (const char *)at >= libc_start && (const char *)at < libc_end;
}

/* For dl_iterate_phdr, which costs a hundredth of dladdr: that looks for the symbol as well. */
static int note_libc(struct dl_phdr_info *object, size_t bytes, void *unused)
{
    uintptr_t start = UINTPTR_MAX, end = 0;
    (void)bytes;
    (void)unused;
    for (unsigned i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        uintptr_t at = object->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD) {
            start = at < start ? at : start;
            end = at + part->p_memsz > end ? at + part->p_memsz : end;
        }
    }
    if ((uintptr_t)pthread_key_create < start || (uintptr_t)pthread_key_create >= end) {
        return 0;
    }
    libc_start = (const char *)start;
    libc_end = (const char *)end;
    return 1;
}

void hak_background_load(void)
{
    if (getauxval(AT_BASE)) {
        (void)dl_iterate_phdr(note_libc, NULL);
    }
}

void hak_background_init(void)
{
    was_single = was_single || is_single();
    is_first = 1;
    if (hak_options.background == BACKGROUND_EAGER) {
        if (!process) {
            hak_os_note_processors();
        }
        process = getpid();
    }
    hak_os_forget_thread();
    atomic_store_relaxed(&must_end, 0u);
    atomic_store_relaxed(&hak_background_null_end, (uintptr_t)1);
    atomic_store_relaxed(&is_ahead, 0u);
    atomic_store_relaxed(&hak_background_is_asleep, 0u);
    hak_ace_set_helped(0);
    atomic_store_seq(&hak_background_state, (uint32_t)BACKGROUND_IDLE);
}

void hak_background_wake(void)
{
    int saved = errno;
    atomic_store_relaxed(&hak_background_is_asleep, 0u);
    __atomic_add_fetch(&wakes, 1u, __ATOMIC_SEQ_CST);
    (void)hak_os_ops.futex_wake(&wakes, 1);
    errno = saved;
}

int hak_background_must_end(void)
{
    return (int)atomic_load_relaxed(&must_end);
}

/* Until it has said that it ends, and then until the system has let go of it. Returns 0 if that
   took too long. */
static int wait_for_end(void)
{
    uint64_t last_ns = hak_os_ops.clock_ns() + hak_time_ns_of_ms(LONGEST_WAIT_MS);
    while (!atomic_load_acquire(&has_ended)) {
        (void)hak_os_ops.futex_wait_ms(&has_ended, 0, WAIT_SLICE_MS);
        if (hak_os_ops.clock_ns() > last_ns && !atomic_load_acquire(&has_ended)) {
            return 0;
        }
    }
    return hak_os_ops.wait_thread(LONGEST_WAIT_MS) == 0;
}

static void set_ahead(int ahead)
{
    if ((int)atomic_load_relaxed(&is_ahead) != ahead) {
        atomic_store_seq(&is_ahead, (uint32_t)ahead);
        atomic_store_relaxed(&hak_background_null_end, (uintptr_t)!ahead);
    }
}

/* What the state means for how much is kept. */
static void set_state(enum hak_background_state state)
{
    hak_ace_set_helped(state == BACKGROUND_RUNNING);
    atomic_store_seq(&hak_background_state, (uint32_t)state);
}

static void end(void)
{
    uint32_t state = BACKGROUND_RUNNING;
    if (!atomic_cas_strong(&hak_background_state, &state, (uint32_t)BACKGROUND_ENDING)) {
        return;
    }
    int saved = errno;
    set_ahead(0);
    atomic_store_seq(&must_end, 1u);
    hak_background_wake();
    if (wait_for_end()) {
        atomic_store_seq(&must_end, 0u);
        set_state(BACKGROUND_IDLE);
    } else {
        set_state(BACKGROUND_LOST);
    }
    errno = saved;
}

void hak_background_count(void)
{
    HAK_DEBUG_ASSERT(!hak_gate_is_inside()); /* a fork would wait for the background thread's end */
    if (is_self) {
        return; /* its last frees have ended the heap of a thread that had to leave it (fork.h) */
    }
    atomic_fence_seq(); /* the count was changed before; set_running looks at both the other way
                           round */
    uint32_t n_live = hak_theap_n_live();
    uint32_t state = atomic_load_seq(&hak_background_state);
    if (n_live >= 2) {
        set_ahead(0);
        if (state == BACKGROUND_IDLE && hak_options.background == BACKGROUND_EAGER) {
            (void)atomic_cas_strong(&hak_background_state, &state, (uint32_t)BACKGROUND_WANTED);
        }
    } else if (state >= BACKGROUND_WANTED) {
        (void)atomic_cas_strong(&hak_background_state, &state, (uint32_t)BACKGROUND_IDLE);
    } else if (n_live == 0 || !atomic_load_seq(&is_ahead)) {
        end();
    }
}

void hak_background_see_free_null(const void *caller)
{
    if (!is_in_libc(caller) || hak_theap_own != &hak_theap_none || hak_theap_is_ending() ||
        !atomic_load_seq(&is_ahead)) {
        return;
    }
    if (hak_theap_n_live() < 2) {
        end();
    } else {
        set_ahead(0);
    }
}

static int64_t activity(void)
{
    return hak_stat_get(refills) + hak_stat_get(flushes) + hak_stat_get(chains_sent);
}

static void rest_from(uint64_t *since_ns)
{
    if (hak_os_ops.precise_ns() - *since_ns >= WORK_NS) {
        (void)hak_os_ops.futex_wait_ms(&must_end, 0, REST_MS);
        *since_ns = hak_os_ops.precise_ns();
    }
}

/* A little at a time, and nothing while the gate is closed: a fork does not wait long. */
static void purge_ranges(void)
{
    uint64_t since_ns = hak_os_ops.precise_ns();
    size_t bytes = 1;
    while (bytes && !hak_background_must_end() && hak_gate_enter()) {
        bytes = hak_ace_purge(hak_ace_delay_ms());
        hak_gate_leave();
        rest_from(&since_ns);
    }
}

static void purge_superslabs(void)
{
    uint64_t since_ns = hak_os_ops.precise_ns();
    int is_last = 0;
    for (int64_t n = hak_stat_get(superslabs);
         n > 0 && !is_last && !hak_background_must_end() && hak_gate_enter(); n--) {
        (void)hak_ss_purge_step(hak_ace_delay_ms(), &is_last);
        hak_gate_leave();
        rest_from(&since_ns);
    }
}

/* Purges what is due. Returns 1 if more may become due by time alone. */
static int tick(void)
{
    static int64_t seen;
    static uint32_t n_quiet;
    hak_stat_add(background_ticks, 1);
    hak_theap_rest_all();
    purge_ranges();
    purge_superslabs();
    int64_t now = activity();
    n_quiet = now == seen ? n_quiet + 1 : 0;
    seen = now;
    return n_quiet < QUIET_TICKS || hak_stat_get(heap_dirty_bytes) > 0 ||
           hak_stat_get(large_cached_bytes) > 0 || hak_theap_keeps_spans() || hak_parked_is_any();
}

/* Until another thread wakes it, or the time has come. */
static void wait_for(uint32_t seen, uint64_t ms)
{
    (void)hak_os_ops.futex_wait_ms(&wakes, seen, ms);
    atomic_store_relaxed(&hak_background_is_asleep, 0u);
}

/* Ticks until it must end. */
static void live(void)
{
    uint64_t next_ns = 0;
    int has_more = 1;
    for (;;) {
        uint32_t seen = atomic_load_seq(&wakes);
        if (atomic_load_seq(&must_end)) {
            return;
        }
        uint64_t ms = hak_options.purge_delay_ms > LEAST_MS ? hak_options.purge_delay_ms : LEAST_MS;
        uint64_t now_ns = hak_os_ops.clock_ns();
        if (now_ns >= next_ns) {
            has_more = next_ns ? tick() : 1; /* what it was woken for is not due at once */
            next_ns = has_more ? now_ns + hak_time_ns_of_ms(ms) : 0;
        }
        if (!has_more) {
            atomic_store_seq(&hak_background_is_asleep, 1u);
            wait_for(seen, ASLEEP_MS);
        } else {
            wait_for(seen, hak_time_ms_of_ns(next_ns - now_ns) + 1);
        }
    }
}

static void *run(void *unused)
{
    is_self = 1;
    hak_theap_refuse();
    atomic_store_seq(&has_begun, 1u);
    (void)hak_os_ops.futex_wake(&has_begun, 1);
    if (is_apart) {
        (void)pthread_setname_np(pthread_self(), "hakmem");
    }
    live();
    atomic_store_seq(&has_ended, 1u);
    (void)hak_os_ops.futex_wake(&has_ended, 1);
    return unused;
}

/* From `state`, if it still is that. Returns 0, EBUSY if another thread was first, or why there is
   none. */
static int start(uint32_t state, int apart)
{
    if (!atomic_cas_strong(&hak_background_state, &state, (uint32_t)BACKGROUND_STARTING)) {
        return EBUSY;
    }
    is_apart = apart;
    set_ahead(0);
    atomic_store_seq(&must_end, 0u);
    atomic_store_seq(&has_ended, 0u);
    atomic_store_seq(&has_begun, 0u);
    /* pthread_create allocates: that comes back here, and finds STARTING. */
    int error = hak_os_ops.start_thread(run, STACK_BYTES, apart);
    if (error) {
        atomic_store_relaxed(&next_try_ns, hak_os_ops.clock_ns() + RETRY_NS);
        return error;
    }
    hak_stat_add(background_starts, 1);
    /* Its first system calls are the C library's, and a sandbox that is entered next may forbid
       them. */
    while (!atomic_load_acquire(&has_begun)) {
        (void)hak_os_ops.futex_wait(&has_begun, 0);
    }
    return 0;
}

/* It has been made. If the program's other threads have ended while it was, no other thread will
   end it. */
static void set_running(void)
{
    set_state(BACKGROUND_RUNNING);
    if (hak_theap_n_live() < 2) {
        hak_background_count();
    }
}

void hak_background_start(void)
{
    uint32_t state = atomic_load_relaxed(&hak_background_state);
    if ((state == BACKGROUND_FAILED && hak_os_ops.clock_ns() < atomic_load_relaxed(&next_try_ns)) ||
        state < BACKGROUND_WANTED || hak_theap_n_live() < 2 || getpid() != process ||
        hak_gate_is_mine()) {
        return; /* too early; a child of vfork, or of a fork under way, is not the process */
    }
    int saved = errno;
    int error = start(state, 1);
    if (error == 0) {
        set_running();
    } else if (error != EBUSY) {
        atomic_store_seq(&hak_background_state, (uint32_t)BACKGROUND_FAILED);
    }
    errno = saved;
}

/* Whether pthread_create is calling. The first such call behind the moment at which the process
   stops having one thread is the first thread's: no other code has run since. Where the C library
   lies must be known, or the end of a thread that never allocates would not be seen. */
static int is_thread_maker(const void *caller)
{
    const void *known = atomic_load_relaxed(&thread_maker);
    if (!known && was_single && libc_start &&
        is_in_object((const char *)getauxval(AT_BASE), caller)) {
        atomic_store_relaxed(&thread_maker, caller);
        known = caller;
    }
    return known == caller;
}

void hak_background_see_calloc(const void *caller)
{
    const void *known = atomic_load_relaxed(&thread_maker);
    uint32_t state = atomic_load_relaxed(&hak_background_state);
    if ((known && known != caller) || hak_options.background == BACKGROUND_NEVER ||
        !&__libc_single_threaded || is_single() || !is_thread_maker(caller) || hak_gate_is_mine()) {
        return;
    }
    if (state == BACKGROUND_RUNNING) {
        set_ahead(1);
        return;
    }
    if (!is_first || (state != BACKGROUND_IDLE && state < BACKGROUND_WANTED) ||
        hak_os_ops.clock_ns() < atomic_load_relaxed(&next_try_ns)) {
        return;
    }
    int saved = errno;
    int error = start(state, 0);
    if (error == 0) {
        set_ahead(1);
        set_running();
    } else if (error != EBUSY) {
        atomic_store_seq(&hak_background_state, (uint32_t)BACKGROUND_IDLE);
    }
    errno = saved;
}
