/* The malloc family where the program has functions of its own under some of its names. No locks.
   Called by malloc.c and new_delete.c. */
#include "malloc/malloc_names.h"

#include "base/size_classes.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "hakmem/fallback.h"
#include "hakmem/hakmem.h"
#include "malloc/late_symbol.h"

extern int malloc_info(int hak_options, FILE *out);
int hak_own_malloc_info(int hak_options, FILE *out) HAK_HIDDEN;

/* Set while a function of the program's is called from here: if that is made of the one that called
   it, that one serves. */
static HAK_TLS int is_inside;

/* Set at start: `free` is a stub of the program's that ends here. (Or in another allocator that was
   preloaded in front; its functions are then not asked.) Until then calls go through the names,
   which is right too, but calloc clears what is zero. */
static int free_is_stub;

__attribute__((constructor)) static void look_at_free(void)
{
    free_is_stub =
        NAMES_FREE_DIFFERS && &hak_late_is_stub && hak_late_is_stub((const void *)(uintptr_t)free);
}

/* Whether the program's calls come here at all. Allocators do not define malloc_info: if it is
   bound elsewhere, the whole family is, and whoever calls has looked the function up in this
   library. */
static int serves_program(void)
{
    return !free_is_stub && !is_inside && malloc_info == hak_own_malloc_info;
}

static int is_ours(const void *p)
{
    return hak_owns(p) || hak_fallback_holds(p);
}

static void *program_malloc(size_t size)
{
    is_inside = 1;
    void *p = malloc(size);
    is_inside = 0;
    return p;
}

void *hak_names_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (!serves_program()) {
        return hak_calloc(n, size);
    }
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = program_malloc(bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

/* A block of the program's, whose size only the program can know. */
static void *move(void *p, size_t size)
{
    if (malloc_usable_size == hak_own_malloc_usable_size) {
        hak_fatal("invalid pointer given to realloc", p);
    }
    size_t before = malloc_usable_size(p);
    void *moved = program_malloc(size);
    if (moved) {
        memcpy(moved, p, size < before ? size : before);
        free(p);
    }
    return moved;
}

void *hak_names_realloc(void *p, size_t size)
{
    if (!serves_program() || (p && is_ours(p))) {
        return hak_realloc(p, size);
    }
    if (!p) {
        return program_malloc(size);
    }
    if (size == 0) {
        free(p);
        return NULL;
    }
    return move(p, size);
}

void *hak_names_reallocarray(void *p, size_t bytes)
{
    return serves_program() ? realloc(p, bytes) : hak_realloc(p, bytes);
}

static int has_aligned(void)
{
    return memalign != hak_own_memalign || aligned_alloc != hak_own_aligned_alloc ||
           posix_memalign != hak_own_posix_memalign;
}

static void *program_aligned(size_t alignment, size_t size)
{
    void *p = NULL;
    if (memalign != hak_own_memalign) {
        return memalign(alignment, size);
    }
    if (posix_memalign != hak_own_posix_memalign) {
        size_t least = alignment < sizeof p ? sizeof p : alignment;
        int error = posix_memalign(&p, least, size);
        errno = error ? error : errno;
        return error ? NULL : p;
    }
    /* Strict ones want a multiple. */
    size_t rounded = (size + alignment - 1) & ~(alignment - 1);
    return aligned_alloc(alignment, rounded < size ? size : rounded);
}

void *hak_names_aligned(size_t alignment, size_t size)
{
    if (!serves_program()) {
        return hak_aligned_alloc(alignment, size);
    }
    if (!has_aligned()) {
        /* A block of this library's, as it would be one of libc's: the program's malloc cannot make
           it. */
        return alignment <= SC_MIN_ALIGN ? program_malloc(size)
                                         : hak_aligned_alloc(alignment, size);
    }
    is_inside = 1;
    void *p = program_aligned(alignment, size);
    is_inside = 0;
    return p;
}

void hak_names_free(void *p)
{
    if (serves_program()) {
        free(p);
    } else {
        hak_free(p);
    }
}

void hak_names_free_aligned(void *p)
{
    if (!has_aligned() && is_ours(p)) {
        hak_free(p);
    } else {
        hak_names_free(p);
    }
}

size_t hak_names_usable_size(void *p)
{
    return !serves_program() || is_ours(p) ? hak_usable_size(p) : 0;
}
