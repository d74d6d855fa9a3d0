/* `hakmem trace-info`: prints what is in a trace. No locks, no threads. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command/command.h"
#include "trace/record.h"
#include "trace/trace.h"

enum { POWERS = 49 };

struct info {
    uint64_t calls[TRACE_N_OPS];
    uint64_t sizes[POWERS]; /* requests of at most 2^i bytes, and more than the power below */
    uint64_t ages[POWERS];  /* frees by how many allocations came after the block's */
    uint64_t requested;
    uint64_t elsewhere; /* frees by another thread than the one that allocated */
    uint32_t *threads;  /* of the blocks' allocations */
};

/* The least i with n <= 2^i. */
static unsigned power(uint64_t n)
{
    return n < 2 ? 0 : 64 - (unsigned)__builtin_clzll(n - 1);
}

static void count(struct info *info, const struct trace_call *call, uint64_t blocks)
{
    info->calls[call->op]++;
    if (call->op != TRACE_FREE) {
        info->sizes[power(call->size)]++;
        info->requested += call->size;
    } else {
        info->ages[power(blocks - call->block)]++;
        info->elsewhere += info->threads[call->block] != call->thread;
    }
    if (call->op <= TRACE_ALIGNED) {
        info->threads[call->block] = call->thread;
    }
}

static void print_powers(const char *title, const uint64_t *counts, const char *unit)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < POWERS; i++) {
        sum += counts[i];
    }
    printf("%s\n", title);
    for (unsigned i = 0; i < POWERS && sum; i++) {
        if (counts[i]) {
            printf("  up to %15llu %s %12llu  %5.1f %%\n", 1ull << i, unit,
                   (unsigned long long)counts[i], 100.0 * (double)counts[i] / (double)sum);
        }
    }
}

static void print(const struct trace_header *h, const struct info *info)
{
    static const char *const names[TRACE_N_OPS] = {"malloc", "calloc", "aligned", "realloc",
                                                   "free"};
    printf("program        %s%s\n", h->program, h->flags & TRACE_CUT ? " (the first calls)" : "");
    printf("calls          %llu\n", (unsigned long long)h->n_calls);
    for (int op = 0; op < TRACE_N_OPS; op++) {
        printf("  %-12s %llu\n", names[op], (unsigned long long)info->calls[op]);
    }
    printf("threads        %llu\n", (unsigned long long)h->n_threads);
    printf("freed by another thread  %llu\n", (unsigned long long)info->elsewhere);
    printf("requested      %llu bytes\n", (unsigned long long)info->requested);
    printf("alive at most  %llu bytes, %llu blocks\n", (unsigned long long)h->peak_bytes,
           (unsigned long long)h->peak_blocks);
    print_powers("requests by size", info->sizes, "bytes      ");
    print_powers("frees by age", info->ages, "allocations");
}

/* What is wrong with the trace, or NULL after printing what is in it. */
static const char *examine(const void *bytes, size_t n)
{
    struct trace_reader reader;
    struct trace_call call;
    const char *wrong = trace_open(&reader, bytes, n);
    if (wrong) {
        return wrong;
    }
    struct info info = {.threads = calloc(reader.header->n_blocks + 1, sizeof(uint32_t))};
    if (!info.threads) {
        return "out of memory";
    }
    int more;
    while ((more = trace_next(&reader, &call)) > 0) {
        count(&info, &call, reader.blocks);
    }
    if (more == 0) {
        print(reader.header, &info);
    }
    free(info.threads);
    return more == 0 ? NULL : "damaged";
}

static int print_file(const char *path)
{
    struct stat status;
    const char *wrong = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        wrong = strerror(errno);
    } else if (status.st_size == 0) {
        wrong = "not a trace";
    } else {
        void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        wrong = bytes == MAP_FAILED ? strerror(errno) : examine(bytes, (size_t)status.st_size);
        if (bytes != MAP_FAILED) {
            munmap(bytes, (size_t)status.st_size);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    if (wrong) {
        fprintf(stderr, "hakmem: %s: %s\n", path, wrong);
        return BAD_USAGE;
    }
    return 0;
}

static int run(const struct subcommand *self, int argc, char **argv)
{
    return print_file(command_operands(self, argc, argv, 1, 1)[0]);
}

const struct subcommand subcommand_trace_info = {
    .name = "trace-info",
    .operands = "FILE",
    .line = "prints what is in a trace: calls, threads, sizes, lifetimes",
    .text = "Exit status 2 if FILE is no whole trace.",
    .run = run,
};
