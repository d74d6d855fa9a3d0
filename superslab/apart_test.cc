/* Tests of superslabs that keep classes: slabs and spans at random against an oracle of what each
   unit was, purging, every call of the system failing in turn, threads. */
#include "superslab/pool.h"

#include <gtest/gtest.h>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "superslab/apart.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

#if HAK_SECURE

namespace
{

using hak_testing::FailingOs;
using hak_testing::OsCall;
using hak_testing::Rng;

const uint32_t kClasses = 6;

/* What units were since the process began. */
std::map<char *, uint32_t> classes;
std::mutex mutex;

struct slab *make_slab(uint32_t size_class)
{
    return hak_pool_slab_alloc(1u << TAG_OWNER_SHIFT | size_class, size_class);
}

bool keeps_classes(const void *unit)
{
    return hak_pool_keeps_classes(hak_pool_superslab(hak_map_get(unit).ref));
}

/* The slab's unit was none of another class, nor part of a span. */
void note(const struct slab *slab)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto at = classes.emplace(slab->base, slab->size_class);
    ASSERT_EQ(at.first->second, slab->size_class);
}

void note_span(char *p, size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    char *unit = p - reinterpret_cast<uintptr_t>(p) % SS_UNIT_BYTES;
    auto at = classes.lower_bound(unit);
    ASSERT_TRUE(at == classes.end() || at->first >= p + bytes);
}

class Apart : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.huge_page_bytes = 0;
        hak_pool_set_apart();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    void TearDown() override
    {
        hak_ss_purge(0);
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
        EXPECT_EQ(hak_stat_get(heap_dirty_bytes), 0);
    }
};

struct Pieces {
    std::vector<struct slab *> slabs;
    std::vector<char *> spans;

    /* Returns false if the system refused. A slab may lie among spans only then. */
    bool add_slab(Rng &rng, bool is_refusing)
    {
        struct slab *slab = make_slab(static_cast<uint32_t>(rng.below(kClasses)));
        if (!slab) {
            return false;
        }
        if (keeps_classes(slab->base)) {
            note(slab);
        } else {
            EXPECT_TRUE(is_refusing);
        }
        slabs.push_back(slab);
        return true;
    }
    bool add_span(Rng &rng)
    {
        size_t bytes = rng.between(1, 40) * SS_GRANULE_BYTES;
        char *p = static_cast<char *>(hak_ss_span_alloc(bytes, 1, nullptr));
        if (!p) {
            return false;
        }
        EXPECT_FALSE(keeps_classes(p));
        note_span(p, bytes);
        spans.push_back(p);
        return true;
    }
    void drop_slab(size_t i)
    {
        hak_pool_slab_free(slabs[i]);
        slabs[i] = slabs.back();
        slabs.pop_back();
    }
    void drop_span(size_t i)
    {
        hak_ss_span_free(spans[i]);
        spans[i] = spans.back();
        spans.pop_back();
    }
    bool step(Rng &rng, bool is_refusing)
    {
        switch (rng.below(7)) {
        case 0:
        case 1:
        case 2:
            return add_slab(rng, is_refusing);
        case 3:
            return add_span(rng);
        case 4:
            if (!spans.empty()) {
                drop_span(rng.below(spans.size()));
            }
            return true;
        default:
            if (!slabs.empty()) {
                drop_slab(rng.below(slabs.size()));
            }
            return true;
        }
    }
    void drop_all()
    {
        while (!slabs.empty()) {
            drop_slab(0);
        }
        while (!spans.empty()) {
            drop_span(0);
        }
    }
};

/* A unit whose blocks were all free, and so are zero, is not cleared, which would make its pages
   resident, and hide what was written to them; one whose owner ended with blocks in use is. */
TEST_F(Apart, AUnitThatServesItsClassAgainIsClearedOnlyIfItHadBlocksInUse)
{
    struct slab *slab = make_slab(1);
    char *base = slab->base;
    base[100] = 7;
    hak_pool_slab_free(slab);
    slab = make_slab(1);
    ASSERT_EQ(slab->base, base);
    EXPECT_EQ(base[100], 7);
    slab->n_free--;
    hak_pool_slab_free(slab);
    slab = make_slab(1);
    ASSERT_EQ(slab->base, base);
    EXPECT_EQ(base[100], 0);
    hak_pool_slab_free(slab);
}

/* What is wholly free goes when memory is short, and what is used stays. */
TEST_F(Apart, NothingIsKeptForEverIfARequestWouldBeRefused)
{
    EXPECT_EQ(hak_ss_verify(), 0);
    std::vector<struct slab *> slabs;
    for (uint32_t i = 0; i < 100; i++) {
        slabs.push_back(make_slab(i % kClasses));
    }
    (void)hak_ss_purge(0);
    int64_t n_used = hak_stat_get(superslabs);
    EXPECT_EQ(hak_ss_forget_classes(), 0u) << "each has a slab";
    struct slab *kept = slabs.back();
    slabs.pop_back();
    for (struct slab *slab : slabs) {
        hak_pool_slab_free(slab);
    }
    (void)hak_ss_purge(0);
    EXPECT_EQ(hak_stat_get(superslabs), n_used);
    EXPECT_EQ(hak_ss_forget_classes(), uint32_t(n_used) - 1);
    EXPECT_EQ(hak_ss_verify(), 0);
    (void)hak_ss_purge(0);
    EXPECT_EQ(hak_stat_get(superslabs), 1);
    EXPECT_TRUE(keeps_classes(kept->base));
    for (struct slab *&slab : slabs) {
        slab = make_slab(0);
    }
    EXPECT_EQ(hak_ss_verify(), 0);
    for (struct slab *slab : slabs) {
        hak_pool_slab_free(slab);
    }
    hak_pool_slab_free(kept);
    EXPECT_GT(hak_ss_forget_classes(), 0u);
    (void)hak_ss_purge(0);
    EXPECT_EQ(hak_stat_get(superslabs), 0);
    EXPECT_EQ(hak_ss_verify(), 0);
}

TEST_F(Apart, AUnitServesOneClassForEver)
{
    Pieces pieces;
    Rng rng(3);
    for (int i = 0; i < 20000; i++) {
        ASSERT_TRUE(pieces.step(rng, false));
        if (rng.one_in(200)) {
            hak_ss_purge(0);
        }
        if (rng.one_in(1000)) {
            pieces.drop_all();
        }
        if (rng.one_in(20)) {
            ASSERT_EQ(hak_ss_verify(), 0);
        }
        ASSERT_FALSE(HasFailure()) << i;
    }
    pieces.drop_all();
}

/* A class's address space is what it had at once, whatever others had in between, and the pages of
   what is free go to the system. */
TEST_F(Apart, AddressSpaceIsBoundedByThePeaksOfClasses)
{
    const size_t n = 100;
    int64_t superslabs = 0;
    for (int round = 0; round < 5; round++) {
        for (uint32_t c = 0; c < kClasses; c++) {
            Pieces pieces;
            for (size_t i = 0; i < n; i++) {
                struct slab *slab = make_slab(c);
                ASSERT_NE(slab, nullptr);
                note(slab);
                slab->base[5] = 1;
                pieces.slabs.push_back(slab);
            }
            pieces.drop_all();
            ASSERT_GE(hak_ss_purge(0), n * SS_UNIT_BYTES);
        }
        superslabs = superslabs ? superslabs : hak_stat_get(superslabs);
        EXPECT_EQ(hak_stat_get(superslabs), superslabs);
    }
    EXPECT_LE(superslabs, static_cast<int64_t>(classes.size() / SS_UNITS + 2));
}

/* Resident ones are used before those that have gone to the system. */
TEST_F(Apart, ResidentUnitsFirst)
{
    struct slab *a = make_slab(1), *b = make_slab(1);
    char *bases[] = {a->base, b->base};
    hak_pool_slab_free(a);
    hak_ss_purge(0);
    hak_pool_slab_free(b);
    a = make_slab(1);
    EXPECT_EQ(a->base, bases[1]);
    b = make_slab(2);
    EXPECT_NE(b->base, bases[0]);
    hak_pool_slab_free(a);
    hak_pool_slab_free(b);
}

/* Where no region is to be had, a slab may lie among spans; nothing is lost. */
TEST_F(Apart, EveryCallOfTheSystemFailsInTurn)
{
    for (OsCall call : {hak_testing::OS_MMAP, hak_testing::OS_MADVISE, hak_testing::OS_MUNMAP}) {
        for (uint64_t n = 1;; n++) {
            FailingOs os;
            os.fail(call, n);
            Pieces pieces;
            Rng rng(n);
            for (int i = 0; i < 300; i++) {
                if (!pieces.step(rng, call == hak_testing::OS_MMAP)) {
                    ASSERT_TRUE(os.fired());
                }
                if (i % 50 == 49) {
                    hak_ss_purge(0);
                    ASSERT_EQ(hak_ss_verify(), 0);
                }
            }
            pieces.drop_all();
            bool fired = os.fired();
            os.reset();
            hak_ss_purge(0);
            ASSERT_EQ(hak_ss_verify(), 0);
            if (!fired) {
                break;
            }
        }
    }
}

TEST_F(Apart, VerifySeesWhatIsBroken)
{
    struct slab *slab = make_slab(1);
    struct superslab *ss = hak_pool_superslab(hak_map_get(slab->base).ref);
    uint32_t unit = static_cast<uint32_t>(slab - ss->slabs);
    ss->virgin |= 1u << unit;
    EXPECT_NE(hak_ss_verify(), 0);
    ss->virgin &= ~(1u << unit);
    hak_pool_slab_free(slab);
    EXPECT_EQ(hak_ss_verify(), 0);
    ss->listed &= ~(1u << unit);
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_CLASSES);
    ss->listed |= 1u << unit;
    slab->size_class++;
    EXPECT_EQ(hak_ss_verify(), VERIFY_POOL_TOTALS);
    slab->size_class--;
    EXPECT_EQ(hak_ss_verify(), 0);
}

TEST_F(Apart, Threads)
{
    std::vector<std::thread> threads;
    int n_bad = 0;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&n_bad, t] {
            Pieces pieces;
            Rng rng(t);
            for (int i = 0; i < 4000; i++) {
                (void)pieces.step(rng, false);
                if (t == 0 && i % 50 == 0) {
                    hak_ss_purge(0);
                }
                if (i % 200 == 77 && hak_ss_verify()) {
                    __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                }
            }
            pieces.drop_all();
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
}

} // namespace

#else

TEST(Apart, IsOfTheSecureVariant)
{
    GTEST_SKIP();
}

#endif
