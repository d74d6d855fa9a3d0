/* The size-class table and the tables derived from it at compile time. Constants only. */
#include "base/size_classes.h"

/* The last class is the variant's (SC_LAST_BYTES). */
#define IS_LAST(size)      (HAK_SECURE && (size) == SC_SMALL_MAX)
#define BYTES(size)        (IS_LAST(size) ? SC_LAST_BYTES : (size))
#define COUNT(size, count) (IS_LAST(size) ? SC_SLAB_BYTES / SC_LAST_BYTES : (count))
#define LAST_MAGIC         (uint32_t)((((uint64_t)1 << 32) + SC_LAST_BYTES - 1) / SC_LAST_BYTES)
#define MAGIC(size, magic) (IS_LAST(size) ? LAST_MAGIC : (magic))

const struct size_class hak_sc_table[SC_N_CLASSES] = {
#define SIZE_CLASS(index, size, count, magic, inside, tail)                                        \
    {BYTES(size), COUNT(size, count), MAGIC(size, magic),                                          \
     SC_LIMIT(BYTES(size), COUNT(size, count), MAGIC(size, magic))},
#include "base/size_classes.def"
#undef SIZE_CLASS
};

#define SIZE_CLASS(index, size, count, magic, inside, tail)                                        \
    HAK_STATIC_ASSERT(BYTES(size) % 16 == 0 &&                                                     \
                          BYTES(size) * COUNT(size, count) <= SC_SLAB_BYTES &&                     \
                          BYTES(size) * (COUNT(size, count) + 1) > SC_SLAB_BYTES,                  \
                      "slab geometry");
#include "base/size_classes.def"
#undef SIZE_CLASS

const uint8_t hak_sc_of_granules[(SC_SMALL_MAX >> SC_GRANULE_SHIFT) + 1] = {
#define C(size_class) size_class,
#include "base/size_class_of.def"
#undef C
};

uint32_t hak_sc_of_aligned(size_t size, size_t align)
{
    uint32_t c = hak_sc_of(size);
    while (c < SC_N_CLASSES && (hak_sc_table[c].size & (align - 1)) &&
           hak_sc_table[c].capacity > 1) {
        c++;
    }
    return c;
}
