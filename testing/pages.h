/* What tests ask the system about pages. */
#ifndef HAKMEM_TESTING_PAGES_H
#define HAKMEM_TESTING_PAGES_H

#include <cstddef>
#include <sys/mman.h>
#include <vector>

namespace hak_testing
{

/* Bytes of [p, p + size) that are resident, p at a page of 4 KiB; 0 if not all of it is mapped. */
inline size_t resident(const char *p, size_t size)
{
    std::vector<unsigned char> pages(size / 4096);
    size_t n = 0;
    if (mincore(const_cast<char *>(p), size, pages.data())) {
        return 0;
    }
    for (unsigned char page : pages) {
        n += page & 1;
    }
    return n * 4096;
}

/* Whether pages can be fetched together: not before Linux 5.14, nor under qemu. */
inline bool can_populate()
{
    alignas(4096) static char page[4096];
    return madvise(page, sizeof page, 23) == 0; /* MADV_POPULATE_WRITE */
}

} // namespace hak_testing

#endif
