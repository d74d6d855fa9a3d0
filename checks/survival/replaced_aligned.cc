/* A program that replaces only the aligned operator new and delete: the sized, array and nothrow
   forms with an alignment must end in them, and the plain forms in none of them. Its blocks begin
   within hakmem's, so that one that takes another way is found. */
#include "checks/survival/replaced.h"

namespace
{

constexpr size_t ALIGN = 128;
constexpr std::align_val_t ALIGNMENT{ALIGN};

} // namespace

void *operator new(std::size_t size, std::align_val_t align)
{
    size_t header = static_cast<size_t>(align);
    return made(
        static_cast<char *>(aligned_alloc(header, (size + 2 * header - 1) / header * header)),
        header);
}

void operator delete(void *block, std::align_val_t align) noexcept
{
    end_made(block, static_cast<size_t>(align));
}

namespace
{

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
    pair(one, end, ALIGN);
    pair(array, end, ALIGN);
    pair([] { return operator new(100, ALIGNMENT, std::nothrow); }, end, ALIGN);
    pair([] { return operator new[](100, ALIGNMENT, std::nothrow); }, end, ALIGN);
}

void delete_forms(long)
{
    pair(
        one, [](void *p) { operator delete(p, std::size_t(100), ALIGNMENT); }, ALIGN);
    pair(
        one, [](void *p) { operator delete(p, ALIGNMENT, std::nothrow); }, ALIGN);
    pair(
        array, [](void *p) { operator delete[](p, ALIGNMENT); }, ALIGN);
    pair(
        array, [](void *p) { operator delete[](p, std::size_t(100), ALIGNMENT); }, ALIGN);
    pair(
        array, [](void *p) { operator delete[](p, ALIGNMENT, std::nothrow); }, ALIGN);
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
