/* Whether to ask for huge pages. They make the first touch of memory several times cheaper where
   the system has some at hand, and more expensive where it has to find or compact them: so each
   marked region is touched once and that fault is timed. Once they have cost 10 ms more than the
   small pages that they stand for, a number of regions go without; then one is tried again. A
   region that goes without asks for small pages: where the system gives huge ones to whoever does
   not ask (transparent_hugepage/enabled is "always"), a small program would have 2 MiB resident for
   each. */
#ifndef HAKMEM_SUPERSLAB_HUGE_H
#define HAKMEM_SUPERSLAB_HUGE_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define HUGE_BYTES ((size_t)2 * 1024 * 1024)

/* Whether the next fresh region should be marked: `bytes_in_use` is at least HAKMEM_HUGE_PAGE_BYTES
   and huge pages have paid lately. Any thread; counts the regions that go without. */
int hak_huge_is_wanted(uint64_t bytes_in_use);
/* Marks a fresh, untouched region that has at least one aligned 2 MiB in it. Any thread. */
void hak_huge_mark(char *base, size_t size);

HAK_EXTERN_C_END

#endif
