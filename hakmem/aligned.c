/* Aligned allocation. No locks, no state. */
#include <errno.h>

#include "hakmem/entry.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/plain.h"
#include "hakmem/request.h"

void *hak_plain_aligned(size_t alignment, size_t size)
{
    uint32_t size_class = hak_request_class(size, alignment);
    if (size_class < SC_N_CLASSES) {
        return hak_request_small(size_class, alignment);
    }
    return hak_request_large(size, alignment, LARGE_PLAIN);
}

static int is_power_of_two(size_t n)
{
    return n && !(n & (n - 1));
}

/* `alignment` is a power of two. */
static void *aligned(size_t alignment, size_t size)
{
    if (alignment <= SC_MIN_ALIGN) {
        return hak_fast_malloc(size);
    }
    uint32_t size_class = hak_request_class(size, alignment);
    void *block = NULL;
    if (size_class < SC_N_CLASSES) {
        block = hak_tc_bin_take(hak_fast_bin_to_take_from(atomic_load_relaxed(&hak_self),
                                                          hak_sc_table[size_class].size));
    }
    return block ? block : hak_entry_now()->aligned(alignment, size);
}

void *hak_aligned_alloc(size_t alignment, size_t size)
{
    if (!is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return aligned(alignment, size);
}

void *hak_memalign(size_t alignment, size_t size)
{
    if (alignment > (size_t)PTRDIFF_MAX + 1) { /* which has no power of two above it */
        errno = EINVAL;
        return NULL;
    }
    while (!is_power_of_two(alignment)) {
        alignment = alignment ? (alignment | (alignment - 1)) + 1 : 1;
    }
    return aligned(alignment, size);
}

int hak_posix_memalign(void **out, size_t alignment, size_t size)
{
    if (!is_power_of_two(alignment) || alignment % sizeof(void *)) {
        return EINVAL;
    }
    int saved = errno;
    void *p = aligned(alignment, size);
    if (!p) {
        return ENOMEM; /* which errno is too, as with glibc: programs look there */
    }
    errno = saved;
    *out = p;
    return 0;
}
