/* The roots of a mark (mark.h): which memory of the process is the program's own. */
#ifndef HAKMEM_PROFILE_ROOTS_H
#define HAKMEM_PROFILE_ROOTS_H

#include "base/internal.h"

#include "profile/mark.h"

HAK_EXTERN_C_BEGIN

/* Mappings and areas that are kept: the system allows 65,530 mappings by default. */
#define ROOTS_MOST 131072u

/* Reads /proc/self/maps: fills mark->roots, mark->holes (what cannot be read, and what is not
   mapped) and mark->apart. 0 or an errno value. */
int hak_roots_find(struct mark *mark, const void *stack_end);
/* Calls visit with copies of the memory of all roots, piece by piece. 0 or an errno value. */
int hak_roots_each(struct mark *mark, void (*visit)(void *mark, const void *words, size_t bytes));
/* Before the fork: what other threads that wait in the system have given to it, as a buffer to read
   into, whose address may be nowhere else. Returns how many words, at most `room`. *state: equal
   after another call if all have waited in between; ROOTS_RUN if one runs, or may. */
#define ROOTS_RUN 0u
size_t hak_roots_of_threads(uintptr_t *words, size_t room, uint64_t *state);
/* Copies memory; 0 if not all of it can be read. */
int hak_roots_read(uintptr_t at, void *to, size_t size);

HAK_EXTERN_C_END

#endif
