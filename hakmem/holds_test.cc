/* What is done while a lock is held, as the debug variant counts it: in each state of the heap that
   used to make a call as long as the heap is large, at two sizes. No system call is made under a
   lock that malloc or free may wait for, and no hold takes more steps in the larger heap. The rows
   are those of bench/worst, which measures the times. */
#include "base/lock_holds.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "testing/failing_os.h"
#include "testing/rng.h"
#include "tiny/tiny.h"

#if HAK_DEBUG

namespace
{

using hak_testing::FailingOs;
using hak_testing::FakeClock;
using hak_testing::Rng;

constexpr size_t kKib = 1024, kMib = 1024 * kKib;

FakeClock *the_clock;
FailingOs *the_os;

void *ok(void *p)
{
    EXPECT_NE(p, nullptr);
    return p;
}

std::vector<void *> blocks_of(size_t n, size_t size)
{
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(ok(hak_malloc(size)));
    }
    return blocks;
}

void free_all(const std::vector<void *> &blocks)
{
    for (void *p : blocks) {
        hak_free(p);
    }
}

void free_shuffled(std::vector<void *> blocks)
{
    Rng rng(5);
    for (size_t left = blocks.size(); left > 0; left--) {
        std::swap(blocks[rng.below(left)], blocks[left - 1]);
        hak_free(blocks[left - 1]);
    }
}

std::vector<void *> every_other(std::vector<void *> *blocks)
{
    std::vector<void *> taken, left;
    for (size_t i = 0; i < blocks->size(); i++) {
        (i % 2 ? taken : left).push_back((*blocks)[i]);
    }
    *blocks = left;
    return taken;
}

/* Each function once or twice. What the system refuses may be NULL. */
void call_each_function()
{
    struct hak_heap *heap = hak_heap_create();
    for (size_t size : {size_t{24}, size_t{5000}, 40 * kKib, 300 * kKib, 3 * kMib}) {
        void *p = hak_malloc(size), *q = hak_calloc(1, size);
        void *grown = hak_realloc(p, size * 2);
        p = grown ? grown : p;
        void *aligned = hak_aligned_alloc(16 * kKib, 40000);
        hak_free(p);
        hak_free(q);
        hak_free(aligned);
        if (heap) {
            hak_free(hak_heap_malloc(heap, size));
            (void)hak_heap_calloc(heap, 1, size);
        }
    }
    if (heap) {
        (void)hak_heap_walk(
            heap, [](void *, size_t, void *) { return 0; }, nullptr);
        hak_heap_destroy(heap);
    }
    EXPECT_EQ(hak_malloc(PTRDIFF_MAX / 8), nullptr);
}

/* What the background thread does, done here; then a thread that starts, hands blocks over, and
   ends. */
void rest_and_change_threads()
{
    hak_theap_rest_all();
    the_clock->advance_ms(1000);
    hak_theap_rest_all();
    std::vector<void *> mine = blocks_of(300, 64);
    std::thread([&mine] {
        std::vector<void *> others = blocks_of(300, 64);
        free_all(mine);
        mine = others;
    }).join();
    free_all(mine);
}

void end_of_row()
{
    the_clock->advance_ms(1000);
    call_each_function();
    rest_and_change_threads();
    (void)hak_purge();
    call_each_function();
}

struct Worst {
    struct lock_worst of[LOCK_N_RANKS];
};

Worst worst_now()
{
    Worst worst;
    for (uint32_t rank = 0; rank < LOCK_N_RANKS; rank++) {
        worst.of[rank] = hak_lock_worst(static_cast<enum lock_rank>(rank));
    }
    return worst;
}

/* Of a forked child, which has the same texts at the same addresses. */
Worst *of_child;

Worst worst_with_child()
{
    Worst worst = worst_now();
    for (uint32_t rank = 0; rank < LOCK_N_RANKS; rank++) {
        const struct lock_worst &child = of_child->of[rank];
        if (child.steps > worst.of[rank].steps) {
            worst.of[rank].steps = child.steps;
            worst.of[rank].steps_in = child.steps_in;
        }
        if (child.system_calls > worst.of[rank].system_calls) {
            worst.of[rank].system_calls = child.system_calls;
            worst.of[rank].system_call = child.system_call;
        }
    }
    return worst;
}

/* --- the rows --- */

void fall_due(const std::vector<void *> &blocks)
{
    free_all(blocks);
    the_clock->advance_ms(100000);
    free_all(blocks_of(2000, 4 * kKib)); /* the owner's slabs go back */
    hak_free(ok(hak_malloc(100 * kKib)));
}

void backlog_slabs(size_t n)
{
    fall_due(blocks_of(n, 4 * kKib));
}

void backlog_spans(size_t n)
{
    fall_due(blocks_of(n, 128000));
}

void backlog_ranges(size_t n)
{
    fall_due(blocks_of(n, 4 * kMib));
}

void refused_madvise(size_t n)
{
    std::vector<void *> blocks = blocks_of(n, 128000), freed = every_other(&blocks);
    the_os->fail_always(hak_testing::OS_MADVISE);
    fall_due(freed);
    fall_due(blocks_of(100, 40 * kKib));
    the_os->reset();
    free_all(blocks);
}

void refused_munmap(size_t n)
{
    std::vector<void *> blocks = blocks_of(n, 1200000), freed = every_other(&blocks);
    the_os->fail_always(hak_testing::OS_MUNMAP);
    fall_due(freed);
    call_each_function();
    the_os->reset();
    free_all(blocks);
}

/* Near the limit of address space: buffers that realloc has shrunk, and nothing more to be had. */
void refused_mmap(size_t n)
{
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        void *p = ok(hak_malloc(8 * kMib));
        for (size_t size : {size_t{140000}, size_t{280000}, size_t{140000}}) {
            p = ok(hak_realloc(p, size));
        }
        blocks.push_back(p);
    }
    the_os->fail_always(hak_testing::OS_MMAP);
    for (int i = 0; i < 3; i++) {
        call_each_function();
        the_clock->advance_ms(20);
        hak_free(hak_malloc(64 * kMib));
    }
    the_os->reset();
    free_shuffled(blocks);
}

void aligned_holes(size_t n)
{
    std::vector<void *> blocks = blocks_of(n, 40 * kKib), freed = every_other(&blocks);
    free_all(freed);
    for (int i = 0; i < 20; i++) {
        blocks.push_back(ok(hak_aligned_alloc(16 * kKib, 40000)));
    }
    free_all(blocks);
}

void own_heaps(size_t n)
{
    std::vector<void *> elsewhere = blocks_of(n, 60 * kKib);
    std::vector<struct hak_heap *> heaps;
    for (size_t i = 0; i < std::min(n, size_t{8000}); i++) {
        heaps.push_back(static_cast<struct hak_heap *>(ok(hak_heap_create())));
        ok(hak_heap_malloc(heaps.back(), 100));
    }
    call_each_function();
    const struct hak_hooks none = {};
    hak_hooks_set(&none);
    hak_hooks_set(nullptr);
    for (struct hak_heap *heap : heaps) {
        hak_heap_destroy(heap);
    }
    call_each_function(); /* ids are free again */
    free_all(elsewhere);
}

/* A heap with many blocks of both kinds, walked and destroyed. */
void large_heap(size_t n)
{
    struct hak_heap *heap = hak_heap_create();
    for (size_t i = 0; i < n; i++) {
        ok(hak_heap_malloc(heap, i % 4 ? 16 * kKib : 64 * kKib));
    }
    call_each_function();
    (void)hak_heap_walk(
        heap, [](void *, size_t, void *) { return 0; }, nullptr);
    hak_heap_destroy(heap);
}

/* Blocks of first-class heaps that are each in a table by address. */
void large_blocks_of_a_heap(size_t n)
{
    struct hak_heap *heap = hak_heap_create();
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(ok(hak_heap_malloc(heap, 33 * kKib)));
    }
    free_shuffled(blocks);
    hak_heap_destroy(heap);
}

void one_exbibyte(size_t n)
{
    std::vector<struct hak_heap *> heaps;
    for (size_t i = 0; i < std::min(n, size_t{8000}); i++) {
        heaps.push_back(static_cast<struct hak_heap *>(ok(hak_heap_create())));
        ok(hak_heap_malloc(heaps.back(), 100));
    }
    hak_free(ok(hak_malloc(500 * kKib))); /* something dirty */
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(hak_malloc(size_t{1} << 60), nullptr);
        the_clock->advance_ms(20);
    }
    for (struct hak_heap *heap : heaps) {
        hak_heap_destroy(heap);
    }
}

void cached_ranges(size_t n)
{
    Rng rng(7);
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(ok(hak_malloc(1200000 + rng.below(3000000))));
    }
    free_shuffled(blocks);
}

void creep(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *p = ok(hak_malloc(kMib)), *q = ok(hak_malloc(kMib));
        hak_free(p);
        hak_free(q);
        if (i % 16 == 0) {
            (void)hak_purge();
        }
    }
}

void trim_partial(size_t n)
{
    std::vector<void *> blocks = blocks_of(n, 1000), kept;
    for (size_t i = 0; i < blocks.size(); i += 63) {
        kept.push_back(blocks[i]);
        blocks[i] = nullptr;
    }
    free_all(blocks);
    (void)hak_purge();
    free_all(kept);
}

/* Slabs that are in use here and there, and that no thread touches: their free pages go. */
void cold_slabs(size_t n)
{
    std::vector<void *> blocks = blocks_of(n, 1000), kept;
    for (size_t i = 0; i < blocks.size(); i += 30) {
        kept.push_back(blocks[i]);
        blocks[i] = nullptr;
    }
    free_all(blocks);
    int64_t before = hak_stat_get(cold_bytes_purged);
    for (int i = 0; i < 3; i++) {
        hak_theap_rest_all();
    }
    EXPECT_GT(hak_stat_get(cold_bytes_purged), before);
    free_all(kept);
}

/* Mid blocks freed in no order, some by another thread: lists of them wait behind the lock, and go
   when the heap rests or is trimmed, and when a class needs a slab. */
void lists_of_mid_blocks(size_t n)
{
    for (int way = 0; way < 3; way++) {
        std::vector<void *> blocks = blocks_of(n, 1100), others = blocks_of(n / 8, 9000), kept;
        std::thread([&] { free_shuffled(every_other(&others)); }).join();
        free_shuffled(blocks);
        free_shuffled(others);
        EXPECT_GT(hak_theap_own->depot_bytes[1], 0u);
        if (way == 0) {
            kept = blocks_of(n / 8, 5000);
        } else if (way == 1) {
            (void)hak_purge();
        } else {
            for (int i = 0; i < 3; i++) {
                hak_theap_rest_all();
            }
        }
        EXPECT_EQ(hak_theap_own->depot_bytes[1], way == 0 ? hak_theap_own->depot_bytes[1] : 0u);
        free_all(kept);
    }
}

void pool_alone(size_t n)
{
    struct tiny_pool pool;
    ASSERT_EQ(hak_tiny_pool_init(&pool), 0);
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(ok(hak_tiny_pool_alloc(&pool, 1000)));
        ok(hak_tiny_pool_alloc(&pool, 700));
    }
    for (void *p : blocks) {
        hak_tiny_pool_free(&pool, p);
    }
    hak_tiny_pool_trim(&pool);
    hak_tiny_pool_destroy(&pool);
}

/* Blocks that libc serves, since the system refuses memory. */
void libcs_blocks(size_t n)
{
    uint64_t before = hak_options.ld_safe;
    std::vector<void *> blocks;
    blocks.push_back(ok(hak_malloc(100))); /* with metadata for the table */
    hak_options.ld_safe = 1;
    hak_limit_set(0, 1);
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(ok(hak_malloc(50000)));
    }
    free_shuffled(blocks);
    hak_limit_set(0, 0);
    hak_options.ld_safe = before;
}

constexpr size_t kListed = 200;

/* All of `n` threads live at once, with full caches and blocks of their neighbours; a fork, and
   they end. */
void many_threads(size_t n)
{
    std::vector<std::vector<void *>> blocks(n);
    std::vector<std::thread> threads;
    pthread_barrier_t filled, forked;
    pthread_barrier_init(&filled, nullptr, static_cast<unsigned>(n) + 1);
    pthread_barrier_init(&forked, nullptr, static_cast<unsigned>(n) + 1);
    for (size_t t = 0; t < n; t++) {
        threads.emplace_back([&, t] {
            for (size_t size : {size_t{16}, size_t{256}, size_t{1000}, size_t{3000}}) {
                free_all(blocks_of(200, size));
            }
            blocks[t] = blocks_of(500, kListed);
            pthread_barrier_wait(&filled);
            pthread_barrier_wait(&forked);
            free_all(blocks[(t + 1) % n]);
        });
    }
    pthread_barrier_wait(&filled);
    pid_t child = fork();
    if (child == 0) {
        call_each_function();
        rest_and_change_threads();
        *of_child = worst_now();
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    pthread_barrier_wait(&forked);
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* One thread ends, and leaves `n` slabs with free blocks; others take them over. */
void orphaned_slabs(size_t n)
{
    std::vector<void *> kept;
    std::thread([&] {
        std::vector<void *> blocks = blocks_of(n * 13, 5000);
        kept = every_other(&blocks);
        free_all(blocks);
    }).join();
    std::vector<void *> taken;
    std::thread([&] { taken = blocks_of(n, 5000); }).join();
    free_all(kept);
    free_all(taken);
}

/* A sender that frees what a sleeping thread owns. */
void sleeping_owner(size_t n)
{
    std::vector<void *> blocks = blocks_of(n, 1000);
    std::thread([&blocks] { free_all(blocks); }).join();
}

/* How long the list of a class is that an ending thread puts back is chance: at most a bin and its
   spare, one step a block. */
constexpr uint32_t kStepsOfLists = 2 * 128 * kKib / kListed;

struct Row {
    const char *name;
    void (*run)(size_t n);
    size_t small;
    uint32_t by_chance = 0; /* steps that one run may take more than another */
};

const Row rows[] = {
    {"backlog_slabs", backlog_slabs, 1600},
    {"backlog_spans", backlog_spans, 1000},
    {"backlog_ranges", backlog_ranges, 30},
    {"refused_madvise", refused_madvise, 1000},
    {"refused_munmap", refused_munmap, 60},
    {"refused_mmap", refused_mmap, 60},
    {"aligned_holes", aligned_holes, 4000},
    {"own_heaps", own_heaps, 800},
    {"large_heap", large_heap, 800},
    {"large_blocks_of_a_heap", large_blocks_of_a_heap, 4000},
    {"one_exbibyte", one_exbibyte, 800},
    {"cached_ranges", cached_ranges, 60},
    {"creep", creep, 100},
    {"trim_partial", trim_partial, 6300},
    {"cold_slabs", cold_slabs, 3000},
    {"lists_of_mid_blocks", lists_of_mid_blocks, 8000},
    {"pool_alone", pool_alone, 3000},
    {"libcs_blocks", libcs_blocks, 3000},
    {"many_threads", many_threads, 12, kStepsOfLists},
    {"orphaned_slabs", orphaned_slabs, 100},
    {"sleeping_owner", sleeping_owner, 1000},
};

class Holds : public testing::TestWithParam<Row>
{
  protected:
    void SetUp() override
    {
        of_child = static_cast<Worst *>(mmap(nullptr, sizeof *of_child, PROT_READ | PROT_WRITE,
                                             MAP_SHARED | MAP_ANONYMOUS, -1, 0));
        ASSERT_NE(of_child, MAP_FAILED);
    }
    void TearDown() override
    {
        munmap(of_child, sizeof *of_child);
    }
};

Worst run(const Row &row, size_t n)
{
    FailingOs os;
    FakeClock clock;
    the_os = &os;
    the_clock = &clock;
    (void)hak_purge();
    hak_lock_forget_worst();
    *of_child = worst_now();
    row.run(n);
    end_of_row();
    EXPECT_EQ(hak_verify(), 0);
    return worst_with_child();
}

std::string text_of(const struct lock_worst &worst)
{
    return std::to_string(worst.steps) + " steps in " +
           (worst.steps_in ? worst.steps_in : "no function") + ", " +
           std::to_string(worst.system_calls) + " system calls, the last " +
           (worst.system_call ? worst.system_call : "none");
}

TEST_P(Holds, NoSystemCallAndNoMoreStepsInALargerHeap)
{
    const Row &row = GetParam();
    Worst small = run(row, row.small), large = run(row, 10 * row.small);
    for (uint32_t i = 1; i < LOCK_N_RANKS; i++) {
        const struct lock_worst &a = small.of[i], &b = large.of[i];
        std::string text = ": " + text_of(a) + "; ten times as large: " + text_of(b);
        if (hak_lock_rank_rows[i].malloc_waits) {
            EXPECT_EQ(a.system_calls + b.system_calls, 0u) << hak_lock_rank_rows[i].name << text;
            EXPECT_LE(b.steps, hak_lock_rank_rows[i].most_steps)
                << hak_lock_rank_rows[i].name << text;
            /* The units of one superslab may come on top of those of another. */
            EXPECT_LE(b.steps, a.steps + std::max({a.steps / 2, 32u, row.by_chance}))
                << hak_lock_rank_rows[i].name << text;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(, Holds, testing::ValuesIn(rows),
                         [](const auto &row) { return std::string(row.param.name); });

} // namespace

#endif
