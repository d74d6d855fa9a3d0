/* The one thing that C cannot do for operator new: to call a new-handler, or a program's operator,
   and catch what it throws. */
#ifndef HAKMEM_HAKMEM_NEW_HANDLER_H
#define HAKMEM_HAKMEM_NEW_HANDLER_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

typedef void (*new_handler)(void);
/* Calls the handler. Returns 0 if it threw. */
HAK_HIDDEN int call_new_handler(new_handler handler);
/* Call an operator new that throws. NULL if it did. */
HAK_HIDDEN void *call_new(void *(*throwing)(size_t size), size_t size);
HAK_HIDDEN void *call_aligned_new(void *(*throwing)(size_t size, size_t alignment), size_t size, size_t alignment);

HAK_EXTERN_C_END

#endif
