/* Banks of slabs. The caller holds the owner's lock, except to make a slab; takes the pool lock for
   new and empty slabs. Blocks are taken and put by tiny and mid_mt alone; heaps move slabs, release
   empty ones, and have their pages purged. */
#include "owner/bank.h"

#include <string.h>

#include "base/error.h"
#include "base/list.h"
#include "base/lock_holds.h"
#include "base/verify.h"

/* hak_bank_take goes on from slab to slab until it has so many blocks. */
#define TAKE_LEAST HAK_TINY_OR(2u, 8u)
/* How many slabs of a list hak_bank_move_one looks at. */
#define MOVE_SEARCH 8u

static uint64_t n_empty; /* places in `empty` of all banks that are not NULL */

uint64_t hak_bank_n_empty(void)
{
    return atomic_load_relaxed(&n_empty);
}

static void know_empty(struct bank *bank, struct slab *slab)
{
    struct slab **known = &bank->empty[slab->size_class];
    if (!*known) {
        (void)atomic_add_relaxed(&n_empty, (uint64_t)1);
    }
    *known = slab;
}

static void forget_empty(struct bank *bank, uint32_t size_class)
{
    bank->empty[size_class] = NULL;
    (void)atomic_sub_relaxed(&n_empty, (uint64_t)1);
}

void hak_bank_init(struct bank *bank, uint32_t owner)
{
    bank->owner = owner;
    bank->n_slabs = 0;
    bank->keeps_empty = 1;
    bank->has_strays_sent = 0;
    bank->is_bare = 0;
    bank->fresh_times = 1;
    bank->strays = NULL;
    bank->full = bank->away = NULL;
    bank->newest = 0;
    bank->walks = NULL;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bank->partial[c] = bank->empty[c] = NULL;
        bank->n_partial[c] = 0;
    }
}

static struct slab **list_of(struct bank *bank, enum slab_list list, uint32_t size_class)
{
    return list == SLAB_PARTIAL ? &bank->partial[size_class]
           : list == SLAB_FULL  ? &bank->full
                                : &bank->away;
}

static HAK_ALWAYS_INLINE void count_partial(struct bank *bank, const struct slab *slab,
                                            uint32_t change)
{
    uint32_t *n = &bank->n_partial[slab->size_class];
    atomic_store_relaxed(n, *n + change);
}

static HAK_ALWAYS_INLINE void enter(struct bank *bank, struct slab *slab, enum slab_list list)
{
    struct slab **first = list_of(bank, list, slab->size_class);
    slab->list = (uint8_t)list;
    LIST_PUSH(first, slab, next, prev);
    if (list == SLAB_PARTIAL) {
        count_partial(bank, slab, 1);
    }
}

static HAK_ALWAYS_INLINE void leave(struct bank *bank, struct slab *slab, enum slab_list list)
{
    struct slab **first = list_of(bank, list, slab->size_class);
    LIST_TAKE_OUT(first, slab, next, prev);
    if (list == SLAB_PARTIAL) {
        count_partial(bank, slab, (uint32_t)-1);
    }
}

static HAK_NOINLINE void become_full(struct bank *bank, struct slab *slab)
{
    leave(bank, slab, SLAB_PARTIAL);
    enter(bank, slab, SLAB_FULL);
}

static HAK_NOINLINE void become_partial(struct bank *bank, struct slab *slab)
{
    leave(bank, slab, SLAB_FULL);
    enter(bank, slab, SLAB_PARTIAL);
}

/* The slab becomes the bank's, with that number of its superslab in the map. */
static void receive(struct bank *bank, struct slab *slab, uint32_t ref)
{
    uint32_t number = hak_slab_number(ref, slab->base);
    atomic_store_relaxed(&slab->owner, bank->owner);
    hak_map_set(slab->base, 1, TAG_SLAB(bank->owner, slab->size_class), ref);
    bank->n_slabs++;
    slab->newer = 0;
    slab->older = bank->newest;
    if (slab->older) {
        hak_pool_slab_numbered(slab->older)->newer = number;
    }
    bank->newest = number;
    enter(bank, slab, SLAB_PARTIAL);
}

/* A walk that would have come to the slab next goes on behind it. */
static HAK_COLD void pass_over(const struct bank *bank, const struct slab *slab)
{
    for (struct bank_walk *walk = bank->walks; walk; walk = walk->next) {
        if (walk->at && hak_pool_slab_numbered(walk->at) == slab) {
            walk->at = slab->older;
        }
    }
}

/* The slab will be another's. */
static void part_with(struct bank *bank, struct slab *slab)
{
    leave(bank, slab, (enum slab_list)slab->list);
    if (HAK_UNLIKELY(bank->walks != NULL)) {
        pass_over(bank, slab);
    }
    *(slab->newer ? &hak_pool_slab_numbered(slab->newer)->older : &bank->newest) = slab->older;
    if (slab->older) {
        hak_pool_slab_numbered(slab->older)->newer = slab->newer;
    }
    bank->n_slabs--;
    if (bank->empty[slab->size_class] == slab) {
        forget_empty(bank, slab->size_class);
    }
    if (HAK_SECURE && bank->is_bare) {
        slab->n_free = 0; /* for hak_pool_slab_free */
    }
}

/* 1 if it has free blocks that were handed out before. */
static int has_used(const struct slab *slab)
{
    return slab && slab->n_free > slab->capacity - slab->fresh;
}

/* Slabs that have nearly no free block are taken whole, several at a time, lest each be a slow path
   of its own. */
uint32_t hak_bank_take(struct bank *bank, uint32_t size_class, uint32_t want, void **head,
                       const struct owner_policy *policy)
{
    struct slab *slab = bank->partial[size_class];
    *head = NULL;
    if (!slab) {
        return 0;
    }
    bank->took_fresh = !has_used(slab);
    const uint32_t fresh_bytes = policy->fresh_bytes * bank->fresh_times;
    uint32_t taken = hak_slab_take(slab, want, fresh_bytes, head);
    bank->took_clean = slab->took_clean;
    while (slab->n_free == 0) {
        become_full(bank, slab);
        slab = bank->partial[size_class];
        if (taken >= want || taken >= TAKE_LEAST || !has_used(slab)) {
            break;
        }
        hak_lock_step(1);
        taken += hak_slab_take_before(slab, want - taken, fresh_bytes, *head, head);
        bank->took_clean = 0;
    }
    return taken;
}

uint32_t hak_bank_pick(struct bank *bank, uint32_t size_class, uint32_t want, void **blocks,
                       const struct owner_policy *policy)
{
    struct slab *slab = bank->partial[size_class];
    if (!slab) {
        return 0;
    }
    uint32_t taken = hak_slab_pick(slab, want, policy->fresh_bytes, blocks);
    bank->took_clean = slab->took_clean;
    if (slab->n_free == 0) {
        become_full(bank, slab);
    }
    return taken;
}

struct slab *hak_bank_make(uint32_t size_class)
{
    return hak_pool_slab_alloc(TAG_FREE_UNIT, size_class);
}

void hak_bank_add(struct bank *bank, struct slab *slab)
{
    receive(bank, slab, hak_map_get(slab->base).ref);
}

static void release(struct bank *bank, struct slab *slab)
{
    part_with(bank, slab);
    hak_pool_slab_free(slab);
}

static int is_slab(uint32_t tag)
{
    return tag && TAG_OWNER(tag) != TAG_SPECIAL_OWNER;
}

/* A block whose slab is another bank's by now, or no block at all. */
static HAK_COLD void check_stray(const struct bank *bank, uint32_t tag, const void *block)
{
    HAK_CHECK(bank->has_strays_sent && is_slab(tag),
              "invalid pointer freed (not the start of a block)", block);
}

/* The slab that holds the block; NULL if it is another bank's by now. */
static HAK_ALWAYS_INLINE struct slab *slab_of(const struct bank *bank, const void *block)
{
    struct map_entry entry = hak_map_find(block);
    if (HAK_UNLIKELY(TAG_OWNER(entry.tag) != bank->owner)) {
        check_stray(bank, entry.tag, block);
        return NULL;
    }
    return hak_pool_slab_of(entry.ref, block);
}

/* One empty slab a class stays, so that a program which swings around a slab's edge does not trade
   it; of which classes, their pool says. */
static HAK_NOINLINE void keep_or_release(struct bank *bank, const struct owner_policy *policy,
                                         struct slab *slab)
{
    int is_only = bank->partial[slab->size_class] == slab && !slab->next;
    if (!is_only || !bank->keeps_empty || slab->size > policy->keep_empty_max) {
        release(bank, slab);
    } else {
        know_empty(bank, slab);
    }
}

/* Files a slab that has just got blocks back. */
static HAK_ALWAYS_INLINE void file(struct bank *bank, const struct owner_policy *policy,
                                   struct slab *slab)
{
    if (HAK_UNLIKELY(slab->list != SLAB_PARTIAL)) {
        if (slab->list == SLAB_AWAY) {
            return; /* hak_bank_take_back files it */
        }
        become_partial(bank, slab);
    }
    if (HAK_UNLIKELY(hak_slab_is_empty(slab))) {
        keep_or_release(bank, policy, slab);
    }
}

void hak_bank_put(struct bank *bank, void *block, const struct owner_policy *policy)
{
    struct slab *slab = slab_of(bank, block);
    HAK_CHECK(slab, "invalid pointer freed (not the start of a block)", block);
    hak_slab_put(slab, block);
    file(bank, policy, slab);
}

/* A block whose slab is another bank's by now is gathered. Returns what follows it in its list. */
static HAK_NOINLINE char *put_stray(struct bank *bank, uint32_t tag, char *block)
{
    check_stray(bank, tag, block);
    HAK_CHECK(TAG_CLASS(tag) < SC_N_TINY || !hak_bank_has_mark(block), "block freed twice", block);
    char *next = (char *)hak_link_follow(block);
    hak_link_set(block, bank->strays);
    bank->strays = block;
    return next;
}

uint32_t hak_bank_put_list(struct bank *bank, void *head, const struct owner_policy *policy)
{
    const char *end = (const char *)hak_link_end;
    uint32_t n = 0, tag = 0; /* of the class that `row` is, in this bank; at first no block's */
    const struct size_class *row = hak_sc_table;
    for (char *block = head ? (char *)head : (char *)(uintptr_t)end; block != end;) {
        struct map_entry entry = hak_map_find(block);
        hak_lock_step(1);
        if (HAK_UNLIKELY(entry.tag != tag)) {
            if (HAK_UNLIKELY(TAG_OWNER(entry.tag) != bank->owner)) {
                block = put_stray(bank, entry.tag, block);
                n++;
                continue;
            }
            tag = entry.tag;
            row = &hak_sc_table[TAG_CLASS(tag)];
        }
        struct slab *slab = hak_pool_slab_of(entry.ref, block);
        const char *last;
        do {
            last = block; /* what is known of it and the next is not asked again */
            block = hak_slab_put_next(slab, row, block, &n);
        } while (hak_slab_is_same(block, last));
        file(bank, policy, slab);
    }
    return n;
}

/* The bit of a block of that class, whose blocks may be held, in its slab. */
static HAK_ALWAYS_INLINE uint64_t bit_of(const struct size_class *row, const void *block)
{
    uint64_t at = (uint64_t)((uintptr_t)block & (SC_SLAB_BYTES - 1)) * row->magic;
    HAK_CHECK((uint32_t)at < row->limit, "invalid pointer freed (not the start of a block)", block);
    return (uint64_t)1 << (at >> 32);
}

/* A block of a list of the class that is not of this bank's slabs. */
static HAK_ALWAYS_INLINE void check_others(const struct bank *bank, uint32_t size_class,
                                           uint32_t tag, const void *block)
{
    HAK_CHECK(bank->has_strays_sent && TAG_IS_SLAB(tag) && TAG_CLASS(tag) == size_class,
              "invalid pointer freed (not the start of a block)", block);
}

/* In the first block of a list, behind its mark: where the others lie, encoded as links are. So
   whoever lets go of them need not follow the list from block to block, each of which may have left
   the processor's caches. */
#define NOTES_AT 3
/* The last word stays: that of the secure variant's blocks says that they are free (secure/tail.h).
 */
#define NOTES_BEFORE (HAK_SECURE ? 1u : 0u)
static uint64_t *notes_of(void *head)
{
    return (uint64_t *)head + NOTES_AT;
}

uint32_t hak_bank_noted_most(uint32_t size_class)
{
    return hak_sc_table[size_class].size / (uint32_t)sizeof(uint64_t) - NOTES_BEFORE - NOTES_AT + 1;
}

void *hak_bank_hold_list(struct bank *bank, uint32_t size_class, void *head)
{
    const struct size_class *row = &hak_sc_table[size_class];
    const uint64_t secret = hak_link_secret();
    const uint32_t own = TAG_SLAB(bank->owner, size_class);
    const char *end = (const char *)hak_link_end;
    uint64_t *note = notes_of(head) - 1, *notes_end = note + hak_bank_noted_most(size_class);
    char *last = (char *)head;
    HAK_DEBUG_ASSERT(row->capacity <= SLAB_HOLD_MOST);
    for (char *block = last; block != end; block = (char *)hak_link_follow(block)) {
        struct map_entry entry = hak_map_find(block);
        uint64_t bit = bit_of(row, block), *mark = hak_bank_mark(block);
        if (HAK_LIKELY(entry.tag == own)) {
            struct slab *slab = hak_pool_slab_of(entry.ref, block);
            uint64_t held = slab->inline_bits[SLAB_HELD_WORD];
            HAK_CHECK(!((held | slab->inline_bits[0]) & bit), "block freed twice", block);
            atomic_store_relaxed(&slab->inline_bits[SLAB_HELD_WORD], held | bit);
        } else {
            check_others(bank, size_class, entry.tag, block);
        }
        HAK_CHECK(*mark != (secret ^ (uintptr_t)block), "block freed twice", block);
        if (HAK_LIKELY(note < notes_end)) { /* that of the first block is its mark, written now */
            hak_link_write(note++, block);
        }
        *mark = secret ^ (uintptr_t)block;
        last = block;
    }
    return last;
}

/* One that is let go is not held if the slab was another bank's in between. */
static HAK_ALWAYS_INLINE void let_go(struct bank *bank, uint32_t size_class, uint32_t own,
                                     void *block)
{
    struct map_entry entry = hak_map_find(block);
    uint64_t bit = bit_of(&hak_sc_table[size_class], block);
    if (HAK_LIKELY(entry.tag == own)) {
        uint64_t *held = &hak_pool_slab_of(entry.ref, block)->inline_bits[SLAB_HELD_WORD];
        atomic_store_relaxed(held, *held & ~bit);
    } else {
        check_others(bank, size_class, entry.tag, block);
    }
    *hak_bank_mark(block) = 0;
}

static HAK_NOINLINE void let_go_one_by_one(struct bank *bank, uint32_t size_class, void *head)
{
    for (void *block = head; block; block = hak_link_next(block)) {
        let_go(bank, size_class, TAG_SLAB(bank->owner, size_class), block);
    }
}

void hak_bank_let_go_list(struct bank *bank, uint32_t size_class, void *head, uint32_t count)
{
    const uint32_t own = TAG_SLAB(bank->owner, size_class);
    uint64_t *notes = notes_of(head);
    if (HAK_UNLIKELY(count > hak_bank_noted_most(size_class))) {
        let_go_one_by_one(bank, size_class, head);
        if (HAK_SECURE) {
            memset(notes, 0, (hak_bank_noted_most(size_class) - 1) * sizeof *notes);
        }
        return;
    }
    let_go(bank, size_class, own, head);
    for (uint32_t i = 0; i < count - 1; i++) {
        let_go(bank, size_class, own, hak_link_follow(&notes[i]));
        if (HAK_SECURE) {
            notes[i] = 0;
        }
    }
}

void hak_bank_join_held(void *head, uint32_t count, void *last, void *next, uint32_t n)
{
    uint64_t *notes = notes_of(head) + count - 1, *others = notes_of(next);
    hak_link_set(last, next);
    hak_link_write(notes++, next);
    for (uint32_t i = 0; i < n - 1; i++) {
        notes[i] = others[i];
        if (HAK_SECURE) {
            others[i] = 0;
        }
    }
}

int hak_bank_verify_held(const void *head, uint32_t count, uint32_t size_class)
{
    const uint64_t *notes = notes_of((void *)(uintptr_t)head);
    int is_broken = 0, is_other = 0;
    for (uint32_t i = 0; head && i < count; i++) {
        int64_t note = i ? (int64_t)notes[i - 1] : 0;
        is_other |= !hak_bank_has_mark(head) ||
                    (i && count <= hak_bank_noted_most(size_class) &&
                     (hak_link_decode(&note) || (const void *)(uintptr_t)note != head));
        head = hak_link_look(head, &is_broken);
    }
    return is_broken || is_other;
}

int hak_bank_has_mark(const void *block)
{
    return atomic_load_relaxed(hak_bank_mark((void *)(uintptr_t)block)) ==
           (hak_link_secret() ^ (uintptr_t)block);
}

static int has_empty(const struct bank *bank, uint32_t size_class)
{
    const struct slab *slab = bank->empty[size_class];
    return slab && slab->list == SLAB_PARTIAL && hak_slab_is_empty(slab);
}

/* An empty slab has come from elsewhere: one stays. */
static void settle_empty(struct bank *bank, struct slab *slab)
{
    if (has_empty(bank, slab->size_class)) {
        release(bank, slab);
    } else {
        know_empty(bank, slab);
    }
}

static void move(struct bank *from, struct bank *to, struct slab *slab)
{
    part_with(from, slab);
    if (hak_slab_may_hold(slab)) {
        hak_slab_set_held(slab, 0); /* what is in the old owner's depot is another's from now on */
    }
    receive(to, slab, hak_map_get(slab->base).ref);
    if (HAK_UNLIKELY(hak_slab_is_empty(slab))) {
        settle_empty(to, slab);
    }
}

void hak_bank_move_one(struct bank *from, struct bank *to, uint32_t size_class)
{
    struct slab *best = from->partial[size_class];
    uint32_t n = 0;
    for (struct slab *slab = best; slab && n < MOVE_SEARCH; slab = slab->next, n++) {
        hak_lock_step(1);
        best = slab->n_free > best->n_free ? slab : best;
    }
    if (best) {
        move(from, to, best);
    }
}

int hak_bank_move_some(struct bank *from, struct bank *to, uint32_t most)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        while (from->partial[c]) {
            if (!most--) {
                return 1;
            }
            hak_lock_step(1);
            move(from, to, from->partial[c]);
        }
    }
    return 0;
}

void hak_bank_release_empty(struct bank *bank)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        if (has_empty(bank, c)) {
            release(bank, bank->empty[c]);
        } else if (bank->empty[c]) {
            forget_empty(bank, c); /* it is in use */
        }
    }
}

void hak_bank_send_away(struct bank *bank, struct slab *slab)
{
    HAK_DEBUG_ASSERT(slab->list == SLAB_PARTIAL);
    leave(bank, slab, SLAB_PARTIAL);
    enter(bank, slab, SLAB_AWAY);
}

void hak_bank_take_back(struct bank *bank, struct slab *slab)
{
    HAK_DEBUG_ASSERT(slab->list == SLAB_AWAY && slab->owner == bank->owner);
    leave(bank, slab, SLAB_AWAY);
    enter(bank, slab, SLAB_PARTIAL);
    if (hak_slab_is_empty(slab)) {
        release(bank, slab);
    }
}

/* The map's number stays, for hak_pool_slab_free. */
static void leave_behind(struct bank *bank, struct slab *slab)
{
    part_with(bank, slab);
    hak_map_set(slab->base, 1, TAG_FREE_UNIT, hak_map_get(slab->base).ref);
    atomic_store_relaxed(&slab->owner, 0u);
}

int hak_bank_drop(struct bank *bank, uint32_t most)
{
    while (bank->newest) {
        struct slab *slab = hak_pool_slab_numbered(bank->newest);
        if (!most--) {
            return 1;
        }
        hak_lock_step(1);
        if (slab->list == SLAB_AWAY) {
            leave_behind(bank, slab);
        } else {
            release(bank, slab);
        }
    }
    return 0;
}

void hak_bank_walk_begin(struct bank *bank, struct bank_walk *walk)
{
    walk->at = bank->newest;
    walk->next = bank->walks;
    bank->walks = walk;
}

/* Where the bank knows the walk from; holds NULL if it does not: then it is another owner's, who
   has come in the place of the one that has ended. */
static struct bank_walk **place_of(struct bank *bank, const struct bank_walk *walk)
{
    struct bank_walk **place = &bank->walks;
    while (*place && *place != walk) {
        place = &(*place)->next;
    }
    return place;
}

int hak_bank_walk_some(struct bank *bank, struct bank_walk *walk, uint32_t most,
                       void (*visit)(const struct slab *slab, void *context), void *context)
{
    walk->at = *place_of(bank, walk) ? walk->at : 0;
    for (; walk->at && most; most--) {
        const struct slab *slab = hak_pool_slab_numbered(walk->at);
        hak_lock_step(1);
        visit(slab, context);
        walk->at = slab->older;
    }
    return walk->at != 0;
}

void hak_bank_walk_end(struct bank *bank, struct bank_walk *walk)
{
    struct bank_walk **place = place_of(bank, walk);
    *place = *place ? walk->next : NULL;
}

static int verify_slab(const struct bank *bank, const struct slab *slab)
{
    int error = hak_slab_verify(slab);
    if (!error && hak_map_get(slab->base).tag != TAG_SLAB(slab->owner, slab->size_class)) {
        error = VERIFY_BANK_TAG;
    }
    if (!error && slab->list == SLAB_PARTIAL && hak_slab_is_empty(slab) &&
        bank->empty[slab->size_class] != slab) {
        error = VERIFY_BANK_EMPTY;
    }
    return error ? error : hak_map_verify(slab->base, 1);
}

/* `size_class`: of a partial list. Adds the list's length to *n. */
static int verify_list(const struct bank *bank, enum slab_list list, uint32_t size_class,
                       uint32_t *n)
{
    const struct slab *first = list == SLAB_PARTIAL ? bank->partial[size_class]
                               : list == SLAB_FULL  ? bank->full
                                                    : bank->away;
    const struct slab *prev = NULL;
    int error = 0;
    for (const struct slab *slab = first; slab && !error; prev = slab, slab = slab->next, ++*n) {
        if (slab->prev != prev || slab->owner != bank->owner || slab->list != list ||
            (list == SLAB_PARTIAL && slab->size_class != size_class)) {
            return VERIFY_BANK_LIST;
        }
        error = verify_slab(bank, slab);
    }
    return error;
}

static int verify_by_age(const struct bank *bank)
{
    uint32_t n = 0, newer = 0, at = bank->newest;
    while (at && n < bank->n_slabs) {
        const struct slab *slab = hak_pool_slab_numbered(at);
        if (slab->newer != newer || slab->owner != bank->owner) {
            break;
        }
        newer = at;
        at = slab->older;
        n++;
    }
    return !at && n == bank->n_slabs ? 0 : VERIFY_BANK_BY_AGE;
}

int hak_bank_verify(const struct bank *bank)
{
    uint32_t n_slabs = 0;
    int error = verify_list(bank, SLAB_FULL, 0, &n_slabs);
    error = error ? error : verify_list(bank, SLAB_AWAY, 0, &n_slabs);
    for (uint32_t c = 0; c < SC_N_CLASSES && !error; c++) {
        uint32_t before = n_slabs;
        error = verify_list(bank, SLAB_PARTIAL, c, &n_slabs);
        if (!error && n_slabs - before != bank->n_partial[c]) {
            error = VERIFY_BANK_LENGTH;
        }
    }
    if (!error && n_slabs != bank->n_slabs) {
        error = VERIFY_BANK_COUNT;
    }
    return error ? error : verify_by_age(bank);
}
