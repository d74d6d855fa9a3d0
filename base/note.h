/* Notes to memcheck and AddressSanitizer of what a program may use: only in the debug variant, and
   only if one of them listens. Neither needs anything at build time: requests to Valgrind are
   instructions, AddressSanitizer's functions are weak references. Any thread; no locks. */
#ifndef HAKMEM_BASE_NOTE_H
#define HAKMEM_BASE_NOTE_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#if HAK_DEBUG && !defined(HAKMEM_TINY)
#define HAK_NOTES 1
#else
#define HAK_NOTES 0
#endif

/* 1 if memcheck or AddressSanitizer listens. */
int hak_note_has_listener(void);
/* The block at p is handed out: of its `usable` bytes the program may use `size`, which are zero or
   undefined. */
void hak_note_allocated(const void *p, size_t size, size_t usable, int is_zeroed);
/* The program may not use the block any more. */
void hak_note_freed(const void *p, size_t usable);
/* The allocator may. */
void hak_note_reused(const void *p, size_t usable);
/* How many bytes from p on the program may use, at most `usable`. */
size_t hak_note_size(const void *p, size_t usable);

HAK_EXTERN_C_END

#endif
