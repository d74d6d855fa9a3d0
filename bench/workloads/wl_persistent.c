// wl_persistent [THREADS [STEPS [KEYS [VERSIONS [SEED]]]]]: a map that never changes: each update
// makes a new version.
//
// The map is a binary trie over KEYS keys whose nodes count their owners. A step sets one key in
// the newest version: the nodes on the way to it are allocated again, all others are shared. The
// newest VERSIONS versions are kept; when the oldest one goes, the nodes that no other version
// holds are freed. Leaves are boxes of 24 to 48 bytes. An operation is one step.
//
// Stresses: a dozen small blocks a step, most of which live as long as VERSIONS steps, freed
// together in the order of a walk: what functional languages do. The idea is that of the Lean
// prover among the programs of Leijen's suite. No locks, nothing shared.
#include "bench/workloads/workload.h"

enum { MIN_BOX = 24, MAX_BOX = 48 };

struct node {
    uint64_t owners;
    void *parts[2]; // nodes; on the last level boxes
};

struct box {
    uint64_t word; // as wl_write leaves it: first
    uint64_t owners;
};

static uint64_t steps, n_versions;
static unsigned levels;

// One owner less; frees the part and what it alone holds. The sum of the boxes freed.
static uint64_t drop(void *part, unsigned level)
{
    if (part == NULL)
        return 0;
    if (level == 0) {
        struct box *box = part;
        return --box->owners == 0 ? wl_delete(box) : 0;
    }
    struct node *node = part;
    if (--node->owners != 0)
        return 0;
    uint64_t sum = drop(node->parts[0], level - 1) + drop(node->parts[1], level - 1);
    free(node);
    return sum;
}

static void hold(void *part, unsigned level)
{
    if (part == NULL)
        return;
    if (level == 0)
        ((struct box *)part)->owners++;
    else
        ((struct node *)part)->owners++;
}

// The part with `key` set to a new box.
static void *with_key(const struct node *old, unsigned level, uint64_t key, uint64_t random)
{
    if (level == 0) {
        struct box *box = wl_new(wl_size(random, MIN_BOX, MAX_BOX), random << 32);
        box->owners = 1;
        return box;
    }
    struct node *node = wl_malloc(sizeof(struct node));
    unsigned way = (unsigned)(key >> (level - 1)) & 1;
    node->owners = 1;
    node->parts[way] = with_key(old ? old->parts[way] : NULL, level - 1, key, random);
    node->parts[!way] = old ? old->parts[!way] : NULL;
    hold(node->parts[!way], level - 1);
    return node;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    void **versions = wl_table(n_versions * sizeof(void *)), *newest = NULL;
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        void **version = &versions[i % n_versions];
        void *next = with_key(newest, levels, random & ((UINT64_C(1) << levels) - 1), random);
        sum += drop(*version, levels);
        *version = newest = next;
    }
    for (uint64_t i = 0; i < n_versions; i++)
        sum += drop(versions[i], levels);
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 1, 0}, {"STEPS", 1, UINT64_C(1) << 32, 400000, 0},
        {"KEYS", 2, 1 << 24, 4096, 0},        {"VERSIONS", 2, 1 << 24, 64, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    steps = args[1].value;
    n_versions = args[3].value;
    for (levels = 1; UINT64_C(1) << levels < args[2].value;)
        levels++;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[4].value);
    wl_finish(args[0].value * steps, steps, args[2].value, start, sum);
    return 0;
}
