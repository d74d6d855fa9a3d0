/* Trims: what owners of all kinds keep goes back, at once or once it has rested. Locks: one owner's
   at a time, for as many steps as there are size classes and for what waits in an inbox, which is
   bounded; none while the system is asked. Called by hak_purge and malloc_trim, before a request is
   refused, by walks and by the background thread. */
#include "base/stats.h"
#include "heap/background.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "heap/theap.h"
#include "owner/purge.h"
#include "superslab/pool.h"

/* What a thread's heap keeps in lists behind the lock goes to its slabs. Returns 1 if there is
   more: the lock is let go first. Owner's lock held. */
static int collect(struct owner *owner)
{
    struct theap *heap = hak_theap_of_owner(owner);
    return heap && hak_remote_collect(heap);
}

/* Releases the lock of an owner of any kind. Returns 1 if blocks were sent on. */
static int unlock(struct owner *owner)
{
    struct theap *heap = hak_theap_of_owner(owner);
    if (heap) {
        return hak_theap_unlock(heap);
    }
    hak_owner_release(owner);
    hak_ss_purge_due();
    return 0;
}

/* Returns 1 if blocks were sent on. */
static int trim_owners(void)
{
    int n_sent_on = 0;
    for (uint32_t id = 0; hak_owner_next(&id);) {
        struct owner *owner = hak_owner_hold(id);
        while (owner && collect(owner)) {
            n_sent_on += unlock(owner);
            owner = hak_owner_hold(id);
        }
        if (owner) {
            hak_bank_release_empty(&owner->bank);
            n_sent_on += unlock(owner);
        }
    }
    return n_sent_on != 0;
}

static void flush_own(void)
{
    if (hak_theap_own != &hak_theap_none) {
        hak_tc_flush(hak_theap_own);
        (void)hak_spans_end(&hak_theap_own->spans);
    }
}

/* What the thread of that heap keeps in spans; NULL if it is no heap of a thread. What a forked
   child has of another thread's may be half changed. */
static struct span_cache *spans_of(uint32_t id)
{
    struct theap *heap = hak_theap_of_owner(hak_owner_by_id(id));
    return heap && hak_theap_is_live(heap) ? &heap->spans : NULL;
}

/* Of all threads. */
static void flush_spans(void)
{
    for (uint32_t id = 0; hak_owner_next(&id);) {
        struct span_cache *spans = spans_of(id);
        if (spans) {
            (void)hak_spans_flush(spans);
        }
    }
}

void hak_theap_trim_own(void)
{
    struct theap *heap = hak_theap_own;
    flush_own();
    if (heap != &hak_theap_none) {
        hak_lock_acquire(&heap->owner.lock);
        while (hak_remote_collect(heap)) {
            (void)hak_theap_unlock(heap);
            hak_lock_acquire(&heap->owner.lock);
        }
        hak_bank_release_empty(&heap->owner.bank);
        (void)hak_theap_unlock(heap);
    }
}

void hak_theap_trim_all(void)
{
    flush_own();
    hak_parked_end(0);
    flush_spans();
    /* Once more if blocks were sent on: perhaps to a heap that had been done. */
    if (trim_owners()) {
        (void)trim_owners();
    }
}

/* Those of lost owners stay as they are, as all that is theirs. */
void hak_theap_collect_orphans(void)
{
    struct owner *owner;
    for (uint32_t id = 0; (owner = hak_owner_next(&id)) != NULL;) {
        struct theap *heap = hak_theap_of_owner(owner);
        if (heap && !hak_theap_is_live(heap) && atomic_load_seq(&owner->inbox)) {
            (void)hak_theap_tidy(heap, 1);
        }
    }
}

static int are_spans_kept; /* found by the tick; the background thread's */

int hak_theap_keeps_spans(void)
{
    return are_spans_kept;
}

/* Collects what an owner keeps while no thread uses it; returns 1 if there is more. Owner's lock
   held. */
static int rest(struct owner *owner)
{
    int is_more = 0;
    if (owner->n_uses != owner->seen_uses) {
        owner->has_rested = 0;
    } else if (!owner->has_rested || atomic_load_relaxed(&owner->inbox)) {
        is_more = collect(owner);
        if (!is_more) {
            hak_bank_release_empty(&owner->bank);
        }
        owner->has_rested = !is_more;
    }
    owner->seen_uses = owner->n_uses + 1; /* unlock will count the caller too */
    return is_more;
}

/* Inside the gate. */
static void rest_one(uint32_t id)
{
    struct owner *owner;
    struct span_cache *spans = spans_of(id);
    int is_more = 1;
    if (spans && hak_spans_rest(spans)) {
        are_spans_kept = 1;
    }
    while (is_more && (owner = hak_owner_hold(id)) != NULL) {
        is_more = rest(owner);
        (void)unlock(owner);
    }
}

/* A slab that came back to a heap without a thread goes on to the shared heap, as all of its. */
static void pass_on(struct owner *owner)
{
    struct theap *heap = hak_theap_of_owner(owner);
    if (heap && !hak_theap_is_live(heap) && owner->lock.rank == LOCK_RANK_HEAP) {
        (void)hak_theap_tidy(heap, 1);
    }
}

/* Inside the gate. */
static size_t purge_slab(char *start, uint16_t tick)
{
    struct owner *whose;
    size_t bytes = hak_owner_purge_slab(start, tick, &whose);
    if (whose) {
        pass_on(whose);
    }
    hak_stat_add(cold_bytes_purged, bytes);
    return bytes;
}

/* Of the slabs of one superslab. The gate is left between two: a fork does not wait long. */
static size_t purge_slabs(uint32_t number, uint16_t tick)
{
    char *base;
    size_t bytes = 0;
    if (!hak_gate_enter()) {
        return 0;
    }
    uint32_t mask = hak_pool_slab_mask(number, &base);
    hak_gate_leave();
    for (; mask && hak_gate_enter(); mask &= mask - 1) {
        bytes += purge_slab(base + (size_t)__builtin_ctz(mask) * SS_UNIT_BYTES, tick);
        hak_gate_leave();
    }
    return bytes;
}

size_t hak_theap_purge_all(void)
{
    size_t bytes = 0;
    for (uint32_t number = 0, n = hak_pool_n_superslabs(); number < n; number++) {
        bytes += purge_slabs(number, 0);
    }
    return bytes;
}

void hak_theap_rest_all(void)
{
    static uint16_t tick;
    tick = tick == UINT16_MAX ? 1 : (uint16_t)(tick + 1);
    are_spans_kept = 0;
    hak_spans_tick();
    if (hak_gate_enter()) {
        hak_parked_rest();
        hak_gate_leave();
    }
    for (uint32_t id = 0; !hak_background_must_end() && hak_owner_next(&id);) {
        if (hak_gate_enter()) {
            rest_one(id);
            hak_gate_leave();
        }
    }
    for (uint32_t number = 0, n = hak_pool_n_superslabs(); number < n && !hak_background_must_end();
         number++) {
        (void)purge_slabs(number, tick);
    }
}
