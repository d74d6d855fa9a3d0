/* `hakmem run`: sets LD_PRELOAD and becomes the program, so that the exit status is the program's.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "command/command.h"
#include "command/subcommand.h"

enum { SECURE = 256, GUARD };

static const struct command_option options[] = {
    {SECURE, "secure", NULL,
     "with libhakmem_secure.so, which ends the program at misuse of its blocks (docs/secure.md)"},
    {GUARD, "guard", NULL,
     "one in 5,000 blocks lies between pages that may not be touched, and misuse of it is told "
     "(HAKMEM_GUARD=on, or what it is set to; docs/guard.md)"},
    {'v', "verbose", NULL,
     "the library says in a line on standard error that it is active: process, version, variant "
     "and options (HAKMEM_VERBOSE=1)"},
    {0},
};

static int run(const struct subcommand *self, int argc, char **argv)
{
    static struct command_program program;
    const struct command_library *which = &command_library;
    int id;
    while ((id = command_next_option(self, argc, argv, NULL)) != -1) {
        if (id == SECURE) {
            which = &command_secure_library;
        } else if (id == GUARD ? setenv("HAKMEM_GUARD", "on", 0) != 0
                               : setenv("HAKMEM_VERBOSE", "1", 1) != 0) {
            perror("hakmem: run");
            return CANNOT_RUN;
        }
    }
    char **arguments = argv + optind;
    if (!arguments[0]) {
        command_misused(self, "needs a program");
    }
    int status = command_prepare(&program, which, arguments);
    return status ? status : command_become(&program, arguments);
}

const struct subcommand subcommand_run = {
    .name = "run",
    .operands = "[--] PROGRAM [ARGS...]",
    .line = "runs a program with libhakmem.so as its malloc",
    .text =
        "PROGRAM is found as a shell finds it, and its children inherit the library. A warning "
        "says "
        "so if the program is linked statically or is set-user-ID, and runs on its own malloc "
        "therefore.\n\nThe command becomes the program: the exit status is the program's own. Only "
        "if it cannot be started, the status is 125, 126 or 127, behind a line that begins with "
        "`hakmem:` and says why.\n\nWhere the library's path has a space or a colon, LD_PRELOAD "
        "names a link to it in $XDG_RUNTIME_DIR/hakmem or /tmp/hakmem-UID.",
    .options = options,
    .run = run,
};
