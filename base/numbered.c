/* Tables of numbered things: chunks of pointers in metadata, never moved. The caller's lock
   to add. Called by pool.c and range_cache.c. */
#include "base/numbered.h"

#include "base/os.h"

int hak_numbered_reserve(struct numbered *all)
{
    if (hak_numbered_has_room(all)) {
        return 1;
    }
    uint32_t index = hak_numbered_count(all) / NUMBERED_CHUNK;
    void **chunk =
        index < NUMBERED_CHUNKS ? (void **)hak_os_meta_alloc(NUMBERED_CHUNK * sizeof *chunk) : NULL;
    if (!chunk) {
        return 0;
    }
    /* Whoever comes second has made the next one. */
    for (void **none = NULL;
         index < NUMBERED_CHUNKS && !atomic_cas_strong(&all->chunks[index], &none, chunk);
         index++) {
        none = NULL;
    }
    return 1;
}

int hak_numbered_has_room(const struct numbered *all)
{
    uint32_t index = hak_numbered_count(all) / NUMBERED_CHUNK;
    return index < NUMBERED_CHUNKS && atomic_load_acquire(&all->chunks[index]);
}

void hak_numbered_add(struct numbered *all, void *item)
{
    uint32_t number = all->n;
    atomic_store_release(&all->chunks[number / NUMBERED_CHUNK][number % NUMBERED_CHUNK], item);
    atomic_store_release(&all->n, number + 1);
}
