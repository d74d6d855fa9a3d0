/* Counts calls of malloc, calloc and realloc in a test program, to prove that code allocates
   nothing. Defines these functions: include it in one source file of a program. Sanitizers bring
   their own malloc: there HAK_COUNTS_MALLOC is 0. */
#ifndef HAKMEM_TESTING_COUNT_MALLOC_H
#define HAKMEM_TESTING_COUNT_MALLOC_H

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAK_COUNTS_MALLOC 0
#else
#define HAK_COUNTS_MALLOC 1
#endif

namespace hak_testing
{
inline uint64_t &malloc_calls()
{
    static uint64_t n;
    return n;
}
} // namespace hak_testing

#if HAK_COUNTS_MALLOC
extern "C" {
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

__attribute__((visibility("default"))) void *malloc(size_t size) noexcept
{
    hak_testing::malloc_calls()++;
    return __libc_malloc(size);
}
__attribute__((visibility("default"))) void *calloc(size_t n, size_t size) noexcept
{
    hak_testing::malloc_calls()++;
    return __libc_calloc(n, size);
}
__attribute__((visibility("default"))) void *realloc(void *p, size_t size) noexcept
{
    hak_testing::malloc_calls()++;
    return __libc_realloc(p, size);
}
}
#endif

#endif
