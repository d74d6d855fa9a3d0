/* Tests of bodies: getting, growing, cutting, moving, leaving, against an oracle and refusals. */
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "heap/gate.h"
#include "secure/body.h"
#include "secure/pages.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

const size_t SPACE = size_t(4) << 20; /* of each place of a body */

class SecureBody : public testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(pipe(ends), 0);
    }
    void TearDown() override
    {
        close(ends[0]);
        close(ends[1]);
        for (char *place : places) {
            EXPECT_EQ(hak_os_unmap(place, SPACE), 0);
        }
        (void)hak_secure_pages_trim(0);
        EXPECT_TRUE(hak_secure_pages_verify());
    }
    char *new_place()
    {
        places.push_back(static_cast<char *>(hak_os_reserve(SPACE)));
        EXPECT_NE(places.back(), nullptr);
        return places.back();
    }
    /* No page of it may be read. */
    bool is_sealed(const char *at, size_t bytes)
    {
        for (size_t i = 0; i < bytes; i += page) {
            if (write(ends[1], at + i, 1) == 1) {
                return false;
            }
        }
        return true;
    }
    static bool is_all(const char *at, size_t bytes, int value)
    {
        return bytes == 0 ||
               (at[0] == static_cast<char>(value) && memcmp(at, at + 1, bytes - 1) == 0);
    }
    /* Bodies of each size are taken for touched, or not. */
    void teach(int is_touched)
    {
        char *p = static_cast<char *>(hak_os_map_aligned(nullptr, SPACE, page));
        ASSERT_NE(p, nullptr);
        memset(p, is_touched, SPACE);
        for (size_t bytes = page; bytes <= SPACE; bytes *= 2) {
            for (int i = 0; i < 400; i++) {
                hak_secure_pages_learn(p, bytes, 1);
            }
        }
        ASSERT_EQ(hak_os_unmap(p, SPACE), 0);
    }
    static void expect_parts(const body &b)
    {
        size_t bytes = 0;
        for (uint32_t i = 0; i < b.n_parts; i++) {
            bytes += b.parts[i].n * hak_os_page_size();
        }
        ASSERT_EQ(bytes, b.bytes);
        ASSERT_LE(b.n_parts, BODY_PARTS);
    }

    const size_t page = hak_os_page_size();
    int ends[2] = {-1, -1};
    std::vector<char *> places;
};

TEST_F(SecureBody, WhatItLeavesIsSealed)
{
    for (int is_touched : {0, 1}) {
        teach(is_touched);
        char *at = new_place() + page;
        body b;
        ASSERT_TRUE(hak_secure_body_get(&b, at, 40 * page, 0, 1));
        EXPECT_TRUE(is_all(at, 40 * page, 0));
        memset(at, 7, 40 * page);
        ASSERT_TRUE(hak_secure_body_extend(&b, 100 * page));
        EXPECT_TRUE(is_all(at, 40 * page, 7));
        EXPECT_TRUE(is_all(at + 40 * page, 60 * page, 0));
        memset(at, 8, 100 * page);
        ASSERT_TRUE(hak_secure_body_cut(&b, 30 * page));
        expect_parts(b);
        EXPECT_TRUE(is_sealed(at + 30 * page, 71 * page));
        EXPECT_TRUE(is_all(at, 30 * page, 8));
        ASSERT_TRUE(hak_secure_body_extend(&b, 31 * page));
        EXPECT_TRUE(is_all(at + 30 * page, page, 0));
        hak_secure_body_leave(&b);
        EXPECT_TRUE(is_sealed(at - page, 110 * page));
    }
}

struct Held {
    body b;
    char *at;
    char value;
};

/* A move into another place; what it held is there, or still here. */
void move(Held &h, char *to_at, size_t bytes, bool may_fail)
{
    body to;
    size_t was = h.b.bytes;
    if (!hak_secure_body_get(&to, to_at, bytes, was, 1)) {
        ASSERT_TRUE(may_fail);
        return;
    }
    if (hak_secure_body_move(&h.b, &to)) {
        h.b = to;
        std::swap(h.at, to_at);
        memset(h.at + was, h.value, bytes - was);
    } else {
        hak_secure_body_leave(&to);
    }
}

/* Bodies at random, with and without refusals of each kind of call. */
TEST_F(SecureBody, AgainstAnOracle)
{
    for (int refused : {-1, int(hak_testing::OS_MREMAP), int(hak_testing::OS_MPROTECT)}) {
        Rng rng(static_cast<uint64_t>(refused + 5));
        std::vector<Held> held(8);
        std::vector<char *> spare;
        for (Held &h : held) {
            h = {{}, new_place() + page, 0};
            spare.push_back(new_place() + page);
        }
        teach(1);
        for (int step = 0; step < 3000; step++) {
            FailingOs os;
            if (refused >= 0 && rng.one_in(3)) {
                os.fail(static_cast<hak_testing::OsCall>(refused), rng.between(1, 6), rng.below(3));
            }
            Held &h = held[rng.below(held.size())];
            size_t bytes = rng.between(1, 200) * page, was = h.b.bytes;
            ASSERT_TRUE(is_all(h.at, was, h.value));
            if (!was) {
                if (!hak_secure_body_get(&h.b, h.at, bytes, 0, 1)) {
                    ASSERT_GE(refused, 0);
                    h.b.bytes = 0;
                    continue;
                }
                ASSERT_TRUE(is_all(h.at, bytes, 0));
            } else if (rng.one_in(4)) {
                hak_secure_body_leave(&h.b);
                ASSERT_TRUE(is_sealed(h.at, was) || refused >= 0);
                h.b.bytes = 0;
                continue;
            } else if (bytes < was) {
                ASSERT_TRUE(hak_secure_body_cut(&h.b, bytes));
            } else if (bytes > was && rng.one_in(2)) {
                char *to = spare.back(), *from = h.at;
                move(h, to, bytes, refused >= 0);
                if (h.at == to) {
                    ASSERT_TRUE(is_sealed(from, was) || refused >= 0);
                    spare.back() = from;
                }
            } else if (bytes > was && !hak_secure_body_extend(&h.b, bytes)) {
                ASSERT_GE(refused, 0);
            }
            expect_parts(h.b);
            ASSERT_TRUE(is_all(h.at, std::min(was, h.b.bytes), h.value));
            h.value = static_cast<char>(rng.between(1, 100));
            memset(h.at, h.value, h.b.bytes);
            ASSERT_TRUE(hak_secure_pages_verify());
        }
        for (Held &h : held) {
            if (h.b.bytes) {
                hak_secure_body_leave(&h.b);
            }
        }
    }
}

/* One that grows by little for ever has few parts, and its last ones are its own. */
TEST_F(SecureBody, ABodyThatGrowsOftenHasFewParts)
{
    teach(1);
    char *at = new_place() + page;
    body b;
    ASSERT_TRUE(hak_secure_body_get(&b, at, 16 * page, 0, 1));
    for (size_t bytes = 32 * page; bytes < SPACE - page; bytes += 16 * page) {
        ASSERT_TRUE(hak_secure_body_extend(&b, bytes));
        memset(at, 1, bytes);
        expect_parts(b);
    }
    EXPECT_LT(b.n_parts, BODY_PARTS);
    EXPECT_EQ(b.parts[b.n_parts - 1].first, OWN_PAGES);
    for (int i = 0; i < 40; i++) {
        body to;
        size_t was = b.bytes;
        ASSERT_TRUE(hak_secure_body_get(&to, new_place() + page, was + page, was, 1));
        if (!hak_secure_body_move(&b, &to)) { /* a kernel that moves one mapping at a time */
            hak_secure_body_leave(&to);
            break;
        }
        b = to;
        expect_parts(b);
        ASSERT_TRUE(is_all(b.start, SPACE / 2, 1));
        ASSERT_TRUE(hak_secure_body_cut(&b, was));
    }
    hak_secure_body_leave(&b);
}

} // namespace
