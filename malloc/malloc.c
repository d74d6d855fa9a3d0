/* The malloc family of C, POSIX and glibc over hak_*. Linked by `malloc = "//hakmem:malloc"` and
   into libhakmem.so. No state, no locks. Every allocation function of glibc 2.36 is here, so that
   no block is ever served by another allocator; where the program has some of them itself, the
   others follow its own (malloc_names.h). */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/stats.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/walk.h"
#include "heap/background.h"
#include "malloc/malloc_names.h"
#include "superslab/superslab.h"

#ifndef __GLIBC__
/* What glibc's <malloc.h> has besides. */
#define M_MXFAST 1
struct mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
#endif

HAK_REPLACEABLE void *malloc(size_t size)
{
    return hak_fast_malloc(size);
}
OWN_NAME(malloc);

HAK_REPLACEABLE void free(void *p)
{
    if (HAK_DEBUG && !p) {
        /* Not by hak_fast_slow_free, which is no tail call here and would not see who called. */
        hak_background_see_free_null(__builtin_return_address(0));
    }
    hak_fast_free(p);
}
OWN_NAME(free);

HAK_REPLACEABLE void cfree(void *p)
{
    if (NAMES_FREE_DIFFERS) {
        hak_names_free(p);
        return;
    }
    hak_fast_free(p);
}

HAK_REPLACEABLE void free_sized(void *p, size_t size)
{
    if (NAMES_FREE_DIFFERS) {
        hak_names_free(p);
        return;
    }
    hak_validate_size(p, size);
    hak_fast_claim(p, ENTRY_MALLOC, ENTRY_MALLOC, size, 0);
    hak_fast_free(p);
}

HAK_REPLACEABLE void free_aligned_sized(void *p, size_t alignment, size_t size)
{
    if (NAMES_FREE_DIFFERS) {
        hak_names_free_aligned(p);
        return;
    }
    hak_validate_size(p, size);
    hak_fast_claim(p, ENTRY_MALLOC, ENTRY_MALLOC, size, alignment);
    hak_fast_check_alignment(p, alignment);
    hak_fast_free(p);
}

HAK_REPLACEABLE void *calloc(size_t n, size_t size)
{
    if (HAK_UNLIKELY(size == BACKGROUND_TLS_ENTRY)) {
        hak_background_see_calloc(__builtin_return_address(0));
    }
    return NAMES_FREE_DIFFERS ? hak_names_calloc(n, size) : hak_calloc(n, size);
}

HAK_REPLACEABLE void *realloc(void *p, size_t size)
{
    return NAMES_FREE_DIFFERS ? hak_names_realloc(p, size) : hak_realloc(p, size);
}

HAK_REPLACEABLE void *reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return NAMES_FREE_DIFFERS ? hak_names_reallocarray(p, bytes) : hak_realloc(p, bytes);
}

static int is_power_of_two(size_t n)
{
    return n && !(n & (n - 1));
}

HAK_REPLACEABLE void *aligned_alloc(size_t alignment, size_t size)
{
    return NAMES_FREE_DIFFERS && is_power_of_two(alignment) ? hak_names_aligned(alignment, size)
                                                            : hak_aligned_alloc(alignment, size);
}
OWN_NAME(aligned_alloc);

/* Goes on with the next power of two. */
HAK_REPLACEABLE void *memalign(size_t alignment, size_t size)
{
    if (!NAMES_FREE_DIFFERS || alignment > (size_t)PTRDIFF_MAX + 1) {
        return hak_memalign(alignment, size);
    }
    size_t rounded = 1;
    while (rounded < alignment) {
        rounded *= 2;
    }
    return hak_names_aligned(rounded, size);
}
OWN_NAME(memalign);

HAK_REPLACEABLE int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (!NAMES_FREE_DIFFERS || !is_power_of_two(alignment) || alignment % sizeof(void *)) {
        return hak_posix_memalign(out, alignment, size);
    }
    int saved = errno;
    void *p = hak_names_aligned(alignment, size);
    if (!p) {
        return ENOMEM;
    }
    errno = saved;
    *out = p;
    return 0;
}
OWN_NAME(posix_memalign);

static void *page_aligned(size_t size)
{
    size_t page = hak_os_page_size();
    return NAMES_FREE_DIFFERS ? hak_names_aligned(page, size) : hak_aligned_alloc(page, size);
}

HAK_REPLACEABLE void *valloc(size_t size)
{
    return page_aligned(size);
}

HAK_REPLACEABLE void *pvalloc(size_t size)
{
    size_t page = hak_os_page_size();
    if (size > PTRDIFF_MAX - page) {
        errno = ENOMEM;
        return NULL;
    }
    size_t rounded = (size + page - 1) & ~(page - 1);
    return page_aligned(rounded ? rounded : page);
}

HAK_REPLACEABLE size_t malloc_usable_size(void *p)
{
    return NAMES_FREE_DIFFERS ? hak_names_usable_size(p) : hak_usable_size(p);
}
OWN_NAME(malloc_usable_size);

HAK_REPLACEABLE int malloc_trim(size_t pad)
{
    (void)pad;
    return hak_purge() > 0;
}

/* glibc's terms. The arena: superslabs, and freed ranges that are kept. Always arena = uordblks +
   fordblks; blocks in other threads' caches count as used. As in glibc, ranges in use are told
   apart. */
HAK_REPLACEABLE struct mallinfo2 mallinfo2(void)
{
    struct walk_counts counts;
    struct mallinfo2 info = {0};
    hak_walk_count(&counts);
    size_t kept = (size_t)hak_stat_get(large_cached_bytes);
    info.arena = (size_t)hak_stat_get(superslabs) * SS_BYTES + kept;
    info.uordblks = counts.span_bytes;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        info.uordblks += counts.n_used[c] * hak_sc_table[c].size;
        info.ordblks += counts.n_free[c];
    }
    info.smblks = counts.n_own_cached;
    info.fsmblks = counts.own_cached_bytes;
    info.hblks = counts.n_ranges;
    info.hblkhd = counts.range_bytes;
    /* Other threads may have changed either since. */
    info.arena = info.arena > info.uordblks ? info.arena : info.uordblks;
    info.fordblks = info.arena - info.uordblks;
    info.keepcost = (size_t)hak_stat_get(heap_dirty_bytes) + kept;
    return info;
}

HAK_REPLACEABLE struct mallinfo mallinfo(void)
{
    struct mallinfo2 wide = mallinfo2();
    struct mallinfo info = {0};
    /* As in glibc, these are ints and wrap beyond 2 GiB. */
    info.arena = (int)wide.arena;
    info.ordblks = (int)wide.ordblks;
    info.smblks = (int)wide.smblks;
    info.hblks = (int)wide.hblks;
    info.hblkhd = (int)wide.hblkhd;
    info.fsmblks = (int)wide.fsmblks;
    info.uordblks = (int)wide.uordblks;
    info.fordblks = (int)wide.fordblks;
    info.keepcost = (int)wide.keepcost;
    return info;
}

HAK_REPLACEABLE void malloc_stats(void)
{
    hak_stat_print(2);
}

/* The free blocks of each size class, as glibc lists its free chunks. */
static void print_classes(FILE *out, const struct walk_counts *counts)
{
    fputs("<sizes>\n", out);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        if (counts->n_free[c]) {
            uint32_t size = hak_sc_table[c].size, from = c ? hak_sc_table[c - 1].size + 1 : 0;
            fprintf(out, "<size from=\"%u\" to=\"%u\" total=\"%zu\" count=\"%zu\"/>\n", from, size,
                    counts->n_free[c] * size, counts->n_free[c]);
        }
    }
    fputs("</sizes>\n", out);
}

static void print_totals(FILE *out, const struct mallinfo2 *info)
{
    fprintf(out,
            "<total type=\"fast\" count=\"%zu\" size=\"%zu\"/>\n<total type=\"rest\" count=\"%zu\" "
            "size=\"%zu\"/>\n",
            info->smblks, info->fsmblks, info->ordblks - info->smblks,
            info->fordblks - info->fsmblks);
}

static void print_system(FILE *out, size_t bytes)
{
    fprintf(out,
            "<system type=\"current\" size=\"%zu\"/>\n<system type=\"max\" size=\"%zu\"/>\n"
            "<aspace type=\"total\" size=\"%zu\"/>\n<aspace type=\"mprotect\" size=\"%zu\"/>\n",
            bytes, bytes, bytes, bytes);
}

/* XML of glibc's form, version 1, of one heap; the maximum is not recorded, so that it is the
   present. Returns 0, or EINVAL for options other than 0, as glibc does. It writes to the program's
   stream, with no lock of ours held: as every output to a stream it may be a point of cancellation,
   the only one of these functions. */
HAK_REPLACEABLE int malloc_info(int options_, FILE *out)
{
    if (options_ != 0) {
        return EINVAL;
    }
    struct walk_counts counts;
    struct mallinfo2 info = mallinfo2();
    hak_walk_count(&counts);
    fputs("<malloc version=\"1\">\n<heap nr=\"0\">\n", out);
    print_classes(out, &counts);
    print_totals(out, &info);
    print_system(out, info.arena);
    fputs("</heap>\n", out);
    print_totals(out, &info);
    fprintf(out, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", info.hblks, info.hblkhd);
    print_system(out, info.arena);
    fputs("</malloc>\n", out);
    return 0;
}

OWN_NAME(malloc_info);

/* glibc's tuning does not apply here: it is accepted, and ignored. Refused is what glibc refuses:
   fast chunks above 80 words / 4. */
HAK_REPLACEABLE int mallopt(int parameter, int value)
{
    return parameter != M_MXFAST || (size_t)value <= 80 * sizeof(size_t) / 4;
}
