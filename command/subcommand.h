/* What a subcommand of the `hakmem` command is: a row of a table, from which come its --help, its
   manual page, the shell's completion, and how getopt_long reads its options.

   A subcommand is a file that defines `const struct subcommand subcommand_NAME`, and a row
   SUBCOMMAND(NAME) of preload/subcommands.def; nothing else names it. */
#ifndef HAKMEM_COMMAND_SUBCOMMAND_H
#define HAKMEM_COMMAND_SUBCOMMAND_H

#include <stdio.h>

/* An option; a row of zeros ends a list of them. */
struct command_option {
    int id;               /* its letter, or a number from 256 up if it has none */
    const char *name;     /* behind `--`; NULL: a letter alone */
    const char *argument; /* what follows it, as FILE or N; NULL: nothing does */
    const char *text;     /* a sentence without a capital and a point: "the first N calls alone" */
};

struct subcommand {
    const char *name;
    const char *operands; /* as the usage line shows them: "[--] PROGRAM [ARGS...]"; may be "" */
    const char *line;     /* one line, as a verb in the third person: "prints ..." */
    const char *text;     /* sentences; paragraphs are separated by an empty line; may be NULL */
    const struct command_option *options; /* may be NULL; --help is everyone's */
    /* Returns the exit status. argv[0] is the subcommand's name. */
    int (*run)(const struct subcommand *self, int argc, char **argv);
};

/* The next option's id, and its argument in *value; -1 at the end of the options, where
   argv + optind are the operands (a program's own options are none of ours: reading ends at the
   first operand). Does not return at --help, which it prints (exit status 0), or at a bad option,
   which it names (exit status 2). */
int command_next_option(const struct subcommand *self, int argc, char **argv, const char **value);

/* For a subcommand without options: the operands, of which there must be `fewest` to `most` (-1:
   any number). Does not return otherwise. */
char **command_operands(const struct subcommand *self, int argc, char **argv, int fewest, int most);

/* A whole number of `lowest` or more, without a sign. Does not return if `text` is none: `what` is
   the option or the operand, as `--calls`. */
unsigned long long command_number(const struct subcommand *self, const char *what, const char *text,
                                  unsigned long long lowest);

/* One line on standard error, "hakmem: NAME: ...", then the usage, and exit status 2. */
_Noreturn void command_misused(const struct subcommand *self, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "hakmem: NAME: ..." in one line on standard error. */
void command_complain(const struct subcommand *self, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* `PREFIXhakmem NAME OPTIONS OPERANDS`, folded before 100 columns, and a line break. */
void command_print_usage(FILE *out, const char *prefix, const struct subcommand *self);

/* Usage, text and options. */
void command_print_help(FILE *out, const struct subcommand *self);

/* Words in lines of at most 100 columns, each line behind `indent` spaces, of which the first line
   has `done` already. */
void command_print_folded(FILE *out, const char *text, int indent, int done);

#endif
