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
HAK_STATIC_ASSERT(SPAN_CACHE_SLOTS *SPAN_CACHE_BYTES < SS_GRANULE_BYTES * SS_GRANULE_BYTES,
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

/* A block again. Returns what it is, zeroed if it shall be. */
static void *use(uint64_t slot, int is_zeroed)
{
    void *p = span_of(slot);
    uint16_t *word = hak_ss_span_word(p), granules = (uint16_t)(slot & LOW_MASK);
    HAK_CHECK(word && atomic_load_relaxed(word) == (granules | SPAN_ASIDE), "freed span is corrupt",
              p);
    if (is_zeroed && hak_zero_choose(bytes_of(slot))(p, bytes_of(slot))) {
        granules |= SPAN_MARK; /* handed out without resident pages */
    }
    atomic_store_relaxed(word, granules);
    return p;
}

/* The low bits of the slot that serves the request; 0 if none does. */
static uint32_t wanted(size_t size)
{
    if (size <= SC_SMALL_MAX || size > SPAN_CACHE_BYTES) {
        return 0;
    }
    size_t bytes = hak_ace_class_bytes(size);
    return bytes * 1000 > size * hak_options.wmax_mid ? 0 : hak_ss_span_granules_for(bytes);
}

/* The slot with such low bits, the last one first; SPAN_CACHE_SLOTS if there is none. */
static uint32_t slot_with(const struct span_cache *cache, uint64_t mask, uint64_t low)
{
    uint32_t last = cache->last;
    if (HAK_LIKELY((atomic_load_relaxed(&cache->slots[last]) & mask) == low)) {
        return last;
    }
    uint32_t i = 0;
    while (i < SPAN_CACHE_SLOTS && (atomic_load_relaxed(&cache->slots[i]) & mask) != low) {
        i++;
    }
    return i;
}

void *hak_spans_take_kept(struct span_cache *cache, size_t size, size_t align, int is_zeroed)
{
    uint64_t granules = wanted(size);
    if (!granules) {
        return NULL;
    }
    uint32_t i = slot_with(cache, LOW_MASK | (align - 1), granules);
    if (i == SPAN_CACHE_SLOTS) {
        return NULL;
    }
    uint64_t slot = atomic_load_relaxed(&cache->slots[i]);
    if (!slot || !take_out(cache, i, slot)) {
        return NULL;
    }
    cache->n_hits++;
    return use(slot, is_zeroed);
}

static void fill(struct span_cache *cache, uint32_t i, void *p, uint16_t *word, uint16_t granules)
{
    uint16_t was = atomic_exchange_acq_rel(word, (uint16_t)(granules | SPAN_ASIDE));
    HAK_CHECK(was == granules, "block freed twice", p); /* by two threads at once */
    atomic_store_relaxed(&cache->ticks[i], (uint8_t)atomic_load_relaxed(&tick_now));
    cache->last = i;
    atomic_store_release(&cache->slots[i], (uint64_t)(uintptr_t)p | granules);
}

/* The span's word if it is a block that may be kept: of a size that is asked for again, and of
   which nothing is to be learnt. */
static uint16_t *word_to_keep(const void *p, uint16_t *granules)
{
    uint16_t *word = HAK_SECURE ? NULL : hak_ss_span_word(p);
    *granules = word ? atomic_load_relaxed(word) : 0;
    return *granules > SC_SMALL_MAX / SS_GRANULE_BYTES &&
                   *granules <= SPAN_CACHE_BYTES / SS_GRANULE_BYTES
               ? word
               : NULL;
}

int hak_spans_put_reserved(struct span_cache *cache, void *p)
{
    uint16_t granules;
    int64_t room = -(int64_t)sum(cache); /* first this, see span_cache.h */
    room += atomic_load_relaxed(&cache->reserved);
    if (room <= 0) {
        return 0;
    }
    uint16_t *word = word_to_keep(p, &granules);
    if (!word || room < (int64_t)(granules * SS_GRANULE_BYTES)) {
        return 0;
    }
    uint32_t i = slot_with(cache, ~(uint64_t)0, 0);
    if (i == SPAN_CACHE_SLOTS) {
        return 0;
    }
    fill(cache, i, p, word, granules);
    return 1;
}

/* --- back to the pool --- */

static void give(uint64_t slot)
{
    hak_adapt_block_given(bytes_of(slot));
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
    return bytes;
}

size_t hak_spans_end(struct span_cache *cache)
{
    size_t bytes = hak_spans_flush(cache);
    drop_unused(cache);
    return bytes;
}

uint32_t hak_spans_give_own(void)
{
    struct span_cache *cache = hak_spans_own ? hak_spans_own() : NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; cache && i < SPAN_CACHE_SLOTS; i++) {
        uint64_t slot = take_out_reserved(cache, i);
        if (HAK_UNLIKELY(slot)) {
            hak_adapt_block_given(bytes_of(slot));
            hak_ss_span_give_aside(span_of(slot));
            n++;
        }
    }
    return n;
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
    } else if (atomic_load_relaxed(&cache->reserved) && ++cache->n_slow >= WINDOW) {
        judge(cache);
    }
}

/* Whether `more` bytes of freed memory may be kept in a cache. */
static int may_keep(int64_t more)
{
    return hak_adapt_may_keep_span((size_t)more) &&
           (uint64_t)(hak_stat_get(span_cache_bytes) + more) <= hak_options.cache_bytes;
}

/* Other spans make room, the one that was filled first at first. Returns the bytes that stay. */
static size_t make_room(struct span_cache *cache, size_t bytes)
{
    size_t kept = sum(cache);
    uint32_t i = cache->last;
    int is_full = slot_with(cache, ~(uint64_t)0, 0) == SPAN_CACHE_SLOTS;
    for (uint32_t n = 0; n < SPAN_CACHE_SLOTS && (is_full || kept + bytes > SPAN_CACHE_BYTES);
         n++) {
        i = (i + 1) % SPAN_CACHE_SLOTS;
        uint64_t slot = atomic_load_acquire(&cache->slots[i]);
        if (slot && take_out(cache, i, slot)) {
            cache->n_slow += cache->n_slow < WINDOW;
            give(slot);
            kept -= bytes_of(slot);
            is_full = 0;
        }
    }
    return kept;
}

int hak_spans_make_room(struct span_cache *cache, void *p)
{
    uint16_t granules;
    if (cache->n_slow >= WINDOW) {
        judge(cache);
    }
    if (cache->off || !word_to_keep(p, &granules)) {
        return 0;
    }
    size_t bytes = granules * SS_GRANULE_BYTES;
    int64_t more =
        (int64_t)(make_room(cache, bytes) + bytes) - atomic_load_relaxed(&cache->reserved);
    if (more > 0) {
        if (!may_keep(more)) {
            return 0;
        }
        reserve(cache, more);
    }
    return hak_spans_put(cache, p);
}

/* --- by the background thread --- */

void hak_spans_tick(void)
{
    (void)atomic_add_relaxed(&tick_now, 1u);
}

int hak_spans_rest(struct span_cache *cache)
{
    uint8_t now = (uint8_t)atomic_load_relaxed(&tick_now);
    int is_more = 0;
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        if (!atomic_load_acquire(&cache->slots[i])) {
            continue;
        }
        if ((uint8_t)(now - atomic_load_relaxed(&cache->ticks[i])) <= 1) {
            is_more = 1;
            continue;
        }
        uint64_t slot = take_out_reserved(cache, i);
        if (slot) {
            give(slot);
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

int hak_spans_verify(struct span_cache *cache)
{
    for (uint32_t i = 0; i < SPAN_CACHE_SLOTS; i++) {
        uint64_t slot = atomic_load_acquire(&cache->slots[i]);
        const uint16_t *word = slot ? hak_ss_span_word(span_of(slot)) : NULL;
        int is_right =
            !slot || (word && atomic_load_relaxed(word) == ((slot & LOW_MASK) | SPAN_ASIDE));
        /* Another thread may have taken it out in between. */
        if (!is_right && atomic_load_acquire(&cache->slots[i]) == slot) {
            return VERIFY_SPANS_SLOT;
        }
    }
    return is_reserved(cache) ? 0 : VERIFY_SPANS_RESERVED;
}
