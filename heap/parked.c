/* Parked heaps. Lock: one of rank HEAPS for the array, held for a few moves; what is taken out of
   it is ended with no lock held. Called by the start and end of threads, by refills, and by all who
   want memory back: trims, the background thread, requests that make the process grow. */
#include "heap/parked.h"

#include "base/options.h"
#include "base/stats.h"

static LOCK_DEFINE(parked_lock, LOCK_RANK_HEAPS);
struct theap *hak_parked[PARKED_MOST];
uint32_t hak_parked_most = PARKED_MOST;
static uint32_t now; /* counts hak_parked_rest */

int hak_parked_may(void)
{
    return !HAK_SECURE && hak_parked_most && !atomic_load_relaxed(&hak_parked[hak_parked_most - 1]);
}

/* parked_lock held, or no other thread is there. */
static uint32_t n_parked(void)
{
    uint32_t n = 0;
    while (n < PARKED_MOST && hak_parked[n]) {
        n++;
    }
    return n;
}

int hak_parked_put(struct theap *heap)
{
    hak_lock_acquire(&parked_lock);
    uint32_t n = n_parked();
    if (n < hak_parked_most) {
        heap->parked_budget = heap->budget;
        heap->budget = 0;
        hak_stat_sub(bin_budget, heap->parked_budget);
        heap->parked_at = atomic_load_relaxed(&now);
        atomic_store_release(&hak_parked[n], heap);
        hak_stat_add(orphans, 1);
    }
    hak_lock_release(&parked_lock);
    return n < hak_parked_most;
}

/* Of a heap that was taken out. */
static void resume(struct theap *heap)
{
    heap->budget = heap->parked_budget;
    hak_stat_add(bin_budget, heap->budget);
}

struct theap *hak_parked_take_one(void)
{
    hak_lock_acquire(&parked_lock);
    uint32_t n = n_parked();
    struct theap *heap = n ? hak_parked[n - 1] : NULL;
    if (heap) {
        atomic_store_relaxed(&hak_parked[n - 1], (struct theap *)NULL);
        atomic_store_seq(&heap->is_parked, 0u);
        hak_stat_sub(orphans, 1);
        resume(heap);
    }
    hak_lock_release(&parked_lock);
    if (heap && hak_stat_get(bin_budget) > (int64_t)hak_options.cache_bytes) {
        hak_tc_flush(heap);
    }
    return heap;
}

/* The one that was parked first, if there are more than `most` of them, and, if `only_old` is set,
   if it was parked before the last hak_parked_rest; else NULL. */
static struct theap *take_first(uint32_t most, int only_old)
{
    hak_lock_acquire(&parked_lock);
    uint32_t n = n_parked();
    int is_old = n && hak_parked[0]->parked_at != atomic_load_relaxed(&now);
    struct theap *heap = n > most && (!only_old || is_old) ? hak_parked[0] : NULL;
    for (uint32_t i = 0; heap && i < n; i++) {
        struct theap *next = i + 1 < PARKED_MOST ? hak_parked[i + 1] : NULL;
        atomic_store_release(&hak_parked[i], next);
    }
    if (heap) {
        atomic_store_seq(&heap->is_parked, 0u);
        hak_stat_sub(orphans, 1);
        resume(heap);
    }
    hak_lock_release(&parked_lock);
    return heap;
}

static void end_while(uint32_t most, int only_old)
{
    struct theap *heap;
    while (hak_parked_is_any() && (heap = take_first(most, only_old)) != NULL) {
        hak_theap_end_cache(heap);
    }
}

void hak_parked_end(uint32_t most)
{
    end_while(most, 0);
}

void hak_parked_rest(void)
{
    if (hak_parked_is_any()) {
        end_while(0, 1);
        (void)atomic_add_relaxed(&now, 1u);
    }
}

void hak_parked_relieve_by(size_t bytes)
{
    struct theap *heap;
    if ((bytes > SC_SLAB_BYTES || hak_stat_get(heap_dirty_bytes) < (int64_t)bytes) &&
        (heap = take_first(0, 0)) != NULL) {
        hak_theap_end_cache(heap);
    }
}

void hak_parked_collect(void)
{
    struct theap *heap;
    for (uint32_t i = 0; i < PARKED_MOST && (heap = atomic_load_acquire(&hak_parked[i])); i++) {
        if (atomic_load_relaxed(&heap->owner.inbox)) {
            hak_lock_acquire(&heap->owner.lock);
            hak_remote_collect_inbox(heap);
            (void)hak_theap_unlock(heap);
        }
    }
}

/* A signal handler may have interrupted who moves them. */
void hak_parked_fork_child(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < PARKED_MOST && !hak_lock_is_mine(&parked_lock); i++) {
        struct theap *heap = hak_parked[i];
        hak_parked[i] = NULL;
        if (heap && hak_theap_of_owner(&heap->owner)) {
            hak_parked[n++] = heap;
        }
    }
}

int hak_parked_verify(void)
{
    int error = 0;
    hak_lock_acquire(&parked_lock);
    for (uint32_t n = n_parked(); n && !error; n--) {
        error = hak_tc_verify(hak_parked[n - 1]);
    }
    hak_lock_release(&parked_lock);
    return error;
}
