/* What libstdc++ has, if it was loaded after us. */
#ifndef HAKMEM_HAKMEM_LATE_SYMBOL_H
#define HAKMEM_HAKMEM_LATE_SYMBOL_H

#include "base/internal.h"

#include "base/attributes.h"

/* A function of libstdc++.so.6 by its name; NULL if that is not loaded. It stays loaded from then on. May allocate: called when an
   operator new has failed, with no lock held. Part of libhakmem.so alone: elsewhere the address is NULL (for which it must not be
   declared hidden, see fallback.h). */
extern void *late_symbol(const char *name) __attribute__((weak));

#endif
