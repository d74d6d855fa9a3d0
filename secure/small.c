/* Small blocks. No locks. Called by layer.c. */
#include "secure/small.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "hakmem/fast.h"
#include "hakmem/heap.h"
#include "hakmem/request.h"
#include "heap/gate.h"
#include "secure/blame.h"
#include "secure/cache.h"
#include "secure/large.h"
#include "secure/short.h"
#include "secure/tail.h"
#include "secure/zero.h"

#if HAK_SECURE

HAK_STATIC_ASSERT(ENTRY_NEW_ARRAY < 1u << (TAIL_INFO_BITS - TAIL_SIZE_BITS),
                  "the tail has bits for every family");

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_secure_layer);
}

/* --- zero --- */

#define ONES_16                                                                                    \
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF
const unsigned char hak_secure_tail_ends[2 * TAIL_FILLED] = {
    [TAIL_FILLED] = ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16};

#if defined(__x86_64__)
#define ALL_SET (~(uint64_t)0)
const uint64_t hak_secure_but_tail[5] = {ALL_SET, ALL_SET, ALL_SET, ALL_SET, 0};
#endif

/* What is longer is handled by the functions of wide.h, in functions of their own. */
#define hak_secure_wide(name) name##_anywhere
#define WIDE_VECTOR           wide_32
#define WIDE_ANY              WIDE_ANY_BY_WORDS
#include "secure/wide.h"
#if defined(__x86_64__)
WIDE_BEGIN_AVX2
#define hak_secure_wide(name) name##_avx2
#define WIDE_VECTOR           wide_32
#define WIDE_ANY              WIDE_ANY_BY_AVX2
#include "secure/wide.h"
WIDE_END
WIDE_BEGIN_AVX512
#define hak_secure_wide(name) name##_avx512
#define WIDE_VECTOR           wide_64
#define WIDE_ANY              WIDE_ANY_BY_AVX512
#include "secure/wide.h"
WIDE_END
#endif

/* --- handing out --- */

/* 1 if the tail is a free block's, or 0: never handed out since its page was. */
static HAK_ALWAYS_INLINE int is_free_tail(uint64_t word, uint64_t key)
{
    return HAK_LIKELY(word == key) || !word;
}

static HAK_ALWAYS_INLINE void *dress_with(void *p, size_t size, size_t class_bytes,
                                          int (*is_zero)(const void *p, size_t n),
                                          void (*fill)(void *p, size_t size, uint64_t *tail))
{
    uint64_t *tail = hak_secure_tail_of(p, class_bytes), key = hak_secure_tail_key(tail);
    if (HAK_UNLIKELY(!is_free_tail(*tail, key)) ||
        HAK_UNLIKELY(!is_zero(p, class_bytes - TAIL_BYTES))) {
        hak_secure_written_after_free(p);
    }
    /* The tail last: who looks at blocks of other threads, or of those that a forked child does not
       have, finds either a freed block or a whole one. */
    fill(p, size, tail);
    atomic_store_release(tail, key ^ hak_secure_tail_info(ENTRY_MALLOC, size));
    return p;
}

static HAK_NOINLINE void *dress_for_all(void *p, size_t size, size_t class_bytes)
{
    return dress_with(p, size, class_bytes, is_zero_anywhere, fill_anywhere);
}

#if defined(__x86_64__)
WIDE_BEGIN_AVX2
static HAK_NOINLINE void *dress_by_avx2(void *p, size_t size, size_t class_bytes)
{
    return dress_with(p, size, class_bytes, is_zero_avx2, fill_avx2);
}
WIDE_END
WIDE_BEGIN_AVX512
static HAK_NOINLINE void *dress_by_avx512(void *p, size_t size, size_t class_bytes)
{
    return dress_with(p, size, class_bytes, is_zero_avx512, fill_avx512);
}
WIDE_END

static HAK_ALWAYS_INLINE void *dress_longer(void *p, size_t size, size_t class_bytes)
{
    return HAK_LIKELY(hak_secure_wide_set == WIDE_AVX512) ? dress_by_avx512(p, size, class_bytes)
           : hak_secure_wide_set == WIDE_AVX2             ? dress_by_avx2(p, size, class_bytes)
                                                          : dress_for_all(p, size, class_bytes);
}
#else
#define dress_longer dress_for_all
#endif

static HAK_ALWAYS_INLINE void *dress(void *p, size_t size, size_t class_bytes)
{
    if (HAK_LIKELY(class_bytes <= IN_LINE)) {
        return dress_with(p, size, class_bytes, hak_secure_is_zero_short, hak_secure_tail_fill);
    }
    return dress_longer(p, size, class_bytes);
}

/* What the plain functions are asked for, so that they give a block of the class. */
static size_t most_asked(size_t class_bytes)
{
    return class_bytes < SC_SMALL_MAX ? class_bytes : SC_SMALL_MAX;
}

/* Where the hand is empty. Nothing is kept over the call below: it may flush this very cache. */
static HAK_NOINLINE void *slow_alloc(uint32_t size_class, size_t size)
{
    if (HAK_UNLIKELY(hak_secure_cache_resume())) {
        return hak_secure_small_alloc(size_class, size);
    }
    size_t class_bytes = hak_sc_table[size_class].size;
    const int is_try = hak_request_is_try, waits = hak_secure_large_waits();
    hak_request_is_try = is_try || waits; /* the program's request is refused once */
    void *p = below()->malloc(most_asked(class_bytes));
    hak_request_is_try = is_try;
    if (HAK_UNLIKELY(!p) && waits) {
        (void)hak_secure_large_flush();
        p = below()->malloc(most_asked(class_bytes));
    }
    if (HAK_UNLIKELY(!p) || HAK_UNLIKELY(!TAG_IS_SLAB(hak_map_find(p).tag))) {
        return p ? memset(p, 0, most_asked(class_bytes)) : NULL; /* limbo's, or libc's */
    }
    *(uint64_t *)p = 0;
    struct secure_cache *cache = hak_secure_cache_now();
    if (HAK_LIKELY(cache != NULL)) {
        hak_secure_cache_make_resident(hak_secure_bin_of(cache, size_class), p, class_bytes);
        p = hak_secure_cache_fill(cache, size_class, p);
    }
    return dress(p, size, class_bytes);
}

void *hak_secure_small_alloc(uint32_t size_class, size_t size)
{
    struct secure_cache *cache = (struct secure_cache *)hak_theap_own->kept;
    if (HAK_UNLIKELY(!cache)) {
        return slow_alloc(size_class, size);
    }
    struct secure_bin *bin = hak_secure_bin_of(cache, size_class);
    void *p = hak_secure_cache_take(bin, bin->bytes);
    return HAK_LIKELY(p != NULL) ? dress(p, size, bin->bytes) : slow_alloc(size_class, size);
}

#if defined(__x86_64__)
#define SHORT_MOST     (SHORT_BYTES - TAIL_BYTES)
#define SHORT_LAST_BIN ((SHORT_BYTES / SC_MIN_ALIGN - 1) << TAG_BIN_SHIFT)
#define SIZE_CLASS(index, size, ...)                                                               \
    HAK_STATIC_ASSERT((size) > SHORT_BYTES || (size) == ((index) + 1) * SC_MIN_ALIGN,              \
                      "a short class follows from the size without a table");
#include "base/size_classes.def"
#undef SIZE_CLASS

WIDE_BEGIN_AVX512
static HAK_NOINLINE void *malloc_longer_avx512(size_t size)
{
    if (HAK_UNLIKELY(size - 1 >= SECURE_SMALL_MAX)) {
        return hak_secure_malloc_other(size);
    }
    uint32_t size_class = hak_secure_class_of(size);
    struct secure_cache *cache = (struct secure_cache *)hak_theap_own->kept;
    if (HAK_UNLIKELY(!cache)) {
        return slow_alloc(size_class, size);
    }
    struct secure_bin *bin = hak_secure_bin_of(cache, size_class);
    size_t class_bytes = bin->bytes;
    void *p = hak_secure_cache_take(bin, class_bytes);
    if (HAK_UNLIKELY(!p)) {
        return slow_alloc(size_class, size);
    }
    hak_secure_cache_fetch_more(bin);
    return dress_with(p, size, class_bytes, is_zero_avx512, fill_avx512);
}

static HAK_ALWAYS_INLINE size_t short_class_bytes(size_t size)
{
    return (hak_secure_tail_room(size) + SC_MIN_ALIGN - 1) & ~(SC_MIN_ALIGN - 1);
}

static HAK_NOINLINE void *slow_alloc_short(size_t size)
{
    return slow_alloc((uint32_t)(short_class_bytes(size) / SC_MIN_ALIGN) - 1, size);
}

void *hak_secure_malloc_avx512(size_t size)
{
    if (HAK_UNLIKELY(size - 1 >= SHORT_MOST)) {
        return malloc_longer_avx512(size);
    }
    size_t class_bytes = short_class_bytes(size);
    struct secure_cache *cache = (struct secure_cache *)hak_theap_own->kept;
    if (HAK_UNLIKELY(!cache)) {
        return slow_alloc_short(size);
    }
    struct secure_bin *bin =
        hak_secure_bin_at(cache, (class_bytes - SC_MIN_ALIGN) * (sizeof *bin / SC_MIN_ALIGN));
    void *p = hak_secure_cache_take(bin, class_bytes);
    if (HAK_UNLIKELY(!p)) {
        return slow_alloc_short(size);
    }
    uint64_t *tail = hak_secure_tail_of(p, class_bytes), key = hak_secure_tail_key_folded(tail);
    if (HAK_UNLIKELY(!is_free_tail(*tail, key)) ||
        HAK_UNLIKELY(!hak_secure_is_zero_short_avx512(p, &bin->shape))) {
        hak_secure_written_after_free(p);
    }
    size_t n = class_bytes - TAIL_BYTES - size;
    __asm__("" : "+r"(n));             /* or gcc makes sums of the others again */
    if (HAK_UNLIKELY(n > TAIL_PAIR)) { /* of the shortest class */
        *hak_secure_tail_pair((char *)p + size, 0) = hak_secure_tail_filling();
        n = TAIL_PAIR;
    }
    hak_secure_tail_fill_pair(n, tail);
    atomic_store_release(tail, key ^ hak_secure_tail_info(ENTRY_MALLOC, size));
    return p;
}
WIDE_END
#endif

void *hak_secure_small_alloc_of(struct hak_heap *heap, uint32_t size_class, size_t size)
{
    size_t class_bytes = hak_sc_table[size_class].size;
    void *p = below()->heap_alloc(heap, most_asked(class_bytes), SC_MIN_ALIGN, 0);
    if (!p || !TAG_IS_SLAB(hak_map_find(p).tag)) {
        return p;
    }
    *(uint64_t *)p = 0;
    return dress(p, size, class_bytes);
}

/* --- looking --- */

static const char *const reasons[SECURE_N_ASKERS][3] = {
    [SECURE_FREE] = {"invalid pointer freed (not the start of a block)", "block freed twice",
                     "block freed twice, or never handed out"},
    [SECURE_USABLE_SIZE] = {"invalid pointer given to malloc_usable_size",
                            "freed block given to malloc_usable_size",
                            "freed block given to malloc_usable_size"},
    [SECURE_REALLOC] = {"invalid pointer given to realloc", "freed block given to realloc",
                        "freed block given to realloc"},
};

/* The tail of p is not that of a block in use. */
HAK_COLD __attribute__((noreturn)) static void wrong(const void *p, struct tail says,
                                                     enum secure_asker asker)
{
    struct ss_lookup found = hak_super_lookup(p);
    if (asker == SECURE_FREE && hak_secure_small_is_of_pool(hak_map_find(p).tag)) {
        below()->free((void *)(uintptr_t)p); /* which says so */
    }
    if (says.is_right && !says.family) {
        hak_secure_blame(reasons[asker][1], p);
    }
    if (!found.is_allocated || *hak_secure_tail_of(p, found.size) == 0) {
        hak_secure_blame(reasons[asker][2], p);
    }
    hak_secure_overflowed(p);
}

/* The tail of the block in use at p. */
static HAK_ALWAYS_INLINE uint64_t *used_tail(const void *p, uint32_t tag, enum secure_asker asker,
                                             struct tail *says, uint64_t *key)
{
    const struct size_class *row = &hak_sc_table[TAG_CLASS(tag)];
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    if (HAK_UNLIKELY(!hak_sc_is_block(offset, row->magic, row->limit))) {
        hak_secure_blame(reasons[asker][0], p);
    }
    uint64_t *tail = hak_secure_tail_of(p, row->size);
    *key = hak_secure_tail_key(tail);
    *says = hak_secure_tail_decode(atomic_load_relaxed(tail), *key);
    if (HAK_UNLIKELY(!says->is_right || !says->family || says->size > row->size - TAIL_BYTES)) {
        wrong(p, *says, asker);
    }
    return tail;
}

static HAK_ALWAYS_INLINE void check_filling(const void *p, size_t size, const uint64_t *tail)
{
    if (HAK_UNLIKELY(!hak_secure_tail_fill_is_right(p, size, tail))) {
        hak_secure_overflowed(p);
    }
}

size_t hak_secure_small_size(const void *p, uint32_t tag, enum secure_asker asker)
{
    struct tail says;
    uint64_t key;
    const uint64_t *tail = used_tail(p, tag, asker, &says, &key);
    check_filling(p, says.size, tail);
    return says.size;
}

int hak_secure_small_resize(void *p, uint32_t tag, size_t size, int must_stay, size_t *was)
{
    struct tail says;
    uint64_t key, *tail = used_tail(p, tag, SECURE_REALLOC, &says, &key);
    check_filling(p, says.size, tail);
    *was = says.size;
    if (!size || size > SECURE_SMALL_MAX ||
        (!must_stay && hak_secure_class_of(size) != TAG_CLASS(tag))) {
        return 0;
    }
    if (says.family != ENTRY_MALLOC) {
        hak_secure_family_differs(p, (enum entry_family)says.family, ENTRY_MALLOC);
    }
    atomic_store_relaxed(tail, key); /* as in dress() */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    char *from = (char *)p + (size < says.size ? size : says.size);
    size_t n = (size_t)((char *)tail - from);
    memset(from, 0, n < TAIL_FILLED + says.size ? n : TAIL_FILLED + says.size);
    hak_secure_tail_fill_behind(p, size, tail);
    atomic_store_release(tail, key ^ hak_secure_tail_info(ENTRY_MALLOC, size));
    return 1;
}

void hak_secure_small_name(void *p, uint32_t tag, enum entry_family family)
{
    struct tail says;
    uint64_t key, *tail = used_tail(p, tag, SECURE_FREE, &says, &key);
    atomic_store_relaxed(tail, key ^ hak_secure_tail_info((uint32_t)family, says.size));
}

void hak_secure_small_claim(void *p, uint32_t tag, const struct entry_claim *claim)
{
    struct tail says;
    uint64_t key, *tail = used_tail(p, tag, SECURE_FREE, &says, &key);
    if (HAK_UNLIKELY(says.family != (uint32_t)claim->family) || claim->alignment ||
        HAK_UNLIKELY(claim->size != SIZE_MAX && claim->size != says.size)) {
        hak_secure_check_claim(p, (enum entry_family)says.family, says.size, claim);
    }
    atomic_store_relaxed(tail, key ^ hak_secure_tail_info((uint32_t)claim->next, says.size));
}

/* --- freeing --- */

/* The tail of the block that lies before this one in the slab: the bytes just before p. The secret
   is read again, which costs no register from one key to the next. */
static HAK_ALWAYS_INLINE int is_right_before(const void *p)
{
    const uint64_t *tail = (const uint64_t *)p - 1;
    if (HAK_UNLIKELY(!((uintptr_t)p & (SC_SLAB_BYTES - 1)))) {
        return 1;
    }
    uint64_t word = atomic_load_relaxed(tail),
             key = (uint64_t)(uintptr_t)tail * hak_secure_secrets.factor +
                   atomic_load_relaxed(&hak_secure_secrets.plus);
    return HAK_LIKELY(hak_secure_tail_decode(word, key).is_right) || !word;
}

static void to_below(void *p)
{
    below()->free(p);
}

/* A first-class heap's block does not wait: the heap may be destroyed before. */
static int belongs_to_heap(uint32_t tag)
{
    return hak_heap_of_owner(hak_owner_by_id(TAG_OWNER(tag))) != NULL;
}

/* Makes a block free, whose tail is `word`, for whoever looks. Two threads may free it at once: of
   two that do not own it one finds out here. Its own thread writes what it has, without an atomic
   exchange: another one that has freed it at the same time has made it a stray, and finds that it
   is none any more when that is to leave its quarantine. 0: it is not what it was. */
static HAK_ALWAYS_INLINE int mark_free(uint64_t *tail, uint64_t word, uint64_t free, int own)
{
    if (own) {
        atomic_store_relaxed(tail, free);
        return 1;
    }
    return HAK_LIKELY(atomic_cas_strong(tail, &word, free));
}

/* Another heap's block, which has waited. */
static void leave(void *p)
{
    hak_fast_free_to(hak_theap_own, p, to_below);
}

/* The bin's cache; it may have to be attached again, if a handler's fork has interrupted the free.
 */
static HAK_NOINLINE void let_leave(struct secure_bin *bin)
{
    hak_secure_cache_leave(hak_secure_cache_now(), bin, leave);
}

/* A block that is free now, of a class whose quarantine is made. */
static HAK_ALWAYS_INLINE void wait_in(struct secure_bin *bin, void *block, int is_stray)
{
    bin->n_strays = (uint16_t)(bin->n_strays + is_stray);
    if (HAK_UNLIKELY(
            hak_secure_cache_quarantine(bin, (uintptr_t)block | (is_stray ? RING_STRAY : 0)))) {
        let_leave(bin);
    }
}

static HAK_ALWAYS_INLINE int is_own(const struct theap *heap, uint32_t tag)
{
    return (tag ^ heap->owner_tag) <= TAG_LOW_MASK;
}

/* Any block, right or wrong. */
static HAK_NOINLINE void free_any(void *p, uint32_t tag)
{
    struct tail says;
    uint64_t key, *tail = used_tail(p, tag, SECURE_FREE, &says, &key);
    check_filling(p, says.size, tail);
    if (HAK_UNLIKELY(!is_right_before(p))) {
        hak_secure_underflowed(p);
    }
    if (HAK_UNLIKELY(says.family != ENTRY_MALLOC)) {
        hak_secure_family_differs(p, (enum entry_family)says.family, ENTRY_MALLOC);
    }
    /* A free gets no heap here, but below (hak_theap_acquire_to_free). */
    struct secure_cache *cache = hak_theap_own != &hak_theap_none ? hak_secure_cache_now() : NULL;
    int own = is_own(hak_theap_own, tag), waits = cache && (own || !belongs_to_heap(tag));
    uint64_t word = key ^ hak_secure_tail_info(says.family, says.size),
             free = key ^ (waits && !own ? hak_secure_tail_stray() : 0);
    if (HAK_UNLIKELY(!mark_free(tail, word, free, own))) {
        hak_secure_blame("block freed twice", p);
    }
    __atomic_thread_fence(__ATOMIC_RELEASE);
    hak_secure_zero_before(p, says.size, (size_t)((const char *)tail - (const char *)p));
    if (HAK_UNLIKELY(!waits)) {
        to_below(p);
        return;
    }
    struct secure_bin *bin = hak_secure_bin_of(cache, TAG_CLASS(tag));
    if (HAK_UNLIKELY(!bin->n_ring)) {
        hak_secure_cache_ready(cache, TAG_CLASS(tag));
    }
    wait_in(bin, p, !own);
}

/* What is frequent: the block is right. Else nothing has changed yet, and free_any begins again.
   `is_stray`: it is another heap's. */
static HAK_ALWAYS_INLINE void
free_right(void *p, uint32_t tag, struct secure_bin *bin,
           int (*is_right)(const void *p, size_t size, const uint64_t *tail),
           void (*zero)(void *p, size_t size, struct secure_bin *bin), int is_stray)
{
    size_t n = bin->bytes - TAIL_BYTES;
    uint64_t *tail = (uint64_t *)(void *)((char *)p + n), key = hak_secure_tail_key(tail),
             word = atomic_load_relaxed(tail);
    struct tail says = hak_secure_tail_decode(word, key);
    if (HAK_UNLIKELY(!says.is_right || says.family != ENTRY_MALLOC) ||
        HAK_UNLIKELY(!is_right(p, says.size, tail)) || HAK_UNLIKELY(!is_right_before(p)) ||
        HAK_UNLIKELY(
            !mark_free(tail, word, key ^ (is_stray ? hak_secure_tail_stray() : 0), !is_stray))) {
        free_any(p, tag);
        return;
    }
    __atomic_thread_fence(__ATOMIC_RELEASE);
    zero(p, says.size, bin);
    wait_in(bin, p, is_stray);
}

/* Whether a block may begin at p, as far as its fast path asks: no other one's tail is what a tail
   would have to be where that of one at p would lie. A bin whose quarantine is not made yet knows
   of none. */
static HAK_ALWAYS_INLINE int may_begin_at(const void *p, const struct secure_bin *bin)
{
    return HAK_LIKELY((uint16_t)(uintptr_t)p < bin->end);
}

static HAK_ALWAYS_INLINE void zero_as_short(void *p, size_t size, struct secure_bin *bin)
{
    (void)size;
    hak_secure_zero_short(p, bin->bytes - TAIL_BYTES);
}

static HAK_ALWAYS_INLINE void zero_for_all(void *p, size_t size, struct secure_bin *bin)
{
    hak_secure_cache_learn(bin,
                           clear_anywhere(p, hak_secure_touched(size, bin->bytes - TAIL_BYTES)));
}

static HAK_NOINLINE void free_for_all(void *p, uint32_t tag, struct secure_bin *bin)
{
    free_right(p, tag, bin, fill_is_right_anywhere, zero_for_all, 0);
}

#if defined(__x86_64__)
WIDE_BEGIN_AVX2
static HAK_ALWAYS_INLINE void zero_avx2(void *p, size_t size, struct secure_bin *bin)
{
    hak_secure_cache_learn(bin, clear_avx2(p, hak_secure_touched(size, bin->bytes - TAIL_BYTES)));
}

static HAK_NOINLINE void free_by_avx2(void *p, uint32_t tag, struct secure_bin *bin)
{
    free_right(p, tag, bin, fill_is_right_avx2, zero_avx2, 0);
}
WIDE_END

static HAK_ALWAYS_INLINE void free_longer(void *p, uint32_t tag, struct secure_bin *bin)
{
    if (HAK_LIKELY(hak_secure_wide_set == WIDE_AVX2)) {
        free_by_avx2(p, tag, bin);
    } else {
        free_for_all(p, tag, bin);
    }
}
#else
#define free_longer free_for_all
#endif

void hak_secure_small_free(void *p, uint32_t tag)
{
    struct secure_cache *cache = (struct secure_cache *)hak_theap_own->kept;
    struct secure_bin *bin =
        cache && is_own(hak_theap_own, tag) ? hak_secure_bin_of(cache, TAG_CLASS(tag)) : NULL;
    if (HAK_UNLIKELY(!bin) || HAK_UNLIKELY(!may_begin_at(p, bin))) {
        free_any(p, tag);
    } else if (HAK_LIKELY(bin->bytes <= IN_LINE)) {
        free_right(p, tag, bin, hak_secure_tail_fill_is_right, zero_as_short, 0);
    } else {
        free_longer(p, tag, bin);
    }
}

#if defined(__x86_64__)
WIDE_BEGIN_AVX512
static void free_short_filled_more(void *p, uint32_t tag, struct secure_bin *bin);

static HAK_ALWAYS_INLINE int is_right_before_avx512(const void *p)
{
    const uint64_t *tail = (const uint64_t *)p - 1;
    if (HAK_UNLIKELY(!((uintptr_t)p & (SC_SLAB_BYTES - 1)))) {
        return 1;
    }
    uint64_t word = atomic_load_relaxed(tail), x = word ^ hak_secure_tail_key_folded(tail);
    return HAK_LIKELY(hak_secure_tail_info_word_folded(hak_secure_tail_picked(x)) == x) || !word;
}

/* free_right of a longer block. */
static HAK_ALWAYS_INLINE void free_long(void *p, uint32_t tag, struct secure_bin *bin, int is_stray)
{
    size_t n = bin->bytes - TAIL_BYTES;
    uint64_t *tail = (uint64_t *)(void *)((char *)p + n), key = hak_secure_tail_key_folded(tail),
             word = atomic_load_relaxed(tail), x = word ^ key, info = hak_secure_tail_picked(x);
    size_t size = info - (ENTRY_MALLOC << TAIL_SIZE_BITS);
    if (HAK_UNLIKELY(hak_secure_tail_info_word_folded(info) != x) || HAK_UNLIKELY(size > n) ||
        HAK_UNLIKELY(!fill_is_right_avx512(p, size, tail)) ||
        HAK_UNLIKELY(!is_right_before_avx512(p)) ||
        HAK_UNLIKELY(
            !mark_free(tail, word, key ^ (is_stray ? hak_secure_tail_stray() : 0), !is_stray))) {
        free_any(p, tag);
        return;
    }
    __atomic_thread_fence(__ATOMIC_RELEASE);
    hak_secure_cache_learn(bin, clear_avx512(p, hak_secure_touched(size, n)));
    wait_in(bin, p, is_stray);
}

#define LEAST_BYTES (4 * sizeof(uint64_t) - TAIL_BYTES) /* of a vector less its tail */

/* Of the least blocks the tail too, which is marked again. Not a stray's: its owner may free it at
   this moment, and leaves a mark that must stay. */
static HAK_ALWAYS_INLINE void clear_short(void *p, uint64_t *tail, uint64_t free,
                                          const struct secure_bin *bin, int is_stray)
{
    if (is_stray && bin->bytes - TAIL_BYTES == LEAST_BYTES) {
        hak_secure_zero_short(p, LEAST_BYTES);
        return;
    }
    hak_secure_zero_short_avx512(p, &bin->shape);
    if (!is_stray) {
        atomic_store_relaxed(tail, free);
    }
}

/* free_right of a short block. `is_filled_more`: more than a pair is. */
static HAK_ALWAYS_INLINE void free_short(void *p, uint32_t tag, struct secure_bin *bin,
                                         int is_stray, int is_filled_more)
{
    size_t n = bin->bytes - TAIL_BYTES;
    uint64_t *tail = (uint64_t *)(void *)((char *)p + n), key = hak_secure_tail_key_folded(tail),
             word = atomic_load_relaxed(tail), x = word ^ key, info = hak_secure_tail_picked(x),
             free = key ^ (is_stray ? hak_secure_tail_stray() : 0);
    if (HAK_UNLIKELY(hak_secure_tail_info_word_folded(info) != x)) {
        free_any(p, tag);
        return;
    }
    /* So many bytes are filled; too many of a free block, or another family's. */
    n = n + (ENTRY_MALLOC << TAIL_SIZE_BITS) - info;
    __asm__("" : "+r"(n)); /* or gcc makes sums of the others again */
    if (!is_filled_more && HAK_UNLIKELY(n > TAIL_PAIR)) {
        free_short_filled_more(p, tag, bin);
        return;
    }
    if (HAK_UNLIKELY(!(is_filled_more ? hak_secure_fill_is_right_two_avx512(tail, n)
                                      : hak_secure_fill_is_right_pair_avx512(tail, n))) ||
        HAK_UNLIKELY(!is_right_before_avx512(p)) ||
        HAK_UNLIKELY(!mark_free(tail, word, free, !is_stray))) {
        free_any(p, tag);
        return;
    }
    __atomic_thread_fence(__ATOMIC_RELEASE);
    clear_short(p, tail, free, bin, is_stray);
    wait_in(bin, p, is_stray);
}

static HAK_NOINLINE void free_short_filled_more(void *p, uint32_t tag, struct secure_bin *bin)
{
    if (is_own(hak_theap_own, tag)) {
        free_short(p, tag, bin, 0, 1);
    } else {
        free_short(p, tag, bin, 1, 1);
    }
}

/* The bin for a block of another heap's slab; NULL if free_any is to free it. */
static HAK_ALWAYS_INLINE struct secure_bin *bin_for_stray(const void *p, uint32_t tag,
                                                          struct secure_cache *cache)
{
    struct secure_bin *bin = hak_secure_bin_of(cache, TAG_CLASS(tag));
    return may_begin_at(p, bin) && !belongs_to_heap(tag) ? bin : NULL;
}

/* Another heap's block, or what is none. */
static HAK_NOINLINE void free_other_by_avx512(void *p, uint32_t tag)
{
    if (HAK_UNLIKELY(!TAG_IS_SLAB(tag))) {
        hak_secure_free_other(p, tag);
        return;
    }
    struct secure_cache *cache = (struct secure_cache *)hak_theap_own->kept;
    struct secure_bin *bin =
        cache && !is_own(hak_theap_own, tag) ? bin_for_stray(p, tag, cache) : NULL;
    if (HAK_UNLIKELY(!bin)) {
        free_any(p, tag);
    } else if (HAK_LIKELY(bin->bytes <= SHORT_BYTES)) {
        free_short(p, tag, bin, 1, 0);
    } else {
        free_long(p, tag, bin, 1);
    }
}

/* All but the thread's own short blocks. */
static HAK_NOINLINE void free_longer_by_avx512(void *p, uint32_t tag)
{
    const struct theap *heap = hak_theap_own;
    uint32_t bin_offset = tag ^ heap->owner_tag;
    struct secure_cache *cache = (struct secure_cache *)heap->kept;
    /* A signal handler may have made the cache just now: then it is a short one. */
    if (HAK_UNLIKELY(!cache) ||
        HAK_UNLIKELY(bin_offset - SHORT_LAST_BIN - 1 >= TAG_LOW_MASK - SHORT_LAST_BIN)) {
        free_other_by_avx512(p, tag);
        return;
    }
    struct secure_bin *bin = hak_secure_bin_at(cache, bin_offset);
    if (HAK_UNLIKELY(!may_begin_at(p, bin))) {
        free_any(p, tag);
        return;
    }
    free_long(p, tag, bin, 0);
}
WIDE_END

/* Beyond the map's window: a block of any class, or none. */
static HAK_NOINLINE void free_far(void *p)
{
    uint32_t tag = hak_secure_tag_of(p);
    if (TAG_IS_SLAB(tag)) {
        hak_secure_small_free(p, tag);
    } else {
        hak_secure_free_other(p, tag);
    }
}

WIDE_BEGIN_AVX512
void hak_secure_free_avx512(void *p)
{
    size_t unit = hak_map_window_unit(p);
    if (HAK_UNLIKELY(unit >= MAP_LEAF_UNITS)) {
        free_far(p);
        return;
    }
    uint32_t tag = atomic_load_acquire(&hak_map_window->tag[unit]);
    const struct theap *heap = hak_theap_own;
    uint32_t bin_offset = tag ^ heap->owner_tag;
    struct secure_cache *cache = (struct secure_cache *)heap->kept;
    if (HAK_UNLIKELY(bin_offset > SHORT_LAST_BIN) || HAK_UNLIKELY(!cache)) {
        free_longer_by_avx512(p, tag);
        return;
    }
    struct secure_bin *bin = hak_secure_bin_at(cache, bin_offset);
    if (HAK_UNLIKELY(!may_begin_at(p, bin))) {
        free_any(p, tag);
        return;
    }
    free_short(p, tag, bin, 0, 0);
}
WIDE_END
#endif

#endif
