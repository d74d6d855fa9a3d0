/* What tests of guarded sampling share: guarded blocks, where they lie, what is said of them. */
#ifndef HAKMEM_GUARD_GUARD_TESTING_H
#define HAKMEM_GUARD_GUARD_TESTING_H

#include "base/internal.h"

#include <algorithm>
#include <cstdint>
#include <gtest/gtest.h>
#include <string>

#include "base/os.h"
#include "guard/slots.h"
#include "hakmem/hakmem.h"

namespace guard_testing
{

inline size_t page()
{
    return hak_os_page_size();
}

inline void *escape(void *p)
{
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

inline char *guarded(size_t size)
{
    char *p = static_cast<char *>(escape(hak_malloc(size)));
    EXPECT_TRUE(hak_guard_holds(p)) << size;
    return p;
}

/* One that lies at its slot's end, or at its start. */
inline char *guarded_at(size_t size, bool is_at_end)
{
    for (;;) {
        char *p = guarded(size);
        if ((hak_guard_slot_of(p)->is_at_end != 0) == is_at_end) {
            return p;
        }
        hak_free(p);
    }
}

class Guard : public testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(hak_guard_start(1), 0);
    }
    void TearDown() override
    {
        hak_guard_stop();
        EXPECT_EQ(hak_guard_n_used(), 0u) << "a block was left behind";
        EXPECT_EQ(hak_verify(), 0);
    }
};

/* Of blocks of that size. */
inline size_t n_slots(size_t size)
{
    uint32_t n_kept;
    return hak_guard_n_slots(size, &n_kept);
}

inline size_t most_at_once(size_t size = 1)
{
    uint32_t n_kept, n = hak_guard_n_slots(size, &n_kept);
    return n - n_kept;
}

/* Larger than what goes into a small slot. */
inline size_t large()
{
    return std::max(GUARD_MAX, page()) + 5000;
}

/* --- what is said of misuse --- */

#define DIES(signal, statement, text) EXPECT_EXIT(statement, testing::KilledBySignal(signal), text)

const char *const STACKS = "[^\n]*\n(.*\n)*hakmem: allocated by thread [0-9]+: 0x";

inline std::string with_stacks(const std::string &line)
{
    return "hakmem: " + line + STACKS;
}

inline void touch(char *p)
{
    *static_cast<volatile char *>(p) = 1;
}

inline char look(char *p)
{
    return *static_cast<volatile char *>(p);
}

#if defined(__x86_64__)
#define READ    "read"
#define WRITTEN "written to"
#else
#define READ    "touched"
#define WRITTEN "touched"
#endif

/* A process of its own, in which nothing is guarded yet. */
class GuardSignals : public testing::Test
{
  protected:
    void SetUp() override
    {
        GTEST_FLAG_SET(death_test_style, "threadsafe");
    }
    void TearDown() override
    {
        GTEST_FLAG_SET(death_test_style, "fast");
    }
};

} // namespace guard_testing

#endif
