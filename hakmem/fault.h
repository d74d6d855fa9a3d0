/* The handler of SIGSEGV, once a part wants one: parts say what a fault in memory of theirs means,
   and every fault is handed on to whoever handled the signal before. */
#ifndef HAKMEM_HAKMEM_FAULT_H
#define HAKMEM_HAKMEM_FAULT_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

enum fault_access { FAULT_TOUCHED, FAULT_READ, FAULT_WRITTEN };

/* Says what is known of a fault at that address; 0, with nothing said, if that is nothing. In the
   handler, with its context. */
typedef int (*fault_report)(const void *p, enum fault_access access, const void *context);

/* It is asked from now on, after those before; FAULT_REPORTS different ones at most. The first call
   installs the handler. Returns 0 or an errno value. One thread at a time. */
#define FAULT_REPORTS 2
HAK_MUST_CHECK int hak_fault_watch(fault_report report);

HAK_EXTERN_C_END

#endif
