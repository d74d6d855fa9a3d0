/* A heap that has no free block of a class takes over a slab that another one does not use: of the
   shared heap, of parked, common, or live ones. Locks: the heap's own is held, and the other's is
   tried for, but the shared heap's, whose holders take no other. Called where a heap takes blocks
   from its slabs. */
#include "heap/theap.h"

#include "base/lock_holds.h"
#include "base/stats.h"
#include "heap/common.h"
#include "heap/parked.h"
#include "heap/small.h"

/* How many heaps are asked for a slab, and how many of a class a live heap keeps. */
#define ADOPT_SEARCH 16u
#define ADOPT_SPARES HAK_TINY_OR(1u, 4u)
/* How often before any thread has ended (hak_theap_level_most). */
#define LEVEL_FIRST HAK_TINY_OR(1u, 10u)

uint32_t hak_theap_level_most = LEVEL_MOST;

/* Behind which id adopt_from_live begins: behind the own heap's, so that threads ask different
   ones; in a forked child, whose own heap is often the only live one, where it stopped, so that all
   are asked in the end. */
static uint32_t first_asked(const struct theap *heap)
{
    static uint32_t next;
    return hak_theap_epoch == 1 ? heap->owner.id
                                : atomic_add_relaxed(&next, ADOPT_SEARCH) %
                                      (atomic_load_relaxed(&hak_owner_table.n_id_words) * 64);
}

/* How many slabs with free blocks of the class another live heap keeps. Memory is levelled between
   threads so: each would else have, of each class, what it has had at its own highest. Blocks of
   less than a cache line stay with those who have their neighbours, and those of mid classes, of
   which a slab has few, would come and go. Threads that all live long would only get blocks of each
   other's. The secure variant parks no heaps, and has nothing to make up for. */
static uint32_t spares_left_to(const struct theap *heap, uint32_t size_class)
{
    uint32_t most = hak_theap_level_most;
    if (!atomic_load_relaxed(&hak_theap_has_ended) && most > LEVEL_FIRST) {
        most = LEVEL_FIRST;
    }
    int is_levelled = !HAK_SECURE && size_class >= COMMON_LINE_CLASS &&
                      !hak_mid_is_class(size_class) && !hak_theap_is_common(heap);
    return is_levelled && heap->n_levelled < most ? 0 : ADOPT_SPARES;
}

/* More slabs with free blocks of the class than `left`, or than it can use soon if no thread has
   it. */
static int has_spare_slab(struct owner *owner, uint32_t size_class, uint32_t left)
{
    const struct theap *heap = hak_theap_of_owner(owner);
    if (!heap || owner->lock.rank != LOCK_RANK_HEAP) {
        return 0;
    }
    left = hak_theap_is_common(heap) ? ADOPT_SPARES : hak_theap_is_live(heap) ? left : 0;
    return hak_bank_n_partial(&owner->bank, size_class) > left;
}

/* 0 if `from` has no free block of the class, or is busy. */
static int take_over(struct theap *heap, struct owner *from, uint32_t size_class)
{
    if (!hak_bank_n_partial(&from->bank, size_class) || !hak_lock_try(&from->lock)) {
        return 0;
    }
    hak_bank_move_one(&from->bank, &heap->owner.bank, size_class);
    hak_lock_release(&from->lock);
    hak_stat_add(slabs_adopted, 1);
    return 1;
}

/* Takes a slab over from a live heap that has more of the class than it can use soon, or from a
   stale one. No two threads wait for each other's heap: one that is busy is passed by. */
static HAK_NOINLINE void adopt_from_live(struct theap *heap, uint32_t size_class)
{
    uint32_t id = first_asked(heap), left = spares_left_to(heap, size_class);
    for (uint32_t n = ADOPT_SEARCH; n; n--) {
        hak_lock_step(1);
        struct owner *from = hak_owner_next(&id);
        if (!from) {
            id = 0; /* behind the last comes the first */
        } else if (from == &heap->owner) {
            if (hak_theap_epoch == 1) {
                return;
            }
        } else if (has_spare_slab(from, size_class, left) && take_over(heap, from, size_class)) {
            heap->n_levelled += !left;
            return;
        }
    }
}

/* A common heap takes over what others of them have, who serve only while its lock is held. And
   among few threads, who uses much of a class gets the slab that all have begun to use. */
static int adopt_from_common(struct theap *heap, uint32_t size_class)
{
    if (atomic_load_relaxed(&hak_theap_live) >= COMMON_THREADS && !hak_theap_is_common(heap)) {
        return 0;
    }
    for (uint32_t i = 0; i < N_COMMON_HEAPS; i++) {
        struct theap *common = hak_theap_common_if_made(i);
        if (common && common != heap && take_over(heap, &common->owner, size_class)) {
            return 1;
        }
    }
    return 0;
}

/* A parked heap's slabs serve who needs them. */
static int adopt_from_parked(struct theap *heap, uint32_t size_class)
{
    struct theap *from;
    for (uint32_t i = 0; i < PARKED_MOST && (from = atomic_load_acquire(&hak_parked[i])); i++) {
        if (from != heap && take_over(heap, &from->owner, size_class)) {
            return 1;
        }
    }
    return 0;
}

/* Before fresh memory is taken: a slab with free blocks that another heap does not use. Heap lock
   held. */
static void adopt_slab(struct theap *heap, uint32_t size_class)
{
    struct theap *from = atomic_load_acquire(&hak_theap_shared);
    if (from == heap) {
        return;
    }
    if (from && hak_bank_n_partial(&from->owner.bank, size_class)) {
        hak_lock_acquire(&from->owner.lock);
        hak_bank_move_one(&from->owner.bank, &heap->owner.bank, size_class);
        hak_lock_release(&from->owner.lock);
        hak_stat_add(slabs_adopted, 1);
    } else if (!adopt_from_parked(heap, size_class) && !adopt_from_common(heap, size_class)) {
        if (atomic_load_relaxed(&hak_theap_live) > 1 || hak_theap_epoch != 1) {
            adopt_from_live(heap, size_class);
        }
    }
}

uint32_t hak_theap_take(struct theap *heap, uint32_t size_class, uint32_t want, void **head)
{
    if (HAK_UNLIKELY(!hak_bank_n_partial(&heap->owner.bank, size_class))) {
        adopt_slab(heap, size_class);
    }
    return hak_small_take(&heap->owner, size_class, want, head);
}

uint32_t hak_theap_pick(struct theap *heap, uint32_t size_class, uint32_t want, void **blocks)
{
    if (HAK_UNLIKELY(!hak_bank_n_partial(&heap->owner.bank, size_class))) {
        adopt_slab(heap, size_class);
    }
    return hak_bank_pick(&heap->owner.bank, size_class, want, blocks, hak_small_policy(size_class));
}
