// hakmem.hpp: the standard allocator and the memory resources, in containers and at their edges.
#include "hakmem/hakmem.hpp"

#include <cstdint>
#include <limits>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace
{

struct alignas(256) Wide {
    char bytes[256];
};

bool is_aligned(const void *p, size_t alignment)
{
    return reinterpret_cast<uintptr_t>(p) % alignment == 0;
}

size_t blocks_of(hak_heap *heap)
{
    size_t n = 0;
    auto count = [](void *, size_t, void *context) {
        ++*static_cast<size_t *>(context);
        return 0;
    };
    EXPECT_EQ(hak_heap_walk(heap, count, &n), 0);
    return n;
}

TEST(Allocator, ServesContainers)
{
    std::vector<int, hakmem::allocator<int>> numbers;
    for (int i = 0; i < 100000; i++) {
        numbers.push_back(i);
    }
    EXPECT_TRUE(hak_owns(numbers.data()));
    EXPECT_EQ(numbers[99999], 99999);

    using Pair = std::pair<const int, int>;
    std::map<int, int, std::less<int>, hakmem::allocator<Pair>> squares;
    for (int i = 0; i < 1000; i++) {
        squares[i] = i * i;
    }
    auto copy = squares;
    squares.clear();
    EXPECT_EQ(copy.at(31), 961);
    EXPECT_TRUE(hak_owns(&copy.at(31)));

    std::vector<Wide, hakmem::allocator<Wide>> wide(3);
    EXPECT_TRUE(is_aligned(wide.data(), 256));
    EXPECT_TRUE(hak_owns(wide.data()));
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Allocator, AllAreEqual)
{
    EXPECT_TRUE(hakmem::allocator<int>() == hakmem::allocator<char>());
    EXPECT_FALSE(hakmem::allocator<int>() != hakmem::allocator<char>());
    hakmem::allocator<int> one;
    int *p = one.allocate(10);
    hakmem::allocator<int>(hakmem::allocator<char>()).deallocate(p, 10);
}

TEST(Allocator, ThrowsWhatItCannotServe)
{
    constexpr size_t most = std::numeric_limits<size_t>::max();
    hakmem::allocator<Wide> wide;
    hakmem::allocator<char> bytes;
    EXPECT_THROW((void)wide.allocate(most / sizeof(Wide) + 1), std::bad_array_new_length);
    EXPECT_THROW((void)bytes.allocate(most / 2), std::bad_alloc);
    EXPECT_THROW((void)wide.allocate(most / sizeof(Wide)), std::bad_alloc);
}

TEST(MemoryResource, ServesContainersAndIsEqualToItsKind)
{
    hakmem::memory_resource resource, other;
    std::pmr::vector<std::pmr::string> words(&resource);
    for (size_t i = 0; i < 1000; i++) {
        words.emplace_back(i, 'x');
    }
    EXPECT_TRUE(hak_owns(words.data()));
    EXPECT_TRUE(hak_owns(words[999].data()));
    EXPECT_TRUE(resource == other);
    EXPECT_FALSE(resource == *std::pmr::new_delete_resource());
    EXPECT_FALSE(*std::pmr::null_memory_resource() == resource);
    void *p = resource.allocate(100, 4096);
    EXPECT_TRUE(is_aligned(p, 4096));
    other.deallocate(p, 100, 4096);
    EXPECT_THROW((void)resource.allocate(std::numeric_limits<size_t>::max() / 2), std::bad_alloc);
}

TEST(HeapResource, ReleaseFreesEveryBlock)
{
    hakmem::heap_resource resource;
    for (int round = 0; round < 3; round++) {
        for (size_t size = 1; size < 100000; size = size * 3 + 1) {
            void *p = resource.allocate(size, size > 1000 ? 512 : 8);
            EXPECT_TRUE(hak_owns(p));
        }
        EXPECT_GT(blocks_of(resource.heap()), 9u);
        resource.release();
        EXPECT_EQ(blocks_of(resource.heap()), 0u);
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST(HeapResource, ContainersUseItsHeap)
{
    hakmem::heap_resource resource, other;
    {
        std::pmr::map<int, std::pmr::string> words(&resource);
        for (int i = 0; i < 100; i++) {
            words.emplace(i, "a string that is too long to be kept inside of the object");
        }
        EXPECT_EQ(blocks_of(resource.heap()), 200u);
        // Not equal: what moves to the other heap is copied, so that release() frees what it
        // should.
        std::pmr::map<int, std::pmr::string> moved(std::move(words), &other);
        EXPECT_EQ(blocks_of(other.heap()), 200u);
    }
    EXPECT_EQ(blocks_of(resource.heap()), 0u);
    EXPECT_EQ(blocks_of(other.heap()), 0u);
    EXPECT_TRUE(resource == resource);
    EXPECT_FALSE(resource == other);
}

TEST(HeapResource, ManyThreadsShareOne)
{
    hakmem::heap_resource resource;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&resource] {
            std::pmr::vector<std::pmr::string> words(&resource);
            for (size_t i = 0; i < 2000; i++) {
                words.emplace_back(i % 300, 'y');
            }
        });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(blocks_of(resource.heap()), 0u);
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
