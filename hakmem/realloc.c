/* realloc and its kin: one function, and the ways of it. No locks, no state. */
#include "hakmem/realloc.h"

#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "hakmem/entry.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/plain.h"
#include "hakmem/request.h"
#include "heap/gate.h"
#include "limit/fail.h"

/* From this size on, zeroing looks before it writes: pages that were never touched stay so. */
#define LOOK_FIRST 65536u
#define LOOK_PIECE 4096u

/* --- the one realloc --- */

/* Moves a block of `usable` bytes. One that cannot be moved stays if it is large enough. */
static HAK_ALWAYS_INLINE void *move(const struct realloc_way *way, struct hak_heap *heap, void *p,
                                    size_t usable, size_t size, int is_zeroed, const void *known)
{
    void *moved = way->take(heap, size, size > usable, is_zeroed);
    if (HAK_UNLIKELY(!moved)) {
        return size <= usable ? p : NULL;
    }
    memcpy(moved, p, size < usable ? size : usable);
    way->give(p, known);
    return moved;
}

static HAK_ALWAYS_INLINE void *resize(const struct realloc_way *way, struct hak_heap *heap, void *p,
                                      size_t usable, size_t size, int is_zeroed, const void *known)
{
    if (way->stays && way->stays(usable, size)) {
        return p;
    }
    heap = way->home ? way->home(heap, p, usable) : heap;
    void *resized = way->resize ? way->resize(heap, p, usable, size) : NULL;
    return resized ? resized : move(way, heap, p, usable, size, is_zeroed, known);
}

static HAK_ALWAYS_INLINE void *realloc_any(const struct realloc_way *way, struct hak_heap *heap,
                                           void *p, size_t size, int is_zeroed)
{
    size_t usable = 0;
    void *q;
    if (HAK_UNLIKELY(!p)) {
        q = way->take(heap, size, 0, is_zeroed);
    } else if (HAK_UNLIKELY(size == 0)) {
        way->give(p, NULL);
        return NULL;
    } else {
        usable = way->usable_size(p);
        q = resize(way, heap, p, usable, size, is_zeroed, NULL);
    }
    if (HAK_UNLIKELY(is_zeroed) && way->clear && q) {
        way->clear(q, size < usable ? size : usable);
    }
    return q;
}

void *hak_realloc_by(const struct realloc_way *way, struct hak_heap *heap, void *p, size_t size,
                     int is_zeroed)
{
    return realloc_any(way, heap, p, size, is_zeroed);
}

struct hak_heap *hak_realloc_home(struct hak_heap *heap, const void *p)
{
    struct hak_heap *home = hak_heap_of(p);
    HAK_CHECK(!heap || home == heap, "block of another heap given to hak_heap_realloc", p);
    return home;
}

/* --- the plain way --- */

static HAK_ALWAYS_INLINE size_t plain_size(const void *p)
{
    return hak_plain_size_for(p, PLAIN_REALLOC);
}

static HAK_ALWAYS_INLINE struct hak_heap *plain_home(struct hak_heap *heap, const void *p,
                                                     size_t usable)
{
    if (HAK_LIKELY(!heap && usable > SC_LAST_BYTES && !hak_address_count(&hak_heap_large) &&
                   hak_map_find(p).tag != TAG_LIMBO)) {
        return NULL;
    }
    return hak_realloc_home(heap, p);
}

/* Whether a block of `usable` bytes may become one of `size` bytes where it is. A range keeps small
   blocks too (ace.h). */
static HAK_ALWAYS_INLINE int is_large(const void *p, size_t usable, size_t size)
{
    if (size < ACE_RANGE_LEAST || size > PTRDIFF_MAX) {
        return 0;
    }
    uint32_t tag = hak_map_find(p).tag;
    return tag == TAG_RANGE || (tag == TAG_SPAN && usable > SC_SMALL_MAX && size > SC_SMALL_MAX);
}

/* Large blocks alone have room around them. What libc serves is not in the map, and limbo's blocks
   are copied, as all are while the gate is closed. */
static HAK_ALWAYS_INLINE void *plain_resize(struct hak_heap *heap, void *p, size_t usable,
                                            size_t size)
{
    if (!is_large(p, usable, size) || !hak_gate_enter()) {
        return NULL;
    }
    void *resized =
        HAK_UNLIKELY(heap != NULL) ? hak_heap_resize(heap, p, size) : hak_ace_resize(p, size);
    if (resized) {
        hak_request_mind_limits();
    }
    hak_gate_leave();
    hak_fail_tell();
    return resized;
}

/* malloc by the thread's own bin. What it calls is plain too: a layer that is added in the middle
   of a realloc is called for the whole of it or not at all. */
static HAK_ALWAYS_INLINE void *own_take(struct hak_heap *heap, size_t size, int is_growing,
                                        int is_zeroed)
{
    (void)heap;
    (void)is_growing;
    (void)is_zeroed;
    void *block = hak_tc_bin_take(hak_fast_bin_to_take_from(hak_theap_own, size));
    return HAK_LIKELY(block != NULL) ? block : hak_plain_malloc(size);
}

static HAK_NOINLINE void *plain_take(struct hak_heap *heap, size_t size, int is_growing,
                                     int is_zeroed)
{
    (void)is_zeroed; /* `clear` does it */
    if (HAK_UNLIKELY(heap != NULL)) {
        return hak_plain_heap_alloc(heap, size, SC_MIN_ALIGN, 0);
    }
    if (size > SC_SMALL_MAX) {
        return hak_request_large(size, 1, is_growing ? LARGE_GROWING : LARGE_PLAIN);
    }
    return own_take(NULL, size, is_growing, is_zeroed);
}

static void plain_give(void *p, const void *known)
{
    (void)known;
    hak_plain_free(p);
}

static int is_zero(const char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static void zero(char *p, size_t n)
{
    if (n < LOOK_FIRST) {
        memset(p, 0, n);
        return;
    }
    while (n) {
        size_t piece = LOOK_PIECE - (uintptr_t)p % LOOK_PIECE;
        piece = piece < n ? piece : n;
        if (!is_zero(p, piece)) {
            memset(p, 0, piece);
        }
        p += piece;
        n -= piece;
    }
}

/* All that lies behind the block's end is zero too, so that the next call needs not know where the
   end was. */
static HAK_NOINLINE void plain_clear(void *p, size_t start)
{
    zero((char *)p + start, hak_plain_usable_size(p) - start);
}

void *hak_plain_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    static const struct realloc_way way = {plain_size, plain_home, hak_realloc_fits, plain_resize,
                                           plain_take, plain_give, plain_clear};
    if (HAK_UNLIKELY(heap || is_zeroed)) {
        return hak_realloc_by(&way, heap, p, size, is_zeroed);
    }
    return realloc_any(&way, NULL, p, size, 0); /* compiled for what is frequent */
}

/* --- the fast way: a small block of the thread's own heap becomes another small one --- */

/* What hak_realloc knows of the block: it lies in a slab of this heap, and is no free one. Taking
   another block may have moved the slab to another heap, whose block is a stray in the bin
   (heap.h). */
struct own_block {
    struct theap *heap;
    size_t bin_offset;
};

static HAK_ALWAYS_INLINE void own_give(void *p, const void *known)
{
    const struct own_block *own = (const struct own_block *)known;
    hak_fast_push_own(own->heap, own->bin_offset, p);
}

static HAK_NOINLINE void *slow_realloc(void *p, size_t size)
{
    return hak_entry_now()->realloc(p, size, NULL, 0);
}

/* As malloc's slow half: a layer that sees all calls sees a realloc. */
static HAK_NOINLINE void *slow_first(size_t size)
{
    return slow_realloc(NULL, size);
}

/* Another heap's block, a large one, or none: programs whose allocator is one function get all
   their blocks so, by malloc's fast path. */
static HAK_NOINLINE void *realloc_other(void *p, size_t size)
{
    return HAK_LIKELY(!p) ? hak_fast_malloc_or(size, slow_first, slow_first)
                          : slow_realloc(p, size);
}

static HAK_ALWAYS_INLINE size_t offset_of(const struct theap *heap, const struct bin *bin)
{
    return (size_t)((const char *)bin - (const char *)heap);
}

/* The bin is empty. Who meters fills it: NULL with *is_layers if the layer must see the call. */
static HAK_NOINLINE void *own_refill(const struct theap *heap, size_t size, int *is_layers)
{
    void *(*pass)(size_t size, int *is_refused) = atomic_load_acquire(&hak_entry_pass);
    int is_refused = 0;
    *is_layers = HAK_UNLIKELY(atomic_load_relaxed(&heap->is_metered)) && pass;
    void *block = HAK_LIKELY(!*is_layers) ? hak_plain_malloc(size) : pass(size, &is_refused);
    *is_layers = *is_layers && !is_refused;
    return block;
}

/* In what follows arguments are where hak_realloc has them: its own first. */

/* Blocks of other sizes, and where a bin is empty or full. What is taken is a block of the same
   process's: own_take, for a heap that is known. */
static HAK_NOINLINE void *move_own_any(void *p, size_t size, struct theap *heap,
                                       const struct bin *bin)
{
    if (HAK_UNLIKELY(size - 1 >= SC_SMALL_MAX)) {
        return slow_realloc(p, size);
    }
    struct own_block own = {heap, offset_of(heap, bin)};
    size_t usable = bin->size;
    void *moved = hak_tc_bin_take(hak_fast_bin_to_take_from(heap, size));
    int is_layers;
    if (HAK_UNLIKELY(!moved) && !(moved = own_refill(heap, size, &is_layers))) {
        return is_layers ? slow_realloc(p, size) : size <= usable ? p : NULL;
    }
    memcpy(moved, p, size < usable ? size : usable);
    own_give(p, &own);
    return moved;
}

/* Four pieces of the n bytes, of which the first begins at 0 and the last ends at n: where n is
   less than four pieces some overlap, so that no branch depends on n. A multiple of SC_MIN_ALIGN is
   `piece`; it is at most n. */
static HAK_ALWAYS_INLINE void copy_four(char *to, const char *from, size_t n, size_t piece)
{
    size_t last = n - piece, second = piece < last ? piece : last;
    size_t third = 2 * piece < last ? 2 * piece : last;
    __builtin_memcpy(to, from, piece);
    __builtin_memcpy(to + second, from + second, piece);
    __builtin_memcpy(to + third, from + third, piece);
    __builtin_memcpy(to + last, from + last, piece);
}

/* The largest that leaves to four pieces of SC_MIN_ALIGN bytes what is less. */
#define COPY_PIECE ((size_t)80)
HAK_STATIC_ASSERT(COPY_PIECE - SC_MIN_ALIGN <= 4 * SC_MIN_ALIGN, "four pieces reach to the end");

/* A block's first n bytes and, up to a multiple of the alignment of blocks, more. A call of memcpy
   would need a stack frame. What costs most is a branch that depends on n, which nothing foretells:
   so there are few. */
static HAK_ALWAYS_INLINE void copy(char *to, const char *from, size_t n)
{
    n = (n + SC_MIN_ALIGN - 1) & ~(size_t)(SC_MIN_ALIGN - 1);
    if (n <= 4 * COPY_PIECE) {
        if (HAK_UNLIKELY(n < COPY_PIECE)) {
            copy_four(to, from, n, SC_MIN_ALIGN);
        } else {
            copy_four(to, from, n, COPY_PIECE);
        }
        return;
    }
    const char *last = from + (n - 4 * COPY_PIECE);
    char *last_to = to + (n - 4 * COPY_PIECE);
    do {
        copy_four(to, from, 4 * COPY_PIECE, COPY_PIECE);
        to += 4 * COPY_PIECE;
        from += 4 * COPY_PIECE;
    } while (from < last);
    copy_four(last_to, last, 4 * COPY_PIECE, COPY_PIECE);
}

/* Both blocks are tiny, and both bins as they mostly are. */
static HAK_ALWAYS_INLINE void *move_own(void *p, size_t size, struct theap *heap, struct bin *bin)
{
    if (HAK_UNLIKELY(size - 1 >= SC_TINY_MAX || bin->room <= 0)) {
        return move_own_any(p, size, heap, bin);
    }
    void *block = hak_tc_bin_take(hak_fast_bin_to_take_from(heap, size));
    if (HAK_UNLIKELY(!block)) {
        return move_own_any(p, size, heap, bin);
    }
    copy(block, p, size < bin->size ? size : bin->size);
    hak_validate_free(p);
    hak_tc_mark_free(heap, p);
    hak_tc_bin_push(bin, p);
    return block;
}

static HAK_ALWAYS_INLINE int stays(const struct bin *bin, size_t size)
{
    return bin->size - size <= bin->slack;
}

/* The block's first word may be a link: the program may not have written to it. */
static HAK_NOINLINE void *realloc_unknown(void *p, size_t size, struct theap *heap, struct bin *bin)
{
    return !hak_plain_is_in_use(heap, bin, p) ? slow_realloc(p, size)
           : stays(bin, size)                 ? p
                                              : move_own_any(p, size, heap, bin);
}

void *hak_realloc(void *p, size_t size)
{
    struct theap *heap = atomic_load_relaxed(&hak_self);
    struct bin *bin = hak_fast_bin_in_own_slab(heap, p);
    if (HAK_UNLIKELY(!bin)) {
        return realloc_other(p, size);
    }
    if (HAK_UNLIKELY(!hak_fast_is_in_use(heap, bin, p))) {
        return realloc_unknown(p, size, heap, bin);
    }
    return HAK_LIKELY(stays(bin, size)) ? p : move_own(p, size, heap, bin);
}

/* --- the public kin --- */

void *hak_rezalloc(void *p, size_t size)
{
    return p ? hak_entry_now()->realloc(p, size, NULL, 1) : hak_calloc(1, size);
}

void *hak_heap_realloc(struct hak_heap *heap, void *p, size_t size)
{
    return hak_entry_now()->realloc(p, size, heap, 0);
}
