/* Makes a trace (trace.h) of what the recorder left (raw.h). */
#ifndef HAKMEM_TRACE_MERGE_H
#define HAKMEM_TRACE_MERGE_H

#include <stdint.h>

struct merge_result {
    uint64_t calls, threads;
    uint64_t foreign; /* calls about blocks that were made before the recording began: left out */
    int cut;          /* the recording ended before the program did */
};

/* Reads the file `raw` and writes `trace`, under another name first, so that `trace` is what it was
   until it is whole. What lies there is replaced if it is a regular file, never followed or opened.
   NULL, or what went wrong; then nothing was written. One thread; uses malloc. */
const char *merge_trace(const char *raw, const char *trace, struct merge_result *result);

/* Why `trace` cannot be written, as far as that can be seen without doing it; NULL if nothing is
   known against it. */
const char *merge_obstacle(const char *trace);

#endif
