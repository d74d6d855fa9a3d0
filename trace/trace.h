// The trace of a program's calls of malloc and free: what a file holds, and how to read it.
// README.md says it in words.
//
// No state, no locks, no allocation; the functions work on bytes that the caller has read or
// mapped. Used by the `hakmem` command, which writes traces, and by bench/replay, which plays them.
#ifndef HAKMEM_PRELOAD_RECORD_TRACE_H_
#define HAKMEM_PRELOAD_RECORD_TRACE_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TRACE_MAGIC       "HAKTRACE"
#define TRACE_MAX_SIZE    (UINT64_C(1) << 47)
#define TRACE_MAX_THREADS (UINT64_C(1) << 22)

enum {
    TRACE_VERSION = 1,
    TRACE_CUT = 1,
    TRACE_NAME_BYTES = 48,
    TRACE_MAX_VARINT = 10,
    TRACE_MAX_ALIGN_LOG2 = 30
};

// At the start of the file; numbers are little-endian. The body follows at once.
struct trace_header {
    char magic[8];
    uint32_t version;
    uint32_t flags; // TRACE_CUT: recording ended before the program did
    uint64_t n_calls;
    uint64_t n_blocks; // allocations; each block has the number of its allocation, from 0
    uint64_t n_threads;
    uint64_t peak_bytes;  // requested and not yet freed, at the most
    uint64_t peak_blocks; // blocks alive, at the most
    uint64_t body_bytes;
    uint64_t checksum; // trace_whole
    uint64_t reserved;
    char program[TRACE_NAME_BYTES]; // its name, NUL-terminated
};

_Static_assert(sizeof(struct trace_header) == 128, "the header is part of the format");

// The low three bits of a call's first byte. ALIGNED has the alignment's logarithm in the five bits
// above.
enum trace_op { TRACE_MALLOC, TRACE_CALLOC, TRACE_ALIGNED, TRACE_REALLOC, TRACE_FREE, TRACE_N_OPS };

struct trace_call {
    enum trace_op op;
    uint32_t thread;
    uint64_t block; // number of the block that the call makes, resizes or frees
    uint64_t size;  // as requested; of calloc the product
    uint32_t align_log2;
};

static inline uint8_t *trace_put(uint8_t *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

// Reads a number; returns where it ends, or NULL if it does not end before `end` or within 64 bits.
static inline const uint8_t *trace_get(const uint8_t *at, const uint8_t *end, uint64_t *value)
{
    uint64_t v = 0;
    for (unsigned shift = 0; at != end && shift < 64; shift += 7) {
        uint8_t byte = *at++;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = v;
            return shift == 63 && byte > 1 ? NULL : at;
        }
    }
    return NULL;
}

// FNV-1a over 64 bits.
static inline uint64_t trace_sum(uint64_t sum, const uint8_t *bytes, size_t n)
{
    sum = sum ? sum : UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++) {
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

// The checksum of a trace: its body's, gone on with over the header that has 0 in the place of the
// checksum.
static inline uint64_t trace_whole(struct trace_header header, uint64_t body_sum)
{
    header.checksum = 0;
    return trace_sum(body_sum, (const uint8_t *)&header, sizeof header);
}

// Walks over the calls of a trace in their order.
struct trace_reader {
    const struct trace_header *header;
    const uint8_t *at, *end;
    uint64_t calls, blocks; // so far
    uint64_t left_in_run;
    uint32_t thread;
};

// NULL if the file begins well and is whole; else what is wrong with it. The bytes stay in place
// while the reader is used.
static inline const char *trace_open(struct trace_reader *reader, const void *bytes, size_t n)
{
    const struct trace_header *header = (const struct trace_header *)bytes;
    const uint8_t *body = (const uint8_t *)bytes + sizeof *header;
    if (n < sizeof *header || memcmp(header->magic, TRACE_MAGIC, sizeof header->magic) != 0) {
        return "not a trace";
    }
    if (header->version != TRACE_VERSION) {
        return "a trace of another version";
    }
    if (header->body_bytes != n - sizeof *header) {
        return "cut short, or longer than it says";
    }
    if (header->checksum != trace_whole(*header, trace_sum(0, body, (size_t)header->body_bytes))) {
        return "damaged: its checksum is wrong";
    }
    if (header->n_threads > TRACE_MAX_THREADS || header->n_blocks > header->n_calls ||
        header->n_calls > header->body_bytes ||
        memchr(header->program, '\0', sizeof header->program) == NULL) {
        return "its header contradicts itself";
    }
    *reader = (struct trace_reader){.header = header, .at = body, .end = body + header->body_bytes};
    return NULL;
}

static inline int trace_next_run(struct trace_reader *r)
{
    uint64_t thread;
    r->at = trace_get(r->at, r->end, &thread);
    if (!r->at || thread >= r->header->n_threads) {
        return -1;
    }
    r->at = trace_get(r->at, r->end, &r->left_in_run);
    r->thread = (uint32_t)thread;
    return r->at && r->left_in_run > 0 ? 0 : -1;
}

static inline int trace_decode(struct trace_reader *r, struct trace_call *call)
{
    uint8_t first = *r->at++;
    uint64_t distance = 0;
    *call = (struct trace_call){
        .op = (enum trace_op)(first & 7), .thread = r->thread, .align_log2 = first >> 3};
    if (call->op >= TRACE_N_OPS || (call->op != TRACE_ALIGNED && call->align_log2 != 0) ||
        call->align_log2 > TRACE_MAX_ALIGN_LOG2) {
        return -1;
    }
    if (call->op == TRACE_REALLOC || call->op == TRACE_FREE) {
        r->at = trace_get(r->at, r->end, &distance);
        if (!r->at || distance == 0 || distance > r->blocks) {
            return -1;
        }
        call->block = r->blocks - distance;
    } else {
        call->block = r->blocks++;
    }
    if (call->op != TRACE_FREE) {
        r->at = trace_get(r->at, r->end, &call->size);
        return r->at && call->size <= TRACE_MAX_SIZE ? 0 : -1;
    }
    return 0;
}

// 1 and the next call; 0 at the end; -1 if the bytes are no trace's: then the reader is of no
// further use.
static inline int trace_next(struct trace_reader *r, struct trace_call *call)
{
    if (r->at == r->end) {
        int whole = r->left_in_run == 0 && r->calls == r->header->n_calls &&
                    r->blocks == r->header->n_blocks;
        return whole ? 0 : -1;
    }
    if ((r->left_in_run == 0 && trace_next_run(r) != 0) || r->at == r->end ||
        trace_decode(r, call) != 0 || r->blocks > r->header->n_blocks) {
        return -1;
    }
    r->left_in_run--;
    r->calls++;
    return 1;
}

#endif // HAKMEM_PRELOAD_RECORD_TRACE_H_
