// libcount.so: counts the calls of malloc and its family that the program itself makes, not those
// of the libraries that it uses, and writes them to the file that COUNT_FILE names when it ends.
// For replay_test.py. Over glibc's own functions; counters are atomic.
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *p);

enum { MALLOC, CALLOC, ALIGNED, REALLOC, FREE, KINDS };

static struct {
    uint64_t calls, bytes, alignments;
} counts[KINDS];

// Whether an address lies in the program: within a megabyte behind its headers.
static int is_programs(const void *caller)
{
    uintptr_t begin = (uintptr_t)getauxval(AT_PHDR);
    return (uintptr_t)caller - begin < (1u << 20);
}

static void count(int kind, const void *caller, size_t bytes, size_t alignment)
{
    if (is_programs(caller)) {
        __atomic_fetch_add(&counts[kind].calls, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counts[kind].bytes, bytes, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counts[kind].alignments, alignment, __ATOMIC_RELAXED);
    }
}

void *malloc(size_t size)
{
    count(MALLOC, __builtin_return_address(0), size, 0);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count(CALLOC, __builtin_return_address(0), n * size, 0);
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    count(REALLOC, __builtin_return_address(0), size, 0);
    return __libc_realloc(p, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    count(ALIGNED, __builtin_return_address(0), size, alignment);
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : ENOMEM;
}

void free(void *p)
{
    if (p)
        count(FREE, __builtin_return_address(0), 0, 0);
    __libc_free(p);
}

__attribute__((destructor)) static void tell(void)
{
    static const char *const names[] = {"malloc", "calloc", "aligned", "realloc", "free"};
    const char *path = getenv("COUNT_FILE");
    FILE *to = path ? fopen(path, "w") : NULL;
    for (int i = 0; to && i < KINDS; i++)
        fprintf(to, "%s %llu %llu %llu\n", names[i], (unsigned long long)counts[i].calls,
                (unsigned long long)counts[i].bytes, (unsigned long long)counts[i].alignments);
    if (to)
        fclose(to);
}
