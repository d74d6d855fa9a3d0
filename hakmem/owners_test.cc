/* What goes over owners of all kinds: thread heaps, first-class heaps and pools used alone. */
#include "owner/owner.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/walk.h"
#include "heap/theap.h"
#include "mid_mt/mid_mt.h"
#include "tiny/tiny.h"

namespace
{

class Owners : public testing::Test
{
  protected:
    void SetUp() override
    {
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
        heap = hak_heap_create();
        ASSERT_NE(heap, nullptr);
        ASSERT_EQ(hak_mid_pool_init(&mid), 0);
        ASSERT_EQ(hak_tiny_pool_init(&tiny), 0);
    }
    void TearDown() override
    {
        hak_heap_destroy(heap);
        hak_mid_pool_destroy(&mid);
        hak_tiny_pool_destroy(&tiny);
        EXPECT_EQ(hak_verify(), 0);
        (void)hak_purge();
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    /* A block of each kind of owner. */
    std::vector<void *> take()
    {
        return {hak_malloc(900), hak_heap_malloc(heap, 900), hak_tiny_pool_alloc(&tiny, 900),
                hak_mid_pool_alloc(&mid, 1100)};
    }
    void give(const std::vector<void *> &blocks)
    {
        hak_free(blocks[0]);
        hak_free(blocks[1]);
        hak_tiny_pool_free(&tiny, blocks[2]);
        hak_mid_pool_free(&mid, blocks[3]);
    }
    struct hak_heap *heap;
    struct mid_pool mid;
    struct tiny_pool tiny;
};

TEST_F(Owners, PurgeTrimsAll)
{
    give(take());
    EXPECT_GE(hak_stat_get(heap_used_bytes), 4 * int64_t(SS_UNIT_BYTES))
        << "each keeps an empty slab";
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

TEST_F(Owners, WalksSeeTheBlocksOfAll)
{
    std::vector<void *> blocks = take();
    struct walk_counts counts;
    hak_walk_count(&counts);
    EXPECT_EQ(counts.n_used[hak_sc_of(900)], 3u);
    EXPECT_EQ(counts.n_used[hak_sc_of(1100)], 1u);
    std::vector<void *> seen;
    auto visit = [](void *block, size_t, void *context) {
        static_cast<std::vector<void *> *>(context)->push_back(block);
        return 0;
    };
    EXPECT_EQ(hak_walk(visit, &seen), 0);
    std::sort(seen.begin(), seen.end());
    std::sort(blocks.begin(), blocks.end());
    EXPECT_EQ(seen, blocks);
    seen.clear();
    EXPECT_EQ(hak_heap_walk(heap, visit, &seen), 0);
    EXPECT_EQ(seen.size(), 1u) << "of a first-class heap, its own";
    for (struct owner *pool : {mid.owner, tiny.owner}) {
        EXPECT_EQ(pool->kind, uint32_t(OWNER_POOL));
    }
    for (void *p : blocks) {
        struct owner *owner = hak_owner_by_id(hak_super_lookup(p).owner);
        if (owner == mid.owner) {
            hak_mid_pool_free(&mid, p);
        } else if (owner == tiny.owner) {
            hak_tiny_pool_free(&tiny, p);
        } else {
            hak_free(p);
        }
    }
}

/* As the background thread does: an owner that is not used for two ticks returns its empty slab. */
TEST_F(Owners, AllRest)
{
    std::vector<void *> stay = take();
    give(take());
    std::vector<void *> more = {hak_heap_malloc(heap, 16), hak_tiny_pool_alloc(&tiny, 16),
                                hak_mid_pool_alloc(&mid, 2000)};
    hak_free(more[0]);
    hak_tiny_pool_free(&tiny, more[1]);
    hak_mid_pool_free(&mid, more[2]);
    hak_tc_flush(hak_theap_own);
    int64_t used = hak_stat_get(heap_used_bytes);
    hak_theap_rest_all();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), used) << "they were used since the last look";
    hak_theap_rest_all();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), used - 3 * int64_t(SS_UNIT_BYTES));
    give(stay);
}

/* Pages that hold free blocks only go back, also where no thread cache stands before the slabs. */
TEST_F(Owners, ColdPagesOfAllGoBack)
{
    if (hak_os_page_size() != 4096) {
        GTEST_SKIP() << "pages of 4 KiB";
    }
    std::vector<void *> blocks[3];
    for (int i = 0; i < 31; i++) { /* most of a slab */
        blocks[0].push_back(hak_heap_malloc(heap, 2048));
        blocks[1].push_back(hak_mid_pool_alloc(&mid, 2048));
    }
    for (int i = 0; i < 60; i++) {
        blocks[2].push_back(hak_tiny_pool_alloc(&tiny, 1024));
    }
    for (int i = 1; i < 31; i++) {
        hak_free(blocks[0][static_cast<size_t>(i)]);
        hak_mid_pool_free(&mid, blocks[1][static_cast<size_t>(i)]);
    }
    for (int i = 1; i < 60; i++) {
        hak_tiny_pool_free(&tiny, blocks[2][static_cast<size_t>(i)]);
    }
    memset(blocks[0][0], 1, 2048);
    int64_t before = hak_stat_get(cold_bytes_purged);
    for (int tick = 0; tick < 3; tick++) {
        hak_theap_rest_all();
    }
    EXPECT_GE(hak_stat_get(cold_bytes_purged) - before, 3 * 13 * 4096);
    EXPECT_EQ(static_cast<char *>(blocks[0][0])[2047], 1);
    for (int tick = 0; tick < 3; tick++) {
        hak_theap_rest_all();
    }
    EXPECT_LE(hak_stat_get(cold_bytes_purged) - before, 3 * 15 * 4096) << "once";
    hak_free(blocks[0][0]);
    hak_mid_pool_free(&mid, blocks[1][0]);
    hak_tiny_pool_free(&tiny, blocks[2][0]);
}

TEST_F(Owners, VerifyLooksAtAll)
{
    std::vector<void *> blocks = take();
    EXPECT_EQ(hak_verify(), 0);
    for (void *p : blocks) {
        struct owner *owner = hak_owner_by_id(hak_super_lookup(p).owner);
        owner->bank.n_slabs++;
        EXPECT_NE(hak_verify(), 0) << owner->kind;
        owner->bank.n_slabs--;
    }
    give(blocks);
}

/* Threads are in the middle of pools and heaps, some of which come and go, when the process forks:
   the child can use all of them. */
TEST_F(Owners, AChildHasTheLocksOfAll)
{
    std::atomic<bool> stop{false};
    std::atomic<int> n_bad{0};
    std::vector<std::thread> others;
    for (int t = 0; t < 2; t++) {
        others.emplace_back([&, t] {
            for (int i = 0; !stop; i++) {
                give(take());
                struct mid_pool own;
                if (t == 0 && hak_mid_pool_init(&own) == 0) {
                    n_bad += hak_mid_pool_alloc(&own, 5000) == nullptr;
                    hak_mid_pool_destroy(&own);
                }
                struct hak_heap *mine = t == 1 ? hak_heap_create() : nullptr;
                if (mine) {
                    n_bad += hak_heap_malloc(mine, 50) == nullptr;
                    hak_heap_destroy(mine);
                }
            }
        });
    }
    for (int round = 0; round < 60; round++) {
        pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            alarm(60); /* or it would wait for ever */
            std::vector<void *> blocks = take();
            int error = std::count(blocks.begin(), blocks.end(), nullptr) ? 100 : hak_verify();
            give(blocks);
            struct mid_pool own;
            error = error ? error : hak_mid_pool_init(&own);
            hak_mid_pool_destroy(&own);
            hak_heap_destroy(hak_heap_create());
            error = error ? error : hak_verify();
            _exit(error);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_EQ(status, 0) << "round " << round;
    }
    stop = true;
    for (std::thread &other : others) {
        other.join();
    }
    EXPECT_EQ(n_bad, 0);
}

} // namespace
