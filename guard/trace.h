/* Traces: where a block was allocated, freed or touched. */
#ifndef HAKMEM_GUARD_TRACE_H
#define HAKMEM_GUARD_TRACE_H

#include "base/internal.h"

#include "base/error.h"
#include "guard/slots.h"

HAK_EXTERN_C_BEGIN

/* The calling thread and its callers. A thread's first may allocate. */
void hak_guard_trace_here(struct guard_trace *trace);
/* In a signal handler: of what it has interrupted; `context` is its third argument. */
void hak_guard_trace_interrupted(struct guard_trace *trace, const void *context);
/* "TEXT by thread N: 0x... 0x..." */
void hak_guard_trace_line(struct hak_line *line, const char *text, const struct guard_trace *trace);
/* The lines of /proc/self/maps that have code of these traces, by which tools find its names: each
   is written after what is in `line` and a newline, except for the last, which stays in it. None if
   the file cannot be read. */
void hak_guard_trace_maps(struct hak_line *line, const struct guard_trace *const *traces,
                          size_t n_traces);

HAK_EXTERN_C_END

#endif
