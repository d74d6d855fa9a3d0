/* The background thread: purges while the program sleeps.

   It exists only while the program has two threads or more, at most one a process:
     IDLE      there is none
     STARTING  a thread is making it
     RUNNING   it lives
     ENDING    the program has one thread again: whoever saw that waits until this one is gone
     LOST      it did not end in time; there is none any more (a child made by clone or _Fork, in
               which no handler of fork ran, may think that it has one)
     WANTED    (HAKMEM_BACKGROUND=2) a second thread has a heap: the next slow path of malloc starts
               one
     FAILED    (HAKMEM_BACKGROUND=2) it could not be made; tried again after a while

   When it is made. A sandbox (seccomp) ends the process at a system call that it forbids, and many
   forbid clone. Whether one is in force cannot be asked (that is a system call too), nor concluded
   from the program's threads: between the moment that a thread was made and its first allocation a
   filter may have been installed, by itself or for all threads. One moment is safe: while the
   program itself makes a thread. If clone is forbidden then, the program ends with or without us.
   The allocator can see that moment: glibc's pthread_create takes the new thread's vector of
   thread-local storage from calloc, before clone, with no lock held. So:
   - HAKMEM_BACKGROUND=1 (default): the thread is made in the calloc that the dynamic loader's code
     calls within the program's pthread_create, and nowhere else. It is made with exactly the system
     calls that pthread_create makes for the program, which has to be allowed them: it therefore has
     no name of its own. The program's first thread alone makes it, so that policy, nice value and
     processors are the process's, and never those of a thread that the program has set apart.
     pthread_create takes a stack that an ended thread left with its vector, without calloc: after
   the program was back to one thread, the next ones may go without background thread. The same
   holds for programs that use hak_* beside another malloc, and for other C libraries.
   - HAKMEM_BACKGROUND=2: also from malloc's slow paths, once two threads have heaps. For programs
     that forbid nothing. Made there, it is named, has normal policy, and the processors and the
   nice value that the process started with. Never from a slow path of free: the C library frees
   with locks held that pthread_create takes.

   When it ends. A program with one thread may call unshare(CLONE_NEWUSER), setns or setuid, or be
   checkpointed: as soon as its last other thread was joined, ours is gone.
   - A thread that has a heap ends: its destructor (a destructor of thread-specific data runs before
     the thread is joined) stops the background thread, and waits until it is gone.
   - A thread that never allocated ends: glibc frees what strerror and strsignal may have left: its
     own code calls free(NULL) in a thread without a heap. As long as no second thread has a heap,
     free(NULL) takes a longer way for that (hak_background_null_end).
   - The main thread ends, and no other thread allocates.
   The wait is short: a tick stops between heaps and superslabs; it goes by futex alone, is no
   cancellation point, and is given up after LONGEST_WAIT_MS. Where the thread was made with the
   program's, the waiter looks at times, and is not woken by its end (hak_os_ops.wait_thread): the
   woken one might run before it has left the process.

   Every HAKMEM_PURGE_DELAY_MS it does one tick (hak_theap_rest_all, hak_ace_purge,
   hak_ss_purge_step); when there is nothing to do any more, it sleeps until a slow path wakes it.
   It makes no system call but futex, madvise and munmap, and blocks all signals; what the C library
   does in a new thread is done when pthread_create goes on, and what it does in an ending one,
   another thread of the program is about to do as well. A forked child has none, until it makes
   threads. */
#ifndef HAKMEM_HEAP_BACKGROUND_H
#define HAKMEM_HEAP_BACKGROUND_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

enum hak_background_state {
    BACKGROUND_IDLE,
    BACKGROUND_RUNNING,
    BACKGROUND_STARTING,
    BACKGROUND_ENDING,
    BACKGROUND_LOST,
    BACKGROUND_WANTED,
    BACKGROUND_FAILED
};

/* The values of HAKMEM_BACKGROUND. */
enum background_mode { BACKGROUND_NEVER, BACKGROUND_WITH_THREADS, BACKGROUND_EAGER };

extern uint32_t hak_background_state HAK_HIDDEN;     /* enum hak_background_state */
extern uint32_t hak_background_is_asleep HAK_HIDDEN; /* it sleeps until it is woken */
/* Frees of pointers below this have nothing more to do: 1, or 0 while free(NULL) matters. */
extern uintptr_t hak_background_null_end HAK_HIDDEN;

/* At the start of the process, and in a forked child. */
void hak_background_init(void);
/* A thread has got a heap, or has left one. May wait for the background thread's end; no lock held,
   and never inside the gate: then no fork waits for it, nor it for a fork, since the background
   thread passes a closed gate by. */
void hak_background_count(void);
/* Makes the thread. No lock held; from malloc's slow paths only. */
void hak_background_start(void);
void hak_background_wake(void);
/* 1 if it shall end: what it does stops at the next good moment. */
int hak_background_must_end(void);
/* calloc(n, BACKGROUND_TLS_ENTRY) was called from `caller`: perhaps by pthread_create. No lock
   held. */
#define BACKGROUND_TLS_ENTRY (2 * sizeof(void *))
void hak_background_see_calloc(const void *caller);
/* free(NULL) was called from `caller` while hak_background_null_end is 0. Keeps errno. */
void hak_background_see_free_null(const void *caller);
/* In the constructor: notes where the C library lies. */
void hak_background_load(void);

static inline void hak_background_start_if_wanted(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_background_state) >= BACKGROUND_WANTED)) {
        hak_background_start();
    }
}

/* Something may have become free. A wake that another processor misses is made good by the
   sleeper's own clock. */
static inline void hak_background_poke(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_background_is_asleep))) {
        hak_background_wake();
    }
}

HAK_EXTERN_C_END

#endif
