/* glibc's second names of the malloc family, for programs that are linked statically and use them.
   Without these, the linker would take the member of libc.a that has them, and malloc with it, a
   second time. An archive member of its own that nothing of ours names: it is linked only where the
   program asks for one of its symbols. In libhakmem.so they stay libc's, which fallback.h uses. */
#include <features.h>
#if defined(__GLIBC__)
#include <malloc.h>
#include <stdlib.h>

#include "base/attributes.h"
#include "hakmem/fallback.h"

const char hak_names_of_libc = 1;

#define NAME(name) HAK_EXPORT __typeof__(name) __libc_##name
NAME(malloc);
NAME(calloc);
NAME(realloc);
NAME(free);
NAME(memalign);
NAME(valloc);
NAME(pvalloc);
NAME(reallocarray);
NAME(mallinfo2);
NAME(mallopt);

void *__libc_malloc(size_t size)
{
    return malloc(size);
}

void *__libc_calloc(size_t n, size_t size)
{
    return calloc(n, size);
}

void *__libc_realloc(void *p, size_t size)
{
    return realloc(p, size);
}

void __libc_free(void *p)
{
    free(p);
}

void *__libc_memalign(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

void *__libc_valloc(size_t size)
{
    return valloc(size);
}

void *__libc_pvalloc(size_t size)
{
    return pvalloc(size);
}

void *__libc_reallocarray(void *p, size_t n, size_t size)
{
    return reallocarray(p, n, size);
}

struct mallinfo2 __libc_mallinfo2(void)
{
    return mallinfo2();
}

int __libc_mallopt(int parameter, int value)
{
    return mallopt(parameter, value);
}
#endif
