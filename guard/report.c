/* Reports of misuse: the line, and a line for each trace. No locks. Called by the signal handler
   (fault.c) and by the layer (layer.c). */
#include "guard/report.h"

#include "base/error.h"
#include "base/lock_holds.h"
#include "stack/trace.h"

#define STANDARD_ERROR 2

static void say(struct hak_line *line, const char *text, uint64_t n)
{
    hak_line_text(line, text);
    hak_line_unsigned(line, n);
}

/* "12 bytes" and "1 byte". */
static void say_bytes(struct hak_line *line, const char *text, uint64_t n)
{
    say(line, text, n);
    hak_line_text(line, n == 1 ? " byte" : " bytes");
}

static int is_live(const struct guard_slot *slot)
{
    return slot->state == GUARD_USED;
}

/* "a guarded block of 100 bytes" */
static void say_block(struct hak_line *line, const struct guard_slot *slot)
{
    hak_line_text(line, is_live(slot) ? "a guarded block" : "a freed guarded block");
    say_bytes(line, " of ", slot->size);
}

/* " (12 bytes behind a guarded block of 100 bytes at 0x...)" */
static void say_where(struct hak_line *line, const struct guard_spot *spot)
{
    if (spot->place == GUARD_INSIDE) {
        say(line, " (byte ", spot->distance);
        hak_line_text(line, " of ");
    } else {
        int is_behind = spot->place == GUARD_BEHIND;
        say_bytes(line, " (", spot->distance + (size_t)is_behind);
        hak_line_text(line, is_behind ? " behind " : " before ");
    }
    say_block(line, spot->slot);
    hak_line_text(line, " at ");
    hak_line_hex(line, (uint64_t)(uintptr_t)spot->slot->block);
    hak_line_text(line, ")");
}

/* Writes what is in the line, then the traces and the mappings of their code; the last of these
   stays in the line. */
static void say_traces(struct hak_line *line, const char *event, const struct stack_trace *trace,
                       const struct guard_slot *slot)
{
    const struct stack_trace *traces[] = {trace, &slot->traces[GUARD_ALLOCATED],
                                          &slot->traces[GUARD_FREED]};
    size_t n = is_live(slot) ? 2 : 3;
    hak_line_write(line, STANDARD_ERROR);
    hak_stack_trace_line(line, event, trace);
    hak_line_write(line, STANDARD_ERROR);
    hak_stack_trace_line(line, "hakmem: allocated", traces[1]);
    if (n == 3) {
        hak_line_write(line, STANDARD_ERROR);
        hak_stack_trace_line(line, "hakmem: freed", traces[2]);
    }
    hak_stack_trace_maps(line, traces, n);
}

static void say_access(struct hak_line *line, const struct guard_spot *spot,
                       enum fault_access access)
{
    static const char *const what[] = {
        [FAULT_TOUCHED] = " touched", [FAULT_READ] = " read", [FAULT_WRITTEN] = " written to"};
    static const char *const where[] = {[GUARD_BEFORE] = " before its start",
                                        [GUARD_INSIDE] = "",
                                        [GUARD_BEHIND] = " behind its end"};
    hak_line_text(line, is_live(spot->slot) ? "hakmem: block" : "hakmem: freed block");
    hak_line_text(line, what[access]);
    hak_line_text(line, where[spot->place]);
}

int hak_guard_report_fault(const void *p, enum fault_access access, const void *context)
{
    struct guard_spot spot = hak_guard_spot_of(p);
    struct hak_line line = {0, {0}};
    struct stack_trace trace;
    if (!spot.slot) {
        return 0;
    }
    (void)hak_lock_refuse_system_calls(0);
    if (context) {
        hak_stack_trace_interrupted(&trace, context);
    } else {
        hak_stack_trace_here(&trace);
    }
    say_access(&line, &spot, access);
    hak_line_text(&line, ": ");
    hak_line_hex(&line, (uint64_t)(uintptr_t)p);
    say_where(&line, &spot);
    say_traces(&line, "hakmem: touched", &trace, spot.slot);
    hak_line_write(&line, STANDARD_ERROR);
    return 1;
}

/* The line begins with reason and address; what is left in it at the end is written by the caller,
   hak_fatal_about. */
static void describe(struct hak_line *line, const void *p)
{
    struct guard_spot spot = hak_guard_spot_of(p);
    struct stack_trace trace;
    if (!spot.slot) {
        return;
    }
    (void)hak_lock_refuse_system_calls(0);
    if (p == spot.slot->block) {
        hak_line_text(line, " (");
        say_block(line, spot.slot);
        hak_line_text(line, ")");
    } else {
        say_where(line, &spot);
    }
    hak_stack_trace_here(&trace);
    say_traces(line, "hakmem: found", &trace, spot.slot);
}

void hak_guard_blame(const char *reason, const void *p)
{
    hak_fatal_about(reason, p, describe);
}
