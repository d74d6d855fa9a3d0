/* Tables of numbered things: chunks of pointers in metadata, never moved. The caller's lock.
   Called by pool.c and range.c. */
#include "base/numbered.h"

#include "base/os.h"

int hak_numbered_reserve(struct numbered *all)
{
    uint32_t index = all->n / NUMBERED_CHUNK;
    if (index < NUMBERED_CHUNKS && !all->chunks[index]) {
        void **chunk = (void **)hak_os_meta_alloc(NUMBERED_CHUNK * sizeof *chunk);
        atomic_store_release(&all->chunks[index], chunk);
    }
    return index < NUMBERED_CHUNKS && all->chunks[index];
}

void hak_numbered_add(struct numbered *all, void *item)
{
    uint32_t number = all->n;
    atomic_store_release(&all->chunks[number / NUMBERED_CHUNK][number % NUMBERED_CHUNK], item);
    atomic_store_release(&all->n, number + 1);
}
