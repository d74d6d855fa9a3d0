/* A program with more privileges than its caller (AT_SECURE), played by a replaced OS layer from
   the first call on: no variable is read, and nothing is written. checks/survival/secure_test.py
   does it with real ones. */
#include <cstdlib>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <unistd.h>

#include "base/options.h"
#include "base/os.h"
#include "hakmem/hakmem.h"
#include "testing/failing_os.h"

namespace
{

int n_written, n_environments;

const char *hostile[] = {"HAKMEM_VERBOSE=1",    "HAKMEM_SHOW_STATS=1",
                         "HAKMEM_ACE_TRACE=1",  "HAKMEM_LIMIT_HARD=1m",
                         "HAKMEM_LIMIT_SOFT=1", "HAKMEM_LD_SAFE=2",
                         "HAKMEM_NO_SUCH=1",    "HAKMEM_BIN_BYTES=junk",
                         "HAKMEM_BACKGROUND=2", nullptr};

ssize_t count_write(int, const void *, size_t size)
{
    n_written++;
    return static_cast<ssize_t>(size);
}

/* Before hakmem's own start. */
__attribute__((constructor(101))) void begin()
{
    hak_os_ops.is_secure = [] { return 1; };
    hak_os_ops.environ_ = [] {
        n_environments++;
        return const_cast<char **>(hostile);
    };
    hak_os_ops.write = count_write;
}

TEST(Secure, NoVariableIsReadAndNothingWritten)
{
    hak_free(hak_malloc(1));
    EXPECT_GE(n_environments, 1) << "the start did take place";
    struct options defaults;
    hak_opt_defaults(&defaults);
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        EXPECT_EQ(memcmp(reinterpret_cast<char *>(&hak_options) + hak_opt_rows[i].offset,
                         reinterpret_cast<char *>(&defaults) + hak_opt_rows[i].offset,
                         sizeof(uint64_t)),
                  0)
            << hak_opt_rows[i].env;
    }
    EXPECT_EQ(hak_malloc(size_t(1) << 46), nullptr) << "and no line of a trace";
    std::thread other([] { hak_free(hak_malloc(100000)); });
    other.join();
    EXPECT_EQ(n_written, 0);
}

/* What the end of the process would write. */
TEST(Secure, NothingIsWrittenAtTheEnd)
{
    EXPECT_EXIT(
        {
            hak_os_ops.write = [](int, const void *, size_t) -> ssize_t { _exit(7); };
            exit(0);
        },
        testing::ExitedWithCode(0), "");
}

/* Corruption still ends the process with its line, as in glibc. */
TEST(Secure, AFatalErrorHasItsLine)
{
    hak_os_ops.write = hak_os_real_ops.write;
    int local = 0;
    EXPECT_DEATH(hak_free(&local), "hakmem: invalid pointer freed");
    hak_os_ops.write = count_write;
}

/* The same variables, without the privileges. */
TEST(Secure, OtherwiseTheyAreRead)
{
    struct options out;
    hak_opt_init(&out, const_cast<char **>(hostile));
    EXPECT_EQ(out.ld_safe, 2u);
    EXPECT_GE(n_written, 2) << "complaints";
}

} // namespace
