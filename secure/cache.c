/* Quarantines and hands: the slow half. No locks. Called by small.c, and by who flushes a thread's
   cache. */
#include "secure/cache.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/link.h"
#include "base/options.h"
#include "base/os.h"
#include "secure/tail.h"

#if HAK_SECURE

/* A hand holds blocks of so many bytes, but so many at least. */
#define HAND_BYTES 8192u
#define HAND_LEAST 2u

static uint64_t reserved_bytes; /* by all caches */

static void forget(struct secure_bin *bin)
{
    bin->n_hand = bin->is_ready = bin->n_ring = bin->at = 0;
    bin->bytes = bin->magic = bin->limit = 0;
    memset(bin->ring, 0, sizeof bin->ring);
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
    if (!heap->kept_room) {
        heap->kept_room = hak_os_meta_alloc(sizeof(struct secure_cache));
    }
    struct secure_cache *cache = (struct secure_cache *)heap->kept_room;
    if (cache) {
        /* What a heap's last thread left was flushed, or was lost in a fork. */
        for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
            struct secure_bin *bin = &cache->bins[c];
            if (bin->is_ready || bin->n_hand) {
                forget(bin);
            }
        }
        cache->reserved = 0;
        cache->random ^= hak_secure_tail_key((const uint64_t *)cache) ^ hak_os_ops.clock_ns();
        cache->random ^= hak_link_secret();
        cache->random |= 1;
        heap->kept = cache;
    }
    return cache;
}

void hak_secure_cache_draw_anew(uint64_t chance)
{
    struct secure_cache *cache = (struct secure_cache *)hak_theap_own->kept;
    if (cache) {
        cache->random = (cache->random ^ chance) | 1;
    }
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
    const uint32_t vector = 32, steps = 4, word = sizeof(uint64_t),
                   n = class_bytes - (uint32_t)TAIL_BYTES;
    return n < vector ? (struct short_shape){(1u << n / word) - 1, 0}
                      : (struct short_shape){(1u << vector / word) - 1, (n - vector) / steps};
}

static void set_hand(struct secure_bin *bin, uint32_t size_class)
{
    bin->bytes = hak_sc_table[size_class].size;
    bin->shape = shape_of(bin->bytes);
    bin->hand_most = between(HAND_LEAST, HAND_BYTES / bin->bytes, HAND_MOST);
}

void *hak_secure_cache_fill(struct secure_cache *cache, uint32_t size_class, void *block)
{
    struct secure_bin *bin = &cache->bins[size_class];
    struct bin *from = &hak_theap_own->bins[size_class];
    set_hand(bin, size_class);
    while (bin->n_hand < bin->hand_most) {
        void *more = hak_tc_bin_take(from);
        if (!more) {
            break;
        }
        *(uint64_t *)more = 0; /* where the link was */
        __builtin_prefetch(hak_secure_tail_of(more, bin->bytes), 1);
        bin->hand[bin->n_hand] = more;
        __atomic_signal_fence(__ATOMIC_RELEASE); /* see hak_secure_cache_put */
        bin->n_hand++;
    }
    uint32_t i = hak_secure_draw(cache, bin->n_hand + 1u);
    if (i == bin->n_hand) {
        return block;
    }
    void *other = bin->hand[i];
    bin->hand[i] = block;
    return other;
}

/* The largest power of two that is not above n; n > 0. */
static uint32_t power_below(uint32_t n)
{
    return 1u << (31 - __builtin_clz(n));
}

void hak_secure_cache_ready(struct secure_cache *cache, uint32_t size_class)
{
    struct secure_bin *bin = &cache->bins[size_class];
    uint64_t size = hak_sc_table[size_class].size;
    bin->is_ready = 1;
    bin->magic = hak_sc_table[size_class].magic;
    bin->limit = hak_sc_table[size_class].limit;
    set_hand(bin, size_class);
    if (!hak_options.secure_quarantine) {
        return;
    }
    uint32_t n = power_below(between(2, hak_options.secure_quarantine / size, RING_MOST));
    uint64_t bytes = n * size;
    if (atomic_add_relaxed(&reserved_bytes, bytes) + bytes > hak_options.secure_quarantine_all) {
        (void)atomic_sub_relaxed(&reserved_bytes, bytes);
        return;
    }
    cache->reserved += bytes;
    bin->n_ring = n;
    bin->ring_mask = n - 1;
    bin->ring_half = n / 2 - 1;
}

/* Blocks of other heaps' slabs are strays in the bin (theap.h). */
static void put(struct theap *heap, uint32_t size_class, void *block)
{
    hak_secure_cache_check_word(block);
    hak_tc_bin_push(&heap->bins[size_class], block);
}

static void flush(struct theap *heap)
{
    struct secure_cache *cache = (struct secure_cache *)heap->kept;
    heap->kept = NULL;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        struct secure_bin *bin = &cache->bins[c];
        if (!bin->n_hand && !bin->is_ready) {
            continue;
        }
        for (uint32_t i = 0; i < bin->n_hand; i++) {
            put(heap, c, bin->hand[i]);
        }
        for (uint32_t i = 0; i < bin->n_ring; i++) {
            if (bin->ring[i]) {
                put(heap, c, (void *)(bin->ring[i] & ~RING_OWN));
            }
        }
        forget(bin);
    }
    (void)atomic_sub_relaxed(&reserved_bytes, cache->reserved);
    cache->reserved = 0;
}

typedef void (*checker)(const void *p, uint32_t size_class, int has_link);

static void for_list(const void *head, uint32_t size_class, checker check)
{
    int is_broken = 0;
    for (; head && !is_broken; head = hak_link_look(head, &is_broken)) {
        check(head, size_class, 1);
    }
}

void hak_secure_cache_for_each(checker check)
{
    const struct theap *heap = hak_theap_own;
    const struct secure_cache *cache = (const struct secure_cache *)heap->kept;
    for (uint32_t c = 0; cache && c < SC_N_CLASSES; c++) {
        const struct secure_bin *bin = &cache->bins[c];
        for (uint32_t i = 0; i < bin->n_hand; i++) {
            check(bin->hand[i], c, 0);
        }
        for (uint32_t i = 0; i < bin->n_ring; i++) {
            if (bin->ring[i]) {
                check((const void *)(bin->ring[i] & ~RING_OWN), c, 0);
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
