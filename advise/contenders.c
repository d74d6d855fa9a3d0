/* Which settings and allocators are compared. No locks, no threads. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "advise/advise.h"

/* The settings that change what a program needs; each alone, as two at once would need their own
   proof. What they mean: docs/options.md. */
static const char *const settings[] = {
    "HAKMEM_PURGE_DELAY_MS=0",  "HAKMEM_PURGE_DELAY_MS=5000", "HAKMEM_ACE_KEEP=0",
    "HAKMEM_HUGE_PAGE_BYTES=0", "HAKMEM_BIN_ADAPT=0",         "HAKMEM_BIN_BYTES=16384",
    "HAKMEM_BIN_BYTES=1048576",
};

static const struct {
    const char *name, *soname;
} peers[] = {
    {"jemalloc", "libjemalloc.so.2"},
    {"mimalloc", "libmimalloc.so.2"},
    {"tcmalloc", "libtcmalloc_minimal.so.4"},
    {"tbbmalloc", "libtbbmalloc_proxy.so.2"},
};

static const char *const folders[] = {
#if defined(__x86_64__)
    "/usr/lib/x86_64-linux-gnu",
#elif defined(__aarch64__)
    "/usr/lib/aarch64-linux-gnu",
#endif
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib",
};

static int find_peer(const char *soname, char *out)
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct stat status;
        snprintf(out, PATH_MAX, "%s/%s", folders[i], soname);
        if (stat(out, &status) == 0 && S_ISREG(status.st_mode)) {
            return 1;
        }
    }
    return 0;
}

static struct advise_contender *add(struct advise_plan *plan, const char *name)
{
    struct advise_contender *made = &plan->contenders[plan->n_contenders++];
    memset(made, 0, sizeof *made);
    made->name = name;
    return made;
}

void advise_find_contenders(struct advise_plan *plan, const char *library)
{
    plan->n_contenders = plan->n_missing = 0;
    snprintf(add(plan, "hakmem")->library, PATH_MAX, "%s", library);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct advise_contender *made = add(plan, settings[i]);
        made->setting = settings[i];
        snprintf(made->library, PATH_MAX, "%s", library);
    }
    add(plan, "glibc");
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        char path[PATH_MAX];
        if (find_peer(peers[i].soname, path)) {
            snprintf(add(plan, peers[i].name)->library, PATH_MAX, "%s", path);
        } else {
            plan->missing[plan->n_missing++] = peers[i].name;
        }
    }
}
