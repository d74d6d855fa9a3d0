/* Stops after each instruction: SIGTRAP, which the processor's trap flag makes certain. */
#ifndef HAKMEM_TESTING_STEPS_H
#define HAKMEM_TESTING_STEPS_H

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define HAK_CAN_STEP 1

#include <csignal>
#include <ucontext.h>

namespace hak_testing
{

#define STEPS_FLAG(change)                                                                         \
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; " change "; popfq; lea 128(%%rsp), %%rsp" :: \
                         : "memory", "cc")

/* SIGTRAP after each instruction of `work`. */
template <class F> void with_steps(F work)
{
    STEPS_FLAG("orq $0x100, (%%rsp)");
    work();
    STEPS_FLAG("andq $~0x100, (%%rsp)");
}

/* In the handler: what it interrupted goes on without. */
inline void end_steps(void *context)
{
    static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL] &= ~0x100LL;
}

/* The handler of SIGTRAP, as long as this lives. */
class OnStep
{
  public:
    explicit OnStep(void (*handler)(int, siginfo_t *, void *), int flags = 0)
    {
        struct sigaction action = {};
        action.sa_flags = SA_SIGINFO | flags;
        action.sa_sigaction = handler;
        sigaction(SIGTRAP, &action, &old_);
    }
    ~OnStep()
    {
        sigaction(SIGTRAP, &old_, nullptr);
    }

  private:
    struct sigaction old_ = {};
};

} // namespace hak_testing

#else
#define HAK_CAN_STEP 0
#endif

#endif
