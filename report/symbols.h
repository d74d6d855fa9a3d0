// Names for addresses, from the files that were mapped: DWARF where there is some (in the file or
// in a separate one under /usr/lib/debug), else the symbol tables. By elfutils' libdw.
//
// A file whose build ID is not the one of the profile is not used: its names would be wrong.
#ifndef HAKMEM_REPORT_SYMBOLS_H_
#define HAKMEM_REPORT_SYMBOLS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "report/profile.h"

namespace hakmem::report
{

// One function at one address. Several share an address where calls were inlined.
struct Frame {
    std::string function; // demangled; `module+0x123` without a symbol, `[unknown]` without a file
    std::string file;     // empty if unknown
    int line = 0;         // 0 if unknown
    std::string module;   // the mapped file's path, or empty
    bool inlined = false; // into the frame that follows it
    bool is_library = false; // of libc or C++, or a template of theirs: not the program's own
};

class Symbols
{
  public:
    Symbols();
    ~Symbols();
    Symbols(const Symbols &) = delete;
    Symbols &operator=(const Symbols &) = delete;

    // The frames of a return address, innermost first; never empty.
    std::vector<Frame> frames(const Profile &profile, uint64_t return_address);

    // One line for each file that could not be used.
    const std::vector<std::string> &complaints() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

// Whether a frame is none of the program's own code: of libc, of C++'s library or its templates, or
// a function around malloc. What has only a name for it is judged by that.
bool is_library_code(const Frame &frame);

// A C++ name as people read it; other names as they are.
std::string demangle(const char *name);

} // namespace hakmem::report

#endif
