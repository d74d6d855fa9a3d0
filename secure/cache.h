/* What a thread keeps between freeing a small block and handing it out: the quarantine, and the
   hand.

   struct secure_cache belongs to a heap (theap.h: `kept`), and so to its thread; no lock. Of each
   class:
   - the quarantine, a ring of places that are taken in turn. After every few frees the blocks that
     have waited longest leave it, as many at once. So no block comes back before most of a ring of
     others were freed. Whose slab is not this heap's is marked: it goes to its own heap when it
     leaves;
   - the hand: blocks in an order that chance has made, of which malloc takes the last. What leaves
     the quarantine, and what is taken from the bin, goes to places that are drawn among all of it;
     what it has no room for goes to the bin.
   So a pair of malloc and free draws nothing and moves nothing; and the block that malloc takes
   next is known, and fetched, one call ahead.
   A class's quarantine is made with its first free: as many blocks as HAKMEM_SECURE_QUARANTINE
   allows, a power of two, if HAKMEM_SECURE_QUARANTINE_ALL still allows it for the process; else
   there is none, and freed blocks leave at once.
   Always: the hand has at most hand_most; no block is in two places; blocks of both are zero, and
   their tails say free, and strays' that they are (tail.h), or are zero too. */
#ifndef HAKMEM_SECURE_CACHE_H
#define HAKMEM_SECURE_CACHE_H

#include "base/internal.h"

#include "heap/tcache.h"
#include "secure/blame.h"

HAK_EXTERN_C_BEGIN

#define RING_MOST  64u
#define LEAVE_MOST (RING_MOST / 4) /* at once */
#define HAND_MOST  48u

/* A block of up to SHORT_BYTES before its tail, as five vectors of 32 bytes that begin at its start
   and at equal steps from there, and overlap. The shortest one has less than that: there all of
   them are the same, and the tail is in it. `but_tail`: bytes of hak_secure_but_tail from which on
   that says so. */
#define SHORT_BYTES 160u
struct short_shape {
    uint8_t step, but_tail;
};

/* What a pair of malloc and free needs. */
struct secure_bin {
    uintptr_t *put; /* the place of the quarantine that is taken next */
    void **top;     /* the hand's last block; `nothing`, which is NULL, while it has none */
    uint16_t bytes; /* of a block; 0 until the hand or the quarantine is used */
    uint16_t end;   /* blocks start before this offset in a slab; 0 until the quarantine is made */
    uint16_t leave_mask; /* so many bytes of the quarantine leave at once, less one: 2^i - 1 */
    struct short_shape shape;
    uint16_t hand_most;
    uint16_t n_ring;   /* places of the quarantine, 1 at least; 0 until it is made */
    uint16_t n_strays; /* marked blocks in it */
    uint8_t spread;    /* whether programs write to blocks beyond a page, lately: 0 if not */
};
HAK_STATIC_ASSERT(sizeof(struct secure_bin) == 1u << TAG_BIN_SHIFT,
                  "the tag's lower bits are the bin's offset");

#define LEAVE_ALIGN (LEAVE_MOST * sizeof(uintptr_t))
struct secure_list {
    /* Blocks, or 0. RING_STRAY: not of this heap's slabs. */
    uintptr_t ring[RING_MOST] __attribute__((aligned(LEAVE_ALIGN)));
    void *nothing; /* NULL */
    void *hand[HAND_MOST];
};
#define RING_STRAY ((uintptr_t)1)

struct secure_cache {
    uint64_t random;
    uint64_t reserved; /* bytes of the process's quarantine that its bins may fill */
    /* Since a fork, until the thread's next call: what the hands get another order by. `kept` is
       NULL then, so that no call that a handler's fork has interrupted finds its hand changed. */
    uint64_t chance;
    struct secure_bin bins[SC_N_CLASSES];
    struct secure_list lists[SC_N_CLASSES]; /* of each bin */
};

/* The calling thread's; NULL if it has no heap, or there is no memory. */
struct secure_cache *hak_secure_cache_attach(void);
/* 1 if the calling thread has a cache again, which a fork had set aside. */
int hak_secure_cache_resume(void);
static HAK_ALWAYS_INLINE struct secure_cache *hak_secure_cache_now(void)
{
    void *kept = hak_theap_own->kept;
    return HAK_LIKELY(kept != NULL) ? (struct secure_cache *)kept : hak_secure_cache_attach();
}

static HAK_ALWAYS_INLINE struct secure_bin *hak_secure_bin_of(struct secure_cache *cache,
                                                              uint32_t size_class)
{
    struct secure_bin *bin = &cache->bins[size_class];
    __asm__("" : "+r"(bin)); /* or gcc computes it again for each field */
    return bin;
}

/* `bin_offset`: size_class << TAG_BIN_SHIFT. */
static HAK_ALWAYS_INLINE struct secure_bin *hak_secure_bin_at(struct secure_cache *cache,
                                                              size_t bin_offset)
{
    struct secure_bin *bin = (struct secure_bin *)(void *)((char *)cache->bins + bin_offset);
    __asm__("" : "+r"(bin)); /* as above */
    return bin;
}

/* The next of the thread's own sequence: 32 bits, made one call ahead, so that none waits for the
   product. Odd numbers stay odd. */
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

static HAK_ALWAYS_INLINE struct secure_list *hak_secure_list_of(struct secure_cache *cache,
                                                                const struct secure_bin *bin)
{
    return &cache->lists[bin - cache->bins];
}

static HAK_ALWAYS_INLINE uint32_t hak_secure_n_hand(const struct secure_bin *bin,
                                                    const struct secure_list *list)
{
    return (uint32_t)((uintptr_t)bin->top - (uintptr_t)&list->nothing) / (uint32_t)sizeof(void *);
}

/* The last block of the hand, of `bytes`; NULL if it has none. The next one is fetched: its first
   word, and its tail. */
static HAK_ALWAYS_INLINE void *hak_secure_cache_take(struct secure_bin *bin, size_t bytes)
{
    void **top = bin->top, *block = top[0];
    if (HAK_UNLIKELY(!block)) {
        return NULL;
    }
    const char *next = (const char *)top[-1];
    __builtin_prefetch(next, 1);
    __builtin_prefetch(next + bytes - sizeof(uint64_t), 1);
    bin->top = top - 1;
    /* A signal handler that exits looks at so many. */
    __atomic_signal_fence(__ATOMIC_RELEASE);
    return block;
}

/* More of the next block, a longer one. */
static HAK_ALWAYS_INLINE void hak_secure_cache_fetch_more(const struct secure_bin *bin)
{
    const char *next = (const char *)bin->top[0];
    __builtin_prefetch(next + 64, 1);
    __builtin_prefetch(next + 128, 1);
    __builtin_prefetch(next + 192, 1);
}

/* A block of that class was freed, the last bytes that were not zero so far behind its start. Only
   larger ones have pages that neither its start nor its end makes resident. */
#define SPREAD_BYTES ((size_t)4096)
#define SPREAD_START 0u
#define SPREAD_MOST  8u
static HAK_ALWAYS_INLINE void hak_secure_cache_learn(struct secure_bin *bin, size_t last)
{
    if (bin->bytes > SPREAD_BYTES + SPREAD_BYTES / 4) {
        uint32_t spread = bin->spread;
        bin->spread =
            (uint8_t)(last >= SPREAD_BYTES - SPREAD_BYTES / 4 ? spread + (spread < SPREAD_MOST)
                                                              : spread - (spread > 0));
    }
}

/* Before a block that the heap's bin gave is looked at: writes what is there to its last page, and,
   if blocks of the class are written to, to those before it. A page that is read first, and then
   written, costs two page faults, and the second one makes other processors flush what they know
   of it. Its first word was written. */
void hak_secure_cache_make_resident(const struct secure_bin *bin, void *block, size_t bytes);

/* Fills the hand from the heap's bin, as far as that has blocks, and gives `block`, which was taken
   for it, or another one in exchange. */
void *hak_secure_cache_fill(struct secure_cache *cache, uint32_t size_class, void *block);

/* Decides how large the class's hand and quarantine are. Before its first free (n_ring). */
void hak_secure_cache_ready(struct secure_cache *cache, uint32_t size_class);

/* Those leave that have waited longest; `stray` is called with those that are not this heap's. */
void hak_secure_cache_leave(struct secure_cache *cache, struct secure_bin *bin,
                            void (*stray)(void *block));

/* The block, with its mark, goes into the quarantine, which is made. Returns 1 if others are to
   leave it now. */
static HAK_ALWAYS_INLINE int hak_secure_cache_quarantine(struct secure_bin *bin, uintptr_t block)
{
    uintptr_t *put = bin->put;
    __atomic_signal_fence(__ATOMIC_RELEASE); /* see hak_secure_cache_take */
    *put++ = block;
    __asm__("" : "+r"(put)); /* or gcc makes the sum twice */
    bin->put = put;
    return !((uintptr_t)put & bin->leave_mask);
}

/* Ends the process if the first word of a block that leaves the quarantine was written to. */
static HAK_ALWAYS_INLINE void hak_secure_cache_check_word(const void *block)
{
    if (HAK_UNLIKELY(atomic_load_relaxed((const uint64_t *)block) != 0)) {
        hak_secure_blame("freed block written to (its first word)", block);
    }
}
/* A block of another heap's, whose first word has been looked at, leaves the quarantine. Ends the
   process if it was freed by its own thread at the very time when this one freed it. */
void hak_secure_cache_check_stray(void *block, uint32_t size_class);
/* Calls `check` for each block of the calling thread's hand, quarantine and bins: in a list, whose
   link is its first word; a stray; or else. */
enum secure_kept { SECURE_KEPT, SECURE_KEPT_LINKED, SECURE_KEPT_STRAY };
void hak_secure_cache_for_each(void (*check)(const void *p, uint32_t size_class,
                                             enum secure_kept how));
/* From the calling thread's next call on its sequence goes on by chance, and its hands have another
   order. */
void hak_secure_cache_draw_anew(uint64_t chance);
/* Sets what theap.h calls when a heap's cache is flushed. */
void hak_secure_cache_start(void);

HAK_EXTERN_C_END

#endif
