/* The table of subcommands, and what is said of the command as a whole. */
#ifndef HAKMEM_PRELOAD_SUBCOMMANDS_H
#define HAKMEM_PRELOAD_SUBCOMMANDS_H

#include <stdio.h>

#include "command/subcommand.h"

/* All rows of subcommands.def; ends with NULL. */
extern const struct subcommand *const subcommands[];

/* The row of that name, or NULL. */
const struct subcommand *subcommand_of(const char *name);

/* What --help says under a heading: an exit status or a variable, and what it means. Both end with
   a row of NULLs. */
struct said {
    const char *name, *text;
};
extern const struct said exit_statuses[], variables[];

void print_usage(FILE *out);
void print_help(FILE *out);

/* The manual page of a subcommand, or with NULL that of the command, for troff. */
void print_manual(FILE *out, const struct subcommand *one);

/* All manual pages, each behind a line `.\" Page NAME`. */
void print_manuals(FILE *out);

/* Completion for bash. */
void print_completion(FILE *out);

#endif
