/* Shared by the parts of the `hakmem` command: exit statuses, finding a library to preload and a
   program to run. What a subcommand is: subcommand.h. */
#ifndef HAKMEM_COMMAND_COMMAND_H
#define HAKMEM_COMMAND_COMMAND_H

#include <limits.h>

enum { BAD_USAGE = 2, NO_LIBRARY = 125, CANNOT_RUN = 126, NOT_FOUND = 127 };

/* A library to preload, unless the variable names it: `in_runfiles` below Bazel's runfiles, else
   `soname` or `name` beside this program, in ../lib, in Debian's folder of the architecture, or in
   the folder `hakmem` of either. */
struct command_library {
    const char *name, *soname, *in_runfiles, *variable;
};

/* The allocator, and its secure variant, which an installation has in a folder of its own. */
extern const struct command_library command_library, command_secure_library;

/* A program to run, and what to preload into it. `path` is NULL or points into `found` or to the
   name as given. */
struct command_program {
    const char *path;
    char found[PATH_MAX], library[PATH_MAX];
};

/* Finds the library's path; out is PATH_MAX bytes. Returns 1 if found. */
int command_find_library(const struct command_library *library, char *out);

/* Says on standard error where it was looked for. */
void command_say_no_library(const struct command_library *library);

/* Relative names mean the folder where the user stands, though `bazel run` starts in the runfiles:
   goes there. 0, or -1 after saying why. */
int command_enter_users_folder(void);

/* Finds library and program, and warns of a program that cannot be preloaded. 0, or an exit status
   after saying what is wrong. arguments[0] is the program's name. */
int command_prepare(struct command_program *program, const struct command_library *library,
                    char **arguments);

/* Puts the library in front of what LD_PRELOAD names and becomes the program. Returns only if that
   fails: an exit status. */
int command_become(const struct command_program *program, char **arguments);

/* The same in a child, in which `prepare` sets the environment first (0, or -1 after saying why).
   Waits for its end. Where *ran is 1, the program ran, and its exit status is returned, or 128 + N
   after signal N; where it is 0, it has been said why not, and an exit status of ours is
   returned. */
int command_run_child(const struct command_program *program, char **arguments,
                      int (*prepare)(void *context), void *context, int *ran);

#endif
