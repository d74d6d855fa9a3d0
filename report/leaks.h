// What a leak report says, as text, without what is suppressed.
//
// A file of suppressions is what LeakSanitizer reads: a line `leak:PATTERN` for what is known and
// stays. A stack is suppressed if a function's name, a source file's or an object's of it matches:
// PATTERN is a part of it; `*` in it stands for anything, `^` at its beginning and `$` at its end
// for that of the name. Lines that begin with `#`, and empty ones, say nothing.
#ifndef HAKMEM_REPORT_LEAKS_H_
#define HAKMEM_REPORT_LEAKS_H_

#include <ostream>
#include <string>
#include <vector>

#include "report/report.h"

namespace hakmem::report
{

struct Suppression {
    std::string pattern;
    int64_t stacks = 0, bytes = 0, objects = 0; // what it has matched
};

// Adds a file's. "" or what is wrong, with the name and the line.
std::string read_suppressions(const std::string &path, std::vector<Suppression> *out);

bool matches(const std::string &pattern, const std::string &name);

// The leaks, `rows` stacks at most. Returns how many blocks were lost that nothing suppresses.
int64_t write_leaks(const Report &report, std::vector<Suppression> *suppressions, size_t rows,
                    std::ostream &out);

} // namespace hakmem::report

#endif
