/* Tests of the pointer map with made-up addresses: exact for every pointer, in the window and
   beyond. */
#include "superslab/map.h"

#include <cerrno>
#include <gtest/gtest.h>
#include <map>
#include <vector>

#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

const uintptr_t kUnit = uintptr_t(1) << MAP_UNIT_SHIFT;
const uintptr_t kLeafBytes = kUnit << MAP_LEAF_SHIFT;
const uintptr_t kFirst = uintptr_t(0x7f1234) << 24; /* as the first superslab would lie */

const void *at(uintptr_t address)
{
    return reinterpret_cast<const void *>(address);
}

void expect_entry(uintptr_t address, uint32_t tag, uint32_t ref)
{
    struct map_entry entry = hak_map_get(at(address));
    EXPECT_EQ(entry.tag, tag) << std::hex << address;
    EXPECT_EQ(entry.ref, ref) << std::hex << address;
    struct map_entry found = hak_map_find(at(address));
    EXPECT_EQ(found.tag, tag) << std::hex << address;
    EXPECT_EQ(found.ref, ref) << std::hex << address;
}

std::vector<uintptr_t> wild_addresses()
{
    std::vector<uintptr_t> wild = {0,
                                   1,
                                   4095,
                                   65535,
                                   65536,
                                   (uintptr_t(1) << 47) - 1,
                                   uintptr_t(1) << 47,
                                   (uintptr_t(1) << 48) - 1,
                                   uintptr_t(1) << 48,
                                   uintptr_t(1) << 63,
                                   UINTPTR_MAX,
                                   UINTPTR_MAX - 65535,
                                   reinterpret_cast<uintptr_t>(&wild)};
    /* Non-canonical ones that are ours in the lower 48 bits. */
    for (int bit = 48; bit < 64; bit++) {
        wild.push_back(kFirst | uintptr_t(1) << bit);
    }
    return wild;
}

/* Must stay the first test: the map of a process that has none yet. */
TEST(Map, BeforeInitNothingIsOurs)
{
    for (uintptr_t address : wild_addresses()) {
        EXPECT_EQ(hak_map_get(at(address)).tag, 0u) << std::hex << address;
        /* So says the window's test, too, of every address that a program may have. */
        if (address < uintptr_t(1) << 47) {
            EXPECT_GE(hak_map_window_unit(at(address)), MAP_LEAF_UNITS) << std::hex << address;
        }
    }
    expect_entry(kFirst, 0, 0);
    FailingOs os;
    os.fail_always(hak_testing::OS_MMAP);
    EXPECT_EQ(hak_map_ensure(at(kFirst), kUnit), ENOMEM);
    expect_entry(kFirst, 0, 0);
    os.reset();
    ASSERT_EQ(hak_map_ensure(at(kFirst), kUnit), 0);
    expect_entry(kFirst, 0, 0);
    EXPECT_LT(hak_map_window_unit(at(kFirst)), MAP_LEAF_UNITS);
}

TEST(Map, EntriesInTheWindow)
{
    hak_map_set(at(kFirst), 3, 77, 5);
    expect_entry(kFirst - 1, 0, 0);
    for (uintptr_t offset = 0; offset < 3 * kUnit; offset += 4095) {
        expect_entry(kFirst + offset, 77, 5);
    }
    expect_entry(kFirst + 3 * kUnit - 1, 77, 5);
    expect_entry(kFirst + 3 * kUnit, 0, 0);
    EXPECT_EQ(hak_map_window->tag[hak_map_window_unit(at(kFirst + kUnit))], 77u);
    for (uintptr_t address : wild_addresses()) {
        expect_entry(address, 0, 0);
    }
    hak_map_set(at(kFirst + kUnit), 1, 0, 0);
    expect_entry(kFirst, 77, 5);
    expect_entry(kFirst + kUnit, 0, 0);
    expect_entry(kFirst + 2 * kUnit, 77, 5);
    hak_map_set(at(kFirst), 3, 0, 0);
    expect_entry(kFirst, 0, 0);
}

TEST(Map, BeyondTheWindow)
{
    const uintptr_t places[] = {kUnit,
                                hak_map_base - kUnit,
                                hak_map_base + kLeafBytes,
                                hak_map_base + 5 * kLeafBytes + 9 * kUnit,
                                (uintptr_t(1) << 47) - kUnit,
                                (uintptr_t(1) << 48) - kUnit,
                                uintptr_t(3) << 40};
    uint32_t i = 0;
    for (uintptr_t place : places) {
        EXPECT_GE(hak_map_window_unit(at(place)), MAP_LEAF_UNITS) << std::hex << place;
        ASSERT_EQ(hak_map_ensure(at(place), kUnit), 0);
        expect_entry(place, 0, 0);
        hak_map_set(at(place), 1, 100 + i, i);
        i++;
    }
    i = 0;
    for (uintptr_t place : places) {
        expect_entry(place, 100 + i, i);
        expect_entry(place + kUnit - 1, 100 + i, i);
        expect_entry(place + kUnit, 0, 0);
        expect_entry(place - 1, 0, 0);
        hak_map_set(at(place), 1, 0, 0);
        i++;
    }
}

/* Tags alone, of any units of a superslab, and of no others. */
TEST(Map, TagsChange)
{
    const size_t n_units = 32;
    ASSERT_EQ(hak_map_ensure(at(kFirst), n_units * kUnit), 0);
    for (size_t first = 0; first < n_units; first++) {
        for (size_t n = 1; first + n <= n_units; n++) {
            hak_map_set(at(kFirst), n_units, TAG_FREE_UNIT, 7);
            hak_map_change(at(kFirst + first * kUnit), n, TAG_SPAN);
            for (size_t i = 0; i < n_units; i++) {
                int is_span = i >= first && i < first + n;
                expect_entry(kFirst + i * kUnit, is_span ? TAG_SPAN : TAG_FREE_UNIT, 7);
            }
        }
    }
    hak_map_set(at(kFirst), n_units, 0, 0);
}

TEST(Map, ARangeMayCrossLeaves)
{
    for (uintptr_t edge :
         {hak_map_base, hak_map_base + kLeafBytes, hak_map_base + 9 * kLeafBytes}) {
        uintptr_t start = edge - 2 * kUnit;
        ASSERT_EQ(hak_map_ensure(at(start), 5 * kUnit), 0);
        hak_map_set(at(start), 5, 9, 8);
        for (int u = -1; u <= 5; u++) {
            bool inside = u >= 0 && u < 5;
            expect_entry(start + static_cast<uintptr_t>(u) * kUnit, inside ? 9 : 0, inside ? 8 : 0);
        }
        hak_map_set(at(start), 5, 0, 0);
    }
}

TEST(Map, ARefusedLeafIsReportedAndTriedAgain)
{
    FailingOs os;
    uintptr_t place = hak_map_base + 20 * kLeafBytes;
    os.fail_always(hak_testing::OS_MMAP);
    EXPECT_EQ(hak_map_ensure(at(place - kUnit), 2 * kUnit), ENOMEM);
    expect_entry(place, 0, 0);
    EXPECT_EQ(hak_map_ensure(at(kFirst), kUnit), 0); /* is there */
    os.reset();
    EXPECT_EQ(hak_map_ensure(at(place - kUnit), 2 * kUnit), 0);
    EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 2u);
    EXPECT_EQ(hak_map_ensure(at(place - kUnit), 2 * kUnit), 0);
    EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 2u); /* once a leaf */
    hak_map_set(at(place), 1, 4, 4);
    expect_entry(place, 4, 4);
    hak_map_set(at(place), 1, 0, 0);
}

/* Random writes in several leaves against a map of the standard library. */
TEST(Map, AgreesWithAnOracle)
{
    Rng rng(1);
    const uintptr_t bases[] = {kFirst, hak_map_base + kLeafBytes - 32 * kUnit,
                               hak_map_base - 32 * kUnit, uintptr_t(1) << 40};
    std::map<uintptr_t, struct map_entry> oracle;
    for (uintptr_t base : bases) {
        ASSERT_EQ(hak_map_ensure(at(base), 96 * kUnit), 0);
    }
    for (int step = 0; step < 4000; step++) {
        uintptr_t base = bases[rng.below(4)];
        size_t first = rng.below(64), n = rng.between(1, 32);
        struct map_entry entry = {static_cast<uint32_t>(rng.next()),
                                  static_cast<uint32_t>(rng.next())};
        if (rng.one_in(4)) {
            entry = {0, 0};
        }
        hak_map_set(at(base + first * kUnit), n, entry.tag, entry.ref);
        for (size_t u = first; u < first + n; u++) {
            oracle[base + u * kUnit] = entry;
        }
        uintptr_t probe = bases[rng.below(4)] + rng.below(96) * kUnit;
        auto it = oracle.find(probe);
        struct map_entry expected = it == oracle.end() ? map_entry{0, 0} : it->second;
        struct map_entry got = hak_map_get(at(probe + rng.below(kUnit)));
        ASSERT_EQ(got.tag, expected.tag) << step;
        ASSERT_EQ(got.ref, expected.ref) << step;
    }
    /* 48 bits of address, all of them: nothing else is ours. */
    for (int i = 0; i < 100000; i++) {
        uintptr_t address = rng.next() >> 16;
        if (oracle.count(address & ~(kUnit - 1)) == 0) {
            ASSERT_EQ(hak_map_get(at(address)).tag, 0u) << std::hex << address;
        }
    }
}

} // namespace
