/* The malloc family of C, POSIX and glibc over hak_*. Linked by `malloc = "//hakmem:malloc"` and into libhakmem.so. No
   state, no locks. Every allocation function of glibc 2.36 is here, so that no block is ever served by somebody else. */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/stats.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "superslab/superslab.h"

#ifndef __GLIBC__
/* What glibc's <malloc.h> has besides. */
struct mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
#endif

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

/* What the statistics tell, in glibc's terms. Blocks in thread caches count as used. */
static void fill_info(size_t *mapped, size_t *used, size_t *large, size_t *n_large_kept)
{
    *large = (size_t)stat_get(large_bytes);
    *n_large_kept = (size_t)stat_get(large_cached_bytes);
    *mapped = (size_t)stat_get(superslabs) * SS_BYTES;
    *used = (size_t)stat_get(heap_used_bytes);
}

HAK_EXPORT struct mallinfo2 mallinfo2(void)
{
    size_t mapped, used, large, kept;
    fill_info(&mapped, &used, &large, &kept);
    struct mallinfo2 info = {0};
    info.arena = mapped + kept;
    info.hblkhd = large;
    info.uordblks = used + large;
    info.fordblks = mapped - used + kept;
    info.keepcost = (size_t)stat_get(heap_dirty_bytes) + kept;
    return info;
}

HAK_EXPORT struct mallinfo mallinfo(void)
{
    struct mallinfo2 wide = mallinfo2();
    struct mallinfo info = {0};
    /* As in glibc, these are ints and wrap beyond 2 GiB. */
    info.arena = (int)wide.arena;
    info.hblkhd = (int)wide.hblkhd;
    info.uordblks = (int)wide.uordblks;
    info.fordblks = (int)wide.fordblks;
    info.keepcost = (int)wide.keepcost;
    return info;
}

HAK_EXPORT void malloc_stats(void)
{
    stat_print(2);
}

/* XML as glibc's, of one arena. Returns 0, or -1 and EINVAL for options other than 0. */
HAK_EXPORT int malloc_info(int options_, FILE *out)
{
    if (options_ != 0) {
        errno = EINVAL;
        return -1;
    }
    struct mallinfo2 info = mallinfo2();
    fprintf(
        out,
        "<malloc version=\"hakmem-%s\">\n<heap nr=\"0\">\n<system type=\"current\" size=\"%zu\"/>\n"
        "<total type=\"rest\" count=\"0\" size=\"%zu\"/>\n</heap>\n<total type=\"mmap\" count=\"0\" size=\"%zu\"/>\n"
        "<system type=\"current\" size=\"%zu\"/>\n</malloc>\n",
        hak_version(), info.arena, info.fordblks, info.hblkhd, info.arena + info.hblkhd);
    return 0;
}

/* glibc's tuning does not apply here: accepted as the hints that they are, and ignored. */
HAK_EXPORT int mallopt(int parameter, int value)
{
    (void)parameter;
    (void)value;
    return 1;
}
