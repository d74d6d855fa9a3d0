/* `hakmem path`, `hakmem version` and `hakmem help`. */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>

#include "command/command.h"
#include "hakmem/hakmem.h"
#include "preload/subcommands.h"

static int print_path(const struct subcommand *self, int argc, char **argv)
{
    char path[PATH_MAX];
    (void)command_operands(self, argc, argv, 0, 0);
    if (!command_find_library(&command_library, path)) {
        command_say_no_library(&command_library);
        return NO_LIBRARY;
    }
    puts(path);
    return 0;
}

const struct subcommand subcommand_path = {
    .name = "path",
    .operands = "",
    .line = "prints the library's path, for LD_PRELOAD",
    .run = print_path,
};

static int print_version(const struct subcommand *self, int argc, char **argv)
{
    (void)command_operands(self, argc, argv, 0, 0);
    puts("hakmem " HAKMEM_VERSION);
    return 0;
}

const struct subcommand subcommand_version = {
    .name = "version",
    .operands = "",
    .line = "prints the version of the command",
    .run = print_version,
};

enum { MANUAL = 256, COMPLETION };

static const struct command_option help_options[] = {
    {MANUAL, "manual", NULL, "prints the manual page for troff; without a subcommand, all of them"},
    {COMPLETION, "completion", NULL, "prints the completion for bash"},
    {0},
};

static int print_for(const struct subcommand *one, int what)
{
    if (what == COMPLETION) {
        print_completion(stdout);
    } else if (what == MANUAL && !one) {
        print_manuals(stdout);
    } else if (what == MANUAL) {
        print_manual(stdout, one);
    } else if (one) {
        command_print_help(stdout, one);
    } else {
        print_help(stdout);
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}

static int help(const struct subcommand *self, int argc, char **argv)
{
    const struct subcommand *one = NULL;
    int id, what = 0;
    while ((id = command_next_option(self, argc, argv, NULL)) != -1) {
        what = id;
    }
    argv += optind;
    if (argv[0]) {
        one = subcommand_of(argv[0]);
        if (!one) {
            command_misused(self, "'%s' is no subcommand", argv[0]);
        }
        if (argv[1] || what == COMPLETION) {
            command_misused(self, "'%s' is one argument too many", argv[argv[1] ? 1 : 0]);
        }
    }
    return print_for(one, what);
}

const struct subcommand subcommand_help = {
    .name = "help",
    .operands = "[SUBCOMMAND]",
    .line = "prints what the command, or a subcommand, does",
    .options = help_options,
    .run = help,
};
