/* Allocation hooks: what hak_hooks_set of hakmem.h sets. A layer over the others (entry.h). */
#ifndef HAKMEM_OBSERVE_HOOKS_H
#define HAKMEM_OBSERVE_HOOKS_H

#include "base/internal.h"

#include "hakmem/entry.h"

HAK_EXTERN_C_BEGIN

/* In force while hooks are set. */
extern struct entry_layer hak_hooks_layer HAK_HIDDEN;

HAK_EXTERN_C_END

#endif
