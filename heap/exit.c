/* The exiting thread's free blocks. Fast paths put a block into a list without looking whether it
   lies in one already: what was freed twice, with others in between, makes the list a circle, or
   two lists one. Called at exit, with no lock held; takes the heap's lock for its inbox and for
   what is loose, or waits in rows, in its depot. */
#include "heap/exit.h"

#include "base/error.h"
#include "heap/depot.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "superslab/pool.h"

/* `at` follows `before` (NULL: none) in a list: it must be the start of a block of the class, which
   its slab counts as allocated. */
static HAK_ALWAYS_INLINE void look_at(const void *at, const void *before, uint32_t size_class)
{
    const struct size_class *row = &hak_sc_table[size_class];
    struct map_entry entry = hak_map_find(at);
    uint32_t offset = (uint32_t)((uintptr_t)at & (SC_SLAB_BYTES - 1));
    if (HAK_UNLIKELY(!TAG_IS_SLAB(entry.tag) || TAG_CLASS(entry.tag) != size_class ||
                     !hak_sc_is_block(offset, row->magic, row->limit))) {
        hak_link_broken(before ? before : at);
    }
    HAK_CHECK(
        !hak_slab_shows_free(hak_pool_slab_of(entry.ref, at), hak_sc_index_of(size_class, offset)),
        "block freed twice", at);
}

/* The block of a circle of `n` that the list comes to first: both pointers reach it at once. */
HAK_COLD __attribute__((noreturn)) static void name_circle(const void *head, uint32_t n)
{
    const void *ahead = head;
    while (n--) {
        ahead = hak_link_next(ahead);
    }
    for (; head != ahead; head = hak_link_next(head)) {
        ahead = hak_link_next(ahead);
    }
    hak_fatal("block freed twice", head);
}

/* Blocks that are looked at, of one list and in all: each may be a line that is in no cache, and a
   short program should end soon. */
#define LOOK_AT_OF_LIST 2048u
#define LOOK_AT_IN_ALL  8192u

/* Returns the list's last block; NULL if it has none, or is longer than what is looked at. `mark`
   is left behind at each power of two: a circle comes back to it (Brent). */
static const void *look_at_list(const void *head, uint32_t size_class, uint32_t *left)
{
    const void *last = NULL, *mark = NULL;
    uint32_t n = 0, marked_at = 0, most = *left < LOOK_AT_OF_LIST ? *left : LOOK_AT_OF_LIST;
    for (const void *at = head; at; at = hak_link_next(at)) {
        if (n == most) {
            last = NULL;
            break;
        }
        look_at(at, last, size_class);
        if (HAK_UNLIKELY(at == mark)) {
            name_circle(head, n - marked_at);
        }
        if (!(n & (n - 1))) {
            mark = at;
            marked_at = n;
        }
        last = at;
        n++;
    }
    *left -= n;
    return last;
}

/* Two lists that end with the same block: the first that lies in both. */
HAK_COLD __attribute__((noreturn)) static void name_shared(const void *list, const void *other)
{
    for (; list; list = hak_link_next(list)) {
        for (const void *at = other; at; at = hak_link_next(at)) {
            if (at == list) {
                hak_fatal("block freed twice", at);
            }
        }
    }
    hak_fatal("block freed twice", other);
}

static void look_at_class(const struct theap *heap, uint32_t size_class, uint32_t *left)
{
    const void *lists[] = {hak_tc_bin_first(&heap->bins[size_class]), heap->spares[size_class].head,
                           heap->has_metered ? hak_tc_bin_first(&heap->metered[size_class]) : NULL};
    const void *last[3];
    for (int i = 0; i < 3; i++) {
        last[i] = look_at_list(lists[i], size_class, left);
        for (int j = 0; last[i] && j < i; j++) {
            if (HAK_UNLIKELY(last[i] == last[j])) {
                name_shared(lists[i], lists[j]);
            }
        }
    }
}

/* What waits in rows goes to its slabs, so many times some of it, that what lies in a list too is
   seen to be free. */
#define LOOK_AT_ROWS 32u

static void put_rows(struct theap *heap)
{
    for (uint32_t n = LOOK_AT_ROWS; n && atomic_load_relaxed(&heap->row_bytes); n--) {
        hak_lock_acquire(&heap->owner.lock);
        hak_depot_shorten(heap, UINT64_MAX);
        (void)hak_theap_unlock(heap);
    }
}

HAK_COLD void hak_exit_look(void)
{
    struct theap *heap = hak_theap_own;
    if (heap == &hak_theap_none || hak_gate_is_inside() || hak_theap_holds_outside() ||
        !hak_gate_enter()) {
        return;
    }
    if (HAK_UNLIKELY(atomic_load_relaxed(&heap->owner.inbox) != NULL) ||
        atomic_load_relaxed(&heap->depot_loose)) {
        hak_lock_acquire(&heap->owner.lock);
        hak_remote_collect_inbox(heap);
        hak_depot_hold(heap);
        (void)hak_theap_unlock(heap);
    }
    put_rows(heap);
    uint32_t left = LOOK_AT_IN_ALL;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        look_at_class(heap, c, &left);
    }
    hak_gate_leave();
}
