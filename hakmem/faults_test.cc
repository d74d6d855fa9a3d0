/* The states of the heap that bench/worst measures, in small, with the n-th call of the system
   refused, for every n that is reached: nothing is lost, everything comes back, and what was
   refused is not asked for without end. */
#include <algorithm>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "limit/limit.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::FakeClock;
using hak_testing::OsCall;
using hak_testing::Rng;

constexpr size_t kKib = 1024, kMib = 1024 * kKib;

/* In the secure variant each large block makes several calls. */
constexpr size_t less(size_t n)
{
    return HAK_SECURE ? n / 3 : n;
}

FakeClock *the_clock;

/* Blocks with their own pattern, which is looked at when they are freed; NULL is allowed. */
struct Block {
    unsigned char *p;
    size_t size;
};

int n_wrong;

void fill(const Block &block)
{
    for (size_t i = 0; block.p && i < block.size; i += i < 64 ? 1 : 4093) {
        block.p[i] = static_cast<unsigned char>(block.size + i);
    }
}

void look(const Block &block, size_t size)
{
    for (size_t i = 0; block.p && i < size; i += i < 64 ? 1 : 4093) {
        n_wrong += block.p[i] != static_cast<unsigned char>(block.size + i);
    }
}

Block make(size_t size)
{
    Block block = {static_cast<unsigned char *>(hak_malloc(size)), size};
    fill(block);
    return block;
}

void drop(Block *block)
{
    look(*block, block->size);
    hak_free(block->p);
    block->p = nullptr;
}

std::vector<Block> blocks_of(size_t n, size_t size)
{
    std::vector<Block> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(make(size));
    }
    return blocks;
}

void drop_all(std::vector<Block> blocks)
{
    for (Block &block : blocks) {
        drop(&block);
    }
}

/* What was freed falls due, and calls go on. */
void fall_due()
{
    the_clock->advance_ms(100000);
    drop_all(blocks_of(20, 100 * kKib));
    drop_all(blocks_of(100, 3000));
}

void backlog(size_t n, size_t size)
{
    std::vector<Block> blocks = blocks_of(n, size);
    for (size_t i = 0; i < n; i += 2) {
        drop(&blocks[i]);
    }
    fall_due();
    drop_all(blocks);
    fall_due();
}

void few_mappings()
{
    hak_limit_most_mappings = 4;
    backlog(16, 1200000);
    hak_limit_most_mappings = LIMIT_MAPPINGS;
}

void shrunk_buffers()
{
    std::vector<Block> blocks = blocks_of(less(8), 6 * kMib);
    for (Block &block : blocks) {
        for (size_t size : {size_t{140000}, 2 * kMib, size_t{300000}, 9 * kMib}) {
            void *p = block.p ? hak_realloc(block.p, size) : nullptr;
            if (p) {
                Block moved = {static_cast<unsigned char *>(p), block.size};
                look(moved, std::min(size, block.size));
                block = {static_cast<unsigned char *>(p), size};
                fill(block);
            }
        }
    }
    drop_all(blocks);
}

void aligned_holes()
{
    std::vector<Block> blocks = blocks_of(less(200), 40 * kKib);
    for (size_t i = 0; i < blocks.size(); i += 2) {
        drop(&blocks[i]);
    }
    for (int i = 0; i < 20; i++) {
        Block block = {static_cast<unsigned char *>(hak_aligned_alloc(16 * kKib, 40000)), 40000};
        n_wrong += reinterpret_cast<uintptr_t>(block.p) % (16 * kKib) != 0;
        fill(block);
        blocks.push_back(block);
    }
    drop_all(blocks);
}

void own_heaps()
{
    for (int i = 0; i < 20; i++) {
        struct hak_heap *heap = hak_heap_create();
        for (size_t size = 16; heap && size < 8 * kMib; size *= 5) {
            fill({static_cast<unsigned char *>(hak_heap_malloc(heap, size)), size});
        }
        if (heap) {
            (void)hak_heap_walk(
                heap, [](void *, size_t, void *) { return 0; }, nullptr);
            hak_heap_destroy(heap);
        }
    }
}

void cached_ranges()
{
    Rng rng(7);
    std::vector<Block> slots(12, Block{nullptr, 0});
    for (size_t i = 0; i < less(60); i++) {
        Block &block = slots[rng.below(slots.size())];
        drop(&block);
        block = make(kMib + rng.below(3 * kMib));
        if (i % 20 == 19) {
            fall_due();
        }
    }
    drop_all(slots);
}

void trim_partial()
{
    std::vector<Block> blocks = blocks_of(2000, 1000);
    for (size_t i = 0; i < blocks.size(); i++) {
        if (i % 63) {
            drop(&blocks[i]);
        }
    }
    (void)hak_purge();
    drop_all(blocks_of(500, 1500));
    drop_all(blocks);
}

void creep()
{
    for (int i = 0; i < 10; i++) {
        drop_all(blocks_of(3, kMib));
        (void)hak_purge();
    }
}

struct Row {
    const char *name;
    std::function<void()> run;
};

const Row rows[] = {
    {"backlog_slabs", [] { backlog(1500, 4 * kKib); }},
    {"backlog_spans", [] { backlog(60, 128000); }},
    {"backlog_ranges", [] { backlog(8, 4 * kMib); }},
    {"few_mappings", few_mappings},
    {"shrunk_buffers", shrunk_buffers},
    {"aligned_holes", aligned_holes},
    {"own_heaps", own_heaps},
    {"cached_ranges", cached_ranges},
    {"trim_partial", trim_partial},
    {"creep", creep},
};

class Faults : public testing::TestWithParam<std::tuple<size_t, OsCall>>
{
};

/* Runs the row; the n-th call is refused, or none if n is 0. Returns how many there were. */
uint64_t run(const Row &row, OsCall call, uint64_t n, bool *fired)
{
    FailingOs os;
    FakeClock clock;
    the_clock = &clock;
    if (n) {
        os.fail(call, n);
    }
    row.run();
    uint64_t n_calls = os.calls(call);
    *fired = os.fired();
    EXPECT_EQ(hak_verify(), 0);
    os.reset();
    (void)hak_purge();
    EXPECT_EQ(hak_verify(), 0);
    return n_calls;
}

TEST_P(Faults, TheNthCallIsRefused)
{
    const Row &row = rows[std::get<0>(GetParam())];
    OsCall call = std::get<1>(GetParam());
    hak_options.huge_page_bytes = 0;
    hak_free(hak_malloc(1));
    n_wrong = 0;
    bool fired;
    (void)run(row, call, 0, &fired); /* what is made once is there */
    uint64_t usual = run(row, call, 0, &fired);
    /* What lies beside what decides some calls: so until one is reached no more, and at least so
     * far. */
    fired = true;
    /* In the secure variant superslabs for slabs stay; with more of them where one call is refused,
     * since another class has its slabs then. */
    int64_t kept = hak_stat_get(superslabs), most_kept = HAK_SECURE ? 2 * kept + 4 : 0;
    for (uint64_t n = 1; fired || n <= usual; n++) {
        uint64_t n_calls = run(row, call, n, &fired);
        ASSERT_LE(n_calls, 2 * usual + 40) << "the " << n << "th";
        ASSERT_EQ(n_wrong, 0) << "the " << n << "th";
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0) << "the " << n << "th";
        ASSERT_EQ(hak_stat_get(large_bytes), 0) << "the " << n << "th";
        ASSERT_LE(hak_stat_get(superslabs), most_kept) << "the " << n << "th";
        ASSERT_EQ(hak_stat_get(large_ranges), 0) << "the " << n << "th";
        ASSERT_EQ(hak_stat_get(mapped_bytes),
                  hak_stat_get(superslabs) * static_cast<int64_t>(SS_BYTES))
            << "the " << n << "th";
        ASSERT_FALSE(HasFailure()) << "the " << n << "th";
    }
}

INSTANTIATE_TEST_SUITE_P(
    , Faults,
    testing::Combine(testing::Range(size_t{0}, std::size(rows)),
                     testing::Values(hak_testing::OS_MMAP, hak_testing::OS_MUNMAP,
                                     hak_testing::OS_MADVISE, hak_testing::OS_MREMAP,
                                     hak_testing::OS_MPROTECT)),
    [](const auto &row) {
        return std::string(rows[std::get<0>(row.param)].name) + "_" +
               hak_testing::os_call_name(std::get<1>(row.param));
    });

} // namespace
