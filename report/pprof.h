// pprof's format: a gzipped protobuf message `Profile` (profile.proto of github.com/google/pprof).
#ifndef HAKMEM_REPORT_PPROF_H_
#define HAKMEM_REPORT_PPROF_H_

#include <string>

#include "report/report.h"

namespace hakmem::report
{

// The message, not compressed. Of two profiles, the values are after less before.
std::string pprof_message(const Report &report);

// In gzip's format, stored: readers want the format, and profiles are small.
std::string gzip(const std::string &data);

} // namespace hakmem::report

#endif
