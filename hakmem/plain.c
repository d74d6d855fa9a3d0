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
#include "hakmem/background.h"
#include "hakmem/fallback.h"
#include "hakmem/fast.h"
#include "hakmem/fork.h"
#include "hakmem/gate.h"
#include "hakmem/limbo.h"
#include "hakmem/request.h"
#include "hakmem/user_heap.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/pool.h"

/* A process that is refused everything tries to give back what is kept at most so often. */
#define RECLAIM_PAUSE_NS 10000000u
/* How many of the blocks that were freed last are compared with one that realloc gets; often it is
   called for blocks that were written to, which cannot be free, and then for none. */
#define LOOK_AT_BLOCKS 16u

void *request_refuse(void)
{
    stat_add(failed_requests, 1);
    errno = ENOMEM;
    return NULL;
}

/* The end of a request on a slow path: what failed is told. */
static void *finish(void *p, size_t size, size_t align)
{
    if (HAK_UNLIKELY(!p || fail_any())) {
        fail_end(size, align, p);
    }
    return p ? p : request_refuse();
}

size_t request_reclaim(void)
{
    heap_trim_all();
    return ace_purge(0) + ss_purge(0);
}

/* Before a request is refused; a refusal that cannot be helped may come a million times in a row,
   and this is long, so it is done again only when RECLAIM_PAUSE_NS have passed. Returns 1 if it is
   worth to ask again. */
static int reclaim_for_request(void)
{
    static uint64_t last_ns;
    uint64_t now_ns = os_ops.clock_ns();
    if (atomic_load_relaxed(&last_ns) && now_ns - atomic_load_relaxed(&last_ns) < RECLAIM_PAUSE_NS &&
        stat_get(heap_dirty_bytes) + stat_get(large_cached_bytes) == 0 && ace_room() == 0) {
        return 0;
    }
    atomic_store_relaxed(&last_ns, now_ns);
    fail_reclaim();
    (void)request_reclaim();
    return 1;
}

void request_mind_limits(void)
{
    (void)ace_purge_excess();
    if (HAK_UNLIKELY(limit_wants_purge())) {
        stat_add(soft_purges, 1);
        (void)request_reclaim();
        limit_purged();
    }
}

void *request(void *(*ask)(void *context), void *(*aside)(void *context), void *context, size_t size, size_t align)
{
    background_start_if_wanted();
    fail_begin();
    if (HAK_UNLIKELY(!gate_enter())) {
        return finish(size <= PTRDIFF_MAX ? aside(context) : NULL, size, align);
    }
    void *p = size <= PTRDIFF_MAX ? ask(context) : NULL;
    if (HAK_UNLIKELY(!p) && size <= PTRDIFF_MAX && reclaim_for_request()) {
        p = ask(context);
    }
    request_mind_limits();
    gate_leave();
    return finish(p, size, align);
}

static void *ask_ace(size_t size, size_t align, enum large_kind kind)
{
    return kind == LARGE_PLAIN    ? ace_alloc(size, align)
           : kind == LARGE_ZEROED ? ace_alloc_zeroed(size, align)
                                  : ace_alloc_growing(size);
}

void *request_large(size_t size, size_t align, enum large_kind kind)
{
    (void)heap_acquire(); /* starts the process: options */
    if (HAK_UNLIKELY(fallback_all())) {
        return finish(fallback_alloc(size, align, kind == LARGE_ZEROED, 0), size, align);
    }
    background_start_if_wanted();
    fail_begin();
    if (HAK_UNLIKELY(!gate_enter())) {
        return finish(limbo_alloc(size, align, NULL), size, align);
    }
    void *p = ask_ace(size, align, kind);
    if (HAK_UNLIKELY(!p) && size <= PTRDIFF_MAX && reclaim_for_request()) {
        p = ask_ace(size, align, kind);
    }
    request_mind_limits();
    gate_leave();
    if (HAK_UNLIKELY(!p)) {
        p = fallback_alloc(size, align, kind == LARGE_ZEROED, 1); /* libc's locks are not waited for inside */
    }
    return finish(p, size, align);
}

static void *ask_heap(uint32_t size_class, int *is_clean)
{
    struct heap *heap = heap_acquire();
    if (!heap) {
        *is_clean = 0;
        return heap_alloc_uncached(size_class);
    }
    void *block = bin_take(&heap->bins[size_class]);
    if (HAK_UNLIKELY(block != NULL)) {
        /* The call has not come from the fast path but from a layer or from realloc; or making the
           background thread, which allocates too, has filled this very bin. */
        *is_clean = 0;
        return block;
    }
    if (HAK_UNLIKELY(bin_first(&heap->bins[size_class]) != NULL)) {
        link_broken(bin_first(&heap->bins[size_class]));
    }
    block = tc_refill(heap, size_class);
    *is_clean = heap->refill_is_clean;
    if (block && !*is_clean) {
        unmark_free(block);
    }
    return block;
}

/* A block of the size class. *is_clean: it reads as zero behind its first word. `align`: what the
   class's blocks are aligned to anyway; libc has to be told. */
static HAK_ALWAYS_INLINE void *small_alloc(uint32_t size_class, size_t align, int *is_clean)
{
    *is_clean = 0;
    size_t size = sc_table[size_class].size;
    (void)heap_acquire();
    if (HAK_UNLIKELY(fallback_all())) {
        return finish(fallback_alloc(size, align, 0, 0), size, align);
    }
    background_start_if_wanted();
    fail_begin();
    if (HAK_UNLIKELY(!gate_enter())) {
        return finish(limbo_alloc(size, align, NULL), size, align);
    }
    void *block = ask_heap(size_class, is_clean);
    if (HAK_UNLIKELY(!block)) {
        int saved = errno;
        if (reclaim_for_request()) {
            block = ask_heap(size_class, is_clean);
        }
        errno = saved;
    }
    request_mind_limits();
    gate_leave();
    if (HAK_UNLIKELY(!block)) {
        int saved = errno;
        *is_clean = 0;
        block = fallback_alloc(size, align, 0, 1);
        errno = saved;
    }
    return finish(block, size, align);
}

/* --- malloc and free --- */

void *plain_malloc(size_t size)
{
    int is_clean;
    if (HAK_UNLIKELY(size > SC_SMALL_MAX)) {
        return request_large(size, 1, LARGE_PLAIN);
    }
    return small_alloc(sc_of(size), SC_MIN_ALIGN, &is_clean);
}

void *request_small(uint32_t size_class, size_t align)
{
    int is_clean;
    return small_alloc(size_class, align, &is_clean);
}

void *plain_calloc(size_t bytes)
{
    if (HAK_UNLIKELY(bytes > SC_SMALL_MAX)) {
        return request_large(bytes, 1, LARGE_ZEROED);
    }
    uint32_t size_class = sc_of(bytes);
    int is_clean;
    void *block = small_alloc(size_class, SC_MIN_ALIGN, &is_clean);
    if (block) {
        /* Fresh memory of the system needs no clearing but where the list's link was. */
        memset(block, 0, is_clean ? sizeof(void *) : sc_table[size_class].size);
    }
    return block;
}

#if HAK_VALIDATE
void validate_free(const void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    HAK_CHECK(found.kind == SS_SLAB && found.start == p, "invalid pointer freed (not the start of a block)", p);
    HAK_CHECK(found.is_allocated, "block freed twice", p);
}
#endif

/* A block of a slab: ours but outside the window, another heap's, or one that the fast path found
   wrong. */
static void free_in_slab(void *p, uint32_t tag)
{
    uint32_t size_class = TAG_CLASS(tag);
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    HAK_CHECK(sc_is_block(offset, sc_table[size_class].magic, sc_table[size_class].limit),
              "invalid pointer freed (not the start of a block)", p);
    validate_free(p);
    struct heap *heap = heap_own;
    if (HAK_UNLIKELY((tag ^ heap->owner_tag) <= TAG_LOW_MASK)) {
        struct bin *bin = &heap->bins[size_class];
        HAK_CHECK(bin->head != p &&
                      !(is_marked_free(heap, p) && tc_holds(heap, size_class, p, UINT32_MAX)),
                  "block freed twice", p);
        mark_free(heap, p);
        bin_push(bin, p);
        if (bin->room < 0) {
            tc_overflow(heap, size_class);
        }
        return;
    }
    if (HAK_UNLIKELY(heap == &heap_none)) {
        heap = heap_acquire();
        if (!heap) {
            remote_free_now(p, tag);
            return;
        }
        if (TAG_OWNER(tag) == heap->owner.id) {
            free_in_slab(p, tag); /* adopted the very heap that owns the block */
            return;
        }
    }
    remote_free(heap, p, tag);
}

static void free_large(void *p)
{
    if (HAK_UNLIKELY(!gate_enter())) {
        HAK_CHECK(ace_usable_size(p), "invalid pointer freed (not the start of a block)", p);
        fork_defer_block(p);
        return;
    }
    user_heap_forget(p);
    ace_free(p);
    gate_leave();
    background_poke();
}

/* What lies beyond the window, is large, free or no block at all. */
static HAK_NOINLINE void free_elsewhere(void *p)
{
    struct map_entry entry = map_find(p);
    if (entry.tag == 0 && fallback_free(p)) {
        return;
    }
    HAK_CHECK(entry.tag != 0, "invalid pointer freed (not allocated by hakmem)", p);
    HAK_CHECK(entry.tag != TAG_FREE_UNIT, "block freed twice, or invalid pointer freed (in free memory)", p);
    if (HAK_UNLIKELY(entry.tag == TAG_LIMBO)) {
        limbo_free(p);
    } else if (TAG_OWNER(entry.tag) == TAG_SPECIAL_OWNER) {
        free_large(p);
    } else {
        free_in_slab(p, entry.tag);
    }
}

void plain_free(void *p)
{
    int saved = errno; /* a free may need memory of its own, as for its thread's heap */
    /* First what is frequent: a small block of another heap. */
    size_t unit = map_window_unit(p);
    uint32_t tag = HAK_LIKELY(unit < MAP_LEAF_UNITS) ? atomic_load_relaxed(&map_window->tag[unit]) : 0;
    if (HAK_LIKELY(TAG_IS_SLAB(tag))) {
        free_in_slab(p, tag);
    } else {
        free_elsewhere(p);
    }
    errno = saved;
}

static const char *const what_is_wrong[][2] = {
    [PLAIN_USABLE_SIZE] = {"invalid pointer given to malloc_usable_size",
                           "freed block given to malloc_usable_size"},
    [PLAIN_REALLOC] = {"invalid pointer given to realloc", "freed block given to realloc"},
};

/* 1 if the block is one of those that this thread freed last or, in variants that validate, any
   that it keeps. */
static int has_freed(const struct heap *heap, uint32_t size_class, const void *p,
                     enum plain_asker asker)
{
    uint32_t most = HAK_VALIDATE ? UINT32_MAX : asker == PLAIN_REALLOC ? LOOK_AT_BLOCKS : 0;
    return heap->bins[size_class].head == p || heap->outbox[heap->last_slot].head == p ||
           (most && (link_may_be(p) || is_marked_free(heap, p)) &&
            tc_holds(heap, size_class, p, most));
}

static HAK_NOINLINE size_t size_in_slab(const void *p, uint32_t tag, uint32_t ref,
                                        enum plain_asker asker)
{
    const struct size_class *row = &sc_table[TAG_CLASS(tag)];
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    HAK_CHECK(sc_is_block(offset, row->magic, row->limit), what_is_wrong[asker][0], p);
    HAK_CHECK(!slab_shows_free(pool_slab_of(ref, p), sc_index_of(TAG_CLASS(tag), offset)) &&
                  !has_freed(heap_own, TAG_CLASS(tag), p, asker),
              what_is_wrong[asker][1], p);
    return row->size;
}

size_t plain_size_for(const void *p, enum plain_asker asker)
{
    struct map_entry entry = map_find(p);
    if (HAK_LIKELY(TAG_IS_SLAB(entry.tag))) {
        return size_in_slab(p, entry.tag, entry.ref, asker);
    }
    if (HAK_UNLIKELY(entry.tag == TAG_LIMBO)) {
        return limbo_size(p);
    }
    size_t size = entry.tag == 0 ? fallback_size(p) : ace_usable_size(p);
    HAK_CHECK(size, what_is_wrong[asker][0], p);
    return size;
}

size_t plain_usable_size(const void *p)
{
    return plain_size_for(p, PLAIN_USABLE_SIZE);
}

size_t plain_walked(const void *p, size_t usable)
{
    (void)p;
    return usable;
}
