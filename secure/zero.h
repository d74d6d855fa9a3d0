/* Zeroing, and looking whether all is zero: whole blocks, as fast as the processor can. No state
   but one flag, no locks. */
#ifndef HAKMEM_SECURE_ZERO_H
#define HAKMEM_SECURE_ZERO_H

#include "base/internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* What is shorter is looked at, and zeroed, where it is asked for. */
#define ZERO_SHORT ((size_t)128)

/* For who includes wide.h: vectors, whether any bit of one is set, for every processor and for
   those with AVX2 or AVX-512, and what functions for these lie between. */
typedef uint64_t wide_32 __attribute__((vector_size(32), aligned(1), may_alias));
#define WIDE_ANY_BY_WORDS(v) (((v)[0] | (v)[1] | (v)[2] | (v)[3]) != 0)
#if defined(__x86_64__)
typedef uint64_t wide_64 __attribute__((vector_size(64), aligned(1), may_alias));
typedef long long wide_q32 __attribute__((vector_size(32)));
typedef long long wide_q64 __attribute__((vector_size(64)));
#define WIDE_ANY_BY_AVX2(v) (!__builtin_ia32_ptestz256((wide_q32)(v), (wide_q32)(v)))
#if defined(__clang__) /* the fuzzing builds */
#define WIDE_ANY_BY_AVX512(v) (_mm512_test_epi64_mask((__m512i)(v), (__m512i)(v)) != 0)
#define WIDE_PRAGMA(...)      _Pragma(#__VA_ARGS__)
#define WIDE_BEGIN_AVX2                                                                            \
    WIDE_PRAGMA(clang attribute push(__attribute__((target("avx2"))), apply_to = function))
#define WIDE_BEGIN_AVX512                                                                          \
    WIDE_PRAGMA(clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,bmi2"))),    \
                                     apply_to = function))
#define WIDE_END _Pragma("clang attribute pop")
#else
#define WIDE_ANY_BY_AVX512(v) __builtin_ia32_ptestmq512((wide_q64)(v), (wide_q64)(v), 0xFF)
#define WIDE_BEGIN_AVX2       _Pragma("GCC push_options") _Pragma("GCC target(\"avx2\")")
#define WIDE_BEGIN_AVX512                                                                          \
    _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512bw,avx512vl,bmi2\")")
#define WIDE_END _Pragma("GCC pop_options")
#endif
enum wide_set { WIDE_FOR_ALL, WIDE_AVX2, WIDE_AVX512 };
extern enum wide_set hak_secure_wide_set HAK_HIDDEN; /* written once, at the start */
/* Of those that the processor has: in the layer's table too. At the start, and by tests. */
void hak_secure_use_set(enum wide_set set);
#endif

/* Once, at the start: which instructions the processor has. */
void hak_secure_zero_start(void);
/* 1 if all is zero. `n`: whole words, ZERO_SHORT at least. `p` is aligned to words. */
int hak_secure_is_zero(const void *p, size_t n);
/* All becomes zero; of longer blocks, what is zero is not written. `n` and `p` as above. */
void hak_secure_zero(void *p, size_t n);

HAK_EXTERN_C_END

#endif
