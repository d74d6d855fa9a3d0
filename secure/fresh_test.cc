/* Page faults of blocks that come from a slab for the first time, and what becomes resident. */
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <vector>

#include "hakmem/hakmem.h"

namespace
{

const size_t kPage = 4096;

long faults()
{
    struct rusage usage = {};
    EXPECT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_minflt;
}

/* Of the process, in pages; what was only read does not count. */
long resident()
{
    long size = 0, pages = 0;
    std::ifstream("/proc/self/statm") >> size >> pages;
    return pages;
}

std::vector<char *> make(size_t n, size_t size)
{
    std::vector<char *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(static_cast<char *>(hak_malloc(size)));
    }
    return blocks;
}

/* Looked at first, and then written, a page would cost two. */
TEST(SecureFresh, APageCostsOneFault)
{
    const size_t n = 1000, size = 3000;
    std::vector<char *> room(n); /* its own faults */
    long before = faults();
    std::vector<char *> blocks = make(n, size);
    long cost = faults() - before, pages = long(n * size / kPage);
    EXPECT_GE(cost, pages * 9 / 10);
    EXPECT_LE(cost, pages * 13 / 10);
    for (char *p : blocks) {
        hak_free(p);
    }
}

/* Blocks of some pages: where programs write to all of them, a page costs one fault, too; where
   they do not, what they do not touch costs no memory. */
TEST(SecureFresh, ItIsLearntWhetherAllOfABlockIsWritten)
{
    const size_t n = 200, size = 20000;
    for (char *p : make(20, size)) {
        memset(p, 1, size);
        hak_free(p);
    }
    long before = faults();
    std::vector<char *> blocks = make(n, size);
    for (char *p : blocks) {
        memset(p, 1, size);
    }
    long cost = faults() - before, pages = long(n * size / kPage);
    EXPECT_LE(cost, pages * 13 / 10);
    for (char *p : blocks) {
        memset(p, 0, size);
        hak_free(p);
    }
}

TEST(SecureFresh, WhatIsNotTouchedCostsNoMemory)
{
    const long n = 200;
    for (char *p : make(20, 30000)) {
        *p = 1;
        hak_free(p);
    }
    long before = resident();
    std::vector<char *> blocks = make(n, 30000); /* seven pages each */
    EXPECT_LE(resident() - before, n * 3);
    for (char *p : blocks) {
        hak_free(p);
    }
}

} // namespace
