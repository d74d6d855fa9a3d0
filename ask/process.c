/* Reads a running process by process_vm_readv(2). Nothing is done to it: no signal, no stop, no
   tracing. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ask/target.h"

static int read_process(void *context, const void *at, void *out, size_t n)
{
    const struct ask_target *target = context;
    struct iovec to = {out, n}, from = {(void *)(uintptr_t)at, n};
    ssize_t got = process_vm_readv((pid_t)target->pid, &to, 1, &from, 1, 0);
    return got == (ssize_t)n ? 0 : got >= 0 ? EFAULT : errno;
}

/* A file of /proc/PID; its first line without the line break. Returns 0 or an errno value. */
static int read_line(int64_t pid, const char *file, char *out, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%" PRId64 "/%s", pid, file);
    FILE *stream = fopen(path, "re");
    if (!stream) {
        return errno;
    }
    *out = '\0';
    int error = fgets(out, (int)size, stream) ? 0 : ferror(stream) ? errno : ESRCH;
    out[strcspn(out, "\n")] = '\0';
    fclose(stream);
    return error;
}

static void read_resident(struct ask_target *target)
{
    char text[128];
    unsigned long long pages = 0;
    target->resident = 0;
    if (read_line(target->pid, "statm", text, sizeof text) == 0 &&
        sscanf(text, "%*s %llu", &pages) == 1) {
        target->resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    }
}

static int read_and_note(void *context, const void *at, void *out, size_t n)
{
    struct ask_target *target = context;
    if (at == target->layout) {
        read_resident(target); /* each look begins with the layout */
    }
    return read_process(context, at, out, n);
}

static int refuse_reading(const struct ask_target *target, struct ask_error *error)
{
    char path[64], scope[8] = "0";
    struct stat status;
    snprintf(path, sizeof path, "/proc/%" PRId64, target->pid);
    if (stat(path, &status) == 0 && status.st_uid != geteuid()) {
        return ask_refuse(error, ASK_NOT_PERMITTED,
                          "%s (%s) may not be read: it belongs to user %u, or is more privileged "
                          "than this command",
                          target->name, target->program, (unsigned)status.st_uid);
    }
    FILE *stream = fopen("/proc/sys/kernel/yama/ptrace_scope", "re");
    if (stream) {
        (void)!fgets(scope, sizeof scope, stream);
        fclose(stream);
    }
    if (atoi(scope) > 0) {
        return ask_refuse(error, ASK_NOT_PERMITTED,
                          "%s (%s) may not be read: kernel.yama.ptrace_scope is %d, which leaves "
                          "that to root",
                          target->name, target->program, atoi(scope));
    }
    return ask_refuse(error, ASK_NOT_PERMITTED,
                      "%s (%s) may not be read: it has forbidden that (PR_SET_DUMPABLE), or a "
                      "security policy does",
                      target->name, target->program);
}

static int refuse(const struct ask_target *target, int why, struct ask_error *error)
{
    if (why == EPERM || why == EACCES) {
        return refuse_reading(target, error);
    }
    if (why == ENOENT || why == ESRCH) {
        return ask_refuse(error, ASK_NO_PROCESS, "there is no process %" PRId64, target->pid);
    }
    return ask_refuse(error, ASK_UNREADABLE, "%s: %s", target->name, strerror(why));
}

/* Private, writable mappings of files: programs' and libraries' data. 0 or an errno value. */
static int read_maps(struct ask_target *target, struct ask_error *error)
{
    char path[64], *line = NULL;
    size_t size = 0;
    int status = 0;
    snprintf(path, sizeof path, "/proc/%" PRId64 "/maps", target->pid);
    FILE *stream = fopen(path, "re");
    if (!stream) {
        return refuse(target, errno, error);
    }
    errno = 0;
    while (!status && getline(&line, &size, stream) > 0) {
        unsigned long long start, end, inode;
        char access[8];
        if (sscanf(line, "%llx-%llx %7s %*x %*s %llu", &start, &end, access, &inode) == 4 &&
            strncmp(access, "rw", 2) == 0 && access[3] == 'p' && inode) {
            status = ask_add_mapping(target, start, end, error);
        }
        errno = 0;
    }
    if (!status && errno) {
        status = refuse(target, errno, error);
    }
    free(line);
    fclose(stream);
    return status;
}

int ask_open_process(struct ask_target *target, int64_t pid, struct ask_error *error)
{
    char byte;
    memset(target, 0, sizeof *target);
    target->pid = pid;
    target->source = (struct survey_source){read_and_note, target};
    snprintf(target->name, sizeof target->name, "process %" PRId64, pid);
    if (pid > INT32_MAX) {
        return refuse(target, ESRCH, error);
    }
    int why = read_line(pid, "comm", target->program, sizeof target->program);
    if (why) {
        return refuse(target, why, error);
    }
    int status = read_maps(target, error);
    if (status) {
        return status;
    }
    why = target->n_mappings
              ? read_process(target, (const void *)(uintptr_t)target->mappings[0].start, &byte, 1)
              : 0;
    if (why == EPERM || why == ESRCH) {
        return refuse(target, why, error);
    }
    return ask_find_layout(target, error);
}
