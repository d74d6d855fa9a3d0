/* A program with an allocator of its own under malloc, free, calloc and realloc: what it does not
   define must end there too, C++'s operators included. With OWN_ALIGNED it has malloc, free,
   malloc_usable_size and memalign instead, of which the last is made of posix_memalign, which it
   does not have. */
#define SURVIVAL_OWN_MALLOC 1
#include <malloc.h>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "checks/survival/cases.h"

extern "C" {
/* There in C23's libraries, and in hakmem. */
void free_sized(void *p, size_t size) __attribute__((weak));
void free_aligned_sized(void *p, size_t alignment, size_t size) __attribute__((weak));
}

namespace
{

constexpr uint64_t MAGIC = 0xABCD1234;
constexpr size_t HEADER = 16;
alignas(16) char pool[size_t(64) << 20];
size_t at;
long n_live;
bool is_refusing;

struct header {
    uint64_t size, magic;
};

header *header_of(const void *p)
{
    return reinterpret_cast<header *>(const_cast<char *>(static_cast<const char *>(p)) - HEADER);
}

/* A block that the program has allocated and not yet freed. */
bool is_own(const void *p)
{
    return p > pool && p < pool + sizeof pool && header_of(p)->magic == MAGIC;
}

} // namespace

extern "C" void *malloc(size_t size) noexcept
{
    size_t bytes = (size + 15) / 16 * 16;
    size_t start = __atomic_fetch_add(&at, bytes + HEADER, __ATOMIC_RELAXED);
    if (is_refusing || start + bytes + HEADER > sizeof pool) {
        errno = ENOMEM;
        return nullptr;
    }
    *reinterpret_cast<header *>(pool + start) = {size, MAGIC};
    __atomic_add_fetch(&n_live, 1, __ATOMIC_RELAXED);
    return pool + start + HEADER;
}

extern "C" void free(void *p) noexcept
{
    if (p) {
        CHECK(is_own(p));
        header_of(p)->magic = 0;
        __atomic_sub_fetch(&n_live, 1, __ATOMIC_RELAXED);
    }
}

#ifndef OWN_ALIGNED
extern "C" void *calloc(size_t n, size_t size) noexcept
{
    void *p = malloc(n * size);
    return p ? memset(p, 0, n * size) : nullptr;
}

extern "C" void *realloc(void *p, size_t size) noexcept
{
    void *moved = malloc(size);
    if (moved && p) {
        memcpy(moved, p, header_of(p)->size < size ? header_of(p)->size : size);
        free(p);
    }
    return moved;
}
#else
extern "C" size_t malloc_usable_size(void *p) noexcept
{
    return p ? header_of(p)->size : 0;
}

extern "C" void *memalign(size_t alignment, size_t size) noexcept
{
    void *p = nullptr;
    return posix_memalign(&p, alignment, size) == 0 ? p : nullptr;
}
#endif

namespace
{

void c_forms(long)
{
    int *a = static_cast<int *>(malloc(40));
    a[9] = 7;
    a = static_cast<int *>(reallocarray(a, 1000, sizeof *a));
    CHECK(is_own(a) && a[9] == 7);
    free(a);
    a = static_cast<int *>(reallocarray(nullptr, 1000, sizeof *a));
    CHECK(is_own(a));
    a = static_cast<int *>(realloc(a, 100000));
    CHECK(is_own(a));
    free(a);
    char *zero = static_cast<char *>(calloc(10, 100));
    CHECK(is_own(zero) && zero[0] == 0 && zero[999] == 0);
    free(zero);
    errno = 0;
    CHECK(!reallocarray(nullptr, SIZE_MAX / 2, 4) && errno == ENOMEM);
    a = static_cast<int *>(realloc(nullptr, 50));
    CHECK(is_own(a));
    free(a);
}

void other_frees(long)
{
    long live = n_live;
    if (free_sized && free_aligned_sized) {
        free_sized(malloc(100), 100);
        free_aligned_sized(malloc(100), 16, 100);
    }
    CHECK(n_live == live);
}

/* Blocks that the program's malloc cannot make come from hakmem; they are aligned and can be
   written. */
void aligned(long)
{
    void *p = nullptr;
    CHECK(posix_memalign(&p, 4096, 10000) == 0 && reinterpret_cast<uintptr_t>(p) % 4096 == 0 &&
          hak_owns(p));
    memset(p, 1, 10000);
    p = aligned_alloc(256, 512);
    CHECK(reinterpret_cast<uintptr_t>(p) % 256 == 0 && hak_owns(p));
    CHECK(hak_owns(valloc(100)) && hak_owns(pvalloc(100)));
    CHECK(posix_memalign(&p, 3, 100) == EINVAL && !aligned_alloc(3, 100));
}

struct Wide {
    alignas(256) char bytes[512];
};

void operators(long n)
{
    long live = n_live;
    for (long i = 0; i < n; i++) {
        std::unique_ptr<std::string> one(new std::string(1000, 'x'));
        std::unique_ptr<int[]> some(new int[100]), quiet(new (std::nothrow) int[100]);
        CHECK(is_own(one.get()) && is_own(one->data()) && is_own(some.get()) &&
              is_own(quiet.get()));
        std::vector<std::string> many(20, std::string(100, 'y'));
        CHECK(is_own(many.data()));
        operator delete(operator new(10, std::nothrow), std::nothrow);
#ifndef OWN_ALIGNED
        std::unique_ptr<Wide> wide(new Wide);
        std::unique_ptr<Wide[]> wides(new (std::nothrow) Wide[3]);
        CHECK(reinterpret_cast<uintptr_t>(wides.get()) % 256 == 0 && !is_own(wide.get()));
#endif
    }
    CHECK(n_live == live);
}

int n_handled;

void no_memory(long)
{
    is_refusing = true;
    CHECK(!operator new(100, std::nothrow) && !operator new[](100, std::nothrow));
    std::set_new_handler([] { is_refusing = n_handled++ == 0; });
    void *p = operator new(100);
    CHECK(is_own(p) && n_handled == 2);
    operator delete(p);
}

const struct test_case cases[] = {
    {"c_forms", c_forms, 1, 1},     {"other_frees", other_frees, 1, 1},
    {"aligned", aligned, 1, 1},     {"operators", operators, 100, 10},
    {"no_memory", no_memory, 1, 1}, {nullptr, nullptr, 0, 0}};

} // namespace

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
