// wl_nbody [BODIES [STEPS [SEED]]]: the motion of bodies by an octree that is built again in every
// step.
//
// BODIES bodies attract each other for STEPS steps. Each step builds the tree, every cell of which
// is a block, computes the forces by it (a cell far away counts as one body), moves the bodies, and
// frees the tree. An operation is one malloc or one free.
//
// Stresses: little allocation beside much arithmetic over what was allocated: mostly where the
// blocks lie. The idea is Barnes' and Hut's method, in the older suites as barnes. No threads.
#include "bench/workloads/workload.h"

#include <math.h>

enum { MAX_DEPTH = 40 };

struct body {
    double at[3], speed[3], pull[3];
};

struct cell {
    struct cell *parts[8];
    const struct body *body; // of a leaf; NULL in an inner cell
    double mass, centre[3];  // of all bodies inside
    double middle[3], half;
};

static uint64_t n_blocks;

static struct cell *new_cell(const double *middle, double half, const struct body *body)
{
    struct cell *cell = wl_check(calloc(1, sizeof(struct cell)));
    memcpy(cell->middle, middle, sizeof(cell->middle));
    cell->half = half;
    cell->body = body;
    n_blocks++;
    return cell;
}

static void insert(struct cell *cell, const struct body *body, int depth);

static void insert_below(struct cell *cell, const struct body *body, int depth)
{
    double middle[3], half = cell->half / 2;
    unsigned part = 0;
    for (unsigned k = 0; k < 3; k++) {
        unsigned above = body->at[k] >= cell->middle[k];
        part |= above << k;
        middle[k] = cell->middle[k] + (above ? half : -half);
    }
    if (cell->parts[part] == NULL)
        cell->parts[part] = new_cell(middle, half, body);
    else
        insert(cell->parts[part], body, depth + 1);
}

static void insert(struct cell *cell, const struct body *body, int depth)
{
    if (depth >= MAX_DEPTH)
        return; // two bodies in one place: the second one is left out
    if (cell->body != NULL) {
        insert_below(cell, cell->body, depth);
        cell->body = NULL;
    }
    insert_below(cell, body, depth);
}

static void weigh(struct cell *cell)
{
    if (cell->body != NULL) {
        cell->mass = 1;
        memcpy(cell->centre, cell->body->at, sizeof(cell->centre));
        return;
    }
    for (unsigned i = 0; i < 8; i++) {
        struct cell *part = cell->parts[i];
        if (part == NULL)
            continue;
        weigh(part);
        cell->mass += part->mass;
        for (unsigned k = 0; k < 3; k++)
            cell->centre[k] += part->mass * part->centre[k];
    }
    for (unsigned k = 0; k < 3 && cell->mass > 0; k++)
        cell->centre[k] /= cell->mass;
}

static void attract(const struct cell *cell, struct body *body)
{
    double way[3], square = 1e-4; // softened, so that near bodies do not fly off
    if (cell->body == body)
        return;
    for (unsigned k = 0; k < 3; k++) {
        way[k] = cell->centre[k] - body->at[k];
        square += way[k] * way[k];
    }
    if (cell->body == NULL && 4 * cell->half * cell->half > square) {
        for (unsigned i = 0; i < 8; i++)
            if (cell->parts[i] != NULL)
                attract(cell->parts[i], body);
        return;
    }
    double strength = cell->mass / (square * sqrt(square));
    for (unsigned k = 0; k < 3; k++)
        body->pull[k] += strength * way[k];
}

static void delete_tree(struct cell *cell)
{
    for (unsigned i = 0; i < 8; i++)
        if (cell->parts[i] != NULL)
            delete_tree(cell->parts[i]);
    free(cell);
}

static void move_all(struct body **bodies, uint64_t n_bodies)
{
    static const double middle[3] = {0, 0, 0};
    double half = 1;
    for (uint64_t i = 0; i < n_bodies; i++)
        for (unsigned k = 0; k < 3; k++)
            while (fabs(bodies[i]->at[k]) >= half)
                half *= 2;
    struct cell *root = new_cell(middle, half, NULL);
    for (uint64_t i = 0; i < n_bodies; i++)
        insert(root, bodies[i], 0);
    weigh(root);
    for (uint64_t i = 0; i < n_bodies; i++) {
        memset(bodies[i]->pull, 0, sizeof(bodies[i]->pull));
        attract(root, bodies[i]);
    }
    delete_tree(root);
    for (uint64_t i = 0; i < n_bodies; i++) {
        for (unsigned k = 0; k < 3; k++) {
            bodies[i]->speed[k] += bodies[i]->pull[k] * 1e-6;
            bodies[i]->at[k] += bodies[i]->speed[k];
        }
    }
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BODIES", 2, 1 << 24, 4000, 0},
        {"STEPS", 1, 1 << 24, 10, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 3);
    uint64_t n_bodies = args[0].value, random = bench_seed(args[2].value), sum = 0;
    struct body **bodies = wl_table(n_bodies * sizeof(struct body *));
    uint64_t start = bench_now_ns();
    for (uint64_t i = 0; i < n_bodies; i++) {
        bodies[i] = wl_check(calloc(1, sizeof(struct body)));
        for (unsigned k = 0; k < 3; k++) {
            random = bench_next(random);
            bodies[i]->at[k] = (double)(random >> 11) * 0x1p-52 - 1;
        }
        n_blocks++;
    }
    for (uint64_t i = 0; i < args[1].value; i++)
        move_all(bodies, n_bodies);
    for (uint64_t i = 0; i < n_bodies; i++) {
        uint64_t bits;
        memcpy(&bits, &bodies[i]->at[i % 3], sizeof(bits));
        sum += bits;
        free(bodies[i]);
    }
    wl_finish(2 * n_blocks, args[1].value, n_bodies, start, sum);
    return 0;
}
