/* The malloc surface as one table of cases: what each call does at the edges of its rules. The same
   program runs under hakmem and under glibc; docs/malloc_surface.md shows both.

     malloc_surface            one line a case, tabs between: call, rule, what it should do, what it
                               did, why hakmem differs
     malloc_surface --info     the XML of malloc_info, with a block of 64 MiB in use
     malloc_surface --check    exits with 1 if a case does not do what it should (what hakmem
                               does) */
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <malloc.h>
#include <new>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

extern "C" {
void cfree(void *) __attribute__((weak));
void free_sized(void *, size_t) __attribute__((weak));
void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));
}

namespace
{

/* errno before each call: one that no allocator sets. */
const int UNTOUCHED = ECHILD;

/* What the compiler must not reason about. */
template <typename T> T opaque(T value)
{
    __asm__ volatile("" : "+r"(value) : : "memory");
    return value;
}

void *null()
{
    return opaque(static_cast<void *>(nullptr));
}

const size_t MAX = opaque(SIZE_MAX);
const size_t HALF = opaque(static_cast<size_t>(PTRDIFF_MAX));
const size_t PAGE = static_cast<size_t>(sysconf(_SC_PAGESIZE));

bool is_at(const void *p, size_t alignment)
{
    return reinterpret_cast<uintptr_t>(p) % alignment == 0;
}

std::string error_name(int error)
{
    return error == UNTOUCHED ? "errno kept"
           : error == ENOMEM  ? "ENOMEM"
           : error == EINVAL  ? "EINVAL"
                              : "errno " + std::to_string(error);
}

/* "a block" or "NULL, ENOMEM"; frees it. */
std::string block(void *p, size_t alignment = 16)
{
    std::string error = error_name(errno);
    if (!opaque(p)) {
        return "NULL, " + error;
    }
    std::string text = !is_at(p, 16)          ? "a block off 16 bytes"
                       : !is_at(p, alignment) ? "a block off its alignment"
                       : alignment == 16      ? "a block"
                       : alignment == PAGE
                           ? "a block at a page"
                           : "a block at a multiple of " + std::to_string(alignment);
    free(p);
    return text;
}

std::string two_blocks(void *p, void *q)
{
    std::string text = p && q && p != q ? "two blocks" : "no two blocks";
    free(p);
    free(q);
    return text;
}

/* A block of 100 bytes of a pattern. */
char *patterned(void *p = malloc(100))
{
    memset(p, 0x5A, 100);
    return static_cast<char *>(p);
}

std::string left(char *p)
{
    int n = 0;
    for (int i = 0; i < 100; i++) {
        n += p[i] == 0x5A;
    }
    free(p);
    return n == 100 ? "; the block is left" : "; the block is damaged";
}

std::string failed_realloc(char *p, void *result)
{
    std::string error = error_name(errno);
    if (opaque(result)) {
        free(result);
        return "a block";
    }
    return "NULL, " + error + left(p);
}

std::string freed_by_realloc(void *result)
{
    std::string error = error_name(errno);
    return opaque(result) ? "a block" : "NULL, " + error;
}

std::string keeps_errno()
{
    return error_name(errno);
}

std::string posix(size_t alignment, size_t size)
{
    void *const before = &errno;
    void *p = before;
    int result = posix_memalign(&p, alignment, size);
    if (result == 0) {
        return "0; " + block(p, alignment);
    }
    return error_name(result) + (p == before ? "; *p kept" : "; *p changed");
}

/* Every byte that calloc's blocks may hold, of all sizes to 3 KiB and of some beyond, after as many
   were filled and freed. */
std::string calloc_is_zero()
{
    std::vector<size_t> sizes = {5000, 20000, 40000, 70000, 200000, 1100000, 5000000};
    for (size_t size = 0; size < 3072; size += 7) {
        sizes.push_back(size);
    }
    for (size_t size : sizes) {
        void *dirty = malloc(size);
        memset(dirty, 0xFF, malloc_usable_size(dirty));
        free(opaque(dirty));
        char *p = static_cast<char *>(opaque(calloc(1, size)));
        for (size_t i = 0; i < malloc_usable_size(p); i++) {
            if (p[i]) {
                return "not zero";
            }
        }
        free(p);
    }
    return "all zero";
}

std::string every_size(const std::function<bool(char *, size_t)> &holds, const char *text)
{
    for (size_t size = 0; size < (4u << 20); size += size < 5000 ? 1 : size / 10) {
        char *p = static_cast<char *>(opaque(malloc(size)));
        bool is_fine = p && holds(p, size);
        free(p);
        if (!is_fine) {
            return "not so at " + std::to_string(size);
        }
    }
    return text;
}

/* realloc from each size to each: the contents that fit are kept. */
std::string realloc_keeps()
{
    const size_t sizes[] = {1, 100, 1000, 5000, 40000, 200000, 3000000};
    for (size_t from : sizes) {
        for (size_t to : sizes) {
            auto *p = static_cast<unsigned char *>(malloc(from));
            for (size_t i = 0; i < from; i++) {
                p[i] = static_cast<unsigned char>(i * 7);
            }
            p = static_cast<unsigned char *>(realloc(opaque(p), to));
            for (size_t i = 0; i < from && i < to; i++) {
                if (p[i] != static_cast<unsigned char>(i * 7)) {
                    return "lost";
                }
            }
            free(p);
        }
    }
    return "kept";
}

std::string written_by(void (*call)())
{
    char text[4096];
    int ends[2];
    fflush(stdout);
    if (pipe(ends)) {
        return "no pipe";
    }
    int saved = dup(2);
    dup2(ends[1], 2);
    call();
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    close(ends[1]);
    ssize_t n = read(ends[0], text, sizeof text);
    close(ends[0]);
    return n > 0 ? "text" : "nothing";
}

size_t resident()
{
    FILE *in = fopen("/proc/self/statm", "r");
    long all = 0, pages = 0;
    if (!in || fscanf(in, "%ld %ld", &all, &pages) != 2) {
        abort();
    }
    fclose(in);
    return static_cast<size_t>(pages) * PAGE;
}

std::string info(int options)
{
    char *text = nullptr;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    int result = malloc_info(options, out);
    fclose(out);
    std::string starts = std::string(text).substr(0, 20);
    free(text);
    return std::to_string(result) + (starts == "<malloc version=\"1\">" ? ", XML" : ", nothing");
}

/* --- operator new --- */

int n_calls;

void third_time_unlucky()
{
    if (++n_calls == 3) {
        std::set_new_handler(nullptr);
    }
}

void throws()
{
    n_calls++;
    throw std::runtime_error("the handler's");
}

std::string outcome_of_new(std::new_handler handler, const std::function<void *()> &call)
{
    std::string text;
    n_calls = 0;
    std::set_new_handler(handler);
    try {
        void *p = call();
        text = p ? "a block" : "NULL";
    } catch (const std::bad_alloc &) {
        text = "bad_alloc";
    } catch (const std::runtime_error &) {
        text = "the handler's exception";
    }
    std::set_new_handler(nullptr);
    return n_calls
               ? text + " after " + std::to_string(n_calls) + (n_calls == 1 ? " call" : " calls")
               : text;
}

using std::align_val_t;
using std::nothrow;

/* A block of operator new of `size` bytes at `alignment`, freed by `away`. */
std::string new_and_delete(void *p, size_t alignment, const std::function<void(void *)> &away)
{
    std::string text = opaque(p) && is_at(p, alignment) ? "a block" : "no such block";
    memset(p, 1, 100);
    away(p);
    return text;
}

struct row {
    const char *call, *rule, *should;
    std::function<std::string()> run;
    const char *why_different;
};

const char *const NO_MEMORY = "NULL, ENOMEM";

const char *const LATER = "As glibc from 2.38 on, and as C17 asks.";
const char *const WRAPS =
    "libstdc++ 12 rounds the size up to a multiple of the alignment, and the sum wraps to 0.";

const row ROWS[] = {
    {"malloc(0)", "C17: NULL or a block; glibc: a block of its own", "two blocks",
     [] { return two_blocks(malloc(opaque(size_t(0))), malloc(opaque(size_t(0)))); }, ""},
    {"malloc(n), every n", "C17: aligned for any type: 16 bytes", "at multiples of 16",
     [] { return every_size([](char *p, size_t) { return is_at(p, 16); }, "at multiples of 16"); },
     ""},
    {"malloc(PTRDIFF_MAX)", "POSIX: NULL, ENOMEM", NO_MEMORY, [] { return block(malloc(HALF)); },
     ""},
    {"malloc(PTRDIFF_MAX + 1)", "glibc: ENOMEM above PTRDIFF_MAX", NO_MEMORY,
     [] { return block(malloc(HALF + 1)); }, ""},
    {"malloc(SIZE_MAX)", "glibc: ENOMEM above PTRDIFF_MAX", NO_MEMORY,
     [] { return block(malloc(MAX)); }, ""},

    {"calloc(0, 8)", "C17: NULL or a block; glibc: a block", "a block",
     [] { return block(calloc(opaque(size_t(0)), 8)); }, ""},
    {"calloc(8, 0)", "C17: NULL or a block; glibc: a block", "a block",
     [] { return block(calloc(8, opaque(size_t(0)))); }, ""},
    {"calloc(n, m), n * m overflows", "POSIX: NULL, ENOMEM", NO_MEMORY,
     [] { return block(calloc(MAX / 2, 4)); }, ""},
    {"calloc(2, PTRDIFF_MAX / 2 + 1)", "glibc: ENOMEM above PTRDIFF_MAX", NO_MEMORY,
     [] { return block(calloc(2, HALF / 2 + 1)); }, ""},
    {"calloc(1, n), every byte of malloc_usable_size",
     "hakmem: zero, though the block was used before", "all zero", [] { return calloc_is_zero(); },
     "Programs that use the usable size of calloc's blocks find zeroes there."},

    {"realloc(NULL, 100)", "C17: as malloc", "a block", [] { return block(realloc(null(), 100)); },
     ""},
    {"realloc(NULL, 0)", "glibc: as malloc(0)", "a block",
     [] { return block(realloc(null(), opaque(size_t(0)))); }, ""},
    {"realloc(p, 0)", "C23: undefined; glibc: frees p, NULL", "NULL, errno kept",
     [] { return freed_by_realloc(realloc(opaque(malloc(100)), opaque(size_t(0)))); }, ""},
    {"realloc(p, PTRDIFF_MAX + 1)", "C17: NULL, the block is left",
     "NULL, ENOMEM; the block is left",
     [] {
         char *p = patterned();
         return failed_realloc(p, realloc(opaque(p), HALF + 1));
     },
     ""},
    {"realloc(p, SIZE_MAX)", "C17: NULL, the block is left", "NULL, ENOMEM; the block is left",
     [] {
         char *p = patterned();
         return failed_realloc(p, realloc(opaque(p), MAX));
     },
     ""},
    {"realloc(p of 2 MiB, SIZE_MAX)", "C17: NULL, the block is left",
     "NULL, ENOMEM; the block is left",
     [] {
         char *p = patterned(malloc(2 << 20));
         return failed_realloc(p, realloc(opaque(p), MAX));
     },
     ""},
    {"realloc(p, n), p of memalign", "C17: any block", "kept",
     [] {
         char *p = patterned(memalign(4096, 100));
         return left(static_cast<char *>(realloc(p, 5000))) == "; the block is left" ? "kept"
                                                                                     : "lost";
     },
     ""},
    {"realloc(p, n), from each size to each", "C17: contents are kept up to the smaller size",
     "kept", [] { return realloc_keeps(); }, ""},
    {"reallocarray(p, n, m), n * m overflows", "glibc: NULL, ENOMEM, the block is left",
     "NULL, ENOMEM; the block is left",
     [] {
         char *p = patterned();
         return failed_realloc(p, reallocarray(opaque(p), MAX / 2, 4));
     },
     ""},
    {"reallocarray(p, 0, 8)", "glibc: as realloc(p, 0)", "NULL, errno kept",
     [] { return freed_by_realloc(reallocarray(opaque(malloc(100)), opaque(size_t(0)), 8)); }, ""},
    {"reallocarray(NULL, 10, 10)", "glibc: as malloc(100)", "a block",
     [] { return block(reallocarray(null(), 10, 10)); }, ""},

    {"free(NULL)", "C17: nothing", "errno kept",
     [] {
         free(null());
         return keeps_errno();
     },
     ""},
    {"free(p of 100 bytes)", "POSIX 2024: errno is kept", "errno kept",
     [] {
         free(opaque(malloc(100)));
         return keeps_errno();
     },
     ""},
    {"free(p of 64 MiB)", "POSIX 2024: errno is kept", "errno kept",
     [] {
         free(opaque(malloc(64 << 20)));
         return keeps_errno();
     },
     ""},
    {"cfree(p)", "glibc: gone in 2.26", "frees",
     [] {
         void *p = malloc(100);
         opaque(cfree ? cfree : free)(p);
         return cfree ? "frees" : "not there";
     },
     "For programs that were built before."},
    {"free_sized(p, n)", "C23", "frees",
     [] {
         void *p = malloc(100);
         free_sized ? free_sized(p, 100) : free(p);
         return free_sized ? "frees" : "not there";
     },
     "New in C23. The variants that validate look whether the size can be true."},
    {"free_aligned_sized(p, a, n)", "C23", "frees",
     [] {
         void *p = aligned_alloc(64, 128);
         free_aligned_sized ? free_aligned_sized(p, 64, 128) : free(p);
         return free_aligned_sized ? "frees" : "not there";
     },
     "New in C23. The variants that validate look whether both can be true."},

    {"aligned_alloc(64, 100)", "C17: any size", "a block at a multiple of 64",
     [] { return block(aligned_alloc(64, opaque(size_t(100))), 64); }, ""},
    {"aligned_alloc(64, 0)", "C17: NULL or a block", "a block at a multiple of 64",
     [] { return block(aligned_alloc(64, opaque(size_t(0))), 64); }, ""},
    {"aligned_alloc(1, 100)", "glibc: a block", "a block",
     [] { return block(aligned_alloc(opaque(size_t(1)), 100)); }, ""},
    {"aligned_alloc(0, 100)", "C17: not a valid alignment: NULL", "NULL, EINVAL",
     [] { return block(aligned_alloc(opaque(size_t(0)), 100)); }, LATER},
    {"aligned_alloc(3, 100)", "C17: not a valid alignment: NULL", "NULL, EINVAL",
     [] { return block(aligned_alloc(opaque(size_t(3)), 100)); }, LATER},
    {"aligned_alloc(64, SIZE_MAX)", "ENOMEM", NO_MEMORY,
     [] { return block(aligned_alloc(64, MAX)); }, ""},
    {"aligned_alloc(64, PTRDIFF_MAX)", "ENOMEM", NO_MEMORY,
     [] { return block(aligned_alloc(64, HALF)); }, ""},
    {"aligned_alloc(1 GiB, 100)", "any power of two", "a block at a multiple of 1073741824",
     [] { return block(aligned_alloc(size_t(1) << 30, opaque(size_t(100))), size_t(1) << 30); },
     ""},

    {"posix_memalign(&p, 64, 100)", "POSIX: 0", "0; a block at a multiple of 64",
     [] { return posix(64, 100); }, ""},
    {"posix_memalign(&p, 64, 0)", "POSIX: 0, NULL or a block", "0; a block at a multiple of 64",
     [] { return posix(64, 0); }, ""},
    {"posix_memalign(&p, 8, 100)", "POSIX: sizeof(void *) is an alignment",
     "0; a block at a multiple of 8", [] { return posix(8, 100); }, ""},
    {"posix_memalign(&p, 4, 100)", "POSIX: EINVAL, less than sizeof(void *)", "EINVAL; *p kept",
     [] { return posix(4, 100); }, ""},
    {"posix_memalign(&p, 0, 100)", "POSIX: EINVAL", "EINVAL; *p kept", [] { return posix(0, 100); },
     ""},
    {"posix_memalign(&p, 24, 100)", "POSIX: EINVAL, no power of two", "EINVAL; *p kept",
     [] { return posix(24, 100); }, ""},
    {"posix_memalign(&p, 64, SIZE_MAX)", "POSIX: ENOMEM", "ENOMEM; *p kept",
     [] { return posix(64, MAX); }, ""},
    {"errno after posix_memalign(&p, 64, SIZE_MAX)", "POSIX: the error is returned", "ENOMEM",
     [] {
         errno = 0;
         (void)posix(64, MAX);
         return error_name(errno);
     },
     ""},
    {"errno after posix_memalign(&p, 3, 100)", "POSIX: the error is returned", "errno kept",
     [] {
         (void)posix(3, 100);
         return keeps_errno();
     },
     ""},

    {"memalign(64, 100)", "glibc", "a block at a multiple of 64",
     [] { return block(memalign(64, 100), 64); }, ""},
    {"memalign(0, 100)", "glibc: as malloc", "a block",
     [] { return block(memalign(opaque(size_t(0)), 100)); }, ""},
    {"memalign(24, 100)", "glibc: rounded up to a power of two", "a block at a multiple of 32",
     [] { return block(memalign(opaque(size_t(24)), 100), 32); }, ""},
    {"memalign(5000, 100)", "glibc: rounded up to a power of two", "a block at a multiple of 8192",
     [] { return block(memalign(opaque(size_t(5000)), 100), 8192); }, ""},
    {"memalign(64, SIZE_MAX)", "ENOMEM", NO_MEMORY, [] { return block(memalign(64, MAX)); }, ""},
    {"memalign(SIZE_MAX / 2 + 1, 100)", "ENOMEM", NO_MEMORY,
     [] { return block(memalign(MAX / 2 + 1, 100)); }, ""},
    {"memalign(SIZE_MAX / 2 + 2, 100)", "glibc: EINVAL, no power of two above it", "NULL, EINVAL",
     [] { return block(memalign(MAX / 2 + 2, 100)); }, ""},
    {"valloc(100)", "at a page", "a block at a page", [] { return block(valloc(100), PAGE); }, ""},
    {"valloc(0)", "at a page", "a block at a page",
     [] { return block(valloc(opaque(size_t(0))), PAGE); }, ""},
    {"valloc(SIZE_MAX)", "ENOMEM", NO_MEMORY, [] { return block(valloc(MAX)); }, ""},
    {"pvalloc(100)", "glibc: at a page", "a block at a page",
     [] { return block(pvalloc(100), PAGE); }, ""},
    {"malloc_usable_size(pvalloc(100))", "glibc: at least a page", "a page or more",
     [] {
         void *p = pvalloc(100);
         bool is_page = malloc_usable_size(p) >= PAGE;
         free(p);
         return is_page ? "a page or more" : "less than a page";
     },
     ""},
    {"pvalloc(0)", "glibc: at a page", "a block at a page",
     [] { return block(pvalloc(opaque(size_t(0))), PAGE); }, ""},
    {"pvalloc(PTRDIFF_MAX)", "ENOMEM", NO_MEMORY, [] { return block(pvalloc(HALF)); }, ""},
    {"pvalloc(SIZE_MAX)", "ENOMEM: it must not wrap to 0", NO_MEMORY,
     [] { return block(pvalloc(MAX)); }, ""},

    {"malloc_usable_size(NULL)", "glibc: 0", "0",
     [] { return std::to_string(malloc_usable_size(null())); }, ""},
    {"malloc_usable_size(malloc(n)), every n", "glibc: n or more, all of which may be written",
     "n or more",
     [] {
         return every_size(
             [](char *p, size_t size) {
                 size_t usable = malloc_usable_size(p);
                 memset(p, 1, usable);
                 return usable >= size;
             },
             "n or more");
     },
     ""},
    {"malloc_trim(0), 20 MB freed before", "glibc: what is free goes back to the system",
     "resident memory falls by 20 MB",
     [] {
         std::vector<void *> blocks;
         for (int i = 0; i < 1000; i++) {
             blocks.push_back(memset(malloc(20000), 1, 20000));
         }
         size_t before = resident();
         for (void *p : blocks) {
             free(p);
         }
         (void)malloc_trim(0);
         size_t after = resident();
         return after + 19000000 < before ? "resident memory falls by 20 MB"
                                          : "it does not fall so far";
     },
     ""},
    {"malloc_trim(0) at once again", "0 if none did", "0",
     [] {
         (void)malloc_trim(0);
         return std::to_string(malloc_trim(0));
     },
     "glibc tells of pages that it had given back before."},
    {"mallinfo2().uordblks, 100 blocks of 3,000 bytes more", "glibc: bytes in use",
     "300,000 more or a little above",
     [] {
         std::vector<void *> blocks(100);
         size_t before = mallinfo2().uordblks;
         for (void *&p : blocks) {
             p = malloc(3000);
         }
         size_t after = mallinfo2().uordblks;
         for (void *p : blocks) {
             free(p);
         }
         return after - before >= 300000 && after - before < 330000
                    ? "300,000 more or a little above"
                    : "something else";
     },
     ""},
    {"mallinfo2().hblks and hblkhd, a block of 64 MiB more", "glibc: mapped blocks and their bytes",
     "1 and 64 MiB more",
     [] {
         struct mallinfo2 before = mallinfo2();
         void *p = opaque(malloc(64 << 20));
         struct mallinfo2 after = mallinfo2();
         free(p);
         bool is_true = after.hblks == before.hblks + 1 &&
                        after.hblkhd - before.hblkhd >= (64u << 20) &&
                        after.hblkhd - before.hblkhd < (65u << 20);
         return is_true ? "1 and 64 MiB more" : "something else";
     },
     ""},
    {"mallinfo2(): arena = uordblks + fordblks", "glibc", "equal",
     [] {
         struct mallinfo2 now = mallinfo2();
         return now.arena > 0 && now.arena == now.uordblks + now.fordblks ? "equal" : "not equal";
     },
     ""},
    {"mallinfo()", "glibc: the same as ints", "the same",
     [] {
         struct mallinfo2 wide = mallinfo2();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
         struct mallinfo narrow = mallinfo();
#pragma GCC diagnostic pop
         bool is_same = narrow.arena == static_cast<int>(wide.arena) &&
                        narrow.uordblks == static_cast<int>(wide.uordblks) &&
                        narrow.ordblks == static_cast<int>(wide.ordblks) &&
                        narrow.hblks == static_cast<int>(wide.hblks);
         return is_same ? "the same" : "something else";
     },
     ""},
    {"malloc_info(0, out)", "glibc: 0, XML", "0, XML", [] { return info(0); }, ""},
    {"malloc_info(1, out)", "glibc: EINVAL (22)", "22, nothing", [] { return info(1); }, ""},
    {"malloc_stats()", "glibc: text on standard error", "text",
     [] { return written_by(malloc_stats); }, ""},

    {"new char[0]", "C++: a block of its own", "two blocks",
     [] {
         void *p = operator new(opaque(size_t(0))), *q = operator new[](opaque(size_t(0)));
         return two_blocks(p, q);
     },
     ""},
    {"new(PTRDIFF_MAX + 1)", "C++: bad_alloc", "bad_alloc",
     [] { return outcome_of_new(nullptr, [] { return operator new(HALF + 1); }); }, ""},
    {"new[](SIZE_MAX)", "C++: bad_alloc", "bad_alloc",
     [] { return outcome_of_new(nullptr, [] { return operator new[](MAX); }); }, ""},
    {"new(SIZE_MAX, nothrow)", "C++: NULL", "NULL",
     [] { return outcome_of_new(nullptr, [] { return operator new(MAX, nothrow); }); }, ""},
    {"new(SIZE_MAX, align_val_t(64))", "C++: bad_alloc", "bad_alloc",
     [] { return outcome_of_new(nullptr, [] { return operator new(MAX, align_val_t(64)); }); },
     WRAPS},
    {"new(SIZE_MAX, align_val_t(64), nothrow)", "C++: NULL", "NULL",
     [] {
         return outcome_of_new(nullptr, [] { return operator new(MAX, align_val_t(64), nothrow); });
     },
     WRAPS},
    {"new(SIZE_MAX), a new-handler that removes itself the third time",
     "C++: called until there is none", "bad_alloc after 3 calls",
     [] { return outcome_of_new(third_time_unlucky, [] { return operator new(MAX); }); }, ""},
    {"new(SIZE_MAX, nothrow), the same", "C++: called until there is none", "NULL after 3 calls",
     [] { return outcome_of_new(third_time_unlucky, [] { return operator new(MAX, nothrow); }); },
     ""},
    {"new[](SIZE_MAX, align_val_t(64)), the same", "C++: called until there is none",
     "bad_alloc after 3 calls",
     [] {
         return outcome_of_new(third_time_unlucky,
                               [] { return operator new[](MAX, align_val_t(64)); });
     },
     WRAPS},
    {"new(SIZE_MAX), a new-handler that throws", "C++: its exception passes",
     "the handler's exception after 1 call",
     [] { return outcome_of_new(throws, [] { return operator new(MAX); }); }, ""},
    {"new(SIZE_MAX, nothrow), a new-handler that throws", "C++: NULL", "NULL after 1 call",
     [] { return outcome_of_new(throws, [] { return operator new(MAX, nothrow); }); }, ""},
    {"new[](SIZE_MAX, nothrow), a new-handler that throws", "C++: NULL", "NULL after 1 call",
     [] { return outcome_of_new(throws, [] { return operator new[](MAX, nothrow); }); }, ""},
    {"new(SIZE_MAX, align_val_t(64), nothrow), a new-handler that throws", "C++: NULL",
     "NULL after 1 call",
     [] {
         return outcome_of_new(throws, [] { return operator new(MAX, align_val_t(64), nothrow); });
     },
     WRAPS},
    {"new(100, align_val_t(24))", "C++: undefined; libstdc++: bad_alloc", "bad_alloc",
     [] {
         return outcome_of_new(nullptr, [] { return operator new(100, opaque(align_val_t(24))); });
     },
     ""},
    {"new(100, align_val_t(24), nothrow)", "C++: undefined; libstdc++: NULL", "NULL",
     [] {
         return outcome_of_new(nullptr,
                               [] { return operator new(100, opaque(align_val_t(24)), nothrow); });
     },
     ""},
    {"new(100), delete(p)", "C++", "a block",
     [] { return new_and_delete(operator new(100), 16, [](void *p) { operator delete(p); }); }, ""},
    {"new(100, nothrow), delete(p, nothrow)", "C++", "a block",
     [] {
         return new_and_delete(operator new(100, nothrow), 16,
                               [](void *p) { operator delete(p, nothrow); });
     },
     ""},
    {"new[](100), delete[](p, 100)", "C++14", "a block",
     [] {
         return new_and_delete(operator new[](100), 16,
                               [](void *p) { operator delete[](p, size_t(100)); });
     },
     ""},
    {"new(100, align_val_t(4096)), delete(p, 100, align_val_t(4096))", "C++17", "a block",
     [] {
         return new_and_delete(operator new(100, align_val_t(4096)), 4096,
                               [](void *p) { operator delete(p, size_t(100), align_val_t(4096)); });
     },
     ""},
    {"new[](100, align_val_t(64), nothrow), delete[](p, align_val_t(64), nothrow)", "C++17",
     "a block",
     [] {
         return new_and_delete(operator new[](100, align_val_t(64), nothrow), 64,
                               [](void *p) { operator delete[](p, align_val_t(64), nothrow); });
     },
     ""},
    {"delete(NULL), every form", "C++: nothing", "nothing",
     [] {
         operator delete(null());
         operator delete[](null());
         operator delete(null(), size_t(1));
         operator delete[](null(), size_t(1));
         operator delete(null(), nothrow);
         operator delete[](null(), nothrow);
         operator delete(null(), align_val_t(64));
         operator delete[](null(), align_val_t(64));
         operator delete(null(), size_t(1), align_val_t(64));
         operator delete[](null(), size_t(1), align_val_t(64));
         operator delete(null(), align_val_t(64), nothrow);
         operator delete[](null(), align_val_t(64), nothrow);
         return "nothing";
     },
     ""},

    {"mallopt(M_MXFAST, 80)", "glibc: 1", "1", [] { return std::to_string(mallopt(M_MXFAST, 80)); },
     ""},
    {"mallopt(M_MXFAST, 161)", "glibc: 0, above 80 words / 4", "0",
     [] { return std::to_string(mallopt(M_MXFAST, 161)); }, ""},
    {"mallopt(M_MMAP_THRESHOLD, 64 MiB)", "glibc: 1", "1",
     [] { return std::to_string(mallopt(M_MMAP_THRESHOLD, 64 << 20)); }, ""},
    {"mallopt(M_ARENA_MAX, 1)", "glibc: 1", "1",
     [] { return std::to_string(mallopt(M_ARENA_MAX, 1)); }, ""},
    {"mallopt(-100, 0)", "glibc: 1 for what it does not know", "1",
     [] { return std::to_string(mallopt(-100, 0)); }, ""},
};

} // namespace

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--info") == 0) {
        void *p = opaque(malloc(64 << 20));
        int result = malloc_info(0, stdout);
        free(p);
        return result;
    }
    bool check = argc == 2 && strcmp(argv[1], "--check") == 0;
    int n_wrong = 0;
    for (const row &row : ROWS) {
        errno = UNTOUCHED;
        std::string did = row.run();
        n_wrong += did != row.should;
        if (!check) {
            printf("%s\t%s\t%s\t%s\t%s\n", row.call, row.rule, row.should, did.c_str(),
                   row.why_different);
        } else if (did != row.should) {
            fprintf(stderr, "%s: should do: %s; did: %s\n", row.call, row.should, did.c_str());
        }
    }
    return check && n_wrong ? 1 : 0;
}
