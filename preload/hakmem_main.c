/* The `hakmem` command: runs any program under libhakmem.so.
     hakmem run [--] PROGRAM [ARGS...]    exit status of the program; 127 if it is not found, 126 if it cannot be run
     hakmem path                          prints where the library is
     hakmem version | --version, help | --help
   Bad usage exits 2. One process, no threads: it sets LD_PRELOAD and becomes the program. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hakmem/hakmem.h"

enum { BAD_USAGE = 2, NO_LIBRARY = 125, CANNOT_RUN = 126, NOT_FOUND = 127 };

static const char usage[] = "usage: hakmem run [--] PROGRAM [ARGS...]\n"
                            "       hakmem path\n"
                            "       hakmem version\n"
                            "       hakmem help\n";

static const char help[] =
    "\n"
    "run      runs PROGRAM (found as a shell finds it) with libhakmem.so as its malloc; its children inherit that.\n"
    "         Exit status: the program's; 127 if it is not found, 126 if it cannot be run, 125 without the library.\n"
    "path     prints the library's path, for LD_PRELOAD.\n"
    "version  prints the version.\n"
    "\n"
    "HAKMEM_LIBRARY=FILE  the library to use. Otherwise libhakmem.so is looked for beside this program, in ../lib, and "
    "in\n"
    "                     this program's Bazel runfiles.\n"
    "Other HAKMEM_* variables are options of the library; HAKMEM_SHOW_STATS=1 prints statistics at exit.\n";

static int is_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Joins a directory and a name; 0 if that is too long for `out` (PATH_MAX bytes). */
static int join(char *out, const char *folder, const char *name)
{
    int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return n > 0 && n < PATH_MAX;
}

static int try_in(char *out, const char *folder, const char *name)
{
    char path[PATH_MAX];
    return join(path, folder, name) && is_file(path) && realpath(path, out);
}

/* Finds libhakmem.so; out is PATH_MAX bytes. Returns 1 if found. */
static int find_library(char *out)
{
    const char *named = getenv("HAKMEM_LIBRARY");
    if (named && *named) {
        return is_file(named) && realpath(named, out) != NULL;
    }
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        return 0;
    }
    self[n] = '\0';
    const char *runfiles_of_caller = getenv("RUNFILES_DIR");
    if (runfiles_of_caller && try_in(out, runfiles_of_caller, "hakmem/preload/libhakmem.so")) {
        return 1;
    }
    char runfiles[PATH_MAX];
    if (snprintf(runfiles, sizeof runfiles, "%s.runfiles", self) < PATH_MAX &&
        try_in(out, runfiles, "hakmem/preload/libhakmem.so")) {
        return 1;
    }
    *strrchr(self, '/') = '\0';
    return try_in(out, self, "libhakmem.so") || try_in(out, self, "../lib/libhakmem.so");
}

static void say_no_library(void)
{
    const char *named = getenv("HAKMEM_LIBRARY");
    if (named && *named) {
        fprintf(stderr, "hakmem: HAKMEM_LIBRARY names no file: '%s'\n", named);
    } else {
        fputs("hakmem: libhakmem.so not found beside this program, in ../lib or in its runfiles; name it by "
              "HAKMEM_LIBRARY\n",
              stderr);
    }
}

/* The file that execvp would run, else a file of that name that may not be executed, else NULL; out is PATH_MAX bytes. */
static const char *find_program(const char *name, char *out)
{
    static char denied[PATH_MAX];
    if (strchr(name, '/')) {
        return name;
    }
    const char *path = getenv("PATH");
    path = path ? path : "/usr/local/bin:/usr/bin:/bin";
    while (1) {
        size_t n = strcspn(path, ":");
        char folder[PATH_MAX];
        if (n < sizeof folder) {
            memcpy(folder, path, n);
            folder[n] = '\0';
            if (join(out, n ? folder : ".", name) && is_file(out)) {
                if (access(out, X_OK) == 0) {
                    return out;
                }
                memcpy(denied, out, sizeof denied);
            }
        }
        if (!path[n]) {
            return *denied ? denied : NULL;
        }
        path += n + 1;
    }
}

/* Says what makes the loader ignore LD_PRELOAD for this file, or NULL. */
static const char *why_ignored(const char *program)
{
    struct stat status;
    if (stat(program, &status) == 0 && (status.st_mode & (S_ISUID | S_ISGID)) && geteuid() != 0) {
        return "it is set-user-ID or set-group-ID";
    }
    int fd = open(program, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    Elf64_Ehdr header;
    const char *reason = NULL;
    if (pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header &&
        memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64) {
        reason = "it is statically linked";
        for (unsigned i = 0; i < header.e_phnum; i++) {
            Elf64_Phdr segment;
            off_t at = (off_t)(header.e_phoff + (Elf64_Off)i * header.e_phentsize);
            if (pread(fd, &segment, sizeof segment, at) != (ssize_t)sizeof segment || segment.p_type == PT_INTERP) {
                reason = NULL;
                break;
            }
        }
    }
    close(fd);
    return reason;
}

/* Puts the library in front of what LD_PRELOAD already names. Returns 0, or -1 without memory. */
static int set_preload(const char *library)
{
    const char *before = getenv("LD_PRELOAD");
    size_t size = strlen(library) + (before ? strlen(before) : 0) + 2;
    char *value = malloc(size);
    if (!value) {
        return -1;
    }
    snprintf(value, size, "%s%s%s", library, before && *before ? ":" : "", before ? before : "");
    int result = setenv("LD_PRELOAD", value, 1);
    free(value);
    return result;
}

static int run(char **arguments)
{
    char library[PATH_MAX], found[PATH_MAX];
    if (arguments[0] && strcmp(arguments[0], "--") == 0) {
        arguments++;
    }
    if (!arguments[0]) {
        fprintf(stderr, "hakmem: run needs a program\n%s", usage);
        return BAD_USAGE;
    }
    /* `bazel run` starts in the runfiles: relative names mean the folder where the user stands. */
    const char *users_folder = getenv("BUILD_WORKING_DIRECTORY");
    if (users_folder && chdir(users_folder) != 0) {
        fprintf(stderr, "hakmem: %s: %s\n", users_folder, strerror(errno));
        return CANNOT_RUN;
    }
    if (!find_library(library)) {
        say_no_library();
        return NO_LIBRARY;
    }
    if (strpbrk(library, " :")) {
        fprintf(stderr, "hakmem: LD_PRELOAD cannot name '%s': its path has a space or a colon\n", library);
        return NO_LIBRARY;
    }
    const char *program = find_program(arguments[0], found);
    if (!program) {
        fprintf(stderr, "hakmem: %s: not found in PATH\n", arguments[0]);
        return NOT_FOUND;
    }
    const char *reason = why_ignored(program);
    if (reason) {
        fprintf(stderr, "hakmem: warning: %s runs on its own malloc: %s\n", program, reason);
    }
    if (set_preload(library) != 0) {
        fprintf(stderr, "hakmem: %s\n", strerror(errno));
        return CANNOT_RUN;
    }
    execvp(program, arguments); /* a script without #! goes to the shell */
    int error = errno;
    fprintf(stderr, "hakmem: %s: %s\n", program, strerror(error));
    return error == ENOENT ? NOT_FOUND : CANNOT_RUN;
}

static int print_path(void)
{
    char library[PATH_MAX];
    if (!find_library(library)) {
        say_no_library();
        return NO_LIBRARY;
    }
    puts(library);
    return 0;
}

static int is_word(const char *argument, const char *word)
{
    return strcmp(argument, word) == 0 || (strncmp(argument, "--", 2) == 0 && strcmp(argument + 2, word) == 0);
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "run") == 0) {
        return run(argv + 2);
    }
    if (argc == 2 && strcmp(argv[1], "path") == 0) {
        return print_path();
    }
    if (argc == 2 && is_word(argv[1], "version")) {
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
