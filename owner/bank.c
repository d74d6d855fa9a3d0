/* Banks of slabs. The caller holds the owner's lock, except to make a slab; takes the pool lock for
   new and empty slabs. Blocks are taken and put by tiny and mid_mt alone; heaps move slabs and
   release empty ones. */
#include "owner/bank.h"

#include "base/error.h"
#include "base/list.h"
#include "base/verify.h"

/* How many slabs of a list hak_bank_move_one looks at. */
#define MOVE_SEARCH 8u

void hak_bank_init(struct bank *bank, uint32_t owner)
{
    bank->owner = owner;
    bank->n_slabs = 0;
    bank->keeps_empty = 1;
    bank->has_strays_sent = 0;
    bank->strays = NULL;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bank->partial[c] = NULL;
        bank->n_partial[c] = 0;
    }
}

static void count_partial(struct bank *bank, uint32_t size_class, uint32_t change)
{
    atomic_store_relaxed(&bank->n_partial[size_class], bank->n_partial[size_class] + change);
}

static HAK_NOINLINE void list_push(struct bank *bank, struct slab *slab)
{
    struct slab **list = &bank->partial[slab->size_class];
    LIST_PUSH(list, slab, next, prev);
    slab->in_list = 1;
    count_partial(bank, slab->size_class, 1);
}

static void list_remove(struct bank *bank, struct slab *slab)
{
    LIST_TAKE_OUT(&bank->partial[slab->size_class], slab, next, prev);
    slab->in_list = 0;
    count_partial(bank, slab->size_class, (uint32_t)-1);
}

uint32_t hak_bank_take(struct bank *bank, uint32_t size_class, uint32_t want, void **head,
                       const struct owner_policy *policy)
{
    struct slab *slab = bank->partial[size_class];
    if (!slab) {
        *head = NULL;
        return 0;
    }
    uint32_t taken = hak_slab_take(slab, want, policy->fresh_bytes, head);
    bank->took_clean = slab->took_clean;
    if (slab->n_free == 0) {
        list_remove(bank, slab);
    }
    return taken;
}

struct slab *hak_bank_make(uint32_t size_class)
{
    return hak_pool_slab_alloc(TAG_FREE_UNIT, size_class);
}

void hak_bank_add(struct bank *bank, struct slab *slab)
{
    uint32_t ref = hak_map_get(slab->base).ref;
    atomic_store_relaxed(&slab->owner, bank->owner);
    hak_map_set(slab->base, 1, TAG_SLAB(bank->owner, slab->size_class), ref);
    bank->n_slabs++;
    list_push(bank, slab);
}

static void release(struct bank *bank, struct slab *slab)
{
    list_remove(bank, slab);
    bank->n_slabs--;
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
    }
}

/* Files a slab that has just got blocks back. */
static HAK_ALWAYS_INLINE void file(struct bank *bank, const struct owner_policy *policy,
                                   struct slab *slab)
{
    if (HAK_UNLIKELY(!slab->in_list)) {
        list_push(bank, slab);
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

uint32_t hak_bank_put_list(struct bank *bank, void *head, const struct owner_policy *policy)
{
    uint32_t n = 0;
    while (head) {
        struct slab *slab = slab_of(bank, head);
        if (HAK_LIKELY(slab)) {
            head = hak_slab_put_run(slab, head, &n);
            file(bank, policy, slab);
        } else {
            void *next = hak_link_next(head);
            hak_link_set(head, bank->strays);
            bank->strays = head;
            head = next;
            n++;
        }
    }
    return n;
}

static void move(struct bank *from, struct bank *to, struct slab *slab)
{
    struct map_entry entry = hak_map_get(slab->base);
    list_remove(from, slab);
    from->n_slabs--;
    atomic_store_relaxed(&slab->owner, to->owner);
    hak_map_set(slab->base, 1, TAG_SLAB(to->owner, slab->size_class), entry.ref);
    to->n_slabs++;
    list_push(to, slab);
}

void hak_bank_move_one(struct bank *from, struct bank *to, uint32_t size_class)
{
    struct slab *best = from->partial[size_class];
    uint32_t n = 0;
    for (struct slab *slab = best; slab && n < MOVE_SEARCH; slab = slab->next, n++) {
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
            move(from, to, from->partial[c]);
        }
    }
    return 0;
}

void hak_bank_release_empty(struct bank *bank)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        struct slab *next;
        for (struct slab *slab = bank->partial[c]; slab; slab = next) {
            next = slab->next;
            if (hak_slab_is_empty(slab)) {
                release(bank, slab);
            }
        }
    }
}

static int verify_one(const struct slab *slab, void *context)
{
    (*(uint32_t *)context)++;
    int error = hak_slab_verify(slab);
    struct map_entry entry = hak_map_get(slab->base);
    if (!error && entry.tag != TAG_SLAB(slab->owner, slab->size_class)) {
        error = VERIFY_BANK_TAG;
    }
    return error ? error : hak_map_verify(slab->base, 1);
}

int hak_bank_verify(const struct bank *bank)
{
    uint32_t n_slabs = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        const struct slab *prev = NULL;
        uint32_t n = 0;
        for (const struct slab *slab = bank->partial[c]; slab;
             prev = slab, slab = slab->next, n++) {
            if (slab->prev != prev || slab->size_class != c || slab->owner != bank->owner ||
                !slab->in_list) {
                return VERIFY_BANK_LIST;
            }
        }
        if (n != bank->n_partial[c]) {
            return VERIFY_BANK_LENGTH;
        }
    }
    hak_lock_acquire(&hak_pool_lock);
    int result = hak_pool_for_each_slab(bank->owner, verify_one, &n_slabs);
    hak_lock_release(&hak_pool_lock);
    return result || n_slabs == bank->n_slabs ? result : VERIFY_BANK_COUNT;
}
