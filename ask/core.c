/* Reads a core file (ELF, 64 bits), mapped as a whole. What it says of itself is not believed
   before it was compared with the file's size. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ask/target.h"

/* `n` bytes at `offset` of the file, or NULL. */
static const void *piece(const struct ask_target *target, uint64_t offset, uint64_t n)
{
    return offset <= target->core_bytes && n <= target->core_bytes - offset ? target->core + offset
                                                                            : NULL;
}

static const Elf64_Ehdr *header(const struct ask_target *target)
{
    return (const Elf64_Ehdr *)(const void *)target->core;
}

static int segment(const struct ask_target *target, unsigned i, Elf64_Phdr *out)
{
    const void *at =
        piece(target, header(target)->e_phoff + (uint64_t)i * sizeof *out, sizeof *out);
    if (at) {
        memcpy(out, at, sizeof *out);
    }
    return at != NULL;
}

/* Beyond 65,534 segments the number is in the first section's header. */
static unsigned n_segments(const struct ask_target *target)
{
    Elf64_Shdr first;
    const void *at = piece(target, header(target)->e_shoff, sizeof first);
    if (header(target)->e_phnum != PN_XNUM || !at) {
        return header(target)->e_phnum;
    }
    memcpy(&first, at, sizeof first);
    return first.sh_info;
}

static int read_core(void *context, const void *at, void *out, size_t n)
{
    const struct ask_target *target = context;
    uint64_t address = (uint64_t)(uintptr_t)at;
    unsigned count = n_segments(target);
    Elf64_Phdr part;
    char *to = out;
    while (n) { /* it may lie in several segments */
        size_t took = 0;
        for (unsigned i = 0; i < count && !took && segment(target, i, &part); i++) {
            if (part.p_type == PT_LOAD && address >= part.p_vaddr &&
                address - part.p_vaddr < part.p_filesz) {
                uint64_t skip = address - part.p_vaddr, left = part.p_filesz - skip;
                took = left < n ? (size_t)left : n;
                const void *bytes = piece(target, part.p_offset + skip, took);
                if (!bytes) {
                    return EFAULT;
                }
                memcpy(to, bytes, took);
            }
        }
        if (!took) {
            return EFAULT;
        }
        to += took;
        address += took;
        n -= took;
    }
    return 0;
}

static void read_note(struct ask_target *target, const Elf64_Nhdr *note, const char *data)
{
    prpsinfo_t info;
    if (note->n_type == NT_PRPSINFO && note->n_descsz >= sizeof info) {
        memcpy(&info, data, sizeof info);
        target->pid = info.pr_pid;
        snprintf(target->program, sizeof target->program, "%.16s", info.pr_fname);
    }
}

static void read_notes(struct ask_target *target, const Elf64_Phdr *part)
{
    uint64_t at = part->p_offset, end = part->p_offset + part->p_filesz;
    while (at < end && end - at >= sizeof(Elf64_Nhdr) && piece(target, at, sizeof(Elf64_Nhdr))) {
        Elf64_Nhdr note;
        memcpy(&note, piece(target, at, sizeof note), sizeof note);
        uint64_t data = at + sizeof note + (((uint64_t)note.n_namesz + 3) & ~(uint64_t)3);
        const char *bytes = piece(target, data, note.n_descsz);
        if (!bytes) {
            return;
        }
        read_note(target, &note, bytes);
        at = data + (((uint64_t)note.n_descsz + 3) & ~(uint64_t)3);
    }
}

static int map_file(struct ask_target *target, const char *file, struct ask_error *error)
{
    struct stat status;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ask_refuse(error, errno == EACCES ? ASK_NOT_PERMITTED : ASK_NO_PROCESS, "%s: %s",
                          file, strerror(errno));
    }
    void *bytes = MAP_FAILED;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        status.st_size >= (off_t)sizeof(Elf64_Ehdr)) {
        bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    close(fd);
    if (bytes == MAP_FAILED) {
        return ask_refuse(error, ASK_UNREADABLE, "%s is no core file", file);
    }
    target->core = bytes;
    target->core_bytes = (size_t)status.st_size;
    const Elf64_Ehdr *head = header(target);
    if (memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 || head->e_ident[EI_CLASS] != ELFCLASS64 ||
        head->e_type != ET_CORE || head->e_phentsize != sizeof(Elf64_Phdr)) {
        return ask_refuse(error, ASK_UNREADABLE, "%s is no core file of 64 bits", file);
    }
    return 0;
}

/* As far as the file has it, whatever its header says. */
static int add_segment(struct ask_target *target, const Elf64_Phdr *part, struct ask_error *error)
{
    if (part->p_offset >= target->core_bytes) {
        return 0;
    }
    uint64_t there = target->core_bytes - part->p_offset;
    uint64_t n = part->p_filesz < there ? part->p_filesz : there;
    return n > UINT64_MAX - part->p_vaddr
               ? 0
               : ask_add_mapping(target, part->p_vaddr, part->p_vaddr + n, error);
}

int ask_open_core(struct ask_target *target, const char *file, struct ask_error *error)
{
    Elf64_Phdr part;
    memset(target, 0, sizeof *target);
    target->source = (struct survey_source){read_core, target};
    snprintf(target->name, sizeof target->name, "%s", file);
    snprintf(target->program, sizeof target->program, "?");
    int status = map_file(target, file, error);
    for (unsigned i = 0; !status && i < n_segments(target) && segment(target, i, &part); i++) {
        if (part.p_type == PT_NOTE) {
            read_notes(target, &part);
        } else if (part.p_type == PT_LOAD && (part.p_flags & PF_W) && part.p_filesz) {
            status = add_segment(target, &part, error);
        }
    }
    return status ? status : ask_find_layout(target, error);
}
