/* ACE: routing between spans and ranges. No lock of its own (range.c has one). Called by hakmem's slow paths. */
#include "ace/ace.h"

#include <errno.h>

#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "ace/range.h"
#include "ace/zero.h"
#include "base/fail.h"
#include "base/options.h"
#include "base/os.h"
#include "base/size_classes.h"
#include "superslab/pool.h"

/* A block that grows by realloc to this size or more gets a range, in which growing is a system call or nothing, and no
   copy. */
#define GROWING_MIN ((size_t)128 * HAK_KIB)
/* A block in a range that shrinks below this is copied out of it. */
#define RANGE_LEAST ((size_t)32 * HAK_KIB)

static void *span_alloc(size_t size, size_t align, int is_zeroed)
{
    struct ss_dirt dirt;
    void *p = ss_span_alloc(size > SS_GRANULE_BYTES ? ace_class_bytes(size) : size, align, &dirt);
    if (p) {
        uint64_t dirty = dirt.word[0] | dirt.word[1] | dirt.word[2] | dirt.word[3];
        adapt_block_taken(ss_span_size(p), dirty != 0, dirty ? os_ops.clock_ns() - dirt.since_ns : 0);
    }
    if (p && is_zeroed && ss_clear_dirt(p, &dirt, zero_clear)) {
        ss_span_set_mark(p); /* handed out without resident pages */
    }
    return p;
}

/* Whether the size's class is within the rounding limit. */
static int is_within_wmax(size_t size)
{
    if (size <= SC_SMALL_MAX) {
        return 1; /* aligned blocks, rounded by less than a granule */
    }
    size_t class_bytes = ace_class_bytes(size);
    if (class_bytes * 1000 > size * options.wmax_mid) {
        fail_threshold(size, class_bytes, options.wmax_mid);
        return 0;
    }
    return 1;
}

static void *alloc(size_t size, size_t align, enum range_use use)
{
    void *p = NULL;
    adapt_start();
    size = size ? size : 1; /* no block is empty */
    if (size <= ACE_SPAN_MAX && align <= SS_BYTES && use != RANGE_GROWING && is_within_wmax(size)) {
        p = span_alloc(size, align, use == RANGE_ZEROED);
    } else if (size <= PTRDIFF_MAX - SS_BYTES && align <= PTRDIFF_MAX / 2 - size) {
        p = range_alloc(size, align < SS_UNIT_BYTES ? SS_UNIT_BYTES : align, use);
    }
    if (!p) {
        errno = ENOMEM;
    }
    return p;
}

void *ace_alloc(size_t size, size_t align)
{
    return alloc(size, align, RANGE_FIXED);
}

void *ace_alloc_zeroed(size_t size, size_t align)
{
    return alloc(size, align, RANGE_ZEROED);
}

void *ace_alloc_growing(size_t size)
{
    return alloc(size, 1, size >= GROWING_MIN && range_may_grow() ? RANGE_GROWING : RANGE_FIXED);
}

void ace_free(void *p)
{
    struct map_entry entry = map_find(p);
    if (entry.tag == TAG_RANGE) {
        range_free(p);
    } else {
        size_t size = ss_span_size(p);
        if (ss_span_mark(p)) {
            zero_learn(p, size, 1);
        }
        ss_span_free(p);
        adapt_block_given(size);
    }
}

size_t ace_usable_size(const void *p)
{
    return map_find(p).tag == TAG_RANGE ? range_size(p) : ss_span_size(p);
}

/* Whether a range that shrinks to `size` is better copied: a span takes less address space, of
   which there is little. */
static int wants_span(const void *p, size_t size)
{
    return HAK_UNLIKELY(range_is_scarce()) && size <= ACE_SPAN_MAX && size < range_size(p) &&
           ace_class_bytes(size) % SS_UNIT_BYTES != 0;
}

void *ace_resize(void *p, size_t size)
{
    if (size > PTRDIFF_MAX - SS_BYTES) {
        return NULL;
    }
    if (map_find(p).tag == TAG_RANGE) {
        return size >= RANGE_LEAST && !wants_span(p, size) ? range_resize(p, size) : NULL;
    }
    size_t before = ss_span_size(p);
    if (size > ACE_SPAN_MAX || !ss_span_resize(p, ace_class_bytes(size))) {
        return NULL;
    }
    adapt_block_resized(before, ss_span_size(p));
    return p;
}

size_t ace_purge(uint64_t delay_ms)
{
    size_t bytes = range_purge(delay_ms);
    if (delay_ms == 0) {
        (void)range_purge_room();
    }
    return bytes;
}

size_t ace_room(void)
{
    return range_room();
}

size_t ace_purge_excess(void)
{
    size_t bytes = adapt_ranges_exceed() ? range_purge_excess() : 0;
    return adapt_superslabs_exceed() ? bytes + ss_purge(adapt_delay_ms()) : bytes;
}

void ace_start(void)
{
    adapt_start();
}

uint64_t ace_delay_ms(void)
{
    return adapt_delay_ms();
}

int ace_verify(void)
{
    int result = range_verify();
    return result ? result : adapt_verify();
}
