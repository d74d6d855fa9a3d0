/* The one end of a detected corruption, and the one way to print a line. Neither allocates; both
   may be called anywhere, a signal handler included. */
#ifndef HAKMEM_BASE_ERROR_H
#define HAKMEM_BASE_ERROR_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* A line under construction: text and numbers are appended, and what does not fit is cut. */
struct hak_line {
    size_t length;
    char text[1000];
};

/* Writes `hakmem: REASON: 0xPTR` to standard error and aborts. The program's handler of SIGABRT may
   allocate, fork, or wait for another thread that allocates: hak_fatal_before_abort releases what
   they would need. An error within an error takes the default action. */
HAK_COLD __attribute__((noreturn)) void hak_fatal(const char *reason, const void *ptr);

/* The same; `describe` appends to the line what is known of the block. */
HAK_COLD __attribute__((noreturn)) void hak_fatal_about(const char *reason, const void *ptr,
                                                        void (*describe)(struct hak_line *line,
                                                                         const void *ptr));

/* Called with the reason and the address behind the line, if it is set: hak_on_corruption. */
extern void (*hak_fatal_tell)(const char *reason, const void *ptr) HAK_HIDDEN;
/* Called between the line and abort(), if it is set. */
extern void (*hak_fatal_before_abort)(void);

/* Appends. */
void hak_line_text(struct hak_line *line, const char *text);
void hak_line_unsigned(struct hak_line *line, uint64_t value);
/* A number of thousandths as a decimal: 1010 is 1.01, 2000 is 2.0. */
void hak_line_ratio(struct hak_line *line, uint64_t thousandths);
void hak_line_hex(struct hak_line *line, uint64_t value);
/* Ends the line with a newline and writes it to file descriptor `fd` by one write(2). errno is
   kept. */
void hak_line_write(struct hak_line *line, int fd);

#if HAK_DEBUG
#define HAK_DEBUG_ASSERT(e) ((e) ? (void)0 : hak_fatal("assertion failed: " #e, (const void *)0))
#else
/* Always compiled, never evaluated. */
#define HAK_DEBUG_ASSERT(e) ((void)sizeof((e) ? 1 : 0))
#endif
/* Stays in every build. */
#define HAK_CHECK(e, reason, ptr) (HAK_LIKELY(e) ? (void)0 : hak_fatal((reason), (ptr)))

HAK_EXTERN_C_END

#endif
