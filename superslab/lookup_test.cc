/* Tests of hak_super_lookup: ours, freed, interior, tail, stack, NULL, wild; and while another
   thread allocates. */
#include "superslab/superslab.h"

#include <cstring>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "superslab/pool.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

class Lookup : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
    }
    void TearDown() override
    {
        EXPECT_EQ(hak_stat_get(slabs_made), hak_stat_get(slabs_returned));
        hak_ss_purge(0);
        EXPECT_EQ(hak_ss_verify(), 0);
    }
};

const uint32_t FRESH_BYTES = 4096;

void expect_not_ours(const void *p)
{
    struct ss_lookup got = hak_super_lookup(p);
    EXPECT_EQ(got.kind, SS_NOT_OURS) << p;
    EXPECT_EQ(got.start, nullptr);
    EXPECT_EQ(got.size, 0u);
    EXPECT_EQ(got.is_allocated, 0);
}

int a_global;

TEST_F(Lookup, NotOurs)
{
    int local = 0;
    /* With something of ours about. */
    char *span = static_cast<char *>(hak_ss_span_alloc(SS_UNIT_BYTES, 1, nullptr));
    int *from_libc = new int;
    expect_not_ours(nullptr);
    expect_not_ours(&local);
    expect_not_ours(&a_global);
    expect_not_ours(from_libc);
    expect_not_ours(reinterpret_cast<void *>(&hak_super_lookup));
    expect_not_ours("text");
    uintptr_t ours = reinterpret_cast<uintptr_t>(span);
    ASSERT_EQ(hak_super_lookup(span).kind, SS_SPAN);
    for (int bit = 47; bit < 64; bit++) {
        expect_not_ours(reinterpret_cast<void *>(
            ours ^ (uintptr_t(1) << bit))); /* kernel's, or no address at all */
    }
    uintptr_t region = ours & ~(SS_BYTES - 1);
    expect_not_ours(reinterpret_cast<void *>(region - 1));
    expect_not_ours(reinterpret_cast<void *>(region + SS_BYTES));
    for (uintptr_t p : {uintptr_t(1), uintptr_t(4096), uintptr_t(65536), UINTPTR_MAX,
                        UINTPTR_MAX / 2, UINTPTR_MAX / 2 + 1}) {
        expect_not_ours(reinterpret_cast<void *>(p));
    }
    Rng rng(3);
    for (int i = 0; i < 200000; i++) {
        uintptr_t p = rng.next() >> rng.below(64);
        if ((p & ~(SS_BYTES - 1)) != region) {
            ASSERT_EQ(hak_super_lookup(reinterpret_cast<void *>(p)).kind, SS_NOT_OURS)
                << std::hex << p;
        }
    }
    delete from_libc;
    hak_ss_span_free(span);
}

TEST_F(Lookup, SlabsOfEveryClass)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        void *head;
        struct slab *owned = hak_pool_slab_alloc(5u << TAG_OWNER_SHIFT | c, c);
        ASSERT_EQ(hak_slab_take(owned, 1, FRESH_BYTES, &head), 1u);
        char *block = static_cast<char *>(head),
             *slab = block; /* the first block of a fresh slab */
        size_t size = hak_sc_table[c].size;
        ASSERT_EQ(reinterpret_cast<uintptr_t>(slab) % SS_UNIT_BYTES, 0u);
        for (char *p : {block, block + 1, block + size / 2, block + size - 1}) {
            struct ss_lookup got = hak_super_lookup(p);
            EXPECT_EQ(got.kind, SS_SLAB);
            EXPECT_EQ(got.owner, 5u);
            EXPECT_EQ(got.size_class, c);
            EXPECT_EQ(got.start, block);
            EXPECT_EQ(got.size, size);
            EXPECT_EQ(got.is_allocated, 1);
        }
        /* The last block, which is free; then the tail. */
        char *last = slab + (hak_sc_table[c].capacity - 1) * size;
        struct ss_lookup got = hak_super_lookup(last + size - 1);
        EXPECT_EQ(got.start, last);
        EXPECT_EQ(got.is_allocated, hak_sc_table[c].capacity == 1);
        if (last + size < slab + SS_UNIT_BYTES) {
            got = hak_super_lookup(last + size);
            EXPECT_EQ(got.kind, SS_SLAB);
            EXPECT_EQ(got.start, nullptr) << c;
            EXPECT_EQ(got.size, 0u);
            EXPECT_EQ(got.is_allocated, 0);
        }
        hak_slab_put(owned, block);
        got = hak_super_lookup(block + 1);
        EXPECT_EQ(got.kind, SS_SLAB) << "freed, the slab stays";
        EXPECT_EQ(got.is_allocated, 0);
        hak_pool_slab_free(owned);
        EXPECT_EQ(hak_super_lookup(block).kind, SS_FREE_UNIT);
        EXPECT_EQ(hak_super_lookup(block).start, nullptr);
    }
}

TEST_F(Lookup, Spans)
{
    char *first = static_cast<char *>(hak_ss_span_alloc(3 * SS_UNIT_BYTES, 1, nullptr));
    char *second = static_cast<char *>(hak_ss_span_alloc(5 * SS_UNIT_BYTES, 1, nullptr));
    struct {
        char *p;
        size_t size;
    } spans[] = {{first, 3 * SS_UNIT_BYTES}, {second, 5 * SS_UNIT_BYTES}};
    for (const auto &span : spans) {
        for (size_t offset = 0; offset < span.size; offset += 4095) {
            struct ss_lookup got = hak_super_lookup(span.p + offset);
            ASSERT_EQ(got.kind, SS_SPAN);
            ASSERT_EQ(got.start, span.p);
            ASSERT_EQ(got.size, span.size);
            ASSERT_EQ(got.is_allocated, 1);
        }
        EXPECT_NE(hak_super_lookup(span.p + span.size).start, span.p);
    }
    ASSERT_EQ(hak_ss_span_resize(second, 2 * SS_UNIT_BYTES), 1);
    EXPECT_EQ(hak_super_lookup(second + SS_UNIT_BYTES).size, 2 * SS_UNIT_BYTES);
    EXPECT_EQ(hak_super_lookup(second + 2 * SS_UNIT_BYTES).kind, SS_FREE_UNIT);
    hak_ss_span_free(first);
    EXPECT_EQ(hak_super_lookup(first + SS_UNIT_BYTES).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_super_lookup(first).is_allocated, 0);
    hak_ss_span_free(second);
    hak_ss_purge(0);
    expect_not_ours(first);
    expect_not_ours(second);
}

/* One thread allocates and frees slabs, blocks and spans; another asks about all their addresses.
   The answer about the one block that stays is always exact. */
TEST_F(Lookup, WhileAnotherThreadAllocates)
{
    void *kept;
    struct slab *ours = hak_pool_slab_alloc(5u << TAG_OWNER_SHIFT | hak_sc_of(48), hak_sc_of(48));
    ASSERT_EQ(hak_slab_take(ours, 1, FRESH_BYTES, &kept), 1u);
    uintptr_t region = reinterpret_cast<uintptr_t>(kept) & ~(SS_BYTES - 1);
    int stop = 0, n_asked = 0, n_bad = 0;
    std::thread other([&] {
        struct slab *mine[8] = {};
        Rng rng(1);
        for (int i = 0; i < 1500 || __atomic_load_n(&n_asked, __ATOMIC_RELAXED) < 20000; i++) {
            void *span = hak_ss_span_alloc(rng.between(1, 4 * SS_UNIT_BYTES), 1, nullptr), *head;
            struct slab *&slab = mine[rng.below(8)];
            uint32_t c = static_cast<uint32_t>(rng.below(SC_N_CLASSES));
            slab = slab ? slab : hak_pool_slab_alloc(6u << TAG_OWNER_SHIFT | c, c);
            uint32_t n_free = slab->n_free;
            (void)hak_slab_take(slab, 20, FRESH_BYTES, &head);
            hak_ss_span_free(span);
            uint32_t n_put = 0;
            for (char *block = static_cast<char *>(head); hak_slab_is_same(block, slab->base);) {
                block = hak_slab_put_next(slab, &hak_sc_table[slab->size_class], block, &n_put);
            }
            n_bad += slab->n_free != n_free;
            if (rng.one_in(3)) {
                hak_pool_slab_free(slab);
                slab = nullptr;
            }
        }
        for (struct slab *slab : mine) {
            if (slab) {
                hak_pool_slab_free(slab);
            }
        }
        __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    });
    Rng rng(2);
    int n_wrong = 0;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        uintptr_t p = region + rng.below(SS_BYTES);
        struct ss_lookup got = hak_super_lookup(reinterpret_cast<void *>(p));
        n_wrong +=
            got.kind == SS_RANGE || (got.kind == SS_SLAB && got.owner != 5 && got.owner != 6);
        n_wrong += got.kind == SS_SLAB && got.start &&
                   p - reinterpret_cast<uintptr_t>(got.start) >= got.size;
        struct ss_lookup found = hak_super_lookup(static_cast<char *>(kept) + 47);
        n_wrong += found.kind != SS_SLAB || found.start != kept || found.size != 48 ||
                   found.owner != 5 || !found.is_allocated;
        __atomic_add_fetch(&n_asked, 1, __ATOMIC_RELAXED);
    }
    other.join();
    EXPECT_EQ(n_bad, 0);
    EXPECT_EQ(n_wrong, 0);
    hak_slab_put(ours, kept);
    hak_pool_slab_free(ours);
}

} // namespace
