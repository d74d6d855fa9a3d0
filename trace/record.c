/* `hakmem record`: starts a program under the recorder, waits for its end, and makes the trace. No
   locks, no threads. */
#include "trace/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command/command.h"
#include "hakmem/hakmem.h"
#include "trace/merge.h"
#include "trace/raw.h"

static const struct command_library library = {
    "libhakmem_record.so", "libhakmem_record.so." HAKMEM_TEXT_OF(HAKMEM_VERSION_MAJOR),
    "hakmem/trace/libhakmem_record.so", "HAK_RECORD_LIBRARY"};

struct options {
    const char *file, *calls;
    int children;
    char **program;
};

/* 0, or BAD_USAGE after saying why. */
static int read_options(char **arguments, struct options *options)
{
    *options = (struct options){0};
    for (; arguments[0] && arguments[0][0] == '-'; arguments++) {
        if (strcmp(arguments[0], "--") == 0) {
            arguments++;
            break;
        }
        if (strcmp(arguments[0], "--children") == 0) {
            options->children = 1;
        } else if (strcmp(arguments[0], "-o") == 0 && arguments[1] && *arguments[1]) {
            options->file = *++arguments;
        } else if (strcmp(arguments[0], "--calls") == 0 && arguments[1] &&
                   strtoull(arguments[1], NULL, 10) > 0) {
            options->calls = *++arguments;
        } else {
            fprintf(stderr, "hakmem: record: '%s' is not understood\n", arguments[0]);
            return BAD_USAGE;
        }
    }
    options->program = arguments;
    if (!arguments[0]) {
        fputs("hakmem: record needs a program\n", stderr);
        return BAD_USAGE;
    }
    return 0;
}

/* The file's name made absolute, as the program may change its folder: 0, or -1 if it is too long.
 */
static int absolute(char *out, const char *file)
{
    char folder[PATH_MAX];
    const char *before = "";
    if (*file != '/') {
        if (!getcwd(folder, sizeof folder)) {
            return -1;
        }
        before = folder;
    }
    int n = snprintf(out, PATH_MAX, "%s%s%s", before, *before ? "/" : "", file);
    return n > 0 && n < PATH_MAX - 64 ? 0 : -1;
}

/* In the child. Returns only if it cannot: the exit status, after saying why. */
static int become(const struct command_program *program, const struct options *options,
                  const char *raw)
{
    char pid[24];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    if (setenv("HAK_RECORD_FILE", raw, 1) != 0 || setenv("HAK_RECORD_PID", pid, 1) != 0 ||
        (options->calls ? setenv("HAK_RECORD_CALLS", options->calls, 1)
                        : unsetenv("HAK_RECORD_CALLS")) != 0 ||
        (options->children ? setenv("HAK_RECORD_CHILDREN", "1", 1)
                           : unsetenv("HAK_RECORD_CHILDREN")) != 0 ||
        setenv("HAKMEM_BACKGROUND", "0", 0) != 0) { /* its thread is not the program's */
        perror("hakmem: record");
        return CANNOT_RUN;
    }
    return command_become(program, options->program);
}

/* Starts the program. 0, and *ran says whether it runs: if not, it has said why, and ends with the
   status to return. -1 and errno without a process. */
static int start(const struct command_program *program, const struct options *options,
                 const char *raw, pid_t *child, int *ran)
{
    int ends[2];
    char byte = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -1;
    }
    *child = fork();
    if (*child == 0) {
        int status = become(program, options, raw);
        _exit(write(ends[1], &byte, 1) == 1 ? status : CANNOT_RUN);
    }
    close(ends[1]);
    /* The other end closes when the program begins. */
    *ran = *child > 0 && TEMP_FAILURE_RETRY(read(ends[0], &byte, 1)) == 0;
    close(ends[0]);
    return *child > 0 ? 0 : -1;
}

static pid_t passed_to;

static void pass_on(int signal)
{
    kill(passed_to, signal);
}

/* Waits; what the terminal sends goes to both anyway, what is sent to this process alone is passed
   on. */
static int wait_for(pid_t child)
{
    int status;
    passed_to = child;
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGTERM, pass_on);
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return CANNOT_RUN;
        }
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int finish(const char *raw, const char *trace)
{
    struct merge_result result;
    const char *wrong = merge_trace(raw, trace, &result);
    unlink(raw);
    if (wrong) {
        fprintf(stderr, "hakmem: record: %s: %s\n", trace, wrong);
        return -1;
    }
    fprintf(stderr, "hakmem: %s: %llu calls of %llu thread%s%s\n", trace,
            (unsigned long long)result.calls, (unsigned long long)result.threads,
            result.threads == 1 ? "" : "s", result.cut ? ", the first ones" : "");
    return 0;
}

static const char *part_prefix; /* RAW's last name and a point */

static int is_part(const struct dirent *entry)
{
    size_t n = strlen(part_prefix);
    const char *number = entry->d_name + n;
    return strncmp(entry->d_name, part_prefix, n) == 0 && *number &&
           number[strspn(number, "0123456789")] == 0;
}

/* The children's recordings lie beside: RAW.PID. Makes their traces; without `trace` removes what
   earlier ones left. */
static void each_child(const char *raw, const char *trace)
{
    char folder[PATH_MAX + 8], prefix[PATH_MAX + 16], part[2 * PATH_MAX], made[PATH_MAX + 64];
    struct dirent **found;
    snprintf(folder, sizeof folder, "%s", raw);
    char *name = strrchr(folder, '/');
    snprintf(prefix, sizeof prefix, "%s.", name + 1);
    name[1] = '\0';
    part_prefix = prefix;
    int n = scandir(folder, &found, is_part, alphasort);
    part_prefix = NULL;
    for (int i = 0; i < n; i++) {
        snprintf(part, sizeof part, "%s%s", folder, found[i]->d_name);
        if (trace) {
            snprintf(made, sizeof made, "%s.%s", trace, found[i]->d_name + strlen(prefix));
            finish(part, made);
        } else {
            (void)unlink(part);
        }
        free(found[i]);
    }
    if (n >= 0) {
        free(found);
    }
}

/* Makes the file for the recording, of one chunk, so that what is in the way is said before the
   program runs. 0, or -1 after saying why. */
static int make_raw(const char *raw, const char *trace)
{
    const char *wrong = merge_obstacle(trace);
    if (!wrong) {
        (void)unlink(raw);
        int fd = open(raw, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        int error = fd < 0 ? errno : posix_fallocate(fd, 0, RAW_CHUNK);
        wrong = error ? strerror(error) : NULL;
        if (fd >= 0) {
            close(fd);
        }
        if (fd >= 0 && wrong) {
            (void)unlink(raw);
        }
    }
    if (wrong) {
        fprintf(stderr, "hakmem: record: %s: %s\n", trace, wrong);
    }
    return wrong ? -1 : 0;
}

int record_command(char **arguments)
{
    struct options options;
    static struct command_program program;
    char named[PATH_MAX], trace[PATH_MAX], raw[PATH_MAX + 8];
    pid_t child;
    int ran;
    if (read_options(arguments, &options) != 0) {
        return BAD_USAGE;
    }
    int status = command_prepare(&program, &library, options.program);
    if (status) {
        return status;
    }
    if (!options.file) {
        const char *slash = strrchr(options.program[0], '/');
        snprintf(named, sizeof named, "%s.trace", slash ? slash + 1 : options.program[0]);
        options.file = named;
    }
    if (absolute(trace, options.file) != 0) {
        fputs("hakmem: record: the file's name is too long\n", stderr);
        return BAD_USAGE;
    }
    snprintf(raw, sizeof raw, "%s.raw", trace);
    if (make_raw(raw, trace) != 0) {
        return NO_LIBRARY;
    }
    if (options.children) {
        each_child(raw, NULL);
    }
    if (start(&program, &options, raw, &child, &ran) != 0) {
        perror("hakmem: record");
        (void)unlink(raw);
        return CANNOT_RUN;
    }
    status = wait_for(child);
    if (!ran) {
        (void)unlink(raw);
        return status;
    }
    int failed = finish(raw, trace);
    if (options.children) {
        each_child(raw, trace);
    }
    return failed ? NO_LIBRARY : status;
}
