/* The background thread: gives memory back while the program sleeps. Internal to //hakmem.

   It exists only in a program that allocates in two threads or more (HAKMEM_BACKGROUND=0: never), at most one a process:
     IDLE      there is none, and none is wanted
     WANTED    a second thread has a heap: the next slow path of malloc starts one (never one of free: the C library frees
               with locks held that pthread_create takes)
     FAILED    it could not be made; tried again after a while
     STARTING  somebody is making it
     RUNNING   it lives; it ends (IDLE) when one thread is left and there is nothing more to give back, and at once when none
               is left, so that a process whose main thread has ended can end
   Every HAKMEM_PURGE_DELAY_MS it does one tick (heap_rest_all, ss_purge, ace_purge); when there is nothing to do any more, it
   sleeps until a slow path wakes it. A forked child has none, until it has two threads again. */
#ifndef HAKMEM_HAKMEM_BACKGROUND_H
#define HAKMEM_HAKMEM_BACKGROUND_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

enum background_state {
    BACKGROUND_IDLE,
    BACKGROUND_RUNNING,
    BACKGROUND_STARTING,
    BACKGROUND_WANTED,
    BACKGROUND_FAILED
};

extern uint32_t background_state HAK_HIDDEN;     /* enum background_state */
extern uint32_t background_is_asleep HAK_HIDDEN; /* it sleeps until it is woken */

/* At the start of the process, and in a forked child. */
void background_init(void);
/* A thread has got a heap, or has left one. */
void background_count(void);
/* Makes the thread. No lock held; from malloc's slow paths only. */
void background_start(void);
void background_wake(void);

static inline void background_start_if_wanted(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&background_state) >= BACKGROUND_WANTED)) {
        background_start();
    }
}

/* Something may have become free. A wake that another processor misses is made good by the sleeper's own clock. */
static inline void background_poke(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&background_is_asleep))) {
        background_wake();
    }
}

HAK_EXTERN_C_END

#endif
