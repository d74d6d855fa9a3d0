/* Writes the raw profile, as docs/profile.md describes it: text that another program reads. No
   locks: one thread writes at a time, others are refused. The buffer is mapped for it. System
   calls: those of the file, readlink, and mmap; all raw, so that none is a cancellation point. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/os.h"
#include "hakmem/hakmem.h"
#include "hakmem/walk.h"
#include "heap/theap.h"
#include "profile/profile.h"
#include "profile/sample.h"
#include "superslab/pool.h"

#define OUT_BYTES  ((size_t)64 * 1024)
#define TEXT_BYTES 4096u
#define LINE_BYTES (PATH_MAX + 128u)
#define N_POINTS   512u
#define ID_MOST    32u
/* A slab of which less than one block in so many is live is nearly empty. */
#define NEARLY_EMPTY 4u

/* --- text --- */

struct out {
    int fd, error;
    size_t n;
    char text[OUT_BYTES];
};

static void flush(struct out *out)
{
    for (size_t at = 0; at < out->n && !out->error;) {
        ssize_t n = hak_os_ops.write(out->fd, out->text + at, out->n - at);
        if (n < 0 && errno != EINTR) {
            out->error = errno;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    out->n = 0;
}

static void put_char(struct out *out, char c)
{
    if (out->n == OUT_BYTES) {
        flush(out);
    }
    out->text[out->n++] = c;
}

static void put_text(struct out *out, const char *text)
{
    while (*text) {
        put_char(out, *text++);
    }
}

static void put_number(struct out *out, uint64_t n, unsigned base)
{
    char digits[24];
    size_t i = sizeof digits;
    do {
        digits[--i] = "0123456789abcdef"[n % base];
        n /= base;
    } while (n);
    while (i < sizeof digits) {
        put_char(out, digits[i++]);
    }
}

/* A name may have a newline in it. */
static void put_name(struct out *out, const char *name)
{
    for (; *name; name++) {
        if (*name == '\n' || *name == '\\') {
            put_char(out, '\\');
        }
        put_char(out, (char)(*name == '\n' ? 'n' : *name));
    }
}

static void put_row(struct out *out, const char *name, uint64_t value)
{
    put_text(out, name);
    put_char(out, ' ');
    put_number(out, value, 10);
    put_char(out, '\n');
}

/* --- the time line --- */

/* Points lie at least `step_ms` apart; when there is no room, every second one goes, and the step
   doubles. One thread at a time adds: others leave it. */
static HAK_LARGE_ZEROS struct {
    uint32_t is_busy, n;
    uint64_t step_ms, next_ms;
    struct point {
        uint64_t elapsed_ms, live_bytes, resident_bytes;
    } points[N_POINTS];
} line;

static uint64_t committed(void)
{
    size_t soft, hard, bytes;
    hak_limit_get(&soft, &hard, &bytes);
    return bytes;
}

static void thin_out(void)
{
    for (uint32_t i = 0; i < N_POINTS / 2; i++) {
        line.points[i] = line.points[2 * (size_t)i];
    }
    line.n = N_POINTS / 2;
    line.step_ms *= 2;
}

static void add_point(uint64_t now_ms)
{
    if (line.n == N_POINTS) {
        thin_out();
    }
    line.points[line.n++] = (struct point){
        now_ms - hak_profile_began_ms, atomic_load_relaxed(&hak_profile_live_bytes), committed()};
    line.step_ms = line.step_ms ? line.step_ms : 10;
    atomic_store_relaxed(&line.next_ms, now_ms + line.step_ms);
}

/* The word names the process's epoch (theap.h): in a forked child, another thread's is none. */
static int begin_alone(uint32_t *word)
{
    uint32_t before = atomic_load_relaxed(word);
    return before != hak_theap_epoch && atomic_cas_strong(word, &before, hak_theap_epoch);
}

void hak_profile_add_point(uint64_t now_ms)
{
    if (now_ms >= atomic_load_relaxed(&line.next_ms) && begin_alone(&line.is_busy)) {
        add_point(now_ms);
        atomic_store_release(&line.is_busy, 0u);
    }
}

static void put_points(struct out *out)
{
    for (uint32_t i = 0; i < line.n; i++) {
        const struct point *point = &line.points[i];
        put_text(out, "point ");
        put_number(out, point->elapsed_ms, 10);
        put_char(out, ' ');
        put_number(out, point->live_bytes, 10);
        put_char(out, ' ');
        put_number(out, point->resident_bytes, 10);
        put_char(out, '\n');
    }
}

/* --- mappings --- */

/* From /proc/self/maps: the loader's own list (dl_iterate_phdr) is behind a lock that a forked
   child may find held for ever. An object that another thread unmaps in the same moment is read by
   process_vm_readv, which fails then and does not fault. */
struct maps {
    int fd;
    size_t at, n; /* of `text` */
    char text[TEXT_BYTES];
    char line[LINE_BYTES];
    /* The last mapping of a file's beginning. */
    uintptr_t header;
    char header_name[PATH_MAX];
    uint8_t id[ID_MOST];
    size_t n_id;
};

static int read_memory(uintptr_t at, void *to, size_t size)
{
    struct iovec own = {to, size}, theirs = {(void *)at, size};
    return syscall(SYS_process_vm_readv, getpid(), &own, 1ul, &theirs, 1ul, 0ul) == (long)size;
}

/* The build-id in the notes of a segment; n_id stays 0 if there is none. */
static void find_id_in_notes(struct maps *maps, uintptr_t at, uintptr_t end)
{
    ElfW(Nhdr) note;
    char name[4];
    while (at + sizeof note < end && read_memory(at, &note, sizeof note)) {
        uintptr_t id = at + sizeof note + ((note.n_namesz + 3u) & ~3u);
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz <= ID_MOST &&
            read_memory(at + sizeof note, name, 4) && memcmp(name, "GNU", 4) == 0 &&
            read_memory(id, maps->id, note.n_descsz)) {
            maps->n_id = note.n_descsz;
            return;
        }
        at = id + ((note.n_descsz + 3u) & ~3u);
    }
}

/* Of the object whose ELF header lies at maps->header. */
static void find_id(struct maps *maps)
{
    ElfW(Ehdr) header;
    ElfW(Phdr) segment;
    maps->n_id = 0;
    if (!maps->header || !read_memory(maps->header, &header, sizeof header) ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
        return;
    }
    for (int i = 0; i < header.e_phnum && !maps->n_id; i++) {
        if (!read_memory(maps->header + header.e_phoff + (size_t)i * sizeof segment, &segment,
                         sizeof segment)) {
            return;
        }
        if (segment.p_type == PT_NOTE) {
            uintptr_t at = maps->header + segment.p_offset;
            find_id_in_notes(maps, at, at + segment.p_filesz);
        }
    }
}

/* The next line, without its end; 0 behind the last. What is too long is cut. */
static int next_line(struct maps *maps)
{
    for (size_t n = 0;;) {
        if (maps->at == maps->n) {
            ssize_t got = hak_os_ops.read(maps->fd, maps->text, sizeof maps->text);
            maps->at = 0;
            maps->n = got > 0 ? (size_t)got : 0;
            if (got <= 0) {
                return 0;
            }
        }
        char c = maps->text[maps->at++];
        maps->line[n] = (char)(c == '\n' ? 0 : c);
        if (c == '\n') {
            return 1;
        }
        n += n < sizeof maps->line - 1;
    }
}

static uint64_t read_hex(const char **text)
{
    uint64_t value = 0;
    for (;; (*text)++) {
        char c = **text;
        if (c >= '0' && c <= '9') {
            value = value * 16 + (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            value = value * 16 + (uint64_t)(c - 'a' + 10);
        } else {
            return value;
        }
    }
}

/* START-END rwxp OFFSET DEVICE INODE   NAME */
static void put_map(struct out *out, struct maps *maps)
{
    const char *at = maps->line;
    uintptr_t start = read_hex(&at);
    at += *at == '-';
    uintptr_t end = read_hex(&at);
    at += *at == ' ';
    int is_code = strnlen(at, 4) == 4 && at[2] == 'x';
    at += strnlen(at, 5);
    uint64_t offset = read_hex(&at);
    const char *name = strpbrk(at, "/[");
    if (!name || strlen(name) >= sizeof maps->header_name) {
        return;
    }
    if (offset == 0) {
        maps->header = start;
        memcpy(maps->header_name, name, strlen(name) + 1);
        find_id(maps);
    }
    if (!is_code) {
        return;
    }
    int is_known = strcmp(maps->header_name, name) == 0;
    put_text(out, "map ");
    put_number(out, start, 16);
    put_char(out, '-');
    put_number(out, end, 16);
    put_char(out, ' ');
    put_number(out, offset, 16);
    put_char(out, ' ');
    for (size_t i = 0; is_known && i < maps->n_id; i++) {
        put_char(out, "0123456789abcdef"[maps->id[i] >> 4]);
        put_char(out, "0123456789abcdef"[maps->id[i] & 15]);
    }
    put_text(out, is_known && maps->n_id ? " " : "- ");
    put_name(out, name);
    put_char(out, '\n');
}

static void put_maps(struct out *out, struct maps *maps)
{
    maps->fd = hak_os_ops.open("/proc/self/maps");
    while (maps->fd >= 0 && next_line(maps)) {
        put_map(out, maps);
    }
    if (maps->fd >= 0) {
        (void)hak_os_ops.close(maps->fd);
    }
}

/* --- the profile --- */

static void clear_pinned(struct profile_site *site, void *context)
{
    (void)context;
    site->pinned_bytes = 0;
}

/* The part of its slab that a live block pins: what the slab would free if it and the few others
   were gone; of blocks that were never handed out, no page was touched. The slab's numbers are read
   without its lock, and may be those of a moment before. */
static void add_pinned(const struct profile_sample *sample, void *context)
{
    (void)context;
    if (sample->kind != PROFILE_BLOCK) {
        return;
    }
    const void *block = sample->place ? sample->place : sample->start;
    struct map_entry entry = hak_map_find(block);
    if (!TAG_IS_SLAB(entry.tag)) {
        return;
    }
    const struct slab *slab = hak_pool_slab_of(entry.ref, block);
    const struct size_class *row = &hak_sc_table[atomic_load_relaxed(&slab->size_class)];
    uint32_t n_free = atomic_load_relaxed(&slab->n_free);
    uint32_t n_live = n_free < row->capacity ? row->capacity - n_free : 1;
    uint64_t n_used = atomic_load_relaxed(&slab->fresh);
    if ((uint64_t)n_live * NEARLY_EMPTY < n_used) {
        uint64_t bytes = sample->weight.objects * n_used * row->size / n_live / PROFILE_OBJECT;
        (void)atomic_add_relaxed(&sample->site->pinned_bytes, bytes);
    }
}

static uint64_t objects(const uint64_t *number)
{
    return (atomic_load_relaxed(number) + PROFILE_OBJECT / 2) / PROFILE_OBJECT;
}

static void put_site(struct profile_site *site, void *out_)
{
    struct out *out = (struct out *)out_;
    int is_at_peak = atomic_load_relaxed(&site->peak_seen) != hak_profile_peak;
    const uint64_t numbers[] = {
        objects(&site->live_objects),
        atomic_load_relaxed(&site->live_bytes),
        objects(&site->allocated_objects),
        atomic_load_relaxed(&site->allocated_bytes),
        objects(is_at_peak ? &site->live_objects : &site->peak_objects),
        atomic_load_relaxed(is_at_peak ? &site->live_bytes : &site->peak_bytes),
        atomic_load_relaxed(&site->pinned_bytes),
        objects(&site->freed_objects),
        atomic_load_relaxed(&site->lifetime_ms),
    };
    put_text(out, "stack");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        put_char(out, ' ');
        put_number(out, numbers[i], 10);
    }
    if (site->thread) {
        put_text(out, " tid=");
        put_number(out, site->thread, 10);
    }
    put_text(out, " :");
    for (size_t i = 0; i < site->stack->n; i++) {
        put_text(out, " 0x");
        put_number(out, (uintptr_t)site->stack->addresses[i], 16);
    }
    put_char(out, '\n');
}

/* What every block takes that is allocated, thread caches but the own one included. */
static uint64_t count_live(void)
{
    struct walk_counts counts;
    hak_walk_count(&counts);
    uint64_t live = counts.span_bytes + counts.range_bytes;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        live += (uint64_t)counts.n_used[c] * hak_sc_table[c].size;
    }
    return live;
}

static uint64_t wall_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void put_profile(struct out *out, struct maps *maps, const char *program, const char *reason)
{
    put_text(out, "hakmem-profile 1\nprogram ");
    put_name(out, program);
    put_char(out, '\n');
    put_row(out, "pid", (uint64_t)getpid());
    put_text(out, "reason ");
    put_text(out, reason);
    put_char(out, '\n');
    put_row(out, "time_ns", wall_ns());
    put_row(out, "elapsed_ms", hak_profile_now_ms() - hak_profile_began_ms);
    put_row(out, "period", hak_profile_last_period);
    put_row(out, "live_bytes", count_live());
    put_row(out, "resident_bytes", committed());
    put_text(out, "fields live_objects live_bytes allocated_objects allocated_bytes peak_objects "
                  "peak_bytes pinned_bytes freed_objects lifetime_ms\n");
    hak_profile_each_site(clear_pinned, NULL);
    hak_profile_each_sample(add_pinned, NULL);
    hak_profile_each_site(put_site, out);
    put_points(out);
    put_maps(out, maps);
    put_text(out, "end\n");
    flush(out);
}

static uint32_t is_writing;

/* Not within another allocation that is sampled: that may have changed half of the numbers. */
static int write_alone(int fd, const char *reason)
{
    struct work {
        struct out out;
        struct maps maps;
        char program[PATH_MAX];
    };
    size_t size = (sizeof(struct work) + hak_os_page_size() - 1) & ~(hak_os_page_size() - 1);
    struct work *work = (struct work *)hak_os_map_aligned(NULL, size, hak_os_page_size());
    if (!work) {
        return ENOMEM;
    }
    work->out.fd = fd;
    if (syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", work->program, PATH_MAX - 1) <= 0) {
        memcpy(work->program, "-", 2);
    }
    put_profile(&work->out, &work->maps, work->program, reason);
    int error = work->out.error, unmapped = hak_os_unmap(work, size);
    (void)unmapped; /* a refusal leaves some pages mapped */
    return error;
}

int hak_profile_write_as(int fd, const char *reason)
{
    if (!hak_profile_began_ms) {
        return EINVAL;
    }
    if (!begin_alone(&is_writing)) {
        return EBUSY;
    }
    int was_off = hak_profile_enter(), saved = errno;
    int error = write_alone(fd, reason);
    if (was_off) {
        hak_profile_leave();
    }
    errno = saved;
    atomic_store_release(&is_writing, 0u);
    return error;
}

int hak_profile_write(int fd)
{
    return hak_profile_write_as(fd, "api");
}

/* --- files --- */

static int write_whole(const char *path, const char *temporary, const char *reason)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, temporary,
                          O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return errno;
    }
    int error = hak_profile_write_as(fd, reason);
    if (hak_os_ops.close(fd) != 0 && !error) {
        error = errno;
    }
    if (!error && syscall(SYS_renameat2, AT_FDCWD, temporary, AT_FDCWD, path, 0) != 0) {
        error = errno;
    }
    if (error) {
        (void)syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
    }
    return error;
}

int hak_profile_write_file(const char *path, const char *reason)
{
    static const char suffix[] = ".tmp";
    char temporary[PATH_MAX];
    size_t n = strlen(path);
    if (n + sizeof suffix > sizeof temporary) {
        return ENAMETOOLONG;
    }
    int saved = errno;
    memcpy(temporary, path, n + 1);
    memcpy(temporary + n, suffix, sizeof suffix);
    int error = write_whole(path, temporary, reason);
    errno = saved;
    return error;
}
