/* Tests of purging: what the system does happens with no lock held, in bounded parts, and what it
   refuses is not asked for again. */
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "limit/limit.h"
#include "superslab/pool.h"
#include "testing/failing_os.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::FakeClock;

char *span(size_t bytes)
{
    return static_cast<char *>(hak_ss_span_alloc(bytes, 1, nullptr));
}

/* Every call of the system, with what a test wants to see at that moment. */
int n_madvise, n_munmap, n_held;
bool is_inside, refuses_madvise, refuses_munmap;
void (*meanwhile)(char *start, size_t size);

void note_held(struct lock *lock, void *)
{
    n_held += hak_lock_is_mine(lock);
}

void see(void *start, size_t size)
{
    hak_lock_for_each(note_held, nullptr);
    if (meanwhile && !is_inside) {
        is_inside = true;
        meanwhile(static_cast<char *>(start), size);
        is_inside = false;
    }
}

int seen_madvise(void *start, size_t size, int advice)
{
    see(start, size);
    n_madvise += advice == MADV_DONTNEED;
    if (refuses_madvise && advice == MADV_DONTNEED) {
        errno = EINVAL;
        return -1;
    }
    return hak_os_real_ops.madvise(start, size, advice);
}

int seen_munmap(void *start, size_t size)
{
    see(start, size);
    n_munmap++;
    if (refuses_munmap) {
        errno = ENOMEM;
        return -1;
    }
    return hak_os_real_ops.munmap(start, size);
}

void *seen_mmap(void *start, size_t size, int prot, int flags, int fd, off_t offset)
{
    see(start, size);
    return hak_os_real_ops.mmap(start, size, prot, flags, fd, offset);
}

size_t keep;

/* All is kept for purge_delay_ms, unless a test says how much. */
const struct ss_policy policy = {
    [](size_t) {},
    [](uint64_t) {},
    [](size_t) {},
    [] { return keep; },
    [] { return hak_options.purge_delay_ms; },
    [](const void *, uint32_t) { return ss_lookup{SS_NOT_OURS, 0, 0, nullptr, 0, 0}; },
    [] { return uint32_t{0}; },
    [](size_t *) -> char * { return nullptr; },
};

class Purge : public testing::Test
{
  protected:
    void SetUp() override
    {
        keep = SIZE_MAX;
        hak_ss_set_policy(&policy);
        hak_options.purge_delay_ms = 3600000;
        hak_options.huge_page_bytes = 0;
        hak_ss_purge(0);
        ASSERT_EQ(hak_stat_get(superslabs), 0);
        n_madvise = n_munmap = n_held = 0;
        refuses_madvise = refuses_munmap = false;
        meanwhile = nullptr;
        hak_os_ops.madvise = seen_madvise;
        hak_os_ops.munmap = seen_munmap;
        hak_os_ops.mmap = seen_mmap;
    }

    void TearDown() override
    {
        hak_os_ops = hak_os_real_ops;
        hak_ss_purge(0);
        EXPECT_EQ(n_held, 0) << "the system was called with a lock held";
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
        EXPECT_EQ(hak_stat_get(superslabs), 0);
    }

    /* n superslabs, the lower half of each in use, the upper one freed and dirty. */
    std::vector<char *> half_used(int n)
    {
        std::vector<char *> kept, freed;
        for (int i = 0; i < n; i++) {
            kept.push_back(span(SS_BYTES / 2));
            freed.push_back(span(SS_BYTES / 2));
            freed.back()[0] = 1;
        }
        for (char *p : freed) {
            hak_ss_span_free(p);
        }
        return kept;
    }

    void free_all(const std::vector<char *> &spans)
    {
        for (char *p : spans) {
            hak_ss_span_free(p);
        }
    }
};

/* While the system works, another thread may take and free spans and slabs, and everything holds;
   what is leaving is handed to none of them. */
TEST_F(Purge, OthersGoOnWhileTheSystemWorks)
{
    static int n_met;
    n_met = 0;
    std::vector<char *> kept = half_used(3);
    char *whole = span(SS_BYTES);
    whole[0] = 1;
    hak_ss_span_free(whole);
    meanwhile = [](char *start, size_t size) {
        ASSERT_EQ(hak_ss_verify(), 0);
        char *p = span(SS_UNIT_BYTES);
        struct slab *slab = hak_pool_slab_alloc(3u << TAG_OWNER_SHIFT, 0);
        ASSERT_TRUE(p && slab);
        EXPECT_TRUE(p + SS_UNIT_BYTES <= start || p >= start + size);
        EXPECT_TRUE(slab->base + SS_UNIT_BYTES <= start || slab->base >= start + size);
        memset(p, 7, SS_UNIT_BYTES);
        ASSERT_EQ(hak_ss_verify(), 0);
        hak_pool_slab_free(slab);
        hak_ss_span_free(p);
        ASSERT_EQ(hak_ss_verify(), 0);
        n_met++;
    };
    EXPECT_GE(hak_ss_purge(0), 2 * SS_BYTES);
    EXPECT_GE(n_met, 4) << "three halves and a whole one";
    meanwhile = nullptr;
    free_all(kept);
}

/* What was refused is asked for again when it was used, and by a trim; not by other frees. */
TEST_F(Purge, WhatWasRefusedIsNotAskedForAgain)
{
    for (int n : {4, 40}) {
        std::vector<char *> kept = half_used(n);
        refuses_madvise = true;
        n_madvise = 0;
        EXPECT_EQ(hak_ss_purge(0), 0u);
        EXPECT_EQ(n_madvise, n);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), static_cast<int64_t>(n * SS_BYTES / 2));
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_ss_purge(1), 0u);
        EXPECT_EQ(n_madvise, n);
        /* A pair of calls costs the same, however many were refused: its own superslab alone. */
        hak_options.purge_delay_ms = 0;
        for (int i = 0; i < 10; i++) {
            n_madvise = 0;
            char *p = span(SS_UNIT_BYTES);
            hak_ss_span_free(p);
            EXPECT_EQ(n_madvise, 1) << n;
            EXPECT_EQ(hak_ss_verify(), 0);
        }
        hak_options.purge_delay_ms = 3600000;
        /* Resident memory is taken first, refused or not. */
        int64_t dirty = hak_stat_get(heap_dirty_bytes);
        char *p = span(SS_BYTES / 2);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), dirty - static_cast<int64_t>(SS_BYTES / 2));
        hak_ss_span_free(p);
        n_madvise = 0;
        EXPECT_EQ(hak_ss_purge(0), 0u);
        EXPECT_EQ(n_madvise, n) << "a trim asks for everything once";
        refuses_madvise = false;
        EXPECT_EQ(hak_ss_purge(0), n * SS_BYTES / 2);
        free_all(kept);
        EXPECT_EQ(hak_ss_purge(0), n * SS_BYTES / 2);
    }
}

/* A backlog that has fallen due goes in parts; a program that frees on is not overtaken by it. */
TEST_F(Purge, ABacklogGoesInParts)
{
    FakeClock clock;
    hak_options.purge_delay_ms = 500;
    const int n = 200;
    std::vector<char *> kept = half_used(n);
    char *last = span(SS_BYTES / 2);
    clock.advance_ms(7200000);
    int64_t dirty = hak_stat_get(heap_dirty_bytes);
    n_madvise = n_munmap = 0;
    hak_ss_span_free(last);
    int most = n_madvise + n_munmap;
    EXPECT_GE(most, 2);
    EXPECT_LE(most, 8) << "of " << n;
    for (int i = 0; i < n && hak_stat_get(heap_dirty_bytes) > dirty / 10; i++) {
        n_madvise = n_munmap = 0;
        clock.advance_ms(600);
        hak_ss_span_free(span(SS_UNIT_BYTES));
        most = n_madvise + n_munmap > most ? n_madvise + n_munmap : most;
    }
    EXPECT_LE(hak_stat_get(heap_dirty_bytes), dirty / 10) << "it goes while the program goes on";
    EXPECT_LE(most, 8);
    EXPECT_EQ(hak_ss_verify(), 0);
    free_all(kept);
}

/* While one thread is in the system with what is due, another does not follow it there; but where
   the first one is lost, as in a forked child, it does after a moment. */
TEST_F(Purge, OneThreadAtATimeIsInTheSystem)
{
    static FakeClock *clock;
    static int n_inside;
    static uint64_t lost_ms;
    FakeClock fake;
    clock = &fake;
    hak_options.purge_delay_ms = 500;
    std::vector<char *> kept = half_used(40);
    for (uint64_t ms : {0u, 11u}) {
        lost_ms = ms;
        n_inside = 0;
        clock->advance_ms(7200000);
        char *last = span(SS_UNIT_BYTES);
        n_madvise = 0;
        meanwhile = [](char *, size_t) {
            int before = n_madvise;
            clock->advance_ms(lost_ms);
            hak_ss_span_free(span(SS_UNIT_BYTES));
            n_inside += n_madvise - before;
        };
        hak_ss_span_free(last);
        meanwhile = nullptr;
        EXPECT_GE(n_madvise - n_inside, 2);
        EXPECT_EQ(n_inside > 0, ms > 0) << n_inside;
        EXPECT_GT(hak_stat_get(heap_dirty_bytes), static_cast<int64_t>(SS_BYTES));
    }
    free_all(kept);
}

/* Many small dirty runs: a call makes a bounded number of system calls all the same. */
TEST_F(Purge, ManyHolesDoNotMakeACallLong)
{
    FakeClock clock;
    std::vector<char *> all, kept;
    for (int i = 0; i < 20 * 256; i++) {
        all.push_back(span(SS_GRANULE_BYTES));
    }
    for (size_t i = 0; i < all.size(); i++) {
        if (i % 2) {
            kept.push_back(all[i]);
        } else {
            hak_ss_span_free(all[i]);
        }
    }
    hak_options.purge_delay_ms = 500;
    clock.advance_ms(7200000);
    n_madvise = 0;
    hak_ss_span_free(kept.back());
    kept.pop_back();
    EXPECT_GE(n_madvise, 24);
    EXPECT_LE(n_madvise, 24 + 128) << "and what the last superslab takes";
    free_all(kept);
}

/* More than is worth keeping goes as memory is freed, the longest unused first. */
TEST_F(Purge, NoMoreIsKeptThanThePolicySays)
{
    keep = 4 * SS_BYTES;
    std::vector<char *> all;
    for (int i = 0; i < 32; i++) {
        all.push_back(span(SS_BYTES));
    }
    for (char *p : all) {
        hak_ss_span_free(p);
        EXPECT_LE(hak_stat_get(heap_dirty_bytes), static_cast<int64_t>(keep));
    }
    EXPECT_EQ(hak_super_lookup(all.front()).kind, SS_NOT_OURS);
    EXPECT_EQ(hak_super_lookup(all.back()).kind, SS_FREE_UNIT);
}

TEST_F(Purge, AClockThatGoesBackDoesNoHarm)
{
    FakeClock clock;
    std::vector<char *> kept = half_used(3);
    clock.advance_ms(1000);
    char *p = span(SS_BYTES), *q = span(SS_BYTES);
    hak_ss_span_free(p);
    hak_os_ops.clock_ns = [] { return uint64_t(0); };
    hak_ss_span_free(q);
    EXPECT_EQ(hak_ss_verify(), 0);
    EXPECT_EQ(hak_ss_purge(1), 0u) << "nothing is old";
    EXPECT_EQ(hak_ss_verify(), 0);
    free_all(kept);
    EXPECT_EQ(hak_ss_verify(), 0);
    EXPECT_GT(hak_ss_purge(0), 0u);
}

TEST_F(Purge, FreesUnderAnotherLockPurgeLater)
{
    hak_options.purge_delay_ms = 0;
    struct slab *slab = hak_pool_slab_alloc(3u << TAG_OWNER_SHIFT, 0);
    void *head;
    hak_slab_take(slab, slab->capacity, SS_UNIT_BYTES, &head);
    hak_pool_slab_free(slab);
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), static_cast<int64_t>(SS_UNIT_BYTES));
    EXPECT_EQ(n_madvise + n_munmap, 0);
    hak_ss_purge_due();
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    EXPECT_EQ(hak_stat_get(superslabs), 0);
    n_madvise = n_munmap = 0;
    hak_ss_purge_due();
    EXPECT_EQ(n_madvise + n_munmap, 0) << "nothing is due";
}

/* What was in huge pages is resident, whoever has touched it: all of a slab goes back there. */
TEST_F(Purge, WhatWasHugeIsKeptAsAWhole)
{
    struct slab *slab = hak_pool_slab_alloc(3u << TAG_OWNER_SHIFT, 0);
    char *p = span(SS_BYTES / 2);
    ASSERT_EQ(hak_super_lookup(p).start, p);
    struct superslab *ss = hak_pool_superslab(hak_map_get(p).ref);
    ASSERT_EQ(hak_pool_superslab(hak_map_get(slab->base).ref), ss);
    ss->is_huge = 1;
    hak_ss_span_free(p);
    EXPECT_EQ(hak_ss_purge(0), SS_BYTES / 2);
    EXPECT_FALSE(ss->is_huge) << "little of it is used";
    hak_pool_slab_free(slab);
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), static_cast<int64_t>(SS_UNIT_BYTES));
    EXPECT_EQ(hak_ss_verify(), 0);
}

/* A swinging need stays within the same addresses. */
TEST_F(Purge, AddressesAreUsedAgain)
{
    uintptr_t lowest = UINTPTR_MAX, lowest_first = 0;
    for (int cycle = 0; cycle < 200; cycle++) {
        std::vector<char *> all;
        for (int i = 0; i < 4; i++) {
            all.push_back(span(SS_BYTES));
            uintptr_t at = reinterpret_cast<uintptr_t>(all.back());
            lowest = at < lowest ? at : lowest;
        }
        lowest_first = cycle ? lowest_first : lowest;
        free_all(all);
        hak_ss_purge(0);
        ASSERT_EQ(hak_stat_get(superslabs), 0);
    }
    EXPECT_EQ(lowest, lowest_first);
}

/* Near the system's limit of mappings, what lies between others is purged, and stays mapped. */
TEST_F(Purge, MappingsAreNotUsedUp)
{
    std::vector<char *> all; /* the last ones side by side */
    for (int i = HAK_SECURE ? REGIONS_APART : 0; i < REGIONS_APART + 9; i++) {
        all.push_back(span(SS_BYTES));
        all.back()[0] = 1;
    }
    std::sort(all.begin(), all.end());
    const size_t last = all.size() - 1;
    size_t middle = 1; /* between two others */
    while (middle < last && (all[middle - 1] + SS_BYTES != all[middle] ||
                             all[middle] + SS_BYTES != all[middle + 1])) {
        middle++;
    }
    ASSERT_LT(middle, last);
    hak_limit_most_mappings = 0;
    hak_ss_span_free(all[middle]);
    EXPECT_EQ(hak_ss_purge(0), SS_BYTES);
    EXPECT_EQ(n_munmap, 0);
    EXPECT_EQ(hak_stat_get(superslabs), static_cast<int64_t>(all.size()));
    EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    EXPECT_EQ(hak_ss_verify(), 0);
    char *again = span(SS_BYTES);
    EXPECT_EQ(again, all[middle]);
    EXPECT_EQ(again[0], 0);
    hak_ss_span_free(all[0]);
    EXPECT_EQ(hak_ss_purge(0), SS_BYTES);
    EXPECT_EQ(n_munmap, 1) << "the lowest lies at an edge";
    EXPECT_EQ(hak_stat_get(superslabs), static_cast<int64_t>(last));
    hak_limit_most_mappings = LIMIT_MAPPINGS;
    for (size_t i = 1; i < all.size(); i++) {
        hak_ss_span_free(all[i]);
    }
    hak_ss_purge(0);
    EXPECT_EQ(hak_stat_get(superslabs), 0);
}

/* A region that the system does not unmap is purged, and serves on. */
TEST_F(Purge, ARegionThatStaysServesOn)
{
    char *p = span(SS_BYTES);
    p[5] = 1;
    hak_ss_span_free(p);
    refuses_munmap = true;
    EXPECT_EQ(hak_ss_purge(0), SS_BYTES);
    EXPECT_GE(n_munmap, 1);
    EXPECT_EQ(hak_ss_verify(), 0);
    EXPECT_EQ(hak_super_lookup(p).kind, SS_FREE_UNIT);
    n_munmap = 0;
    EXPECT_EQ(hak_ss_purge(1), 0u);
    hak_ss_span_free(span(SS_UNIT_BYTES));
    EXPECT_EQ(n_munmap, 0) << "not asked for again";
    EXPECT_EQ(span(SS_BYTES), p);
    EXPECT_EQ(p[5], 0);
    hak_ss_span_free(p);
    refuses_munmap = false;
    hak_ss_purge(0);
    EXPECT_EQ(hak_super_lookup(p).kind, SS_NOT_OURS);
}

/* Holes in which an aligned span does not fit are passed by. */
TEST_F(Purge, AlignedSpansPassHolesBy)
{
    std::vector<char *> kept, holes;
    for (int i = 0; i < 40; i++) {
        char *low = span(SS_GRANULE_BYTES), *hole = span(5 * SS_GRANULE_BYTES),
             *high = span(SS_BYTES - 6 * SS_GRANULE_BYTES);
        ASSERT_EQ(low + SS_GRANULE_BYTES, hole);
        kept.insert(kept.end(), {low, high});
        holes.push_back(hole); /* begins at an odd granule */
    }
    free_all(holes);
    int64_t before = hak_stat_get(superslabs);
    for (int i = 0; i < 20; i++) {
        char *p = static_cast<char *>(
            hak_ss_span_alloc(5 * SS_GRANULE_BYTES, 2 * SS_GRANULE_BYTES, nullptr));
        ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % (2 * SS_GRANULE_BYTES), 0u);
        kept.push_back(p);
    }
    EXPECT_EQ(hak_stat_get(superslabs), before + 1) << "all in one more";
    char *fits = span(5 * SS_GRANULE_BYTES);
    EXPECT_EQ(hak_stat_get(superslabs), before + 1) << "and the holes serve what fits";
    kept.push_back(fits);
    free_all(kept);
}

} // namespace
