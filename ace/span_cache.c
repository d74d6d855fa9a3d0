/* The span cache. No lock but the pool's, where spans go back. Called by the slow paths of
   plain.c, by ace.c, by trims, and by the pool before it asks the system. */
#include "ace/span_cache.h"

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
#define WINDOW       32u
#define OFF_LEAST    64u
#define OFF_MOST     8192u
#define VERIFY_TRIES 10000u
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

/* The sum of all words has the sum of their granules in its low bits, as of all caches' spans. */
HAK_STATIC_ASSERT(SPAN_CACHE_SLOTS *SS_BYTES < SS_GRANULE_BYTES * SS_GRANULE_BYTES,
                  "all slots' granules fit in the low bits");
static size_t sum(const struct span_cache *cache)
{
    uint64_t words = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        words += atomic_load_acquire(&cache->slots[i]);
    }
    return bytes_of(words);
}

/* 1 if the slot was `slot` and is empty now: the caller has the span. */
static int take_out(struct span_cache *cache, uint32_t i, uint64_t slot)
{
    return atomic_cas_strong(&cache->slots[i], &slot, (uint64_t)0);
}

/* --- by the cache's thread --- */

/* Outside of the gate a signal handler may interrupt that forks, and then frees what other threads
   have put off: it finds the cache busy, and uses the pool. */
static int begin(struct span_cache *cache)
{
    if (HAK_UNLIKELY(cache->is_busy)) {
        return 0;
    }
    cache->is_busy = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return 1;
}

static void end(struct span_cache *cache)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    cache->is_busy = 0;
}

static void reserve(struct span_cache *cache, int64_t more)
{
    (void)atomic_add_relaxed(&cache->reserved, more);
    hak_stat_add(span_cache_bytes, more);
}

/* What is reserved is what there is. (The bytes that another thread takes out are still
   reserved, or are no longer in a slot.) */
static void drop_unused(struct span_cache *cache)
{
    int64_t unused = -(int64_t)sum(cache); /* first this: see span_cache.h */
    unused += atomic_load_relaxed(&cache->reserved);
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
    uint32_t granules = __atomic_exchange_n(&cache->untold[i], 0u, __ATOMIC_RELAXED);
    if (granules) {
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
    uint32_t i = class_of(granules);
    if (HAK_UNLIKELY(atomic_add_relaxed(&cache->untold[i], granules) >= UNTOLD_MOST)) {
        tell(cache, i);
    }
}

static void note_taken(struct span_cache *cache, uint32_t granules)
{
    uint32_t *untold = &cache->untold[class_of(granules)], n = atomic_load_relaxed(untold);
    /* Fails only if another thread was just at it. */
    if (n < granules || !atomic_cas_strong(untold, &n, n - granules)) {
        hak_adapt_class_taken(granules * SS_GRANULE_BYTES);
    }
}

/* --- cutting and joining: by who has the spans, which are in no slot --- */

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

/* Looks at the slots again. */
static void see(struct span_cache *cache)
{
    uint64_t words = 0;
    uint32_t slots = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        uint64_t slot = atomic_load_relaxed(&cache->slots[i]);
        slots |= (uint32_t)(slot != 0) << i;
        words += slot;
    }
    cache->seen_slots = slots;
    cache->seen_bytes = bytes_of(words);
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

static void put_in(struct span_cache *cache, uint32_t i, struct aside span)
{
    cache->words[i] = span.word;
    cache->seen_slots |= 1u << i;
    atomic_store_relaxed(&cache->ticks[i], span.tick);
    atomic_store_release(&cache->slots[i], span.slot);
}

/* What is in the slot comes out, and becomes one with the span: as old as the larger part. */
static struct aside join_slot(struct span_cache *cache, uint32_t i, int is_first, struct aside span)
{
    struct aside other = {atomic_load_relaxed(&cache->slots[i]), cache->words[i],
                          atomic_load_relaxed(&cache->ticks[i])};
    cache->seen_slots &= ~(1u << i);
    if (HAK_UNLIKELY(!other.slot || !take_out(cache, i, other.slot))) {
        return span; /* another thread has taken it out */
    }
    uint8_t tick = bytes_of(other.slot) > bytes_of(span.slot) ? other.tick : span.tick;
    struct aside first = is_first ? other : span, second = is_first ? span : other;
    return (struct aside){join(first.slot, first.word, second.slot), first.word, tick};
}

/* The span, which was freed, and what touches it in the slots become one. */
static struct aside join_around(struct span_cache *cache, struct aside span)
{
    uint64_t start = span.slot & ~LOW_MASK, end = start + bytes_of(span.slot);
    uint32_t before = SPAN_CACHE_SLOTS, behind = SPAN_CACHE_SLOTS;
    for (uint32_t left = cache->seen_slots; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(left);
        uint64_t slot = atomic_load_relaxed(&cache->slots[i]), at = slot & ~LOW_MASK;
        behind = at == end ? i : behind;
        before = at + bytes_of(slot) == start ? i : before;
    }
    if (behind < SPAN_CACHE_SLOTS && (end & (SS_BYTES - 1)) != 0) {
        span = join_slot(cache, behind, 0, span);
    }
    if (before < SPAN_CACHE_SLOTS && (start & (SS_BYTES - 1)) != 0) {
        span = join_slot(cache, before, 1, span);
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

/* The slot with the smallest span of n granules or more at such an address, the last one first;
   SPAN_CACHE_SLOTS if there is none. */
static uint32_t best_slot(const struct span_cache *cache, uint32_t n, uint64_t align_mask)
{
    uint32_t best = cache->last;
    if ((atomic_load_relaxed(&cache->slots[best]) & (align_mask | LOW_MASK)) == n) {
        return best;
    }
    uint64_t least = LOW_MASK + 1;
    best = SPAN_CACHE_SLOTS;
    for (uint32_t left = cache->seen_slots; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(left);
        uint64_t slot = atomic_load_relaxed(&cache->slots[i]), granules = slot & LOW_MASK;
        int is_better = granules >= n && granules < least && !(slot & align_mask);
        least = is_better ? granules : least;
        best = is_better ? i : best;
    }
    return best;
}

static HAK_ALWAYS_INLINE void *take(struct span_cache *cache, uint32_t n, size_t size,
                                    uint64_t align_mask, int is_zeroed)
{
    size_t bytes = n * SS_GRANULE_BYTES;
    uint32_t i = best_slot(cache, n, align_mask);
    uint64_t slot = i < SPAN_CACHE_SLOTS ? atomic_load_relaxed(&cache->slots[i]) : 0;
    if (!slot || !take_out(cache, i, slot)) {
        return NULL;
    }
    cache->n_hits++;
    cache->n_since++;
    cache->seen_bytes -= bytes;
    cache->seen_slots &= ~(1u << i);
    note_taken(cache, n);
    uint16_t *word = cache->words[i];
    uint64_t rest = use(slot, word, n, size, is_zeroed);
    if (rest) {
        put_in(cache, i, (struct aside){rest, word + n, now()});
    }
    if (HAK_UNLIKELY(atomic_load_relaxed(&cache->reserved) >
                     (int64_t)cache->seen_bytes + UNUSED_MOST)) {
        reserve(cache, -UNUSED_MOST / 2);
    }
    return span_of(slot);
}

void *hak_spans_take_kept(struct span_cache *cache, size_t size, size_t align, int is_zeroed)
{
    uint32_t n = wanted(size);
    if (!n || !begin(cache)) {
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
    return (uint32_t)__builtin_ctz(~cache->seen_slots);
}

static int has_room(const struct span_cache *cache, int64_t bytes)
{
    return empty_slot(cache) < SPAN_CACHE_SLOTS &&
           atomic_load_relaxed(&cache->reserved) - (int64_t)cache->seen_bytes >= bytes;
}

static int put(struct span_cache *cache, void *p, uint16_t *word, uint16_t granules)
{
    size_t bytes = granules * SS_GRANULE_BYTES;
    if (HAK_UNLIKELY(!has_room(cache, (int64_t)bytes))) {
        see(cache);
        if (!has_room(cache, (int64_t)bytes)) {
            return 0;
        }
    }
    uint16_t was = atomic_exchange_acq_rel(word, (uint16_t)(granules | SPAN_ASIDE));
    HAK_CHECK((was & ~SPAN_UNUSED) == granules, "block freed twice", p); /* by two at once */
    note_given(cache, granules);
    struct aside span = {(uint64_t)(uintptr_t)p | granules, word, now()};
    span = join_around(cache, span);
    cache->last = empty_slot(cache);
    put_in(cache, cache->last, span);
    cache->seen_bytes += bytes;
    return 1;
}

int hak_spans_put_reserved(struct span_cache *cache, void *p)
{
    uint16_t granules, *word = word_to_keep(p, &granules);
    if (!word || !begin(cache)) {
        return 0;
    }
    int is_kept = put(cache, p, word, granules);
    end(cache);
    return is_kept;
}

/* --- back to the pool --- */

static void give(uint64_t slot)
{
    hak_lock_acquire(&hak_pool_lock);
    hak_ss_span_give_aside(span_of(slot));
    hak_lock_release(&hak_pool_lock);
}

/* Takes out what is in the slot, and no longer reserves its bytes. Returns what it was. */
static uint64_t take_out_reserved(struct span_cache *cache, uint32_t i)
{
    uint64_t slot = atomic_load_acquire(&cache->slots[i]);
    if (slot) {
        reserve(cache, -(int64_t)bytes_of(slot));
        if (!take_out(cache, i, slot)) {
            reserve(cache, (int64_t)bytes_of(slot));
            slot = 0;
        }
    }
    return slot;
}

size_t hak_spans_flush(struct span_cache *cache)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        uint64_t slot = take_out_reserved(cache, i);
        if (slot) {
            give(slot);
            bytes += bytes_of(slot);
        }
    }
    if (bytes) {
        hak_ss_purge_due();
    }
    tell_all(cache);
    return bytes;
}

size_t hak_spans_end(struct span_cache *cache)
{
    size_t bytes = hak_spans_flush(cache);
    if (begin(cache)) { /* else what the interrupted code has in no slot is reserved */
        drop_unused(cache);
        end(cache);
    }
    return bytes;
}

uint32_t hak_spans_give_own(void)
{
    struct span_cache *cache = hak_spans_own ? hak_spans_own() : NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; cache && i < SPAN_CACHE_SLOTS; i++) {
        uint64_t slot = take_out_reserved(cache, i);
        if (HAK_UNLIKELY(slot)) {
            hak_ss_span_give_aside(span_of(slot));
            n++;
        }
    }
    return n;
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
static void judge(struct span_cache *cache)
{
    if (cache->n_hits < WINDOW / 2) {
        uint32_t twice = cache->off_last * 2;
        cache->off_last = twice < OFF_LEAST ? OFF_LEAST : twice < OFF_MOST ? twice : OFF_MOST;
        cache->off = cache->off_last;
        (void)hak_spans_flush(cache);
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
        judge(cache);
        end(cache);
    }
}

/* Whether `more` bytes of freed memory may be kept in a cache. */
static int may_keep(int64_t more)
{
    return hak_adapt_may_keep_span((size_t)more) &&
           (uint64_t)(hak_stat_get(span_cache_bytes) + more) <= hak_options.cache_bytes;
}

/* The smallest span makes room, if the slots are full of such as do not touch. */
static void make_room(struct span_cache *cache)
{
    if (empty_slot(cache) == SPAN_CACHE_SLOTS) {
        uint32_t i = best_slot(cache, 1, 0);
        uint64_t slot = i < SPAN_CACHE_SLOTS ? atomic_load_relaxed(&cache->slots[i]) : 0;
        if (slot && take_out(cache, i, slot)) {
            cache->n_slow += cache->n_slow < WINDOW;
            give(slot);
        }
        see(cache);
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

/* Reserves what `bytes` more than is seen need; a cache of use takes some to spare, so that it need
   not come again soon. Returns whether they may be kept. */
static int reserve_for(struct span_cache *cache, size_t bytes)
{
    int64_t reserved = atomic_load_relaxed(&cache->reserved);
    int64_t more = (int64_t)(cache->seen_bytes + bytes) - reserved;
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

static int put_with_room(struct span_cache *cache, void *p)
{
    uint16_t granules;
    if (cache->n_slow >= WINDOW) {
        judge(cache);
    }
    uint16_t *word = word_to_keep(p, &granules);
    if (cache->off || !word) {
        return 0;
    }
    size_t bytes = granules * SS_GRANULE_BYTES;
    see(cache);
    while (cache->seen_bytes + bytes > SPAN_CACHE_LEAST << cache->n_doublings) {
        if (!may_double(cache)) { /* once at most; it may have begun again with what it has */
            return 0;
        }
    }
    make_room(cache);
    return reserve_for(cache, bytes) && put(cache, p, word, granules);
}

int hak_spans_make_room(struct span_cache *cache, void *p)
{
    if (!begin(cache)) {
        return 0;
    }
    int is_kept = put_with_room(cache, p);
    end(cache);
    return is_kept;
}

/* --- by the background thread --- */

void hak_spans_tick(void)
{
    (void)atomic_add_relaxed(&tick_now, 1u);
}

int hak_spans_rest(struct span_cache *cache)
{
    int is_more = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        if (!atomic_load_acquire(&cache->slots[i])) {
            continue;
        }
        if ((uint8_t)(now() - atomic_load_relaxed(&cache->ticks[i])) <= 1) {
            is_more = 1;
            continue;
        }
        uint64_t slot = take_out_reserved(cache, i);
        if (slot) {
            give(slot);
            tell_all(cache);
        }
    }
    return is_more;
}

/* Who takes a span out has lowered `reserved` before, and may have been stopped there: it is waited
   for. */
static int is_reserved(const struct span_cache *cache)
{
    uint32_t word = 0;
    for (uint32_t n = 0; n < VERIFY_TRIES; n++) {
        int64_t reserved = atomic_load_acquire(&cache->reserved); /* first this: spans only go */
        if ((int64_t)sum(cache) <= reserved) {
            return 1;
        }
        (void)hak_os_ops.futex_wait_ms(&word, word, 1);
    }
    return 0;
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

/* Another thread may take out what is in a slot while it is looked at. */
static int verify_slot(struct span_cache *cache, uint32_t i)
{
    uint64_t slot = atomic_load_acquire(&cache->slots[i]);
    const uint16_t *word = slot ? hak_ss_span_word(span_of(slot)) : NULL;
    int is_right = !slot || (cache->words[i] == word && is_aside(word, slot)),
        has_one = !slot || !word || is_one(slot, word);
    if (atomic_load_acquire(&cache->slots[i]) != slot) {
        return 0;
    }
    if (!is_right) {
        return VERIFY_SPANS_SLOT;
    }
    return has_one ? 0 : VERIFY_SPANS_INSIDE;
}

int hak_spans_verify(struct span_cache *cache)
{
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        int result = verify_slot(cache, i);
        if (result) {
            return result;
        }
    }
    return is_reserved(cache) ? 0 : VERIFY_SPANS_RESERVED;
}
