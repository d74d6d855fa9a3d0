/* Purging pages of slabs in use. Locks: the owner's, before and after the system is asked; the
   pool's for a slab whose owner has ended. Called by heaps' trims and by the background thread. */
#include "owner/purge.h"

/* The slab at `start` with pages to be purged, away now; NULL if there is nothing to do. */
static struct slab *send_away(char *start, uint16_t tick, struct owner **owner, uint32_t *pages)
{
    struct map_entry entry = hak_map_get(start);
    *owner = TAG_IS_SLAB(entry.tag) ? hak_owner_hold(TAG_OWNER(entry.tag)) : NULL;
    if (!*owner) {
        return NULL;
    }
    /* It may have been freed or have moved. With the owner's lock held, what the map says stays. */
    struct map_entry now = hak_map_get(start);
    struct slab *slab = now.tag == entry.tag ? hak_pool_slab_of(now.ref, start) : NULL;
    *pages = slab && slab->list == SLAB_PARTIAL ? hak_slab_ask_for_pages(slab, tick) : 0;
    if (*pages) {
        hak_bank_send_away(&(*owner)->bank, slab);
    }
    hak_lock_release(&(*owner)->lock);
    return *pages ? slab : NULL;
}

/* Returns 0 if the owner has ended. */
static int take_back(struct owner *owner, struct slab *slab)
{
    if (hak_owner_is_lost(owner)) {
        return 0; /* in a child of a fork in a signal handler: the owner stays as it is */
    }
    hak_lock_acquire(&owner->lock);
    int has_left = hak_bank_has_left(slab);
    if (!has_left) {
        hak_bank_take_back(&owner->bank, slab);
    }
    hak_lock_release(&owner->lock);
    if (has_left) {
        hak_pool_slab_free(slab);
    }
    return !has_left;
}

size_t hak_owner_purge_slab(char *start, uint16_t tick, struct owner **whose)
{
    uint32_t pages;
    struct owner *owner;
    struct slab *slab = send_away(start, tick, &owner, &pages);
    *whose = NULL;
    if (!slab) {
        return 0;
    }
    size_t bytes = hak_slab_purge_pages(start, pages);
    if (take_back(owner, slab)) {
        *whose = owner;
    }
    return bytes;
}
