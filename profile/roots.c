/* Which memory is a root, and reading it. No locks. Memory is read by process_vm_readv, which does
   not fault; where a sandbox forbids that, as it is. /proc/self/pagemap says which pages were never
   touched: stacks and arenas are mapped larger than they are used. Called by mark.c. */
#include "profile/roots.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/os.h"
#include "profile/raw.h"
#include "superslab/pool.h"

#define PIECE_BYTES ((size_t)64 * 1024) /* a unit of the pointer map */
#define PAGES       16u                 /* of 4 KiB in a piece; larger pages are fewer */

/* --- what is not the program's --- */

static void keep_apart(struct mark *mark, uintptr_t start, uintptr_t end)
{
    if (start < end && mark->n_apart < MARK_APART) {
        mark->apart[mark->n_apart++] = (struct mark_area){start, end, 0};
    }
}

extern const ElfW(Ehdr) __ehdr_start HAK_HIDDEN;

/* hakmem's variables point into its memory. Where it is a part of the program they lie among the
   program's, and stay roots. */
static void keep_own_variables_apart(struct mark *mark)
{
    uintptr_t base = (uintptr_t)&__ehdr_start;
    const ElfW(Phdr) *segment =
        (const ElfW(Phdr) *)(const void *)((const char *)&__ehdr_start + __ehdr_start.e_phoff);
    if (getauxval(AT_PHDR) == (uintptr_t)segment) {
        return;
    }
    for (int i = 0; i < __ehdr_start.e_phnum; i++, segment++) {
        if (segment->p_type == PT_LOAD && segment->p_flags & PF_W) {
            keep_apart(mark, base + segment->p_vaddr, base + segment->p_vaddr + segment->p_memsz);
        }
    }
}

static void keep_metadata_apart(struct mark *mark)
{
    const void *start;
    size_t bytes;
    for (uint32_t i = 0; (bytes = hak_os_own(i, &start)) != 0; i++) {
        keep_apart(mark, (uintptr_t)start, (uintptr_t)start + bytes);
    }
}

static void sort_apart(struct mark *mark)
{
    for (uint32_t i = 1; i < mark->n_apart; i++) {
        struct mark_area area = mark->apart[i];
        uint32_t j = i;
        for (; j && mark->apart[j - 1].start > area.start; j--) {
            mark->apart[j] = mark->apart[j - 1];
        }
        mark->apart[j] = area;
    }
}

/* --- other threads --- */

/* ROOTS_RUN stays so. */
static void add_state(uint64_t *state, const char *text, size_t n)
{
    uint64_t sum = *state;
    for (size_t i = 0; i < n; i++) {
        sum = (sum ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
    }
    *state = *state == ROOTS_RUN || !n || *text == 'r' ? ROOTS_RUN : sum | 1;
}

static int is_own(const char *thread)
{
    long number = 0;
    for (; *thread >= '0' && *thread <= '9'; thread++) {
        number = 10 * number + (*thread - '0');
    }
    return number == syscall(SYS_gettid);
}

/* /proc/self/task/N/syscall: NUMBER ARGUMENTS... SP PC, in hex; `running`, or -1 SP PC. */
static size_t read_arguments(const char *thread, uintptr_t *words, size_t room, uint64_t *state)
{
    char path[64] = "/proc/self/task/", text[256];
    size_t n = strlen(path), i = 0, length = strnlen(thread, 20);
    memcpy(path + n, thread, length);
    memcpy(path + n + length, "/syscall", sizeof "/syscall");
    length = hak_os_read_file(path, text, sizeof text - 1, '\n');
    text[length] = 0;
    if (!is_own(thread)) {
        add_state(state, text, length);
    }
    for (const char *at = strstr(text, " 0x"); at && i < room; at = strstr(at, " 0x")) {
        at += 3;
        words[i++] = hak_profile_read_hex(&at);
    }
    return i;
}

struct folder_entry {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

size_t hak_roots_of_threads(uintptr_t *words, size_t room, uint64_t *state)
{
    _Alignas(struct folder_entry) char text[2048];
    size_t n = 0;
    int fd = hak_os_ops.open("/proc/self/task");
    *state = fd < 0 ? ROOTS_RUN : 1;
    for (long got; fd >= 0 && (got = syscall(SYS_getdents64, fd, text, sizeof text)) > 0;) {
        for (long at = 0; at < got;) {
            const struct folder_entry *entry = (const struct folder_entry *)(void *)(text + at);
            if (entry->name[0] != '.') {
                n += read_arguments(entry->name, words + n, room - n, state);
            }
            at += entry->length;
        }
    }
    if (fd >= 0) {
        (void)hak_os_ops.close(fd);
    }
    return n;
}

/* --- mappings --- */

struct line {
    uintptr_t start, end;
    char access[4];   /* rwxp or s */
    const char *name; /* "" for none */
};

/* START-END rwxp OFFSET DEVICE INODE   NAME */
static struct line parse(const char *text)
{
    struct line line = {.name = ""};
    line.start = hak_profile_read_hex(&text);
    text += *text == '-';
    line.end = hak_profile_read_hex(&text);
    text += *text == ' ';
    memcpy(line.access, text, strnlen(text, 4));
    const char *name = strpbrk(text, "/[");
    line.name = name ? name : "";
    return line;
}

static int begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Private memory that is written to, or that no file has; shared memory that is no file's. Not
   devices. */
static int is_root(const struct line *line)
{
    int is_memory = begins(line->name, "/memfd:") || begins(line->name, "/dev/zero") ||
                    begins(line->name, "/dev/shm/") || begins(line->name, "/SYSV");
    if (line->access[0] != 'r' || begins(line->name, "[v")) {
        return 0;
    }
    if (line->access[3] == 's') {
        return is_memory && line->access[1] == 'w';
    }
    return (line->access[1] == 'w' || !*line->name) && (is_memory || !begins(line->name, "/dev/"));
}

static void add(struct mark_area *areas, uint32_t *n, struct mark_area area)
{
    if (area.start >= area.end) {
        return;
    }
    if (*n && areas[*n - 1].end == area.start && areas[*n - 1].is_shared == area.is_shared) {
        areas[*n - 1].end = area.end;
    } else if (*n < ROOTS_MOST) {
        areas[(*n)++] = area;
    }
}

/* `before` is the end of the mapping before. */
static void add_line(struct mark *mark, const struct line *line, uintptr_t before,
                     uintptr_t stack_end)
{
    uintptr_t start = line->start;
    add(mark->holes, &mark->n_holes, (struct mark_area){before, start, 0});
    if (line->access[0] != 'r') {
        add(mark->holes, &mark->n_holes, (struct mark_area){start, line->end, 0});
    }
    if (is_root(line)) {
        add(mark->roots, &mark->n_roots,
            (struct mark_area){start, line->end, line->access[3] == 's'});
    }
    if (start <= stack_end && stack_end < line->end) {
        keep_apart(mark, start, stack_end);
    }
}

int hak_roots_find(struct mark *mark, const void *stack_end)
{
    struct profile_maps *maps = (struct profile_maps *)hak_mark_map(mark, sizeof *maps);
    mark->roots = (struct mark_area *)hak_mark_map(mark, ROOTS_MOST * sizeof *mark->roots);
    mark->holes = (struct mark_area *)hak_mark_map(mark, ROOTS_MOST * sizeof *mark->holes);
    if (mark->error) {
        return mark->error;
    }
    keep_metadata_apart(mark);
    keep_own_variables_apart(mark);
    maps->fd = hak_os_ops.open("/proc/self/maps");
    if (maps->fd < 0) {
        return errno;
    }
    uintptr_t before = 0;
    while (hak_profile_next_map(maps)) {
        struct line line = parse(maps->line);
        add_line(mark, &line, before, (uintptr_t)stack_end);
        before = line.end;
    }
    (void)hak_os_ops.close(maps->fd);
    return before ? 0 : EIO;
}

/* --- reading --- */

static int is_copying_refused;

__attribute__((no_sanitize("address", "thread"))) static void copy_words(const void *from, void *to,
                                                                         size_t size)
{
    const volatile uintptr_t *in = (const volatile uintptr_t *)from;
    uintptr_t *out = (uintptr_t *)to;
    for (size_t i = 0; i < size / sizeof *out; i++) {
        out[i] = in[i];
    }
}

int hak_roots_read(uintptr_t at, void *to, size_t size)
{
    struct iovec own = {to, size}, theirs = {(void *)at, size};
    if (!is_copying_refused) {
        long n = syscall(SYS_process_vm_readv, getpid(), &own, 1ul, &theirs, 1ul, 0ul);
        if (n >= 0 || (errno != EPERM && errno != ENOSYS)) {
            return n == (long)size;
        }
        is_copying_refused = 1;
    }
    copy_words((const void *)at, to, size);
    return 1;
}

/* hakmem's own: blocks, and what it keeps. What it has beside superslabs, for guarded blocks, is a
   root. */
static int is_of_blocks(uintptr_t at)
{
    struct map_entry entry = hak_map_find((const void *)at);
    if (entry.tag != TAG_FREE_UNIT) {
        return entry.tag != 0;
    }
    return hak_pool_superslab_around(entry.ref, (const void *)at) != NULL;
}

struct reading {
    struct mark *mark;
    void (*visit)(void *mark, const void *words, size_t bytes);
    int pagemap; /* -1: none */
    int cannot_scan;
    char *piece;
};

/* A bit for each page that may have been touched. */
static uint32_t touched(const struct reading *reading, uintptr_t at, size_t bytes, int is_shared)
{
    size_t page = hak_os_page_size(), n = (bytes + page - 1) / page;
    uint64_t entries[PAGES] = {0};
    unsigned char present[PAGES];
    uint32_t bits = 0;
    if (is_shared) {
        if (syscall(SYS_mincore, at & ~(page - 1), n * page, present) != 0) {
            return UINT32_MAX;
        }
        for (size_t i = 0; i < n; i++) {
            bits |= (uint32_t)(present[i] & 1) << i;
        }
        return bits;
    }
    ssize_t got = reading->pagemap < 0
                      ? -1
                      : syscall(SYS_pread64, reading->pagemap, entries, n * sizeof entries[0],
                                (at / page) * sizeof entries[0]);
    if (got != (ssize_t)(n * sizeof entries[0])) {
        return UINT32_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        bits |= (uint32_t)((entries[i] >> 62) != 0) << i; /* present, or swapped out */
    }
    return bits;
}

/* Bytes within a piece. */
static void read_some(const struct reading *reading, uintptr_t at, uintptr_t end)
{
    if (hak_roots_read(at, reading->piece, end - at)) {
        reading->visit(reading->mark, reading->piece, end - at);
    }
}

/* Returns 0 if no page of it was ever touched. */
static int read_piece(const struct reading *reading, uintptr_t at, uintptr_t end, int is_shared)
{
    size_t page = hak_os_page_size();
    uint32_t bits = touched(reading, at, end - at + at % page, is_shared);
    if (bits == UINT32_MAX && !is_copying_refused && hak_roots_read(at, reading->piece, end - at)) {
        reading->visit(reading->mark, reading->piece, end - at);
        return 1;
    }
    for (unsigned i = 0; at < end; i++) {
        uintptr_t next = (at & ~(page - 1)) + page;
        next = next < end ? next : end;
        if (bits >> i & 1) {
            read_some(reading, at, next);
        }
        at = next;
    }
    return bits != 0;
}

/* What PAGEMAP_SCAN takes (Linux 6.7): a newer header than Debian 12's declares it. */
struct scan {
    uint64_t bytes, flags, start, end, walk_end, regions, n_regions, max_pages;
    uint64_t inverted, all_of, any_of, returned;
};
struct scan_region {
    uint64_t start, end, categories;
};
#define SCAN_PAGEMAP _IOWR('f', 16, struct scan)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)

/* Of the entries of as many pages as a piece holds: the first page that may have been touched, or
   the first behind them. */
static uintptr_t skip_by_entries(const struct reading *reading, uintptr_t at, uintptr_t end)
{
    size_t page = hak_os_page_size(), n = PIECE_BYTES / sizeof(uint64_t);
    const uint64_t *entries = (const uint64_t *)(const void *)reading->piece;
    n = (end - at) / page < n ? (end - at) / page : n;
    if (syscall(SYS_pread64, reading->pagemap, reading->piece, n * sizeof *entries,
                (at / page) * sizeof *entries) != (ssize_t)(n * sizeof *entries)) {
        return at;
    }
    size_t i = 0;
    while (i < n && entries[i] >> 62 == 0) {
        i++;
    }
    return at + i * page;
}

/* The first page from `at` on, which is the start of one, that may have been touched. A process may
   have terabytes that it never touches, as AddressSanitizer's shadow. */
static uintptr_t skip_untouched(struct reading *reading, uintptr_t at, uintptr_t end)
{
    struct scan_region region = {0, 0, 0};
    struct scan scan = {.bytes = sizeof scan,
                        .start = at,
                        .end = (end + hak_os_page_size() - 1) & ~(hak_os_page_size() - 1),
                        .regions = (uintptr_t)&region,
                        .n_regions = 1,
                        .max_pages = 1,
                        .any_of = SCAN_PRESENT | SCAN_SWAPPED,
                        .returned = SCAN_PRESENT};
    if (reading->pagemap < 0) {
        return at;
    }
    long found =
        reading->cannot_scan ? -1 : syscall(SYS_ioctl, reading->pagemap, SCAN_PAGEMAP, &scan);
    if (found < 0) {
        reading->cannot_scan = 1;
        return skip_by_entries(reading, at, end);
    }
    return found && region.start < end ? (uintptr_t)region.start : end;
}

static void read_area(struct reading *reading, uintptr_t at, uintptr_t end, int is_shared)
{
    at = (at + sizeof(uintptr_t) - 1) & ~(sizeof(uintptr_t) - 1);
    while (at < end) {
        uintptr_t next = (at & ~(PIECE_BYTES - 1)) + PIECE_BYTES;
        next = next < end ? next : end;
        int was_touched = is_of_blocks(at) || read_piece(reading, at, next, is_shared);
        at = was_touched || is_shared || next == end ? next : skip_untouched(reading, next, end);
    }
}

int hak_roots_each(struct mark *mark, void (*visit)(void *mark, const void *words, size_t bytes))
{
    struct reading reading = {mark, visit, hak_os_ops.open("/proc/self/pagemap"), 0,
                              (char *)hak_mark_map(mark, PIECE_BYTES)};
    if (!reading.piece) {
        return ENOMEM;
    }
    sort_apart(mark);
    for (uint32_t i = 0, next = 0; i < mark->n_roots; i++) {
        uintptr_t at = mark->roots[i].start, end = mark->roots[i].end;
        while (next && mark->apart[next - 1].end > at) {
            next--;
        }
        for (; at < end && next < mark->n_apart && mark->apart[next].start < end; next++) {
            const struct mark_area *apart = &mark->apart[next];
            if (apart->start > at) {
                read_area(&reading, at, apart->start, mark->roots[i].is_shared);
            }
            at = apart->end > at ? apart->end : at;
        }
        if (at < end) {
            read_area(&reading, at, end, mark->roots[i].is_shared);
        }
    }
    if (reading.pagemap >= 0) {
        (void)hak_os_ops.close(reading.pagemap);
    }
    return 0;
}
