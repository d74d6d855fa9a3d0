/* Why an allocation failed. A step is one way to get memory; a request takes several, and fails
   when the last one has.

   Each failed step is counted (stats.def), remembered in the thread's path of the present request,
   and, with HAKMEM_ACE_TRACE=1, written to standard error as one line by write(2):
     [ACE-FAIL] Threshold  size= class= wmax=                      no class or cached range within
                           the rounding limit
     [ACE-FAIL] Exhaustion size= class= pool_bytes= limit=         the memory limit is used up
     [ACE-FAIL] MapFail    size= errno= mapped= vma= rlimit_as=    the system refused
     [ACE-FAIL] Request    size= align= path=                      a request ended in NULL; the
                           steps that it took
     [ACE-FAIL] Fallback   size= reason=                           the request was left to libc, as
                           an option allows
   mapped= and vma= are hakmem's own address space and mappings, rlimit_as= what it was when the
   process started: asking the system while memory runs short is what a sandbox may end the process
   for. Lines of a reason are limited to FAIL_LINES a second; the next one says how many were held
   back. Nothing here allocates or takes a lock: it may be called in a signal handler and in a
   forked child. */
#ifndef HAKMEM_LIMIT_FAIL_H
#define HAKMEM_LIMIT_FAIL_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define FAIL_LINES 10u

enum fail_reason {
    FAIL_NONE,
    FAIL_THRESHOLD,
    FAIL_EXHAUSTION,
    FAIL_MAP,
    FAIL_RECLAIM, /* no failure: everything kept was trimmed, and the steps are taken again */
    FAIL_REQUEST,
    FAIL_FALLBACK,
    FAIL_N_REASONS
};

/* "Threshold", "Exhaustion", ... */
const char *hak_fail_reason_name(enum fail_reason reason);

/* At the start of the process, when the options have been read. */
void hak_fail_start(void);

/* A class of `class_bytes` is more than wmax (in thousandths) times the request. */
void hak_fail_threshold(size_t size, size_t class_bytes, uint64_t wmax);
/* These two may be called with a lock held: their lines wait for hak_fail_tell.
   The limit does not admit `size` more bytes. */
void hak_fail_exhaustion(size_t size, size_t class_bytes, uint64_t pool_bytes, uint64_t limit);
/* The system refused `size` bytes with errno value `error`. */
void hak_fail_map(size_t size, int error);
/* Writes the lines that wait, of any thread. No lock held. The functions below do so too. */
void hak_fail_tell(void);
/* Everything kept was trimmed; what fails now fails for good. */
void hak_fail_reclaim(void);
/* libc served `size` bytes. */
void hak_fail_fallback(size_t size, const char *reason);

/* A request on its way: the reasons met so far, oldest first. */
struct fail_path {
    uint8_t reasons[8]; /* enum fail_reason; FAIL_NONE behind the last */
};
/* Forgets the path of the calling thread: a request begins. */
void hak_fail_begin(void);
/* 1 if a step has failed since. */
int hak_fail_any(void);
/* The request has ended; `p` is its result. Reports a failed request and calls the callback if a
   step has failed. No lock may be held: the callback is the program's. */
void hak_fail_end(size_t size, size_t align, const void *p);

/* The program's callback, see hak_ace_on_fail. NULL for none. */
typedef void (*fail_callback)(size_t size, size_t align, const struct fail_path *path, int failed,
                              void *context);
void hak_fail_set_callback(fail_callback callback, void *context);

HAK_EXTERN_C_END

#endif
