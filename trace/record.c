/* `hakmem record`: starts a program under the recorder, waits for its end, and makes the trace. No
   locks, no threads. */
#include "trace/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command/command.h"
#include "hakmem/hakmem.h"
#include "trace/merge.h"
#include "trace/raw.h"

static const struct command_library library = {
    "libhakmem_record.so", "libhakmem_record.so." HAKMEM_TEXT_OF(HAKMEM_VERSION_MAJOR),
    "hakmem/trace/libhakmem_record.so", "HAK_RECORD_LIBRARY"};

enum { CALLS = 256, CHILDREN };

struct options {
    const char *file, *calls;
    int children;
    char **program;
};

static const struct command_option option_rows[] = {
    {'o', "output", "FILE", "the trace's name; by default PROGRAM.trace"},
    {CALLS, "calls", "N", "records the first N calls alone"},
    {CHILDREN, "children", NULL, "records forked children too, each to FILE.PID"},
    {0},
};

static void read_options(const struct subcommand *self, int argc, char **argv,
                         struct options *options)
{
    const char *value;
    int id;
    *options = (struct options){0};
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        switch (id) {
        case 'o':
            if (!*value) {
                command_misused(self, "'-o' needs a file");
            }
            options->file = value;
            break;
        case CALLS:
            (void)command_number(self, "--calls", value, 1);
            options->calls = value;
            break;
        case CHILDREN:
            options->children = 1;
            break;
        default:
            break;
        }
    }
    options->program = argv + optind;
    if (!options->program[0]) {
        command_misused(self, "needs a program");
    }
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

struct recording {
    const struct options *options;
    const char *raw;
};

/* In the child: tells the recorder. 0, or -1 after saying why. */
static int prepare(void *context)
{
    const struct recording *self = context;
    const struct options *options = self->options;
    char pid[24];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    if (setenv("HAK_RECORD_FILE", self->raw, 1) != 0 || setenv("HAK_RECORD_PID", pid, 1) != 0 ||
        (options->calls ? setenv("HAK_RECORD_CALLS", options->calls, 1)
                        : unsetenv("HAK_RECORD_CALLS")) != 0 ||
        (options->children ? setenv("HAK_RECORD_CHILDREN", "1", 1)
                           : unsetenv("HAK_RECORD_CHILDREN")) != 0 ||
        setenv("HAKMEM_BACKGROUND", "0", 0) != 0) { /* its thread is not the program's */
        perror("hakmem: record");
        return -1;
    }
    return 0;
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

static int run(const struct subcommand *self, int argc, char **argv)
{
    struct options options;
    static struct command_program program;
    char named[PATH_MAX], trace[PATH_MAX], raw[PATH_MAX + 8];
    int ran;
    read_options(self, argc, argv, &options);
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
        command_complain(self, "the file's name is too long");
        return NO_LIBRARY;
    }
    snprintf(raw, sizeof raw, "%s.raw", trace);
    if (make_raw(raw, trace) != 0) {
        return NO_LIBRARY;
    }
    if (options.children) {
        each_child(raw, NULL);
    }
    struct recording recording = {&options, raw};
    status = command_run_child(&program, options.program, prepare, &recording, &ran);
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

const struct subcommand subcommand_record = {
    .name = "record",
    .operands = "[--] PROGRAM [ARGS...]",
    .line = "writes a trace of a program's calls of malloc and free",
    .text = "Runs PROGRAM and writes each call of malloc and its family to a file, which "
            "bench/replay plays under any allocator. Exit status: the program's, or 128 + N if "
            "signal N ended it; 125 without a trace.",
    .options = option_rows,
    .run = run,
};
