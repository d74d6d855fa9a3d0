/* The statistics as lines, for hak_print_stats and HAKMEM_SHOW_STATS. */
#ifndef HAKMEM_HAKMEM_TELL_H
#define HAKMEM_HAKMEM_TELL_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* One line a statistic, kept or computed (without memory, those that are kept); `whose` ends each,
   or NULL. Keeps errno. */
void hak_tell_stats(int fd, const char *whose);
/* HAKMEM_SHOW_STATS's handlers of fatal signals, where the program has the default action. */
void hak_tell_watch_signals(void);
/* From a handler of another part that stands where one of these would: the process is about to end
   by its signal's default action. Prints what is kept, if the option is on. Async-signal-safe. */
void hak_tell_before_end(void);

HAK_EXTERN_C_END

#endif
