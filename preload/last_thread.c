/* last_thread MODE: programs that would notice a thread that is not theirs. Run by idle_test.py.
   exit   the main thread ends by pthread_exit, a second one a little later: the process must end
   count  prints how many threads there are: alone, with a second one, and some time after that one
          has ended
   vfork  starts /bin/true by vfork from a thread, again and again */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int count_threads(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/task");
    for (const struct dirent *entry; folder && (entry = readdir(folder));) {
        n += entry->d_name[0] != '.';
    }
    if (folder) {
        closedir(folder);
    }
    return n;
}

static void work(int rounds)
{
    for (int i = 0; i < rounds; i++) {
        void *volatile p = malloc((size_t)(i % 50) * 1000 + 1);
        free(p);
        if (i % 100 == 0) {
            usleep(1000);
        }
    }
}

static volatile int may_end;

/* Whoever counts it has done so, however busy the machine is. */
static void *second(void *rounds)
{
    work(*(int *)rounds);
    while (!may_end) {
        usleep(1000);
    }
    return NULL;
}

static void *starter(void *unused)
{
    for (int i = 0; i < 50; i++) {
        void *volatile p = malloc((size_t)i * 1000 + 1);
        pid_t pid =
            vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork): it is what is tested */
        if (pid == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(1);
        }
        int status = -1;
        if (waitpid(pid, &status, 0) != pid || status != 0) {
            exit(1);
        }
        free(p);
    }
    return unused;
}

int main(int argc, char **argv)
{
    static int rounds = 20000;
    const char *mode = argc > 1 ? argv[1] : "";
    pthread_t thread;
    work(2000);
    int alone = count_threads();
    if (strcmp(mode, "vfork") == 0) {
        return pthread_create(&thread, NULL, starter, NULL) != 0 || pthread_join(thread, NULL) != 0;
    }
    if (pthread_create(&thread, NULL, second, &rounds) != 0) {
        return 1;
    }
    work(10000);
    if (strcmp(mode, "exit") == 0) {
        pthread_detach(thread);
        may_end = 1;
        pthread_exit(NULL);
    }
    int together = count_threads();
    may_end = 1;
    pthread_join(thread, NULL);
    for (int i = 0; i < 1000 && count_threads() != 1; i++) {
        usleep(10000);
    }
    printf("%d %d %d\n", alone, together, count_threads());
    return 0;
}
