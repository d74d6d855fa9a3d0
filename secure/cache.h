/* What a thread keeps between freeing a small block and handing it out: the quarantine, and the
   hand.

   struct secure_cache belongs to a heap (theap.h: `kept`), and so to its thread; no lock. Of each
   class:
   - the quarantine, a ring of places that are left in turn: a freed block takes the place of a
     random one of the half that came last, which goes to the end. So no block comes back before
     half as many others were freed, and none in order. Whose slab is not this heap's is marked: it
     goes to its own heap when it leaves;
   - the hand: blocks of which malloc takes a random one. It is filled by what leaves the
     quarantine, and from the bin.
   A class's quarantine is made with its first free: as many blocks as HAKMEM_SECURE_QUARANTINE
   allows, a power of two, if HAKMEM_SECURE_QUARANTINE_ALL still allows it for the process; else
   there is none, and freed blocks leave at once.
   Always: n_hand <= HAND_MOST; no block is in two places; blocks of both are zero, and their tails
   say free or are zero too. */
#ifndef HAKMEM_SECURE_CACHE_H
#define HAKMEM_SECURE_CACHE_H

#include "base/internal.h"

#include "heap/tcache.h"
#include "secure/blame.h"

HAK_EXTERN_C_BEGIN

#define HAND_MOST 32u
#define RING_MOST 64u

/* A block of up to SHORT_BYTES before its tail, as five vectors of 32 bytes that begin at its start
   and at equal steps from there, and overlap; of each the words whose bit is set. */
#define SHORT_BYTES 160u
struct short_shape {
    uint32_t words, step;
};

struct secure_bin {
    uint32_t n_hand, hand_most;
    uint32_t bytes;        /* of a block; 0 until the hand or the quarantine is used */
    uint32_t magic, limit; /* hak_sc_is_block's; 0 until the quarantine is made */
    uint32_t is_ready;
    uint32_t n_ring;               /* places of the quarantine, a power of two; 0: none */
    uint32_t at;                   /* the place that is left next */
    struct short_shape shape;      /* of `bytes` */
    uint32_t ring_mask, ring_half; /* n_ring - 1, and half of it less one */
    void *hand[HAND_MOST];
    uintptr_t ring[RING_MOST]; /* blocks; 0 until there is one. RING_OWN: of a slab of this heap */
};
#define RING_OWN ((uintptr_t)1)

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

static HAK_ALWAYS_INLINE struct secure_bin *hak_secure_bin_of(struct secure_cache *cache,
                                                              uint32_t size_class)
{
    struct secure_bin *bin = &cache->bins[size_class];
    __asm__("" : "+r"(bin)); /* or gcc multiplies again for each field */
    return bin;
}

/* The next of the thread's own sequence: 32 bits, made one call ahead, so that no call waits for
   the product. Odd numbers stay odd. */
static HAK_ALWAYS_INLINE uint64_t hak_secure_random(struct secure_cache *cache)
{
    uint64_t random = cache->random;
    cache->random = random * 0xD1342543DE82EF95u;
    return random >> 32;
}

/* A number below n, n < 2^16. */
static HAK_ALWAYS_INLINE uint32_t hak_secure_draw(struct secure_cache *cache, uint32_t n)
{
    return (uint32_t)((hak_secure_random(cache) * n) >> 32);
}

/* A block from the hand, which has `n` of them, at least one. */
static HAK_ALWAYS_INLINE void *hak_secure_cache_take(struct secure_cache *cache,
                                                     struct secure_bin *bin, uint32_t n)
{
    uint32_t i = hak_secure_draw(cache, n);
    void *block = bin->hand[i];
    bin->hand[i] = bin->hand[n - 1];
    bin->n_hand = n - 1;
    return block;
}

/* 1 if the hand has room for the block. */
static HAK_ALWAYS_INLINE int hak_secure_cache_put(struct secure_bin *bin, void *block)
{
    uint32_t n = bin->n_hand;
    if (HAK_UNLIKELY(n >= bin->hand_most)) {
        return 0;
    }
    bin->hand[n] = block;
    /* A signal handler that exits looks at so many. */
    __atomic_signal_fence(__ATOMIC_RELEASE);
    bin->n_hand = n + 1;
    return 1;
}

/* Fills the hand from the heap's bin, as far as that has blocks, and gives `block`, which was taken
   for it, or a random one of the hand in exchange. */
void *hak_secure_cache_fill(struct secure_cache *cache, uint32_t size_class, void *block);

/* Decides how large the class's hand and quarantine are. Before its first free (is_ready). */
void hak_secure_cache_ready(struct secure_cache *cache, uint32_t size_class);

/* The block, with its mark, goes into the quarantine, which has places. Returns the one that leaves
   it, or 0. */
static HAK_ALWAYS_INLINE uintptr_t hak_secure_cache_quarantine(struct secure_cache *cache,
                                                               struct secure_bin *bin,
                                                               uintptr_t block)
{
    uint32_t back = (uint32_t)hak_secure_random(cache) >> 8 & bin->ring_half;
    uint32_t at = bin->at, drawn = (at - back) & bin->ring_mask;
    uintptr_t *ring = bin->ring;
    __asm__("" : "+r"(ring)); /* as above */
    uintptr_t out = ring[at];
    ring[at] = ring[drawn];
    ring[drawn] = block;
    bin->at = (at + 1) & bin->ring_mask;
    return out;
}

/* Ends the process if the first word of a block that leaves the quarantine was written to. */
static HAK_ALWAYS_INLINE void hak_secure_cache_check_word(const void *block)
{
    if (HAK_UNLIKELY(atomic_load_relaxed((const uint64_t *)block) != 0)) {
        hak_secure_blame("freed block written to (its first word)", block);
    }
}
/* Calls `check` for each block of the calling thread's hand, quarantine and bins; `has_link`: its
   first word is a list's. */
void hak_secure_cache_for_each(void (*check)(const void *p, uint32_t size_class, int has_link));
/* The calling thread's sequence goes on by chance. */
void hak_secure_cache_draw_anew(uint64_t chance);
/* Sets what theap.h calls when a heap's cache is flushed. */
void hak_secure_cache_start(void);

HAK_EXTERN_C_END

#endif
