/* The pool's policy for the thread cache: which classes are mid-MT's, and how long their lists
   may be. */
#ifndef HAKMEM_MID_MT_MID_CLASS_H
#define HAKMEM_MID_MT_MID_CLASS_H

#include "base/internal.h"

#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

/* 1 if the class belongs to the mid-MT pool. */
static inline int mid_is_class(uint32_t size_class)
{
    return sc_table[size_class].size > SC_TINY_MAX;
}

/* How many blocks of a mid class a thread's list may hold if it may hold `bytes`: at least 1. */
uint32_t mid_list_limit(uint32_t size_class, size_t bytes);

HAK_EXTERN_C_END

#endif
