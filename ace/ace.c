/* ACE: routing between spans and ranges. No lock of its own (range.c has one). Called by hakmem's slow paths. */
#include "ace/ace.h"

#include <errno.h>

#include "ace/range.h"
#include "base/error.h"
#include "superslab/pool.h"

static size_t units_for(size_t size)
{
    return (size + SS_UNIT_BYTES - 1) / SS_UNIT_BYTES;
}

void *ace_alloc(size_t size, size_t align, int *is_zero)
{
    void *p = NULL;
    size = size ? size : 1; /* no range is empty */
    align = align < SS_UNIT_BYTES ? SS_UNIT_BYTES : align;
    if (size <= ACE_SPAN_MAX && align <= SS_BYTES) {
        p = ss_span_alloc((unsigned)units_for(size), (unsigned)(align / SS_UNIT_BYTES), is_zero);
    } else if (size <= PTRDIFF_MAX - SS_BYTES && align <= PTRDIFF_MAX / 2 - size) {
        p = range_alloc(size, align, is_zero);
    }
    if (!p) {
        errno = ENOMEM;
    }
    return p;
}

void ace_free(void *p)
{
    struct map_entry entry = map_find(p);
    if (entry.tag == TAG_RANGE) {
        range_free(p);
    } else {
        ss_span_free(p);
    }
}

size_t ace_usable_size(const void *p)
{
    return map_find(p).tag == TAG_RANGE ? range_size(p) : ss_span_size(p);
}

void *ace_resize(void *p, size_t size)
{
    if (size > PTRDIFF_MAX - SS_BYTES) {
        return NULL;
    }
    if (map_find(p).tag == TAG_RANGE) {
        /* A range that shrinks below the limit of spans is copied into one (at most 1 MiB). */
        return size > ACE_SPAN_MAX ? range_resize(p, size) : NULL;
    }
    return size <= ACE_SPAN_MAX && ss_span_resize(p, (unsigned)units_for(size)) ? p : NULL;
}

size_t ace_purge(uint64_t delay_ms)
{
    return range_purge(delay_ms);
}

int ace_verify(void)
{
    return range_verify();
}
