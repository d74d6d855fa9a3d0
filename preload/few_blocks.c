/* few_blocks [threads]: a small program: a block of each of some sizes, or so many rounds of them
   that lists overflow and memory goes back, by pairs of threads that free each other's and what the
   pair before has left. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SIZES = 10, ROUNDS = 300, BLOCKS = 2 * SIZES * ROUNDS, PAIRS = 3, LEFT = SIZES * ROUNDS };

static char *given[2][BLOCKS]; /* by each thread to the other; the first LEFT to the next pair */
static pthread_barrier_t all_given;

static char *make(int i)
{
    static const size_t sizes[SIZES] = {16, 40, 100, 200, 500, 1000, 2000, 5000, 12000, 40000};
    size_t size = sizes[i % SIZES];
    char *block = (char *)malloc(size);
    if (!block) {
        exit(1);
    }
    return memset(block, 1, size);
}

static void make_and_free(int n)
{
    static __thread char *blocks[SIZES * ROUNDS];
    for (int i = 0; i < n; i++) {
        blocks[i] = make(i);
    }
    for (int i = 0; i < n; i++) {
        free(blocks[i]);
    }
}

static void *run(void *own)
{
    char **mine = (char **)own, **others = given[mine == given[0]];
    for (int i = 0; i < BLOCKS; i++) {
        if (i < LEFT) {
            free(mine[i]);
        }
        mine[i] = make(i);
    }
    (void)pthread_barrier_wait(&all_given);
    for (int i = LEFT; i < BLOCKS; i++) {
        free(others[i]);
    }
    make_and_free(SIZES * ROUNDS);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    (void)argv;
    make_and_free(SIZES);
    if (argc < 2) {
        return 0;
    }
    (void)pthread_barrier_init(&all_given, NULL, 2);
    for (int pair = 0; pair < PAIRS; pair++) {
        for (int i = 0; i < 2; i++) {
            if (pthread_create(&threads[i], NULL, run, given[i]) != 0) {
                return 1;
            }
        }
        for (int i = 0; i < 2; i++) {
            (void)pthread_join(threads[i], NULL);
        }
    }
    return 0;
}
