/* The handler of SIGSEGV, while there are guarded blocks: it says what a fault in their area means,
   and hands every fault on to whoever handled the signal before. */
#ifndef HAKMEM_GUARD_FAULT_H
#define HAKMEM_GUARD_FAULT_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* Installs it, once. Returns 0 or an errno value. One thread at a time. */
HAK_MUST_CHECK int hak_guard_watch_faults(void);

HAK_EXTERN_C_END

#endif
