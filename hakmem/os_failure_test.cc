/* Every call of the system fails once, for each call that a scenario makes: no crash, hak_verify()
   is 0, contents are kept, and all goes on afterwards. */
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/attributes.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/parked.h"
#include "heap/theap.h"
#include "superslab/map.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using namespace hak_testing;

struct Block {
    unsigned char *p;
    size_t size;
    unsigned char pattern;
};

/* Both ends, and one byte a page: large blocks are many. */
size_t next_checked(size_t i, size_t size)
{
    return i < 64 || i + 64 >= size ? i + 1 : i + 4096 < size - 64 ? i + 4096 : size - 64;
}

void fill(const Block &block)
{
    for (size_t i = 0; i < block.size; i = next_checked(i, block.size)) {
        block.p[i] = block.pattern;
    }
}

/* Its first bytes, up to `limit`, are as they were filled. */
bool is_sound(const Block &block, size_t limit = SIZE_MAX)
{
    for (size_t i = 0; i < block.size && i < limit; i = next_checked(i, block.size)) {
        if (block.p[i] != block.pattern) {
            return false;
        }
    }
    return true;
}

/* What a scenario saw. A request may fail, but then with NULL and ENOMEM. */
struct Seen {
    size_t n_failed = 0;
    const char *wrong = nullptr;
};

void keep(std::vector<Block> *live, Seen *seen, void *p, size_t size)
{
    if (!p) {
        seen->n_failed++;
        if (errno != ENOMEM) {
            seen->wrong = "a failed request without ENOMEM";
        }
        return;
    }
    if (hak_usable_size(p) < size) {
        seen->wrong = "a block too small";
    }
    live->push_back(
        {static_cast<unsigned char *>(p), size, static_cast<unsigned char>(live->size())});
    fill(live->back());
}

void drop(std::vector<Block> *live, Seen *seen, size_t i)
{
    if (!is_sound((*live)[i])) {
        seen->wrong = "contents lost";
    }
    hak_free((*live)[i].p);
    (*live)[i] = live->back();
    live->pop_back();
}

/* Blocks of all kinds come, grow and go, here and in another thread; memory goes back to the system
   now and then. */
void scenario(Seen *seen)
{
    std::vector<Block> live;
    Rng rng(12);
    const size_t sizes[] = {50, 3000, 20000, 33000, 300000, 1100000};
    for (size_t size : sizes) {
        for (int i = 0; i < (size > 1000000 ? 2 : 3); i++) {
            errno = 0;
            keep(&live, seen, i == 0 ? hak_calloc(1, size) : hak_malloc(size), size);
        }
        errno = 0;
        keep(&live, seen, hak_aligned_alloc(size > 1000000 ? 4 << 20 : 4096, size), size);
    }
    for (size_t i = 0; i < live.size(); i += 3) {
        size_t size = live[i].size + live[i].size / 2 + rng.below(1000);
        errno = 0;
        void *p = hak_realloc(live[i].p, size);
        if (!p) {
            seen->n_failed++;
            seen->wrong = errno == ENOMEM ? seen->wrong : "a failed realloc without ENOMEM";
            continue;
        }
        live[i].p = static_cast<unsigned char *>(p);
        seen->wrong = is_sound(live[i]) ? seen->wrong : "contents lost by realloc";
        live[i].size = size;
        fill(live[i]);
    }
    std::thread([&] {
        for (int i = 0; i < 10; i++) {
            errno = 0;
            keep(&live, seen, hak_malloc(1000 + 5000 * static_cast<size_t>(i)),
                 1000 + 5000 * static_cast<size_t>(i));
        }
        while (live.size() > 12) {
            drop(&live, seen, rng.below(live.size()));
        }
    }).join();
    for (size_t i = 0; i < live.size(); i += 4) {
        size_t size = live[i].size / 3 + 1;
        errno = 0;
        void *p = hak_realloc(live[i].p, size);
        if (!p) {
            seen->wrong = "realloc that shrinks failed";
            continue;
        }
        live[i].p = static_cast<unsigned char *>(p);
        seen->wrong = is_sound(live[i], size) ? seen->wrong : "contents lost by shrinking";
        live[i].size = size;
        fill(live[i]);
    }
    (void)hak_purge();
    while (!live.empty()) {
        drop(&live, seen, live.size() - 1);
    }
}

class OsFailure : public testing::TestWithParam<OsCall>
{
  protected:
    void SetUp() override
    {
        saved_ = hak_options;
    }
    void TearDown() override
    {
        hak_options = saved_;
    }

    /* Nothing is left, nothing is broken, all is served again. */
    void expect_well(uint64_t n)
    {
        ASSERT_EQ(hak_verify(), 0) << os_call_name(GetParam()) << " " << n;
        (void)hak_purge();
        ASSERT_EQ(hak_verify(), 0) << os_call_name(GetParam()) << " " << n;
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0) << os_call_name(GetParam()) << " " << n;
        ASSERT_EQ(hak_stat_get(large_bytes), 0) << os_call_name(GetParam()) << " " << n;
    }

  private:
    struct options saved_;
};

TEST_P(OsFailure, EachCallFailsOnce)
{
    FailingOs os;
    for (uint64_t delay_ms : {0, 3600000}) {
        hak_options.purge_delay_ms = delay_ms;
        uint64_t n = 1;
        for (;; n++) {
            (void)hak_purge();
            Seen seen;
            os.fail(GetParam(), n);
            scenario(&seen);
            bool fired = os.fired();
            os.reset();
            ASSERT_EQ(seen.wrong, nullptr)
                << seen.wrong << ": " << os_call_name(GetParam()) << " " << n;
            expect_well(n);
            /* One refusal is never the end: what is kept for reuse is purged, and the system
               asked again. */
            EXPECT_LE(seen.n_failed, 1u);
            if (!fired) {
                break;
            }
        }
        RecordProperty("calls", static_cast<int>(n));
        if (GetParam() != OS_MREMAP && (GetParam() != OS_MADVISE || delay_ms == 0)) {
            EXPECT_GT(n, 2u) << "the scenario must call " << os_call_name(GetParam());
        }
    }
}

TEST_P(OsFailure, EveryCallFailsFromTheNth)
{
    FailingOs os;
    hak_options.purge_delay_ms = 0;
    for (uint64_t n = 1; n < 60; n += 3) {
        (void)hak_purge();
        Seen seen;
        os.fail(GetParam(), n, UINT64_MAX - n - 1);
        scenario(&seen);
        ASSERT_EQ(hak_verify(), 0) << n;
        bool fired = os.fired();
        os.reset();
        ASSERT_EQ(seen.wrong, nullptr)
            << seen.wrong << ": " << os_call_name(GetParam()) << " " << n;
        expect_well(n);
        Seen after;
        scenario(&after);
        ASSERT_EQ(after.wrong, nullptr) << after.wrong;
        ASSERT_EQ(after.n_failed, 0u) << n;
        expect_well(n);
        if (GetParam() == OS_MMAP && n == 1) {
            EXPECT_GT(seen.n_failed, 0u) << "nothing can be served without memory";
        } else if (GetParam() != OS_MMAP) {
            EXPECT_EQ(seen.n_failed, 0u) << "only mmap can make a request fail";
        }
        if (!fired) {
            break;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Calls, OsFailure,
                         testing::Values(OS_MMAP, OS_MUNMAP, OS_MREMAP, OS_MADVISE),
                         [](const testing::TestParamInfo<OsCall> &call) {
                             return os_call_name(call.param);
                         });

/* The system is asked before the pointer map grows: a request beyond all measure costs nothing that
   stays. */
TEST(Realloc, AFailedOneMapsNothing)
{
    for (size_t size : {size_t(2) << 20, size_t(100000)}) {
        void *p = hak_malloc(size);
        (void)hak_purge();
        FailingOs os;
        for (size_t too_much :
             {size_t(1) << 46, size_t(1) << 47, size_t(1) << 48, size_t(PTRDIFF_MAX) / 2}) {
            EXPECT_EQ(hak_realloc(p, too_much), nullptr);
            EXPECT_LE(os.mapped_bytes(), 0) << too_much;
        }
        hak_free(p);
    }
}

int n_moved, n_still_ours;

void *watch_mremap(void *old_addr, size_t old_size, size_t new_size, int flags, void *new_addr)
{
    if (flags & MREMAP_FIXED) {
        n_moved++;
        n_still_ours += hak_owns(old_addr);
    }
    return hak_os_real_ops.mremap(old_addr, old_size, new_size, flags, new_addr);
}

/* Once the pages have moved, another thread may get the old addresses: the pointer map must have
   let go of them before. */
TEST(Realloc, AMoveLeavesThePointerMapFirst)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "large blocks are copied";
    }
    std::vector<void *> blocks;
    hak_os_ops.mremap = watch_mremap;
    for (size_t size = size_t(2) << 20; size < size_t(20) << 20; size += size_t(1) << 20) {
        for (void *&p : blocks) {
            p = hak_realloc(p, size);
        }
        blocks.push_back(hak_malloc(size));
    }
    hak_os_ops.mremap = hak_os_real_ops.mremap;
    EXPECT_GT(n_moved, 0) << "this test must move blocks";
    EXPECT_EQ(n_still_ours, 0);
    for (void *p : blocks) {
        hak_free(p);
    }
}

/* Blocks where the pointer map has no leaf yet: each call of mmap fails in turn, for the block, its
   description and the leaves. */
TEST(OsFailure, TheMapHasNoMemoryForABlock)
{
    const size_t leaf = MAP_LEAF_UNITS * SC_SLAB_BYTES;
    if (leaf > size_t(1) << 30) {
        GTEST_SKIP() << "leaves of 64 GiB; in the tiny variant";
    }
    std::vector<char *> blocks;
    int n_failed = 0, n_kept = 0;
    for (uint64_t n = 1; n <= 6; n++) {
        for (bool is_realloc : {false, true}) {
            char *p = static_cast<char *>(is_realloc ? hak_malloc(2 << 20) : nullptr);
            if (p) {
                p[0] = p[(2 << 20) - 1] = 'x';
            }
            FailingOs os;
            os.fail(OS_MMAP, n, 1);
            char *q =
                static_cast<char *>(is_realloc ? hak_realloc(p, 3 * leaf) : hak_malloc(3 * leaf));
            n_failed += os.fired() && !q;
            n_kept += os.fired() && q;
            EXPECT_EQ(hak_verify(), 0) << n;
            os.reset();
            q = q ? q : p;
            if (p) {
                EXPECT_EQ(q[0], 'x');
                EXPECT_EQ(q[(2 << 20) - 1], 'x');
            }
            blocks.push_back(q); /* kept, so that the next one needs new leaves */
        }
    }
    EXPECT_GT(n_failed + n_kept, 4);
    for (char *p : blocks) {
        hak_free(p);
    }
    (void)hak_purge();
    EXPECT_EQ(hak_verify(), 0);
}

/* --- a process in which nothing was allocated yet --- */

/* Frees from the fast path on, until its bin overflows and its slabs go back: errno stays, whatever
   fails there. */
TEST(OsFailure, FreeKeepsErrnoWhenItsBinOverflows)
{
    for (OsCall call : {OS_CLOCK, OS_MADVISE, OS_MUNMAP}) {
        FailingOs os;
        std::vector<void *> blocks;
        for (size_t size : {64u, 4096u, 32768u}) {
            for (size_t i = 0; i < (8u << 20) / size; i++) {
                blocks.push_back(hak_malloc(size));
            }
        }
        hak_limit_set(1, 0); /* what is free goes back at once */
        os.fail_always(call);
        int n_changed = 0;
        for (void *p : blocks) {
            errno = 77;
            hak_free(p);
            n_changed += errno != 77;
        }
        hak_limit_set(0, 0);
        EXPECT_EQ(n_changed, 0) << os_call_name(call);
        os.reset();
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
    }
}

int first_steps(uint64_t n, bool is_thread)
{
    FailingOs os;
    os.fail(OS_MMAP, n);
    Seen seen;
    if (is_thread) {
        std::thread([&] { scenario(&seen); }).join();
    } else {
        scenario(&seen);
    }
    if (seen.wrong || hak_verify()) {
        return 1;
    }
    bool fired = os.fired();
    os.reset();
    Seen after;
    scenario(&after);
    return after.wrong || after.n_failed || hak_verify() ? 2 : fired ? 0 : 3;
}

/* There is no memory for the shared heap, which takes what threads leave, when the first thread
   ends: it must be one of theirs. */
int end_threads_without_memory()
{
    std::atomic<int> stage{0};
    std::array<std::vector<unsigned char *>, 2> left;
    hak_parked_most = 0; /* what a thread leaves goes to the shared heap at once */
    auto run = [&](size_t me) {
        for (size_t i = 0; i < 300; i++) {
            size_t size = 1 + i * 37 % 3000;
            left[me].push_back(static_cast<unsigned char *>(hak_malloc(size)));
            memset(left[me].back(), static_cast<int>(i), size);
        }
        stage++;
        while (stage < 3 + static_cast<int>(me)) {
            std::this_thread::yield();
        }
    };
    std::thread first(run, 0), second(run, 1);
    while (stage < 2) {
        std::this_thread::yield();
    }
    FailingOs os;
    os.fail_always(OS_MMAP);
    while (hak_os_meta_alloc(64)) {
    }
    stage = 3;
    first.join();
    if (hak_stat_get(orphans) != 1 || hak_verify()) {
        return 1;
    }
    stage = 4;
    second.join();
    os.reset();
    if (hak_stat_get(orphans) != 1 ||
        hak_verify()) { /* the first one's has become the shared heap */
        return 2;
    }
    for (const auto &blocks : left) {
        for (size_t i = 0; i < blocks.size(); i++) {
            if (blocks[i][0] != i % 256 || blocks[i][i * 37 % 3000] != i % 256) {
                return 3;
            }
            hak_free(blocks[i]);
        }
    }
    std::thread([&] { hak_free(hak_malloc(100)); }).join();
    (void)hak_purge();
    return hak_verify() ? 4 : hak_stat_get(heap_used_bytes) ? 5 : 0;
}

} // namespace

/* Runs before main, so that nothing has been allocated: a child for each n. */
__attribute__((constructor(65535))) static void fail_the_start()
{
    if (!getenv("HAK_TEST_FAIL_START")) {
        return;
    }
    for (int is_thread = 0; is_thread < 2; is_thread++) {
        for (uint64_t n = 1; n < 1000; n++) {
            pid_t pid = fork();
            if (pid == 0) {
                alarm(60);
                _exit(first_steps(n, is_thread));
            }
            int status = -1;
            waitpid(pid, &status, 0);
            if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 3)) {
                fprintf(stderr, "mmap %d of a new process fails: status %x\n", static_cast<int>(n),
                        status);
                _exit(1);
            }
            if (WEXITSTATUS(status) == 3) {
                fprintf(stderr, "%d calls of mmap\n", static_cast<int>(n) - 1);
                break;
            }
        }
    }
    _exit(0);
}

TEST(OsFailureDeathTest, TheFirstCallsOfAProcess)
{
    EXPECT_EXIT(
        {
            setenv("HAK_TEST_FAIL_START", "1", 1);
            execl("/proc/self/exe", "os_failure_test", nullptr);
        },
        testing::ExitedWithCode(0), "^[1-9][0-9]* calls of mmap\n[1-9][0-9]* calls of mmap\n$");
}

/* Before main: no thread has ended yet. */
__attribute__((constructor(65535))) static void end_threads_before_main()
{
    if (getenv("HAK_TEST_END_THREADS")) {
        exit(end_threads_without_memory());
    }
}

TEST(OsFailureDeathTest, WithoutMemoryTheSharedHeapIsAnOrphan)
{
    EXPECT_EXIT(
        {
            setenv("HAK_TEST_END_THREADS", "1", 1);
            execl("/proc/self/exe", "os_failure_test", nullptr);
        },
        testing::ExitedWithCode(0), "");
}
