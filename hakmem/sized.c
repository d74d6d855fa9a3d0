/* Frees that name the size, allocation that tells it, and realloc that zeroes what it adds. No state, no locks. */
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"

/* From this size on, zeroing looks before it writes: pages that nobody has touched stay so. */
#define LOOK_FIRST 65536u
#define LOOK_PIECE 4096u

void hak_free_sized(void *p, size_t size)
{
    validate_size(p, size);
    fast_free(p);
}

void hak_free_aligned_sized(void *p, size_t alignment, size_t size)
{
    validate_size(p, size);
    validate_alignment(p, alignment);
    fast_free(p);
}

struct hak_sized_block hak_malloc_at_least(size_t size)
{
    void *p = fast_malloc(size);
    return (struct hak_sized_block){p, hak_usable_size(p)};
}

static int is_zero(const char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static void zero(char *p, size_t n)
{
    if (n < LOOK_FIRST || noted_wanted()) {
        memset(p, 0, n);
        return;
    }
    while (n) {
        size_t piece = LOOK_PIECE - (uintptr_t)p % LOOK_PIECE;
        piece = piece < n ? piece : n;
        if (!is_zero(p, piece)) {
            memset(p, 0, piece);
        }
        p += piece;
        n -= piece;
    }
}

void *hak_rezalloc(void *p, size_t size)
{
    if (!p) {
        return hak_calloc(1, size);
    }
    size_t before = hak_usable_size(p);
    char *q = (char *)hak_realloc(p, size);
    if (q) {
        /* All that lies behind the block's end is zero too, so that the next call needs not know where the end was. */
        size_t kept = size < before ? size : before;
        zero(q + kept, hak_usable_size(q) - kept);
    }
    return q;
}
