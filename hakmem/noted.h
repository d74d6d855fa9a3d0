/* The debug variant under memcheck or AddressSanitizer: every block has NOTED_RED_ZONE bytes more than was asked for, which the
   program may not touch, and what is freed waits in a queue, untouchable, until NOTED_QUEUE others have been freed. First-class
   heaps' blocks do not wait, since their heap may be destroyed meanwhile. In other variants, and without a listener, nothing of it
   happens. Internal to //hakmem. */
#ifndef HAKMEM_HAKMEM_NOTED_H
#define HAKMEM_HAKMEM_NOTED_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/note.h"

HAK_EXTERN_C_BEGIN

#define NOTED_QUEUE    1024u
#define NOTED_RED_ZONE ((size_t)16)

#if HAK_NOTES
enum noted_state { NOTED_OFF, NOTED_ON, NOTED_UNKNOWN };
extern uint32_t noted_state HAK_HIDDEN;
/* In a noted call: what it calls is the real thing. */
extern HAK_TLS int noted_busy HAK_HIDDEN;
int noted_start(void);

static inline int noted_wanted(void)
{
    return HAK_UNLIKELY(atomic_load_relaxed(&noted_state) != NOTED_OFF) && !noted_busy && noted_start();
}
#else
static inline int noted_wanted(void)
{
    return 0;
}
#endif

struct hak_heap;

/* The public functions. */
HAK_COLD void *noted_malloc(size_t size);
HAK_COLD void *noted_calloc(size_t bytes);
HAK_COLD void *noted_aligned(size_t alignment, size_t size);
HAK_COLD void *noted_realloc(void *p, size_t size);
HAK_COLD void noted_free(void *p);
HAK_COLD size_t noted_usable_size(const void *p);
/* `heap` NULL: in none. */
HAK_COLD void *noted_heap_realloc(struct hak_heap *heap, void *p, size_t size);

/* A block of `size` bytes and a red zone is handed out. */
HAK_COLD void noted_announce(const void *p, size_t size, int is_zeroed);
/* All blocks of the heap are about to go. */
HAK_COLD void noted_heap_gone(struct hak_heap *heap);
/* Of a walk's block of `usable` bytes: what the program may use; 0 if it has freed it. */
HAK_COLD size_t noted_walked(const void *p, size_t usable);

HAK_EXTERN_C_END

#endif
