/* The thread cache's inline half: bins as fast paths see them. The slow half is declared in
   theap.h. */
#ifndef HAKMEM_HEAP_TCACHE_H
#define HAKMEM_HEAP_TCACHE_H

#include "base/internal.h"

#include "heap/theap.h"

HAK_EXTERN_C_BEGIN

/* Offsets of bins for (size + 15) / 16, all sizes to 32 KiB; a heap's own small copy serves the
   tiny ones without the instruction that finds this table. Written while metering begins or ends.
 */
extern uint16_t hak_tc_mid_bin_of[(SC_SMALL_MAX >> SC_GRANULE_SHIFT) + 1] HAK_HIDDEN;

/* Variants that validate write the heap into the second word of a block that goes into one of its
   bins, and clear it when the block is handed out: a second free sees it, and looks through the
   bin. (The program may have written the same by chance.) */
static HAK_ALWAYS_INLINE void hak_tc_mark_free(struct theap *heap, void *p)
{
    if (HAK_VALIDATE) {
        ((void **)p)[1] = heap;
    }
}

static HAK_ALWAYS_INLINE void hak_tc_unmark_free(void *p)
{
    if (HAK_VALIDATE) {
        ((void **)p)[1] = NULL;
    }
}

static HAK_ALWAYS_INLINE int hak_tc_is_marked_free(const struct theap *heap, const void *p)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): NULL is in no slab */
    return HAK_VALIDATE && ((void *const *)p)[1] == (const void *)heap;
}

/* --*room < 0, by one instruction in memory. */
static HAK_ALWAYS_INLINE int hak_tc_take_room(int32_t *room)
{
#if defined(__x86_64__)
    int is_negative;
    __asm__("subl $1, %0" : "+m"(*room), "=@ccs"(is_negative));
    return is_negative;
#else
    return --*room < 0;
#endif
}

static HAK_ALWAYS_INLINE struct bin *hak_tc_bin_at(struct theap *heap, size_t offset)
{
    return (struct bin *)(void *)((char *)heap + offset);
}

/* The bin's first block, NULL if it is empty or its link is broken (which hak_request_small tells
   apart). */
static HAK_ALWAYS_INLINE void *hak_tc_bin_take(struct bin *bin)
{
    void *block = bin->head;
    int64_t link = *(int64_t *)block;
    if (HAK_UNLIKELY(hak_link_decode(&link))) {
        return NULL;
    }
    bin->head = (void *)(uintptr_t)link;
    bin->room++;
    hak_tc_unmark_free(block);
    return block;
}

HAK_EXTERN_C_END

#endif
