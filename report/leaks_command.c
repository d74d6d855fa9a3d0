/* `hakmem leaks`: runs a program and says what it has lost. The library writes a raw report when
   the program ends (docs/leaks.md); hakmem-report makes text of it, and tells by its exit status
   whether there is a leak that nothing suppresses. No locks, no threads. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command/command.h"
#include "command/subcommand.h"
#include "report/raw_files.h"

enum {
    SUPPRESSIONS = 256,
    EXIT_STATUS,
    ROWS,
    CHILDREN,
    RAW,
    /* Of hakmem-report. */
    LEAKS_FOUND = 3,
    /* Ours, as LeakSanitizer's. */
    DEFAULT_STATUS = 23,
    MOST_STATUS = 255
};

struct looking {
    const struct subcommand *self;
    const char *file, *suppressions, *rows;
    int children, raw, exit_status;
    char folder[PATH_MAX];
    size_t n_reports, n_leaking, n_failed, n_others;
};

static const struct command_option options[] = {
    {'o', "output", "FILE", "where it is written; - is standard output (default: standard error)"},
    {SUPPRESSIONS, "suppressions", "FILE",
     "what is known and stays: lines leak:PATTERN, as LeakSanitizer reads them"},
    {EXIT_STATUS, "exit-status", "N",
     "the exit status where there are leaks and the program's own is 0 (default 23)"},
    {ROWS, "rows", "N", "so many call sites and stacks (default 20)"},
    {CHILDREN, "children", NULL, "also of each other process that ran, to FILE.PID"},
    {RAW, "raw", NULL, "as the library writes it, for `hakmem report`, and FILE is needed"},
    {0},
};

static void read_options(int argc, char **argv, struct looking *looking)
{
    const struct subcommand *self = looking->self;
    const char *value;
    int id;
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        switch (id) {
        case 'o':
            if (!*value) {
                command_misused(self, "'-o' needs a file");
            }
            looking->file = value;
            break;
        case SUPPRESSIONS:
            looking->suppressions = value;
            break;
        case EXIT_STATUS: {
            unsigned long long status = command_number(self, "--exit-status", value, 0);
            if (status > MOST_STATUS) {
                command_misused(self, "--exit-status takes 0 to 255, not '%s'", value);
            }
            looking->exit_status = (int)status;
            break;
        }
        case ROWS:
            (void)command_number(self, "--rows", value, 1);
            looking->rows = value;
            break;
        case CHILDREN:
            looking->children = 1;
            break;
        default:
            looking->raw = 1;
        }
    }
    if (!argv[optind]) {
        command_misused(self, "needs a program");
    }
    if (looking->raw && !looking->file) {
        command_misused(self, "--raw needs -o FILE");
    }
    if (looking->suppressions && access(looking->suppressions, R_OK) != 0) {
        command_complain(self, "%s: %s", looking->suppressions, strerror(errno));
        exit(BAD_USAGE);
    }
}

static int prepare(void *looking_)
{
    const struct looking *looking = looking_;
    return raw_prepare(looking->self, looking->folder, "HAKMEM_LEAKS");
}

/* One report. */
static void show(struct looking *looking, const char *raw, const char *to)
{
    static struct command_program program;
    char *arguments[10];
    int n = 0, ran;
    if (looking->raw && raw_copy(looking->self, raw, to) != 0) {
        looking->n_failed++;
    }
    if (!raw_find_reporter(program.found)) {
        looking->n_failed++;
        return;
    }
    program.path = program.found;
    arguments[n++] = program.found;
    if (looking->suppressions) {
        arguments[n++] = (char *)(uintptr_t) "--suppressions";
        arguments[n++] = (char *)(uintptr_t)looking->suppressions;
    }
    if (looking->rows) {
        arguments[n++] = (char *)(uintptr_t) "--rows";
        arguments[n++] = (char *)(uintptr_t)looking->rows;
    }
    /* What is kept raw is read too, for the exit status. */
    const char *out = looking->raw ? "/dev/null" : *to ? to : "-";
    arguments[n++] = (char *)(uintptr_t) "-o";
    arguments[n++] = (char *)(uintptr_t)out;
    arguments[n++] = (char *)(uintptr_t)raw;
    arguments[n] = NULL;
    int status =
        command_run_child(&program, arguments, raw_run_reporter, (char *)(uintptr_t)to, &ran);
    looking->n_leaking += ran && status == LEAKS_FOUND;
    looking->n_failed += !ran || (status && status != LEAKS_FOUND);
}

static void show_all(struct looking *looking)
{
    struct raw *raw;
    size_t n = raw_find(looking->folder, &raw);
    long pid = raw_pid(looking->folder);
    const char *file = looking->file ? looking->file : RAW_STDERR;
    int is_file = *file && strcmp(file, "-") != 0;
    for (size_t i = 0; i < n; i++) {
        char to[PATH_MAX + 32];
        int is_program = raw[i].pid == pid;
        looking->n_reports += is_program || looking->children;
        looking->n_others += !is_program;
        if (is_program || looking->children) {
            snprintf(to, sizeof to, is_program || !is_file ? "%s" : "%s.%ld", file, raw[i].pid);
            show(looking, raw[i].path, to);
            if (is_file && !looking->n_failed) {
                fprintf(stderr, "hakmem: %s\n", to);
            }
        }
    }
    free(raw);
}

/* The exit status, where the program has ended with `status`. */
static int judge(const struct looking *looking, int status)
{
    if (looking->n_others && !looking->children) {
        fprintf(stderr, "hakmem: %zu other process%s ran: --children looks at them too\n",
                looking->n_others, looking->n_others == 1 ? "" : "es");
    }
    if (!looking->n_reports) {
        command_complain(looking->self, "the program left no report: a signal, _exit or exec ended "
                                        "it, or it ran without libhakmem.so");
    }
    if (status) {
        if (status == looking->exit_status || status == NO_LIBRARY) {
            fprintf(stderr, "hakmem: %d is the program's own exit status\n", status);
        }
        return status;
    }
    return !looking->n_reports || looking->n_failed ? NO_LIBRARY
           : looking->n_leaking                     ? looking->exit_status
                                                    : 0;
}

static int leaks(const struct subcommand *self, int argc, char **argv)
{
    static struct looking looking;
    static struct command_program program;
    int ran;
    looking.self = self;
    looking.exit_status = DEFAULT_STATUS;
    read_options(argc, argv, &looking);
    char **arguments = argv + optind;
    int status = command_prepare(&program, &command_library, arguments);
    if (status || raw_make_folder(self, looking.folder) != 0) {
        return status ? status : CANNOT_RUN;
    }
    status = command_run_child(&program, arguments, prepare, &looking, &ran);
    if (ran) {
        show_all(&looking);
        status = judge(&looking, status);
    }
    raw_remove_folder(looking.folder);
    return status;
}

const struct subcommand subcommand_leaks = {
    .name = "leaks",
    .operands = "[--] PROGRAM [ARGS...]",
    .line = "runs a program and shows which of its memory nothing leads to any more",
    .text =
        "Looks at PROGRAM's memory when it exits, or when SIGINT or SIGTERM ends it, for blocks "
        "that no pointer leads to, and names who allocated them (docs/leaks.md).\n\nExit "
        "status: the program's, or 128 + N if signal N ended it; if that is 0, 23 (or "
        "--exit-status) where there are leaks that nothing suppresses, and 125 without a "
        "report. A line on standard error says so where the program itself ended with one of "
        "these.",
    .options = options,
    .run = leaks,
};
