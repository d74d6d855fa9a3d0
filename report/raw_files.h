/* Raw profiles of a program that the command runs, in a folder of its own, and the program that
   reads them. */
#ifndef HAKMEM_REPORT_RAW_FILES_H
#define HAKMEM_REPORT_RAW_FILES_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

struct subcommand;

/* Stands for standard error where a file's name may. */
#define RAW_STDERR ""

/* A new folder, PATH_MAX bytes; 0, or -1 after saying why. */
int raw_make_folder(const struct subcommand *self, char *folder);
void raw_remove_folder(const char *folder);
/* In the child that becomes the program: the library's option for a file in the folder, and which
   process it is. 0, or -1 after saying why. */
int raw_prepare(const struct subcommand *self, const char *folder, const char *option);
/* That process. */
long raw_pid(const char *folder);

/* Of a raw profile: whose, and when. */
struct raw {
    char path[2 * PATH_MAX];
    long pid;
    uint64_t time_ns;
};
/* The newest of each process: *out is to be freed. */
size_t raw_find(const char *folder, struct raw **out);
/* Copies one; - is standard output. 0, or -1 after saying why. */
int raw_copy(const struct subcommand *self, const char *from, const char *to);

/* The path of hakmem-report, PATH_MAX bytes; 0 after saying that there is none. */
int raw_find_reporter(char *out);
/* For command_run_child, in the child, with the name of the file that the reporter writes to: where
   RAW_STDERR stands for it, its standard output is ours for errors, which must not be opened again:
   that would cut off a file. */
int raw_run_reporter(void *to);

#endif
