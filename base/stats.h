/* Statistics of the whole process, kept on slow paths with relaxed atomics; see stats.def. Any
   thread may read. */
#ifndef HAKMEM_BASE_STATS_H
#define HAKMEM_BASE_STATS_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct hak_stats {
#define STAT(name, kind, unit, text) int64_t name;
#include "base/stats.def"
#undef STAT
};

extern struct hak_stats hak_stats;

#define hak_stat_add(name, n) ((void)atomic_add_relaxed(&hak_stats.name, (int64_t)(n)))
#define hak_stat_sub(name, n) ((void)atomic_sub_relaxed(&hak_stats.name, (int64_t)(n)))
#define hak_stat_get(name)    atomic_load_relaxed(&hak_stats.name)

/* Writes one line a statistic to file descriptor `fd`; allocates nothing. */
void hak_stat_print(int fd);

HAK_EXTERN_C_END

#endif
