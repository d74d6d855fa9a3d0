/* The last words of the secure variant: one line that names the reason, the address and what is
   known of its block. Called with any lock held; none returns. */
#ifndef HAKMEM_SECURE_BLAME_H
#define HAKMEM_SECURE_BLAME_H

#include "base/internal.h"

#include "hakmem/entry.h"

HAK_EXTERN_C_BEGIN

HAK_COLD __attribute__((noreturn)) void hak_secure_overflowed(const void *p);
HAK_COLD __attribute__((noreturn)) void hak_secure_underflowed(const void *p);
/* A freed block, before it is handed out again. */
HAK_COLD __attribute__((noreturn)) void hak_secure_written_after_free(const void *p);
/* Another reason. */
HAK_COLD __attribute__((noreturn)) void hak_secure_blame(const char *reason, const void *p);

HAK_EXTERN_C_END

#endif
