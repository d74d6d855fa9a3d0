// wl_many_threads [THREADS [BLOCKS [ROUNDS [TOUCH [SEED]]]]]: many threads that live long, each
// with a few blocks of many sizes.
//
// THREADS threads. Each allocates BLOCKS blocks of 16 to 8,191 bytes (as many of each doubling) and
// frees every other one, waits until all have done so, and then ROUNDS times allocates those again
// and frees the others; in the end it frees all. TOUCH is 0: the first word and the last byte of a
// block are written; 1: every byte. An operation is one malloc or one free.
//
// Stresses: what a thread costs that uses little of each size, as one of a server that has a thread
// a connection: peak memory should be near what the threads ask for, and what one frees should
// serve the others. Threads wait for each other at barriers alone.
#include "bench/workloads/workload.h"

#include <string.h>

enum { STACK_BYTES = 65536, DOUBLINGS = 9, SMALLEST = 16 };

struct connection {
    pthread_t id;
    uint64_t random, sum;
    void **blocks;
};

static uint64_t n_blocks, rounds, touch;
static pthread_barrier_t barrier;

static void *new_block(uint64_t *random)
{
    *random = bench_next(*random);
    size_t size = (size_t)SMALLEST << (*random >> 32) % DOUBLINGS;
    *random = bench_next(*random);
    size += (*random >> 32) % size;
    void *block = wl_malloc(size);
    if (touch)
        memset(block, 1, size);
    wl_write(block, size, *random << 32);
    return block;
}

static void make(struct connection *connection, uint64_t first, uint64_t step)
{
    for (uint64_t i = first; i < n_blocks; i += step)
        connection->blocks[i] = new_block(&connection->random);
}

static void drop(struct connection *connection, uint64_t first)
{
    for (uint64_t i = first; i < n_blocks; i += 2)
        connection->sum += wl_delete(connection->blocks[i]);
}

static void *serve(void *argument)
{
    struct connection *connection = argument;
    make(connection, 0, 1);
    drop(connection, 0);
    pthread_barrier_wait(&barrier);
    uint64_t dropped = 0;
    for (uint64_t i = 0; i < rounds; i++, dropped = !dropped) {
        make(connection, dropped, 2);
        drop(connection, !dropped);
    }
    pthread_barrier_wait(&barrier);
    drop(connection, !dropped);
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, 1 << 16, 200, 0}, {"BLOCKS", 2, 1 << 20, 300, 0},
        {"ROUNDS", 0, 1 << 30, 4, 0},    {"TOUCH", 0, 1, 1, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    uint64_t n = args[0].value, start = bench_now_ns(), sum = 0;
    n_blocks = args[1].value;
    rounds = args[2].value;
    touch = args[3].value;
    struct connection *connections = wl_table(n * sizeof *connections);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_barrier_init(&barrier, NULL, (unsigned)n);
    for (uint64_t i = 0; i < n; i++) {
        connections[i].blocks = wl_table(n_blocks * sizeof(void *));
        connections[i].random = wl_stream(args[4].value, i);
        errno = pthread_create(&connections[i].id, &attributes, serve, &connections[i]);
        if (errno != 0)
            bench_die("pthread_create");
    }
    for (uint64_t i = 0; i < n; i++) {
        pthread_join(connections[i].id, NULL);
        sum += connections[i].sum;
    }
    wl_finish(n * (2 * n_blocks + rounds * n_blocks), n, n_blocks, start, sum);
    return 0;
}
