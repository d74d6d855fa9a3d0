// wl_red_black [STEPS [KEYS [SEED]]]: an ordered map of strings by a balanced tree, inserted into
// and deleted from.
//
// Keys are numbers below KEYS. A step picks one: a key that is in the map is removed, another one
// is put in with a value, a string of 8 to 64 bytes; so half of the keys are in. The tree is a
// red-black tree in Andersson's form (red nodes as right children only). An operation is one step.
//
// Stresses: two blocks of different lifetime and size an element, and a search through nodes in
// memory for each step. No threads.
#include "bench/workloads/workload.h"

enum { MIN_VALUE = 8, MAX_VALUE = 64 };

struct node {
    struct node *left, *right;
    void *value;
    uint32_t key;
    uint32_t level; // of black nodes to a leaf; a red node has its parent's
};

static uint32_t level_of(const struct node *node)
{
    return node != NULL ? node->level : 0;
}

// A red left child becomes the parent.
static struct node *skew(struct node *node)
{
    struct node *left = node->left;
    if (left == NULL || left->level != node->level)
        return node;
    node->left = left->right;
    left->right = node;
    return left;
}

// Of two red nodes in a row the first becomes a black parent.
static struct node *split(struct node *node)
{
    struct node *right = node->right;
    if (right == NULL || level_of(right->right) != node->level)
        return node;
    node->right = right->left;
    right->left = node;
    right->level++;
    return right;
}

static struct node *insert(struct node *node, struct node *added)
{
    if (node == NULL)
        return added;
    if (added->key < node->key)
        node->left = insert(node->left, added);
    else
        node->right = insert(node->right, added);
    return split(skew(node));
}

// Restores the levels below a node one of whose subtrees lost a node.
static struct node *restore(struct node *node)
{
    uint32_t left = level_of(node->left), right = level_of(node->right),
             wanted = (left < right ? left : right) + 1;
    if (wanted < node->level) {
        node->level = wanted;
        if (wanted < right)
            node->right->level = wanted;
    }
    node = skew(node);
    if (node->right != NULL) {
        node->right = skew(node->right);
        if (node->right->right != NULL)
            node->right->right = skew(node->right->right);
    }
    node = split(node);
    if (node->right != NULL)
        node->right = split(node->right);
    return node;
}

// Takes the least node out of a subtree.
static struct node *remove_least(struct node *node, struct node **least)
{
    if (node->left == NULL) {
        *least = node;
        return node->right;
    }
    node->left = remove_least(node->left, least);
    return restore(node);
}

static struct node *remove_key(struct node *node, uint32_t key, struct node **removed)
{
    if (key < node->key) {
        node->left = remove_key(node->left, key, removed);
    } else if (key > node->key) {
        node->right = remove_key(node->right, key, removed);
    } else {
        *removed = node;
        if (node->right == NULL)
            return node->left;
        struct node *next = NULL, *rest = remove_least(node->right, &next);
        next->left = node->left;
        next->right = rest;
        next->level = node->level;
        node = next;
    }
    return restore(node);
}

static int holds(const struct node *node, uint32_t key)
{
    while (node != NULL && node->key != key)
        node = key < node->key ? node->left : node->right;
    return node != NULL;
}

static struct node *new_node(uint32_t key, uint64_t random)
{
    struct node *node = wl_malloc(sizeof(struct node));
    *node = (struct node){.key = key,
                          .level = 1,
                          .value = wl_new(wl_size(random, MIN_VALUE, MAX_VALUE), random << 32)};
    return node;
}

static uint64_t delete_node(struct node *node)
{
    uint64_t word = wl_delete(node->value) + node->key;
    free(node);
    return word;
}

static uint64_t delete_all(struct node *node)
{
    if (node == NULL)
        return 0;
    uint64_t sum = delete_all(node->left) + delete_all(node->right);
    return sum + delete_node(node);
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"STEPS", 1, UINT64_C(1) << 40, 1500000, 0},
        {"KEYS", 1, 1 << 24, 20000, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 3);
    uint64_t steps = args[0].value, random = bench_seed(args[2].value), sum = 0;
    struct node *root = NULL;
    uint64_t start = bench_now_ns();
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        uint32_t key = bench_scale((uint32_t)random, (uint32_t)args[1].value);
        if (holds(root, key)) {
            struct node *removed = NULL;
            root = remove_key(root, key, &removed);
            sum += delete_node(removed);
        } else {
            root = insert(root, new_node(key, random));
        }
    }
    sum += delete_all(root);
    wl_finish(steps, steps, args[1].value, start, sum);
    return 0;
}
