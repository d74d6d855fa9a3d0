/* The span cache. No lock but the pool's, where spans go back. Called by the slow paths of
   plain.c, by ace.c, by trims, and by the pool before it asks the system. */
#include "ace/span_cache.h"

#include <string.h>

#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/zero.h"
#include "base/atomic.h"
#include "base/attributes.h"
#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/size_classes.h"
#include "base/stats.h"
#include "base/verify.h"
#include "superslab/pool.h"

/* A request that finds a span saves most of its cost; one that finds none, and a free that has to
   make room, cost a part more. After WINDOW of those the cache goes off if there were not half as
   many requests that found one; it is tried again after as many as OFF_LEAST of them, and twice as
   many each time that it was in vain, up to OFF_MOST. */
#define WINDOW    32u
#define OFF_LEAST 64u
#define OFF_MOST  8192u
/* So often another thread looks whether the cache's thread has let go, at first in vain, then for
   a ms each time. */
#define HOLD_SPINS 200u
#define HOLD_TRIES (HOLD_SPINS + 20u)
/* Addresses of spans end in zeros, where a slot has the number of granules. */
#define LOW_MASK ((uint64_t)SS_GRANULE_BYTES - 1)
/* So many granules of a class are untold at most. */
#define UNTOLD_MOST 512u
/* A cache keeps twice as many bytes after so many requests that found a span, if none of the
   thread's took memory from the system since: then it starts again with the least. */
#define HITS_TO_DOUBLE 128u
#define DOUBLINGS_MOST 2u
/* No more than this is reserved beyond what there is: then half of it goes. */
#define UNUSED_MOST (2 * (int64_t)SPAN_CACHE_LARGEST)
HAK_STATIC_ASSERT(SPAN_CACHE_LEAST << DOUBLINGS_MOST == SPAN_CACHE_BYTES, "from the least to all");

struct span_cache *(*hak_spans_own)(void);

static uint32_t tick_now; /* of the background thread */

static size_t bytes_of(uint64_t slot)
{
    return (size_t)(slot & LOW_MASK) * SS_GRANULE_BYTES;
}

static void *span_of(uint64_t slot)
{
    return (void *)(uintptr_t)(slot & ~LOW_MASK);
}

/* --- who has the cache --- */

static int hold(struct span_cache *cache, enum span_cache_holder holder)
{
    uint32_t nobody = SPAN_CACHE_FREE;
    return atomic_cas_strong(&cache->holder, &nobody, (uint32_t)holder);
}

/* By the cache's thread. */
static int begin(struct span_cache *cache)
{
    return HAK_LIKELY(hold(cache, SPAN_CACHE_OWN));
}

static void end(struct span_cache *cache)
{
    atomic_store_release(&cache->holder, (uint32_t)SPAN_CACHE_FREE);
}

/* By any thread. The cache's own has it as for a request: a child that it forks in a signal handler
   goes on with it. It does not wait for itself, which the handler may have interrupted. */
static int begin_patiently(struct span_cache *cache)
{
    int is_own = hak_spans_own && hak_spans_own() == cache;
    uint32_t word = 0, n = 0;
    while (!hold(cache, is_own ? SPAN_CACHE_OWN : SPAN_CACHE_OTHERS)) {
        int is_self = is_own && atomic_load_relaxed(&cache->holder) == SPAN_CACHE_OWN;
        if (is_self || ++n == HOLD_TRIES) {
            return 0;
        }
        if (n < HOLD_SPINS) {
            hak_atomic_pause();
        } else {
            (void)hak_os_ops.futex_wait_ms(&word, word, 1);
        }
    }
    return 1;
}

/* --- all that follows with the cache held, where nothing else is said --- */

static void reserve(struct span_cache *cache, int64_t more)
{
    atomic_store_relaxed(&cache->reserved, cache->reserved + more);
    hak_stat_add(span_cache_bytes, more);
}

/* What a cache has in all. */
static void set_bytes(struct span_cache *cache, size_t bytes)
{
    atomic_store_relaxed(&cache->bytes, bytes);
}

/* What is reserved is what there is. */
static void drop_unused(struct span_cache *cache)
{
    int64_t unused = cache->reserved - (int64_t)cache->bytes;
    if (unused > 0) {
        reserve(cache, -unused);
    }
}

/* --- what the controller hears of classes --- */

static uint32_t class_of(uint32_t granules)
{
    return hak_ace_class_index(granules * SS_GRANULE_BYTES) -
           hak_ace_class_index(SC_SMALL_MAX + SS_GRANULE_BYTES);
}

static void tell(struct span_cache *cache, uint32_t i)
{
    uint32_t granules = cache->untold[i];
    if (granules) {
        cache->untold[i] = 0;
        hak_adapt_class_given(i + hak_ace_class_index(SC_SMALL_MAX + SS_GRANULE_BYTES),
                              granules * SS_GRANULE_BYTES);
    }
}

static void tell_all(struct span_cache *cache)
{
    for (uint32_t i = 0; i < SPAN_CACHE_CLASSES; i++) {
        tell(cache, i);
    }
}

static void note_given(struct span_cache *cache, uint32_t granules)
{
    uint32_t i = class_of(granules), before = cache->untold[i];
    cache->untold[i] = before + granules;
    if (HAK_UNLIKELY(before >= UNTOLD_MOST)) {
        tell(cache, i);
    }
}

static void note_taken(struct span_cache *cache, uint32_t granules)
{
    uint32_t *untold = &cache->untold[class_of(granules)];
    if (HAK_LIKELY(*untold >= granules)) {
        *untold -= granules;
    } else {
        hak_adapt_class_taken(granules * SS_GRANULE_BYTES);
    }
}

/* --- cutting and joining: of spans that are in no slot --- */

static int is_aside(const uint16_t *word, uint64_t slot)
{
    return word && atomic_load_relaxed(word) == ((slot & LOW_MASK) | SPAN_ASIDE);
}

static void check_is_aside(const uint16_t *word, uint64_t slot)
{
    HAK_CHECK(is_aside(word, slot), "freed span is corrupt", span_of(slot));
}

/* The front of the span, n granules, becomes a block. Returns the rest, 0 if there is none. The
   rest is made before the front is shortened: see pool.h. */
static uint64_t use(uint64_t slot, uint16_t *word, uint32_t n, size_t size, int is_zeroed)
{
    char *p = (char *)span_of(slot);
    check_is_aside(word, slot);
    uint32_t more = (uint32_t)(slot & LOW_MASK) - n, bits = n | hak_pool_span_unused(n, size);
    size_t bytes = n * SS_GRANULE_BYTES;
    if (more) {
        atomic_store_release(word + n, (uint16_t)(more | SPAN_ASIDE));
    }
    if (HAK_UNLIKELY(is_zeroed) && hak_zero_choose(bytes)(p, bytes)) {
        bits |= SPAN_MARK; /* handed out without resident pages */
    }
    atomic_store_release(word, (uint16_t)bits);
    return more ? (uint64_t)(uintptr_t)(p + bytes) | more : 0;
}

/* Two spans of which the second one begins where the first one ends, in one superslab; `word` is
   the first one's. */
static uint64_t join(uint64_t first, uint16_t *word, uint64_t second)
{
    uint16_t n = (uint16_t)(second & LOW_MASK);
    check_is_aside(word, first);
    check_is_aside(word + (first & LOW_MASK), second);
    uint16_t sum = (uint16_t)((first & LOW_MASK) + n);
    atomic_store_release(word, (uint16_t)(sum | SPAN_ASIDE));
    atomic_store_release(word + (sum - n), (uint16_t)0);
    return first + n;
}

/* A span in no slot: as in one, with its word, and when it came in. */
struct aside {
    uint64_t slot;
    uint16_t *word;
    uint8_t tick;
};

static uint8_t now(void)
{
    return (uint8_t)atomic_load_relaxed(&tick_now);
}

static uint32_t granule_of(uint64_t slot)
{
    return (uint32_t)((slot & ~LOW_MASK) / SS_GRANULE_BYTES);
}

/* What is searched for, of the slot. */
static void index_slot(struct span_cache *cache, uint32_t i, uint64_t slot)
{
    uint32_t n = (uint32_t)(slot & LOW_MASK), start = granule_of(slot);
    cache->starts[i] = start;
    cache->ends[i] = start + n;
    cache->keys[i] = (uint16_t)(n * SPAN_CACHE_SLOTS + (n ? i : 0));
}

/* The slot is empty. `bytes` does not change here, nor in take_out: mostly the span comes back. */
static void put_in(struct span_cache *cache, uint32_t i, struct aside span)
{
    cache->words[i] = span.word;
    cache->filled |= 1u << i;
    cache->ticks[i] = span.tick;
    index_slot(cache, i, span.slot);
    cache->slots[i] = span.slot;
}

static struct aside take_out(struct span_cache *cache, uint32_t i)
{
    struct aside span = {cache->slots[i], cache->words[i], cache->ticks[i]};
    cache->slots[i] = 0;
    cache->filled &= ~(1u << i);
    index_slot(cache, i, 0);
    return span;
}

/* What is in the slot comes out, and becomes one with the span: as old as the larger part. */
static struct aside join_slot(struct span_cache *cache, uint32_t i, int is_first, struct aside span)
{
    struct aside other = take_out(cache, i);
    uint8_t tick = bytes_of(other.slot) > bytes_of(span.slot) ? other.tick : span.tick;
    struct aside first = is_first ? other : span, second = is_first ? span : other;
    return (struct aside){join(first.slot, first.word, second.slot), first.word, tick};
}

typedef uint32_t four __attribute__((vector_size(16)));
typedef uint64_t two __attribute__((vector_size(16)));
HAK_STATIC_ASSERT(SPAN_CACHE_SLOTS == 8, "two times four");

/* A bit for each of the slots that begin at `end`; and above them for those that end at `start`. */
static uint32_t touching(const struct span_cache *cache, uint32_t start, uint32_t end)
{
    const four low = {1, 2, 4, 8}, high = low << 4;
    four starts[2], ends[2];
    memcpy(starts, cache->starts, sizeof starts);
    memcpy(ends, cache->ends, sizeof ends);
    two bits =
        (two)(((four)(starts[0] == end) & low) | ((four)(starts[1] == end) & high) |
              ((four)(ends[0] == start) & low << 8) | ((four)(ends[1] == start) & high << 8));
    uint64_t both = bits[0] | bits[1];
    return (uint32_t)(both | both >> 32);
}

/* The span, which was freed, and what touches it in the slots become one. */
static struct aside join_around(struct span_cache *cache, struct aside span)
{
    uint64_t start = span.slot & ~LOW_MASK, end = start + bytes_of(span.slot);
    uint32_t bits = touching(cache, granule_of(start), granule_of(end)),
             behind = bits & ((1u << SPAN_CACHE_SLOTS) - 1), before = bits >> SPAN_CACHE_SLOTS;
    if (behind && (end & (SS_BYTES - 1)) != 0) {
        uint32_t i = (uint32_t)__builtin_ctz(behind);
        if (HAK_LIKELY((cache->slots[i] & ~LOW_MASK) == end)) {
            span = join_slot(cache, i, 0, span);
        }
    }
    if (before && (start & (SS_BYTES - 1)) != 0) {
        uint32_t i = (uint32_t)__builtin_ctz(before);
        uint64_t slot = cache->slots[i];
        if (HAK_LIKELY((slot & ~LOW_MASK) + bytes_of(slot) == start)) {
            span = join_slot(cache, i, 1, span);
        }
    }
    return span;
}

/* --- requests and frees --- */

/* The granules that the request takes; 0 if the cache serves no such size. */
static uint32_t wanted(size_t size)
{
    if (size <= SC_SMALL_MAX || size > SPAN_CACHE_LARGEST) {
        return 0;
    }
    size_t bytes = hak_ace_class_bytes(size);
    return bytes * 1000 > size * hak_options.wmax_mid ? 0 : hak_ss_span_granules_for(bytes);
}

/* The slot with the smallest span of n granules or more, the last one first; SPAN_CACHE_SLOTS if
   there is none. */
static uint32_t best_slot(const struct span_cache *cache, uint32_t n)
{
    if (cache->keys[cache->last] / SPAN_CACHE_SLOTS == n) {
        return cache->last;
    }
    uint16_t least = UINT16_MAX, key = (uint16_t)(n * SPAN_CACHE_SLOTS);
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        uint16_t more = (uint16_t)(cache->keys[i] - key); /* those that are too small are last */
        least = more < least ? more : least;
    }
    return least <= SS_GRANULES * SPAN_CACHE_SLOTS ? least % SPAN_CACHE_SLOTS : SPAN_CACHE_SLOTS;
}

/* The same at such an address. */
static HAK_NOINLINE uint32_t best_aligned_slot(const struct span_cache *cache, uint32_t n,
                                               uint64_t align_mask)
{
    uint32_t best = SPAN_CACHE_SLOTS;
    for (uint32_t left = cache->filled; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(left), key = cache->keys[i];
        if (key / SPAN_CACHE_SLOTS >= n && !(cache->slots[i] & align_mask) &&
            (best == SPAN_CACHE_SLOTS || key < cache->keys[best])) {
            best = i;
        }
    }
    return best;
}

static HAK_ALWAYS_INLINE uint32_t choose(const struct span_cache *cache, uint32_t n,
                                         uint64_t align_mask)
{
    return HAK_LIKELY(!align_mask) ? best_slot(cache, n) : best_aligned_slot(cache, n, align_mask);
}

static HAK_ALWAYS_INLINE void *take(struct span_cache *cache, uint32_t n, size_t size,
                                    uint64_t align_mask, int is_zeroed)
{
    uint32_t i = choose(cache, n, align_mask);
    if (i >= SPAN_CACHE_SLOTS) {
        return NULL;
    }
    struct aside span = take_out(cache, i);
    cache->n_hits++;
    cache->n_since++;
    set_bytes(cache, cache->bytes - n * SS_GRANULE_BYTES);
    note_taken(cache, n);
    uint64_t rest = use(span.slot, span.word, n, size, is_zeroed);
    if (rest) {
        put_in(cache, i, (struct aside){rest, span.word + n, now()});
    }
    if (HAK_UNLIKELY(cache->reserved > (int64_t)cache->bytes + UNUSED_MOST)) {
        reserve(cache, -UNUSED_MOST / 2);
    }
    return span_of(span.slot);
}

/* By the cache's thread, which has not got it yet: a hint, since others take spans out. */
static int may_have(const struct span_cache *cache, uint32_t n)
{
    return atomic_load_relaxed(&cache->bytes) >= n * SS_GRANULE_BYTES;
}

void *hak_spans_take_kept(struct span_cache *cache, size_t size, size_t align, int is_zeroed)
{
    uint32_t n = wanted(size);
    if (!n || !may_have(cache, n) || !begin(cache)) {
        return NULL;
    }
    void *p = take(cache, n, size, (align - 1) & ~LOW_MASK, is_zeroed);
    end(cache);
    return p;
}

/* The span's word if it is a block that may be kept: of a size that is asked for again, and of
   which nothing is to be learnt. */
static HAK_ALWAYS_INLINE uint16_t *word_to_keep(const void *p, uint16_t *granules)
{
    uint16_t *word = HAK_SECURE ? NULL : hak_pool_span_word(p);
    *granules = word ? atomic_load_relaxed(word) & (uint16_t)~SPAN_UNUSED : 0;
    return *granules > SC_SMALL_MAX / SS_GRANULE_BYTES &&
                   *granules <= SPAN_CACHE_LARGEST / SS_GRANULE_BYTES
               ? word
               : NULL;
}

/* An empty slot; SPAN_CACHE_SLOTS if there is none. */
static uint32_t empty_slot(const struct span_cache *cache)
{
    return (uint32_t)__builtin_ctz(~cache->filled);
}

/* A hint for its thread, where that has not got the cache. */
static int has_room(const struct span_cache *cache, size_t bytes)
{
    return atomic_load_relaxed(&cache->reserved) >=
           (int64_t)(atomic_load_relaxed(&cache->bytes) + bytes);
}

static int put(struct span_cache *cache, void *p, uint16_t *word, uint16_t granules)
{
    size_t bytes = granules * SS_GRANULE_BYTES;
    if (empty_slot(cache) == SPAN_CACHE_SLOTS || !has_room(cache, bytes)) {
        return 0;
    }
    uint16_t was = atomic_exchange_acq_rel(word, (uint16_t)(granules | SPAN_ASIDE));
    HAK_CHECK((was & ~SPAN_UNUSED) == granules, "block freed twice", p); /* by two at once */
    note_given(cache, granules);
    struct aside span = {(uint64_t)(uintptr_t)p | granules, word, now()};
    span = join_around(cache, span);
    cache->last = empty_slot(cache);
    put_in(cache, cache->last, span);
    set_bytes(cache, cache->bytes + bytes);
    return 1;
}

int hak_spans_put_reserved(struct span_cache *cache, void *p)
{
    uint16_t granules, *word = word_to_keep(p, &granules);
    if (!word || !has_room(cache, granules * SS_GRANULE_BYTES) || !begin(cache)) {
        return 0;
    }
    int is_kept = put(cache, p, word, granules);
    end(cache);
    return is_kept;
}

/* --- back to the pool --- */

/* Spans that were taken out of a cache, and are given to the pool when it is no longer held. */
struct leaving {
    uint32_t n;
    uint64_t slots[SPAN_CACHE_SLOTS];
};

/* What is in the slots, a bit each, comes out, and its bytes are no longer reserved. */
static void take_out_all(struct span_cache *cache, uint32_t slots, struct leaving *leaving)
{
    for (uint32_t left = slots & cache->filled; left; left &= left - 1) {
        uint64_t slot = take_out(cache, (uint32_t)__builtin_ctz(left)).slot;
        leaving->slots[leaving->n++] = slot;
        set_bytes(cache, cache->bytes - bytes_of(slot));
        reserve(cache, -(int64_t)bytes_of(slot));
    }
}

static size_t give_all(const struct leaving *leaving)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < leaving->n; i++) {
        hak_lock_acquire(&hak_pool_lock);
        hak_ss_span_give_aside(span_of(leaving->slots[i]));
        hak_lock_release(&hak_pool_lock);
        bytes += bytes_of(leaving->slots[i]);
    }
    return bytes;
}

static size_t give_all_and_purge(const struct leaving *leaving)
{
    size_t bytes = give_all(leaving);
    if (bytes) {
        hak_ss_purge_due();
    }
    return bytes;
}

size_t hak_spans_flush(struct span_cache *cache)
{
    struct leaving leaving = {.n = 0};
    if (begin_patiently(cache)) {
        take_out_all(cache, ~0u, &leaving);
        tell_all(cache);
        end(cache);
    }
    return give_all_and_purge(&leaving);
}

size_t hak_spans_end(struct span_cache *cache)
{
    struct leaving leaving = {.n = 0};
    if (begin_patiently(cache)) { /* else what the interrupted code has is reserved */
        take_out_all(cache, ~0u, &leaving);
        tell_all(cache);
        drop_unused(cache);
        end(cache);
    }
    return give_all_and_purge(&leaving);
}

/* Whoever had the cache does not go on: what the slots say is so, and all else is made from it. */
static void take_over(struct span_cache *cache)
{
    cache->filled = 0;
    cache->bytes = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        uint64_t slot = cache->slots[i];
        cache->filled |= (uint32_t)(slot != 0) << i;
        set_bytes(cache, cache->bytes + bytes_of(slot));
        cache->words[i] = slot ? hak_ss_span_word(span_of(slot)) : NULL;
        index_slot(cache, i, slot);
    }
    if (cache->reserved < (int64_t)cache->bytes) {
        reserve(cache, (int64_t)cache->bytes - cache->reserved);
    }
    end(cache);
}

void hak_spans_let_go(struct span_cache *cache)
{
    if (atomic_load_acquire(&cache->holder) == SPAN_CACHE_OWN) {
        take_over(cache);
    }
}

void hak_spans_fork_child(struct span_cache *cache)
{
    if (cache->holder == SPAN_CACHE_OTHERS) {
        take_over(cache);
    }
}

uint32_t hak_spans_give_own(void)
{
    struct span_cache *cache = hak_spans_own ? hak_spans_own() : NULL;
    struct leaving leaving = {.n = 0};
    if (cache && atomic_load_relaxed(&cache->bytes) && begin(cache)) { /* a hint */
        take_out_all(cache, ~0u, &leaving);
        end(cache);
    }
    for (uint32_t i = 0; i < leaving.n; i++) {
        hak_ss_span_give_aside(span_of(leaving.slots[i]));
    }
    return leaving.n;
}

void hak_spans_fetched(void)
{
    struct span_cache *cache = hak_spans_own ? hak_spans_own() : NULL;
    if (cache && (cache->n_doublings || cache->n_since)) { /* else perhaps no thread's heap */
        cache->n_doublings = 0;
        cache->n_since = 0;
    }
}

/* The end of a window. */
static void judge(struct span_cache *cache, struct leaving *leaving)
{
    if (cache->n_hits < WINDOW / 2) {
        uint32_t twice = cache->off_last * 2;
        cache->off_last = twice < OFF_LEAST ? OFF_LEAST : twice < OFF_MOST ? twice : OFF_MOST;
        cache->off = cache->off_last;
        take_out_all(cache, ~0u, leaving);
        tell_all(cache);
    } else {
        cache->off_last = 0;
    }
    cache->n_hits = cache->n_slow = 0;
    drop_unused(cache);
}

void hak_spans_missed(struct span_cache *cache)
{
    if (cache->off) {
        cache->off--;
    } else if (atomic_load_relaxed(&cache->reserved) && ++cache->n_slow >= WINDOW && begin(cache)) {
        struct leaving leaving = {.n = 0};
        judge(cache, &leaving);
        end(cache);
        (void)give_all_and_purge(&leaving);
    }
}

/* Whether `more` bytes of freed memory may be kept in a cache. */
static int may_keep(int64_t more)
{
    return hak_adapt_may_keep_span((size_t)more) &&
           (uint64_t)(hak_stat_get(span_cache_bytes) + more) <= hak_options.cache_bytes;
}

/* The smallest span makes room, if the slots are full of such as do not touch. */
static void make_room(struct span_cache *cache, struct leaving *leaving)
{
    uint32_t i = empty_slot(cache) == SPAN_CACHE_SLOTS ? best_slot(cache, 1) : SPAN_CACHE_SLOTS;
    if (i < SPAN_CACHE_SLOTS) {
        uint64_t slot = take_out(cache, i).slot;
        set_bytes(cache, cache->bytes - bytes_of(slot)); /* which stay reserved */
        cache->n_slow += cache->n_slow < WINDOW;
        leaving->slots[leaving->n++] = slot;
    }
}

/* Whether it may have twice as much now, of which a block of any size is a part. */
static int may_double(struct span_cache *cache)
{
    if (cache->n_since < HITS_TO_DOUBLE || cache->n_doublings == DOUBLINGS_MOST) {
        return 0;
    }
    cache->n_doublings++;
    cache->n_since = 0;
    return 1;
}

/* Reserves what `bytes` more than there are need; a cache of use takes some to spare, so that it
   need not come again soon. Returns whether they may be kept. */
static int reserve_for(struct span_cache *cache, size_t bytes)
{
    int64_t reserved = cache->reserved, more = (int64_t)(cache->bytes + bytes) - reserved;
    int64_t spare = (int64_t)(SPAN_CACHE_LEAST << cache->n_doublings) - reserved - more;
    spare = spare < UNUSED_MOST / 4 ? spare : UNUSED_MOST / 4;
    if (more <= 0) {
        return 1;
    }
    if (cache->n_doublings && spare > 0 && may_keep(more + spare)) {
        more += spare;
    } else if (!may_keep(more)) {
        return 0;
    }
    reserve(cache, more);
    return 1;
}

static int put_with_room(struct span_cache *cache, void *p, uint16_t *word, uint16_t granules,
                         struct leaving *leaving)
{
    if (cache->n_slow >= WINDOW) {
        judge(cache, leaving);
    }
    if (cache->off) {
        return 0;
    }
    size_t bytes = granules * SS_GRANULE_BYTES;
    while (cache->bytes + bytes > SPAN_CACHE_LEAST << cache->n_doublings) {
        if (!may_double(cache)) { /* once at most; it may have begun again with what it has */
            return 0;
        }
    }
    make_room(cache, leaving);
    return reserve_for(cache, bytes) && put(cache, p, word, granules);
}

int hak_spans_make_room(struct span_cache *cache, void *p)
{
    struct leaving leaving;
    uint16_t granules, *word = word_to_keep(p, &granules);
    if (!word || !begin(cache)) {
        return 0;
    }
    leaving.n = 0;
    int is_kept = put_with_room(cache, p, word, granules, &leaving);
    end(cache);
    (void)give_all(&leaving);
    return is_kept;
}

/* --- by the background thread --- */

void hak_spans_tick(void)
{
    (void)atomic_add_relaxed(&tick_now, 1u);
}

int hak_spans_rest(struct span_cache *cache)
{
    struct leaving leaving = {.n = 0};
    uint32_t old = 0;
    if (!hold(cache, SPAN_CACHE_OTHERS)) {
        return 1; /* it is in use */
    }
    for (uint32_t left = cache->filled; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(left);
        old |= (uint32_t)((uint8_t)(now() - cache->ticks[i]) > 1) << i;
    }
    take_out_all(cache, old, &leaving);
    if (old) {
        tell_all(cache);
    }
    int is_more = cache->filled != 0;
    end(cache);
    (void)give_all(&leaving);
    return is_more;
}

/* No span begins within the one that the slot names. */
static int is_one(uint64_t slot, const uint16_t *word)
{
    uint32_t granules = (uint32_t)(slot & LOW_MASK), i = 1;
    while (i < granules && !atomic_load_relaxed(word + i)) {
        i++;
    }
    return i >= granules;
}

static int is_indexed(struct span_cache *cache, uint32_t i)
{
    struct span_cache other = {.filled = 0};
    index_slot(&other, i, cache->slots[i]);
    return cache->starts[i] == other.starts[i] && cache->ends[i] == other.ends[i] &&
           cache->keys[i] == other.keys[i] && (cache->filled >> i & 1) == (cache->slots[i] != 0);
}

static int verify_slot(struct span_cache *cache, uint32_t i)
{
    uint64_t slot = cache->slots[i];
    const uint16_t *word = slot ? hak_ss_span_word(span_of(slot)) : NULL;
    if (!is_indexed(cache, i) || (slot && (cache->words[i] != word || !is_aside(word, slot)))) {
        return VERIFY_SPANS_SLOT;
    }
    return !slot || is_one(slot, word) ? 0 : VERIFY_SPANS_INSIDE;
}

static int verify_held(struct span_cache *cache)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        int result = verify_slot(cache, i);
        if (result) {
            return result;
        }
        bytes += bytes_of(cache->slots[i]);
    }
    return bytes == cache->bytes && (int64_t)bytes <= cache->reserved ? 0 : VERIFY_SPANS_RESERVED;
}

int hak_spans_verify(struct span_cache *cache)
{
    if (!begin_patiently(cache)) {
        return 0; /* in between */
    }
    int result = verify_held(cache);
    end(cache);
    return result;
}
