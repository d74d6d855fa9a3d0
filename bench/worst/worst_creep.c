// worst_creep CYCLES BLOCKS OTHERS SECONDS: makes BLOCKS blocks of 1 MiB, frees them, trims, and
// again, CYCLES times.
//
// Reported are how far apart the addresses lie that were seen, beyond those of the first cycle, and
// what stayed resident.
#include "bench/worst/worst.h"

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"CYCLES", 1, UINT64_C(1) << 32, 0, 1},
        {"BLOCKS", 1, UINT64_C(1) << 24, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 4);
    size_t n = args[1].value;
    uintptr_t low = 0, high = 0, first_extent = 0;
    char **blocks = worst_table(n);
    double resident = 0;
    worst_stall_start(args[2].value);
    uint64_t n_cycles = args[0].value + 2; // the first two show what the start costs
    for (uint64_t cycle = 0; cycle < n_cycles && !worst_is_late(cycle, n_cycles); cycle++) {
        for (size_t i = 0; i < n; i++) {
            blocks[i] = worst_malloc(WORST_MIB);
            uintptr_t at = (uintptr_t)blocks[i];
            low = low == 0 || at < low ? at : low;
            high = at > high ? at : high;
        }
        for (size_t i = 0; i < n; i++)
            worst_free(blocks[i]);
        WORST_TIME(&worst_calls[CALL_TRIM], malloc_trim(0));
        if (cycle == 1) {
            resident = worst_resident_kib();
            first_extent = high - low;
        }
    }
    worst_value("addresses", (double)(high - low - first_extent) / (double)WORST_KIB, "KiB");
    worst_value("resident", worst_resident_kib() - resident, "KiB");
    return worst_finish();
}
