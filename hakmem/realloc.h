/* realloc, written once: every function that makes a block larger or smaller goes through
   hak_realloc_by. What differs between them is in struct realloc_way. */
#ifndef HAKMEM_HAKMEM_REALLOC_H
#define HAKMEM_HAKMEM_REALLOC_H

#include "base/internal.h"

#include "base/attributes.h"
#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

struct hak_heap;

struct realloc_way {
    /* Bytes of the block; aborts if p is none. */
    size_t (*usable_size)(const void *p);
    /* The heap in which the block stays; `heap` if the caller has named it. NULL for the process's.
     */
    struct hak_heap *(*home)(struct hak_heap *heap, const void *p, size_t usable);
    /* 1 if the block may stay where it is. */
    int (*stays)(size_t usable, size_t size);
    /* Makes it larger or smaller without a copy, perhaps at another address; NULL if that cannot
       be. */
    void *(*resize)(struct hak_heap *heap, void *p, size_t usable, size_t size);
    /* A new block. `is_growing`: for one that was too small. */
    void *(*take)(struct hak_heap *heap, size_t size, int is_growing, int is_zeroed);
    /* `known`: what the caller of resize knows of the block, NULL for nothing. */
    void (*give)(void *p, const void *known);
    /* Makes the block zero from `start` on; NULL if `take` has heeded is_zeroed, and no block
       stays. */
    void (*clear)(void *p, size_t start);
};

/* The block in place, resized or moved: NULL and ENOMEM leave it as it was. NULL is a new block,
   size 0 the end of the old one. */
void *hak_realloc_by(const struct realloc_way *way, struct hak_heap *heap, void *p, size_t size,
                     int is_zeroed);

/* The heap of a block; aborts if `heap` is not NULL and another one. */
struct hak_heap *hak_realloc_home(struct hak_heap *heap, const void *p);

/* Shrinking may leave at most half of the block unused; small blocks stay whatever is asked. */
static inline int hak_realloc_fits(size_t usable, size_t size)
{
    return size <= usable && size >= hak_sc_least_kept(usable);
}

HAK_EXTERN_C_END

#endif
