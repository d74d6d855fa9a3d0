/* Plays a trace under one contender, and measures it from outside. No locks, no threads: the replay
   runs alone.

   Resident memory is read from /proc/PID/statm each two milliseconds of the play; the peak is the
   kernel's. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "advise/advise.h"

enum { STEP_NS = 2000000, OUTPUT = 4096 };

struct run {
    int status;
    double peak_bytes, sum_bytes, n_samples;
    char output[OUTPUT];
};

/* No other setting of hakmem counts. 0, or -1 without memory. */
static int forget_settings(void)
{
    for (char **at = environ; *at;) {
        size_t n = strncmp(*at, "HAKMEM_", 7) == 0 ? strcspn(*at, "=") : 0;
        char *name = n ? strndup(*at, n) : NULL;
        if (!n) {
            at++;
        } else if (!name || unsetenv(name) != 0) {
            free(name);
            return -1;
        }
        free(name);
    }
    return 0;
}

/* In the child. */
static _Noreturn void become(const struct advise_contender *contender, char *const *arguments,
                             int out)
{
    int failed = dup2(out, STDOUT_FILENO) < 0;
    failed |= forget_settings() != 0;
    if (contender->setting) {
        char *copy = strdup(contender->setting);
        failed |= !copy || putenv(copy) != 0;
    }
    failed |= *contender->library ? setenv("LD_PRELOAD", contender->library, 1) != 0
                                  : unsetenv("LD_PRELOAD") != 0;
    if (!failed) {
        execv(arguments[0], arguments);
    }
    _exit(127);
}

static double resident(pid_t pid)
{
    char path[64];
    unsigned long total, pages = 0;
    snprintf(path, sizeof path, "/proc/%ld/statm", (long)pid);
    FILE *file = fopen(path, "re");
    if (file) {
        if (fscanf(file, "%lu %lu", &total, &pages) != 2) {
            pages = 0;
        }
        fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* Waits for its end. The replay prints a line when it begins to play, from when on resident memory
   counts, and one at its end; both fit into the pipe. */
static void watch(pid_t pid, int output, struct run *run)
{
    struct rusage usage;
    struct timespec step = {0, STEP_NS};
    pid_t ended;
    while ((ended = wait4(pid, &run->status, WNOHANG, &usage)) == 0 ||
           (ended < 0 && errno == EINTR)) {
        struct pollfd line = {output, POLLIN, 0};
        if (poll(&line, 1, 0) > 0) {
            double bytes = resident(pid);
            run->sum_bytes += bytes;
            run->n_samples += bytes > 0;
        }
        nanosleep(&step, NULL);
    }
    run->peak_bytes = (double)usage.ru_maxrss * 1024;
}

static const char *start(const struct advise_contender *contender, char *const *arguments,
                         struct run *run)
{
    int ends[2];
    memset(run, 0, sizeof *run);
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return strerror(errno);
    }
    pid_t pid = fork();
    if (pid == 0) {
        become(contender, arguments, ends[1]);
    }
    int error = errno;
    close(ends[1]);
    if (pid > 0) {
        watch(pid, ends[0], run);
        ssize_t n = read(ends[0], run->output, OUTPUT - 1);
        run->output[n > 0 ? n : 0] = '\0';
    }
    close(ends[0]);
    if (pid < 0) {
        return strerror(error);
    }
    if (!WIFEXITED(run->status) || WEXITSTATUS(run->status) != 0) {
        return "the replay failed under it";
    }
    return NULL;
}

/* `malloc: PATH`, or of libc. */
static const char *prove(struct advise_contender *contender, const char *replay)
{
    char *arguments[] = {(char *)(uintptr_t)replay, (char *)(uintptr_t) "--whoami", NULL};
    struct run run;
    const char *wrong = start(contender, arguments, &run);
    if (wrong) {
        return wrong;
    }
    const char *wanted = *contender->library ? strrchr(contender->library, '/') : "/libc.so";
    const char *line = strstr(run.output, "malloc: ");
    const char *end = line ? strchrnul(line, '\n') : NULL;
    const char *found = line ? strstr(line, wanted) : NULL;
    return found && found < end ? NULL : "it does not serve malloc when it is preloaded";
}

/* A number that stands behind a word in the replay's line. */
static int number_of(const char *output, const char *word, double *value)
{
    const char *at = strstr(output, word);
    char *end;
    if (!at) {
        return 0;
    }
    *value = strtod(at + strlen(word), &end);
    return end != at + strlen(word);
}

const char *advise_measure(struct advise_contender *contender, const char *replay,
                           const char *trace, unsigned repeat, size_t round)
{
    char times[16];
    char *arguments[] = {(char *)(uintptr_t)replay, (char *)(uintptr_t) "--repeat", times,
                         (char *)(uintptr_t)trace, NULL};
    struct run run;
    double per_second, calls, own;
    if (round == SIZE_MAX) {
        return prove(contender, replay);
    }
    snprintf(times, sizeof times, "%u", repeat);
    const char *wrong = start(contender, arguments, &run);
    if (wrong) {
        return wrong;
    }
    if (!number_of(run.output, "Throughput = ", &per_second) || per_second <= 0 ||
        !number_of(run.output, "[iter=", &calls) || !number_of(run.output, " own=", &own)) {
        return "the replay printed something else";
    }
    double mean = run.n_samples > 0 ? run.sum_bytes / run.n_samples : run.peak_bytes;
    contender->value[ADVISE_TIME][round] = calls / per_second;
    contender->value[ADVISE_PEAK][round] = run.peak_bytes > own ? run.peak_bytes - own : 1;
    contender->value[ADVISE_RESIDENT][round] = mean > own ? mean - own : 1;
    return NULL;
}
