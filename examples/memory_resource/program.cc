// The standard containers on hakmem without a change of the program's malloc: a standard allocator,
// a memory resource, and a memory resource with a first-class heap, which is emptied at once.
#include <hakmem/hakmem.hpp>

#include <cstdio>
#include <map>
#include <memory_resource>
#include <string>
#include <vector>

int main()
{
    std::vector<int, hakmem::allocator<int>> numbers(1000, 1);

    hakmem::memory_resource resource;
    std::pmr::vector<std::pmr::string> words(&resource);
    words.emplace_back("a string that is too long to be kept inside of the object");

    // For one request: nothing that it allocated is freed by itself.
    hakmem::heap_resource request;
    auto *answers = new (request.allocate(sizeof(std::pmr::map<int, std::pmr::string>)))
        std::pmr::map<int, std::pmr::string>(&request);
    for (int i = 0; i < 1000; i++) {
        answers->emplace(i, "an answer that is too long to be kept inside of the object");
    }
    bool ours = hak_owns(numbers.data()) && hak_owns(words[0].data()) && hak_owns(answers) &&
                hak_owns(answers->at(999).data());
    request.release();

    int left = 0;
    hak_heap_walk(
        request.heap(),
        [](void *, size_t, void *context) {
            ++*static_cast<int *>(context);
            return 0;
        },
        &left);
    std::printf("served by %s, %d blocks left\n", ours ? "hakmem" : "another", left);
    return !ours || left != 0;
}
