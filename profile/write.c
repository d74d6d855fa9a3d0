/* Writes the raw profile, as docs/profile.md describes it: text that another program reads. No
   locks: one thread writes at a time, others are refused. The buffer is mapped for it. System
   calls: those of the file, readlink, and mmap; all raw, so that none is a cancellation point. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/os.h"
#include "hakmem/hakmem.h"
#include "hakmem/walk.h"
#include "heap/theap.h"
#include "profile/profile.h"
#include "profile/raw.h"
#include "profile/sample.h"
#include "superslab/pool.h"

/* --- the time line --- */

HAK_LARGE_ZEROS struct profile_line hak_profile_line;

static uint64_t committed(void)
{
    size_t soft, hard, bytes;
    hak_limit_get(&soft, &hard, &bytes);
    return bytes;
}

static void thin_out(void)
{
    for (uint32_t i = 0; i < PROFILE_POINTS / 2; i++) {
        hak_profile_line.points[i] = hak_profile_line.points[2 * (size_t)i];
    }
    hak_profile_line.n = PROFILE_POINTS / 2;
    hak_profile_line.step_ms *= 2;
}

static void add_point(uint64_t now_ms)
{
    if (hak_profile_line.n == PROFILE_POINTS) {
        thin_out();
    }
    hak_profile_line.points[hak_profile_line.n++] = (struct profile_point){
        now_ms - hak_profile_began_ms, atomic_load_relaxed(&hak_profile_live_bytes), committed()};
    hak_profile_line.step_ms = hak_profile_line.step_ms ? hak_profile_line.step_ms : 10;
    atomic_store_relaxed(&hak_profile_line.next_ms, now_ms + hak_profile_line.step_ms);
}

/* The word names the process's epoch (theap.h): in a forked child, another thread's is none. */
static int begin_alone(uint32_t *word)
{
    uint32_t before = atomic_load_relaxed(word);
    return before != hak_theap_epoch && atomic_cas_strong(word, &before, hak_theap_epoch);
}

void hak_profile_add_point(uint64_t now_ms)
{
    if (now_ms >= atomic_load_relaxed(&hak_profile_line.next_ms) &&
        begin_alone(&hak_profile_line.is_busy)) {
        add_point(now_ms);
        atomic_store_release(&hak_profile_line.is_busy, 0u);
    }
}

static void put_points(struct profile_out *out)
{
    for (uint32_t i = 0; i < hak_profile_line.n; i++) {
        const struct profile_point *point = &hak_profile_line.points[i];
        hak_profile_put_text(out, "point ");
        hak_profile_put_number(out, point->elapsed_ms, 10);
        hak_profile_put_char(out, ' ');
        hak_profile_put_number(out, point->live_bytes, 10);
        hak_profile_put_char(out, ' ');
        hak_profile_put_number(out, point->resident_bytes, 10);
        hak_profile_put_char(out, '\n');
    }
}

/* --- the profile --- */

static void clear_pinned(struct profile_site *site, void *context)
{
    (void)context;
    site->pinned_bytes = 0;
}

/* The part of its slab that a live block pins: what the slab would free if it and the few others
   were gone; of blocks that were never handed out, no page was touched. The slab's numbers are read
   without its lock, and may be those of a moment before. */
static void add_pinned(const struct profile_sample *sample, void *context)
{
    (void)context;
    if (sample->kind != PROFILE_BLOCK) {
        return;
    }
    const void *block = sample->place ? sample->place : sample->start;
    struct map_entry entry = hak_map_find(block);
    if (!TAG_IS_SLAB(entry.tag)) {
        return;
    }
    const struct slab *slab = hak_pool_slab_of(entry.ref, block);
    const struct size_class *row = &hak_sc_table[atomic_load_relaxed(&slab->size_class)];
    uint32_t n_free = atomic_load_relaxed(&slab->n_free);
    uint32_t n_live = n_free < row->capacity ? row->capacity - n_free : 1;
    uint64_t n_used = atomic_load_relaxed(&slab->fresh);
    if ((uint64_t)n_live * PROFILE_NEARLY_EMPTY < n_used) {
        uint64_t bytes = sample->weight.objects * n_used * row->size / n_live / PROFILE_OBJECT;
        (void)atomic_add_relaxed(&sample->site->pinned_bytes, bytes);
    }
}

static uint64_t objects(const uint64_t *number)
{
    return (atomic_load_relaxed(number) + PROFILE_OBJECT / 2) / PROFILE_OBJECT;
}

static void put_site(struct profile_site *site, void *out_)
{
    struct profile_out *out = (struct profile_out *)out_;
    int is_at_peak = atomic_load_relaxed(&site->peak_seen) != hak_profile_peak;
    const uint64_t numbers[] = {
        objects(&site->live_objects),
        atomic_load_relaxed(&site->live_bytes),
        objects(&site->allocated_objects),
        atomic_load_relaxed(&site->allocated_bytes),
        objects(is_at_peak ? &site->live_objects : &site->peak_objects),
        atomic_load_relaxed(is_at_peak ? &site->live_bytes : &site->peak_bytes),
        atomic_load_relaxed(&site->pinned_bytes),
        objects(&site->freed_objects),
        atomic_load_relaxed(&site->lifetime_ms),
    };
    hak_profile_put_text(out, "stack");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        hak_profile_put_char(out, ' ');
        hak_profile_put_number(out, numbers[i], 10);
    }
    if (site->thread) {
        hak_profile_put_text(out, " tid=");
        hak_profile_put_number(out, site->thread, 10);
    }
    hak_profile_put_text(out, " :");
    for (size_t i = 0; i < site->stack->n; i++) {
        hak_profile_put_text(out, " 0x");
        hak_profile_put_number(out, (uintptr_t)site->stack->addresses[i], 16);
    }
    hak_profile_put_char(out, '\n');
}

/* What every block takes that is allocated, thread caches but the own one included. */
static uint64_t count_live(void)
{
    struct walk_counts counts;
    hak_walk_count(&counts);
    uint64_t live = counts.span_bytes + counts.range_bytes;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        live += (uint64_t)counts.n_used[c] * hak_sc_table[c].size;
    }
    return live;
}

static void put_profile(struct profile_out *out, struct profile_maps *maps, const char *reason)
{
    hak_profile_put_head(out, getpid(), reason, hak_profile_now_ms() - hak_profile_began_ms);
    hak_profile_put_row(out, "period", hak_profile_last_period);
    hak_profile_put_row(out, "live_bytes", count_live());
    hak_profile_put_row(out, "resident_bytes", committed());
    hak_profile_put_text(
        out, "fields live_objects live_bytes allocated_objects allocated_bytes peak_objects "
             "peak_bytes pinned_bytes freed_objects lifetime_ms\n");
    hak_profile_each_site(clear_pinned, NULL);
    hak_profile_each_sample(add_pinned, NULL);
    hak_profile_each_site(put_site, out);
    put_points(out);
    hak_profile_put_maps(out, maps);
    hak_profile_put_text(out, "end\n");
    hak_profile_flush(out);
}

static uint32_t is_writing;

/* Not within another allocation that is sampled: that may have changed half of the numbers. */
static int write_alone(int fd, const char *reason)
{
    struct work {
        struct profile_out out;
        struct profile_maps maps;
    };
    size_t size = (sizeof(struct work) + hak_os_page_size() - 1) & ~(hak_os_page_size() - 1);
    struct work *work = (struct work *)hak_os_map_aligned(NULL, size, hak_os_page_size());
    if (!work) {
        return ENOMEM;
    }
    work->out.fd = fd;
    put_profile(&work->out, &work->maps, reason);
    int error = work->out.error, unmapped = hak_os_unmap(work, size);
    (void)unmapped; /* a refusal leaves some pages mapped */
    return error;
}

int hak_profile_write_as(int fd, const char *reason)
{
    if (!hak_profile_began_ms) {
        return EINVAL;
    }
    if (!begin_alone(&is_writing)) {
        return EBUSY;
    }
    int was_off = hak_profile_enter(), saved = errno;
    int error = write_alone(fd, reason);
    if (was_off) {
        hak_profile_leave();
    }
    errno = saved;
    atomic_store_release(&is_writing, 0u);
    return error;
}

int hak_profile_write(int fd)
{
    return hak_profile_write_as(fd, "api");
}

/* --- files --- */

static int write_whole(const char *path, const char *temporary,
                       int (*write)(int fd, const void *context), const void *context)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, temporary,
                          O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return errno;
    }
    int error = write(fd, context);
    if (hak_os_ops.close(fd) != 0 && !error) {
        error = errno;
    }
    if (!error && syscall(SYS_renameat2, AT_FDCWD, temporary, AT_FDCWD, path, 0) != 0) {
        error = errno;
    }
    if (error) {
        (void)syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
    }
    return error;
}

/* A device, such as /dev/stderr, has no place for another file. */
static int write_device(const char *path, int (*write)(int fd, const void *context),
                        const void *context)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        return errno;
    }
    int error = write(fd, context);
    return hak_os_ops.close(fd) != 0 && !error ? errno : error;
}

int hak_profile_replace_file(const char *path, int (*write)(int fd, const void *context),
                             const void *context)
{
    static const char suffix[] = ".tmp";
    char temporary[PATH_MAX];
    size_t n = strlen(path);
    if (n + sizeof suffix > sizeof temporary) {
        return ENAMETOOLONG;
    }
    int saved = errno;
    memcpy(temporary, path, n + 1);
    memcpy(temporary + n, suffix, sizeof suffix);
    int error = strncmp(path, "/dev/", 5) == 0 && strncmp(path, "/dev/shm/", 9) != 0
                    ? write_device(path, write, context)
                    : write_whole(path, temporary, write, context);
    errno = saved;
    return error;
}

static int write_profile(int fd, const void *reason)
{
    return hak_profile_write_as(fd, (const char *)reason);
}

int hak_profile_write_file(const char *path, const char *reason)
{
    return hak_profile_replace_file(path, write_profile, reason);
}
