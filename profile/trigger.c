/* The options of the profile, and when it is written: at exit, at a signal, after a time, after
   growth. No locks. A signal's handler sets a word, and the next thread that comes to a slow path
   of the layer acts on it, with no lock held.

   With AT_SECURE no option is read, and so nothing is written. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "profile/profile.h"
#include "profile/sample.h"

enum { DUE_SIGNAL = 1, DUE_NOW = 2 };

uint32_t hak_profile_due;
static uint64_t next_ms, next_bytes;
static uint32_t sequence, sequence_epoch; /* in this process */

static const char *file(void)
{
    return (const char *)(uintptr_t)hak_options.profile;
}

/* --- names --- */

static void append(char *path, size_t *n, char c)
{
    if (*n < PATH_MAX - 1) {
        path[(*n)++] = c;
    }
}

static void append_number(char *path, size_t *n, uint64_t number)
{
    char digits[24];
    size_t i = sizeof digits;
    do {
        digits[--i] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (i < sizeof digits) {
        append(path, n, digits[i++]);
    }
}

void hak_profile_make_name(char *path, const char *pattern, uint32_t number)
{
    size_t n = 0;
    const char *rest = strchr(pattern, '%') ? "" : ".%p.%n";
    for (int part = 0; part < 2; part++) {
        for (const char *c = part ? rest : pattern; *c; c++) {
            if (*c != '%' || !c[1]) {
                append(path, &n, *c);
                continue;
            }
            c++;
            if (*c == 'p') {
                append_number(path, &n, (uint64_t)getpid());
            } else if (*c == 'n') {
                append_number(path, &n, number);
            } else {
                append(path, &n, *c);
            }
        }
    }
    path[n] = 0;
}

/* A forked child counts from 1 again. */
static uint32_t next_number(void)
{
    if (atomic_load_relaxed(&sequence_epoch) != hak_theap_epoch) {
        atomic_store_relaxed(&sequence, 0u);
        atomic_store_relaxed(&sequence_epoch, hak_theap_epoch);
    }
    return atomic_add_relaxed(&sequence, 1u) + 1;
}

static void complain(const char *path, int error)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: heap profile not written to ");
    hak_line_text(&line, path);
    hak_line_text(&line, ": errno ");
    hak_line_unsigned(&line, (uint64_t)error);
    hak_line_write(&line, 2);
}

static void write_now(const char *reason)
{
    char path[PATH_MAX];
    if (!file()) {
        return;
    }
    hak_profile_make_name(path, file(), next_number());
    int error = hak_profile_write_file(path, reason);
    if (error) {
        complain(path, error);
    }
}

/* --- when --- */

/* The first of the threads that see it acts. */
static int is_time(uint64_t now_ms)
{
    uint64_t due = atomic_load_relaxed(&next_ms);
    return due && now_ms >= due &&
           atomic_cas_strong(&next_ms, &due, now_ms + hak_options.profile_interval * 1000);
}

static int has_grown(void)
{
    uint64_t due = atomic_load_relaxed(&next_bytes);
    uint64_t live = atomic_load_relaxed(&hak_profile_live_bytes);
    return due && live >= due &&
           atomic_cas_strong(&next_bytes, &due, live + hak_options.profile_growth);
}

void hak_profile_mind(void)
{
    int was_out = hak_profile_enter(), saved = errno;
    hak_profile_keep_lease();
    if (atomic_load_relaxed(&hak_profile_due) &&
        atomic_exchange_acq_rel(&hak_profile_due, 0u) & DUE_SIGNAL) {
        write_now("signal");
    }
    if (next_ms && is_time(hak_profile_now_ms())) {
        write_now("interval");
    }
    if (next_bytes && has_grown()) {
        write_now("growth");
    }
    errno = saved;
    if (was_out) {
        hak_profile_leave();
    }
}

static void on_signal(int number)
{
    (void)number;
    atomic_store_relaxed(&hak_profile_due, (uint32_t)DUE_SIGNAL);
}

/* The program may set a handler of its own later, which is what happens then. */
static void watch_signal(int number)
{
    struct sigaction before, action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    if (sigaction(number, NULL, &before) == 0 && before.sa_handler == SIG_DFL) {
        (void)sigaction(number, &action, NULL);
    }
}

/* Before the process's first block. */
static void start(void)
{
    hak_profile_hear();
    hak_profile_rate = hak_options.profile_rate;
    hak_profile_by_thread = hak_options.profile_threads != 0;
    if (file()) {
        next_bytes = hak_options.profile_growth;
        if (hak_profile_start(hak_options.profile_period) == 0 && hak_options.profile_interval) {
            next_ms = hak_profile_now_ms() + hak_options.profile_interval * 1000;
        }
        if (hak_options.profile_signal) {
            watch_signal((int)hak_options.profile_signal);
        }
    }
}
ENTRY_AT_START(start);

__attribute__((destructor)) static void end(void)
{
    /* A program that has allocated nothing has begun none. */
    if (file() && hak_options.profile_exit && hak_profile_began_ms) {
        write_now("exit");
    }
}

/* Which runs no destructors; as show_stats.c does. */
__attribute__((constructor)) static void watch_quick_exit(void)
{
    if (file()) {
        (void)at_quick_exit(end);
    }
}
