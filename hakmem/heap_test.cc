/* Tests of first-class heaps. */
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "mid_mt/mid_mt.h"
#include "owner/owner.h"
#include "superslab/pool.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;
using Blocks = std::map<void *, size_t>;

Blocks walk(struct hak_heap *heap)
{
    Blocks blocks;
    auto note = [](void *block, size_t size, void *context) {
        EXPECT_TRUE(static_cast<Blocks *>(context)->emplace(block, size).second) << "told twice";
        return 0;
    };
    EXPECT_EQ(hak_heap_walk(heap, note, &blocks), 0);
    return blocks;
}

size_t some_size(Rng &rng)
{
    return rng.one_in(200)  ? rng.below(3 << 20)
           : rng.one_in(10) ? rng.below(100000)
                            : rng.below(2000);
}

class UserHeap : public testing::Test
{
  protected:
    void SetUp() override
    {
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
        heap_ = hak_heap_create();
        ASSERT_NE(heap_, nullptr);
    }
    void TearDown() override
    {
        hak_heap_destroy(heap_);
        EXPECT_EQ(hak_verify(), 0);
        (void)hak_purge();
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a block was left behind";
        EXPECT_EQ(hak_stat_get(large_bytes), 0);
    }
    struct hak_heap *heap_ = nullptr;
};

const size_t SIZES[] = {0,    1,     16,    17,     100,     1000,          1025,
                        5000, 32768, 32769, 200000, 1 << 20, (1 << 20) + 1, 9 << 20};

TEST_F(UserHeap, BlocksAreLikeMallocs)
{
    for (size_t size : SIZES) {
        void *p = hak_heap_malloc(heap_, size), *q = hak_malloc(size);
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
        if (!HAK_SECURE || size) { /* of a block of 0 bytes nothing may be used */
            EXPECT_EQ(hak_usable_size(p), hak_usable_size(q)) << size;
        }
        EXPECT_TRUE(hak_owns(p));
        memset(p, 1, hak_usable_size(p));
        if (hak_usable_size(p)) {
            EXPECT_EQ(walk(heap_), (Blocks{{p, hak_usable_size(p)}}));
        }
        hak_free(q);
        hak_free(p);
        EXPECT_TRUE(walk(heap_).empty());
        for (size_t alignment = 1; alignment <= (4u << 20); alignment *= 4) {
            void *a = hak_heap_aligned_alloc(heap_, alignment, size);
            ASSERT_NE(a, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % alignment, 0u);
            EXPECT_GE(hak_usable_size(a), size);
            hak_free(a);
        }
    }
}

/* More slabs than there is room for on the stack; the same if there is no memory for a table. */
TEST_F(UserHeap, AWalkTellsOfEachBlockOnceHoweverManySlabsThereAre)
{
    Blocks live;
    for (int i = 0; i < 700; i++) { /* two a slab, so that some slabs are full and some are not */
        void *p = hak_heap_malloc(heap_, i % 7 ? 30000 : 20000);
        live.emplace(p, hak_usable_size(p));
    }
    for (int i = 0; i < 70; i++) {
        void *p = hak_heap_malloc(heap_, 50000);
        live.emplace(p, hak_usable_size(p));
    }
    EXPECT_EQ(walk(heap_), live);
    hak_testing::FailingOs os;
    os.fail_always(hak_testing::OS_MMAP);
    EXPECT_EQ(walk(heap_), live);
    EXPECT_TRUE(os.fired());
}

/* The callback frees what it is called with, or others, and allocates; what stays is visited once.
 */
TEST_F(UserHeap, AWalkGoesOnWhateverIsFreedMeanwhile)
{
    struct Context {
        struct hak_heap *heap;
        Blocks kept, seen;
        std::map<void *, size_t> doomed;
        int how;
    };
    for (int how = 0; how < 4; how++) {
        Context context = {heap_, {}, {}, {}, how};
        for (size_t i = 0; i < 400; i++) {
            void *p = hak_heap_malloc(heap_, i % 3 ? 1000 + i * 50 : 40000 + i * 5000);
            (i % 4 ? context.doomed : context.kept).emplace(p, hak_usable_size(p));
        }
        auto visit = [](void *block, size_t size, void *context_) {
            Context &c = *static_cast<Context *>(context_);
            if (c.kept.count(block)) {
                EXPECT_TRUE(c.seen.emplace(block, size).second) << "told twice";
            }
            void *p = c.how == 0   ? block
                      : c.how == 1 ? (c.doomed.empty() ? nullptr : c.doomed.begin()->first)
                      : c.how == 2 ? (c.doomed.empty() ? nullptr : c.doomed.rbegin()->first)
                                   : nullptr;
            if (c.doomed.erase(p)) {
                hak_free(p);
            }
            if (c.how == 3 && c.doomed.erase(block)) {
                hak_free(hak_heap_realloc(c.heap, block, size * 2)); /* away, and back */
            }
            hak_free(hak_heap_malloc(c.heap, 60000));
            return 0;
        };
        EXPECT_EQ(hak_heap_walk(heap_, visit, &context), 0);
        EXPECT_EQ(context.seen, context.kept) << how;
        for (auto &rest : {context.kept, context.doomed}) {
            for (auto &block : rest) {
                hak_free(block.first);
            }
        }
        EXPECT_TRUE(walk(heap_).empty());
        EXPECT_EQ(hak_verify(), 0);
    }
}

/* While a thread holds the pool's lock for good, a heap of a block can be walked, and what has no
   slab be made and destroyed: neither looks at what others have. */
TEST_F(UserHeap, AWalkDoesNotWaitForThePool)
{
    void *p = hak_heap_malloc(heap_, 100);
    std::atomic<int> step{0};
    std::thread holder([&step] {
        hak_lock_acquire(&hak_pool_lock);
        step = 1;
        while (step == 1) {
            std::this_thread::yield();
        }
        hak_lock_release(&hak_pool_lock);
    });
    while (step == 0) {
        std::this_thread::yield();
    }
    EXPECT_EQ(walk(heap_).count(p), 1u);
    hak_heap_destroy(hak_heap_create());
    step = 2;
    holder.join();
}

TEST_F(UserHeap, CallocIsZero)
{
    for (int round = 0; round < 3; round++) {
        for (size_t size : SIZES) {
            auto *p = static_cast<unsigned char *>(hak_heap_calloc(heap_, 1, size));
            size_t usable = hak_usable_size(p);
            ASSERT_TRUE(usable == 0 || (p[0] == 0 && memcmp(p, p + 1, usable - 1) == 0)) << size;
            memset(p, 0xFF, usable);
            hak_free(p);
        }
    }
}

TEST_F(UserHeap, Errors)
{
    volatile size_t most = SIZE_MAX;
    errno = 0;
    EXPECT_EQ(hak_heap_malloc(heap_, most), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(hak_heap_malloc(heap_, static_cast<size_t>(PTRDIFF_MAX) + 1), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(hak_heap_calloc(heap_, most / 2, 4), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(hak_heap_aligned_alloc(heap_, 24, 100), nullptr);
    EXPECT_EQ(errno, EINVAL);
    for (size_t size : {100, 100000, 3 << 20}) {
        auto *p = static_cast<char *>(hak_heap_malloc(heap_, size));
        p[99] = 7;
        errno = 0;
        EXPECT_EQ(hak_heap_realloc(heap_, p, most), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        errno = 0;
        EXPECT_EQ(hak_realloc(p, most), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_EQ(p[99], 7);
        EXPECT_EQ(walk(heap_).count(p), 1u) << "a failed realloc leaves the block in its heap";
        hak_free(p);
    }
    EXPECT_EQ(hak_heap_realloc(heap_, hak_heap_malloc(heap_, 10), 0), nullptr);
    EXPECT_EQ(hak_realloc(hak_heap_malloc(heap_, 10), 0), nullptr);
    EXPECT_TRUE(walk(heap_).empty());
    errno = ECHILD;
    hak_heap_destroy(nullptr);
    EXPECT_EQ(errno, ECHILD);
}

/* Both reallocs, from each size to each: the contents are kept, and the block stays in its heap. */
TEST_F(UserHeap, ReallocStaysInTheHeap)
{
    for (size_t from : SIZES) {
        for (size_t to : SIZES) {
            for (int own = 0; own < 2 && to; own++) {
                auto *p = static_cast<unsigned char *>(hak_heap_malloc(heap_, from));
                const size_t step = from > 10000 ? 1009 : 1;
                for (size_t i = 0; i < from; i += step) {
                    p[i] = static_cast<unsigned char>(i * 13);
                }
                void *moved = own ? hak_heap_realloc(heap_, p, to) : hak_realloc(p, to);
                ASSERT_NE(moved, nullptr);
                for (size_t i = 0; i < from && i < to; i += step) {
                    ASSERT_EQ(static_cast<unsigned char *>(moved)[i],
                              static_cast<unsigned char>(i * 13));
                }
                ASSERT_EQ(walk(heap_), (Blocks{{moved, hak_usable_size(moved)}}))
                    << from << " to " << to;
                hak_free(moved);
            }
        }
    }
}

TEST_F(UserHeap, TheWalkIsExact)
{
    Rng rng(5);
    Blocks live;
    void *foreign = hak_malloc(100), *large = hak_malloc(100000);
    for (int step = 0; step < 4000; step++) {
        if (rng.one_in(3) && !live.empty()) {
            auto at = live.lower_bound(reinterpret_cast<void *>(rng.next() >> 17));
            at = at == live.end() ? live.begin() : at;
            hak_free(at->first);
            live.erase(at);
        } else {
            void *p = hak_heap_malloc(heap_, some_size(rng));
            live.emplace(p, hak_usable_size(p));
        }
        if (step % 200 == 0) {
            ASSERT_EQ(walk(heap_), live);
            ASSERT_EQ(hak_verify(), 0);
        }
    }
    hak_free(foreign);
    hak_free(large);
}

TEST_F(UserHeap, DestroyingFreesAllAndOthersStay)
{
    struct hak_heap *other = hak_heap_create();
    auto *kept = static_cast<char *>(hak_heap_malloc(other, 1000));
    memset(kept, 'k', 1000);
    for (int round = 0; round < 5; round++) {
        for (size_t size = 1; size < (4u << 20); size += size / 4 + 1) {
            ASSERT_NE(hak_heap_malloc(heap_, size), nullptr);
            ASSERT_NE(hak_heap_aligned_alloc(heap_, 4096, size), nullptr);
        }
        for (int i = 0; i < 5000; i++) {
            ASSERT_NE(hak_heap_malloc(heap_, 48), nullptr);
        }
        hak_heap_destroy(heap_);
        ASSERT_EQ(hak_verify(), 0);
        (void)hak_purge();
        EXPECT_EQ(hak_stat_get(large_bytes), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 65536) << "the other heap's block";
        heap_ = hak_heap_create();
        EXPECT_TRUE(walk(heap_).empty());
    }
    for (int i = 0; i < 1000; i++) {
        ASSERT_EQ(kept[i], 'k');
    }
    hak_heap_destroy(other);
}

TEST_F(UserHeap, HeapsThatAreDestroyedAreUsedAgain)
{
    for (uint32_t i = 0; i < OWNER_MAX + 1000; i++) {
        struct hak_heap *heap = hak_heap_create();
        ASSERT_NE(heap, nullptr) << "after " << i;
        if (i % 100 == 0) {
            ASSERT_NE(hak_heap_malloc(heap, 100), nullptr);
        }
        hak_heap_destroy(heap);
    }
}

TEST_F(UserHeap, FreedByOtherThreads)
{
    for (int round = 0; round < 20; round++) {
        std::vector<void *> blocks;
        for (size_t i = 0; i < 300; i++) {
            blocks.push_back(hak_heap_malloc(heap_, 16 + i * 7));
        }
        blocks.push_back(hak_heap_malloc(heap_, 100000));
        std::thread([&blocks] {
            for (void *p : blocks) {
                hak_free(p);
            }
        }).join();
        ASSERT_TRUE(walk(heap_).empty()) << "nothing waits in an outbox";
    }
    void *p = nullptr;
    std::thread([&p, this] { p = hak_heap_malloc(heap_, 100); }).join();
    EXPECT_EQ(walk(heap_).count(p), 1u) << "the heap outlives the thread";
}

TEST_F(UserHeap, DeathOfWrongFrees)
{
    void *p = hak_heap_malloc(heap_, 100), *large = hak_heap_malloc(heap_, 100000);
    EXPECT_DEATH((hak_free(p), hak_free(p)), "block freed twice: 0x");
    EXPECT_DEATH((hak_free(large), hak_free(large)), "freed");
    EXPECT_DEATH(hak_free(static_cast<char *>(p) + 16), "invalid pointer freed");
    EXPECT_DEATH((hak_heap_destroy(heap_), hak_heap_destroy(heap_)), "heap destroyed twice: 0x");
}

/* Each call of the system fails once: NULL and ENOMEM, or the whole thing done. */
TEST_F(UserHeap, WhenTheSystemRefuses)
{
    hak_testing::FailingOs os;
    for (uint64_t nth = 1; nth < 12; nth++) {
        struct hak_heap *heap = hak_heap_create();
        ASSERT_NE(heap, nullptr);
        os.fail(hak_testing::OS_MMAP, nth, UINT64_MAX - nth);
        int n_failed = 0;
        for (size_t i = 0; i < 40; i++) {
            errno = 0;
            if (!hak_heap_malloc(heap, i % 4 ? 300000 * i : 1000)) {
                EXPECT_EQ(errno, ENOMEM);
                n_failed++;
            }
        }
        EXPECT_GT(n_failed, 0);
        os.reset();
        EXPECT_EQ(hak_verify(), 0);
        void *p = hak_heap_malloc(heap, 5 << 20);
        EXPECT_NE(p, nullptr) << "it goes on";
        hak_heap_destroy(heap);
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(large_bytes), 0);
    }
}

/* A block with an oracle: its bytes are a function of a seed. */
struct block {
    unsigned char *p;
    size_t size;
    unsigned char seed;
    struct hak_heap *heap;
};

void fill(const block &b)
{
    for (size_t i = 0; i < b.size; i += i < 64 ? 1 : 97) {
        b.p[i] = static_cast<unsigned char>(b.seed + i);
    }
}

bool is_whole(const block &b)
{
    for (size_t i = 0; i < b.size; i += i < 64 ? 1 : 97) {
        if (b.p[i] != static_cast<unsigned char>(b.seed + i)) {
            return false;
        }
    }
    return true;
}

/* Threads that allocate from, free to and hand over blocks of the same heaps; between rounds some
   heaps are destroyed with all their blocks. Every block is checked before it is freed, moved or
   lost. */
class Stress
{
  public:
    static const size_t N_HEAPS = 4, N_CELLS = 300;

    explicit Stress(uint64_t seed) : rng_(seed)
    {
        for (auto &heap : heaps_) {
            heap = hak_heap_create();
        }
    }

    ~Stress()
    {
        for (auto &heap : heaps_) {
            hak_heap_destroy(heap);
        }
    }

    void round(size_t n_threads, int n_steps)
    {
        std::vector<std::thread> threads;
        for (size_t i = 0; i < n_threads; i++) {
            threads.emplace_back([this, n_steps, seed = rng_.next()] { work(seed, n_steps); });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        check_walks();
        destroy_one();
    }

    std::atomic<int> n_wrong{0};

  private:
    void work(uint64_t seed, int n_steps)
    {
        Rng rng(seed);
        for (int step = 0; step < n_steps; step++) {
            block *b = cells_[rng.below(N_CELLS)].exchange(nullptr);
            if (b) {
                n_wrong += !is_whole(*b);
            }
            b = !b ? make(rng) : rng.one_in(3) ? resize(b, rng) : drop(b, rng);
            if (b) {
                b = cells_[rng.below(N_CELLS)].exchange(b);
            }
            if (b) {
                n_wrong += !is_whole(*b);
                hak_free(b->p);
                delete b;
            }
            if (rng.one_in(1000)) {
                n_wrong += hak_verify() != 0;
            }
        }
    }

    block *make(Rng &rng)
    {
        struct hak_heap *heap = heaps_[rng.below(N_HEAPS)];
        size_t size = some_size(rng);
        void *p = rng.one_in(5)   ? hak_heap_aligned_alloc(heap, size_t(16) << rng.below(9), size)
                  : rng.one_in(4) ? hak_heap_calloc(heap, 1, size)
                                  : hak_heap_malloc(heap, size);
        auto *b = new block{static_cast<unsigned char *>(p), size,
                            static_cast<unsigned char>(rng.next()), heap};
        fill(*b);
        return b;
    }

    block *resize(block *b, Rng &rng)
    {
        size_t size = some_size(rng) + 1;
        void *p = rng.one_in(2) ? hak_realloc(b->p, size) : hak_heap_realloc(b->heap, b->p, size);
        size_t kept = size < b->size ? size : b->size;
        *b = {static_cast<unsigned char *>(p), kept, b->seed, b->heap};
        n_wrong += !is_whole(*b);
        b->size = size;
        fill(*b);
        return b;
    }

    static block *drop(block *b, Rng &)
    {
        hak_free(b->p);
        delete b;
        return nullptr;
    }

    void check_walks()
    {
        std::array<Blocks, N_HEAPS> live;
        for (auto &cell : cells_) {
            const block *b = cell;
            for (size_t i = 0; b && i < N_HEAPS; i++) {
                if (b->heap == heaps_[i]) {
                    live[i].emplace(b->p, hak_usable_size(b->p));
                }
            }
        }
        for (size_t i = 0; i < N_HEAPS; i++) {
            n_wrong += walk(heaps_[i]) != live[i];
        }
    }

    void destroy_one()
    {
        size_t victim = rng_.below(N_HEAPS);
        for (auto &cell : cells_) {
            const block *b = cell;
            if (b && b->heap == heaps_[victim]) {
                n_wrong += !is_whole(*b);
                delete cell.exchange(nullptr);
            }
        }
        hak_heap_destroy(heaps_[victim]);
        heaps_[victim] = hak_heap_create();
        n_wrong += hak_verify() != 0;
    }

    Rng rng_;
    std::array<struct hak_heap *, N_HEAPS> heaps_{};
    std::array<std::atomic<block *>, N_CELLS> cells_{};

  public:
    void forget()
    {
        for (auto &cell : cells_) {
            delete cell.exchange(nullptr);
        }
    }
};

TEST_F(UserHeap, StressWithAnOracle)
{
    Stress stress(11);
#if defined(__SANITIZE_THREAD__)
    const int n_rounds = 3;
#else
    const int n_rounds = 8;
#endif
    for (int round = 0; round < n_rounds; round++) {
        stress.round(6, 2500);
        ASSERT_EQ(stress.n_wrong, 0) << "in round " << round;
    }
    stress.forget();
}

#if !defined(__SANITIZE_THREAD__)
TEST_F(UserHeap, AForkedChildGoesOn)
{
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    for (uint64_t seed = 0; seed < 3; seed++) {
        others.emplace_back([&stop, seed, this] {
            Rng rng(seed);
            while (!stop) {
                hak_free(hak_heap_malloc(heap_, some_size(rng)));
            }
        });
    }
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        if (child == 0) {
            void *p = hak_heap_malloc(heap_, 100), *q = hak_heap_malloc(heap_, 100000);
            hak_free(p);
            hak_free(q);
            int result = hak_verify();
            hak_heap_destroy(heap_);
            _exit(result || !p || !q);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_EQ(status, 0);
    }
    stop = true;
    for (std::thread &other : others) {
        other.join();
    }
}
#endif

TEST(UserHeapIds, AreUsedUpWithoutHarm)
{
    if (OWNER_MAX > 1000) {
        GTEST_SKIP() << "in the tiny variant";
    }
    std::vector<struct hak_heap *> heaps;
    for (struct hak_heap *heap; (heap = hak_heap_create()) != nullptr;) {
        heaps.push_back(heap);
        ASSERT_LE(heaps.size(), OWNER_MAX);
    }
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_GT(heaps.size(), 10u);
    hak_heap_destroy(heaps.back());
    heaps.back() = hak_heap_create();
    EXPECT_NE(heaps.back(), nullptr);
    for (struct hak_heap *heap : heaps) {
        hak_heap_destroy(heap);
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* A heap and a pool that were made while the gate was closed serve even if no id is left for them.
 */
TEST(UserHeapIds, AreUsedUpBeforeWhatWasMadeAsideHasOne)
{
    if (OWNER_MAX > 1000) {
        GTEST_SKIP() << "in the tiny variant";
    }
    hak_free(hak_malloc(1));
    hak_gate_close();
    struct hak_heap *aside = nullptr;
    struct mid_pool pool;
    int error = -1;
    std::thread([&] {
        aside = hak_heap_create();
        error = hak_mid_pool_init(&pool);
    }).join();
    hak_gate_open();
    ASSERT_NE(aside, nullptr);
    ASSERT_EQ(error, 0);
    std::vector<struct hak_heap *> heaps;
    for (struct hak_heap *heap; (heap = hak_heap_create()) != nullptr;) {
        heaps.push_back(heap);
    }
    ASSERT_EQ(aside->owner.id, 0u);
    ASSERT_EQ(pool.owner->id, 0u);
    void *p = hak_heap_malloc(aside, 100), *q = hak_mid_pool_alloc(&pool, 2000);
    EXPECT_NE(p, nullptr);
    EXPECT_NE(q, nullptr);
    hak_free(p);
    hak_mid_pool_free(&pool, q);
    EXPECT_NE(hak_mid_pool_alloc(&pool, 2000), nullptr);
    EXPECT_NE(hak_heap_malloc(aside, 100), nullptr);
    for (struct hak_heap *heap : heaps) {
        hak_heap_destroy(heap);
    }
    EXPECT_NE(hak_heap_malloc(aside, 100), nullptr);
    EXPECT_NE(aside->owner.id, 0u);
    hak_mid_pool_destroy(&pool);
    hak_heap_destroy(aside);
    EXPECT_EQ(hak_verify(), 0);
}

/* Threads that found no id go without a heap; once ids are free again, their next slow path gets
   them one, and so does a new thread's first. */
TEST(UserHeapIds, ComeBackToThreads)
{
    std::vector<struct hak_heap *> heaps;
    for (struct hak_heap *heap; (heap = hak_heap_create()) != nullptr;) {
        heaps.push_back(heap);
        ASSERT_LE(heaps.size(), OWNER_MAX);
    }
    /* Orphans of other tests would serve; each thread below takes one, until one finds none. */
    std::atomic<int> phase{0}, n_ready{0}, n_without{0}, n_without_after{0}, n_bad{0};
    std::vector<std::thread> threads;
    const int n_threads = static_cast<int>(hak_stat_get(orphans)) + 3;
    auto wait_for = [&](int wanted) {
        while (phase < wanted) {
            usleep(100);
        }
    };
    for (int t = 0; t < n_threads; t++) {
        threads.emplace_back([&] {
            char *p = static_cast<char *>(hak_malloc(100));
            n_without += hak_theap_own == &hak_theap_none;
            n_ready++;
            wait_for(1);
            char *q = static_cast<char *>(hak_malloc(100));
            n_without_after += hak_theap_own == &hak_theap_none;
            n_bad += !p || !q || p == q;
            hak_free(p);
            hak_free(q);
            n_ready++;
            wait_for(2);
        });
    }
    while (n_ready < n_threads) {
        usleep(100);
    }
    EXPECT_GE(n_without, 3);
    for (struct hak_heap *heap : heaps) {
        hak_heap_destroy(heap);
    }
    EXPECT_EQ(hak_owner_verify_all(), 0);
    phase = 1;
    while (n_ready < 2 * n_threads) {
        usleep(100);
    }
    EXPECT_EQ(n_without_after, 0) << "ids have come back";
    std::thread([] {
        hak_free(hak_malloc(100));
        EXPECT_NE(hak_theap_own, &hak_theap_none);
    }).join();
    phase = 2;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_EQ(hak_verify(), 0);
}

/* More heaps than there are ids, one after the other, among blocks of a heap that stays. */
TEST(UserHeapIds, AreUsedAgain)
{
    struct hak_heap *stays = hak_heap_create();
    ASSERT_NE(stays, nullptr);
    char *kept = static_cast<char *>(hak_heap_malloc(stays, 500));
    memset(kept, 'k', 500);
    for (uint32_t i = 0; i < OWNER_MAX + 100; i++) {
        struct hak_heap *heap = hak_heap_create();
        ASSERT_NE(heap, nullptr) << "after " << i;
        ASSERT_NE(heap->owner.id, stays->owner.id);
        if (i % 64 == 0) {
            void *p = hak_heap_malloc(heap, 500);
            ASSERT_EQ(hak_super_lookup(p).owner, heap->owner.id);
            hak_free(hak_heap_malloc(heap, 500));
        }
        hak_heap_destroy(heap);
    }
    EXPECT_EQ(std::count(kept, kept + 500, 'k'), 500);
    EXPECT_EQ(walk(stays).size(), 1u);
    hak_heap_destroy(stays);
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
