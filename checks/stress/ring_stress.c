/* ring_stress: blocks and heaps go round a ring of threads. See main for the arguments.

   Each place of the ring has a mailbox and a thread at a time, which ends after a while and starts
   its successor: so blocks and heaps outlive the threads that made them. A parcel that arrives is
   checked, and goes on for some hops; the last one frees the blocks, one by one or in a batch, or
   destroys the heap with all that is in it, while all others go on with other heaps. On its way a
   heap loses blocks and gets new ones from each thread. The main thread forks while this goes on,
   and the
   child must be able to go on. Locks: one mutex a mailbox. The program's own data is static. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"

enum { MAX_PLACES = 32, MAILBOX_ROOM = 64, PARCEL_BLOCKS = 24, MAX_HOPS = 8, LIFE = 200 };

/* gcc's ASan and TSan do not hold their own locks over fork. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { CAN_FORK = 0 };
#else
enum { CAN_FORK = 1 };
#endif

/* Blocks that belong together, each patterned from end to end by `key`; of `heap`, or of the
   threads' heaps. */
struct parcel {
    struct hak_heap *heap;
    size_t n;
    void *blocks[PARCEL_BLOCKS];
    size_t sizes[PARCEL_BLOCKS];
    unsigned char key;
    unsigned hops_left;
};

struct place {
    pthread_mutex_t mutex;
    size_t n_mail;
    struct parcel mail[MAILBOX_ROOM];
    uint64_t rng;
    unsigned steps_left;
};

static struct place places[MAX_PLACES];
static unsigned n_places = 6;
static unsigned n_running;
static uint64_t n_handed_over, n_destroyed, n_threads;

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "ring_stress: FAILED (%s): %s\n", hak_variant(), what);
    abort();
}

static void require(int is_true, const char *what)
{
    if (!is_true) {
        fail(what);
    }
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static size_t below(struct place *at, size_t n)
{
    uint64_t z = at->rng += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (size_t)((z ^ (z >> 31)) % n);
}

static size_t some_size(struct place *at)
{
    size_t dice = below(at, 100);
    return 1 + (dice < 80 ? below(at, 400) : dice < 98 ? below(at, 20000) : below(at, 300000));
}

static void check_block(const struct parcel *parcel, size_t i)
{
    const unsigned char *p = (const unsigned char *)parcel->blocks[i];
    for (size_t k = 0; k < parcel->sizes[i]; k += k < 64 ? 1 : 509) {
        require(p[k] == parcel->key, "a block's contents have changed");
    }
    require(p[parcel->sizes[i] - 1] == parcel->key, "a block's last byte has changed");
}

static void check_parcel(const struct parcel *parcel)
{
    for (size_t i = 0; i < parcel->n; i++) {
        check_block(parcel, i);
    }
}

static void add_blocks(struct place *at, struct parcel *parcel, size_t n)
{
    for (size_t i = 0; i < n && parcel->n < PARCEL_BLOCKS; i++) {
        size_t size = some_size(at);
        void *p = parcel->heap ? hak_heap_malloc(parcel->heap, size) : hak_malloc(size);
        require(p != NULL, "no memory");
        memset(p, parcel->key, size);
        parcel->sizes[parcel->n] = size;
        parcel->blocks[parcel->n++] = p;
    }
}

static void free_some(struct place *at, struct parcel *parcel, size_t n)
{
    for (size_t i = 0; i < n && parcel->n; i++) {
        size_t k = below(at, parcel->n);
        hak_free(parcel->blocks[k]);
        parcel->n--;
        parcel->blocks[k] = parcel->blocks[parcel->n];
        parcel->sizes[k] = parcel->sizes[parcel->n];
    }
}

/* All blocks of one size by a batch, or of any sizes one by one; in a first-class heap of this
   parcel, or not. */
static struct parcel make_parcel(struct place *at)
{
    struct parcel parcel = {.key = (unsigned char)below(at, 256),
                            .hops_left = 1 + (unsigned)below(at, MAX_HOPS)};
    if (below(at, 4) == 0) {
        /* the tiny variant has few ids: without one, an ordinary parcel */
        parcel.heap = hak_heap_create();
        require(parcel.heap || errno == ENOMEM, "hak_heap_create's errno");
    }
    if (!parcel.heap && below(at, 2)) {
        size_t size = 1 + below(at, 2000);
        parcel.n = hak_malloc_batch(size, PARCEL_BLOCKS, parcel.blocks);
        require(parcel.n == PARCEL_BLOCKS, "no batch");
        for (size_t i = 0; i < parcel.n; i++) {
            memset(parcel.blocks[i], parcel.key, size);
            parcel.sizes[i] = size;
        }
    } else {
        add_blocks(at, &parcel, PARCEL_BLOCKS / 2);
    }
    return parcel;
}

static void end_parcel(struct place *at, struct parcel *parcel)
{
    check_parcel(parcel);
    if (parcel->heap) {
        hak_heap_destroy(parcel->heap);
        atomic_add_relaxed(&n_destroyed, 1);
    } else if (below(at, 2)) {
        hak_free_batch(parcel->blocks, parcel->n);
    } else {
        free_some(at, parcel, parcel->n);
    }
}

static int put_mail(struct place *to, const struct parcel *parcel)
{
    pthread_mutex_lock(&to->mutex);
    int has_room = to->n_mail < MAILBOX_ROOM;
    if (has_room) {
        to->mail[to->n_mail++] = *parcel;
    }
    pthread_mutex_unlock(&to->mutex);
    return has_room;
}

static int take_mail(struct place *at, struct parcel *parcel)
{
    pthread_mutex_lock(&at->mutex);
    int has_mail = at->n_mail > 0;
    if (has_mail) {
        *parcel = at->mail[--at->n_mail];
    }
    pthread_mutex_unlock(&at->mutex);
    return has_mail;
}

/* To the next place; no thread waits for room, so that the ring cannot lock itself up. */
static void hand_over(struct place *at, struct parcel *parcel)
{
    struct place *to = &places[((size_t)(at - places) + 1) % n_places];
    if (parcel->hops_left && put_mail(to, parcel)) {
        atomic_add_relaxed(&n_handed_over, 1);
    } else {
        end_parcel(at, parcel);
    }
}

static void step(struct place *at)
{
    struct parcel parcel;
    if (below(at, 4) && take_mail(at, &parcel)) {
        check_parcel(&parcel);
        parcel.hops_left--;
        free_some(at, &parcel, below(at, 6));
        add_blocks(at, &parcel, below(at, 6));
    } else {
        parcel = make_parcel(at);
    }
    hand_over(at, &parcel);
    if (below(at, 500) == 0) {
        require(hak_verify() == 0, "hak_verify while others run");
    }
}

static void *work(void *arg);

static void start_thread(struct place *at)
{
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    require(pthread_create(&thread, &attr, work, at) == 0, "no thread");
    pthread_attr_destroy(&attr);
    atomic_add_relaxed(&n_threads, 1);
}

static void *work(void *arg)
{
    struct place *at = (struct place *)arg;
    unsigned life = at->steps_left < LIFE ? at->steps_left : LIFE;
    for (unsigned i = 0; i < life; i++) {
        step(at);
    }
    at->steps_left -= life;
    if (at->steps_left) {
        start_thread(at);
    } else {
        __atomic_fetch_sub(&n_running, 1, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

/* What a child does; its mailboxes may be in the middle of a change, so it leaves them alone.
   Returns what failed, 0 for nothing. */
static int live_as_child(void)
{
    alarm(30); /* a lock that was left held must not hang the test */
    if (hak_verify()) {
        return 1;
    }
    struct place at = {.rng = 1};
    struct hak_heap *heap = hak_heap_create();
    if (!heap && errno != ENOMEM) {
        return 2;
    }
    for (int i = 0; i < 300; i++) {
        size_t size = some_size(&at);
        void *p = hak_malloc(size), *q = heap ? hak_heap_malloc(heap, size) : hak_malloc(size);
        if (!p || !q) {
            return 3;
        }
        memset(p, 1, size);
        memset(q, 2, size);
        hak_free(p);
        if (!heap || i % 2) {
            hak_free(q);
        }
    }
    hak_heap_destroy(heap);
    (void)hak_purge();
    return hak_verify() ? 4 : 0;
}

static void fork_once(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(live_as_child());
    }
    require(pid > 0, "no child");
    int status = 0;
    pid_t got;
    do {
        got = waitpid(pid, &status, 0);
    } while (got < 0 && errno == EINTR);
    if (got != pid || !WIFEXITED(status) || WEXITSTATUS(status)) {
        fprintf(stderr, "ring_stress: the child's status is %#x\n", status);
        fail("a forked child");
    }
}

static void check_nothing_left(void)
{
    for (unsigned i = 0; i < n_places; i++) {
        struct parcel parcel;
        while (take_mail(&places[i], &parcel)) {
            end_parcel(&places[i], &parcel);
        }
    }
    /* Detached threads may still be on their way out: their heaps become orphans within moments,
       all but this thread's. */
    for (int i = 0; i < 1000 && hak_stat_get(heaps) - hak_stat_get(orphans) > 1; i++) {
        usleep(10000);
    }
    (void)hak_purge();
    require(hak_verify() == 0, "hak_verify at the end");
    require(hak_stat_get(heap_used_bytes) == 0, "small blocks are left");
    require(hak_stat_get(large_bytes) == 0, "large blocks are left");
    require(n_destroyed > 0 && n_handed_over > 0, "no heap or no block has gone round");
}

static unsigned argument(const char *text, unsigned least, unsigned most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value < least || value > most) {
        fprintf(stderr, "usage: ring_stress THREADS STEPS FORKS (threads: 2 to %d)\n", MAX_PLACES);
        exit(2);
    }
    return (unsigned)value;
}

int main(int argc, char **argv)
{
    n_places = argument(argc == 4 ? argv[1] : "", 2, MAX_PLACES);
    unsigned steps = argument(argv[2], 1, 1000000000);
    unsigned n_forks = argument(argv[3], 0, 1000000);
    n_running = n_places;
    for (unsigned i = 0; i < n_places; i++) {
        pthread_mutex_init(&places[i].mutex, NULL);
        places[i].rng = i;
        places[i].steps_left = steps;
    }
    for (unsigned i = 0; i < n_places; i++) {
        start_thread(&places[i]);
    }
    unsigned n_forked = 0;
    while (atomic_load_acquire(&n_running)) {
        if (CAN_FORK && n_forked < n_forks) {
            fork_once();
            n_forked++;
        }
        usleep(1000);
    }
    check_nothing_left();
    printf("ring_stress: ok variant=%s threads=%u steps=%u threads_started=%llu handed_over=%llu "
           "heaps_destroyed=%llu "
           "forks=%u\n",
           hak_variant(), n_places, steps, (unsigned long long)n_threads,
           (unsigned long long)n_handed_over, (unsigned long long)n_destroyed, n_forked);
    return 0;
}
