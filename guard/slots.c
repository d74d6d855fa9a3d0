/* Slots of guarded blocks and their queue. One lock, of rank GUARD. Called by layer.c, and by
   report.c for what they say. */
#include "guard/slots.h"

#include <errno.h>
#include <string.h>

#include "base/atomic.h"
#include "base/bits.h"
#include "base/lock.h"
#include "base/os.h"
#include "base/verify.h"
#include "superslab/map.h"

#define FILL ((char)0xB5)

uintptr_t hak_guard_base;
size_t hak_guard_bytes;

static size_t page, slot_bytes, stride;
static struct guard_slot *slots;
static uint32_t n_slots, n_kept; /* how many wait at least */

static void mend(void);
static LOCK_DEFINE_MENDED(queue_lock, LOCK_RANK_GUARD, mend);
/* Numbers of free slots: `n_waiting` of them from `first` on, round about. */
static uint32_t *queue;
static uint32_t first, n_waiting;

static char *start_of(uint32_t i)
{
    return (char *)hak_guard_base + page + i * stride;
}

int hak_guard_make(uint32_t n)
{
    page = hak_os_page_size();
    slot_bytes = GUARD_MAX > page ? GUARD_MAX : page;
    stride = slot_bytes + page;
    slots = (struct guard_slot *)hak_os_meta_alloc(n * sizeof *slots);
    queue = (uint32_t *)hak_os_meta_alloc(n * sizeof *queue);
    const size_t unit = (size_t)1 << MAP_UNIT_SHIFT;
    size_t bytes = (page + n * stride + unit - 1) & ~(unit - 1);
    uintptr_t place = slots && queue ? (uintptr_t)hak_os_reserve(bytes + unit) : 0;
    char *base = (char *)((place + unit - 1) & ~(uintptr_t)(unit - 1));
    if (!place || hak_map_ensure(base, bytes)) {
        return ENOMEM; /* what was had stays: it is asked for again only by the program */
    }
    hak_map_set(base, bytes >> MAP_UNIT_SHIFT, TAG_FREE_UNIT, 0); /* no block of the functions below
                                                                   */
    n_slots = n;
    n_kept = n / 4;
    hak_guard_base = (uintptr_t)base;
    mend();
    atomic_store_release(&hak_guard_bytes, bytes);
    return 0;
}

/* The queue from what the slots say. What another thread was taking or giving is lost. */
static void mend(void)
{
    first = 0;
    n_waiting = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        if (slots[i].state == GUARD_FREE) {
            queue[n_waiting++] = i;
        }
    }
}

/* --- the queue --- */

/* A signal handler may have interrupted this very thread here: then none. */
static struct guard_slot *dequeue(void)
{
    struct guard_slot *slot = NULL;
    if (hak_lock_is_mine(&queue_lock)) {
        return NULL;
    }
    hak_lock_acquire(&queue_lock);
    if (n_waiting > n_kept) {
        slot = &slots[queue[first]];
        first = first + 1 < n_slots ? first + 1 : 0;
        n_waiting--;
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
    queue[(first + n_waiting++) % n_slots] = (uint32_t)(slot - slots);
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
static void place_block(struct guard_slot *slot, size_t size, size_t alignment, int is_at_end)
{
    char *start = start_of((uint32_t)(slot - slots)), *end = start + slot_bytes;
    alignment = alignment > 16 ? alignment : 16;
    slot->is_at_end = (uint32_t)is_at_end;
    slot->size = size;
    if (is_at_end) {
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

void *hak_guard_take(size_t size, size_t alignment, int is_at_end, struct guard_slot **slot)
{
    if (size > slot_bytes || alignment > page || !n_slots) {
        return NULL;
    }
    struct guard_slot *taken = dequeue();
    if (!taken) {
        return NULL;
    }
    place_block(taken, size, alignment, is_at_end);
    if (size) {
        if (hak_os_protect(taken->pages, taken->n_bytes, OS_WRITABLE)) {
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

/* The slot whose own pages an address lies in, or that follows a guard page; n_slots for none. */
static uint32_t index_of(const void *p)
{
    uint32_t i = (uint32_t)(((uintptr_t)p - hak_guard_base) / stride);
    return i < n_slots ? i : n_slots;
}

struct guard_slot *hak_guard_slot_of(const void *p)
{
    uint32_t i = index_of(p);
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
        slot->is_dirty = slot->is_dirty || hak_os_purge(slot->pages, slot->n_bytes);
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
    size_t offset = (uintptr_t)p - hak_guard_base;
    uint32_t i = (uint32_t)(offset / stride);
    if (offset % stride < page) { /* between the slots i - 1 and i */
        i = i && unlikelihood(i - 1, p) < unlikelihood(i, p) ? i - 1 : i;
    }
    return i < n_slots && slots[i].block ? spot_in(&slots[i], p) : none;
}

uint32_t hak_guard_n_used(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        n += atomic_load_relaxed(&slots[i].state) == GUARD_USED;
    }
    return n;
}

/* The queue has the free slots, each once. */
static int is_queue_right(void)
{
    uint32_t n_free = 0;
    hak_lock_acquire(&queue_lock);
    for (uint32_t i = 0; i < n_slots; i++) {
        n_free += slots[i].state == GUARD_FREE;
    }
    int is_right = n_free == n_waiting;
    for (uint32_t k = 0; is_right && k < n_waiting; k++) {
        is_right = slots[queue[(first + k) % n_slots]].state == GUARD_FREE;
    }
    hak_lock_release(&queue_lock);
    return is_right;
}

static int are_blocks_right(void)
{
    uint32_t i = 0;
    while (i < n_slots &&
           (atomic_load_relaxed(&slots[i].state) != GUARD_USED || index_of(slots[i].block) == i)) {
        i++;
    }
    return i == n_slots;
}

int hak_guard_verify(void)
{
    return n_slots && !(is_queue_right() && are_blocks_right()) ? VERIFY_GUARD : 0;
}
