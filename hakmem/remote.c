/* Remote free: a block whose slab belongs to another heap travels in a chain.

   Sender: an outbox slot (direct-mapped by the tag, that is by owner and class) gathers a chain; one compare-and-swap
   pushes the whole chain onto the owner's inbox. Receiver: one exchange takes all chains.

   A chain lies in its own blocks: the first word of each is the next block; while the chain waits in an inbox or a returned
   list, the second word of its head is the next chain (lower 48 bits) and the number of blocks (upper 16). Blocks have at
   least two words. (Carrying six pointers in every seventh block, so that the receiver fetches lines in parallel, was tried
   and was slower by a quarter on two cores.)

   No chain is lost when an owner ends: it sets HEAP_ORPHAN and then takes its inbox; a sender pushes and then reads the
   state; both in sequentially consistent order, so that at least one of them sees the other's step and collects.
   Locks: the owner's heap lock for receive and collect. */
#include "base/error.h"
#include "base/stats.h"
#include "hakmem/heap.h"
#include "hakmem/user_heap.h"

#define COUNT_SHIFT 48
#define LINK_MASK   (((uintptr_t)1 << COUNT_SHIFT) - 1)

static uintptr_t *second_word(void *block)
{
    return (uintptr_t *)block + 1;
}

static uint32_t chain_limit(uint32_t size_class)
{
    uint32_t by_bytes = OUTBOX_MAX_BYTES / sc_table[size_class].size;
    return by_bytes == 0 ? 1 : by_bytes < OUTBOX_MAX_BLOCKS ? by_bytes : OUTBOX_MAX_BLOCKS;
}

/* After a push: an orphan, or an owner that does not look into its inbox, is served by the sender. */
static void collect_for(struct heap *owner, int64_t pending)
{
    int is_orphan = atomic_load_seq(&owner->state) == HEAP_ORPHAN;
    if (HAK_LIKELY(!is_orphan && pending < INBOX_MAX_BYTES)) {
        return;
    }
    if (is_orphan || pending >= INBOX_WAIT_BYTES) {
        lock_acquire(&owner->lock);
    } else if (!lock_try(&owner->lock)) {
        return;
    }
    heap_tidy(owner);
    (void)heap_unlock(owner);
    stat_add(chains_drained_by_sender, 1);
}

static void send_chain(void *head, uint32_t tag, uint32_t count)
{
    struct heap *owner = heap_by_id(TAG_OWNER(tag));
    HAK_CHECK(owner, "invalid pointer freed (it belongs to a pool of its own)", head);
    int64_t bytes = (int64_t)count * sc_table[TAG_CLASS(tag)].size;
    int64_t pending = atomic_add_relaxed(&owner->inbox_bytes, bytes) + bytes;
    void *link = atomic_load_relaxed(&owner->inbox);
    do {
        *second_word(head) = (uintptr_t)link | (uintptr_t)count << COUNT_SHIFT;
    } while (!atomic_cas_weak_seq(&owner->inbox, &link, head));
    stat_add(chains_sent, 1);
    collect_for(owner, pending);
}

static void send_slot(struct outbox_slot *slot)
{
    void *head = slot->head;
    uint32_t count = slot->count;
    slot->head = NULL;
    slot->count = 0;
    send_chain(head, slot->tag, count);
}

void remote_free_now(void *block, uint32_t tag)
{
    if (HAK_UNLIKELY(!heap_by_id(TAG_OWNER(tag)))) {
        user_heap_put(block, tag);
        return;
    }
    link_set(block, NULL);
    send_chain(block, tag, 1);
}

void remote_send_list(void *head)
{
    while (head) {
        uint32_t tag = map_find(head).tag;
        void *last = head;
        uint32_t count = 1;
        void *rest = link_next(last);
        while (rest && count < OUTBOX_MAX_BLOCKS && map_find(rest).tag == tag) {
            last = rest;
            rest = link_next(last);
            count++;
        }
        link_set(last, NULL);
        send_chain(head, tag, count);
        head = rest;
    }
}

static HAK_NOINLINE void retarget(struct outbox_slot *slot, uint32_t tag)
{
    if (slot->count) {
        send_slot(slot);
    }
    struct heap *owner = heap_by_id(TAG_OWNER(tag));
    slot->tag = tag;
    slot->limit =
        !owner || atomic_load_relaxed(&owner->state) == HEAP_ORPHAN ? 0 : (uint16_t)chain_limit(TAG_CLASS(tag));
}

/* A block whose owner has no thread goes into the own bin: nobody else would use it soon, and sending it takes the owner's lock.
   It comes back to its slab when the bin is emptied, as a stray (heap.h). */
static void keep(struct heap *heap, void *block, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    HAK_CHECK(bin->head != block, "block freed twice", block);
    bin_push(bin, block);
    if (bin->room < 0) {
        tc_overflow(heap, size_class);
    }
}

void remote_free(struct heap *heap, void *block, uint32_t tag)
{
    /* In a row: its slab may have got another owner between the two, and the block another slot. */
    HAK_CHECK(heap->outbox[heap->last_slot].head != block, "block freed twice", block);
    /* Owners and classes are small numbers: mix both into the slot. */
    struct outbox_slot *slot = &heap->outbox[((tag >> TAG_BIN_SHIFT) ^ (tag >> (TAG_OWNER_SHIFT - 2))) % OUTBOX_SLOTS];
    if (HAK_UNLIKELY(slot->tag != tag)) {
        retarget(slot, tag);
    }
    if (slot->limit == 0) {
        if (HAK_UNLIKELY(!heap_by_id(TAG_OWNER(tag)))) {
            user_heap_put(block, tag); /* its heap may be destroyed at any time: nothing of it waits anywhere */
        } else {
            keep(heap, block, TAG_CLASS(tag));
        }
        return;
    }
    HAK_CHECK(slot->head != block, "block freed twice", block);
    heap->last_slot = (uint32_t)(slot - heap->outbox);
    /* A full chain leaves when the next block comes: the newest stays, so that a block freed twice in a row is always seen. */
    if (HAK_UNLIKELY(slot->count >= slot->limit)) {
        send_slot(slot);
    }
    link_set(block, slot->head);
    slot->head = block;
    slot->count++;
}

void remote_send_all(struct heap *heap)
{
    for (uint32_t i = 0; i < OUTBOX_SLOTS; i++) {
        struct outbox_slot *slot = &heap->outbox[i];
        if (slot->count) {
            send_slot(slot);
        } else if (slot->limit == 0) {
            slot->tag = 0; /* the owner may have a thread again: asked anew */
        }
    }
}

/* The look before the exchange must be in the same order as the state's store in make_orphan: were it earlier, a chain that is
   pushed between the two, by a sender who still reads LIVE, would stay in an orphan's inbox. */
static void *take_inbox(struct heap *heap)
{
    if (!atomic_load_seq(&heap->inbox)) {
        return NULL;
    }
    atomic_store_relaxed(&heap->inbox_bytes, 0);
    return atomic_exchange_seq(&heap->inbox, NULL);
}

void remote_receive(struct heap *heap)
{
    void *next;
    for (void *head = take_inbox(heap); head; head = next) {
        uintptr_t word = *second_word(head);
        next = (void *)(word & LINK_MASK);
        uint32_t count = (uint32_t)(word >> COUNT_SHIFT);
        uint32_t size_class = TAG_CLASS(map_find(head).tag);
        uint64_t bytes = (uint64_t)count * sc_table[size_class].size;
        if (heap->returned_bytes + bytes > RETURNED_MAX_BYTES) {
            bank_put_list(&heap->bank, head);
            continue;
        }
        *second_word(head) = (uintptr_t)heap->returned[size_class] | (uintptr_t)count << COUNT_SHIFT;
        heap->returned[size_class] = head;
        heap->returned_bytes += bytes;
    }
}

void *remote_take_returned(struct heap *heap, uint32_t size_class, uint32_t *count)
{
    void *head = heap->returned[size_class];
    if (head) {
        uintptr_t word = *second_word(head);
        heap->returned[size_class] = (void *)(word & LINK_MASK);
        *count = (uint32_t)(word >> COUNT_SHIFT);
        heap->returned_bytes -= (uint64_t)*count * sc_table[size_class].size;
    }
    return head;
}

void remote_collect(struct heap *heap)
{
    uint32_t count;
    for (uint32_t c = 0; c < SC_N_CLASSES && heap->returned_bytes; c++) {
        void *head;
        while ((head = remote_take_returned(heap, c, &count)) != NULL) {
            bank_put_list(&heap->bank, head);
        }
    }
    void *next;
    for (void *head = take_inbox(heap); head; head = next) {
        next = (void *)(*second_word(head) & LINK_MASK);
        bank_put_list(&heap->bank, head);
    }
}

int remote_verify(const struct heap *heap)
{
    for (uint32_t i = 0; i < OUTBOX_SLOTS; i++) {
        const struct outbox_slot *slot = &heap->outbox[i];
        uint32_t n = 0;
        int is_broken = 0;
        for (const void *at = slot->head; at && n <= slot->count; at = link_look(at, &is_broken)) {
            n++;
        }
        if (is_broken || n != slot->count || (slot->count && slot->count > slot->limit)) {
            return 52;
        }
    }
    return 0;
}
