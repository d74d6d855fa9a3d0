/* Tables of numbered things: chunks of pointers in metadata, never moved. Called by region.c and
   range.c. */
#include "base/numbered.h"

#include "base/os.h"

int hak_numbered_reserve(struct numbered *all)
{
    hak_atomic_touch(&all->touched);
    uint32_t index = hak_numbered_count(all) / NUMBERED_CHUNK;
    void **none = NULL;
    if (index < NUMBERED_CHUNKS && !atomic_load_acquire(&all->chunks[index])) {
        void **chunk = (void **)hak_os_meta_alloc(NUMBERED_CHUNK * sizeof *chunk);
        /* Of two threads' chunks the first stays; the other one is never touched. */
        (void)(chunk && atomic_cas_strong(&all->chunks[index], &none, chunk));
    }
    return index < NUMBERED_CHUNKS && atomic_load_acquire(&all->chunks[index]);
}

void hak_numbered_add(struct numbered *all, void *item)
{
    uint32_t number = all->n;
    /* Another thread may just find, by a compare-and-swap, that the chunk is there. */
    void **chunk = atomic_load_acquire(&all->chunks[number / NUMBERED_CHUNK]);
    atomic_store_release(&chunk[number % NUMBERED_CHUNK], item);
    atomic_store_release(&all->n, number + 1);
}
