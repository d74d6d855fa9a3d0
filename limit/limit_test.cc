/* Tests of the memory limit: admission, the purge at the soft limit, and what cgroups of both
   versions say. */
#include "limit/limit.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <string>

#include "base/os.h"
#include "base/stats.h"
#include "limit/fail.h"

namespace
{

const uint64_t kMiB = 1 << 20;

/* A file system of a few small files. */
std::map<std::string, std::string> files;
int n_opened, n_reads;
const std::string *open_file;
size_t position;

int open_hook(const char *path)
{
    n_opened++;
    auto found = files.find(path);
    open_file = found == files.end() ? nullptr : &found->second;
    position = 0;
    return open_file ? 77 : -1;
}

ssize_t read_hook(int, void *data, size_t size)
{
    size_t n =
        std::min({size, open_file->size() - position, size_t(7)}); /* in pieces, as read may */
    memcpy(data, open_file->data() + position, n);
    position += n;
    n_reads++;
    return static_cast<ssize_t>(n);
}

class Limit : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_os_ops.open = open_hook;
        hak_os_ops.read = read_hook;
        hak_os_ops.close = [](int) { return 0; };
        files.clear();
        n_opened = n_reads = 0;
        base = hak_limit_committed();
        hak_fail_begin();
    }
    void TearDown() override
    {
        set_used(0);
        hak_limit_configure(0, 0);
        while (hak_limit_wants_purge()) {
        }
        hak_os_ops = hak_os_real_ops;
    }
    static void set_auto(uint64_t soft, uint64_t hard)
    {
        hak_limit_read_cgroup();
        hak_limit_configure(soft, hard);
    }
    void set_used(int64_t bytes)
    {
        hak_limit_commit(static_cast<size_t>(bytes - used));
        used = bytes;
    }
    uint64_t base;
    int64_t used = 0;
};

TEST_F(Limit, NoneAdmitsAll)
{
    hak_limit_configure(0, 0);
    EXPECT_EQ(hak_limit_admit(SIZE_MAX / 2, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 0);
    EXPECT_EQ(n_opened, 0);
}

TEST_F(Limit, TheHardLimitRefuses)
{
    hak_limit_configure(0, base + 100 * kMiB);
    int64_t before = hak_stat_get(fail_exhaustion);
    EXPECT_EQ(hak_limit_admit(100 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_admit(100 * kMiB + 1, 1, 1), 0);
    EXPECT_EQ(hak_stat_get(fail_exhaustion), before + 1);
    EXPECT_EQ(hak_fail_any(), 1);
    set_used(60 * kMiB);
    EXPECT_EQ(hak_limit_committed(), base + 60 * kMiB);
    EXPECT_EQ(hak_limit_admit(40 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_admit(40 * kMiB + 1, 1, 1), 0);
    EXPECT_EQ(hak_limit_hard(), base + 100 * kMiB);
    EXPECT_EQ(hak_limit_soft(), 0u);
}

/* The purge is asked for once, and again after a further sixteenth. */
TEST_F(Limit, TheSoftLimitAsksForAPurge)
{
    hak_limit_configure(base + 160 * kMiB, 0);
    EXPECT_EQ(hak_limit_admit(160 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 0);
    EXPECT_EQ(hak_limit_admit(161 * kMiB, 1, 1), 1) << "admitted all the same";
    EXPECT_EQ(hak_limit_wants_purge(), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 0);
    set_used(165 * kMiB);
    hak_limit_purged();
    EXPECT_EQ(hak_limit_admit(9 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 0);
    EXPECT_EQ(hak_limit_admit(12 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 1);
    set_used(10 * kMiB);
    hak_limit_purged(); /* much went back: the limit itself counts again */
    EXPECT_EQ(hak_limit_admit(151 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 1);
}

TEST_F(Limit, AutoReadsTheCgroupOfVersion2AndThoseAbove)
{
    files["/proc/self/cgroup"] = "0::/a/b/c\n";
    files["/sys/fs/cgroup/a/b/c/memory.max"] = "max\n";
    files["/sys/fs/cgroup/a/b/memory.max"] = "800000000\n";
    files["/sys/fs/cgroup/a/memory.max"] = "900000000\n";
    set_auto(LIMIT_AUTO, LIMIT_AUTO);
    int opened = n_opened;
    EXPECT_EQ(hak_limit_hard(), 800000000u);
    EXPECT_EQ(hak_limit_soft(), 700000000u);
    EXPECT_EQ(n_opened, opened) << "read once";
}

TEST_F(Limit, AutoReadsTheCgroupOfVersion1)
{
    files["/proc/self/cgroup"] = "12:cpu,cpuacct:/x\n5:memory:/docker/12\n1:name=systemd:/x\n";
    files["/sys/fs/cgroup/memory/docker/12/memory.limit_in_bytes"] = "64000000\n";
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n";
    set_auto(LIMIT_AUTO, 0);
    EXPECT_EQ(hak_limit_soft(), 56000000u);
    EXPECT_EQ(hak_limit_hard(), 0u);
}

TEST_F(Limit, AutoInsideAContainerReadsTheRoot)
{
    files["/proc/self/cgroup"] = "0::/\n";
    files["/sys/fs/cgroup/memory.max"] = "1000000000\n";
    set_auto(0, LIMIT_AUTO);
    EXPECT_EQ(hak_limit_hard(), 1000000000u);
}

TEST_F(Limit, AutoWithoutACgroupIsNone)
{
    for (const char *text : {"", "\n", "0::/a\n", "garbage", "1:2", ":::\n:\n", "0:memory:/a"}) {
        files["/proc/self/cgroup"] = text;
        files["/sys/fs/cgroup/memory.limit_in_bytes"] = "junk";
        set_auto(LIMIT_AUTO, LIMIT_AUTO);
        EXPECT_EQ(hak_limit_soft(), 0u) << text;
        EXPECT_EQ(hak_limit_hard(), 0u) << text;
    }
    files["/proc/self/cgroup"] = "0::/" + std::string(5000, 'x') + "\n";
    set_auto(LIMIT_AUTO, LIMIT_AUTO);
    EXPECT_EQ(hak_limit_hard(), 0u) << "too long a name";
    files["/proc/self/cgroup"] = "5:memory:/\n";
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n";
    set_auto(LIMIT_AUTO, LIMIT_AUTO);
    EXPECT_EQ(hak_limit_hard(), 0u) << "version 1's unlimited";
}

/* A sandbox may forbid to open files, and descriptor 0, 1 or 2 may just be free: nothing that a
   request does reads the cgroup, however much is committed. */
TEST_F(Limit, AutoIsReadAtTheStartAlone)
{
    files["/proc/self/cgroup"] = "0::/\n";
    files["/sys/fs/cgroup/memory.max"] = "200000000\n";
    hak_limit_configure(LIMIT_AUTO, LIMIT_AUTO);
    (void)hak_limit_admit(190 * kMiB, 1, 1);
    (void)hak_limit_soft();
    (void)hak_limit_hard();
    EXPECT_EQ(n_opened, 0);
    errno = 7;
    hak_limit_read_cgroup();
    EXPECT_EQ(errno, 7);
    EXPECT_EQ(hak_limit_has_read_cgroup(), 1);
    EXPECT_EQ(n_opened, 2);
    EXPECT_EQ(n_reads, 2 + 2) << "a limit's file ends with its line";
    EXPECT_EQ(hak_limit_admit(1000, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 0);
    EXPECT_EQ(hak_limit_admit(185 * kMiB, 1, 1), 1);
    EXPECT_EQ(hak_limit_wants_purge(), 1);
    EXPECT_EQ(hak_limit_admit(210 * kMiB, 1, 1), 0);
    EXPECT_EQ(n_opened, 2);
}

/* A hard limit is in force at once, whatever the soft one waits for. */
TEST_F(Limit, ANumberDoesNotWaitForAuto)
{
    hak_limit_configure(LIMIT_AUTO, base + 1000);
    EXPECT_EQ(hak_limit_admit(1001, 1, 1), 0);
    EXPECT_EQ(n_opened, 0);
}

} // namespace
