/* Walks over blocks: slabs by their bitmaps, each copied with its owner's lock held; spans by what
   the pool says of a superslab; ranges by number. No lock is held while a callback runs. Called by
   programs, by mallinfo and malloc_info. */
#include "hakmem/walk.h"

#include <string.h>

#include "ace/ace.h"
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
    const struct hak_heap *heap; /* of this one alone, if it is not NULL */
    hak_walk_callback visit;
    void *context;
    size_t (*walked)(const void *p, size_t usable);
    struct snapshot slab;
    struct superslab_spans {
        char *base;
        uint16_t granules[SS_GRANULES];
    } spans;
};

/* Inside the gate, or alone. */
static int copy_slab(struct snapshot *out, char *start, uint32_t number, uint32_t owner)
{
    struct map_entry entry = hak_map_get(start);
    if (!TAG_IS_SLAB(entry.tag) || (owner && TAG_OWNER(entry.tag) != owner)) {
        return 0;
    }
    struct owner *holder = hak_owner_hold(TAG_OWNER(entry.tag));
    if (!holder) {
        return 0;
    }
    /* It may have been returned to the pool or have moved. With the owner's lock held, what the map
       says stays. */
    struct map_entry now = hak_map_get(start);
    int is_same = now.tag == entry.tag && now.ref == number;
    if (is_same) {
        const struct slab *slab = hak_pool_slab_of(number, start);
        out->base = start;
        out->size_class = TAG_CLASS(entry.tag);
        memcpy(out->free, slab->bits, ((size_t)slab->capacity + 63) / 64 * sizeof out->free[0]);
    }
    hak_lock_release(&holder->lock);
    return is_same;
}

/* Returns 0 if it is no slab (any more), or not one of `owner` (0: of anybody). */
static int take_snapshot(struct snapshot *out, char *start, uint32_t number, uint32_t owner)
{
    enum gate_reader how = hak_gate_enter_to_read();
    int result = how != GATE_REFUSED && copy_slab(out, start, number, owner);
    hak_gate_leave_reader(how);
    return result;
}

static int visit(const struct walk *walk, void *p, size_t size)
{
    size = walk->walked(p, size);
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

static int visit_large(const struct walk *walk, void *p, size_t size)
{
    if (walk->heap && hak_heap_of(p) != walk->heap) {
        return 0;
    }
    return visit(walk, p, size);
}

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
    for (uint32_t i = 0; out->base && i < SS_GRANULES; i++) {
        out->granules[i] = (uint16_t)hak_pool_span_granules(ss, i);
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
static void flush_own_cache(const struct walk *walk)
{
    if (!walk->heap && hak_theap_own != &hak_theap_none && hak_gate_enter()) {
        hak_tc_flush(hak_theap_own);
        hak_gate_leave();
    }
}

static int walk_superslab(struct walk *walk, uint32_t number)
{
    char *base;
    int result = 0;
    int has_slabs = !walk->heap || walk->heap->owner.id;
    for (uint32_t mask = has_slabs ? slab_mask(number, &base) : 0; mask && !result;
         mask &= mask - 1) {
        flush_own_cache(walk);
        if (take_snapshot(&walk->slab, base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES, number,
                          walk->heap ? walk->heap->owner.id : 0)) {
            result = visit_slab(walk);
        }
    }
    copy_spans(&walk->spans, number);
    for (uint32_t i = 0; walk->spans.base && i < SS_GRANULES && !result; i++) {
        if (walk->spans.granules[i]) {
            result = visit_large(walk, walk->spans.base + i * SS_GRANULE_BYTES,
                                 walk->spans.granules[i] * SS_GRANULE_BYTES);
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
        result = bytes ? visit_large(walk, start, bytes) : 0;
    }
    return result ? result
                  : hak_limbo_walk(walk->heap ? &walk->heap->owner : NULL, visit_limbo, walk);
}

int hak_walk(hak_walk_callback visit, void *context)
{
    struct walk walk = {.visit = visit, .context = context, .walked = hak_entry_now()->walked};
    hak_fork_catch_up();
    if (hak_gate_enter()) {
        hak_theap_trim_all();
        hak_gate_leave();
    }
    return walk_all(&walk);
}

int hak_walk_heap(struct hak_heap *heap, size_t (*walked)(const void *p, size_t usable),
                  hak_walk_callback visit, void *context)
{
    struct walk walk = {.heap = heap, .visit = visit, .context = context, .walked = walked};
    hak_fork_catch_up();
    return walk_all(&walk);
}

int hak_heap_walk(struct hak_heap *heap, hak_walk_callback visit, void *context)
{
    return hak_walk_heap(heap, hak_entry_now()->walked, visit, context);
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
        size_t n = (size_t)((int64_t)heap->limits[c] - heap->bins[c].room) + heap->spares[c].count;
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
            if (take_snapshot(&walk.slab, base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES,
                              number, 0)) {
                count_slab(counts, &walk.slab);
            }
        }
        copy_spans(&walk.spans, number);
        for (uint32_t i = 0; walk.spans.base && i < SS_GRANULES; i++) {
            counts->n_spans += walk.spans.granules[i] != 0;
            counts->span_bytes += walk.spans.granules[i] * SS_GRANULE_BYTES;
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
