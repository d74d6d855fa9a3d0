/* The pointer map. No locks: leaves and the flat array are added by a compare-and-swap and stay;
   their pages go back. Called by the pool, by ACE for ranges, by limbo, and by every free. */
#include "superslab/map.h"

#include <errno.h>
#include <stddef.h>

#include "base/lock_holds.h"
#include "base/os.h"
#include "base/verify.h"

/* Before the first hak_map_ensure every user address minus this base is beyond the window. */
#define NO_BASE     ((uintptr_t)1 << 63)
#define TAGS_A_PAGE (4096 / sizeof(uint32_t))
uintptr_t hak_map_base = NO_BASE;
struct map_leaf *hak_map_window;

static HAK_LARGE_ZEROS struct map_leaf *directory[MAP_DIRECTORY_ENTRIES];

/* The flat array; NULL before it is needed, and if it was refused. */
static uint32_t *flat;
static uint8_t is_flat_refused;
/* Whether a leaf's part of it can be written to. Each changes once. */
enum { PART_UNUSED, PART_WRITABLE, PART_REFUSED };
static HAK_LARGE_ZEROS uint8_t parts[MAP_DIRECTORY_ENTRIES];

/* Unit number modulo 2^32; addresses have at most 48 bits here. */
static uint32_t unit_of(const void *p)
{
    return (uint32_t)(((uintptr_t)p - atomic_load_relaxed(&hak_map_base)) >> MAP_UNIT_SHIFT);
}

static struct map_leaf *leaf_of(uint32_t unit)
{
    return atomic_load_acquire(&directory[unit >> MAP_LEAF_SHIFT]);
}

/* The leaf of that index, made if there is none; NULL if there is no memory. Whoever comes second
   throws his away. */
static struct map_leaf *ensure_leaf(uint32_t index)
{
    struct map_leaf *leaf = atomic_load_acquire(&directory[index]);
    if (HAK_LIKELY(leaf != NULL)) {
        return leaf;
    }
    struct map_leaf *fresh = (struct map_leaf *)hak_os_map_guarded(sizeof *fresh);
    if (fresh && !atomic_cas_strong(&directory[index], &leaf, fresh)) {
        hak_os_unmap_guarded(fresh, sizeof *fresh);
        return leaf;
    }
    if (fresh) {
        hak_os_note_own(fresh, sizeof *fresh);
        hak_os_small_pages(fresh, sizeof *fresh); /* most of them are never touched */
    }
    return fresh;
}

/* Chooses the window around the first address and maps its leaf. Returns 0 or ENOMEM. */
static HAK_COLD int choose_window(const void *first)
{
    /* New mappings are placed below older ones: most of the window lies below the first, and so
       does most of what is on its page of tags, which a small heap then does without a second one.
       */
    uintptr_t window = (uintptr_t)MAP_LEAF_UNITS << MAP_UNIT_SHIFT,
              page = (uintptr_t)TAGS_A_PAGE << MAP_UNIT_SHIFT;
    uintptr_t below = window / 4 * 3 + page / 4 * 3;
    uintptr_t base = (uintptr_t)first > below ? (uintptr_t)first - below : 0, none = NO_BASE;
    hak_atomic_touch(&directory[0]);
    struct map_leaf *leaf = ensure_leaf(0);
    if (!leaf) {
        return ENOMEM;
    }
    /* The base is written last: who sees it sees the window too. The first one stays. */
    atomic_store_release(&hak_map_window, leaf);
    (void)atomic_cas_strong(&hak_map_base, &none, base & ~((uintptr_t)(2 * HAK_MIB) - 1));
    return 0;
}

int hak_map_ensure(const void *start, size_t bytes)
{
    if (HAK_UNLIKELY(atomic_load_acquire(&hak_map_base) == NO_BASE) && choose_window(start)) {
        return ENOMEM;
    }
    uint32_t first = unit_of(start) >> MAP_LEAF_SHIFT;
    uint32_t last = unit_of((const char *)start + bytes - 1) >> MAP_LEAF_SHIFT;
    for (uint32_t i = first;; i = (uint32_t)((i + 1) % MAP_DIRECTORY_ENTRIES)) {
        if (!ensure_leaf(i)) {
            return ENOMEM;
        }
        if (i == last) {
            return 0;
        }
    }
}

/* --- the flat array --- */

static int is_writable(uint32_t unit)
{
    return atomic_load_acquire(&parts[unit >> MAP_LEAF_SHIFT]) == PART_WRITABLE;
}

/* The flat array's tag of a unit of that address; NULL if it has none that can be written to. */
static uint32_t *flat_tag(uint32_t *tags, uintptr_t address)
{
    uintptr_t at = address >> MAP_UNIT_SHIFT;
    return at < MAP_FLAT_UNITS && is_writable(unit_of((const void *)address)) ? &tags[at] : NULL;
}

/* The writer's half, behind its fence. */
static HAK_COLD void write_flat(uint32_t *tags, const void *start, size_t n_units, uint32_t tag)
{
    uint32_t shown = TAG_IS_SLAB(tag) ? tag : 0;
    for (size_t i = 0; i < n_units; i++) {
        uint32_t *at = flat_tag(tags, (uintptr_t)start + (i << MAP_UNIT_SHIFT));
        if (at && atomic_load_relaxed(at) != shown) {
            atomic_store_release(at, shown);
        }
    }
}

/* The filler's half. */
static void fill(uint32_t *tags, const void *p)
{
    uint32_t unit = unit_of(p);
    uint32_t *at = flat_tag(tags, (uintptr_t)p), none = 0;
    struct map_leaf *leaf = leaf_of(unit);
    if (!at || !leaf) {
        return;
    }
    uint32_t tag = atomic_load_acquire(&leaf->tag[unit & (MAP_LEAF_UNITS - 1)]);
    if (!TAG_IS_SLAB(tag) || !atomic_cas_strong(at, &none, tag)) {
        return;
    }
    atomic_fence_seq();
    if (HAK_UNLIKELY(atomic_load_relaxed(&leaf->tag[unit & (MAP_LEAF_UNITS - 1)]) != tag)) {
        (void)atomic_cas_strong(at, &tag, 0u);
    }
}

/* Makes what the flat array has for units [first, end) writable, as far as it reaches. */
static int allow(uint32_t *tags, uint64_t first, uint64_t end)
{
    uintptr_t page = hak_os_page_size();
    end = end < MAP_FLAT_UNITS ? end : MAP_FLAT_UNITS;
    if (first >= end) {
        return 0;
    }
    uintptr_t from = (uintptr_t)&tags[first] & ~(page - 1);
    uintptr_t to = ((uintptr_t)&tags[end] + page - 1) & ~(page - 1);
    hak_os_small_pages((void *)from, to - from);
    return hak_os_protect((void *)from, to - from, OS_WRITABLE);
}

/* Makes a leaf's part writable, once. Two threads may do so at once, and no thread waits. */
static HAK_COLD void allow_part(uint32_t *tags, uint32_t index)
{
    const uint64_t n_units = (uint64_t)1 << 32;
    uint64_t first = ((atomic_load_relaxed(&hak_map_base) >> MAP_UNIT_SHIFT) +
                      ((uint64_t)index << MAP_LEAF_SHIFT)) %
                     n_units;
    uint64_t end = first + MAP_LEAF_UNITS;
    int error = allow(tags, first, end);
    if (!error && end > n_units) { /* the highest addresses, and the lowest ones */
        error = allow(tags, 0, end - n_units);
    }
    uint8_t unused = PART_UNUSED;
    (void)atomic_cas_strong(&parts[index], &unused,
                            (uint8_t)(error ? PART_REFUSED : PART_WRITABLE));
}

/* Address space for the flat array, mapped for reading; NULL if it is refused, or if mappings are
   locked, so that all of its pages would be made. */
static uint32_t *reserve(void)
{
    const size_t others = 7 * MAP_FLAT_BYTES;
    char *base = (char *)hak_os_reserve(others + MAP_FLAT_BYTES);
    if (!base) {
        return NULL;
    }
    hak_os_unmap_untouched(base, others);
    base += others;
    hak_os_huge_pages(base, MAP_FLAT_BYTES);      /* of zeros, for mlockall */
    if (hak_os_purge(base, hak_os_page_size()) || /* locked pages cannot be dropped */
        hak_os_protect(base, MAP_FLAT_BYTES, OS_READABLE)) {
        hak_os_unmap_untouched(base, MAP_FLAT_BYTES);
        return NULL;
    }
    hak_os_note_own(base, MAP_FLAT_BYTES);
    return (uint32_t *)(void *)base;
}

/* The flat array, made if there is none. Whoever comes second throws his away. */
static HAK_COLD uint32_t *ensure_flat(void)
{
    uint32_t *tags = atomic_load_acquire(&flat);
    if (tags || atomic_load_relaxed(&is_flat_refused)) {
        return tags;
    }
    uint32_t *fresh = reserve();
    if (!fresh) {
        atomic_store_relaxed(&is_flat_refused, 1);
    } else if (!atomic_cas_strong(&flat, &tags, fresh)) {
        hak_os_unmap_untouched(fresh, MAP_FLAT_BYTES);
        fresh = tags;
    }
    return fresh;
}

/* A signal handler that frees in between finds every pointer beyond the view. */
static void set_view(struct map_view *view, uintptr_t base, size_t n_units, const uint32_t *tags)
{
    view->n_units = 0;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    view->base = base;
    view->tags = tags;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    view->n_units = n_units;
}

void hak_map_view_begin(struct map_view *view)
{
    uintptr_t base = atomic_load_acquire(&hak_map_base);
    const uint32_t *tags = atomic_load_acquire(&flat);
    if (tags) {
        set_view(view, (uintptr_t)1 << MAP_UNIT_SHIFT, MAP_FLAT_UNITS - 1, tags + 1);
    } else if (base != NO_BASE) {
        set_view(view, base, MAP_LEAF_UNITS, hak_map_window->tag);
    } else {
        set_view(view, 0, 0, NULL);
    }
}

void hak_map_view_extend(struct map_view *view, const void *p)
{
    uint32_t *tags = atomic_load_acquire(&flat);
    if (!tags && hak_map_window_unit(p) >= MAP_LEAF_UNITS) {
        tags = ensure_flat();
        view->is_final = tags == NULL;
    }
    if (view->n_units == 0 || (tags && view->tags != tags + 1)) {
        hak_map_view_begin(view);
    }
    if (!tags) {
        return;
    }
    uint32_t index = unit_of(p) >> MAP_LEAF_SHIFT;
    if (atomic_load_relaxed(&parts[index]) == PART_UNUSED) {
        allow_part(tags, index);
    }
    fill(tags, p);
}

int hak_map_verify(const void *start, size_t n_units)
{
    const uint32_t *tags = atomic_load_acquire(&flat);
    for (size_t i = 0; tags && i < n_units; i++) {
        const char *p = (const char *)start + (i << MAP_UNIT_SHIFT);
        uintptr_t at = (uintptr_t)p >> MAP_UNIT_SHIFT;
        uint32_t shown = at < MAP_FLAT_UNITS ? atomic_load_relaxed(&tags[at]) : 0;
        if (shown && shown != hak_map_get(p).tag) {
            return VERIFY_MAP_FLAT;
        }
    }
    return 0;
}

/* --- pages that go back --- */

static int is_blank(const uint32_t *tags, size_t n)
{
    for (size_t i = 0; i < n; i += 4) { /* of a page */
        if (atomic_load_relaxed(&tags[i]) | atomic_load_relaxed(&tags[i + 1]) |
            atomic_load_relaxed(&tags[i + 2]) | atomic_load_relaxed(&tags[i + 3])) {
            return 0;
        }
    }
    return 1;
}

/* Drops a page of tags, and that of numbers if there is one, which cover `n_units` units from
   `span`, unless one of them is mapped. The look at the tags is a hint that saves system calls. */
static void purge_page(uintptr_t span, size_t n_units, uint32_t *tags, uint32_t *refs)
{
    const size_t page = n_units * sizeof(uint32_t), bytes = n_units << MAP_UNIT_SHIFT;
    if (!is_blank(tags, n_units) || !hak_os_claim((void *)span, bytes)) {
        return;
    }
    int refused = hak_os_purge(tags, page); /* locked pages: they stay, as they are */
    refused = refs ? hak_os_purge(refs, page) : refused;
    (void)refused;
    hak_os_unmap_untouched((void *)span, bytes);
}

/* The page of leaf entries that has those of `address`. Returns where its address space ends. */
static uintptr_t purge_leaf_page(uintptr_t address, size_t n_units)
{
    uint32_t unit = unit_of((const void *)address), first = unit & (MAP_LEAF_UNITS - 1);
    struct map_leaf *leaf = leaf_of(unit);
    uintptr_t before = (uintptr_t)(first % n_units) << MAP_UNIT_SHIFT;
    uintptr_t unit_start = address >> MAP_UNIT_SHIFT << MAP_UNIT_SHIFT;
    first -= (uint32_t)(first % n_units);
    if (leaf && unit_start >= before) {
        purge_page(unit_start - before, n_units, &leaf->tag[first], &leaf->ref[first]);
    }
    return unit_start - before + ((uintptr_t)n_units << MAP_UNIT_SHIFT);
}

/* The same of the flat array. */
static uintptr_t purge_flat_page(uint32_t *tags, uintptr_t address, size_t n_units)
{
    uintptr_t span = address & ~(((uintptr_t)n_units << MAP_UNIT_SHIFT) - 1);
    if (flat_tag(tags, address)) {
        purge_page(span, n_units, &tags[span >> MAP_UNIT_SHIFT], NULL);
    }
    return span + ((uintptr_t)n_units << MAP_UNIT_SHIFT);
}

void hak_map_purge(const void *start, size_t bytes)
{
    const size_t n_units = hak_os_page_size() / sizeof(uint32_t);
    const uintptr_t end = (uintptr_t)start + bytes;
    uint32_t *tags = atomic_load_acquire(&flat);
    if (n_units > MAP_LEAF_UNITS) { /* the tiny variant, where pages are large */
        return;
    }
    for (uintptr_t at = (uintptr_t)start; at < end;) {
        at = purge_leaf_page(at, n_units);
    }
    for (uintptr_t at = (uintptr_t)start; tags && at < end;) {
        at = purge_flat_page(tags, at, n_units);
    }
}

/* --- entries --- */

static uint32_t set_entry(struct map_leaf *leaf, size_t at, struct map_entry entry)
{
    uint32_t was = atomic_load_relaxed(&leaf->tag[at]);
    atomic_store_relaxed(&leaf->ref[at], entry.ref);
    atomic_store_release(&leaf->tag[at], entry.tag);
    return was;
}

typedef uint64_t __attribute__((may_alias)) two_words;
HAK_STATIC_ASSERT(offsetof(struct map_leaf, ref) % sizeof(two_words) == 0, "words in twos");

/* Returns the bits that all tags have had there. Two at a time from an even one on: a store of
   eight bytes is one of each word to who reads it. */
static HAK_ALWAYS_INLINE uint32_t set_entries(struct map_leaf *leaf, size_t at, size_t n,
                                              struct map_entry entry)
{
    const uint64_t tag_twice = entry.tag * (((uint64_t)1 << 32) + 1),
                   ref_twice = entry.ref * (((uint64_t)1 << 32) + 1);
    uint64_t ones = UINT64_MAX;
    size_t end = at + n;
    uint32_t ones_alone = UINT32_MAX;
    if (at < end && at % 2) {
        ones_alone &= set_entry(leaf, at++, entry);
    }
    two_words *tags = (two_words *)(void *)&leaf->tag[at],
              *refs = (two_words *)(void *)&leaf->ref[at];
    const two_words *behind = (two_words *)(void *)&leaf->tag[end & ~(size_t)1];
    for (; tags < behind; tags++, refs++) {
        ones &= atomic_load_relaxed(tags);
        atomic_store_relaxed(refs, ref_twice);
        atomic_store_release(tags, tag_twice);
    }
    if (at < end && end % 2) {
        ones_alone &= set_entry(leaf, end - 1, entry);
    }
    return ones_alone & (uint32_t)ones & (uint32_t)(ones >> 32);
}

void hak_map_touch(const void *start)
{
    uint32_t unit = unit_of(start);
    hak_atomic_touch(&leaf_of(unit)->tag[unit & (MAP_LEAF_UNITS - 1)]);
}

void hak_map_set(const void *start, size_t n_units, uint32_t tag, uint32_t ref)
{
    uint32_t unit = unit_of(start);
    const struct map_entry entry = {tag, ref};
    uint32_t ones = tag; /* bits that all tags have, new ones and old ones */
    hak_lock_step(n_units);
    for (size_t left = n_units; left;) {
        struct map_leaf *leaf = leaf_of(unit);
        uint32_t at = unit & (MAP_LEAF_UNITS - 1);
        size_t n = left < MAP_LEAF_UNITS - at ? left : MAP_LEAF_UNITS - at;
        left -= n;
        unit += (uint32_t)n;
        ones &= set_entries(leaf, at, n, entry);
    }
    if (TAG_OWNER(ones) == TAG_SPECIAL_OWNER) {
        return; /* none is a slab's, or was: the flat array shows nothing of these units */
    }
    atomic_fence_seq();
    uint32_t *tags = atomic_load_acquire(&flat);
    if (HAK_UNLIKELY(tags != NULL)) {
        write_flat(tags, start, n_units, tag);
    }
}

/* In twos, as set_entries. All lie in one leaf, since superslabs do. */
void hak_map_change(const void *start, size_t n_units, uint32_t tag)
{
    uint32_t unit = unit_of(start);
    uint32_t *at = &leaf_of(unit)->tag[unit & (MAP_LEAF_UNITS - 1)], *end = at + n_units;
    const uint64_t twice = tag * (((uint64_t)1 << 32) + 1);
    hak_lock_step(n_units);
    if (at < end && unit % 2) {
        atomic_store_release(at++, tag);
    }
    for (; at + 2 <= end; at += 2) {
        atomic_store_release((two_words *)(void *)at, twice);
    }
    if (at < end) {
        atomic_store_release(at, tag);
    }
}

struct map_entry hak_map_get(const void *p)
{
    struct map_entry entry = {0, 0};
    if ((uintptr_t)p >> 48 == 0 && atomic_load_acquire(&hak_map_window)) {
        uint32_t unit = unit_of(p);
        struct map_leaf *leaf = leaf_of(unit);
        if (leaf) {
            entry.tag = atomic_load_acquire(&leaf->tag[unit & (MAP_LEAF_UNITS - 1)]);
            entry.ref = atomic_load_relaxed(&leaf->ref[unit & (MAP_LEAF_UNITS - 1)]);
        }
    }
    return entry;
}
