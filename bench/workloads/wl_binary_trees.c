// wl_binary_trees [THREADS [DEPTH [ROUNDS]]]: complete binary trees, built and torn down.
//
// Each thread keeps one tree of DEPTH levels, and ROUNDS times builds, counts and frees trees of 4,
// 6, ... DEPTH levels, as many of each as make the same number of nodes. A node is 24 bytes. An
// operation is one malloc or one free.
//
// Stresses: one small size, freed in the order of a walk, and how near each other the nodes of a
// tree lie. The idea is the binary-trees program of the Computer Language Benchmarks Game. No
// locks, nothing shared, and no random numbers.
#include "bench/workloads/workload.h"

enum { MIN_DEPTH = 4 };

struct node {
    struct node *left, *right;
    uint64_t number;
};

static uint64_t depth, rounds;

static struct node *build(uint64_t levels, uint64_t number)
{
    struct node *node = wl_malloc(sizeof(struct node));
    node->number = number;
    node->left = levels > 1 ? build(levels - 1, 2 * number) : NULL;
    node->right = levels > 1 ? build(levels - 1, 2 * number + 1) : NULL;
    return node;
}

static uint64_t count(const struct node *node)
{
    return node != NULL ? bench_seed(node->number) + count(node->left) + count(node->right) : 0;
}

static void tear_down(struct node *node)
{
    if (node == NULL)
        return;
    tear_down(node->left);
    tear_down(node->right);
    free(node);
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    struct node *kept = build(depth, 1);
    uint64_t sum = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t levels = MIN_DEPTH; levels <= depth; levels += 2) {
            for (uint64_t i = 0; i < UINT64_C(1) << (depth - levels); i++) {
                struct node *tree = build(levels, i + 1);
                sum += count(tree);
                tear_down(tree);
            }
        }
    }
    sum += count(kept);
    tear_down(kept);
    thread->sum = sum;
    return NULL;
}

// Nodes that one thread allocates.
static uint64_t nodes(void)
{
    uint64_t n = 0;
    for (uint64_t levels = MIN_DEPTH; levels <= depth; levels += 2)
        n += ((UINT64_C(1) << levels) - 1) << (depth - levels);
    return n * rounds + (UINT64_C(1) << depth) - 1;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0},
        {"DEPTH", MIN_DEPTH, 28, 16, 0},
        {"ROUNDS", 1, 1 << 24, 4, 0},
    };
    bench_args(argc, argv, args, 3);
    depth = args[1].value;
    rounds = args[2].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, 0);
    // Each thread keeps one tree, and builds others, of which the largest are as large.
    wl_count_live(2 * args[0].value * ((UINT64_C(1) << depth) - 1) * sizeof(struct node));
    wl_finish(2 * args[0].value * nodes(), rounds, depth, start, sum);
    return 0;
}
