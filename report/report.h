// One profile with names, or two of them side by side: what every output is made from.
#ifndef HAKMEM_REPORT_REPORT_H_
#define HAKMEM_REPORT_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "report/profile.h"
#include "report/symbols.h"

namespace hakmem::report
{

// What is known of a field of the raw format. A field without a row is carried along under its
// own name.
struct Field {
    const char *name;  // in the raw format
    const char *pprof; // the sample type, by the names that pprof knows
    const char *unit;  // as pprof calls it: bytes, count, milliseconds
    const char *title; // for people
};

// The row of a field; of an unknown one a row that holds the name itself, which must outlive it.
Field field_of(const std::string &name);

// A place in the code: the function there and those that it was inlined into, innermost first.
struct Location {
    std::vector<int> frames; // indices into Report::frames
    uint64_t address = 0;    // 0 where two profiles were joined
    int mapping = -1;        // index into Report::after.mappings, or -1
};

// A call stack with its values, of both profiles where there are two.
struct Entry {
    std::vector<int> locations; // innermost first
    std::vector<int64_t> values, before;
    int64_t tid = -1;
    std::vector<Entry> held; // of a leak report; values are bytes and objects
};

struct Report {
    Profile after, before;
    bool is_diff = false;
    std::vector<Frame> frames;
    std::vector<Location> locations;
    std::vector<Entry> entries;
    std::vector<std::string> complaints; // of files without names

    // All frames of a stack, innermost first.
    std::vector<int> stack(const Entry &entry) const;

    // The innermost frame of the program's own code: whose line asked for the memory. Of a stack of
    // libraries alone the innermost one.
    int site(const Entry &entry) const;

    // Sum of a field over all stacks, of `after` and of `before`.
    int64_t total(int field) const;
    int64_t total_before(int field) const;
};

// Names the stacks of one profile.
Report make_report(const Profile &profile, Symbols *symbols);

// Joins two: stacks are the same if their functions are, and if both profiles have the same program
// (by its build ID) their lines too.
Report make_diff(const Profile &before, const Profile &after, Symbols *symbols);

// "12.3 MiB", "-4 B".
std::string readable_bytes(int64_t bytes);

// By the unit of the field.
std::string readable(const Field &field, int64_t value);

// "name file.c:12", or the name and the module's last name.
std::string readable_frame(const Frame &frame);

} // namespace hakmem::report

#endif
