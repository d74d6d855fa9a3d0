/* Tests of what threads keep in freed spans (ace/span_cache.h) beneath malloc and free: who serves,
   who looks, and when it goes back. */
#include <atomic>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "limit/limit.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::OsCall;

const size_t kSize = 40 * 1024; /* a size that every variant's cache keeps */

class SpansOfThreads : public testing::Test
{
  protected:
    void SetUp() override
    {
        before_ = hak_options;
        hak_options.purge_delay_ms = 3600000;
        hak_options.cache_bytes = size_t{48} << 20;
        hak_purge();
        used_ = hak_stat_get(heap_used_bytes);
        if (HAK_SECURE) {
            GTEST_SKIP() << "the secure variant keeps none";
        }
    }
    void TearDown() override
    {
        hak_purge();
        EXPECT_EQ(hak_stat_get(span_cache_bytes), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), used_);
        EXPECT_EQ(hak_verify(), 0);
        hak_options = before_;
    }

  private:
    decltype(hak_options) before_;
    int64_t used_;
};

using SpansOfThreadsDeathTest = SpansOfThreads;

uint32_t n_kept(const struct theap *heap)
{
    uint32_t n = 0;
    for (uint64_t slot : heap->spans.slots) {
        n += slot != 0;
    }
    return n;
}

int find(void *block, size_t size, void *wanted)
{
    (void)size;
    return block == wanted;
}

TEST_F(SpansOfThreads, EveryWayToAskIsServed)
{
    void *p = hak_malloc(kSize);
    memset(p, 1, kSize);
    errno = 7;
    hak_free(p);
    ASSERT_EQ(n_kept(hak_theap_own), 1U);
    EXPECT_EQ(hak_malloc(kSize - 1), p);
    hak_free(p);
    char *zeroed = static_cast<char *>(hak_calloc(kSize / 8, 8));
    EXPECT_EQ(zeroed, p);
    for (size_t i = 0; i < kSize; i++) {
        ASSERT_EQ(zeroed[i], 0);
    }
    hak_free(p);
    EXPECT_EQ(hak_aligned_alloc(64, kSize), p);
    hak_free(p);
    EXPECT_EQ(hak_malloc(kSize), p);
    EXPECT_EQ(hak_usable_size(p), kSize);
    hak_free(p);
    EXPECT_EQ(errno, 7);
}

TEST_F(SpansOfThreads, NobodyTakesItForABlock)
{
    void *p = hak_malloc(kSize);
    EXPECT_EQ(hak_walk(find, p), 1);
    hak_free(p);
    ASSERT_EQ(n_kept(hak_theap_own), 1U);
    EXPECT_EQ(hak_super_lookup(p).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_walk(find, p), 0);
}

TEST_F(SpansOfThreadsDeathTest, ABlockFreedTwice)
{
    void *p = hak_malloc(kSize);
    hak_free(p);
    EXPECT_EXIT(hak_free(p), testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    EXPECT_EXIT((void)hak_realloc(p, 100), testing::KilledBySignal(SIGABRT),
                "^hakmem: (freed block|invalid pointer) given to realloc: 0x");
    EXPECT_EXIT((void)hak_usable_size(p), testing::KilledBySignal(SIGABRT), "malloc_usable_size");
    EXPECT_EXIT(std::thread([p] { hak_free(p); }).join(), testing::KilledBySignal(SIGABRT),
                "^hakmem: block freed twice: 0x");
}

/* Runs `body` while another thread sleeps that keeps a span, whose heap it gets. */
template <class Body> void with_sleeper(Body body)
{
    std::atomic<int> phase(0);
    std::atomic<struct theap *> heap(nullptr);
    std::thread sleeper([&] {
        hak_free(hak_malloc(kSize));
        heap = hak_theap_own;
        phase = 1;
        while (phase != 2) {
            std::this_thread::yield();
        }
        hak_free(hak_malloc(kSize));
    });
    while (phase != 1) {
        std::this_thread::yield();
    }
    EXPECT_EQ(n_kept(heap), 1U);
    body(heap.load());
    phase = 2;
    sleeper.join();
    EXPECT_EQ(n_kept(heap), 0U) << "what an ended thread kept goes back";
    EXPECT_EQ(heap.load()->spans.reserved, 0);
}

TEST_F(SpansOfThreads, ATrimTakesThoseOfAllThreads)
{
    with_sleeper([](struct theap *heap) {
        hak_purge();
        EXPECT_EQ(n_kept(heap), 0U);
        EXPECT_EQ(hak_stat_get(span_cache_bytes), 0);
    });
}

TEST_F(SpansOfThreads, TheBackgroundThreadTakesWhatRests)
{
    with_sleeper([](struct theap *heap) {
        hak_theap_rest_all();
        EXPECT_EQ(hak_theap_keeps_spans(), 1);
        hak_theap_rest_all();
        EXPECT_EQ(n_kept(heap), 0U);
        hak_theap_rest_all();
        EXPECT_EQ(hak_theap_keeps_spans(), 0);
    });
}

TEST_F(SpansOfThreads, ARequestThatFailsTakesThemAll)
{
    with_sleeper([](struct theap *heap) {
        FailingOs os;
        os.fail_always(OsCall::OS_MMAP);
        void *p = hak_malloc(size_t{64} << 20);
        EXPECT_EQ(p, nullptr);
        EXPECT_EQ(n_kept(heap), 0U);
        hak_free(p);
    });
}

TEST_F(SpansOfThreads, AForkedChildGoesOn)
{
    with_sleeper([](struct theap *other) {
        void *p = hak_malloc(kSize);
        hak_free(p);
        ASSERT_EQ(n_kept(hak_theap_own), 1U);
        pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            int is_right = hak_malloc(kSize) == p;
            hak_free(p);
            is_right = is_right && hak_verify() == 0;
            hak_purge();
            hak_theap_rest_all();
            is_right = is_right && n_kept(hak_theap_own) == 0 && hak_verify() == 0;
            /* What another thread kept is forgotten: it may have been in the middle of it. */
            is_right = is_right && n_kept(other) == 1 && hak_stat_get(span_cache_bytes) == 0;
            std::thread([&] {
                hak_free(hak_malloc(100)); /* adopts its heap */
                is_right = is_right && hak_theap_own == other && n_kept(other) == 0;
                hak_free(hak_malloc(kSize));
                is_right = is_right && n_kept(other) == 1;
            }).join();
            is_right = is_right && hak_stat_get(span_cache_bytes) == 0;
            _exit(is_right && hak_verify() == 0 ? 0 : 1);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    });
}

TEST_F(SpansOfThreads, ABlockOfAFirstClassHeapMayBeKept)
{
    struct hak_heap *heap = hak_heap_create();
    void *p = hak_heap_malloc(heap, kSize);
    hak_free(p);
    void *q = hak_heap_malloc(heap, kSize);
    hak_heap_destroy(heap);
    void *r = hak_malloc(kSize);
    EXPECT_NE(r, nullptr);
    EXPECT_EQ(hak_verify(), 0);
    hak_free(r);
    (void)q;
}

/* Blocks that one thread allocates and another one frees: neither keeps more than its cache. */
TEST_F(SpansOfThreads, BlocksFreedElsewhere)
{
    std::atomic<void *> at(nullptr);
    const int n = 3000;
    std::thread other([&] {
        for (int i = 0; i < n; i++) {
            void *p;
            while ((p = at.exchange(nullptr)) == nullptr) {
                std::this_thread::yield();
            }
            ASSERT_EQ(*static_cast<int *>(p), i);
            hak_free(p);
        }
        EXPECT_LE(hak_theap_own->spans.reserved, int64_t(SPAN_CACHE_BYTES));
    });
    for (int i = 0; i < n; i++) {
        int *p = static_cast<int *>(hak_malloc(kSize << (i % 2)));
        ASSERT_NE(p, nullptr);
        *p = i;
        void *none = nullptr;
        while (!at.compare_exchange_weak(none, p)) {
            none = nullptr;
            std::this_thread::yield();
        }
    }
    other.join();
}

} // namespace
