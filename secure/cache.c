/* Quarantines and hands: the slow half. No locks. Called by small.c, and by who flushes a thread's
   cache. */
#include "secure/cache.h"

#include <errno.h>

#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "secure/tail.h"

#if HAK_SECURE

/* A hand holds blocks of so many bytes, as far as they are more than one. */
#define HAND_BYTES 8192u

static uint64_t reserved_bytes; /* by all caches */

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
                bin->n_hand = bin->n_drawn = bin->n_queued = bin->first = bin->is_ready = 0;
            }
        }
        cache->reserved = 0;
        cache->random ^= (uint64_t)(uintptr_t)cache * hak_secure_secrets.factor;
        cache->random ^= hak_secure_secrets.mask ^ hak_os_ops.clock_ns();
        heap->kept = cache;
    }
    return cache;
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

void *hak_secure_cache_fill(struct secure_cache *cache, uint32_t size_class, void *block)
{
    struct secure_bin *bin = &cache->bins[size_class];
    struct bin *from = &hak_theap_own->bins[size_class];
    uint32_t most = between(1, HAND_BYTES / hak_sc_table[size_class].size, HAND_MOST);
    bin->hand_most = (uint8_t)most;
    while (bin->n_hand < most) {
        void *more = hak_tc_bin_take(from);
        if (!more) {
            break;
        }
        *(uint64_t *)more = 0; /* where the link was */
        bin->hand[bin->n_hand++] = more;
    }
    uint32_t i = hak_secure_draw(cache, bin->n_hand + 1u);
    if (i == bin->n_hand) {
        return block;
    }
    void *other = bin->hand[i];
    bin->hand[i] = block;
    return other;
}

void hak_secure_cache_ready(struct secure_cache *cache, uint32_t size_class)
{
    struct secure_bin *bin = &cache->bins[size_class];
    uint64_t size = hak_sc_table[size_class].size, n = hak_options.secure_quarantine / size;
    bin->is_ready = 1;
    bin->drawn_most = bin->queue_most = 0;
    if (!hak_options.secure_quarantine) {
        return;
    }
    uint32_t drawn = between(1, n / 2, DRAWN_MOST), queue = between(1, n / 2, QUEUE_MOST);
    uint64_t bytes = (drawn + queue) * size;
    if (atomic_add_relaxed(&reserved_bytes, bytes) + bytes > hak_options.secure_quarantine_all) {
        (void)atomic_sub_relaxed(&reserved_bytes, bytes);
        return;
    }
    cache->reserved += bytes;
    bin->drawn_most = (uint8_t)drawn;
    bin->queue_most = (uint8_t)queue;
}

/* Blocks of other heaps' slabs are strays in the bin (theap.h). */
static void put(struct theap *heap, uint32_t size_class, void **blocks, uint32_t n, int is_zero)
{
    for (uint32_t i = 0; i < n; i++) {
        if (is_zero) {
            hak_secure_cache_check_word(blocks[i]);
        }
        hak_tc_bin_push(&heap->bins[size_class], blocks[i]);
    }
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
        put(heap, c, bin->hand, bin->n_hand, 0);
        put(heap, c, bin->drawn, bin->n_drawn, 1);
        put(heap, c, bin->queue, bin->n_queued, 1);
        bin->n_hand = bin->n_drawn = bin->n_queued = bin->first = bin->is_ready = 0;
    }
    (void)atomic_sub_relaxed(&reserved_bytes, cache->reserved);
    cache->reserved = 0;
}

typedef void (*checker)(const void *p, uint32_t size_class, int has_link);

static void for_each(void *const *blocks, uint32_t n, uint32_t size_class, checker check)
{
    for (uint32_t i = 0; i < n; i++) {
        check(blocks[i], size_class, 0);
    }
}

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
        for_each(bin->hand, bin->n_hand, c, check);
        for_each(bin->drawn, bin->n_drawn, c, check);
        for_each(bin->queue, bin->n_queued, c, check);
        for_list(hak_tc_bin_first(&heap->bins[c]), c, check);
        for_list(heap->spares[c].head, c, check);
    }
}

void hak_secure_cache_start(void)
{
    hak_tc_flush_kept = flush;
}

#endif
