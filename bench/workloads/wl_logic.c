// wl_logic [FUNCTIONS [VARIABLES [PERCENT [SEED]]]]: minimises random logic functions by Quine's
// and McCluskey's method.
//
// A function of VARIABLES variables is true at PERCENT of its points. Its cubes (values, and a mask
// of variables that do not matter) are merged level by level, each cube a block in a hash table of
// chains; what merges no further is kept, and a greedy choice of these covers the function. An
// operation is one malloc or one free.
//
// Stresses: linked structures of small blocks that are built, searched and torn down over and over,
// in one thread, where the distance of the blocks to each other counts. The idea is the logic
// minimiser espresso of the older suites. No threads.
#include "bench/workloads/workload.h"

enum { BUCKETS = 4096 };

struct cube {
    struct cube *next;
    uint32_t values, mask; // values is 0 where mask is 1
    uint32_t merged;
    uint32_t gain; // how many points not yet covered this cube covers
};

struct level {
    struct cube *buckets[BUCKETS];
    uint64_t count;
};

static uint64_t n_blocks;
static uint32_t n_variables;

static struct cube **bucket_of(struct level *level, uint32_t values, uint32_t mask)
{
    return &level->buckets[(values * 0x9e3779b1u ^ mask * 0x85ebca6bu) >> 20];
}

static struct cube *find(struct level *level, uint32_t values, uint32_t mask)
{
    struct cube *cube = *bucket_of(level, values, mask);
    while (cube != NULL && (cube->values != values || cube->mask != mask))
        cube = cube->next;
    return cube;
}

static void insert(struct level *level, uint32_t values, uint32_t mask)
{
    if (find(level, values, mask) != NULL)
        return;
    struct cube *cube = wl_malloc(sizeof(struct cube)), **bucket = bucket_of(level, values, mask);
    *cube = (struct cube){.next = *bucket, .values = values, .mask = mask};
    *bucket = cube;
    level->count++;
    n_blocks++;
}

// Merges the cube with each neighbour that differs in one variable, into the level above.
static void merge(struct level *level, struct level *above, struct cube *cube)
{
    for (uint32_t i = 0; i < n_variables; i++) {
        uint32_t bit = UINT32_C(1) << i;
        if (cube->mask & bit)
            continue;
        struct cube *other = find(level, cube->values ^ bit, cube->mask);
        if (other == NULL)
            continue;
        cube->merged = other->merged = 1;
        insert(above, cube->values & ~bit, cube->mask | bit);
    }
}

// Frees a level; cubes that merged no further go to the list of primes instead.
static void drain(struct level *level, struct cube **primes)
{
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (struct cube *cube = level->buckets[i], *next; cube != NULL; cube = next) {
            next = cube->next;
            if (cube->merged) {
                free(cube);
                continue;
            }
            cube->next = *primes;
            *primes = cube;
        }
    }
    free(level);
}

static struct level *new_level(void)
{
    n_blocks++;
    return wl_check(calloc(1, sizeof(struct level)));
}

static struct cube *all_primes(struct level *level)
{
    struct cube *primes = NULL;
    while (level->count > 0) {
        struct level *above = new_level();
        for (uint32_t i = 0; i < BUCKETS; i++)
            for (struct cube *cube = level->buckets[i]; cube != NULL; cube = cube->next)
                merge(level, above, cube);
        drain(level, &primes);
        level = above;
    }
    free(level);
    return primes;
}

// How many points of `open` the cube covers; with `take`, they are closed.
static uint32_t cover(const struct cube *cube, unsigned char *open, int take)
{
    uint32_t covered = 0, inside = 0;
    do { // all subsets of the mask
        covered += open[cube->values | inside];
        if (take)
            open[cube->values | inside] = 0;
        inside = (inside - cube->mask) & cube->mask;
    } while (inside != 0);
    return covered;
}

// Covers all open points by primes, those of the widest cover first; the sum of the cubes chosen.
// Frees all primes.
static uint64_t choose(struct cube *primes, unsigned char *open)
{
    uint64_t sum = 0;
    for (uint32_t least = UINT32_C(1) << n_variables; least > 0; least /= 2) {
        for (struct cube **link = &primes, *cube; (cube = *link) != NULL;) {
            cube->gain = cover(cube, open, 0);
            if (cube->gain != 0 && cube->gain < least) {
                link = &cube->next;
                continue;
            }
            if (cube->gain != 0) {
                cover(cube, open, 1);
                sum += ((uint64_t)cube->mask << 32 | cube->values) * cube->gain;
            }
            *link = cube->next;
            free(cube);
        }
    }
    return sum;
}

static uint64_t minimise(uint64_t random, uint64_t percent)
{
    uint32_t n_points = UINT32_C(1) << n_variables;
    unsigned char *open = wl_check(calloc(n_points, 1));
    struct level *level = new_level();
    n_blocks++;
    for (uint32_t i = 0; i < n_points; i++) {
        random = bench_next(random);
        open[i] = bench_scale((uint32_t)(random >> 32), 100) < percent;
        if (open[i])
            insert(level, i, 0);
    }
    uint64_t sum = choose(all_primes(level), open);
    free(open);
    return sum;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"FUNCTIONS", 1, 1 << 24, 40, 0},
        {"VARIABLES", 3, 16, 10, 0},
        {"PERCENT", 1, 100, 70, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 4);
    n_variables = (uint32_t)args[1].value;
    uint64_t start = bench_now_ns(), sum = 0;
    for (uint64_t i = 0; i < args[0].value; i++)
        sum += minimise(wl_stream(args[3].value, i), args[2].value);
    wl_finish(2 * n_blocks, args[0].value, n_variables, start, sum);
    return 0;
}
