/* Makes a trace (trace.h) of what the recorder left (raw.h). */
#ifndef HAKMEM_PRELOAD_RECORD_MERGE_H
#define HAKMEM_PRELOAD_RECORD_MERGE_H

#include <stdint.h>

struct merge_result {
    uint64_t calls, threads;
    uint64_t foreign; /* calls about blocks that were made before the recording began: left out */
    int cut;          /* the recording ended before the program did */
};

/* Reads the file `raw` and writes `trace`. NULL, or what went wrong, where nothing of use was written. One thread; uses malloc. */
const char *merge_trace(const char *raw, const char *trace, struct merge_result *result);

#endif
