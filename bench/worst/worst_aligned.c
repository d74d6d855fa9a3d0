// worst_aligned BYTES OTHERS SECONDS: aligned_alloc(16384, 40000) while no hole fits, though many
// are large enough.
//
// Blocks of 40,000 bytes fill BYTES; those that lie at an odd multiple of 8 KiB are freed, so that
// each hole would hold a block, but not an aligned one.
#include "bench/worst/worst.h"

enum { BLOCK = 40000, ALIGNMENT = 16384, UNIT = 8192, ROUNDS = 300 };

static struct worst_calls unfit = {.name = "aligned_alloc(16384)"};

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BYTES", 1, UINT64_C(1) << 42, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    size_t n = args[0].value / BLOCK + 1;
    char **blocks = worst_table(n);
    for (size_t i = 0; i < n; i++)
        blocks[i] = worst_malloc(BLOCK);
    for (size_t i = 0; i < n; i++)
        if ((uintptr_t)blocks[i] / UNIT % 2 == 1)
            worst_free(blocks[i]);
    worst_stall_start(args[1].value);
    for (int i = 0; i < ROUNDS; i++) {
        void *volatile kept;
        WORST_TIME(&unfit, kept = aligned_alloc(ALIGNMENT, BLOCK));
        if (kept == NULL || (uintptr_t)kept % ALIGNMENT != 0)
            bench_die("aligned_alloc");
    }
    worst_print_calls(&unfit);
    return worst_finish();
}
