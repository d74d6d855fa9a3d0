/* Call frame information: where, at an address of a program's code, the caller's registers are. As
   the DWARF standard (version 5, section 6.4) and the Linux Standard Base (.eh_frame and
   .eh_frame_hdr) describe it. No locks, no memory of its own; reads the loaded object alone. */
#ifndef HAKMEM_STACK_CFI_H
#define HAKMEM_STACK_CFI_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* How the canonical frame address (CFA: the stack pointer before the call) is found. */
enum cfi_cfa {
    CFI_NONE,        /* there is no entry for the address */
    CFI_UNSUPPORTED, /* or none that this reader understands */
    CFI_OUTERMOST,   /* there is no caller */
    CFI_SIGNAL,      /* the frame that the kernel makes for a signal handler */
    CFI_FROM_SP,     /* sp + cfa_offset */
    CFI_FROM_FP,     /* fp + cfa_offset */
    CFI_AT_FP,       /* the word at fp + cfa_offset: a stack that the function has aligned */
};

/* How the caller's frame pointer is found. */
enum cfi_fp {
    CFI_FP_SAME,
    CFI_FP_AT_CFA, /* the word at CFA + fp_offset */
    CFI_FP_AT_FP,  /* the word at fp + fp_offset */
};

/* The return address is the word below the CFA. */
struct cfi_rule {
    uint8_t cfa, fp; /* enum cfi_cfa, enum cfi_fp */
    int32_t cfa_offset, fp_offset;
};

/* The rule at `pc`, in an object whose .eh_frame_hdr is `header`. */
struct cfi_rule hak_cfi_find(const void *header, uintptr_t pc);

HAK_EXTERN_C_END

#endif
