/* Has a running process sample its heap, and reads from outside what it has sampled: the raw
   profile of docs/profile.md. The process opens no file, and no signal or thread comes to it: its
   memory is read and, for the request, written (hakmem/profile_layout.h) through /proc/PID/mem.
   That file goes on naming the memory that it was opened for: when the process has ended, or runs
   another program, nothing is read or written any more. One thread. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ask/ask.h"
#include "ask/show.h"
#include "ask/target.h"
#include "base/numbered.h"
#include "base/size_classes.h"
#include "hakmem/profile_layout.h"

enum {
    POLL_MS = 10,
    SNAPSHOT_MS = 2000, /* how old the profile of a process that ends may be */
    LEASE_MS = 3 * SNAPSHOT_MS,
    GIVE_UP_OFF_MS = 1000,
    /* No list or table of a sane process is longer. */
    NODES_MOST = 1 << 26,
    ROW_MOST = 4096,
    ID_MOST = 32
};

struct sampled {
    struct ask_target target;
    struct ask_error error;
    int mem; /* /proc/PID/mem */
    uint64_t at;
    struct hak_profile_layout layout;
    int is_ours; /* switched on by this command */
    char *text;  /* the last profile that was read */
    size_t n_text;
};

/* --- memory --- */

static int read_mem(void *context, const void *at, void *out, size_t n)
{
    const struct sampled *self = context;
    ssize_t got = pread(self->mem, out, n, (off_t)(uintptr_t)at);
    return got == (ssize_t)n ? 0 : got == 0 ? ESRCH : got > 0 ? EFAULT : errno;
}

static int get(struct sampled *self, const void *at, void *out, size_t n)
{
    return read_mem(self, at, out, n);
}

static int put(struct sampled *self, const void *at, const void *from, size_t n)
{
    ssize_t done = pwrite(self->mem, from, n, (off_t)(uintptr_t)at);
    return done == (ssize_t)n ? 0 : done >= 0 ? ESRCH : errno;
}

static int has_ended(struct sampled *self)
{
    char magic[16];
    return get(self, (const void *)(uintptr_t)self->at, magic, sizeof magic) != 0 ||
           memcmp(magic, PROFILE_LAYOUT_MAGIC, sizeof magic) != 0;
}

static int refuse(struct sampled *self, int why)
{
    if (why == ESRCH || (why != ENOMEM && has_ended(self))) {
        return ask_refuse(&self->error, ASK_NO_PROCESS,
                          "%s (%s) has ended, or runs another program now", self->target.name,
                          self->target.program);
    }
    return ask_refuse(&self->error,
                      why == EPERM || why == EACCES ? ASK_NOT_PERMITTED : ASK_UNREADABLE,
                      "%s (%s): its memory cannot be read and written: %s", self->target.name,
                      self->target.program, strerror(why));
}

static uint64_t field64(const char *bytes, uint32_t offset)
{
    uint64_t value;
    memcpy(&value, bytes + offset, sizeof value);
    return value;
}

static uint32_t field32(const char *bytes, uint32_t offset)
{
    uint32_t value;
    memcpy(&value, bytes + offset, sizeof value);
    return value;
}

static const void *pointer(uint64_t value)
{
    return (const void *)(uintptr_t)value;
}

/* --- finding it --- */

static int read_layout(struct sampled *self)
{
    int why = get(self, pointer(self->at), &self->layout, sizeof self->layout);
    const struct hak_profile_layout *layout = &self->layout;
    if (why) {
        return refuse(self, why);
    }
    if (layout->version != PROFILE_LAYOUT_VERSION || layout->bytes != sizeof *layout ||
        layout->sample_bytes > ROW_MOST || layout->site_bytes > ROW_MOST ||
        layout->stack_most > ROW_MOST || !layout->object_unit) {
        return ask_refuse(&self->error, ASK_OTHER_VERSION,
                          "%s (%s) has a heap profile of version %u; this command reads version %u",
                          self->target.name, self->target.program, layout->version,
                          PROFILE_LAYOUT_VERSION);
    }
    return 0;
}

static int open_it(struct sampled *self, int64_t pid)
{
    char path[64];
    int status = ask_open_process(&self->target, pid, &self->error);
    if (status) {
        return status;
    }
    self->at = ask_find(&self->target, PROFILE_LAYOUT_MAGIC);
    if (!self->at) {
        return ask_refuse(&self->error, ASK_NOT_HAKMEM,
                          "the hakmem in %s (%s) is without its heap profile", self->target.name,
                          self->target.program);
    }
    snprintf(path, sizeof path, "/proc/%" PRId64 "/mem", pid);
    self->mem = open(path, O_RDWR | O_CLOEXEC);
    if (self->mem < 0) {
        return ask_refuse(&self->error, errno == ENOENT ? ASK_NO_PROCESS : ASK_NOT_PERMITTED,
                          "%s (%s): %s: %s", self->target.name, self->target.program, path,
                          strerror(errno));
    }
    self->target.source = (struct survey_source){read_mem, self};
    if (has_ended(self)) {
        return refuse(self, ESRCH);
    }
    return read_layout(self);
}

/* --- asking --- */

static volatile sig_atomic_t must_end;

static void on_signal(int number)
{
    (void)number;
    must_end = 1;
}

static uint64_t now_ms(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void rest(void)
{
    const struct timespec some = {0, POLL_MS * 1000000L};
    nanosleep(&some, NULL);
}

static int get_control(struct sampled *self, struct hak_profile_control *control)
{
    return get(self, self->layout.control, control, sizeof *control);
}

/* Writes the request down. *n_answers: before it. 0 or an errno value. */
static int request(struct sampled *self, uint32_t what, uint64_t period, uint32_t *n_answers)
{
    struct hak_profile_control control;
    uint32_t epoch;
    int why = get_control(self, &control);
    why = why ? why : get(self, self->layout.theap_epoch, &epoch, sizeof epoch);
    if (why) {
        return why;
    }
    *n_answers = control.n_answers;
    control.period = period;
    control.lease_ms = LEASE_MS;
    control.epoch = epoch;
    why =
        put(self, self->layout.control, &control, offsetof(struct hak_profile_control, n_answers));
    return why ? why : put(self, self->layout.request, &what, sizeof what);
}

/* Waits until the process has answered. 0; EAGAIN: not in that time; or another errno value. */
static int await_answer(struct sampled *self, uint32_t n_answers, uint64_t limit_ms)
{
    struct hak_profile_control control;
    uint64_t end = now_ms(CLOCK_MONOTONIC) + limit_ms;
    for (;;) {
        int why = get_control(self, &control);
        if (why || control.n_answers != n_answers) {
            return why ? why : control.error;
        }
        if (must_end || now_ms(CLOCK_MONOTONIC) >= end) {
            return EAGAIN;
        }
        rest();
    }
}

static int is_on(struct sampled *self, int *out)
{
    size_t period = 0;
    int why = get(self, self->layout.period, &period, sizeof period);
    *out = period != 0;
    return why;
}

/* 0, or an exit status. */
static int switch_on(struct sampled *self, const struct ask_profile *what)
{
    struct hak_profile_control control;
    int was_on, why = is_on(self, &was_on);
    uint32_t n_answers, epoch;
    const uint32_t nothing = PROFILE_ASK_NOTHING;
    why = why ? why : get_control(self, &control);
    why = why ? why : get(self, self->layout.theap_epoch, &epoch, sizeof epoch);
    if (why) {
        return refuse(self, why);
    }
    if (was_on && control.until_ms && control.epoch == epoch) {
        return ask_refuse(&self->error, ASK_BUSY,
                          "%s (%s) is sampled by another `hakmem profile`; of one that was killed "
                          "it forgets the request within %d s",
                          self->target.name, self->target.program, LEASE_MS / 1000);
    }
    if (was_on && !control.until_ms) {
        return 0;
    }
    why = request(self, PROFILE_ASK_ON, what->period, &n_answers);
    why = why ? why : await_answer(self, n_answers, what->seconds * 1000);
    if (why == EAGAIN) {
        (void)put(self, self->layout.request, &nothing, sizeof nothing);
        return ask_refuse(&self->error, ASK_BUSY,
                          "%s (%s) has not answered: it took no fresh memory from hakmem meanwhile",
                          self->target.name, self->target.program);
    }
    if (why == EBUSY) { /* it was ending what another had asked for, or has begun its own */
        return ask_refuse(&self->error, ASK_BUSY,
                          "%s (%s) was switching its heap profile; try again", self->target.name,
                          self->target.program);
    }
    if (why) {
        return refuse(self, why);
    }
    self->is_ours = 1;
    fprintf(stderr, "hakmem: %s (%s) samples for %" PRIu64 " s\n", self->target.name,
            self->target.program, what->seconds);
    return 0;
}

static void switch_off(struct sampled *self)
{
    uint32_t n_answers;
    if (self->is_ours && request(self, PROFILE_ASK_OFF, 0, &n_answers) == 0) {
        (void)await_answer(self, n_answers, GIVE_UP_OFF_MS); /* else the lease ends it */
    }
}

/* --- sites --- */

struct site {
    uint64_t at, stack, pinned, numbers[8]; /* as the fields, pinned apart */
    uint32_t thread;
};

struct sites {
    struct site *rows;
    size_t n, room;
};

static int by_address(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Calls visit for each element of all lists of a table of buckets. 0 or an errno value. */
static int each(struct sampled *self, const void *buckets, uint32_t n, uint32_t bytes,
                uint32_t next,
                int (*visit)(struct sampled *self, uint64_t at, const char *row, void *context),
                void *context)
{
    char row[ROW_MOST];
    uint32_t n_seen = 0;
    uint64_t *heads = malloc((size_t)n * sizeof *heads);
    int why = heads ? get(self, buckets, heads, (size_t)n * sizeof *heads) : ENOMEM;
    for (uint32_t i = 0; i < n && !why; i++) {
        for (uint64_t at = heads[i]; at && !why; at = field64(row, next)) {
            why = n_seen++ > NODES_MOST ? ELOOP : get(self, pointer(at), row, bytes);
            why = why ? why : visit(self, at, row, context);
        }
    }
    free(heads);
    return why;
}

static int add_site(struct sampled *self, uint64_t at, const char *row, void *context)
{
    struct sites *sites = context;
    const struct hak_profile_layout *layout = &self->layout;
    uint64_t peak;
    int why = get(self, layout->peak, &peak, sizeof peak);
    if (sites->n == sites->room) {
        size_t room = sites->room ? 2 * sites->room : 1024;
        struct site *more = realloc(sites->rows, room * sizeof *more);
        if (!more) {
            return ENOMEM;
        }
        sites->rows = more;
        sites->room = room;
    }
    int is_at_peak = field64(row, layout->site_peak_seen) != peak;
    sites->rows[sites->n++] = (struct site){
        .at = at,
        .stack = field64(row, layout->site_stack),
        .thread = field32(row, layout->site_thread),
        .numbers = {field64(row, layout->site_live_objects), field64(row, layout->site_live_bytes),
                    field64(row, layout->site_allocated_objects),
                    field64(row, layout->site_allocated_bytes),
                    field64(row,
                            is_at_peak ? layout->site_live_objects : layout->site_peak_objects),
                    field64(row, is_at_peak ? layout->site_live_bytes : layout->site_peak_bytes),
                    field64(row, layout->site_freed_objects),
                    field64(row, layout->site_lifetime_ms)},
    };
    return why;
}

/* --- what is pinned --- */

struct region {
    uint64_t base, slabs;
    uint32_t mask;
};

struct pinning {
    struct region *regions;
    size_t n;
    struct sites *sites;
    const struct hak_layout *layout;
};

/* All superslabs, by address. 0 or an errno value. */
static int read_regions(struct sampled *self, const struct hak_layout *layout, struct pinning *out)
{
    uint32_t n = 0;
    uint64_t chunk = 0, item;
    char row[ROW_MOST];
    int why = get(self, (const char *)(const void *)layout->superslabs + layout->numbered_n, &n,
                  sizeof n);
    why = why ? why : layout->superslab_bytes > sizeof row ? EPROTO : 0;
    n = n < NUMBERED_CHUNK * NUMBERED_CHUNKS ? n : 0;
    out->regions = calloc((size_t)n + 1, sizeof *out->regions);
    out->n = 0;
    why = why ? why : out->regions ? 0 : ENOMEM;
    for (uint32_t i = 0; i < n && !why; i++) {
        if (i % NUMBERED_CHUNK == 0) {
            why = get(self,
                      (const char *)(const void *)layout->superslabs +
                          i / NUMBERED_CHUNK * sizeof chunk,
                      &chunk, sizeof chunk);
        }
        why =
            why ? why
                : get(self, pointer(chunk + i % NUMBERED_CHUNK * sizeof item), &item, sizeof item);
        if (!why && item && !(why = get(self, pointer(item), row, layout->superslab_bytes))) {
            struct region *region = &out->regions[out->n];
            *region = (struct region){field64(row, layout->superslab_base),
                                      field64(row, layout->superslab_slabs),
                                      field32(row, layout->superslab_mask)};
            out->n += region->base && region->mask;
        }
    }
    if (!why) {
        qsort(out->regions, out->n, sizeof *out->regions, by_address);
    }
    return why;
}

/* The region in which the address is, or NULL. */
static const struct region *region_of(const struct pinning *all, uint64_t address)
{
    size_t low = 0, high = all->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (all->regions[middle].base <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const struct region *found = low ? &all->regions[low - 1] : NULL;
    return found && address - found->base < (uint64_t)32 * SC_SLAB_BYTES ? found : NULL;
}

/* As in profile/write.c, from outside. */
static int add_pinned(struct sampled *self, uint64_t at, const char *row, void *context)
{
    const struct pinning *all = context;
    const struct hak_profile_layout *layout = &self->layout;
    uint64_t place = field64(row, layout->sample_place),
             site_at = field64(row, layout->sample_site);
    uint64_t block = place ? place : field64(row, layout->sample_start);
    char slab[ROW_MOST];
    (void)at;
    if (field64(row, layout->sample_key) <= 1 || field32(row, layout->sample_kind) != 0) {
        return 0;
    }
    const struct region *region = region_of(all, block);
    struct site *site =
        bsearch(&site_at, all->sites->rows, all->sites->n, sizeof *all->sites->rows, by_address);
    uint32_t unit = region ? (uint32_t)((block - region->base) / SC_SLAB_BYTES) : 0;
    if (!region || !site || !(region->mask >> unit & 1) || all->layout->slab_bytes > sizeof slab) {
        return 0;
    }
    int why = get(self, pointer(region->slabs + (uint64_t)unit * all->layout->slab_bytes), slab,
                  all->layout->slab_bytes);
    uint16_t class = 0, n_free = 0, fresh = 0;
    if (!why) {
        memcpy(&class, slab + all->layout->slab_class, sizeof class);
        memcpy(&n_free, slab + all->layout->slab_n_free, sizeof n_free);
        memcpy(&fresh, slab + layout->slab_fresh, sizeof fresh);
    }
    if (!why && class < SC_N_CLASSES) {
        uint32_t capacity = hak_sc_table[class].capacity;
        uint32_t n_live = n_free < capacity ? capacity - n_free : 1;
        if ((uint64_t)n_live * layout->nearly_empty < fresh) {
            site->pinned += field64(row, layout->sample_objects) * fresh *
                            hak_sc_table[class].size / n_live / layout->object_unit;
        }
    }
    return why;
}

static int read_pinned(struct sampled *self, const struct hak_layout *layout, struct sites *sites)
{
    struct pinning all = {NULL, 0, sites, layout};
    const struct hak_profile_layout *at = &self->layout;
    int why = read_regions(self, layout, &all);
    why = why ? why
              : each(self, at->samples, at->n_sample_buckets, at->sample_bytes, at->sample_next,
                     add_pinned, &all);
    free(all.regions);
    return why;
}

/* --- the raw profile --- */

/* A newline in a name is \n, a backslash \\. */
static void print_name(FILE *out, const char *name)
{
    for (; *name; name++) {
        if (*name == '\n' || *name == '\\') {
            putc('\\', out);
        }
        putc(*name == '\n' ? 'n' : *name, out);
    }
}

static int print_site(struct sampled *self, FILE *out, const struct site *site)
{
    const struct hak_profile_layout *layout = &self->layout;
    uint64_t addresses[ROW_MOST];
    uint32_t n = 0;
    int why = get(self, pointer(site->stack + layout->stack_n), &n, sizeof n);
    n = n < layout->stack_most ? n : layout->stack_most;
    why = why || !n ? why
                    : get(self, pointer(site->stack + layout->stack_addresses), addresses,
                          n * sizeof *addresses);
    fputs("stack", out);
    for (int i = 0; i < 8; i++) {
        int is_objects = i % 2 == 0; /* live, allocated, peak, freed */
        uint64_t unit = layout->object_unit;
        if (i == 6) {
            fprintf(out, " %" PRIu64, site->pinned);
        }
        fprintf(out, " %" PRIu64,
                is_objects ? (site->numbers[i] + unit / 2) / unit : site->numbers[i]);
    }
    if (site->thread) {
        fprintf(out, " tid=%u", site->thread);
    }
    fputs(" :", out);
    for (uint32_t i = 0; i < n && !why; i++) {
        fprintf(out, " 0x%" PRIx64, addresses[i]);
    }
    putc('\n', out);
    return why;
}

static int print_points(struct sampled *self, FILE *out)
{
    const struct hak_profile_layout *layout = &self->layout;
    uint32_t n = 0;
    uint64_t point[3];
    int why = get(self, layout->n_points, &n, sizeof n);
    for (uint32_t i = 0; i < n && i < layout->most_points && !why; i++) {
        why = get(self, (const char *)layout->points + (size_t)i * layout->point_bytes, point,
                  sizeof point);
        fprintf(out, "point %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", point[0], point[1], point[2]);
    }
    return why;
}

/* --- mappings --- */

/* In hex, of the object whose ELF header lies there; "-" if there is none. */
static void read_id(struct sampled *self, uint64_t header_at, char *out)
{
    Elf64_Ehdr header;
    Elf64_Phdr part;
    memcpy(out, "-", 2);
    if (get(self, pointer(header_at), &header, sizeof header) != 0 ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
        return;
    }
    for (int i = 0; i < header.e_phnum; i++) {
        if (get(self, pointer(header_at + header.e_phoff + (uint64_t)i * sizeof part), &part,
                sizeof part) != 0) {
            return;
        }
        uint64_t at = header_at + part.p_offset, end = at + part.p_filesz;
        Elf64_Nhdr note;
        while (part.p_type == PT_NOTE && at + sizeof note < end &&
               get(self, pointer(at), &note, sizeof note) == 0) {
            unsigned char id[ID_MOST];
            char name[4];
            uint64_t id_at = at + sizeof note + (((uint64_t)note.n_namesz + 3) & ~(uint64_t)3);
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz <= ID_MOST &&
                get(self, pointer(at + sizeof note), name, 4) == 0 && memcmp(name, "GNU", 4) == 0 &&
                get(self, pointer(id_at), id, note.n_descsz) == 0) {
                for (uint32_t k = 0; k < note.n_descsz; k++) {
                    snprintf(out + 2 * (size_t)k, 3, "%02x", id[k]);
                }
                return;
            }
            at = id_at + (((uint64_t)note.n_descsz + 3) & ~(uint64_t)3);
        }
    }
}

static int print_maps(struct sampled *self, FILE *out)
{
    char path[64], id[2 * ID_MOST + 1] = "-", *line = NULL, *of = NULL;
    size_t size = 0;
    ssize_t length;
    snprintf(path, sizeof path, "/proc/%" PRId64 "/maps", self->target.pid);
    FILE *stream = fopen(path, "re");
    if (!stream) {
        return errno;
    }
    while ((length = getline(&line, &size, stream)) > 0) {
        unsigned long long start, end, offset;
        char access[8];
        line[length - 1] = line[length - 1] == '\n' ? '\0' : line[length - 1];
        const char *name = strpbrk(line, "/[");
        if (!name || sscanf(line, "%llx-%llx %7s %llx", &start, &end, access, &offset) != 4) {
            continue;
        }
        if (offset == 0) {
            free(of);
            of = strdup(name);
            read_id(self, start, id);
        }
        if (access[2] == 'x') {
            fprintf(out, "map %llx-%llx %llx %s ", start, end, offset,
                    of && strcmp(of, name) == 0 ? id : "-");
            print_name(out, name);
            putc('\n', out);
        }
    }
    free(of);
    free(line);
    fclose(stream);
    return 0;
}

/* --- snapshots --- */

static int print_head(struct sampled *self, FILE *out)
{
    char link[64], program[PATH_MAX];
    size_t period = 0;
    uint64_t began = 0, now = now_ms(CLOCK_MONOTONIC_COARSE);
    struct ask_look *look = ask_look(&self->target, &self->error);
    if (!look) {
        return EPROTO;
    }
    int why = get(self, self->layout.last_period, &period, sizeof period);
    why = why ? why : get(self, self->layout.began_ms, &began, sizeof began);
    snprintf(link, sizeof link, "/proc/%" PRId64 "/exe", self->target.pid);
    ssize_t n = readlink(link, program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    fputs("hakmem-profile 1\nprogram ", out);
    print_name(out, n > 0 ? program : "-");
    fprintf(out, "\npid %" PRId64 "\nreason request\ntime_ns %" PRIu64 "\nelapsed_ms %" PRIu64 "\n",
            self->target.pid, now_ms(CLOCK_REALTIME) * 1000000, now > began ? now - began : 0);
    fprintf(out, "period %zu\nlive_bytes %" PRId64 "\nresident_bytes %" PRId64 "\n", period,
            look->survey.derived.live_bytes, look->survey.stats.committed_bytes);
    fprintf(out, "partial %d\n", self->is_ours);
    fputs("fields live_objects live_bytes allocated_objects allocated_bytes peak_objects "
          "peak_bytes pinned_bytes freed_objects lifetime_ms\n",
          out);
    struct sites sites = {NULL, 0, 0};
    const struct hak_profile_layout *layout = &self->layout;
    why = why ? why
              : each(self, layout->sites, layout->n_site_buckets, layout->site_bytes,
                     layout->site_next, add_site, &sites);
    if (!why && sites.n) {
        qsort(sites.rows, sites.n, sizeof *sites.rows, by_address);
        why = read_pinned(self, &look->survey.layout, &sites);
    }
    for (size_t i = 0; i < sites.n && !why; i++) {
        why = print_site(self, out, &sites.rows[i]);
    }
    free(sites.rows);
    ask_drop(look);
    return why;
}

/* Reads a profile into self->text, or leaves that as it is. 0 or an errno value. */
static int take_snapshot(struct sampled *self)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) {
        return ENOMEM;
    }
    int why = print_head(self, out);
    why = why ? why : print_points(self, out);
    why = why ? why : print_maps(self, out);
    fputs("end\n", out);
    why = fclose(out) != 0 && !why ? ENOMEM : why;
    why = !why && has_ended(self) ? ESRCH : why; /* the maps may be another program's */
    if (why) {
        free(text);
        return why;
    }
    free(self->text);
    self->text = text;
    self->n_text = n;
    return 0;
}

/* For so long, or until a signal or the process ends it. 0 or an errno value. */
static int watch(struct sampled *self, uint64_t limit_ms)
{
    uint64_t now = now_ms(CLOCK_MONOTONIC), end = now + limit_ms, next = now + SNAPSHOT_MS;
    uint32_t n_answers;
    int why = 0;
    while (!why && !must_end && (now = now_ms(CLOCK_MONOTONIC)) < end) {
        rest();
        if (now >= next) {
            next = now + SNAPSHOT_MS;
            why = take_snapshot(self);
            why = why || !self->is_ours ? why : request(self, PROFILE_ASK_ON, 0, &n_answers);
        } else {
            why = has_ended(self) ? ESRCH : 0;
        }
    }
    return why ? why : take_snapshot(self);
}

static int write_text(const struct sampled *self, const struct ask_profile *what)
{
    FILE *out = fopen(what->file, "we");
    int failed = !out || fwrite(self->text, 1, self->n_text, out) != self->n_text;
    if (out && fclose(out) != 0) {
        failed = 1;
    }
    if (failed) {
        command_complain(what->self, "%s: %s", what->file, strerror(errno));
    }
    return failed ? ASK_UNREADABLE : 0;
}

static int sample(struct sampled *self, const struct ask_profile *what)
{
    int status = open_it(self, what->pid);
    status = status ? status : switch_on(self, what);
    if (status) {
        return show_refusal(what->self, &self->error);
    }
    int why = watch(self, self->is_ours || what->wants_seconds ? what->seconds * 1000 : 0);
    switch_off(self);
    if (why && !self->text) {
        if (why != EPROTO || !self->error.status) {
            (void)refuse(self, why);
        }
        return show_refusal(what->self, &self->error);
    }
    if (why) {
        command_complain(what->self, "%s (%s) has ended: its profile is up to %d s older",
                         self->target.name, self->target.program, SNAPSHOT_MS / 1000);
    }
    return write_text(self, what);
}

int ask_profile(const struct ask_profile *what)
{
    static struct sampled self;
    struct sigaction action = {.sa_handler = on_signal}, before[2];
    self.mem = -1;
    sigaction(SIGINT, &action, &before[0]);
    sigaction(SIGTERM, &action, &before[1]);
    int status = sample(&self, what);
    sigaction(SIGINT, &before[0], NULL);
    sigaction(SIGTERM, &before[1], NULL);
    if (self.mem >= 0) {
        close(self.mem);
    }
    free(self.text);
    ask_close(&self.target);
    return status;
}
