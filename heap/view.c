/* What fast paths see of the threads' heaps (enum theap_view). Lock: one of rank HEAPS. Called as
   threads get and give up heaps, and by entry.c; and in a forked child. */
#include "heap/theap.h"

#include "base/lock_holds.h"
#include "heap/fork.h"

/* How many heaps are shown to the fast paths, or hidden, at a time. */
#define SHOW_HEAPS HAK_TINY_OR(2u, 64u)

LOCK_DEFINE(hak_theap_shown_lock, LOCK_RANK_HEAPS);
static int shown_as = THEAP_HIDDEN; /* enum theap_view */
static int mid_is_metered;          /* hak_tc_mid_bin_of leads to metered bins; that lock */

/* The view of one heap. That lock held; that heap's thread may be in its fast paths. */
static void show(struct theap *heap)
{
    if (heap->is_metered != (shown_as == THEAP_METERED)) {
        hak_tc_set_metered(heap, shown_as == THEAP_METERED);
    }
    atomic_store_release(heap->self_at, shown_as == THEAP_HIDDEN ? &hak_theap_none : heap);
}

void hak_theap_show(struct theap *heap)
{
    hak_lock_acquire(&hak_theap_shown_lock);
    heap->self_at = &hak_self;
    show(heap);
    hak_lock_release(&hak_theap_shown_lock);
}

void hak_theap_hide(struct theap *heap)
{
    hak_lock_acquire(&hak_theap_shown_lock);
    heap->self_at = NULL;
    atomic_store_relaxed(&hak_self, &hak_theap_none);
    hak_lock_release(&hak_theap_shown_lock);
}

/* A stale heap's thread is not there, nor its hak_self. */
static int show_some(uint32_t *id)
{
    struct owner *owner = NULL;
    for (uint32_t n = SHOW_HEAPS; n && (owner = hak_owner_next(id)) != NULL; n--) {
        struct theap *heap = hak_theap_of_owner(owner);
        hak_lock_step(1);
        if (heap && heap->self_at && hak_theap_is_live(heap)) {
            show(heap);
        }
    }
    return owner != NULL;
}

/* The lock is let go between: threads that start or end wait for it. What has been changed counts
   from then on; the rest sees another change that comes in between. All heaps have metered bins
   before the table that leads to them is written. */
void hak_theap_switch(int (*change)(void *context), void *context)
{
    uint32_t id = 0;
    hak_lock_acquire(&hak_theap_shown_lock);
    shown_as = change(context);
    if (shown_as != THEAP_METERED && mid_is_metered) {
        hak_tc_set_mid_metered(mid_is_metered = 0);
    }
    while (show_some(&id)) {
        hak_lock_release(&hak_theap_shown_lock);
        hak_lock_acquire(&hak_theap_shown_lock);
    }
    if (shown_as == THEAP_METERED && !mid_is_metered) {
        hak_tc_set_mid_metered(mid_is_metered = 1);
    }
    hak_lock_release(&hak_theap_shown_lock);
}

/* Whatever the lock's holder was changing is done, once more or at all; or it had let go of the
   lock for a moment, and had not come to this thread's heap. */
void hak_theap_mend_shown(void)
{
    struct theap *own = hak_theap_own;
    if (hak_lock_is_mine(&hak_theap_shown_lock)) {
        return;
    }
    if (hak_theap_shown_lock.word) {
        atomic_store_relaxed(&hak_theap_shown_lock.word, 0u);
        hak_entry_fork_parts.mend();
    } else if (own != &hak_theap_none && own->self_at) {
        struct theap *seen = shown_as == THEAP_HIDDEN ? &hak_theap_none : own;
        if (*own->self_at != seen) {
            *own->self_at = seen;
        }
    }
}
