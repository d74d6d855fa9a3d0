// The reader: whole profiles, those that were cut off, and what it refuses.
#include "report/profile.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace hakmem::report
{
namespace
{

const char whole[] = "hakmem-profile 1\n"
                     "program /tmp/a\\nb\\\\c d\n"
                     "pid 42\n"
                     "reason exit\n"
                     "partial 1\n"
                     "time_ns 1700000000000000000\n"
                     "elapsed_ms 1500\n"
                     "period 524288\n"
                     "live_bytes 1000\n"
                     "resident_bytes 2000\n"
                     "something new 7\n"
                     "fields live_objects live_bytes\n"
                     "stack 3 -4 tid=17 : 0x10 0xffffffffffffffff\n"
                     "stack 1 2 :\n"
                     "point 10 20 30\n"
                     "map 0x1000-0x2000 0x40 abcd /lib/a b.so\n"
                     "map 3000-4000 0 - [vdso]\n"
                     "end\n"
                     "stack what comes after the end is not read\n";

std::string read(const std::string &text, Profile *profile)
{
    std::istringstream in(text);
    return read_profile(in, profile);
}

std::string wrong(const std::string &line)
{
    Profile profile;
    return read("hakmem-profile 1\nfields live_objects live_bytes\n" + line + "\nend\n", &profile);
}

TEST(Profile, EveryLineIsRead)
{
    Profile p;
    ASSERT_EQ(read(whole, &p), "");
    EXPECT_EQ(p.program, "/tmp/a\nb\\c d");
    EXPECT_EQ(p.pid, 42);
    EXPECT_EQ(p.reason, "exit");
    EXPECT_TRUE(p.partial);
    EXPECT_EQ(p.time_ns, 1700000000000000000u);
    EXPECT_EQ(p.elapsed_ms, 1500u);
    EXPECT_EQ(p.period, 524288u);
    EXPECT_EQ(p.live_bytes, 1000u);
    EXPECT_EQ(p.resident_bytes, 2000u);
    EXPECT_EQ(p.field("live_bytes"), 1);
    EXPECT_EQ(p.field("peak_bytes"), -1);
    ASSERT_EQ(p.stacks.size(), 2u);
    EXPECT_EQ(p.stacks[0].values, (std::vector<int64_t>{3, -4}));
    EXPECT_EQ(p.stacks[0].tid, 17);
    EXPECT_EQ(p.stacks[0].addresses, (std::vector<uint64_t>{0x10, UINT64_MAX}));
    EXPECT_EQ(p.stacks[1].tid, -1);
    EXPECT_TRUE(p.stacks[1].addresses.empty());
    ASSERT_EQ(p.points.size(), 1u);
    EXPECT_EQ(p.points[0].resident_bytes, 30u);
    ASSERT_EQ(p.mappings.size(), 2u);
    EXPECT_EQ(p.mappings[0].start, 0x1000u);
    EXPECT_EQ(p.mappings[0].offset, 0x40u);
    EXPECT_EQ(p.mappings[0].build_id, "abcd");
    EXPECT_EQ(p.mappings[0].path, "/lib/a b.so");
    EXPECT_EQ(p.mappings[1].build_id, "");
    EXPECT_TRUE(p.whole);
}

TEST(Profile, EveryPrefixIsReadOrRefusedWithoutACrash)
{
    std::string text = whole;
    for (size_t n = 0; n < text.size(); n++) {
        Profile p;
        std::string said = read(text.substr(0, n), &p);
        size_t end = text.find("\nend") + 4;
        EXPECT_EQ(p.whole, n >= end) << n;
        EXPECT_EQ(said.empty(), n >= text.find("fields live_objects") + 8) << n << ": " << said;
    }
}

TEST(Profile, Refusals)
{
    Profile p;
    EXPECT_EQ(read("", &p), "not a heap profile of hakmem");
    EXPECT_EQ(read("heap profile: 1: 2\n", &p), "not a heap profile of hakmem");
    EXPECT_EQ(read("hakmem-profile 2\n", &p),
              "version '2' of the format; this program reads version 1");
    EXPECT_EQ(read("hakmem-profile 1\nend\n", &p), "no line 'fields'");
    EXPECT_EQ(read("hakmem-profile 1\nstack 1 : 0x1\nend\n", &p),
              "line 2: a stack before the line 'fields'");
    EXPECT_EQ(wrong("stack 1 : 0x1"), "line 3: a stack with 1 numbers for 2 fields");
    EXPECT_EQ(wrong("stack 1 2 0x1"), "line 3: '0x1' is no number");
    EXPECT_EQ(wrong("stack 1 2"), "line 3: a stack without ':'");
    EXPECT_EQ(wrong("stack 1 2 : zz"), "line 3: 'zz' is no address");
    EXPECT_EQ(wrong("stack 1 9223372036854775808 : 0x1"),
              "line 3: '9223372036854775808' is no number");
    EXPECT_EQ(wrong("stack 1 2 tid=x : 0x1"), "line 3: 'tid=x' is no thread");
    EXPECT_EQ(wrong("point 1 2"), "line 3: '' is no number");
    EXPECT_EQ(wrong("map 0x2-0x1 0 - /a"), "line 3: no mapping");
    EXPECT_EQ(wrong("period x"), "line 3: 'x' is no number");
    EXPECT_EQ(wrong("fields a"), "line 3: a second line 'fields'");
    EXPECT_EQ(wrong("stack 1 2 new=3 : 0x1"), "") << "words of later versions are skipped";
}

TEST(Profile, FilesThatAreNone)
{
    Profile p;
    EXPECT_EQ(read_profile_file("/no/such/file", &p), "/no/such/file: No such file or directory");
    EXPECT_EQ(read_profile_file("/", &p), "/: Is a directory");
}

} // namespace
} // namespace hakmem::report
