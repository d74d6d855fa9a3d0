/* That the pools which a Bazel user imports are what serves hakmem: the linker leads every call of
   theirs, and of the banks below them, through here (--wrap, see BUILD.bazel), and each block that
   hakmem hands out must have come out of its pool. */
#include "heap/small.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/link.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "testing/rng.h"

namespace
{

enum Pool { NONE, TINY, MID, N_POOLS };

/* What this thread is in the middle of; libc's malloc serves what the records need. */
thread_local Pool within = NONE;
std::mutex mutex;
std::map<void *, Pool> came_from;
int64_t n_taken[N_POOLS], n_put[N_POOLS], n_lists[N_POOLS];
int n_outside;

struct Within {
    explicit Within(Pool pool)
    {
        within = pool;
    }
    ~Within()
    {
        within = NONE;
    }
};

void check_is_within()
{
    std::lock_guard<std::mutex> lock(mutex);
    n_outside += within == NONE;
}

void note_taken(Pool pool, uint32_t n, void *head)
{
    std::lock_guard<std::mutex> lock(mutex);
    n_lists[pool] += n != 0; /* else a fresh slab comes, and the call again */
    n_taken[pool] += n;
    for (; head; head = hak_link_next(head)) {
        came_from[head] = pool;
    }
}

/* Strays go to another owner, and are counted there. */
int64_t length(const void *head)
{
    int64_t n = 0;
    for (; head; head = hak_link_next(head)) {
        n++;
    }
    return n;
}

void note_put(Pool pool, int64_t n)
{
    std::lock_guard<std::mutex> lock(mutex);
    n_put[pool] += n;
}

} // namespace

extern "C" {
uint32_t __real_hak_bank_take(struct bank *, uint32_t, uint32_t, void **,
                              const struct owner_policy *);
void __real_hak_bank_put(struct bank *, void *, const struct owner_policy *);
uint32_t __real_hak_bank_put_list(struct bank *, void *, const struct owner_policy *);

uint32_t __wrap_hak_bank_take(struct bank *bank, uint32_t size_class, uint32_t want, void **head,
                              const struct owner_policy *policy)
{
    check_is_within();
    return __real_hak_bank_take(bank, size_class, want, head, policy);
}

void __wrap_hak_bank_put(struct bank *bank, void *block, const struct owner_policy *policy)
{
    check_is_within();
    __real_hak_bank_put(bank, block, policy);
}

uint32_t __wrap_hak_bank_put_list(struct bank *bank, void *head, const struct owner_policy *policy)
{
    check_is_within();
    return __real_hak_bank_put_list(bank, head, policy);
}

#define WRAP(name, pool)                                                                           \
    uint32_t __real_hak_##name##_take(struct owner *, uint32_t, uint32_t, void **);                \
    uint32_t __real_hak_##name##_put_list(struct owner *, void *);                                 \
    void __real_hak_##name##_put(struct owner *, void *);                                          \
    uint32_t __wrap_hak_##name##_take(struct owner *owner, uint32_t size_class, uint32_t want,     \
                                      void **head)                                                 \
    {                                                                                              \
        Within here(pool);                                                                         \
        uint32_t n = __real_hak_##name##_take(owner, size_class, want, head);                      \
        note_taken(pool, n, *head);                                                                \
        return n;                                                                                  \
    }                                                                                              \
    uint32_t __wrap_hak_##name##_put_list(struct owner *owner, void *head)                         \
    {                                                                                              \
        Within here(pool);                                                                         \
        int64_t strays = length(owner->bank.strays);                                               \
        uint32_t n = __real_hak_##name##_put_list(owner, head);                                    \
        note_put(pool, n - (length(owner->bank.strays) - strays));                                 \
        return n;                                                                                  \
    }                                                                                              \
    void __wrap_hak_##name##_put(struct owner *owner, void *block)                                 \
    {                                                                                              \
        Within here(pool);                                                                         \
        __real_hak_##name##_put(owner, block);                                                     \
        note_put(pool, 1);                                                                         \
    }
WRAP(tiny, TINY)
WRAP(mid, MID)
}

namespace
{

using hak_testing::Rng;

Pool pool_of(size_t size)
{
    return size <= 1024 ? TINY : MID;
}

Pool source_of(void *p)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto found = came_from.find(p);
    return found == came_from.end() ? NONE : found->second;
}

class Small : public testing::Test
{
  protected:
    void TearDown() override
    {
        EXPECT_EQ(n_outside, 0) << "a bank was used past the pools";
        EXPECT_EQ(hak_verify(), 0);
    }
};

TEST_F(Small, MallocOf2KiBComesOutOfMidMtAndOf100BytesOutOfTiny)
{
    int64_t tiny = n_lists[TINY], mid = n_lists[MID];
    (void)hak_purge();
    void *p = hak_malloc(2048);
    EXPECT_EQ(source_of(p), MID);
    EXPECT_EQ(n_lists[MID], mid + 1);
    EXPECT_EQ(n_lists[TINY], tiny);
    void *q = hak_malloc(100);
    EXPECT_EQ(source_of(q), TINY);
    EXPECT_EQ(n_lists[TINY], tiny + 1);
    hak_free(p);
    hak_free(q);
}

TEST_F(Small, EverySizeComesOutOfItsPool)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "blocks end in a tail, those of 0 bytes are none";
    }
    struct hak_heap *heap = hak_heap_create();
    for (size_t size = 0; size <= SC_SMALL_MAX; size += size < 1100 ? 1 : 97) {
        void *p = hak_malloc(size), *q = hak_heap_malloc(heap, size),
             *r = hak_aligned_alloc(64, size);
        ASSERT_EQ(source_of(p), pool_of(size)) << size;
        ASSERT_EQ(source_of(q), pool_of(size)) << size;
        ASSERT_EQ(source_of(r), pool_of(hak_usable_size(r))) << size;
        hak_free(p);
        hak_free(q);
        hak_free(r);
    }
    int64_t before = n_lists[TINY] + n_lists[MID];
    hak_free(hak_malloc(SC_SMALL_MAX + 1));
    EXPECT_EQ(n_lists[TINY] + n_lists[MID], before) << "larger ones come from neither";
    hak_heap_destroy(heap);
}

TEST_F(Small, AThreadWithoutAHeapIsServedByThemToo)
{
    std::thread([] {
        hak_theap_refuse();
        for (size_t size : {10, 1000, 2048, 30000}) {
            void *p = hak_malloc(size);
            EXPECT_EQ(source_of(p), pool_of(size));
            hak_free(p);
        }
    }).join();
}

/* What was taken from a pool goes back into it, whichever thread frees it. */
TEST_F(Small, BlocksGoBackWhereTheyCameFrom)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "freed blocks wait in a quarantine first";
    }
    (void)hak_purge();
    int64_t kept[N_POOLS] = {0, n_taken[TINY] - n_put[TINY], n_taken[MID] - n_put[MID]};
    Rng rng(3);
    struct hak_heap *heap = hak_heap_create();
    std::vector<void *> blocks;
    for (int i = 0; i < 4000; i++) {
        size_t size = rng.one_in(2) ? rng.below(1025) : rng.between(1025, SC_SMALL_MAX);
        blocks.push_back(rng.one_in(4) ? hak_heap_malloc(heap, size) : hak_malloc(size));
    }
    EXPECT_GE(n_taken[TINY] - n_put[TINY] - kept[TINY], 1000);
    EXPECT_GE(n_taken[MID] - n_put[MID] - kept[MID], 1000);
    std::thread other([&blocks] { /* by its inbox */
                                  for (size_t i = 0; i < blocks.size() / 2; i++) {
                                      hak_free(blocks[i]);
                                  }
    });
    other.join();
    for (size_t i = blocks.size() / 2; i < blocks.size(); i++) {
        hak_free(blocks[i]);
    }
    (void)hak_purge();
    EXPECT_EQ(n_taken[TINY] - n_put[TINY], kept[TINY]);
    EXPECT_EQ(n_taken[MID] - n_put[MID], kept[MID]);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    hak_heap_destroy(heap);
}

} // namespace
