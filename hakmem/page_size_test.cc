/* A system of larger pages, played by a replaced OS layer from the first call on: what does not
   begin at a page is refused and counted, what does not end at one reaches to the end of it, as in
   a kernel of that page size. */
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

size_t page = 65536;
int n_misaligned, n_mapped, n_unmapped, n_advised, n_moved;

size_t round_up(size_t size)
{
    return (size + page - 1) & ~(page - 1);
}

bool is_misaligned(const void *addr)
{
    if (reinterpret_cast<uintptr_t>(addr) & (page - 1)) {
        n_misaligned++;
        errno = EINVAL;
        return true;
    }
    return false;
}

void *map(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    if ((flags & MAP_FIXED) && is_misaligned(addr)) {
        return MAP_FAILED;
    }
    n_mapped++;
    length = round_up(length);
    char *p = static_cast<char *>(hak_os_real_ops.mmap(addr, length, prot, flags, fd, offset));
    if (p == MAP_FAILED || !(reinterpret_cast<uintptr_t>(p) & (page - 1))) {
        return p;
    }
    hak_os_real_ops.munmap(p, length);
    p = static_cast<char *>(hak_os_real_ops.mmap(nullptr, length + page, prot, flags, fd, offset));
    if (p == MAP_FAILED) {
        return p;
    }
    size_t before = round_up(reinterpret_cast<uintptr_t>(p)) - reinterpret_cast<uintptr_t>(p);
    if (before) {
        hak_os_real_ops.munmap(p, before);
    }
    if (before < page) {
        hak_os_real_ops.munmap(p + before + length, page - before);
    }
    return p + before;
}

int unmap(void *addr, size_t length)
{
    n_unmapped++;
    return is_misaligned(addr) ? -1 : hak_os_real_ops.munmap(addr, round_up(length));
}

void *remap(void *old_addr, size_t old_size, size_t new_size, int flags, void *new_addr)
{
    if (is_misaligned(old_addr) || ((flags & MREMAP_FIXED) && is_misaligned(new_addr))) {
        return MAP_FAILED;
    }
    n_moved++;
    if ((flags & MREMAP_MAYMOVE) && !(flags & MREMAP_FIXED)) {
        new_addr =
            map(nullptr, new_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (new_addr == MAP_FAILED) {
            return new_addr;
        }
        flags |= MREMAP_FIXED;
    }
    return hak_os_real_ops.mremap(old_addr, round_up(old_size), round_up(new_size), flags,
                                  new_addr);
}

int advise(void *addr, size_t length, int advice)
{
    n_advised++;
    return is_misaligned(addr) ? -1 : hak_os_real_ops.madvise(addr, round_up(length), advice);
}

/* Before hakmem's own start. */
__attribute__((constructor(101))) void begin()
{
    const char *wanted = getenv("HAK_TEST_PAGE_SIZE");
    page = wanted ? strtoul(wanted, nullptr, 10) : 65536;
    hak_os_ops.page_size = [] { return page; };
    hak_os_ops.mmap = map;
    hak_os_ops.munmap = unmap;
    hak_os_ops.mremap = remap;
    hak_os_ops.madvise = advise;
}

struct Block {
    unsigned char *p;
    size_t size;
    unsigned char pattern;
};

bool is_sound(const Block &block, size_t size)
{
    for (size_t i = 0; i < size; i += i % 64 == 63 ? 961 : 1) {
        if (block.p[i] != block.pattern) {
            return false;
        }
    }
    return true;
}

size_t some_size(Rng &rng)
{
    return 1 + rng.below(rng.one_in(40)  ? 4 << 20
                         : rng.one_in(6) ? 300000
                         : rng.one_in(3) ? 32768
                                         : 600);
}

void work(uint64_t seed)
{
    Rng rng(seed);
    std::vector<Block> live;
    int n_wrong = 0;
    for (int i = 0; i < 6000; i++) {
        size_t size = some_size(rng);
        if (live.size() < 200 && !rng.one_in(3)) {
            bool is_zeroed = rng.one_in(4);
            size_t align = size_t(1) << rng.below(18);
            void *p = is_zeroed        ? hak_calloc(1, size)
                      : rng.one_in(10) ? hak_aligned_alloc(align, size)
                                       : hak_malloc(size);
            Block block = {static_cast<unsigned char *>(p), size, 0};
            n_wrong += is_zeroed && !is_sound(block, size);
            block.pattern = static_cast<unsigned char>(i);
            memset(block.p, block.pattern, size);
            live.push_back(block);
        } else if (!live.empty()) {
            size_t k = rng.below(live.size());
            n_wrong += !is_sound(live[k], live[k].size);
            if (rng.one_in(3)) {
                live[k].p = static_cast<unsigned char *>(hak_realloc(live[k].p, size));
                n_wrong += !is_sound(live[k], size < live[k].size ? size : live[k].size);
                live[k].size = size;
                memset(live[k].p, live[k].pattern, size);
            } else {
                hak_free(live[k].p);
                live[k] = live.back();
                live.pop_back();
            }
        }
        if (i % 500 == 0) {
            (void)(rng.one_in(2) ? hak_purge() : 0);
            hak_theap_rest_all(); /* as the background thread: pages of slabs that are cold */
        }
    }
    for (const Block &block : live) {
        n_wrong += !is_sound(block, block.size);
        hak_free(block.p);
    }
    EXPECT_EQ(n_wrong, 0);
}

TEST(PageSize, AllIsKept)
{
    ASSERT_EQ(hak_os_page_size(), page);
    work(1);
    std::thread first([] { work(2); });
    first.join();
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
    EXPECT_EQ(n_misaligned, 0);
    EXPECT_GT(n_mapped, 0);
    EXPECT_GT(n_unmapped, 0);
    EXPECT_GT(n_advised, 0);
}

/* What a neighbour needs must not go with a cold page. */
TEST(PageSize, ColdPagesHoldFreeBlocksOnly)
{
    std::vector<unsigned char *> blocks;
    for (int i = 0; i < 2000; i++) {
        blocks.push_back(static_cast<unsigned char *>(hak_malloc(1000)));
        memset(blocks.back(), 3, 1000);
    }
    for (size_t i = 0; i < blocks.size(); i++) {
        if (i / 30 % 2) {
            hak_free(blocks[i]);
            blocks[i] = nullptr;
        }
    }
    (void)hak_purge();
    for (int i = 0; i < 4; i++) {
        hak_theap_rest_all();
    }
    for (const unsigned char *p : blocks) {
        if (p) {
            EXPECT_EQ(p[0] + p[999], 6);
            hak_free(const_cast<unsigned char *>(p));
        }
    }
    EXPECT_EQ(n_misaligned, 0);
}

TEST(PageSize, Of16KiB)
{
    if (getenv("HAK_TEST_PAGE_SIZE")) {
        GTEST_SKIP() << "this is that process";
    }
    pid_t child = fork();
    if (child == 0) {
        setenv("HAK_TEST_PAGE_SIZE", "16384", 1);
        execl("/proc/self/exe", "page_size_test", nullptr);
        _exit(1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

} // namespace
