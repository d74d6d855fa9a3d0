/* `hakmem record` and `hakmem trace-info`. */
#ifndef HAKMEM_TRACE_RECORD_H
#define HAKMEM_TRACE_RECORD_H

/* Runs a program under libhakmem_record.so and writes its trace. The arguments are those after
   `record`. Returns the program's exit status, 128 + N after signal N, or BAD_USAGE, NO_LIBRARY
   (also: nothing was recorded), CANNOT_RUN or NOT_FOUND after a line on standard error. */
int record_command(char **arguments);

/* Prints what is in a trace. 0; 2 if the file is no whole trace. */
int info_command(const char *path);

#endif
