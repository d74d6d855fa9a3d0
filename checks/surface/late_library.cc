/* A C++ library that a C program loads: what its operators new do when there is no memory. 0 if all
   is as C++ says. */
#include <cstdint>
#include <new>
#include <stdexcept>

namespace
{

int n_calls;

void handler()
{
    n_calls++;
    throw std::runtime_error("the handler's");
}

bool throws_bad_alloc(size_t size)
{
    try {
        (void)operator new(size);
        return false;
    } catch (const std::bad_alloc &) {
        return true;
    }
}

bool passes_the_handlers(size_t size)
{
    try {
        (void)operator new[](size);
        return false;
    } catch (const std::runtime_error &) {
        return true;
    }
}

} // namespace

extern "C" __attribute__((visibility("default"))) int run()
{
    volatile size_t too_much = SIZE_MAX / 2 + 1;
    if (!throws_bad_alloc(too_much)) {
        return 1;
    }
    std::set_new_handler(handler);
    if (operator new(too_much, std::nothrow) || operator new(too_much, std::align_val_t(64),
                                                             std::nothrow)) {
        return 2;
    }
    if (!passes_the_handlers(too_much)) {
        return 3;
    }
    std::set_new_handler(nullptr);
    return n_calls == 3 ? 0 : 4;
}
