/* Files of raw profiles, and where hakmem-report is. No locks, no threads. Called by the
   subcommands. */
#include "report/raw_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command/command.h"
#include "command/subcommand.h"

#define LINE 4096

/* The program that reads profiles; it lies where libraries do. */
static const struct command_library reporter = {
    "hakmem-report", "hakmem-report", "hakmem/report/hakmem-report", "HAK_REPORT_PROGRAM"};

int raw_find_reporter(char *out)
{
    if (command_find_library(&reporter, out)) {
        return 1;
    }
    command_say_no_library(&reporter);
    return 0;
}

int raw_make_folder(const struct subcommand *self, char *folder)
{
    const char *temporary = getenv("TMPDIR");
    int n = snprintf(folder, PATH_MAX, "%s/hakmem-profile-XXXXXX",
                     temporary && *temporary == '/' ? temporary : "/tmp");
    if (n < 0 || n >= PATH_MAX || !mkdtemp(folder)) {
        command_complain(self, "%s: %s", folder, strerror(errno));
        return -1;
    }
    return 0;
}

/* FOLDER/raw.%p, which the library makes the process's number of: so each process has one file, of
   which the last one written stays. */
static void name_raw(char *out, const char *folder)
{
    for (; *folder; folder++) {
        *out++ = *folder;
        if (*folder == '%') {
            *out++ = '%';
        }
    }
    memcpy(out, "/raw.%p", sizeof "/raw.%p");
}

int raw_prepare(const struct subcommand *self, const char *folder, const char *option)
{
    char raw[2 * PATH_MAX + 16], path[PATH_MAX + 16];
    name_raw(raw, folder);
    snprintf(path, sizeof path, "%s/pid", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0 || close(fd) != 0 ||
        setenv(option, raw, 1) != 0) {
        command_complain(self, "%s: %s", path, strerror(errno));
        return -1;
    }
    return 0;
}

/* 1 if the file is a raw profile; its lines of the head come first. */
static int read_head(struct raw *raw)
{
    char line[LINE];
    int is_profile = 0;
    FILE *file = fopen(raw->path, "re");
    if (!file) {
        return 0;
    }
    raw->pid = 0;
    raw->time_ns = 0;
    while (fgets(line, sizeof line, file) && strncmp(line, "fields ", 7) != 0) {
        is_profile |= strncmp(line, "hakmem-profile ", 15) == 0;
        (void)sscanf(line, "pid %ld", &raw->pid);
        (void)sscanf(line, "time_ns %" SCNu64, &raw->time_ns);
    }
    fclose(file);
    return is_profile && raw->pid > 0;
}

size_t raw_find(const char *folder, struct raw **out)
{
    size_t n = 0;
    DIR *stream = opendir(folder);
    *out = NULL;
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        struct raw one = {.pid = 0};
        snprintf(one.path, sizeof one.path, "%s/%s", folder, entry->d_name);
        if (strncmp(entry->d_name, "raw", 3) != 0 || !read_head(&one)) {
            continue;
        }
        size_t at = 0;
        while (at < n && (*out)[at].pid != one.pid) {
            at++;
        }
        if (at == n) {
            struct raw *grown = realloc(*out, (n + 1) * sizeof **out);
            if (!grown) {
                break;
            }
            *out = grown;
            (*out)[n++] = one;
        } else if (one.time_ns > (*out)[at].time_ns) {
            (*out)[at] = one;
        }
    }
    if (stream) {
        closedir(stream);
    }
    return n;
}

void raw_remove_folder(const char *folder)
{
    char path[2 * PATH_MAX];
    DIR *stream = opendir(folder);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        (void)unlink(path);
    }
    if (stream) {
        closedir(stream);
    }
    (void)rmdir(folder);
}

long raw_pid(const char *folder)
{
    char path[PATH_MAX + 16], text[32] = "";
    snprintf(path, sizeof path, "%s/pid", folder);
    FILE *file = fopen(path, "re");
    long pid = file && fgets(text, sizeof text, file) ? strtol(text, NULL, 10) : 0;
    if (file) {
        fclose(file);
    }
    return pid;
}

int raw_copy(const struct subcommand *self, const char *from, const char *to)
{
    char block[1 << 16];
    size_t n;
    FILE *in = fopen(from, "re"), *out = strcmp(to, "-") == 0 ? stdout : fopen(to, "we");
    int failed = !in || !out;
    while (!failed && (n = fread(block, 1, sizeof block, in)) > 0) {
        failed = fwrite(block, 1, n, out) != n;
    }
    if (out && (out == stdout ? fflush(out) : fclose(out)) != 0) {
        failed = 1;
    }
    if (failed) {
        command_complain(self, "%s: %s", to, strerror(errno));
    }
    if (in) {
        fclose(in);
    }
    return failed ? -1 : 0;
}

int raw_run_reporter(void *to)
{
    int failed = strcmp(to, RAW_STDERR) == 0 && dup2(STDERR_FILENO, STDOUT_FILENO) < 0;
    return unsetenv("LD_PRELOAD") != 0 || failed ? -1 : 0;
}
