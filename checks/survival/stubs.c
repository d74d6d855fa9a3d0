/* Linked so that it is not position-independent, and takes the addresses of malloc's family: then
   they are, for every library, those of stubs in this program. All the same, nothing has been
   replaced. */
#include <malloc.h>

#include "checks/survival/cases.h"

static struct {
    void *(*malloc)(size_t);
    void (*free)(void *);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    size_t (*malloc_usable_size)(void *);
} volatile with;

/* As code that is not position-independent does; the rest of the program asks the loader, as hak_*
   may be missing. */
#ifdef __x86_64__
#define TAKE(name) __asm__("movq $" #name ", %0" : "=r"(*(void **)(intptr_t)&with.name))
#else
#define TAKE(name) (with.name = (name))
#endif

static void take_addresses(void)
{
    TAKE(malloc);
    TAKE(free);
    TAKE(calloc);
    TAKE(realloc);
    TAKE(posix_memalign);
    TAKE(malloc_usable_size);
}

static long resident_kib(void)
{
    long all = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld %ld", &all, &resident) == 2 && fclose(file) == 0);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Fresh memory of the system is not cleared again. */
static void calloc_touches_nothing(long n)
{
    for (long i = 0; i < n; i++) {
        long before = resident_kib();
        char *p = (char *)with.calloc(1, (size_t)64 << 20);
        CHECK(p && hak_owns(p) && resident_kib() - before < 10000);
        CHECK(p[12345678] == 0);
        p = (char *)with.realloc(p, 100);
        CHECK(p && hak_owns(p));
        with.free(p);
    }
}

static void all_functions(long n)
{
    for (long i = 0; i < n; i++) {
        void *p = NULL;
        CHECK(with.posix_memalign(&p, 256, 1000) == 0 && hak_owns(p) &&
              with.malloc_usable_size(p) >= 1000);
        free(p);
        p = reallocarray(with.malloc(100), 10, 100);
        CHECK(hak_owns(p));
        with.free(p);
        use_malloc((uint64_t)i, 1000);
    }
}

static const struct test_case cases[] = {{"calloc_touches_nothing", calloc_touches_nothing, 20, 2},
                                         {"all_functions", all_functions, 100, 10},
                                         {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    take_addresses();
    return run_cases(argc, argv, cases);
}
