/* Fatal errors and lines on standard error, by write(2) alone. No locks. Called by every part. */
#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "base/atomic.h"
#include "base/lock_holds.h"
#include "base/os.h"

void (*hak_fatal_before_abort)(void);
void (*hak_fatal_tell)(const char *reason, const void *ptr);
static HAK_TLS int is_dying;

void hak_line_text(struct hak_line *line, const char *text)
{
    while (*text && line->length < sizeof line->text - 1) {
        line->text[line->length++] = *text++;
    }
}

static void line_number(struct hak_line *line, uint64_t value, unsigned base)
{
    char digits[24];
    size_t n = sizeof digits;
    digits[--n] = '\0';
    do {
        digits[--n] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    hak_line_text(line, digits + n);
}

void hak_line_unsigned(struct hak_line *line, uint64_t value)
{
    line_number(line, value, 10);
}

void hak_line_hex(struct hak_line *line, uint64_t value)
{
    hak_line_text(line, "0x");
    line_number(line, value, 16);
}

void hak_line_ratio(struct hak_line *line, uint64_t thousandths)
{
    char digits[] = {'.', (char)('0' + thousandths / 100 % 10), (char)('0' + thousandths / 10 % 10),
                     (char)('0' + thousandths % 10), 0};
    for (size_t i = 3; i >= 2 && digits[i] == '0'; i--) {
        digits[i] = 0;
    }
    hak_line_unsigned(line, thousandths / 1000);
    hak_line_text(line, digits);
}

void hak_line_write(struct hak_line *line, int fd)
{
    int saved = errno;
    line->text[line->length++] = '\n';
    size_t done = 0;
    hak_lock_count_system_call("write");
    while (done < line->length) {
        ssize_t n = hak_os_ops.write(fd, line->text + done, line->length - done);
        if (n <= 0) {
            break;
        }
        done += (size_t)n;
    }
    line->length = 0;
    errno = saved;
}

void hak_fatal_about(const char *reason, const void *ptr,
                     void (*describe)(struct hak_line *line, const void *ptr))
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: ");
    hak_line_text(&line, reason);
    hak_line_text(&line, ": ");
    hak_line_hex(&line, (uint64_t)(uintptr_t)ptr);
    if (describe && !is_dying) {
        describe(&line, ptr);
    }
    (void)hak_lock_refuse_system_calls(0);
    hak_line_write(&line, 2);
    if (is_dying) {
        (void)signal(SIGABRT, SIG_DFL);
    } else {
        void (*call)(void) = atomic_load_acquire(&hak_fatal_before_abort);
        void (*tell)(const char *, const void *) = atomic_load_acquire(&hak_fatal_tell);
        is_dying = 1;
        if (call) {
            call();
        }
        if (tell) {
            tell(reason, ptr);
        }
    }
    abort();
}

void hak_fatal(const char *reason, const void *ptr)
{
    hak_fatal_about(reason, ptr, NULL);
}
