/* Blocks announced to memcheck and AddressSanitizer. No locks: the queue is an array of words that
   are exchanged. */
#include "observe/noted.h"

#include <errno.h>

#include "base/error.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/realloc.h"
#include "hakmem/walk.h"
#include "superslab/superslab.h"

#if HAK_NOTES

/* Larger blocks do not wait. */
#define QUEUED_MAX ((size_t)64 * 1024)

static void *queue[NOTED_QUEUE];
static uint32_t next;

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_noted_layer);
}

/* What the block below is asked for; too much stays too much. */
static size_t with_red_zone(size_t size)
{
    return size > PTRDIFF_MAX - NOTED_RED_ZONE ? SIZE_MAX : size + NOTED_RED_ZONE;
}

/* By what lies apart from the block: its own words may be undefined, or not to be read. */
static size_t real_size(const void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    return found.start == p && found.is_allocated ? found.size : below()->usable_size(p);
}

static void *announce(void *p, size_t size, int is_zeroed)
{
    if (p) {
        /* At least one byte, by which noted_free tells it from a block in the queue. */
        hak_note_allocated(p, size ? size : 1, real_size(p), is_zeroed);
    }
    return p;
}

static void *noted_malloc(size_t size)
{
    return announce(below()->malloc(with_red_zone(size)), size, 0);
}

static void *noted_calloc(size_t bytes)
{
    return announce(below()->calloc(with_red_zone(bytes)), bytes, 1);
}

static void *noted_aligned(size_t alignment, size_t size)
{
    return announce(below()->aligned(alignment, with_red_zone(size)), size, 0);
}

static void *noted_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    return announce(below()->heap_alloc(heap, with_red_zone(size), alignment, is_zeroed), size,
                    is_zeroed);
}

static size_t noted_usable_size(const void *p)
{
    size_t size = hak_note_size(p, real_size(p));
    HAK_CHECK(size, "freed block given to malloc_usable_size", p);
    return size;
}

static void free_really(void *p, size_t usable)
{
    hak_note_reused(p, usable);
    below()->free(p);
}

static void noted_free(void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    if (found.start != p || !found.is_allocated) {
        free_really(p, 0); /* which says what is wrong */
        return;
    }
    size_t usable = found.size;
    HAK_CHECK(hak_note_size(p, usable) != 0, "block freed twice", p);
    hak_note_freed(p, usable);
    if (usable > QUEUED_MAX || hak_heap_of(p)) {
        free_really(p, usable);
        return;
    }
    uint32_t place = atomic_add_relaxed(&next, 1u) % NOTED_QUEUE;
    void *oldest = atomic_exchange_acq_rel(&queue[place], p);
    if (oldest) {
        free_really(oldest, real_size(oldest));
    }
}

/* --- realloc: every block moves --- */

static size_t size_to_keep(const void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    HAK_CHECK(found.start == p, "invalid pointer given to realloc", p);
    size_t size = found.is_allocated ? hak_note_size(p, found.size) : 0;
    HAK_CHECK(size, "freed block given to realloc", p);
    return size;
}

static struct hak_heap *home(struct hak_heap *heap, const void *p, size_t usable)
{
    (void)usable;
    return hak_realloc_home(heap, p);
}

static void *take(struct hak_heap *heap, size_t size, int is_growing, int is_zeroed)
{
    (void)is_growing;
    return heap        ? noted_heap_alloc(heap, size, SC_MIN_ALIGN, is_zeroed)
           : is_zeroed ? noted_calloc(size)
                       : noted_malloc(size);
}

static void give(void *p, const void *known)
{
    (void)known;
    noted_free(p);
}

static void *noted_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    if (p && hak_super_lookup(p).kind == SS_NOT_OURS) {
        return below()->realloc(p, size, heap, is_zeroed); /* libc's, or wrong */
    }
    static const struct realloc_way way = {
        .usable_size = size_to_keep, .home = home, .take = take, .give = give};
    return hak_realloc_by(&way, heap, p, size, is_zeroed);
}

/* --- heaps and walks --- */

static int forget(void *block, size_t size, void *context)
{
    (void)context;
    hak_note_freed(block, size);
    hak_note_reused(block, size);
    return 0;
}

static void noted_heap_destroy(struct hak_heap *heap)
{
    (void)hak_walk_heap(heap, below()->walked, forget, NULL);
    below()->heap_destroy(heap);
}

static size_t noted_walked(void **p, size_t usable)
{
    size_t size = below()->walked(p, usable);
    return hak_note_size(*p, size);
}

static void noted_name(void *p, enum entry_family family)
{
    below()->name(p, family);
}

static void noted_claim(void *p, const struct entry_claim *claim)
{
    below()->claim(p, claim);
}

struct entry_layer hak_noted_layer = {
    .place = ENTRY_PLACE_BLOCKS,
    .below = &hak_entry_plain,
    .table =
        {
            .malloc = noted_malloc,
            .calloc = noted_calloc,
            .aligned = noted_aligned,
            .realloc = noted_realloc,
            .free = noted_free,
            .usable_size = noted_usable_size,
            .heap_alloc = noted_heap_alloc,
            .heap_destroy = noted_heap_destroy,
            .walked = noted_walked,
            .name = noted_name,
            .claim = noted_claim,
        },
};

static void add_if_there_is_a_listener(void)
{
    if (hak_note_has_listener()) {
        hak_entry_add(&hak_noted_layer);
    }
}
ENTRY_AT_START(add_if_there_is_a_listener);

#endif
