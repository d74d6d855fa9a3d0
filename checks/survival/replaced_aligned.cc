/* A program that replaces only the aligned operator new and delete: the sized, array and nothrow
   forms with an alignment must end in them, and the plain forms in none of them. Its blocks begin
   within hakmem's, so that one that takes another way is found. */
#include <new>

#include "checks/survival/cases.h"

namespace
{

constexpr uint64_t MAGIC = 0xC0FFEE;
constexpr std::align_val_t ALIGNMENT{128};
long n_live, n_made;

} // namespace

void *operator new(std::size_t size, std::align_val_t align)
{
    size_t header = static_cast<size_t>(align);
    char *p = static_cast<char *>(aligned_alloc(header, (size + 2 * header - 1) / header * header));
    if (!p) {
        throw std::bad_alloc();
    }
    *reinterpret_cast<uint64_t *>(p) = MAGIC;
    n_live++;
    n_made++;
    return p + header;
}

void operator delete(void *block, std::align_val_t align) noexcept
{
    if (block) {
        char *p = static_cast<char *>(block) - static_cast<size_t>(align);
        CHECK(*reinterpret_cast<uint64_t *>(p) == MAGIC);
        *reinterpret_cast<uint64_t *>(p) = 0;
        n_live--;
        free(p);
    }
}

namespace
{

/* What `make` makes has come from the program's operator, and `end` returns it there. */
template <typename Make, typename End> void pair(Make make, End end)
{
    long before = n_made, live = n_live;
    void *p = make();
    CHECK(p && n_made == before + 1 && n_live == live + 1);
    CHECK(reinterpret_cast<uintptr_t>(p) % 128 == 0);
    memset(p, 1, 100);
    end(p);
    CHECK(n_live == live);
}

void *one()
{
    return operator new(100, ALIGNMENT);
}

void *array()
{
    return operator new[](100, ALIGNMENT);
}

void new_forms(long)
{
    auto end = [](void *p) { operator delete(p, ALIGNMENT); };
    pair(one, end);
    pair(array, end);
    pair([] { return operator new(100, ALIGNMENT, std::nothrow); }, end);
    pair([] { return operator new[](100, ALIGNMENT, std::nothrow); }, end);
}

void delete_forms(long)
{
    pair(one, [](void *p) { operator delete(p, std::size_t(100), ALIGNMENT); });
    pair(one, [](void *p) { operator delete(p, ALIGNMENT, std::nothrow); });
    pair(array, [](void *p) { operator delete[](p, ALIGNMENT); });
    pair(array, [](void *p) { operator delete[](p, std::size_t(100), ALIGNMENT); });
    pair(array, [](void *p) { operator delete[](p, ALIGNMENT, std::nothrow); });
}

void plain_forms(long)
{
    long made = n_made;
    for (size_t size = 1; size < 100000; size *= 3) {
        void *p = operator new(size), *q = operator new[](size);
        CHECK(hak_owns(p) && hak_owns(q));
        operator delete(p, size);
        operator delete[](q);
    }
    CHECK(n_made == made);
}

const struct test_case cases[] = {{"new_forms", new_forms, 1, 1},
                                  {"delete_forms", delete_forms, 1, 1},
                                  {"plain_forms", plain_forms, 1, 1},
                                  {nullptr, nullptr, 0, 0}};

} // namespace

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
