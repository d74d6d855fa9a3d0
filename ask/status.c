/* `hakmem status` and `hakmem stats`: one look at a process, or at a core file. */
#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "ask/ask.h"
#include "ask/show.h"

enum { JSON = 256, PROMETHEUS, CORE };

static const struct command_option status_options[] = {
    {CORE, "core", "FILE", "looks at a core file instead of a process"},
    {0},
};

static const struct command_option stats_options[] = {
    {JSON, "json", NULL, "prints one JSON document (docs/stats.md has its schema)"},
    {PROMETHEUS, "prometheus", NULL, "prints the text format that Prometheus reads"},
    {CORE, "core", "FILE", "looks at a core file instead of a process"},
    {0},
};

static void print_summary(const struct ask_target *target, const struct ask_look *look)
{
    show_summary(stdout, target, look);
}

static void print_all(const struct ask_target *target, const struct ask_look *look)
{
    printf("%s (%s): hakmem %s %s\n\n", target->name, target->program, look->survey.layout.release,
           look->survey.layout.variant);
    show_rows(stdout, look);
    putchar('\n');
    show_classes(stdout, look, NULL, 0);
    putchar('\n');
    show_heaps(stdout, look, 0);
}

static void print_json(const struct ask_target *target, const struct ask_look *look)
{
    struct survey_subject subject = {target->pid, target->program, look->resident};
    fflush(stdout);
    hak_survey_json(&look->survey, look->heaps, look->n_heaps, &subject, STDOUT_FILENO);
}

static void print_prometheus(const struct ask_target *target, const struct ask_look *look)
{
    show_prometheus(stdout, target, look);
}

typedef void (*printer)(const struct ask_target *target, const struct ask_look *look);

static int ask(const struct subcommand *self, int argc, char **argv, printer print)
{
    struct ask_target target;
    struct ask_error error = {0, ""};
    const char *value, *core = NULL;
    int id, n_formats = 0;
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        if (id == CORE) {
            core = value;
        } else {
            print = id == JSON ? print_json : print_prometheus;
            n_formats++;
        }
    }
    if (n_formats > 1) {
        command_misused(self, "--json and --prometheus exclude each other");
    }
    int status = show_open(self, &target, argv + optind, core);
    struct ask_look *look = status ? NULL : ask_look(&target, &error);
    if (look) {
        print(&target, look);
        status = fflush(stdout) == 0 ? 0 : 1;
    } else if (!status) {
        status = show_refusal(self, &error);
    }
    ask_drop(look);
    ask_close(&target);
    return status;
}

static int run_status(const struct subcommand *self, int argc, char **argv)
{
    return ask(self, argc, argv, print_summary);
}

static int run_stats(const struct subcommand *self, int argc, char **argv)
{
    return ask(self, argc, argv, print_all);
}

const struct subcommand subcommand_status = {
    .name = "status",
    .operands = "[PID]",
    .line = "says in some lines what memory a running process holds",
    .text = SHOW_STATUSES,
    .options = status_options,
    .run = run_status,
};

const struct subcommand subcommand_stats = {
    .name = "stats",
    .operands = "[PID]",
    .line = "prints all statistics of a running process, by size class and by heap",
    .text = "docs/stats.md says what each means. " SHOW_STATUSES,
    .options = stats_options,
    .run = run_stats,
};
