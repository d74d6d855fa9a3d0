/* `hakmem advise`: records a program, or takes a trace, and plays it under hakmem, its settings and
   the allocators that are installed, in rounds. No locks, no threads. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "advise/advise.h"
#include "command/command.h"
#include "command/subcommand.h"
#include "trace/record.h"
#include "trace/trace.h"

enum {
    CALLS = 256,
    ROUNDS,
    SECONDS,
    HTML,
    TRACE,
    DEFAULT_SECONDS = 60,
    DEFAULT_ROUNDS = 15,
    MOST_SECONDS = 86400,
    MOST_REPEATS = 1000
};

/* A run shorter than this is mostly the start of the program, in seconds. */
#define SHORTEST_RUN 0.1

static const struct command_library replay_program = {
    "hakmem-replay", "hakmem-replay", "hakmem/bench/replay/replay_glibc", "HAK_REPLAY_PROGRAM"};

static const struct command_option option_rows[] = {
    {'o', "output", "FILE", "where the advice is written; by default standard output"},
    {HTML, "html", NULL, "as a page that needs no network; by default PROGRAM.advice.html"},
    {TRACE, "trace", "FILE", "plays this trace of `hakmem record`, and runs no program"},
    {CALLS, "calls", "N", "records the first N calls alone (default 3000000)"},
    {ROUNDS, "rounds", "N",
     "so many rounds, 6 to 99; by default what fits into --seconds, 9 to 15"},
    {SECONDS, "seconds", "N", "how long the rounds may take (default 60)"},
    {0},
};

struct options {
    const char *file, *trace, *calls;
    int html;
    size_t rounds, seconds;
    char **program;
};

static size_t number_within(const struct subcommand *self, const char *what, const char *text,
                            size_t lowest, size_t most)
{
    unsigned long long n = command_number(self, what, text, lowest);
    if (n > most) {
        command_misused(self, "'%s' takes at most %zu", what, most);
    }
    return (size_t)n;
}

static void read_options(const struct subcommand *self, int argc, char **argv,
                         struct options *options)
{
    const char *value;
    int id;
    *options = (struct options){.calls = "3000000", .seconds = DEFAULT_SECONDS};
    while ((id = command_next_option(self, argc, argv, &value)) != -1) {
        switch (id) {
        case 'o':
            options->file = value;
            break;
        case HTML:
            options->html = 1;
            break;
        case TRACE:
            options->trace = value;
            break;
        case CALLS:
            (void)command_number(self, "--calls", value, 1);
            options->calls = value;
            break;
        case ROUNDS:
            options->rounds =
                number_within(self, "--rounds", value, ADVISE_FEWEST_ROUNDS, ADVISE_MOST_ROUNDS);
            break;
        default:
            options->seconds = number_within(self, "--seconds", value, 1, MOST_SECONDS);
        }
    }
    options->program = argv + optind;
    if (!options->program[0] != !!options->trace) {
        command_misused(self, options->trace ? "takes a program or --trace, not both"
                                             : "needs a program, or --trace");
    }
}

/* Where a build has made it, seen from this program. */
static int find_in_build(char *out)
{
    char self[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        return 0;
    }
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(path, sizeof path, "%s/../bench/replay/replay_glibc", self);
    return access(path, X_OK) == 0 && realpath(path, out);
}

/* Records the program, as `hakmem record` does. 0, or an exit status. */
static int record(const struct options *options, const char *trace)
{
    size_t n = 0;
    while (options->program[n]) {
        n++;
    }
    const char *head[] = {"record", "-o", trace, "--calls", options->calls, "--"};
    size_t n_head = sizeof head / sizeof *head;
    char **arguments = calloc(n_head + n + 1, sizeof *arguments);
    if (!arguments) {
        perror("hakmem: advise");
        return CANNOT_RUN;
    }
    memcpy(arguments, head, sizeof head);
    memcpy(arguments + n_head, options->program, n * sizeof *arguments);
    optind = 0; /* getopt_long begins again */
    int status = subcommand_record.run(&subcommand_record, (int)(n_head + n), arguments);
    free(arguments);
    if (access(trace, R_OK) != 0) {
        return status ? status : NO_LIBRARY;
    }
    if (status) {
        fprintf(stderr, "hakmem: advise: the program ended with status %d\n", status);
    }
    return 0;
}

/* What is in the trace. NULL, or what is wrong with it. */
static const char *read_trace(const char *path, struct advise_trace *out)
{
    struct stat status;
    struct trace_reader reader;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        return strerror(errno);
    }
    size_t bytes = (size_t)status.st_size;
    void *map = bytes ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    close(fd);
    if (!map || map == MAP_FAILED) {
        return bytes ? strerror(errno) : "it is empty";
    }
    const char *wrong = trace_open(&reader, map, bytes);
    if (!wrong && reader.header->n_calls == 0) {
        wrong = "no calls were recorded";
    }
    if (!wrong) {
        out->calls = reader.header->n_calls;
        out->threads = reader.header->n_threads;
        out->peak_bytes = reader.header->peak_bytes;
    }
    munmap(map, bytes);
    return wrong;
}

/* Marsaglia's xorshift: in which order the contenders of a round run. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void drop(struct advise_plan *plan, size_t c)
{
    plan->n_contenders--;
    memmove(&plan->contenders[c], &plan->contenders[c + 1],
            (plan->n_contenders - c) * sizeof *plan->contenders);
}

/* Proves each contender and runs it once. Those that fail are left out and named; 0, or -1 without
   hakmem itself. *seconds: of the round. */
static int try_all(const struct subcommand *self, struct advise_plan *plan, const char *replay,
                   const char *trace, double *seconds)
{
    *seconds = 0;
    for (size_t c = 0; c < plan->n_contenders;) {
        struct advise_contender *contender = &plan->contenders[c];
        const char *wrong = advise_measure(contender, replay, trace, 1, SIZE_MAX);
        wrong = wrong ? wrong : advise_measure(contender, replay, trace, 1, 0);
        if (!wrong) {
            *seconds += contender->value[ADVISE_TIME][0];
            c++;
            continue;
        }
        command_complain(self, "%s: %s", contender->name, wrong);
        if (c == 0) {
            return -1;
        }
        drop(plan, c);
    }
    return 0;
}

static int measure_all(const struct subcommand *self, struct advise_plan *plan, const char *replay,
                       const char *trace, const struct options *options)
{
    double round;
    uint64_t state = 0x9e3779b97f4a7c15u;
    if (try_all(self, plan, replay, trace, &round) != 0) {
        return -1;
    }
    double once = plan->contenders[0].value[ADVISE_TIME][0];
    double wanted = once > 0 ? SHORTEST_RUN / once : MOST_REPEATS;
    unsigned repeat = wanted <= 1 ? 1 : wanted > MOST_REPEATS ? MOST_REPEATS : (unsigned)wanted + 1;
    double fits = (double)options->seconds / (round * repeat + 0.02 * (double)plan->n_contenders);
    /* With fewer, so many contenders at once cannot be told apart. */
    size_t fewest = 9, n = fits > DEFAULT_ROUNDS ? DEFAULT_ROUNDS : (size_t)fits;
    plan->n_rounds = options->rounds ? options->rounds : n < fewest ? fewest : n;
    fprintf(stderr, "hakmem: advise: %zu rounds of %zu contenders, about %.0f s\n", plan->n_rounds,
            plan->n_contenders, (double)plan->n_rounds * round * repeat);
    for (size_t i = 0; i < plan->n_rounds; i++) {
        size_t order[ADVISE_MOST_CONTENDERS] = {0};
        for (size_t c = 0; c < plan->n_contenders; c++) {
            size_t other = next_random(&state) % (c + 1);
            order[c] = order[other];
            order[other] = c;
        }
        for (size_t c = 0; c < plan->n_contenders; c++) {
            struct advise_contender *contender = &plan->contenders[order[c]];
            const char *wrong = advise_measure(contender, replay, trace, repeat, i);
            if (wrong) {
                command_complain(self, "%s: %s", contender->name, wrong);
                return -1;
            }
            contender->value[ADVISE_TIME][i] /= repeat;
        }
    }
    return 0;
}

static int write_advice(const struct subcommand *self, const struct options *options,
                        const struct advise_plan *plan, const struct advise_trace *trace)
{
    char named[PATH_MAX];
    const char *file = options->file ? options->file : "-";
    if (options->html && !options->file) {
        const char *slash = strrchr(trace->program, '/');
        snprintf(named, sizeof named, "%s.advice.html", slash ? slash + 1 : trace->program);
        file = named;
    }
    FILE *out = strcmp(file, "-") == 0 ? stdout : fopen(file, "we");
    if (out) {
        (options->html ? advise_write_page : advise_write_text)(plan, trace, out);
    }
    int failed = !out || ferror(out);
    if (out) {
        failed |= (out == stdout ? fflush(out) : fclose(out)) != 0;
    }
    if (failed) {
        command_complain(self, "%s: %s", file, strerror(errno));
        return 1;
    }
    if (out != stdout) {
        fprintf(stderr, "hakmem: %s\n", file);
    }
    return 0;
}

/* With a trace at hand. */
static int advise(const struct subcommand *self, const struct options *options, const char *path)
{
    static struct advise_plan plan;
    static char replay[PATH_MAX], library[PATH_MAX];
    struct advise_trace trace = {.program = options->trace ? options->trace : options->program[0]};
    if (!command_find_library(&command_library, library)) {
        command_say_no_library(&command_library);
        return NO_LIBRARY;
    }
    if (!command_find_library(&replay_program, replay) && !find_in_build(replay)) {
        command_say_no_library(&replay_program);
        return NO_LIBRARY;
    }
    static char whole[PATH_MAX]; /* a bare name would mean the replay's own traces */
    path = realpath(path, whole) ? whole : path;
    const char *wrong = read_trace(path, &trace);
    if (wrong) {
        command_complain(self, "%s: %s", path, wrong);
        return options->trace ? BAD_USAGE : NO_LIBRARY;
    }
    advise_find_contenders(&plan, library);
    return measure_all(self, &plan, replay, path, options) != 0
               ? NO_LIBRARY
               : write_advice(self, options, &plan, &trace);
}

static int run(const struct subcommand *self, int argc, char **argv)
{
    struct options options;
    char folder[PATH_MAX], trace[PATH_MAX + 16];
    read_options(self, argc, argv, &options);
    if (command_enter_users_folder() != 0) {
        return CANNOT_RUN;
    }
    (void)unsetenv("BUILD_WORKING_DIRECTORY"); /* `record` would go there again */
    if (options.trace) {
        return advise(self, &options, options.trace);
    }
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/hakmem-advise-XXXXXX",
             temporary && *temporary == '/' ? temporary : "/tmp");
    if (!mkdtemp(folder)) {
        command_complain(self, "%s: %s", folder, strerror(errno));
        return CANNOT_RUN;
    }
    snprintf(trace, sizeof trace, "%s/trace", folder);
    int status = record(&options, trace);
    status = status ? status : advise(self, &options, trace);
    (void)unlink(trace);
    (void)rmdir(folder);
    return status;
}

const struct subcommand subcommand_advise = {
    .name = "advise",
    .operands = "[[--] PROGRAM [ARGS...]]",
    .line = "says which setting or allocator would need less time or memory",
    .text = "Runs PROGRAM once and records its calls of malloc and free. Then it plays them, in "
            "rounds, under hakmem, under hakmem with each of the options that matter, and under "
            "libc's malloc, jemalloc, mimalloc, tcmalloc and tbbmalloc where they are installed; "
            "and says what would be gained by which, with how sure that is.\n\nExit status: 0; 1 "
            "if the advice cannot be written; 125 if nothing could be recorded or played.",
    .options = option_rows,
    .run = run,
};
