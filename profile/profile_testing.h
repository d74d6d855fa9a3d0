/* What tests of the heap profile share: sampling, and what is written of it. */
#ifndef HAKMEM_PROFILE_PROFILE_TESTING_H
#define HAKMEM_PROFILE_PROFILE_TESTING_H

#include "base/internal.h"

#include <cstdint>
#include <gtest/gtest.h>
#include <map>
#include <string>

#include "hakmem/hakmem.h"
#include "profile/profile.h"
#include "profile/sample.h"
#include "testing/raw_profile.h"

namespace profile_testing
{

using hak_testing::Profile;
using hak_testing::Row;

inline Profile written()
{
    return hak_testing::written(hak_profile_write);
}

/* Samples while it lives: by default as often as the period says. */
class Sampling
{
  public:
    explicit Sampling(size_t period)
    {
        hak_profile_rate = 0;
        EXPECT_EQ(hak_profile_start(period), 0);
    }
    ~Sampling()
    {
        hak_profile_stop();
    }
};

inline uint64_t n_samples()
{
    return hak_profile_n_samples;
}

inline bool is_within(uintptr_t address, const void *function)
{
    return address - uintptr_t(function) < 256;
}

/* All rows of the function, whichever line called it, as one. */
inline std::map<std::string, uint64_t> sum_of(const Profile &profile, void *(*function)(size_t))
{
    std::map<std::string, uint64_t> sum;
    for (const Row &row : profile.rows) {
        for (size_t i = 0; i < row.stack.size() && i < 4; i++) {
            if (is_within(row.stack[i], reinterpret_cast<void *>(function))) {
                for (auto &number : row.numbers) {
                    sum[number.first] += number.second;
                }
                break;
            }
        }
    }
    return sum;
}

} // namespace profile_testing

#endif
