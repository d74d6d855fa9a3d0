// measure [-p LIBRARY] PROGRAM ARGS: runs a program to its end and writes what it used to
// descriptor 3, as one JSON object.
//
// compare.py starts every workload through this, because Linux counts the memory of the process
// that calls exec into ru_maxrss of the program that it becomes: a child of a Python process never
// shows less than Python's own memory. The floor here is the 1 MiB or so of this program. -p
// LIBRARY sets LD_PRELOAD for the program alone. Resident memory is sampled while it runs, and once
// more when it ends, before its memory is taken down: what is left after everything was freed. No
// locks, no threads. Exit status: that of the program; 128 + N after signal N; 126 if it cannot be
// run; 127 if it is not there; 125 if something goes wrong here.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REPORT_FD = 3, FAILED_HERE = 125, CANNOT_RUN = 126, NOT_FOUND = 127, MAX_SAMPLES = 256 };

// One sample every interval_ms; when the table is full every other one is dropped and the interval
// doubles.
static struct {
    long kib[MAX_SAMPLES];
    int n;
    long interval_ms;
} samples = {.interval_ms = 4};

static long exit_kib = -1; // -1: not seen (a sandbox may forbid ptrace)

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

// Resident KiB of a process by its statm, an open descriptor; -1 when it cannot be read.
static long resident_kib(int statm)
{
    char text[128];
    long total, resident;
    ssize_t length = pread(statm, text, sizeof text - 1, 0);
    if (length <= 0)
        return -1;
    text[length] = '\0';
    if (sscanf(text, "%ld %ld", &total, &resident) != 2)
        return -1;
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void take_sample(int statm)
{
    long kib = resident_kib(statm);
    if (kib <= 0)
        return;
    if (samples.n == MAX_SAMPLES) {
        for (int i = 0; i < MAX_SAMPLES / 2; i++)
            samples.kib[i] = samples.kib[i + i];
        samples.n = MAX_SAMPLES / 2;
        samples.interval_ms *= 2;
    }
    samples.kib[samples.n++] = kib;
}

// Lets a stopped child go on; its end announces itself here, with its memory still in place.
static void go_on(pid_t child, int status, int statm)
{
    int event = status >> 16;
    if (event == PTRACE_EVENT_EXIT) {
        exit_kib = resident_kib(statm);
        ptrace(PTRACE_CONT, child, NULL, NULL);
    } else if (event == PTRACE_EVENT_STOP) {
        ptrace(PTRACE_LISTEN, child, NULL, NULL);
    } else {
        ptrace(PTRACE_CONT, child, NULL, (void *)(long)WSTOPSIG(status));
    }
}

// Waits for the child's end and samples until then. 0, or -1 with errno.
static int watch(pid_t child, int *status, struct rusage *used, int statm,
                 const sigset_t *child_signal)
{
    for (;;) {
        pid_t changed = wait4(child, status, WNOHANG, used);
        if (changed < 0)
            return -1;
        if (changed == child && !WIFSTOPPED(*status))
            return 0;
        if (changed == child) {
            go_on(child, *status, statm);
            continue;
        }
        struct timespec pause = {samples.interval_ms / 1000, samples.interval_ms % 1000 * 1000000};
        if (sigtimedwait(child_signal, NULL, &pause) < 0 && errno == EAGAIN)
            take_sample(statm);
    }
}

static void report(const struct rusage *used)
{
    FILE *to = fdopen(REPORT_FD, "w");
    if (to == NULL)
        return;
    fprintf(to,
            "{\"peak_kib\": %ld, \"user_s\": %.6f, \"system_s\": %.6f, \"minor_faults\": %ld, "
            "\"major_faults\": %ld",
            used->ru_maxrss, seconds(used->ru_utime), seconds(used->ru_stime), used->ru_minflt,
            used->ru_majflt);
    if (exit_kib >= 0)
        fprintf(to, ", \"exit_kib\": %ld", exit_kib);
    fprintf(to, ", \"interval_ms\": %ld, \"resident_kib\": [", samples.interval_ms);
    for (int i = 0; i < samples.n; i++)
        fprintf(to, i == 0 ? "%ld" : ", %ld", samples.kib[i]);
    fprintf(to, "]}\n");
    fclose(to);
}

static _Noreturn void become(char **argv, const char *preload, const int *go)
{
    char byte;
    close(REPORT_FD);
    prctl(PR_SET_PDEATHSIG, SIGKILL); // a signal that stops this program stops the workload too
    close(go[1]);
    while (read(go[0], &byte, 1) < 0 && errno == EINTR) {
    }
    close(go[0]);
    if (preload != NULL)
        setenv("LD_PRELOAD", preload, 1);
    execv(argv[0], argv);
    int error = errno;
    fprintf(stderr, "measure: %s: %s\n", argv[0], strerror(error));
    _exit(error == ENOENT ? NOT_FOUND : CANNOT_RUN);
}

int main(int argc, char **argv)
{
    const char *preload = NULL;
    char path[64];
    struct rusage used;
    sigset_t child_signal, before;
    int status, go[2];

    argv++;
    if (argc >= 3 && strcmp(argv[0], "-p") == 0) {
        preload = argv[1];
        argv += 2;
    }
    if (argc < 2 || argv[0] == NULL) {
        fprintf(stderr, "usage: measure [-p LIBRARY] PROGRAM ARGS...\n");
        return 2;
    }
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_signal, &before);
    if (pipe2(go, 0) != 0) {
        perror("measure");
        return FAILED_HERE;
    }
    pid_t child = fork();
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        become(argv, preload, go);
    }
    if (child > 0)
        ptrace(PTRACE_SEIZE, child, NULL,
               (void *)(long)PTRACE_O_TRACEEXIT); // without it only exit_kib is missing
    close(go[0]);
    close(go[1]); // the child goes on
    snprintf(path, sizeof path, "/proc/%d/statm", (int)child);
    int statm = open(path, O_RDONLY | O_CLOEXEC);
    if (child < 0 || watch(child, &status, &used, statm, &child_signal) != 0) {
        perror("measure");
        return FAILED_HERE;
    }
    report(&used);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
