/* The `hakmem` command: finds the subcommand in the table (subcommands.def) and runs it.
   One process; threads only where a subcommand says so. Bad usage exits 2. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "command/command.h"
#include "hakmem/hakmem.h"
#include "preload/subcommands.h"

#define SUBCOMMAND(name) extern const struct subcommand subcommand_##name;
#include "preload/subcommands.def"
#undef SUBCOMMAND

const struct subcommand *const subcommands[] = {
#define SUBCOMMAND(name) &subcommand_##name,
#include "preload/subcommands.def"
#undef SUBCOMMAND
    NULL,
};

const struct subcommand *subcommand_of(const char *name)
{
    const struct subcommand *const *row = subcommands;
    while (*row && strcmp((*row)->name, name) != 0) {
        row++;
    }
    return *row;
}

static int misused(const char *what, const char *why)
{
    if (what) {
        fprintf(stderr, "hakmem: '%s' %s\n", what, why);
    }
    print_usage(stderr);
    return BAD_USAGE;
}

/* The options in front of a subcommand: -1 if there are none, else the exit status. */
static int before_subcommand(int argc, char **argv)
{
    static const struct option names[] = {
        {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {0}};
    opterr = 0;
    int id = getopt_long(argc, argv, "+hV", names, NULL);
    if (id == -1) {
        return -1;
    }
    if (id == '?') {
        return misused(argv[1], "is not understood");
    }
    if (argc > 2) {
        return misused(argv[2], "is one argument too many");
    }
    if (id == 'h') {
        print_help(stdout);
    } else {
        puts("hakmem " HAKMEM_VERSION);
    }
    return 0;
}

int main(int argc, char **argv)
{
    int status = before_subcommand(argc, argv);
    if (status >= 0) {
        return status;
    }
    argv += optind;
    argc -= optind;
    if (!argc) {
        return misused(NULL, NULL);
    }
    const struct subcommand *found = subcommand_of(argv[0]);
    if (!found) {
        return misused(argv[0], "is no subcommand");
    }
    if (command_enter_users_folder() != 0) {
        return CANNOT_RUN;
    }
    optind = 0; /* getopt begins again, at the subcommand's arguments */
    return found->run(found, argc, argv);
}
