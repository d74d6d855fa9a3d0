/* The quarantine of large blocks. The records' lock (rank OWNED) for the lists alone: the system is
   called without it, by the one thread that has the block. Called by large.c and grow.c. */
#include "secure/quarantine.h"

#include "base/options.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "secure/large_internal.h"
#include "secure/tail.h"

#if HAK_SECURE

#define DRAWN_LARGE 8u
#define QUEUE_LARGE 48u
#define READY_MOST  64u
/* A ready container serves requests of at least this part of it: the rest is address space. */
#define READY_TIMES 4u

static struct large *drawn[DRAWN_LARGE], *queue[QUEUE_LARGE];
static struct {
    size_t bytes; /* of the container */
    struct large *large;
} ready[READY_MOST];
static uint32_t n_drawn, n_queued, first_queued, n_ready, draws;
size_t hak_secure_large_waiting;
static struct large *stuck, *last_stuck; /* freed, in no other list */
static struct large *refused; /* the same, of calls that a fork kept out: a stack without a lock */

/* --- ready --- */

/* The place of the smallest ready container that has so many bytes, and not many times as many. */
static uint32_t best_ready(size_t bytes)
{
    uint32_t best = READY_MOST;
    size_t least = bytes > SIZE_MAX / READY_TIMES ? SIZE_MAX : bytes * READY_TIMES + READY_TIMES;
    for (uint32_t i = 0; i < n_ready; i++) {
        if (ready[i].bytes >= bytes && ready[i].bytes < least) {
            best = i;
            least = ready[i].bytes;
        }
    }
    return best;
}

static struct large *take_ready(uint32_t i)
{
    struct large *large = ready[i].large;
    ready[i] = ready[n_ready - 1];
    atomic_store_relaxed(&n_ready, n_ready - 1);
    return large;
}

struct large *hak_secure_quarantine_ready(size_t bytes)
{
    struct large *found = NULL;
    if (atomic_load_relaxed(&n_ready) && hak_gate_enter()) {
        hak_lock_acquire(&hak_secure_large_lock);
        uint32_t i = best_ready(bytes);
        found = i < READY_MOST ? take_ready(i) : NULL;
        hak_lock_release(&hak_secure_large_lock);
        hak_gate_leave();
    }
    return found;
}

/* Becomes ready if there is room for it and no program has it. Lock held. */
static int keep_ready(struct large *large)
{
    if (large->heap || large->is_bare || n_ready == READY_MOST ||
        large->bytes > hak_options.secure_large_quarantine) {
        return 0;
    }
    ready[n_ready].bytes = large->bytes;
    ready[n_ready].large = large;
    atomic_store_relaxed(&n_ready, n_ready + 1);
    return 1;
}

/* --- returning --- */

int hak_secure_quarantine_open(struct large *large)
{
    return large->is_bare ? 0 : hak_os_renew(hak_secure_container_of(large), large->bytes);
}

/* The system may refuse to make it touchable (RLIMIT_DATA): then it is stuck until others have
   gone. Returns whether it went. */
static int try_give_back(struct large *large)
{
    char *container = hak_secure_container_of(large);
    if (hak_secure_quarantine_open(large)) {
        return 0;
    }
    struct address_table *table = &hak_secure_large_table;
    hak_lock_acquire(&hak_secure_large_lock);
    hak_address_drop(table, hak_address_take_out(table, hak_address_find(table, container)));
    hak_lock_release(&hak_secure_large_lock);
    hak_secure_below()->free(container);
    return 1;
}

/* A first-class heap that ends must not free it by itself. */
void hak_secure_quarantine_stick(struct large *large)
{
    hak_heap_forget(hak_secure_container_of(large));
    hak_lock_acquire(&hak_secure_large_lock);
    large->heap = NULL;
    large->next_stuck = NULL;
    if (stuck) {
        last_stuck->next_stuck = large;
    } else {
        atomic_store_relaxed(&stuck, large);
    }
    last_stuck = large;
    hak_lock_release(&hak_secure_large_lock);
}

void hak_secure_quarantine_stick_later(struct large *large)
{
    struct large *first = atomic_load_relaxed(&refused);
    do {
        large->next_stuck = first;
    } while (!atomic_cas_weak_seq(&refused, &first, large));
}

/* What was left while a fork kept out is stuck like the others. Inside the gate. */
static void stick_refused(void)
{
    if (HAK_LIKELY(!atomic_load_relaxed(&refused))) {
        return;
    }
    for (struct large *large = atomic_exchange_acq_rel(&refused, NULL), *next; large;
         large = next) {
        next = large->next_stuck;
        hak_secure_quarantine_stick(large);
    }
}

void hak_secure_quarantine_give_back(struct large *large)
{
    if (!try_give_back(large)) {
        hak_secure_quarantine_stick(large);
    }
}

static struct large *take_stuck(void)
{
    hak_lock_acquire(&hak_secure_large_lock);
    struct large *large = stuck;
    if (large) {
        atomic_store_relaxed(&stuck, large->next_stuck);
    }
    hak_lock_release(&hak_secure_large_lock);
    return large;
}

/* Those that are stuck are tried again, until so many have stayed: where the process has too many
   mappings, there may be thousands, and none goes. Returns whether one went. */
#define STAY_MOST 8
static int unstick(void)
{
    struct large *first = NULL, *large;
    int any = 0, n_stay = 0;
    while (n_stay < STAY_MOST && (large = take_stuck()) != NULL) {
        int is_again = large == first;
        if (!is_again && try_give_back(large)) {
            any = 1;
            continue;
        }
        hak_secure_quarantine_stick(large);
        first = first ? first : large;
        n_stay = is_again ? STAY_MOST : n_stay + 1;
    }
    return any;
}

/* --- the quarantine --- */

/* The first of the queue. */
static struct large *pop(void)
{
    struct large *large = queue[first_queued];
    first_queued = (first_queued + 1) % QUEUE_LARGE;
    n_queued--;
    atomic_store_relaxed(&hak_secure_large_waiting, hak_secure_large_waiting - large->bytes);
    return large;
}

static struct large *append(struct large *large)
{
    struct large *out = n_queued == QUEUE_LARGE ? pop() : NULL;
    queue[(first_queued + n_queued++) % QUEUE_LARGE] = large;
    return out;
}

void hak_secure_large_draw_anew(uint32_t chance)
{
    draws ^= chance;
}

/* Into the quarantine; returns what leaves it. Lock held. */
static struct large *wait_in_quarantine(struct large *large)
{
    if (large->bytes > hak_options.secure_large_quarantine || large->heap || large->is_bare) {
        return large;
    }
    atomic_store_relaxed(&hak_secure_large_waiting, hak_secure_large_waiting + large->bytes);
    if (n_drawn < DRAWN_LARGE) {
        drawn[n_drawn++] = large;
        return NULL;
    }
    draws = draws * 0x9E3779B1u + (uint32_t)(hak_secure_secrets.plus >> 32) + 1;
    uint32_t i = (draws >> 16) % DRAWN_LARGE;
    struct large *other = drawn[i];
    drawn[i] = large;
    return append(other);
}

/* One more that leaves because there are too many bytes; NULL if there are not. Lock held. */
static struct large *excess(void)
{
    return n_queued && hak_secure_large_waiting > hak_options.secure_large_quarantine ? pop()
                                                                                      : NULL;
}

void hak_secure_quarantine_take(struct large *large)
{
    hak_lock_acquire(&hak_secure_large_lock);
    struct large *out = wait_in_quarantine(large);
    while (out || (out = excess()) != NULL) {
        if (!keep_ready(out)) {
            hak_lock_release(&hak_secure_large_lock);
            hak_secure_quarantine_give_back(out);
            hak_lock_acquire(&hak_secure_large_lock);
        }
        out = NULL;
    }
    hak_lock_release(&hak_secure_large_lock);
}

static struct large *take_any(void)
{
    struct large *large = NULL;
    hak_lock_acquire(&hak_secure_large_lock);
    if (n_ready) {
        large = take_ready(n_ready - 1);
    } else if (n_drawn) {
        large = drawn[--n_drawn];
        atomic_store_relaxed(&hak_secure_large_waiting, hak_secure_large_waiting - large->bytes);
    } else if (n_queued) {
        large = pop();
    }
    hak_lock_release(&hak_secure_large_lock);
    return large;
}

int hak_secure_quarantine_flush(void)
{
    int any = 0;
    stick_refused();
    for (struct large *large; (large = take_any()) != NULL; any = 1) {
        hak_secure_quarantine_give_back(large);
    }
    while (atomic_load_relaxed(&stuck) && unstick()) {
        any = 1;
    }
    return any;
}

int hak_secure_quarantine_is_stuck(void)
{
    return atomic_load_relaxed(&stuck) || atomic_load_relaxed(&refused);
}

int hak_secure_quarantine_is_any(void)
{
    return atomic_load_relaxed(&n_ready) || atomic_load_relaxed(&hak_secure_large_waiting) ||
           hak_secure_quarantine_is_stuck();
}

static int verify_waiting(const struct large *large)
{
    return large->state == LARGE_FREED && !large->heap && !large->is_bare &&
           hak_secure_large_record_of(hak_secure_container_of(large)) == large;
}

int hak_secure_quarantine_verify(void)
{
    size_t bytes = 0;
    int is_right = n_queued <= QUEUE_LARGE;
    for (uint32_t i = 0; i < n_drawn; i++) {
        is_right &= verify_waiting(drawn[i]);
        bytes += drawn[i]->bytes;
    }
    for (uint32_t i = 0; i < n_queued; i++) {
        const struct large *large = queue[(first_queued + i) % QUEUE_LARGE];
        is_right &= verify_waiting(large);
        bytes += large->bytes;
    }
    for (uint32_t i = 0; i < n_ready; i++) {
        is_right &= verify_waiting(ready[i].large) && ready[i].bytes == ready[i].large->bytes;
    }
    return is_right && bytes == hak_secure_large_waiting;
}

#endif
