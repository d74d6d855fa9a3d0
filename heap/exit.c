/* The exiting thread's free blocks. Fast paths put a block into a list without looking whether it
   lies in one already: what was freed twice, with others in between, makes the list a circle, or
   two lists one. Called at exit, with no lock held; takes the heap's lock for its inbox. */
#include "heap/exit.h"

#include "base/error.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "superslab/pool.h"

/* 1 if a block of the class begins there. */
static int is_block(const void *p, uint32_t size_class)
{
    const struct size_class *row = &hak_sc_table[size_class];
    uint32_t tag = hak_map_find(p).tag, offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    return TAG_IS_SLAB(tag) && TAG_CLASS(tag) == size_class &&
           hak_sc_is_block(offset, row->magic, row->limit);
}

/* It lies in a list, so that its slab counts it as allocated. */
static void look_at(const void *p, uint32_t size_class)
{
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    HAK_CHECK(!hak_slab_shows_free(hak_pool_slab_of(hak_map_find(p).ref, p),
                                   hak_sc_index_of(size_class, offset)),
              "block freed twice", p);
}

/* The block of a circle of `n` that the list comes to first: both pointers reach it at once. */
HAK_COLD __attribute__((noreturn)) static void name_circle(const void *head, uint64_t n)
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

/* Returns the list's last block, NULL of none. `mark` is left behind at each power of two: a circle
   comes back to it (Brent). */
static const void *look_at_list(const void *head, uint32_t size_class)
{
    const void *last = NULL, *mark = NULL;
    uint64_t n = 0, marked_at = 0;
    for (const void *at = head; at; at = hak_link_next(at)) {
        if (HAK_UNLIKELY(!is_block(at, size_class))) {
            hak_link_broken(last ? last : at);
        }
        if (HAK_UNLIKELY(at == mark)) {
            name_circle(head, n - marked_at);
        }
        if (!(n & (n - 1))) {
            mark = at;
            marked_at = n;
        }
        look_at(at, size_class);
        last = at;
        n++;
    }
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

static void look_at_class(const struct theap *heap, uint32_t size_class)
{
    const void *lists[] = {hak_tc_bin_first(&heap->bins[size_class]),
                           heap->spares[size_class].head,
                           heap->has_metered ? hak_tc_bin_first(&heap->metered[size_class]) : NULL};
    const void *last[3];
    for (int i = 0; i < 3; i++) {
        last[i] = look_at_list(lists[i], size_class);
        for (int j = 0; last[i] && j < i; j++) {
            if (HAK_UNLIKELY(last[i] == last[j])) {
                name_shared(lists[i], lists[j]);
            }
        }
    }
}

void hak_exit_look(void)
{
    struct theap *heap = hak_theap_own;
    if (heap == &hak_theap_none || hak_gate_is_inside() || hak_theap_holds_outside() ||
        !hak_gate_enter()) {
        return;
    }
    hak_lock_acquire(&heap->owner.lock);
    hak_remote_collect_inbox(heap);
    (void)hak_theap_unlock(heap);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        look_at_class(heap, c);
    }
    hak_gate_leave();
}
