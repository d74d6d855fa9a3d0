/* Times: clocks and sums are in ns; options and interfaces say ms. */
#ifndef HAKMEM_BASE_TIME_H
#define HAKMEM_BASE_TIME_H

#include "base/internal.h"

#include "base/attributes.h"

#define NS_A_MS 1000000u
#define NS_A_S  1000000000u

static inline uint64_t hak_time_ns_of_ms(uint64_t ms)
{
    return ms * NS_A_MS;
}

static inline uint64_t hak_time_ms_of_ns(uint64_t ns)
{
    return ns / NS_A_MS;
}

#endif
