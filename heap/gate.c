/* The gate's slow half. No locks; waits in a futex for those inside to leave. Called by slow paths,
   fork and errors. */
#include "heap/gate.h"

#include <errno.h>

#include "base/lock.h"
#include "base/os.h"
#include "heap/fork.h"
#include "heap/theap.h"

#define COUNTERS 16u
#define SPINS    200
#define WAIT_MS  5u
/* Waits in which no thread leaves: 30 ms; and a second, where going on would lose a lock, or may,
   for each turn. */
#define PATIENCE           6
#define PATIENCE_FOR_LOCKS 200
#define MOST_TURNS         4
/* So often a turn begins again as others fork. */
#define MOST_AGAIN   2u
#define order_here() __atomic_signal_fence(__ATOMIC_SEQ_CST)

struct counter {
    HAK_CACHE_ALIGNED uint32_t n_inside;
};
static struct counter counters[COUNTERS];
static uint32_t n_left;   /* futex: changes when a thread leaves a closed gate */
static uint32_t n_forked; /* changes when one has forked in a handler that interrupted it inside */
uint64_t hak_gate_closed;
HAK_TLS struct hak_gate_thread hak_gate_thread;

static void add_to_counter(struct hak_gate_thread *self)
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

static void take_from_counter(struct hak_gate_thread *self)
{
    self->is_counted = 0;
    order_here();
    (void)__atomic_sub_fetch(self->shared, 1u, __ATOMIC_SEQ_CST);
    order_here();
}

/* In the child of a fork that a signal handler made between the two instructions that count the
   thread and note it: after the first of them `n` is what its counter holds. */
static HAK_COLD void make_sure(uint32_t n)
{
    if (atomic_load_relaxed(&hak_gate_closed) & GATE_UNSURE) {
        atomic_store_seq(hak_gate_thread.shared, n);
        (void)__atomic_and_fetch(&hak_gate_closed, ~GATE_UNSURE, __ATOMIC_SEQ_CST);
    }
}

int hak_gate_enter_first(void)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    struct theap *heap = hak_theap_own;
    if (HAK_UNLIKELY((uint32_t)atomic_load_relaxed(&hak_gate_closed) != self->n_closings ||
                     self->kept_depth)) {
        return 0;
    }
    self->inside = HAK_LIKELY(heap != &hak_theap_none) ? &heap->is_inside : NULL;
    order_here();
    self->depth = 1;
    order_here();
    if (HAK_LIKELY(self->inside != NULL)) {
        atomic_store_seq(self->inside, 1u);
    } else {
        add_to_counter(self);
    }
    if (HAK_UNLIKELY((uint32_t)atomic_load_seq(&hak_gate_closed) != self->n_closings)) {
        make_sure(1);
        if ((uint32_t)atomic_load_seq(&hak_gate_closed) != self->n_closings) {
            hak_gate_leave_last();
            return 0;
        }
    }
    return 1;
}

void hak_gate_leave_last(void)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    if (HAK_LIKELY(self->inside != NULL)) {
        atomic_store_seq(self->inside, 0u);
    } else {
        take_from_counter(self);
    }
    order_here();
    self->depth = 0;
    if (HAK_UNLIKELY(hak_gate_is_closed())) {
        int saved = errno;
        make_sure(0);
        (void)__atomic_add_fetch(&n_left, 1u, __ATOMIC_SEQ_CST);
        (void)hak_os_ops.futex_wake(&n_left, INT32_MAX);
        errno = saved;
    }
}

/* The code that a signal handler has interrupted is between the instructions of its shared counter.
 */
static int is_unsure(void)
{
    return hak_gate_thread.kept_depth && !hak_gate_thread.inside && !hak_gate_thread.is_counted;
}

/* 1 if no thread but the caller is inside by the counter. */
static int is_counter_empty(const void *counter)
{
    const uint32_t *n_inside = &((const struct counter *)counter)->n_inside;
    uint32_t own = hak_gate_thread.kept_depth && hak_gate_thread.is_counted &&
                   n_inside == hak_gate_thread.shared;
    return atomic_load_seq(n_inside) == own;
}

/* 1 unless the heap's thread is inside, and is not the caller. */
static int is_heap_empty(const void *at)
{
    const struct theap *heap = (const struct theap *)at;
    return !atomic_load_seq(&heap->is_inside) || !hak_theap_is_live(heap) ||
           (hak_gate_thread.kept_depth && &heap->is_inside == hak_gate_thread.inside);
}

/* --- who waits for whom --- */

/* What a thread waits for that closes the gate in a handler that interrupted it inside. */
static const struct lock others_to_leave = {1, LOCK_RANK_NONE, {NULL}};

/* The heap by which the thread is inside; NULL if it shares a counter. */
static struct theap *heap_inside(void)
{
    char *at = (char *)hak_gate_thread.inside;
    return at ? (struct theap *)(void *)(at - offsetof(struct theap, is_inside)) : NULL;
}

void hak_gate_note_sleep(const struct lock *lock)
{
    struct theap *heap = hak_gate_thread.depth ? heap_inside() : NULL;
    if (heap) {
        atomic_store_seq(&heap->waits_for, lock);
    }
}

/* 1 if the heap's thread does not get on before the caller does. A lock that is held is held by who
   waits as well, or by the caller, if that is so of all who are inside. */
static int does_wait(const struct theap *heap)
{
    const struct lock *lock = atomic_load_seq(&heap->waits_for);
    return lock && atomic_load_relaxed(&lock->word) != 0;
}

/* 1 if no thread that is inside gets on. One that shares a counter may. */
static int do_all_wait(void)
{
    const struct hak_gate_thread *self = &hak_gate_thread;
    struct owner *owner;
    for (uint32_t i = 0; i < COUNTERS; i++) {
        const uint32_t *n_inside = &counters[i].n_inside;
        uint32_t own = self->kept_depth && !self->inside && n_inside == self->shared;
        if (atomic_load_seq(n_inside) > own) {
            return 0;
        }
    }
    for (uint32_t id = 0; (owner = hak_owner_next(&id)) != NULL;) {
        const struct theap *heap = hak_theap_of_owner(owner);
        if (heap && !is_heap_empty(heap) && !does_wait(heap)) {
            return 0;
        }
    }
    return 1;
}

struct held {
    uint32_t highest_mine, highest_wanted; /* ranks of the own locks, and of those that others wait
                                              for */
    uint32_t n_above;                      /* others' locks of higher rank than all own ones */
    uint32_t n_others;                     /* others' locks whose holders wait for none of mine */
};

static void see_mine(struct lock *lock, void *context)
{
    struct held *held = (struct held *)context;
    if (hak_lock_is_mine(lock)) {
        uint32_t word = atomic_load_relaxed(&lock->word), rank = lock->rank;
        held->highest_mine = rank > held->highest_mine ? rank : held->highest_mine;
        held->highest_wanted =
            word & LOCK_HAS_WAITERS && rank > held->highest_wanted ? rank : held->highest_wanted;
    }
}

/* Who waits for a lock holds those of lower ranks only. */
static void see_others(struct lock *lock, void *context)
{
    struct held *held = (struct held *)context;
    uint32_t word = atomic_load_relaxed(&lock->word);
    if (word != 0 && word != LOCK_LOST && !hak_lock_is_mine(lock)) {
        held->n_others += lock->rank >= held->highest_wanted;
        held->n_above += lock->rank > held->highest_mine;
    }
}

/* How many waits in vain are enough for a thread that a signal handler interrupted inside, or with
   a lock held. Others that wait for a lock that it holds wait for ever, and if the rest hold none,
   as when they fork in handlers too, nothing is lost by going on. One that does not wait may only
   have had no processor for so long, and takes a lock just when the process is copied. Else it is
   the turn of another one, which may fork in a handler as well. Who holds the highest lock goes
   first: the child goes on with what was interrupted, and that waits for higher locks than it
   holds. */
static int patience_now(void)
{
    struct held held = {0, 0, 0, 0};
    hak_lock_for_each(see_mine, &held);
    hak_lock_for_each(see_others, &held);
    if (!held.n_others && do_all_wait()) {
        return PATIENCE;
    }
    return PATIENCE_FOR_LOCKS * (held.n_above < MOST_TURNS ? (int)held.n_above + 1 : MOST_TURNS);
}

struct waits {
    int spins, in_vain;
    uint32_t n_again, forked; /* n_forked when the turn began last */
};

/* A thread that signals interrupt again and again before it gets on must not take all turns. */
static int begins_again(struct waits *waits)
{
    uint32_t forked = atomic_load_seq(&n_forked);
    int is_again = forked != waits->forked && waits->n_again < MOST_AGAIN;
    waits->n_again += (uint32_t)is_again;
    waits->forked = forked;
    return is_again;
}

/* Returns 0 if it gave up. */
static int wait_until(int (*is_empty)(const void *place), const void *place, struct waits *waits)
{
    for (;;) {
        uint32_t seen = atomic_load_seq(&n_left);
        if (is_empty(place)) {
            return 1;
        }
        if (waits->spins < SPINS) {
            waits->spins++;
            hak_atomic_pause();
            continue;
        }
        (void)hak_os_ops.futex_wait_ms(&n_left, seen, WAIT_MS);
        waits->in_vain =
            atomic_load_seq(&n_left) == seen && !begins_again(waits) ? waits->in_vain + 1 : 0;
        if (waits->in_vain >= PATIENCE &&
            (hak_gate_thread.kept_depth || hak_theap_holds_outside()) &&
            waits->in_vain >= patience_now()) {
            return 0;
        }
    }
}

/* Once each place has been seen empty, no thread is inside: who came later saw the gate closed. The
   counters come first: who makes a heap is in one of them while it does, so that the table has it
   afterwards. Returns 0 if it gave up. */
static int wait_for_others(void)
{
    struct waits waits = {0, 0, 0, atomic_load_seq(&n_forked)};
    for (uint32_t i = 0; i < COUNTERS; i++) {
        if (!wait_until(is_counter_empty, &counters[i], &waits)) {
            return 0;
        }
    }
    struct owner *owner;
    for (uint32_t id = 0; (owner = hak_owner_next(&id)) != NULL;) {
        const struct theap *heap = hak_theap_of_owner(owner);
        if (heap && !wait_until(is_heap_empty, heap, &waits)) {
            return 0;
        }
    }
    return 1;
}

static uint32_t generation(uint64_t closed)
{
    return (uint32_t)(closed >> 32);
}

/* A signal handler may fork anywhere in here, and in its child hak_gate_closed becomes what
   n_closings is at that instant: then the step is in it, or it is not. */
static void count_closing(int step)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    uint32_t begun = generation(atomic_load_seq(&hak_gate_closed));
    order_here();
    self->n_closings += (uint32_t)step;
    order_here();
    uint64_t closed = atomic_load_seq(&hak_gate_closed);
    do {
        if (HAK_UNLIKELY(generation(closed) != begun)) {
            if (self->n_at_fork == self->n_closings) {
                return;
            }
            begun = generation(closed);
        }
    } while (!atomic_cas_weak_seq(&hak_gate_closed, &closed, closed + (uint64_t)(int64_t)step));
}

/* In this order: an inner close and open, in a signal handler, leave the depth set aside once the
   outer one is counted. */
void hak_gate_close(void)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    int saved = errno;
    count_closing(1);
    order_here();
    uint32_t depth = self->depth;
    if (depth) {
        self->kept_depth = depth;
        order_here();
        self->depth = 0;
        order_here();
    }
    struct theap *heap = depth ? heap_inside() : NULL;
    const struct lock *waited_for = heap ? heap->waits_for : NULL;
    if (heap) {
        atomic_store_seq(&heap->waits_for, &others_to_leave);
    }
    self->saw_others = (uint8_t)!wait_for_others();
    if (heap) {
        atomic_store_seq(&heap->waits_for, waited_for);
    }
    errno = saved;
}

/* What an inner one has restored is not taken again. */
static void give_depth_back(void)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    uint32_t depth = self->kept_depth;
    if (depth && self->n_closings == 0) {
        self->depth = depth;
        order_here();
        self->kept_depth = 0;
        order_here();
    }
}

/* As a handler's closing ends, others' turns begin again: the thread gets on from here, or is
   interrupted again before it has. */
void hak_gate_open(void)
{
    count_closing(-1);
    order_here();
    if (HAK_UNLIKELY(hak_gate_thread.kept_depth != 0)) {
        (void)__atomic_add_fetch(&n_forked, 1u, __ATOMIC_SEQ_CST);
    }
    give_depth_back();
    if (!hak_gate_thread.depth && !hak_gate_thread.kept_depth && !hak_theap_holds_outside()) {
        hak_fork_catch_up_opened();
    }
}

int hak_gate_saw_others(void)
{
    return hak_gate_thread.saw_others;
}

void hak_gate_open_in_child(void)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    for (uint32_t i = 0; i < COUNTERS; i++) {
        if (counters[i].n_inside) {
            counters[i].n_inside = 0;
        }
    }
    if (self->kept_depth && self->is_counted) {
        *self->shared = 1;
    }
    uint64_t flags = (hak_gate_closed & GATE_FOR_EVER) | (is_unsure() ? GATE_UNSURE : 0);
    self->n_closings--;
    self->saw_others = 0;
    self->n_at_fork = self->n_closings;
    order_here();
    atomic_store_seq(&hak_gate_closed,
                     (uint64_t)(generation(hak_gate_closed) + 1) << 32 | flags | self->n_closings);
    order_here();
    give_depth_back();
}

void hak_gate_close_for_ever(void)
{
    (void)__atomic_or_fetch(&hak_gate_closed, GATE_FOR_EVER, __ATOMIC_SEQ_CST);
}

void hak_gate_forget(void)
{
    struct hak_gate_thread *self = &hak_gate_thread;
    if (self->depth || self->kept_depth) {
        self->kept_depth = 0;
        hak_gate_leave_last();
    }
}

enum gate_reader hak_gate_enter_to_read(void)
{
    if (hak_gate_enter()) {
        return GATE_INSIDE;
    }
    if (atomic_load_seq(&hak_gate_closed) & GATE_FOR_EVER || hak_gate_thread.kept_depth) {
        return GATE_REFUSED;
    }
    hak_gate_close();
    hak_lock_pass_begin();
    return GATE_ALONE;
}

void hak_gate_leave_reader(enum gate_reader how)
{
    if (how == GATE_INSIDE) {
        hak_gate_leave();
    } else if (how == GATE_ALONE) {
        hak_lock_pass_end();
        hak_gate_open();
    }
}
