/* A program with more privileges than its caller: set-user-ID or with file capabilities. Prints
   whether the kernel says so, and uses malloc in two threads, requests that fail included. Run by
   secure_test.py. */
#include <pthread.h>
#include <sys/auxv.h>

#include "checks/survival/cases.h"

static void *work(void *unused)
{
    use_malloc(1, 3000);
    return unused;
}

int main(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
    use_malloc(2, 3000);
    void *volatile refused = malloc((size_t)1 << 46);
    CHECK(!refused);
    CHECK(pthread_join(thread, NULL) == 0);
    check_heap();
    printf("secure=%lu\n", getauxval(AT_SECURE));
    return 0;
}
