/* `hakmem record`: starts a program under the recorder, waits for its end, and makes the trace. No locks, no threads. */
#include "preload/record/record.h"

#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/command.h"
#include "preload/record/merge.h"

static const struct command_library library = {"libhakmem_record.so", "hakmem/preload/record/libhakmem_record.so",
                                               "HAK_RECORD_LIBRARY"};

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
        } else if (strcmp(arguments[0], "--calls") == 0 && arguments[1] && strtoull(arguments[1], NULL, 10) > 0) {
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

/* The file's name made absolute, as the program may change its folder: 0, or -1 if it is too long. */
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

static int start(const struct command_program *program, const struct options *options, const char *raw, pid_t *child)
{
    *child = fork();
    if (*child != 0) {
        return *child > 0 ? 0 : -1;
    }
    char pid[24];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    if (setenv("HAK_RECORD_FILE", raw, 1) != 0 || setenv("HAK_RECORD_PID", pid, 1) != 0 ||
        (options->calls ? setenv("HAK_RECORD_CALLS", options->calls, 1) : unsetenv("HAK_RECORD_CALLS")) != 0 ||
        (options->children ? setenv("HAK_RECORD_CHILDREN", "1", 1) : unsetenv("HAK_RECORD_CHILDREN")) != 0 ||
        setenv("HAKMEM_BACKGROUND", "0", 0) != 0) { /* its thread is not the program's */
        _exit(CANNOT_RUN);
    }
    _exit(command_become(program, options->program));
}

static pid_t passed_to;

static void pass_on(int signal)
{
    kill(passed_to, signal);
}

/* Waits; what the terminal sends goes to both anyway, what is sent to this process alone is passed on. */
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
    fprintf(stderr, "hakmem: %s: %llu calls of %llu thread%s%s\n", trace, (unsigned long long)result.calls,
            (unsigned long long)result.threads, result.threads == 1 ? "" : "s", result.cut ? ", the first ones" : "");
    return 0;
}

/* The children's recordings lie beside: RAW.PID. */
static void finish_children(const char *raw, const char *trace)
{
    char pattern[PATH_MAX + 32], made[PATH_MAX + 64];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s.[0-9]*", raw);
    if (glob(pattern, 0, NULL, &found) != 0) {
        return;
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        snprintf(made, sizeof made, "%s%s", trace, found.gl_pathv[i] + strlen(raw));
        finish(found.gl_pathv[i], made);
    }
    globfree(&found);
}

int record_command(char **arguments)
{
    struct options options;
    static struct command_program program;
    char named[PATH_MAX], trace[PATH_MAX], raw[PATH_MAX + 8];
    pid_t child;
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
    unlink(raw);
    if (start(&program, &options, raw, &child) != 0) {
        perror("hakmem: record");
        return CANNOT_RUN;
    }
    status = wait_for(child);
    if ((status == CANNOT_RUN || status == NOT_FOUND) && access(raw, F_OK) != 0) {
        return status; /* the child has said why */
    }
    int failed = finish(raw, trace);
    if (options.children) {
        finish_children(raw, trace);
    }
    return failed ? NO_LIBRARY : status;
}
