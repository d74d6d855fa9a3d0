/* A sandbox as programs make one: a filter that ends the process at every system call that it does
   not list. C and C++. */
#ifndef HAKMEM_TESTING_SANDBOX_H
#define HAKMEM_TESTING_SANDBOX_H

#if __has_include(<linux/seccomp.h>) && __has_include(<linux/filter.h>)
#define HAS_SANDBOX 1

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What glibc's malloc makes, and what the programs themselves need to tell the result and to end.
 */
#define SANDBOX_MALLOC                                                                             \
    SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise, SYS_mprotect, SYS_brk, SYS_futex, SYS_write,    \
        SYS_exit, SYS_exit_group
/* What glibc makes besides for a thread without attributes: pthread_create and the thread's
   beginning; its end. */
#define SANDBOX_THREADS    SYS_clone, SYS_clone3, SYS_set_robust_list, SYS_rseq, SYS_rt_sigaction
#define SANDBOX_THREAD_END SYS_rt_sigprocmask

/* Kills the process at every other system call, in this thread or in all of them. Returns 0 if it
   is in force. */
static inline int sandbox_enter(const int *allowed, size_t n, int all_threads)
{
    struct sock_filter filter[64];
    size_t at = 0;
    if (n > sizeof filter / sizeof filter[0] - 3) {
        return -1;
    }
    filter[at++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < n; i++) {
        filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i],
                                                    (unsigned char)(n - i), 0);
    }
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)at, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
        return -1;
    }
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                        all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0, &program);
}

#else
#define HAS_SANDBOX 0
#endif

#endif
