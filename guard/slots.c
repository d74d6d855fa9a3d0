/* Slots of guarded blocks and their queues. One lock, of rank GUARD. Called by layer.c, and by
   report.c for what they say. */
#include "guard/slots.h"

#include <errno.h>
#include <string.h>

#include "base/atomic.h"
#include "base/bits.h"
#include "base/lock.h"
#include "base/os.h"
#include "base/verify.h"
#include "limit/limit.h"
#include "superslab/map.h"

#define FILL ((char)0xB5)

uintptr_t hak_guard_base;
size_t hak_guard_bytes;

/* Slots of one size, side by side, each behind its guard page, and the queue of those that are
   free: their numbers, `n_waiting` of them from `first` on, round about. */
struct pool {
    size_t slot_bytes, stride;
    char *start;        /* the first guard page */
    uint32_t number, n; /* of the first slot, and how many */
    uint32_t n_kept;    /* how many wait at least */
    uint32_t *queue;
    uint32_t first, n_waiting;
};

static size_t page;
static struct guard_slot *slots; /* the small ones, then the large ones */
static uint32_t n_slots;
static struct pool small, large;

static void mend(void);
static LOCK_DEFINE_MENDED(queue_lock, LOCK_RANK_GUARD, mend);

static struct pool *pool_of(const struct guard_slot *slot)
{
    return slot - slots < (ptrdiff_t)small.n ? &small : &large;
}

static char *start_of(const struct guard_slot *slot)
{
    const struct pool *pool = pool_of(slot);
    return pool->start + page + ((size_t)(slot - slots) - pool->number) * pool->stride;
}

/* --- making them --- */

static void set_pool(struct pool *pool, size_t bytes, uint32_t number, uint32_t n)
{
    pool->slot_bytes = (bytes + page - 1) & ~(page - 1);
    pool->stride = pool->slot_bytes + page;
    pool->number = number;
    pool->n = n;
    pool->n_kept = n / 4;
}

static void set_pools(uint32_t n, size_t large_bytes)
{
    uint32_t n_large = n / GUARD_LARGE_PART;
    n_large = n_large < GUARD_LARGE_LEAST  ? GUARD_LARGE_LEAST
              : n_large > GUARD_LARGE_MOST ? GUARD_LARGE_MOST
                                           : n_large;
    set_pool(&small, GUARD_MAX, 0, n);
    set_pool(&large, large_bytes, n, large_bytes > small.slot_bytes ? n_large : 0);
    n_slots = small.n + large.n;
}

/* Address space of whole units for both pools, NULL if there is none. */
static char *reserve(size_t *bytes)
{
    const size_t unit = (size_t)1 << MAP_UNIT_SHIFT;
    *bytes = (page + small.n * small.stride + large.n * large.stride + unit - 1) & ~(unit - 1);
    uintptr_t place = (uintptr_t)hak_os_reserve(*bytes + unit);
    char *base = (char *)((place + unit - 1) & ~(uintptr_t)(unit - 1));
    return place && hak_map_ensure(base, *bytes) == 0 ? base : NULL;
}

/* What it had stays where the system refuses: it is asked for again only by the program. */
int hak_guard_make(uint32_t n, size_t large_bytes)
{
    size_t bytes;
    page = hak_os_page_size();
    set_pools(n, large_bytes);
    char *base = reserve(&bytes);
    if (!base && large.n) {
        set_pools(n, 0);
        base = reserve(&bytes);
    }
    slots = (struct guard_slot *)hak_os_meta_alloc(n_slots * sizeof *slots);
    small.queue = (uint32_t *)hak_os_meta_alloc(n_slots * sizeof *small.queue);
    if (!base || !slots || !small.queue) {
        n_slots = 0;
        return ENOMEM;
    }
    large.queue = small.queue + small.n;
    small.start = base;
    large.start = base + small.n * small.stride;
    hak_map_set(base, bytes >> MAP_UNIT_SHIFT, TAG_FREE_UNIT, 0); /* no block of the functions below
                                                                   */
    hak_guard_base = (uintptr_t)base;
    hak_limit_map(bytes);
    mend();
    atomic_store_release(&hak_guard_bytes, bytes);
    return 0;
}

size_t hak_guard_largest(void)
{
    return large.n ? large.slot_bytes : small.slot_bytes;
}

static struct pool *pool_for(size_t size)
{
    return size <= small.slot_bytes ? &small : &large;
}

uint32_t hak_guard_n_slots(size_t size, uint32_t *n_kept)
{
    const struct pool *pool = pool_for(size);
    *n_kept = pool->n_kept;
    return pool->n;
}

/* --- the queues --- */

static void append(struct pool *pool, uint32_t number)
{
    pool->queue[(pool->first + pool->n_waiting++) % pool->n] = number;
}

/* The queues from what the slots say. What another thread was taking or giving is lost. */
static void mend(void)
{
    small.first = small.n_waiting = 0;
    large.first = large.n_waiting = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        if (slots[i].state == GUARD_FREE) {
            append(pool_of(&slots[i]), i);
        }
    }
}

/* A signal handler may have interrupted this very thread here: then none. */
static struct guard_slot *dequeue(struct pool *pool)
{
    struct guard_slot *slot = NULL;
    if (hak_lock_is_mine(&queue_lock)) {
        return NULL;
    }
    hak_lock_acquire(&queue_lock);
    if (pool->n_waiting > pool->n_kept) {
        slot = &slots[pool->queue[pool->first]];
        pool->first = pool->first + 1 < pool->n ? pool->first + 1 : 0;
        pool->n_waiting--;
        atomic_store_relaxed(&slot->state, (uint32_t)GUARD_TAKING);
    }
    hak_lock_release(&queue_lock);
    return slot;
}

static void enqueue(struct guard_slot *slot)
{
    if (hak_lock_is_mine(&queue_lock)) {
        return; /* a signal handler's free: the slot is lost */
    }
    hak_lock_acquire(&queue_lock);
    atomic_store_release(&slot->state, (uint32_t)GUARD_FREE);
    append(pool_of(slot), (uint32_t)(slot - slots));
    hak_lock_release(&queue_lock);
}

/* The gate that a fork closes (heap/gate.h) does not lead here, so that the lock is mended here. */
void hak_guard_fork_child(void)
{
    if (queue_lock.word && !hak_lock_is_mine(&queue_lock)) {
        (void)hak_lock_mend(&queue_lock);
    }
}

/* --- blocks --- */

/* Where the block and its pages lie. */
static void place_block(struct guard_slot *slot, const struct guard_wish *wish)
{
    char *start = start_of(slot), *end = start + pool_of(slot)->slot_bytes;
    size_t size = wish->size, alignment = wish->alignment > 16 ? wish->alignment : 16;
    slot->is_at_end = (uint32_t)wish->is_at_end;
    slot->size = size;
    slot->heap = wish->heap;
    if (wish->is_at_end) {
        size_t room = ((size ? size : 1) + alignment - 1) & ~(alignment - 1);
        slot->block = end - room;
        slot->pages = end - ((room + page - 1) & ~(page - 1));
        slot->n_bytes = (size_t)(end - slot->pages);
    } else {
        slot->block = slot->pages = start;
        slot->n_bytes = (size + page - 1) & ~(page - 1);
    }
}

struct around {
    char *before, *behind;
    size_t n_before, n_behind;
};

/* The bytes that are filled. */
static struct around around(const struct guard_slot *slot)
{
    char *end = slot->block + slot->size;
    size_t n_before = (size_t)(slot->block - slot->pages);
    size_t n_behind = (size_t)(slot->pages + slot->n_bytes - end);
    n_before = n_before < GUARD_FILL ? n_before : GUARD_FILL;
    n_behind = n_behind < GUARD_FILL ? n_behind : GUARD_FILL;
    return (struct around){slot->block - n_before, end, n_before, n_behind};
}

static void fill(const struct guard_slot *slot)
{
    struct around by = around(slot);
    memset(by.before, FILL, by.n_before);
    memset(by.behind, FILL, by.n_behind);
}

static int is_filled(const char *p, size_t n)
{
    while (n && *p == FILL) {
        p++;
        n--;
    }
    return n == 0;
}

enum guard_place hak_guard_check(const struct guard_slot *slot)
{
    if (slot->size == 0) {
        return GUARD_NOWHERE;
    }
    struct around by = around(slot);
    return !is_filled(by.behind, by.n_behind)   ? GUARD_BEHIND
           : !is_filled(by.before, by.n_before) ? GUARD_BEFORE
                                                : GUARD_NOWHERE;
}

/* What the memory limit counts for the slot. Each block in use cuts a mapping in three. */
static void count(struct guard_slot *slot, size_t bytes, int mappings)
{
    if (bytes > slot->committed) {
        hak_limit_commit(bytes - slot->committed);
    } else {
        hak_limit_uncommit(slot->committed - bytes);
    }
    slot->committed = bytes;
    hak_limit_count_mappings(mappings);
}

/* Whether its pages may be had. The block is served by others if not: nothing is reported. */
static int get_pages(struct guard_slot *slot)
{
    size_t more = slot->n_bytes > slot->committed ? slot->n_bytes - slot->committed : 0;
    if (hak_limit_is_set() &&
        !(hak_limit_has_room(more) && hak_limit_admit(more, slot->size, slot->n_bytes))) {
        return 0;
    }
    if (hak_os_protect(slot->pages, slot->n_bytes, OS_WRITABLE)) {
        return 0;
    }
    count(slot, slot->committed + more, 2);
    return 1;
}

void *hak_guard_take(const struct guard_wish *wish, struct guard_slot **slot)
{
    if (!n_slots || wish->size > hak_guard_largest() || wish->alignment > page) {
        return NULL;
    }
    struct guard_slot *taken = dequeue(pool_for(wish->size));
    if (!taken) {
        return NULL;
    }
    place_block(taken, wish);
    if (wish->size) {
        if (!get_pages(taken)) {
            enqueue(taken);
            return NULL;
        }
        if (taken->is_dirty) {
            memset(taken->pages, 0, taken->n_bytes);
        }
        fill(taken);
    }
    *slot = taken;
    atomic_store_release(&taken->state, (uint32_t)GUARD_USED);
    return taken->block;
}

/* The number of the slot whose own pages an address lies in, or that follows the guard page where
   it lies (then *is_between); n_slots or more for none. */
static uint32_t number_of(const void *p, int *is_between)
{
    const struct pool *pool = large.n && (const char *)p >= large.start ? &large : &small;
    size_t offset = (size_t)((const char *)p - pool->start);
    *is_between = offset % pool->stride < page;
    return pool->number + (uint32_t)(offset / pool->stride);
}

struct guard_slot *hak_guard_slot_of(const void *p)
{
    int is_between;
    uint32_t i = number_of(p, &is_between);
    return i < n_slots && slots[i].block == p ? &slots[i] : NULL;
}

int hak_guard_begin_give(struct guard_slot *slot)
{
    uint32_t used = GUARD_USED;
    return atomic_cas_strong(&slot->state, &used, (uint32_t)GUARD_GIVING);
}

/* Where the system refuses the first, the pages can be touched still. */
void hak_guard_end_give(struct guard_slot *slot)
{
    if (slot->size) {
        (void)!hak_os_protect(slot->pages, slot->n_bytes, OS_UNTOUCHABLE);
        int is_refused = hak_os_purge(slot->pages, slot->n_bytes);
        slot->is_dirty = slot->is_dirty || is_refused;
        count(slot, is_refused ? slot->committed : 0, -2);
    }
    enqueue(slot);
}

/* --- reports --- */

static struct guard_spot spot_in(const struct guard_slot *slot, const void *p)
{
    const char *at = (const char *)p;
    if (at < slot->block) {
        return (struct guard_spot){slot, GUARD_BEFORE, (size_t)(slot->block - at)};
    }
    size_t offset = (size_t)(at - slot->block);
    return offset < slot->size ? (struct guard_spot){slot, GUARD_INSIDE, offset}
                               : (struct guard_spot){slot, GUARD_BEHIND, offset - slot->size};
}

/* How unlikely it is that an address in a guard page was meant for that slot's block: how far away
   it is, where freed blocks are half a page further. */
static size_t unlikelihood(uint32_t i, const void *p)
{
    if (i >= n_slots || !slots[i].block) {
        return SIZE_MAX;
    }
    return spot_in(&slots[i], p).distance +
           (atomic_load_relaxed(&slots[i].state) == GUARD_USED ? 0 : page / 2);
}

struct guard_spot hak_guard_spot_of(const void *p)
{
    struct guard_spot none = {NULL, GUARD_NOWHERE, 0};
    if (!hak_guard_holds(p)) {
        return none;
    }
    int is_between;
    uint32_t i = number_of(p, &is_between);
    if (is_between) { /* the slots i - 1 and i */
        i = i && unlikelihood(i - 1, p) < unlikelihood(i, p) ? i - 1 : i;
    }
    return i < n_slots && slots[i].block ? spot_in(&slots[i], p) : none;
}

struct guard_slot *hak_guard_next_used(uint32_t *i)
{
    while (*i < n_slots) {
        struct guard_slot *slot = &slots[(*i)++];
        if (atomic_load_acquire(&slot->state) == GUARD_USED) {
            return slot;
        }
    }
    return NULL;
}

uint32_t hak_guard_n_used(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; hak_guard_next_used(&i);) {
        n++;
    }
    return n;
}

/* A queue has the free slots of its pool, each once. */
static int is_queue_right(const struct pool *pool)
{
    uint32_t n_free = 0;
    hak_lock_acquire(&queue_lock);
    for (uint32_t i = 0; i < pool->n; i++) {
        n_free += slots[pool->number + i].state == GUARD_FREE;
    }
    int is_right = n_free == pool->n_waiting;
    for (uint32_t k = 0; is_right && k < pool->n_waiting; k++) {
        uint32_t i = pool->queue[(pool->first + k) % pool->n];
        is_right = slots[i].state == GUARD_FREE && pool_of(&slots[i]) == pool;
    }
    hak_lock_release(&queue_lock);
    return is_right;
}

static int are_blocks_right(void)
{
    int is_right = 1, is_between;
    const struct guard_slot *slot;
    for (uint32_t i = 0; is_right && (slot = hak_guard_next_used(&i)) != NULL;) {
        is_right = number_of(slot->block, &is_between) == (uint32_t)(slot - slots);
    }
    return is_right;
}

int hak_guard_verify(void)
{
    return n_slots && !(is_queue_right(&small) && is_queue_right(&large) && are_blocks_right())
               ? VERIFY_GUARD
               : 0;
}
