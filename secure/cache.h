/* What a thread keeps between freeing a small block and handing it out: the quarantine, and the
   hand.

   struct secure_cache belongs to a heap (theap.h: `kept`), and so to its thread; no lock. Of each
   class:
   - the quarantine: a freed block takes the place of a random one of `drawn`, which goes to the end
     of a queue, whose first goes back to its bin: no block comes back at once, and none in order;
   - the hand: blocks from the bin, of which malloc takes a random one.
   A class's quarantine is made with its first free: as many blocks as HAKMEM_SECURE_QUARANTINE
   allows, if HAKMEM_SECURE_QUARANTINE_ALL still allows it for the process; else there is none, and
   freed blocks go to their bins.
   Always: n_hand <= hand_most, n_drawn <= drawn_most, n_queued <= queue_most; no block is in two
   places; blocks of the quarantine are zero, and their tails say free (cache_test.cc). */
#ifndef HAKMEM_SECURE_CACHE_H
#define HAKMEM_SECURE_CACHE_H

#include "base/internal.h"

#include "heap/tcache.h"

HAK_EXTERN_C_BEGIN

#define HAND_MOST  16u
#define DRAWN_MOST 32u
#define QUEUE_MOST 32u

struct secure_bin {
    uint8_t n_hand, n_drawn, n_queued, first; /* `first`: the queue's, in its ring */
    uint8_t hand_most, drawn_most, queue_most, is_ready;
    void *hand[HAND_MOST];
    void *drawn[DRAWN_MOST];
    void *queue[QUEUE_MOST];
};

struct secure_cache {
    uint64_t random;
    uint64_t reserved; /* bytes of the process's quarantine that its bins may fill */
    struct secure_bin bins[SC_N_CLASSES];
};

/* The calling thread's; NULL if it has no heap, or there is no memory. */
struct secure_cache *hak_secure_cache_attach(void);
static HAK_ALWAYS_INLINE struct secure_cache *hak_secure_cache_now(void)
{
    void *kept = hak_theap_own->kept;
    return HAK_LIKELY(kept != NULL) ? (struct secure_cache *)kept : hak_secure_cache_attach();
}

/* A number below n, n < 2^16; of the thread's own sequence. */
static HAK_ALWAYS_INLINE uint32_t hak_secure_draw(struct secure_cache *cache, uint32_t n)
{
    cache->random = cache->random * 0x5851F42D4C957F2Du + 0x14057B7EF767814Fu;
    return (uint32_t)(((cache->random >> 32) * n) >> 32);
}

/* A block from the hand, NULL if it is empty. */
static HAK_ALWAYS_INLINE void *hak_secure_cache_take(struct secure_cache *cache,
                                                     uint32_t size_class)
{
    struct secure_bin *bin = &cache->bins[size_class];
    uint32_t n = bin->n_hand;
    if (HAK_UNLIKELY(!n)) {
        return NULL;
    }
    uint32_t i = hak_secure_draw(cache, n);
    void *block = bin->hand[i];
    bin->hand[i] = bin->hand[n - 1];
    bin->n_hand = (uint8_t)(n - 1);
    return block;
}

/* Fills the hand from the heap's bin, as far as that has blocks, and gives `block`, which was taken
   for it, or a random one of the hand in exchange. */
void *hak_secure_cache_fill(struct secure_cache *cache, uint32_t size_class, void *block);

/* Decides how large the class's quarantine is. */
void hak_secure_cache_ready(struct secure_cache *cache, uint32_t size_class);

/* The block goes into the quarantine. Returns the one that leaves it, or NULL. */
static HAK_ALWAYS_INLINE void *hak_secure_cache_quarantine(struct secure_cache *cache,
                                                           uint32_t size_class, void *block)
{
    struct secure_bin *bin = &cache->bins[size_class];
    if (HAK_UNLIKELY(!bin->is_ready)) {
        hak_secure_cache_ready(cache, size_class);
    }
    if (HAK_UNLIKELY(bin->n_drawn < bin->drawn_most)) {
        bin->drawn[bin->n_drawn++] = block;
        return NULL;
    }
    if (HAK_UNLIKELY(!bin->drawn_most)) {
        return block;
    }
    uint32_t i = hak_secure_draw(cache, bin->drawn_most);
    void *drawn = bin->drawn[i];
    bin->drawn[i] = block;
    if (HAK_UNLIKELY(bin->n_queued < bin->queue_most)) {
        bin->queue[bin->n_queued++] = drawn; /* it is filled once, from place 0 */
        return NULL;
    }
    if (HAK_UNLIKELY(!bin->queue_most)) {
        return drawn;
    }
    void *first = bin->queue[bin->first];
    bin->queue[bin->first] = drawn;
    bin->first = (uint8_t)(bin->first + 1 < bin->queue_most ? bin->first + 1 : 0);
    return first;
}

/* Ends the process if the first word of a block that leaves the quarantine was written to. */
static HAK_ALWAYS_INLINE void hak_secure_cache_check_word(const void *block)
{
    HAK_CHECK(atomic_load_relaxed((const uint64_t *)block) == 0,
              "freed block written to (its first word)", block);
}
/* Calls `check` for each block of the calling thread's hand, quarantine and bins; `has_link`: its
   first word is a list's. */
void hak_secure_cache_for_each(void (*check)(const void *p, uint32_t size_class, int has_link));
/* Sets what theap.h calls when a heap's cache is flushed. */
void hak_secure_cache_start(void);

HAK_EXTERN_C_END

#endif
