/* Tests of what heaps see of the map: the window, the flat array, refusals, locked memory. Each
   runs in a process of its own, for there is one flat array a process, and it is asked for once. */
#include "superslab/map.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/verify.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::in_child;
using hak_testing::Rng;

const uintptr_t kUnit = uintptr_t(1) << MAP_UNIT_SHIFT;
const uintptr_t kLeafBytes = kUnit << MAP_LEAF_SHIFT;
const uintptr_t kFirst = uintptr_t(0x7f1234) << 24;
const uintptr_t kBeyond = kFirst - 5 * kLeafBytes;
const uint32_t kOwner = 1u << TAG_OWNER_SHIFT;

const void *at(uintptr_t address)
{
    return reinterpret_cast<const void *>(address);
}

void set(uintptr_t address, size_t n_units, uint32_t tag)
{
    ASSERT_EQ(hak_map_ensure(at(address), n_units * kUnit), 0);
    hak_map_set(at(address), n_units, tag, 9);
}

size_t resident_kib()
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    EXPECT_EQ(fscanf(file, "%ld %ld", &pages, &resident), 2);
    fclose(file);
    return static_cast<size_t>(resident) * hak_os_real_ops.page_size() / 1024;
}

bool is_flat(const struct map_view &view)
{
    return view.n_units == MAP_FLAT_UNITS - 1;
}

TEST(MapView, AtFirstNothingThenTheWindow)
{
    in_child([] {
        struct map_view view = {};
        hak_map_view_begin(&view);
        EXPECT_EQ(view.n_units, 0u);
        EXPECT_EQ(hak_map_view_tag(&view, at(kFirst)), 0u);
        set(kFirst, 3, kOwner);
        hak_map_view_extend(&view, at(kFirst)); /* as the first free does */
        EXPECT_EQ(view.n_units, MAP_LEAF_UNITS);
        for (uintptr_t offset = 0; offset < 3 * kUnit; offset += 4095) {
            EXPECT_EQ(hak_map_view_tag(&view, at(kFirst + offset)), kOwner);
        }
        EXPECT_EQ(hak_map_view_tag(&view, at(kFirst - 1)), 0u);
        EXPECT_EQ(hak_map_view_tag(&view, nullptr), 0u);
        set(kBeyond, 1, kOwner);
        EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond)), 0u);
        FailingOs os;
        hak_map_view_extend(&view, at(kFirst)); /* nothing beyond: nothing is asked for */
        EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 0u);
        EXPECT_FALSE(view.is_final);
    });
}

TEST(MapView, OneFreeBeyondTheWindowAndAllIsSeen)
{
    in_child([] {
        struct map_view view = {}, other = {};
        set(kFirst, 3, kOwner);
        set(kBeyond, 2, 7 * kOwner);
        hak_map_view_begin(&view);
        hak_map_view_begin(&other);
        hak_map_view_extend(&view, at(kBeyond + 17));
        ASSERT_TRUE(is_flat(view));
        EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond)), 7 * kOwner);
        /* What was written before is filled in at its first free. */
        EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond + kUnit)), 0u);
        EXPECT_EQ(hak_map_view_tag(&view, at(kFirst)), 0u);
        hak_map_view_extend(&view, at(kBeyond + kUnit));
        hak_map_view_extend(&view, at(kFirst));
        EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond + kUnit)), 7 * kOwner);
        EXPECT_EQ(hak_map_view_tag(&view, at(kFirst)), kOwner);
        /* What is written from now on is seen at once, unless it is no slab's. */
        set(kBeyond, 5, 3 * kOwner + 32);
        for (uintptr_t unit = 0; unit < 5; unit++) {
            EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond + unit * kUnit)), 3 * kOwner + 32);
        }
        set(kBeyond, 1, TAG_FREE_UNIT);
        set(kBeyond + kUnit, 1, TAG_SPAN);
        set(kBeyond + 2 * kUnit, 1, TAG_RANGE);
        set(kBeyond + 3 * kUnit, 1, 0);
        set(kFirst, 1, 0);
        for (uintptr_t unit = 0; unit < 4; unit++) {
            const void *p = at(kBeyond + unit * kUnit);
            EXPECT_EQ(hak_map_view_tag(&view, p), 0u);
            hak_map_view_extend(&view, p);
            EXPECT_EQ(hak_map_view_tag(&view, p), 0u);
        }
        EXPECT_EQ(hak_map_view_tag(&view, at(kFirst)), 0u);
        /* Another heap's view follows with its own first free beyond; a new one has it at once. */
        EXPECT_EQ(other.n_units, MAP_LEAF_UNITS);
        hak_map_view_extend(&other, at(kBeyond + 4 * kUnit));
        EXPECT_EQ(hak_map_view_tag(&other, at(kBeyond + 4 * kUnit)), 3 * kOwner + 32);
        struct map_view third = {};
        hak_map_view_begin(&third);
        EXPECT_EQ(third.tags, view.tags);
        EXPECT_EQ(third.base, view.base);
    });
}

TEST(MapView, AllAddresses)
{
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        const uintptr_t end = uintptr_t(1) << 48, places[] = {kUnit,
                                                              2 * kUnit,
                                                              hak_map_base - kUnit,
                                                              hak_map_base,
                                                              hak_map_base + kLeafBytes,
                                                              (uintptr_t(1) << 47) - kUnit,
                                                              uintptr_t(1) << 47,
                                                              end - kUnit,
                                                              uintptr_t(3) << 40};
        hak_map_view_begin(&view);
        for (uintptr_t place : places) {
            set(place, 1, 5 * kOwner);
            hak_map_view_extend(&view, at(place + 100));
            bool reaches = place >> MAP_UNIT_SHIFT < MAP_FLAT_UNITS;
            EXPECT_EQ(hak_map_view_tag(&view, at(place)), reaches ? 5 * kOwner : 0)
                << std::hex << place;
            EXPECT_EQ(hak_map_get(at(place)).tag, 5 * kOwner);
            set(place, 1, 6 * kOwner);
            EXPECT_EQ(hak_map_view_tag(&view, at(place)), reaches ? 6 * kOwner : 0)
                << std::hex << place;
            EXPECT_EQ(hak_map_verify(at(place), 1), 0);
            set(place, 1, 0);
        }
        /* Any value may be looked up. */
        Rng rng(1);
        for (int i = 0; i < 10000; i++) {
            uintptr_t wild = rng.next() >> rng.below(64);
            EXPECT_EQ(hak_map_view_tag(&view, at(wild)), 0u) << std::hex << wild;
        }
        EXPECT_GE(hak_map_view_unit(&view, nullptr), view.n_units);
        EXPECT_GE(hak_map_view_unit(&view, at(kUnit - 1)), view.n_units);
        EXPECT_GE(hak_map_view_unit(&view, at(UINTPTR_MAX)), view.n_units);
    });
}

TEST(MapView, ARangeMayCrossParts)
{
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        hak_map_view_begin(&view);
        for (uintptr_t edge : {hak_map_base, hak_map_base + 3 * kLeafBytes}) {
            set(edge - 2 * kUnit, 4, 2 * kOwner);
            hak_map_view_extend(&view, at(edge - kUnit)); /* the lower part alone */
            set(edge - 2 * kUnit, 4, 3 * kOwner);
            EXPECT_EQ(hak_map_view_tag(&view, at(edge - kUnit)), 3 * kOwner);
            EXPECT_EQ(hak_map_view_tag(&view, at(edge)), 0u);
            hak_map_view_extend(&view, at(edge));
            EXPECT_EQ(hak_map_view_tag(&view, at(edge)), 3 * kOwner);
            EXPECT_EQ(hak_map_verify(at(edge - 2 * kUnit), 4), 0);
        }
    });
}

/* Only what slabs have had costs memory. */
TEST(MapView, CostsAddressesButNoMemory)
{
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the sanitizer's own memory grows";
#endif
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        set(kBeyond, 1, kOwner);
        hak_map_view_begin(&view);
        size_t before = resident_kib();
        hak_map_view_extend(&view, at(kBeyond));
        ASSERT_TRUE(is_flat(view));
        EXPECT_LT(resident_kib(), before + 256);
        FailingOs os;
        for (uintptr_t i = 0; i < 100; i++) {
            set(kBeyond + i * kUnit, 1, kOwner);
            hak_map_view_extend(&view, at(kBeyond + i * kUnit));
        }
        EXPECT_LT(resident_kib(), before + 512);
        EXPECT_EQ(os.calls(hak_testing::OS_MPROTECT), 0u);
    });
}

/* The n-th call of each function refused: the view shows the tag, or not yet, or never; nothing is
   asked for twice; the map is exact. */
TEST(MapView, EachCallRefused)
{
    const hak_testing::OsCall calls[] = {hak_testing::OS_MMAP, hak_testing::OS_MUNMAP,
                                         hak_testing::OS_MADVISE, hak_testing::OS_MPROTECT};
    for (hak_testing::OsCall call : calls) {
        for (uint64_t n = 1; n <= 3; n++) {
            in_child([=, &calls] {
                struct map_view view = {};
                set(kFirst, 1, kOwner);
                set(kBeyond, 1, 2 * kOwner);
                set(kBeyond - 3 * kLeafBytes, 1, 3 * kOwner);
                hak_map_view_begin(&view);
                FailingOs os;
                os.fail(call, n);
                errno = 77;
                hak_map_view_extend(&view, at(kBeyond));
                EXPECT_EQ(errno, 77);
                bool fired = os.fired();
                os.reset();
                /* mmap; munmap; madvise: huge pages, the test for locked ones, small pages;
                   mprotect: the array, the part. */
                const uint64_t n_calls = call == hak_testing::OS_MADVISE    ? 3
                                         : call == hak_testing::OS_MPROTECT ? 2
                                                                            : 1;
                EXPECT_EQ(fired, n <= n_calls);
                bool has_array = !fired || call == hak_testing::OS_MUNMAP ||
                                 (call == hak_testing::OS_MADVISE && n != 2) ||
                                 (call == hak_testing::OS_MPROTECT && n == 2);
                bool has_part = has_array && !(fired && call == hak_testing::OS_MPROTECT);
                EXPECT_EQ(is_flat(view), has_array);
                EXPECT_EQ(view.is_final, !has_array);
                EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond)), has_part ? 2 * kOwner : 0);
                hak_map_view_extend(&view, at(kBeyond));
                for (hak_testing::OsCall any : calls) {
                    EXPECT_EQ(os.calls(any), 0u) << "asked for again";
                }
                set(kBeyond, 1, 4 * kOwner);
                EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond)), has_part ? 4 * kOwner : 0);
                EXPECT_EQ(hak_map_find(at(kBeyond)).tag, 4 * kOwner);
                hak_map_view_extend(&view, at(kBeyond - 3 * kLeafBytes));
                EXPECT_EQ(hak_map_view_tag(&view, at(kBeyond - 3 * kLeafBytes)),
                          has_array ? 3 * kOwner : 0);
                hak_map_view_extend(&view, at(kFirst));
                EXPECT_EQ(hak_map_view_tag(&view, at(kFirst)), kOwner);
            });
        }
    }
}

TEST(MapView, NoneWhereAddressesAreLimited)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer's own mappings are beyond the limit";
#endif
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        set(kBeyond, 1, kOwner);
        hak_map_view_begin(&view);
        struct rlimit limit = {7 * MAP_FLAT_BYTES, RLIM_INFINITY};
        ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
        hak_map_view_extend(&view,
                            at(kBeyond)); /* it would fit, and take too much of what is left */
        EXPECT_FALSE(is_flat(view));
        EXPECT_TRUE(view.is_final);
        EXPECT_EQ(hak_map_view_tag(&view, at(kFirst)), kOwner);
    });
}

/* Whether this process's new mappings are locked: a sanitizer's mlockall does nothing. */
bool is_locked()
{
    size_t page = hak_os_real_ops.page_size();
    void *p = mmap(nullptr, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool is = madvise(p, page, MADV_DONTNEED) != 0;
    munmap(p, page);
    return is;
}

TEST(MapView, NoneWhereMappingsAreLocked)
{
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        set(kBeyond, 1, kOwner);
        hak_map_view_begin(&view);
        if (mlockall(MCL_FUTURE) || !is_locked()) {
            return; /* may not be locked here */
        }
        size_t before = resident_kib();
        hak_map_view_extend(&view, at(kBeyond));
        EXPECT_FALSE(is_flat(view));
        EXPECT_TRUE(view.is_final);
        EXPECT_LT(resident_kib(), before + 1024);
    });
}

/* Locked later, what is not written to is the page of zeros. */
TEST(MapView, IsNoMemoryWhenLockedLater)
{
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        set(kBeyond, 1, kOwner);
        hak_map_view_begin(&view);
        hak_map_view_extend(&view, at(kBeyond));
        ASSERT_TRUE(is_flat(view));
        size_t before = resident_kib();
        if (mlockall(MCL_CURRENT) == 0) {
            EXPECT_LT(resident_kib(), before + 512 * 1024);
        }
    });
}

TEST(MapView, TheVerifierFindsAStaleTag)
{
    in_child([] {
        struct map_view view = {};
        set(kFirst, 1, kOwner);
        set(kBeyond, 3, kOwner);
        hak_map_view_begin(&view);
        EXPECT_EQ(hak_map_verify(at(kBeyond), 3), 0);
        hak_map_view_extend(&view, at(kBeyond + kUnit));
        EXPECT_EQ(hak_map_verify(at(kBeyond), 3), 0);
        uint32_t *tag =
            const_cast<uint32_t *>(&view.tags[hak_map_view_unit(&view, at(kBeyond + kUnit))]);
        *tag = 2 * kOwner;
        EXPECT_EQ(hak_map_verify(at(kBeyond), 3), VERIFY_MAP_FLAT);
        *tag = 0;
        EXPECT_EQ(hak_map_verify(at(kBeyond), 3), 0);
    });
}

/* Owners write their units while other threads, whose blocks are not even valid, fill them in; the
   array is made at that time. What stays is 0 or the map's. */
TEST(MapView, OwnersAndFillersAtOnce)
{
    for (uint64_t round = 0; round < 20; round++) {
        in_child([=] {
            const size_t n_units = 4, n_threads = 2;
            set(kFirst, 1, kOwner);
            set(kBeyond, n_units * n_threads, kOwner);
            std::atomic<int> n_wrong{0};
            std::vector<std::thread> threads;
            for (size_t t = 0; t < n_threads; t++) {
                threads.emplace_back([&, t] {
                    Rng rng(round * 10 + t);
                    struct map_view view = {};
                    hak_map_view_begin(&view);
                    for (int i = 0; i < 20000; i++) {
                        const void *own = at(kBeyond + (t * n_units + rng.below(n_units)) * kUnit);
                        uint32_t tag = static_cast<uint32_t>(rng.between(1, 3)) * kOwner;
                        hak_map_set(own, 1, rng.one_in(4) ? TAG_FREE_UNIT : tag, 0);
                        n_wrong += hak_map_get(own).tag == 0;
                        hak_map_view_extend(&view, at(kBeyond + rng.below(8) * kUnit));
                    }
                });
            }
            for (std::thread &thread : threads) {
                thread.join();
            }
            EXPECT_EQ(n_wrong, 0);
            EXPECT_EQ(hak_map_verify(at(kBeyond), n_units * n_threads), 0) << round;
            struct map_view view = {};
            hak_map_view_begin(&view);
            EXPECT_TRUE(is_flat(view));
        });
    }
}

} // namespace
