/* Tests of allocation hooks. */
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/stats.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

std::vector<hak_hook_call> befores, afters;

void note_before(const hak_hook_call *call, void *context)
{
    EXPECT_EQ(context, &befores);
    befores.push_back(*call);
    hak_free(hak_malloc(call->size)); /* which is not reported */
    errno = ERANGE;
}

void note_after(const hak_hook_call *call, void *)
{
    afters.push_back(*call);
    hak_free(hak_malloc(100000));
    errno = ERANGE;
}

const hak_hooks BOTH = {note_before, note_after, &befores};

class Hooks : public testing::Test
{
  protected:
    void SetUp() override
    {
        (void)hak_purge();
        befores.clear();
        afters.clear();
    }
    void TearDown() override
    {
        hak_hooks_set(nullptr);
        EXPECT_EQ(hak_self, hak_entry_now() == &hak_entry_plain ? hak_theap_own : &hak_theap_none);
        EXPECT_EQ(hak_verify(), 0);
        (void)hak_purge();
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a block was left behind";
    }
};

/* What was reported of one call: it, and nothing besides. */
void expect_told(hak_hook_kind kind, void *block, size_t size, size_t alignment, void *result)
{
    ASSERT_EQ(befores.size(), 1u);
    ASSERT_EQ(afters.size(), 1u);
    const hak_hook_call &before = befores[0], &after = afters[0];
    EXPECT_EQ(before.kind, kind);
    EXPECT_EQ(before.block, block);
    EXPECT_EQ(before.size, size);
    EXPECT_EQ(before.alignment, alignment);
    EXPECT_EQ(before.result, nullptr);
    EXPECT_EQ(after.kind, kind);
    EXPECT_EQ(after.block, block);
    EXPECT_EQ(after.size, size);
    EXPECT_EQ(after.result, result);
    befores.clear();
    afters.clear();
}

TEST_F(Hooks, EveryCallIsToldOnce)
{
    struct hak_heap *heap = hak_heap_create();
    hak_hooks_set(&BOTH);
    for (size_t size : {0, 1, 100, 1024, 1025, 5000, 32768, 32769, 200000, 3 << 20}) {
        for (int again = 0; again < 2; again++) { /* from the slabs, and from the bin */
            void *p = hak_malloc(size);
            expect_told(HAK_HOOK_ALLOC, nullptr, size, 16, p);
            p = hak_realloc(p, size + 1); /* mostly in place */
            if (size) {
                void *was = befores[0].block;
                expect_told(HAK_HOOK_REALLOC, was, size + 1, 16, p);
                void *moved = hak_realloc(p, size * 3);
                expect_told(HAK_HOOK_REALLOC, p, size * 3, 16, moved);
                p = moved;
            }
            befores.clear();
            afters.clear();
            hak_free(p);
            expect_told(HAK_HOOK_FREE, p, 0, 0, nullptr);
            p = hak_calloc(1, size);
            expect_told(HAK_HOOK_ALLOC, nullptr, size, 16, p);
            hak_free_sized(p, size);
            expect_told(HAK_HOOK_FREE, p, 0, 0, nullptr);
            p = hak_aligned_alloc(256, size);
            expect_told(HAK_HOOK_ALLOC, nullptr, size, 256, p);
            hak_free(p);
            befores.clear();
            afters.clear();
            p = hak_heap_malloc(heap, size);
            expect_told(HAK_HOOK_ALLOC, nullptr, size, 16, p);
            void *moved = hak_heap_realloc(heap, p, size + 100);
            expect_told(HAK_HOOK_REALLOC, p, size + 100, 16, moved);
            hak_free(moved);
            expect_told(HAK_HOOK_FREE, moved, 0, 0, nullptr);
        }
    }
    void *out[20];
    ASSERT_EQ(hak_malloc_batch(64, 20, out), 20u);
    EXPECT_EQ(befores.size(), 20u);
    hak_free_batch(out, 20);
    EXPECT_EQ(afters.size(), 40u);
    befores.clear();
    hak_free(nullptr);
    EXPECT_TRUE(befores.empty());
    hak_hooks_set(nullptr);
    hak_free(hak_malloc(100));
    EXPECT_TRUE(befores.empty());
    hak_heap_destroy(heap);
}

TEST_F(Hooks, ErrnoIsTheCallsOwn)
{
    hak_hooks_set(&BOTH);
    errno = ECHILD;
    void *p = hak_malloc(100);
    EXPECT_EQ(errno, ECHILD);
    hak_free(p);
    EXPECT_EQ(errno, ECHILD);
    EXPECT_EQ(hak_malloc(SIZE_MAX), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(afters.back().result, nullptr);
}

TEST_F(Hooks, EitherMayBeMissing)
{
    static const hak_hooks none = {nullptr, nullptr, nullptr};
    static const hak_hooks only_after = {nullptr, note_after, nullptr};
    hak_hooks_set(&none);
    hak_free(hak_malloc(100));
    hak_hooks_set(&only_after);
    hak_free(hak_malloc(100));
    EXPECT_TRUE(befores.empty());
    EXPECT_EQ(afters.size(), 2u);
}

/* Blocks that were in bins when hooks came, and that come into bins while there are some. */
TEST_F(Hooks, BinsAreUsedOnAndOff)
{
    std::vector<void *> blocks;
    for (int round = 0; round < 50; round++) {
        static const hak_hooks none = {nullptr, nullptr, nullptr};
        hak_hooks_set(round % 2 ? &none : nullptr);
        for (int i = 0; i < 100; i++) {
            blocks.push_back(hak_malloc(48));
            memset(blocks.back(), round, 48);
        }
        for (size_t i = 0; i < blocks.size(); i += 2) {
            hak_free(blocks[i]);
            blocks[i] = blocks.back();
            blocks.pop_back();
        }
        ASSERT_EQ(hak_verify(), 0);
    }
    for (void *p : blocks) {
        hak_free(p);
    }
}

/* A checker that a program might hook in: knows all live blocks, from any thread. */
class Ledger
{
  public:
    static void before(const hak_hook_call *call, void *context)
    {
        auto *ledger = static_cast<Ledger *>(context);
        if (call->kind == HAK_HOOK_FREE) {
            ledger->remove(call->block);
        } else if (call->kind == HAK_HOOK_REALLOC && call->block) {
            ledger->remove(call->block);
        }
    }
    static void after(const hak_hook_call *call, void *context)
    {
        auto *ledger = static_cast<Ledger *>(context);
        if (call->kind != HAK_HOOK_FREE && call->result) {
            ledger->add(call->result, call->size);
        }
    }
    size_t n_live()
    {
        std::lock_guard<std::mutex> guard(mutex_);
        return live_.size();
    }
    std::atomic<int> n_wrong{0};

  private:
    void add(void *p, size_t size)
    {
        std::lock_guard<std::mutex> guard(mutex_);
        n_wrong += !live_.emplace(p, size).second;
    }
    void remove(void *p)
    {
        std::lock_guard<std::mutex> guard(mutex_);
        n_wrong += live_.erase(p) != 1;
    }
    std::mutex mutex_;
    std::map<void *, size_t> live_;
};

TEST_F(Hooks, OfEveryThreadThatIsThereOrComes)
{
    Ledger ledger;
    hak_hooks hooks = {Ledger::before, Ledger::after, &ledger};
    std::atomic<int> stage{0};
    auto wait_for = [&stage](int n) {
        while (stage < n) {
            std::this_thread::yield();
        }
    };
    std::thread there([&] {
        void *warm = hak_malloc(48);
        hak_free(warm); /* a bin that would serve the next call at once */
        stage = 1;
        wait_for(2);
        void *p = hak_malloc(48); /* hooked though this thread knows nothing of it */
        stage = 3;
        wait_for(4);
        hak_free(p);
        stage = 5;
    });
    wait_for(1);
    hak_hooks_set(&hooks);
    stage = 2;
    wait_for(3);
    EXPECT_EQ(ledger.n_live(), 1u);
    stage = 4;
    wait_for(5);
    EXPECT_EQ(ledger.n_live(), 0u);
    there.join();
    std::vector<std::thread> others;
    for (uint64_t seed = 0; seed < 6; seed++) {
        others.emplace_back([seed] {
            Rng rng(seed);
            std::vector<void *> cells(64);
            for (int i = 0; i < 4000; i++) {
                void *&cell = cells[rng.below(cells.size())];
                size_t size = rng.one_in(50) ? rng.below(300000) : rng.below(3000);
                if (rng.one_in(4)) {
                    cell = hak_realloc(cell, size + 1);
                } else {
                    hak_free(cell);
                    cell = hak_malloc(size);
                }
            }
            for (void *p : cells) {
                hak_free(p);
            }
        });
    }
    for (std::thread &other : others) {
        other.join();
    }
    EXPECT_EQ(ledger.n_live(), 0u);
    EXPECT_EQ(ledger.n_wrong, 0);
    hak_hooks_set(nullptr);
}

/* Hooks come and go while threads allocate, come and end. */
TEST_F(Hooks, SetAndTakenAwayMeanwhile)
{
    static std::atomic<int> n_told{0};
    static const hak_hooks counting = {[](const hak_hook_call *, void *) { n_told++; }, nullptr,
                                       nullptr};
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    for (uint64_t seed = 0; seed < 4; seed++) {
        others.emplace_back([&stop, seed] {
            Rng rng(seed);
            while (!stop) {
                std::thread([&rng] {
                    void *cells[32] = {};
                    for (int i = 0; i < 2000; i++) {
                        void *&cell = cells[rng.below(32)];
                        hak_free(cell);
                        cell = rng.one_in(3) ? hak_calloc(1, rng.below(2000))
                                             : hak_malloc(rng.below(2000));
                    }
                    for (void *p : cells) {
                        hak_free(p);
                    }
                }).join();
            }
        });
    }
    for (int i = 0; i < 300; i++) {
        hak_hooks_set(i % 2 ? nullptr : &counting);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    stop = true;
    for (std::thread &other : others) {
        other.join();
    }
    hak_hooks_set(nullptr);
    EXPECT_GT(n_told, 0);
}

} // namespace
