/* Tests of the public functions: sizes, alignment, waste, zeroes, errors, errno, contents across
   realloc. */
#include "base/attributes.h"
#include "hakmem/hakmem.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/size_classes.h"
#include "base/stats.h"
#include "superslab/superslab.h"
#include "testing/count_malloc.h"

namespace
{

const size_t kKiB = 1024, kMiB = 1024 * 1024;
/* Above: mappings of their own. */
const size_t kSpanMax = kMiB;

class Api : public testing::Test
{
  protected:
    void SetUp() override
    {
        delay_ = hak_options.purge_delay_ms;
        hak_options.purge_delay_ms =
            3600000; /* the tiny variant would call the system for each block otherwise */
    }
    void TearDown() override
    {
        hak_options.purge_delay_ms = delay_;
        EXPECT_EQ(hak_verify(), 0);
        (void)hak_purge();
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
        EXPECT_EQ(hak_stat_get(large_bytes), 0);
        EXPECT_EQ(hak_verify(), 0);
    }

  private:
    uint64_t delay_;
};

/* What may be used of a block of size 0. */
const size_t kLeast = HAK_SECURE ? 0 : 1;

bool is_aligned(const void *p, size_t align)
{
    return reinterpret_cast<uintptr_t>(p) % align == 0;
}

/* One size of each kind, with the edges between them. */
std::vector<size_t> sizes_of_all_kinds()
{
    return {1,     16,    17,    100,   128,    1000,     1024, 1025,     4096,     5000,
            32768, 32769, 65536, 65537, 200000, kMiB - 1, kMiB, kMiB + 1, 3 * kMiB, 5 * kMiB};
}

/* Byte i of a pattern that repeats every 4099 bytes. */
const unsigned char *pattern(unsigned seed)
{
    static unsigned char bytes[4099 + 256];
    if (!bytes[0]) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = static_cast<unsigned char>(i % 4099 * 31 + i % 4099 / 256 + 1);
        }
    }
    return bytes + seed % 256;
}

void fill(void *p, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i += 4099) {
        memcpy(static_cast<char *>(p) + i, pattern(seed), std::min<size_t>(4099, size - i));
    }
}

/* Where the first piece that differs starts, or size. */
size_t mismatch(const void *p, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i += 4099) {
        if (memcmp(static_cast<const char *>(p) + i, pattern(seed),
                   std::min<size_t>(4099, size - i)) != 0) {
            return i;
        }
    }
    return size;
}

/* The most that a block for `size` bytes may hold. */
size_t most_for(size_t size)
{
    if (size <= 128) {
        return size ? (size + 15) / 16 * 16 : 16;
    }
    if (size <= 1024) {
        return size * 8 / 7; /* at most an eighth of the block is waste */
    }
    if (size <= 32768) {
        return size * 4 / 3; /* at most a quarter */
    }
    if (size <= kMiB) {
        return size * 5 / 4; /* four classes a doubling */
    }
    return (size + 65535) / 65536 * 65536;
}

TEST_F(Api, EverySizeToOneMiB)
{
    for (size_t size = 0; size <= kMiB + 1; size++) {
        char *p = static_cast<char *>(hak_malloc(size));
        ASSERT_NE(p, nullptr) << size;
        size_t usable = hak_usable_size(p);
        ASSERT_GE(usable, size ? size : kLeast);
        ASSERT_LE(usable, most_for(size)) << size;
        ASSERT_TRUE(is_aligned(p, 16)) << size;
        if (usable) {
            p[0] = p[usable - 1] = 1;
        }
        hak_free(p);
    }
}

TEST_F(Api, SizesAboveOneMiB)
{
    std::vector<size_t> sizes;
    for (size_t size = kMiB; size <= 4 * kMiB; size += 65536) {
        sizes.insert(sizes.end(), {size - 1, size, size + 1});
    }
    for (size_t size = 4 * kMiB; size <= 128 * kMiB; size *= 2) {
        sizes.insert(sizes.end(), {size - 1, size, size + 1, size + size / 2});
    }
    for (size_t size : sizes) {
        char *p = static_cast<char *>(hak_malloc(size));
        ASSERT_NE(p, nullptr) << size;
        size_t usable = hak_usable_size(p);
        EXPECT_GE(usable, size);
        /* A range kept for reuse may be an eighth too large. */
        EXPECT_LE(usable, most_for(size) + size / 8 + 65536) << size;
        EXPECT_TRUE(is_aligned(p, 16));
        p[0] = p[usable - 1] = 1;
        hak_free(p);
    }
}

TEST_F(Api, LiveBlocksOfEverySizeClassDoNotOverlap)
{
    struct Block {
        char *p;
        size_t size;
        unsigned seed;
    };
    std::vector<Block> blocks;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        for (size_t size : {size_t(hak_sc_table[c].size) - 1, size_t(hak_sc_table[c].size),
                            size_t(hak_sc_table[c].size) + 1}) {
            for (int i = 0; i < 20; i++) {
                char *p = static_cast<char *>(hak_malloc(size));
                ASSERT_NE(p, nullptr);
                blocks.push_back({p, hak_usable_size(p), static_cast<unsigned>(blocks.size())});
                fill(p, blocks.back().size, blocks.back().seed);
            }
        }
    }
    EXPECT_EQ(hak_verify(), 0);
    for (const Block &block : blocks) {
        ASSERT_EQ(mismatch(block.p, block.size, block.seed), block.size) << block.size;
        hak_free(block.p);
    }
}

TEST_F(Api, ZeroSizes)
{
    void *a = hak_malloc(0), *b = hak_malloc(0);
    EXPECT_NE(a, nullptr);
    EXPECT_NE(a, b) << "each is a block of its own";
    EXPECT_GE(hak_usable_size(a), kLeast);
    hak_free(a);
    hak_free(b);
    for (void *p : {hak_calloc(0, 8), hak_calloc(8, 0), hak_calloc(0, 0), hak_calloc(0, SIZE_MAX),
                    hak_realloc(nullptr, 0)}) {
        ASSERT_NE(p, nullptr);
        EXPECT_GE(hak_usable_size(p), kLeast);
        hak_free(p);
    }
    EXPECT_EQ(hak_realloc(hak_malloc(100), 0), nullptr);
    EXPECT_EQ(hak_realloc(hak_malloc(2 * kMiB), 0), nullptr);
    EXPECT_EQ(hak_usable_size(nullptr), 0u);
    hak_free(nullptr);
}

TEST_F(Api, AlignedZeroSizes)
{
    for (size_t align = 1; align <= 16 * kMiB; align *= 2) {
        void *a = hak_aligned_alloc(align, 0), *b = hak_aligned_alloc(align, 0);
        ASSERT_NE(a, nullptr) << align;
        ASSERT_NE(b, nullptr) << align;
        EXPECT_NE(a, b) << align;
        EXPECT_GE(hak_usable_size(a), kLeast) << align;
        EXPECT_GE(hak_usable_size(b), kLeast) << align;
        EXPECT_TRUE(is_aligned(a, align));
        EXPECT_TRUE(is_aligned(b, align));
        EXPECT_EQ(hak_verify(), 0) << align;
        hak_free(a);
        hak_free(b);
    }
}

TEST_F(Api, RequestsThatCannotBeMet)
{
    void *kept = hak_malloc(100);
    int64_t failed = hak_stat_get(failed_requests);
    int n = 0;
    for (size_t size :
         {SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 65535, SIZE_MAX / 2 + 1, size_t(PTRDIFF_MAX),
          size_t(PTRDIFF_MAX) - 65536, size_t(1) << 60, size_t(1) << 48}) {
        errno = 0;
        EXPECT_EQ(hak_malloc(size), nullptr) << size;
        EXPECT_EQ(errno, ENOMEM);
        errno = 0;
        EXPECT_EQ(hak_calloc(1, size), nullptr) << size;
        EXPECT_EQ(errno, ENOMEM);
        errno = 0;
        EXPECT_EQ(hak_realloc(nullptr, size), nullptr) << size;
        EXPECT_EQ(errno, ENOMEM);
        errno = 0;
        EXPECT_EQ(hak_aligned_alloc(64, size), nullptr) << size;
        EXPECT_EQ(errno, ENOMEM);
        errno = 0;
        EXPECT_EQ(hak_memalign(4096, size), nullptr) << size;
        EXPECT_EQ(errno, ENOMEM);
        n += 5;
    }
    errno = 0;
    EXPECT_EQ(hak_aligned_alloc(size_t(1) << 62, 1), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    n++;
    EXPECT_EQ(hak_stat_get(failed_requests), failed + n);
    EXPECT_EQ(hak_verify(), 0);
    void *after = hak_malloc(100);
    EXPECT_NE(after, nullptr);
    hak_free(after);
    hak_free(kept);
}

TEST_F(Api, CallocOverflow)
{
    const struct {
        size_t n, size;
    } products[] = {
        {SIZE_MAX, 2},           {2, SIZE_MAX},        {size_t(1) << 32, size_t(1) << 32},
        {SIZE_MAX / 16 + 1, 16}, {SIZE_MAX, SIZE_MAX}, {SIZE_MAX / 3 + 1, 3}};
    for (const auto &product : products) {
        errno = 0;
        EXPECT_EQ(hak_calloc(product.n, product.size), nullptr)
            << product.n << " x " << product.size;
        EXPECT_EQ(errno, ENOMEM);
    }
}

TEST_F(Api, AFailedReallocLeavesTheBlock)
{
    for (size_t size : sizes_of_all_kinds()) {
        void *p = hak_malloc(size);
        fill(p, size, 5);
        size_t usable = hak_usable_size(p);
        for (size_t too_much :
             {SIZE_MAX, size_t(PTRDIFF_MAX), size_t(PTRDIFF_MAX) / 2, size_t(1) << 48}) {
            errno = 0;
            ASSERT_EQ(hak_realloc(p, too_much), nullptr);
            EXPECT_EQ(errno, ENOMEM);
        }
        EXPECT_EQ(hak_usable_size(p), usable);
        EXPECT_EQ(mismatch(p, size, 5), size) << size;
        hak_free(p);
    }
}

TEST_F(Api, FreeKeepsErrno)
{
    hak_options.purge_delay_ms = 0; /* so that free calls the system */
    for (size_t size : sizes_of_all_kinds()) {
        std::vector<void *> blocks;
        for (int i = 0; i < 100 && size * static_cast<size_t>(i) < 64 * kMiB; i++) {
            blocks.push_back(hak_malloc(size));
        }
        void *for_other = hak_malloc(size);
        for (void *p : blocks) {
            errno = EDOM;
            hak_free(p);
            ASSERT_EQ(errno, EDOM) << size;
        }
        std::thread([=] {
            errno = EDOM;
            hak_free(for_other);
            EXPECT_EQ(errno, EDOM) << size;
        }).join();
    }
    errno = EDOM;
    hak_free(nullptr);
    EXPECT_EQ(errno, EDOM);
}

/* What the system has just zeroed is not cleared again: except for the first page nothing becomes
   resident. */
TEST_F(Api, CallocOfFreshMemoryTouchesNothing)
{
    /* The secure variant looks at its small blocks, which maps the page of zeros. */
    const size_t page = 4096, n = HAK_SECURE ? 9 : 8;
    hak_purge();
    std::vector<void *> held;
    char *p;
    do { /* blocks that were used before come first */
        p = static_cast<char *>(hak_calloc(n, page));
        held.push_back(p);
        unsigned char pages[9];
        ASSERT_EQ(mincore(p, n * page, pages), 0);
        if (std::count_if(pages + 1, pages + n, [](unsigned char its) { return its & 1; }) == 0) {
            break;
        }
    } while (held.size() < 10);
    EXPECT_LT(held.size(), 10u);
    EXPECT_EQ(*std::max_element(p, p + n * page), 0);
    for (void *block : held) {
        hak_free(block);
    }
}

TEST_F(Api, CallocIsZeroOverTheWholeUsableSize)
{
    for (size_t size : sizes_of_all_kinds()) {
        /* Dirty memory of that size, then calloc from it. */
        std::vector<void *> blocks;
        for (int i = 0; i < 5; i++) {
            void *p = hak_malloc(size);
            memset(p, 0xFF, hak_usable_size(p));
            blocks.push_back(p);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        blocks.clear();
        for (int i = 0; i < 7; i++) {
            char *p = static_cast<char *>(hak_calloc(size == 1 ? 1 : 2, (size + 1) / 2));
            ASSERT_NE(p, nullptr);
            size_t usable = hak_usable_size(p);
            EXPECT_TRUE(p[0] == 0 && memcmp(p, p + 1, usable - 1) == 0) << size;
            blocks.push_back(p);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
    }
}

TEST_F(Api, AlignedForms)
{
    const size_t sizes[] = {1, 24, 100, 1000, 5000, 20000, 40000, 100000, kMiB, kMiB + 1, 3 * kMiB};
    for (size_t align = 1; align <= 8 * kMiB; align *= 2) {
        for (size_t size : sizes) {
            void *out = nullptr;
            if (align >= sizeof(void *)) {
                ASSERT_EQ(hak_posix_memalign(&out, align, size), 0) << align << " " << size;
            }
            void *blocks[] = {hak_aligned_alloc(align, size), hak_memalign(align, size), out};
            for (void *p : blocks) {
                if (p) {
                    ASSERT_TRUE(is_aligned(p, align)) << align << " " << size;
                    ASSERT_GE(hak_usable_size(p), size);
                    static_cast<char *>(p)[size - 1] = 1;
                }
            }
            ASSERT_NE(blocks[0], nullptr) << align << " " << size;
            ASSERT_NE(blocks[1], nullptr) << align << " " << size;
            for (void *p : blocks) {
                hak_free(p);
            }
        }
    }
}

TEST_F(Api, BadAlignments)
{
    for (size_t align :
         {size_t(0), size_t(3), size_t(24), size_t(48), size_t(4097), SIZE_MAX, SIZE_MAX / 2}) {
        errno = 0;
        EXPECT_EQ(hak_aligned_alloc(align, 100), nullptr) << align;
        EXPECT_EQ(errno, EINVAL);
    }
    for (size_t align :
         {size_t(0), size_t(1), size_t(2), size_t(4), size_t(12), size_t(24), SIZE_MAX}) {
        int local;
        void *out = &local;
        errno = EDOM;
        EXPECT_EQ(hak_posix_memalign(&out, align, 100), EINVAL) << align;
        EXPECT_EQ(out, &local);
        EXPECT_EQ(errno, EDOM);
    }
    int local;
    void *out = &local;
    errno = EDOM;
    EXPECT_EQ(hak_posix_memalign(&out, 64, SIZE_MAX / 2 + 1), ENOMEM);
    EXPECT_EQ(out, &local);
    EXPECT_EQ(errno, ENOMEM);
    /* memalign rounds up. */
    const struct {
        size_t asked, given;
    } roundings[] = {{0, 16},    {3, 16},      {24, 32},       {48, 64},
                     {100, 128}, {4097, 8192}, {65537, 131072}};
    for (const auto &rounding : roundings) {
        void *p = hak_memalign(rounding.asked, 100);
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(is_aligned(p, rounding.given)) << rounding.asked;
        hak_free(p);
    }
    errno = 0;
    EXPECT_EQ(hak_memalign(SIZE_MAX / 2 + 2, 100), nullptr);
    EXPECT_EQ(errno, EINVAL);
}

TEST_F(Api, ReallocKeepsContents)
{
    for (size_t from : sizes_of_all_kinds()) {
        for (size_t to : sizes_of_all_kinds()) {
            void *p = hak_malloc(from);
            fill(p, from, 9);
            void *q = hak_realloc(p, to);
            ASSERT_NE(q, nullptr) << from << " to " << to;
            size_t kept = from < to ? from : to;
            ASSERT_EQ(mismatch(q, kept, 9), kept) << from << " to " << to;
            ASSERT_GE(hak_usable_size(q), to) << from << " to " << to;
            ASSERT_TRUE(is_aligned(q, 16));
            memset(q, 1, hak_usable_size(q));
            hak_free(q);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Api, ReallocStepByStep)
{
    /* Neighbours are about, so that blocks move now and then. */
    std::vector<void *> others;
    char *p = static_cast<char *>(hak_malloc(1));
    size_t size = 1;
    fill(p, size, 3);
    while (size < 6 * kMiB) {
        size_t more = size + size / 3 + 1;
        p = static_cast<char *>(hak_realloc(p, more));
        ASSERT_NE(p, nullptr);
        ASSERT_EQ(mismatch(p, size, 3), size) << more;
        fill(p, more, 3);
        size = more;
        others.push_back(hak_malloc(size));
        ASSERT_EQ(hak_verify(), 0) << size;
    }
    while (size > 1) {
        size_t less = size / 3 + 1;
        less = less < size ? less : size - 1;
        p = static_cast<char *>(hak_realloc(p, less));
        ASSERT_NE(p, nullptr);
        ASSERT_EQ(mismatch(p, less, 3), less) << less;
        size = less;
        /* What is no longer needed is not kept for ever: at most twice what is asked (or a small
           block); of large ones a few MiB of address space, whose pages have gone. */
        ASSERT_LE(hak_usable_size(p), size <= 64      ? 128u
                                      : size <= 32768 ? 2 * size + 2
                                                      : 2 * size + 4 * kMiB)
            << size;
        ASSERT_EQ(hak_verify(), 0) << size;
    }
    hak_free(p);
    for (void *other : others) {
        hak_free(other);
    }
}

TEST_F(Api, ReallocStaysInPlaceWhereItFits)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "blocks stay within their class alone";
    }
    for (size_t size :
         {size_t(100), size_t(1000), size_t(5000), size_t(32768), size_t(100000), 2 * kMiB}) {
        char *p = static_cast<char *>(hak_malloc(size));
        size_t usable = hak_usable_size(p);
        EXPECT_EQ(hak_realloc(p, usable), p) << size;
        EXPECT_EQ(hak_realloc(p, usable / 2 + 1), p) << size;
        EXPECT_EQ(hak_realloc(p, usable), p) << size;
        hak_free(p);
    }
}

TEST_F(Api, OwnsAndLookup)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "blocks lie in larger ones";
    }
    int local;
    EXPECT_FALSE(hak_owns(nullptr));
    EXPECT_FALSE(hak_owns(&local));
    EXPECT_FALSE(hak_owns(reinterpret_cast<void *>(UINTPTR_MAX)));
    for (size_t size : sizes_of_all_kinds()) {
        char *p = static_cast<char *>(hak_malloc(size));
        size_t usable = hak_usable_size(p);
        for (char *at : {p, p + usable / 2, p + usable - 1}) {
            EXPECT_TRUE(hak_owns(at));
            struct ss_lookup found = hak_super_lookup(at);
            EXPECT_EQ(found.kind, size <= 32768 ? SS_SLAB : size <= kSpanMax ? SS_SPAN : SS_RANGE);
            EXPECT_EQ(found.start, p);
            EXPECT_EQ(found.size, usable);
            EXPECT_TRUE(found.is_allocated);
        }
        hak_free(p);
    }
}

TEST_F(Api, PurgeGivesBackWhatIsKept)
{
    void *small = hak_malloc(100), *large = hak_malloc(5 * kMiB);
    memset(large, 1, 5 * kMiB);
    hak_free(small);
    hak_free(large);
    EXPECT_GT(hak_stat_get(heap_used_bytes), 0);
    EXPECT_GE(hak_purge(), 4096u) << "what was touched of the slab";
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    if (!HAK_SECURE) { /* there, addresses of small blocks stay: superslab/apart.c */
        EXPECT_EQ(hak_stat_get(superslabs), 0);
    }
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
    EXPECT_EQ(hak_purge(), 0u) << "nothing is left";
    void *again = hak_malloc(100);
    EXPECT_NE(again, nullptr);
    hak_free(again);
}

TEST_F(Api, VerifySeesACorruptedFreeList)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "the quarantine has the block";
    }
    char *p = static_cast<char *>(hak_malloc(200));
    hak_free(hak_malloc(200));
    EXPECT_EQ(hak_verify(), 0);
    char *q = static_cast<char *>(hak_malloc(200));
    hak_free(p);
    hak_free(q);
    void *next;
    memcpy(&next, q, sizeof next); /* a write after free cuts the list */
    memset(q, 0, sizeof next);
    EXPECT_NE(hak_verify(), 0);
    memcpy(q, &next, sizeof next);
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Api, SaysWhatItIs)
{
    EXPECT_STREQ(hak_variant(), HAKMEM_VARIANT);
    EXPECT_STREQ(hak_version(), HAKMEM_VERSION);
}

TEST_F(Api, AllocatesNothingFromLibc)
{
    if (!HAK_COUNTS_MALLOC) {
        GTEST_SKIP() << "the sanitizer has its own malloc";
    }
    std::vector<void *> blocks;
    std::vector<size_t> sizes = sizes_of_all_kinds();
    blocks.reserve(sizes.size());
    uint64_t before = hak_testing::malloc_calls();
    for (size_t size : sizes) {
        blocks.push_back(hak_realloc(hak_calloc(1, size), size * 3));
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    (void)hak_purge();
    (void)hak_verify();
    EXPECT_EQ(hak_testing::malloc_calls(), before);
    void *volatile libc_block = malloc(10);
    EXPECT_EQ(hak_testing::malloc_calls(), before + 1) << "the counter counts";
    free(libc_block);
}

} // namespace
