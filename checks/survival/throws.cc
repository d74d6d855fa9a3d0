/* C++ without memory: bad_alloc where there is none, exceptions that are thrown nevertheless, the
   new-handler; objects that are made before main and in thread_local storage. */
#include <map>
#include <new>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <vector>

#include "checks/survival/cases.h"

namespace
{

void limit_data(bool is_limited)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_DATA, &limit) == 0);
    limit.rlim_cur =
        is_limited ? size_t(1) << 20 : RLIM_INFINITY; /* less than there is: nothing more */
    CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
}

void *chain;

void take_every_byte()
{
    for (size_t size = size_t(1) << 20; size >= 16; size /= 2) {
        while (void *p = operator new(size, std::nothrow)) {
            *static_cast<void **>(p) = chain;
            chain = p;
        }
    }
}

void free_all()
{
    while (chain) {
        void *next = *static_cast<void **>(chain);
        operator delete(chain);
        chain = next;
    }
}

/* malloc cannot serve the exception object then. */
void out_of_memory(long n)
{
    for (long i = 0; i < n; i++) {
        limit_data(true);
        take_every_byte();
        int caught = 0;
        try {
            std::vector<std::string> many;
            for (;;) {
                many.emplace_back(1000, 'x');
            }
        } catch (const std::bad_alloc &) {
            caught++;
        }
        try {
            throw std::bad_alloc();
        } catch (const std::bad_alloc &) {
            caught++;
        }
        try {
            std::thread([] {}).join();
            caught++;
        } catch (const std::exception &) {
            caught++;
        }
        struct alignas(4096) Wide {
            char bytes[40960];
        };
        try {
            std::vector<Wide> wide(1000);
        } catch (const std::bad_alloc &) {
            caught++;
        }
        free_all();
        limit_data(false);
        CHECK(caught == 4);
        std::map<int, std::string> works;
        for (int k = 0; k < 1000; k++) {
            works[k] = std::string(static_cast<size_t>(k), 'y');
        }
    }
}

int n_handled;

void give_back_one()
{
    n_handled++;
    void *first = chain;
    if (!first) {
        std::set_new_handler(nullptr);
        return;
    }
    chain = *static_cast<void **>(first);
    operator delete(first);
}

/* A process that has used more than a few blocks: nothing of what it has is still to be opened. */
void use_some_memory()
{
    std::vector<std::string> used(1000, std::string(4000, 'u'));
    CHECK(used.back().size() == 4000);
}

void new_handler(long)
{
    use_some_memory();
    limit_data(true);
    take_every_byte();
    std::set_new_handler(give_back_one);
    void *p = operator new(10000);
    CHECK(p && n_handled > 0);
    operator delete(p);
    bool is_caught = false;
    try {
        p = operator new(size_t(1) << 40); /* every block is freed, then the handler is removed */
    } catch (const std::bad_alloc &) {
        is_caught = true;
    }
    CHECK(is_caught && !chain);
    limit_data(false);
}

/* --- objects of the process and of threads --- */

struct Holder {
    std::vector<std::string> text{std::vector<std::string>(50, std::string(300, 'z'))};
    ~Holder()
    {
        for (const std::string &line : text) {
            CHECK(line == std::string(300, 'z'));
        }
        use_malloc(6, 100);
    }
};

Holder of_process;
thread_local Holder of_thread;

void thread_locals(long n)
{
    CHECK(of_process.text.size() == 50);
    for (long i = 0; i < n; i++) {
        std::vector<std::thread> threads;
        for (int k = 0; k < 4; k++) {
            threads.emplace_back([] { of_thread.text.push_back(std::string(300, 'z')); });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    }
}

const struct test_case cases[] = {{"out_of_memory", out_of_memory, 20, 5},
                                  {"new_handler", new_handler, 1, 1},
                                  {"thread_locals", thread_locals, 100, 30},
                                  {nullptr, nullptr, 0, 0}};

} // namespace

int main(int argc, char **argv)
{
    return run_cases(argc, argv, cases);
}
