/* The malloc family of C, POSIX and glibc over hak_*. Linked by `malloc = "//hakmem:malloc"` and into libhakmem.so. No
   state, no locks. Every allocation function of glibc 2.36 is here, so that no block is ever served by somebody else. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/os.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"

HAK_EXPORT void *malloc(size_t size)
{
    return fast_malloc(size);
}

HAK_EXPORT void free(void *p)
{
    fast_free(p);
}

HAK_EXPORT void cfree(void *p)
{
    fast_free(p);
}

HAK_EXPORT void free_sized(void *p, size_t size)
{
    (void)size;
    fast_free(p);
}

HAK_EXPORT void free_aligned_sized(void *p, size_t alignment, size_t size)
{
    (void)alignment;
    (void)size;
    fast_free(p);
}

HAK_EXPORT void *calloc(size_t n, size_t size)
{
    return hak_calloc(n, size);
}

HAK_EXPORT void *realloc(void *p, size_t size)
{
    return hak_realloc(p, size);
}

HAK_EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return hak_realloc(p, bytes);
}

HAK_EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return hak_aligned_alloc(alignment, size);
}

HAK_EXPORT void *memalign(size_t alignment, size_t size)
{
    return hak_memalign(alignment, size);
}

HAK_EXPORT int posix_memalign(void **out, size_t alignment, size_t size)
{
    return hak_posix_memalign(out, alignment, size);
}

HAK_EXPORT void *valloc(size_t size)
{
    return hak_aligned_alloc(os_page_size(), size);
}

HAK_EXPORT void *pvalloc(size_t size)
{
    size_t page = os_page_size();
    if (size > PTRDIFF_MAX - page) {
        errno = ENOMEM;
        return NULL;
    }
    size_t rounded = (size + page - 1) & ~(page - 1);
    return hak_aligned_alloc(page, rounded ? rounded : page);
}

HAK_EXPORT size_t malloc_usable_size(void *p)
{
    return hak_usable_size(p);
}

HAK_EXPORT int malloc_trim(size_t pad)
{
    (void)pad;
    return hak_purge() > 0;
}
