/* The fast paths: malloc's and free's first lines, inlined into hak_* and into the malloc family.
   No call, no atomic read-modify-write, no lock: bench/golden counts their instructions. Rare
   states (no heap yet, ended, another owner's block, not ours at all, an observer of calls) all
   look like an empty bin or a foreign tag, and go to one of five slow functions by a tail call. */
#ifndef HAKMEM_HAKMEM_FAST_H
#define HAKMEM_HAKMEM_FAST_H

#include "base/internal.h"

#include "base/error.h"
#include "hakmem/entry.h"
#include "heap/tcache.h"
#include "superslab/map.h"

/* Slow paths, in api.c: they go to the table of entry points (entry.h). */
HAK_COLD void *hak_fast_slow_malloc(size_t size); /* large */
HAK_NOINLINE void *hak_fast_refill_malloc(size_t size);
HAK_NOINLINE void hak_fast_slow_free(void *p);
/* For a block whose slab is not the heap's, or no block; `differs`: its tag, XOR the heap's. */
HAK_NOINLINE void hak_fast_free_others(void *p, struct theap *heap, size_t differs);
HAK_NOINLINE void hak_fast_overflow_free(struct theap *heap, size_t bin_offset);

#if HAK_VALIDATE
/* Checks a block of ours against its slab before it is freed; aborts on a mismatch. */
void hak_validate_free(const void *p);
/* Checks what the caller says of the block that it frees. */
void hak_validate_size(const void *p, size_t size);
#else
static inline void hak_validate_free(const void *p)
{
    (void)p;
}
static inline void hak_validate_size(const void *p, size_t size)
{
    (void)p;
    (void)size;
}
#endif

/* In every variant: what names an alignment, a power of two, is called rarely. */
static HAK_ALWAYS_INLINE void hak_fast_check_alignment(const void *p, size_t alignment)
{
    HAK_CHECK(((uintptr_t)p & (alignment - 1)) == 0,
              "freed with an alignment that is not the block's", p);
}

/* What the secure variant learns of a block besides: that a form of operator new has allocated it,
   and what whoever is about to free it says of it (entry.h). */
static inline void hak_fast_name(void *p, enum entry_family family)
{
    if (HAK_SECURE && p) {
        hak_entry_now()->name(p, family);
    }
}

static inline void hak_fast_claim(void *p, enum entry_family family, enum entry_family next,
                                  size_t size, size_t alignment)
{
    if (HAK_SECURE && p) {
        struct entry_claim claim = {family, next, size, alignment};
        hak_entry_now()->claim(p, &claim);
    }
}

/* What the compiler does not do by itself. FORGET makes it forget what it knows of a register, so
   that it folds heap + offset into each access's address instead of computing it in an instruction
   of its own; the letters keep heap and offset out of the register of the returned block, which
   saves the move at malloc's end. They emit nothing. */
#if defined(__x86_64__)
#define FORGET_HEAP(heap)     __asm__("" : "+d"(heap))
#define FORGET_OFFSET(offset) __asm__("" : "+c"(offset))
#define FORGET_LINK(link)     __asm__("" : "+S"(link))
#else
#define FORGET_HEAP(heap)     __asm__("" : "+r"(heap))
#define FORGET_OFFSET(offset) __asm__("" : "+r"(offset))
#define FORGET_LINK(link)     __asm__("" : "+r"(link))
#endif

/* The bin from which blocks of `size` bytes, at most SC_SMALL_MAX, are taken. */
static HAK_ALWAYS_INLINE struct bin *hak_fast_bin_to_take_from(struct theap *heap, size_t size)
{
    const uint16_t *bin_of = HAK_LIKELY(size <= SC_TINY_MAX) ? heap->tiny_bin : hak_tc_mid_bin_of;
    return hak_tc_bin_at(heap, atomic_load_relaxed(&bin_of[(size + 15) >> SC_GRANULE_SHIFT]));
}

/* The first block of the bin at `offset`; `refill` serves where there is none. */
static HAK_ALWAYS_INLINE void *hak_fast_malloc_from(struct theap *heap, size_t offset, size_t size,
                                                    void *(*refill)(size_t size))
{
    FORGET_OFFSET(offset);
    void *block = hak_tc_bin_at(heap, offset)->head;
    int64_t link = *(int64_t *)block;
    FORGET_LINK(link);
    if (HAK_UNLIKELY(hak_link_decode(&link))) { /* the bin is empty, or the block was written to */
        return refill(size);
    }
    FORGET_OFFSET(offset);
    hak_tc_bin_at(heap, offset)->head = (void *)(uintptr_t)link;
    FORGET_OFFSET(offset);
    hak_tc_bin_at(heap, offset)->room++;
    hak_tc_unmark_free(block);
    return block;
}

/* `large` serves what is above 32 KiB, `refill` what finds an empty bin: constants, called as the
   last thing. */
static HAK_ALWAYS_INLINE void *hak_fast_malloc_or(size_t size, void *(*large)(size_t size),
                                                  void *(*refill)(size_t size))
{
    struct theap *heap = atomic_load_relaxed(&hak_self);
    if (HAK_SECURE) { /* its layer sees every call: no bin has anything */
        return size <= SC_SMALL_MAX ? refill(size) : large(size);
    }
    FORGET_HEAP(heap);
    if (HAK_LIKELY(size <= SC_TINY_MAX)) {
        return hak_fast_malloc_from(heap, heap->tiny_bin[(size + 15) >> SC_GRANULE_SHIFT], size,
                                    refill);
    }
    if (HAK_LIKELY(size <= SC_SMALL_MAX)) {
        return hak_fast_malloc_from(heap, hak_tc_mid_bin_of[(size + 15) >> SC_GRANULE_SHIFT], size,
                                    refill);
    }
    return large(size);
}

static HAK_ALWAYS_INLINE void *hak_fast_malloc(size_t size)
{
    if (HAK_SECURE) { /* its layer sees every call */
        return hak_entry_now()->malloc(size);
    }
    return hak_fast_malloc_or(size, hak_fast_slow_malloc, hak_fast_refill_malloc);
}

/* Puts a block that is known to be this heap's into its bin; `head` is the bin's. */
static HAK_ALWAYS_INLINE void hak_fast_push_before(struct theap *heap, size_t offset, void *p,
                                                   void *head)
{
    hak_validate_free(p);
    hak_tc_mark_free(heap, p);
    hak_link_write(p, head);
    FORGET_OFFSET(offset);
    hak_tc_bin_at(heap, offset)->head = p;
    FORGET_OFFSET(offset);
    if (HAK_UNLIKELY(hak_tc_take_room(&hak_tc_bin_at(heap, offset)->room))) {
        hak_fast_overflow_free(heap, offset);
    }
}

static HAK_ALWAYS_INLINE void hak_fast_push_own(struct theap *heap, size_t offset, void *p)
{
    hak_fast_push_before(heap, offset, p, hak_tc_bin_at(heap, offset)->head);
}

/* The bin of the class of p, where a block of one of this heap's slabs starts; else NULL. */
static HAK_ALWAYS_INLINE struct bin *hak_fast_bin_in_own_slab(struct theap *heap, const void *p)
{
    size_t unit = hak_map_view_unit(&heap->view, p);
    if (HAK_UNLIKELY(unit >= heap->view.n_units)) {
        return NULL;
    }
    size_t offset = atomic_load_relaxed(&heap->view.tags[unit]) ^ heap->owner_tag;
    if (HAK_UNLIKELY(offset > TAG_LOW_MASK)) {
        return NULL;
    }
    struct bin *bin = hak_tc_bin_at(heap, offset);
    uint32_t within = (uint32_t)(uintptr_t)p & (SC_SLAB_BYTES - 1);
    return HAK_UNLIKELY(!hak_sc_is_block(within, bin->magic, bin->limit)) ? NULL : bin;
}

/* 1 if the block of that bin's class may be free by its first word. What was freed has a link
   there, to a block of its class or the end, or 0 if its page was purged, unless it was written to;
   so has what was handed out and not written to yet. The unit that a link leads to may serve
   another class by now; but blocks start at multiples of their size in every unit. (Variants that
   validate look further at all that may be a link.) */
static HAK_ALWAYS_INLINE int hak_fast_is_like_free(const struct bin *bin, const void *p)
{
    int64_t word = atomic_load_relaxed((const int64_t *)p); /* another thread may write to it */
    if (HAK_LIKELY(hak_link_decode(&word))) {
        return HAK_UNLIKELY(!atomic_load_relaxed((const int64_t *)p)) &&
               atomic_load_relaxed(&hak_link_are_zeroed);
    }
    uintptr_t to = (uintptr_t)word;
    return HAK_VALIDATE || HAK_UNLIKELY(hak_sc_is_block((uint32_t)to & (SC_SLAB_BYTES - 1),
                                                        bin->magic, bin->limit) ||
                                        to == (uintptr_t)hak_link_end);
}

/* 0 if the block of that bin's class may be free. */
static HAK_ALWAYS_INLINE int hak_fast_is_in_use(const struct theap *heap, const struct bin *bin,
                                                const void *p)
{
    return HAK_LIKELY(!hak_fast_is_like_free(bin, p) && bin->head != p &&
                      !hak_tc_is_marked_free(heap, p));
}

/* 1 if the block was the last that left its bin, and was not written to: its link leads to what is
   the first now. One of the list behind that leads to no block before itself. (A freed one that has
   gone back to its slab may: its size is returned though it is free.) */
static HAK_ALWAYS_INLINE int hak_fast_was_just_taken(const struct bin *bin, const void *p)
{
    const void *first = bin->head;
    return !HAK_VALIDATE && first != (const void *)hak_link_end && first != p &&
           atomic_load_relaxed((const int64_t *)p) == hak_link_word(first);
}

/* Frees a block of this heap; leaves all others, and what is wrong, to `otherwise`. */
static HAK_ALWAYS_INLINE void hak_fast_free_to(struct theap *heap, void *p,
                                               void (*otherwise)(void *p))
{
    FORGET_HEAP(heap);
    size_t unit = hak_map_view_unit(&heap->view, p);
    if (HAK_UNLIKELY(unit >= heap->view.n_units)) {
        otherwise(p);
        return;
    }
    size_t offset = atomic_load_relaxed(&heap->view.tags[unit]) ^ heap->owner_tag;
    if (HAK_UNLIKELY(offset > TAG_LOW_MASK)) {
        if (HAK_VALIDATE || otherwise != hak_fast_slow_free) {
            otherwise(p);
        } else {
            struct theap *own = heap;
            FORGET_LINK(own); /* a move to the argument's register here, and none above */
            hak_fast_free_others(p, own, offset);
        }
        return;
    }
    uint32_t within = (uint32_t)(uintptr_t)p & (SC_SLAB_BYTES - 1);
    if (HAK_UNLIKELY(!hak_sc_is_block(within, hak_tc_bin_at(heap, offset)->magic,
                                      hak_tc_bin_at(heap, offset)->limit))) {
        otherwise(p);
        return;
    }
    FORGET_OFFSET(offset);
    void *head = hak_tc_bin_at(heap, offset)->head;
    if (HAK_UNLIKELY(head == p || hak_tc_is_marked_free(heap, p))) {
        otherwise(p);
        return;
    }
    hak_fast_push_before(heap, offset, p, head);
}

static HAK_ALWAYS_INLINE void hak_fast_free(void *p)
{
    if (HAK_SECURE) { /* as above */
        if (HAK_UNLIKELY(!p)) {
            hak_fast_slow_free(p);
        } else {
            hak_entry_now()->free(p);
        }
        return;
    }
    hak_fast_free_to(atomic_load_relaxed(&hak_self), p, hak_fast_slow_free);
}

#endif
