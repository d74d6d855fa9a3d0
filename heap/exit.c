/* The exiting thread's free blocks. Fast paths put a block into a list without looking whether it
   lies in one already: what was freed twice, with others in between, makes the list a circle, or
   two lists one. Called at exit, with no lock held; takes the heap's lock for its inbox. */
#include "heap/exit.h"

#include "base/error.h"
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

/* The list is longer than it may be: perhaps a circle that is longer than what is looked at. */
HAK_COLD __attribute__((noreturn)) static void name_longer(const void *head)
{
    const void *mark = head;
    uint32_t n = 0, most = 1;
    for (const void *at = hak_link_next(head); at; at = hak_link_next(at)) {
        if (++n && at == mark) {
            name_circle(head, n);
        }
        if (n == most) {
            mark = at;
            n = 0;
            most *= 2;
        }
    }
    hak_fatal(hak_tc_wrong_count, head);
}

struct list {
    const void *head, *last; /* last: NULL if there is none, or it was not come to */
    int64_t count;           /* what it is to have */
};

/* `mark` is left behind at each power of two: a circle comes back to it (Brent). Returns 0 if there
   are fewer, or more, than there are to be. */
static int look_at_list(struct list *list, uint32_t size_class, uint32_t *left)
{
    const void *last = NULL, *mark = NULL;
    uint32_t n = 0, marked_at = 0, most = *left < LOOK_AT_OF_LIST ? *left : LOOK_AT_OF_LIST;
    for (const void *at = list->head; at; at = hak_link_next(at)) {
        if (n == most) {
            *left -= n;
            return 1;
        }
        look_at(at, last, size_class);
        if (HAK_UNLIKELY(at == mark)) {
            name_circle(list->head, n - marked_at);
        }
        if (HAK_UNLIKELY(n > list->count + COUNT_OFF_MOST)) {
            name_longer(list->head);
        }
        if (!(n & (n - 1))) {
            mark = at;
            marked_at = n;
        }
        last = at;
        n++;
    }
    *left -= n;
    list->last = last;
    return hak_tc_is_near(n, list->count);
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
    const struct bin *bin = &heap->bins[size_class], *metered = &heap->metered[size_class];
    const struct spare *spare = &heap->spares[size_class];
    struct list lists[] = {{hak_tc_bin_first(bin), NULL, heap->limits[size_class] - bin->room},
                           {spare->head, NULL, spare->count},
                           {NULL, NULL, 0}};
    if (heap->has_metered) {
        lists[2].head = hak_tc_bin_first(metered);
        lists[2].count = -(int64_t)metered->room;
    }
    for (int i = 0; i < 3; i++) {
        int is_right = look_at_list(&lists[i], size_class, left);
        for (int j = 0; lists[i].last && j < i; j++) {
            if (HAK_UNLIKELY(lists[i].last == lists[j].last)) {
                name_shared(lists[i].head, lists[j].head);
            }
        }
        HAK_CHECK(is_right, hak_tc_wrong_count, lists[i].last ? lists[i].last : lists[i].head);
    }
}

HAK_COLD void hak_exit_look(void)
{
    struct theap *heap = hak_theap_own;
    if (heap == &hak_theap_none || hak_gate_is_inside() || hak_theap_holds_outside() ||
        !hak_gate_enter()) {
        return;
    }
    if (HAK_UNLIKELY(atomic_load_relaxed(&heap->owner.inbox) != NULL)) {
        hak_lock_acquire(&heap->owner.lock);
        hak_remote_collect_inbox(heap);
        (void)hak_theap_unlock(heap);
    }
    uint32_t left = LOOK_AT_IN_ALL;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        look_at_class(heap, c, &left);
    }
    hak_gate_leave();
}
