/* Runs a program as a child and passes its exit status on. One process, no threads. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command/command.h"

static pid_t passed_to;

static void pass_on(int signal)
{
    kill(passed_to, signal);
}

/* Waits; what the terminal sends goes to both anyway, what is sent to this process alone is passed
   on. */
static int wait_for(pid_t child)
{
    int status;
    passed_to = child;
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGTERM, pass_on);
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return CANNOT_RUN;
        }
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int command_run_child(const struct command_program *program, char **arguments,
                      int (*prepare)(void *context), void *context, int *ran)
{
    int ends[2];
    char byte = 0;
    *ran = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "hakmem: %s\n", strerror(errno));
        return CANNOT_RUN;
    }
    pid_t child = fork();
    if (child == 0) {
        int status =
            prepare && prepare(context) != 0 ? CANNOT_RUN : command_become(program, arguments);
        _exit(write(ends[1], &byte, 1) == 1 ? status : CANNOT_RUN);
    }
    int error = errno;
    close(ends[1]);
    /* The other end closes when the program begins. */
    *ran = child > 0 && TEMP_FAILURE_RETRY(read(ends[0], &byte, 1)) == 0;
    close(ends[0]);
    if (child < 0) {
        fprintf(stderr, "hakmem: %s\n", strerror(error));
        return CANNOT_RUN;
    }
    return wait_for(child);
}
