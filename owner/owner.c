/* The table of owners. Locks: the spares', the table's (rank OWNERS) for the set of ids, then
   owners'. Called by the heaps of hakmem and by pools used alone. */
#include "owner/owner.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/lock_holds.h"
#include "base/os.h"
#include "base/verify.h"
#include "superslab/pool.h"

/* How many slabs are returned at a time when an owner ends. */
#define END_SLABS HAK_TINY_OR(2u, 16u)
/* How often who must not wait looks for the spares' lock. */
#define SPARE_TRIES 1000

HAK_LARGE_ZEROS struct hak_owner_table hak_owner_table;

const struct hak_owner_gate *hak_owner_gate;

static void mend_table(void);
static LOCK_DEFINE_MENDED(table_lock, LOCK_RANK_OWNERS, mend_table);
static LOCK_DEFINE(spares_lock, LOCK_RANK_HEAPS);
static struct owner *spares[OWNER_POOL + 1]; /* by kind, linked by next_unused */

/* Returns 0 if its holder does not get on, and the caller must not wait for him, or if a signal
   handler has interrupted this thread that holds it. */
static int lock_spares(int may_wait)
{
    if (hak_lock_is_mine(&spares_lock)) {
        return 0;
    }
    if (may_wait) {
        hak_lock_acquire(&spares_lock);
        return 1;
    }
    for (int i = 0; i < SPARE_TRIES; i++) {
        if (hak_lock_try(&spares_lock)) {
            return 1;
        }
        hak_atomic_pause();
    }
    return 0;
}

struct owner *hak_owner_take_spare(enum owner_kind kind, int may_wait)
{
    struct owner *owner = NULL;
    if (lock_spares(may_wait)) {
        owner = spares[kind];
        if (owner) {
            spares[kind] = owner->next_unused;
        }
        hak_lock_release(&spares_lock);
    }
    return owner;
}

int hak_owner_keep_spare(struct owner *owner, int may_wait)
{
    if (!lock_spares(may_wait)) {
        return 0;
    }
    owner->next_unused = spares[owner->kind];
    spares[owner->kind] = owner;
    hak_lock_release(&spares_lock);
    return 1;
}

int hak_owner_holds_spares(void)
{
    return hak_lock_is_mine(&spares_lock);
}

void hak_owner_fork_child(void)
{
    if (spares_lock.word && !hak_lock_is_mine(&spares_lock)) {
        memset(spares, 0, sizeof spares); /* half changed, perhaps */
        atomic_store_relaxed(&spares_lock.word, 0u);
    }
}

static uint64_t *ids_word(uint32_t w)
{
    return &hak_owner_table.ids[OWNER_ID_WORDS - 1 - w];
}

static int is_set_aside(uint32_t id)
{
    return atomic_load_relaxed(ids_word(id / 64)) >> (id % 64) & 1;
}

static uint64_t free_ids(uint32_t w)
{
    return ~*ids_word(w) & (w ? ~(uint64_t)0 : ~(uint64_t)1); /* 0 is no id */
}

static void set_bit(uint64_t *words, uint32_t i, int is_set)
{
    uint64_t bit = (uint64_t)1 << (i % 64);
    atomic_store_relaxed(&words[i / 64], is_set ? words[i / 64] | bit : words[i / 64] & ~bit);
}

/* Table lock held. The summaries follow. */
static void set_aside(uint32_t id, int is_set)
{
    uint32_t w = id / 64;
    uint64_t *word = ids_word(w), bit = (uint64_t)1 << (id % 64);
    atomic_store_relaxed(word, is_set ? *word | bit : *word & ~bit);
    set_bit(hak_owner_table.words_used, w, *word != 0);
    set_bit(hak_owner_table.words_full, w, free_ids(w) == 0);
}

/* Who held the table's lock may have been between any two stores of those above, and of publish and
   withdraw: each owner that can be found keeps its id, one that was coming or going at that moment
   is lost (hak_owner_lose), and so is an id at most. */
static void mend_table(void)
{
    uint32_t n = hak_owner_table.n_id_words;
    for (uint32_t id = 1; id < n * 64 && id <= OWNER_MAX; id++) {
        if (hak_owner_table.at[id] && !is_set_aside(id)) {
            set_aside(id, 1);
        }
    }
    for (uint32_t w = 0; w < OWNER_ID_WORDS; w++) {
        int is_used = *ids_word(w) != 0, is_full = free_ids(w) == 0;
        if (hak_bits_has(hak_owner_table.words_used, w) != is_used ||
            hak_bits_has(hak_owner_table.words_full, w) != is_full) {
            set_bit(hak_owner_table.words_used, w, is_used);
            set_bit(hak_owner_table.words_full, w, is_full);
        }
    }
}

/* The lowest free id, or 0. Table lock held. */
static uint32_t reserve(void)
{
    uint32_t w = hak_bits_next(hak_owner_table.words_full, OWNER_SUMMARY_BITS, 0, 0);
    uint32_t id = w < OWNER_ID_WORDS ? w * 64 + (uint32_t)__builtin_ctzll(free_ids(w)) : 0;
    hak_lock_step(w / 64);
    if (id == 0 || id > OWNER_MAX) {
        return 0;
    }
    set_aside(id, 1);
    if (w >= hak_owner_table.n_id_words) {
        atomic_store_release(&hak_owner_table.n_id_words, w + 1);
    }
    return id;
}

uint32_t hak_owner_reserve(void)
{
    hak_lock_acquire(&table_lock);
    hak_atomic_touch(ids_word(0));
    uint32_t id = reserve();
    hak_lock_release(&table_lock);
    return id;
}

/* Table lock held. A walk that came by a stale number may hold the owner's lock. */
static void publish(struct owner *owner, uint32_t id, enum owner_kind kind, enum lock_rank rank)
{
    if (!owner->lock.rank) {
        hak_lock_init(&owner->lock, rank);
    }
    hak_lock_acquire(&owner->lock);
    if (owner->kind != (uint32_t)kind) {
        owner->kind =
            (uint32_t)kind; /* others may be reading it if it was made while the gate was closed */
    }
    atomic_store_relaxed(&owner->id, id);
    owner->n_uses = owner->seen_uses = owner->has_rested = 0;
    hak_bank_init(&owner->bank, id);
    owner->bank.is_bare = kind == OWNER_POOL;
    owner->bank.has_strays_sent = kind == OWNER_THREAD;
    owner->bank.keeps_empty = kind != OWNER_THREAD; /* until a thread has it */
    atomic_store_release(&hak_owner_table.at[id], owner);
    hak_lock_release(&owner->lock);
}

void hak_owner_register_as(struct owner *owner, uint32_t id, enum owner_kind kind,
                           enum lock_rank rank)
{
    hak_lock_acquire(&table_lock);
    publish(owner, id, kind, rank);
    hak_lock_release(&table_lock);
}

/* Table lock held. */
static int register_any(struct owner *owner, enum owner_kind kind, enum lock_rank rank)
{
    uint32_t id = reserve();
    if (!id) {
        return EAGAIN;
    }
    publish(owner, id, kind, rank);
    return 0;
}

int hak_owner_register(struct owner *owner, enum owner_kind kind, enum lock_rank rank)
{
    hak_lock_acquire(&table_lock);
    int error = register_any(owner, kind, rank);
    hak_lock_release(&table_lock);
    return error;
}

/* The lock is let go between: a walk or a purge may wait for it. */
static void give_slabs_back(struct owner *owner)
{
    int is_more;
    HAK_CHECK(atomic_load_relaxed(&owner->id), "heap destroyed twice", owner);
    do {
        hak_lock_acquire(&owner->lock);
        is_more = hak_bank_drop(&owner->bank, END_SLABS);
        hak_lock_release(&owner->lock);
    } while (is_more);
}

/* Takes an owner out of the table. */
static void withdraw(struct owner *owner)
{
    hak_lock_acquire(&table_lock);
    hak_lock_acquire(&owner->lock);
    uint32_t id = owner->id;
    int is_empty = id && owner->bank.n_slabs == 0;
    if (is_empty) {
        atomic_store_relaxed(&owner->id, 0u);
        owner->bank.owner = 0;
        atomic_store_release(&hak_owner_table.at[id], (struct owner *)NULL);
        set_aside(id, 0);
    }
    hak_lock_release(&owner->lock);
    hak_lock_release(&table_lock);
    HAK_CHECK(is_empty, "heap used while it is destroyed", owner);
}

void hak_owner_unregister(struct owner *owner)
{
    HAK_DEBUG_ASSERT(owner->kind != OWNER_THREAD);
    give_slabs_back(owner);
    withdraw(owner);
    hak_ss_purge_due();
}

struct owner *hak_owner_hold(uint32_t id)
{
    struct owner *owner = hak_owner_by_id(id);
    if (!owner || hak_owner_is_lost(owner)) {
        return NULL;
    }
    hak_lock_acquire(&owner->lock);
    if (HAK_UNLIKELY(owner->id != id)) {
        hak_lock_release(&owner->lock);
        return NULL;
    }
    return owner;
}

/* The first word from `w` on that has an id; OWNER_SUMMARY_BITS if there is none. */
static uint32_t next_used(uint32_t w)
{
    for (uint32_t i = w / 64; i < OWNER_SUMMARY_WORDS; i++, w = i * 64) {
        uint64_t left = atomic_load_relaxed(&hak_owner_table.words_used[i]) & ~(uint64_t)0
                                                                                  << (w % 64);
        if (left) {
            return i * 64 + (uint32_t)__builtin_ctzll(left);
        }
    }
    return OWNER_SUMMARY_BITS;
}

struct owner *hak_owner_next(uint32_t *id)
{
    uint32_t next = *id + 1, n = atomic_load_acquire(&hak_owner_table.n_id_words);
    for (uint32_t w = next / 64; w < n; next = w * 64) {
        uint64_t left = atomic_load_relaxed(ids_word(w)) & ~(uint64_t)0 << (next % 64);
        hak_lock_step(1);
        for (; left; left &= left - 1) {
            *id = w * 64 + (uint32_t)__builtin_ctzll(left);
            struct owner *owner = hak_owner_by_id(*id);
            if (owner) {
                return owner;
            }
        }
        w = w + 1 < n ? next_used(w + 1) : n;
    }
    return NULL;
}

int hak_owner_for_each(int (*visit)(struct owner *owner, void *context), void *context)
{
    int result = 0;
    for (uint32_t id = 0; !result && hak_owner_next(&id);) {
        struct owner *owner = hak_owner_hold(id);
        if (owner) {
            result = visit(owner, context);
            hak_lock_release(&owner->lock);
        }
    }
    return result;
}

int hak_owner_verify(const struct owner *owner)
{
    uint32_t id = owner->id;
    if (id == 0 || owner->bank.owner != id || hak_owner_by_id(id) != owner || !is_set_aside(id)) {
        return VERIFY_OWNER_ID;
    }
    if (owner->kind < OWNER_THREAD || owner->kind > OWNER_POOL ||
        owner->bank.has_strays_sent != (owner->kind == OWNER_THREAD)) {
        return VERIFY_OWNER_KIND;
    }
    return hak_bank_verify(&owner->bank);
}

static int verify_one(struct owner *owner, void *unused)
{
    (void)unused;
    return hak_owner_verify(owner);
}

/* The summaries say of each word what it is. */
static int verify_summaries(void)
{
    for (uint32_t w = 0; w < OWNER_ID_WORDS; w++) {
        if (hak_bits_has(hak_owner_table.words_used, w) != (*ids_word(w) != 0) ||
            hak_bits_has(hak_owner_table.words_full, w) != (free_ids(w) == 0)) {
            return VERIFY_OWNER_SUMMARY;
        }
    }
    return 0;
}

/* Owners whose ids are not set aside would be in no walk. */
static int verify_table(void)
{
    hak_lock_acquire(&table_lock);
    int result = 0;
    for (uint32_t id = 0; id < hak_owner_table.n_id_words * 64 && id <= OWNER_MAX && !result;
         id++) {
        result = hak_owner_by_id(id) && !is_set_aside(id) ? VERIFY_OWNER_SET : 0;
    }
    result = result ? result : verify_summaries();
    hak_lock_release(&table_lock);
    return result;
}

int hak_owner_verify_all(void)
{
    int result = verify_table();
    return result ? result : hak_owner_for_each(verify_one, NULL);
}

int hak_owner_lose(struct lock *lock, const struct owner *own)
{
    struct owner *owner;
    if (lock == &spares_lock) {
        return 1; /* hak_owner_fork_child frees it */
    }
    if (lock->rank != LOCK_RANK_HEAP) {
        return 0;
    }
    for (uint32_t id = 0; (owner = hak_owner_next(&id)) != NULL;) {
        if (&owner->lock == lock) {
            if (owner == own) {
                return 0;
            }
            owner->kind |= OWNER_LOST;
            hak_lock_mark_lost(lock);
            return 1;
        }
    }
    atomic_store_relaxed(&lock->word, 0u);
    return 1;
}

/* --- pools used alone --- */

/* Returns 0 if the gate is closed. *gate is what hak_owner_gate was. */
static int enter(const struct hak_owner_gate **gate)
{
    *gate = atomic_load_acquire(&hak_owner_gate);
    return !*gate || (*gate)->enter();
}

static void leave(const struct hak_owner_gate *gate)
{
    if (gate) {
        gate->leave();
    }
}

static int make_pool(struct owner **out)
{
    struct owner *owner = hak_owner_take_spare(OWNER_POOL, 1);
    owner = owner ? owner : hak_owner_new(hak_os_meta_alloc(sizeof *owner), OWNER_POOL);
    if (!owner) {
        return ENOMEM;
    }
    int error = hak_owner_register(owner, OWNER_POOL, LOCK_RANK_HEAP);
    if (error) {
        (void)hak_owner_keep_spare(owner, 1);
        return error;
    }
    *out = owner;
    return 0;
}

/* Its id comes with its first slab. */
static int make_pool_aside(const struct hak_owner_gate *gate, struct owner **out)
{
    struct owner *owner = hak_owner_take_spare(OWNER_POOL, 0);
    owner =
        owner ? owner
              : hak_owner_new(gate->alloc(sizeof *owner, _Alignof(struct owner), NULL), OWNER_POOL);
    if (!owner) {
        return ENOMEM;
    }
    *out = owner;
    return 0;
}

int hak_owner_make_pool(struct owner **out)
{
    const struct hak_owner_gate *gate;
    int error;
    *out = NULL;
    if (enter(&gate)) {
        error = make_pool(out);
        leave(gate);
    } else {
        error = make_pool_aside(gate, out);
    }
    if (!error) {
        atomic_store_seq(&(*out)->is_live, 1u);
    }
    return error;
}

void hak_owner_end_pool(struct owner *owner)
{
    if (hak_owner_is_lost(owner)) {
        return;
    }
    if (owner->id) {
        give_slabs_back(owner);
        withdraw(owner);
        hak_ss_purge_due();
    }
    (void)hak_owner_keep_spare(owner, 1);
}

void hak_owner_unmake_pool(struct owner *owner)
{
    const struct hak_owner_gate *gate;
    HAK_CHECK(atomic_exchange_seq(&owner->is_live, 0u), "heap destroyed twice", owner);
    int is_inside = enter(&gate);
    if (gate && is_inside) {
        gate->catch_up(); /* blocks of it that were freed while the gate was closed */
    }
    if (gate) {
        gate->free_of(owner);
    }
    if (is_inside) {
        hak_owner_end_pool(owner);
        leave(gate);
    } else if (owner->id || !hak_owner_keep_spare(owner, 0)) {
        gate->defer_end(owner);
    }
}

/* A pool that was made while the gate was closed gets its id. Returns 0 if there is none. */
static int has_id(struct owner *owner)
{
    if (HAK_UNLIKELY(!atomic_load_relaxed(&owner->id))) {
        hak_lock_acquire(&table_lock);
        int error = owner->id ? 0 : register_any(owner, OWNER_POOL, LOCK_RANK_HEAP);
        hak_lock_release(&table_lock);
        return !error;
    }
    return 1;
}

void *hak_owner_take_one(struct owner *owner, uint32_t size_class, hak_owner_take_function take,
                         int *is_clean)
{
    struct slab *fresh = NULL;
    void *block;
    do {
        hak_lock_acquire(&owner->lock);
        if (fresh) {
            hak_bank_add(&owner->bank, fresh);
        }
        (void)take(owner, size_class, 1, &block);
        *is_clean = owner->bank.took_clean;
        hak_owner_release(owner);
    } while (!block && (fresh = hak_bank_make(size_class)) != NULL);
    return block;
}

void *hak_owner_pool_alloc(struct owner *owner, uint32_t size_class, hak_owner_take_function take)
{
    const struct hak_owner_gate *gate;
    int is_clean;
    void *block = NULL;
    int is_inside = enter(&gate);
    if (is_inside && !hak_owner_is_lost(owner) && has_id(owner)) {
        block = hak_owner_take_one(owner, size_class, take, &is_clean);
    } else { /* also where no id is left: it was made, so it serves */
        block = gate->alloc(hak_sc_table[size_class].size, SC_MIN_ALIGN, owner);
    }
    if (is_inside) {
        leave(gate);
    }
    return block;
}

/* With the gate closed, or of a lost pool: what can be seen of it without the lock is checked. */
static void check_block(const struct owner *owner, const void *block)
{
    struct ss_lookup found = hak_super_lookup(block);
    HAK_CHECK(found.kind == SS_SLAB && found.owner == owner->id && found.start == block,
              "invalid pointer freed (not the start of a block)", block);
    HAK_CHECK(found.is_allocated, "block freed twice", block);
}

void hak_owner_pool_free(struct owner *owner, void *block,
                         void (*put)(struct owner *owner, void *block))
{
    const struct hak_owner_gate *gate;
    int is_inside = enter(&gate);
    if (gate && hak_map_find(block).tag == TAG_LIMBO) {
        gate->free(block, owner);
    } else if (!is_inside) {
        check_block(owner, block);
        gate->defer_block(block);
    } else if (hak_owner_is_lost(owner)) {
        check_block(owner, block);
    } else {
        hak_lock_acquire(&owner->lock);
        put(owner, block);
        hak_owner_release(owner);
        hak_ss_purge_due();
    }
    if (is_inside) {
        leave(gate);
    }
}

void hak_owner_trim(struct owner *owner)
{
    const struct hak_owner_gate *gate;
    if (enter(&gate)) {
        if (owner->id && !hak_owner_is_lost(owner)) {
            hak_lock_acquire(&owner->lock);
            hak_bank_release_empty(&owner->bank);
            hak_owner_release(owner);
            hak_ss_purge_due();
        }
        leave(gate);
    }
}

int hak_owner_check(struct owner *owner)
{
    const struct hak_owner_gate *gate;
    int result = 0;
    if (enter(&gate)) {
        if (owner->id && !hak_owner_is_lost(owner)) {
            hak_lock_acquire(&owner->lock);
            result = hak_owner_verify(owner);
            hak_lock_release(&owner->lock);
        }
        leave(gate);
    }
    return result;
}
