/* Debug builds: the ranks of the locks that a thread holds, in order, and what it does under each.
   No locks: thread-local state, and relaxed atomics for the worst. Called by lock.h, by the OS
   layer, and by loops under locks. */
#include "base/lock_holds.h"

#include "base/error.h"

#if HAK_DEBUG
const struct lock_rank_row hak_lock_rank_rows[LOCK_N_RANKS] = {
    [LOCK_RANK_NONE] = {"none", 0, 0},
#define LOCK_RANK(name, waits, most, guards, holds) [LOCK_RANK_##name] = {#name, most, waits},
#include "base/lock_ranks.def"
#undef LOCK_RANK
};

uint32_t hak_lock_ranks_waited_for(void)
{
    uint32_t ranks = 0;
    for (uint32_t rank = 0; rank < LOCK_N_RANKS; rank++) {
        ranks |= (uint32_t)hak_lock_rank_rows[rank].malloc_waits << rank;
    }
    return ranks;
}

/* Two of rank HEAP, one of each other. */
enum { MAX_HELD = LOCK_N_RANKS };

/* `steps` and `system_calls` are what the thread's counts were when it took the lock, modulo powers
   of two far above what any hold may do. Small: static thread-local storage is scarce. */
#define STEP_BITS 20
#define CALL_BITS 8
struct held {
    uint32_t steps : STEP_BITS, system_calls : CALL_BITS, rank : 4;
};
HAK_STATIC_ASSERT(LOCK_N_RANKS <= 16, "a rank has four bits");
static HAK_TLS struct held held[MAX_HELD];
static HAK_TLS struct {
    uint32_t steps : STEP_BITS, system_calls : CALL_BITS, held : 4;
} now;
HAK_STATIC_ASSERT(MAX_HELD <= 15, "their number has four bits");

static struct lock_worst worst[LOCK_N_RANKS];
static uint32_t refused; /* bits of ranks */

void hak_lock_rank_push(const struct lock *lock, int is_try)
{
    if (hak_lock_passes()) {
        return;
    }
    HAK_CHECK(now.held < MAX_HELD, "too many locks held", lock);
    uint32_t highest = now.held ? held[now.held - 1].rank : 0;
    if (highest > lock->rank ||
        (highest == lock->rank && !(is_try && lock->rank == LOCK_RANK_HEAP))) {
        hak_fatal("lock taken against its rank", lock);
    }
    held[now.held++] = (struct held){now.steps, now.system_calls, lock->rank & 15};
}

void hak_lock_rank_pop(const struct lock *lock)
{
    if (now.held == 0) {
        hak_fatal("lock released that is not held", lock);
    }
    now.held--;
    /* Mostly the last one taken; else close the gap, so that the rest stays in order of rank. */
    for (uint32_t i = now.held; i-- > 0 && held[now.held].rank != lock->rank;) {
        struct held other = held[i];
        held[i] = held[now.held];
        held[now.held] = other;
    }
}

void hak_lock_rank_forget(void)
{
    now.held = 0;
}

int hak_lock_rank_any(void)
{
    return now.held != 0;
}

/* If it is the most so far. Two threads at once may leave the name of the lesser one. */
static void note(uint32_t *most, const char **where, uint32_t n, const char *here)
{
    uint32_t known = atomic_load_relaxed(most);
    while (n > known) {
        if (atomic_cas_weak_seq(most, &known, n)) {
            atomic_store_relaxed(where, here);
            return;
        }
    }
}

void hak_lock_count_steps(uint32_t n, const char *function)
{
    now.steps += n & ((1u << STEP_BITS) - 1);
    for (uint32_t i = 0; i < now.held; i++) {
        struct lock_worst *of = &worst[held[i].rank];
        note(&of->steps, &of->steps_in, (now.steps - held[i].steps) & ((1u << STEP_BITS) - 1),
             function);
    }
}

static void refuse(uint32_t rank)
{
    static const char *const lines[LOCK_N_RANKS] = {
        [LOCK_RANK_NONE] = "system call with a lock held: none",
#define LOCK_RANK(name, waits, most, guards, holds)                                                \
    [LOCK_RANK_##name] = "system call with a lock held: " #name,
#include "base/lock_ranks.def"
#undef LOCK_RANK
    };
    hak_fatal(lines[rank], NULL);
}

void hak_lock_count_system_call(const char *name)
{
    now.system_calls++;
    for (uint32_t i = 0; i < now.held; i++) {
        struct lock_worst *of = &worst[held[i].rank];
        note(&of->system_calls, &of->system_call,
             (now.system_calls - held[i].system_calls) & ((1u << CALL_BITS) - 1), name);
        if (atomic_load_relaxed(&refused) >> held[i].rank & 1) {
            refuse(held[i].rank);
        }
    }
}

struct lock_worst hak_lock_worst(enum lock_rank rank)
{
    const struct lock_worst *of = &worst[rank];
    return (struct lock_worst){
        atomic_load_relaxed(&of->steps), atomic_load_relaxed(&of->system_calls),
        atomic_load_relaxed(&of->steps_in), atomic_load_relaxed(&of->system_call)};
}

void hak_lock_forget_worst(void)
{
    for (uint32_t rank = 0; rank < LOCK_N_RANKS; rank++) {
        atomic_store_relaxed(&worst[rank].steps, 0u);
        atomic_store_relaxed(&worst[rank].system_calls, 0u);
        atomic_store_relaxed(&worst[rank].steps_in, (const char *)NULL);
        atomic_store_relaxed(&worst[rank].system_call, (const char *)NULL);
    }
}

static void print_rank(int fd, uint32_t rank)
{
    struct lock_worst of = hak_lock_worst((enum lock_rank)rank);
    struct hak_line line = {0, {0}};
    if (!of.steps && !of.system_calls) {
        return;
    }
    hak_line_text(&line, "hakmem: lock ");
    hak_line_text(&line, hak_lock_rank_rows[rank].name);
    hak_line_text(&line, ": longest hold ");
    hak_line_unsigned(&line, of.steps);
    hak_line_text(&line, " steps");
    if (of.steps_in) {
        hak_line_text(&line, " in ");
        hak_line_text(&line, of.steps_in);
    }
    if (of.system_calls) {
        hak_line_text(&line, ", ");
        hak_line_unsigned(&line, of.system_calls);
        hak_line_text(&line, " system calls, the last ");
        hak_line_text(&line, of.system_call ? of.system_call : "?");
    }
    hak_line_write(&line, fd);
}

void hak_lock_print_worst(int fd)
{
    for (uint32_t rank = 0; rank < LOCK_N_RANKS; rank++) {
        print_rank(fd, rank);
    }
}

uint32_t hak_lock_refuse_system_calls(uint32_t ranks)
{
    return atomic_exchange_seq(&refused, ranks);
}
#endif
