/* The first include of every header that is not for consumers. hakmem's own macros
   (tools/variants.bzl) define HAKMEM_INTERNAL for what they compile, and only there; Bazel alone
   cannot refuse a header that a target sees through its dependencies. */
#ifndef HAKMEM_BASE_INTERNAL_H
#define HAKMEM_BASE_INTERNAL_H

#ifndef HAKMEM_INTERNAL
#error "this header is internal to hakmem; include hakmem/hakmem.h"
#endif

#endif
