/* Reads the options of a subcommand from its table, and prints its usage and help. One process, no
   threads. */
#include "command/subcommand.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command/command.h"

enum { MOST_OPTIONS = 32, COLUMNS = 100, HELP = 0x10000 };

static const struct command_option no_options[] = {{0}};

static const struct command_option *options_of(const struct subcommand *self)
{
    return self->options ? self->options : no_options;
}

static void say(const struct subcommand *self, const char *format, va_list arguments)
{
    fprintf(stderr, "hakmem: %s: ", self->name);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): both callers have called va_start */
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

void command_complain(const struct subcommand *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(self, format, arguments);
    va_end(arguments);
}

void command_misused(const struct subcommand *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(self, format, arguments);
    va_end(arguments);
    command_print_usage(stderr, "usage: ", self);
    exit(BAD_USAGE);
}

/* As getopt_long wants them; `letters` has room for 3 characters each. */
static void tables(const struct subcommand *self, struct option *names, char *letters)
{
    *letters++ = '+';
    *letters++ = ':';
    for (const struct command_option *o = options_of(self); o->id; o++) {
        if (o->name) {
            *names++ = (struct option){o->name, o->argument ? required_argument : no_argument, NULL,
                                       o->id};
        }
        if (o->id < 256) {
            *letters++ = (char)o->id;
            if (o->argument) {
                *letters++ = ':';
            }
        }
    }
    *letters++ = 'h';
    *letters = '\0';
    names[0] = (struct option){"help", no_argument, NULL, HELP};
    names[1] = (struct option){0};
}

int command_next_option(const struct subcommand *self, int argc, char **argv, const char **value)
{
    struct option names[MOST_OPTIONS + 2];
    char letters[3 * MOST_OPTIONS];
    const char *ignored = NULL;
    value = value ? value : &ignored;
    tables(self, names, letters);
    int at = optind ? optind : 1;
    opterr = 0;
    int id = getopt_long(argc, argv, letters, names, NULL);
    *value = optarg;
    if (id == HELP || id == 'h') {
        command_print_help(stdout, self);
        exit(0);
    }
    if (id == ':') {
        command_misused(self, "'%s' needs an argument", argv[at]);
    }
    if (id == '?') {
        command_misused(self, "'%s' is not understood", argv[at]);
    }
    return id;
}

char **command_operands(const struct subcommand *self, int argc, char **argv, int fewest, int most)
{
    while (command_next_option(self, argc, argv, NULL) != -1) {
    }
    if (argc - optind < fewest) {
        command_misused(self, "too few arguments");
    }
    if (most >= 0 && argc - optind > most) {
        command_misused(self, "'%s' is one argument too many", argv[optind + most]);
    }
    return argv + optind;
}

unsigned long long command_number(const struct subcommand *self, const char *what, const char *text,
                                  unsigned long long lowest)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value < lowest) {
        command_misused(self, "%s: '%s' is no whole number of at least %llu", what, text, lowest);
    }
    return value;
}

void command_print_folded(FILE *out, const char *text, int indent, int done)
{
    int column = done;
    while (*text) {
        int n = (int)strcspn(text, " \n");
        int needs = (column > indent) + n;
        if (column < indent) {
            fprintf(out, "%*s", indent - column, "");
            column = indent;
            needs = n;
        }
        if (column > indent && column + needs > COLUMNS) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", n, text);
        column += n;
        text += n;
        if (text[0] == '\n' && text[1] == '\n') {
            fputs("\n\n", out);
            column = 0;
        }
        text += strspn(text, " \n");
    }
    fputc('\n', out);
}

/* `-o FILE`, `--calls N`; with `both`: `-o, --output FILE`. */
static int option_text(char *out, size_t size, const struct command_option *o, int both)
{
    char letter[4] = "";
    int has_letter = o->id < 256;
    if (has_letter) {
        snprintf(letter, sizeof letter, "-%c", o->id);
    }
    int named = o->name && (both || !has_letter);
    return snprintf(out, size, "%s%s%s%s%s%s", letter, has_letter && named ? ", " : "",
                    named ? "--" : "", named ? o->name : "", o->argument ? " " : "",
                    o->argument ? o->argument : "");
}

void command_print_usage(FILE *out, const char *prefix, const struct subcommand *self)
{
    char text[80];
    int indent = (int)strlen(prefix);
    int column = fprintf(out, "%shakmem %s", prefix, self->name);
    for (const struct command_option *o = options_of(self); o->id; o++) {
        int n = option_text(text, sizeof text, o, 0) + 3;
        if (column + n > COLUMNS) {
            column = fprintf(out, "\n%*s", indent + 4, "") - 1;
        }
        column += n;
        fprintf(out, " [%s]", text);
    }
    if (column + 1 + (int)strlen(self->operands) > COLUMNS) {
        fprintf(out, "\n%*s", indent + 4, "");
    }
    fprintf(out, "%s%s\n", *self->operands ? " " : "", self->operands);
}

void command_print_help(FILE *out, const struct subcommand *self)
{
    char text[80];
    command_print_usage(out, "usage: ", self);
    fputc('\n', out);
    int n = fprintf(out, "%c%s.", self->line[0] - 'a' + 'A', self->line + 1);
    command_print_folded(out, "", 0, n);
    if (self->text) {
        fputc('\n', out);
        command_print_folded(out, self->text, 0, 0);
    }
    fputc('\n', out);
    for (const struct command_option *o = options_of(self); o->id; o++) {
        option_text(text, sizeof text, o, 1);
        n = fprintf(out, "  %-20s", text);
        if (n > 22) {
            fputc('\n', out);
            n = 0;
        }
        fprintf(out, "  ");
        command_print_folded(out, o->text, 24, n ? n + 2 : 2);
    }
    fprintf(out, "  %-20s  prints this\n", "-h, --help");
}
