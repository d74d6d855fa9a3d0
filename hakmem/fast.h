/* The fast paths: malloc's and free's first lines, inlined into hak_* and into the malloc family. No call, no atomic
   read-modify-write, no lock: bench/golden counts their instructions. Rare states (no heap yet, ended, another owner's
   block, not ours at all) all look like an empty bin or a foreign tag, and go to one slow function by a tail call. */
#ifndef HAKMEM_HAKMEM_FAST_H
#define HAKMEM_HAKMEM_FAST_H

#include "hakmem/heap.h"
#include "superslab/map.h"

/* Slow paths, in api.c. */
HAK_COLD void *slow_malloc(size_t size);
HAK_NOINLINE void *refill_malloc(size_t size);
HAK_NOINLINE void slow_free(void *p);
HAK_NOINLINE void overflow_free(struct heap *heap, size_t bin_offset);

#if HAK_VALIDATE
/* Checks a block of ours against its slab before it is freed; aborts on a mismatch. */
void validate_free(const void *p);
#else
static inline void validate_free(const void *p)
{
    (void)p;
}
#endif

static HAK_ALWAYS_INLINE struct bin *bin_at(struct heap *heap, size_t offset)
{
    return (struct bin *)(void *)((char *)heap->bins + offset);
}

static HAK_ALWAYS_INLINE void *fast_malloc(size_t size)
{
    struct heap *heap = hak_self;
    size_t offset;
    if (HAK_LIKELY(size <= SC_TINY_MAX)) {
        offset = heap->tiny_bin[(size + 15) >> SC_GRANULE_SHIFT];
    } else if (HAK_LIKELY(size <= SC_SMALL_MAX)) {
        offset = (size_t)sc_of_granules[(size + 15) >> SC_GRANULE_SHIFT] << TAG_BIN_SHIFT;
    } else {
        return slow_malloc(size);
    }
    struct bin *bin = bin_at(heap, offset);
    void *block = bin->head;
    if (HAK_UNLIKELY(!block)) {
        return refill_malloc(size);
    }
    bin->head = *(void **)block;
    bin->room++;
    return block;
}

static HAK_ALWAYS_INLINE void fast_free(void *p)
{
    struct heap *heap = hak_self;
    size_t unit = map_window_unit(p);
    if (HAK_UNLIKELY(unit >= MAP_LEAF_UNITS)) {
        slow_free(p);
        return;
    }
    size_t offset = atomic_load_relaxed(&map_window->tag[unit]) ^ heap->owner_tag;
    if (HAK_UNLIKELY(offset > TAG_LOW_MASK)) {
        slow_free(p);
        return;
    }
    struct bin *bin = bin_at(heap, offset);
    if (HAK_UNLIKELY(!sc_is_multiple((uint32_t)(uintptr_t)p & (SC_SLAB_BYTES - 1), bin->magic))) {
        slow_free(p);
        return;
    }
    void *head = bin->head;
    if (HAK_UNLIKELY(head == p)) {
        slow_free(p);
        return;
    }
    validate_free(p);
    *(void **)p = head;
    bin->head = p;
    if (HAK_UNLIKELY(--bin->room < 0)) {
        overflow_free(heap, offset);
    }
}

#endif
