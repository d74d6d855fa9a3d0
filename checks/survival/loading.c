/* dlopen. The environment's SURVIVAL_PLUGIN is plugin.c's library, which is copied so that it can
   be opened many times; SURVIVAL_LIBRARY (or none) is a libhakmem.so to be opened in a process that
   runs on libc's malloc. */
#include <dlfcn.h>
#include <pthread.h>

#include "checks/survival/cases.h"

enum { MOST = 100 };
static void *plugins[MOST];
static char folder[] = "/tmp/survival.XXXXXX";

static const char *copy_name(long i)
{
    static char name[64];
    (void)snprintf(name, sizeof name, "%s/%ld.so", folder, i);
    return name;
}

static void copy_plugins(long n)
{
    static char bytes[1 << 20];
    FILE *in = fopen(getenv("SURVIVAL_PLUGIN"), "rb");
    CHECK(in && mkdtemp(folder));
    size_t size = fread(bytes, 1, sizeof bytes, in);
    CHECK(size > 0 && size < sizeof bytes && fclose(in) == 0);
    for (long i = 0; i < n; i++) {
        FILE *out = fopen(copy_name(i), "wb");
        CHECK(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);
    }
}

static void remove_plugins(long n)
{
    for (long i = 0; i < n; i++) {
        (void)unlink(copy_name(i));
    }
    (void)rmdir(folder);
}

static void *use_plugins(void *n_)
{
    for (long i = 0; i < (long)(intptr_t)n_; i++) {
        char *(*block)(size_t) = (char *(*)(size_t))(intptr_t)dlsym(plugins[i], "plugin_block");
        void (*end)(void) = (void (*)(void))(intptr_t)dlsym(plugins[i], "plugin_end_of_thread");
        CHECK(block && end);
        char *p = block(5000);
        CHECK(p && hak_owns(p) && p[0] == 7 && p[4999] == 7);
        free(p);
        end();
    }
    return NULL;
}

static volatile int stop;

static void *allocate_meanwhile(void *unused)
{
    while (!stop) {
        use_malloc(3, 100);
    }
    return unused;
}

/* All open at once, used by two threads, closed; twice, while another thread allocates. */
static void plugins_of_many(long n)
{
    pthread_t meanwhile, second;
    n = n < MOST ? n : MOST;
    copy_plugins(n);
    CHECK(pthread_create(&meanwhile, NULL, allocate_meanwhile, NULL) == 0);
    for (int round = 0; round < 2; round++) {
        for (long i = 0; i < n; i++) {
            plugins[i] = dlopen(copy_name(i), RTLD_NOW | RTLD_LOCAL);
            CHECK(plugins[i]);
        }
        CHECK(pthread_create(&second, NULL, use_plugins, (void *)(intptr_t)n) == 0);
        (void)use_plugins((void *)(intptr_t)n);
        CHECK(pthread_join(second, NULL) == 0);
        for (long i = 0; i < n; i++) {
            CHECK(dlclose(plugins[i]) == 0);
        }
    }
    stop = 1;
    CHECK(pthread_join(meanwhile, NULL) == 0);
    remove_plugins(n);
}

static const struct test_case cases[] = {{"plugins", plugins_of_many, 100, 100},
                                         {NULL, NULL, 0, 0}};

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
