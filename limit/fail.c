/* Counting, remembering and telling failures. State: relaxed atomics, and a thread-local path.
   Called by slow paths only. */
#include "limit/fail.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "limit/limit.h"

/* No "(unknown)" for what mmap, munmap and mremap say. */
static const struct {
    int number;
    const char *name;
} errno_names[] = {{ENOMEM, "ENOMEM"}, {EAGAIN, "EAGAIN"}, {EINVAL, "EINVAL"}, {EPERM, "EPERM"},
                   {EFAULT, "EFAULT"}, {ENFILE, "ENFILE"}, {EEXIST, "EEXIST"}, {EACCES, "EACCES"}};

static const char *const reason_names[FAIL_N_REASONS] = {
    "None", "Threshold", "Exhaustion", "MapFail", "Reclaim", "Request", "Fallback"};

/* Lines of steps that failed with a lock held; what does not fit is counted as held back. */
#define WAITING_LINES 16u

static HAK_TLS struct fail_path path;
/* Where the stack was when the callback was called; NULL outside of it. */
static HAK_TLS const char *in_callback;
/* By reason: the second in which lines were last written, how many, and how many were held back
   since. */
static uint64_t line_second[FAIL_N_REASONS];
static uint32_t lines_written[FAIL_N_REASONS], lines_held[FAIL_N_REASONS];
/* RLIMIT_AS at the start of the process. */
static uint64_t address_limit = UINT64_MAX;
static fail_callback callback;
static void *callback_context;

const char *hak_fail_reason_name(enum fail_reason reason)
{
    return reason_names[reason];
}

static void remember(enum fail_reason reason)
{
    for (size_t i = 0; i < sizeof path.reasons; i++) {
        if (path.reasons[i] == FAIL_NONE) {
            path.reasons[i] = (uint8_t)reason;
            return;
        }
    }
}

/* Whether a line may be written now. Two threads at once may write one too many. */
static int may_write(enum fail_reason reason)
{
    if (!hak_options.ace_trace) {
        return 0;
    }
    uint64_t second = hak_os_ops.clock_ns() / NS_A_S + 1;
    if (atomic_load_relaxed(&line_second[reason]) != second) {
        atomic_store_relaxed(&line_second[reason], second);
        atomic_store_relaxed(&lines_written[reason], 0u);
    }
    if (atomic_add_relaxed(&lines_written[reason], 1u) < FAIL_LINES) {
        return 1;
    }
    atomic_add_relaxed(&lines_held[reason], 1u);
    hak_stat_add(fail_lines_held, 1);
    return 0;
}

static void start_line(struct hak_line *line, enum fail_reason reason)
{
    static const char blanks[] = "          "; /* as many as the longest name has letters */
    line->length = 0;
    hak_line_text(line, "[ACE-FAIL] ");
    hak_line_text(line, reason_names[reason]);
    hak_line_text(line, blanks + strlen(reason_names[reason]));
}

static void field(struct hak_line *line, const char *name, uint64_t value)
{
    hak_line_text(line, name);
    hak_line_unsigned(line, value);
}

static void end_line(struct hak_line *line, enum fail_reason reason)
{
    uint32_t held = atomic_exchange_seq(&lines_held[reason], 0u);
    if (held) {
        field(line, " held_back=", held);
    }
    hak_line_write(line, 2);
}

void hak_fail_threshold(size_t size, size_t class_bytes, uint64_t wmax)
{
    remember(FAIL_THRESHOLD);
    hak_stat_add(fail_threshold, 1);
    if (may_write(FAIL_THRESHOLD)) {
        struct hak_line line;
        hak_fail_tell();
        start_line(&line, FAIL_THRESHOLD);
        field(&line, " size=", size);
        field(&line, " class=", class_bytes);
        hak_line_text(&line, " wmax=");
        hak_line_ratio(&line, wmax);
        end_line(&line, FAIL_THRESHOLD);
    }
}

/* --- lines that wait --- */

/* What is known when the step fails, for the line. */
struct failed_step {
    enum fail_reason reason;
    size_t size;
    uint64_t detail;             /* Exhaustion: the class's bytes; MapFail: the errno value */
    uint64_t pool_bytes, limit;  /* Exhaustion */
    uint64_t mapped, n_mappings; /* MapFail */
};

/* Slots of all threads: static thread-local storage is scarce. A slot is filled and emptied by
   whoever has changed its state to BUSY. */
enum { SLOT_FREE, SLOT_BUSY, SLOT_FULL };
static struct {
    uint32_t state;
    struct failed_step step;
} slots[WAITING_LINES];
static uint32_t n_waiting;

static void put_off(const struct failed_step *step)
{
    for (uint32_t i = 0; i < WAITING_LINES; i++) {
        uint32_t expected = SLOT_FREE;
        if (atomic_cas_strong(&slots[i].state, &expected, (uint32_t)SLOT_BUSY)) {
            slots[i].step = *step;
            (void)atomic_add_relaxed(&n_waiting, 1u);
            atomic_store_release(&slots[i].state, (uint32_t)SLOT_FULL);
            return;
        }
    }
    (void)atomic_add_relaxed(&lines_held[step->reason], 1u);
    hak_stat_add(fail_lines_held, 1);
}

void hak_fail_exhaustion(size_t size, size_t class_bytes, uint64_t pool_bytes, uint64_t limit)
{
    remember(FAIL_EXHAUSTION);
    hak_stat_add(fail_exhaustion, 1);
    if (may_write(FAIL_EXHAUSTION)) {
        struct failed_step step = {FAIL_EXHAUSTION, size, class_bytes, pool_bytes, limit, 0, 0};
        put_off(&step);
    }
}

void hak_fail_map(size_t size, int error)
{
    remember(FAIL_MAP);
    hak_stat_add(fail_map, 1);
    if (may_write(FAIL_MAP)) {
        struct failed_step step = {FAIL_MAP,
                                   size,
                                   (uint64_t)error,
                                   0,
                                   0,
                                   hak_limit_mapped(),
                                   (uint64_t)hak_stat_get(mappings) + hak_os_meta_mappings()};
        put_off(&step);
    }
}

static const char *errno_name(int error)
{
    for (size_t i = 0; i < sizeof errno_names / sizeof errno_names[0]; i++) {
        if (errno_names[i].number == error) {
            return errno_names[i].name;
        }
    }
    return "?";
}

static void exhaustion_fields(struct hak_line *line, const struct failed_step *step)
{
    field(line, " class=", step->detail);
    field(line, " pool_bytes=", step->pool_bytes);
    field(line, " limit=", step->limit);
}

static void map_fields(struct hak_line *line, const struct failed_step *step)
{
    field(line, " errno=", step->detail);
    hak_line_text(line, " (");
    hak_line_text(line, errno_name((int)step->detail));
    field(line, ") mapped=", step->mapped);
    field(line, " vma=", step->n_mappings);
    hak_line_text(line, " rlimit_as=");
    if (address_limit == UINT64_MAX) {
        hak_line_text(line, "unlimited");
    } else {
        hak_line_unsigned(line, address_limit);
    }
}

static void tell(const struct failed_step *step)
{
    struct hak_line line;
    start_line(&line, step->reason);
    field(&line, " size=", step->size);
    if (step->reason == FAIL_MAP) {
        map_fields(&line, step);
    } else {
        exhaustion_fields(&line, step);
    }
    end_line(&line, step->reason);
}

void hak_fail_tell(void)
{
    for (uint32_t i = 0; HAK_UNLIKELY(atomic_load_relaxed(&n_waiting) != 0) && i < WAITING_LINES;
         i++) {
        uint32_t expected = SLOT_FULL;
        if (atomic_cas_strong(&slots[i].state, &expected, (uint32_t)SLOT_BUSY)) {
            struct failed_step step = slots[i].step;
            (void)atomic_sub_relaxed(&n_waiting, 1u);
            atomic_store_release(&slots[i].state, (uint32_t)SLOT_FREE);
            tell(&step);
        }
    }
}

void hak_fail_start(void)
{
    address_limit = hak_options.ace_trace ? hak_os_address_limit() : UINT64_MAX;
}

void hak_fail_reclaim(void)
{
    remember(FAIL_RECLAIM);
}

void hak_fail_fallback(size_t size, const char *reason)
{
    hak_stat_add(libc_fallbacks, 1);
    if (may_write(FAIL_FALLBACK)) {
        struct hak_line line;
        hak_fail_tell();
        start_line(&line, FAIL_FALLBACK);
        field(&line, " size=", size);
        hak_line_text(&line, " reason=");
        hak_line_text(&line, reason);
        end_line(&line, FAIL_FALLBACK);
    }
}

void hak_fail_begin(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&n_waiting) != 0)) {
        hak_fail_tell();
    }
    memset(&path, 0, sizeof path);
}

int hak_fail_any(void)
{
    return path.reasons[0] != FAIL_NONE;
}

static void report_request(size_t size, size_t align)
{
    if (may_write(FAIL_REQUEST)) {
        struct hak_line line;
        start_line(&line, FAIL_REQUEST);
        field(&line, " size=", size);
        field(&line, " align=", align);
        hak_line_text(&line, " path=");
        for (size_t i = 0; i < sizeof path.reasons && path.reasons[i] != FAIL_NONE; i++) {
            hak_line_text(&line, i ? "," : "");
            hak_line_text(&line, reason_names[path.reasons[i]]);
        }
        hak_line_text(&line, hak_fail_any() ? "" : "TooLarge");
        end_line(&line, FAIL_REQUEST);
    }
}

/* A request of the callback itself comes from deeper in the stack. One that does not: the callback
   was left by longjmp. */
static int is_in_callback(const char *here)
{
    if (in_callback && here >= in_callback) {
        in_callback = NULL;
    }
    return in_callback != NULL;
}

void hak_fail_end(size_t size, size_t align, const void *p)
{
    const char *here = (const char *)__builtin_frame_address(0);
    hak_fail_tell();
    if (!p) {
        report_request(size, align);
    }
    fail_callback call = atomic_load_acquire(&callback);
    if (call && !is_in_callback(here) && (!p || hak_fail_any())) {
        struct fail_path taken = path; /* the callback may allocate */
        int saved = errno;
        in_callback = here;
        call(size, align, &taken, !p, atomic_load_relaxed(&callback_context));
        in_callback = NULL;
        errno = saved;
    }
}

void hak_fail_set_callback(fail_callback call, void *context)
{
    atomic_store_release(&callback, NULL);
    atomic_store_relaxed(&callback_context, context);
    atomic_store_release(&callback, call);
}
