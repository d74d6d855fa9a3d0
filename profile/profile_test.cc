/* Tests of the heap profile: blocks of all kinds while each or some are sampled, what the profile
   says of them, forks, threads that end, refusals, and the estimates against what is known. */
#include "profile/profile.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/size_classes.h"
#include "hakmem/hakmem.h"
#include "hakmem/profile_layout.h"
#include "profile/meter.h"
#include "profile/sample.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

struct Row {
    std::map<std::string, uint64_t> numbers;
    std::vector<uintptr_t> stack;
    std::string tid;
};

struct Profile {
    std::map<std::string, std::string> head;
    std::vector<Row> rows;
    std::vector<std::string> maps, points;
    bool is_whole = false;
};

Profile parse(const std::string &text)
{
    Profile profile;
    std::istringstream lines(text);
    std::string line;
    std::vector<std::string> fields;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string word, field;
        words >> word;
        if (word == "fields") {
            while (words >> field) {
                fields.push_back(field);
            }
        } else if (word == "stack") {
            Row row;
            for (const std::string &name : fields) {
                words >> row.numbers[name];
            }
            while (words >> field && field != ":") {
                row.tid = field;
            }
            while (words >> field) {
                row.stack.push_back(std::stoull(field, nullptr, 16));
            }
            profile.rows.push_back(row);
        } else if (word == "map") {
            profile.maps.push_back(line);
        } else if (word == "point") {
            profile.points.push_back(line);
        } else if (word == "end") {
            profile.is_whole = true;
        } else {
            profile.head[word] = line.substr(std::min(line.size(), word.size() + 1));
        }
    }
    return profile;
}

Profile written()
{
    int fd = memfd_create("profile", 0);
    EXPECT_EQ(hak_profile_write(fd), 0);
    std::string text(size_t(lseek(fd, 0, SEEK_END)), 0);
    EXPECT_EQ(pread(fd, &text[0], text.size(), 0), ssize_t(text.size()));
    close(fd);
    return parse(text);
}

uint64_t total(const Profile &profile, const char *field)
{
    uint64_t sum = 0;
    for (const Row &row : profile.rows) {
        sum += row.numbers.at(field);
    }
    return sum;
}

/* Samples while it lives: by default as often as the period says. */
class Sampling
{
  public:
    explicit Sampling(size_t period)
    {
        hak_profile_rate = 0;
        EXPECT_EQ(hak_profile_start(period), 0);
    }
    ~Sampling()
    {
        hak_profile_stop();
    }
};

uint64_t n_samples()
{
    return hak_profile_n_samples;
}

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

bool is_within(uintptr_t address, const void *function)
{
    return address - uintptr_t(function) < 256;
}

/* All rows of the function, whichever line called it, as one. */
std::map<std::string, uint64_t> sum_of(const Profile &profile, void *(*function)(size_t))
{
    std::map<std::string, uint64_t> sum;
    for (const Row &row : profile.rows) {
        for (size_t i = 0; i < row.stack.size() && i < 4; i++) {
            if (is_within(row.stack[i], reinterpret_cast<void *>(function))) {
                for (auto &number : row.numbers) {
                    sum[number.first] += number.second;
                }
                break;
            }
        }
    }
    return sum;
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
            if (!HAK_SECURE) { /* its layer asks for realloc itself */
                EXPECT_TRUE(is_counted_once(hak_realloc(small, 4000)));
                EXPECT_TRUE(is_counted_once(hak_rezalloc(small, 4000)));
            }
            EXPECT_TRUE(is_counted_once(hak_malloc(8 << 20)));
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

/* --- threads, forks, libraries --- */

void churn(unsigned seed, const std::atomic<bool> *is_over, size_t most)
{
    Rng rng(seed);
    std::vector<std::pair<char *, size_t>> blocks(64);
    for (size_t n = 0; n < most && !*is_over; n++) {
        auto &block = blocks[rng.next() % blocks.size()];
        if (block.first && !is_filled(block.first, block.second, int(block.second))) {
            ADD_FAILURE() << "a block was written to";
        }
        hak_free(block.first);
        block.second = rng.next() % (n % 100 ? 2000 : 100000);
        block.first = static_cast<char *>(hak_malloc(block.second));
        fill(block.first, block.second, int(block.second));
    }
    for (auto &block : blocks) {
        hak_free(block.first);
    }
}

TEST(Profile, ThreadsThatEnd)
{
    uint64_t before = n_samples();
    Sampling sampling(3000);
    std::atomic<bool> is_over(false);
    std::vector<void *> left(200);
    for (int round = 0; round < 20; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 8; i++) {
            threads.emplace_back([&, i] {
                churn(unsigned(round * 8 + i), &is_over, 2000);
                left[size_t(round * 8 + i)] = hak_malloc(5000); /* for another to free */
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    }
    for (void *block : left) {
        hak_free(block);
    }
    EXPECT_EQ(n_samples(), before);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Profile, BlocksFreedByOtherThreadsWhileItIsSwitched)
{
    uint64_t before = n_samples();
    std::atomic<bool> is_over(false);
    std::atomic<char *> handed[32] = {};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; i++) {
        threads.emplace_back([&, i] {
            Rng rng(i);
            while (!is_over) {
                size_t size = 1 + rng.next() % 3000;
                char *p = static_cast<char *>(hak_malloc(size));
                p[0] = 42;
                char *other = handed[rng.next() % 32].exchange(p);
                if (other && other[0] != 42) {
                    ADD_FAILURE() << "a block was written to";
                }
                hak_free(other);
            }
        });
    }
    for (int i = 0; i < 150; i++) {
        hak_profile_start(size_t(100) << i % 8);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (i % 10 == 0) {
            (void)written();
        }
        hak_profile_stop();
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (auto &block : handed) {
        hak_free(block);
    }
    EXPECT_EQ(n_samples(), before);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Profile, AForkedChildSamplesAndWrites)
{
    Sampling sampling(500);
    std::atomic<bool> is_over(false);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; i++) {
        threads.emplace_back([&, i] { churn(i, &is_over, SIZE_MAX); });
    }
    threads.emplace_back([&] {
        while (!is_over) {
            int null = open("/dev/null", O_WRONLY);
            (void)hak_profile_write(null);
            close(null);
        }
    });
    for (int i = 0; i < 15; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            std::atomic<bool> never(false);
            churn(7, &never, 3000);
            int null = open("/dev/null", O_WRONLY);
            _exit(hak_profile_write(null) != 0 || hak_verify() != 0);
        }
        int status;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

TEST(Profile, LibrariesAreLoadedMeanwhile)
{
    Sampling sampling(500);
    std::atomic<bool> is_over(false);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 2; i++) {
        threads.emplace_back([&, i] { churn(i, &is_over, SIZE_MAX); });
    }
    threads.emplace_back([&] {
        while (!is_over) {
            (void)written();
        }
    });
    for (int i = 0; i < 100; i++) {
        void *library = dlopen(i % 2 ? "libBrokenLocale.so.1" : "libanl.so.1", RTLD_NOW);
        if (library) {
            dlclose(library);
        }
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* --- accuracy --- */

template <int number> __attribute__((noinline, aligned(256))) void *known_site(size_t size)
{
    void *p = hak_malloc(size);
    __asm__ volatile("" : "+r"(p) : "i"(number));
    return p;
}

struct Known {
    void *(*site)(size_t size);
    size_t size, n;
};

/* The variance of the estimate of n live blocks of `size` bytes (meter.h). */
double sigma_of(const Known &known, size_t period, size_t usable)
{
    double p = -std::expm1(-double(usable) / double(period));
    return double(usable) * std::sqrt(double(known.n) * (1 - p) / p);
}

/* 100 seeds: each site's estimate of its live bytes lies within 2.58 standard deviations, where 99
   of 100 must lie, in 95 runs at least; and the mean of all has no bias. */
TEST(Profile, EstimatesLieWhereTheVarianceSays)
{
    const Known known[] = {{known_site<0>, 24, 40000},
                           {known_site<1>, 200, 5000},
                           {known_site<2>, 1000, 2000},
                           {known_site<3>, 6000, 300},
                           {known_site<4>, 50000, 30}};
    const size_t n_known = sizeof known / sizeof known[0], period = 32768;
    size_t within[n_known] = {}, usable[n_known] = {};
    double sum[n_known] = {};
    for (uint64_t seed = 1; seed <= 100; seed++) {
        /* A thread of its own has the seed. */
        std::thread([&] {
            hak_profile_set_seed(seed);
            Sampling sampling(period);
            std::vector<void *> blocks;
            Rng rng(seed);
            size_t left[n_known], n_left = 0;
            for (size_t i = 0; i < n_known; i++) {
                n_left += left[i] = known[i].n;
            }
            /* In turns, with blocks between that are freed again. */
            while (n_left) {
                size_t i = rng.next() % n_known;
                if (left[i]) {
                    size_t n = std::min(left[i], 1 + known[i].n / 50);
                    for (size_t j = 0; j < n; j++) {
                        void *other = known[i].site(known[i].size);
                        blocks.push_back(known[i].site(known[i].size));
                        hak_free(other);
                        usable[i] = (known[i].size + 15) / 16 * 16;
                    }
                    left[i] -= n;
                    n_left -= n;
                }
            }
            Profile profile = written();
            for (size_t i = 0; i < n_known; i++) {
                double estimate = double(sum_of(profile, known[i].site)["live_bytes"]);
                size_t size = known[i].size <= SC_SMALL_MAX
                                  ? hak_sc_table[hak_sc_of(known[i].size)].size
                                  : hak_usable_size(blocks.back());
                if (known[i].size > SC_SMALL_MAX) {
                    void *p = hak_malloc(known[i].size);
                    size = hak_usable_size(p);
                    hak_free(p);
                }
                usable[i] = size;
                double error = estimate - double(size * known[i].n);
                within[i] += std::fabs(error) <= 2.58 * sigma_of(known[i], period, size);
                sum[i] += error;
            }
            for (void *block : blocks) {
                hak_free(block);
            }
        }).join();
    }
    for (size_t i = 0; i < n_known; i++) {
        EXPECT_GE(within[i], 95u) << known[i].size;
        EXPECT_LE(std::fabs(sum[i] / 100), 0.35 * sigma_of(known[i], period, usable[i]))
            << known[i].size;
    }
}

/* --- who asks from outside --- */

uint64_t fake_ns;
uint64_t fake_clock()
{
    return fake_ns;
}

extern "C" struct hak_profile_layout hak_profile_layout HAK_HIDDEN;

/* As `hakmem profile PID` writes it. */
void ask(uint32_t what, uint32_t epoch = hak_theap_epoch, uint64_t lease_ms = 3600000,
         size_t period = 64)
{
    struct hak_profile_control *control = hak_profile_layout.control;
    control->period = period;
    control->lease_ms = lease_ms;
    control->epoch = epoch;
    atomic_store_release(hak_profile_layout.request, what);
}

/* Takes memory until the request is gone. Returns 1 if it was answered, with *error. */
int allocate_until_heard(int *error)
{
    struct hak_profile_control *control = hak_profile_layout.control;
    uint32_t before = control->n_answers;
    std::vector<void *> blocks;
    while (atomic_load_acquire(hak_profile_layout.request) && blocks.size() < 100000) {
        blocks.push_back(hak_malloc(500));
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    EXPECT_EQ(*hak_profile_layout.request, uint32_t(PROFILE_ASK_NOTHING));
    *error = control->error;
    return control->n_answers != before;
}

TEST(ProfileAsked, TheLayoutIsWhereItSays)
{
    const struct hak_profile_layout &layout = hak_profile_layout;
    EXPECT_EQ(memcmp(layout.magic, PROFILE_LAYOUT_MAGIC, 16), 0);
    EXPECT_EQ(layout.self, &layout);
    EXPECT_EQ(uintptr_t(&layout) % 64, 0u);
    EXPECT_EQ(layout.bytes, sizeof layout);
}

TEST(ProfileAsked, OnAndOff)
{
    int error = -1;
    ask(PROFILE_ASK_ON);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    ask(PROFILE_ASK_ON); /* once more: a longer lease */
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
    ask(PROFILE_ASK_OFF);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
    EXPECT_EQ(*hak_profile_layout.period, 0u);
    ask(PROFILE_ASK_OFF);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(error, 0);
}

TEST(ProfileAsked, LargeBlocksHearItToo)
{
    ask(PROFILE_ASK_ON);
    std::vector<void *> blocks;
    for (int i = 0; i < 1000 && *hak_profile_layout.request; i++) {
        blocks.push_back(hak_malloc(3000000));
    }
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    for (void *p : blocks) {
        hak_free(p);
    }
    hak_profile_stop();
    int error;
    ask(PROFILE_ASK_OFF);
    EXPECT_TRUE(allocate_until_heard(&error));
}

TEST(ProfileAsked, TheProgramsOwnIsNotTheAskers)
{
    Sampling sampling(128);
    int error = 0;
    for (uint32_t what : {uint32_t(PROFILE_ASK_ON), uint32_t(PROFILE_ASK_OFF)}) {
        ask(what);
        ASSERT_TRUE(allocate_until_heard(&error));
        EXPECT_EQ(error, EBUSY);
        EXPECT_EQ(*hak_profile_layout.period, 128u);
    }
}

TEST(ProfileAsked, ALeaseEnds)
{
    struct hak_os_ops before = hak_os_ops;
    fake_ns = before.clock_ns();
    hak_os_ops.clock_ns = fake_clock;
    int error = -1;
    ask(PROFILE_ASK_ON, hak_theap_epoch, 1000);
    ASSERT_TRUE(allocate_until_heard(&error));
    fake_ns += UINT64_C(999000000);
    for (int i = 0; i < 1000; i++) {
        hak_free(hak_malloc(100));
    }
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    fake_ns += UINT64_C(2000000);
    for (int i = 0; i < 1000; i++) {
        hak_free(hak_malloc(100));
    }
    EXPECT_EQ(*hak_profile_layout.period, 0u);
    hak_os_ops.clock_ns = before.clock_ns;
}

TEST(ProfileAsked, AnotherProcesssRequestIsPassedBy)
{
    int error;
    ask(PROFILE_ASK_ON, hak_theap_epoch - 1);
    EXPECT_FALSE(allocate_until_heard(&error));
    EXPECT_EQ(*hak_profile_layout.period, 0u);
}

TEST(ProfileAsked, AForkedChildEndsWhatWasAskedOfItsParent)
{
    int error = -1;
    ask(PROFILE_ASK_ON);
    ASSERT_TRUE(allocate_until_heard(&error));
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 1000; i++) {
            hak_free(hak_malloc(100));
        }
        _exit(*hak_profile_layout.period == 0 ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(*hak_profile_layout.period, 64u);
    ask(PROFILE_ASK_OFF);
    ASSERT_TRUE(allocate_until_heard(&error));
    EXPECT_EQ(*hak_profile_layout.period, 0u);
}

/* Threads allocate, and one of them hears; others are switched with it. */
TEST(ProfileAsked, ByThreads)
{
    hak_profile_rate = PROFILE_RATE;
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 3; i++) {
        threads.emplace_back([&, i] {
            Rng rng(i);
            std::vector<void *> blocks(200);
            while (!is_over) {
                void *&block = blocks[rng.next() % blocks.size()];
                hak_free(block);
                block = hak_malloc(rng.next() % 5000);
            }
            for (void *block : blocks) {
                hak_free(block);
            }
        });
    }
    for (int i = 0; i < 10; i++) {
        uint32_t before = atomic_load_acquire(&hak_profile_layout.control->n_answers);
        ask(i % 2 ? PROFILE_ASK_OFF : PROFILE_ASK_ON, hak_theap_epoch, 3600000, 65536);
        int error;
        (void)allocate_until_heard(&error);
        while (atomic_load_acquire(&hak_profile_layout.control->n_answers) == before) {
            std::this_thread::yield();
        }
        EXPECT_EQ(hak_profile_layout.control->error, 0);
        EXPECT_EQ(*hak_profile_layout.period, i % 2 ? 0u : 65536u);
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* --- as many samples as a thread may take --- */

/* What is allocated in a round: bytes, as the estimates count them. */
uint64_t allocate_a_round(Rng &rng)
{
    uint64_t bytes = 0;
    std::vector<void *> blocks;
    for (size_t i = 0; i < 60; i++) {
        size_t size = i ? 16 + rng.next() % (i % 3 ? 100 : 2000) : 40000;
        void *p = known_site<9>(size);
        bytes += size <= SC_SMALL_MAX ? hak_sc_table[hak_sc_of(size)].size : hak_usable_size(p);
        blocks.push_back(p);
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    return bytes;
}

/* A thread that samples too often does so with a longer period, and later with the asked one again;
   over 200 seeds the estimate of what it allocated has no bias, and the samples are few. */
TEST(Profile, ThinnedSamplesStayUnbiased)
{
    const int n_seeds = 200;
    const uint64_t rate = 100;
    struct hak_os_ops before = hak_os_ops;
    fake_ns = before.clock_ns();
    hak_os_ops.clock_ns = fake_clock;
    double sum = 0, squares = 0, expected = 0;
    uint64_t n_thinned = 0, n_back = 0, seen = 0;
    for (int seed = 1; seed <= n_seeds; seed++) {
        std::thread([&] {
            hak_profile_set_seed(uint64_t(seed));
            Sampling sampling(512);
            hak_profile_limit = {rate, PROFILE_BURST};
            Rng rng{uint64_t(seed)};
            uint64_t bytes = 0;
            for (int round = 0; round < 60; round++) {
                bytes += allocate_a_round(rng);
                if (round == 29) {
                    n_thinned += hak_theap_own->meter_budget.shift >= 2;
                }
                fake_ns += round < 30 ? 0 : UINT64_C(1000000000);
            }
            n_back += hak_theap_own->meter_budget.shift == 0;
            uint64_t allocated = sum_of(written(), known_site<9>)["allocated_bytes"];
            double error = double(allocated - seen) - double(bytes);
            seen = allocated;
            sum += error;
            squares += error * error;
            expected += double(bytes);
        }).join();
    }
    hak_os_ops.clock_ns = before.clock_ns;
    EXPECT_EQ(n_thinned, uint64_t(n_seeds));
    EXPECT_EQ(n_back, uint64_t(n_seeds));
    double deviation = std::sqrt(squares / n_seeds);
    EXPECT_GT(deviation, 0);
    EXPECT_LT(deviation, 0.2 * expected / n_seeds);
    /* Four standard errors of the mean. */
    EXPECT_LT(std::fabs(sum / n_seeds), 4 * deviation / std::sqrt(n_seeds));
}

} // namespace
