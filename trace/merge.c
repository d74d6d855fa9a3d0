/* Makes a trace of what the recorder left: puts the threads' records into one order by their
   sequence numbers, and turns addresses into numbers of blocks. No locks. Called by the `hakmem`
   command once the program has ended. */
#include "trace/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trace/raw.h"
#include "trace/trace.h"

struct record {
    unsigned op;
    uint32_t align_log2;
    uint64_t sequence, address, size;
};

/* A block alive. The table has open addressing and linear probing; address 0: free. */
struct live {
    uint64_t address, block, size;
};

#define UNKNOWN UINT64_MAX

struct chunk_place {
    struct raw_chunk chunk;
    const uint8_t *bytes;
};

/* Where a thread's records are read. `next` is the one to come; op RAW_END: there is none. */
struct cursor {
    const uint8_t *at, *end;
    size_t first_chunk, n_chunks; /* its part of the table of chunks that is still to be read */
    uint32_t number; /* in the trace, from 0 in the order of first calls; UINT32_MAX before */
    struct live
        resized; /* what a realloc under way is about; block UNKNOWN if that is no block of ours */
    struct record next;
};

struct merge {
    const uint8_t *raw;
    size_t raw_bytes;
    int fd; /* of raw; -1: none */
    struct chunk_place *chunks;
    size_t n_chunks;
    struct cursor *cursors;
    struct cursor **heap; /* by the next record's sequence number, the least at 0 */
    size_t n_heap;
    struct live *live;
    size_t live_mask, n_live;           /* of the table */
    uint64_t alive_bytes, alive_blocks; /* at this point of the trace */
    FILE *out;
    int write_error; /* the first errno */
    uint8_t *run;    /* the calls of one thread in a row, until another one's turn */
    size_t run_bytes, run_room;
    uint64_t run_calls;
    uint32_t run_thread;
    struct trace_header header;
    uint64_t foreign;
};

static size_t slot_of(const struct merge *m, uint64_t address)
{
    size_t i = (size_t)((address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & m->live_mask;
    while (m->live[i].address && m->live[i].address != address) {
        i = (i + 1) & m->live_mask;
    }
    return i;
}

static int grow(struct merge *m)
{
    struct live *old = m->live;
    size_t n = old ? m->live_mask + 1 : 0, wanted = n ? 2 * n : 4096;
    m->live = calloc(wanted, sizeof *m->live);
    if (!m->live) {
        m->live = old;
        return -1;
    }
    m->live_mask = wanted - 1;
    for (size_t i = 0; i < n; i++) {
        if (old[i].address) {
            m->live[slot_of(m, old[i].address)] = old[i];
        }
    }
    free(old);
    return 0;
}

static int put_live(struct merge *m, uint64_t address, uint64_t block, uint64_t size)
{
    if (2 * m->n_live >= m->live_mask && grow(m) != 0) {
        return -1;
    }
    size_t i = slot_of(m, address);
    if (m->live[i]
            .address) { /* its free was not seen: the process was killed in the middle of one */
        m->alive_bytes -= m->live[i].size;
        m->alive_blocks--;
    } else {
        m->n_live++;
    }
    m->live[i] = (struct live){address, block, size};
    return 0;
}

/* The call that was put last made, resized or freed a block. */
static void count_alive(struct merge *m, uint64_t bytes_more, uint64_t bytes_less, int blocks_more)
{
    m->alive_bytes += bytes_more - bytes_less;
    m->alive_blocks += (uint64_t)(int64_t)blocks_more;
    if (m->alive_bytes > m->header.peak_bytes) {
        m->header.peak_bytes = m->alive_bytes;
    }
    if (m->alive_blocks > m->header.peak_blocks) {
        m->header.peak_blocks = m->alive_blocks;
    }
}

/* Takes a block out, closing the gap that it leaves in its chain; its number is UNKNOWN if it is
   not there. */
static struct live take_live(struct merge *m, uint64_t address)
{
    size_t i = slot_of(m, address);
    struct live found = m->live[i];
    if (!found.address) {
        return (struct live){.block = UNKNOWN};
    }
    m->n_live--;
    m->live[i].address = 0;
    for (size_t j = (i + 1) & m->live_mask; m->live[j].address; j = (j + 1) & m->live_mask) {
        struct live moved = m->live[j];
        m->live[j].address = 0;
        m->live[slot_of(m, moved.address)] = moved;
    }
    return found;
}

static void put_bytes(struct merge *m, const void *bytes, size_t n)
{
    if (fwrite(bytes, 1, n, m->out) != n && !m->write_error) {
        m->write_error = errno;
    }
}

static void flush_run(struct merge *m)
{
    uint8_t head[2 * TRACE_MAX_VARINT];
    if (m->run_calls) {
        size_t n = (size_t)(trace_put(trace_put(head, m->run_thread), m->run_calls) - head);
        put_bytes(m, head, n);
        put_bytes(m, m->run, m->run_bytes);
        m->header.checksum =
            trace_sum(trace_sum(m->header.checksum, head, n), m->run, m->run_bytes);
        m->header.body_bytes += n + m->run_bytes;
    }
    m->run_calls = m->run_bytes = 0;
}

/* Room for one more call of this thread; NULL without memory. */
static uint8_t *begin_call(struct merge *m, struct cursor *c)
{
    if (c->number == UINT32_MAX) {
        c->number = (uint32_t)m->header.n_threads++;
    }
    if (m->run_thread != c->number || m->run_bytes > (1u << 20)) {
        flush_run(m);
        m->run_thread = c->number;
    }
    if (m->run_bytes + RAW_LONGEST > m->run_room) {
        size_t room = m->run_room ? 2 * m->run_room : 65536;
        uint8_t *run = realloc(m->run, room);
        if (!run) {
            return NULL;
        }
        m->run = run;
        m->run_room = room;
    }
    m->run_calls++;
    m->header.n_calls++;
    return m->run + m->run_bytes;
}

static int put_new(struct merge *m, struct cursor *c, unsigned op, const struct record *r)
{
    uint8_t *at = begin_call(m, c);
    if (!at || put_live(m, r->address, m->header.n_blocks, r->size) != 0) {
        return -1;
    }
    m->header.n_blocks++;
    count_alive(m, r->size, 0, 1);
    *at = (uint8_t)(op | r->align_log2 << 3);
    m->run_bytes = (size_t)(trace_put(at + 1, r->size) - m->run);
    return 0;
}

static int put_free(struct merge *m, struct cursor *c, const struct record *r)
{
    struct live freed = take_live(m, r->address);
    if (freed.block == UNKNOWN) {
        m->foreign++;
        return 0;
    }
    uint8_t *at = begin_call(m, c);
    if (!at) {
        return -1;
    }
    count_alive(m, 0, freed.size, -1);
    *at = TRACE_FREE;
    m->run_bytes = (size_t)(trace_put(at + 1, m->header.n_blocks - freed.block) - m->run);
    return 0;
}

static int put_resized(struct merge *m, struct cursor *c, const struct record *r)
{
    if (c->resized.block == UNKNOWN) {
        m->foreign++;
        return put_new(m, c, TRACE_MALLOC, r);
    }
    uint8_t *at = begin_call(m, c);
    if (!at || put_live(m, r->address, c->resized.block, r->size) != 0) {
        return -1;
    }
    count_alive(m, r->size, c->resized.size, 0);
    *at = TRACE_REALLOC;
    at = trace_put(at + 1, m->header.n_blocks - c->resized.block);
    m->run_bytes = (size_t)(trace_put(at, r->size) - m->run);
    return 0;
}

/* The thread's next record into the trace. 0, or -1 without memory. */
static int take_record(struct merge *m, struct cursor *c)
{
    const struct record *r = &c->next;
    switch (r->op) {
    case RAW_MALLOC:
        return put_new(m, c, TRACE_MALLOC, r);
    case RAW_CALLOC:
        return put_new(m, c, TRACE_CALLOC, r);
    case RAW_ALIGNED:
        return put_new(m, c, TRACE_ALIGNED, r);
    case RAW_FREE:
        return put_free(m, c, r);
    case RAW_REALLOC_BEGIN:
        c->resized = take_live(m, r->address);
        return 0;
    case RAW_REALLOC_END:
        return put_resized(m, c, r);
    default: /* it failed: the old block is still there */
        return c->resized.block == UNKNOWN
                   ? 0
                   : put_live(m, c->resized.address, c->resized.block, c->resized.size);
    }
}

/* Decodes a record at c->at. 0, or -1 where there is none: the end of what the thread could write
   in this chunk. */
static int decode(struct cursor *c)
{
    const uint8_t *at = c->at;
    if (at >= c->end || *at == RAW_END) {
        return -1;
    }
    uint64_t step, move = 0;
    c->next.op = *at & 7;
    c->next.align_log2 = *at++ >> 3;
    c->next.size = 0;
    at = trace_get(at, c->end, &step);
    if (at && c->next.op != RAW_REALLOC_FAILED) {
        at = trace_get(at, c->end, &move);
    }
    if (at && (c->next.op <= RAW_ALIGNED || c->next.op == RAW_REALLOC_END)) {
        at = trace_get(at, c->end, &c->next.size);
    }
    if (!at) {
        return -1;
    }
    c->next.sequence += step;
    c->next.address += (move >> 1 ^ (uint64_t) - (int64_t)(move & 1)) << 4;
    c->at = at;
    return 0;
}

/* Makes `next` the thread's next record; op RAW_END after the last one. */
static void advance(const struct merge *m, struct cursor *c)
{
    while (decode(c) != 0) {
        if (c->n_chunks == 0) {
            c->next.op = RAW_END;
            return;
        }
        const uint8_t *bytes = m->chunks[c->first_chunk].bytes;
        c->at = bytes + sizeof(struct raw_chunk);
        c->end = bytes + RAW_CHUNK;
        c->first_chunk++;
        c->n_chunks--;
        c->next.sequence = c->next.address = 0;
    }
}

static int by_thread(const void *a, const void *b)
{
    const struct raw_chunk *x = &((const struct chunk_place *)a)->chunk,
                           *y = &((const struct chunk_place *)b)->chunk;
    if (x->thread != y->thread) {
        return x->thread < y->thread ? -1 : 1;
    }
    return x->ordinal < y->ordinal ? -1 : x->ordinal > y->ordinal;
}

static void sift_down(struct merge *m, size_t i)
{
    struct cursor *moved = m->heap[i];
    for (size_t child = 2 * i + 1; child < m->n_heap; child = 2 * i + 1) {
        if (child + 1 < m->n_heap &&
            m->heap[child + 1]->next.sequence < m->heap[child]->next.sequence) {
            child++;
        }
        if (m->heap[child]->next.sequence >= moved->next.sequence) {
            break;
        }
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = moved;
}

/* Whether the recorder got room for the chunk, and its thread began it. Read, not looked at in the
   mapping: where the disk was full the chunk is a hole, and tmpfs allocates a page for a look at
   one that is mapped, or sends SIGBUS. */
static int is_begun(const struct merge *m, size_t i, struct raw_chunk *chunk)
{
    return pread(m->fd, chunk, sizeof *chunk, (off_t)(i * RAW_CHUNK)) == (ssize_t)sizeof *chunk &&
           chunk->thread != 0;
}

/* Finds the chunks, and gives each thread a cursor. 0, or -1 without memory. */
static int find_threads(struct merge *m)
{
    size_t n = m->raw_bytes / RAW_CHUNK;
    m->chunks = calloc(n + 1, sizeof *m->chunks);
    m->cursors = calloc(n + 1, sizeof *m->cursors);
    m->heap = calloc(n + 1, sizeof(struct cursor *));
    if (!m->chunks || !m->cursors || !m->heap || grow(m) != 0) {
        return -1;
    }
    for (size_t i = 1; i < n; i++) {
        struct chunk_place place = {.bytes = m->raw + i * RAW_CHUNK};
        if (is_begun(m, i, &place.chunk)) {
            m->chunks[m->n_chunks++] = place;
        }
    }
    qsort(m->chunks, m->n_chunks, sizeof *m->chunks, by_thread);
    struct cursor *c = m->cursors;
    for (size_t i = 0, last = 0; i < m->n_chunks; i = last, c++) {
        while (last < m->n_chunks && m->chunks[last].chunk.thread == m->chunks[i].chunk.thread) {
            last++;
        }
        *c = (struct cursor){
            .first_chunk = i, .n_chunks = last - i, .number = UINT32_MAX, .resized.block = UNKNOWN};
        advance(m, c);
        if (c->next.op != RAW_END) {
            m->heap[m->n_heap++] = c;
        }
    }
    for (size_t i = m->n_heap / 2; i-- > 0;) {
        sift_down(m, i);
    }
    return 0;
}

static int merge_all(struct merge *m)
{
    if (find_threads(m) != 0) {
        return -1;
    }
    while (m->n_heap) {
        struct cursor *c = m->heap[0];
        if (take_record(m, c) != 0) {
            return -1;
        }
        advance(m, c);
        if (c->next.op == RAW_END) {
            m->heap[0] = m->heap[--m->n_heap];
        }
        if (m->n_heap) {
            sift_down(m, 0);
        }
    }
    flush_run(m);
    return 0;
}

static const char *write_whole(struct merge *m)
{
    put_bytes(m, &m->header, sizeof m->header); /* its place; the figures follow */
    if (merge_all(m) != 0) {
        return "out of memory";
    }
    m->header.checksum = trace_whole(m->header, m->header.checksum);
    if (fflush(m->out) != 0 && !m->write_error) {
        m->write_error = errno;
    }
    rewind(m->out);
    put_bytes(m, &m->header, sizeof m->header);
    if (fflush(m->out) != 0 && !m->write_error) {
        m->write_error = errno;
    }
    return m->write_error ? strerror(m->write_error) : NULL;
}

const char *merge_obstacle(const char *trace)
{
    struct stat status;
    if (lstat(trace, &status) == 0 && !S_ISREG(status.st_mode)) {
        return S_ISLNK(status.st_mode) ? "is a symbolic link" : "is not a regular file";
    }
    return NULL;
}

static const char *write_trace(struct merge *m, const char *path)
{
    char part[PATH_MAX + 8];
    const char *wrong = merge_obstacle(path);
    if (wrong) {
        return wrong;
    }
    snprintf(part, sizeof part, "%s.new", path);
    (void)unlink(part);
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    m->out = fd < 0 ? NULL : fdopen(fd, "wb");
    if (!m->out) {
        return strerror(errno);
    }
    wrong = write_whole(m);
    if (fclose(m->out) != 0 && !wrong) {
        wrong = strerror(errno);
    }
    if (!wrong && rename(part, path) != 0) {
        wrong = strerror(errno);
    }
    if (wrong) {
        (void)unlink(part);
    }
    return wrong;
}

static const char *map_raw(struct merge *m, const char *path)
{
    struct stat status;
    m->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (m->fd < 0) {
        return strerror(errno);
    }
    if (fstat(m->fd, &status) != 0 || status.st_size == 0) {
        return "nothing was recorded";
    }
    m->raw_bytes = (size_t)status.st_size;
    void *raw = mmap(NULL, m->raw_bytes, PROT_READ, MAP_PRIVATE, m->fd, 0);
    if (raw == MAP_FAILED) {
        return strerror(errno);
    }
    m->raw = raw;
    const struct raw_header *header = (const struct raw_header *)raw;
    if (header->magic == RAW_MAGIC) {
        return NULL;
    }
    return header->error ? strerror((int)header->error)
                         : "nothing was recorded: the program did not load libhakmem_record.so";
}

const char *merge_trace(const char *raw, const char *trace, struct merge_result *result)
{
    struct merge m = {.fd = -1, .header = {.magic = TRACE_MAGIC, .version = TRACE_VERSION}};
    const char *wrong = map_raw(&m, raw);
    if (!wrong && m.raw) {
        const struct raw_header *header = (const struct raw_header *)m.raw;
        m.header.flags = header->cut ? TRACE_CUT : 0;
        memcpy(m.header.program, header->program, sizeof m.header.program - 1);
        wrong = write_trace(&m, trace);
        *result = (struct merge_result){m.header.n_calls, m.header.n_threads, m.foreign,
                                        header->cut != 0};
    }
    if (m.raw) {
        munmap((void *)(uintptr_t)m.raw, m.raw_bytes);
    }
    if (m.fd >= 0) {
        close(m.fd);
    }
    free(m.chunks);
    free(m.cursors);
    free((void *)m.heap);
    free(m.live);
    free(m.run);
    return wrong;
}
