/* What only the loader knows. */
#ifndef HAKMEM_MALLOC_LATE_SYMBOL_H
#define HAKMEM_MALLOC_LATE_SYMBOL_H

#include "base/internal.h"

#include "base/attributes.h"

/* A function of libstdc++.so.6 by its name; NULL if that is not loaded. It stays loaded from then
   on. May allocate: called when an operator new has failed, with no lock held. Part of libhakmem.so
   alone: elsewhere the address is NULL (for which it must not be declared hidden, see fallback.h).
   */
extern void *hak_late_symbol(const char *name) __attribute__((weak));
/* Whether the address is a stub in the program that only stands for a function of a library: what
   `&malloc` is everywhere once a program that is not position-independent takes it. Allocates
   nothing; takes the loader's lock. Part of libhakmem.so alone. */
extern int hak_late_is_stub(const void *function) __attribute__((weak));

#endif
