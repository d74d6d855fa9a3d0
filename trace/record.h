/* `hakmem record` and `hakmem trace-info`. */
#ifndef HAKMEM_TRACE_RECORD_H
#define HAKMEM_TRACE_RECORD_H

#include "command/subcommand.h"

/* Runs a program under libhakmem_record.so and writes its trace. Exit status: the program's, 128 +
   N after signal N, or NO_LIBRARY (also: nothing was recorded), CANNOT_RUN or NOT_FOUND after a
   line on standard error. */
extern const struct subcommand subcommand_record;

/* Prints what is in a trace. Exit status: 0; 2 if the file is no whole trace. */
extern const struct subcommand subcommand_trace_info;

#endif
