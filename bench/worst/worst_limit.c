// worst_limit BLOCKS OTHERS SECONDS: large buffers that realloc shrinks to what they hold, under
// RLIMIT_AS.
//
// Each buffer of 8 MiB shrinks to 140,000 bytes, through a growth in between. The limit has room
// for the blocks kept, a third more, and 300 MiB for the process itself.
#include "bench/worst/worst.h"

#include <sys/resource.h>

enum { BUFFER = 8 << 20, KEPT = 140000, MARGIN_MIB = 300 };

// Fills a buffer a little and keeps what is left of it in *kept. 0, or ENOMEM if a step fails.
static int shrink_buffer(char **kept)
{
    static const size_t steps[] = {KEPT, (size_t)2 * KEPT, KEPT};
    WORST_TIME(&worst_calls[CALL_MALLOC], *kept = malloc(BUFFER));
    if (*kept == NULL)
        return ENOMEM;
    worst_touch(*kept, KEPT);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        char *moved;
        WORST_TIME(&worst_calls[CALL_REALLOC], moved = realloc(*kept, steps[i]));
        if (moved == NULL)
            return ENOMEM;
        *kept = moved;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BLOCKS", 1, UINT64_C(1) << 24, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    size_t n = args[0].value, kept = 0;
    char **blocks = worst_table(n);
    worst_stall_start(args[1].value);
    free(malloc(100)); // what the allocator reserves at its start is its own affair
    char text[64];
    worst_read("/proc/self/statm", text, sizeof text);
    size_t address_space = strtoull(text, NULL, 10) * WORST_PAGE; // of the start
    address_space += n * KEPT * 4 / 3 + MARGIN_MIB * WORST_MIB;
    struct rlimit limit = {address_space, address_space};
    setrlimit(RLIMIT_AS, &limit);
    while (kept < n && !worst_is_late(kept, n) && shrink_buffer(&blocks[kept]) == 0)
        kept++;
    worst_limited("lost", (double)(n - kept), "blocks", 0);
    return worst_finish();
}
