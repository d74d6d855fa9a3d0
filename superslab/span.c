/* Spans: granules in a row within a superslab. The pool's lock guards them, except that a span's
   owner reads its size, and reads and sets its bits, without the lock. Called by ACE. */
#include <string.h>

#include "base/error.h"
#include "base/lock.h"
#include "base/os.h"
#include "superslab/pool.h"

uint32_t hak_ss_span_granules_for(size_t size)
{
    size_t page = hak_os_page_size();
    size_t grain = page > SS_GRANULE_BYTES ? page : SS_GRANULE_BYTES; /* a power of two */
    return size <= SS_BYTES ? (uint32_t)(((size + grain - 1) & ~(grain - 1)) / SS_GRANULE_BYTES)
                            : 0;
}

void *hak_ss_span_alloc(size_t size, size_t align, struct ss_dirt *dirt)
{
    return hak_ss_span_alloc_for(hak_ss_span_granules_for(size) * SS_GRANULE_BYTES, size, align,
                                 dirt);
}

/* Units that were wholly free, or have parts of spans already. */
static void mark_units(const struct superslab *ss, uint32_t first, uint32_t n)
{
    uint32_t unit = first / SS_GRANULES_OF_A_UNIT, last = (first + n - 1) / SS_GRANULES_OF_A_UNIT;
    hak_map_change(ss->base + unit * SS_UNIT_BYTES, last - unit + 1, TAG_SPAN);
}

void *hak_ss_span_alloc_for(size_t usable, size_t size, size_t align, struct ss_dirt *dirt)
{
    uint32_t first, n_dirty, n = hak_ss_span_granules_for(size);
    uint32_t step = hak_ss_span_granules_for(align);
    struct granules dirty;
    struct ss_dirt found;
    if (n == 0 || step == 0) {
        return NULL;
    }
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = hak_pool_take(n, step, &first, &dirty, &n_dirty);
    char *start = ss ? ss->base + first * SS_GRANULE_BYTES : NULL;
    if (ss) {
        found.since_ns = ss->dirty_since_ns;
        found.is_huge = ss->is_huge;
        atomic_store_relaxed(&ss->span_granules[first],
                             (uint16_t)(n | hak_pool_span_unused(n, usable)));
        mark_units(ss, first, n);
    }
    hak_lock_release(&hak_pool_lock);
    if (dirt && start) {
        memcpy(found.word, dirty.word, sizeof found.word);
        found.size = n * SS_GRANULE_BYTES;
        found.dirty = n_dirty * SS_GRANULE_BYTES;
        *dirt = found;
    }
    return start;
}

int hak_ss_clear_dirt(void *p, const struct ss_dirt *dirt, int (*clear)(void *start, size_t size))
{
    char *base = (char *)((uintptr_t)p & ~(uintptr_t)(SS_BYTES - 1));
    struct granules dirty = {{0, 0, 0, 0}};
    uint32_t end, at = (uint32_t)((size_t)((char *)p - base) / SS_GRANULE_BYTES),
                  n = (uint32_t)(dirt->size / SS_GRANULE_BYTES);
    int result = 1;
    GRANULE_WORDS(i, at, n)
    {
        dirty.word[i] = dirt->word[i] & hak_granules_part(i, at, n);
    }
    for (uint32_t first = hak_granules_next(&dirty, 0, 1); first < SS_GRANULES;
         first = hak_granules_next(&dirty, end, 1)) {
        end = hak_granules_next(&dirty, first, 0);
        result &= clear(base + first * SS_GRANULE_BYTES, (end - first) * SS_GRANULE_BYTES);
    }
    return result;
}

/* So many granules are worth the call. */
#define POPULATE_LEAST 2u

void hak_ss_populate(void *p, size_t size, const struct ss_dirt *dirt)
{
    char *base = (char *)((uintptr_t)p & ~(uintptr_t)(SS_BYTES - 1));
    uint32_t at = (uint32_t)((size_t)((char *)p - base) / SS_GRANULE_BYTES),
             last = at + hak_ss_span_granules_for(size);
    struct granules dirty;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        dirty.word[i] = dirt->word[i];
    }
    while ((at = hak_granules_next(&dirty, at, 0)) < last) {
        uint32_t next = hak_granules_next(&dirty, at, 1), end = next < last ? next : last;
        if (end - at >= POPULATE_LEAST) {
            hak_os_populate(base + at * SS_GRANULE_BYTES, (end - at) * SS_GRANULE_BYTES);
        }
        at = end;
    }
}

/* The superslab and first granule of a span that starts at p, set aside or not; or NULL. */
static inline struct superslab *any_span_at(const void *p, uint32_t *first)
{
    struct map_entry entry = hak_map_find(p);
    if (entry.tag != TAG_SPAN || (uintptr_t)p & (SS_GRANULE_BYTES - 1)) {
        return NULL;
    }
    struct superslab *ss = hak_pool_superslab_around(entry.ref, p);
    *first = (uint32_t)(((uintptr_t)p & (SS_BYTES - 1)) / SS_GRANULE_BYTES);
    return ss && atomic_load_relaxed(&ss->span_granules[*first]) ? ss : NULL;
}

/* Of one that is a block. */
static struct superslab *span_at(const void *p, uint32_t *first)
{
    struct superslab *ss = any_span_at(p, first);
    return ss && !(atomic_load_relaxed(&ss->span_granules[*first]) & SPAN_ASIDE) ? ss : NULL;
}

uint16_t *hak_ss_span_word(const void *p)
{
    return hak_pool_span_word(p);
}

size_t hak_ss_span_size(const void *p)
{
    uint32_t first;
    struct superslab *ss = span_at(p, &first);
    return ss ? hak_pool_span_granules(ss, first) * SS_GRANULE_BYTES : 0;
}

size_t hak_ss_span_usable(const void *p)
{
    uint32_t first;
    struct superslab *ss = span_at(p, &first);
    return ss ? hak_pool_span_usable(atomic_load_relaxed(&ss->span_granules[first])) : 0;
}

static void change_mark(void *p, uint32_t mark)
{
    uint32_t first;
    struct superslab *ss = span_at(p, &first);
    if (ss) {
        atomic_store_relaxed(&ss->span_granules[first],
                             (uint16_t)((ss->span_granules[first] & ~SPAN_MARK) | mark));
    }
}

void hak_ss_span_set_mark(void *p)
{
    change_mark(p, SPAN_MARK);
}

void hak_ss_span_clear_mark(void *p)
{
    change_mark(p, 0);
}

void hak_ss_span_set_usable(void *p, size_t usable)
{
    uint32_t first;
    struct superslab *ss = span_at(p, &first);
    if (ss) {
        uint32_t word = atomic_load_relaxed(&ss->span_granules[first]);
        uint32_t unused = hak_pool_span_unused(word & ~SPAN_BITS, usable);
        atomic_store_relaxed(&ss->span_granules[first], (uint16_t)((word & ~SPAN_UNUSED) | unused));
    }
}

size_t hak_ss_span_look(const void *p, int *is_marked)
{
    uint32_t first;
    struct superslab *ss = span_at(p, &first);
    uint32_t granules = ss ? atomic_load_relaxed(&ss->span_granules[first]) : 0;
    *is_marked = (granules & SPAN_MARK) != 0;
    return (granules & ~SPAN_BITS) * SS_GRANULE_BYTES;
}

/* Pool lock held. */
static void give(struct superslab *ss, uint32_t first)
{
    uint32_t n = hak_pool_span_granules(ss, first);
    atomic_store_relaxed(&ss->span_granules[first], (uint16_t)0);
    hak_pool_give(ss, first, n);
}

/* Whether p lies in a span that is set aside. */
static int is_aside(const void *p)
{
    struct map_entry entry = hak_map_find(p);
    const struct superslab *ss =
        entry.tag == TAG_SPAN ? hak_pool_superslab_around(entry.ref, p) : NULL;
    uint32_t at = (uint32_t)(((uintptr_t)p & (SS_BYTES - 1)) / SS_GRANULE_BYTES), first = at;
    while (ss && first && !atomic_load_relaxed(&ss->span_granules[first])) {
        first--;
    }
    return ss && atomic_load_relaxed(&ss->span_granules[first]) & SPAN_ASIDE &&
           at - first < hak_pool_span_granules(ss, first);
}

/* The block may have become a part of a span that is set aside. */
static void check_is_no_block_twice(const void *p)
{
    const uint16_t *word = hak_ss_span_word(p);
    HAK_CHECK(!word || !(atomic_load_relaxed(word) & SPAN_ASIDE), "block freed twice", p);
    HAK_CHECK(!is_aside(p), "block freed twice, or invalid pointer freed (in free memory)", p);
}

void hak_ss_span_free(void *p)
{
    uint32_t first;
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = span_at(p, &first);
    if (HAK_UNLIKELY(!ss)) {
        check_is_no_block_twice(p);
    }
    HAK_CHECK(ss, "invalid pointer freed (not the start of a block)", p);
    give(ss, first);
    hak_lock_release(&hak_pool_lock);
    hak_ss_purge_due();
}

void hak_ss_span_give_aside(const void *p)
{
    uint32_t first;
    struct superslab *ss = any_span_at(p, &first);
    HAK_CHECK(ss && atomic_load_relaxed(&ss->span_granules[first]) & SPAN_ASIDE,
              "freed span is corrupt", p);
    give(ss, first);
}

int hak_ss_span_resize(void *p, size_t size)
{
    uint32_t first, n = hak_ss_span_granules_for(size);
    int done = 0;
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = n ? span_at(p, &first) : NULL;
    uint32_t now = ss ? hak_pool_span_granules(ss, first) : 0;
    uint32_t mark = ss ? ss->span_granules[first] & SPAN_MARK : 0;
    if (ss && n < now) {
        atomic_store_relaxed(&ss->span_granules[first], (uint16_t)(n | mark));
        hak_pool_give(ss, first + n, now - n);
        done = 1;
    } else if (ss && (n == now || hak_pool_take_at(ss, first + now, n - now))) {
        atomic_store_relaxed(&ss->span_granules[first], (uint16_t)(n | mark));
        mark_units(ss, first, n);
        done = 1;
    }
    hak_lock_release(&hak_pool_lock);
    hak_ss_purge_due();
    return done;
}
