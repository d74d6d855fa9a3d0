/* What tests of tiny and mid_mt have alike: a seeded stress with a pattern in each block, by one
   thread and by four; refused memory; destroying. A pool's traits say what it is called: struct
   Traits { using Pool; init, alloc, free, usable_size, trim, destroy, verify; min_bytes, max_bytes
   } */
#ifndef HAKMEM_TESTING_POOL_TEST_H
#define HAKMEM_TESTING_POOL_TEST_H

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "testing/failing_os.h"
#include "testing/rng.h"

namespace hak_testing
{

/* A block knows its size and who wrote it: a pattern made from its key in all its bytes. */
struct PatternBlock {
    unsigned char *p;
    size_t size;
    uint64_t key;

    unsigned char expected(size_t i) const
    {
        return static_cast<unsigned char>((key >> (i % 8 * 8)) + i);
    }
    void fill() const
    {
        for (size_t i = 0; i < size; i++) {
            p[i] = expected(i);
        }
    }
    bool intact() const
    {
        for (size_t i = 0; i < size; i++) {
            if (p[i] != expected(i)) {
                return false;
            }
        }
        return true;
    }
};

template <typename T> PatternBlock pool_block(typename T::Pool *pool, Rng *rng, size_t most)
{
    size_t size = rng->between(T::min_bytes, most);
    PatternBlock block = {static_cast<unsigned char *>(T::alloc(pool, size)), size, rng->next()};
    if (block.p) {
        block.fill();
    }
    return block;
}

template <typename T> void pool_stress(typename T::Pool *pool, uint64_t seed, int n_steps)
{
    Rng rng(seed);
    std::vector<PatternBlock> live;
    for (int step = 0; step < n_steps; step++) {
        bool growing = step % 1000 < 600;
        if (live.empty() || rng.below(10) < (growing ? 7u : 3u)) {
            PatternBlock block =
                pool_block<T>(pool, &rng, rng.one_in(4) ? T::max_bytes : T::max_bytes / 8);
            ASSERT_NE(block.p, nullptr);
            live.push_back(block);
        } else {
            size_t i = rng.below(live.size());
            ASSERT_TRUE(live[i].intact()) << "seed " << seed << " step " << step;
            T::free(pool, live[i].p);
            live[i] = live.back();
            live.pop_back();
        }
        if (step % 50 == 0) {
            ASSERT_EQ(T::verify(pool), 0);
        }
        if (step % 997 == 0) {
            T::trim(pool);
        }
    }
    for (const PatternBlock &block : live) {
        ASSERT_TRUE(block.intact());
        T::free(pool, block.p);
    }
}

/* Four threads on one pool; half of the blocks are freed by another thread than the one that took
   them. */
template <typename T> void pool_four_threads(typename T::Pool *pool)
{
    std::mutex mutex;
    std::vector<PatternBlock> shared;
    int n_bad = 0, n_passed_on = 0;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            Rng rng(100 + t);
            std::vector<PatternBlock> live;
            auto end = [&](const PatternBlock &block) {
                if (!block.intact()) {
                    __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                }
                T::free(pool, block.p);
            };
            /* Leaves a block to whoever comes next, and takes one that another call has left. */
            auto pass_on = [&](const PatternBlock &block) {
                PatternBlock got = {nullptr, 0, 0};
                {
                    std::lock_guard<std::mutex> lock(mutex);
                    if (!shared.empty()) {
                        size_t i = rng.below(shared.size());
                        got = shared[i];
                        shared[i] = block;
                    } else {
                        shared.push_back(block);
                    }
                }
                if (got.p) {
                    end(got);
                    __atomic_add_fetch(&n_passed_on, 1, __ATOMIC_RELAXED);
                }
            };
            for (int step = 0; step < 2000; step++) {
                PatternBlock block = pool_block<T>(pool, &rng, T::max_bytes / 5);
                if (rng.one_in(2)) {
                    live.push_back(block);
                } else {
                    pass_on(block);
                }
                if (live.size() > 100) {
                    size_t i = rng.below(live.size());
                    end(live[i]);
                    live[i] = live.back();
                    live.pop_back();
                }
                if (step % 400 == 0) {
                    if (T::verify(pool)) {
                        __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
                    }
                    T::trim(pool);
                }
            }
            for (const PatternBlock &block : live) {
                end(block);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (const PatternBlock &block : shared) {
        EXPECT_TRUE(block.intact());
        T::free(pool, block.p);
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_GT(n_passed_on, 100);
}

/* The n-th call of mmap fails, for every n; requests that fail say ENOMEM, all others are served,
   nothing is lost. `purge` purges all free memory. Returns the first n that is more than there
   were calls. */
template <typename T>
uint64_t pool_every_mapping_refused(typename T::Pool *pool, int n_blocks, void (*purge)())
{
    for (uint64_t n = 1;; n++) {
        T::trim(pool);
        purge();
        FailingOs os;
        os.fail(OS_MMAP, n);
        std::vector<void *> live;
        int n_failed = 0;
        for (int i = 0; i < n_blocks; i++) {
            errno = 0;
            void *p = T::alloc(pool, T::max_bytes);
            if (p) {
                live.push_back(p);
            } else {
                EXPECT_EQ(errno, ENOMEM);
                n_failed++;
            }
        }
        EXPECT_LE(n_failed, 1);
        EXPECT_EQ(T::verify(pool), 0);
        for (void *p : live) {
            T::free(pool, p);
        }
        EXPECT_EQ(T::verify(pool), 0);
        if (!os.fired()) {
            EXPECT_EQ(n_failed, 0);
            return n;
        }
    }
}

/* Pools come and go, with blocks in them: each is empty at first and leaves nothing; another pool's
   blocks stay. `used` are the bytes that slabs hold now. */
template <typename T>
void pool_destroyed_and_made_again(typename T::Pool *pool, int n_rounds, int64_t (*used)())
{
    Rng rng(9);
    PatternBlock kept = pool_block<T>(pool, &rng, T::max_bytes);
    int64_t before = used();
    for (int round = 0; round < n_rounds; round++) {
        typename T::Pool one, two;
        ASSERT_EQ(T::init(&one), 0) << "ids come back; round " << round;
        ASSERT_EQ(T::init(&two), 0);
        std::vector<PatternBlock> live;
        for (int i = 0; i < 20; i++) {
            live.push_back(pool_block<T>(&two, &rng, T::max_bytes));
            (void)T::alloc(&one, rng.between(T::min_bytes, T::max_bytes));
        }
        EXPECT_EQ(T::verify(&one), 0);
        T::destroy(&one);
        for (const PatternBlock &block : live) {
            ASSERT_TRUE(block.intact());
        }
        EXPECT_EQ(T::verify(&two), 0);
        T::destroy(&two);
        ASSERT_EQ(used(), before) << round;
    }
    EXPECT_TRUE(kept.intact());
    T::free(pool, kept.p);
}

/* All ids are used up; then they come back. Returns how many pools there were at most. */
template <typename T> size_t pool_until_no_id_is_left(size_t most)
{
    std::vector<typename T::Pool> pools(most + 1);
    size_t n = 0;
    int error = 0;
    while (n <= most && (error = T::init(&pools[n])) == 0) {
        n++;
    }
    EXPECT_EQ(error, EAGAIN);
    if (n > most) {
        return n;
    }
    T::destroy(&pools[n / 2]);
    EXPECT_EQ(T::init(&pools[n / 2]), 0) << "the id that came back";
    EXPECT_EQ(T::init(&pools[n]), EAGAIN);
    for (size_t i = 0; i < n; i++) {
        void *p = i % 100 == 0 ? T::alloc(&pools[i], T::min_bytes) : nullptr;
        EXPECT_TRUE(i % 100 != 0 || p != nullptr);
        T::destroy(&pools[i]);
    }
    return n;
}

} // namespace hak_testing

#endif
