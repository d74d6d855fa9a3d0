// measure PROGRAM ARGS: runs a program to its end and writes what it used to file descriptor 3, as one JSON object.
//
// compare.py starts every workload through this, because Linux counts the memory of the process that calls exec into
// ru_maxrss of the program that it becomes: a child of a Python process never shows less than Python's own memory.
// The floor here is the 1 MiB or so of this program. No locks, no threads. Exit status: that of the program; 128 + N
// after signal N; 126 if it cannot be run; 127 if it is not there; 125 if something goes wrong here.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REPORT_FD = 3, FAILED_HERE = 125, CANNOT_RUN = 126, NOT_FOUND = 127 };

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

int main(int argc, char **argv)
{
    struct rusage used;
    int status;

    if (argc < 2) {
        fprintf(stderr, "usage: measure PROGRAM ARGS...\n");
        return 2;
    }
    pid_t child = fork();
    if (child == 0) {
        close(REPORT_FD);
        prctl(PR_SET_PDEATHSIG, SIGKILL); // whoever stops this program stops the workload too
        execv(argv[1], argv + 1);
        int error = errno;
        fprintf(stderr, "measure: %s: %s\n", argv[1], strerror(error));
        _exit(error == ENOENT ? NOT_FOUND : CANNOT_RUN);
    }
    if (child < 0 || wait4(child, &status, 0, &used) != child) {
        perror("measure");
        return FAILED_HERE;
    }
    dprintf(REPORT_FD, "{\"peak_kib\": %ld, \"user_s\": %.6f, \"system_s\": %.6f, \"minor_faults\": %ld}\n",
            used.ru_maxrss, seconds(used.ru_utime), seconds(used.ru_stime), used.ru_minflt);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
