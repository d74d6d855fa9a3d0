/* Tests of the map's pages that go back, over address space that is really mapped and unmapped. */
#include "superslab/map.h"

#include <atomic>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "base/os.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::in_child;
using hak_testing::Rng;

const uintptr_t kUnit = uintptr_t(1) << MAP_UNIT_SHIFT;
const uint32_t kOwner = 1u << TAG_OWNER_SHIFT;

/* The address space of which a page of tags has the entries. */
uintptr_t span_bytes()
{
    return hak_os_page_size() / sizeof(uint32_t) * kUnit;
}

/* In the tiny variant a large page has more than one leaf's tags, and nothing goes back. */
bool is_left_out()
{
    return span_bytes() > MAP_LEAF_UNITS * kUnit;
}

void *map_at(uintptr_t address, size_t bytes)
{
    void *p = hak_os_real_ops.mmap(reinterpret_cast<void *>(address), bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}

/* `n` spans of pages of the window's tags, of which nothing is mapped. The process has no window
   yet. */
uintptr_t free_spans(size_t n)
{
    size_t bytes = (n + 1) * span_bytes();
    void *p = hak_os_reserve(bytes);
    EXPECT_NE(p, nullptr);
    EXPECT_EQ(hak_os_unmap(p, bytes), 0);
    /* From the end: most of the window lies below what is ensured first. */
    EXPECT_EQ(hak_map_ensure(static_cast<char *>(p) + bytes - kUnit, kUnit), 0);
    EXPECT_EQ(hak_map_ensure(p, bytes), 0);
    uintptr_t offset = (reinterpret_cast<uintptr_t>(p) - hak_map_base) % span_bytes();
    uintptr_t start = reinterpret_cast<uintptr_t>(p) + (offset ? span_bytes() - offset : 0);
    EXPECT_LT(hak_map_window_unit(reinterpret_cast<void *>(start)), MAP_LEAF_UNITS);
    return start;
}

const uint32_t *tag_of(uintptr_t address)
{
    return &hak_map_window->tag[hak_map_window_unit(reinterpret_cast<void *>(address))];
}

bool is_resident(const void *p)
{
    uintptr_t page = hak_os_page_size();
    unsigned char resident = 0;
    EXPECT_EQ(mincore(reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(p) & ~(page - 1)), page,
                      &resident),
              0);
    return resident & 1;
}

/* As an owner does: maps, writes entries; clears them, unmaps, and says so. */
void *own(uintptr_t address, size_t n_units, uint32_t tag)
{
    void *p = map_at(address, n_units * kUnit);
    if (p) {
        hak_map_set(p, n_units, tag, tag >> TAG_OWNER_SHIFT);
    }
    return p;
}

void disown(void *p, size_t n_units)
{
    hak_map_set(p, n_units, 0, 0);
    EXPECT_EQ(hak_os_unmap(p, n_units * kUnit), 0);
    hak_map_purge(p, n_units * kUnit);
}

void a_page_goes_back_with_the_last()
{
    uintptr_t start = free_spans(1);
    void *first = own(start, 3, kOwner), *last = own(start + span_bytes() - kUnit, 1, 2 * kOwner);
    ASSERT_TRUE(first && last);
    disown(first, 3);
    EXPECT_TRUE(is_resident(tag_of(start)));
    EXPECT_EQ(hak_map_get(last).tag, 2 * kOwner);
    EXPECT_EQ(hak_map_get(first).tag, 0u);
    disown(last, 1);
    EXPECT_FALSE(is_resident(tag_of(start)));
    EXPECT_FALSE(is_resident(tag_of(start) + MAP_LEAF_UNITS)); /* numbers */
    EXPECT_EQ(hak_map_get(last).tag, 0u);
    EXPECT_EQ(own(start + kUnit, 1, 3 * kOwner), reinterpret_cast<void *>(start + kUnit));
    EXPECT_EQ(hak_map_get(reinterpret_cast<void *>(start + kUnit)).tag, 3 * kOwner);
    EXPECT_EQ(hak_map_get(reinterpret_cast<void *>(start + kUnit)).ref, 3u);
    disown(reinterpret_cast<void *>(start + kUnit), 1);
}

void much_at_once_across_pages()
{
    uintptr_t start = free_spans(2);
    size_t n_units = span_bytes() / kUnit;
    void *p = own(start + span_bytes() / 2, n_units, kOwner);
    ASSERT_TRUE(p);
    disown(p, n_units);
    for (size_t i = 0; i < 2; i++) {
        EXPECT_FALSE(is_resident(tag_of(start + i * span_bytes()))) << i;
    }
}

/* The program's own memory within the span is left alone, and the page stays. */
void what_others_have_mapped_is_left_alone()
{
    uintptr_t start = free_spans(1);
    char *theirs = static_cast<char *>(map_at(start + 5 * kUnit, kUnit));
    ASSERT_TRUE(theirs);
    theirs[100] = 7;
    void *p = own(start, 1, kOwner);
    ASSERT_TRUE(p);
    disown(p, 1);
    EXPECT_TRUE(is_resident(tag_of(start)));
    EXPECT_EQ(theirs[100], 7);
    EXPECT_EQ(hak_os_unmap(theirs, kUnit), 0);
}

void what_the_system_refuses_stays_and_is_exact()
{
    for (auto call : {hak_testing::OS_MMAP, hak_testing::OS_MADVISE, hak_testing::OS_MUNMAP}) {
        for (uint64_t n = 1; n <= 3; n++) {
            uintptr_t start = free_spans(1);
            void *p = own(start, 2, kOwner);
            ASSERT_TRUE(p);
            hak_map_set(p, 2, 0, 0);
            ASSERT_EQ(hak_os_unmap(p, 2 * kUnit), 0);
            FailingOs os;
            os.fail(call, n);
            errno = 99;
            hak_map_purge(p, 2 * kUnit);
            EXPECT_EQ(errno, 99);
            EXPECT_EQ(os.fired(), n == 1 || (call == hak_testing::OS_MADVISE && n == 2));
            os.reset();
            EXPECT_EQ(hak_map_get(p).tag, 0u);
            if (call == hak_testing::OS_MUNMAP && n == 1) { /* address space, and no memory */
                EXPECT_EQ(hak_os_unmap(reinterpret_cast<void *>(start), span_bytes()), 0);
            }
            p = own(start, 1, kOwner);
            ASSERT_TRUE(p);
            disown(p, 1);
            EXPECT_FALSE(is_resident(tag_of(start)));
        }
    }
}

std::atomic<uint64_t> n_purged;

/* Owners come and go in a few spans, wherever there is room, while pages go back: each finds its
   own entries as it wrote them. */
void come_and_go(uintptr_t start, size_t n_spans, uint64_t seed, bool has_view)
{
    const size_t n_threads = 3;
    std::atomic<uint64_t> n_wrong{0}, n_owned{0};
    std::vector<std::thread> threads;
    hak_os_ops.madvise = [](void *at, size_t length, int advice) {
        n_purged += advice == MADV_DONTNEED;
        return hak_os_real_ops.madvise(at, length, advice);
    };
    n_purged = 0;
    for (size_t t = 0; t < n_threads; t++) {
        threads.emplace_back([&, t] {
            Rng rng(seed * 16 + t);
            struct map_view view = {};
            hak_map_view_begin(&view);
            for (int i = 0; i < 4000; i++) {
                size_t n = rng.between(1, 3), span = rng.below(n_spans), unit = rng.below(8);
                uint32_t tag = static_cast<uint32_t>(rng.between(1, 200)) * kOwner;
                char *p = static_cast<char *>(
                    own(start + span * span_bytes() + unit * 4 * kUnit, n, tag));
                for (size_t u = 0; p && u < n; u++) {
                    if (has_view) {
                        hak_map_view_extend(&view, p + u * kUnit);
                    }
                    struct map_entry entry = hak_map_get(p + u * kUnit);
                    uint32_t shown = hak_map_view_tag(&view, p + u * kUnit);
                    n_wrong += entry.tag != tag || entry.ref != tag >> TAG_OWNER_SHIFT;
                    n_wrong += has_view && shown != tag;
                    n_owned++;
                }
                if (p) {
                    disown(p, n);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_wrong, 0u);
    EXPECT_GT(n_owned, 1000u);
    EXPECT_GT(n_purged, 100u);
}

void owners_come_and_go_in_the_window()
{
    come_and_go(free_spans(2), 2, 1, false);
}

/* Far from the window, with the flat array: its pages go back too. */
void owners_come_and_go_beyond_the_window()
{
    (void)free_spans(1);
    /* Below the window, where no kernel puts anything by itself. */
    uintptr_t start = hak_map_base / 2 / span_bytes() * span_bytes();
    ASSERT_EQ(hak_map_ensure(reinterpret_cast<void *>(start), 4 * span_bytes()), 0);
    void *p = own(start, 1, kOwner);
    ASSERT_TRUE(p);
    struct map_view view = {};
    hak_map_view_begin(&view);
    hak_map_view_extend(&view, p);
    ASSERT_EQ(hak_map_view_tag(&view, p), kOwner);
    const void *shown = &view.tags[hak_map_view_unit(&view, p)];
    EXPECT_TRUE(is_resident(shown));
    disown(p, 1);
    EXPECT_FALSE(is_resident(shown));
    come_and_go(start, 3, 2, true);
    EXPECT_EQ(hak_map_verify(reinterpret_cast<void *>(start), 3 * span_bytes() / kUnit), 0);
}

/* Each in a process of its own, which has no window yet. */
void alone(void (*test)())
{
    if (!is_left_out()) {
        in_child(test);
    }
}

TEST(MapPurge, APageGoesBackWithTheLast)
{
    alone(a_page_goes_back_with_the_last);
}

TEST(MapPurge, MuchAtOnceAcrossPages)
{
    alone(much_at_once_across_pages);
}

TEST(MapPurge, WhatOthersHaveMappedIsLeftAlone)
{
    alone(what_others_have_mapped_is_left_alone);
}

TEST(MapPurge, WhatTheSystemRefusesStaysAndIsExact)
{
    alone(what_the_system_refuses_stays_and_is_exact);
}

TEST(MapPurge, OwnersComeAndGoInTheWindow)
{
    alone(owners_come_and_go_in_the_window);
}

TEST(MapPurge, OwnersComeAndGoBeyondTheWindow)
{
    alone(owners_come_and_go_beyond_the_window);
}

} // namespace
