/* Tests of the heap profile: blocks of all kinds while each or some are sampled, what the profile
   says of them, and refusals. */
#include "profile/profile.h"

#include <atomic>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/size_classes.h"
#include "hakmem/hakmem.h"
#include "profile/meter.h"
#include "profile/profile_testing.h"
#include "profile/sample.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using namespace profile_testing;
using hak_testing::Rng;
using hak_testing::total;

/* First: the process has not sampled yet. */
TEST(AProfile, IsNoneBeforeItIsStarted)
{
    EXPECT_EQ(hak_profile_write(1), EINVAL);
    EXPECT_EQ(hak_profile_start(SIZE_MAX), EINVAL);
    EXPECT_EQ(hak_profile_write(1), EINVAL);
    hak_profile_stop();
    EXPECT_EQ(hak_profile_write(1), EINVAL);
}

/* --- what is written: before others, since the peak is the process's --- */

__attribute__((noinline, aligned(256))) void *site_of(size_t size)
{
    void *p = hak_malloc(size);
    __asm__ volatile("" : "+r"(p));
    return p;
}

TEST(AProfile, SaysWhatIsLiveWasAllocatedAndWasThePeak)
{
    Sampling sampling(1);
    std::vector<void *> blocks;
    for (int i = 0; i < 300; i++) {
        blocks.push_back(site_of(1024));
    }
    for (int i = 0; i < 200; i++) {
        hak_free(blocks[i]);
    }
    for (int i = 0; i < 50; i++) {
        blocks[i] = site_of(1024);
    }
    Profile profile = written();
    EXPECT_TRUE(profile.is_whole);
    EXPECT_EQ(profile.head["hakmem-profile"], "1");
    EXPECT_EQ(profile.head["pid"], std::to_string(getpid()));
    EXPECT_EQ(profile.head["reason"], "api");
    EXPECT_EQ(profile.head["period"], "1");
    EXPECT_NE(profile.head["program"].find("profile_test"), std::string::npos);
    EXPECT_GE(std::stoull(profile.head["live_bytes"]), 150u * 1024);
    EXPECT_FALSE(profile.points.empty());
    EXPECT_FALSE(profile.maps.empty());
    auto row = sum_of(profile, site_of);
    EXPECT_EQ(total(profile, "live_bytes"), row["live_bytes"]);
    EXPECT_EQ(row["live_objects"], 150u);
    EXPECT_EQ(row["live_bytes"], 150u * 1024);
    EXPECT_EQ(row["allocated_objects"], 350u);
    EXPECT_EQ(row["allocated_bytes"], 350u * 1024);
    EXPECT_EQ(row["peak_objects"], 300u);
    EXPECT_EQ(row["freed_objects"], 200u);
    EXPECT_EQ(profile.rows[0].tid, "");
    for (int i = 0; i < 50; i++) {
        hak_free(blocks[i]);
    }
    for (int i = 200; i < 300; i++) {
        hak_free(blocks[i]);
    }
    profile = written();
    row = sum_of(profile, site_of);
    EXPECT_EQ(row["live_objects"], 0u);
    EXPECT_EQ(row["peak_objects"], 300u);
}

/* --- blocks --- */

void fill(void *p, size_t size, int seed)
{
    memset(p, seed & 0xff, size);
}

bool is_filled(const void *p, size_t size, int seed)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    for (size_t i = 0; i < size; i++) {
        if (at[i] != (seed & 0xff)) {
            return false;
        }
    }
    return true;
}

const size_t kSizes[] = {0,      1,     15,    16,    17,    31,    32,     100,     128,
                         129,    500,   1024,  1025,  4096,  8192,  8193,   16384,   30000,
                         32752,  32753, 32768, 32769, 40000, 65536, 200000, 1 << 20, (1 << 20) + 1,
                         5 << 20};

TEST(Profile, EveryBlockOfEachKindMayBeSampled)
{
    for (size_t period : {1, 700, 20000}) {
        uint64_t before = n_samples();
        {
            Sampling sampling(period);
            for (size_t size : kSizes) {
                for (int i = 0; i < 20; i++) {
                    char *p = static_cast<char *>(hak_malloc(size));
                    ASSERT_TRUE(p);
                    ASSERT_GE(hak_usable_size(p), size);
                    EXPECT_EQ(uintptr_t(p) % 16, 0u);
                    EXPECT_TRUE(hak_owns(p));
                    fill(p, HAK_SECURE ? size : hak_usable_size(p), 0xa5);
                    hak_free(p);
                    p = static_cast<char *>(hak_calloc(1, size));
                    ASSERT_TRUE(p);
                    EXPECT_TRUE(is_filled(p, hak_usable_size(p), 0));
                    fill(p, size, 1);
                    hak_free_sized(p, size);
                    for (size_t alignment : {32, 64, 4096, 65536}) {
                        p = static_cast<char *>(hak_aligned_alloc(alignment, size));
                        ASSERT_TRUE(p);
                        EXPECT_EQ(uintptr_t(p) % alignment, 0u);
                        fill(p, size, 2);
                        hak_free_aligned_sized(p, alignment, size);
                    }
                    struct hak_sized_block block = hak_malloc_at_least(size);
                    fill(block.block, block.size, 3);
                    hak_free(block.block);
                }
            }
        }
        EXPECT_EQ(n_samples(), before);
        EXPECT_EQ(hak_verify(), 0);
    }
}

TEST(Profile, ReallocKeepsWhatBlocksHold)
{
    for (size_t period : {1, 900, 50000}) {
        uint64_t before = n_samples();
        {
            Sampling sampling(period);
            Rng rng(period);
            for (int round = 0; round < 60; round++) {
                char *p = nullptr;
                size_t size = 0;
                for (int i = 0; i < 20; i++) {
                    size_t next = rng.next() % 8 ? 1 + rng.next() % 3000
                                                 : kSizes[rng.next() % (sizeof kSizes / 8)] + 1;
                    char *q = static_cast<char *>(hak_realloc(p, next));
                    ASSERT_TRUE(q);
                    ASSERT_TRUE(is_filled(q, std::min(size, next), round)) << size << " " << next;
                    fill(q, next, round);
                    p = q;
                    size = next;
                }
                EXPECT_EQ(hak_realloc(p, 0), nullptr);
                p = static_cast<char *>(hak_calloc(1, 10));
                for (size_t next : {100, 1000, 20000, 100000, 50}) {
                    size_t had = hak_usable_size(p);
                    p = static_cast<char *>(hak_rezalloc(p, next));
                    ASSERT_TRUE(is_filled(p, hak_usable_size(p), 0)) << had << " " << next;
                }
                hak_free(p);
            }
        }
        EXPECT_EQ(n_samples(), before);
        EXPECT_EQ(hak_verify(), 0);
    }
}

TEST(Profile, BatchesAreSampled)
{
    uint64_t before = n_samples();
    Sampling sampling(1000);
    std::vector<void *> blocks(3000);
    ASSERT_EQ(hak_malloc_batch(100, blocks.size(), blocks.data()), blocks.size());
    EXPECT_GT(n_samples(), before + 100);
    std::set<void *> distinct(blocks.begin(), blocks.end());
    EXPECT_EQ(distinct.size(), blocks.size());
    for (void *block : blocks) {
        fill(block, 100, 7);
    }
    hak_free_batch(blocks.data(), blocks.size());
    EXPECT_EQ(n_samples(), before);
}

/* Which show whether an address may be one of a sample. */
TEST(Profile, CountsOfHashesAddUpToTheSamples)
{
    Sampling sampling(500);
    std::vector<void *> blocks;
    for (size_t i = 0; i < 3000; i++) {
        blocks.push_back(hak_malloc(i % 700));
        if (i % 3 == 0) {
            hak_free(blocks[i / 2]);
            blocks[i / 2] = nullptr;
        }
    }
    uint64_t sum = 0;
    for (uint16_t count : hak_profile_counts) {
        sum += count;
    }
    EXPECT_EQ(sum, n_samples());
    EXPECT_GT(sum, 300u);
    for (void *block : blocks) {
        hak_free(block);
    }
}

/* What waits in a metered bin is no more live than what waits in another. */
TEST(Profile, StatisticsTellWhatIsLiveFromWhatIsMetered)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "it meters nothing, and what its quarantine has counts as live";
    }
    Sampling sampling(size_t{1} << 40); /* so that nothing is sampled */
    long long before = 0, after = 0;
    std::vector<void *> blocks(2000);
    ASSERT_EQ(hak_stat("live_blocks", &before), 0);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < blocks.size(); i++) {
            blocks[i] = hak_malloc(i % 600);
        }
        for (void *block : blocks) {
            hak_free(block);
        }
    }
    void *taken = hak_malloc(300); /* the rest of its list is in the metered bin */
    ASSERT_EQ(hak_stat("live_blocks", &after), 0);
    EXPECT_LE(after, before + 1);
    hak_free(taken);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Profile, HeapsOfOnesOwn)
{
    uint64_t before = n_samples();
    Sampling sampling(2000);
    struct hak_heap *heap = hak_heap_create();
    ASSERT_TRUE(heap);
    std::vector<char *> blocks;
    for (int i = 0; i < 2000; i++) {
        size_t size = size_t(i) * 37 % 50000;
        char *p = static_cast<char *>(i % 3 == 0   ? hak_heap_malloc(heap, size)
                                      : i % 3 == 1 ? hak_heap_calloc(heap, 1, size)
                                                   : hak_heap_aligned_alloc(heap, 64, size));
        ASSERT_TRUE(p);
        fill(p, size, i);
        blocks.push_back(p);
    }
    EXPECT_GT(n_samples(), before + 500);
    size_t visited = 0;
    (void)hak_heap_walk(
        heap, [](void *, size_t, void *n) { return ++*static_cast<size_t *>(n), 0; }, &visited);
    EXPECT_EQ(visited, blocks.size());
    for (int i = 0; i < 1000; i++) {
        blocks[i] = static_cast<char *>(hak_realloc(blocks[i], 5000));
        hak_free(blocks[i]);
    }
    for (int i = 1000; i < 2000; i++) {
        EXPECT_TRUE(is_filled(blocks[i], size_t(i) * 37 % 50000, i)) << i;
    }
    hak_heap_destroy(heap);
    EXPECT_EQ(n_samples(), before);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Profile, ARefusedReallocLeavesAHeapsSampleToTheHeap)
{
    uint64_t before = n_samples();
    Sampling sampling(1);
    struct hak_heap *heap = hak_heap_create();
    ASSERT_TRUE(heap);
    void *p = hak_heap_malloc(heap, 100000);
    ASSERT_TRUE(p);
    EXPECT_GT(n_samples(), before);
    EXPECT_EQ(hak_realloc(p, PTRDIFF_MAX), nullptr);
    EXPECT_GT(n_samples(), before);
    hak_heap_destroy(heap);
    EXPECT_EQ(n_samples(), before);
}

TEST(Profile, AWalkVisitsEachBlockOnceAsTheProgramKnowsIt)
{
    Sampling sampling(300);
    std::set<void *> own;
    for (int i = 0; i < 3000; i++) {
        size_t size = 1 + size_t(i) * 53 % 9000;
        own.insert(i % 5 ? hak_malloc(size) : hak_aligned_alloc(128, size));
    }
    std::multiset<void *> seen;
    (void)hak_walk(
        [](void *p, size_t, void *seen) {
            static_cast<std::multiset<void *> *>(seen)->insert(p);
            return 0;
        },
        &seen);
    for (void *p : own) {
        EXPECT_EQ(seen.count(p), 1u);
    }
    for (void *p : own) {
        hak_free(p);
    }
    size_t left = 0;
    (void)hak_walk([](void *, size_t, void *n) { return ++*static_cast<size_t *>(n), 0; }, &left);
    EXPECT_LE(left + own.size(), seen.size());
}

/* Also of a sample that lies at the start of a container that is larger than its class. */
TEST(Profile, AWalkSaysTheSizeThatTheProgramMayUse)
{
    Sampling sampling(1);
    struct hak_heap *heap = hak_heap_create();
    ASSERT_TRUE(heap);
    std::map<void *, size_t> own, seen;
    for (size_t alignment : {16, 64, 1024, 4096}) {
        for (size_t size : {100, 5000, 16000, 20000, 28000, 32000, 32700, 40000, 300000}) {
            void *p = hak_heap_aligned_alloc(heap, alignment, size);
            ASSERT_TRUE(p);
            own[p] = hak_usable_size(p);
        }
    }
    (void)hak_heap_walk(
        heap,
        [](void *p, size_t size, void *seen) {
            (*static_cast<std::map<void *, size_t> *>(seen))[p] = size;
            return 0;
        },
        &seen);
    EXPECT_EQ(seen, own);
    hak_heap_destroy(heap);
}

TEST(Profile, AfterItsEndNothingIsSampledAndAllIsFreed)
{
    uint64_t before = n_samples();
    std::vector<void *> blocks;
    {
        Sampling sampling(1);
        for (int i = 0; i < 500; i++) {
            blocks.push_back(hak_malloc(size_t(i) * 90));
        }
    }
    uint64_t sampled = n_samples();
    EXPECT_GT(sampled, before + 400);
    for (int i = 0; i < 5000; i++) {
        hak_free(hak_malloc(size_t(i)));
    }
    EXPECT_EQ(n_samples(), sampled);
    for (void *block : blocks) {
        hak_free(block);
    }
    EXPECT_EQ(n_samples(), before);
}

TEST(ProfileDeathTest, ASampledBlockFreedTwiceIsFound)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            Sampling sampling(1);
            void *p = hak_malloc(100);
            hak_free(p);
            hak_free(p);
        },
        "hakmem: .*freed");
    EXPECT_DEATH(
        {
            Sampling sampling(1);
            char *p = static_cast<char *>(hak_malloc(100));
            hak_free(p + 16);
        },
        "hakmem: .*invalid pointer freed");
}

/* Hooks want every call: the layer counts each. */
TEST(Profile, UnderHooks)
{
    uint64_t before = n_samples();
    static const struct hak_hooks hooks = {nullptr, nullptr, nullptr};
    Sampling sampling(1000);
    hak_hooks_set(&hooks);
    std::vector<void *> blocks;
    for (int i = 0; i < 5000; i++) {
        blocks.push_back(hak_malloc(100));
    }
    EXPECT_GT(n_samples(), before + 300);
    hak_hooks_set(nullptr);
    for (void *block : blocks) {
        hak_free(block);
    }
    EXPECT_EQ(n_samples(), before);
}

__attribute__((noinline, aligned(256))) void *pinning(size_t size)
{
    void *p = hak_malloc(size);
    __asm__ volatile("" : "+r"(p));
    return p;
}

/* One block in 64 stays. */
TEST(Profile, SaysWhoPinsSlabs)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "its quarantine keeps freed blocks in their slabs";
    }
    Sampling sampling(1);
    std::vector<void *> rest, few;
    for (int i = 0; i < 64 * 200; i++) {
        (i % 64 ? rest : few).push_back(i % 64 ? site_of(256) : pinning(256));
    }
    uint64_t before = sum_of(written(), pinning)["pinned_bytes"];
    for (void *block : rest) {
        hak_free(block);
    }
    hak_purge();
    Profile profile = written();
    auto row = sum_of(profile, pinning);
    EXPECT_EQ(row["live_objects"], few.size());
    /* About the 3.2 MB that all took. */
    EXPECT_LT(before, 256u * 64 * 200 / 4);
    EXPECT_GT(row["pinned_bytes"], 256u * 64 * 200 / 2);
    EXPECT_LT(row["pinned_bytes"], 256u * 64 * 200 * 2);
    for (void *block : few) {
        hak_free(block);
    }
}

TEST(Profile, TellsThreadsApartIfAsked)
{
    Sampling sampling(1);
    hak_profile_by_thread = 1;
    std::vector<std::thread> threads;
    std::atomic<int> here(0);
    for (int i = 0; i < 3; i++) {
        threads.emplace_back([&] {
            void *p = site_of(512);
            here++;
            while (here < 3) {
                std::this_thread::yield();
            }
            hak_free(p);
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    hak_profile_by_thread = 0;
    std::set<std::string> tids;
    for (const Row &row : written().rows) {
        if (!row.tid.empty()) {
            tids.insert(row.tid);
        }
    }
    EXPECT_GE(tids.size(), 3u);
}

/* --- refusals --- */

TEST(Profile, RefusalsOfTheSystem)
{
    Sampling sampling(500);
    EXPECT_EQ(hak_profile_write(-1), EBADF);
    int full = open("/dev/full", O_WRONLY);
    EXPECT_EQ(hak_profile_write(full), ENOSPC);
    close(full);
    EXPECT_EQ(hak_profile_write_file("/nonexistent/directory/file", "api"), ENOENT);
    EXPECT_EQ(hak_profile_write_file(std::string(5000, 'x').c_str(), "api"), ENAMETOOLONG);
    char folder[] = "/tmp/profile_testXXXXXX";
    ASSERT_TRUE(mkdtemp(folder));
    std::string path = std::string(folder) + "/is_a_folder";
    ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
    EXPECT_EQ(hak_profile_write_file(path.c_str(), "api"), EISDIR);
    EXPECT_NE(access((path + ".tmp").c_str(), F_OK), 0) << "what was begun is gone";
    ASSERT_EQ(rmdir(path.c_str()), 0);
    EXPECT_EQ(hak_profile_write_file(path.c_str(), "api"), 0);
    EXPECT_EQ(unlink(path.c_str()), 0);
    rmdir(folder);
}

/* One request that is refused counts as one, also where a layer or realloc asks more than once, and
   what only the profile wanted is not counted. */
TEST(Profile, ARefusedRequestIsCountedOnce)
{
    for (size_t period : {size_t{1}, size_t{1} << 40}) {
        hak_testing::in_child([period] {
            Sampling sampling(period);
            std::vector<void *> blocks;
            size_t soft, hard, committed;
            long long before = 0, after = 0;
            void *small = hak_malloc(100), *block;
            hak_limit_get(&soft, &hard, &committed);
            hak_limit_set(0, committed + (1 << 20));
            blocks.reserve(1 << 16);
            while ((block = hak_malloc(4000)) && blocks.size() < (1 << 16)) {
                blocks.push_back(block);
            }
            ASSERT_EQ(block, nullptr);
            auto is_counted_once = [&](void *refused) {
                EXPECT_EQ(hak_stat("failed_requests", &after), 0);
                bool once = !refused && after == before + 1;
                before = after;
                return once;
            };
            ASSERT_EQ(hak_stat("failed_requests", &before), 0);
            EXPECT_TRUE(is_counted_once(hak_malloc(4000)));
            EXPECT_TRUE(is_counted_once(hak_calloc(1, 4000)));
            EXPECT_TRUE(is_counted_once(hak_memalign(64, 4000)));
            EXPECT_TRUE(is_counted_once(hak_realloc(nullptr, 4000)));
            EXPECT_TRUE(is_counted_once(hak_malloc(8 << 20)));
            EXPECT_TRUE(is_counted_once(hak_realloc(small, 4000)));
            EXPECT_TRUE(is_counted_once(hak_rezalloc(small, 4000)));
            EXPECT_TRUE(is_counted_once(hak_realloc(small, 8 << 20)));
            hak_limit_set(soft, hard);
        });
    }
}

/* Every n-th mapping fails: blocks are served, and written; their samples may be missing. */
TEST(Profile, WithoutMemoryForSamplesBlocksAreServed)
{
    for (int n = 1; n < 8; n++) {
        hak_testing::in_child([n] {
            static void *(*real)(void *, size_t, int, int, int, off_t);
            static int left;
            real = hak_os_ops.mmap;
            left = n - 1;
            hak_profile_start(64);
            hak_os_ops.mmap = [](void *a, size_t s, int p, int f, int fd, off_t o) -> void * {
                size_t chunk = HAK_TINY_OR(16384, 262144);
                if (s >= chunk && s <= chunk + 8192 && left-- <= 0) {
                    errno = ENOMEM;
                    return MAP_FAILED;
                }
                return real(a, s, p, f, fd, o);
            };
            std::vector<void *> blocks;
            for (int i = 0; i < 5000; i++) {
                blocks.push_back(hak_malloc(size_t(i % 2000)));
                EXPECT_TRUE(blocks.back());
            }
            (void)hak_profile_write(open("/dev/null", O_WRONLY));
            for (void *block : blocks) {
                hak_free(block);
            }
            hak_os_ops.mmap = real;
            EXPECT_EQ(hak_verify(), 0);
        });
    }
}

/* Asked right after malloc, as by programs that count their memory: the layer knows of few. */
TEST(Profile, SizesAreThoseWithoutIt)
{
    for (size_t period : {size_t(1), size_t(2000), size_t(1) << 30}) {
        Sampling sampling(period);
        for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
            size_t size = hak_sc_table[c].size;
            std::vector<void *> blocks;
            for (int i = 0; i < 40; i++) {
                blocks.push_back(i % 3 ? hak_malloc(size) : hak_calloc(1, size));
                ASSERT_EQ(hak_usable_size(blocks.back()), size) << "just taken";
            }
            for (void *p : blocks) {
                ASSERT_EQ(hak_usable_size(p), size);
                hak_free(p);
            }
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

void ask_after_free(size_t period, int n_after, int is_purged)
{
    Sampling sampling(period);
    void *kept = hak_malloc(100), *p = hak_malloc(100);
    hak_free(p);
    for (int i = 0; i < n_after; i++) {
        (void)hak_malloc(100 * (size_t)i);
    }
    if (is_purged) {
        (void)hak_purge();
    }
    (void)hak_usable_size(p);
    hak_free(kept);
}

TEST(ProfileDeathTest, TheSizeOfAFreedBlock)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    for (size_t period : {size_t(1), size_t(1) << 30}) {
        for (int is_purged : {0, 1}) {
            EXPECT_DEATH(ask_after_free(period, is_purged, is_purged),
                         "(freed block|invalid pointer) given to malloc_usable_size");
        }
    }
}

} // namespace
