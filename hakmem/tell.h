/* The statistics as lines, for hak_print_stats and HAKMEM_SHOW_STATS. */
#ifndef HAKMEM_HAKMEM_TELL_H
#define HAKMEM_HAKMEM_TELL_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* One line a statistic, kept or computed (without memory, those that are kept); `whose` ends each,
   or NULL. Keeps errno. */
void hak_tell_stats(int fd, const char *whose);

HAK_EXTERN_C_END

#endif
