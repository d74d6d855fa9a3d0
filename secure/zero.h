/* Zeroing, and looking whether all is zero: whole blocks, as fast as the processor can. No state
   but one flag, no locks. */
#ifndef HAKMEM_SECURE_ZERO_H
#define HAKMEM_SECURE_ZERO_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* What is shorter is looked at, and zeroed, where it is asked for. */
#define ZERO_SHORT ((size_t)128)

/* Once, at the start: which instructions the processor has. */
void hak_secure_zero_start(void);
/* 1 if all is zero. `n`: whole words, ZERO_SHORT at least. `p` is aligned to words. */
int hak_secure_is_zero(const void *p, size_t n);
/* All becomes zero; of longer blocks, what is zero is not written. `n` and `p` as above. */
void hak_secure_zero(void *p, size_t n);

HAK_EXTERN_C_END

#endif
