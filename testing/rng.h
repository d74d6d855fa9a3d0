/* A tiny seeded generator for tests: the same numbers on every machine. splitmix64 (Steele, Lea,
   Flood 2014). No locks: one generator a thread. */
#ifndef HAKMEM_TESTING_RNG_H
#define HAKMEM_TESTING_RNG_H

#include <cstddef>
#include <cstdint>

namespace hak_testing
{

class Rng
{
  public:
    explicit Rng(uint64_t seed) : state_(seed)
    {
    }

    uint64_t next()
    {
        uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }

    /* From 0 to n - 1. */
    size_t below(size_t n)
    {
        return static_cast<size_t>(next() % n);
    }

    /* From low to high, both included. */
    size_t between(size_t low, size_t high)
    {
        return low + below(high - low + 1);
    }

    /* True once in n, on average. */
    bool one_in(size_t n)
    {
        return below(n) == 0;
    }

  private:
    uint64_t state_;
};

} // namespace hak_testing

#endif
