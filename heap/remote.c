/* Remote free: a block whose slab belongs to another heap travels in a chain.

   Sender: an outbox slot (direct-mapped by the tag, that is by owner and class) gathers a chain;
   one compare-and-swap pushes the whole chain onto the owner's inbox. Receiver: one exchange takes
   all chains.

   A chain lies in its own blocks: the first word of each is the next block; while the chain waits
   in an inbox, the second word of its head is the next chain (lower 48 bits) and
   the number of blocks (upper 16). Blocks have at least two words. (Carrying six pointers in every
   seventh block, so that the receiver fetches lines in parallel, was tried and was slower by a
   quarter on two cores.)

   No chain is lost when an owner ends: it becomes an orphan and then takes its inbox; a sender
   pushes and then reads the state; both in sequentially consistent order, so that at least one of
   them sees the other's step and collects. Locks: the owner's heap lock for receive and collect. */
#include "base/error.h"
#include "base/lock_holds.h"
#include "base/stats.h"
#include "base/verify.h"
#include "heap/background.h"
#include "heap/common.h"
#include "heap/depot.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/small.h"
#include "heap/tcache.h"
#include "heap/theap.h"

#define COUNT_SHIFT 48
#define LINK_MASK   (((uintptr_t)1 << COUNT_SHIFT) - 1)
/* Of the lists of the class, so many blocks are compared with one that may be freed already. */
#define LOOK_AT_BLOCKS (HAK_VALIDATE ? UINT32_MAX : 16u)

static uint32_t chain_limit(uint32_t size_class)
{
    uint32_t by_bytes = OUTBOX_MAX_BYTES / hak_sc_table[size_class].size;
    return by_bytes == 0 ? 1 : by_bytes < OUTBOX_MAX_BLOCKS ? by_bytes : OUTBOX_MAX_BLOCKS;
}

/* A heap whose thread a forked child does not have: its inbox is not to be added to as it is. */
static HAK_COLD void mend(struct theap *heap)
{
    if (hak_gate_enter()) {
        hak_lock_acquire(&heap->owner.lock);
        hak_theap_mend(heap);
        hak_lock_release(&heap->owner.lock);
        hak_gate_leave();
    }
}

/* After a push: an orphan, or an owner that does not look into its inbox, is served by the sender.
   A parked heap's next thread looks. */
static void collect_for(struct theap *heap, int64_t pending)
{
    int is_orphan = !hak_theap_is_live(heap);
    int64_t most = !is_orphan                          ? INBOX_MAX_BYTES
                   : atomic_load_seq(&heap->is_parked) ? PARKED_INBOX_BYTES
                                                       : 0;
    if (HAK_LIKELY(pending < most)) {
        return;
    }
    if (!hak_gate_enter()) {
        if (!is_orphan) {
            return; /* it looks by itself */
        }
        hak_fork_defer_collect();
        if (hak_gate_is_closed() || !hak_gate_enter()) {
            return; /* whoever opens it collects */
        }
    }
    if (is_orphan ? hak_theap_tidy(heap, 1)
                  : hak_theap_relieve(heap, pending >= INBOX_WAIT_BYTES)) {
        hak_stat_add(chains_drained_by_sender, 1);
    }
    hak_gate_leave();
}

static void send_chain(void *head, uint32_t tag, uint32_t count)
{
    struct owner *owner = hak_owner_by_id(TAG_OWNER(tag));
    struct theap *heap = hak_theap_of_owner(owner);
    if (HAK_UNLIKELY(!heap)) {
        HAK_CHECK(owner && hak_owner_is_lost(owner),
                  "invalid pointer freed (it belongs to a pool of its own)", head);
        return;
    }
    if (HAK_UNLIKELY(atomic_load_acquire(&owner->epoch) != hak_theap_epoch)) {
        mend(heap);
    }
    int64_t bytes = (int64_t)count * hak_sc_table[TAG_CLASS(tag)].size;
    int64_t pending = atomic_add_relaxed(&owner->inbox_bytes, bytes) + bytes;
    void *link = atomic_load_relaxed(&owner->inbox);
    do {
        /* As a thread without a heap may free, which has no slot that would show it. */
        HAK_CHECK(link != head, "block freed twice", head);
        *hak_depot_word(head) = (uintptr_t)link | (uintptr_t)count << COUNT_SHIFT;
    } while (!atomic_cas_weak_seq(&owner->inbox, &link, head));
    hak_stat_add(chains_sent, 1);
    collect_for(heap, pending);
}

static void send_slot(struct outbox_slot *slot)
{
    void *head = slot->head;
    uint32_t count = slot->count;
    slot->head = (void *)(uintptr_t)hak_link_end;
    slot->count = 0;
    send_chain(head, slot->tag, count);
}

/* Blocks of a thread's heap travel, and lost owners' go nowhere. */
static int is_sent(struct owner *owner)
{
    return hak_theap_of_owner(owner) || (owner && hak_owner_is_lost(owner));
}

/* Gives a first-class heap's block back to its slab, or waits with it while the gate is closed:
   nothing of such a heap waits anywhere else. */
static void put_home(void *block, uint32_t tag)
{
    struct owner *owner = hak_owner_by_id(TAG_OWNER(tag));
    HAK_CHECK(owner && owner->kind == OWNER_HEAP,
              "invalid pointer freed (it belongs to a pool of its own)", block);
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        hak_fork_defer_block(block);
        return;
    }
    hak_lock_acquire(&owner->lock);
    hak_small_put(owner, TAG_CLASS(tag), block);
    hak_owner_release(owner);
    hak_ss_purge_due();
    hak_gate_leave();
    hak_background_poke();
}

void hak_remote_free_now(void *block, uint32_t tag)
{
    if (HAK_UNLIKELY(!is_sent(hak_owner_by_id(TAG_OWNER(tag))))) {
        put_home(block, tag);
        return;
    }
    hak_link_set(block, NULL);
    send_chain(block, tag, 1);
}

void hak_remote_send_list(void *head)
{
    while (head) {
        uint32_t tag = hak_map_find(head).tag;
        void *last = head;
        uint32_t count = 1;
        void *rest = hak_link_next(last);
        while (rest && count < OUTBOX_MAX_BLOCKS && hak_map_find(rest).tag == tag) {
            last = rest;
            rest = hak_link_next(last);
            count++;
        }
        hak_link_set(last, NULL);
        send_chain(head, tag, count);
        head = rest;
    }
}

/* 1 if blocks of the other heap's and the class go into the own bin. */
static int keeps(const struct theap *heap, const struct theap *other, uint32_t size_class)
{
    return (!hak_theap_is_live(other) && !atomic_load_relaxed(&other->is_parked)) ||
           (hak_mid_is_class(size_class) && !hak_tc_only_frees(heap, size_class));
}

/* A chain is full, and this thread has begun to allocate of the class, too. */
static int may_keep_now(const struct theap *heap, const struct outbox_slot *slot)
{
    return slot->limit && slot->count >= slot->limit && hak_mid_is_class(TAG_CLASS(slot->tag)) &&
           !hak_tc_only_frees(heap, TAG_CLASS(slot->tag));
}

static HAK_NOINLINE void retarget(const struct theap *heap, struct outbox_slot *slot, uint32_t tag)
{
    if (slot->count) {
        send_slot(slot);
    }
    struct theap *other = hak_theap_of_owner(hak_owner_by_id(TAG_OWNER(tag)));
    slot->tag = tag;
    slot->is_kept = other && keeps(heap, other, TAG_CLASS(tag));
    slot->limit =
        !other || slot->is_kept || hak_gate_is_mine() ? 0 : (uint8_t)chain_limit(TAG_CLASS(tag));
}

/* What waits in a list has a link in its first word, or 0 where its page was purged; so does what
   the program has never written to. */
static void check_in_use(const struct theap *heap, uint32_t size_class, const void *block)
{
    uint32_t offset = (uint32_t)(uintptr_t)block & (SC_SLAB_BYTES - 1);
    HAK_CHECK(heap->bins[size_class].head != block, "block freed twice", block);
    if (HAK_LIKELY(!hak_link_may_be_or_was(block) && !hak_tc_is_marked_free(heap, block))) {
        return;
    }
    struct slab *slab = hak_pool_slab_of(hak_map_find(block).ref, block);
    HAK_CHECK(!hak_slab_shows_free(slab, hak_sc_index_of(size_class, offset)) &&
                  !(hak_mid_is_class(size_class) && hak_bank_has_mark(block)) &&
                  !((hak_link_may_be(block) || hak_tc_is_marked_free(heap, block)) &&
                    hak_tc_holds(heap, size_class, block, LOOK_AT_BLOCKS)),
              "block freed twice", block);
}

/* Into the own bin goes
   - a block whose owner has no thread, nor waits for one: no other thread would use it soon, and
     sending it takes the owner's lock;
   - one of a mid class that this thread allocates too: no two of them share a cache line, and to
     send each costs more than it is worth.
   It comes back to its slab when lists go to their slabs, as a stray (theap.h). */
void hak_remote_keep(struct theap *heap, void *block, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    check_in_use(heap, size_class, block);
    hak_tc_mark_free(heap, block);
    hak_tc_bin_push(bin, block);
    if (bin->room < 0) {
        hak_tc_overflow(heap, size_class);
    }
}

void hak_remote_free(struct theap *heap, void *block, uint32_t tag)
{
    /* In a row: its slab may have got another owner between the two, and the block another slot. */
    HAK_CHECK(heap->last_slot->head != block, "block freed twice", block);
    if (HAK_UNLIKELY(hak_theap_which_common(tag) < N_COMMON_HEAPS)) {
        hak_common_free(heap, block, tag);
        return;
    }
    struct outbox_slot *slot = hak_remote_slot(heap, tag);
    HAK_CHECK(slot->head != block, "block freed twice", block);
    if (HAK_UNLIKELY(slot->tag != tag) || may_keep_now(heap, slot)) {
        retarget(heap, slot, tag);
    }
    if (slot->limit == 0) {
        if (!slot->is_kept && HAK_UNLIKELY(!is_sent(hak_owner_by_id(TAG_OWNER(tag))))) {
            put_home(block,
                     tag); /* its heap may be destroyed at any time: nothing of it waits anywhere */
        } else {
            hak_remote_keep(heap, block, TAG_CLASS(tag));
        }
        return;
    }
    /* A full chain leaves when the next block comes: the newest stays, so that a block freed twice
       in a row is always seen. */
    if (HAK_UNLIKELY(slot->count >= slot->limit)) {
        send_slot(slot);
    }
    hak_remote_push(heap, slot, block);
}

void hak_remote_send_all(struct theap *heap)
{
    for (uint32_t i = 0; i < OUTBOX_SLOTS; i++) {
        struct outbox_slot *slot = &heap->outbox[i];
        if (slot->count) {
            send_slot(slot);
        } else if (slot->limit == 0) {
            slot->tag = 0;     /* the owner may have a thread again: asked again */
            slot->is_kept = 0; /* what is in no slab has tag 0, too */
        }
    }
}

/* The look before the exchange must be in the same order as the state's store in make_orphan: were
   it earlier, a chain that is pushed between the two, by a sender who still reads that it lives,
   would stay in an orphan's inbox. Between the handlers of a fork nothing is taken: in the child it
   may be torn, and older handlers run before ours. */
static void *take_inbox(struct theap *heap)
{
    if (hak_gate_is_mine()) {
        return NULL;
    }
    hak_theap_mend(heap);
    if (!atomic_load_seq(&heap->owner.inbox)) {
        return NULL;
    }
    atomic_store_relaxed(&heap->owner.inbox_bytes, 0);
    return atomic_exchange_seq(&heap->owner.inbox, NULL);
}

void hak_remote_receive_chains(struct theap *heap)
{
    void *next;
    for (void *head = take_inbox(heap); head; head = next) {
        uintptr_t word = hak_depot_take_word(head);
        hak_lock_step(1);
        next = (void *)(word & LINK_MASK);
        uint32_t count = (uint32_t)(word >> COUNT_SHIFT);
        uint32_t size_class = TAG_CLASS(hak_map_find(head).tag);
        if (!hak_depot_put(heap, size_class, head, count, DEPOT_CHAIN)) {
            hak_small_put_list(&heap->owner, size_class, head);
        }
    }
}

void hak_remote_collect_inbox(struct theap *heap)
{
    void *next;
    for (void *head = take_inbox(heap); head; head = next) {
        hak_lock_step(1);
        next = (void *)(hak_depot_take_word(head) & LINK_MASK);
        hak_small_put_list(&heap->owner, TAG_CLASS(hak_map_find(head).tag), head);
    }
}

int hak_remote_collect(struct theap *heap)
{
    int is_more = hak_depot_give_back(heap, DEPOT_LEAST_BYTES);
    hak_remote_collect_inbox(heap);
    return is_more;
}

int hak_remote_verify(const struct theap *heap)
{
    for (uint32_t i = 0; i < OUTBOX_SLOTS; i++) {
        const struct outbox_slot *slot = &heap->outbox[i];
        uint32_t n = 0;
        int is_broken = 0;
        for (const void *at = hak_link_block(slot->head); at && n <= slot->count;
             at = hak_link_look(at, &is_broken)) {
            n++;
        }
        if (is_broken || n != slot->count || (slot->count && slot->count > slot->limit) ||
            (slot->is_kept && (slot->limit || !slot->tag))) {
            return VERIFY_REMOTE_OUTBOX;
        }
    }
    return 0;
}
