/* Finds the layout in what is asked, and takes surveys through it. Called by the subcommands. */
#include "ask/target.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "hakmem/hakmem.h"

enum { PIECE = 256 * 1024 };

int ask_refuse(struct ask_error *error, int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is the line above */
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    error->status = status;
    return status;
}

int ask_add_mapping(struct ask_target *target, uint64_t start, uint64_t end,
                    struct ask_error *error)
{
    if (target->n_mappings == target->room) {
        size_t room = target->room ? 2 * target->room : 256;
        struct ask_mapping *more = realloc(target->mappings, room * sizeof *more);
        if (!more) {
            return ask_refuse(error, ASK_UNREADABLE, "%s", strerror(ENOMEM));
        }
        target->mappings = more;
        target->room = room;
    }
    target->mappings[target->n_mappings++] = (struct ask_mapping){start, end};
    return 0;
}

void ask_close(struct ask_target *target)
{
    free(target->mappings);
    if (target->core) {
        (void)munmap((void *)(uintptr_t)target->core, target->core_bytes);
    }
    memset(target, 0, sizeof *target);
}

/* --- the layout --- */

/* How much address space that copy of hakmem has: of two copies, the one that serves the program.
 */
static int64_t weight(const struct ask_target *target, const struct hak_layout *layout)
{
    struct hak_stats stats;
    if (layout->version != LAYOUT_VERSION || layout->bytes != sizeof *layout ||
        layout->n_stats != sizeof stats / sizeof(int64_t) ||
        target->source.read(target->source.context, layout->stats, &stats, sizeof stats) != 0) {
        return 0;
    }
    return stats.mapped_bytes;
}

static int is_layout(const char *bytes, const char *magic, uint64_t at)
{
    uint64_t self;
    memcpy(&self, bytes + offsetof(struct hak_layout, self), sizeof self);
    return memcmp(bytes, magic, sizeof LAYOUT_MAGIC) == 0 && self == at;
}

/* What a look is for: calls `visit` for each layout of that magic number. */
struct search {
    const char *magic;
    void (*visit)(struct ask_target *target, const void *at, void *context);
    void *context;
};

static void weigh(struct ask_target *target, const void *at, void *context)
{
    struct hak_layout found;
    int64_t *best = context;
    if (target->source.read(target->source.context, at, &found, sizeof found) == 0 &&
        weight(target, &found) > *best) {
        *best = weight(target, &found);
        target->layout = at;
    }
}

static void look_in(struct ask_target *target, const struct ask_mapping *mapping, char *piece,
                    const struct search *search)
{
    const struct survey_source *source = &target->source;
    for (uint64_t start = mapping->start; start < mapping->end; start += PIECE) {
        size_t n = mapping->end - start < PIECE ? (size_t)(mapping->end - start) : PIECE;
        if (source->read(source->context, (const void *)(uintptr_t)start, piece, n) != 0) {
            continue;
        }
        for (size_t i = 0; i + LAYOUT_ALIGN <= n; i += LAYOUT_ALIGN) {
            if (is_layout(piece + i, search->magic, start + i)) {
                search->visit(target, (const void *)(uintptr_t)(start + i), search->context);
            }
        }
    }
}

static int look_everywhere(struct ask_target *target, const struct search *search)
{
    char *piece = malloc(PIECE);
    for (size_t i = 0; piece && i < target->n_mappings; i++) {
        look_in(target, &target->mappings[i], piece, search);
    }
    free(piece);
    return piece != NULL;
}

/* Of two copies, the one that lies nearer to the layout that was found: in the same object. */
static void note_nearest(struct ask_target *target, const void *at, void *context)
{
    uint64_t *best = context, own = (uint64_t)(uintptr_t)target->layout;
    uint64_t before = *best > own ? *best - own : own - *best;
    uint64_t distance = (uint64_t)(uintptr_t)at > own ? (uint64_t)(uintptr_t)at - own
                                                      : own - (uint64_t)(uintptr_t)at;
    *best = !*best || distance < before ? (uint64_t)(uintptr_t)at : *best;
}

uint64_t ask_find(struct ask_target *target, const char *magic)
{
    uint64_t found = 0;
    const struct search search = {magic, note_nearest, &found};
    return look_everywhere(target, &search) ? found : 0;
}

int ask_find_layout(struct ask_target *target, struct ask_error *error)
{
    int64_t best = -1;
    const struct search search = {LAYOUT_MAGIC, weigh, &best};
    if (!look_everywhere(target, &search)) {
        return ask_refuse(error, ASK_UNREADABLE, "%s", strerror(ENOMEM));
    }
    return target->layout ? 0
                          : ask_refuse(error, ASK_NOT_HAKMEM, "hakmem is not in %s (%s)",
                                       target->name, target->program);
}

/* --- looking --- */

static int refuse_survey(const struct ask_target *target, const struct ask_look *look, int why,
                         struct ask_error *error)
{
    const struct hak_layout *layout = &look->survey.layout;
    switch (why) {
    case EPROTO:
        return ask_refuse(
            error, ASK_OTHER_VERSION,
            "%s (%s) has hakmem %.15s with layout %u; this command, of hakmem " HAKMEM_VERSION
            ", reads layout %u",
            target->name, target->program, layout->release, layout->version, LAYOUT_VERSION);
    case ESRCH:
        return ask_refuse(error, ASK_NO_PROCESS, "%s has ended", target->name);
    case EPERM:
        return ask_refuse(error, ASK_NOT_PERMITTED, "%s may not be read", target->name);
    default:
        return ask_refuse(error, ASK_UNREADABLE, "%s (%s): its memory cannot be read: %s",
                          target->name, target->program, strerror(why));
    }
}

struct ask_look *ask_look(struct ask_target *target, struct ask_error *error)
{
    struct timespec now;
    struct hak_layout layout;
    const struct survey_source *source = &target->source;
    struct ask_look *look = calloc(1, sizeof *look);
    if (!look) {
        ask_refuse(error, ASK_UNREADABLE, "%s", strerror(ENOMEM));
        return NULL;
    }
    int why = source->read(source->context, target->layout, &layout, sizeof layout);
    if (!why && layout.version == LAYOUT_VERSION && layout.bytes == sizeof layout) {
        look->n_heaps = hak_survey_n_heaps(source, &layout);
        look->heaps = calloc(look->n_heaps + 1, sizeof *look->heaps);
        why = look->heaps ? 0 : ENOMEM;
    }
    why = why ? why
              : hak_survey_take(source, target->layout, &look->survey, look->heaps, look->n_heaps);
    if (why) {
        refuse_survey(target, look, why, error);
        ask_drop(look);
        return NULL;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    look->at_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    look->resident = target->resident;
    return look;
}

void ask_drop(struct ask_look *look)
{
    if (look) {
        free(look->heaps);
        free(look);
    }
}
