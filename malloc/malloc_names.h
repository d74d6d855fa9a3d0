/* Whose the names of the malloc family are. A program may define some of them itself: its own
   allocator, or wrappers around this one. Then what it did not define must end in its own
   functions, as with glibc and libstdc++: `operator delete` calls whatever `free` is bound to,
   `reallocarray` whatever `realloc` is.

   Preloaded, this library's names give way to the program's by the order of loading; linked in,
   because they are weak. Each name has a hidden second name here, hak_own_*. A form compares the
   two, or jumps through the name at once: no state, no start, no locks. Two addresses may differ
   although no program replaced the function (the program's own stub stands for it, in a program
   that is not position-independent and takes its address), so whoever finds them different calls
   through the name, which is right either way. */
#ifndef HAKMEM_MALLOC_MALLOC_NAMES_H
#define HAKMEM_MALLOC_MALLOC_NAMES_H

#include "base/internal.h"

#include <malloc.h>
#include <stdlib.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* A name that the program may define too: then the program's wins. */
#define HAK_REPLACEABLE HAK_EXPORT __attribute__((weak))

void *hak_own_malloc(size_t size) HAK_HIDDEN;
void hak_own_free(void *p) HAK_HIDDEN;
size_t hak_own_malloc_usable_size(void *p) HAK_HIDDEN;
void *hak_own_aligned_alloc(size_t alignment, size_t size) HAK_HIDDEN;
void *hak_own_memalign(size_t alignment, size_t size) HAK_HIDDEN;
int hak_own_posix_memalign(void **out, size_t alignment, size_t size) HAK_HIDDEN;

/* Gives a function that is defined here its second name. */
#if __has_attribute(copy)
#define OWN_NAME(name)                                                                             \
    extern __typeof__(name) hak_own_##name                                                         \
        __attribute__((alias(#name), visibility("hidden"), copy(name)))
#else
#define OWN_NAME(name)                                                                             \
    extern __typeof__(name) hak_own_##name __attribute__((alias(#name), visibility("hidden")))
#endif

/* malloc, or free, may be another's: the program's, or a library's. Whose free it is decides whose
   the blocks are. Macros: an inline function here would use the names before malloc.c says that
   they are weak. */
#define NAMES_MALLOC_DIFFERS HAK_UNLIKELY(malloc != hak_own_malloc)
#define NAMES_FREE_DIFFERS   HAK_UNLIKELY(free != hak_own_free)

/* What the functions of malloc.c do once NAMES_FREE_DIFFERS. Each serves the call itself where that
   is right: the process runs on another malloc and this library was opened by dlopen, or the
   program's function came here again. */
HAK_COLD void *hak_names_calloc(size_t n, size_t size);
HAK_COLD void *hak_names_realloc(void *p, size_t size);
HAK_COLD void *hak_names_reallocarray(void *p, size_t bytes);
/* `alignment` is a power of two. */
HAK_COLD void *hak_names_aligned(size_t alignment, size_t size);
HAK_COLD void hak_names_free(void *p);
/* Frees what an aligned form has allocated: this library, if the program has no such form. */
HAK_COLD void hak_names_free_aligned(void *p);
HAK_COLD size_t hak_names_usable_size(void *p);

HAK_EXTERN_C_END

#endif
