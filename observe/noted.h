/* The debug variant under memcheck or AddressSanitizer: every block has NOTED_RED_ZONE bytes more
   than was asked for, which the program may not touch, and what is freed waits in a queue,
   untouchable, until NOTED_QUEUE others have been freed. First-class heaps' blocks do not wait,
   since their heap may be destroyed before that. A layer (entry.h), added at the start if one of
   them listens. In other variants there is nothing of it. */
#ifndef HAKMEM_OBSERVE_NOTED_H
#define HAKMEM_OBSERVE_NOTED_H

#include "base/internal.h"

#include "base/note.h"
#include "hakmem/entry.h"

HAK_EXTERN_C_BEGIN

#define NOTED_QUEUE    1024u
#define NOTED_RED_ZONE ((size_t)16)

#if HAK_NOTES
extern struct entry_layer hak_noted_layer HAK_HIDDEN;
#endif

HAK_EXTERN_C_END

#endif
