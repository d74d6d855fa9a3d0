/* What the subcommands print of a look. */
#ifndef HAKMEM_ASK_SHOW_H
#define HAKMEM_ASK_SHOW_H

#include <stdio.h>

#include "ask/target.h"
#include "command/subcommand.h"

/* Bytes as people read them, "1.2 GiB"; one of eight buffers in turn. */
const char *show_bytes(double bytes);

/* A summary of about 15 lines. */
void show_summary(FILE *out, const struct ask_target *target, const struct ask_look *look);
/* A table of the size classes that hold or cost most, and of the heaps; at most `most` rows each,
   the largest first; 0: all. With `before`, what has changed since, a second. */
void show_classes(FILE *out, const struct ask_look *look, const struct ask_look *before,
                  unsigned most);
void show_heaps(FILE *out, const struct ask_look *look, unsigned most);
/* All statistics, a line each. */
void show_rows(FILE *out, const struct ask_look *look);
/* The text format that Prometheus reads. */
void show_prometheus(FILE *out, const struct ask_target *target, const struct ask_look *look);

/* Says why, and returns the exit status. */
int show_refusal(const struct subcommand *self, const struct ask_error *error);
/* What --help says of the exit statuses. */
#define SHOW_STATUSES                                                                              \
    "It is read through process_vm_readv(2): the process does nothing for it, and may be stopped " \
    "or hang. Only its own user, or root, may do so. Exit status: 3 there is no such process or "  \
    "file, 4 it may not be read, 5 hakmem is not in it, 6 it has a hakmem that this command "      \
    "cannot read, 7 the file is no core file, or what is needed is not in it."

/* The operand PID, or --core FILE; does not return if both or neither are there. Opens it: 0 or an
   exit status, after saying why. */
int show_open(const struct subcommand *self, struct ask_target *target, char **operands,
              const char *core);

#endif
