/* Tests of the option table and its parser: each row's bounds, junk, suffixes, overflow, and what
   hak_opt_init says. */
#include "base/options.h"

#include <cerrno>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <vector>

#include "testing/count_malloc.h"
#include "testing/failing_os.h"

namespace
{

using hak_testing::CapturedWrites;

uint64_t value_in(const struct options &o, const opt_row &row)
{
    return *reinterpret_cast<const uint64_t *>(reinterpret_cast<const char *>(&o) + row.offset);
}

bool is_bytes(const opt_row &row)
{
    return std::string(row.unit) == "bytes";
}

/* As one writes the value for the row. */
std::string text_of(const opt_row &row, uint64_t value)
{
    struct hak_line line = {0, {0}};
    hak_opt_line_value(&line, &row, value);
    return std::string(line.text, line.length);
}

/* One more than the row allows. */
std::string above(const opt_row &row)
{
    return row.type == OPT_LIMIT ? "18446744073709551616" : text_of(row, row.max + 1);
}

/* The result of hak_opt_parse; the value must be untouched on an error. */
int parse(const opt_row &row, const std::string &text, uint64_t *value)
{
    const uint64_t untouched = 0xABCDEF0123456789u;
    *value = untouched;
    int error = hak_opt_parse(&row, text.c_str(), value);
    if (error) {
        EXPECT_EQ(*value, untouched) << row.env << "=" << text;
    }
    return error;
}

/* An environment of one or more entries. */
class Environment
{
  public:
    explicit Environment(std::vector<std::string> entries) : entries_(std::move(entries))
    {
        for (std::string &entry : entries_) {
            pointers_.push_back(&entry[0]);
        }
        pointers_.push_back(nullptr);
    }
    char **get()
    {
        return pointers_.data();
    }

  private:
    std::vector<std::string> entries_;
    std::vector<char *> pointers_;
};

struct options garbage()
{
    struct options o;
    memset(&o, 0xA5, sizeof o);
    return o;
}

TEST(Options, TableIsSound)
{
    std::set<std::string> envs;
    std::set<size_t> offsets;
    ASSERT_EQ(hak_opt_n_rows * sizeof(uint64_t), sizeof(struct options));
    EXPECT_LT(hak_opt_n_rows, 40u);
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        const opt_row &row = hak_opt_rows[i];
        EXPECT_EQ(std::string(row.env).rfind("HAKMEM_", 0), 0u) << row.env;
        EXPECT_TRUE(envs.insert(row.env).second) << row.env;
        EXPECT_TRUE(offsets.insert(row.offset).second) << row.env;
        EXPECT_LE(row.min, row.def) << row.env;
        EXPECT_LE(row.def, row.max) << row.env;
        EXPECT_EQ(row.min < row.max, row.type != OPT_TEXT) << row.env;
        if (row.type == OPT_SWITCH) {
            EXPECT_EQ(row.max, 1u) << row.env;
        }
        /* HAKMEM_ and the name in capitals. */
        std::string env = "HAKMEM_";
        for (const char *c = row.name; *c; c++) {
            env += static_cast<char>(toupper(*c));
        }
        EXPECT_EQ(env, row.env);
    }
}

TEST(Options, DefaultsHoldBeforeAndAfterOptDefaults)
{
    struct options o = garbage();
    hak_opt_defaults(&o);
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        EXPECT_EQ(value_in(o, hak_opt_rows[i]), hak_opt_rows[i].def) << hak_opt_rows[i].env;
        /* Statically initialised: right before anything ran. */
        EXPECT_EQ(value_in(hak_options, hak_opt_rows[i]), hak_opt_rows[i].def)
            << hak_opt_rows[i].env;
    }
}

TEST(Options, BoundsOfEachRow)
{
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        const opt_row &row = hak_opt_rows[i];
        uint64_t value;
        EXPECT_EQ(parse(row, text_of(row, row.min), &value), 0) << row.env;
        EXPECT_EQ(value, row.min) << row.env;
        EXPECT_EQ(parse(row, text_of(row, row.max), &value), 0) << row.env;
        EXPECT_EQ(value, row.max) << row.env;
        if (row.min > 0) {
            EXPECT_EQ(parse(row, text_of(row, row.min - 1), &value), ERANGE) << row.env;
        }
        EXPECT_EQ(parse(row, above(row), &value), row.type == OPT_SWITCH ? EINVAL : ERANGE)
            << row.env;
    }
}

/* Only a switch whose unit says so takes a path, and only what has a slash is one. */
TEST(Options, AFileForASwitch)
{
    size_t n_files = 0;
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        const opt_row &row = hak_opt_rows[i];
        bool may_be_file = std::string(row.unit) == "file";
        if (row.type == OPT_TEXT) {
            continue;
        }
        n_files += may_be_file;
        for (const char *text : {"/tmp/x", "./x y", "a/", "/"}) {
            uint64_t value;
            EXPECT_EQ(parse(row, text, &value), may_be_file ? 0 : EINVAL) << row.env;
        }
        if (may_be_file) {
            EXPECT_EQ(row.type, OPT_SWITCH);
            uint64_t value = 0;
            const char *path = "/some/where";
            EXPECT_EQ(hak_opt_parse(&row, path, &value), 0);
            EXPECT_STREQ(hak_opt_file(value), path);
            hak_line line = {0, {0}};
            hak_opt_line_value(&line, &row, value);
            EXPECT_EQ(std::string(line.text, line.length), path);
        }
    }
    EXPECT_GE(n_files, 1u);
    EXPECT_EQ(hak_opt_file(0), nullptr);
    EXPECT_EQ(hak_opt_file(1), nullptr);
}

TEST(Options, JunkForEachRow)
{
    static const char *const junk[] = {
        "",    " ",   " 1",  "1 ",   "-1",       "+1",  "0x1", "1.0", "1e3", "abc",
        "k",   "1kk", "1kb", "1t",   "1 k",      "k1",  "--",  "=1",  "1=",  "1;",
        "onn", "tru", "o",   "yes!", "\xD9\xA1", "1\n", "0 0", "nul", "%d",  "1,000"};
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        for (const char *text : junk) {
            uint64_t value;
            if (hak_opt_rows[i].type == OPT_RATIO && std::string(text) == "1.0") {
                continue;
            }
            EXPECT_EQ(parse(hak_opt_rows[i], text, &value), EINVAL)
                << hak_opt_rows[i].env << "='" << text << "'";
        }
    }
}

TEST(Options, SuffixesWhereTheUnitIsBytes)
{
    static const struct {
        const char *suffix;
        int shift;
    } suffixes[] = {{"k", 10}, {"K", 10}, {"m", 20}, {"M", 20}, {"g", 30}, {"G", 30}};
    int n_tried = 0;
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        const opt_row &row = hak_opt_rows[i];
        for (const auto &s : suffixes) {
            uint64_t value;
            int error = parse(row, std::string("1") + s.suffix, &value);
            if (!is_bytes(row)) {
                EXPECT_EQ(error, EINVAL) << row.env << s.suffix;
            } else if (row.min <= (1ull << s.shift) && (1ull << s.shift) <= row.max) {
                EXPECT_EQ(error, 0) << row.env << s.suffix;
                EXPECT_EQ(value, 1ull << s.shift) << row.env << s.suffix;
                n_tried++;
            } else {
                EXPECT_EQ(error, ERANGE) << row.env << s.suffix;
            }
        }
    }
    EXPECT_GT(n_tried, 0);
}

TEST(Options, OverflowIsOutOfRange)
{
    /* Each of these is small, or 0, modulo 2^64. */
    static const char *const plain[] = {"18446744073709551616", "18446744073709551617",
                                        "36893488147419103233", "184467440737095516160",
                                        "99999999999999999999999999999999999999999"};
    static const char *const suffixed[] = {"18014398509481984k", "17592186044416m", "17179869184g",
                                           "18446744073709551615g"};
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        const opt_row &row = hak_opt_rows[i];
        if (row.type == OPT_SWITCH) {
            continue;
        }
        uint64_t value;
        for (const char *text : plain) {
            EXPECT_EQ(parse(row, text, &value), ERANGE) << row.env << "=" << text;
        }
        for (const char *text : suffixed) {
            if (is_bytes(row)) {
                EXPECT_EQ(parse(row, text, &value), ERANGE) << row.env << "=" << text;
            }
        }
    }
}

TEST(Options, SwitchWords)
{
    static const struct {
        const char *text;
        uint64_t value;
    } words[] = {{"0", 0},   {"1", 1},  {"off", 0}, {"on", 1},  {"no", 0},    {"yes", 1},
                 {"OFF", 0}, {"On", 1}, {"NO", 0},  {"yEs", 1}, {"false", 0}, {"TRUE", 1}};
    int n_switches = 0;
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        if (hak_opt_rows[i].type != OPT_SWITCH) {
            continue;
        }
        n_switches++;
        for (const auto &word : words) {
            uint64_t value;
            EXPECT_EQ(parse(hak_opt_rows[i], word.text, &value), 0) << word.text;
            EXPECT_EQ(value, word.value) << word.text;
        }
    }
    EXPECT_GT(n_switches, 0);
}

TEST(Options, Ratios)
{
    static const struct {
        const char *text;
        int error;
        uint64_t value;
    } cases[] = {
        {"1", 0, 1000},       {"1.0", 0, 1000},   {"1.01", 0, 1010},      {"1.25", 0, 1250},
        {"2.5", 0, 2500},     {"1.125", 0, 1125}, {"10", 0, 10000},       {"0.999", ERANGE, 0},
        {"0", ERANGE, 0},     {"1.", EINVAL, 0},  {".5", EINVAL, 0},      {"1.0001", EINVAL, 0},
        {"1.2.3", EINVAL, 0}, {"1,5", EINVAL, 0}, {"1.a", EINVAL, 0},     {"9e9", EINVAL, 0},
        {"1.25 ", EINVAL, 0}, {"1k", EINVAL, 0},  {"1000.001", ERANGE, 0}};
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        for (const auto &c : cases) {
            uint64_t value;
            if (hak_opt_rows[i].type == OPT_RATIO) {
                EXPECT_EQ(parse(hak_opt_rows[i], c.text, &value), c.error) << c.text;
                EXPECT_TRUE(c.error || value == c.value) << c.text;
            }
        }
    }
}

TEST(Options, LimitsMayBeAuto)
{
    int n_limits = 0;
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        uint64_t value;
        if (hak_opt_rows[i].type == OPT_LIMIT) {
            n_limits++;
            EXPECT_EQ(parse(hak_opt_rows[i], "auto", &value), 0);
            EXPECT_EQ(value, UINT64_MAX);
            EXPECT_EQ(parse(hak_opt_rows[i], "AUTO", &value), 0);
            EXPECT_EQ(parse(hak_opt_rows[i], "512m", &value), 0);
            EXPECT_EQ(value, 512u << 20);
        } else {
            EXPECT_EQ(parse(hak_opt_rows[i], "auto", &value), EINVAL) << hak_opt_rows[i].env;
        }
    }
    EXPECT_EQ(n_limits, 3);
}

TEST(Options, RatesMayBeOnOrOff)
{
    int n_rates = 0;
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        uint64_t value;
        if (hak_opt_rows[i].type == OPT_RATE) {
            n_rates++;
            EXPECT_EQ(parse(hak_opt_rows[i], "on", &value), 0);
            EXPECT_EQ(value, OPT_RATE_ON);
            EXPECT_EQ(parse(hak_opt_rows[i], "OFF", &value), 0);
            EXPECT_EQ(value, 0u);
            EXPECT_EQ(parse(hak_opt_rows[i], "yes", &value), EINVAL);
        }
    }
    EXPECT_EQ(n_rates, 1);
}

TEST(Options, TextsAreCopied)
{
    int n_texts = 0;
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        const opt_row &row = hak_opt_rows[i];
        if (row.type != OPT_TEXT) {
            continue;
        }
        n_texts++;
        char text[] = "/some/file,with 100%", longer[9000];
        uint64_t value, again;
        EXPECT_EQ(parse(row, text, &value), 0);
        text[0] = 'x'; /* programs write their titles there */
        EXPECT_STREQ(reinterpret_cast<char *>(value), "/some/file,with 100%");
        EXPECT_EQ(parse(row, "/some/file,with 100%", &again), 0);
        EXPECT_EQ(again, value);
        EXPECT_EQ(text_of(row, value), "/some/file,with 100%");
        EXPECT_EQ(text_of(row, 0), "none");
        EXPECT_EQ(parse(row, "", &value), EINVAL);
        memset(longer, 'y', sizeof longer);
        longer[sizeof longer - 1] = 0;
        EXPECT_EQ(parse(row, longer, &value), ERANGE);
        Environment environment({std::string(row.env) + "="});
        struct options o = garbage();
        CapturedWrites writes;
        hak_opt_init(&o, environment.get());
        EXPECT_NE(writes.text().find("the name of a " + std::string(row.unit) + "; using none"),
                  std::string::npos)
            << writes.text();
    }
    EXPECT_EQ(n_texts, 2);
}

TEST(Options, InitReadsEachRowAndNoOther)
{
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        const opt_row &row = hak_opt_rows[i];
        uint64_t other = row.def == row.max ? row.min : row.max;
        Environment environment(
            {"PATH=/bin", std::string(row.env) + "=" + text_of(row, other), "X="});
        struct options o = garbage();
        CapturedWrites writes;
        hak_opt_init(&o, environment.get());
        EXPECT_EQ(writes.text(), "");
        for (size_t j = 0; j < hak_opt_n_rows; j++) {
            EXPECT_EQ(value_in(o, hak_opt_rows[j]), j == i ? other : hak_opt_rows[j].def)
                << hak_opt_rows[j].env;
        }
    }
}

TEST(Options, NoEnvironmentMeansDefaults)
{
    struct options o = garbage(), defaults;
    hak_opt_defaults(&defaults);
    hak_opt_init(&o, nullptr);
    EXPECT_EQ(memcmp(&o, &defaults, sizeof o), 0);
    Environment empty({});
    o = garbage();
    hak_opt_init(&o, empty.get());
    EXPECT_EQ(memcmp(&o, &defaults, sizeof o), 0);
}

/* One line, on standard error, that names the variable, the value, what is allowed, and what is
   used. */
TEST(Options, BadValueOfEachRowIsNamedAndTheDefaultUsed)
{
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        const opt_row &row = hak_opt_rows[i];
        for (const std::string &bad :
             {std::string("junk"), std::string(), above(row), std::string("-1")}) {
            Environment environment({std::string(row.env) + "=" + bad});
            struct options o = garbage();
            CapturedWrites writes;
            hak_opt_init(&o, environment.get());
            EXPECT_EQ(value_in(o, row), row.def) << row.env;
            std::string text = writes.text();
            EXPECT_EQ(writes.calls(), 1);
            EXPECT_EQ(writes.last_fd(), 2);
            EXPECT_EQ(text.find('\n'), text.size() - 1);
            EXPECT_EQ(text.rfind("hakmem: ", 0), 0u) << text;
            EXPECT_NE(text.find(std::string(row.env) + "='" + bad + "'"), std::string::npos)
                << text;
            EXPECT_NE(text.find("; using " + text_of(row, row.def)), std::string::npos) << text;
            if (row.type == OPT_SWITCH) {
                EXPECT_NE(text.find("0, 1, off, on, no, yes, false or true"), std::string::npos)
                    << text;
            } else {
                std::string bounds = row.type == OPT_LIMIT ? "auto, or a number of bytes"
                                                           : "from " + text_of(row, row.min) +
                                                                 " to " + text_of(row, row.max);
                EXPECT_NE(text.find(bounds), std::string::npos) << text;
                EXPECT_EQ(text.find("suffix") != std::string::npos, is_bytes(row)) << text;
            }
        }
    }
}

TEST(Options, UnknownVariableIsNamedWithAllThatAreKnown)
{
    for (const char *entry : {"HAKMEM_NO_SUCH_THING=1", "HAKMEM_=", "HAKMEM_VERBOSE",
                              "HAKMEM_VERBOSEX=1", "HAKMEM_LIBRARYX=1", "HAKMEM_verbose=1"}) {
        Environment environment({entry});
        struct options o = garbage(), defaults;
        hak_opt_defaults(&defaults);
        CapturedWrites writes;
        hak_opt_init(&o, environment.get());
        std::string text = writes.text();
        EXPECT_EQ(writes.calls(), 1);
        EXPECT_NE(text.find(std::string("unknown option '") + entry + "'"), std::string::npos)
            << text;
        for (size_t i = 0; i < hak_opt_n_rows; i++) {
            EXPECT_NE(text.find(std::string(" ") + hak_opt_rows[i].env), std::string::npos) << text;
        }
        EXPECT_EQ(memcmp(&o, &defaults, sizeof o), 0);
    }
}

TEST(Options, OtherProgramsVariablesAreNoMistakes)
{
    Environment environment({"HAKMEM_LIBRARY=/lib/libhakmem.so", "HAKMEMX=1", "hakmem_verbose=1",
                             "XHAKMEM_VERBOSE=1", "HAKMEM"});
    struct options o = garbage();
    CapturedWrites writes;
    hak_opt_init(&o, environment.get());
    EXPECT_EQ(writes.text(), "");
    EXPECT_EQ(o.verbose, 0u);
}

/* However long the value is, the line still says what is allowed. */
TEST(Options, LongValuesDoNotHideWhatIsAllowed)
{
    const std::string longest(5000, '7');
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        if (hak_opt_rows[i].type == OPT_TEXT) {
            continue;
        }
        Environment environment({std::string(hak_opt_rows[i].env) + "=" + longest});
        struct options o = garbage();
        CapturedWrites writes;
        hak_opt_init(&o, environment.get());
        std::string text = writes.text();
        EXPECT_NE(text.find("not allowed"), std::string::npos) << text;
        EXPECT_NE(text.find("; using " + text_of(hak_opt_rows[i], hak_opt_rows[i].def)),
                  std::string::npos)
            << text;
        EXPECT_EQ(text.back(), '\n');
    }
    Environment environment({"HAKMEM_UNKNOWN=" + longest});
    struct options o = garbage();
    CapturedWrites writes;
    hak_opt_init(&o, environment.get());
    EXPECT_NE(writes.text().find(hak_opt_rows[hak_opt_n_rows - 1].env), std::string::npos)
        << writes.text();
}

TEST(Options, NeverAllocates)
{
    if (!HAK_COUNTS_MALLOC) {
        GTEST_SKIP() << "the sanitizer brings its own malloc";
    }
    Environment environment(
        {"HAKMEM_VERBOSE=1", "HAKMEM_SHOW_STATS=junk", "HAKMEM_WHAT=1", "HAKMEM_BIN_BYTES=4k"});
    struct options o = garbage();
    CapturedWrites writes;
    uint64_t before = hak_testing::malloc_calls();
    hak_opt_init(&o, environment.get());
    uint64_t after = hak_testing::malloc_calls();
    EXPECT_EQ(after, before);
    EXPECT_EQ(writes.calls(), 2);
    /* The counter counts. */
    free(malloc(1));
    EXPECT_EQ(hak_testing::malloc_calls(), after + 1);
}

} // namespace
