/* The memory limit of the process's heap. It counts committed bytes: what its users hold, in use or
   kept for reuse, and the metadata. Who maps memory or lets pages become resident says so here;
   nothing of this part knows what they are for. Above the soft limit everything that is kept for
   reuse is trimmed, then the request goes on; what would pass the hard limit is refused, except for
   a chunk of metadata (1 MiB).

   State: relaxed atomics; any thread. Two threads at once may pass a limit by what both are just
   taking. */
#ifndef HAKMEM_LIMIT_LIMIT_H
#define HAKMEM_LIMIT_LIMIT_H

#include "base/internal.h"

#include "base/attributes.h"
#include "base/stats.h"

HAK_EXTERN_C_BEGIN

/* The value `auto` of HAKMEM_LIMIT_SOFT and HAKMEM_LIMIT_HARD: from the cgroup's memory limit. */
#define LIMIT_AUTO UINT64_MAX

/* Sets both limits in bytes; 0 for none, LIMIT_AUTO for what the cgroup (version 1 or 2, and those
   above it) allows: seven eighths of it as soft limit, all of it as hard limit. Until
   hak_limit_read_cgroup, LIMIT_AUTO is none. */
void hak_limit_configure(uint64_t soft, uint64_t hard);
/* Reads what the cgroup allows now. Opens files, and so is called by no malloc or free: only while
   the process starts, before main, and by hak_limit_set. One thread at a time. Keeps errno. */
void hak_limit_read_cgroup(void);
/* 1 if that was done. */
int hak_limit_has_read_cgroup(void);
/* As set, and the cgroup's for LIMIT_AUTO: for who reads from outside (hakmem/layout.h). */
extern uint64_t hak_limit_soft_set HAK_HIDDEN, hak_limit_hard_set HAK_HIDDEN;
extern uint64_t hak_limit_cgroup HAK_HIDDEN;
/* A limit in force, from both. */
uint64_t hak_limit_soft_of(uint64_t set, uint64_t of_cgroup);
uint64_t hak_limit_hard_of(uint64_t set, uint64_t of_cgroup);
/* The limits in force; 0 for none. */
uint64_t hak_limit_soft(void);
uint64_t hak_limit_hard(void);
/* Bytes committed now, and bytes of address space, metadata included in both. */
uint64_t hak_limit_committed(void);
uint64_t hak_limit_mapped(void);
/* Address space was mapped, or unmapped. */
static inline void hak_limit_map(size_t bytes)
{
    hak_stat_add(mapped_bytes, bytes);
}
static inline void hak_limit_unmap(size_t bytes)
{
    hak_stat_sub(mapped_bytes, bytes);
}
/* `change` more mappings of the system are there than before; neighbours may be one to the system.
 */
static inline void hak_limit_count_mappings(int change)
{
    hak_stat_add(mappings, change);
}
/* Linux allows a process 65,530 mappings by default (vm.max_map_count). Half of them are left to
   the program: from so many superslabs and ranges on, holes are made no more. A variable for tests.
 */
#define LIMIT_MAPPINGS 32765
extern int64_t hak_limit_most_mappings HAK_HIDDEN;
/* Whether what lies in the middle of other memory may be unmapped: each such hole may cost the
   system a mapping more. */
static inline int hak_limit_may_split(void)
{
    return hak_stat_get(mappings) < hak_limit_most_mappings;
}
/* Pages of it may become resident; they have been purged, or unmapped. The peak may miss what two
   threads commit at once. */
static inline void hak_limit_commit(size_t bytes)
{
    int64_t now = atomic_add_relaxed(&hak_stats.committed_bytes, (int64_t)bytes) + (int64_t)bytes;
    if (HAK_UNLIKELY(now > hak_stat_get(committed_peak_bytes))) {
        atomic_store_relaxed(&hak_stats.committed_peak_bytes, now);
    }
}
static inline void hak_limit_uncommit(size_t bytes)
{
    hak_stat_sub(committed_bytes, bytes);
}
/* Whether there is a limit at all; if not, hak_limit_admit admits everything. */
int hak_limit_is_set(void);
/* 0 if `more` bytes pass the hard limit; for who can do without them: nothing is reported. */
int hak_limit_has_room(size_t more);
/* Whether `more` bytes may be committed. If not, the failed step is reported for a request of
   `size` bytes that was rounded to `class_bytes`. */
int hak_limit_admit(size_t more, size_t size, size_t class_bytes);
/* 1 once after the soft limit was passed: the caller trims everything that is kept, and then calls
   hak_limit_purged, so that the next trim comes only after a further sixteenth of the limit. */
int hak_limit_wants_purge(void);
void hak_limit_purged(void);

HAK_EXTERN_C_END

#endif
