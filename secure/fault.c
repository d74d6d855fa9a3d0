/* Reports of faults. Called by the handler of SIGSEGV (hakmem/fault.h); no locks but those of
   lookups. */
#include "secure/fault.h"

#include "base/error.h"
#include "base/lock_holds.h"
#include "hakmem/fault.h"
#include "secure/empty.h"
#include "secure/large.h"
#include "secure/stacks.h"
#include "stack/trace.h"
#include "superslab/map.h"
#include "superslab/superslab.h"

#if HAK_SECURE

/* "12 bytes" and "1 byte". */
static void say_bytes(struct hak_line *line, const char *text, uint64_t n)
{
    hak_line_text(line, text);
    hak_line_unsigned(line, n);
    hak_line_text(line, n == 1 ? " byte" : " bytes");
}

/* "hakmem: block written to behind its end: 0x..." */
static void say_access(struct hak_line *line, const char *what, enum fault_access access,
                       const char *where, const void *p)
{
    static const char *const how[] = {
        [FAULT_TOUCHED] = " touched", [FAULT_READ] = " read", [FAULT_WRITTEN] = " written to"};
    hak_line_text(line, what);
    hak_line_text(line, how[access]);
    hak_line_text(line, where);
    hak_line_text(line, ": ");
    hak_line_hex(line, (uint64_t)(uintptr_t)p);
}

/* Behind what is in the line: the stacks; all is written. */
static void say_stacks(struct hak_line *line, const void *block, const void *context)
{
    struct stack_trace trace;
    (void)hak_lock_refuse_system_calls(0);
    hak_stack_trace_interrupted(&trace, context);
    hak_secure_stacks_say(line, block, &trace);
    hak_line_write(line, 2);
}

/* " (12 bytes behind a block of 100000 bytes at 0x...)" */
static void say_where(struct hak_line *line, const struct large_block *block, const char *p)
{
    const char *start = (const char *)block->start, *end = start + block->size;
    if (p >= start && p < end) {
        hak_line_text(line, " (byte ");
        hak_line_unsigned(line, (uint64_t)(p - start));
        hak_line_text(line, " of ");
    } else {
        say_bytes(line, " (", p < start ? (uint64_t)(start - p) : (uint64_t)(p - end) + 1);
        hak_line_text(line, p < start ? " before " : " behind ");
    }
    hak_line_text(line, block->state == LARGE_FREED ? "a freed block" : "a block");
    say_bytes(line, " of ", block->size);
    hak_line_text(line, " at ");
    hak_line_hex(line, (uint64_t)(uintptr_t)start);
    hak_line_text(line, ")");
}

/* Inside of a block that is used, the program itself has forbidden it. */
static int report_large(const void *container, const char *p, enum fault_access access,
                        const void *context)
{
    struct hak_line line = {0, {0}};
    struct large_block block = hak_secure_large_find(container);
    const char *start = (const char *)block.start;
    int is_freed = block.state == LARGE_FREED, is_before = p < start,
        is_behind = p >= start + block.size;
    if (!block.size || (!is_freed && !is_before && !is_behind)) {
        return 0;
    }
    say_access(&line, is_freed ? "hakmem: freed block" : "hakmem: block", access,
               is_before   ? " before its start"
               : is_behind ? " behind its end"
                           : "",
               p);
    say_where(&line, &block, p);
    say_stacks(&line, start, context);
    return 1;
}

static int report(const void *p, enum fault_access access, const void *context)
{
    if ((uintptr_t)p >> 48) {
        return 0;
    }
    if (hak_secure_is_empty(p)) {
        struct hak_line line = {0, {0}};
        say_access(&line, "hakmem: block of 0 bytes", access, "", p);
        say_stacks(&line, p, context);
        return 1;
    }
    struct ss_lookup found = hak_super_lookup(p);
    return (found.kind == SS_SPAN || found.kind == SS_RANGE) && found.start &&
           report_large(found.start, (const char *)p, access, context);
}

int hak_secure_fault_start(void)
{
    return hak_fault_watch(report);
}

#endif
