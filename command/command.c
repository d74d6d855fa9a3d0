/* Shared by the parts of the `hakmem` command: finds the library and the program, and prints why
   one cannot be used. One process, no threads. */
#include "command/command.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hakmem/hakmem.h"

#define MAJOR HAKMEM_TEXT_OF(HAKMEM_VERSION_MAJOR)

const struct command_library command_library = {"libhakmem.so", "libhakmem.so." MAJOR,
                                                "hakmem/preload/libhakmem.so", "HAKMEM_LIBRARY"};
const struct command_library command_secure_library = {
    "libhakmem_secure.so", "secure/libhakmem.so." MAJOR, "hakmem/preload/libhakmem_secure.so",
    "HAKMEM_SECURE_LIBRARY"};

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

/* Where libraries lie, seen from the folder of the program; Debian has one folder more, named after
   the architecture. */
#if defined(__x86_64__)
#define MULTIARCH "../lib/x86_64-linux-gnu"
#elif defined(__aarch64__)
#define MULTIARCH "../lib/aarch64-linux-gnu"
#else
#define MULTIARCH "../lib"
#endif
static const char *const places[] = {".", "../lib", "../lib/hakmem", MULTIARCH,
                                     (MULTIARCH "/hakmem")};

/* An installed library has its soname; what a build has made, its plain name. */
static int try_places(char *out, const char *self, const struct command_library *library)
{
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char folder[PATH_MAX];
        if (join(folder, self, places[i]) &&
            (try_in(out, folder, library->soname) || try_in(out, folder, library->name))) {
            return 1;
        }
    }
    return 0;
}

int command_find_library(const struct command_library *library, char *out)
{
    const char *named = getenv(library->variable);
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
    if (runfiles_of_caller && try_in(out, runfiles_of_caller, library->in_runfiles)) {
        return 1;
    }
    char folder[PATH_MAX];
    if (snprintf(folder, sizeof folder, "%s.runfiles", self) < PATH_MAX &&
        try_in(out, folder, library->in_runfiles)) {
        return 1;
    }
    *strrchr(self, '/') = '\0';
    return try_places(out, self, library);
}

void command_say_no_library(const struct command_library *library)
{
    const char *named = getenv(library->variable);
    if (named && *named) {
        fprintf(stderr, "hakmem: %s names no file: '%s'\n", library->variable, named);
    } else {
        fprintf(stderr,
                "hakmem: %s not found beside this program, in ../lib or in its runfiles; name it "
                "by %s\n",
                library->name, library->variable);
    }
}

/* The file that execvp would run, else a file of that name that may not be executed, else NULL; out
   is PATH_MAX bytes. */
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
            if (pread(fd, &segment, sizeof segment, at) != (ssize_t)sizeof segment ||
                segment.p_type == PT_INTERP) {
                reason = NULL;
                break;
            }
        }
    }
    close(fd);
    return reason;
}

/* Where the loader ends a name in LD_PRELOAD. */
#define LOADER_SPLITS_AT " :"

/* A folder that is this user's alone, to hold links; out is PATH_MAX bytes. 0 or an errno value. */
static int links_folder(char *out)
{
    struct stat status;
    const char *own = getenv("XDG_RUNTIME_DIR");
    if (own && *own == '/' && !strpbrk(own, LOADER_SPLITS_AT)) {
        (void)snprintf(out, PATH_MAX, "%s/hakmem", own);
        if (mkdir(out, 0700) == 0 || errno == EEXIST) {
            return 0;
        }
    }
    snprintf(out, PATH_MAX, "/tmp/hakmem-%ld", (long)geteuid());
    if (mkdir(out, 0700) != 0 && errno != EEXIST) {
        return errno;
    }
    if (lstat(out, &status) != 0) {
        return errno;
    }
    int is_own = S_ISDIR(status.st_mode) && status.st_uid == geteuid() && !(status.st_mode & 022);
    return is_own ? 0 : EPERM;
}

/* LD_PRELOAD cannot name such a path: replaces it by a link to it, which stays for the program's
   children. 0, or -1 after saying why. */
static int make_link(char *library)
{
    char folder[PATH_MAX], path[PATH_MAX + 48], made[PATH_MAX + 80];
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a of the path: a link a library */
    for (const char *c = library; *c; c++) {
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
    }
    int error = links_folder(folder);
    if (!error) {
        snprintf(path, sizeof path, "%s/%016llx.so", folder, (unsigned long long)hash);
        snprintf(made, sizeof made, "%s.%ld", path, (long)getpid());
        error = strlen(path) >= PATH_MAX ? ENAMETOOLONG : 0;
    }
    if (!error && (symlink(library, made) != 0 || rename(made, path) != 0)) {
        error = errno;
        (void)unlink(made);
    }
    if (error) {
        fprintf(stderr,
                "hakmem: LD_PRELOAD cannot name '%s' (a space or a colon), nor can a link to it be "
                "made in %s: %s\n",
                library, folder, strerror(error));
        return -1;
    }
    memcpy(library, path, strlen(path) + 1);
    return 0;
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

int command_enter_users_folder(void)
{
    const char *folder = getenv("BUILD_WORKING_DIRECTORY");
    if (folder && chdir(folder) != 0) {
        fprintf(stderr, "hakmem: %s: %s\n", folder, strerror(errno));
        return -1;
    }
    return 0;
}

int command_prepare(struct command_program *program, const struct command_library *library,
                    char **arguments)
{
    if (!command_find_library(library, program->library)) {
        command_say_no_library(library);
        return NO_LIBRARY;
    }
    if (strpbrk(program->library, LOADER_SPLITS_AT) && make_link(program->library) != 0) {
        return NO_LIBRARY;
    }
    program->path = find_program(arguments[0], program->found);
    if (!program->path) {
        fprintf(stderr, "hakmem: %s: not found in PATH\n", arguments[0]);
        return NOT_FOUND;
    }
    const char *reason = why_ignored(program->path);
    if (reason) {
        fprintf(stderr, "hakmem: warning: %s runs on its own malloc: %s\n", program->path, reason);
    }
    return 0;
}

int command_become(const struct command_program *program, char **arguments)
{
    if (set_preload(program->library) != 0) {
        fprintf(stderr, "hakmem: %s\n", strerror(errno));
        return CANNOT_RUN;
    }
    execvp(program->path, arguments); /* a script without #! goes to the shell */
    int error = errno;
    fprintf(stderr, "hakmem: %s: %s\n", program->path, strerror(error));
    return error == ENOENT ? NOT_FOUND : CANNOT_RUN;
}
