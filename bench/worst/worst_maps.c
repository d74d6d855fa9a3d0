// worst_maps BLOCKS OTHERS SECONDS: many blocks that have a mapping of their own, and every other
// one is freed.
//
// The kernel allows a process vm.max_map_count mappings, and a hole in the middle of a mapping
// makes two of one. An allocator that uses all of them leaves none for a thread's stack or a
// library.
#include "bench/worst/worst.h"

enum { BLOCK = 1200000 };

static double count_maps(void)
{
    static char text[65536];
    double n = 0;
    ssize_t length;
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while ((length = read(file, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < length; i++)
            n += text[i] == '\n';
    close(file);
    return n;
}

static double max_map_count(void)
{
    char text[64];
    worst_read("/proc/sys/vm/max_map_count", text, sizeof text);
    return atof(text);
}

static void *nothing(void *unused)
{
    return unused;
}

static int thread_starts(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"BLOCKS", 2, UINT64_C(1) << 32, 0, 1},
        {"OTHERS", 0, 1, 0, 1},
        {"SECONDS", 1, 3600, 0, 1},
    };
    worst_begin(argc, argv, args, 3);
    size_t n = args[0].value, got = 0, i;
    char **blocks = worst_table(n);
    while (got < n && !worst_is_late(got, 2 * n)) {
        WORST_TIME(&worst_calls[CALL_MALLOC], blocks[got] = malloc(BLOCK));
        if (blocks[got] == NULL)
            break;
        got++;
    }
    worst_stall_start(args[1].value);
    for (i = 0; i < got; i += 2) {
        worst_free(blocks[i]);
        if (i % 64 == 0 && worst_is_late(n + i, 2 * n))
            break;
    }
    worst_limited("lost", (double)(n - got), "blocks", 0);
    worst_limited("maps", count_maps(), "maps", max_map_count() / 2);
    worst_limited("no_thread", !thread_starts(), "yes", 0);
    return worst_finish();
}
