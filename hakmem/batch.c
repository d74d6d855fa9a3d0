/* Many blocks of one size at once: the thread's bin is emptied by one walk. No locks of its own. */
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"

/* What the bin holds, up to n blocks. */
static size_t take_cached(size_t size, size_t n, void **out)
{
    struct bin *bin = hak_fast_bin_to_take_from(atomic_load_relaxed(&hak_self), size);
    void *head = bin->head;
    size_t got = 0;
    while (got < n) {
        int64_t link = *(int64_t *)head;
        if (hak_link_decode(&link)) {
            break; /* the end, or a broken link: hak_malloc's slow path will see */
        }
        out[got++] = head;
        hak_tc_unmark_free(head);
        head = (void *)(uintptr_t)link;
    }
    if (got) {
        bin->head = head;
        bin->room += (int32_t)got;
    }
    return got;
}

size_t hak_malloc_batch(size_t size, size_t n, void **out)
{
    size_t got = 0;
    while (got < n) {
        if (size <= SC_SMALL_MAX) {
            got += take_cached(size, n - got, out + got);
        }
        if (got < n) {
            void *block = hak_malloc(size);
            if (!block) {
                break;
            }
            out[got++] = block;
        }
    }
    return got;
}

void hak_free_batch(void **blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        hak_fast_free(blocks[i]);
    }
}
