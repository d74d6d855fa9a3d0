/* Quarantines and hands: the slow half. No locks. Called by small.c, and by who flushes a thread's
   cache. */
#include "secure/cache.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/link.h"
#include "base/options.h"
#include "base/os.h"
#include "heap/gate.h"
#include "secure/blame.h"
#include "secure/tail.h"

#if HAK_SECURE

/* A hand holds blocks of so many bytes, but so many at least. */
#define HAND_BYTES 8192u
#define HAND_LEAST 2u

static uint64_t reserved_bytes; /* by all caches */

static void forget(struct secure_cache *cache, uint32_t size_class)
{
    struct secure_list *list = &cache->lists[size_class];
    if (cache->bins[size_class].n_ring) {
        memset(list->ring, 0, sizeof list->ring);
    }
    cache->bins[size_class] =
        (struct secure_bin){.put = list->ring, .top = &list->nothing, .spread = SPREAD_START};
}

/* What the heap's thread has; NULL if nothing. */
static struct secure_cache *cache_of(const struct theap *heap)
{
    return heap->has_kept ? (struct secure_cache *)heap->kept_room : NULL;
}

void hak_secure_cache_draw_anew(uint64_t chance)
{
    struct secure_cache *cache = cache_of(hak_theap_own);
    if (cache) {
        cache->chance ^= chance;
        hak_theap_own->kept = NULL;
    }
}

static void shuffle(struct secure_cache *cache)
{
    cache->random = (cache->random ^ cache->chance) | 1;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        void **hand = cache->lists[c].hand;
        for (uint32_t n = hak_secure_n_hand(&cache->bins[c], &cache->lists[c]); n > 1; n--) {
            uint32_t i = hak_secure_draw(cache, n);
            void *block = hand[i];
            hand[i] = hand[n - 1];
            hand[n - 1] = block;
        }
    }
}

/* What a heap's last thread left was flushed, or was lost in a fork. */
static void begin(struct secure_cache *cache)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        forget(cache, c);
    }
    cache->reserved = 0;
    cache->random ^= hak_secure_tail_key((const uint64_t *)cache) ^ hak_os_ops.clock_ns();
    cache->random ^= hak_link_secret();
    cache->random |= 1;
}

static struct secure_cache *attach(void)
{
    struct theap *heap = hak_theap_acquire();
    if (!heap) {
        return NULL;
    }
    if (heap->kept) {
        return (struct secure_cache *)heap->kept;
    }
    if (!heap->kept_room && hak_gate_enter()) { /* else a fork would find the memory's lock held */
        uintptr_t room = (uintptr_t)hak_os_meta_alloc(sizeof(struct secure_cache) + LEAVE_ALIGN);
        heap->kept_room = room ? (void *)((room + LEAVE_ALIGN - 1) & ~(LEAVE_ALIGN - 1)) : NULL;
        hak_gate_leave();
    }
    struct secure_cache *cache = (struct secure_cache *)heap->kept_room;
    if (cache && cache_of(heap)) {
        shuffle(cache);
    } else if (cache) {
        begin(cache);
    }
    if (cache) {
        heap->has_kept = 1; /* first, for the child of a handler's fork in between */
        __atomic_signal_fence(__ATOMIC_RELEASE);
        heap->kept = cache;
    }
    return cache;
}

int hak_secure_cache_resume(void)
{
    return !hak_theap_own->kept && cache_of(hak_theap_own) && hak_secure_cache_attach();
}

/* A free may end here, and the system fail: errno stays. */
struct secure_cache *hak_secure_cache_attach(void)
{
    int saved = errno;
    struct secure_cache *cache = attach();
    errno = saved;
    return cache;
}

static uint32_t between(uint64_t least, uint64_t n, uint64_t most)
{
    return (uint32_t)(n < least ? least : n > most ? most : n);
}

static struct short_shape shape_of(uint32_t class_bytes)
{
    const uint32_t vector = 32, steps = 4, n = class_bytes - (uint32_t)TAIL_BYTES;
    if (class_bytes > SHORT_BYTES) {
        return (struct short_shape){0, 0};
    }
    return n < vector ? (struct short_shape){0, sizeof(uint64_t)}
                      : (struct short_shape){(uint8_t)((n - vector) / steps), 0};
}

static void set_hand(struct secure_bin *bin, uint32_t size_class)
{
    bin->bytes = (uint16_t)hak_sc_table[size_class].size;
    bin->shape = shape_of(bin->bytes);
    bin->hand_most = (uint16_t)between(HAND_LEAST, HAND_BYTES / bin->bytes, HAND_MOST);
}

static HAK_ALWAYS_INLINE uint32_t room_in_hand(struct secure_cache *cache,
                                               const struct secure_bin *bin)
{
    return bin->hand_most - hak_secure_n_hand(bin, hak_secure_list_of(cache, bin));
}

/* To a place that is drawn: the hand's order stays one of all that are possible, each as likely. */
static HAK_ALWAYS_INLINE void put_in_hand(struct secure_cache *cache, struct secure_bin *bin,
                                          void *block)
{
    struct secure_list *list = hak_secure_list_of(cache, bin);
    uint32_t n = hak_secure_n_hand(bin, list), i = hak_secure_draw(cache, n + 1u);
    void **hand = list->hand;
    hand[n] = hand[i];
    hand[i] = block;
    __atomic_signal_fence(__ATOMIC_RELEASE); /* see hak_secure_cache_take */
    bin->top = &hand[n];
}

/* No thread but those that misuse it has the block. */
static HAK_ALWAYS_INLINE void write_what_is_there(void *word)
{
#if defined(__x86_64__)
    __asm__ volatile("orq $0, %0" : "+m"(*(uint64_t *)word) : : "cc"); /* asks to write at once */
#else
    (void)atomic_add_relaxed((uint64_t *)word, (uint64_t)0);
#endif
}

void hak_secure_cache_make_resident(const struct secure_bin *bin, void *block, size_t bytes)
{
    const uintptr_t page = hak_os_page_size();
    uintptr_t start = (uintptr_t)block, tail = start + bytes - TAIL_BYTES;
    if (HAK_LIKELY((start ^ tail) < page)) {
        __builtin_prefetch((void *)tail, 1);
        return;
    }
    for (uintptr_t at = (start & ~(page - 1)) + page; bin->spread && at < tail; at += page) {
        write_what_is_there((void *)at);
    }
    write_what_is_there((void *)tail);
}

void *hak_secure_cache_fill(struct secure_cache *cache, uint32_t size_class, void *block)
{
    struct secure_bin *bin = hak_secure_bin_of(cache, size_class);
    struct bin *from = &hak_theap_own->bins[size_class];
    void **hand = cache->lists[size_class].hand;
    set_hand(bin, size_class);
    for (uint32_t room = room_in_hand(cache, bin); room; room--) {
        void *more = hak_tc_bin_take(from);
        if (!more) {
            break;
        }
        *(uint64_t *)more = 0; /* where the link was */
        hak_secure_cache_make_resident(bin, more, bin->bytes);
        put_in_hand(cache, bin, more);
    }
    uint32_t n = hak_secure_n_hand(bin, &cache->lists[size_class]),
             i = hak_secure_draw(cache, n + 1u);
    if (i == n) {
        return block;
    }
    void *other = hand[i];
    hand[i] = block;
    return other;
}

/* The largest power of two that is not above n; n > 0. */
static uint32_t power_below(uint32_t n)
{
    return 1u << (31 - __builtin_clz(n));
}

/* How many blocks of the class wait; 0: none may. */
static uint32_t reserve(struct secure_cache *cache, uint64_t size)
{
    if (!hak_options.secure_quarantine) {
        return 0;
    }
    uint32_t n = power_below(between(2, hak_options.secure_quarantine / size, RING_MOST));
    uint64_t bytes = n * size;
    if (atomic_add_relaxed(&reserved_bytes, bytes) + bytes > hak_options.secure_quarantine_all) {
        (void)atomic_sub_relaxed(&reserved_bytes, bytes);
        return 0;
    }
    cache->reserved += bytes;
    return n;
}

void hak_secure_cache_ready(struct secure_cache *cache, uint32_t size_class)
{
    struct secure_bin *bin = hak_secure_bin_of(cache, size_class);
    set_hand(bin, size_class);
    uint32_t n = reserve(cache, bin->bytes), n_leave = n < 4 ? 1 : n / 4;
    bin->n_ring = (uint16_t)(n ? n : 1);
    bin->leave_mask = (uint16_t)((n ? n_leave : 1) * sizeof(uintptr_t) - 1);
    bin->end = (uint16_t)((hak_sc_table[size_class].capacity - 1) * bin->bytes + 1);
}

/* What the hand has no room for. */
static void put_in_bin(struct theap *heap, uint32_t size_class, void *const *blocks, uint32_t n)
{
    struct bin *bin = &heap->bins[size_class];
    for (uint32_t i = 0; i < n; i++) {
        hak_secure_cache_check_word(blocks[i]);
        hak_tc_bin_push(bin, blocks[i]);
        if (HAK_UNLIKELY(bin->room < 0)) {
            hak_tc_overflow(heap, size_class);
        }
    }
}

/* An even number to the hand, which has room for them, all of this heap's slabs: two places by each
   number drawn. */
static void move_pairs(struct secure_cache *cache, struct secure_bin *bin, uintptr_t *from,
                       uint32_t n)
{
    struct secure_list *list = hak_secure_list_of(cache, bin);
    void **hand = list->hand;
    uint32_t n_hand = hak_secure_n_hand(bin, list);
    for (const uintptr_t *end = from + n; from < end; from += 2, n_hand += 2) {
        uint32_t chance = (uint32_t)hak_secure_random(cache);
        void **one = &hand[(chance >> 16) * (n_hand + 1) >> 16];
        hand[n_hand] = *one;
        *one = (void *)from[0];
        one = &hand[(chance & 0xFFFF) * (n_hand + 2) >> 16];
        hand[n_hand + 1] = *one;
        *one = (void *)from[1];
        *(volatile tail_pair *)(void *)from = (tail_pair){0, 0}; /* or gcc calls memset */
    }
    __atomic_signal_fence(__ATOMIC_RELEASE); /* see hak_secure_cache_take */
    bin->top = &hand[n_hand] - 1;
}

/* Where the hand has no room for all that leave, they go to the bin: the hand keeps what was freed
   first. */
static HAK_NOINLINE void move_to_bin(struct secure_cache *cache, struct secure_bin *bin,
                                     uintptr_t *from, uint32_t n)
{
    void *blocks[LEAVE_MOST];
    memcpy(blocks, from, n * sizeof blocks[0]);
    memset(from, 0, n * sizeof from[0]);
    put_in_bin(hak_theap_own, (uint32_t)(bin - cache->bins), blocks, n);
}

void hak_secure_cache_check_stray(void *block, uint32_t size_class)
{
    uint64_t *tail = hak_secure_tail_of(block, hak_sc_table[size_class].size),
             key = hak_secure_tail_key(tail);
    uint64_t word = atomic_load_relaxed(tail);
    if (HAK_UNLIKELY(word != (key ^ hak_secure_tail_stray()))) {
        if (word && !hak_secure_tail_decode(word, key).is_right) {
            hak_secure_written_after_free(block);
        }
        hak_secure_blame("block freed twice", block);
    }
    atomic_store_relaxed(tail, key);
}

/* Any, some of which are strays. */
static HAK_NOINLINE void move_any(struct secure_cache *cache, struct secure_bin *bin,
                                  uintptr_t *from, uint32_t n, void (*stray)(void *block))
{
    void *strays[LEAVE_MOST], *others[LEAVE_MOST];
    uint32_t n_strays = 0, n_others = 0;
    for (uint32_t i = 0; i < n; i++) {
        uintptr_t block = from[i];
        from[i] = 0;
        if (block & RING_STRAY) {
            strays[n_strays++] = (void *)(block - RING_STRAY);
            __builtin_prefetch((void *)(block - RING_STRAY), 1);
            __builtin_prefetch(hak_secure_tail_of((void *)(block - RING_STRAY), bin->bytes), 1);
        } else if (room_in_hand(cache, bin)) {
            put_in_hand(cache, bin, (void *)block);
        } else {
            others[n_others++] = (void *)block;
        }
    }
    uint32_t size_class = (uint32_t)(bin - cache->bins);
    bin->n_strays = (uint16_t)(bin->n_strays - n_strays);
    put_in_bin(hak_theap_own, size_class, others, n_others);
    for (uint32_t i = 0; i < n_strays; i++) {
        hak_secure_cache_check_stray(strays[i], size_class);
        hak_secure_cache_check_word(strays[i]);
        stray(strays[i]);
    }
}

/* Nothing of the cache is kept over what calls the plain functions: they may flush it. */
void hak_secure_cache_leave(struct secure_cache *cache, struct secure_bin *bin,
                            void (*stray)(void *block))
{
    struct secure_list *list = hak_secure_list_of(cache, bin);
    uint32_t n = (bin->leave_mask + 1u) / (uint32_t)sizeof(uintptr_t);
    uintptr_t *from = bin->put < &list->ring[bin->n_ring] ? bin->put : list->ring;
    bin->put = from;
    if (!from[0]) {
        return; /* the first time round */
    }
    if (HAK_UNLIKELY(bin->n_strays)) {
        move_any(cache, bin, from, n, stray);
    } else if (room_in_hand(cache, bin) < n) {
        move_to_bin(cache, bin, from, n);
    } else if (HAK_LIKELY(n > 1)) {
        move_pairs(cache, bin, from, n);
    } else {
        put_in_hand(cache, bin, (void *)from[0]);
        from[0] = 0;
    }
}

/* Blocks of other heaps' slabs are strays in the bin (theap.h). */
static void put(struct theap *heap, uint32_t size_class, void *block)
{
    hak_secure_cache_check_word(block);
    hak_tc_bin_push(&heap->bins[size_class], block);
}

static void flush(struct theap *heap)
{
    struct secure_cache *cache = cache_of(heap);
    heap->kept = NULL;
    heap->has_kept = 0;
    if (!cache) {
        return;
    }
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        struct secure_bin *bin = &cache->bins[c];
        uint32_t n_hand = hak_secure_n_hand(bin, &cache->lists[c]);
        if (!n_hand && !bin->n_ring) {
            continue;
        }
        for (uint32_t i = 0; i < n_hand; i++) {
            put(heap, c, cache->lists[c].hand[i]);
        }
        for (uint32_t i = 0; i < bin->n_ring; i++) {
            void *block = (void *)(cache->lists[c].ring[i] & ~RING_STRAY);
            if (cache->lists[c].ring[i] & RING_STRAY) {
                hak_secure_cache_check_stray(block, c);
            }
            if (block) {
                put(heap, c, block);
            }
        }
        forget(cache, c);
    }
    (void)atomic_sub_relaxed(&reserved_bytes, cache->reserved);
    cache->reserved = 0;
}

typedef void (*checker)(const void *p, uint32_t size_class, enum secure_kept how);

static void for_list(const void *head, uint32_t size_class, checker check)
{
    int is_broken = 0;
    for (; head && !is_broken; head = hak_link_look(head, &is_broken)) {
        check(head, size_class, SECURE_KEPT_LINKED);
    }
}

void hak_secure_cache_for_each(checker check)
{
    const struct theap *heap = hak_theap_own;
    const struct secure_cache *cache = cache_of(heap);
    for (uint32_t c = 0; cache && c < SC_N_CLASSES; c++) {
        const struct secure_bin *bin = &cache->bins[c];
        for (uint32_t i = 0; i < hak_secure_n_hand(bin, &cache->lists[c]); i++) {
            check(cache->lists[c].hand[i], c, SECURE_KEPT);
        }
        for (uint32_t i = 0; i < bin->n_ring; i++) {
            uintptr_t block = cache->lists[c].ring[i];
            if (block) {
                check((const void *)(block & ~RING_STRAY), c,
                      block & RING_STRAY ? SECURE_KEPT_STRAY : SECURE_KEPT);
            }
        }
        for_list(hak_tc_bin_first(&heap->bins[c]), c, check);
        for_list(heap->spares[c].head, c, check);
    }
}

void hak_secure_cache_start(void)
{
    hak_tc_flush_kept = flush;
}

#endif
