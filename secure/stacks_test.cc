/* What is said of a block whose stacks are kept, and of a fault at a large one. */
#include <csignal>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>

#include "base/os.h"
#include "hakmem/hakmem.h"
#include "secure/fault.h"
#include "secure/stacks.h"

namespace
{

unsigned char *take(size_t size)
{
    auto *p = static_cast<unsigned char *>(hak_malloc(size));
    EXPECT_NE(p, nullptr);
    return p;
}

/* What is known of the block, whoever found it; `freed`: that it was freed too. */
std::string told(const char *reason, bool is_freed)
{
    return std::string(reason) + ".*\nhakmem: allocated by thread [0-9]+: 0x[0-9a-f]+.*\n" +
           (is_freed ? "hakmem: freed by thread [0-9]+: 0x[0-9a-f]+.*\n" : "") +
           "hakmem: [0-9a-f]+-[0-9a-f]+ r-xp";
}

TEST(SecureDeathTest, TheStacksOfASampledBlockAreTold)
{
    for (size_t size : {40u, 5000u, 200000u}) {
        EXPECT_DEATH(
            {
                ASSERT_EQ(hak_secure_stacks_start(1), 0);
                unsigned char *p = take(size);
                hak_free(p);
                hak_free(p);
            },
            told("block freed twice", true))
            << size;
        EXPECT_DEATH(
            {
                ASSERT_EQ(hak_secure_stacks_start(1), 0);
                hak_free(hak_realloc(take(size), size - 20)); /* no mark of it stays */
                unsigned char *p = take(size);
                p[size] ^= 1;
                hak_free(p);
            },
            size > 100000 ? "" : told("block written to", false))
            << size;
    }
    EXPECT_DEATH(
        {
            ASSERT_EQ(hak_secure_stacks_start(1), 0);
            unsigned char *p = take(40);
            auto *q = static_cast<unsigned char *>(hak_realloc(p, 4000));
            p[3] = 1;
            hak_free(q);
            (void)hak_verify();
        },
        told("freed block written to", true));
}

/* A fault of the child, in which stacks are kept and faults reported. */
template <class F> void expect_fault(F touch, const std::string &says)
{
    EXPECT_EXIT(
        {
            ASSERT_EQ(hak_secure_stacks_start(1), 0);
            ASSERT_EQ(hak_secure_fault_start(), 0);
            touch();
        },
        testing::KilledBySignal(SIGSEGV), says);
}

TEST(SecureDeathTest, AFaultAtALargeBlockIsExplained)
{
    const std::string touched = "\nhakmem: touched by thread [0-9]+: 0x[0-9a-f]+.*\n",
                      allocated = touched + "hakmem: allocated by thread [0-9]+: 0x",
                      at = "0x[0-9a-f]+ \\(", of = " of 200000 bytes at 0x[0-9a-f]+\\)";
    const std::string read = "(read|touched)", written = "(written to|touched)";
    expect_fault([] { take(200000)[200011] = 1; }, "^hakmem: block " + written +
                                                       " behind its end: " + at +
                                                       "12 bytes behind a block" + of + allocated);
    expect_fault([] { take(200000)[-3000] = 1; }, "^hakmem: block " + written +
                                                      " before its start: " + at +
                                                      "3000 bytes before a block" + of + allocated);
    expect_fault(
        [] {
            volatile unsigned char *p = take(200000);
            hak_free(const_cast<unsigned char *>(p));
            (void)p[7];
        },
        "^hakmem: freed block " + read + ": " + at + "byte 7 of a freed block" + of + allocated +
            ".*\nhakmem: freed by thread [0-9]+: 0x");
    expect_fault([] { (void)*static_cast<volatile char *>(hak_malloc(0)); },
                 "^hakmem: block of 0 bytes " + read + ": 0x[0-9a-f]+" + touched);
    expect_fault([] { *reinterpret_cast<volatile char *>(64) = 1; }, "^$");
    expect_fault(
        [] {
            unsigned char *p = take(200000);
            ASSERT_EQ(
                hak_os_protect(p + (-reinterpret_cast<uintptr_t>(p) & 4095), 4096, OS_UNTOUCHABLE),
                0);
            p[4096] = 1;
        },
        "^$");
}

/* The program's handler gets what is not ours, and what is. */
TEST(SecureDeathTest, TheProgramsHandlerComesAfterTheReport)
{
    EXPECT_EXIT(
        {
            signal(SIGSEGV, [](int) { _exit(7); });
            ASSERT_EQ(hak_secure_fault_start(), 0);
            take(200000)[200000] = 1;
        },
        testing::ExitedWithCode(7), "^hakmem: block (written to|touched) behind its end");
    EXPECT_EXIT(
        {
            signal(SIGSEGV, [](int) { _exit(7); });
            ASSERT_EQ(hak_secure_fault_start(), 0);
            *reinterpret_cast<volatile char *>(64) = 1;
        },
        testing::ExitedWithCode(7), "^$");
}

} // namespace
