/* The handler of SIGSEGV. No locks. The kernel calls it; rooms with guards install it.

   Only SIGSEGV: what may not be touched is private memory without access, whose fault never is a
   SIGBUS.

   After a report the process ends as it would have: the action from before is installed again, and
   the instruction is done once more. A fault elsewhere goes to the handler from before by a call,
   since a program may live on after it (null checks of a virtual machine), and more may come.

   HAKMEM_SHOW_STATS's handler stands only over the default action. If it was there first, it is the
   one from before; else this one stands in its way, and asks it to print. */
#include "hakmem/fault.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/atomic.h"
#include "hakmem/tell.h"

static struct sigaction before;
static uint32_t is_watching;
static fault_report reports[FAULT_REPORTS]; /* behind the last one NULL */

static enum fault_access access_of(const void *context)
{
#if defined(__x86_64__)
    const ucontext_t *interrupted = (const ucontext_t *)context;
    return interrupted->uc_mcontext.gregs[REG_ERR] & 2 ? FAULT_WRITTEN : FAULT_READ;
#else
    (void)context;
    return FAULT_TOUCHED;
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

static int report_fault(const void *p, const void *context)
{
    for (int i = 0; i < FAULT_REPORTS && reports[i]; i++) {
        if (reports[i](p, access_of(context), context)) {
            return 1;
        }
    }
    return 0;
}

static void handle(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    int is_reported = info->si_code > 0 && report_fault(info->si_addr, context);
    errno = saved;
    if (is_reported) {
        hand_back(number, info);
    } else {
        hand_on(number, info, context);
    }
}

/* As the handler from before wants it, where there is one: mask, stack, whether it nests. */
static int install(void)
{
    struct sigaction ours;
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

int hak_fault_watch(fault_report report)
{
    int i = 0;
    while (i < FAULT_REPORTS && reports[i] && reports[i] != report) {
        i++;
    }
    if (i == FAULT_REPORTS) {
        return ENOMEM;
    }
    reports[i] = report;
    return is_watching ? 0 : install();
}
