/* Clearing and purging. State: a table of averages, relaxed atomics; a lost update is harmless.
   Called by ace.c. */
#include "ace/zero.h"

#include <string.h>

#include "base/atomic.h"
#include "base/os.h"

/* A block is expected to have at least this part (in 256ths) touched: a few looks may miss it. */
#define TOUCHED_LEAST 4u
/* Below this, clearing costs less than a system call. */
#define GIVE_BACK_MIN ((size_t)64 * HAK_KIB)
/* Clears if more than this part (in 256ths) of such blocks is touched. Above the break-even of one
   in thirty, since chance moves the average by a few. */
#define TOUCHED_FEW 24u
/* Of blocks that would be cleared, one in so many is purged all the same: otherwise nothing
   more would be learnt. Of those of which more than half is touched, fewer: such a purge costs
   more page faults, and one that finds less makes the next come sooner. */
#define EXPLORE_EVERY       512u
#define EXPLORE_EVERY_DENSE 2048u
#define TOUCHED_DENSE       128u
/* While such blocks are purged, one in so many is looked at (16 looks may cost as many page
   faults); while they are cleared, each that was purged all the same. */
#define LEARN_EVERY 32u
/* More than this part (in 256ths), and a look may have met the one page in sixteen that was not. */
#define TOUCHED_ALL 240u
/* Of blocks that need not be looked at, one in so many is. */
#define CURIOUS_EVERY 16u
/* An average moves by this part of the distance to what is seen: slowly, since what a few pages
   show differs by chance (with one page in 24 touched, the average of such looks is between 4 and
   18 256ths nearly always), but quickly where chance is not the reason. */
#define LEARN_SHIFT     4
#define LEARN_SHIFT_FAR 1
#define LEARN_FAR       64
/* So many pages of it are looked at: one in each of so many even parts, or fewer where pages are
   large. */
#define SAMPLES      16u
#define SAMPLE_BYTES ((size_t)SAMPLES * 4096)
#define SAMPLES_MIN  4u

/* By what was asked for and log2 of the size: the average in 256ths, plus one; 0 as long as nothing
   was seen. */
static uint32_t touched[2][64];
static uint32_t turn;
/* By the same: bytes that may be fetched together. Each look at a block that was touched all over
   earns its own, and twice as many as the one before, up to 2^EARN_SHIFT_MOST times, since not all
   are looked at; one that was not loses them all. So a program that goes over to blocks that it
   hardly touches, and keeps, pays for EARN_MOST at most, and for one block if one was all. */
#define EARN_SHIFT_MOST 4u
#define EARN_MOST       ((uint32_t)16 * HAK_MIB)
static struct {
    uint32_t bytes, n_looks;
} earned[2][64];

static unsigned log2_of(size_t size)
{
    return 63u - (unsigned)__builtin_clzll((unsigned long long)size);
}

static uint32_t *average_of(size_t size, int is_zeroed)
{
    return &touched[is_zeroed][log2_of(size)];
}

static uint32_t *earned_by(size_t size, int is_zeroed)
{
    return &earned[is_zeroed][log2_of(size)].bytes;
}

unsigned hak_zero_touched(size_t size, int is_zeroed)
{
    uint32_t average = atomic_load_relaxed(average_of(size, is_zeroed));
    return average ? average - 1 : 0;
}

int hak_zero_fetch_together(size_t size, int is_zeroed, size_t bytes)
{
    uint32_t *left = earned_by(size, is_zeroed), now = atomic_load_relaxed(left);
    if (bytes > now || hak_zero_touched(size, is_zeroed) < TOUCHED_ALL) {
        return 0;
    }
    atomic_store_relaxed(left, now - (uint32_t)bytes);
    return 1;
}

int hak_zero_is_curious(size_t size, int is_zeroed)
{
    unsigned part = hak_zero_touched(size, is_zeroed);
    return size >= GIVE_BACK_MIN &&
           (!atomic_load_relaxed(average_of(size, is_zeroed)) ||
            (part >= TOUCHED_ALL && atomic_load_relaxed(earned_by(size, is_zeroed)) < size) ||
            atomic_add_relaxed(&turn, 1u) % CURIOUS_EVERY == 0);
}

static void earn(size_t size, int is_zeroed, int is_dense)
{
    uint32_t *left = earned_by(size, is_zeroed);
    uint32_t *n_looks = &earned[is_zeroed][log2_of(size)].n_looks;
    uint32_t n = is_dense ? atomic_load_relaxed(n_looks) : 0;
    atomic_store_relaxed(n_looks, is_dense ? n + (n < EARN_SHIFT_MOST) : 0);
    size_t page = hak_os_page_size(), whole = (size + page - 1) & ~(page - 1);
    size_t now = is_dense ? atomic_load_relaxed(left) + (whole << n) : 0;
    atomic_store_relaxed(left, now < EARN_MOST ? (uint32_t)now : EARN_MOST);
}

size_t hak_zero_expected(size_t size)
{
    uint32_t average = atomic_load_relaxed(average_of(size, 0));
    size_t part = average ? average - 1 + TOUCHED_LEAST : 256;
    return part < 256 ? size / 256 * part : size;
}

void hak_zero_forget(void)
{
    memset(touched, 0, sizeof touched);
    memset(earned, 0, sizeof earned);
    turn = 0;
}

static int clear(void *start, size_t size)
{
    memset(start, 0, size);
    return 0;
}

static int purge(void *start, size_t size)
{
    return size < GIVE_BACK_MIN || hak_os_purge(start, size) ? clear(start, size) : 1;
}

/* By the block's size, and not by that of a part or of its range: that is what is learnt. */
hak_zero_way hak_zero_choose(size_t size)
{
    unsigned part = hak_zero_touched(size, 1);
    uint32_t every = part > TOUCHED_DENSE ? EXPLORE_EVERY_DENSE : EXPLORE_EVERY;
    int few = part <= TOUCHED_FEW || atomic_add_relaxed(&turn, 1u) % every == 0;
    return few ? purge : clear;
}

/* Only zeros? The block is being freed: no thread writes to it. */
static int is_zero(const char *page, size_t size)
{
    const uint64_t *word = (const uint64_t *)(const void *)page;
    uint64_t any = 0;
    for (size_t i = 0; i < size / sizeof *word && !any; i += 8) {
        any = (word[i] | word[i + 1]) | (word[i + 2] | word[i + 3]) | (word[i + 4] | word[i + 5]) |
              (word[i + 6] | word[i + 7]);
    }
    return !any;
}

/* The part of `n` pages that was touched, in 256ths, from a page at random in each of the even
   parts: all pages are looked at equally often, and no pattern of the program's stays unseen. */
static uint32_t sample(const char *start, size_t n, size_t page, uint32_t seed)
{
    size_t wanted = SAMPLE_BYTES / page;
    wanted = wanted > SAMPLES_MIN ? wanted : SAMPLES_MIN;
    wanted = wanted < n ? wanted : n;
    uint32_t found = 0;
    for (size_t i = 0; i < wanted; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint64_t at = ((uint64_t)i << 16) + (seed >> 16); /* in 2^16ths of a part */
        found += !is_zero(start + (size_t)((at * n / wanted) >> 16) * page, page);
    }
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): there is a page */
    return (uint32_t)((size_t)found * 256 / wanted);
}

/* The whole pages of [start, start + size) that may be looked at: their number, and the first in
   *first. The program may have left some without the right to read them: the block is the heap's
   again, so they get it back. 0 if the system refuses that. */
static size_t readable_pages(const void *start, size_t size, const char **first)
{
    size_t page = hak_os_page_size();
    uintptr_t begin = ((uintptr_t)start + page - 1) & ~(uintptr_t)(page - 1);
    uintptr_t end = ((uintptr_t)start + size) & ~(uintptr_t)(page - 1);
    *first = (const char *)begin;
    return end > begin && hak_os_protect((void *)begin, end - begin, OS_WRITABLE) == 0
               ? (end - begin) / page
               : 0;
}

unsigned hak_zero_seen(const void *start, size_t size)
{
    const char *first;
    size_t n = readable_pages(start, size, &first);
    return n ? sample(first, n, hak_os_page_size(), atomic_add_relaxed(&turn, 1u)) : 0;
}

/* One step from the average towards what was found; at least by one. */
static int32_t moved(int32_t average, int32_t found)
{
    int32_t distance = found - average;
    int is_far = distance >= LEARN_FAR || distance <= -LEARN_FAR;
    int32_t step = distance / (1 << (is_far ? LEARN_SHIFT_FAR : LEARN_SHIFT));
    return average + (step ? step : (distance > 0) - (distance < 0));
}

void hak_zero_learn(const void *start, size_t size, int is_zeroed)
{
    uint32_t *average = average_of(size, is_zeroed);
    uint32_t now = atomic_load_relaxed(average);
    uint32_t seed = atomic_add_relaxed(&turn, 1u);
    int is_enough = now && now <= TOUCHED_FEW + 1 && seed % LEARN_EVERY;
    const char *first;
    size_t n = size < GIVE_BACK_MIN || is_enough ? 0 : readable_pages(start, size, &first);
    if (n == 0) {
        return;
    }
    int32_t found = (int32_t)sample(first, n, hak_os_page_size(), seed) + 1;
    earn(size, is_zeroed, found > (int32_t)TOUCHED_ALL);
    int is_first_and_sure = !now && found >= LEARN_FAR; /* else it begins with none touched */
    atomic_store_relaxed(
        average, (uint32_t)(is_first_and_sure ? found : moved(now ? (int32_t)now : 1, found)));
}
