/* The call stack of the calling thread, and a table that keeps each distinct one once.

   Capturing takes no lock, allocates nothing after the first call of a thread, and makes no system
   call: what dlopen, fork or the end of a thread may hold is never waited for (docs/profile.md).
   A frame's rule (where the caller's registers are) is computed from the object's .eh_frame by
   cfi.c, found through glibc's lock-free _dl_find_object, and kept in a cache; code that has no
   such entry, as what a JIT has made, is followed by its frame pointer. Where the platform has
   neither (not x86-64, or a C library without _dl_find_object), frame pointers are followed where
   the ABI wants them (aarch64), else glibc's backtrace() is asked, after a call at the start.

   No word is read outside of the thread's stack, as it was when the thread was first seen. A thread
   that runs on another stack (a coroutine, a signal's) is followed as far as the page in which its
   stack pointer lies.

   Bounds: STACK_MOST addresses a stack, STACK_TABLE_BYTES of memory for all of them. */
#ifndef HAKMEM_STACK_STACK_H
#define HAKMEM_STACK_STACK_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* Outer frames beyond these are dropped. */
#define STACK_MOST        128u
#define STACK_TABLE_BYTES HAK_TINY_OR((size_t)64 * 1024, (size_t)64 * 1024 * 1024)

/* A stack of the table. Made once, never freed or changed. */
struct stack {
    struct stack *next; /* in its bucket */
    uint32_t hash, n;
    const void *addresses[]; /* return addresses, the innermost first */
};

/* Once before the first capture, any number of times, by any thread; not in a signal handler, no
   lock held. May allocate, and load a library. */
void hak_stack_start(void);

/* Writes the return addresses of the calling thread's stack, the innermost first, and returns how
   many, at most `most`. The frames of hakmem's own library are left out, and, if `caller` is among
   the innermost ones, all within it: where hakmem is a part of the program, nothing else tells its
   frames (`caller`: __builtin_return_address(0) of the function that the program called; or NULL).
   A thread's first call may allocate; a call within it returns 0. */
size_t hak_stack_capture(const void **addresses, size_t most, const void *caller);
/* The same from the registers of a signal handler's third argument; the first address is that of
   the interrupted instruction. For signal handlers: allocates nothing. */
size_t hak_stack_capture_from(const void *ucontext, const void **addresses, size_t most);

/* The table's stack of these addresses, made at need. No lock, any thread, a signal handler
   included; may map memory. When the table is full, or the system refuses memory:
   hak_stack_unknown. */
const struct stack *hak_stack_keep(const void *const *addresses, size_t n);
/* Has no addresses. */
extern const struct stack hak_stack_unknown HAK_HIDDEN;
/* Calls visit for each stack that the table has throughout. */
void hak_stack_each(void (*visit)(const struct stack *stack, void *context), void *context);
/* Stacks that are kept, and bytes of memory for them. */
size_t hak_stack_count(void);
size_t hak_stack_bytes(void);

HAK_EXTERN_C_END

#endif
