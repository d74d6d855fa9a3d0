/* The gate's slow half. No locks; waits in a futex for those inside to leave. Called by slow paths, fork and errors. */
#include "hakmem/gate.h"

#include <errno.h>

#include "base/lock.h"
#include "base/os.h"
#include "hakmem/fork.h"
#include "hakmem/heap.h"

#define COUNTERS   16u
#define SPINS      200
#define WAIT_MS    5u
#define PATIENCE   6 /* waits in which nobody moves */
#define order_here() __atomic_signal_fence(__ATOMIC_SEQ_CST)

struct counter {
    HAK_CACHE_ALIGNED uint32_t n_inside;
};
static struct counter counters[COUNTERS];
static uint32_t n_left; /* futex: changes when somebody leaves a closed gate */
uint32_t gate_closed;
HAK_TLS struct gate_thread gate_thread;

static void add_to_counter(struct gate_thread *self)
{
    static uint32_t next;
    if (!self->shared) {
        self->shared = &counters[atomic_add_relaxed(&next, 1u) % COUNTERS].n_inside;
    }
    order_here();
    (void)__atomic_add_fetch(self->shared, 1u, __ATOMIC_SEQ_CST);
    order_here();
    self->is_counted = 1;
}

static void take_from_counter(struct gate_thread *self)
{
    self->is_counted = 0;
    order_here();
    (void)__atomic_sub_fetch(self->shared, 1u, __ATOMIC_SEQ_CST);
    order_here();
}

/* In the child of a fork that a signal handler made between the two instructions that count the thread and note it: after the
   first of them `n` is what its counter holds. */
static HAK_COLD void make_sure(uint32_t n)
{
    if (atomic_load_relaxed(&gate_closed) & GATE_UNSURE) {
        atomic_store_seq(gate_thread.shared, n);
        (void)__atomic_and_fetch(&gate_closed, ~GATE_UNSURE, __ATOMIC_SEQ_CST);
    }
}

int gate_enter_first(void)
{
    struct gate_thread *self = &gate_thread;
    struct heap *heap = heap_own;
    if (HAK_UNLIKELY(atomic_load_relaxed(&gate_closed) != self->n_closings || self->kept_depth)) {
        return 0;
    }
    self->inside = HAK_LIKELY(heap != &heap_none) ? &heap->is_inside : NULL;
    order_here();
    self->depth = 1;
    order_here();
    if (HAK_LIKELY(self->inside != NULL)) {
        atomic_store_seq(self->inside, 1u);
    } else {
        add_to_counter(self);
    }
    if (HAK_UNLIKELY(atomic_load_seq(&gate_closed) != self->n_closings)) {
        make_sure(1);
        if (atomic_load_seq(&gate_closed) != self->n_closings) {
            gate_leave_last();
            return 0;
        }
    }
    return 1;
}

void gate_leave_last(void)
{
    struct gate_thread *self = &gate_thread;
    if (HAK_LIKELY(self->inside != NULL)) {
        atomic_store_seq(self->inside, 0u);
    } else {
        take_from_counter(self);
    }
    order_here();
    self->depth = 0;
    if (HAK_UNLIKELY(gate_is_closed())) {
        int saved = errno;
        make_sure(0);
        (void)__atomic_add_fetch(&n_left, 1u, __ATOMIC_SEQ_CST);
        (void)os_ops.futex_wake(&n_left, INT32_MAX);
        errno = saved;
    }
}

/* The code that a signal handler has interrupted is between the instructions of its shared counter. */
static int is_unsure(void)
{
    return gate_thread.kept_depth && !gate_thread.inside && !gate_thread.is_counted;
}

static void count_mine(struct lock *lock, void *n)
{
    *(uint32_t *)n += (uint32_t)lock_is_mine(lock);
}

/* Whether those inside may be waiting for the calling thread, or it does not know whether it is counted itself. */
static int may_be_stuck(void)
{
    uint32_t n = 0;
    if (gate_thread.kept_depth) {
        lock_for_each(count_mine, &n);
    }
    return n != 0 || is_unsure();
}

/* 1 if nobody but the caller is inside by the counter. */
static int is_counter_empty(const void *counter)
{
    const uint32_t *n_inside = &((const struct counter *)counter)->n_inside;
    uint32_t own = gate_thread.kept_depth && gate_thread.is_counted && n_inside == gate_thread.shared;
    return atomic_load_seq(n_inside) == own;
}

/* 1 unless the heap's thread is inside, and is not the caller. */
static int is_heap_empty(const void *at)
{
    const struct heap *heap = (const struct heap *)at;
    return !atomic_load_seq(&heap->is_inside) || !heap_is_live(heap) ||
           (gate_thread.kept_depth && &heap->is_inside == gate_thread.inside);
}

struct patience {
    int is_bounded, spins, left;
};

/* Returns 0 if it gave up. */
static int wait_until(int (*is_empty)(const void *place), const void *place, struct patience *patience)
{
    for (;;) {
        uint32_t seen = atomic_load_seq(&n_left);
        if (is_empty(place)) {
            return 1;
        }
        if (patience->spins < SPINS) {
            patience->spins++;
            atomic_pause();
            continue;
        }
        (void)os_ops.futex_wait_ms(&n_left, seen, WAIT_MS);
        patience->left = atomic_load_seq(&n_left) == seen ? patience->left - 1 : PATIENCE;
        if (patience->is_bounded && patience->left == 0) {
            return 0;
        }
    }
}

/* Once each place has been seen empty, nobody is inside: who came later saw the gate closed. The counters come first: who makes a
   heap is in one of them meanwhile, so that the table has it afterwards. Returns 0 if it gave up. */
static int wait_for_others(void)
{
    struct patience patience = {may_be_stuck(), 0, PATIENCE};
    for (uint32_t i = 0; i < COUNTERS; i++) {
        if (!wait_until(is_counter_empty, &counters[i], &patience)) {
            return 0;
        }
    }
    struct owner *owner;
    for (uint32_t id = 0; (owner = owner_next(&id)) != NULL;) {
        const struct heap *heap = heap_of_owner(owner);
        if (heap && !wait_until(is_heap_empty, heap, &patience)) {
            return 0;
        }
    }
    return 1;
}

void gate_close(void)
{
    struct gate_thread *self = &gate_thread;
    int saved = errno;
    if (self->depth) {
        self->kept_depth = self->depth;
        self->depth = 0;
    }
    self->n_closings++;
    (void)__atomic_add_fetch(&gate_closed, 1u, __ATOMIC_SEQ_CST);
    self->saw_others = (uint8_t)!wait_for_others();
    errno = saved;
}

static void give_depth_back(void)
{
    if (gate_thread.n_closings == 0) {
        gate_thread.depth = gate_thread.kept_depth;
        gate_thread.kept_depth = 0;
    }
}

void gate_open(void)
{
    gate_thread.n_closings--;
    give_depth_back();
    (void)__atomic_sub_fetch(&gate_closed, 1u, __ATOMIC_SEQ_CST);
    if (!gate_thread.depth) {
        fork_catch_up();
    }
}

int gate_saw_others(void)
{
    return gate_thread.saw_others;
}

void gate_open_in_child(void)
{
    struct gate_thread *self = &gate_thread;
    for (uint32_t i = 0; i < COUNTERS; i++) {
        if (counters[i].n_inside) {
            counters[i].n_inside = 0;
        }
    }
    if (self->kept_depth && self->is_counted) {
        *self->shared = 1;
    }
    uint32_t flags = (gate_closed & GATE_FOR_EVER) | (is_unsure() ? GATE_UNSURE : 0);
    self->n_closings--;
    self->saw_others = 0;
    give_depth_back();
    atomic_store_seq(&gate_closed, flags | self->n_closings);
}

void gate_close_for_ever(void)
{
    (void)__atomic_or_fetch(&gate_closed, GATE_FOR_EVER, __ATOMIC_SEQ_CST);
}

void gate_forget(void)
{
    struct gate_thread *self = &gate_thread;
    if (self->depth || self->kept_depth) {
        self->kept_depth = 0;
        gate_leave_last();
    }
}

enum gate_reader gate_enter_to_read(void)
{
    if (gate_enter()) {
        return GATE_INSIDE;
    }
    if (atomic_load_seq(&gate_closed) & GATE_FOR_EVER || gate_thread.kept_depth) {
        return GATE_REFUSED;
    }
    gate_close();
    lock_pass_begin();
    return GATE_ALONE;
}

void gate_leave_reader(enum gate_reader how)
{
    if (how == GATE_INSIDE) {
        gate_leave();
    } else if (how == GATE_ALONE) {
        lock_pass_end();
        gate_open();
    }
}
