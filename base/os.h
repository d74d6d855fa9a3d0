/* The OS layer: the allocator's system calls, behind one table that tests replace.

   Outside of the table are getpid (heap/background.c), and sched_getaffinity and getpriority
   (hak_os_note_processors; getpriority also where a thread is made apart). All sizes are bytes.
   Functions may be called by any thread and take no lock, except hak_os_meta_alloc (rank META).

   No function here is a cancellation point, and none acts on a pending cancellation: what libc
   makes one of (open, read, write, close) is called as a raw system call.

   Which ones may be called when. A sandbox (seccomp) often ends a process at a system call that it
   does not expect, so that a call cannot be tried; it expects what libc's own malloc makes:
   - at any time: mmap, munmap, mremap, madvise, mprotect, futex; the clocks, which the vDSO
   answers;
   - only while the process starts (constructors, the first allocation): open, read, close,
     address_limit, is_secure, environ_;
   - write: when the process is about to abort, or when the user asked for a line;
   - start_thread: while the program itself makes a thread (heap/background.h). */
#ifndef HAKMEM_BASE_OS_H
#define HAKMEM_BASE_OS_H

#include "base/internal.h"

#include <sys/types.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct hak_os_ops {
    void *(*mmap)(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
    int (*munmap)(void *addr, size_t length);
    void *(*mremap)(void *old_addr, size_t old_size, size_t new_size, int flags, void *new_addr);
    int (*madvise)(void *addr, size_t length, int advice);
    int (*mprotect)(void *addr, size_t length, int prot);
    ssize_t (*write)(int fd, const void *data, size_t size);
    int (*open)(const char *path); /* for reading */
    ssize_t (*read)(int fd, void *data, size_t size);
    int (*close)(int fd);
    uint64_t (*address_limit)(void); /* RLIMIT_AS in bytes; UINT64_MAX for none */
    uint64_t (*clock_ns)(void);      /* monotonic, to some milliseconds, cheap */
    uint64_t (*precise_ns)(void);    /* monotonic, for short times */
    char **(*environ_)(void);        /* the environment, read once at start */
    int (*futex_wait)(uint32_t *word, uint32_t expected);
    int (*futex_wake)(uint32_t *word, int n);
    int (*futex_wait_ms)(uint32_t *word, uint32_t expected, uint64_t ms); /* at most that long */
    /* Starts the allocator's thread, detached and with all signals blocked; one at a time. With
       `is_apart` it has normal policy and the processors that hak_os_note_processors saw, and not
       those of the calling thread, which takes system calls that making a thread does not need; a
       thread of another nice value than was seen then makes none (EAGAIN). Returns 0 or an errno
       value. Allocates. */
    int (*start_thread)(void *(*run)(void *), size_t stack_bytes, int is_apart);
    /* `run` is about to return: waits until the system has let go of the thread, at most that long,
       and, unless it was set apart, a moment more, in which it leaves the process. No cancellation
       point; takes no lock of the C library. Returns 0 or ETIMEDOUT. */
    int (*wait_thread)(uint64_t ms);
    size_t (*page_size)(void); /* a power of two, always the same */
    int (*is_secure)(void);    /* the program has privileges that its caller has not (AT_SECURE) */
};

/* In use by all parts. A test may replace entries while no other thread is in the allocator. */
extern struct hak_os_ops hak_os_ops;
extern const struct hak_os_ops hak_os_real_ops;

/* Bytes of a page of this system. */
size_t hak_os_page_size(void);

/* Reserves and commits (on touch) `size` bytes at a multiple of `align` (a power of two, at least a
   page); the memory reads as zero. `hint` (or NULL) is tried first, for neighbours. NULL when the
   system refuses. */
void *hak_os_map_aligned(void *hint, size_t size, size_t align);
/* For metadata: whole pages that read as zero; in the secure variant between two that may not be
   touched, so that who writes beyond a block, or beyond the table beside it, does not get there.
   NULL when the system refuses. */
void *hak_os_map_guarded(size_t size);
/* Of one that was never touched; as hak_os_unmap_untouched. */
void hak_os_unmap_guarded(void *addr, size_t size);
/* Unmaps address space. Returns 0 or an errno value (the kernel may refuse to split a mapping:
   ENOMEM). */
HAK_MUST_CHECK int hak_os_unmap(void *addr, size_t size);
/* Unmaps address space of which no page was ever touched. If the kernel refuses, it stays mapped,
   which costs no memory. */
void hak_os_unmap_untouched(void *addr, size_t size);
/* Reserves address space that may be neither read nor written to, at any page, and that the system
   does not count as memory. NULL when it refuses. */
void *hak_os_reserve(size_t size);
/* The same for whole pages at that very address, if nothing is mapped there, by whomever. Returns
   1, or 0 with nothing changed. */
int hak_os_claim(void *addr, size_t size);
/* Whole pages may be read, or read and written to, or neither. Returns 0 or an errno value. */
enum os_access { OS_READABLE, OS_WRITABLE, OS_UNTOUCHABLE };
HAK_MUST_CHECK int hak_os_protect(void *addr, size_t size, enum os_access access);
/* Drops the pages of a range; it reads as zero afterwards. Returns 0 or an errno value. */
HAK_MUST_CHECK int hak_os_purge(void *addr, size_t size);
/* Moves the pages of [from, from + size), which lies in one mapping, to [to, to + size), which is
   mapped, and whose pages go; it may be touched as `from` may. `from` stays mapped, and has no
   pages. Returns 0 or an errno value, and nothing has changed. Linux 5.7. */
HAK_MUST_CHECK int hak_os_move_pages(void *from, size_t size, void *to);
/* The same by one call in place of two, where the caller can do without the target: *is_lost says,
   where the kernel refuses, that it may be another thread's by now, and is not to be touched any
   more; else it may not be touched until it is made writable again. */
HAK_MUST_CHECK int hak_os_move_pages_at_once(void *from, size_t size, void *to, int *is_lost);
/* Whole pages of ours become as if they were mapped again, writable, in small pages: one mapping.
   Returns 0 or an errno value, and nothing has changed. */
HAK_MUST_CHECK int hak_os_renew(void *addr, size_t size);
/* Whole pages of ours go, and what has none may not be touched: one system call, which is cheaper
   than hak_os_purge and hak_os_protect. `makes_fewer`: all around is sealed, so that fewer mappings
   are left; this is done where the process has more than it may have, too. Returns 0 or an errno
   value, and nothing has changed. */
HAK_MUST_CHECK int hak_os_seal(void *addr, size_t size, int makes_fewer);
/* Asks for huge pages in a range; a refusal is harmless. */
void hak_os_huge_pages(void *addr, size_t size);
/* Asks for small pages again. */
void hak_os_small_pages(void *addr, size_t size);
/* Makes each part of this object's code that the linker has put together for some kind of program
   (preload/layout.ld) a mapping of its own. */
void hak_os_part_code(void);

/* Makes whole pages of ours resident and writable, in a quarter to a third less of the time that
   their first touches would take; a refusal is harmless. Linux 5.14. */
void hak_os_populate(void *addr, size_t size);

/* Reads a file from its beginning, up to `size` bytes; returns how many, 0 if it cannot be read.
   `end`: what the file ends with, so that it need not be asked whether that is all; 0 if that may
   come earlier. Keeps errno. */
size_t hak_os_read_file(const char *path, char *text, size_t size, char end);
/* Remembers the processors that the calling thread may run on, and its nice value. Keeps errno. */
void hak_os_note_processors(void);
/* In a forked child: there is no thread of start_thread's. */
void hak_os_forget_thread(void);
/* RLIMIT_AS; UINT64_MAX for none. */
uint64_t hak_os_address_limit(void);

/* Notes a mapping with metadata that stays for ever: who looks for the program's pointers leaves it
   out. Some hundreds are kept; what does not fit is not. */
void hak_os_note_own(const void *start, size_t bytes);
/* The i-th: its bytes, 0 behind the last. Another thread may be noting that very one: then 0. */
size_t hak_os_own(uint32_t i, const void **start);

/* Memory for metadata, aligned to 64 bytes, zeroed, never unmapped. NULL when the system refuses.
 */
void *hak_os_meta_alloc(size_t size);
/* Bytes that hak_os_meta_alloc has mapped, and in how many mappings. */
size_t hak_os_meta_bytes(void);
extern size_t hak_os_meta_mapped HAK_HIDDEN; /* the former, for who reads from outside */
size_t hak_os_meta_mappings(void);

HAK_EXTERN_C_END

#endif
