/* The text of raw profiles, and what the process has mapped. No locks, no state: the caller has
   mapped the buffers. System calls: read, write, and process_vm_readv, none of which is a
   cancellation point here. Called by write.c and leaks_write.c. */
#include "profile/raw.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"

/* --- text --- */

void hak_profile_flush(struct profile_out *out)
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

void hak_profile_put_char(struct profile_out *out, char c)
{
    if (out->n == PROFILE_OUT_BYTES) {
        hak_profile_flush(out);
    }
    out->text[out->n++] = c;
}

void hak_profile_put_text(struct profile_out *out, const char *text)
{
    while (*text) {
        hak_profile_put_char(out, *text++);
    }
}

void hak_profile_put_number(struct profile_out *out, uint64_t n, unsigned base)
{
    char digits[24];
    size_t i = sizeof digits;
    do {
        digits[--i] = "0123456789abcdef"[n % base];
        n /= base;
    } while (n);
    while (i < sizeof digits) {
        hak_profile_put_char(out, digits[i++]);
    }
}

/* A name may have a newline in it. */
void hak_profile_put_name(struct profile_out *out, const char *name)
{
    for (; *name; name++) {
        if (*name == '\n' || *name == '\\') {
            hak_profile_put_char(out, '\\');
        }
        hak_profile_put_char(out, (char)(*name == '\n' ? 'n' : *name));
    }
}

void hak_profile_put_row(struct profile_out *out, const char *name, uint64_t value)
{
    hak_profile_put_text(out, name);
    hak_profile_put_char(out, ' ');
    hak_profile_put_number(out, value, 10);
    hak_profile_put_char(out, '\n');
}

static uint64_t wall_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void hak_profile_put_head(struct profile_out *out, pid_t process, const char *reason,
                          uint64_t elapsed_ms)
{
    char program[PATH_MAX] = "";
    if (syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", program, PATH_MAX - 1) <= 0) {
        memcpy(program, "-", 2);
    }
    hak_profile_put_text(out, "hakmem-profile 1\nprogram ");
    hak_profile_put_name(out, program);
    hak_profile_put_char(out, '\n');
    hak_profile_put_row(out, "pid", (uint64_t)process);
    hak_profile_put_text(out, "reason ");
    hak_profile_put_text(out, reason);
    hak_profile_put_char(out, '\n');
    hak_profile_put_row(out, "time_ns", wall_ns());
    hak_profile_put_row(out, "elapsed_ms", elapsed_ms);
}

/* --- mappings --- */

int hak_profile_read_memory(uintptr_t at, void *to, size_t size)
{
    struct iovec own = {to, size}, theirs = {(void *)at, size};
    return syscall(SYS_process_vm_readv, getpid(), &own, 1ul, &theirs, 1ul, 0ul) == (long)size;
}

/* The build-id in the notes of a segment; n_id stays 0 if there is none. */
static void find_id_in_notes(struct profile_maps *maps, uintptr_t at, uintptr_t end)
{
    ElfW(Nhdr) note;
    char name[4];
    while (at + sizeof note < end && hak_profile_read_memory(at, &note, sizeof note)) {
        uintptr_t id = at + sizeof note + ((note.n_namesz + 3u) & ~3u);
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            note.n_descsz <= PROFILE_ID_MOST &&
            hak_profile_read_memory(at + sizeof note, name, 4) && memcmp(name, "GNU", 4) == 0 &&
            hak_profile_read_memory(id, maps->id, note.n_descsz)) {
            maps->n_id = note.n_descsz;
            return;
        }
        at = id + ((note.n_descsz + 3u) & ~3u);
    }
}

/* Of the object whose ELF header lies at maps->header. */
static void find_id(struct profile_maps *maps)
{
    ElfW(Ehdr) header;
    ElfW(Phdr) segment;
    maps->n_id = 0;
    if (!maps->header || !hak_profile_read_memory(maps->header, &header, sizeof header) ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
        return;
    }
    for (int i = 0; i < header.e_phnum && !maps->n_id; i++) {
        if (!hak_profile_read_memory(maps->header + header.e_phoff + (size_t)i * sizeof segment,
                                     &segment, sizeof segment)) {
            return;
        }
        if (segment.p_type == PT_NOTE) {
            uintptr_t at = maps->header + segment.p_offset;
            find_id_in_notes(maps, at, at + segment.p_filesz);
        }
    }
}

int hak_profile_next_map(struct profile_maps *maps)
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

uint64_t hak_profile_read_hex(const char **text)
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
static void put_map(struct profile_out *out, struct profile_maps *maps)
{
    const char *at = maps->line;
    uintptr_t start = hak_profile_read_hex(&at);
    at += *at == '-';
    uintptr_t end = hak_profile_read_hex(&at);
    at += *at == ' ';
    int is_code = strnlen(at, 4) == 4 && at[2] == 'x';
    at += strnlen(at, 5);
    uint64_t offset = hak_profile_read_hex(&at);
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
    hak_profile_put_text(out, "map ");
    hak_profile_put_number(out, start, 16);
    hak_profile_put_char(out, '-');
    hak_profile_put_number(out, end, 16);
    hak_profile_put_char(out, ' ');
    hak_profile_put_number(out, offset, 16);
    hak_profile_put_char(out, ' ');
    for (size_t i = 0; is_known && i < maps->n_id; i++) {
        hak_profile_put_char(out, "0123456789abcdef"[maps->id[i] >> 4]);
        hak_profile_put_char(out, "0123456789abcdef"[maps->id[i] & 15]);
    }
    hak_profile_put_text(out, is_known && maps->n_id ? " " : "- ");
    hak_profile_put_name(out, name);
    hak_profile_put_char(out, '\n');
}

void hak_profile_put_maps(struct profile_out *out, struct profile_maps *maps)
{
    maps->fd = hak_os_ops.open("/proc/self/maps");
    while (maps->fd >= 0 && hak_profile_next_map(maps)) {
        put_map(out, maps);
    }
    if (maps->fd >= 0) {
        (void)hak_os_ops.close(maps->fd);
    }
}
