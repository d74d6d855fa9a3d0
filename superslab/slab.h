/* A slab: one unit of 64 KiB cut into equal blocks of a size class, aligned to 64 KiB, with its
   metadata apart.

   struct slab is owned by the heap (bank) whose id it carries, from hak_pool_slab_alloc to
   hak_pool_slab_free; every field but the constants is read and written with that owner's lock
   held. `bits`, its words and size_class are written atomically (relaxed), since hak_super_lookup
   reads them without a lock. A block is free (its bit is 1) or allocated (0). Blocks in a thread's
   cache count as allocated. Always: n_free = number of 1 bits; no bit at or above capacity is 1; no
   bit in a word below `hint` is 1; blocks from index `fresh` up were never handed out (their bits
   are 1), so that their pages may be untouched. States, each with a list of its bank's: full
   (n_free = 0); partial (0 < n_free); away (0 < n_free): a thread purges pages of it without the
   owner's lock. Of a slab that is away no block is taken, and it stays what and whose it is; blocks
   come back into it as ever. hak_slab_verify checks. */
#ifndef HAKMEM_SUPERSLAB_SLAB_H
#define HAKMEM_SUPERSLAB_SLAB_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/error.h"
#include "base/link.h"
#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

#define SLAB_INLINE_WORDS 8
#define SLAB_MAX_WORDS    64 /* 4,096 blocks of 16 bytes */

/* The state, and the list of the bank that the slab is in. */
enum slab_list { SLAB_FULL, SLAB_PARTIAL, SLAB_AWAY };

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
    /* For hak_slab_ask_for_pages: n_free when it last looked, when that changed, and which pages it
       has named since blocks were taken last. */
    uint16_t seen_n_free, seen_tick, asked_pages;
};

HAK_STATIC_ASSERT(sizeof(struct slab) == 128, "two cache lines");

/* Makes a slab with all blocks free. `far_bits` is SLAB_MAX_WORDS words for classes below 128
   bytes. `is_clean`: the unit reads as zero. */
void hak_slab_init(struct slab *slab, char *base, uint32_t owner, uint32_t size_class,
                   uint64_t *far_bits, int is_clean);
/* Takes up to `want` free blocks, lowest addresses first, linked through their first words and
   ended by NULL. Returns the count; *head is the first (NULL if none). Fresh blocks are taken only
   if there are no others, and about `fresh_bytes` of them at a time: what is not needed is not
   touched. slab->took_clean tells whether all of them read as zero behind their first words. */
uint32_t hak_slab_take(struct slab *slab, uint32_t want, uint32_t fresh_bytes, void **head);
/* The pages that may be purged, a bit each: those that hold free blocks only, may be resident, and
   have not been named since blocks were taken last. `tick`: none unless n_free is as it was at an
   earlier tick; 0: at once. */
uint32_t hak_slab_ask_for_pages(struct slab *slab, uint16_t tick);
/* Purges those pages of the unit at `base`; returns bytes. Free blocks' contents do not matter, so
   no other part needs to know; but none of the blocks may be taken until it returns. */
size_t hak_slab_purge_pages(char *base, uint32_t pages);
/* 0 if the equations above hold. */
int hak_slab_verify(const struct slab *slab);

/* Collects the blocks of a list (linked through their first words, ended by NULL) up to the first
   that lies elsewhere, which is returned (or NULL); the list's head lies in this slab. Aborts,
   naming the pointer, on one that is no block of this slab or is free already. */
static HAK_ALWAYS_INLINE void *hak_slab_put_run(struct slab *slab, void *head, uint32_t *count)
{
    uint64_t *bits = slab->bits;
    char *base = slab->base;
    uint32_t magic = hak_sc_table[slab->size_class].magic,
             limit = hak_sc_table[slab->size_class].limit;
    uint32_t lowest = slab->hint, n = 0;
    uintptr_t offset = (uintptr_t)head - (uintptr_t)base;
    do {
        /* First, for what is no block must not be read as one. */
        HAK_CHECK(hak_sc_is_block((uint32_t)offset, magic, limit),
                  "invalid pointer freed (not the start of a block)", head);
        void *next = hak_link_next(head);
        uint32_t index = (uint32_t)(((uint64_t)offset * magic) >> 32);
        uint32_t w = index / 64;
        uint64_t word = bits[w], bit = (uint64_t)1 << (index % 64);
        HAK_CHECK(!(word & bit), "block freed twice", head);
        atomic_store_relaxed(&bits[w], word | bit);
        lowest = w < lowest ? w : lowest;
        n++;
        head = next;
        offset = (uintptr_t)head - (uintptr_t)base;
    } while (offset < SC_SLAB_BYTES); /* NULL is in no slab */
    slab->n_free = (uint16_t)(slab->n_free + n);
    slab->hint = (uint16_t)lowest;
    *count += n;
    return head;
}

/* Collects one block, likewise. Its first word is overwritten. */
static inline void hak_slab_put(struct slab *slab, void *block)
{
    uint32_t n = 0, offset = (uint32_t)((uintptr_t)block - (uintptr_t)slab->base);
    /* First, for what is no block must not be written to. */
    HAK_CHECK(hak_sc_is_block(offset, hak_sc_table[slab->size_class].magic,
                              hak_sc_table[slab->size_class].limit),
              "invalid pointer freed (not the start of a block)", block);
    hak_link_set(block, NULL);
    (void)hak_slab_put_run(slab, block, &n);
}

/* 1 if the slab's bitmap says that the block of that index is free. Any thread, no lock: a block
   that is in use stays so during the call. */
static inline int hak_slab_shows_free(const struct slab *slab, uint32_t index)
{
    const uint64_t *bits = atomic_load_relaxed(&slab->bits);
    /* NULL, or shorter than the index: the slab has gone, and perhaps another has come. */
    if (HAK_UNLIKELY(!bits || (bits == slab->inline_bits && index / 64 >= SLAB_INLINE_WORDS))) {
        return 1;
    }
    return (int)(atomic_load_relaxed(&bits[index / 64]) >> (index % 64) & 1);
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
