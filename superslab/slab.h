/* A slab: one unit of 64 KiB cut into equal blocks of a size class, aligned to 64 KiB, with its
   metadata apart.

   struct slab is owned by the heap (bank) whose id it carries, from hak_pool_slab_alloc to
   hak_pool_slab_free; every field but the constants is read and written with that owner's lock
   held. `bits`, its words and size_class are written atomically (relaxed), since hak_super_lookup
   reads them without a lock. A block is free (its bit is 1) or allocated (0). Blocks in a thread's
   cache count as allocated. Always: n_free = number of 1 bits; no bit at or above capacity is 1; no
   bit in a word below `hint` is 1; no block is both free and held; blocks from index `fresh` up
   were never handed out (their bits are 1), so that their pages may be untouched, unless they lie
   below n_touched. States, each with a list of its bank's: full (n_free = 0); partial (0 < n_free);
   away (0 < n_free): a thread purges pages of it without the owner's lock. Of a slab that is away
   no block is taken, and it stays what and whose it is; blocks come back into it as ever.
   hak_slab_verify checks. */
#ifndef HAKMEM_SUPERSLAB_SLAB_H
#define HAKMEM_SUPERSLAB_SLAB_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/error.h"
#include "base/link.h"
#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

#define SLAB_INLINE_WORDS  8
#define SLAB_MAX_WORDS     64 /* 4,096 blocks of 16 bytes */
#define SLAB_TOUCHED_BYTES 4096u
HAK_STATIC_ASSERT(SC_SLAB_BYTES / SLAB_TOUCHED_BYTES < 32, "n_touched has five bits");

/* The state, and the list of the bank that the slab is in. */
enum slab_list { SLAB_FULL, SLAB_PARTIAL, SLAB_AWAY };

/* Of a slab of at most so many blocks, those of mid classes, a second word of inline_bits has a bit
   for each block that is held: it is in a depot (heap/depot.h), and is not free. */
#define SLAB_HOLD_MOST 63
#define SLAB_HELD_WORD 1
HAK_STATIC_ASSERT(SC_SLAB_BYTES / (SC_TINY_MAX + SC_MIN_ALIGN) <= SLAB_HOLD_MOST &&
                      SC_SLAB_BYTES / SC_TINY_MAX > SLAB_HOLD_MOST,
                  "mid blocks may be held, and their bits are one word");

struct slab {
    uint64_t inline_bits[SLAB_INLINE_WORDS]; /* the bitmap, where 512 bits are enough (blocks of 128
                                                bytes and more) */
    uint64_t *bits;
    char *base;
    struct slab *next, *prev; /* in its list */
    uint32_t owner;
    uint32_t older, newer; /* among its bank's slabs: their numbers (hak_slab_number); 0: none */
    uint16_t size, capacity, n_free, hint, size_class;
    uint16_t fresh;
    uint8_t list; /* enum slab_list */
    uint8_t is_used : 1;
    uint8_t is_clean : 1;   /* fresh blocks read as zero */
    uint8_t took_clean : 1; /* what hak_slab_take gave last does, except for the links */
    /* So many of SLAB_TOUCHED_BYTES each from `base` on may be resident: blocks were handed out
       there, or the unit was used so far before. What lies behind reads as zero. */
    uint8_t n_touched : 5;
    /* For hak_slab_ask_for_pages: n_free when it last looked, when that changed, and which pages it
       has named since blocks were taken last. */
    uint16_t seen_n_free, seen_tick, asked_pages;
};

HAK_STATIC_ASSERT(sizeof(struct slab) == 128, "two cache lines");

/* Makes a slab with all blocks free. `far_bits` is SLAB_MAX_WORDS words for classes below 128
   bytes. `is_clean`: the unit reads as zero. */
void hak_slab_init(struct slab *slab, char *base, uint32_t owner, uint32_t size_class,
                   uint64_t *far_bits, int is_clean);
/* Takes up to `want` free blocks, lowest addresses first, linked through their first words; the
   last leads to `next`, a block or hak_link_end. Returns the count; *head is the first (NULL if
   none). Fresh blocks are taken only if there are no others, and about `fresh_bytes` of them at a
   time, or as many as lie where blocks of an earlier slab were: what is not needed is not touched.
   slab->took_clean tells whether all of them read as zero behind their first words. */
uint32_t hak_slab_take_before(struct slab *slab, uint32_t want, uint32_t fresh_bytes,
                              const void *next, void **head);
static inline uint32_t hak_slab_take(struct slab *slab, uint32_t want, uint32_t fresh_bytes,
                                     void **head)
{
    return hak_slab_take_before(slab, want, fresh_bytes, hak_link_end, head);
}
/* The same, but no block is touched: `blocks` gets their addresses, lowest first. */
uint32_t hak_slab_pick(struct slab *slab, uint32_t want, uint32_t fresh_bytes, void **blocks);
/* The pages that may be purged, a bit each: those that hold free blocks only, may be resident, and
   have not been named since blocks were taken last. `tick`: none unless n_free is as it was at an
   earlier tick; 0: at once. */
uint32_t hak_slab_ask_for_pages(struct slab *slab, uint16_t tick);
/* Purges those pages of the unit at `base`; returns bytes. Free blocks' contents do not matter, so
   no other part needs to know; but none of the blocks may be taken until it returns. */
size_t hak_slab_purge_pages(char *base, uint32_t pages);
/* 0 if the equations above hold. */
int hak_slab_verify(const struct slab *slab);

/* 1 if blocks of the slab may be held. Any thread, no lock. */
static inline int hak_slab_may_hold(const struct slab *slab)
{
    return atomic_load_relaxed(&slab->size_class) >= SC_N_TINY;
}

/* The bits of blocks that are held. Any thread, no lock. */
static inline uint64_t hak_slab_held(const struct slab *slab)
{
    return hak_slab_may_hold(slab) ? atomic_load_relaxed(&slab->inline_bits[SLAB_HELD_WORD]) : 0;
}

/* Blocks are held, none of which is free or held already; or are not any more. */
static inline void hak_slab_set_held(struct slab *slab, uint64_t held)
{
    atomic_store_relaxed(&slab->inline_bits[SLAB_HELD_WORD], held);
}

/* For hak_slab_put_next: `block` and the one after it in the list, `next`, are a block's size
   apart. Collects it, and what follows in the list at the same distance. */
char *hak_slab_put_row(struct slab *slab, const struct size_class *row, char *block, char *next,
                       uint32_t *count);
/* They are two blocks' sizes apart. */
char *hak_slab_put_every_second(struct slab *slab, const struct size_class *row, char *block,
                                char *next, uint32_t *count);
/* Collects `block`, of a tiny class, and what follows in the list until that leaves the slab, or
   three lie at the distance of a row. */
char *hak_slab_put_run(struct slab *slab, const struct size_class *row, char *block,
                       uint32_t *count);

/* 1 if both lie in one slab; hak_link_end is in none. */
static inline int hak_slab_is_same(const void *p, const void *q)
{
    return ((uintptr_t)p ^ (uintptr_t)q) < SC_SLAB_BYTES;
}

/* Collects a block of this slab, which is the head of a list (linked through first words), and
   perhaps some that follow; adds how many to *count. Returns the next of the list, which may lie
   elsewhere, hak_link_end behind the last. `row`: the slab's class's. Aborts, naming the pointer,
   on one that is no block of this slab or is free already.

   Where two blocks of the list lie side by side, up or down, often more follow: programs free much
   in the order in which they allocated it. Or every second one, where two kinds of a size were
   allocated by turns. Such a row is followed by comparing addresses alone, and its bits are set by
   the word. Three blocks and more of the slab in another order, as those of trees are, have a loop
   of their own: what is the same for all of them is looked up once. */
static HAK_ALWAYS_INLINE char *hak_slab_put_next(struct slab *slab, const struct size_class *row,
                                                 char *block, uint32_t *count)
{
    /* First, for what is no block must not be read as one. */
    uint64_t at = (uint64_t)((uintptr_t)block & (SC_SLAB_BYTES - 1)) * row->magic;
    HAK_CHECK((uint32_t)at < row->limit, "invalid pointer freed (not the start of a block)", block);
    char *next = (char *)hak_link_follow(block);
    if (hak_slab_is_same(block, next)) {
        uint64_t step = (uint64_t)(next - block), size = row->size;
        if (step == size || -step == size) {
            return hak_slab_put_row(slab, row, block, next, count);
        }
        uint64_t then = *(uint64_t *)next - (uint64_t)hak_link_word(next);
        if (then == step && (step == 2 * size || -step == 2 * size)) {
            return hak_slab_put_every_second(slab, row, block, next, count);
        }
        if (hak_slab_is_same(block, (void *)((uintptr_t)next + then)) && then != size &&
            -then != size && row->capacity > SLAB_HOLD_MOST) {
            return hak_slab_put_run(slab, row, block, count);
        }
    }
    uint32_t w = (uint32_t)(at >> 38);
    uint64_t word = slab->bits[w], bit = (uint64_t)1 << (at >> 32) % 64;
    uint64_t held = row->capacity <= SLAB_HOLD_MOST ? slab->inline_bits[SLAB_HELD_WORD] : 0;
    HAK_CHECK(!((word | held) & bit), "block freed twice", block);
    atomic_store_relaxed(&slab->bits[w], word | bit);
    slab->n_free++;
    *count += 1;
    if (HAK_UNLIKELY(w < slab->hint)) {
        slab->hint = (uint16_t)w;
    }
    return next;
}

/* Collects one block, likewise. Its first word is overwritten. */
static inline void hak_slab_put(struct slab *slab, void *block)
{
    const struct size_class *row = &hak_sc_table[slab->size_class];
    uint32_t n = 0, offset = (uint32_t)((uintptr_t)block - (uintptr_t)slab->base);
    /* First, for what is no block must not be written to. */
    HAK_CHECK(hak_sc_is_block(offset, row->magic, row->limit),
              "invalid pointer freed (not the start of a block)", block);
    hak_link_set(block, NULL);
    (void)hak_slab_put_next(slab, row, (char *)block, &n);
}

/* 1 if the slab's bitmap says that the block of that index is free, or it is held. Any thread, no
   lock: a block that is in use stays so during the call. */
static inline int hak_slab_shows_free(const struct slab *slab, uint32_t index)
{
    const uint64_t *bits = atomic_load_relaxed(&slab->bits);
    /* NULL, or shorter than the index: the slab has gone, and perhaps another has come. */
    if (HAK_UNLIKELY(!bits || (bits == slab->inline_bits && index / 64 >= SLAB_INLINE_WORDS))) {
        return 1;
    }
    uint64_t word = atomic_load_relaxed(&bits[index / 64]) | hak_slab_held(slab);
    return (int)(word >> (index % 64) & 1);
}

/* Bytes of its blocks that were never handed out. */
static inline uint32_t hak_slab_untouched_bytes(const struct slab *slab)
{
    return (uint32_t)(slab->capacity - slab->fresh) * slab->size;
}

static inline int hak_slab_is_empty(const struct slab *slab)
{
    return slab->n_free == slab->capacity;
}

HAK_EXTERN_C_END

#endif
