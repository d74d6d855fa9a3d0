/* A program that replaces only the plain operator new and delete: every other form must end in
   them, as C++ says. Its blocks have a header, so that one that takes another way is found. */
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "checks/survival/replaced.h"

namespace
{

constexpr size_t HEADER = 32;
bool is_refusing;

} // namespace

void *operator new(std::size_t size)
{
    return made(is_refusing ? nullptr : static_cast<char *>(malloc(size + HEADER)), HEADER);
}

void operator delete(void *block) noexcept
{
    end_made(block, HEADER);
}

namespace
{

void *plain()
{
    return operator new(100);
}

void *array()
{
    return operator new[](100);
}

void new_forms(long)
{
    auto end = [](void *p) { operator delete(p); };
    pair(plain, end);
    pair(array, end);
    pair([] { return operator new(100, std::nothrow); }, end);
    pair([] { return operator new[](100, std::nothrow); }, end);
}

void delete_forms(long)
{
    pair(plain, [](void *p) { operator delete(p, std::size_t(100)); });
    pair(plain, [](void *p) { operator delete(p, std::nothrow); });
    pair(array, [](void *p) { operator delete[](p); });
    pair(array, [](void *p) { operator delete[](p, std::size_t(100)); });
    pair(array, [](void *p) { operator delete[](p, std::nothrow); });
}

void refused(long)
{
    is_refusing = true;
    CHECK(!operator new(100, std::nothrow));
    CHECK(!operator new[](100, std::nothrow));
    bool is_caught = false;
    try {
        (void)array();
    } catch (const std::bad_alloc &) {
        is_caught = true;
    }
    is_refusing = false;
    CHECK(is_caught);
}

struct Wide {
    alignas(256) char bytes[512];
    virtual ~Wide() = default;
};

/* The aligned forms do not end in the plain ones. */
void aligned_forms(long)
{
    long made = n_made;
    for (int i = 0; i < 100; i++) {
        std::unique_ptr<Wide> one(new Wide);
        std::unique_ptr<Wide[]> some(new (std::nothrow) Wide[3]);
        CHECK(one && some && reinterpret_cast<uintptr_t>(one.get()) % 256 == 0);
        CHECK(hak_owns(one.get()) && hak_owns(some.get()));
    }
    CHECK(n_made == made);
}

void library_code(long n)
{
    long live = n_live;
    for (long i = 0; i < n; i++) {
        std::vector<std::string> many;
        for (int k = 0; k < 100; k++) {
            many.push_back(std::string(static_cast<size_t>(k), 'x'));
        }
        CHECK(n_live > live);
    }
    CHECK(n_live == live);
}

const struct test_case cases[] = {{"new_forms", new_forms, 1, 1},
                                  {"delete_forms", delete_forms, 1, 1},
                                  {"refused", refused, 1, 1},
                                  {"aligned_forms", aligned_forms, 1, 1},
                                  {"library_code", library_code, 100, 10},
                                  {nullptr, nullptr, 0, 0}};

} // namespace

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
