/* ends HOW: a program that ends in that way, for show_stats_test.py. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void handle(int signal)
{
    (void)signal;
    _exit(7);
}

static char *volatile block;

static void fault(void)
{
    volatile int *nothing = NULL;
    /* cppcheck-suppress nullPointer */
    *nothing = 1; /* NOLINT(clang-analyzer-core.NullDereference): that is the test */
}

static int signal_of(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } rows[] = {{"abrt", SIGABRT}, {"segv", SIGSEGV}, {"bus", SIGBUS},
                {"ill", SIGILL},   {"fpe", SIGFPE},   {"sys", SIGSYS},
                {"term", SIGTERM}, {"int", SIGINT},   {"kill", SIGKILL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return rows[i].number;
        }
    }
    return 0;
}

/* `segv`: raised. `handled-segv`, `ignored-term`: the program's own action. */
static int by_signal(const char *how)
{
    const char *dash = strchr(how, '-');
    int number = signal_of(dash ? dash + 1 : how);
    if (!number) {
        return 2;
    }
    if (strncmp(how, "handled-", 8) == 0) {
        signal(number, handle);
    } else if (strncmp(how, "ignored-", 8) == 0) {
        signal(number, SIG_IGN);
    }
    raise(number);
    return 0;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    block = malloc(100);
    memset(block, 1, 100);
    if (strcmp(how, "main") == 0) {
        return 3;
    }
    if (strcmp(how, "exit") == 0) {
        exit(4);
    }
    if (strcmp(how, "_exit") == 0) {
        _exit(5);
    }
    if (strcmp(how, "quick_exit") == 0) {
        quick_exit(6);
    }
    if (strcmp(how, "abort") == 0) {
        abort();
    }
    if (strcmp(how, "fault") == 0) {
        fault();
    }
    if (strcmp(how, "freed") == 0) {
        free(block);
        *(volatile char *)block = 1; /* NOLINT(clang-analyzer-unix.Malloc): that is the test */
    }
    if (strcmp(how, "misuse") == 0) {
        free(block + 16); /* NOLINT(clang-analyzer-unix.Malloc): that is the test */
    }
    if (strcmp(how, "moved") == 0) {
        return chdir("/") != 0;
    }
    if (strcmp(how, "fork") == 0) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            printf("%ld ", (long)getpid());
            exit(0);
        }
        waitpid(child, &status, 0);
        printf("%ld\n", (long)getpid());
        return status;
    }
    return by_signal(how);
}
