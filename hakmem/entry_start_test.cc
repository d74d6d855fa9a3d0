/* A thread whose first call meets another one's, which is the process's: it waits until all layers
   that the start adds are there. Else its block would be one that those do not know which come
   last; the secure layer took such for blocks that were written to behind their end. */
#include <atomic>
#include <gtest/gtest.h>
#include <thread>
#include <unistd.h>

#include "hakmem/entry.h"
#include "hakmem/hakmem.h"

namespace
{

/* How long the start waits for a call that must not be served before its end. */
constexpr int WAIT_US = 100000, STEP_US = 1000;

std::atomic<bool> is_served, has_begun;
std::atomic<int> n_by_layer;
std::thread *other;

extern entry_layer layer;
const entry_table *below()
{
    return hak_entry_below(&layer);
}

entry_layer layer = {
    {
        [](size_t size) { return n_by_layer++, below()->malloc(size); },
        [](size_t bytes) { return below()->calloc(bytes); },
        [](size_t alignment, size_t size) { return below()->aligned(alignment, size); },
        [](void *p, size_t size, hak_heap *heap, int is_zeroed) {
            return below()->realloc(p, size, heap, is_zeroed);
        },
        [](void *p) { below()->free(p); },
        [](const void *p) { return below()->usable_size(p); },
        [](hak_heap *heap, size_t size, size_t alignment, int is_zeroed) {
            return below()->heap_alloc(heap, size, alignment, is_zeroed);
        },
        [](hak_heap *heap) { below()->heap_destroy(heap); },
        [](void **p, size_t usable) { return below()->walked(p, usable); },
        [](void *p, entry_family family) { below()->name(p, family); },
        [](void *p, const entry_claim *claim) { below()->claim(p, claim); },
    },
    ENTRY_PLACE_CALLS + 10,
    nullptr,
    nullptr,
    0,
    nullptr,
    0,
};

/* A part of the start that others may follow, as it is for the first layer of several. */
void add_and_let_another_thread_call()
{
    hak_entry_add(&layer);
    other = new std::thread([] {
        void *p = hak_malloc(90);
        has_begun = hak_entry_has_begun() != 0;
        is_served = p != nullptr;
        hak_free(p);
    });
    for (int us = 0; us < WAIT_US && !is_served; us += STEP_US) {
        usleep(STEP_US);
    }
}
ENTRY_AT_START(add_and_let_another_thread_call);

TEST(EntryStart, AnotherThreadsFirstCallIsServedWhenAllLayersAreThere)
{
    void *p = hak_malloc(90);
    other->join();
    delete other;
    EXPECT_TRUE(is_served);
    EXPECT_TRUE(has_begun);
    EXPECT_EQ(n_by_layer, 2); /* this thread's too */
    EXPECT_EQ(hak_verify(), 0);
    hak_free(p);
}

} // namespace
