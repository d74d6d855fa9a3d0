/* Blocks announced to memcheck and AddressSanitizer. No locks: the queue is an array of words that are exchanged. Called by the
   public functions (fast.h, api.c). */
#include "hakmem/noted.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "hakmem/hakmem.h"
#include "hakmem/user_heap.h"
#include "superslab/superslab.h"

#if HAK_NOTES

/* Larger blocks do not wait. */
#define QUEUED_MAX ((size_t)64 * 1024)

uint32_t noted_state = NOTED_UNKNOWN;
HAK_TLS int noted_busy;

static void *queue[NOTED_QUEUE];
static uint32_t next;

int noted_start(void)
{
    if (atomic_load_relaxed(&noted_state) == NOTED_UNKNOWN) {
        atomic_store_relaxed(&noted_state, note_has_listener() ? (uint32_t)NOTED_ON : (uint32_t)NOTED_OFF);
    }
    return atomic_load_relaxed(&noted_state) == NOTED_ON;
}

static size_t real_size(const void *p)
{
    noted_busy = 1;
    size_t usable = hak_usable_size(p);
    noted_busy = 0;
    return usable;
}

static void *allocate(size_t alignment, size_t size, int is_zeroed)
{
    if (size > PTRDIFF_MAX - NOTED_RED_ZONE) {
        errno = ENOMEM;
        return NULL;
    }
    noted_busy = 1;
    void *p = alignment   ? hak_memalign(alignment, size + NOTED_RED_ZONE)
              : is_zeroed ? hak_calloc(1, size + NOTED_RED_ZONE)
                          : hak_malloc(size + NOTED_RED_ZONE);
    noted_busy = 0;
    if (p) {
        noted_announce(p, size, is_zeroed);
    }
    return p;
}

void noted_announce(const void *p, size_t size, int is_zeroed)
{
    /* At least one byte, by which noted_free tells it from a block in the queue. */
    note_allocated(p, size ? size : 1, real_size(p), is_zeroed);
}

void *noted_malloc(size_t size)
{
    return allocate(0, size, 0);
}

void *noted_calloc(size_t bytes)
{
    return allocate(0, bytes, 1);
}

void *noted_aligned(size_t alignment, size_t size)
{
    return allocate(alignment, size, 0);
}

size_t noted_usable_size(const void *p)
{
    return note_size(p, real_size(p));
}

static void free_really(void *p, size_t usable)
{
    note_reused(p, usable);
    noted_busy = 1;
    hak_free(p);
    noted_busy = 0;
}

void noted_free(void *p)
{
    if (!p) {
        return;
    }
    size_t usable = real_size(p);
    if (hak_super_lookup(p).start != p || usable == 0) {
        free_really(p, 0); /* which says what is wrong */
        return;
    }
    HAK_CHECK(note_size(p, usable) != 0, "block freed twice", p);
    note_freed(p, usable);
    if (usable > QUEUED_MAX || user_heap_of(p)) {
        free_really(p, usable);
        return;
    }
    uint32_t place = atomic_add_relaxed(&next, 1u) % NOTED_QUEUE;
    void *oldest = atomic_exchange_acq_rel(&queue[place], p);
    if (oldest) {
        free_really(oldest, real_size(oldest));
    }
}

void *noted_realloc(void *p, size_t size)
{
    return noted_heap_realloc(p ? user_heap_of(p) : NULL, p, size);
}

void *noted_heap_realloc(struct hak_heap *heap, void *p, size_t size)
{
    if (!p) {
        return heap ? hak_heap_malloc(heap, size) : noted_malloc(size);
    }
    if (size == 0) {
        noted_free(p);
        return NULL;
    }
    size_t old = noted_usable_size(p);
    HAK_CHECK(real_size(p), "invalid pointer given to realloc", p);
    void *moved = heap ? hak_heap_malloc(heap, size) : noted_malloc(size);
    if (moved) {
        memcpy(moved, p, old < size ? old : size);
        noted_free(p);
    }
    return moved;
}

static int forget(void *block, size_t size, void *context)
{
    (void)context;
    note_freed(block, size);
    note_reused(block, size);
    return 0;
}

void noted_heap_gone(struct hak_heap *heap)
{
    noted_busy = 1;
    (void)hak_heap_walk(heap, forget, NULL);
    noted_busy = 0;
}

size_t noted_walked(const void *p, size_t usable)
{
    return note_size(p, usable);
}

#endif
