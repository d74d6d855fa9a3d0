// worst_heaps BYTES OTHERS SECONDS: first-class heaps of one block, while the process holds BYTES
// elsewhere, untouched.
#include "bench/worst/worst.h"

enum { ROUNDS = 200 };

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BYTES", 1, UINT64_C(1) << 42, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    if (worst_heap.create == NULL)
        bench_die("no first-class heaps here");
    size_t n = args[0].value / WORST_MIB + 1;
    char **elsewhere = worst_table(n);
    for (size_t i = 0; i < n; i++)
        elsewhere[i] = worst_malloc(WORST_MIB);
    worst_stall_start(args[1].value);
    for (int i = 0; i < ROUNDS && !worst_is_late((uint64_t)i, ROUNDS); i++)
        worst_probe_heap();
    return worst_finish();
}
