/* What is said of misuse that guarded blocks have shown. All of it is async-signal-safe. */
#ifndef HAKMEM_GUARD_REPORT_H
#define HAKMEM_GUARD_REPORT_H

#include "base/internal.h"

#include "base/attributes.h"
#include "guard/slots.h"
#include "hakmem/fault.h"

HAK_EXTERN_C_BEGIN

/* An address that may not be touched was: says by how far it missed its block, and where that was
   allocated and freed. `context`: the signal handler's, NULL for none. Returns 0, with nothing
   said, if the address lies beside no guarded block. */
int hak_guard_report_fault(const void *p, enum fault_access access, const void *context);
/* Ends the process with `reason`, and what is known of the block at p; the caller is the trace of
   what is wrong. */
HAK_COLD __attribute__((noreturn)) void hak_guard_blame(const char *reason, const void *p);

HAK_EXTERN_C_END

#endif
