/* hakmem_stress: seeded stress of hak_* with an oracle. See --help.

   Work goes in rounds. In a round every slot is worked on by a thread at a time; threads end and
   start successors in the middle of it, so that blocks outlive the threads that allocated them.
   Blocks are handed to other slots and freed there. Between rounds the world stands still: all
   threads have ended, every live block of every slot is checked.

   The oracle:
   - every byte of a block (one word a half page above FULL_CHECK_BYTES) is written with a pattern
     of its own and checked before free, before and after realloc, and between rounds; calloc's is
     zero before that;
   - between rounds no two live blocks overlap, and hak_verify() is 0; it is also called while
     others run;
   - with a limit on address space or data, a request may be refused (NULL, ENOMEM), and its block
     stays as it is; something must be refused, or the limit had no effect;
   - at the end, when all is freed, no unit is used, nothing large is left, and thread caches hold
     no budget.
   Locks: one mutex a mailbox. Everything that the program itself keeps comes from mmap. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/options.h"
#include "base/size_classes.h"
#include "base/stats.h"
#include "base/verify.h"
#include "hakmem/hakmem.h"
#include "superslab/superslab.h"
#include "testing/sandbox.h"

enum {
    MAX_SLOTS = 256,
    MAX_LIVE = 4096,
    MAILBOX_ROOM = 512,
    FULL_CHECK_BYTES = 128 * 1024,
    STRIDE = 2048, /* two words a page above that */
    MAX_ALIGN_SHIFT = 22,
};

struct block {
    unsigned char *p;
    size_t size;   /* asked for */
    size_t usable; /* what may be used, all of it patterned */
    uint64_t key;
};

struct slot {
    pthread_mutex_t mutex; /* of the mailbox */
    uint32_t n_mail;
    struct block mail[MAILBOX_ROOM];

    uint32_t number;
    uint64_t rng;
    uint64_t steps_left; /* of this round */
    uint32_t n_live;
    size_t live_bytes;
    int is_growing;
    uint64_t n_steps, n_threads, n_remote;
    struct block live[MAX_LIVE];
};

enum profile { PROFILE_TINY, PROFILE_MID, PROFILE_LARGE, PROFILE_ALL };

static struct {
    uint32_t n_slots;
    double seconds;
    uint64_t steps; /* a slot; 0: by time */
    uint64_t seed;
    enum profile profile;
    uint64_t round_steps;
    size_t live_bytes;          /* of a slot */
    size_t address_space, data; /* MiB more than the process has to begin with; 0: no limit */
    int is_sandboxed;
    int is_limited; /* from outside, as by HAKMEM_LIMIT_HARD */
} config = {4, 3, 0, 1, PROFILE_ALL, 20000, 0, 0, 0, 0, 0};

static int is_limited(void)
{
    return config.address_space || config.data || config.is_limited;
}

static uint64_t n_refused;

static struct slot *slots;
static struct block *all; /* scratch of the check between rounds */

static pthread_mutex_t done_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done_cond = PTHREAD_COND_INITIALIZER;
static uint32_t n_running;

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "hakmem_stress: FAILED (%s, seed %llu): ", hak_variant(),
            (unsigned long long)config.seed);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

/* A call has returned NULL: fine under a limit, if errno says so. */
static void refused(const char *how, size_t size)
{
    if (errno != ENOMEM || !is_limited()) {
        fail("%s: no %zu bytes: errno %d", how, size, errno);
    }
    __atomic_add_fetch(&n_refused, 1, __ATOMIC_RELAXED);
}

static void *map_pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) {
        fail("no memory for the program's own tables");
    }
    return p;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t next(struct slot *s)
{
    return mix(s->rng += 0x9E3779B97F4A7C15u);
}

static size_t below(struct slot *s, size_t n)
{
    return (size_t)(next(s) % n);
}

/* --- patterns --- */

/* The word at byte offset `at` (a multiple of 8). */
static uint64_t word_of(uint64_t key, size_t at)
{
    return key + at * 0x9E3779B97F4A7C15u;
}

/* Where the next word after `at` is checked: all of a small block; of a large one, what lies at a
   multiple of STRIDE (blocks above FULL_CHECK_BYTES start at one), and the last 256 bytes. */
static size_t after(size_t at, size_t size)
{
    return size <= FULL_CHECK_BYTES || at + STRIDE > size - 256 ? at + 8 : at + STRIDE;
}

static void fill(const struct block *b)
{
    size_t whole = b->usable & ~(size_t)7;
    for (size_t at = 0; at < whole; at = after(at, whole)) {
        uint64_t word = word_of(b->key, at);
        memcpy(b->p + at, &word, 8);
    }
    for (size_t at = whole; at < b->usable; at++) {
        b->p[at] = (unsigned char)b->key;
    }
}

/* The first `size` bytes as they were written when the block had `usable` bytes. */
static void check_part(const struct block *b, size_t size, size_t usable, const char *when)
{
    size_t whole = usable & ~(size_t)7;
    for (size_t at = 0; at < whole && at + 8 <= size; at = after(at, whole)) {
        uint64_t word;
        memcpy(&word, b->p + at, 8);
        if (word != word_of(b->key, at)) {
            fail("%s: block %p (%zu of %zu bytes) at %zu is %016llx, not %016llx", when,
                 (void *)b->p, b->size, usable, at, (unsigned long long)word,
                 (unsigned long long)word_of(b->key, at));
        }
    }
}

static void check(const struct block *b, const char *when)
{
    check_part(b, b->usable, b->usable, when);
}

static void check_zero(const struct block *b)
{
    size_t whole = b->usable & ~(size_t)7;
    for (size_t at = 0; at < whole; at = after(at, whole)) {
        uint64_t word;
        memcpy(&word, b->p + at, 8);
        if (word) {
            fail("calloc: block %p (%zu bytes) at %zu is %016llx, not 0", (void *)b->p, b->size, at,
                 (unsigned long long)word);
        }
    }
}

/* --- operations --- */

static size_t around_a_class(struct slot *s)
{
    return hak_sc_table[below(s, SC_N_CLASSES)].size + below(s, 3) - 1;
}

static size_t tiny_size(struct slot *s)
{
    return below(s, 4) ? below(s, 256) : below(s, SC_TINY_MAX + 1);
}

static size_t mid_size(struct slot *s)
{
    return SC_TINY_MAX + 1 +
           (below(s, 4) ? below(s, 8 * HAK_KIB) : below(s, SC_SMALL_MAX - SC_TINY_MAX));
}

static size_t large_size(struct slot *s)
{
    size_t dice = below(s, 32);
    if (dice < 16) {
        return SC_SMALL_MAX + 1 + below(s, 256 * HAK_KIB);
    }
    if (dice < 24) {
        return SC_SMALL_MAX + 1 + below(s, 1100 * HAK_KIB);
    }
    if (dice < 28) {
        return ((size_t)1 << (15 + below(s, 8))) + below(s, 3) - 1;
    }
    return HAK_MIB + below(s, 3 * HAK_MIB);
}

static size_t some_size(struct slot *s)
{
    size_t dice = below(s, 100);
    switch (config.profile) {
    case PROFILE_TINY:
        return tiny_size(s);
    case PROFILE_MID:
        return mid_size(s);
    case PROFILE_LARGE:
        return large_size(s);
    default:
        return dice < 70   ? tiny_size(s)
               : dice < 90 ? mid_size(s)
               : dice < 96 ? around_a_class(s)
                           : large_size(s);
    }
}

/* By HAKMEM_GUARD or HAKMEM_GUARD_BYTES. */
static int is_guarding(void)
{
    return hak_options.guard || hak_options.guard_bytes;
}

/* Of a block of size 0 nothing may be touched. */
static int may_be_empty(void)
{
    return HAK_SECURE || is_guarding();
}

static void check_new(const struct block *b, size_t align, const char *how)
{
    if ((uintptr_t)b->p & (align - 1)) {
        fail("%s: block %p (%zu bytes) is not aligned to %zu", how, (void *)b->p, b->size, align);
    }
    if (b->usable < b->size || (b->usable == 0 && !may_be_empty())) {
        fail("%s: block %p has %zu bytes, %zu were asked for", how, (void *)b->p, b->usable,
             b->size);
    }
    if (!hak_owns(b->p) || !hak_owns(b->p + (b->usable ? b->usable - 1 : 0))) {
        fail("%s: hakmem does not own block %p (%zu bytes)", how, (void *)b->p, b->usable);
    }
}

static void keep(struct slot *s, struct block b)
{
    s->live[s->n_live++] = b;
    s->live_bytes += b.usable;
}

static struct block drop(struct slot *s, uint32_t i)
{
    struct block b = s->live[i];
    s->live[i] = s->live[--s->n_live];
    s->live_bytes -= b.usable;
    return b;
}

static void release(struct block b)
{
    check(&b, "before free");
    int saved = errno;
    hak_free(b.p);
    if (errno != saved) {
        fail("free changed errno to %d", errno);
    }
}

static void allocate(struct slot *s)
{
    struct block b = {NULL, some_size(s), 0, next(s)};
    size_t align = 16;
    size_t dice = below(s, 100);
    const char *how = "malloc";
    if (dice < 60) {
        b.p = hak_malloc(b.size);
    } else if (dice < 80) {
        how = "calloc";
        size_t n = 1 + below(s, 4);
        b.size = (b.size + n - 1) / n * n;
        b.p = hak_calloc(n, b.size / n);
    } else if (dice < 85) {
        how = "realloc(NULL)";
        b.p = hak_realloc(NULL, b.size);
    } else {
        how = "aligned";
        align = (size_t)1 << (below(s, 4) ? 3 + below(s, 10) : below(s, MAX_ALIGN_SHIFT + 1));
        if (dice < 90) {
            b.p = hak_aligned_alloc(align, b.size);
        } else if (dice < 95) {
            b.p = hak_memalign(align, b.size);
        } else {
            void *out = NULL;
            align = align < 8 ? 8 : align;
            int error = hak_posix_memalign(&out, align, b.size);
            b.p = (unsigned char *)out;
            if (error && error != ENOMEM) {
                fail("posix_memalign(%zu, %zu) returned %d", align, b.size, error);
            }
        }
        align = align < 16 ? 16 : align;
    }
    if (!b.p) {
        refused(how, b.size);
        return;
    }
    b.usable = hak_usable_size(b.p);
    check_new(&b, align, how);
    if (dice >= 60 && dice < 80) {
        check_zero(&b);
    }
    fill(&b);
    keep(s, b);
}

static void resize(struct slot *s)
{
    uint32_t i = (uint32_t)below(s, s->n_live);
    struct block b = drop(s, i);
    size_t size = below(s, 3)   ? b.size + below(s, b.size / 2 + 32)
                  : below(s, 2) ? below(s, b.size + 1)
                                : some_size(s);
    size = size ? size : 1;
    check(&b, "before realloc");
    void *moved = hak_realloc(b.p, size);
    if (!moved) {
        refused("realloc", size);
        check(&b, "after realloc was refused");
        keep(s, b);
        return;
    }
    size_t was = b.usable;
    b.p = (unsigned char *)moved;
    check_part(&b, size < b.size ? size : b.size, was, "after realloc");
    b.size = size;
    b.usable = hak_usable_size(b.p);
    check_new(&b, 16, "realloc");
    b.key = next(s);
    fill(&b);
    keep(s, b);
}

/* Hands a block to another slot, or frees it if that slot's mailbox is full. */
static void hand_over(struct slot *s, struct block b)
{
    struct slot *to = &slots[below(s, config.n_slots)];
    int is_sent = 0;
    pthread_mutex_lock(&to->mutex);
    if (to->n_mail < MAILBOX_ROOM) {
        to->mail[to->n_mail++] = b;
        is_sent = 1;
    }
    pthread_mutex_unlock(&to->mutex);
    s->n_remote += (uint64_t)is_sent;
    if (!is_sent) {
        release(b);
    }
}

/* Frees what others sent, some of it or all. */
static void read_mail(struct slot *s)
{
    static __thread struct block mail[MAILBOX_ROOM];
    pthread_mutex_lock(&s->mutex);
    uint32_t n = s->n_mail;
    memcpy(mail, s->mail, n * sizeof *mail);
    s->n_mail = 0;
    pthread_mutex_unlock(&s->mutex);
    for (uint32_t i = 0; i < n; i++) {
        if (s->n_live < MAX_LIVE && s->live_bytes < config.live_bytes && below(s, 4) == 0) {
            keep(s, mail[i]);
        } else {
            release(mail[i]);
        }
    }
}

static void look_up(struct slot *s)
{
    const struct block *b = &s->live[below(s, s->n_live)];
    if (!b->usable) {
        return; /* of size 0: nothing is there */
    }
    struct ss_lookup found = hak_super_lookup(b->p + below(s, b->usable));
    if (is_guarding() && !found.start && hak_owns(b->p)) {
        return; /* a guarded block lies in no superslab and is no range */
    }
    /* In the secure variant blocks lie in larger ones. */
    int is_right = HAK_SECURE ? (char *)found.start <= (char *)b->p &&
                                    (char *)b->p + b->usable <= (char *)found.start + found.size
                              : found.start == b->p && found.size == b->usable;
    if (!is_right || !found.is_allocated) {
        fail("hak_super_lookup: %p (%zu bytes) found as %p, %zu bytes, allocated %d", (void *)b->p,
             b->usable, found.start, found.size, found.is_allocated);
    }
    char local;
    if (hak_owns(&local) || hak_owns(NULL) || hak_owns(slots)) {
        fail("hak_owns: takes foreign memory for its own");
    }
}

static void verify(const char *when)
{
    int error = hak_verify();
    if (error) {
        fail("hak_verify %s: %s", when, hak_verify_text(error));
    }
}

static void step(struct slot *s)
{
    size_t dice = below(s, 1000);
    int is_full = s->n_live >= MAX_LIVE - 1 || s->live_bytes >= config.live_bytes;
    s->n_steps++;
    if (below(s, 2000) == 0 || is_full) {
        s->is_growing = is_full ? 0 : !s->is_growing;
    }
    if (dice < 1) {
        verify("while others run");
    } else if (dice < 2 && below(s, 4) == 0) {
        (void)hak_purge();
    } else if (dice < 12) {
        read_mail(s);
    } else if (dice < 20 && s->n_live) {
        look_up(s);
    } else if (dice < 100 && s->n_live && !is_full) {
        resize(s);
    } else if (dice < (s->is_growing ? 650u : 400u) && !is_full) {
        allocate(s);
    } else if (s->n_live) {
        /* The last ones are often the next to go. */
        uint32_t i = below(s, 2) ? s->n_live - 1 : (uint32_t)below(s, s->n_live);
        struct block b = drop(s, i);
        if (below(s, 4) == 0) {
            hand_over(s, b);
        } else {
            release(b);
        }
    }
}

/* --- threads --- */

static void *work(void *arg);

/* 0 if the system has no room for one more. */
static int start_thread(struct slot *s)
{
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    s->n_threads++;
    pthread_attr_setstacksize(&attr, (size_t)256 << 10);
    int error = pthread_create(&thread, &attr, work, s);
    if (error) {
        errno = error == EAGAIN ? ENOMEM : error;
        refused("pthread_create", 0);
    }
    pthread_attr_destroy(&attr);
    return !error;
}

/* What a dying thread does last: allocates and frees when its own heap may be gone. */
static pthread_key_t last_words_key;

static void last_words(void *arg)
{
    void *p = hak_malloc(40);
    void *q = hak_malloc(3000);
    hak_free(arg);
    hak_free(p);
    hak_free(q);
}

static void *work(void *arg)
{
    struct slot *s = (struct slot *)arg;
    pthread_setspecific(last_words_key, hak_malloc(100));
    do {
        uint64_t n = 1 + below(s, s->steps_left);
        if (s->steps_left - n < 100) {
            n = s->steps_left;
        }
        for (uint64_t i = 0; i < n; i++) {
            step(s);
        }
        s->steps_left -= n;
        if (s->steps_left && start_thread(s)) {
            return NULL;
        }
    } while (s->steps_left);
    pthread_mutex_lock(&done_mutex);
    if (--n_running == 0) {
        pthread_cond_signal(&done_cond);
    }
    pthread_mutex_unlock(&done_mutex);
    return NULL;
}

/* In place of a thread that could not be had. */
static void work_here(struct slot *s, uint64_t steps)
{
    for (uint64_t i = 0; i < steps; i++) {
        step(s);
    }
    pthread_mutex_lock(&done_mutex);
    n_running--;
    pthread_mutex_unlock(&done_mutex);
}

static void run_round(uint64_t steps)
{
    n_running = config.n_slots;
    for (uint32_t i = 0; i < config.n_slots; i++) {
        slots[i].steps_left = steps;
        if (!start_thread(&slots[i])) {
            work_here(&slots[i], steps);
        }
    }
    pthread_mutex_lock(&done_mutex);
    while (n_running) {
        pthread_cond_wait(&done_cond, &done_mutex);
    }
    pthread_mutex_unlock(&done_mutex);
}

static int by_address(const void *a, const void *b)
{
    const struct block *x = (const struct block *)a, *y = (const struct block *)b;
    return x->p < y->p ? -1 : x->p > y->p;
}

/* Everything that is alive, while no thread works. */
static void check_world(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < config.n_slots; i++) {
        struct slot *s = &slots[i];
        pthread_mutex_lock(&s->mutex);
        memcpy(all + n, s->live, s->n_live * sizeof *all);
        n += s->n_live;
        memcpy(all + n, s->mail, s->n_mail * sizeof *all);
        n += s->n_mail;
        pthread_mutex_unlock(&s->mutex);
    }
    qsort(all, n, sizeof *all, by_address);
    for (uint32_t i = 0; i < n; i++) {
        check(&all[i], "between rounds");
        if (i && all[i - 1].p + all[i - 1].usable > all[i].p) {
            fail("blocks overlap: %p (%zu bytes) and %p (%zu bytes)", (void *)all[i - 1].p,
                 all[i - 1].usable, (void *)all[i].p, all[i].usable);
        }
    }
    verify("between rounds");
}

static void free_all(void)
{
    for (uint32_t i = 0; i < config.n_slots; i++) {
        struct slot *s = &slots[i];
        while (s->n_live) {
            release(drop(s, s->n_live - 1));
        }
        while (s->n_mail) {
            release(s->mail[--s->n_mail]);
        }
    }
}

/* Waits by the one way of waiting that the sandbox knows. */
static void wait_10_ms(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 10000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&mutex);
    (void)pthread_cond_timedwait(&never, &mutex, &until);
    pthread_mutex_unlock(&mutex);
}

static int is_something_left(void)
{
    return hak_stat_get(heap_used_bytes) || hak_stat_get(large_bytes) ||
           hak_stat_get(large_cached_bytes) || hak_stat_get(bin_budget);
}

static void check_nothing_left(void)
{
    /* Detached threads may still be on their way out: their heaps become orphans within moments,
       and what their last words freed is empty then, but still there. What may not be touched goes
       back only where the limit has room (docs/secure.md). */
    int may_keep = HAK_SECURE && config.data != 0;
    for (int i = 0; i < 1000; i++) {
        (void)hak_purge();
        if (hak_stat_get(heaps) - hak_stat_get(orphans) <= 1 &&
            (may_keep || !is_something_left())) {
            break;
        }
        wait_10_ms();
    }
    verify("at the end");
    if (!may_keep && is_something_left()) {
        hak_print_stats(2);
        fail("all blocks are freed, but heap_used_bytes=%lld large_bytes=%lld "
             "large_cached_bytes=%lld bin_budget=%lld",
             (long long)hak_stat_get(heap_used_bytes), (long long)hak_stat_get(large_bytes),
             (long long)hak_stat_get(large_cached_bytes), (long long)hak_stat_get(bin_budget));
    }
}

/* --- command line --- */

static void usage(int code)
{
    fprintf(code ? stderr : stdout,
            "usage: hakmem_stress [--threads N] [--seconds S | --steps N] [--seed X] [--profile "
            "tiny|mid|large|all] "
            "[--round N]\n"
            "                     [--address-space M] [--data M] [--limited 1] [--sandbox 1]\n"
            "  --threads N   threads at a time, 1 to %d (4)\n"
            "  --seconds S   stops after the round in which S seconds are over (3)\n"
            "  --steps N     steps of each thread instead\n"
            "  --seed X      with one thread and --steps, the same seed does the same (1)\n"
            "  --profile P   sizes: tiny, up to 1 KiB; mid, up to 32 KiB; large, up to 4 MiB; all "
            "(all)\n"
            "  --round N     steps of a thread between two checks of everything (20000)\n"
            "  --address-space M, --data M\n"
            "                no more than M MiB besides what the program has to begin with "
            "(RLIMIT_AS, RLIMIT_DATA)\n"
            "  --limited 1   a limit from outside, as HAKMEM_LIMIT_HARD, refuses something\n"
            "  --sandbox 1   the kernel kills it at any system call that libc's malloc does not "
            "make\n",
            MAX_SLOTS);
    exit(code);
}

static double number(const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least) || !(value <= most)) {
        fprintf(stderr, "hakmem_stress: %s is not a number from %g to %g\n", text, least, most);
        usage(2);
    }
    return value;
}

static void read_arguments(int argc, char **argv)
{
    static const char *const profiles[] = {"tiny", "mid", "large", "all"};
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--help") == 0) {
            usage(0);
        }
        if (i + 1 == argc) {
            usage(2);
        }
        if (strcmp(name, "--threads") == 0) {
            config.n_slots = (uint32_t)number(value, 1, MAX_SLOTS);
        } else if (strcmp(name, "--seconds") == 0) {
            config.seconds = number(value, 0, 1e6);
        } else if (strcmp(name, "--steps") == 0) {
            config.steps = (uint64_t)number(value, 1, 1e15);
        } else if (strcmp(name, "--seed") == 0) {
            config.seed = (uint64_t)number(value, 0, 1e15);
        } else if (strcmp(name, "--round") == 0) {
            config.round_steps = (uint64_t)number(value, 1, 1e9);
        } else if (strcmp(name, "--address-space") == 0) {
            config.address_space = (size_t)number(value, 1, 1e6);
        } else if (strcmp(name, "--data") == 0) {
            config.data = (size_t)number(value, 1, 1e6);
        } else if (strcmp(name, "--limited") == 0) {
            config.is_limited = (int)number(value, 0, 1);
        } else if (strcmp(name, "--sandbox") == 0) {
            config.is_sandboxed = (int)number(value, 0, 1);
        } else if (strcmp(name, "--profile") == 0) {
            int found = -1;
            for (int k = 0; k < 4; k++) {
                found = strcmp(value, profiles[k]) == 0 ? k : found;
            }
            if (found < 0) {
                usage(2);
            }
            config.profile = (enum profile)found;
        } else {
            usage(2);
        }
    }
}

/* Field `number` of /proc/self/statm, in bytes. */
static size_t statm(int number)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    for (int i = 0; i <= number; i++) {
        if (!file || fscanf(file, "%lu", &pages) != 1) {
            fail("/proc/self/statm cannot be read");
        }
    }
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* At what it has now, field `number` of statm, and `more_mib`; 0: no limit, and nothing is read. */
static void set_limit(int what, int number, size_t more_mib)
{
    if (!more_mib) {
        return;
    }
    struct rlimit limit = {statm(number) + (more_mib << 20), RLIM_INFINITY};
    if (setrlimit((__typeof__(RLIMIT_AS))what, &limit) != 0) {
        fail("no limit: errno %d", errno);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* From here on the kernel ends the process at every system call except those of libc's malloc,
   those that make and end threads, and those that this program's own libc needs: its malloc asks
   for a random number when it starts, and for the number of processors when nine threads at once
   have called it (as those that are ending do), qsort for the size of memory, printf for what kind
   of file standard output is. */
static void enter_sandbox(void)
{
#if HAS_SANDBOX
    static const int allowed[] = {SANDBOX_MALLOC,       SANDBOX_THREADS, SANDBOX_THREAD_END,
                                  SYS_getrandom,        SYS_sysinfo,     SYS_newfstatat,
                                  SYS_sched_getaffinity};
    if (sandbox_enter(allowed, sizeof allowed / sizeof *allowed, 1)) {
        perror("hakmem_stress: sandbox");
        exit(1);
    }
#else
    fprintf(stderr, "hakmem_stress: no sandbox here\n");
    exit(2);
#endif
}

int main(int argc, char **argv)
{
    read_arguments(argc, argv);
    if (config.is_sandboxed) {
        enter_sandbox();
    }
    config.live_bytes = ((size_t)256 << 20) / config.n_slots;
    slots = (struct slot *)map_pages(config.n_slots * sizeof *slots);
    all =
        (struct block *)map_pages((size_t)config.n_slots * (MAX_LIVE + MAILBOX_ROOM) * sizeof *all);
    pthread_key_create(&last_words_key, last_words);
    for (uint32_t i = 0; i < config.n_slots; i++) {
        pthread_mutex_init(&slots[i].mutex, NULL);
        slots[i].number = i;
        slots[i].rng = mix(config.seed * MAX_SLOTS + i);
    }
    set_limit(RLIMIT_AS, 0, config.address_space);
    set_limit(RLIMIT_DATA, 5, config.data);
    double start = now();
    uint64_t done = 0, n_rounds = 0;
    do {
        uint64_t left = config.steps ? config.steps - done : config.round_steps;
        uint64_t n = left < config.round_steps ? left : config.round_steps;
        run_round(n);
        check_world();
        done += n;
        n_rounds++;
    } while (config.steps ? done < config.steps : now() - start < config.seconds);
    uint64_t n_steps = 0, n_threads = 0, n_remote = 0;
    for (uint32_t i = 0; i < config.n_slots; i++) {
        n_steps += slots[i].n_steps;
        n_threads += slots[i].n_threads;
        n_remote += slots[i].n_remote;
    }
    free_all();
    check_nothing_left();
    if (is_limited() && !n_refused) {
        fail("the limit has refused nothing");
    }
    if (is_guarding() && !hak_stat_get(guard_samples)) {
        fail("nothing was guarded");
    }
    printf("hakmem_stress: ok variant=%s seed=%llu threads=%u rounds=%llu steps=%llu "
           "threads_started=%llu handed_over=%llu refused=%llu time=%.1fs\n",
           hak_variant(), (unsigned long long)config.seed, config.n_slots,
           (unsigned long long)n_rounds, (unsigned long long)n_steps, (unsigned long long)n_threads,
           (unsigned long long)n_remote, (unsigned long long)n_refused, now() - start);
    return 0;
}
