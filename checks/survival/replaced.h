/* What programs with operators of their own share: blocks that know how they were made. */
#ifndef HAKMEM_CHECKS_SURVIVAL_REPLACED_H
#define HAKMEM_CHECKS_SURVIVAL_REPLACED_H

#include <new>

#include "checks/survival/cases.h"

namespace
{

constexpr uint64_t MAGIC = 0xC0FFEE;
long n_live, n_made;

/* What the program's operator new returns of p, which is NULL or begins with so many bytes for a
   header. */
void *made(char *p, size_t header)
{
    if (!p) {
        throw std::bad_alloc();
    }
    *reinterpret_cast<uint64_t *>(p) = MAGIC;
    n_live++;
    n_made++;
    return p + header;
}

/* What the program's operator delete does. */
void end_made(void *block, size_t header)
{
    if (block) {
        char *p = static_cast<char *>(block) - header;
        CHECK(*reinterpret_cast<uint64_t *>(p) == MAGIC);
        *reinterpret_cast<uint64_t *>(p) = 0;
        n_live--;
        free(p);
    }
}

/* What `make` makes has come from the program's operator, and `end` returns it there. */
template <typename Make, typename End> void pair(Make make, End end, size_t alignment = 1)
{
    long before = n_made, live = n_live;
    void *p = make();
    CHECK(p && n_made == before + 1 && n_live == live + 1);
    CHECK(reinterpret_cast<uintptr_t>(p) % alignment == 0);
    memset(p, 1, 100);
    end(p);
    CHECK(n_live == live);
}

} // namespace

#endif
