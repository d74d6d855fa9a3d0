/* Walks over blocks. No lock is held while a callback runs, so slabs and blocks come and go in
   between. A slab's bitmap is copied with its owner's lock held, and its blocks are visited from
   the copy. Of the process: superslab by superslab, their slabs and spans, then ranges by number.
   Of a heap, in proportion to what it has: the addresses of its slabs, gathered some at a time with
   its lock held, and its large blocks from its own records. A slab of a first-class heap stays
   where it is, and none is gathered twice: so each block that stays is visited once. Called by
   programs, by mallinfo and malloc_info. */
#include "hakmem/walk.h"

#include <string.h>

#include "ace/ace.h"
#include "base/os.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "heap/theap.h"
#include "superslab/pool.h"

/* A slab's blocks as they were at one moment: a bit for each free one. */
struct snapshot {
    char *base;
    uint32_t size_class;
    uint64_t free[SLAB_MAX_WORDS];
};

struct walk {
    hak_walk_callback visit;
    void *context;
    size_t (*walked)(void **p, size_t usable);
    int leaves_caches;
    struct snapshot slab;
    struct superslab_spans {
        char *base;
        uint16_t words[SS_GRANULES]; /* span_granules of blocks */
    } spans;
};

static void copy_blocks(struct snapshot *out, char *start, struct map_entry entry)
{
    const struct slab *slab = hak_pool_slab_of(entry.ref, start);
    out->base = start;
    out->size_class = TAG_CLASS(entry.tag);
    memcpy(out->free, slab->bits, ((size_t)slab->capacity + 63) / 64 * sizeof out->free[0]);
    out->free[0] |= hak_slab_held(slab);
}

/* A slab may be returned to the pool, or move to another owner, until its owner's lock is held:
   then what the map says stays. Inside the gate, or alone. */
static int copy_slab(struct snapshot *out, char *start, uint32_t owner)
{
    for (struct map_entry entry = hak_map_get(start);;) {
        if (!TAG_IS_SLAB(entry.tag) || (owner && TAG_OWNER(entry.tag) != owner)) {
            return 0;
        }
        struct owner *holder = hak_owner_hold(TAG_OWNER(entry.tag));
        struct map_entry now = hak_map_get(start);
        int is_same = now.tag == entry.tag;
        if (holder && is_same) {
            copy_blocks(out, start, now);
        }
        if (holder) {
            hak_lock_release(&holder->lock);
        }
        if (is_same) {
            return holder != NULL;
        }
        entry = now;
    }
}

/* Returns 0 if it is no slab (any more), or not one of `owner` (0: of anybody). */
static int take_snapshot(struct snapshot *out, char *start, uint32_t owner)
{
    enum gate_reader how = hak_gate_enter_to_read();
    int result = how != GATE_REFUSED && copy_slab(out, start, owner);
    hak_gate_leave_reader(how);
    return result;
}

static int visit(const struct walk *walk, void *p, size_t size)
{
    size = walk->walked(&p, size);
    return size ? walk->visit(p, size, walk->context) : 0;
}

static int visit_slab(const struct walk *walk)
{
    const struct snapshot *slab = &walk->slab;
    size_t size = hak_sc_table[slab->size_class].size;
    int result = 0;
    for (uint32_t i = 0; i < hak_sc_table[slab->size_class].capacity && !result; i++) {
        if (!(slab->free[i / 64] >> (i % 64) & 1)) {
            result = visit(walk, slab->base + i * size, size);
        }
    }
    return result;
}

/* Threads cut and join what they have freed without the lock (span_cache.h). What lies within a
   span that was seen is what it became a moment later, and would count its bytes once more. */
static void copy_spans(struct superslab_spans *out, uint32_t number)
{
    enum gate_reader how = hak_gate_enter_to_read();
    out->base = NULL;
    if (how == GATE_REFUSED) {
        return;
    }
    hak_lock_acquire(&hak_pool_lock);
    const struct superslab *ss = hak_pool_superslab(number);
    out->base = ss->base;
    memset(out->words, 0, sizeof out->words);
    for (uint32_t i = 0, n; out->base && i < SS_GRANULES; i += n ? n : 1) {
        uint32_t word = atomic_load_relaxed(&ss->span_granules[i]);
        n = word & ~SPAN_BITS;
        out->words[i] = (uint16_t)(word & SPAN_ASIDE ? 0 : word);
    }
    hak_lock_release(&hak_pool_lock);
    hak_gate_leave_reader(how);
}

static uint32_t slab_mask(uint32_t number, char **base)
{
    enum gate_reader how = hak_gate_enter_to_read();
    uint32_t mask = how == GATE_REFUSED ? 0 : hak_pool_slab_mask(number, base);
    hak_gate_leave_reader(how);
    return mask;
}

static uint32_t count_ranges(void)
{
    enum gate_reader how = hak_gate_enter_to_read();
    uint32_t n = how == GATE_REFUSED ? 0 : hak_ace_n_ranges();
    hak_gate_leave_reader(how);
    return n;
}

static size_t range_bytes(uint32_t number, void **start)
{
    enum gate_reader how = hak_gate_enter_to_read();
    size_t bytes = how == GATE_REFUSED ? 0 : hak_ace_range(number, start);
    hak_gate_leave_reader(how);
    return bytes;
}

/* What callbacks have allocated and freed waits in the thread's cache, where it would look
   allocated. */
static void flush_own_cache(void)
{
    if (hak_theap_own != &hak_theap_none && hak_gate_enter()) {
        hak_tc_flush(hak_theap_own);
        hak_gate_leave();
    }
}

static int walk_superslab(struct walk *walk, uint32_t number)
{
    char *base;
    int result = 0;
    for (uint32_t mask = slab_mask(number, &base); mask && !result; mask &= mask - 1) {
        if (!walk->leaves_caches) {
            flush_own_cache();
        }
        if (take_snapshot(&walk->slab, base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES, 0)) {
            result = visit_slab(walk);
        }
    }
    copy_spans(&walk->spans, number);
    for (uint32_t i = 0; walk->spans.base && i < SS_GRANULES && !result; i++) {
        if (walk->spans.words[i]) {
            result = visit(walk, walk->spans.base + i * SS_GRANULE_BYTES,
                           hak_pool_span_usable(walk->spans.words[i]));
        }
    }
    return result;
}

static int visit_limbo(void *p, size_t size, void *walk)
{
    return visit((const struct walk *)walk, p, size);
}

static int walk_all(struct walk *walk)
{
    int result = 0;
    for (uint32_t i = 0, n = hak_pool_n_superslabs(); i < n && !result; i++) {
        result = walk_superslab(walk, i);
    }
    for (uint32_t i = 0, n = count_ranges(); i < n && !result; i++) {
        void *start;
        size_t bytes = range_bytes(i, &start);
        result = bytes ? visit(walk, start, bytes) : 0;
    }
    return result ? result : hak_limbo_walk(NULL, visit_limbo, walk);
}

/* --- of one heap --- */

/* The slabs with the lowest addresses above `after`, as many as there is room for: a binary heap
   with the highest first. */
struct lowest {
    char **at;
    uint32_t n, room;
    const char *after;
};

static void sift_up(char **at, uint32_t i)
{
    for (; i && at[(i - 1) / 2] < at[i]; i = (i - 1) / 2) {
        char *above = at[(i - 1) / 2];
        at[(i - 1) / 2] = at[i];
        at[i] = above;
    }
}

static void sift_down(char **at, uint32_t n)
{
    for (uint32_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && at[child + 1] > at[child];
        if (at[i] >= at[child]) {
            return;
        }
        char *above = at[i];
        at[i] = at[child];
        at[child] = above;
    }
}

static void gather_slab(const struct slab *slab, void *lowest_)
{
    struct lowest *lowest = (struct lowest *)lowest_;
    if (slab->base <= lowest->after) {
        return;
    }
    if (lowest->n < lowest->room) {
        lowest->at[lowest->n] = slab->base;
        sift_up(lowest->at, lowest->n++);
    } else if (lowest->n && slab->base < lowest->at[0]) {
        lowest->at[0] = slab->base;
        sift_down(lowest->at, lowest->n);
    }
}

/* So many slabs are looked at before the heap's lock is released for others. */
#define GATHER_SOME HAK_TINY_OR(2u, 64u)

/* With the owner's lock held; not when it returns. */
static void gather_from(struct owner *owner, struct lowest *lowest)
{
    const uint32_t id = owner->id;
    struct bank_walk walk;
    hak_bank_walk_begin(&owner->bank, &walk);
    while (owner && hak_bank_walk_some(&owner->bank, &walk, GATHER_SOME, gather_slab, lowest)) {
        hak_lock_release(&owner->lock);
        owner = hak_owner_hold(id);
    }
    if (owner) {
        hak_bank_walk_end(&owner->bank, &walk);
        hak_lock_release(&owner->lock);
    }
}

/* Returns how many slabs the heap has. */
static uint32_t gather_slabs(const struct hak_heap *heap, struct lowest *lowest)
{
    enum gate_reader how = hak_gate_enter_to_read();
    struct owner *owner = how != GATE_REFUSED ? hak_owner_hold(heap->owner.id) : NULL;
    uint32_t n = owner ? owner->bank.n_slabs : 0;
    lowest->n = 0;
    if (owner) {
        gather_from(owner, lowest);
    }
    hak_gate_leave_reader(how);
    return n;
}

/* In one round if there is room for all. */
static int walk_slabs_in(struct walk *walk, const struct hak_heap *heap, struct lowest *lowest)
{
    int result = 0;
    for (lowest->after = NULL; !result && gather_slabs(heap, lowest) && lowest->n;) {
        lowest->after = lowest->at[0];
        for (uint32_t i = 0; i < lowest->n && !result; i++) {
            if (take_snapshot(&walk->slab, lowest->at[i], heap->owner.id)) {
                result = visit_slab(walk);
            }
        }
    }
    return result;
}

/* Room for a small heap's slabs is on the stack; for more it is mapped, and if the system refuses,
   the walk goes in rounds, in each of which all slabs are looked at. */
#define WALK_SLABS HAK_TINY_OR(3u, 256u)

static int walk_slabs(struct walk *walk, const struct hak_heap *heap)
{
    char *few[WALK_SLABS];
    struct lowest lowest = {few, 0, 0, NULL};
    uint32_t n = gather_slabs(heap, &lowest);
    size_t page = hak_os_page_size(),
           bytes = (((size_t)n + n / 8) * sizeof(char *) + page - 1) & ~(page - 1);
    char **mapped = n > WALK_SLABS ? (char **)hak_os_map_aligned(NULL, bytes, page) : NULL;
    lowest.at = mapped ? mapped : few;
    lowest.room = mapped ? (uint32_t)(bytes / sizeof(char *)) : WALK_SLABS;
    int result = walk_slabs_in(walk, heap, &lowest);
    if (mapped) {
        (void)!hak_os_unmap(mapped, bytes);
    }
    return result;
}

static size_t large_size(struct hak_heap *heap, const void *p)
{
    enum gate_reader how = hak_gate_enter_to_read();
    size_t size = how == GATE_REFUSED ? 0 : hak_heap_large_size(heap, p);
    hak_gate_leave_reader(how);
    return size;
}

static uint32_t next_large(struct hak_heap *heap, struct heap_large_walk *place)
{
    enum gate_reader how = hak_gate_enter_to_read();
    uint32_t n = how == GATE_REFUSED ? 0 : hak_heap_next_large(heap, place);
    hak_gate_leave_reader(how);
    return n;
}

static int walk_large(const struct walk *walk, struct hak_heap *heap)
{
    struct heap_large_walk place;
    int result = 0;
    place.n = place.n_nodes = 0;
    while (!result && next_large(heap, &place)) {
        for (uint32_t i = 0; i < place.n && !result; i++) {
            size_t size = large_size(heap, place.blocks[i]); /* 0: freed since */
            result = size ? visit(walk, place.blocks[i], size) : 0;
        }
    }
    return result;
}

int hak_walk_as_it_is(size_t (*walked)(void **p, size_t usable), hak_walk_callback visit,
                      void *context)
{
    struct walk walk = {.visit = visit, .context = context, .walked = walked, .leaves_caches = 1};
    return walk_all(&walk);
}

int hak_walk_slabs_as_they_are(hak_walk_slab visit, void *context)
{
    struct snapshot slab;
    int result = 0;
    for (uint32_t number = 0, n = hak_pool_n_superslabs(); number < n && !result; number++) {
        char *base;
        for (uint32_t mask = slab_mask(number, &base); mask && !result; mask &= mask - 1) {
            if (take_snapshot(&slab, base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES, 0)) {
                result = visit(slab.base, slab.size_class, slab.free, context);
            }
        }
    }
    return result;
}

/* Blocks that lie with a layer alone; `before` has ended the walk if it is not 0. */
static int walk_layer(int before, const struct hak_heap *heap, hak_walk_callback visit,
                      void *context)
{
    __typeof__(hak_entry_walk) walk = atomic_load_acquire(&hak_entry_walk);
    return before || !walk ? before : walk(heap, visit, context);
}

int hak_walk(hak_walk_callback visit, void *context)
{
    struct walk walk = {.visit = visit, .context = context, .walked = hak_entry_now()->walked};
    hak_fork_catch_up();
    if (hak_gate_enter()) {
        hak_theap_trim_all();
        hak_gate_leave();
    }
    return walk_layer(walk_all(&walk), NULL, visit, context);
}

int hak_walk_heap(struct hak_heap *heap, size_t (*walked)(void **p, size_t usable),
                  hak_walk_callback visit, void *context)
{
    struct walk walk = {.visit = visit, .context = context, .walked = walked};
    hak_fork_catch_up();
    int result = walk_slabs(&walk, heap);
    result = result ? result : walk_large(&walk, heap);
    return result ? result : hak_limbo_walk(&heap->owner, visit_limbo, &walk);
}

int hak_heap_walk(struct hak_heap *heap, hak_walk_callback visit, void *context)
{
    int result = hak_walk_heap(heap, hak_entry_now()->walked, visit, context);
    return walk_layer(result, heap, visit, context);
}

static int count_limbo(void *p, size_t size, void *counts_)
{
    struct walk_counts *counts = (struct walk_counts *)counts_;
    (void)p;
    counts->n_ranges++;
    counts->range_bytes += size;
    return 0;
}

static void count_slab(struct walk_counts *counts, const struct snapshot *slab)
{
    uint32_t capacity = hak_sc_table[slab->size_class].capacity, n_free = 0;
    for (uint32_t i = 0; i < (capacity + 63) / 64; i++) {
        n_free += (uint32_t)__builtin_popcountll(slab->free[i]);
    }
    counts->n_free[slab->size_class] += n_free;
    counts->n_used[slab->size_class] += capacity - n_free;
}

/* What the calling thread keeps in bins and spares is free, whatever the slabs say. */
static void count_own_cache(struct walk_counts *counts)
{
    const struct theap *heap = hak_theap_own;
    for (uint32_t c = 0; heap != &hak_theap_none && c < SC_N_CLASSES; c++) {
        size_t n = (size_t)((int64_t)heap->limits[c] - heap->bins[c].room -
                            (int64_t)heap->metered[c].room) +
                   heap->spares[c].count;
        n = n < counts->n_used[c] ? n : counts->n_used[c];
        counts->n_used[c] -= n;
        counts->n_free[c] += n;
        counts->n_own_cached += n;
        counts->own_cached_bytes += n * hak_sc_table[c].size;
    }
}

void hak_walk_count(struct walk_counts *counts)
{
    struct walk walk;
    memset(counts, 0, sizeof *counts);
    for (uint32_t number = 0, n = hak_pool_n_superslabs(); number < n; number++) {
        char *base;
        for (uint32_t mask = slab_mask(number, &base); mask; mask &= mask - 1) {
            if (take_snapshot(&walk.slab, base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES, 0)) {
                count_slab(counts, &walk.slab);
            }
        }
        copy_spans(&walk.spans, number);
        for (uint32_t i = 0; walk.spans.base && i < SS_GRANULES; i++) {
            uint32_t word = walk.spans.words[i];
            counts->n_spans += word != 0;
            counts->span_bytes += (word & ~SPAN_BITS) * SS_GRANULE_BYTES;
        }
    }
    for (uint32_t i = 0, n = count_ranges(); i < n; i++) {
        void *start;
        size_t bytes = range_bytes(i, &start);
        counts->n_ranges += bytes != 0;
        counts->range_bytes += bytes;
    }
    (void)hak_limbo_walk(NULL, count_limbo, counts);
    count_own_cache(counts);
}
