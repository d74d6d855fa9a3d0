/* What is looked at when a process exits: the free blocks that the exiting thread holds. */
#ifndef HAKMEM_HEAP_EXIT_H
#define HAKMEM_HEAP_EXIT_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* Ends the process if one of the blocks in the calling thread's bins and spares, or that came back
   to it from other threads, was freed twice, or its link was written to. What is wrong there comes
   up when the list is used next; here it comes up where no call follows. No lock held; does nothing
   for a thread that is inside the gate, as a signal handler may find it. */
void hak_exit_look(void);

HAK_EXTERN_C_END

#endif
