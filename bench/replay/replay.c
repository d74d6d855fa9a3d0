// replay [OPTIONS] TRACE: plays a trace that `hakmem record` wrote, with the malloc and free that
// serve this process.
//
// Every thread of the trace is a thread here, begun when the trace had it begin, ended after its
// last call. Everything else is ready before the clock starts: each thread's calls as an array of
// 64-bit words, and a table of slots, in which the blocks alive are kept; both come from mmap, so
// the allocator sees the trace's calls and little else (pthread_create's). Slots are used again
// like stack places, so that the table stays small and in the cache. A slot whose block another
// thread freed is left empty for a while, so that its reuse adds no waiting.
//
// Threads meet in two ways. A call about a block waits until the last call about it, or about its
// place in the table, is done, if that was another thread's: always. And in steps of the window: no
// thread begins the calls of one window before all calls of the one before are done. A window of 1
// is the trace's exact order, 0 none at all, and 1,024 keeps the interleaving at a cost that cannot
// be felt.
#include "bench/common/bench_common.h"
#include "trace/trace.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BAD_USAGE = 2,
    REST = 100000,
    SPINS = 200,
    PUBLISH = 256,
    DEFAULT_WINDOW = 1024,
    WORDS_A_CALL = 4,
    STACK_BYTES = 256 << 10
};

// A call is one word: operation, slot, size. Before it may come: WAIT (size: so many calls of all
// threads have to be done), AFTER (slot: a thread, size: so many of its calls have to be done),
// ALIGN (size: the alignment's logarithm).
enum { OP_WAIT = TRACE_N_OPS, OP_AFTER, OP_ALIGN, OP_BITS = 3, SLOT_BITS = 27, SIZE_BITS = 34 };

_Static_assert(OP_BITS + SLOT_BITS + SIZE_BITS == 64, "a call is one word");

#define SLOT_MASK ((UINT64_C(1) << SLOT_BITS) - 1)

enum { TOUCH_NONE, TOUCH_ENDS, TOUCH_ALL };

struct thread {
    uint64_t played; // calls done; written by the thread itself, after each of them
    uint64_t *calls, *end;
    uint64_t first;   // of its calls, among all
    uint64_t n_calls; // while the plan is made: so far
    pthread_t id;
} __attribute__((aligned(64)));

static struct {
    struct thread *threads;
    uint32_t n_threads;
    void **slots;
    uint64_t n_slots, n_calls;
    const struct trace_header *header;
    unsigned touch;
    uint64_t window;
} plan;

static uint64_t done
    __attribute__((aligned(64))); // calls of all threads, as far as they have published them

__attribute__((cold, noreturn)) static void die(const char *what, const char *why)
{
    fprintf(stderr, "replay: %s: %s\n", what, why);
    exit(BAD_USAGE);
}

static inline uint64_t word(unsigned op, uint64_t slot, uint64_t size)
{
    return op | slot << OP_BITS | size << (OP_BITS + SLOT_BITS);
}

// Waiting: a short while in the hope that the other thread runs, then the processor is given away.
static void relax(unsigned *spins)
{
    if (++*spins < SPINS) {
        __asm__ volatile("" ::: "memory");
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    } else {
        sched_yield();
    }
}

static inline void publish(uint64_t *unpublished)
{
    __atomic_fetch_add(&done, *unpublished, __ATOMIC_RELEASE);
    *unpublished = 0;
}

// Waits until a counter that others write has reached n.
static void wait_until(const uint64_t *counter, uint64_t n)
{
    unsigned spins = 0;
    while (__atomic_load_n(counter, __ATOMIC_ACQUIRE) < n)
        relax(&spins);
}

static inline void *touch(void *block, uint64_t from, uint64_t size)
{
    if (block == NULL || size <= from)
        return block;
    if (plan.touch == TOUCH_ALL)
        memset((char *)block + from, (int)size, size - from);
    else if (plan.touch == TOUCH_ENDS)
        bench_touch(block, size, size);
    return block;
}

static void *aligned(uint64_t log2, uint64_t size)
{
    void *block = NULL;
    uint64_t alignment = UINT64_C(1) << log2;
    if (posix_memalign(&block, alignment < sizeof(void *) ? sizeof(void *) : alignment, size) != 0)
        return NULL;
    return block;
}

// One call; 0 if the word was none.
static inline int play(uint64_t call, uint64_t *align)
{
    void **slot = &plan.slots[call >> OP_BITS & SLOT_MASK];
    uint64_t size = call >> (OP_BITS + SLOT_BITS);
    void *block;
    switch (call & ((1u << OP_BITS) - 1)) {
    case TRACE_MALLOC:
        block = touch(malloc(size), 0, size);
        break;
    case TRACE_CALLOC:
        block = touch(calloc(1, size), 0, size);
        break;
    case TRACE_ALIGNED:
        block = touch(aligned(*align, size), 0, size);
        break;
    case TRACE_REALLOC:
        block = touch(realloc(*slot, size), plan.touch == TOUCH_ALL ? size / 2 : 0, size);
        break;
    case TRACE_FREE:
        free(*slot);
        *slot = NULL;
        return 1;
    default:
        *align = size;
        return 0;
    }
    if (BENCH_UNLIKELY(block == NULL))
        bench_die("out of memory");
    *slot = block;
    return 1;
}

static void wait_as_told(uint64_t call, uint64_t *unpublished)
{
    uint64_t n = call >> (OP_BITS + SLOT_BITS);
    publish(unpublished); // others may wait for what this thread has done
    wait_until((call & 7) == OP_WAIT ? &done : &plan.threads[call >> OP_BITS & SLOT_MASK].played,
               n);
}

static void *run_thread(void *argument)
{
    struct thread *thread = argument;
    uint64_t align = 0, unpublished = 0, played = 0;
    for (const uint64_t *call = thread->calls; call != thread->end; call++) {
        unsigned op = *call & 7;
        if (BENCH_UNLIKELY(op == OP_WAIT || op == OP_AFTER)) {
            wait_as_told(*call, &unpublished);
        } else if (play(*call, &align)) {
            __atomic_store_n(&thread->played, ++played, __ATOMIC_RELEASE);
            if (++unpublished == PUBLISH)
                publish(&unpublished);
        }
    }
    publish(&unpublished);
    return NULL;
}

// Begins and joins all threads but the first, which is the one that called main: with one alone the
// process has no other.
static void *run_others(void *unused)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK_BYTES);
    for (uint32_t i = 1; i < plan.n_threads; i++) {
        wait_until(&done, plan.threads[i].first);
        errno = pthread_create(&plan.threads[i].id, &small, run_thread, &plan.threads[i]);
        if (errno != 0)
            bench_die("pthread_create");
    }
    for (uint32_t i = 1; i < plan.n_threads; i++)
        pthread_join(plan.threads[i].id, NULL);
    pthread_attr_destroy(&small);
    return unused;
}

// One pass over the trace; nanoseconds.
static uint64_t run(void)
{
    pthread_t others = pthread_self();
    done = 0;
    for (uint32_t i = 0; i < plan.n_threads; i++)
        plan.threads[i].played = 0;
    uint64_t start = bench_now_ns();
    if (plan.n_threads > 1 && (errno = pthread_create(&others, NULL, run_others, NULL)) != 0)
        bench_die("pthread_create");
    if (plan.n_threads > 0)
        run_thread(&plan.threads[0]);
    if (plan.n_threads > 1)
        pthread_join(others, NULL);
    return bench_now_ns() - start;
}

// Says what is resident before the first call, and that it comes now. Not by stdio: it allocates.
static void announce(void)
{
    char text[128];
    unsigned long long total, pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n < 0 ? 0 : n] = '\0';
    if (sscanf(text, "%llu %llu", &total, &pages) != 2)
        pages = 0;
    n = snprintf(text, sizeof text, "Resident before the first call: own=%llu\n",
                 pages * (unsigned long long)sysconf(_SC_PAGESIZE));
    if (write(STDOUT_FILENO, text, (size_t)n) != n)
        die("standard output", strerror(errno));
}

// What the program had not freed when it ended is freed between the passes, outside of the time.
static void free_rest(void)
{
    for (uint64_t i = 0; i < plan.n_slots; i++) {
        free(plan.slots[i]);
        plan.slots[i] = NULL;
    }
}

// ------------------------------------------------------------------------------------------------
// making the plan

// Slots of blocks that are gone, a stack a thread; and those that are left empty, with the call
// after which they may be used.
struct planner {
    uint32_t *slot_of;  // of a block, by its number
    uint32_t *maker_of; // thread that allocated the block which is, or was last, in the slot
    uint32_t *last_by;  // the thread of the last call about what is in the slot
    uint64_t *last_at;  // and how many calls that thread had done after it; 0: none yet
    uint32_t *below;    // the next slot in a stack, from 1; 0: none
    uint32_t *top;      // of each thread's stack
    uint64_t *last_window;
    struct {
        uint64_t until;
        uint32_t slot;
    } * resting;
    uint64_t first_resting, n_resting;
};

static void *table(uint64_t n, size_t size)
{
    return bench_table((size_t)(n + 1) * size);
}

static void drop(void *at, uint64_t n, size_t size)
{
    munmap(at, (size_t)(n + 1) * size);
}

static void back_to_stack(struct planner *p, uint32_t slot)
{
    uint32_t maker = p->maker_of[slot];
    p->below[slot] = p->top[maker];
    p->top[maker] = slot + 1;
}

static uint32_t take_slot(struct planner *p, const struct trace_call *call, uint64_t n)
{
    while (p->first_resting != p->n_resting && p->resting[p->first_resting].until <= n)
        back_to_stack(p, p->resting[p->first_resting++].slot);
    uint32_t slot = p->top[call->thread];
    if (slot != 0) {
        p->top[call->thread] = p->below[--slot];
    } else {
        if (plan.n_slots >> SLOT_BITS)
            die("trace", "more blocks alive than there are slots");
        slot = (uint32_t)plan.n_slots++;
    }
    p->maker_of[slot] = call->thread;
    p->slot_of[call->block] = slot;
    return slot;
}

static void give_slot(struct planner *p, const struct trace_call *call, uint64_t n)
{
    uint32_t slot = p->slot_of[call->block];
    if (p->maker_of[slot] == call->thread) {
        back_to_stack(p, slot);
    } else {
        p->resting[p->n_resting].until = n + REST;
        p->resting[p->n_resting++].slot = slot;
    }
    p->slot_of[call->block] = UINT32_MAX;
}

static void add_call(struct planner *p, const struct trace_call *call, uint64_t n)
{
    struct thread *thread = &plan.threads[call->thread];
    if (call->size >> SIZE_BITS)
        die("trace", "a block of more than 16 GiB");
    if (thread->n_calls == 0)
        thread->first = n;
    if (plan.window != 0 && plan.n_threads > 1 && n / plan.window != p->last_window[call->thread]) {
        p->last_window[call->thread] = n / plan.window;
        *thread->end++ = word(OP_WAIT, 0, n / plan.window * plan.window);
    }
    uint64_t slot = call->op == TRACE_REALLOC || call->op == TRACE_FREE ? p->slot_of[call->block]
                                                                        : take_slot(p, call, n);
    if (slot == UINT32_MAX)
        die("trace", "a block is used after it was freed");
    if (p->last_at[slot] != 0 && p->last_by[slot] != call->thread)
        *thread->end++ = word(OP_AFTER, p->last_by[slot], p->last_at[slot]);
    if (call->op == TRACE_ALIGNED)
        *thread->end++ = word(OP_ALIGN, 0, call->align_log2);
    *thread->end++ = word(call->op, slot, call->size);
    p->last_by[slot] = call->thread;
    p->last_at[slot] = ++thread->n_calls;
    if (call->op == TRACE_FREE)
        give_slot(p, call, n);
}

// Walks the trace once, to count every thread's calls; the walk that fills their arrays comes after
// it.
static void count_calls(struct trace_reader reader, uint64_t *calls)
{
    struct trace_call call;
    int more;
    while ((more = trace_next(&reader, &call)) > 0)
        calls[call.thread]++;
    if (more < 0)
        die("trace", "damaged");
}

static void make_plan(struct trace_reader reader)
{
    const struct trace_header *h = reader.header;
    plan.header = h;
    plan.n_calls = h->n_calls;
    plan.n_threads = (uint32_t)h->n_threads;
    plan.threads = table(h->n_threads, sizeof *plan.threads);
    uint64_t *calls = table(h->n_threads, sizeof *calls);
    count_calls(reader, calls);
    for (uint32_t i = 0; i < plan.n_threads; i++)
        plan.threads[i].calls = plan.threads[i].end =
            table(WORDS_A_CALL * calls[i], sizeof(uint64_t));
    struct planner p = {.slot_of = table(h->n_blocks, sizeof(uint32_t)),
                        .maker_of = table(h->n_blocks, sizeof(uint32_t)),
                        .last_by = table(h->n_blocks, sizeof(uint32_t)),
                        .last_at = table(h->n_blocks, sizeof(uint64_t)),
                        .below = table(h->n_blocks, sizeof(uint32_t)),
                        .top = table(h->n_threads, sizeof(uint32_t)),
                        .last_window = table(h->n_threads, sizeof(uint64_t)),
                        .resting = table(h->n_blocks, sizeof *p.resting)};
    struct trace_call call;
    for (uint64_t n = 0; trace_next(&reader, &call) > 0; n++)
        add_call(&p, &call, n);
    plan.slots = table(plan.n_slots, sizeof(void *));
    drop(calls, h->n_threads, sizeof *calls);
    drop(p.slot_of, h->n_blocks, sizeof(uint32_t));
    drop(p.maker_of, h->n_blocks, sizeof(uint32_t));
    drop(p.last_by, h->n_blocks, sizeof(uint32_t));
    drop(p.last_at, h->n_blocks, sizeof(uint64_t));
    drop(p.below, h->n_blocks, sizeof(uint32_t));
    drop(p.top, h->n_threads, sizeof(uint32_t));
    drop(p.last_window, h->n_threads, sizeof(uint64_t));
    drop(p.resting, h->n_blocks, sizeof *p.resting);
}

// ------------------------------------------------------------------------------------------------
// the command line

static int usage(FILE *to)
{
    fputs("usage: replay [--repeat N] [--window N] [--touch none|ends|all] TRACE | --whoami | "
          "--help\n",
          to);
    return to == stdout ? 0 : BAD_USAGE;
}

static void help(void)
{
    usage(stdout);
    puts("  TRACE       what `hakmem record` wrote; a name without a slash is looked for in "
         "traces/ beside this "
         "program\n"
         "  --repeat N  plays it so often, freeing between the passes what is left (default 1)\n"
         "  --window N  threads keep the trace's order between windows of so many calls: 1 "
         "exactly, 0 not at all\n"
         "              (default 1024)\n"
         "  --touch     which bytes of a block are written: none, the first and the last, or all "
         "(default all)");
}

// The trace's path: beside the program if it is a bare name.
static const char *trace_path(const char *program, const char *name, char *out)
{
    const char *slash = strrchr(program, '/');
    if (strchr(name, '/') != NULL)
        return name;
    int n = snprintf(out, PATH_MAX, "%.*straces/%s", slash ? (int)(slash - program + 1) : 0,
                     program, name);
    return n > 0 && n < PATH_MAX ? out : name;
}

static struct trace_reader open_trace(const char *path, size_t *bytes)
{
    struct stat status;
    struct trace_reader reader;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0)
        die(path, strerror(errno));
    *bytes = (size_t)status.st_size;
    void *map = *bytes ? mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (map == MAP_FAILED)
        die(path, strerror(errno));
    close(fd);
    const char *wrong = trace_open(&reader, map, *bytes);
    if (wrong)
        die(path, wrong);
    return reader;
}

static unsigned parse_touch(const char *text)
{
    static const char *const names[] = {"none", "ends", "all"};
    for (unsigned i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    exit(usage(stderr));
}

static uint64_t parse_number(const char *text, uint64_t min, uint64_t max)
{
    uint64_t value;
    if (bench_parse(text, min, max, &value) != 0) {
        fprintf(stderr, "replay: %s: a number from %llu to %llu is wanted\n", text,
                (unsigned long long)min, (unsigned long long)max);
        exit(usage(stderr));
    }
    return value;
}

int main(int argc, char **argv)
{
    char path[PATH_MAX];
    const char *name = NULL;
    uint64_t repeats = 1, ns = 0;
    size_t bytes;
    plan.window = DEFAULT_WINDOW;
    plan.touch = TOUCH_ALL;
    if (argc == 2 && strcmp(argv[1], "--whoami") == 0)
        bench_args(argc, argv, NULL, 0);
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        help();
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        int more = i + 1 < argc;
        if (more && strcmp(argv[i], "--repeat") == 0)
            repeats = parse_number(argv[++i], 1, 1000000);
        else if (more && strcmp(argv[i], "--window") == 0)
            plan.window = parse_number(argv[++i], 0, UINT32_MAX);
        else if (more && strcmp(argv[i], "--touch") == 0)
            plan.touch = parse_touch(argv[++i]);
        else if (name == NULL && argv[i][0] != '-')
            name = argv[i];
        else
            return usage(stderr);
    }
    if (name == NULL)
        return usage(stderr);
    struct trace_reader reader = open_trace(trace_path(argv[0], name, path), &bytes);
    struct trace_header header = *reader.header;
    make_plan(reader);
    munmap((void *)(uintptr_t)reader.header, bytes);
    announce();
    for (uint64_t i = 0; i < repeats; i++) {
        ns += run();
        free_rest();
    }
    double seconds = (double)(ns ? ns : 1) * 1e-9;
    uint64_t calls = header.n_calls * repeats;
    printf("Throughput = %.0f ops/s [iter=%llu ws=%llu threads=%llu live=%llu] time=%.3fs\n",
           (double)calls / seconds, (unsigned long long)calls,
           (unsigned long long)header.peak_blocks, (unsigned long long)header.n_threads,
           (unsigned long long)header.peak_bytes, seconds);
    return 0;
}
