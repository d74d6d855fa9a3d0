/* The leak report: which blocks nothing leads to any more, by call site (docs/leaks.md). A layer
   that sees every call: each block is LEAKS_TAIL bytes larger, and its last bytes say which stack
   has allocated it, and how much was asked for. So no table of blocks is kept; what a free costs is
   a look at these bytes.

   A report is made in a forked child, by a bare system call, while the process goes on: the child
   has a copy of all memory, in which nothing changes. It walks the blocks, marks from registers,
   stacks, globals and the program's own mappings what can be reached (mark.h), and writes what is
   left in the raw format of profiles (leaks_write.c). leaks.c has the layer, leaks_start.c the
   options and the fork.

   A pointer that a running thread has in a register alone is in no memory. Where other threads run,
   or have done so while the fork was made, the first child only notes in shared memory what it
   finds lost, and a second one, some milliseconds later, reports what was lost to both.

   A tail is two words: the size that was asked for; and the stack's address in the lower 48 bits,
   with 16 bits that depend on it, on the size and on the block. A block that has none (allocated
   before the first call was served, or overwritten behind its end) is never reported, but followed.
   That of a block that was freed has no stack. */
#ifndef HAKMEM_PROFILE_LEAKS_H
#define HAKMEM_PROFILE_LEAKS_H

#include "base/internal.h"

#include <sys/types.h>

#include "hakmem/entry.h"
#include "stack/stack.h"

HAK_EXTERN_C_BEGIN

#define LEAKS_TAIL 16u

extern struct entry_layer hak_leaks_layer HAK_HIDDEN;

enum leaks_tail { LEAKS_NONE, LEAKS_LIVE, LEAKS_FREED };
struct leaks_told {
    const struct stack *stack;
    size_t size; /* that was asked for */
};
/* What the tail of a block says of `usable` bytes, its own included. */
enum leaks_tail hak_leaks_look(const void *p, size_t usable, struct leaks_told *told);

/* leaks_start.c: a signal has asked for a report. Read by the layer behind each call. */
extern uint32_t hak_leaks_due HAK_HIDDEN;
void hak_leaks_mind(void);

/* 1 if the calling thread may be within the layer, or hold something: for signal handlers. */
int hak_leaks_is_busy(void);

uint64_t hak_leaks_elapsed_ms(void);
/* By no function that is a cancellation point; a signal may end it early. */
void hak_leaks_sleep_ms(uint32_t ms);

/* What the child tells, by shared memory. */

#define LEAKS_WORDS 16384u
#define LEAKS_LOST  8388608u
enum leaks_pass {
    LEAKS_UNDECIDED, /* the first child waits for it, when it has marked */
    LEAKS_ALONE,
    LEAKS_FIRST, /* notes what is lost, reports nothing and ends with ECANCELED */
    LEAKS_SECOND /* what the first one has not noted is not lost */
};
struct leaks_result {
    uint32_t pass;            /* by the process */
    uint64_t n_blocks, bytes; /* lost */
    /* By hashes of blocks: those that the first child has found lost. As there are many more bits
       than lost blocks, hardly another one has the same. */
    uint64_t lost[LEAKS_LOST / 64];
    /* Written before the fork: hak_roots_of_threads. */
    size_t n_words;
    uintptr_t words[LEAKS_WORDS];
};

/* leaks_write.c, in the child: marks, and writes the report to `fd` (-1: nowhere). Returns 0 or an
   errno value. `stack_end` is the lowest address of the calling thread's stack that is in use. */
int hak_leaks_find(int fd, const char *reason, pid_t process, const void *stack_end,
                   struct leaks_result *result);

HAK_EXTERN_C_END

#endif
