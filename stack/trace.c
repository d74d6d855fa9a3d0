/* Traces. No locks. Called by guard's reports, and by secure's. */
#include "stack/trace.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "base/os.h"
#include "stack/stack.h"

static uint32_t thread_number(void)
{
    return (uint32_t)syscall(SYS_gettid);
}

void hak_stack_trace_here(struct stack_trace *trace)
{
    trace->thread = thread_number();
    trace->n = (uint32_t)hak_stack_capture(trace->frames, STACK_TRACE_FRAMES, NULL);
}

void hak_stack_trace_interrupted(struct stack_trace *trace, const void *context)
{
    trace->thread = thread_number();
    trace->n = (uint32_t)hak_stack_capture_from(context, trace->frames, STACK_TRACE_FRAMES);
}

void hak_stack_trace_line(struct hak_line *line, const char *text, const struct stack_trace *trace)
{
    hak_line_text(line, text);
    hak_line_text(line, " by thread ");
    hak_line_unsigned(line, trace->thread);
    hak_line_text(line, trace->n ? ":" : "");
    for (uint32_t i = 0; i < trace->n; i++) {
        hak_line_text(line, " ");
        hak_line_hex(line, (uint64_t)(uintptr_t)trace->frames[i]);
    }
}

/* --- mappings --- */

#define STANDARD_ERROR 2
/* Longer lines are cut. */
#define MAPS_LINE 400u

struct maps {
    struct hak_line *out;
    const struct stack_trace *const *traces;
    size_t n_traces, length;
    char text[MAPS_LINE + 1];
};

static const char *read_hex(const char *text, uintptr_t *value)
{
    *value = 0;
    for (;; text++) {
        char c = *text;
        if (c >= '0' && c <= '9') {
            *value = *value * 16 + (uintptr_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            *value = *value * 16 + (uintptr_t)(c - 'a' + 10);
        } else {
            return text;
        }
    }
}

static int has_frame_in(const struct maps *maps, uintptr_t start, uintptr_t end)
{
    for (size_t t = 0; t < maps->n_traces; t++) {
        for (uint32_t i = 0; i < maps->traces[t]->n; i++) {
            uintptr_t frame = (uintptr_t)maps->traces[t]->frames[i];
            if (frame >= start && frame < end) {
                return 1;
            }
        }
    }
    return 0;
}

static void end_maps_line(struct maps *maps)
{
    uintptr_t start, end;
    maps->text[maps->length] = '\0';
    maps->length = 0;
    const char *at = read_hex(maps->text, &start);
    (void)read_hex(*at ? at + 1 : at, &end);
    if (has_frame_in(maps, start, end)) {
        hak_line_write(maps->out, STANDARD_ERROR);
        hak_line_text(maps->out, "hakmem: ");
        hak_line_text(maps->out, maps->text);
    }
}

static void take_maps_text(struct maps *maps, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n') {
            end_maps_line(maps);
        } else if (maps->length < MAPS_LINE) {
            maps->text[maps->length++] = text[i];
        }
    }
}

void hak_stack_trace_maps(struct hak_line *line, const struct stack_trace *const *traces,
                          size_t n_traces)
{
    struct maps maps = {.out = line, .traces = traces, .n_traces = n_traces};
    char piece[1024];
    ssize_t n;
    int fd = hak_os_ops.open("/proc/self/maps");
    if (fd < 0) {
        return;
    }
    while ((n = hak_os_ops.read(fd, piece, sizeof piece)) > 0) {
        take_maps_text(&maps, piece, (size_t)n);
    }
    (void)hak_os_ops.close(fd);
}
