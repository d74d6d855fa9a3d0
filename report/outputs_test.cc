// Text, folded stacks, gperftools' format, pprof's message and the page's data, of profiles without
// symbols: what the names are is symbols_test's.
#include <gtest/gtest.h>

#include <cstring>
#include <sstream>

#include "report/page.h"
#include "report/pprof.h"
#include "report/report.h"
#include "report/text.h"

namespace hakmem::report
{
namespace
{

// Addresses 0x1000 to 0x1fff are of a program that is not there.
Profile profile(const std::vector<Stack> &stacks)
{
    Profile made;
    made.program = "/gone/server";
    made.pid = 7;
    made.elapsed_ms = 1500;
    made.period = 1 << 20;
    made.live_bytes = 3 << 20;
    made.resident_bytes = 5 << 20;
    made.whole = true;
    made.fields = {"live_objects", "live_bytes", "allocated_objects", "allocated_bytes"};
    made.stacks = stacks;
    Mapping mapping;
    mapping.start = 0x1000;
    mapping.end = 0x2000;
    mapping.path = "/gone/server";
    made.mappings = {mapping};
    return made;
}

Stack stack(std::vector<int64_t> values, std::vector<uint64_t> addresses)
{
    Stack made;
    made.values = std::move(values);
    made.addresses = std::move(addresses);
    return made;
}

const std::vector<Stack> two = {stack({2, 3 << 20, 4, 4 << 20}, {0x1011, 0x1021}),
                                stack({1, 1 << 20, 9, 9 << 20}, {0x1031, 0x1021})};

std::string text(const Report &report, void (*write)(const Report &, int, std::ostream &),
                 int field)
{
    std::ostringstream out;
    write(report, field, out);
    return out.str();
}

TEST(Outputs, Text)
{
    Symbols symbols;
    std::ostringstream out;
    write_text(make_report(profile(two), &symbols), 1, 1, out);
    EXPECT_EQ(out.str(),
              "heap profile of /gone/server, pid 7, after 1.5 s: 3.0 MiB live, 5.0 MiB resident\n"
              "estimates; one sample in 1.0 MiB of allocated memory\n"
              "\n"
              "        live    share     blocks  call site\n"
              "     3.0 MiB   75.0 %          2  server+0x10\n"
              "(1 more call sites)\n"
              "\n"
              "Largest stacks, innermost call first:\n"
              "\n"
              "3.0 MiB\n"
              "    server+0x10\n"
              "    server+0x20\n"
              "\n"
              "no names: /gone/server: No such file or directory\n");
}

TEST(Outputs, TextOfNothing)
{
    Symbols symbols;
    std::ostringstream out;
    Profile empty = profile({});
    empty.whole = false;
    write_text(make_report(empty, &symbols), 1, 20, out);
    EXPECT_NE(out.str().find("(the file was cut off"), std::string::npos) << out.str();
    EXPECT_NE(out.str().find("call site\nnothing\n"), std::string::npos) << out.str();
    EXPECT_EQ(out.str().find("--by"), std::string::npos) << out.str();
    Profile ended = profile({stack({0, 9}, {0x1011})});
    ended.fields = {"live_bytes", "peak_bytes"};
    std::ostringstream again;
    write_text(make_report(ended, &symbols), 0, 20, again);
    EXPECT_NE(again.str().find("(--by peak_bytes shows"), std::string::npos) << again.str();
}

TEST(Outputs, Folded)
{
    Symbols symbols;
    Report report = make_report(profile(two), &symbols);
    EXPECT_EQ(text(report, write_folded, 1), "server+0x20;server+0x10 3145728\n"
                                             "server+0x20;server+0x30 1048576\n");
    EXPECT_EQ(text(report, write_folded, 2), "server+0x20;server+0x10 4\n"
                                             "server+0x20;server+0x30 9\n");
}

TEST(Outputs, DifferenceJoinsStacksWhateverTheirAddresses)
{
    Symbols symbols;
    Profile before = profile(two);
    Profile after = profile({stack({5, 6 << 20, 8, 8 << 20}, {0x9011, 0x9021}),
                             stack({1, 100, 1, 100}, {0x9041, 0x9021})});
    after.mappings[0].start = 0x9000;
    after.mappings[0].end = 0xa000;
    Report report = make_diff(before, after, &symbols);
    ASSERT_EQ(report.entries.size(), 3u);
    EXPECT_EQ(report.total(1), (6 << 20) + 100);
    EXPECT_EQ(report.total_before(1), 4 << 20);
    EXPECT_EQ(text(report, write_folded, 1), "server+0x20;server+0x10 3145728 6291456\n"
                                             "server+0x20;server+0x30 1048576 0\n"
                                             "server+0x20;server+0x40 0 100\n");
    std::ostringstream out;
    write_text(report, 1, 20, out);
    EXPECT_NE(out.str().find("     3.0 MiB     6.0 MiB    +3.0 MiB  server+0x10\n"
                             "     1.0 MiB         0 B    -1.0 MiB  server+0x30\n"
                             "         0 B       100 B      +100 B  server+0x40\n"),
              std::string::npos)
        << out.str();
}

TEST(Outputs, DifferenceOfOneProfileWithItselfIsNothing)
{
    Symbols symbols;
    Report report = make_diff(profile(two), profile(two), &symbols);
    for (const Entry &entry : report.entries) {
        EXPECT_EQ(entry.values, entry.before);
    }
}

TEST(Outputs, FieldsOfTheEarlierProfileAreFoundByName)
{
    Symbols symbols;
    Profile before = profile({stack({7}, {0x1011})});
    before.fields = {"live_bytes"};
    Report report = make_diff(before, profile(two), &symbols);
    EXPECT_EQ(report.entries[0].before, (std::vector<int64_t>{0, 7, 0, 0}));
}

TEST(Outputs, Heap)
{
    Symbols symbols;
    std::ostringstream out;
    write_heap(make_report(profile(two), &symbols), out);
    EXPECT_EQ(out.str(), "heap profile:      3:  4194304 [    13: 13631488] @ heapprofile\n"
                         "     2:  3145728 [     4:  4194304] @ 0x00001011 0x00001021\n"
                         "     1:  1048576 [     9:  9437184] @ 0x00001031 0x00001021\n"
                         "\n"
                         "MAPPED_LIBRARIES:\n"
                         "00001000-00002000 r-xp 00000000 00:00 0 /gone/server\n");
}

TEST(Outputs, PprofHasEachStringOnce)
{
    Symbols symbols;
    std::string message = pprof_message(make_report(profile(two), &symbols));
    for (const char *name : {"inuse_space", "alloc_objects", "server+0x20", "/gone/server"}) {
        std::string field = std::string("\x32") + static_cast<char>(std::strlen(name)) + name;
        size_t at = message.find(field);
        ASSERT_NE(at, std::string::npos) << name;
        EXPECT_EQ(message.find(field, at + 1), std::string::npos) << name;
    }
    std::string packed = gzip(message);
    EXPECT_EQ(packed.substr(0, 2), "\x1f\x8b");
}

TEST(Outputs, Json)
{
    EXPECT_EQ(json_string("a\"b\\c\n"), "\"a\\u0022b\\u005cc\\u000a\"");
    EXPECT_EQ(json_string("</script>"), "\"\\u003c/script>\"");
    EXPECT_EQ(json_string("\xc3\xa9"), "\"\xc3\xa9\"");
    EXPECT_EQ(json_string("\xc3("), "\"\\ufffd(\"");
    EXPECT_EQ(json_string("\xff\xc0\x80\xe2\x82"), "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

TEST(Outputs, ProgramNamesCannotLeaveThePage)
{
    Symbols symbols;
    Profile bad = profile({});
    bad.program = "/x/<script>alert(1)</script>";
    bad.reason = "</script><b>";
    std::ostringstream out;
    write_page(make_report(bad, &symbols), 1, out);
    EXPECT_EQ(out.str().find("<script>alert"), std::string::npos);
    EXPECT_EQ(out.str().find("</script><b>"), std::string::npos);
    EXPECT_EQ(out.str().find("src="), std::string::npos) << "the page loads something";
}

TEST(Outputs, Readable)
{
    EXPECT_EQ(readable_bytes(0), "0 B");
    EXPECT_EQ(readable_bytes(-1536), "-1.5 KiB");
    EXPECT_EQ(readable_bytes(INT64_C(5) << 40), "5.0 TiB");
    EXPECT_EQ(readable(field_of("lifetime_ms"), 3), "3 ms");
    EXPECT_STREQ(field_of("some_bytes").unit, "bytes");
    EXPECT_STREQ(field_of("visits").unit, "count");
}

} // namespace
} // namespace hakmem::report
