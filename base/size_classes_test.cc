/* Tests of the size classes: every request from 0 to 32 KiB, every offset of a slab in every class,
   alignments, waste. */
#include "base/size_classes.h"

#include <gtest/gtest.h>

namespace
{

const double inside_column[] = {
#define SIZE_CLASS(index, size, count, magic, inside, tail) inside,
#include "base/size_classes.def"
#undef SIZE_CLASS
};
const double tail_column[] = {
#define SIZE_CLASS(index, size, count, magic, inside, tail) tail,
#include "base/size_classes.def"
#undef SIZE_CLASS
};
const uint32_t index_column[] = {
#define SIZE_CLASS(index, size, count, magic, inside, tail) index,
#include "base/size_classes.def"
#undef SIZE_CLASS
};

/* By search: what hak_sc_of must find. */
uint32_t smallest_that_fits(size_t size, size_t align)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        if (hak_sc_table[c].size >= size &&
            (hak_sc_table[c].size % align == 0 || hak_sc_table[c].capacity == 1)) {
            return c;
        }
    }
    return SC_N_CLASSES;
}

TEST(SizeClasses, TableIsSound)
{
    EXPECT_EQ(hak_sc_table[0].size, 16u);
    EXPECT_EQ(hak_sc_table[SC_N_CLASSES - 1].size, SC_SMALL_MAX + (HAK_SECURE ? 16 : 0));
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        EXPECT_EQ(index_column[c], c);
        EXPECT_EQ(hak_sc_table[c].size % 16, 0u) << c;
        EXPECT_EQ(hak_sc_table[c].capacity, SC_SLAB_BYTES / hak_sc_table[c].size) << c;
        EXPECT_EQ(hak_sc_table[c].magic,
                  ((1ull << 32) + hak_sc_table[c].size - 1) / hak_sc_table[c].size)
            << c;
        if (c) {
            EXPECT_GT(hak_sc_table[c].size, hak_sc_table[c - 1].size);
        }
    }
}

TEST(SizeClasses, EveryRequestGetsTheSmallestClassThatFits)
{
    for (size_t size = 0; size <= SC_SMALL_MAX; size++) {
        uint32_t c = hak_sc_of(size);
        ASSERT_LT(c, static_cast<uint32_t>(SC_N_CLASSES)) << size;
        ASSERT_EQ(c, smallest_that_fits(size ? size : 1, 1)) << size;
    }
}

/* At most 25 % inside a block for every request of 64 bytes and more; the column of the table is
   the worst of its class. */
TEST(SizeClasses, WasteInsideBlocksIsBounded)
{
    double worst[SC_N_CLASSES] = {};
    for (size_t size = 1; size <= SC_SMALL_MAX; size++) {
        uint32_t c = hak_sc_of(size);
        double waste =
            100.0 * static_cast<double>(hak_sc_table[c].size - size) / hak_sc_table[c].size;
        worst[c] = waste > worst[c] ? waste : worst[c];
        if (size >= 64) {
            ASSERT_LE(waste, 25.0) << size;
        } else {
            ASSERT_LT(hak_sc_table[c].size - size, 16u) << size;
        }
    }
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        EXPECT_NEAR(worst[c], inside_column[c], HAK_SECURE ? 0.1 : 0.051) << c;
    }
}

/* Of slabs that are cut into few blocks; a tail is never handed out. */
TEST(SizeClasses, WasteAtTheTailOfSlabsIsBounded)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        uint32_t capacity = hak_sc_table[c].capacity;
        if (capacity == 1) {
            EXPECT_TRUE(HAK_SECURE) << "of address space alone";
            continue;
        }
        double tail = 100.0 * (SC_SLAB_BYTES - hak_sc_table[c].size * capacity) / SC_SLAB_BYTES;
        EXPECT_LE(tail, capacity > 5 ? 2.6 : capacity > 2 ? 14.0 : 23.1) << c;
        EXPECT_NEAR(tail, tail_column[c], 0.051) << c;
    }
}

/* Programs account by what malloc_usable_size says. */
TEST(SizeClasses, ABlockIsNotMuchLargerThanTheRequest)
{
    for (size_t size = 200; size <= SC_SMALL_MAX; size++) {
        double times =
            static_cast<double>(hak_sc_table[hak_sc_of(size)].size) / static_cast<double>(size);
        ASSERT_LE(times, size <= SC_TINY_MAX ? 1.13 : 1.155) << size;
    }
}

/* The tail behind the last block included. */
TEST(SizeClasses, IndexAndStartAreExactForEveryOffset)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        uint32_t size = hak_sc_table[c].size, index = 0, rest = 0, n_wrong = 0;
        for (uint32_t offset = 0; offset < SC_SLAB_BYTES; offset++) {
            n_wrong += hak_sc_index_of(c, offset) != index;
            int is_block = rest == 0 && index < hak_sc_table[c].capacity;
            n_wrong +=
                hak_sc_is_block(offset, hak_sc_table[c].magic, hak_sc_table[c].limit) != is_block;
            if (++rest == size) {
                rest = 0;
                index++;
            }
        }
        EXPECT_EQ(n_wrong, 0u) << "class " << c;
    }
}

TEST(SizeClasses, AlignedRequests)
{
    for (size_t align = 1; align <= SC_SMALL_MAX; align *= 2) {
        uint32_t n_served = 0;
        for (size_t size = 0; size <= SC_SMALL_MAX; size += size < 2048 ? 1 : 61) {
            uint32_t c = hak_sc_of_aligned(size, align);
            ASSERT_EQ(c, smallest_that_fits(size ? size : 1, align)) << size << " at " << align;
            n_served += c < SC_N_CLASSES;
        }
        EXPECT_GT(n_served, 0u) << align;
        EXPECT_EQ(hak_sc_of_aligned(SC_SMALL_MAX, align), static_cast<uint32_t>(SC_N_CLASSES - 1))
            << align;
    }
}

} // namespace
