// The null allocator's own rules, from a program that is linked with it: few, since it checks
// nothing.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <thread>
#include <vector>

namespace
{

bool all_zero(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

TEST(Null, EverySizeFitsAndIsAligned)
{
    for (size_t size = 0; size < 70000; size = size < 2000 ? size + 1 : size * 9 / 8) {
        void *block = malloc(size);
        ASSERT_NE(block, nullptr);
        EXPECT_EQ((uintptr_t)block % 16, 0u);
        EXPECT_GE(malloc_usable_size(block), size);
        EXPECT_LE(malloc_usable_size(block), size + size / 4 + 16);
        memset(block, 0xff, malloc_usable_size(block));
        free(block);
    }
}

TEST(Null, TheBlockFreedLastComesFirst)
{
    for (size_t size : {24u, 3000u, 5u << 20}) {
        void *block = malloc(size);
        free(block);
        EXPECT_EQ(malloc(size), block);
        EXPECT_NE(malloc(size), block);
    }
}

TEST(Null, CallocClearsWhatWasUsed)
{
    for (size_t size : {8u, 100u, 4096u, 3u << 20}) {
        void *used = malloc(size);
        memset(used, 0xff, size);
        free(used);
        auto *block = (unsigned char *)calloc(1, size);
        EXPECT_EQ(block, used);
        EXPECT_TRUE(all_zero(block, size));
        EXPECT_TRUE(all_zero((unsigned char *)calloc(size, 1), size));
    }
}

TEST(Null, ReallocKeepsWhatIsThere)
{
    auto *block = (unsigned char *)realloc(nullptr, 1);
    block[0] = 7;
    for (size_t size = 2; size < size_t{64} << 20; size = size * 3 / 2 + 1) {
        block = (unsigned char *)realloc(block, size);
        ASSERT_EQ(block[0], 7) << size;
        block[size - 1] = (unsigned char)size;
        block = (unsigned char *)realloc(block, size + size / 2);
        ASSERT_EQ(block[size - 1], (unsigned char)size) << size;
    }
    EXPECT_EQ(realloc(block, 100), block);
}

TEST(Null, Aligned)
{
    for (size_t alignment = 8; alignment <= size_t{4} << 20; alignment *= 2) {
        for (size_t size : {1u, 100u, 70000u, 2u << 20}) {
            void *block = nullptr;
            ASSERT_EQ(posix_memalign(&block, alignment, size), 0);
            EXPECT_EQ((uintptr_t)block % alignment, 0u);
            memset(block, 0xff, size);
            free(block);
            EXPECT_EQ((uintptr_t)aligned_alloc(alignment, size) % alignment, 0u);
        }
    }
    EXPECT_EQ((uintptr_t)valloc(1) % 4096, 0u);
    EXPECT_GE(malloc_usable_size(pvalloc(1)), 4096u);
}

TEST(Null, TooMuch)
{
    volatile size_t most = SIZE_MAX;
    for (size_t size : {(size_t)most, (size_t)most / 2, (size_t)most >> 20}) {
        errno = 0;
        EXPECT_EQ(malloc(size), nullptr);
        EXPECT_EQ(errno, ENOMEM);
    }
    EXPECT_EQ(calloc(most / 2, 3), nullptr);
    EXPECT_EQ(reallocarray(nullptr, most / 2, 3), nullptr);
    EXPECT_EQ(aligned_alloc(64, most), nullptr);
}

TEST(Null, ThreadsShareNothing)
{
    std::vector<std::thread> threads;
    std::vector<void *> blocks(8);
    for (size_t i = 0; i < blocks.size(); i++)
        threads.emplace_back([&blocks, i] {
            for (int n = 0; n < 100000; n++) {
                blocks[i] = malloc(64);
                memset(blocks[i], (int)i, 64);
                if (n % 2 == 0)
                    free(blocks[i]);
            }
        });
    for (auto &thread : threads)
        thread.join();
    for (size_t i = 0; i < blocks.size(); i++)
        EXPECT_EQ(((unsigned char *)blocks[i])[63], i);
}

} // namespace
