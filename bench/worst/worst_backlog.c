// worst_backlog BYTES BLOCK OTHERS PAUSE_MS SECONDS: much freed memory becomes due for the system
// at once.
//
// Blocks of BLOCK bytes, BYTES in all, are written and freed; then the program pauses until an
// allocator with a delay finds all of it due, and goes on. OTHERS: a second thread allocates from
// the first free on.
#include "bench/worst/worst.h"

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BYTES", 1, UINT64_C(1) << 42, 0, 1},
        {"BLOCK", 16, UINT64_C(1) << 32, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"PAUSE_MS", 0, 60000, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 5);
    size_t size = args[1].value, n = args[0].value / size + 1;
    char **blocks = worst_table(n);
    for (size_t i = 0; i < n; i++) {
        blocks[i] = worst_malloc(size);
        worst_touch(blocks[i], size);
    }
    worst_stall_start(args[2].value);
    for (size_t i = 0; i < n; i++)
        worst_free(blocks[i]);
    worst_sleep_ms(args[3].value);
    return worst_finish();
}
