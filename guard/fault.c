/* The handler of SIGSEGV. No locks. The kernel calls it; layer.c installs it.

   Only SIGSEGV: what may not be touched is private memory without access, whose fault never is a
   SIGBUS.

   After a report the process ends as it would have: the action from before is installed again, and
   the instruction is done once more. A fault elsewhere goes to the handler from before by a call,
   since a program may live on after it (null checks of a virtual machine), and more may come.

   HAKMEM_SHOW_STATS's handler stands only over the default action. If it was there first, it is the
   one from before; else this one stands in its way, and asks it to print. */
#include "guard/fault.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/atomic.h"
#include "guard/report.h"
#include "hakmem/tell.h"

static struct sigaction before;
static uint32_t is_watching;

static enum guard_access access_of(const void *context)
{
#if defined(__x86_64__)
    const ucontext_t *interrupted = (const ucontext_t *)context;
    return interrupted->uc_mcontext.gregs[REG_ERR] & 2 ? GUARD_WRITTEN : GUARD_READ;
#else
    (void)context;
    return GUARD_TOUCHED;
#endif
}

static int has_handler(void)
{
    return before.sa_flags & SA_SIGINFO
               ? before.sa_sigaction != NULL
               : before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN;
}

/* The action from before takes the signal when this handler has returned: the instruction faults
   again, and what another process has sent is sent again. An ignored fault ends the process too, as
   the kernel does it. */
static void hand_back(int number, const siginfo_t *info)
{
    struct sigaction action = before;
    if (!has_handler() && before.sa_handler == SIG_DFL) {
        hak_tell_before_end();
    }
    if (!has_handler()) {
        memset(&action, 0, sizeof action);
        action.sa_handler = info->si_code <= 0 ? before.sa_handler : SIG_DFL;
    }
    (void)sigaction(number, &action, NULL);
    if (info->si_code <= 0) {
        (void)syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), number);
    }
}

static void hand_on(int number, siginfo_t *info, void *context)
{
    if (!has_handler() || before.sa_flags & (int)SA_RESETHAND) {
        hand_back(number, info);
    } else if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else {
        before.sa_handler(number);
    }
}

static void handle(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    int is_reported =
        info->si_code > 0 && hak_guard_report_fault(info->si_addr, access_of(context), context);
    errno = saved;
    if (is_reported) {
        hand_back(number, info);
    } else {
        hand_on(number, info, context);
    }
}

/* As the handler from before wants it, where there is one: mask, stack, whether it nests. */
int hak_guard_watch_faults(void)
{
    struct sigaction ours;
    if (is_watching) {
        return 0;
    }
    if (sigaction(SIGSEGV, NULL, &before)) {
        return errno;
    }
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = handle;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (has_handler()) {
        ours.sa_flags = SA_SIGINFO | (before.sa_flags & (SA_ONSTACK | SA_NODEFER | SA_RESTART));
        ours.sa_mask = before.sa_mask;
    }
    if (sigaction(SIGSEGV, &ours, NULL)) {
        return errno;
    }
    is_watching = 1;
    return 0;
}
