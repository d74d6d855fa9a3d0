/* hakmem: the public interface. Every function may be called by any thread at any time, before main
   and after it included. Sizes are in bytes. Every block is aligned to 16 bytes at least. Blocks of
   hak_* and of malloc (when hakmem is the process's malloc) are the same: either family frees what
   the other allocated.

   An address outside of hakmem's memory or an interior pointer, given to any function that takes a
   block, and a block freed twice in a row end the process at once, with one line on standard error
   that names the pointer and the reason. So does a freed block given to hak_realloc or
   hak_usable_size, if it is one of the last that the thread has freed or is back in its slab. A
   block whose first word was written to after it was freed is found before it is handed out again.
   The start of a block that was never handed out, and a block freed twice with others in between,
   are found at the latest when they come back to their slab. docs/misuse.md lists the kinds. */
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

/* The version is stated here and nowhere else: the library, the command, the packages and the
   installed files take it from these lines. The first number is the one in libhakmem.so.N, and
   grows when a program built before would not run on the library any more (docs/abi.md). */
#define HAKMEM_VERSION_MAJOR        0
#define HAKMEM_VERSION_MINOR        2
#define HAKMEM_VERSION_PATCH        0
#define HAKMEM_TEXT_OF(number)      HAKMEM_TEXT_OF_VALUE(number)
#define HAKMEM_TEXT_OF_VALUE(value) #value
#define HAKMEM_VERSION                                                                             \
    HAKMEM_TEXT_OF(HAKMEM_VERSION_MAJOR)                                                           \
    "." HAKMEM_TEXT_OF(HAKMEM_VERSION_MINOR) "." HAKMEM_TEXT_OF(HAKMEM_VERSION_PATCH)

/* A block of at least `size` bytes, 1 for size 0 (0 in the secure variant). NULL and errno ENOMEM
   if it cannot be. */
HAK_API void *hak_malloc(size_t size);
/* A zeroed block of n * size bytes. NULL and ENOMEM also if the product overflows. */
HAK_API void *hak_calloc(size_t n, size_t size);
/* Makes the block `size` bytes large, keeping its contents up to the smaller size; it may move.
   NULL and ENOMEM leave the block as it was. hak_realloc(NULL, n) is hak_malloc(n); hak_realloc(p,
   0) frees p and returns NULL, as glibc does. */
HAK_API void *hak_realloc(void *p, size_t size);
/* Frees a block; NULL does nothing. Keeps errno. */
HAK_API void hak_free(void *p);

/* A block at a multiple of `alignment`, a power of two: otherwise NULL and EINVAL. */
HAK_API void *hak_aligned_alloc(size_t alignment, size_t size);
/* As hak_aligned_alloc, but an alignment that is no power of two is rounded up to one, as glibc's
   memalign does. */
HAK_API void *hak_memalign(size_t alignment, size_t size);
/* POSIX: 0 and *out, or EINVAL (alignment is no power of two times sizeof(void *)), or ENOMEM (and
   errno says so too, as with glibc); *out is kept then. */
HAK_API int hak_posix_memalign(void **out, size_t alignment, size_t size);

/* Bytes that the block may hold, at least what was asked for; 0 for NULL. All of them may be used,
   and realloc keeps them. Room that realloc alone grows into is not counted, nor what a large
   block's last pages have to spare. Ends the process if p is no block. In the secure variant it is
   what was asked for. */
HAK_API size_t hak_usable_size(const void *p);

/* --- sizes --- */

/* Frees as hak_free does. `size` is what the block was asked for (any hak_* or malloc call, or the
   last realloc), `alignment` what it was aligned to. They help to find errors: the variants that
   validate end the process if they cannot be true; the release variant does not look. */
HAK_API void hak_free_sized(void *p, size_t size);
HAK_API void hak_free_aligned_sized(void *p, size_t alignment, size_t size);

/* hak_malloc, and how many bytes the block may hold: at least `size`, and all of them may be used.
   {NULL, 0} and ENOMEM if it cannot be. Freed by hak_free, or by hak_free_sized with any size from
   the one asked for to the one returned. */
struct hak_sized_block {
    void *block;
    size_t size;
};
HAK_API struct hak_sized_block hak_malloc_at_least(size_t size);

/* hak_realloc that needs no knowledge of the old size to keep what was never written zero: for a
   block of hak_calloc or of hak_rezalloc, of which nothing behind the size last asked for was
   written, every byte that the call adds reads as zero. (Of other blocks: every byte behind the old
   usable size.) hak_rezalloc(NULL, n) is hak_calloc(1, n). Errors as hak_realloc. */
HAK_API void *hak_rezalloc(void *p, size_t size);

/* --- many blocks at once --- */

/* Puts n blocks of `size` bytes into out. Returns how many: fewer than n only with ENOMEM in errno;
   those are the caller's, and the rest of out is not touched. Each is a block like any other. */
HAK_API size_t hak_malloc_batch(size_t size, size_t n, void **out);
/* Frees n blocks, of any sizes and origin; NULLs are passed by. */
HAK_API void hak_free_batch(void **blocks, size_t n);

/* --- first-class heaps --- */

/* A heap from which any threads may allocate at any time, and whose blocks can all be freed at
   once. Its blocks are aligned and rounded as those of hak_malloc; hak_free, free and
   hak_usable_size take them, from any thread, and hak_realloc leaves them in their heap. A heap has
   a lock and no thread caches: an allocation costs some times what hak_malloc does. Between calls
   it holds back at most one empty slab (64 KiB) of each size class that it has used. */
struct hak_heap;
/* NULL and ENOMEM if it cannot be; a process may have about 65,000 heaps and threads together. */
HAK_API struct hak_heap *hak_heap_create(void);
/* Frees every block of the heap, and the heap; NULL does nothing. No thread may use it or its
   blocks during the call or later. */
HAK_API void hak_heap_destroy(struct hak_heap *heap);
/* As hak_malloc, hak_calloc and hak_aligned_alloc. */
HAK_API void *hak_heap_malloc(struct hak_heap *heap, size_t size);
HAK_API void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size);
HAK_API void *hak_heap_aligned_alloc(struct hak_heap *heap, size_t alignment, size_t size);
/* As hak_realloc; p is NULL or a block of this heap, and stays in it. */
HAK_API void *hak_heap_realloc(struct hak_heap *heap, void *p, size_t size);

/* --- looking at all blocks --- */

/* Called with a block: its start and its usable size. Returns 0 to go on, anything else to end the
   walk. No lock of hakmem is held: it may allocate and free, this block included, and take its
   time. It must return (no longjmp, no exception). */
typedef int (*hak_walk_callback)(void *block, size_t size, void *context);
/* Visits each block of the heap that is allocated, in no order. Returns what the last callback
   returned, 0 for none. The callback and other threads may go on: what they allocate or free during
   the walk (a block that realloc makes larger or smaller included) is visited or not, everything
   else once. Takes time in proportion to the heap, whatever else the process holds. */
HAK_API int hak_heap_walk(struct hak_heap *heap, hak_walk_callback visit, void *context);
/* The same for the whole process, all heaps included. First the calling thread's cache is flushed,
   and what was sent to any heap is collected. What other live threads keep in their caches at
   that moment (bounded, see heap/theap.h) is visited as if it were allocated; with no other thread
   the walk is exact. */
HAK_API int hak_walk(hak_walk_callback visit, void *context);

/* --- hooks --- */

/* A call that is hooked. */
enum hak_hook_kind { HAK_HOOK_ALLOC, HAK_HOOK_REALLOC, HAK_HOOK_FREE };
struct hak_hook_call {
    enum hak_hook_kind kind;
    void *block;            /* what is freed, or given to realloc */
    size_t size, alignment; /* asked for; 0 for a free */
    void *result;           /* in `after`: what ALLOC and REALLOC return */
};
/* `before` is called before the call does anything, `after` when it is done, both by the calling
   thread with no lock of hakmem held; either may be NULL. They may allocate and free: that is not
   reported, nor is what a call does inside (a realloc that moves is one REALLOC). They must return
   (no longjmp, no exception); errno is kept. */
struct hak_hooks {
    void (*before)(const struct hak_hook_call *call, void *context);
    void (*after)(const struct hak_hook_call *call, void *context);
    void *context;
};
/* Hooks every call of every thread from now on that allocates or frees: hak_*, the malloc family,
   operators new and delete. free(NULL), and blocks that end with hak_heap_destroy, are not
   reported. Replaces the hooks before; NULL for none. A call that has called `before` calls `after`
   of the same hooks. The struct is not copied: it must stay as it is until the process ends, since
   other threads may be in a callback. While no hooks are set, they cost malloc and free no
   instruction; while they are, every call takes a slow path. */
HAK_API void hak_hooks_set(const struct hak_hooks *hooks);

/* --- heap profile --- */

/* Samples allocations from now on, on average one in `period` bytes (0: 512 KiB), with their call
   stacks: docs/profile.md. Called again, it changes the period. Returns 0, EINVAL for a period
   above PTRDIFF_MAX, or EBUSY within a hooked or sampled call. The first call may allocate. */
HAK_API int hak_profile_start(size_t period);
/* Samples no more. What was sampled stays in the profile, and is followed until it is freed. */
HAK_API void hak_profile_stop(void);
/* Writes the profile, as it is now, to a file descriptor; allocates nothing. `hakmem` makes of it
   what people and other programs read. Returns 0 or an errno value: EINVAL if the profile was never
   started, EBUSY while another thread writes it. */
HAK_API int hak_profile_write(int fd);

/* --- leaks --- */

/* Which blocks nothing leads to any more: neither registers, stacks and globals, nor what they lead
   to (docs/leaks.md). In a process that was started with HAKMEM_LEAKS: writes them, by call stack,
   in the profile's format to a file descriptor (-1: nowhere), and their bytes to *bytes (or NULL).
   A forked child does it: the calling thread waits, others go on. Returns 0 or an errno value:
   EINVAL without the option, EBUSY while another thread is about it, or what the system refused. */
HAK_API int hak_leaks_write(int fd, size_t *bytes);

/* --- the library --- */

/* 1 if the address lies in memory that hakmem manages. Never faults. */
HAK_API int hak_owns(const void *p);
/* Purges what is kept for reuse: this thread's cache, every heap's empty slabs, free
   units, cached ranges, and of slabs in use the pages that hold free blocks only. What other
   threads keep in their caches stays there (bounded, see heap/theap.h); it comes back as they go on
   or end. Returns the bytes purged. */
HAK_API size_t hak_purge(void);
/* Walks all of hakmem's structures; 0 if every equation holds, else the number of the one that does
   not (docs/verify.md). Other threads may allocate during the check. */
HAK_API int hak_verify(void);

/* The memory limit of the heap, in bytes committed: blocks, what is kept for reuse, and metadata.
   Above `soft` everything that is kept goes back to the system before the process goes on; what
   would pass `hard` fails with ENOMEM. 0 for none, HAK_LIMIT_AUTO for what the process's cgroup
   allowed when it started (seven eighths of it, or all of it). The options HAKMEM_LIMIT_SOFT and
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
    size_t epochs, longer,
        shorter; /* epochs that have ended; times that the horizon became longer, shorter */
};
HAK_API void hak_ace_state(struct hak_ace_state *out);
/* The same of the class above 32 KiB that serves `size` bytes. */
struct hak_ace_class {
    size_t class_bytes, live, keep;
    /* Blocks from kept memory, and from the system. What a thread kept itself is not counted, and
       is live until it goes back. */
    size_t hits, misses;
    size_t age_ms; /* average age of kept memory when it was used again */
};
HAK_API void hak_ace_class(size_t size, struct hak_ace_class *out);
/* Writes both, for all classes that were used, to a file descriptor. Allocates nothing. */
HAK_API void hak_ace_print(int fd);

/* A request of which at least one step failed. */
#define HAK_FAIL_STEPS 8
struct hak_fail {
    size_t size, align; /* of the request; small sizes rounded up to their class */
    int failed;         /* 1: it ended in NULL; 0: a later step served it */
    int n_steps;
    /* What it met, in order: "Threshold", "Exhaustion" or "MapFail" for a step that failed, and the
       name of FAIL_RECLAIM (limit/fail.c) where all that was kept was purged, and the steps were
       taken again. */
    const char *steps[HAK_FAIL_STEPS];
};
typedef void (*hak_fail_callback)(const struct hak_fail *fail, void *context);
/* Sets the function that is called at the end of each such request, by its thread, with no lock of
   hakmem held; NULL for none. It may allocate; requests of its own are not reported to it. It may
   leave by longjmp (a block that a later step served is lost then), but not by an exception. */
HAK_API void hak_ace_on_fail(hak_fail_callback callback, void *context);

/* Sets the function that is called when an error has been found (docs/misuse.md), behind the line
   that tells of it, with its reason and the address; NULL for none. By the thread that found it,
   with no lock of hakmem held; requests are served until the process ends, which it does when the
   function returns. It may leave by _exit, or by longjmp at the program's own risk. */
typedef void (*hak_corruption_callback)(const char *reason, const void *address, void *context);
HAK_API void hak_on_corruption(hak_corruption_callback callback, void *context);

/* Guarded sampling (docs/guard.md): from now on, one in `rate` allocations of each thread lies
   alone between pages that may not be touched, and may not be touched for a while after its free.
   What that shows ends the process, with a line that says what happened and lines that say where
   the block was allocated and freed. Installs a handler of SIGSEGV. 1 guards every allocation that
   finds a slot (HAKMEM_GUARD_SLOTS, HAKMEM_GUARD_LARGE). Returns 0, EINVAL for a rate of 0, ENOMEM
   if the system refuses, EBUSY while another thread calls it. The options HAKMEM_GUARD and
   HAKMEM_GUARD_BYTES do it at start. */
HAK_API int hak_guard_start(size_t rate);
/* No more allocations are guarded; those that are, stay so. */
HAK_API void hak_guard_stop(void);
/* For a program's own handler of SIGSEGV, given its si_addr: says what is known of the fault, and
   returns 1, if the address lies in or beside a guarded block; else returns 0. Async-signal-safe.
 */
HAK_API int hak_guard_report(const void *address);

/* The variant that this is, as README.md lists them: "release", "debug" and so on. */
HAK_API const char *hak_variant(void);
/* HAKMEM_VERSION of the library that runs. */
HAK_API const char *hak_version(void);
/* Writes the statistics table to a file descriptor. Allocates nothing. */
HAK_API void hak_print_stats(int fd);
/* The statistic of that name (docs/stats.md): 0 and *value; ENOENT if there is none; ENOMEM without
   memory for a computed one, which needs a mapping for the time of the call. Allocates nothing. */
HAK_API int hak_stat(const char *name, long long *value);
/* Writes all of them, by size class and by heap too, as one JSON document (docs/stats.md) to a file
   descriptor. 0 or ENOMEM. Allocates nothing. */
HAK_API int hak_stats_json(int fd);

#ifdef __cplusplus
}
#endif

#endif
