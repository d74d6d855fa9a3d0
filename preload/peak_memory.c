/* peak_memory PROGRAM ARGS...: runs a program and prints, at its exit, its peak resident memory and
   what of its resident memory is anonymous then: "VmHWM RssAnon", in KiB. Run by memory_test.py.

   Not getrusage: Linux counts the memory of the process that calls exec into ru_maxrss, so that a
   small program started from a large one shows the large one's peak. The program's own status is
   read while it stands at its exit. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void print_status(pid_t pid)
{
    char path[64], line[256];
    long peak = -1, anonymous = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status)) {
        (void)sscanf(line, "VmHWM: %ld", &peak);
        (void)sscanf(line, "RssAnon: %ld", &anonymous);
    }
    if (status) {
        fclose(status);
    }
    printf("%ld %ld\n", peak, anonymous);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: peak_memory PROGRAM ARGS...\n");
        return 2;
    }
    const char *preload = getenv("PRELOAD");
    pid_t child = fork();
    if (child == 0) {
        if (preload && setenv("LD_PRELOAD", preload, 1) != 0) {
            _exit(126);
        }
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status) ||
        ptrace(PTRACE_SETOPTIONS, child, NULL,
               (void *)(long)(PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL)) != 0) {
        fprintf(stderr, "peak_memory: %s cannot be run or traced\n", argv[1]);
        return 1;
    }
    long signal_to_pass = 0;
    do {
        ptrace(PTRACE_CONT, child, NULL, (void *)signal_to_pass);
        if (waitpid(child, &status, 0) != child) {
            return 1;
        }
        signal_to_pass = 0;
        if (WIFSTOPPED(status) && status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8)) {
            print_status(child);
        } else if (WIFSTOPPED(status)) {
            signal_to_pass = WSTOPSIG(status);
        }
    } while (WIFSTOPPED(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
