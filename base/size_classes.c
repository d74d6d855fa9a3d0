/* The size-class table and the tables derived from it at compile time. Constants only. */
#include "base/size_classes.h"

const struct size_class hak_sc_table[SC_N_CLASSES] = {
#define SIZE_CLASS(index, size, count, magic, inside, tail)                                        \
    {size, count, magic, SC_LIMIT(size, count, magic)},
#include "base/size_classes.def"
#undef SIZE_CLASS
};

#define SIZE_CLASS(index, size, count, magic, inside, tail)                                        \
    HAK_STATIC_ASSERT((size) % 16 == 0 && (size) * (count) <= SC_SLAB_BYTES &&                     \
                          (size) * ((count) + 1) > SC_SLAB_BYTES,                                  \
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
    while (c < SC_N_CLASSES && (hak_sc_table[c].size & (align - 1))) {
        c++;
    }
    return c;
}
