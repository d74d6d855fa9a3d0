/* The text of raw profiles (docs/profile.md), and the lines of /proc/self/maps. */
#ifndef HAKMEM_PROFILE_RAW_H
#define HAKMEM_PROFILE_RAW_H

#include "base/internal.h"

#include <limits.h>
#include <sys/types.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define PROFILE_OUT_BYTES  ((size_t)64 * 1024)
#define PROFILE_TEXT_BYTES 4096u
#define PROFILE_LINE_BYTES (PATH_MAX + 128u)
#define PROFILE_ID_MOST    32u

/* What is to be written; `error` is the errno value of the first write that failed. */
struct profile_out {
    int fd, error;
    size_t n;
    char text[PROFILE_OUT_BYTES];
};

void hak_profile_flush(struct profile_out *out);
void hak_profile_put_char(struct profile_out *out, char c);
void hak_profile_put_text(struct profile_out *out, const char *text);
void hak_profile_put_number(struct profile_out *out, uint64_t n, unsigned base);
/* A newline in it becomes \n, a backslash \\. */
void hak_profile_put_name(struct profile_out *out, const char *name);
/* `NAME VALUE`, a line. */
void hak_profile_put_row(struct profile_out *out, const char *name, uint64_t value);

/* The first lines, as far as elapsed_ms. */
void hak_profile_put_head(struct profile_out *out, pid_t process, const char *reason,
                          uint64_t elapsed_ms);

/* From /proc/self/maps: the loader's own list (dl_iterate_phdr) is behind a lock that a forked
   child may find held for ever. An object that another thread unmaps in the same moment is read by
   process_vm_readv, which fails then and does not fault. */
struct profile_maps {
    int fd;
    size_t at, n; /* of `text` */
    char text[PROFILE_TEXT_BYTES];
    char line[PROFILE_LINE_BYTES];
    /* The last mapping of a file's beginning. */
    uintptr_t header;
    char header_name[PATH_MAX];
    uint8_t id[PROFILE_ID_MOST];
    size_t n_id;
};

/* The next line of maps->fd, without its end; 0 behind the last. What is too long is cut. */
int hak_profile_next_map(struct profile_maps *maps);
uint64_t hak_profile_read_hex(const char **text);
/* Copies the process's own memory; 0 if not all of it can be read. */
int hak_profile_read_memory(uintptr_t at, void *to, size_t size);
/* The lines `map` of all code. */
void hak_profile_put_maps(struct profile_out *out, struct profile_maps *maps);

HAK_EXTERN_C_END

#endif
