/* Traces: where a block was allocated, freed or touched, as reports of misuse say it. No locks. */
#ifndef HAKMEM_STACK_TRACE_H
#define HAKMEM_STACK_TRACE_H

#include "base/internal.h"

#include "base/error.h"

HAK_EXTERN_C_BEGIN

#define STACK_TRACE_FRAMES 24u

/* Where something happened. */
struct stack_trace {
    uint32_t thread; /* as the system names it */
    uint32_t n;
    const void *frames[STACK_TRACE_FRAMES]; /* the innermost first */
};

/* The calling thread and its callers. A thread's first may allocate. */
void hak_stack_trace_here(struct stack_trace *trace);
/* In a signal handler: of what it has interrupted; `context` is its third argument. */
void hak_stack_trace_interrupted(struct stack_trace *trace, const void *context);
/* "TEXT by thread N: 0x... 0x..." */
void hak_stack_trace_line(struct hak_line *line, const char *text, const struct stack_trace *trace);
/* The lines of /proc/self/maps that have code of these traces, by which tools find its names: each
   is written after what is in `line` and a newline, except for the last, which stays in it. None if
   the file cannot be read. */
void hak_stack_trace_maps(struct hak_line *line, const struct stack_trace *const *traces,
                          size_t n_traces);

HAK_EXTERN_C_END

#endif
