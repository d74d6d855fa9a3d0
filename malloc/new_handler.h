/* The one thing that C cannot do for operator new: to call a new-handler, or a program's operator,
   and catch what it throws. */
#ifndef HAKMEM_MALLOC_NEW_HANDLER_H
#define HAKMEM_MALLOC_NEW_HANDLER_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

typedef void (*new_handler)(void);
/* Calls the handler. Returns 0 if it threw. */
HAK_HIDDEN int hak_new_call_handler(new_handler handler);
/* Call an operator new that throws. NULL if it did. */
HAK_HIDDEN void *hak_new_call(void *(*throwing)(size_t size), size_t size);
HAK_HIDDEN void *hak_new_call_aligned(void *(*throwing)(size_t size, size_t alignment), size_t size,
                                      size_t alignment);

HAK_EXTERN_C_END

#endif
