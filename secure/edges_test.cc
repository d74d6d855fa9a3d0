/* Tests of what is filled and checked around large blocks, and of what is learnt. */
#include <cstring>
#include <gtest/gtest.h>

#include "base/os.h"
#include "secure/edges.h"
#include "secure/tail.h"

namespace
{

const unsigned ALL = EDGE_BEFORE | EDGE_BEHIND;

class SecureEdges : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_secure_edges_forget();
        first = static_cast<char *>(hak_os_map_aligned(nullptr, bytes, page));
        ASSERT_NE(first, nullptr);
        edges = {first + 100, first + bytes - 5, first, first + bytes};
    }
    void TearDown() override
    {
        EXPECT_EQ(hak_os_unmap(first, bytes), 0);
        hak_secure_edges_forget();
    }
    /* Of so many new blocks, those whose edges are all watched. */
    unsigned watched(int n, size_t size, unsigned which)
    {
        unsigned found = 0;
        for (int i = 0; i < n; i++) {
            found += (hak_secure_edges_choose(size, 0) & which) == which;
        }
        return found;
    }

    const size_t page = hak_os_page_size(), bytes = 16 * page;
    char *first = nullptr;
    struct edges edges = {};
};

TEST_F(SecureEdges, AreAllWatchedUntilTenBlocksWereNotTouched)
{
    EXPECT_EQ(watched(100, bytes, ALL), 100u);
    for (int i = 0; i < 9; i++) {
        hak_secure_edges_learn(&edges, ALL);
        EXPECT_EQ(watched(100, bytes, ALL), 100u) << i;
    }
    hak_secure_edges_learn(&edges, ALL);
    EXPECT_EQ(watched(1600, bytes, ALL), 1600 / EDGES_EVERY);
    EXPECT_EQ(watched(100, 4 * bytes, ALL), 100u) << "another size";
    EXPECT_EQ(hak_secure_edges_choose(bytes, 1), ALL) << "its pages are there";
    edges.behind[-1] = 1;
    hak_secure_edges_learn(&edges, ALL);
    EXPECT_EQ(watched(100, bytes, EDGE_BEHIND), 100u) << "one is enough";
    EXPECT_LT(watched(100, bytes, EDGE_BEFORE), 10u) << "the other end";
    edges.start[0] = 1;
    hak_secure_edges_learn(&edges, ALL);
    EXPECT_EQ(watched(100, bytes, ALL), 100u);
}

TEST_F(SecureEdges, WhatLiesBeyondTheBlockIsNotTheProgramsTouch)
{
    edges.behind[0] = 1;
    edges.start[-1] = 1;
    edges.start[page] = 1;
    for (int i = 0; i < 10; i++) {
        hak_secure_edges_learn(&edges, ALL);
    }
    EXPECT_LT(watched(100, bytes, ALL), 10u);
}

TEST_F(SecureEdges, EachByteIsSeenIfItIsWatched)
{
    hak_secure_edges_fill(&edges, ALL);
    hak_secure_edges_check(&edges, ALL);
    for (char *at : {edges.behind, edges.end - 1}) {
        *at ^= 1;
        EXPECT_DEATH(hak_secure_edges_check(&edges, ALL), "behind its end");
        hak_secure_edges_check(&edges, EDGE_BEFORE);
        *at ^= 1;
    }
    for (char *at : {first, edges.start - 1}) {
        *at ^= 1;
        EXPECT_DEATH(hak_secure_edges_check(&edges, ALL), "before its start");
        hak_secure_edges_check(&edges, EDGE_BEHIND);
        *at ^= 1;
    }
    hak_secure_edges_check(&edges, ALL);
}

} // namespace
