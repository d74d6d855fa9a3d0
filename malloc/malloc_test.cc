/* Tests of the malloc family and of C++'s operators, in a program that hakmem is linked into as its
   malloc. */
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <malloc.h>
#include <memory>
#include <new>
#include <string>
#include <unistd.h>
#include <vector>

#include "base/attributes.h"
#include "hakmem/hakmem.h"

extern "C" {
void cfree(void *);
void free_sized(void *, size_t);
void free_aligned_sized(void *, size_t, size_t);
}

namespace
{

/* Keeps the compiler from dropping pairs of calls. */
template <typename T> T *used(T *p)
{
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

bool is_aligned(const void *p, size_t align)
{
    return reinterpret_cast<uintptr_t>(p) % align == 0;
}

/* By `free`, but in the secure variant, which minds it, by the form that belongs to the name. */
void free_as(const std::string &name, void *p)
{
    if (HAK_SECURE && name.find("new[]") != std::string::npos) {
        operator delete[](p);
    } else if (HAK_SECURE && name.find("new") != std::string::npos) {
        operator delete(p);
    } else {
        free(p);
    }
}

TEST(Malloc, EveryFunctionIsHakmems)
{
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    struct {
        const char *name;
        void *p;
        size_t size, align;
    } blocks[] = {
        {"malloc", malloc(100), 100, 16},
        {"calloc", calloc(10, 10), 100, 16},
        {"realloc", realloc(nullptr, 100), 100, 16},
        {"reallocarray", reallocarray(nullptr, 10, 10), 100, 16},
        {"aligned_alloc", aligned_alloc(256, 512), 512, 256},
        {"memalign", memalign(256, 100), 100, 256},
        {"valloc", valloc(100), 100, page},
        {"pvalloc", pvalloc(100), page, page},
        {"pvalloc(0)", pvalloc(0), page, page},
        {"strdup", strdup("a text that libc copies"), 24, 16},
        {"new", operator new(100), 100, 16},
        {"new[]", operator new[](100), 100, 16},
        {"nothrow new", operator new(100, std::nothrow), 100, 16},
        {"nothrow new[]", operator new[](100, std::nothrow), 100, 16},
        {"aligned new", operator new(100, std::align_val_t(512)), 100, 512},
        {"aligned new[]", operator new[](100, std::align_val_t(512)), 100, 512},
        {"aligned nothrow new", operator new(100, std::align_val_t(512), std::nothrow), 100, 512},
        {"aligned nothrow new[]", operator new[](100, std::align_val_t(512), std::nothrow), 100,
         512},
    };
    for (auto &block : blocks) {
        ASSERT_NE(used(block.p), nullptr) << block.name;
        EXPECT_TRUE(hak_owns(block.p)) << block.name;
        EXPECT_TRUE(is_aligned(block.p, block.align)) << block.name;
        EXPECT_GE(malloc_usable_size(block.p), block.size) << block.name;
        EXPECT_EQ(malloc_usable_size(block.p), hak_usable_size(block.p)) << block.name;
        free_as(block.name, block.p);
    }
    void *p = nullptr;
    ASSERT_EQ(posix_memalign(&p, 1024, 10), 0);
    EXPECT_TRUE(hak_owns(p));
    EXPECT_TRUE(is_aligned(p, 1024));
    free(p);
    std::string text(1000, 'x');
    EXPECT_TRUE(hak_owns(text.data()));
    EXPECT_EQ(hak_verify(), 0);
}

/* 1 for forms of delete, 2 for those of delete[]. */
int free_family(const std::string &name)
{
    return name.find("delete") == std::string::npos ? 0
           : name.find("[]") == std::string::npos   ? 1
                                                    : 2;
}

/* Whether a block was freed shows in that the next request of its size gets it. */
template <typename F> void expect_freed_by(const char *name, F f)
{
    if (HAK_SECURE) { /* where it waits: it is freed if it is not there any more */
        void *p = used(free_family(name)
                           ? free_family(name) == 2 ? operator new[](1000) : operator new(1000)
                           : malloc(1000));
        f(p);
        EXPECT_DEATH(hak_usable_size(p), "freed block given to malloc_usable_size") << name;
        return;
    }
    void *p = used(malloc(1000));
    f(p);
    void *q = used(malloc(1000));
    EXPECT_EQ(p, q) << name;
    free(q);
}

TEST(Malloc, EveryWayToFree)
{
    expect_freed_by("free", [](void *p) { free(p); });
    expect_freed_by("cfree", [](void *p) { cfree(p); });
    expect_freed_by("free_sized", [](void *p) { free_sized(p, 1000); });
    expect_freed_by("free_aligned_sized", [](void *p) { free_aligned_sized(p, 16, 1000); });
    expect_freed_by("hak_free", [](void *p) { hak_free(p); });
    expect_freed_by("realloc", [](void *p) { EXPECT_EQ(realloc(p, 0), nullptr); });
    expect_freed_by("delete", [](void *p) { operator delete(p); });
    expect_freed_by("delete[]", [](void *p) { operator delete[](p); });
    expect_freed_by("sized delete", [](void *p) { operator delete(p, size_t(1000)); });
    expect_freed_by("sized delete[]", [](void *p) { operator delete[](p, size_t(1000)); });
    expect_freed_by("nothrow delete", [](void *p) { operator delete(p, std::nothrow); });
    expect_freed_by("nothrow delete[]", [](void *p) { operator delete[](p, std::nothrow); });
    expect_freed_by("aligned delete", [](void *p) { operator delete(p, std::align_val_t(16)); });
    expect_freed_by("aligned delete[]",
                    [](void *p) { operator delete[](p, std::align_val_t(16)); });
    expect_freed_by("sized aligned delete",
                    [](void *p) { operator delete(p, size_t(1000), std::align_val_t(16)); });
    expect_freed_by("sized aligned delete[]",
                    [](void *p) { operator delete[](p, size_t(1000), std::align_val_t(16)); });
    expect_freed_by("nothrow aligned delete",
                    [](void *p) { operator delete(p, std::align_val_t(16), std::nothrow); });
    expect_freed_by("nothrow aligned delete[]",
                    [](void *p) { operator delete[](p, std::align_val_t(16), std::nothrow); });
    operator delete(nullptr);
    free(nullptr);
}

TEST(Malloc, Errors)
{
    volatile size_t too_much = SIZE_MAX / 2 + 1;
    errno = 0;
    EXPECT_EQ(used(malloc(too_much)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(used(calloc(too_much, 4)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(used(reallocarray(nullptr, too_much, 4)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(used(pvalloc(SIZE_MAX)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    errno = 0;
    EXPECT_EQ(used(valloc(too_much)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    volatile size_t three = 3;
    errno = 0;
    EXPECT_EQ(used(aligned_alloc(three, 100)), nullptr);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_THROW(used(operator new(too_much)), std::bad_alloc);
    EXPECT_THROW(used(operator new[](too_much)), std::bad_alloc);
    EXPECT_THROW(used(operator new(too_much, std::align_val_t(64))), std::bad_alloc);
    EXPECT_EQ(used(operator new(too_much, std::nothrow)), nullptr);
    EXPECT_EQ(used(operator new[](too_much, std::nothrow)), nullptr);
    EXPECT_EQ(used(operator new(too_much, std::align_val_t(64), std::nothrow)), nullptr);
    char *p = static_cast<char *>(malloc(100));
    p[99] = 5;
    errno = 0;
    EXPECT_EQ(used(reallocarray(used(p), too_much, 2)), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(p[99], 5);
    free(p);
}

int n_handler_calls;

void new_handler()
{
    if (n_handler_calls++ == 2) {
        std::set_new_handler(nullptr);
    }
}

TEST(Malloc, TheNewHandlerIsCalledUntilThereIsNone)
{
    volatile size_t too_much = SIZE_MAX / 2 + 1;
    n_handler_calls = 0;
    std::set_new_handler(new_handler);
    EXPECT_THROW(used(operator new(too_much)), std::bad_alloc);
    EXPECT_EQ(n_handler_calls, 3);
    EXPECT_EQ(std::get_new_handler(), nullptr);
    n_handler_calls = 0;
    std::set_new_handler(new_handler);
    EXPECT_EQ(used(operator new(too_much, std::nothrow)), nullptr);
    EXPECT_EQ(n_handler_calls, 3);
}

TEST(Malloc, TrimGivesBack)
{
    std::vector<std::unique_ptr<char[]>> blocks;
    for (int i = 0; i < 100; i++) {
        blocks.emplace_back(new char[100000]);
        memset(blocks.back().get(), 1, 100000);
    }
    blocks.clear();
    (void)malloc_trim(0);
    EXPECT_EQ(malloc_trim(0), 0) << "nothing is left to give back";
    used(malloc(100000));
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Malloc, Mallinfo)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "it counts containers, and what waits";
    }
    struct mallinfo2 before = mallinfo2();
    void *large = used(malloc(4 << 20));
    void *small = used(malloc(5000));
    struct mallinfo2 now = mallinfo2();
    EXPECT_GE(now.hblkhd, before.hblkhd + (4 << 20));
    EXPECT_EQ(now.hblks, before.hblks + 1);
    EXPECT_EQ(now.uordblks, before.uordblks + malloc_usable_size(small)) << "ranges are told apart";
    EXPECT_EQ(now.arena, now.uordblks + now.fordblks);
    EXPECT_GE(now.ordblks, now.smblks);
    free(large);
    free(small);
    now = mallinfo2();
    EXPECT_EQ(now.hblkhd, before.hblkhd);
    EXPECT_EQ(now.hblks, before.hblks);
    EXPECT_EQ(now.uordblks, before.uordblks);
    if (std::string(hak_variant()) != "tiny") { /* which keeps nothing */
        EXPECT_GE(now.keepcost, size_t(4 << 20)) << "what malloc_trim would give back";
    }
    (void)malloc_trim(0);
    EXPECT_EQ(mallinfo2().keepcost, 0u);
}

} // namespace
