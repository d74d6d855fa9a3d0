/* What a fault at a large block means: said when HAKMEM_SECURE_STACKS is on (no handler is
   installed otherwise): how far beyond its block, or that it is freed, and the stacks. */
#ifndef HAKMEM_SECURE_FAULT_H
#define HAKMEM_SECURE_FAULT_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* Returns 0 or an errno value. One thread at a time. */
HAK_MUST_CHECK int hak_secure_fault_start(void);

HAK_EXTERN_C_END

#endif
