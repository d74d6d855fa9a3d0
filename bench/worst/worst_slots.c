// worst_slots REPLACEMENTS OTHERS SECONDS: 300 slots of random blocks of 1 to 4 MB, of each of
// which a fiftieth is written.
//
// Reported is the resident memory at the end: reused ranges bring along what earlier owners have
// written.
#include "bench/worst/worst.h"

enum { SLOTS = 300, LEAST = 1000000, SPREAD = 3000000, WRITTEN = 50 };
enum { MOST_KIB = 160 << 10 }; // 1.25 of what the best of the known allocators takes

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"REPLACEMENTS", 1, UINT64_C(1) << 32, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    static char *slots[SLOTS];
    uint64_t random = bench_seed(1);
    double before = worst_resident_kib();
    worst_stall_start(args[1].value);
    for (uint64_t i = 0; i < SLOTS + args[0].value; i++) {
        random = bench_next(random);
        size_t size = LEAST + bench_scale((uint32_t)(random >> 32), SPREAD);
        uint32_t at = i < SLOTS ? (uint32_t)i : bench_scale((uint32_t)random, SLOTS);
        worst_free(slots[at]);
        slots[at] = worst_malloc(size);
        worst_touch(slots[at], size / WRITTEN);
        if (i % 64 == 0 && worst_is_late(i, SLOTS + args[0].value))
            break;
    }
    worst_limited("resident", worst_resident_kib() - before, "KiB", MOST_KIB);
    return worst_finish();
}
