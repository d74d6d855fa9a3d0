// The raw heap profile that libhakmem.so writes (HAKMEM_PROFILE), as read from its file.
//
// Text, one record a line; docs/profile.md describes the lines. A reader skips lines whose first
// word it does not know, so that an older reader reads what a newer library wrote.
#ifndef HAKMEM_REPORT_PROFILE_H_
#define HAKMEM_REPORT_PROFILE_H_

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

namespace hakmem::report
{

// An executable mapping of the process.
struct Mapping {
    uint64_t start = 0, end = 0, offset = 0;
    std::string build_id; // hex, or empty where the file has none
    std::string path;
};

// Of a leak report: lost blocks of one stack that only those of another lead to.
struct Held {
    int64_t bytes = 0, objects = 0;
    std::vector<uint64_t> addresses;
};

// One call stack, and an estimate for each of the profile's fields.
struct Stack {
    std::vector<int64_t> values;
    std::vector<uint64_t> addresses; // return addresses, innermost first
    int64_t tid = -1;                // -1: of all threads
    std::vector<Held> held;
};

// Live and resident bytes at one moment.
struct Point {
    uint64_t elapsed_ms = 0, live_bytes = 0, resident_bytes = 0;
};

struct Profile {
    std::string program, reason;
    int64_t pid = 0;
    bool partial = false; // what was allocated before is not in it
    uint64_t time_ns = 0, elapsed_ms = 0, period = 0, live_bytes = 0, resident_bytes = 0;
    std::vector<std::string> fields;
    std::vector<Stack> stacks;
    std::vector<Point> points;
    std::vector<Mapping> mappings;
    bool whole = false; // the line `end` was there

    // A leak report is a profile with other fields (docs/leaks.md).
    bool is_leaks() const
    {
        return field("direct_bytes") >= 0;
    }

    // Index of a field, or -1.
    int field(const std::string &name) const;
};

// Reads a profile. Returns "" or what is wrong, with the number of the line.
std::string read_profile(std::istream &in, Profile *profile);

// Reads the file; what is wrong begins with its name.
std::string read_profile_file(const std::string &path, Profile *profile);

} // namespace hakmem::report

#endif
