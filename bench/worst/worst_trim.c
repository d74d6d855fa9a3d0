// worst_trim BYTES OTHERS SECONDS: malloc_trim where of 63 blocks one is in use, and what a second
// phase needs then.
//
// Reported are the resident bytes after malloc_trim beyond one page for each block that stays, and
// the resident bytes in all after blocks of another size, three quarters of BYTES, were added.
#include "bench/worst/worst.h"

enum { FIRST = 1024, SECOND = 1500, KEEP_ONE_OF = 63 };

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BYTES", 1, UINT64_C(1) << 42, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    size_t n = args[0].value / FIRST + KEEP_ONE_OF, m = args[0].value * 3 / 4 / SECOND;
    char **blocks = worst_table(n);
    double before = worst_resident_kib();
    for (size_t i = 0; i < n; i++) {
        blocks[i] = worst_malloc(FIRST);
        worst_touch(blocks[i], FIRST);
    }
    worst_stall_start(args[1].value);
    for (size_t i = 0; i < n; i++)
        if (i % KEEP_ONE_OF != 0)
            worst_free(blocks[i]);
    WORST_TIME(&worst_calls[CALL_TRIM], malloc_trim(0));
    size_t n_kept = n / KEEP_ONE_OF + 1;
    double kept = (double)n_kept * WORST_PAGE / (double)WORST_KIB;
    double bytes = (double)args[0].value / (double)WORST_KIB;
    worst_limited("beyond_live", worst_resident_kib() - before - kept, "KiB", bytes / 10 + 4096);
    char **second = worst_table(m);
    before += (double)m * sizeof *second / (double)WORST_KIB;
    for (size_t i = 0; i < m; i++) {
        second[i] = worst_malloc(SECOND);
        bench_touch(second[i], SECOND, i);
    }
    worst_limited("second_phase", worst_resident_kib() - before, "KiB", kept + bytes * 0.8 + 8192);
    return worst_finish();
}
