/* What is done while a lock is held, counted by debug builds: nothing is left of it in others.

   A step is one turn of a loop whose length might grow with the heap (a list of slabs, of ranges,
   of superslabs, of owners, a chain of blocks): such a loop calls hak_lock_step. It counts for each
   lock that the thread holds, and so does a system call of the OS layer that maps, unmaps, advises
   or writes (os.h); futexes and clocks do not. Of each rank the worst hold is kept. */
#ifndef HAKMEM_BASE_LOCK_HOLDS_H
#define HAKMEM_BASE_LOCK_HOLDS_H

#include "base/internal.h"

#include "base/lock.h"

HAK_EXTERN_C_BEGIN

/* The most that one hold of a lock of the rank did; steps and calls may be of different holds. */
struct lock_worst {
    uint32_t steps, system_calls;
    const char *steps_in;    /* the function that took the last of the steps; NULL for none */
    const char *system_call; /* the name of the last one; NULL for none */
};

#if HAK_DEBUG
/* A rank as its row says. */
struct lock_rank_row {
    const char *name;
    uint32_t most_steps;
    int malloc_waits;
};
extern const struct lock_rank_row hak_lock_rank_rows[LOCK_N_RANKS] HAK_HIDDEN;

void hak_lock_count_steps(uint32_t n, const char *function);
void hak_lock_count_system_call(const char *name);
#define hak_lock_step(n) hak_lock_count_steps((uint32_t)(n), __func__)

/* Any thread. Holds that last are counted already. */
struct lock_worst hak_lock_worst(enum lock_rank rank);
void hak_lock_forget_worst(void);
/* One line a rank of which a hold did anything. */
void hak_lock_print_worst(int fd);
/* For tests: from now on a system call aborts while the thread holds a lock of a rank whose bit is
   in `ranks`. Returns what it was before. */
uint32_t hak_lock_refuse_system_calls(uint32_t ranks);
/* The bits of all ranks that malloc or free may wait for. */
uint32_t hak_lock_ranks_waited_for(void);
#else
#define hak_lock_step(n) ((void)sizeof(n))
static inline void hak_lock_count_system_call(const char *name)
{
    (void)name;
}
static inline void hak_lock_print_worst(int fd)
{
    (void)fd;
}
static inline uint32_t hak_lock_refuse_system_calls(uint32_t ranks)
{
    return ranks;
}
#endif

HAK_EXTERN_C_END

#endif
