/* `hakmem profile`, `hakmem report` and `hakmem diff`: hand heap profiles to the program
   hakmem-report, which alone needs libdw and C++. No locks, no threads.

   `profile` has the library write raw profiles into a folder of its own, at the end and each few
   seconds, so that a program which a signal ends leaves its last one. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ask/ask.h"
#include "command/command.h"
#include "command/subcommand.h"
#include "report/raw_files.h"

enum {
    BY = 256,
    ROWS,
    PERIOD,
    INTERVAL,
    SECONDS,
    CHILDREN,
    RAW,
    TEXT,
    HTML,
    PPROF,
    FOLDED,
    HEAP,
    SUPPRESSIONS,
    MOST_ARGUMENTS = 14
};

/* What is asked of it. */
struct request {
    const char *format, *file, *by, *rows, *suppressions;
};

#define FORMAT_ROWS                                                                                \
    {'o', "output", "FILE", "where it is written; - is standard output"},                          \
        {TEXT, "text", NULL, "a table of call sites, and the largest stacks"},                     \
        {HTML, "html", NULL, "one page: flame graph, table, time line; needs no network"},         \
        {PPROF, "pprof", NULL, "pprof's gzipped protobuf"},                                        \
    {                                                                                              \
        FOLDED, "folded", NULL, "folded stacks, for flame graph tools"                             \
    }

#define BY_ROWS                                                                                    \
    {BY, "by", "FIELD",                                                                            \
     "what is counted: live_bytes (default), allocated_bytes, peak_bytes, pinned_bytes, ..."},     \
    {                                                                                              \
        ROWS, "rows", "N", "rows of --text (default 20)"                                           \
    }

static const struct command_option report_options[] = {
    FORMAT_ROWS,
    {HEAP, "heap", NULL, "gperftools' text format, for google-pprof"},
    BY_ROWS,
    {SUPPRESSIONS, "suppressions", "FILE",
     "of a leak report: lines leak:PATTERN, of what is not shown"},
    {0},
};

static const struct command_option diff_options[] = {FORMAT_ROWS, BY_ROWS, {0}};

static const struct command_option profile_options[] = {
    FORMAT_ROWS,
    {HEAP, "heap", NULL, "gperftools' text format, for google-pprof"},
    {RAW, "raw", NULL, "as the library writes it, for `hakmem report` and `hakmem diff`"},
    BY_ROWS,
    {PERIOD, "period", "BYTES", "one sample in so many allocated bytes (HAKMEM_PROFILE_PERIOD)"},
    {INTERVAL, "interval", "SECONDS",
     "a profile so often, of which the last is kept if a signal ends the program (default 2)"},
    {SECONDS, "seconds", "N",
     "of a running process: samples so long (default 10), or until it ends or Ctrl-C"},
    {CHILDREN, "children", NULL, "also of each other process that ran, to FILE.PID"},
    {0},
};

/* 1 if the option is one of those that go to the reporter. */
static int read_request(const struct subcommand *self, int id, const char *value,
                        struct request *request)
{
    static const struct {
        int id;
        const char *name;
    } formats[] = {{TEXT, "--text"},     {HTML, "--html"}, {PPROF, "--pprof"},
                   {FOLDED, "--folded"}, {HEAP, "--heap"}, {RAW, "--raw"}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (id == formats[i].id) {
            request->format = formats[i].name;
            return 1;
        }
    }
    switch (id) {
    case 'o':
        if (!*value) {
            command_misused(self, "'-o' needs a file");
        }
        request->file = value;
        return 1;
    case BY:
        request->by = value;
        return 1;
    case ROWS:
        (void)command_number(self, "--rows", value, 1);
        request->rows = value;
        return 1;
    case SUPPRESSIONS:
        request->suppressions = value;
        return 1;
    default:
        return 0;
    }
}

/* The reporter's arguments; `files` ends with NULL. */
static void make_arguments(char **out, const char *program, const struct request *request,
                           int is_diff, char **files)
{
    int n = 0;
    out[n++] = (char *)(uintptr_t)program;
    if (request->format) {
        out[n++] = (char *)(uintptr_t)request->format;
    }
    if (request->by) {
        out[n++] = (char *)(uintptr_t) "--by";
        out[n++] = (char *)(uintptr_t)request->by;
    }
    if (request->rows) {
        out[n++] = (char *)(uintptr_t) "--rows";
        out[n++] = (char *)(uintptr_t)request->rows;
    }
    if (request->suppressions) {
        out[n++] = (char *)(uintptr_t) "--suppressions";
        out[n++] = (char *)(uintptr_t)request->suppressions;
    }
    if (request->file) {
        out[n++] = (char *)(uintptr_t) "-o";
        out[n++] = (char *)(uintptr_t)request->file;
    }
    if (is_diff) {
        out[n++] = (char *)(uintptr_t) "--diff";
    }
    out[n++] = (char *)(uintptr_t) "--";
    while (*files) {
        out[n++] = *files++;
    }
    out[n] = NULL;
}

/* `report` and `diff` become the reporter. */
static int become_reporter(const struct subcommand *self, int argc, char **argv, int n_files)
{
    char program[PATH_MAX], *arguments[MOST_ARGUMENTS];
    struct request request = {0};
    const char *value;
    int id;
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        (void)read_request(self, id, value, &request);
    }
    if (argc - optind != n_files) {
        command_misused(self, n_files == 1 ? "needs one profile" : "needs two profiles");
    }
    if (command_enter_users_folder() != 0) {
        return CANNOT_RUN;
    }
    if (!raw_find_reporter(program)) {
        return NO_LIBRARY;
    }
    make_arguments(arguments, program, &request, n_files == 2, argv + optind);
    execv(program, arguments);
    command_complain(self, "%s: %s", program, strerror(errno));
    return CANNOT_RUN;
}

static int report(const struct subcommand *self, int argc, char **argv)
{
    return become_reporter(self, argc, argv, 1);
}

static int diff(const struct subcommand *self, int argc, char **argv)
{
    return become_reporter(self, argc, argv, 2);
}

/* ------------------------------------------------------------------------------------------------
   hakmem profile */

struct profiling {
    const struct subcommand *self;
    struct request request;
    const char *period, *interval, *seconds;
    int children, wants_interval;
    char folder[PATH_MAX]; /* of the raw profiles */
};

/* In the child: the library's options, and which process it is. 0, or -1 after saying why. */
static int prepare(void *context)
{
    const struct profiling *self = context;
    if (raw_prepare(self->self, self->folder, "HAKMEM_PROFILE") != 0) {
        return -1;
    }
    if (setenv("HAKMEM_PROFILE_INTERVAL", self->interval, 1) != 0 ||
        (self->period && setenv("HAKMEM_PROFILE_PERIOD", self->period, 1) != 0)) {
        command_complain(self->self, "%s", strerror(errno));
        return -1;
    }
    return 0;
}

/* One profile as it was asked for, to `to`. 0, or -1 after the reporter has said why. */
static int convert(const struct profiling *profiling, const char *raw, const char *to)
{
    char *files[] = {(char *)(uintptr_t)raw, NULL}, *arguments[MOST_ARGUMENTS];
    struct request request = profiling->request;
    static struct command_program program;
    int ran;
    if (strcmp(request.format, "--raw") == 0) {
        return raw_copy(profiling->self, raw, to);
    }
    if (!raw_find_reporter(program.found)) {
        return -1;
    }
    program.path = program.found;
    request.file = strcmp(to, RAW_STDERR) == 0 ? "-" : to;
    make_arguments(arguments, program.found, &request, 0, files);
    return command_run_child(&program, arguments, raw_run_reporter, (char *)(uintptr_t)to, &ran) ==
                   0
               ? 0
               : -1;
}

/* All that was profiled. 0, or NO_LIBRARY without a profile of the program. */
static int convert_all(const struct profiling *profiling)
{
    struct raw *raw;
    size_t n = raw_find(profiling->folder, &raw), others = 0;
    long pid = raw_pid(profiling->folder);
    const char *file = profiling->request.file;
    int found = 0, failed = 0, is_file = strcmp(file, "-") != 0 && strcmp(file, RAW_STDERR) != 0;
    for (size_t i = 0; i < n; i++) {
        char to[PATH_MAX + 32];
        int is_program = raw[i].pid == pid;
        found |= is_program;
        others += !is_program;
        if (is_program || profiling->children) {
            snprintf(to, sizeof to, is_program || !is_file ? "%s" : "%s.%ld", file, raw[i].pid);
            failed |= convert(profiling, raw[i].path, to) != 0;
            if (!failed && is_file) {
                fprintf(stderr, "hakmem: %s\n", to);
            }
        }
    }
    if (others && !profiling->children) {
        fprintf(stderr, "hakmem: %zu other process%s ran: --children keeps their profiles too\n",
                others, others == 1 ? "" : "es");
    }
    if (!found) {
        command_complain(
            profiling->self,
            "the program left no profile: it ended too early, or without libhakmem.so");
    }
    free(raw);
    return found && !failed ? 0 : NO_LIBRARY;
}

/* Where the profile goes if -o does not say. */
static const char *default_file(const char *format, const char *program, char *out)
{
    static const char *const suffixes[][2] = {{"--html", "html"},
                                              {"--pprof", "pb.gz"},
                                              {"--folded", "folded"},
                                              {"--heap", "heap"},
                                              {"--raw", "profile"}};
    const char *slash = strrchr(program, '/');
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (strcmp(format, suffixes[i][0]) == 0) {
            snprintf(out, PATH_MAX, "%s.%s", slash ? slash + 1 : program, suffixes[i][1]);
            return out;
        }
    }
    return RAW_STDERR; /* a text, beside what the program printed */
}

static void read_profile_options(int argc, char **argv, struct profiling *profiling)
{
    const struct subcommand *self = profiling->self;
    const char *value;
    int id;
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        if (read_request(self, id, value, &profiling->request)) {
            continue;
        }
        switch (id) {
        case PERIOD:
            (void)command_number(self, "--period", value, 1);
            profiling->period = value;
            break;
        case INTERVAL:
            (void)command_number(self, "--interval", value, 0);
            profiling->interval = value;
            profiling->wants_interval = 1;
            break;
        case SECONDS:
            (void)command_number(self, "--seconds", value, 1);
            profiling->seconds = value;
            break;
        default:
            profiling->children = 1;
        }
    }
    if (!argv[optind]) {
        command_misused(self, "needs a program, or a PID");
    }
}

/* 1 if the operands are a number alone. */
static int is_pid(char **operands)
{
    return !operands[1] && operands[0][strspn(operands[0], "0123456789")] == '\0';
}

static int profile_process(struct profiling *profiling, const char *pid)
{
    const struct subcommand *self = profiling->self;
    char raw[PATH_MAX + 16], named[PATH_MAX];
    if (profiling->wants_interval || profiling->children) {
        command_misused(self, "--interval and --children are for a program that it starts");
    }
    const struct ask_profile what = {
        .self = self,
        .pid = (int64_t)command_number(self, "PID", pid, 1),
        .period = profiling->period ? command_number(self, "--period", profiling->period, 1) : 0,
        .seconds =
            profiling->seconds ? command_number(self, "--seconds", profiling->seconds, 1) : 10,
        .wants_seconds = profiling->seconds != NULL,
        .file = raw,
    };
    if (command_enter_users_folder() != 0 || raw_make_folder(self, profiling->folder) != 0) {
        return CANNOT_RUN;
    }
    snprintf(raw, sizeof raw, "%s/raw", profiling->folder);
    const char *to = profiling->request.file ? profiling->request.file
                                             : default_file(profiling->request.format, pid, named);
    int status = ask_profile(&what);
    if (!status) {
        status = convert(profiling, raw, to) == 0 ? 0 : NO_LIBRARY;
    }
    if (!status && strcmp(to, "-") != 0 && strcmp(to, RAW_STDERR) != 0) {
        fprintf(stderr, "hakmem: %s\n", to);
    }
    raw_remove_folder(profiling->folder);
    return status;
}

static int profile(const struct subcommand *self, int argc, char **argv)
{
    static struct profiling profiling;
    static struct command_program program;
    char named[PATH_MAX];
    int ran;
    profiling.self = self;
    profiling.interval = "2";
    read_profile_options(argc, argv, &profiling);
    if (!profiling.request.format) {
        profiling.request.format = "--html";
    }
    char **arguments = argv + optind;
    if (is_pid(arguments)) {
        return profile_process(&profiling, arguments[0]);
    }
    if (profiling.seconds) {
        command_misused(self, "--seconds is for a running process");
    }
    int status = command_prepare(&program, &command_library, arguments);
    if (status || raw_make_folder(self, profiling.folder) != 0) {
        return status ? status : CANNOT_RUN;
    }
    if (!profiling.request.file) {
        profiling.request.file = default_file(profiling.request.format, arguments[0], named);
    }
    status = command_run_child(&program, arguments, prepare, &profiling, &ran);
    int failed = ran ? convert_all(&profiling) : 0;
    raw_remove_folder(profiling.folder);
    return status ? status : failed;
}

const struct subcommand subcommand_profile = {
    .name = "profile",
    .operands = "[--] PROGRAM [ARGS...] | PID",
    .line = "shows which lines of code hold the memory of a program or a running process",
    .text =
        "Samples what PROGRAM allocates (docs/profile.md), and writes a page PROGRAM.html at "
        "its end; with --text a table to standard error. Also a program that a signal ended "
        "leaves its profile, at most --interval seconds old.\n\nWith a number alone, the "
        "process PID samples for --seconds, and is read from outside, to PID.html; it opens no "
        "file and gets no signal. Blocks that it allocated before are not in the profile. One "
        "that samples already (HAKMEM_PROFILE) is read at once. Only its own user, or root, may "
        "do so. (A program of such a name: ./PID.)\n\nExit status: the program's, or 128 + N "
        "if signal N ended it; if that is 0, 125 without a profile. Of a process: 3 there is "
        "none or it has ended, 4 it may not be read and written, 5 hakmem or its profile is not "
        "in it, 6 of another version, 7 its memory cannot be read, 8 it did not answer since it "
        "took no fresh memory, or another command samples it.",
    .options = profile_options,
    .run = profile,
};

const struct subcommand subcommand_report = {
    .name = "report",
    .operands = "FILE",
    .line = "shows a heap profile that HAKMEM_PROFILE wrote, or leaks of HAKMEM_LEAKS",
    .text =
        "By default as text. Names come from the files that the process had mapped, where "
        "their build ID is still the same, and from their debug information. Exit status: 1 if "
        "a file cannot be read or written; 3 if it is a leak report, shown as text, with leaks.",
    .options = report_options,
    .run = report,
};

const struct subcommand subcommand_diff = {
    .name = "diff",
    .operands = "FILE FILE",
    .line = "shows what grew between two heap profiles",
    .text = "The first profile is the earlier one. By default as text; --folded prints both values "
            "of each stack, --pprof the difference.",
    .options = diff_options,
    .run = diff,
};
