/* The subcommands that ask a process, or a core file. */
#ifndef HAKMEM_ASK_ASK_H
#define HAKMEM_ASK_ASK_H

#include <stdint.h>

#include "command/subcommand.h"

/* Has a process sample its heap for some seconds (SIGINT and SIGTERM end that early), and writes
   the raw profile to a file. One that samples already, since its environment or it itself says so,
   is read at once, unless the seconds are wanted. Returns 0, or an exit status after saying why. */
struct ask_profile {
    const struct subcommand *self;
    int64_t pid;
    uint64_t period; /* 0: the library's */
    uint64_t seconds;
    int wants_seconds;
    const char *file;
};
int ask_profile(const struct ask_profile *what);

extern const struct subcommand subcommand_status, subcommand_stats, subcommand_top;

#endif
