/* ACE: routing between spans and ranges. No lock of its own (range.c has one). Called by hakmem's
   slow paths. */
#include "ace/ace.h"

#include <errno.h>

#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/range.h"
#include "ace/span_cache.h"
#include "ace/zero.h"
#include "base/options.h"
#include "base/os.h"
#include "base/size_classes.h"
#include "limit/fail.h"
#include "superslab/pool.h"

/* How many superslabs one call purges at most that are more than what is worth keeping: ahead of a
   program that takes one large block after another, and not long. */
#define EXCESS_STEPS 2

static void superslabs_taken(size_t fresh)
{
    hak_adapt_taken(CONTROL_SUPERSLABS, fresh);
    if (fresh) {
        hak_spans_fetched();
    }
}

static void superslabs_purged(size_t bytes)
{
    hak_adapt_purged(CONTROL_SUPERSLABS, bytes);
}

void hak_ace_start(void)
{
    static const struct ss_policy policy = {
        superslabs_taken,   hak_adapt_given,    superslabs_purged,  hak_adapt_superslab_keep,
        hak_adapt_delay_ms, hak_range_describe, hak_spans_give_own, hak_range_give_region,
    };
    static uint32_t is_started;
    if (HAK_UNLIKELY(!atomic_load_acquire(&is_started))) {
        hak_ss_set_policy(&policy);
        atomic_store_release(&is_started, 1u);
    }
}

/* Spans of malloc's that have the mark: the others are calloc's. */
#define LOOKED_AT 16u
/* ~address: what looks for leaks may take a plain one for the program's. */
static uintptr_t looked_at[LOOKED_AT];

static uintptr_t *look_of(const void *p)
{
    return &looked_at[(uintptr_t)p / SS_GRANULE_BYTES * 0x9E3779B1u >> 16 & (LOOKED_AT - 1)];
}

/* A span without resident pages is handed out by malloc: if its place is free it is looked at when
   it is freed. */
static void begin_look(void *p, size_t size)
{
    uintptr_t none = 0;
    if (hak_zero_is_curious(size, 0) && atomic_cas_strong(look_of(p), &none, ~(uintptr_t)p)) {
        hak_ss_span_set_mark(p);
    }
}

/* The marked span is freed. */
static void end_look(void *p, size_t size)
{
    uintptr_t *look = look_of(p);
    int is_zeroed = atomic_load_relaxed(look) != ~(uintptr_t)p;
    size_t of_program = is_zeroed ? size : hak_ss_span_usable(p);
    if (of_program) { /* 0: another thread has freed it too */
        hak_zero_learn(p, of_program, is_zeroed);
    }
    hak_ss_span_clear_mark(p);
    if (!is_zeroed) {
        atomic_store_relaxed(look, (uintptr_t)0);
    }
}

static void *span_alloc(size_t size, size_t align, int is_zeroed)
{
    struct ss_dirt dirt;
    void *p = hak_ss_span_alloc_for(
        size, size > SS_GRANULE_BYTES ? hak_ace_class_bytes(size) : size, align, &dirt);
    if (p) {
        hak_adapt_block_taken(dirt.size, dirt.dirty != 0, dirt.since_ns);
    }
    if (HAK_UNLIKELY(p && is_zeroed) && hak_ss_clear_dirt(p, &dirt, hak_zero_choose(dirt.size))) {
        hak_ss_span_set_mark(p); /* handed out without resident pages */
    }
    if (p && !HAK_SECURE && !dirt.is_huge) {
        size_t fresh = dirt.size - dirt.dirty;
        if (fresh && hak_zero_fetch_together(size, is_zeroed, fresh < size ? fresh : size)) {
            hak_ss_populate(p, size, &dirt);
        }
        if (!is_zeroed && fresh == dirt.size) {
            begin_look(p, size);
        }
    }
    return p;
}

/* Whether the size's class is within the rounding limit. */
static int is_within_wmax(size_t size)
{
    if (size <= SC_SMALL_MAX) {
        return 1; /* aligned blocks, rounded by less than a granule */
    }
    size_t class_bytes = hak_ace_class_bytes(size);
    if (class_bytes * 1000 > size * hak_options.wmax_mid) {
        hak_fail_threshold(size, class_bytes, hak_options.wmax_mid);
        return 0;
    }
    return 1;
}

static void *alloc(size_t size, size_t align, enum range_use use)
{
    void *p = NULL;
    hak_ace_start();
    size = size ? size : 1; /* no block is empty */
    if (size <= ACE_SPAN_MAX && align <= SS_BYTES && use != RANGE_GROWING && is_within_wmax(size)) {
        p = span_alloc(size, align, use == RANGE_ZEROED);
    } else if (size <= PTRDIFF_MAX - SS_BYTES && align <= PTRDIFF_MAX / 2 - size) {
        p = hak_range_alloc(size, align < SS_UNIT_BYTES ? SS_UNIT_BYTES : align, use);
    }
    if (!p) {
        errno = ENOMEM;
    }
    return p;
}

void *hak_ace_alloc(size_t size, size_t align)
{
    return alloc(size, align, RANGE_FIXED);
}

void *hak_ace_alloc_zeroed(size_t size, size_t align)
{
    return alloc(size, align, RANGE_ZEROED);
}

void *hak_ace_alloc_growing(size_t size)
{
    return alloc(size, 1,
                 size >= ACE_GROWING_MIN && hak_range_may_grow() ? RANGE_GROWING : RANGE_FIXED);
}

void hak_ace_free(void *p)
{
    hak_ace_free_to(NULL, p);
}

void hak_ace_free_to(struct span_cache *cache, void *p)
{
    struct map_entry entry = hak_map_find(p);
    if (entry.tag == TAG_RANGE) {
        hak_range_free(p);
    } else {
        int is_fresh;
        size_t size = hak_ss_span_look(p, &is_fresh);
        if (is_fresh) {
            end_look(p, size);
        }
        if (cache && hak_spans_put_surely(cache, p)) {
            return;
        }
        hak_ss_span_free(p);
        hak_adapt_block_given(size);
    }
}

size_t hak_ace_usable_size(const void *p)
{
    return hak_map_find(p).tag == TAG_RANGE ? hak_range_size(p) : hak_ss_span_usable(p);
}

/* Whether a range that shrinks to `size` is better copied: a span takes less address space, of
   which there is little. */
static int wants_span(const void *p, size_t size)
{
    return HAK_UNLIKELY(hak_range_is_scarce()) && size <= ACE_SPAN_MAX &&
           size < hak_range_size(p) &&
           (size <= SC_SMALL_MAX || hak_ace_class_bytes(size) % SS_UNIT_BYTES != 0);
}

static int may_stay_in_range(const void *p, size_t size)
{
    return size > SC_SMALL_MAX || (size >= ACE_RANGE_LEAST && hak_range_may_be_small(p));
}

void *hak_ace_resize(void *p, size_t size)
{
    if (size > PTRDIFF_MAX - SS_BYTES) {
        return NULL;
    }
    if (hak_map_find(p).tag == TAG_RANGE) {
        return may_stay_in_range(p, size) && !wants_span(p, size) ? hak_range_resize(p, size)
                                                                  : NULL;
    }
    size_t before = hak_ss_span_size(p), class_bytes = hak_ace_class_bytes(size);
    size_t usable = size > hak_ss_span_usable(p) ? size + (size >> GROW_USABLE_SHIFT) : size;
    if (size > ACE_SPAN_MAX) {
        return NULL;
    }
    if (hak_ss_span_granules_for(class_bytes) * SS_GRANULE_BYTES != before) {
        if (!hak_ss_span_resize(p, class_bytes)) {
            return NULL;
        }
        hak_adapt_block_resized(before, hak_ss_span_size(p));
    }
    size_t now = hak_ss_span_size(p);
    hak_ss_span_set_usable(p, usable < now ? usable : now);
    return p;
}

size_t hak_ace_purge(uint64_t delay_ms)
{
    size_t bytes = hak_range_purge(delay_ms);
    if (delay_ms == 0) {
        (void)hak_range_purge_room();
    }
    return bytes;
}

size_t hak_ace_room(void)
{
    return hak_range_room();
}

static HAK_NOINLINE size_t purge_superslabs_excess(void)
{
    size_t bytes = 0;
    int is_last = 0;
    for (int i = 0; i < EXCESS_STEPS && !is_last && hak_adapt_superslabs_exceed(); i++) {
        bytes += hak_ss_purge_step(hak_adapt_delay_ms(), &is_last);
    }
    return bytes;
}

size_t hak_ace_purge_excess(void)
{
    size_t bytes = hak_adapt_ranges_exceed() ? hak_range_purge_excess() : 0;
    return hak_adapt_superslabs_exceed() ? bytes + purge_superslabs_excess() : bytes;
}

void hak_ace_set_helped(int is_helped)
{
    hak_adapt_set_helped(is_helped);
}

uint64_t hak_ace_delay_ms(void)
{
    return hak_adapt_delay_ms();
}

int hak_ace_verify(void)
{
    int result = hak_range_verify();
    return result ? result : hak_adapt_verify();
}
