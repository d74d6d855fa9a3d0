/* Lent pages: the home, and what is learnt. Called by large.c. */
#include "secure/pages.h"

#include <errno.h>
#include <string.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "base/os.h"
#include "secure/zero.h"

#if HAK_SECURE

/* Pages of a block that are looked at, and of how many blocks that are hardly touched one is. */
#define LOOKS       4u
#define LEARN_EVERY 16u
/* Lent if at least this part (in 256ths) is touched on average. */
#define WORTH       128u
#define LEARN_SHIFT 2
/* The home becomes writable by so many pages at a time. */
#define OPEN_PAGES 1024u
#define WORD_BITS  64u
/* So many times its address space must be free. */
#define ROOM_TIMES 8u
#define WORDS      (HOME_PAGES / WORD_BITS)
/* A run that is resident is lent in place of a longer one if it has so many pages: fewer cost less
   as page faults than the system calls that move them. */
#define SOME_LEAST 8u
/* Runs that are lent at most: each may cost three mappings. */
#define LENT_MOST 4096u

static LOCK_DEFINE(lock, LOCK_RANK_OWNED);
/* Bits of pages. Free: neither lent nor in a thread's hands; resident: with a page, and zero. Those
   that are not free and not lent are one thread's. */
static uint64_t is_free[WORDS], is_resident[WORDS];
static uint32_t n_open; /* pages that are writable, from the start on */
static uint32_t n_lent; /* runs */
static char *base;      /* NULL until there is a home */
static uint32_t is_refused;
size_t hak_secure_pages_kept;
/* By log2 of the size: 256ths on average, plus one; 0 as long as nothing was seen. Relaxed; a lost
   update is harmless. */
static uint32_t touched[64];
static uint32_t turn;

/* --- bits --- */

static int has(const uint64_t *bits, size_t i)
{
    return bits[i / WORD_BITS] >> i % WORD_BITS & 1;
}

static void set(uint64_t *bits, size_t i, int value)
{
    uint64_t bit = (uint64_t)1 << i % WORD_BITS;
    bits[i / WORD_BITS] = value ? bits[i / WORD_BITS] | bit : bits[i / WORD_BITS] & ~bit;
}

static uint64_t word_at(size_t i, int ready)
{
    return is_free[i] & (ready ? is_resident[i] : ~(uint64_t)0);
}

/* The first page from `i` on that is free, and resident if `ready`, or, if not `is`, that is not;
   n_open if there is none. */
static size_t next(size_t i, int ready, int is)
{
    while (i < n_open) {
        uint64_t word = word_at(i / WORD_BITS, ready), found = (is ? word : ~word) >> i % WORD_BITS;
        if (found) {
            i += (size_t)__builtin_ctzll(found);
            break;
        }
        i = (i / WORD_BITS + 1) * WORD_BITS;
    }
    return i < n_open ? i : n_open;
}

/* The first `most` pages in a row that are free, and resident if `ready`; or the longest such run.
   Lock held: some hundreds of steps at most. */
static struct pages find(size_t most, int ready)
{
    struct pages best = {0, 0};
    for (size_t end, i = next(0, ready, 1); i < n_open && best.n < most; i = next(end, ready, 1)) {
        end = next(i, ready, 0);
        size_t run = end - i < most ? end - i : most;
        if (run > best.n) {
            best = (struct pages){(uint32_t)i, (uint32_t)run};
        }
    }
    return best;
}

/* The run changes hands: to a thread's, or free with or without pages. Lock held. */
static void take(struct pages run)
{
    for (size_t i = run.first; i < run.first + run.n; i++) {
        set(is_free, i, 0);
        hak_secure_pages_kept -= (size_t)has(is_resident, i);
    }
}

static void give(struct pages run, size_t n_resident)
{
    hak_lock_acquire(&lock);
    for (size_t i = 0; i < run.n; i++) {
        set(is_free, run.first + i, 1);
        set(is_resident, run.first + i, i < n_resident);
    }
    atomic_store_relaxed(&hak_secure_pages_kept, hak_secure_pages_kept + n_resident);
    hak_lock_release(&lock);
}

/* --- the home --- */

static char *start_of(struct pages run)
{
    return base + run.first * hak_os_page_size();
}

/* From now on blocks have their own pages. */
static void refuse(void)
{
    atomic_store_relaxed(&is_refused, 1u);
}

static int has_home(void)
{
    if (HAK_LIKELY(atomic_load_acquire(&base) != NULL) || atomic_load_relaxed(&is_refused)) {
        return !atomic_load_relaxed(&is_refused);
    }
    /* Not where the program may have little address space (RLIMIT_AS). */
    size_t bytes = HOME_PAGES * hak_os_page_size(), much = ROOM_TIMES * bytes;
    char *none = NULL, *made = (char *)hak_os_reserve(much);
    if (!made) {
        refuse();
        return 0;
    }
    hak_os_unmap_untouched(made + bytes, much - bytes);
    hak_os_small_pages(made, bytes);
    if (!atomic_cas_strong(&base, &none, made)) {
        hak_os_unmap_untouched(made, bytes); /* another thread was first */
    }
    return 1;
}

/* More of it becomes writable. One thread at a time: the pages behind n_open have no user. */
static int open_more(size_t n)
{
    static uint32_t is_opening;
    uint32_t no = 0;
    if (!atomic_cas_strong(&is_opening, &no, 1u)) {
        return 0;
    }
    uint32_t first = atomic_load_relaxed(&n_open);
    size_t more = (n + OPEN_PAGES - 1) / OPEN_PAGES * OPEN_PAGES, page = hak_os_page_size();
    int is_open = first + more <= HOME_PAGES &&
                  hak_os_protect(base + first * page, more * page, OS_WRITABLE) == 0;
    if (is_open) {
        give((struct pages){first, (uint32_t)more}, 0);
        hak_lock_acquire(&lock);
        n_open = first + (uint32_t)more;
        hak_lock_release(&lock);
    }
    atomic_store_release(&is_opening, 0u);
    return is_open;
}

/* A run of n pages, this thread's from now on; or a shorter one that is resident, if it may be. */
static struct pages choose(size_t n, int may_be_shorter)
{
    struct pages run = {0, 0};
    hak_lock_acquire(&lock);
    if (hak_secure_pages_kept >= (may_be_shorter ? SOME_LEAST : n)) {
        run = find(n, 1);
    }
    if (run.n < n && !(may_be_shorter && run.n >= SOME_LEAST)) {
        run = find(n, 0);
    }
    if (n_lent >= LENT_MOST || (run.n < n && !(may_be_shorter && run.n >= SOME_LEAST))) {
        run.n = 0;
    }
    if (run.n) {
        take(run);
        n_lent++;
    }
    hak_lock_release(&lock);
    return run;
}

static void end_lent(void)
{
    hak_lock_acquire(&lock);
    n_lent--;
    hak_lock_release(&lock);
}

static struct pages lend(char *to, size_t n, int may_be_shorter)
{
    const struct pages none = {0, 0};
    if (n > HOME_PAGES / 8 || !has_home()) {
        return none;
    }
    struct pages run = choose(n, may_be_shorter);
    if (!run.n && open_more(n)) {
        run = choose(n, may_be_shorter);
    }
    if (!run.n) {
        return none;
    }
    size_t page = hak_os_page_size();
    for (size_t i = 0; i < run.n; i++) {
        if (!has(is_resident, run.first + i)) {
            atomic_store_relaxed((uint64_t *)(void *)(start_of(run) + i * page), 0u);
        }
    }
    int error = hak_os_move_pages(start_of(run), run.n * page, to);
    if (error) {
        if (error == EINVAL) {
            refuse(); /* no such call */
        }
        give(run, run.n);
        end_lent();
        return none;
    }
    return run;
}

struct pages hak_secure_pages_lend(char *to, size_t n)
{
    return lend(to, n, 0);
}

struct pages hak_secure_pages_lend_some(char *to, size_t n)
{
    return lend(to, n, 1);
}

struct pages hak_secure_pages_split(struct pages *lent, size_t n)
{
    struct pages rest = {lent->first + (uint32_t)n, lent->n - (uint32_t)n};
    lent->n = (uint32_t)n;
    hak_lock_acquire(&lock);
    n_lent++;
    hak_lock_release(&lock);
    return rest;
}

/* To their place in the home, which nothing else needs: by one call, until one is refused. */
static int move_home(char *from, size_t bytes, char *to, int *is_lost)
{
    static uint32_t was_refused;
    if (HAK_UNLIKELY(atomic_load_relaxed(&was_refused))) {
        *is_lost = 0;
        return hak_os_move_pages(from, bytes, to);
    }
    int error = hak_os_move_pages_at_once(from, bytes, to, is_lost);
    if (HAK_UNLIKELY(error)) {
        atomic_store_relaxed(&was_refused, 1u);
    }
    return error;
}

size_t hak_secure_pages_return(struct pages lent, char *from, size_t n, size_t most)
{
    int is_lost = 0;
    size_t page = hak_os_page_size(), kept = atomic_load_relaxed(&hak_secure_pages_kept);
    size_t room = kept < most ? most - kept : 0;
    n = n < lent.n ? n : lent.n;
    n = n < room ? n : room;
    /* Refused where it is no single mapping any more: the program has cut it. */
    int is_moved = n && move_home(from, n * page, start_of(lent), &is_lost) == 0;
    if (HAK_UNLIKELY(is_lost)) {
        end_lent(); /* and no block gets the run any more */
        return 0;
    }
    /* The program may have made them unreadable, or a refusal has. */
    if (n && hak_os_protect(start_of(lent), n * page, OS_WRITABLE)) {
        is_moved &= hak_os_purge(start_of(lent), n * page) == 0;
        end_lent(); /* and the run stays as it is, without a user */
        return is_moved ? n : 0;
    }
    if (is_moved) {
        hak_secure_zero(start_of(lent), n * page);
    }
    give(lent, is_moved ? n : 0);
    end_lent();
    return is_moved ? n : 0;
}

/* The first free resident run, this thread's from now on. */
static struct pages first_kept(void)
{
    hak_lock_acquire(&lock);
    struct pages run = find(1, 1);
    for (size_t i = run.first + run.n;
         run.n && i < n_open && has(is_free, i) && has(is_resident, i); i++) {
        run.n++;
    }
    take(run);
    hak_lock_release(&lock);
    return run;
}

int hak_secure_pages_trim(size_t most)
{
    int any = 0;
    while (atomic_load_relaxed(&hak_secure_pages_kept) > most) {
        struct pages run = first_kept();
        int is_refusing = !run.n || hak_os_purge(start_of(run), run.n * hak_os_page_size());
        give(run, is_refusing ? run.n : 0);
        if (is_refusing) {
            break;
        }
        any = 1;
    }
    return any;
}

/* --- what is learnt --- */

static uint32_t *average_of(size_t body_bytes)
{
    return &touched[63 - __builtin_clzll(body_bytes)];
}

int hak_secure_pages_are_wanted(size_t body_bytes)
{
    return atomic_load_relaxed(average_of(body_bytes)) > WORTH;
}

/* In 256ths, from a page of each of LOOKS even parts. */
static uint32_t look(const char *body, size_t body_bytes, uint32_t seed)
{
    size_t page = hak_os_page_size(), n = body_bytes / page;
    uint32_t found = 0;
    for (size_t i = 0; i < LOOKS; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint64_t at = ((uint64_t)i << 16) + (seed >> 16); /* in 2^16ths of a part */
        found += !hak_secure_is_zero(body + (size_t)((at * n / LOOKS) >> 16) * page, page);
    }
    return found * 256 / LOOKS;
}

void hak_secure_pages_learn(const char *body, size_t body_bytes, int is_lent)
{
    uint32_t *average = average_of(body_bytes);
    uint32_t was = atomic_load_relaxed(average), seed = atomic_add_relaxed(&turn, 1u);
    if (was && was <= WORTH && !is_lent && seed % LEARN_EVERY) {
        return;
    }
    uint32_t seen = look(body, body_bytes, seed), part = 1u << LEARN_SHIFT;
    atomic_store_relaxed(average, 1 + (was ? was - 1 - (was - 1) / part + seen / part : seen));
}

int hak_secure_pages_verify(void)
{
    size_t n = 0;
    hak_lock_acquire(&lock);
    for (size_t i = 0; i < WORDS; i++) {
        n += (size_t)__builtin_popcountll(is_free[i] & is_resident[i]);
    }
    int is_right = n == hak_secure_pages_kept;
    hak_lock_release(&lock);
    return is_right;
}

#endif
