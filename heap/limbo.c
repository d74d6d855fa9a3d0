/* Limbo. No locks: state is a table of slots, changed by compare-and-swap. Called by slow paths
   that find the gate closed, by free and lookups for blocks that came from here. */
#include "heap/limbo.h"

#include "base/atomic.h"
#include "base/error.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "heap/gate.h"
#include "limit/limit.h"
#include "owner/owner.h"
#include "superslab/map.h"
#include "superslab/pool.h"

#define CHUNK_BYTES HAK_TINY_OR((size_t)2 * SS_UNIT_BYTES, (size_t)16 * SS_UNIT_BYTES)
/* Larger requests get a mapping of their own. */
#define CHUNK_MOST   (CHUNK_BYTES / 4)
#define TABLE_SLOTS  HAK_TINY_OR(4u, 1024u)
#define TABLES       1024u
#define PROBES       32u
#define NO_SLOT      UINT32_MAX
#define OFFSET_SHIFT 32
#define ONE          ((uint64_t)1)
/* A slot whose mapping is being made. */
#define BUSY ((char *)1)

/* A chunk begins with a bit for each 16 bytes: 1 where a live block starts. So what reads the
   blocks' places never reads what the program keeps in them. */
#define START_WORDS (CHUNK_BYTES / 16 / 64)

struct slot {
    char *base;  /* NULL: unused; BUSY; else the mapping's start, as long as there is a reference */
    char *block; /* the only one; NULL in a chunk */
    size_t bytes;
    uint64_t word; /* offset of the next block << OFFSET_SHIFT | references */
};

struct record {
    size_t size;
    struct owner *owner;
    uint64_t is_live; /* of a mapping's block */
    uint64_t unused;
};
HAK_STATIC_ASSERT(sizeof(struct record) == 32, "blocks behind it are aligned to 16");

static HAK_LARGE_ZEROS struct slot *tables[TABLES];
static uint32_t n_slots;
static uint32_t hint;
static uint32_t current = NO_SLOT;

static struct slot *slot_at(uint32_t number)
{
    struct slot *table =
        number / TABLE_SLOTS < TABLES ? atomic_load_acquire(&tables[number / TABLE_SLOTS]) : NULL;
    return table ? &table[number % TABLE_SLOTS] : NULL;
}

static uintptr_t round_up(uintptr_t n, uintptr_t align)
{
    return (n + align - 1) & ~(align - 1);
}

static struct record *record_of(const void *p)
{
    return (struct record *)(uintptr_t)((uintptr_t)p - sizeof(struct record));
}

static char *base_of(const struct slot *slot)
{
    return atomic_load_relaxed(&slot->base);
}

/* The word that says whether a block starts at p, a multiple of 16 within the mapping, and the bit
   in it; NULL if none can. */
static uint64_t *start_word(const struct slot *slot, const void *p, uint64_t *bit)
{
    if (slot->block) {
        *bit = 1;
        return p == slot->block ? &record_of(p)->is_live : NULL;
    }
    size_t place = (size_t)((const char *)p - base_of(slot)) / 16;
    *bit = ONE << (place % 64);
    return (uint64_t *)(void *)base_of(slot) + place / 64;
}

static int is_live(const struct slot *slot, const void *p)
{
    uint64_t bit;
    const uint64_t *word = start_word(slot, p, &bit);
    return word && (atomic_load_acquire(word) & bit) != 0;
}

static uint32_t references(uint64_t word)
{
    return (uint32_t)word;
}

/* One more reference, unless there is none: then nothing is mapped. */
static int pin(struct slot *slot)
{
    uint64_t word = atomic_load_acquire(&slot->word);
    while (references(word) != 0) {
        if (__atomic_compare_exchange_n(&slot->word, &word, word + ONE, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return 1;
        }
    }
    return 0;
}

static void unmap(struct slot *slot)
{
    char *base = base_of(slot);
    hak_map_set(base, slot->bytes / SS_UNIT_BYTES, 0, 0);
    hak_stat_sub(limbo_bytes, slot->bytes);
    if (hak_os_unmap(base, slot->bytes)) {
        (void)!hak_os_purge(base,
                            slot->bytes); /* address space is left over, and the slot with it */
        return;
    }
    hak_map_purge(base, slot->bytes);
    atomic_store_release(&slot->base, (char *)NULL);
}

static void drop(struct slot *slot, uint32_t n)
{
    if (references(__atomic_sub_fetch(&slot->word, n, __ATOMIC_ACQ_REL)) == 0) {
        unmap(slot);
    }
}

/* The slot that holds p, pinned, or NULL. */
static struct slot *pin_at(const void *p)
{
    struct map_entry entry = hak_map_find(p);
    struct slot *slot = entry.tag == TAG_LIMBO ? slot_at(entry.ref) : NULL;
    if (!slot || !pin(slot)) {
        return NULL;
    }
    if ((uintptr_t)p - (uintptr_t)base_of(slot) >= slot->bytes) {
        drop(slot, 1);
        return NULL;
    }
    return slot;
}

static int take_slot(struct slot *slot)
{
    char *expected = NULL;
    return slot && !atomic_load_relaxed(&slot->base) &&
           atomic_cas_strong(&slot->base, &expected, BUSY);
}

static int ensure_table(uint32_t index)
{
    struct slot *none = NULL;
    if (index >= TABLES) {
        return 0;
    }
    if (!atomic_load_acquire(&tables[index])) {
        size_t bytes = (TABLE_SLOTS * sizeof(struct slot) + hak_os_page_size() - 1) &
                       ~(hak_os_page_size() - 1);
        struct slot *table = (struct slot *)hak_os_map_guarded(bytes);
        if (table && !atomic_cas_strong(&tables[index], &none, table)) {
            hak_os_unmap_guarded(table, bytes);
        } else if (table) {
            hak_os_note_own(table, bytes);
        }
    }
    return atomic_load_acquire(&tables[index]) != NULL;
}

/* An unused slot, BUSY now; NO_SLOT if there is no memory for one. */
static uint32_t new_slot(void)
{
    for (uint32_t n = atomic_load_relaxed(&n_slots), i = 0; n && i < PROBES; i++) {
        uint32_t number = atomic_add_relaxed(&hint, 1u) % n;
        if (take_slot(slot_at(number))) {
            return number;
        }
    }
    for (;;) {
        uint32_t number = atomic_load_relaxed(&n_slots);
        if (!ensure_table(number / TABLE_SLOTS)) {
            return NO_SLOT;
        }
        if (atomic_cas_strong(&n_slots, &number, number + 1) && take_slot(slot_at(number))) {
            return number;
        }
    }
}

/* Maps `bytes` into a slot of its own, with one reference: a chunk, or, if `align` is not 0, a
   block at a multiple of it. */
static uint32_t map_slot(size_t bytes, size_t align)
{
    int is_admitted = atomic_load_relaxed(&hak_gate_closed) & GATE_FOR_EVER ||
                      hak_limit_admit(bytes, bytes, bytes);
    uint32_t number = is_admitted ? new_slot() : NO_SLOT;
    if (number == NO_SLOT) {
        return NO_SLOT;
    }
    struct slot *slot = slot_at(number);
    char *base = (char *)hak_os_map_aligned(NULL, bytes, SS_UNIT_BYTES);
    if (base && hak_map_ensure(base, bytes)) {
        hak_os_unmap_untouched(base, bytes);
        base = NULL;
    }
    if (!base) {
        atomic_store_release(&slot->base, (char *)NULL);
        return NO_SLOT;
    }
    slot->bytes = bytes;
    slot->block = align ? (char *)round_up((uintptr_t)base + sizeof(struct record), align) : NULL;
    atomic_store_release(&slot->base, base);
    hak_map_set(base, bytes / SS_UNIT_BYTES, TAG_LIMBO, number);
    hak_stat_add(limbo_bytes, bytes);
    /* Last: whoever still knows the slot's number from its chunk before may claim at once. Not in a
       mapping, which is full. */
    uint64_t offset = align ? UINT32_MAX : START_WORDS * sizeof(uint64_t);
    atomic_store_release(&slot->word, offset << OFFSET_SHIFT | 1);
    return number;
}

/* By how much the blocks of an owner become more. It is counted before it is live, and until it is
   not live any more: at 0 there is none. */
static void count(struct owner *owner, uint64_t change)
{
    if (owner && owner != LIMBO_INTERNAL) {
        (void)atomic_add_relaxed(&owner->n_in_limbo, change);
    }
}

/* The record is complete when the block is live. */
static void *fill(const struct slot *slot, char *block, size_t size, struct owner *owner)
{
    uint64_t bit, *word = start_word(slot, block, &bit);
    struct record *record = record_of(block);
    record->size = size;
    record->owner = owner;
    count(owner, 1);
    (void)__atomic_fetch_or(word, bit, __ATOMIC_RELEASE);
    return block;
}

/* A block of the chunk, which gets a reference by it; NULL if it has no room, or is gone. */
static void *claim(struct slot *slot, size_t size, size_t align, struct owner *owner)
{
    uint64_t word = atomic_load_acquire(&slot->word);
    size_t start, end;
    do {
        start = round_up((size_t)(word >> OFFSET_SHIFT) + sizeof(struct record), align);
        end = round_up(start + size, 16);
        if (references(word) == 0 || end > CHUNK_BYTES) {
            return NULL;
        }
    } while (!__atomic_compare_exchange_n(&slot->word, &word,
                                          (uint64_t)end << OFFSET_SHIFT | (references(word) + 1), 0,
                                          __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    return fill(slot, base_of(slot) + start, end - start, owner);
}

static void *chunk_alloc(size_t size, size_t align, struct owner *owner)
{
    for (;;) {
        uint32_t old = atomic_load_acquire(&current);
        void *p = old != NO_SLOT ? claim(slot_at(old), size, align, owner) : NULL;
        if (p) {
            return p;
        }
        uint32_t fresh = map_slot(CHUNK_BYTES, 0);
        if (fresh == NO_SLOT) {
            return NULL;
        }
        if (atomic_cas_strong(&current, &old, fresh)) {
            if (old != NO_SLOT) {
                drop(slot_at(old), 1);
            }
        } else {
            drop(slot_at(fresh), 1); /* another thread was first */
        }
    }
}

static void *mapping_alloc(size_t size, size_t align, struct owner *owner)
{
    size_t room = sizeof(struct record) + align + SS_UNIT_BYTES;
    if (size > PTRDIFF_MAX - SS_BYTES || align > PTRDIFF_MAX / 2 || room > PTRDIFF_MAX - size) {
        return NULL;
    }
    size_t bytes =
        round_up(size + sizeof(struct record) + (align > 64 ? align : 64), SS_UNIT_BYTES);
    uint32_t number = map_slot(bytes, align);
    if (number == NO_SLOT) {
        return NULL;
    }
    const struct slot *slot = slot_at(number);
    return fill(slot, slot->block, (size_t)(base_of(slot) + bytes - slot->block), owner);
}

static struct ss_lookup describe(const void *p, uint32_t ref);

void *hak_limbo_alloc(size_t size, size_t align, struct owner *owner)
{
    atomic_store_relaxed(&hak_ss_limbo_lookup, describe);
    size = size ? size : 1;
    align = align > 16 ? align : 16;
    return size <= CHUNK_MOST && align <= SS_UNIT_BYTES / 4 ? chunk_alloc(size, align, owner)
                                                            : mapping_alloc(size, align, owner);
}

/* The record of the live block that starts at p, and its slot pinned; NULL if there is none. */
static struct record *find(const void *p, struct slot **slot)
{
    *slot = pin_at(p);
    if (!*slot) {
        return NULL;
    }
    if ((uintptr_t)p % 16 || !is_live(*slot, p)) {
        drop(*slot, 1);
        return NULL;
    }
    return record_of(p);
}

/* Frees the block if no other thread has. The slot is pinned. */
static int end(struct slot *slot, const void *p)
{
    uint64_t bit, *word = start_word(slot, p, &bit);
    struct owner *owner = record_of(p)->owner;
    if (!(__atomic_fetch_and(word, ~bit, __ATOMIC_ACQ_REL) & bit)) {
        return 0;
    }
    count(owner, (uint64_t)-1);
    drop(slot, 1);
    return 1;
}

void hak_limbo_free(void *p)
{
    struct slot *slot;
    HAK_CHECK(find(p, &slot) && end(slot, p),
              "block freed twice, or invalid pointer freed (not the start of a block)", p);
    drop(slot, 1);
}

size_t hak_limbo_size(const void *p)
{
    struct slot *slot;
    const struct record *record = find(p, &slot);
    size_t size = record ? record->size : 0;
    if (record) {
        drop(slot, 1);
    }
    return size;
}

struct owner *hak_limbo_owner(const void *p)
{
    struct slot *slot;
    const struct record *record = find(p, &slot);
    struct owner *owner = record && record->owner != LIMBO_INTERNAL ? record->owner : NULL;
    if (record) {
        drop(slot, 1);
    }
    return owner;
}

/* The next live block at `from` or behind it, or NULL. */
static char *next_block(const struct slot *slot, const char *from)
{
    char *base = base_of(slot);
    if (slot->block) {
        return from <= slot->block && is_live(slot, slot->block) ? slot->block : NULL;
    }
    const uint64_t *words = (const uint64_t *)(const void *)base;
    size_t place = (size_t)(from - base + 15) / 16;
    while (place < START_WORDS * 64) {
        uint64_t word = atomic_load_acquire(&words[place / 64]) >> (place % 64);
        if (word) {
            return base + (place + (size_t)__builtin_ctzll(word)) * 16;
        }
        place = (place / 64 + 1) * 64;
    }
    return NULL;
}

static int walk_slot(struct slot *slot, const struct owner *owner,
                     int (*visit)(void *block, size_t size, void *context), void *context)
{
    int result = 0;
    const char *from = base_of(slot);
    for (char *block; !result && (block = next_block(slot, from)) != NULL;) {
        const struct record *record = record_of(block);
        from = block + 16;
        if (owner ? record->owner == owner : record->owner != LIMBO_INTERNAL) {
            result = visit(block, record->size, context);
        }
    }
    return result;
}

int hak_limbo_walk(const struct owner *owner, int (*visit)(void *block, size_t size, void *context),
                   void *context)
{
    int result = 0;
    uint32_t n =
        owner && !atomic_load_relaxed(&owner->n_in_limbo) ? 0 : atomic_load_acquire(&n_slots);
    for (uint32_t i = 0; i < n && !result; i++) {
        struct slot *slot = slot_at(i);
        if (slot && pin(slot)) {
            result = walk_slot(slot, owner, visit, context);
            drop(slot, 1);
        }
    }
    return result;
}

static int free_one(void *block, size_t size, void *context)
{
    (void)size;
    (void)context;
    hak_limbo_free(block);
    return 0;
}

void hak_limbo_free_of(struct owner *owner)
{
    (void)hak_limbo_walk(owner, free_one, NULL);
}

/* The last live block that starts at p or below it, or NULL. */
static char *block_below(const struct slot *slot, const void *p)
{
    char *base = base_of(slot);
    if (slot->block) {
        return (const char *)p >= slot->block && is_live(slot, slot->block) ? slot->block : NULL;
    }
    const uint64_t *words = (const uint64_t *)(const void *)base;
    size_t place = (size_t)((const char *)p - base) / 16;
    uint64_t wanted = ~(uint64_t)0 >> (63 - place % 64);
    for (size_t i = place / 64 + 1; i-- > 0; wanted = ~(uint64_t)0) {
        uint64_t word = atomic_load_acquire(&words[i]) & wanted;
        if (word) {
            return base + (i * 64 + 63 - (size_t)__builtin_clzll(word)) * 16;
        }
    }
    return NULL;
}

/* Any address of limbo: the block that it lies in, if there is one. */
static struct ss_lookup describe(const void *p, uint32_t ref)
{
    struct ss_lookup result = {SS_RANGE, 0, 0, NULL, 0, 0};
    struct slot *slot = pin_at(p);
    (void)ref;
    if (!slot) {
        return (struct ss_lookup){SS_NOT_OURS, 0, 0, NULL, 0, 0};
    }
    char *block = block_below(slot, p);
    if (block && (size_t)((const char *)p - block) < record_of(block)->size) {
        result.start = block;
        result.size = record_of(block)->size;
        result.is_allocated = 1;
    }
    drop(slot, 1);
    return result;
}

/* Claims and ends of blocks by threads that are gone may be seen in part: nothing is claimed from
   the old chunks any more, and they stay mapped. */
void hak_limbo_fork_child(void)
{
    int64_t bytes = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        struct slot *slot = slot_at(i);
        if (slot && references(slot->word)) {
            slot->word += ONE;
            bytes += (int64_t)slot->bytes;
        }
    }
    current = n_slots ? NO_SLOT : current;
    if (n_slots) {
        hak_stat_add(limbo_bytes, bytes - hak_stat_get(limbo_bytes));
    }
}

static int verify_slot(const struct slot *slot, uint32_t number)
{
    uint32_t n = 0;
    for (size_t at = 0; at < slot->bytes; at += SS_UNIT_BYTES) {
        struct map_entry entry = hak_map_get(base_of(slot) + at);
        if (entry.tag != TAG_LIMBO || entry.ref != number) {
            return VERIFY_LIMBO_MAP;
        }
    }
    const char *end_of_last = base_of(slot), *block;
    for (const char *from = end_of_last; (block = next_block(slot, from)) != NULL; n++) {
        size_t size = record_of(block)->size;
        if (block - sizeof(struct record) < end_of_last ||
            size > (size_t)(base_of(slot) + slot->bytes - block)) {
            return VERIFY_LIMBO_BLOCK;
        }
        end_of_last = block + size;
        from = block + 16;
    }
    return n > references(slot->word) ? VERIFY_LIMBO_COUNT : 0;
}

int hak_limbo_verify(void)
{
    int result = 0;
    size_t bytes = 0;
    for (uint32_t i = 0, n = atomic_load_acquire(&n_slots); i < n && !result; i++) {
        const struct slot *slot = slot_at(i);
        if (slot && references(atomic_load_acquire(&slot->word))) {
            result = verify_slot(slot, i);
            bytes += slot->bytes;
        }
    }
    return result ? result : bytes == (size_t)hak_stat_get(limbo_bytes) ? 0 : VERIFY_LIMBO_BYTES;
}
