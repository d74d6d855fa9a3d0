/* The memory limit, and the cgroup's. Called before memory is committed (pool.c, range.c), by
   hakmem's slow paths, and while the process starts (hak_limit_read_cgroup). */
#include "limit/limit.h"

#include <string.h>

#include "base/os.h"
#include "base/stats.h"
#include "limit/fail.h"

/* Of the cgroup's limit; the rest is for what is not the heap: code, stacks, the page cache. */
#define AUTO_SOFT_EIGHTHS 7u
#define PURGE_AGAIN_SHIFT 4

int64_t hak_limit_most_mappings = LIMIT_MAPPINGS;
static uint64_t soft, hard; /* LIMIT_AUTO: `cgroup` stands for it */
static uint64_t cgroup;     /* the cgroup's limit, 0 for none; none until it was read */
extern uint64_t hak_limit_soft_set __attribute__((alias("soft")));
extern uint64_t hak_limit_hard_set __attribute__((alias("hard")));
extern uint64_t hak_limit_cgroup __attribute__((alias("cgroup")));
static uint32_t was_read;
static uint64_t purge_at; /* committed bytes at which to purge next; 0 for the soft limit */
static uint32_t wants_purge;

uint64_t hak_limit_committed(void)
{
    return (uint64_t)(hak_stat_get(committed_bytes) + hak_stat_get(limbo_bytes)) +
           hak_os_meta_bytes();
}

uint64_t hak_limit_mapped(void)
{
    return (uint64_t)(hak_stat_get(mapped_bytes) + hak_stat_get(limbo_bytes)) + hak_os_meta_bytes();
}

void hak_limit_configure(uint64_t new_soft, uint64_t new_hard)
{
    atomic_store_relaxed(&soft, new_soft);
    atomic_store_relaxed(&hard, new_hard);
    atomic_store_relaxed(&purge_at, (uint64_t)0);
}

/* The number in a file, or LIMIT_AUTO if there is none ("max", no such file). */
static uint64_t read_number(const char *path)
{
    char text[32];
    uint64_t n = 0;
    size_t length = hak_os_read_file(path, text, sizeof text, '\n');
    if (length == 0 || text[0] < '0' || text[0] > '9') {
        return LIMIT_AUTO;
    }
    for (size_t i = 0; i < length && text[i] >= '0' && text[i] <= '9'; i++) {
        n = n * 10 + (uint64_t)(text[i] - '0');
    }
    return n;
}

struct cgroup_path {
    char text[600];
};

/* Here and in `find` no function of the C library, of which another 64 KiB would be mapped in every
   process. (Volatile, or the compiler would call memcpy.) */
static char *put(char *to, const char *from, size_t n)
{
    volatile char *at = to;
    for (size_t i = 0; i < n; i++) {
        at[i] = from[i];
    }
    return to + n;
}

static void join(struct cgroup_path *out, const char *root, const char *group, size_t group_length,
                 const char *file)
{
    size_t n = strlen(root), m = strlen(file);
    out->text[0] = 0;
    if (n + group_length + m < sizeof out->text) {
        (void)put(put(put(out->text, root, n), group, group_length), file, m + 1);
    }
}

/* The least limit of the group and of all above it. */
static HAK_COLD uint64_t least_of(const char *root, const char *group, size_t length,
                                  const char *file)
{
    struct cgroup_path path;
    uint64_t least = LIMIT_AUTO;
    for (;;) {
        join(&path, root, group, length, file);
        uint64_t n = read_number(path.text);
        least = n < least ? n : least;
        if (length == 0) {
            return least;
        }
        while (length && group[--length] != '/') {
        }
    }
}

static char *find(char *from, const char *end, char c)
{
    while (from < end && *from != c) {
        from++;
    }
    return from < end ? from : NULL;
}

/* From the lines of /proc/self/cgroup: `0::/group` (version 2) or `N:...memory...:/group`
   (version 1). */
static HAK_COLD uint64_t cgroup_limit(void)
{
    char text[4096];
    size_t length = hak_os_read_file("/proc/self/cgroup", text, sizeof text - 1, 0);
    uint64_t least = LIMIT_AUTO;
    text[length] = 0;
    for (char *line = text; *line;) {
        char *end = find(line, text + length, '\n');
        end = end ? end : text + length;
        char *controllers = find(line, end, ':');
        char *group = controllers ? find(controllers + 1, end, ':') : NULL;
        if (group) {
            *group++ = 0;
            size_t n = (size_t)(end - group);
            n = n == 1 ? 0 : n; /* "/" is the root itself */
            uint64_t limit = LIMIT_AUTO;
            if (controllers[1] == 0) {
                limit = least_of("/sys/fs/cgroup", group, n, "/memory.max");
            } else if (strstr(controllers + 1, "memory")) {
                limit = least_of("/sys/fs/cgroup/memory", group, n, "/memory.limit_in_bytes");
            }
            least = limit < least ? limit : least;
        }
        line = *end ? end + 1 : end;
    }
    return least;
}

void hak_limit_read_cgroup(void)
{
    uint64_t limit = cgroup_limit();
    /* Version 1 says "unlimited" by a number near 2^63. */
    atomic_store_relaxed(&cgroup, limit > (uint64_t)1 << 60 ? 0 : limit);
    atomic_store_relaxed(&was_read, 1u);
}

int hak_limit_has_read_cgroup(void)
{
    return (int)atomic_load_relaxed(&was_read);
}

uint64_t hak_limit_soft_of(uint64_t set, uint64_t of_cgroup)
{
    return set == LIMIT_AUTO ? of_cgroup / 8 * AUTO_SOFT_EIGHTHS : set;
}

uint64_t hak_limit_hard_of(uint64_t set, uint64_t of_cgroup)
{
    return set == LIMIT_AUTO ? of_cgroup : set;
}

uint64_t hak_limit_soft(void)
{
    return hak_limit_soft_of(atomic_load_relaxed(&soft), atomic_load_relaxed(&cgroup));
}

uint64_t hak_limit_hard(void)
{
    return hak_limit_hard_of(atomic_load_relaxed(&hard), atomic_load_relaxed(&cgroup));
}

int hak_limit_is_set(void)
{
    return (atomic_load_relaxed(&soft) | atomic_load_relaxed(&hard)) != 0 &&
           (hak_limit_soft() | hak_limit_hard()) != 0;
}

int hak_limit_has_room(size_t more)
{
    uint64_t most = hak_limit_hard();
    return !most || hak_limit_committed() + more <= most;
}

int hak_limit_admit(size_t more, size_t size, size_t class_bytes)
{
    if (!hak_limit_is_set()) {
        return 1;
    }
    uint64_t after = hak_limit_committed() + more;
    uint64_t most = hak_limit_hard(), least = hak_limit_soft(), at = atomic_load_relaxed(&purge_at);
    if (most && after > most) {
        hak_fail_exhaustion(size, class_bytes, after - more, most);
        return 0;
    }
    if (least && after > (at ? at : least)) {
        atomic_store_relaxed(&wants_purge, 1u);
    }
    return 1;
}

int hak_limit_wants_purge(void)
{
    if (HAK_LIKELY(!atomic_load_relaxed(&wants_purge))) {
        return 0;
    }
    return (int)atomic_exchange_seq(&wants_purge, 0u);
}

void hak_limit_purged(void)
{
    uint64_t least = hak_limit_soft();
    uint64_t next = hak_limit_committed() + (least >> PURGE_AGAIN_SHIFT);
    atomic_store_relaxed(&purge_at, next > least ? next : least);
}
