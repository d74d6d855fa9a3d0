// Leak reports: how they are read, what suppresses a stack, and what is said of the rest.
#include "report/leaks.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace hakmem::report
{
namespace
{

const char raw[] = "hakmem-profile 1\n"
                   "program /bin/server\n"
                   "pid 42\n"
                   "reason exit\n"
                   "lost_objects 8\n"
                   "fields direct_bytes direct_objects held_bytes held_objects\n"
                   "stack 300 3 40 2 : 0x1001 0x2001\n"
                   "held 30 1 : 0x3001\n"
                   "held 10 1 : 0x4001\n"
                   "stack 5 1 0 0 : 0x5001\n"
                   "map 1000-9000 0 - /no/such/file\n"
                   "end\n";

Profile read(const std::string &text)
{
    Profile profile;
    std::istringstream in(text);
    EXPECT_EQ(read_profile(in, &profile), "");
    return profile;
}

std::string wrong(const std::string &line)
{
    Profile profile;
    std::istringstream in("hakmem-profile 1\nfields direct_bytes\n" + line + "\nend\n");
    return read_profile(in, &profile);
}

// A report whose frames have names.
Report named()
{
    Symbols symbols;
    Report report = make_report(read(raw), &symbols);
    const char *const functions[] = {"copy", "answer", "node", "text", "other"};
    EXPECT_EQ(report.frames.size(), 5u);
    for (size_t i = 0; i < report.frames.size(); i++) {
        report.frames[i] = Frame();
        report.frames[i].function = functions[i];
        report.frames[i].file = "/src/" + std::string(functions[i]) + ".c";
        report.frames[i].line = 7;
        report.frames[i].module = "/bin/server";
    }
    report.complaints.clear();
    return report;
}

std::string written(std::vector<Suppression> *suppressions, int64_t *n, size_t rows = 20)
{
    std::ostringstream out;
    *n = write_leaks(named(), suppressions, rows, out);
    return out.str();
}

std::vector<Suppression> of(const std::string &pattern)
{
    Suppression one;
    one.pattern = pattern;
    return {one};
}

TEST(Lost, IsRead)
{
    Profile profile = read(raw);
    EXPECT_TRUE(profile.is_leaks());
    EXPECT_TRUE(profile.whole);
    ASSERT_EQ(profile.stacks.size(), 2u);
    ASSERT_EQ(profile.stacks[0].held.size(), 2u);
    EXPECT_EQ(profile.stacks[0].held[0].bytes, 30);
    EXPECT_EQ(profile.stacks[0].held[0].objects, 1);
    EXPECT_EQ(profile.stacks[0].held[0].addresses, std::vector<uint64_t>{0x3001});
    EXPECT_TRUE(profile.stacks[1].held.empty());
}

TEST(Lost, WhatIsRefused)
{
    EXPECT_NE(wrong("held 1 2 : 0x10"), "");
    EXPECT_EQ(wrong("stack 1 : 0x10\nheld 1 2 : 0x10"), "");
    EXPECT_EQ(wrong("stack 1 : 0x10\nheld 1 2 :"), "");
    for (const char *line : {"held", "held 1", "held 1 2", "held 1 2 0x10", "held a 2 : 0x10",
                             "held 1 2 : 0xfg", "held 1 2 : 11112222333344445"}) {
        EXPECT_NE(wrong("stack 1 : 0x10\n" + std::string(line)), "") << line;
    }
}

TEST(Lost, IsSaid)
{
    std::vector<Suppression> none;
    int64_t n;
    EXPECT_EQ(written(&none, &n),
              "leaks of /bin/server, pid 42, at exit: 345 B in 6 blocks\n"
              "\n"
              "        lost     blocks   with them     blocks  call site\n"
              "       300 B          3        40 B          2  copy copy.c:7\n"
              "         5 B          1         0 B          0  other other.c:7\n"
              "\n"
              "Stacks, innermost call first:\n"
              "\n"
              "300 B in 3 blocks\n"
              "    copy copy.c:7\n"
              "    answer answer.c:7\n"
              "  and 40 B in 2 blocks to which only these lead:\n"
              "    30 B in 1 block: node node.c:7\n"
              "    10 B in 1 block: text text.c:7\n"
              "\n"
              "5 B in 1 block\n"
              "    other other.c:7\n"
              "\n");
    EXPECT_EQ(n, 4);
    std::string text = written(&none, &n, 1);
    EXPECT_NE(text.find("(1 more call sites)\n"), std::string::npos);
    EXPECT_NE(text.find("(1 more stacks)\n"), std::string::npos);
    EXPECT_EQ(n, 4);
}

TEST(Lost, IsSuppressed)
{
    int64_t n;
    std::vector<Suppression> some = of("answer.c");
    std::string text = written(&some, &n);
    EXPECT_EQ(n, 1);
    EXPECT_EQ(text.find("copy"), std::string::npos) << text;
    EXPECT_NE(text.find("suppressed: 340 B in 5 blocks, 1 stack, by leak:answer.c\n"),
              std::string::npos)
        << text;
    some.push_back(of("^other$")[0]);
    some.push_back(of("nowhere")[0]);
    some[0].stacks = 0;
    text = written(&some, &n);
    EXPECT_EQ(n, 0);
    EXPECT_EQ(text.find("no leaks of /bin/server, pid 42, at exit\n"), 0u) << text;
    EXPECT_EQ(text.find("nowhere"), std::string::npos);
    /* A stack of what is held suppresses nothing. */
    some = of("node");
    (void)written(&some, &n);
    EXPECT_EQ(n, 4);
}

TEST(Lost, Patterns)
{
    struct {
        const char *pattern, *name;
        bool is_match;
    } const rows[] = {
        {"copy", "copy_text", true},
        {"copy", "xcopy", true},
        {"copy", "cop", false},
        {"^copy", "copy_text", true},
        {"^copy", "xcopy", false},
        {"copy$", "xcopy", true},
        {"copy$", "copy_text", false},
        {"^copy$", "copy", true},
        {"^copy$", "copycopy", false},
        {"c*y", "xcopyx", true},
        {"^c*y$", "copy", true},
        {"^c*y$", "copyx", false},
        {"^c*y$", "cyy", true},
        {"a*a", "a", false},
        {"^a*a$", "a", false},
        {"*", "anything", true},
        {"^*$", "anything", true},
        {"a**b", "ab", true},
        {"^ab*", "abc", true},
        {"^ab*", "xabc", false},
        {"std::*map", "std::unordered_map<int>", true},
        {"", "copy", false},
        {"^$", "copy", false},
        {"copy", "", false},
        {"o*o$", "foo", true},
        {"ooo$", "oo", false},
    };
    for (const auto &row : rows) {
        EXPECT_EQ(matches(row.pattern, row.name), row.is_match) << row.pattern << " " << row.name;
    }
}

TEST(Lost, FilesOfSuppressions)
{
    const char *folder = std::getenv("TEST_TMPDIR");
    std::string path = (folder ? folder : "/tmp") + std::string("/suppressions");
    std::vector<Suppression> some;
    auto write = [&](const std::string &text) {
        std::ofstream(path) << text;
        some.clear();
        return read_suppressions(path, &some);
    };
    EXPECT_EQ(write("# known\n\n  leak:a b \r\nleak:^c$"), "");
    ASSERT_EQ(some.size(), 2u);
    EXPECT_EQ(some[0].pattern, "a b");
    EXPECT_EQ(some[1].pattern, "^c$");
    EXPECT_EQ(write(""), "");
    EXPECT_EQ(write("leak:a\nrace:b\n"), path + ": line 2: not `leak:PATTERN`");
    EXPECT_NE(write("leak:\n"), "");
    EXPECT_NE(read_suppressions(path + ".none", &some), "");
}

} // namespace
} // namespace hakmem::report
