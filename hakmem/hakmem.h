/* hakmem: the public interface. Every function may be called by any thread at any time, before main and after it included.
   Sizes are in bytes. Every block is aligned to 16 bytes at least. Blocks of hak_* and of malloc (when hakmem is the
   process's malloc) are the same: either family frees what the other allocated.

   An address outside of hakmem's memory, an interior pointer, or a block freed twice in a row ends the process at once, with
   one line on standard error that names the pointer and the reason. The start of a block that was never handed out, and a
   block freed twice with others in between, are found at the latest when they come back to their slab. */
#ifndef HAKMEM_HAKMEM_HAKMEM_H
#define HAKMEM_HAKMEM_HAKMEM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HAK_API __attribute__((visibility("default")))
#else
#define HAK_API
#endif

#define HAKMEM_VERSION "0.1.0"

/* A block of at least `size` bytes, 1 for size 0. NULL and errno ENOMEM if it cannot be. */
HAK_API void *hak_malloc(size_t size);
/* A zeroed block of n * size bytes. NULL and ENOMEM also if the product overflows. */
HAK_API void *hak_calloc(size_t n, size_t size);
/* Makes the block `size` bytes large, keeping its contents up to the smaller size; it may move. NULL and ENOMEM leave the
   block as it was. hak_realloc(NULL, n) is hak_malloc(n); hak_realloc(p, 0) frees p and returns NULL, as glibc does. */
HAK_API void *hak_realloc(void *p, size_t size);
/* Frees a block; NULL does nothing. Keeps errno. */
HAK_API void hak_free(void *p);

/* A block at a multiple of `alignment`, a power of two: otherwise NULL and EINVAL. */
HAK_API void *hak_aligned_alloc(size_t alignment, size_t size);
/* As hak_aligned_alloc, but an alignment that is no power of two is rounded up to one, as glibc's memalign does. */
HAK_API void *hak_memalign(size_t alignment, size_t size);
/* POSIX: 0 and *out, or EINVAL (alignment is no power of two times sizeof(void *)), or ENOMEM; *out and errno are kept then. */
HAK_API int hak_posix_memalign(void **out, size_t alignment, size_t size);

/* Bytes that the block may hold, at least what was asked for; 0 for NULL. All of them may be used. */
HAK_API size_t hak_usable_size(const void *p);

/* 1 if the address lies in memory that hakmem manages. Never faults. */
HAK_API int hak_owns(const void *p);
/* Gives back to the system what is kept for reuse: this thread's cache, every heap's empty slabs, free units, cached ranges.
   Returns the bytes given back. */
HAK_API size_t hak_purge(void);
/* Walks all of hakmem's structures; 0 if every equation holds, else a number that tells which failed (the walkers' comments
   say). Other threads may allocate meanwhile. */
HAK_API int hak_verify(void);

/* The memory limit of the heap, in bytes committed: blocks, what is kept for reuse, and metadata. Above `soft` everything that
   is kept goes back to the system before the process goes on; what would pass `hard` fails with ENOMEM. 0 for none,
   HAK_LIMIT_AUTO for what the process's cgroup allows (seven eighths of it, or all of it). The options HAKMEM_LIMIT_SOFT and
   HAKMEM_LIMIT_HARD set them at start. */
#define HAK_LIMIT_AUTO ((size_t)-1)
HAK_API void hak_limit_set(size_t soft, size_t hard);
/* The limits in force, 0 for none, and the bytes committed now. */
HAK_API void hak_limit_get(size_t *soft, size_t *hard, size_t *committed);

/* What ACE's controller knows and wants (docs/ace_control.md), in bytes. */
struct hak_ace_state {
    size_t live_superslabs, live_ranges; /* in use by the program */
    size_t kept_superslabs, kept_ranges; /* freed, and kept for reuse */
    size_t keep_superslabs, keep_ranges; /* how much may be kept: the targets */
    size_t horizon_ms;                   /* how far back it looks */
    size_t epochs, longer, shorter;      /* epochs that have ended; times that the horizon became longer, shorter */
};
HAK_API void hak_ace_state(struct hak_ace_state *out);
/* The same of the class above 32 KiB that serves `size` bytes. */
struct hak_ace_class {
    size_t class_bytes, live, keep;
    size_t hits, misses; /* blocks from kept memory, and from the system */
    size_t age_ms;       /* average age of kept memory when it was used again */
};
HAK_API void hak_ace_class(size_t size, struct hak_ace_class *out);
/* Writes both, for all classes that were used, to a file descriptor. Allocates nothing. */
HAK_API void hak_ace_print(int fd);

/* A request of which at least one step failed. */
#define HAK_FAIL_STEPS 8
struct hak_fail {
    size_t size, align; /* of the request; small sizes rounded up to their class */
    int failed;         /* 1: it ended in NULL; 0: a later step served it */
    int n_steps;        /* what it met, in order: "Threshold", "Exhaustion", "MapFail", or "Reclaim" for */
    const char *steps[HAK_FAIL_STEPS]; /* "all that was kept went back, and the steps were taken again" */
};
typedef void (*hak_fail_callback)(const struct hak_fail *fail, void *context);
/* Sets the function that is called at the end of each such request, by its thread, with no lock of hakmem held; NULL for none.
   It may allocate; requests of its own are not told to it. It may leave by
   longjmp (a block that a later step served is lost then), but not by an exception. */
HAK_API void hak_ace_on_fail(hak_fail_callback callback, void *context);

/* The variant that this is: "release", "release_validated", "debug" or "tiny". */
HAK_API const char *hak_variant(void);
/* HAKMEM_VERSION of the library that runs. */
HAK_API const char *hak_version(void);
/* Writes the statistics table to a file descriptor. Allocates nothing. */
HAK_API void hak_print_stats(int fd);

#ifdef __cplusplus
}
#endif

#endif
