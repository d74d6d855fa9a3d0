// spin REPEATS: the noise of the machine. Times one loop that touches no memory and calls nothing,
// REPEATS times, and prints the nanoseconds of each, one a line. No allocator causes the
// differences.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEPS = 2000000 };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Marsaglia's xorshift: each step waits for the one before it.
__attribute__((noinline)) static uint64_t spin(uint64_t x)
{
    for (int i = 0; i < STEPS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

int main(int argc, char **argv)
{
    volatile uint64_t sink = 88172645463325252u;
    long repeats = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
    if (repeats < 1) {
        fprintf(stderr, "usage: spin REPEATS\n");
        return 2;
    }
    for (long i = 0; i < repeats; i++) {
        uint64_t start = now_ns();
        sink = spin(sink);
        printf("%llu\n", (unsigned long long)(now_ns() - start));
    }
    return 0;
}
