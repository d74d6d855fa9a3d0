/* The plain functions: requests of memory, small blocks from the thread's heap and back, large ones
   from ACE and back. No locks of its own; the parts below take theirs. Called through the table of
   entry points, and by each other. */
#include "hakmem/plain.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/fallback.h"
#include "hakmem/fast.h"
#include "hakmem/heap.h"
#include "hakmem/request.h"
#include "heap/background.h"
#include "heap/depot.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "heap/parked.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/pool.h"

/* How many of the blocks that were freed last are compared with one that realloc gets; often it is
   called for blocks that were written to, which cannot be free, and then for none. */
#define LOOK_AT_BLOCKS 16u
/* One list from behind the lock in so many. */
#define MIND_EVERY 16u

HAK_TLS int hak_request_is_try;

void *hak_request_refuse(void)
{
    if (HAK_LIKELY(!hak_request_is_try)) {
        hak_stat_add(failed_requests, 1);
    }
    errno = ENOMEM;
    return NULL;
}

/* The end of a request on a slow path: what failed is reported. */
static void *finish(void *p, size_t size, size_t align)
{
    if (HAK_UNLIKELY(!p && hak_request_is_try)) {
        hak_fail_tell();
    } else if (HAK_UNLIKELY(!p || hak_fail_any())) {
        hak_fail_end(size, align, p);
    }
    return p ? p : hak_request_refuse();
}

void *hak_request(void *(*ask)(void *context), void *(*aside)(void *context), void *context,
                  size_t size, size_t align)
{
    hak_background_start_if_wanted();
    hak_entry_mind_asked();
    hak_fail_begin();
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        return finish(size <= PTRDIFF_MAX ? aside(context) : NULL, size, align);
    }
    void *p = size <= PTRDIFF_MAX ? ask(context) : NULL;
    if (HAK_UNLIKELY(!p)) {
        p = hak_request_again(ask, context, size, align);
    }
    hak_request_mind_limits();
    hak_gate_leave();
    return finish(p, size, align);
}

static void *ask_ace(size_t size, size_t align, enum large_kind kind)
{
    return kind == LARGE_PLAIN    ? hak_ace_alloc(size, align)
           : kind == LARGE_ZEROED ? hak_ace_alloc_zeroed(size, align)
                                  : hak_ace_alloc_growing(size);
}

struct want_large {
    size_t size, align;
    enum large_kind kind;
};

static void *ask_ace_again(void *context)
{
    const struct want_large *want = (const struct want_large *)context;
    return ask_ace(want->size, want->align, want->kind);
}

void *hak_request_large(size_t size, size_t align, enum large_kind kind)
{
    struct theap *heap = hak_theap_own;
    void *p = kind != LARGE_GROWING || size < ACE_GROWING_MIN
                  ? hak_spans_take(&heap->spans, size, align, kind == LARGE_ZEROED)
                  : NULL;
    if (HAK_LIKELY(p != NULL)) {
        return p;
    }
    (void)hak_theap_acquire(); /* starts the process: options */
    if (HAK_UNLIKELY(hak_fallback_all())) {
        return finish(hak_fallback_alloc(size, align, kind == LARGE_ZEROED, 0), size, align);
    }
    hak_background_start_if_wanted();
    hak_entry_mind_asked();
    hak_fail_begin();
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        return finish(hak_limbo_alloc(size, align, NULL), size, align);
    }
    hak_spans_missed(&hak_theap_own->spans);
    hak_depot_relieve(size);
    hak_parked_relieve(size);
    p = ask_ace(size, align, kind);
    if (HAK_UNLIKELY(!p)) {
        struct want_large want = {size, align, kind};
        p = hak_request_again(ask_ace_again, &want, size, align);
    }
    hak_request_mind_limits();
    hak_gate_leave();
    if (HAK_UNLIKELY(!p)) {
        p = hak_fallback_alloc(size, align, kind == LARGE_ZEROED,
                               1); /* libc's locks are not waited for inside */
    }
    return finish(p, size, align);
}

static void *ask_heap(uint32_t size_class, int *is_clean)
{
    struct theap *heap = hak_theap_acquire();
    if (!heap) {
        *is_clean = 0;
        return hak_theap_alloc_uncached(size_class);
    }
    void *block = hak_tc_bin_take(&heap->bins[size_class]);
    if (HAK_UNLIKELY(block != NULL)) {
        /* The call has not come from the fast path but from a layer or from realloc; or making the
           background thread, which allocates too, has filled this very bin. */
        *is_clean = 0;
        return block;
    }
    if (HAK_UNLIKELY(hak_tc_bin_first(&heap->bins[size_class]) != NULL)) {
        hak_link_broken(hak_tc_bin_first(&heap->bins[size_class]));
    }
    block = hak_tc_refill(heap, size_class);
    *is_clean = heap->refill_is_clean;
    if (block && !*is_clean) {
        hak_tc_unmark_free(block);
    }
    return block;
}

/* What may be kept changes as slabs are made; what other threads do, they mind themselves, and so
   does this one now and then. */
static HAK_ALWAYS_INLINE void mind_limits(struct theap *heap)
{
    if (heap->made_slab || heap->slow_count % MIND_EVERY == 0) {
        if (heap->made_slab) { /* hak_theap_none is every thread's, and has made none */
            heap->made_slab = 0;
        }
        hak_request_mind_limits();
    }
}

struct want_small {
    uint32_t size_class;
    int *is_clean;
};

static void *ask_heap_again(void *context)
{
    const struct want_small *want = (const struct want_small *)context;
    return ask_heap(want->size_class, want->is_clean);
}

/* A block of the size class. *is_clean: it reads as zero behind its first word. `align`: what the
   class's blocks are aligned to anyway; libc has to be asked for it. */
static HAK_ALWAYS_INLINE void *small_alloc(uint32_t size_class, size_t align, int *is_clean)
{
    *is_clean = 0;
    size_t size = hak_sc_table[size_class].size;
    (void)hak_theap_acquire();
    if (HAK_UNLIKELY(hak_fallback_all())) {
        return finish(hak_fallback_alloc(size, align, 0, 0), size, align);
    }
    hak_background_start_if_wanted();
    hak_fail_begin();
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        return finish(hak_limbo_alloc(size, align, NULL), size, align);
    }
    void *block = ask_heap(size_class, is_clean);
    if (HAK_UNLIKELY(!block)) {
        int saved = errno;
        struct want_small want = {size_class, is_clean};
        block = hak_request_again(ask_heap_again, &want, size, align);
        errno = saved;
    }
    mind_limits(hak_theap_own);
    hak_gate_leave();
    if (HAK_UNLIKELY(!block)) {
        int saved = errno;
        *is_clean = 0;
        block = hak_fallback_alloc(size, align, 0, 1);
        errno = saved;
    }
    return finish(block, size, align);
}

/* --- malloc and free --- */

/* The class's spare list becomes the bin, which is empty; NULL if there is none. As on the fast
   paths, no lock is taken, and nothing can fail. */
static void *take_spare(uint32_t size_class)
{
    struct theap *heap = hak_theap_own;
    if (!heap->spares[size_class].head || hak_tc_bin_first(&heap->bins[size_class])) {
        return NULL;
    }
    void *block = hak_tc_refill(heap, size_class);
    hak_tc_unmark_free(block);
    return block;
}

void *hak_plain_malloc(size_t size)
{
    int is_clean;
    if (HAK_UNLIKELY(size > SC_SMALL_MAX)) {
        return hak_request_large(size, 1, LARGE_PLAIN);
    }
    hak_entry_mind_asked();
    uint32_t size_class = hak_sc_of(size);
    void *block = take_spare(size_class);
    return block ? block : small_alloc(size_class, SC_MIN_ALIGN, &is_clean);
}

void *hak_request_small(uint32_t size_class, size_t align)
{
    int is_clean;
    hak_entry_mind_asked();
    return small_alloc(size_class, align, &is_clean);
}

void *hak_plain_calloc(size_t bytes)
{
    if (HAK_UNLIKELY(bytes > SC_SMALL_MAX)) {
        return hak_request_large(bytes, 1, LARGE_ZEROED);
    }
    hak_entry_mind_asked();
    uint32_t size_class = hak_sc_of(bytes);
    int is_clean;
    void *block = small_alloc(size_class, SC_MIN_ALIGN, &is_clean);
    if (block) {
        /* Fresh memory of the system needs no clearing but where the list's link was. */
        memset(block, 0, is_clean ? sizeof(void *) : hak_sc_table[size_class].size);
    }
    return block;
}

#if HAK_VALIDATE
void hak_validate_free(const void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    HAK_CHECK(found.kind == SS_SLAB && found.start == p,
              "invalid pointer freed (not the start of a block)", p);
    HAK_CHECK(found.is_allocated, "block freed twice", p);
}
#endif

/* 1 if a layer has freed it. */
static HAK_ALWAYS_INLINE int is_layers(void *p)
{
    int (*known)(void *p) = atomic_load_acquire(&hak_entry_free_known);
    return HAK_UNLIKELY(known != NULL) && known(p);
}

static HAK_COLD void free_inner(void *p)
{
    HAK_CHECK(is_layers(p), "invalid pointer freed (not the start of a block)", p);
}

/* A block of a slab: ours but beyond the view of the map, another heap's, or one that the fast path
   found wrong. */
static void free_in_slab(void *p, uint32_t tag)
{
    uint32_t size_class = TAG_CLASS(tag);
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    if (HAK_UNLIKELY(!hak_sc_is_block(offset, hak_sc_table[size_class].magic,
                                      hak_sc_table[size_class].limit))) {
        free_inner(p);
        return;
    }
    hak_validate_free(p);
    struct theap *heap = hak_theap_own;
    if (HAK_UNLIKELY((tag ^ heap->owner_tag) <= TAG_LOW_MASK)) {
        struct bin *bin = &heap->bins[size_class];
        HAK_CHECK(bin->head != p && !(hak_tc_is_marked_free(heap, p) &&
                                      hak_tc_holds(heap, size_class, p, UINT32_MAX)),
                  "block freed twice", p);
        hak_tc_mark_free(heap, p);
        hak_tc_bin_push(bin, p);
        if (bin->room < 0) {
            hak_tc_overflow(heap, size_class);
        }
        return;
    }
    if (HAK_UNLIKELY(heap == &hak_theap_none)) {
        heap = hak_theap_acquire_to_free();
        if (!heap) {
            hak_remote_free_now(p, tag);
            return;
        }
        if (TAG_OWNER(tag) == heap->owner.id) {
            free_in_slab(p, tag); /* adopted the very heap that owns the block */
            return;
        }
    }
    hak_remote_free(heap, p, tag);
}

/* Without a lock, as the fast paths: where no first-class heap has large blocks, of which one may
   be this. */
static int keep_span(void *p, uint32_t tag)
{
    struct theap *heap = hak_theap_own;
    return tag == TAG_SPAN && HAK_LIKELY(!hak_address_count(&hak_heap_large)) &&
           heap != &hak_theap_none && hak_spans_put(&heap->spans, p);
}

/* The same before all else that a free may have to do, where no layer has a say. */
static HAK_NOINLINE int keep_span_soon(void *p)
{
    if (HAK_UNLIKELY(atomic_load_acquire(&hak_entry_free_known) != NULL) ||
        !keep_span(p, TAG_SPAN)) {
        return 0;
    }
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_background_is_asleep))) {
        int saved = errno;
        hak_background_poke();
        errno = saved;
    }
    return 1;
}

static void free_large(void *p, uint32_t tag)
{
    if (keep_span(p, tag)) {
        hak_background_poke();
        return;
    }
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        HAK_CHECK(hak_ace_usable_size(p), "invalid pointer freed (not the start of a block)", p);
        hak_fork_defer_block(p);
        return;
    }
    struct theap *heap = hak_theap_own;
    hak_heap_forget(p);
    hak_ace_free_to(heap != &hak_theap_none ? &heap->spans : NULL, p);
    hak_gate_leave();
    hak_background_poke();
}

/* What the thread's view of the map does not show, is large, free or no block at all. */
static HAK_NOINLINE void free_elsewhere(void *p)
{
    struct map_entry entry = hak_map_find(p);
    if (!TAG_IS_SLAB(entry.tag) && is_layers(p)) {
        return;
    }
    if (entry.tag == 0 && hak_fallback_free(p)) {
        return;
    }
    HAK_CHECK(entry.tag != 0, "invalid pointer freed (not allocated by hakmem)", p);
    HAK_CHECK(entry.tag != TAG_FREE_UNIT,
              "block freed twice, or invalid pointer freed (in free memory)", p);
    if (HAK_UNLIKELY(entry.tag == TAG_LIMBO)) {
        hak_limbo_free(p);
    } else if (TAG_OWNER(entry.tag) == TAG_SPECIAL_OWNER) {
        free_large(p, entry.tag);
    } else {
        struct theap *heap = hak_theap_own;
        if (HAK_UNLIKELY(!heap->view.is_final)) {
            hak_map_view_extend(&heap->view, p);
        }
        free_in_slab(p, entry.tag);
    }
}

HAK_NOINLINE void hak_plain_free_by_tag(void *p, uint32_t tag)
{
    int saved = errno; /* a free may need memory of its own, as for its thread's heap */
    if (HAK_LIKELY(TAG_IS_SLAB(tag))) {
        free_in_slab(p, tag);
    } else {
        free_elsewhere(p);
    }
    errno = saved;
}

void hak_plain_free(void *p)
{
    struct theap *heap = hak_theap_own;
    uint32_t tag = hak_map_view_tag(&heap->view, p);
    /* First what is frequent: a span, or a block whose chain is full. (Variants that validate look
       at it before.) */
    if (!HAK_VALIDATE && tag == TAG_SPAN && keep_span_soon(p)) {
        return;
    }
    if (!HAK_VALIDATE && hak_remote_is_full(heap, p, tag)) {
        int saved = errno;
        hak_remote_free(heap, p, tag);
        errno = saved;
        return;
    }
    hak_plain_free_by_tag(p, tag);
}

static const char *const what_is_wrong[][2] = {
    [PLAIN_USABLE_SIZE] = {"invalid pointer given to malloc_usable_size",
                           "freed block given to malloc_usable_size"},
    [PLAIN_REALLOC] = {"invalid pointer given to realloc", "freed block given to realloc"},
};

/* 1 if the block is one of those that this thread freed last or, in variants that validate, any
   that it keeps. */
static int has_freed(const struct theap *heap, uint32_t size_class, const void *p,
                     enum plain_asker asker)
{
    uint32_t most = HAK_VALIDATE ? UINT32_MAX : asker == PLAIN_REALLOC ? LOOK_AT_BLOCKS : 0;
    return heap->bins[size_class].head == p || heap->last_slot->head == p ||
           (most && (hak_link_may_be(p) || hak_tc_is_marked_free(heap, p)) &&
            hak_tc_holds(heap, size_class, p, most));
}

/* 1 if the block's first word leads to a block of the class, or to the end: as in every list. */
static int is_link_of(const struct theap *heap, uint32_t size_class, const void *p)
{
    int64_t word = atomic_load_relaxed((const int64_t *)p);
    if (hak_link_decode(&word)) {
        return 0; /* 0, where the page of a free block may have been purged */
    }
    const void *next = (const void *)(uintptr_t)word;
    if (next == (const void *)hak_link_end) {
        return 1;
    }
    uint32_t tag = hak_map_view_tag(&heap->view, next);
    return !TAG_IS_SLAB(tag) || TAG_CLASS(tag) == size_class; /* beyond the view: perhaps */
}

/* 1 if its slab's bitmap or the first block of a list shows that the block of that bin's class is
   free, or it lies outside of the window: then the slow path looks. */
static HAK_ALWAYS_INLINE int may_be_free(const struct theap *heap, const struct bin *bin,
                                         const void *p)
{
    size_t unit = hak_map_window_unit(p);
    if (bin->head == p || heap->last_slot->head == p || HAK_UNLIKELY(unit >= MAP_LEAF_UNITS)) {
        return 1;
    }
    uint64_t offset = (uintptr_t)p & (SC_SLAB_BYTES - 1);
    return hak_slab_shows_free(hak_pool_slab_of(atomic_load_relaxed(&hak_map_window->ref[unit]), p),
                               (uint32_t)(offset * bin->magic >> 32));
}

int hak_plain_is_in_use(const struct theap *heap, const struct bin *bin, const void *p)
{
    if (HAK_VALIDATE || may_be_free(heap, bin, p)) {
        return 0;
    }
    uint32_t size_class = (uint32_t)(bin - heap->bins);
    /* What it leads to may have become a slab of another class since. */
    return !is_link_of(heap, size_class, p) ||
           (hak_link_may_be(p) && !atomic_load_relaxed(&heap->owner.inbox) &&
            !hak_tc_holds(heap, size_class, p, LOOK_AT_BLOCKS));
}

size_t hak_plain_size_unless_free(const struct theap *heap, const struct bin *bin, const void *p,
                                  size_t (*otherwise)(const void *p))
{
    /* While a layer meters, the thread takes from another bin than that to which it frees. */
    if (atomic_load_relaxed(&heap->is_metered) &&
        hak_fast_was_just_taken(&heap->metered[bin - heap->bins], p)) {
        return bin->size;
    }
    return HAK_VALIDATE || HAK_UNLIKELY(may_be_free(heap, bin, p)) ? otherwise(p) : bin->size;
}

/* A block that may be freed may lie in a chain that another thread has sent: back to its slab. */
static void receive(const void *p, uint32_t tag)
{
    const struct theap *heap = hak_theap_own;
    if (HAK_UNLIKELY(hak_link_may_be(p)) && TAG_OWNER(tag) == heap->owner.id &&
        atomic_load_relaxed(&heap->owner.inbox)) {
        hak_theap_receive_own();
    }
}

static HAK_NOINLINE size_t size_in_slab(const void *p, uint32_t tag, uint32_t ref,
                                        enum plain_asker asker)
{
    const struct size_class *row = &hak_sc_table[TAG_CLASS(tag)];
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    HAK_CHECK(hak_sc_is_block(offset, row->magic, row->limit), what_is_wrong[asker][0], p);
    if (asker == PLAIN_REALLOC) {
        receive(p, tag);
    }
    HAK_CHECK(
        !hak_slab_shows_free(hak_pool_slab_of(ref, p), hak_sc_index_of(TAG_CLASS(tag), offset)) &&
            !has_freed(hak_theap_own, TAG_CLASS(tag), p, asker),
        what_is_wrong[asker][1], p);
    return row->size;
}

size_t hak_plain_size_for(const void *p, enum plain_asker asker)
{
    struct map_entry entry = hak_map_find(p);
    if (HAK_LIKELY(TAG_IS_SLAB(entry.tag))) {
        return size_in_slab(p, entry.tag, entry.ref, asker);
    }
    if (HAK_UNLIKELY(entry.tag == TAG_LIMBO)) {
        return hak_limbo_size(p);
    }
    size_t size = entry.tag == 0 ? hak_fallback_size(p) : hak_ace_usable_size(p);
    HAK_CHECK(size, what_is_wrong[asker][0], p);
    return size;
}

size_t hak_plain_usable_size(const void *p)
{
    return hak_plain_size_for(p, PLAIN_USABLE_SIZE);
}

size_t hak_plain_walked(void **p, size_t usable)
{
    (void)p;
    return usable;
}

void hak_plain_name(void *p, enum entry_family family)
{
    (void)p;
    (void)family;
}

void hak_plain_claim(void *p, const struct entry_claim *claim)
{
    (void)p;
    (void)claim;
}
