/* `hakmem top`: looks again and again, at one process or at all that run on hakmem. */
#include <ctype.h>
#include <dirent.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "ask/ask.h"
#include "ask/show.h"

enum { MOST_CLASSES = 15, MOST_HEAPS = 8 };

static const struct command_option options[] = {
    {'d', "delay", "SECONDS", "looks again after so long (a decimal number, 1 by default)"},
    {'n', "count", "N", "ends after N looks; by default when the process ends, or by Ctrl-C"},
    {0},
};

struct plan {
    struct timespec delay;
    unsigned long long n; /* looks; 0: for ever */
};

static struct timespec delay_of(const struct subcommand *self, const char *text)
{
    char *end;
    double seconds = strtod(text, &end);
    if (*end || !(seconds >= 0.01 && seconds <= 86400)) {
        command_misused(self, "--delay: '%s' is no number of seconds from 0.01 to 86400", text);
    }
    struct timespec delay = {(time_t)seconds, 0};
    delay.tv_nsec = (long)((seconds - (double)delay.tv_sec) * 1e9);
    return delay;
}

/* On a terminal each picture takes the place of the last. */
static void begin_picture(int is_first)
{
    if (isatty(STDOUT_FILENO)) {
        fputs("\033[H\033[J", stdout);
    } else if (!is_first) {
        putchar('\n');
    }
}

static void print_rates(const struct ask_look *look, const struct ask_look *before)
{
    const struct hak_stats *now = &look->survey.stats, *then = &before->survey.stats;
    double passed = (double)(look->at_ns - before->at_ns) / 1e9;
#define RATE(text, name)                                                                           \
    printf("  %-16s%12s  a second\n", text, show_bytes((double)(now->name - then->name) / passed))
#define COUNT(text, now_value, then_value)                                                         \
    printf("  %-16s%12.0f  a second\n", text, (double)((now_value) - (then_value)) / passed)
    printf(
        "  %-16s%12s  a second\n", "live grows by",
        show_bytes((double)(look->survey.derived.live_bytes - before->survey.derived.live_bytes) /
                   passed));
    RATE("fresh", fresh_bytes);
    RATE("returned", returned_bytes);
    COUNT("bins filled", now->refills, then->refills);
    COUNT("above 32 KiB", look->survey.derived.large_hits + look->survey.derived.large_misses,
          before->survey.derived.large_hits + before->survey.derived.large_misses);
    COUNT("failed", now->failed_requests, then->failed_requests);
#undef RATE
#undef COUNT
}

/* `before`: the last look, or NULL. */
static void print_one(const struct ask_target *target, const struct ask_look *look,
                      const struct ask_look *before)
{
    begin_picture(!before);
    show_summary(stdout, target, look);
    if (before) {
        print_rates(look, before);
    }
    putchar('\n');
    show_classes(stdout, look, before, MOST_CLASSES);
    putchar('\n');
    show_heaps(stdout, look, MOST_HEAPS);
    fflush(stdout);
}

static int top_of_one(const struct subcommand *self, char **operands, const struct plan *plan)
{
    struct ask_target target;
    struct ask_error error = {0, ""};
    struct ask_look *before = NULL;
    int status = show_open(self, &target, operands, NULL);
    for (unsigned long long i = 0; !status && (!plan->n || i < plan->n); i++) {
        if (i) {
            nanosleep(&plan->delay, NULL);
        }
        struct ask_look *look = ask_look(&target, &error);
        if (look) {
            print_one(&target, look, before);
            ask_drop(before);
            before = look;
        } else if (i && error.status == ASK_NO_PROCESS) {
            printf("%s\n", error.text); /* it has ended: so does this */
            break;
        } else {
            status = show_refusal(self, &error);
        }
    }
    ask_drop(before);
    ask_close(&target);
    return status;
}

/* --- all processes --- */

struct line {
    int64_t pid;
    char program[64];
    int64_t live, kept, held, failed;
    uint64_t resident, fragmentation;
};

static int by_held(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    return x->held != y->held ? (x->held < y->held ? 1 : -1) : (x->pid < y->pid ? -1 : 1);
}

/* Adds a process that runs on hakmem and may be read. */
static void add_process(struct line *lines, size_t room, size_t *n, int64_t pid)
{
    struct ask_target target;
    struct ask_error error;
    struct ask_look *look = NULL;
    if (*n < room && ask_open_process(&target, pid, &error) == 0 &&
        (look = ask_look(&target, &error)) != NULL) {
        const struct survey *survey = &look->survey;
        struct line *line = &lines[(*n)++];
        *line = (struct line){.pid = pid,
                              .live = survey->derived.live_bytes,
                              .kept = survey->derived.kept_bytes,
                              .held = survey->derived.held_bytes,
                              .failed = survey->stats.failed_requests,
                              .resident = look->resident,
                              .fragmentation = hak_survey_fragmentation(survey)};
        snprintf(line->program, sizeof line->program, "%s", target.program);
    }
    ask_drop(look);
    ask_close(&target);
}

static void print_processes(const struct line *lines, size_t n)
{
    printf("%8s %10s %10s %10s %10s %6s %7s  %s\n", "PID", "live", "kept", "held", "resident",
           "frag", "failed", "program");
    for (size_t i = 0; i < n; i++) {
        printf("%8" PRId64 " %10s %10s %10s %10s %5" PRIu64 "%% %7" PRId64 "  %s\n", lines[i].pid,
               show_bytes((double)lines[i].live), show_bytes((double)lines[i].kept),
               show_bytes((double)lines[i].held), show_bytes((double)lines[i].resident),
               lines[i].fragmentation / 10, lines[i].failed, lines[i].program);
    }
    fflush(stdout);
}

static int top_of_all(const struct subcommand *self, const struct plan *plan)
{
    enum { MOST = 4096 };
    struct line *lines = calloc(MOST, sizeof *lines);
    for (unsigned long long i = 0; lines && (!plan->n || i < plan->n); i++) {
        size_t n = 0;
        if (i) {
            nanosleep(&plan->delay, NULL);
        }
        DIR *all = opendir("/proc");
        for (struct dirent *entry; all && (entry = readdir(all)) != NULL;) {
            if (isdigit((unsigned char)*entry->d_name) && atoll(entry->d_name) != getpid()) {
                add_process(lines, MOST, &n, atoll(entry->d_name));
            }
        }
        if (!all) {
            command_complain(self, "/proc cannot be read");
            free(lines);
            return ASK_UNREADABLE;
        }
        closedir(all);
        qsort(lines, n, sizeof *lines, by_held);
        begin_picture(i == 0);
        print_processes(lines, n);
    }
    free(lines);
    return 0;
}

static int run(const struct subcommand *self, int argc, char **argv)
{
    struct plan plan = {{1, 0}, 0};
    const char *value;
    int id;
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        if (id == 'd') {
            plan.delay = delay_of(self, value);
        } else {
            plan.n = command_number(self, "--count", value, 1);
        }
    }
    return argv[optind] ? top_of_one(self, argv + optind, &plan) : top_of_all(self, &plan);
}

const struct subcommand subcommand_top = {
    .name = "top",
    .operands = "[PID]",
    .line = "shows what memory a process holds, again and again, with what has changed",
    .text =
        "Without a PID: a line for each process that runs on hakmem and may be read, those that "
        "hold most first. " SHOW_STATUSES,
    .options = options,
    .run = run,
};
