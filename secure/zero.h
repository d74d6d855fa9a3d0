/* Zeroing, and looking whether all is zero: whole blocks, as fast as the processor can. No state
   but one flag, no locks. */
#ifndef HAKMEM_SECURE_ZERO_H
#define HAKMEM_SECURE_ZERO_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* What is shorter is looked at, and zeroed, where it is asked for. */
#define ZERO_SHORT ((size_t)128)

/* For who includes wide.h: 1 if any bit is set, for every processor and for those with AVX2, whose
   functions lie between the other two. */
#define WIDE_ANY_BY_WORDS(v) (((v)[0] | (v)[1] | (v)[2] | (v)[3]) != 0)
#if defined(__x86_64__)
#define WIDE_ANY_BY_AVX2(v)  (!__builtin_ia32_ptestz256((wide_quad)(v), (wide_quad)(v)))
typedef long long wide_quad __attribute__((vector_size(32)));
#define WIDE_BEGIN_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2\")")
#define WIDE_END_AVX2   _Pragma("GCC pop_options")
extern int hak_secure_has_avx2 HAK_HIDDEN; /* written once, at the start */
#else
#define hak_secure_has_avx2 0
#endif

/* Once, at the start: which instructions the processor has. */
void hak_secure_zero_start(void);
/* 1 if all is zero. `n`: whole words, ZERO_SHORT at least. `p` is aligned to words. */
int hak_secure_is_zero(const void *p, size_t n);
/* All becomes zero; of longer blocks, what is zero is not written. `n` and `p` as above. */
void hak_secure_zero(void *p, size_t n);

HAK_EXTERN_C_END

#endif
