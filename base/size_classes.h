/* Size classes up to 32 KiB: the one table of slab geometry (size_classes.def), from which alone
   offsets in slabs are computed. Constants only. */
#ifndef HAKMEM_BASE_SIZE_CLASSES_H
#define HAKMEM_BASE_SIZE_CLASSES_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* Counts the rows. */
enum {
    SC_N_CLASSES = 0
#define SIZE_CLASS(index, size, count, magic, inside, tail) +1
#include "base/size_classes.def"
#undef SIZE_CLASS
};

#define SC_TINY_MAX      ((size_t)1024)  /* the tiny pool's largest request */
#define SC_SMALL_MAX     ((size_t)32768) /* the mid-MT pool's largest request; above: ACE */
#define SC_SLAB_SHIFT    16
#define SC_SLAB_BYTES    ((size_t)1 << SC_SLAB_SHIFT)
#define SC_GRANULE_SHIFT 4
#define SC_MIN_ALIGN     ((size_t)1 << SC_GRANULE_SHIFT) /* every block is aligned to it at least */

/* Blocks of the last class. In the secure variant, where a request of 32 KiB needs a tail, a slab
   has one of them: what is behind it is address space. */
#define SC_LAST_BYTES (32768u + (HAK_SECURE ? 16u : 0u))

/* Counts the rows of the tiny pool; the others are the mid-MT pool's. */
enum {
    SC_N_TINY = 0
#define SIZE_CLASS(index, size, count, magic, inside, tail) +((size) <= SC_TINY_MAX)
#include "base/size_classes.def"
#undef SIZE_CLASS
};

struct size_class {
    uint32_t size;     /* bytes of a block, a multiple of 16 */
    uint32_t capacity; /* blocks a slab */
    uint32_t magic;    /* ceil(2^32 / size) */
    uint32_t limit;    /* see hak_sc_is_block */
};

extern const struct size_class hak_sc_table[SC_N_CLASSES];
/* For (size + 15) >> 4 up to 32 KiB: the class. */
extern const uint8_t hak_sc_of_granules[(SC_SMALL_MAX >> SC_GRANULE_SHIFT) + 1];

/* The class of a request of `size` bytes, which is at most SC_SMALL_MAX. Size 0 is served as 16
   bytes. */
static inline uint32_t hak_sc_of(size_t size)
{
    return hak_sc_of_granules[(size + 15) >> SC_GRANULE_SHIFT];
}

/* The smallest class that serves `size` bytes at a multiple of `align` (a power of two, at most 32
   KiB), or SC_N_CLASSES. Slabs are 64 KiB-aligned, so that a class whose size is a multiple of
   `align` has aligned blocks only, and one of which a slab has one block, too. */
uint32_t hak_sc_of_aligned(size_t size, size_t align);

/* The index of a block from its offset in the slab: floor(offset / size), by the magic number;
   exact for offset < 2^16. */
static inline uint32_t hak_sc_index_of(uint32_t class_index, uint32_t offset)
{
    return (uint32_t)(((uint64_t)offset * hak_sc_table[class_index].magic) >> 32);
}

/* True if a block of the class with that magic number and limit starts at `offset` < 2^16.
   Modulo 2^32, magic times size is e, 0 <= e < size, so that the block of index k gives k * e, and
   an offset between blocks at least `magic` (size_classes_test tries every offset). The limit is
   capacity * e: what lies behind the last block does not pass. Where e is 0, size divides the slab
   and there is nothing behind; the limit is 1. */
static inline int hak_sc_is_block(uint32_t offset, uint32_t magic, uint32_t limit)
{
    return offset * magic < limit;
}
#define SC_LIMIT(size, capacity, magic)                                                            \
    ((capacity) * (uint32_t)((size) * (magic)) + ((uint32_t)((size) * (magic)) == 0))

/* The fewest bytes for which realloc leaves a block of `usable` bytes where it is: at most half of
   it may stay unused. Small ones stay whatever is asked. */
static inline size_t hak_sc_least_kept(size_t usable)
{
    return usable <= 128 ? 1 : usable / 2;
}

HAK_EXTERN_C_END

#endif
