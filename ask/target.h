/* What is asked: a process whose memory is read from outside, or a core file. The process does
   nothing for it, and may be stopped. One thread. */
#ifndef HAKMEM_ASK_TARGET_H
#define HAKMEM_ASK_TARGET_H

#include <stddef.h>
#include <stdint.h>

#include "hakmem/survey.h"

/* Exit statuses, each after one line. */
enum ask_refusal {
    ASK_NO_PROCESS = 3,    /* there is none of that number (any more), or no such file */
    ASK_NOT_PERMITTED = 4, /* it may not be read by this user */
    ASK_NOT_HAKMEM = 5,    /* hakmem is not in it */
    ASK_OTHER_VERSION = 6, /* a hakmem that this command cannot read */
    ASK_UNREADABLE = 7,    /* the file is no core file, or what is needed is not in it */
    ASK_BUSY = 8           /* the process does not answer, or another program has asked it */
};

/* [start, end) of it may hold a layout. */
struct ask_mapping {
    uint64_t start, end;
};

struct ask_target {
    int64_t pid;
    char program[64], name[4096]; /* name: as lines call it: "process 12", or the file */
    uint64_t resident;            /* of the whole process now; 0: not known */
    struct survey_source source;
    struct ask_mapping *mappings;
    size_t n_mappings, room;
    const void *layout; /* once it is found */
    /* A core file: */
    const char *core;
    size_t core_bytes;
};

/* Why not, for one line. */
struct ask_error {
    int status; /* enum ask_refusal; 0: none */
    char text[4608];
};

/* Opens it and finds the layout. Returns 0, or a status after writing why into *error. To be closed
   either way. */
int ask_open_process(struct ask_target *target, int64_t pid, struct ask_error *error);
int ask_open_core(struct ask_target *target, const char *file, struct ask_error *error);
void ask_close(struct ask_target *target);

/* A survey with its heaps, from malloc; freed by ask_drop. */
struct ask_look {
    struct survey survey;
    struct survey_heap *heaps;
    uint32_t n_heaps;
    uint64_t resident;
    uint64_t at_ns; /* CLOCK_MONOTONIC */
};
/* Looks again. NULL after writing why into *error. */
struct ask_look *ask_look(struct ask_target *target, struct ask_error *error);
void ask_drop(struct ask_look *look);

/* For process.c and core.c. */
int ask_refuse(struct ask_error *error, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int ask_add_mapping(struct ask_target *target, uint64_t start, uint64_t end,
                    struct ask_error *error);
/* Where bytes that begin with the magic number (16 bytes) and their own address lie in the process,
   at a multiple of 64; 0: nowhere. */
uint64_t ask_find(struct ask_target *target, const char *magic);
int ask_find_layout(struct ask_target *target, struct ask_error *error);

#endif
