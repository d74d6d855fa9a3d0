/* Tests that the verifiers of heaps name the equation that does not hold; those of the other
   parts are beside their own tests. */
#include "base/attributes.h"
#include "base/verify.h"

#include <cstring>
#include <gtest/gtest.h>
#include <set>
#include <string>

#include "ace/ace.h"
#include "base/options.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/theap.h"

namespace
{

TEST(Verify, EachCodeHasATextOfItsOwn)
{
    std::set<std::string> texts;
    std::set<int> codes;
#define VERIFY(name, code, part, equation)                                                         \
    EXPECT_TRUE(codes.insert(VERIFY_##name).second) << #name;                                      \
    EXPECT_TRUE(texts.insert(hak_verify_text(VERIFY_##name)).second) << #name;                     \
    EXPECT_STREQ(hak_verify_text(code), part " " #code ": " equation);
#include "base/verify.def"
#undef VERIFY
    EXPECT_STREQ(hak_verify_text(0), "sound");
    EXPECT_STREQ(hak_verify_text(9999), "no code of a verifier");
}

TEST(Verify, ThreadCache)
{
    hak_free(hak_malloc(100));
    ASSERT_EQ(hak_verify(), 0);
    uint32_t c = hak_sc_of(100);
    hak_theap_own->bins[c].room--;
    EXPECT_EQ(hak_verify(), VERIFY_TC_BIN);
    hak_theap_own->bins[c].room++;
    hak_theap_own->spares[c].count++;
    EXPECT_EQ(hak_verify(), VERIFY_TC_SPARE);
    hak_theap_own->spares[c].count--;
    hak_tc_set_metered(hak_theap_own, 1);
    hak_theap_own->metered[c].room--;
    EXPECT_EQ(hak_verify(), VERIFY_TC_METERED);
    hak_theap_own->metered[c].room++;
    hak_tc_set_metered(hak_theap_own, 0);
    hak_theap_own->mid_more++;
    EXPECT_EQ(hak_verify(), VERIFY_TC_MORE);
    hak_theap_own->mid_more--;
    hak_theap_own->outbox[1].count++;
    EXPECT_EQ(hak_verify(), VERIFY_REMOTE_OUTBOX);
    hak_theap_own->outbox[1].count--;
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Verify, FirstClassHeap)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "the large block lies in a container";
    }
    struct hak_heap *heap = hak_heap_create(), *other = hak_heap_create();
    void *p = hak_heap_malloc(heap, 100000);
    ASSERT_NE(p, nullptr);
    ASSERT_EQ(hak_verify(), 0);
    heap->n_large++;
    EXPECT_EQ(hak_verify(), VERIFY_USER_HEAP_COUNT);
    heap->n_large--;
    struct large_node *large = heap->large; /* in another heap's list */
    heap->large = nullptr;
    other->large = large;
    heap->n_large--;
    other->n_large++;
    EXPECT_EQ(hak_verify(), VERIFY_USER_HEAP_NODE);
    heap->large = large;
    other->large = nullptr;
    heap->n_large++;
    other->n_large--;
    EXPECT_EQ(hak_verify(), 0);
    hak_ace_free(p); /* behind the heap's back */
    EXPECT_EQ(hak_verify(), VERIFY_USER_HEAP_BLOCK);
    hak_heap_forget(p);
    EXPECT_EQ(hak_verify(), 0);
    hak_heap_destroy(heap);
    hak_heap_destroy(other);
}

} // namespace
