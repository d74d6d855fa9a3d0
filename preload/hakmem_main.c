/* The `hakmem` command: runs any program under libhakmem.so.
     hakmem run [--secure] [--] PROGRAM [ARGS...]
                                          exit status of the program; 127 if it is not found, 126 if
                                          it cannot be run
     hakmem record [-o FILE] [--calls N] [--children] [--] PROGRAM [ARGS...]
                                          writes a trace of its calls of malloc and free
                                          (trace/record.h)
     hakmem trace-info FILE               prints what is in a trace
     hakmem path                          prints where the library is
     hakmem version | --version | -V, help | --help | -h
   Bad usage exits 2. No threads; `run` sets LD_PRELOAD and becomes the program. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "command/command.h"
#include "hakmem/hakmem.h"
#include "trace/record.h"

static const char usage[] =
    "usage: hakmem run [--secure] [--] PROGRAM [ARGS...]\n"
    "       hakmem record [-o FILE] [--calls N] [--children] [--] PROGRAM [ARGS...]\n"
    "       hakmem trace-info FILE\n"
    "       hakmem path\n"
    "       hakmem version\n"
    "       hakmem help\n";

static const char help[] =
    "\n"
    "run      runs PROGRAM (found as a shell finds it) with libhakmem.so as its malloc; its "
    "children inherit that.\n"
    "         Exit status: the program's; 127 if it is not found, 126 if it cannot be run, 125 "
    "without the library.\n"
    "         --secure: with libhakmem_secure.so, which ends the program at misuse of its blocks "
    "(docs/secure.md).\n"
    "record   runs PROGRAM and writes every call of malloc and free to FILE (PROGRAM.trace), which "
    "bench/replay plays\n"
    "         under any allocator; --calls N: the first N; --children: forked children too, each "
    "to FILE.PID.\n"
    "trace-info  prints what is in a trace: calls, threads, sizes, lifetimes.\n"
    "path     prints the library's path, for LD_PRELOAD.\n"
    "version  prints the version.\n"
    "\n"
    "HAKMEM_LIBRARY=FILE  the library to use. Otherwise libhakmem.so is looked for beside this "
    "program, in ../lib, and "
    "in\n"
    "                     this program's Bazel runfiles.\n"
    "HAKMEM_SECURE_LIBRARY=FILE  the same for --secure and libhakmem_secure.so.\n"
    "Other HAKMEM_* variables are options of the library; HAKMEM_SHOW_STATS=1 prints statistics at "
    "exit.\n";

static const struct command_library library = {"libhakmem.so",
                                               "libhakmem.so." HAKMEM_TEXT_OF(HAKMEM_VERSION_MAJOR),
                                               "hakmem/preload/libhakmem.so", "HAKMEM_LIBRARY"};

/* An installation has the variants in folders of their own. */
static const struct command_library secure_library = {
    "libhakmem_secure.so", "secure/libhakmem.so." HAKMEM_TEXT_OF(HAKMEM_VERSION_MAJOR),
    "hakmem/preload/libhakmem_secure.so", "HAKMEM_SECURE_LIBRARY"};

static int run(char **arguments)
{
    struct command_program program;
    const struct command_library *which = &library;
    if (arguments[0] && strcmp(arguments[0], "--secure") == 0) {
        which = &secure_library;
        arguments++;
    }
    if (arguments[0] && strcmp(arguments[0], "--") == 0) {
        arguments++;
    }
    if (!arguments[0]) {
        fprintf(stderr, "hakmem: run needs a program\n%s", usage);
        return BAD_USAGE;
    }
    int status = command_prepare(&program, which, arguments);
    return status ? status : command_become(&program, arguments);
}

static int print_path(void)
{
    char path[PATH_MAX];
    if (!command_find_library(&library, path)) {
        command_say_no_library(&library);
        return NO_LIBRARY;
    }
    puts(path);
    return 0;
}

static int is_word(const char *argument, const char *word)
{
    return strcmp(argument, word) == 0 ||
           (strncmp(argument, "--", 2) == 0 && strcmp(argument + 2, word) == 0);
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "run") == 0) {
        return run(argv + 2);
    }
    if (argc >= 2 && strcmp(argv[1], "record") == 0) {
        int status = record_command(argv + 2);
        if (status == BAD_USAGE) {
            fputs(usage, stderr);
        }
        return status;
    }
    if (argc == 3 && strcmp(argv[1], "trace-info") == 0) {
        return info_command(argv[2]);
    }
    if (argc == 2 && strcmp(argv[1], "path") == 0) {
        return print_path();
    }
    if (argc == 2 && (is_word(argv[1], "version") || strcmp(argv[1], "-V") == 0)) {
        puts("hakmem " HAKMEM_VERSION);
        return 0;
    }
    if (argc == 2 && (is_word(argv[1], "help") || strcmp(argv[1], "-h") == 0)) {
        printf("%s%s", usage, help);
        return 0;
    }
    if (argc >= 2) {
        fprintf(stderr, "hakmem: '%s' is not understood\n", argv[1]);
    }
    fputs(usage, stderr);
    return BAD_USAGE;
}
