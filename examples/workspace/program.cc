// A C++ program that asks which `operator new` it runs on. With an argument (`hakmem` or `libc`) it
// fails if that is not so.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

// Null unless hakmem is linked in.
extern "C" __attribute__((weak)) int hak_owns(const void *p);

struct alignas(256) Wide {
    char bytes[256];
};

int main(int argc, char **argv)
{
    std::map<int, std::string> words;
    for (int i = 0; i < 1000; i++)
        words[i] = std::string(static_cast<size_t>(i), 'x');
    auto wide = std::make_unique<Wide>();
    std::vector<int> numbers(1000);

    bool ours =
        hak_owns && hak_owns(words[999].data()) && hak_owns(wide.get()) && hak_owns(numbers.data());
    std::string served_by = ours ? "hakmem" : "libc";
    std::printf("C++: operator new is served by %s\n", served_by.c_str());
    return argc > 1 && served_by != argv[1];
}
