/* The subcommands that ask a process, or a core file. */
#ifndef HAKMEM_ASK_ASK_H
#define HAKMEM_ASK_ASK_H

#include "command/subcommand.h"

extern const struct subcommand subcommand_status, subcommand_stats, subcommand_top;

#endif
