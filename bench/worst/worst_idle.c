// worst_idle BYTES THREADS PAUSE_MS SECONDS: BYTES are freed, and then the program does nothing.
//
// THREADS 2: a second thread lives all the time and does not allocate. Reported is what stays
// resident of the BYTES at the end of the pause: blocks of 128 KiB and of 512 bytes by turns.
#include "bench/worst/worst.h"

static void *sleeper(void *unused)
{
    for (;;)
        pause();
    return unused;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BYTES", 1, UINT64_C(1) << 42, 0, 1},
        {"THREADS", 1, 2, 0, 1},
        {"PAUSE_MS", 0, 60000, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 4);
    size_t sizes[] = {128 * WORST_KIB, 512}, n = args[0].value / (sizes[0] + sizes[1]) * 2 + 2;
    char **blocks = worst_table(n);
    pthread_t thread;
    if (args[1].value == 2 && pthread_create(&thread, NULL, sleeper, NULL) != 0)
        bench_die("pthread_create");
    double before = worst_resident_kib();
    for (size_t i = 0; i < n; i++) {
        blocks[i] = worst_malloc(sizes[i % 2]);
        worst_touch(blocks[i], sizes[i % 2]);
    }
    double full = worst_resident_kib() - before;
    for (size_t i = 0; i < n; i++)
        worst_free(blocks[i]);
    worst_sleep_ms(args[2].value);
    // A quarter may stay with one thread, a tenth with two; what a small heap keeps does no harm.
    double limit = full / (args[1].value == 2 ? 10 : 4), least = 8192;
    worst_limited("left", worst_resident_kib() - before, "KiB", limit > least ? limit : least);
    return worst_finish();
}
