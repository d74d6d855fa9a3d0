// worst_control MS OTHERS SECONDS: null work. The longest time between two looks at the clock, MS
// milliseconds long.
//
// Whatever is found here is the machine's own: another process, an interrupt, the host. OTHERS: a
// second thread does the same as the one that stalls elsewhere, without a call.
#include "bench/worst/worst.h"

static struct worst_calls pauses = {.name = "pause"};
static uint64_t end_ns;

static void *other(void *unused)
{
    do {
        for (int i = 0; i < 3; i++)
            WORST_TIME(&worst_stall.calls, (void)0);
        usleep(WORST_STALL_PAUSE_US);
    } while (bench_now_ns() < end_ns);
    return unused;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"MS", 1, 600000, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    pthread_t thread;
    end_ns = bench_now_ns() + args[0].value * 1000000;
    if (args[1].value && pthread_create(&thread, NULL, other, NULL) != 0)
        bench_die("pthread_create");
    for (uint64_t before = bench_now_ns(), now; before < end_ns; before = now) {
        now = bench_now_ns();
        worst_count(&pauses, now - before);
    }
    if (args[1].value)
        pthread_join(thread, NULL);
    worst_print_calls(&worst_stall.calls);
    worst_print_calls(&pauses);
    return 0;
}
