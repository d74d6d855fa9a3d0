/* Slabs: bitmaps of free blocks. The caller holds the owner's lock. Called by banks and the
   lookups. */
#include "superslab/slab.h"

#include "base/atomic.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"

/* Where blocks of an earlier slab were, a call takes so many times SLAB_TOUCHED_BYTES: as much as
   stays in the processor's first cache until it is used. */
#define AGAIN_MOST 4u

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
    slab->n_touched = is_clean ? 0 : slab->n_touched;
    for (uint32_t i = 0; i < n_words; i++) {
        atomic_store_relaxed(&slab->bits[i], ~(uint64_t)0);
    }
    if (hak_slab_may_hold(slab)) {
        hak_slab_set_held(slab, 0);
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
    uint32_t touched = slab->n_touched * SLAB_TOUCHED_BYTES,
             from = (uint32_t)slab->fresh * slab->size;
    uint32_t again = touched > from ? touched - from : 0;
    again = again < AGAIN_MOST * SLAB_TOUCHED_BYTES ? again : AGAIN_MOST * SLAB_TOUCHED_BYTES;
    uint32_t bytes = again > fresh_bytes ? again : fresh_bytes;
    uint32_t most = bytes / slab->size;
    most = most > 1 ? most : 1;
    most = most < n_fresh ? most : n_fresh;
    most = want < most ? want : most;
    slab->fresh = (uint16_t)(slab->fresh + most);
    hak_stat_sub(heap_untouched_bytes, most * slab->size);
    uint32_t n = (from + most * slab->size + SLAB_TOUCHED_BYTES - 1) / SLAB_TOUCHED_BYTES;
    slab->n_touched = n > slab->n_touched ? (uint8_t)(n & 31) : slab->n_touched;
    return most;
}

/* Links n blocks side by side, the first of which is at `block`; returns the last. */
static HAK_ALWAYS_INLINE char *link_row(char *block, uint32_t size, uint32_t n)
{
    for (; n > 2; n -= 2, block += 2 * (size_t)size) {
        hak_link_write(block, block + size);
        hak_link_write(block + size, block + 2 * (size_t)size);
    }
    if (n == 2) {
        hak_link_write(block, block + size);
        block += size;
    }
    return block;
}

static HAK_ALWAYS_INLINE void note_taken(struct slab *slab, uint32_t taken, uint32_t hint)
{
    slab->seen_n_free = slab->asked_pages = 0;
    slab->n_free = (uint16_t)(slab->n_free - taken);
    slab->hint = (uint16_t)hint;
}

uint32_t hak_slab_take_before(struct slab *slab, uint32_t want, uint32_t fresh_bytes,
                              const void *next, void **head)
{
    uint32_t left = portion(slab, want, fresh_bytes);
    uint32_t taken = left, size = slab->size;
    uint32_t w = slab->hint;
    char *last = NULL;
    *head = NULL;
    while (left) {
        uint64_t word = slab->bits[w];
        char *first = slab->base + (size_t)w * 64 * size;
        while (word && left) {
            /* Bits in a row are blocks side by side. */
            uint32_t at = (uint32_t)__builtin_ctzll(word);
            uint64_t others = ~(word >> at);
            uint32_t n = others ? (uint32_t)__builtin_ctzll(others) : 64;
            n = n < left ? n : left;
            left -= n;
            uint64_t row = ~(uint64_t)0 >> (64 - n); /* NOLINT: n is not 0 */
            word &= ~(row << at);
            char *block = first + (size_t)at * size;
            if (last) {
                hak_link_write(last, block);
            } else {
                *head = block;
            }
            last = link_row(block, size, n);
        }
        atomic_store_relaxed(&slab->bits[w], word);
        w += word == 0;
    }
    if (last) {
        hak_link_write(last, next);
    }
    note_taken(slab, taken, w);
    return taken;
}

uint32_t hak_slab_pick(struct slab *slab, uint32_t want, uint32_t fresh_bytes, void **blocks)
{
    uint32_t taken = portion(slab, want, fresh_bytes);
    uint32_t w = slab->hint;
    for (uint32_t n = 0; n < taken;) {
        uint64_t word = slab->bits[w];
        char *first = slab->base + (size_t)w * 64 * slab->size;
        for (; word && n < taken; word &= word - 1) {
            blocks[n++] = first + (size_t)__builtin_ctzll(word) * slab->size;
        }
        atomic_store_relaxed(&slab->bits[w], word);
        w += word == 0;
    }
    note_taken(slab, taken, w);
    return taken;
}

/* The bits of blocks in one word, none of which is free. */
static HAK_ALWAYS_INLINE void put_bits(struct slab *slab, uint32_t w, uint64_t bits, uint64_t held)
{
    uint64_t word = slab->bits[w], twice = (word | held) & bits;
    HAK_CHECK(!twice, "block freed twice",
              slab->base + ((size_t)w * 64 + (size_t)__builtin_ctzll(twice)) * slab->size);
    atomic_store_relaxed(&slab->bits[w], word | bits);
}

/* Those of n blocks from `at` on. */
static HAK_ALWAYS_INLINE void put_word(struct slab *slab, uint32_t w, uint32_t at, uint32_t n,
                                       uint64_t held)
{
    put_bits(slab, w, (((uint64_t)2 << (n - 1)) - 1) << at, held);
}

static HAK_NOINLINE void put_words(struct slab *slab, uint32_t first, uint32_t n)
{
    while (n) {
        uint32_t at = first % 64, some = n < 64 - at ? n : 64 - at;
        put_word(slab, first / 64, at, some, 0); /* mid blocks have one word */
        first += some;
        n -= some;
    }
}

/* Follows a row, the second block of which is at `at`, for `most` blocks or fewer; *n grows by how
   many there are. Returns what the last one leads to. Within the row a link is not decoded, but
   compared with the one that is expected. */
static HAK_ALWAYS_INLINE char *follow_row(char *at, int64_t step, uint32_t most, uint32_t *n)
{
    int64_t expected = hak_link_word(at + step);
    uint32_t left = most;
    while (left && *(int64_t *)at == expected) {
        at += step;
        expected += step;
        left--;
    }
    *n += most - left + (left != 0);
    return left ? (char *)hak_link_follow(at) : at;
}

static HAK_ALWAYS_INLINE uint64_t held_of(const struct slab *slab, const struct size_class *row)
{
    return row->capacity <= SLAB_HOLD_MOST ? slab->inline_bits[SLAB_HELD_WORD] : 0;
}

static HAK_ALWAYS_INLINE uint32_t index_of(const struct size_class *row, const char *block)
{
    return (uint32_t)(((uintptr_t)block & (SC_SLAB_BYTES - 1)) * (uint64_t)row->magic >> 32);
}

static HAK_ALWAYS_INLINE void note_put(struct slab *slab, uint32_t first, uint32_t n,
                                       uint32_t *count)
{
    *count += n;
    slab->n_free = (uint16_t)(slab->n_free + n);
    if (HAK_UNLIKELY(first / 64 < slab->hint)) {
        slab->hint = (uint16_t)(first / 64);
    }
}

char *hak_slab_put_row(struct slab *slab, const struct size_class *row, char *block, char *next,
                       uint32_t *count)
{
    int64_t step = next - block;
    uint32_t n = 1, first = index_of(row, block);
    /* The slab has so many blocks beyond: what is behind its edge is another's. */
    next = follow_row(next, step, step > 0 ? row->capacity - 1 - first : first, &n);
    first -= step > 0 ? 0 : n - 1;
    note_put(slab, first, n, count);
    if (HAK_LIKELY(first % 64 + n <= 64)) { /* most rows are short */
        put_word(slab, first / 64, first % 64, n, held_of(slab, row));
    } else {
        put_words(slab, first, n);
    }
    return next;
}

#define EVERY_SECOND UINT64_C(0x5555555555555555)

/* Of one word of the bitmap: what is behind its edge comes next. */
char *hak_slab_put_every_second(struct slab *slab, const struct size_class *row, char *block,
                                char *next, uint32_t *count)
{
    int64_t step = next - block;
    uint32_t n = 1, first = index_of(row, block), at = first % 64;
    uint32_t beyond = row->capacity - 1u - first;
    beyond = beyond < 63 - at ? beyond : 63 - at;
    next = follow_row(next, step, (step > 0 ? beyond : at) / 2, &n);
    first -= step > 0 ? 0 : 2 * (n - 1);
    note_put(slab, first, n, count);
    put_bits(slab, first / 64, (EVERY_SECOND & (((uint64_t)2 << 2 * (n - 1)) - 1)) << first % 64,
             held_of(slab, row));
    return next;
}

char *hak_slab_put_run(struct slab *slab, const struct size_class *row, char *block,
                       uint32_t *count)
{
    char *const base = slab->base;
    uint64_t *const bits = slab->bits;
    const uint64_t from = (uint64_t)hak_link_word(base), reach = 2 * (uint64_t)row->size;
    uint64_t at = (uint64_t)(block - base), index = at * row->magic, expected = UINT64_MAX;
    uint32_t n = 0, first = UINT16_MAX;
    for (;;) {
        uint64_t w = index >> 38, word = bits[w], bit = (uint64_t)1 << (index >> 32) % 64;
        HAK_CHECK(!(word & bit), "block freed twice", base + at);
        if (HAK_UNLIKELY(!word) && w < first) { /* else it is not below the slab's hint */
            first = (uint32_t)w;
        }
        atomic_store_relaxed(&bits[w], word | bit);
        n++;
        /* What leads into the slab is a link; what is none leads elsewhere. */
        uint64_t next = *(uint64_t *)(base + at) - from;
        if (next >= SC_SLAB_BYTES || (next == expected && next - at + reach <= 2 * reach)) {
            break;
        }
        expected = 2 * next - at;
        at = next;
        index = at * row->magic;
        HAK_CHECK((uint32_t)index < row->limit, "invalid pointer freed (not the start of a block)",
                  base + at);
    }
    note_put(slab, first * 64, n, count);
    return (char *)hak_link_follow(base + at);
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
    if (hak_slab_held(slab) & slab->bits[0]) {
        return VERIFY_SLAB_HELD;
    }
    if (slab->size != hak_sc_table[slab->size_class].size || !slab->is_used) {
        return VERIFY_SLAB_GEOMETRY;
    }
    if (slab->n_touched > SC_SLAB_BYTES / SLAB_TOUCHED_BYTES ||
        slab->n_touched * SLAB_TOUCHED_BYTES < (uint32_t)slab->fresh * slab->size) {
        return VERIFY_SLAB_TOUCHED;
    }
    return (slab->list == SLAB_FULL) == (slab->n_free == 0) && slab->list <= SLAB_AWAY
               ? 0
               : VERIFY_SLAB_LISTED;
}
