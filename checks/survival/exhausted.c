/* No memory: by RLIMIT_AS, by RLIMIT_DATA (which counts what may be written, as a system without
   overcommit does), by the number of mappings, by HAKMEM_LIMIT_HARD. The caller gets its error,
   nothing crashes, and once memory is freed the program goes on. */
#include <dlfcn.h>
#include <fcntl.h>
#include <iconv.h>
#include <locale.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "checks/survival/cases.h"

#ifndef NO_DLOPEN
#define NO_DLOPEN 0 /* 1: linked statically */
#endif

/* --- limits --- */

/* Reads a figure of the process in KiB without allocating. */
static size_t status_bytes(const char *key)
{
    static char text[8192];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    CHECK(n > 0 && close(fd) == 0);
    text[n > 0 ? n : 0] = 0;
    const char *line = strstr(text, key);
    CHECK(line);
    return (size_t)strtoul(line + strlen(key), NULL, 10) << 10;
}

static void set_limit(int what, size_t bytes)
{
    struct rlimit limit = {0, 0};
    CHECK(getrlimit((__typeof__(RLIMIT_AS))what, &limit) == 0);
    limit.rlim_cur = bytes;
    CHECK(setrlimit((__typeof__(RLIMIT_AS))what, &limit) == 0);
}

/* `more` bytes above what the process has now. */
static void limit_address_space(size_t more)
{
    set_limit(RLIMIT_AS, status_bytes("VmSize:") + more);
}

static void limit_data(size_t more)
{
    set_limit(RLIMIT_DATA, status_bytes("VmData:") + more);
}

static void no_limit(void)
{
    set_limit(RLIMIT_AS, RLIM_INFINITY);
    set_limit(RLIMIT_DATA, RLIM_INFINITY);
}

/* --- until nothing is left --- */

static void *taken;

/* Chains blocks of the size until there is none, or `most`. */
static size_t take_all(size_t size, size_t most)
{
    size_t n = 0;
    void **p;
    errno = 0;
    while (n < most && (p = (void **)malloc(size)) != NULL) {
        *p = taken;
        taken = p;
        n++;
    }
    CHECK(n == most || errno == ENOMEM);
    return n;
}

/* The rest, in ever smaller pieces. */
static void take_every_byte(void)
{
    for (size_t size = (size_t)1 << 22; size >= 16; size /= 2) {
        (void)take_all(size, SIZE_MAX);
    }
}

static void free_all(void)
{
    while (taken) {
        void *next = *(void **)taken;
        free(taken);
        taken = next;
    }
}

static const size_t sizes[] = {16, 100, 1000, 5000, 33000, 200000, 3000000};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

/* Every size is refused at the end, calloc, realloc and memalign too; freed memory can be allocated
   again. */
static void exhaust(void)
{
    for (int i = 0; i < N_SIZES; i++) {
        char *kept = (char *)filled(sizes[i]);
        size_t n = take_all(sizes[i], SIZE_MAX);
        CHECK(kept && n > 0);
        take_every_byte();
        void *p = &p;
        errno = 0;
        void *volatile none = calloc(1, 5000000);
        CHECK(none == NULL && errno == ENOMEM);
        errno = 0;
        none = realloc(kept, 5000000); /* NOLINT: kept is still there */
        CHECK(none == NULL && errno == ENOMEM);
        CHECK(posix_memalign(&p, 1 << 16, 5000000) == ENOMEM && p == &p);
        CHECK(is_filled(kept, sizes[i]));
        CHECK(hak_verify() == 0);
        free_all();
        size_t again = take_all(sizes[i], SIZE_MAX);
        CHECK(again >= n - n / 4 - 1);
        free_all();
        free(kept);
    }
    use_malloc(1, 300);
}

static void address_space(long n)
{
    for (long i = 0; i < n; i++) {
        limit_address_space(((size_t)16 << 20) + (size_t)i * 1234567);
        exhaust();
        no_limit();
    }
}

static void data(long n)
{
    for (long i = 0; i < n; i++) {
        limit_data(((size_t)16 << 20) + (size_t)i * 1234567);
        exhaust();
        no_limit();
    }
}

/* Blocks that were large, or that grew, keep address space beside them. When there is no more, this
   address space is unmapped first. */
enum { MANY_SHRUNK = 1000, MANY_GROWN = 200 };

static char *shrunk(void)
{
    static const size_t sizes[] = {140000, 280000, 140000};
    char *p = (char *)malloc((size_t)8 << 20);
    for (int i = 0; i < 3 && p; i++) {
        p[100] = (char)i;
        char *moved = (char *)realloc(p, sizes[i]);
        if (!moved) {
            free(p);
        }
        CHECK(!moved || moved[100] == (char)i);
        p = moved;
    }
    return p;
}

static char *grown(void)
{
    char *p = NULL;
    for (size_t size = 100000; size <= 500000; size += 100000) {
        char *moved = (char *)realloc(p, size);
        if (!moved) {
            free(p);
            return NULL;
        }
        CHECK(!p || moved[size - 100001] == 7);
        moved[size - 1] = 7;
        p = moved;
    }
    return p;
}

static void keep(char *(*make)(void), int n, size_t limit)
{
    static char *kept[MANY_SHRUNK];
    free(malloc((size_t)8 << 20)); /* all that a first call needs */
    limit_address_space(limit);
    int i = 0;
    while (i < n && (kept[i] = make()) != NULL) {
        i++;
    }
    no_limit();
    CHECK(i == n);
    while (i--) {
        free(kept[i]);
    }
    check_heap();
}

/* 137 MiB in a limit of 200. */
static void shrunk_blocks(long n)
{
    for (long i = 0; i < n; i++) {
        keep(shrunk, MANY_SHRUNK, (size_t)200 << 20);
    }
}

/* 96 MiB in a limit of 120. */
static void grown_blocks(long n)
{
    for (long i = 0; i < n; i++) {
        keep(grown, MANY_GROWN, (size_t)120 << 20);
    }
}

/* Several threads at once: each may be refused, none may crash. */
static void *use_until_refused(void *seed_)
{
    uint64_t seed = (uintptr_t)seed_;
    void *blocks[128] = {NULL};
    size_t bytes[128] = {0};
    for (int i = 0; i < 20000; i++) {
        uint32_t k = next_random(&seed) % 128;
        CHECK(!blocks[k] || is_filled(blocks[k], bytes[k]));
        free(blocks[k]);
        bytes[k] = random_size(&seed);
        errno = 0;
        blocks[k] = filled(bytes[k]);
        CHECK(blocks[k] || errno == ENOMEM);
    }
    for (int k = 0; k < 128; k++) {
        free(blocks[k]);
    }
    return NULL;
}

static void threads_at_the_limit(long n)
{
    enum { N_THREADS = 4 };
    for (long i = 0; i < n; i++) {
        pthread_t threads[N_THREADS];
        for (int k = 0; k < N_THREADS; k++) {
            CHECK(pthread_create(&threads[k], NULL, use_until_refused,
                                 (void *)(uintptr_t)(i * N_THREADS + k)) == 0);
        }
        limit_data((size_t)5 << 20);
        for (int k = 0; k < N_THREADS; k++) {
            pthread_join(threads[k], NULL);
        }
        no_limit();
    }
    use_malloc(2, 1000);
}

/* --- the number of mappings --- */

static long max_mappings(void)
{
    char text[32] = "";
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && close(fd) == 0);
    return atol(text);
}

/* Every second page is another mapping, until the kernel has no more. */
static void mappings(long n)
{
    enum { PAGE = 65536 };
    const size_t span = (size_t)max_mappings() * PAGE;
    if (max_mappings() > 1000000) {
        return; /* a system without such a limit, in effect */
    }
    for (long round = 0; round < n; round++) {
        char *area =
            (char *)mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(area != MAP_FAILED);
        size_t at = 0;
        while (at < span && mprotect(area + at, PAGE, PROT_READ) == 0) {
            at += (size_t)2 * PAGE;
        }
        CHECK(at < span && errno == ENOMEM);
        for (int i = 0; i < N_SIZES; i++) {
            (void)take_all(sizes[i], 200);
            errno = 0;
            void *big = malloc((size_t)64 << 20);
            CHECK(big || errno == ENOMEM);
            void *bigger = realloc(big, (size_t)128 << 20);
            free(bigger ? bigger : big);
            CHECK(hak_verify() == 0);
            if (i % 2) {
                free_all();
                (void)hak_purge();
            }
        }
        free_all();
        (void)hak_purge();
        CHECK(hak_verify() == 0);
        CHECK(munmap(area, span) == 0);
        CHECK(take_all(3000000, 50) == 50);
        free_all();
        use_malloc(3, 1000);
    }
}

/* --- what the C library does without memory --- */

static int n_refused;

static void *do_nothing(void *unused)
{
    free(malloc(100));
    return unused;
}

static void try_thread(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, do_nothing, NULL);
    CHECK(error == 0 || error == EAGAIN || error == ENOMEM);
    n_refused += error != 0;
    if (!error) {
        pthread_join(thread, NULL);
    }
}

static void try_setenv(void)
{
    static int n;
    char name[32];
    (void)snprintf(name, sizeof name, "SURVIVAL_%d", n++ % 100);
    errno = 0;
    CHECK(setenv(name, "a value that is long enough to need a block of its own", 1) == 0 ||
          errno == ENOMEM);
    n_refused += errno == ENOMEM;
}

static void try_iconv(void)
{
    errno = 0;
    iconv_t converter = iconv_open("UTF-16", "ISO-8859-1");
    CHECK(converter != (iconv_t)-1 || errno == ENOMEM || errno == EINVAL || errno == EMFILE);
    n_refused += errno == ENOMEM;
    if (converter != (iconv_t)-1) {
        char in[] = "text", out[64], *from = in, *to = out;
        size_t left = 4, room = sizeof out;
        CHECK(iconv(converter, &from, &left, &to, &room) != (size_t)-1 || errno != 0);
        (void)iconv_close(converter);
    }
}

static void try_stdio(void)
{
    errno = 0;
    FILE *stream = fopen("/dev/null", "r+");
    CHECK(stream || errno == ENOMEM);
    n_refused += !stream;
    if (stream) {
        (void)fprintf(stream, "%*d %.3000f", 4000, 7, 1e300);
        (void)fclose(stream);
    }
    char *text = NULL;
    int length = asprintf(&text, "%0*d", 10000, 5);
    CHECK(length == 10000 || length == -1);
    if (length == 10000) {
        free(text);
    }
    char *line = NULL;
    size_t room = 0;
    stream = fopen("/proc/self/maps", "r");
    while (stream && getline(&line, &room, stream) > 0) {
    }
    free(line);
    if (stream) {
        (void)fclose(stream);
    }
}

static void try_locale(void)
{
    locale_t locale = newlocale(LC_ALL_MASK, "C.UTF-8", (locale_t)0);
    if (locale) {
        freelocale(locale);
    }
}

#if !NO_DLOPEN
static void try_dlopen(void)
{
    const char *path = getenv("SURVIVAL_PLUGIN");
    void *library = path ? dlopen(path, RTLD_NOW) : NULL;
    if (library) {
        CHECK(dlsym(library, "plugin_block"));
        (void)dlclose(library);
    } else {
        CHECK(!path || dlerror());
        n_refused += path != NULL;
    }
}
#endif

static void (*const tries[])(void) = {
    try_thread, try_setenv, try_iconv, try_stdio, try_locale,
#if !NO_DLOPEN
    try_dlopen,
#endif
};

static void try_each(void)
{
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        tries[i]();
    }
}

/* With nothing left at all, then with ever more: each of their allocations is refused once. */
static void c_library(long n)
{
    limit_data((size_t)16 << 20);
    take_every_byte();
    /* From here on, every allocation is refused unless memory is freed first. */
    for (size_t size = 64; size <= 40000; size += size / (size_t)(n > 0 ? n : 1) + 16) {
        try_each();
        void *freed = taken;
        CHECK(freed);
        taken = *(void **)freed;
        free(freed);
        try_each();
        take_every_byte();
    }
    CHECK(n_refused >= (int)(sizeof tries / sizeof tries[0]));
    CHECK(hak_verify() == 0);
    free_all();
    no_limit();
    n_refused = 0;
    try_each();
    CHECK(n_refused == 0);
}

static const struct test_case cases[] = {{"address_space", address_space, 10, 2},
                                         {"data", data, 10, 2},
                                         {"shrunk_blocks", shrunk_blocks, 20, 2},
                                         {"grown_blocks", grown_blocks, 20, 2},
                                         {"threads_at_the_limit", threads_at_the_limit, 50, 5},
                                         {"mappings", mappings, 3, 1},
                                         {"c_library", c_library, 100, 20},
                                         {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
