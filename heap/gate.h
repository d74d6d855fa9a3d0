/* The gate: what every slow path that takes a lock passes, so that a fork finds no thread behind
   it.

   A thread is inside from the outermost hak_gate_enter to its hak_gate_leave. Who closes the gate
   waits until no other thread is inside; then no lock is held, and no thread changes what locks
   guard until it opens the gate again. Until then other threads are refused, and never wait for the
   closer: it may be waiting for them (docs/fork.md). They serve requests by limbo.h, put off what
   can wait (fork.h), and go on in their bins.

   Several threads may close the gate at once, and a thread several times; none waits for another to
   open it. A thread that has closed it alone may still enter. Closed for ever: an error has been
   found, or a forked child lacks the holder of a lock that all need; no thread enters any more, and
   the process lives on limbo.

   State: a word of each heap that says whether its thread is inside, so that slow paths share no
   cache line; 16 counters for threads that have no heap (they start, end, or are ours); the number
   of closings, with a generation that each forked child changes; and for each thread how deep it is
   inside, and how often it has closed. Enter writes its word and then looks at
   the closings; close adds to the closings and then looks at the words; all in sequentially
   consistent order, so that at least one of them sees the other.

   Signal handlers may fork, wherever the thread is, in enter, leave, close and open too; then both
   parent and child go on there. hak_gate_close sets aside how deep the interrupted code is inside,
   and hak_gate_open restores it. In the child the number of closings becomes what the thread's own
   word says, and the generation tells the interrupted close or open whether that includes it.
   Whether a heap's thread is inside is one store, so that no instruction between two leaves it
   unknown; of a thread that shares a counter it is unknown for two instructions, and then
   hak_gate_close waits in vain for a while. fork_steps_test forks after each instruction. */
#ifndef HAKMEM_HEAP_GATE_H
#define HAKMEM_HEAP_GATE_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct lock;

/* In the lower half of hak_gate_closed: no thread opens it again; and, in a forked child, its
   thread's counter is put right when it goes on. */
#define GATE_FOR_EVER UINT64_C(0x80000000)
#define GATE_UNSURE   UINT64_C(0x40000000)

struct hak_gate_thread {
    uint32_t depth; /* of hak_gate_enter */
    uint32_t
        kept_depth; /* of the code that a signal handler interrupted which has closed the gate */
    uint32_t n_closings; /* by this thread */
    uint32_t
        n_at_fork; /* n_closings when the process was made by a fork: hak_gate_closed had it then */
    uint8_t is_counted; /* in a shared counter; not so for two instructions of hak_gate_enter and of
                           hak_gate_leave */
    uint8_t saw_others; /* it gave up waiting for others to leave: they wait for what it holds */
    uint32_t *inside;   /* of the heap by which it entered; NULL: it shares a counter */
    uint32_t *shared;   /* the counter; NULL before it needed one */
};

/* The generation, and in the lower half the closings, and the bits above. */
extern uint64_t hak_gate_closed HAK_HIDDEN;
extern HAK_TLS struct hak_gate_thread hak_gate_thread HAK_HIDDEN;

int hak_gate_enter_first(void);
void hak_gate_leave_last(void);

/* 1 if the calling thread is inside. */
static inline int hak_gate_is_inside(void)
{
    return hak_gate_thread.depth != 0;
}

/* Returns 1 if the thread is inside now; it calls hak_gate_leave then. 0: the gate is closed. */
static inline int hak_gate_enter(void)
{
    if (hak_gate_thread.depth) {
        hak_gate_thread.depth++;
        return 1;
    }
    return hak_gate_enter_first();
}

static inline void hak_gate_leave(void)
{
    if (hak_gate_thread.depth > 1) {
        hak_gate_thread.depth--;
    } else {
        hak_gate_leave_last();
    }
}

static inline int hak_gate_is_closed(void)
{
    return (uint32_t)atomic_load_seq(&hak_gate_closed) != 0;
}

/* 1 while the calling thread has closed it. */
static inline int hak_gate_is_mine(void)
{
    return HAK_UNLIKELY((uint32_t)atomic_load_relaxed(&hak_gate_closed) != 0) &&
           hak_gate_thread.n_closings != 0;
}

/* Returns when no other thread is inside. If a signal handler calls it that interrupted the thread
   inside, or with a lock held, the others may need what the thread holds: then it waits only as
   long as they get on, and hak_gate_saw_others tells. */
void hak_gate_close(void);
void hak_gate_open(void);
int hak_gate_saw_others(void);
/* In the forked child of the thread that has closed it. */
void hak_gate_open_in_child(void);
/* From now on all live on limbo. */
void hak_gate_close_for_ever(void);
/* For hak_lock_sleeps_for. */
void hak_gate_note_sleep(const struct lock *lock);
/* The calling thread is not inside any more, however deep it was. */
void hak_gate_forget(void);

/* For who only reads what locks guard. Inside the gate, or, while it is closed, by closing it too:
   no thread writes then, and the locks are passed through, not taken. Refused when it is closed for
   ever: what is behind it may be half changed. What a thread may change all the same, as a block of
   its own, is not theirs to guard (secure/large.c). */
enum gate_reader { GATE_REFUSED, GATE_INSIDE, GATE_ALONE };
enum gate_reader hak_gate_enter_to_read(void);
void hak_gate_leave_reader(enum gate_reader how);

HAK_EXTERN_C_END

#endif
