/* Surveys, hak_stat and hak_stats_json: the equations of survey.h against what was allocated, every
   name, and memory that cannot be read or describes another version. */
#include "hakmem/survey.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/error.h"
#include "hakmem/hakmem.h"
#include "hakmem/tell.h"
#include "testing/failing_os.h"

namespace
{

struct Looked {
    std::unique_ptr<survey> all{new survey};
    std::vector<survey_heap> heaps;

    explicit Looked(const survey_source *source = &hak_survey_own)
        : heaps(hak_survey_n_heaps(&hak_survey_own, &hak_layout))
    {
        error = hak_survey_take(source, &hak_layout, all.get(), heaps.data(),
                                static_cast<uint32_t>(heaps.size()));
    }
    int error;
};

int64_t stat(const char *name)
{
    long long value = -1;
    EXPECT_EQ(hak_stat(name, &value), 0) << name;
    return value;
}

const char *const names[] = {
#define STAT(name, kind, unit, text)    #name,
#define DERIVED(name, kind, unit, text) #name,
#include "base/stats.def"
};

void verify_equations(const Looked &look)
{
    const survey &all = *look.all;
    uint64_t slabs = 0, of_slabs = 0, heap_slabs = 0, live = 0, cached = 0, rest = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        const survey_class &row = all.classes[c];
        EXPECT_EQ(row.live + row.cached + row.free, row.slabs * hak_sc_table[c].capacity);
        slabs += row.slabs;
    }
    for (const survey_heap &heap : look.heaps) {
        heap_slabs += heap.slabs;
        live += heap.live_bytes;
        cached += heap.cached_bytes;
        rest += heap.free_bytes;
    }
    of_slabs = slabs * SC_SLAB_BYTES;
    EXPECT_EQ(heap_slabs, slabs);
    EXPECT_EQ(live + cached + rest, of_slabs);
    EXPECT_EQ(static_cast<int64_t>(cached), all.derived.cached_bytes);
    EXPECT_EQ(static_cast<int64_t>(rest), all.derived.slab_free_bytes);
    int64_t spans = all.stats.heap_used_bytes - static_cast<int64_t>(of_slabs);
    EXPECT_GE(spans, 0);
    EXPECT_EQ(static_cast<int64_t>(live) + spans + all.stats.large_bytes -
                  all.stats.large_room_bytes + all.stats.limbo_bytes,
              all.derived.live_bytes);
}

TEST(Survey, EquationsHoldAsBlocksComeAndGo)
{
    std::vector<void *> blocks;
    for (size_t round = 0; round < 6; round++) {
        for (size_t size = 1; size < 3000000; size += size / 3 + 7) {
            for (int i = 0; i < 20; i++) {
                blocks.push_back(hak_malloc(size));
            }
        }
        for (size_t i = round; i < blocks.size(); i += 3) {
            hak_free(blocks[i]);
            blocks[i] = nullptr;
        }
        Looked look;
        ASSERT_EQ(look.error, 0);
        verify_equations(look);
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    Looked look;
    verify_equations(look);
}

TEST(Survey, LiveBytesFollowTheProgram)
{
    for (size_t size : {16u, 100u, 1024u, 5000u, 32768u, 100000u, 5000000u}) {
        const int n = 50;
        int64_t before = stat("live_bytes");
        std::vector<void *> blocks;
        for (int i = 0; i < n; i++) {
            blocks.push_back(hak_malloc(size));
        }
        int64_t with = stat("live_bytes");
        if (!HAK_SECURE) { /* there, what waited in a quarantine counted as live before */
            EXPECT_GE(with - before, static_cast<int64_t>(n * size)) << size;
        }
        /* The secure variant's blocks above 32 KiB have guards about them, and wait when freed. */
        int64_t most = HAK_SECURE ? 16 * n * 65536 : 0;
        EXPECT_LE(with - before, static_cast<int64_t>(n * size * 3 / 2 + n * 64) + most) << size;
        for (void *p : blocks) {
            hak_free(p);
        }
        if (!HAK_SECURE) {
            EXPECT_EQ(stat("live_bytes"), before) << size;
        }
    }
}

TEST(Survey, FreedBlocksAreCachedOrFree)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "freed blocks wait in a quarantine, and count as live";
    }
    std::vector<void *> blocks;
    for (int i = 0; i < 1000; i++) {
        blocks.push_back(hak_malloc(200));
    }
    Looked with;
    for (void *p : blocks) {
        hak_free(p);
    }
    Looked after;
    uint32_t c = hak_sc_of(200);
    EXPECT_EQ(with.all->classes[c].live - after.all->classes[c].live, 1000u);
    EXPECT_GT(after.all->classes[c].cached + after.all->classes[c].free, 0u);
    verify_equations(after);
}

TEST(Survey, HeapsAreToldApart)
{
    struct hak_heap *first = hak_heap_create();
    ASSERT_NE(first, nullptr);
    void *p = hak_heap_malloc(first, 500);
    ASSERT_NE(p, nullptr);
    std::thread([] { hak_free(hak_malloc(64)); }).join();
    Looked look;
    std::map<std::string, int> counts;
    for (const survey_heap &heap : look.heaps) {
        if (heap.kind) {
            counts[std::string(hak_survey_kind_name(&heap)) + " " + hak_survey_state_name(&heap)]++;
        }
    }
    EXPECT_GE(counts["thread live"], 1);
    EXPECT_GE(counts["thread orphan"], 1);
    EXPECT_EQ(counts["first-class live"], 1);
    hak_heap_destroy(first);
}

TEST(Survey, EveryNameHasAValue)
{
    std::string joined;
    for (const char *name : names) {
        long long value = -77;
        errno = 71;
        EXPECT_EQ(hak_stat(name, &value), 0) << name;
        EXPECT_EQ(errno, 71);
        EXPECT_GE(value, 0) << name;
    }
    for (const char *name : {"", "superslab", "superslabs ", "SUPERSLABS", "live", "kind"}) {
        long long value = 5;
        EXPECT_EQ(hak_stat(name, &value), ENOENT) << name;
        EXPECT_EQ(value, 5);
    }
}

TEST(Survey, ThePeakStays)
{
    void *p = hak_malloc(64 << 20);
    ASSERT_NE(p, nullptr);
    int64_t with = stat("committed_bytes");
    EXPECT_GE(stat("committed_peak_bytes"), with);
    hak_free(p);
    (void)hak_purge();
    EXPECT_GE(stat("committed_peak_bytes"), with);
    if (!HAK_SECURE) {
        EXPECT_LT(stat("committed_bytes"), with);
    }
}

TEST(Survey, LargeRequestsAreCounted)
{
    int64_t before = stat("large_hits") + stat("large_misses");
    for (int i = 0; i < 25; i++) {
        hak_free(hak_malloc(70000));
    }
    EXPECT_GE(stat("large_hits") + stat("large_misses"), before + (HAK_SECURE ? 0 : 25));
}

TEST(Survey, WithoutMemoryWhatIsKeptIsThere)
{
    hak_free(hak_malloc(1));
    hak_testing::FailingOs os;
    os.fail(hak_testing::OS_MMAP, 1, 1000);
    long long value = 0;
    EXPECT_EQ(hak_stat("superslabs", &value), 0);
    EXPECT_GT(value, 0);
    value = -3;
    EXPECT_EQ(hak_stat("live_bytes", &value), ENOMEM);
    EXPECT_EQ(value, -3);
    EXPECT_EQ(hak_stats_json(1), ENOMEM);
    hak_testing::CapturedWrites writes;
    hak_print_stats(2);
    EXPECT_NE(writes.text().find("hakmem: superslabs = "), std::string::npos);
    EXPECT_EQ(writes.text().find("live_bytes"), std::string::npos);
}

TEST(Survey, LinesSayWhose)
{
    hak_testing::CapturedWrites writes;
    hak_tell_stats(2, "12 program");
    std::string text = writes.text();
    size_t n = 0;
    for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1, n++) {
        std::string line = text.substr(at, text.find('\n', at) - at);
        if (line.find("longest hold") == std::string::npos) {
            EXPECT_EQ(line.substr(line.size() - 13), " (12 program)") << line;
        }
    }
    EXPECT_GE(n, sizeof names / sizeof *names);
    EXPECT_NE(text.find("hakmem: live_bytes = "), std::string::npos);
}

/* --- other memory --- */

struct Broken {
    int fail_at, calls;
};

int read_until(void *context, const void *at, void *out, size_t n)
{
    Broken *broken = static_cast<Broken *>(context);
    if (++broken->calls == broken->fail_at) {
        return EFAULT;
    }
    return hak_survey_own.read(nullptr, at, out, n);
}

TEST(Survey, EachReadThatFailsIsReported)
{
    Broken counting = {0, 0};
    survey_source source = {read_until, &counting};
    EXPECT_EQ(Looked(&source).error, 0);
    int n = counting.calls;
    EXPECT_GT(n, 10);
    for (int i = 1; i <= n; i++) {
        Broken broken = {i, 0};
        source.context = &broken;
        EXPECT_EQ(Looked(&source).error, EFAULT) << i;
    }
}

TEST(Survey, AnotherVersionIsRefused)
{
    std::unique_ptr<survey> out(new survey);
    struct hak_layout other = hak_layout;
    EXPECT_EQ(hak_survey_take(&hak_survey_own, &other, out.get(), nullptr, 0), 0);
    auto refuse = [&](auto change) {
        other = hak_layout;
        change(other);
        EXPECT_EQ(hak_survey_take(&hak_survey_own, &other, out.get(), nullptr, 0), EPROTO);
    };
    refuse([](auto &it) { it.magic[3]++; });
    refuse([](auto &it) { it.version++; });
    refuse([](auto &it) { it.bytes--; });
    refuse([](auto &it) { it.n_stats++; });
    refuse([](auto &it) { it.n_classes++; });
    refuse([](auto &it) { it.control_bytes++; });
    refuse([](auto &it) { it.superslab_bytes = 4096; });
    refuse([](auto &it) { it.slab_bytes = 4096; });
    refuse([](auto &it) { it.bin_bytes = 4096; });
    refuse([](auto &it) { it.spare_bytes = 4096; });
    refuse([](auto &it) { it.outbox_bytes = 4096; });
    refuse([](auto &it) { it.outbox_slots = 4096; });
}

/* Whatever the numbers are, nothing is written beyond the survey. */
int read_noise(void *context, const void *at, void *out, size_t n)
{
    uint32_t *seed = static_cast<uint32_t *>(context);
    if (at == &hak_layout) {
        memcpy(out, at, n);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        static_cast<unsigned char *>(out)[i] =
            n <= 8 && i >= 1 ? 0 : static_cast<unsigned char>(*seed >> 24);
    }
    return 0;
}

TEST(Survey, Noise)
{
    for (uint32_t seed = 1; seed < 200; seed++) {
        uint32_t state = seed;
        survey_source source = {read_noise, &state};
        Looked look(&source);
        (void)look.error;
        for (const survey_heap &heap : look.heaps) {
            EXPECT_LE(heap.state, SURVEY_STALE);
        }
    }
}

TEST(Survey, JsonQuotesAnyProgramsName)
{
    Looked look;
    ASSERT_EQ(look.error, 0);
    struct {
        std::string name, quoted;
    } cases[] = {{"plain", "plain"},
                 {"a\"b\\c", "a\\\"b\\\\c"},
                 {"\n\t\x1f", "\\u000a\\u0009\\u001f"},
                 {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"},
                 {"\xFF\xC3\xC0\x80", "????"},
                 {"\xED\xA0\x80", "???"},
                 {"\xF4\x90\x80\x80", "????"}};
    for (const auto &row : cases) {
        survey_subject subject = {1, row.name.c_str(), 0};
        hak_testing::CapturedWrites writes;
        hak_survey_json(look.all.get(), nullptr, 0, &subject, 1);
        EXPECT_NE(writes.text().find("\"program\":\"" + row.quoted + "\","), std::string::npos)
            << row.quoted;
    }
    std::string longest(5000, '"');
    survey_subject subject = {1, longest.c_str(), 0};
    hak_testing::CapturedWrites writes;
    hak_survey_json(look.all.get(), nullptr, 0, &subject, 1);
    EXPECT_NE(writes.text().find("\\\"\",\n"), std::string::npos);
}

TEST(Survey, OtherThreadsMayRun)
{
    std::vector<std::thread> threads;
    std::atomic<int> stop{0};
    for (int t = 0; t < 3; t++) {
        threads.emplace_back([&stop, t] {
            std::vector<void *> blocks(200);
            for (unsigned i = 0; !stop; i++) {
                void *&p = blocks[i % blocks.size()];
                hak_free(p);
                p = hak_malloc((i * 37u + static_cast<unsigned>(t)) % 50000);
            }
            for (void *p : blocks) {
                hak_free(p);
            }
        });
    }
    for (int i = 0; i < 300; i++) {
        EXPECT_EQ(Looked().error, 0);
        EXPECT_GE(stat("live_bytes"), 0);
    }
    stop = 1;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
