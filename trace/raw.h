// What the recorder leaves while the program runs: one file in chunks, each of one thread. `hakmem
// record` makes a trace of it (merge.h) and removes it.
//
// `hakmem record` makes the program's own file, of one chunk of zeros, so that what is in the way
// is said before the program runs; the recorder makes those of children. Never is a link followed,
// or a file of another user's opened.
//
// The file is mapped, not written: what was recorded is there even if the program is killed. The
// first chunk holds the header. Each other one begins with a raw_chunk, and its records go on until
// a byte of 0 or its end. A record's first byte is written last. Addresses are multiples of 16 and
// come as the difference to the thread's last one, sequence numbers likewise, both beginning with 0
// in each chunk.
#ifndef HAKMEM_PRELOAD_RECORD_RAW_H_
#define HAKMEM_PRELOAD_RECORD_RAW_H_

#include <stdint.h>

#define RAW_MAGIC   UINT64_C(0x315741524b4148) // "HAKRAW1", little-endian
#define RAW_CHUNK   65536
#define RAW_LONGEST 48 // bytes that a record may need

// RAW_ALIGNED has the alignment's logarithm in the bits above the low three. A realloc is two
// records, since the old block's address may be another thread's before the call returns.
enum raw_op {
    RAW_END,
    RAW_MALLOC,        // sequence, address, size
    RAW_CALLOC,        // sequence, address, size
    RAW_ALIGNED,       // sequence, address, size
    RAW_FREE,          // sequence, address
    RAW_REALLOC_BEGIN, // sequence, address
    RAW_REALLOC_END,   // sequence, address, size
    RAW_REALLOC_FAILED // sequence
};

struct raw_header {
    uint64_t magic;
    uint64_t cut;   // 1: recording ended early
    uint64_t error; // an errno value: why it could not begin; then there is no magic
    char program[64];
};

struct raw_chunk {
    uint32_t thread;  // from 1
    uint32_t ordinal; // among the chunks of its thread, from 0
};

#endif // HAKMEM_PRELOAD_RECORD_RAW_H_
