/* The secure layer's table of entry points. No locks of its own. */
#include "secure/secure.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/link.h"
#include "base/options.h"
#include "base/os.h"
#include "hakmem/fallback.h"
#include "hakmem/heap.h"
#include "hakmem/realloc.h"
#include "hakmem/request.h"
#include "hakmem/walk.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "secure/blame.h"
#include "secure/cache.h"
#include "secure/empty.h"
#include "secure/fault.h"
#include "secure/large.h"
#include "secure/small.h"
#include "secure/stacks.h"
#include "secure/tail.h"
#include "secure/zero.h"
#include "superslab/apart.h"
#include "superslab/pool.h"

#if HAK_SECURE

struct tail_secrets hak_secure_secrets;

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_secure_layer);
}

/* --- what a pointer is --- */

static HAK_ALWAYS_INLINE uint32_t tag_of(const void *p)
{
    return hak_secure_tag_of(p);
}

static int is_large(uint32_t tag)
{
    return tag == TAG_SPAN || tag == TAG_RANGE;
}

/* --- allocating --- */

HAK_NOINLINE void *hak_secure_malloc_other(size_t size)
{
    if (size) {
        return hak_secure_large_alloc(NULL, SC_MIN_ALIGN, size);
    }
    void *p = hak_fallback_all() ? NULL : hak_secure_empty_alloc(SC_MIN_ALIGN);
    return p ? p : hak_secure_small_alloc(hak_secure_class_of(0), 0);
}

static void *secure_malloc(size_t size)
{
    return HAK_LIKELY(size - 1 < SECURE_SMALL_MAX)
               ? hak_secure_small_alloc(hak_secure_class_of(size), size)
               : hak_secure_malloc_other(size);
}

/* Blocks are zero, whoever asks. */
static void *secure_calloc(size_t bytes)
{
    return secure_malloc(bytes);
}

/* SC_N_CLASSES if it is a large one. */
static uint32_t aligned_class(size_t size, size_t alignment)
{
    size_t room = hak_secure_tail_room(size);
    return size <= SECURE_SMALL_MAX
               ? hak_request_class(room < SC_SMALL_MAX ? room : SC_SMALL_MAX, alignment)
               : SC_N_CLASSES;
}

static void *secure_aligned(size_t alignment, size_t size)
{
    void *empty = !size && alignment <= SS_UNIT_BYTES && !hak_fallback_all()
                      ? hak_secure_empty_alloc(alignment)
                      : NULL;
    if (empty) {
        return empty;
    }
    uint32_t size_class = aligned_class(size, alignment);
    if (size_class == SC_N_CLASSES) {
        return hak_secure_large_alloc(NULL, alignment, size ? size : 1);
    }
    void *p;
    do {
        p = hak_secure_small_alloc(size_class, size);
    } while (HAK_UNLIKELY((uintptr_t)p & (alignment - 1)) &&
             !hak_secure_serve_anew(NULL, &p, alignment, size));
    return p;
}

static void *secure_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    (void)is_zeroed;
    size = size ? size : 1; /* a walk of the heap comes to every block */
    uint32_t size_class = aligned_class(size, alignment);
    if (size_class == SC_N_CLASSES) {
        return hak_secure_large_alloc(heap, alignment, size);
    }
    void *p;
    do {
        p = hak_secure_small_alloc_of(heap, size_class, size);
    } while (HAK_UNLIKELY((uintptr_t)p & (alignment - 1)) &&
             !hak_secure_serve_anew(heap, &p, alignment, size));
    return p;
}

/* --- freeing --- */

void hak_secure_free_other(void *p, uint32_t tag)
{
    int saved = errno;
    if (is_large(tag)) {
        hak_secure_large_free(p);
    } else if (hak_secure_is_empty(p)) {
        hak_secure_empty_free(p);
    } else {
        below()->free(p); /* limbo's, libc's, or wrong */
    }
    errno = saved;
}

static void secure_free(void *p)
{
    uint32_t tag = tag_of(p);
    if (HAK_LIKELY(TAG_IS_SLAB(tag))) {
        hak_secure_small_free(p, tag);
    } else {
        hak_secure_free_other(p, tag);
    }
}

/* --- sizes --- */

static size_t size_for(const void *p, enum secure_asker asker)
{
    uint32_t tag = tag_of(p);
    if (HAK_LIKELY(TAG_IS_SLAB(tag))) {
        return hak_secure_small_size(p, tag, asker);
    }
    if (is_large(tag)) {
        struct large_block block = hak_secure_large_find(p);
        static const char *const reasons[SECURE_N_ASKERS][2] = {
            {"invalid pointer freed (not the start of a block)", "block freed twice"},
            {"invalid pointer given to malloc_usable_size",
             "freed block given to malloc_usable_size"},
            {"invalid pointer given to realloc", "freed block given to realloc"},
        };
        if (!block.size || block.start != p || block.state != LARGE_USED) {
            hak_secure_blame(reasons[asker][block.size && block.start == p], p);
        }
        return block.size;
    }
    if (hak_secure_is_empty(p)) {
        hak_secure_empty_check(p, asker);
        return 0;
    }
    return below()->usable_size(p);
}

static size_t secure_usable_size(const void *p)
{
    return size_for(p, SECURE_USABLE_SIZE);
}

/* --- realloc --- */

static size_t size_to_keep(const void *p)
{
    return size_for(p, SECURE_REALLOC);
}

static struct hak_heap *home(struct hak_heap *heap, const void *p, size_t usable)
{
    (void)usable;
    if (hak_secure_is_empty(p)) {
        return heap;
    }
    struct hak_heap *its =
        hak_heap_of(is_large(tag_of(p)) ? hak_secure_large_find(p).container : p);
    HAK_CHECK(!heap || its == heap, "block of another heap given to hak_heap_realloc", p);
    return its;
}

static int resize_here(void *p, size_t size, int must_stay)
{
    uint32_t tag = tag_of(p);
    size_t was;
    return TAG_IS_SLAB(tag) ? hak_secure_small_resize(p, tag, size, must_stay, &was)
                            : is_large(tag) && (size > SECURE_SMALL_MAX || must_stay) &&
                                  hak_secure_large_resize(p, size, must_stay);
}

static void *resize(struct hak_heap *heap, void *p, size_t usable, size_t size)
{
    (void)usable;
    if (resize_here(p, size, 0)) {
        return p;
    }
    return !heap && size > SECURE_SMALL_MAX && is_large(tag_of(p)) ? hak_secure_large_move(p, size)
                                                                   : NULL;
}

static void *take(struct hak_heap *heap, size_t size, int is_growing, int is_zeroed)
{
    if (is_growing && !heap && size > SECURE_SMALL_MAX) {
        return hak_secure_large_alloc_growing(size);
    }
    return heap ? secure_heap_alloc(heap, size, SC_MIN_ALIGN, is_zeroed)
                : hak_secure_layer.table.malloc(size);
}

static void give(void *p, const void *known)
{
    (void)known;
    secure_free(p);
}

static int is_known(const void *p)
{
    uint32_t tag = tag_of(p);
    return TAG_IS_SLAB(tag) || is_large(tag) || tag == TAG_LIMBO || hak_secure_is_empty(p) ||
           (!tag && hak_fallback_holds(p));
}

/* What is frequent: a small block of the thread's own heap becomes another small one. NULL: nothing
   has changed. One that is to become smaller, and cannot move, stays. */
static void *realloc_own(void *p, uint32_t tag, size_t size)
{
    size_t was;
    if (hak_secure_small_resize(p, tag, size, 0, &was)) {
        return p;
    }
    void *q = hak_secure_layer.table.malloc(size);
    if (HAK_LIKELY(q != NULL)) {
        memcpy(q, p, was < size ? was : size);
        hak_secure_layer.table.free(p);
        return q;
    }
    return size <= was && hak_secure_small_resize(p, tag, size, 1, &was) ? p : NULL;
}

static int is_own(uint32_t tag)
{
    return TAG_IS_SLAB(tag) && (tag ^ hak_theap_own->owner_tag) <= TAG_LOW_MASK;
}

static void *secure_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    static const struct realloc_way way = {
        .usable_size = size_to_keep, .home = home, .resize = resize, .take = take, .give = give};
    if (HAK_LIKELY(p && !heap && size - 1 < SECURE_SMALL_MAX)) {
        uint32_t tag = tag_of(p);
        if (HAK_LIKELY(is_own(tag))) {
            return realloc_own(p, tag, size); /* zero where it has grown, as all blocks are */
        }
    } else if (!p && !heap) { /* some programs allocate by it */
        return hak_secure_layer.table.malloc(size);
    }
    if (p && !is_known(p)) {
        return below()->realloc(p, size, heap, is_zeroed); /* which says what is wrong */
    }
    void *q = hak_realloc_by(&way, heap, p, size, is_zeroed);
    if (HAK_UNLIKELY(q && q == p && size_for(q, SECURE_REALLOC) != size)) {
        (void)resize_here(q, size, 1); /* it could not be moved, and is what was asked for now */
    }
    return q;
}

/* --- heaps and walks --- */

static size_t secure_walked(void **p, size_t usable)
{
    uint32_t tag = tag_of(*p);
    if (TAG_IS_SLAB(tag)) {
        return hak_secure_small_walked(*p, tag, 0);
    }
    if (is_large(tag)) {
        struct large_block block = hak_secure_large_find(*p);
        *p = block.start ? block.start : *p;
        return block.state == LARGE_USED ? block.size : 0;
    }
    return tag == TAG_LIMBO ? below()->walked(p, usable) : 0; /* or it is free by now */
}

static int end_block(void *block, size_t size, void *heap)
{
    uint32_t tag = tag_of(block);
    (void)size;
    if (TAG_IS_SLAB(tag)) {
        (void)hak_secure_small_walked(block, tag, 1);
    } else if (is_large(tag)) {
        hak_secure_large_forget((const struct hak_heap *)heap, block);
    }
    return 0;
}

static void secure_heap_destroy(struct hak_heap *heap)
{
    int saved = errno;
    (void)hak_walk_heap(heap, below()->walked, end_block, heap);
    errno = saved;
    below()->heap_destroy(heap);
}

/* --- what callers say --- */

static void secure_name(void *p, enum entry_family family)
{
    uint32_t tag = tag_of(p);
    if (TAG_IS_SLAB(tag)) {
        hak_secure_small_name(p, tag, family);
    } else if (is_large(tag)) {
        hak_secure_large_name(p, family);
    } else if (hak_secure_is_empty(p)) {
        hak_secure_empty_name(p, family);
    }
}

static void claim_large(void *p, const struct entry_claim *claim)
{
    struct large_block block = hak_secure_large_find(p);
    if (!block.size || block.start != p) {
        hak_secure_blame("invalid pointer freed (not the start of a block)", p);
    }
    if (block.state != LARGE_USED) {
        hak_secure_blame("block freed twice", p);
    }
    hak_secure_check_claim(p, block.family, block.size, claim);
    hak_secure_large_name(p, claim->next);
}

static void secure_claim(void *p, const struct entry_claim *claim)
{
    uint32_t tag = tag_of(p);
    if (TAG_IS_SLAB(tag)) {
        hak_secure_small_claim(p, tag, claim);
    } else if (is_large(tag)) {
        claim_large(p, claim);
    } else if (hak_secure_is_empty(p)) {
        hak_secure_empty_claim(p, claim);
    }
}

struct entry_layer hak_secure_layer = {
    .place = ENTRY_PLACE_BLOCKS,
    .below = &hak_entry_plain,
    .table =
        {
            .malloc = secure_malloc,
            .calloc = secure_calloc,
            .aligned = secure_aligned,
            .realloc = secure_realloc,
            .free = secure_free,
            .usable_size = secure_usable_size,
            .heap_alloc = secure_heap_alloc,
            .heap_destroy = secure_heap_destroy,
            .walked = secure_walked,
            .name = secure_name,
            .claim = secure_claim,
        },
};

#if defined(__x86_64__)
void hak_secure_use_set(enum wide_set set)
{
    hak_secure_wide_set = set;
    hak_secure_layer.table.malloc = set == WIDE_AVX512 ? hak_secure_malloc_avx512 : secure_malloc;
    hak_secure_layer.table.calloc = hak_secure_layer.table.malloc;
    hak_secure_layer.table.free = set == WIDE_AVX512 ? hak_secure_free_avx512 : secure_free;
}
#endif

/* --- checks on demand --- */

/* At exit by default: so many blocks. */
#define CHECK_AT_EXIT ((uint64_t)4 << 20)

static int check_block(void *block, size_t size, void *context)
{
    uint32_t tag = tag_of(block);
    (void)size;
    (void)context;
    if (TAG_IS_SLAB(tag)) {
        hak_secure_small_check(block, tag);
    } else if (is_large(tag)) {
        hak_secure_large_check(block);
    }
    return 0;
}

/* The program may have made pages of larger ones unreadable, which it then knows. */
static int check_short_blocks(char *base, uint32_t size_class, const uint64_t *free, void *context)
{
    uint64_t *n = (uint64_t *)context;
    if (hak_sc_table[size_class].size < hak_os_page_size()) {
        *n += hak_secure_small_check_slab(base, size_class, free);
    }
    return *n >= CHECK_AT_EXIT;
}

static void check_all(void)
{
    (void)hak_walk_as_it_is(below()->walked, check_block, NULL);
}

static int verify(void)
{
    hak_secure_cache_for_each(hak_secure_small_check_freed);
    check_all();
    return hak_secure_large_verify();
}

static int reclaim(void)
{
    return hak_secure_large_flush() && hak_secure_large_is_stuck();
}

__attribute__((destructor)) static void check_at_exit(void)
{
    uint64_t n = 0;
    if (hak_gate_is_inside() || hak_theap_holds_outside()) {
        return; /* a signal handler ends the process, and what it has interrupted is half done */
    }
    if (hak_options.exit_check) {
        hak_secure_cache_for_each(hak_secure_small_check_freed);
    }
    if (hak_options.exit_check > 2) {
        check_all();
    } else if (hak_options.exit_check == 2) {
        (void)hak_walk_slabs_as_they_are(check_short_blocks, &n);
    }
}

/* --- the start --- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* A forked child has its parent's secrets, which what lies in memory needs, but draws what comes
   after by itself. */
static void draw_anew(void)
{
    uint64_t chance =
        mix(hak_link_secret() ^ hak_os_ops.precise_ns() ^ ((uint64_t)(uint32_t)getpid() << 32));
    hak_secure_cache_draw_anew(chance);
    hak_secure_large_draw_anew((uint32_t)chance);
    hak_pool_apart_draw_anew((uint32_t)(chance >> 32));
}

static void start(void)
{
    uint64_t seed = hak_link_secret();
    hak_secure_secrets.factor = (mix(seed + 1) | 1) << 16;
    hak_secure_secrets.fill[0] = (0xF5 + mix(seed + 2) % 8) * 0x0101010101010101u;
    for (uint32_t i = 1; i < 8; i++) {
        hak_secure_secrets.fill[i] = hak_secure_secrets.fill[0];
    }
    hak_secure_secrets.plus = (mix(seed) << 16) | (hak_secure_secrets.fill[0] & 0xFF);
    hak_secure_secrets.spread = TAIL_SPREAD;
    hak_secure_secrets.pick = TAIL_PICK;
    hak_secure_zero_start();
#if defined(__x86_64__)
    hak_secure_use_set(hak_secure_wide_set);
#endif
    hak_secure_cache_start();
    if (hak_options.secure_guards) {
        hak_pool_set_guarded();
    }
    if (hak_options.secure_apart) {
        hak_pool_set_apart();
    }
    atomic_store_release(&hak_entry_verify, verify);
    atomic_store_release(&hak_entry_reclaim, reclaim);
    atomic_store_release(&hak_entry_in_child, draw_anew);
    hak_entry_add(&hak_secure_layer);
    if (hak_options.secure_stacks &&
        (hak_secure_stacks_start((uint32_t)hak_options.secure_stacks) ||
         hak_secure_fault_start())) {
        struct hak_line line = {0, {0}};
        hak_line_text(&line, "hakmem: HAKMEM_SECURE_STACKS: no stacks are kept: no memory");
        hak_line_write(&line, 2);
    }
}
ENTRY_AT_START(start);

#endif
