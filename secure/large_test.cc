/* Large blocks while other threads check them, or fork, and where there are too many
   mappings. */
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "base/os.h"
#include "hakmem/hakmem.h"
#include "hakmem/walk.h"
#include "heap/gate.h"
#include "limit/limit.h"
#include "secure/body.h"
#include "secure/large.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

/* Of a fork: the gate is closed from the first system call of that kind on, until `open`. */
class Closer
{
  public:
    explicit Closer(size_t least) : before_(hak_os_ops)
    {
        wanted() = 0;
        closed() = 0;
        bytes() = least;
        previous() = before_.mprotect;
        hak_os_ops.mprotect = close_then_protect;
        thread_ = std::thread([] {
            while (wanted() == 0) {
                std::this_thread::yield();
            }
            hak_gate_close();
            closed() = 1;
            while (wanted() == 1) {
                std::this_thread::yield();
            }
            hak_gate_open();
        });
    }
    ~Closer()
    {
        hak_os_ops = before_;
        wanted() = 2;
        thread_.join();
    }
    static bool has_closed()
    {
        return closed() == 1;
    }

  private:
    static int close_then_protect(void *p, size_t size, int prot)
    {
        if (size >= bytes() && (prot & PROT_WRITE) && !hak_gate_is_inside()) {
            wanted() = 1;
            while (closed() == 0) {
                std::this_thread::yield();
            }
        }
        return previous()(p, size, prot);
    }
    static std::atomic<int> &wanted()
    {
        static std::atomic<int> value;
        return value;
    }
    static std::atomic<int> &closed()
    {
        static std::atomic<int> value;
        return value;
    }
    static size_t &bytes()
    {
        static size_t value;
        return value;
    }
    static decltype(hak_os_ops.mprotect) &previous()
    {
        static decltype(hak_os_ops.mprotect) value;
        return value;
    }

    struct hak_os_ops before_;
    std::thread thread_;
};

size_t containers()
{
    struct walk_counts counts;
    while (hak_secure_large_flush()) {
    }
    hak_walk_count(&counts);
    return counts.n_spans + counts.n_ranges;
}

TEST(SecureLarge, ABlockThatGrowsWhileAForkBeginsLosesNothing)
{
    (void)hak_malloc(1);
    size_t before = containers();
    auto *p = static_cast<unsigned char *>(hak_malloc(300000));
    memset(p, 0x5A, 300000);
    for (int i = 0; i < 100; i++) { /* until a container for it is ready */
        hak_free(hak_malloc(2900000));
    }
    {
        Closer closer(1000000);
        p = static_cast<unsigned char *>(hak_realloc(p, 1500000));
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(closer.has_closed());
    }
    for (size_t i = 0; i < 300000; i++) {
        ASSERT_EQ(p[i], 0x5A) << i;
    }
    hak_free(p);
    EXPECT_EQ(containers(), before);
    EXPECT_EQ(hak_verify(), 0);
}

void free_by_another(const std::vector<void *> &blocks)
{
    std::thread([&] {
        for (void *p : blocks) {
            hak_free(p);
        }
    }).join();
}

/* The system refuses to make the places touchable again, and no list may be changed until the
   fork is done. */
TEST(SecureLarge, BlocksThatAreFreedDuringAForkAndRefusedComeBack)
{
    (void)hak_malloc(1);
    const size_t before = containers();
    const struct hak_os_ops ops = hak_os_ops;
    std::vector<void *> blocks;
    for (size_t size : {50000u, 200000u, 3000000u, 50000u, 200000u, 3000000u}) {
        blocks.push_back(hak_malloc(size));
        ASSERT_NE(blocks.back(), nullptr);
    }
    hak_gate_close(); /* as fork does */
    hak_os_ops.mprotect = [](void *, size_t, int) { return errno = ENOMEM, -1; };
    hak_os_ops.mmap = [](void *, size_t, int, int, int, off_t) {
        return errno = ENOMEM, MAP_FAILED;
    };
    free_by_another(blocks);
    hak_os_ops = ops;
    hak_gate_open();
    EXPECT_TRUE(hak_secure_large_is_stuck());
    EXPECT_EQ(containers(), before);
    EXPECT_FALSE(hak_secure_large_is_stuck());
    EXPECT_EQ(hak_verify(), 0);
}

TEST(SecureLarge, ABlockThatBecomesAnotherSizeIsNoFalseReport)
{
    std::atomic<int> is_over{0};
    std::thread resizer([&] {
        Rng rng(1);
        void *p = hak_malloc(400000);
        while (!is_over) {
            p = hak_realloc(p, 300000 + rng.below(100000));
        }
        hak_free(p);
    });
    std::thread mover([&] {
        while (!is_over) {
            auto *p = static_cast<char *>(hak_malloc(70000));
            for (size_t size = 70000; size < 2000000; size += size / 3) {
                p = static_cast<char *>(hak_realloc(p, size));
                p[0] = 1;
            }
            hak_free(p);
        }
    });
    for (int i = 0; i < 8000; i++) {
        ASSERT_EQ(hak_verify(), 0);
    }
    is_over = 1;
    resizer.join();
    mover.join();
}

size_t mappings_now()
{
    std::ifstream maps("/proc/self/maps");
    return static_cast<size_t>(
        std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n'));
}

/* What has no guards any more: its edges are found, and it becomes another size. */
void use_bare(unsigned char *p, size_t size)
{
    EXPECT_DEATH((p[size] ^= 1, hak_free(p)), "behind its end");
    EXPECT_DEATH((p[-1] = 1, hak_free(p)), "before its start");
    memset(p, 0x5A, size);
    for (size_t now : {size * 3, size, size / 2, size * 50, size + 1}) {
        size_t kept = std::min(now, size);
        p = static_cast<unsigned char *>(hak_realloc(p, now));
        ASSERT_NE(p, nullptr);
        ASSERT_EQ(hak_usable_size(p), now);
        ASSERT_TRUE(p[0] == 0x5A && memcmp(p, p + 1, kept - 1) == 0);
        memset(p, 0x5A, now);
        size = now;
    }
    hak_free(p);
}

/* Two mappings each, until a quarter of what the process may have is left: the last blocks have no
   guards, and none is refused. What is freed leaves fewer mappings. */
TEST(SecureLarge, TooManyMappingsAreNotMade)
{
    size_t most = 0;
    std::ifstream("/proc/sys/vm/max_map_count") >> most;
    if (most < 10000 || most > 100000) {
        GTEST_SKIP() << most;
    }
    std::vector<unsigned char *> blocks;
    auto take = [&](size_t size) {
        auto *p = static_cast<unsigned char *>(hak_malloc(size));
        if (p) {
            ASSERT_TRUE(p[0] == 0 && p[size - 1] == 0);
            p[0] = p[size - 1] = 1;
            blocks.push_back(p);
        }
    };
    for (size_t i = 0; i < most / 2 + 500; i++) {
        take(40000 + i % 64);
    }
    size_t n_full = blocks.size(), n_mappings = mappings_now();
    EXPECT_EQ(n_full, most / 2 + 500);
    EXPECT_LT(n_mappings, most / 8 * 7);
    EXPECT_GT(n_mappings, most / 2);
    EXPECT_EQ(hak_verify(), 0);
    const size_t size = 40001;
    use_bare(static_cast<unsigned char *>(hak_malloc(size)), size);
    auto *bare = static_cast<unsigned char *>(hak_malloc(size));
    memset(bare, 1, size);
    hak_free(bare);
    EXPECT_TRUE(bare[0] == 0 && memcmp(bare, bare + 1, size - 1) == 0);
    for (size_t i = 0; i < n_full; i += 2) {
        hak_free(blocks[i]);
        blocks[i] = nullptr;
    }
    for (size_t i = 0; i < n_full / 2; i++) {
        take(40000 + i * 7 % 4096);
    }
    for (unsigned char *p : blocks) {
        hak_free(p);
    }
    while (hak_secure_large_flush()) {
    }
    EXPECT_LT(mappings_now(), most / 2);
    void *p = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    munmap(p, 4096);
    EXPECT_EQ(hak_verify(), 0);
}

/* Every large block from here on is without guards, as where the process has many mappings. */
class WithoutGuards
{
  public:
    WithoutGuards() : most_(hak_limit_most_mappings)
    {
        (void)hak_malloc(1);
        hak_limit_most_mappings = 0;
    }
    ~WithoutGuards()
    {
        hak_limit_most_mappings = most_;
    }

  private:
    decltype(hak_limit_most_mappings) most_;
};

TEST(SecureLarge, WithoutGuardsWhatIsRefusedDuringAForkIsTouchable)
{
    WithoutGuards without;
    ASSERT_TRUE(hak_secure_body_is_crowded());
    static struct hak_os_ops ops;
    ops = hak_os_ops;
    std::vector<void *> blocks;
    for (size_t size : {50000u, 200000u, 700000u}) {
        blocks.push_back(hak_malloc(size));
        ASSERT_NE(blocks.back(), nullptr);
    }
    hak_gate_close(); /* as fork does */
    hak_os_ops.mmap = [](void *p, size_t n, int prot, int flags, int fd, off_t at) -> void * {
        return prot & PROT_WRITE ? (errno = ENOMEM, MAP_FAILED)
                                 : ops.mmap(p, n, prot, flags, fd, at);
    };
    hak_os_ops.mprotect = [](void *p, size_t n, int prot) -> int {
        return prot & PROT_WRITE ? (errno = ENOMEM, -1) : ops.mprotect(p, n, prot);
    };
    free_by_another(blocks);
    hak_os_ops = ops;
    hak_gate_open();
    (void)hak_secure_large_flush();
    EXPECT_FALSE(hak_secure_large_is_stuck());
    for (int i = 0; i < 50; i++) {
        for (size_t size : {50000u, 200000u, 700000u}) {
            blocks.push_back(hak_malloc(size));
            ASSERT_NE(blocks.back(), nullptr);
            memset(blocks.back(), 1, size);
        }
    }
    for (size_t n = 3; n < blocks.size(); n++) {
        hak_free(blocks[n]);
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Whatever the size is, a byte on either side is looked at. */
TEST(SecureLargeDeathTest, WithoutGuardsOfWholePagesToo)
{
    WithoutGuards without;
    for (size_t size : {40960u, 69632u, 70000u}) {
        auto *p = static_cast<unsigned char *>(hak_malloc(size));
        EXPECT_DEATH((p[size] ^= 1, hak_free(p)), "behind its end") << size;
        EXPECT_DEATH((p[-1] ^= 1, hak_free(p)), "before its start") << size;
        hak_free(p);
    }
}

} // namespace
