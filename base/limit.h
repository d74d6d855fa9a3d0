/* The memory limit of the process's heap: committed bytes, that is what superslabs and ranges hold, used or kept for reuse, and
   the metadata. Above the soft limit everything that is kept for reuse goes back, then the request goes on; what would pass
   the hard limit is refused, but for a chunk of metadata (1 MiB).

   State: relaxed atomics; any thread. Two threads at once may pass a limit by what both are just taking. */
#ifndef HAKMEM_BASE_LIMIT_H
#define HAKMEM_BASE_LIMIT_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* The value `auto` of HAKMEM_LIMIT_SOFT and HAKMEM_LIMIT_HARD: from the cgroup's memory limit. */
#define LIMIT_AUTO UINT64_MAX

/* Sets both limits in bytes; 0 for none, LIMIT_AUTO for what the cgroup (version 1 or 2, and those above it) allows: seven
   eighths of it as soft limit, all of it as hard limit. Until limit_read_cgroup, LIMIT_AUTO is none. */
void limit_set(uint64_t soft, uint64_t hard);
/* Reads what the cgroup allows now. Opens files, and so is called by no malloc or free: only while the
   process starts, before main, and by hak_limit_set. One thread at a time. Keeps errno. */
void limit_read_cgroup(void);
/* 1 if that was done. */
int limit_has_read_cgroup(void);
/* The limits in force; 0 for none. */
uint64_t limit_soft(void);
uint64_t limit_hard(void);
/* Bytes committed now. */
uint64_t limit_committed(void);
/* Whether `more` bytes may be committed. If not, the failed step is reported for a request of `size` bytes that was rounded to
   `class_bytes`. */
int limit_admit(size_t more, size_t size, size_t class_bytes);
/* 1 once after the soft limit was passed: the caller gives everything back that is kept, and then calls limit_purged, so that
   the next purge comes only after a further sixteenth of the limit. */
int limit_wants_purge(void);
void limit_purged(void);

HAK_EXTERN_C_END

#endif
