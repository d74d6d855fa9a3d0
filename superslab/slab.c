/* Slabs: bitmaps of free blocks. The caller holds the owner's lock. Called by bank.c and the lookups. */
#include "superslab/slab.h"

#include "base/atomic.h"
#include "base/error.h"

/* About a page: what is touched ahead of need. */
#define FRESH_BYTES 4096u

static uint32_t word_count(uint32_t capacity)
{
    return (capacity + 63) / 64;
}

void slab_init(struct slab *slab, char *base, uint32_t owner, uint32_t size_class, uint64_t *far_bits)
{
    uint32_t capacity = sc_table[size_class].capacity;
    uint32_t n_words = word_count(capacity);
    atomic_store_relaxed(&slab->bits, n_words <= SLAB_INLINE_WORDS ? slab->inline_bits : far_bits);
    slab->base = base;
    slab->next = slab->prev = NULL;
    atomic_store_relaxed(&slab->owner, owner);
    slab->size = sc_table[size_class].size;
    slab->capacity = slab->n_free = (uint16_t)capacity;
    slab->hint = slab->fresh = 0;
    slab->size_class = (uint16_t)size_class;
    slab->in_list = 0;
    slab->is_used = 1;
    for (uint32_t i = 0; i < n_words; i++) {
        atomic_store_relaxed(&slab->bits[i], ~(uint64_t)0);
    }
    if (capacity % 64) {
        atomic_store_relaxed(&slab->bits[n_words - 1], ((uint64_t)1 << (capacity % 64)) - 1);
    }
}

/* How many blocks a call that wants `want` gets. */
static uint32_t portion(struct slab *slab, uint32_t want)
{
    uint32_t n_fresh = (uint32_t)slab->capacity - slab->fresh;
    uint32_t used_before = slab->n_free - n_fresh;
    if (used_before) {
        return want < used_before ? want : used_before;
    }
    uint32_t page = FRESH_BYTES / slab->size;
    uint32_t most = page > 1 ? page : 1;
    most = most < n_fresh ? most : n_fresh;
    most = want < most ? want : most;
    slab->fresh = (uint16_t)(slab->fresh + most);
    return most;
}

uint32_t slab_take(struct slab *slab, uint32_t want, void **head)
{
    uint32_t left = portion(slab, want);
    uint32_t taken = left;
    uint32_t w = slab->hint;
    void **link = head;
    while (left) {
        uint64_t word = slab->bits[w];
        char *first = slab->base + (size_t)w * 64 * slab->size;
        while (word && left) {
            char *block = first + (size_t)__builtin_ctzll(word) * slab->size;
            word &= word - 1;
            left--;
            *link = block;
            link = (void **)(void *)block;
        }
        atomic_store_relaxed(&slab->bits[w], word);
        w += word == 0;
    }
    *link = NULL;
    slab->n_free = (uint16_t)(slab->n_free - taken);
    slab->hint = (uint16_t)w;
    return taken;
}

void slab_put(struct slab *slab, void *block)
{
    uint32_t offset = (uint32_t)((char *)block - slab->base);
    uint32_t index = sc_index_of(slab->size_class, offset);
    HAK_CHECK(index < slab->capacity && index * slab->size == offset,
              "invalid pointer freed (not the start of a block)", block);
    uint32_t w = index / 64;
    uint64_t bit = (uint64_t)1 << (index % 64);
    HAK_CHECK(!(slab->bits[w] & bit), "block freed twice", block);
    atomic_store_relaxed(&slab->bits[w], slab->bits[w] | bit);
    slab->n_free++;
    if (w < slab->hint) {
        slab->hint = (uint16_t)w;
    }
}

int slab_verify(const struct slab *slab)
{
    uint32_t n_words = word_count(slab->capacity);
    uint32_t ones = 0;
    for (uint32_t i = 0; i < n_words; i++) {
        ones += (uint32_t)__builtin_popcountll(slab->bits[i]);
        if (i < slab->hint && slab->bits[i]) {
            return 1;
        }
    }
    if (slab->capacity % 64 && slab->bits[n_words - 1] >> (slab->capacity % 64)) {
        return 2;
    }
    for (uint32_t i = slab->fresh; i < slab->capacity; i++) {
        if (!(slab->bits[i / 64] >> (i % 64) & 1)) {
            return 4;
        }
    }
    if (ones != slab->n_free || slab->size != sc_table[slab->size_class].size || !slab->is_used) {
        return 3;
    }
    return slab->in_list != (slab->n_free != 0);
}
