// self_profile [FILE [REQUESTS]]: a program for the tests that writes a raw profile of itself (to
// $HAKMEM_PROFILE by default), with call stacks, mappings and build IDs that are real, and values
// that are known:
//   cache_insert   1,000 bytes a request, in 1 block, all alive
//   make_list      200 bytes a request, in 2 blocks, by std::vector; 100 bytes are alive
//   parse_header   300 bytes a request, inlined into serve; freed
// REQUESTS is 10 by default. Every function is called from serve, which main calls.
#include <elf.h>
#include <execinfo.h>
#include <link.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace
{

enum { MOST_FRAMES = 64, OWN_FRAMES = 1 };

struct Values {
    long live_objects = 0, live_bytes = 0, allocated_objects = 0, allocated_bytes = 0;
};

std::map<std::vector<void *>, Values> stacks;

// Notes an allocation of the caller, as if malloc had been called there.
__attribute__((noinline)) void note(long objects, long bytes, long live_objects, long live_bytes)
{
    void *frames[MOST_FRAMES];
    int n = backtrace(frames, MOST_FRAMES);
    Values &values = stacks[std::vector<void *>(frames + OWN_FRAMES, frames + n)];
    values.live_objects += live_objects;
    values.live_bytes += live_bytes;
    values.allocated_objects += objects;
    values.allocated_bytes += bytes;
}

// As std::allocator does: a function of namespace std:: in the program's own code.
template <class T> struct Noting {
    using value_type = T;
    Noting() = default;
    template <class U> explicit Noting(const Noting<U> &)
    {
    }
    T *allocate(size_t n)
    {
        note(1, 100, n == 1, n == 1 ? 100 : 0);
        return static_cast<T *>(::operator new(n * sizeof(T)));
    }
    void deallocate(T *block, size_t)
    {
        ::operator delete(block);
    }
};

struct Cache {
    __attribute__((noinline)) void cache_insert(int request)
    {
        note(1, 1000, 1, 1000);
        last = request;
    }
    int last = 0;
};

__attribute__((noinline)) int make_list(int request)
{
    std::vector<int, Noting<int>> list;
    list.push_back(request);
    list.push_back(request + 1);
    return list.back();
}

inline __attribute__((always_inline)) int parse_header(int request)
{
    note(1, 300, 0, 0);
    return request * 3;
}

__attribute__((noinline)) int serve(Cache *cache, int request)
{
    cache->cache_insert(request);
    int made = make_list(request);
    return parse_header(request) + made + cache->last;
}

std::string build_id_of(const dl_phdr_info *object)
{
    std::string out;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) &segment = object->dlpi_phdr[i];
        const char *at = reinterpret_cast<const char *>(object->dlpi_addr + segment.p_vaddr);
        const char *end = at + (segment.p_type == PT_NOTE ? segment.p_memsz : 0);
        while (at + sizeof(ElfW(Nhdr)) < end) {
            auto *note = reinterpret_cast<const ElfW(Nhdr) *>(at);
            const char *name = at + sizeof *note;
            const char *text = name + (note->n_namesz + 3) / 4 * 4;
            for (unsigned n = 0; note->n_type == NT_GNU_BUILD_ID && n < note->n_descsz; n++) {
                char two[3];
                std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(text[n]));
                out += two;
            }
            at = text + (note->n_descsz + 3) / 4 * 4;
        }
    }
    return out.empty() ? "-" : out;
}

int write_maps(dl_phdr_info *object, size_t, void *file)
{
    char self[PATH_MAX] = "";
    const char *path = object->dlpi_name;
    if (!*path && readlink("/proc/self/exe", self, sizeof self - 1) > 0) {
        path = self;
    }
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) &segment = object->dlpi_phdr[i];
        if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) && strchr(path, '/')) {
            unsigned long start = object->dlpi_addr + segment.p_vaddr;
            std::fprintf(static_cast<FILE *>(file), "map 0x%lx-0x%lx 0x%lx %s %s\n", start,
                         start + segment.p_memsz, static_cast<unsigned long>(segment.p_offset),
                         build_id_of(object).c_str(), path);
            *self = '\0';
        }
    }
    return 0;
}

void write(FILE *file, int requests)
{
    char self[PATH_MAX] = "";
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) {
        std::abort();
    }
    std::fprintf(file,
                 "hakmem-profile 1\nprogram %s\npid %ld\nreason exit\ntime_ns 1700000000000000000\n"
                 "elapsed_ms 2000\nperiod 524288\nlive_bytes %d\nresident_bytes 4194304\n"
                 "fields live_objects live_bytes allocated_objects allocated_bytes\n",
                 self, static_cast<long>(getpid()), requests * 1100);
    for (const auto &[stack, values] : stacks) {
        std::fprintf(file, "stack %ld %ld %ld %ld :", values.live_objects, values.live_bytes,
                     values.allocated_objects, values.allocated_bytes);
        for (void *address : stack) {
            std::fprintf(file, " 0x%lx", reinterpret_cast<unsigned long>(address));
        }
        std::fprintf(file, "\n");
    }
    for (int i = 0; i <= 20; i++) {
        std::fprintf(file, "point %d %d %d\n", i * 100, requests * 55 * i,
                     requests * 60 * i + 100000);
    }
    dl_iterate_phdr(write_maps, file);
    std::fprintf(file, "end\n");
}

} // namespace

int main(int argc, char **argv)
{
    int requests = argc > 2 ? std::atoi(argv[2]) : 10, sum = 0;
    const char *path = argc > 1 ? argv[1] : std::getenv("HAKMEM_PROFILE");
    FILE *file = path ? std::fopen(path, "w") : nullptr;
    if (!file || requests < 1) {
        std::fprintf(stderr, "usage: self_profile [FILE [REQUESTS]]\n");
        return 2;
    }
    Cache cache;
    for (int i = 0; i < requests; i++) {
        sum += serve(&cache, i);
    }
    write(file, requests);
    std::fclose(file);
    return sum == 0;
}
