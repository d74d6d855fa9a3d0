// worst_refused BYTES HOW OTHERS PAUSE_MS SECONDS: freed pages that the system does not take.
//
// Blocks of 512 KiB of which one page each is written. HOW 0: that page is locked in memory
// (mlock), as far as RLIMIT_MEMLOCK allows; 1: a filter fails every madvise that purges pages
// with EINVAL. Then every other block is freed, and after a pause in which all of it falls due each
// later call should cost the same, however much was refused.
#include "bench/worst/worst.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void refuse_purges(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_DONTNEED, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_FREE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        bench_die("no_new_privs");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        bench_die("seccomp");
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BYTES", 1, UINT64_C(1) << 42, 0, 1}, {"HOW", 0, 1, 0, 1},        {"OTHERS", 0, 1, 0, 1},
        {"PAUSE_MS", 0, 60000, 0, 1},          {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 5);
    size_t size = 512 * WORST_KIB, n = args[0].value / size + 2, n_locked = 0;
    char **blocks = worst_table(n);
    struct rlimit limit;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
    if (args[1].value == 1)
        refuse_purges();
    for (size_t i = 0; i < n; i++) {
        blocks[i] = worst_malloc(size);
        worst_touch(blocks[i], WORST_PAGE);
        // Every other block is freed: a page of each of those is locked.
        if (args[1].value == 0 && i % 2 == 0)
            n_locked += mlock(blocks[i], WORST_PAGE) == 0;
    }
    worst_stall_start(args[2].value);
    for (size_t i = 0; i < n; i += 2)
        worst_free(blocks[i]);
    if (args[1].value == 0)
        worst_value("locked", (double)n_locked, "pages");
    worst_sleep_ms(args[3].value);
    return worst_finish();
}
