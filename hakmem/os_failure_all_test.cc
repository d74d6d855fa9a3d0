/* Every function of the OS table fails, once and for ever, for each n that a workload of several
   threads reaches, with threads that end, forks, trimming, limits, the trace and the background
   thread: no crash, no block lost or changed, hak_verify() is 0, and all goes on afterwards. Some n
   of each function; with HAK_TEST_FULL in the environment, up to 100 of each. (os_failure_test
   looks closer at the calls that give memory.) */
#include <atomic>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/background.h"
#include "heap/theap.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using namespace hak_testing;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
const bool kMayFork = false; /* the child of several threads hangs in the sanitizer */
#else
const bool kMayFork = true;
#endif

std::atomic<const char *> wrong;

struct Block {
    unsigned char *p;
    size_t size;
};

void check(const Block &block)
{
    for (size_t i = 0; i < block.size; i += i < 64 ? 1 : 4093) {
        if (block.p[i] != (block.size & 0xFF)) {
            wrong = "contents lost";
        }
    }
}

/* Blocks of all kinds; every third is freed by whoever comes next. */
std::atomic<Block *> cells[32];

void work(uint64_t seed)
{
    Rng rng(seed);
    for (int i = 0; i < 80; i++) {
        size_t size = 1 + rng.below(rng.one_in(15) ? 3 << 20 : rng.one_in(4) ? 200000 : 3000);
        errno = 0;
        Block *block = static_cast<Block *>(hak_malloc(sizeof(Block)));
        void *p = rng.one_in(3) ? hak_calloc(1, size) : hak_malloc(size);
        if (!block || !p) {
            if (errno != ENOMEM) {
                wrong = "a failed request without ENOMEM";
            }
            hak_free(block);
            hak_free(p);
            continue;
        }
        size_t larger = size + rng.below(size + 1);
        void *grown = rng.one_in(5) ? hak_realloc(p, larger) : nullptr;
        *block = {static_cast<unsigned char *>(grown ? grown : p), grown ? larger : size};
        for (size_t k = 0; k < block->size; k += k < 64 ? 1 : 4093) {
            block->p[k] = static_cast<unsigned char>(block->size & 0xFF);
        }
        Block *old = cells[rng.below(32)].exchange(block);
        if (old) {
            check(*old);
            hak_free(old->p);
            hak_free(old);
        }
    }
}

void clear()
{
    for (std::atomic<Block *> &cell : cells) {
        Block *old = cell.exchange(nullptr);
        if (old) {
            check(*old);
            hak_free(old->p);
            hak_free(old);
        }
    }
}

/* Time passes from scenario to scenario, so that the trace is not held back. */
uint64_t skew_ns;

uint64_t skewed_clock()
{
    return hak_os_real_ops.clock_ns() + atomic_load_relaxed(&skew_ns);
}

void scenario()
{
    atomic_add_relaxed(&skew_ns, uint64_t(2000000000));
    hak_limit_read_cgroup(); /* as at the start */
    hak_limit_configure(LIMIT_AUTO, LIMIT_AUTO);
    hak_fail_start();
    std::vector<std::thread> threads;
    for (uint64_t i = 1; i <= 2; i++) {
        threads.emplace_back([i] { work(i); });
    }
    work(3);
    if (kMayFork) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            work(4);
            clear();
            _exit(hak_verify() != 0);
        }
        int status = -1;
        if (waitpid(child, &status, 0) != child || status != 0) {
            wrong = "the child";
        }
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    (void)hak_malloc(size_t(1) << 46); /* refused: traced */
    (void)hak_purge();
    hak_print_stats(2);
    clear();
}

ssize_t swallow(int, const void *, size_t size)
{
    return static_cast<ssize_t>(size);
}

class AllFailures : public testing::TestWithParam<OsCall>
{
  protected:
    /* Never restored: the background thread may outlive a test, and reads all of this. */
    static void SetUpTestSuite()
    {
        hak_free(hak_malloc(1)); /* the environment's options are read */
        hak_options.ace_trace = 1;
        hak_options.background = BACKGROUND_EAGER;
        hak_background_init();
        hak_options.purge_delay_ms = 1;
        hak_options.huge_page_bytes = 4 << 20;
        hak_os_ops.write = swallow;
        hak_os_ops.clock_ns = skewed_clock;
        os = new FailingOs;
    }
    void SetUp() override
    {
        wrong = nullptr;
        hak_background_init(); /* it is lost if its end is not seen in time */
    }
    void TearDown() override
    {
        hak_limit_configure(0, 0);
    }
    void expect_well(uint64_t n)
    {
        ASSERT_EQ(wrong.load(), nullptr)
            << wrong.load() << ": " << os_call_name(GetParam()) << " " << n;
        ASSERT_EQ(hak_verify(), 0) << os_call_name(GetParam()) << " " << n;
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0) << os_call_name(GetParam()) << " " << n;
        ASSERT_EQ(hak_stat_get(large_bytes), 0) << os_call_name(GetParam()) << " " << n;
    }

    static FailingOs *os;
};

FailingOs *AllFailures::os;

TEST_P(AllFailures, OnceAndForEver)
{
    const bool is_full = getenv("HAK_TEST_FULL") != nullptr;
    scenario();
    os->reset();
    scenario();
    uint64_t total = os->calls(GetParam());
    if (GetParam() != OS_FUTEX_WAIT && GetParam() != OS_FUTEX_WAKE &&
        GetParam() != OS_START_THREAD && GetParam() != OS_MREMAP && GetParam() != OS_WAIT_THREAD &&
        GetParam() != OS_MPROTECT && GetParam() != OS_FUTEX_WAIT_MS &&
        GetParam() != OS_PRECISE_CLOCK) {
        EXPECT_GT(total, 0u) << os_call_name(GetParam()); /* the others: at times */
    }
    for (uint64_t n = 1; n <= total; n += is_full ? 1 + total / 100 : n < 2 ? 1 : 1 + total / 2) {
        for (uint64_t more : {uint64_t(0), UINT64_MAX - n}) {
            os->fail(GetParam(), n, more);
            scenario();
            os->reset();
            expect_well(n);
            if (HasFatalFailure()) {
                return;
            }
        }
    }
    scenario();
    expect_well(0);
}

std::string name_of(const testing::TestParamInfo<OsCall> &call)
{
    return os_call_name(call.param);
}

INSTANTIATE_TEST_SUITE_P(Calls, AllFailures,
                         testing::Values(OS_MMAP, OS_MUNMAP, OS_MREMAP, OS_MADVISE, OS_WRITE,
                                         OS_OPEN, OS_READ, OS_CLOSE, OS_START_THREAD,
                                         OS_WAIT_THREAD, OS_ADDRESS_LIMIT, OS_CLOCK,
                                         OS_PRECISE_CLOCK, OS_FUTEX_WAIT, OS_FUTEX_WAIT_MS,
                                         OS_FUTEX_WAKE),
                         name_of);

} // namespace
