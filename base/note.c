/* What base/note.h promises. Called by observe/noted.c. */
#include "base/note.h"

#include "base/valgrind.h"

extern void __asan_poison_memory_region(const volatile void *p, size_t size) __attribute__((weak));
extern void __asan_unpoison_memory_region(const volatile void *p, size_t size)
    __attribute__((weak));
extern void *__asan_region_is_poisoned(void *p, size_t size) __attribute__((weak));

static int has_asan(void)
{
    return &__asan_poison_memory_region != NULL && &__asan_unpoison_memory_region != NULL &&
           &__asan_region_is_poisoned != NULL;
}

int hak_note_has_listener(void)
{
    return HAK_NOTES && (has_asan() || hak_valgrind_ask(VALGRIND_RUNNING, 0, 0, 0, 0));
}

void hak_note_allocated(const void *p, size_t size, size_t usable, int is_zeroed)
{
    const char *end = (const char *)p + size;
    if (has_asan()) {
        __asan_unpoison_memory_region(p, size);
        __asan_poison_memory_region(end, usable - size);
    }
    (void)hak_valgrind_ask(VALGRIND_BLOCK_ALLOCATED, (uintptr_t)p, size, 0, (uintptr_t)is_zeroed);
    (void)hak_valgrind_ask(MEMCHECK_NO_ACCESS, (uintptr_t)end, usable - size, 0, 0);
}

void hak_note_freed(const void *p, size_t usable)
{
    if (has_asan()) {
        __asan_poison_memory_region(p, usable);
    }
    (void)hak_valgrind_ask(VALGRIND_BLOCK_FREED, (uintptr_t)p, 0, 0, 0);
}

void hak_note_reused(const void *p, size_t usable)
{
    if (has_asan()) {
        __asan_unpoison_memory_region(p, usable);
    }
    (void)hak_valgrind_ask(MEMCHECK_DEFINED, (uintptr_t)p, usable, 0, 0);
}

size_t hak_note_size(const void *p, size_t usable)
{
    uintptr_t start = (uintptr_t)p, end = 0;
    if (has_asan()) {
        end = (uintptr_t)__asan_region_is_poisoned((void *)start, usable);
    }
    if (!end) {
        (void)hak_valgrind_ask(VALGRIND_ERRORS_OFF, 1, 0, 0, 0); /* asking would be reported */
        end = hak_valgrind_ask(MEMCHECK_FIRST_NO_ACCESS, start, usable, 0, 0);
        (void)hak_valgrind_ask(VALGRIND_ERRORS_OFF, (uintptr_t)-1, 0, 0, 0);
    }
    return end ? end - start : usable;
}
