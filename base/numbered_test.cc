/* Tests of numbered tables: room is made by several threads at once, without the lock. */
#include "base/numbered.h"

#include <gtest/gtest.h>
#include <mutex>
#include <thread>
#include <vector>

namespace
{

struct numbered all;

TEST(Numbered, RoomIsMadeWithoutTheLock)
{
    const uint32_t n_threads = 4, n_each = 3 * NUMBERED_CHUNK / 2;
    static uint32_t items[n_threads * n_each];
    std::mutex mutex;
    std::vector<std::thread> threads;
    int n_bad = 0;
    for (uint32_t t = 0; t < n_threads; t++) {
        threads.emplace_back([&, t] {
            for (uint32_t i = 0; i < n_each; i++) {
                for (bool is_added = false; !is_added;) {
                    int has_room = hak_numbered_reserve(&all);
                    std::lock_guard<std::mutex> lock(mutex);
                    n_bad += !has_room;
                    is_added = hak_numbered_has_place(&all) || !has_room;
                    if (is_added) {
                        items[t * n_each + i] = all.n;
                        hak_numbered_add(&all, &items[t * n_each + i]);
                    }
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_EQ(hak_numbered_count(&all), n_threads * n_each);
    for (uint32_t i = 0; i < n_threads * n_each; i++) {
        const uint32_t *item = static_cast<const uint32_t *>(hak_numbered_get(&all, i));
        ASSERT_NE(item, nullptr);
        ASSERT_EQ(*item, i);
    }
    EXPECT_EQ(hak_numbered_find(&all, n_threads * n_each), nullptr);
    /* Chunks that two threads have made at once are the next ones, and no other is made. */
    uint32_t n_chunks = 0;
    while (all.chunks[n_chunks]) {
        n_chunks++;
    }
    EXPECT_LE(n_chunks, n_threads * n_each / NUMBERED_CHUNK + n_threads);
}

} // namespace
