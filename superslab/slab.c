/* Slabs: bitmaps of free blocks. The caller holds the owner's lock. Called by banks and the
   lookups. */
#include "superslab/slab.h"

#include "base/atomic.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"

static uint32_t word_count(uint32_t capacity)
{
    return (capacity + 63) / 64;
}

void hak_slab_init(struct slab *slab, char *base, uint32_t owner, uint32_t size_class,
                   uint64_t *far_bits, int is_clean)
{
    uint32_t capacity = hak_sc_table[size_class].capacity;
    uint32_t n_words = word_count(capacity);
    /* Who reads what follows without a lock, and then the map, finds there that the unit has
       changed hands. */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    atomic_store_relaxed(&slab->bits, n_words <= SLAB_INLINE_WORDS ? slab->inline_bits : far_bits);
    slab->base = base;
    slab->next = slab->prev = NULL;
    atomic_store_relaxed(&slab->owner, owner);
    slab->older = slab->newer = 0;
    slab->size = (uint16_t)hak_sc_table[size_class].size;
    slab->capacity = slab->n_free = (uint16_t)capacity;
    slab->hint = slab->fresh = 0;
    atomic_store_relaxed(&slab->size_class, (uint16_t)size_class);
    slab->list = SLAB_FULL;
    slab->is_used = 1;
    slab->is_clean = is_clean != 0;
    slab->took_clean = 0;
    slab->seen_n_free = slab->asked_pages = 0;
    for (uint32_t i = 0; i < n_words; i++) {
        atomic_store_relaxed(&slab->bits[i], ~(uint64_t)0);
    }
    if (capacity % 64) {
        atomic_store_relaxed(&slab->bits[n_words - 1], ((uint64_t)1 << (capacity % 64)) - 1);
    }
}

/* How many blocks a call that wants `want` gets. */
static uint32_t portion(struct slab *slab, uint32_t want, uint32_t fresh_bytes)
{
    uint32_t n_fresh = (uint32_t)slab->capacity - slab->fresh;
    uint32_t used_before = slab->n_free - n_fresh;
    slab->took_clean = slab->is_clean && !used_before;
    if (used_before) {
        return want < used_before ? want : used_before;
    }
    uint32_t most = fresh_bytes / slab->size;
    most = most > 1 ? most : 1;
    most = most < n_fresh ? most : n_fresh;
    most = want < most ? want : most;
    slab->fresh = (uint16_t)(slab->fresh + most);
    hak_stat_sub(heap_untouched_bytes, most * slab->size);
    return most;
}

uint32_t hak_slab_take(struct slab *slab, uint32_t want, uint32_t fresh_bytes, void **head)
{
    uint32_t left = portion(slab, want, fresh_bytes);
    uint32_t taken = left;
    uint32_t w = slab->hint;
    void *last = NULL;
    while (left) {
        uint64_t word = slab->bits[w];
        char *first = slab->base + (size_t)w * 64 * slab->size;
        while (word && left) {
            char *block = first + (size_t)__builtin_ctzll(word) * slab->size;
            word &= word - 1;
            left--;
            if (last) {
                hak_link_write(last, block);
            } else {
                *head = block;
            }
            last = block;
        }
        atomic_store_relaxed(&slab->bits[w], word);
        w += word == 0;
    }
    if (last) {
        hak_link_write(last, hak_link_end);
    } else {
        *head = NULL;
    }
    slab->seen_n_free = slab->asked_pages = 0;
    slab->n_free = (uint16_t)(slab->n_free - taken);
    slab->hint = (uint16_t)w;
    return taken;
}

/* 1 if blocks first .. last are all free. */
static int are_free(const struct slab *slab, uint32_t first, uint32_t last)
{
    for (uint32_t i = first; i <= last;) {
        uint32_t n = 64 - i % 64 < last - i + 1 ? 64 - i % 64 : last - i + 1;
        if (~slab->bits[i / 64] & (~(uint64_t)0 >> (64 - n)) << (i % 64)) {
            return 0;
        }
        i += n;
    }
    return 1;
}

/* A bit for each page that no allocated block touches. */
static uint32_t free_pages(const struct slab *slab, uint32_t page_size)
{
    uint32_t mask = 0;
    for (uint32_t start = 0; start < SC_SLAB_BYTES; start += page_size) {
        uint32_t first = start / slab->size;
        uint32_t last = (start + page_size - 1) / slab->size;
        last = last < slab->capacity ? last : slab->capacity - 1u;
        mask |= (uint32_t)are_free(slab, first, last) << (start / page_size);
    }
    return mask;
}

/* Whether n_free has not changed since an earlier tick. */
static int is_cold(struct slab *slab, uint16_t tick)
{
    if (slab->seen_n_free != slab->n_free) {
        slab->seen_n_free = slab->n_free;
        slab->seen_tick = tick;
    }
    return slab->seen_tick != tick;
}

/* Pages behind what was ever handed out of a unit that read as zero. */
static uint32_t untouched_pages(const struct slab *slab, uint32_t page_size)
{
    size_t touched = (size_t)slab->fresh * slab->size;
    return slab->is_clean ? ~(uint32_t)0 << (touched + page_size - 1) / page_size : 0;
}

uint32_t hak_slab_ask_for_pages(struct slab *slab, uint16_t tick)
{
    uint32_t page_size = (uint32_t)hak_os_page_size();
    if (slab->n_free == 0 || page_size > SC_SLAB_BYTES || SC_SLAB_BYTES / page_size > 16 ||
        (tick && !is_cold(slab, tick))) {
        return 0;
    }
    uint32_t pages = free_pages(slab, page_size) & ~untouched_pages(slab, page_size) &
                     ~(uint32_t)slab->asked_pages;
    slab->asked_pages = (uint16_t)(slab->asked_pages | pages);
    return pages;
}

size_t hak_slab_purge_pages(char *base, uint32_t pages)
{
    size_t page_size = hak_os_page_size(), bytes = 0;
    if (!atomic_load_relaxed(&hak_link_are_zeroed)) {
        atomic_store_relaxed(&hak_link_are_zeroed, 1u);
    }
    while (pages) {
        uint32_t first = (uint32_t)__builtin_ctz(pages);
        uint32_t n = (uint32_t)__builtin_ctz(~(pages >> first));
        if (hak_os_purge(base + first * page_size, n * page_size) == 0) {
            bytes += n * page_size;
        }
        pages &= ~(((1u << n) - 1) << first);
    }
    return bytes;
}

int hak_slab_verify(const struct slab *slab)
{
    uint32_t n_words = word_count(slab->capacity);
    uint32_t ones = 0;
    for (uint32_t i = 0; i < n_words; i++) {
        ones += (uint32_t)__builtin_popcountll(slab->bits[i]);
        if (i < slab->hint && slab->bits[i]) {
            return VERIFY_SLAB_HINT;
        }
    }
    if (slab->capacity % 64 && slab->bits[n_words - 1] >> (slab->capacity % 64)) {
        return VERIFY_SLAB_CAPACITY;
    }
    for (uint32_t i = slab->fresh; i < slab->capacity; i++) {
        if (!(slab->bits[i / 64] >> (i % 64) & 1)) {
            return VERIFY_SLAB_FRESH;
        }
    }
    if (ones != slab->n_free) {
        return VERIFY_SLAB_COUNT;
    }
    if (slab->size != hak_sc_table[slab->size_class].size || !slab->is_used) {
        return VERIFY_SLAB_GEOMETRY;
    }
    return (slab->list == SLAB_FULL) == (slab->n_free == 0) && slab->list <= SLAB_AWAY
               ? 0
               : VERIFY_SLAB_LISTED;
}
