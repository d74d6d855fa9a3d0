/* The fast paths: malloc's and free's first lines, inlined into hak_* and into the malloc family. No call, no atomic
   read-modify-write, no lock: bench/golden counts their instructions. Rare states (no heap yet, ended, another owner's
   block, not ours at all) all look like an empty bin or a foreign tag, and go to one slow function by a tail call. */
#ifndef HAKMEM_HAKMEM_FAST_H
#define HAKMEM_HAKMEM_FAST_H

#include "hakmem/heap.h"
#include "hakmem/noted.h"
#include "superslab/map.h"

/* Offsets of bins for (size + 15) / 16, all sizes to 32 KiB; a heap's own small copy serves the tiny ones without the
   instruction that finds this table. */
extern const uint16_t mid_bin_of[(SC_SMALL_MAX >> SC_GRANULE_SHIFT) + 1] HAK_HIDDEN;

/* Slow paths, in api.c. */
HAK_COLD void *slow_malloc(size_t size);
HAK_NOINLINE void *refill_malloc(size_t size);
HAK_NOINLINE void slow_free(void *p);
HAK_NOINLINE void overflow_free(struct heap *heap, size_t bin_offset);

#if HAK_VALIDATE
/* Checks a block of ours against its slab before it is freed; aborts on a mismatch. */
void validate_free(const void *p);
/* Checks what the caller says of the block that it frees. */
void validate_size(const void *p, size_t size);
void validate_alignment(const void *p, size_t alignment);
#else
static inline void validate_free(const void *p)
{
    (void)p;
}
static inline void validate_size(const void *p, size_t size)
{
    (void)p;
    (void)size;
}
static inline void validate_alignment(const void *p, size_t alignment)
{
    (void)p;
    (void)alignment;
}
#endif

/* Variants that validate write the heap into the second word of a block that goes into one of its bins, and clear it when the
   block is handed out: a second free sees it, and looks through the bin. (The program may have written the same by chance.) */
static HAK_ALWAYS_INLINE void mark_free(struct heap *heap, void *p)
{
    if (HAK_VALIDATE) {
        ((void **)p)[1] = heap;
    }
}

static HAK_ALWAYS_INLINE void unmark_free(void *p)
{
    if (HAK_VALIDATE) {
        ((void **)p)[1] = NULL;
    }
}

static HAK_ALWAYS_INLINE int is_marked_free(const struct heap *heap, const void *p)
{
    return HAK_VALIDATE && ((void *const *)p)[1] == (const void *)heap;
}

/* What the compiler does not do by itself. FORGET makes it forget what it knows of a register, so that it folds heap + offset
   into each access's address instead of computing it in an instruction of its own; the letters keep heap and offset out of
   the register of the returned block, which saves the move at malloc's end. They emit nothing. */
#if defined(__x86_64__)
#define FORGET_HEAP(heap)     __asm__("" : "+d"(heap))
#define FORGET_OFFSET(offset) __asm__("" : "+c"(offset))
#else
#define FORGET_HEAP(heap)     __asm__("" : "+r"(heap))
#define FORGET_OFFSET(offset) __asm__("" : "+r"(offset))
#endif

/* --*room < 0, by one instruction in memory. */
static HAK_ALWAYS_INLINE int take_room(int32_t *room)
{
#if defined(__x86_64__)
    int is_negative;
    __asm__("subl $1, %0" : "+m"(*room), "=@ccs"(is_negative));
    return is_negative;
#else
    return --*room < 0;
#endif
}

static HAK_ALWAYS_INLINE struct bin *bin_at(struct heap *heap, size_t offset)
{
    return (struct bin *)(void *)((char *)heap + offset);
}

/* `large` serves what is above 32 KiB, `refill` what finds an empty bin: constants, called as the
   last thing. */
static HAK_ALWAYS_INLINE void *fast_malloc_or(size_t size, void *(*large)(size_t size), void *(*refill)(size_t size))
{
    struct heap *heap = atomic_load_relaxed(&hak_self);
    FORGET_HEAP(heap);
    size_t offset;
    if (HAK_LIKELY(size <= SC_TINY_MAX)) {
        offset = heap->tiny_bin[(size + 15) >> SC_GRANULE_SHIFT];
    } else if (HAK_LIKELY(size <= SC_SMALL_MAX)) {
        offset = mid_bin_of[(size + 15) >> SC_GRANULE_SHIFT];
    } else {
        return large(size);
    }
    FORGET_OFFSET(offset);
    void *block = bin_at(heap, offset)->head;
    if (HAK_UNLIKELY(!block)) {
        return refill(size);
    }
    FORGET_OFFSET(offset);
    bin_at(heap, offset)->head = *(void **)block;
    FORGET_OFFSET(offset);
    bin_at(heap, offset)->room++;
    unmark_free(block);
    return block;
}

static HAK_ALWAYS_INLINE void *fast_malloc(size_t size)
{
    return noted_wanted() ? noted_malloc(size) : fast_malloc_or(size, slow_malloc, refill_malloc);
}

static HAK_ALWAYS_INLINE void fast_free(void *p)
{
    if (noted_wanted()) {
        noted_free(p);
        return;
    }
    struct heap *heap = atomic_load_relaxed(&hak_self);
    FORGET_HEAP(heap);
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
    uint32_t magic = bin_at(heap, offset)->magic;
    if (HAK_UNLIKELY(!sc_is_multiple((uint32_t)(uintptr_t)p & (SC_SLAB_BYTES - 1), magic))) {
        slow_free(p);
        return;
    }
    FORGET_OFFSET(offset);
    void *head = bin_at(heap, offset)->head;
    if (HAK_UNLIKELY(head == p || is_marked_free(heap, p))) {
        slow_free(p);
        return;
    }
    validate_free(p);
    mark_free(heap, p);
    *(void **)p = head;
    FORGET_OFFSET(offset);
    bin_at(heap, offset)->head = p;
    FORGET_OFFSET(offset);
    if (HAK_UNLIKELY(take_room(&bin_at(heap, offset)->room))) {
        overflow_free(heap, offset);
    }
}

#endif
