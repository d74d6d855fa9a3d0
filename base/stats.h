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
};

extern struct hak_stats hak_stats;

#define hak_stat_add(name, n) ((void)atomic_add_relaxed(&hak_stats.name, (int64_t)(n)))
#define hak_stat_sub(name, n) ((void)atomic_sub_relaxed(&hak_stats.name, (int64_t)(n)))
/* The same for one that is changed with one certain lock held, always. */
#define hak_stat_add_locked(name, n)                                                               \
    atomic_store_relaxed(&hak_stats.name, hak_stats.name + (int64_t)(n))
#define hak_stat_get(name) atomic_load_relaxed(&hak_stats.name)

/* Writes one line a statistic that is kept to file descriptor `fd`, with `(whose)` at its end
   unless that is NULL. Allocates nothing; may be called in a signal handler. */
void hak_stat_print(int fd);
void hak_stat_print_of(int fd, const char *whose);
/* One such line. */
void hak_stat_print_row(int fd, const char *name, int64_t value, const char *unit,
                        const char *whose);

HAK_EXTERN_C_END

#endif
