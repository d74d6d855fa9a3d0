// Outputs as text: the table for a terminal, folded stacks, and gperftools' heap profile.
#ifndef HAKMEM_REPORT_TEXT_H_
#define HAKMEM_REPORT_TEXT_H_

#include <ostream>

#include "report/report.h"

namespace hakmem::report
{

// The call sites that hold most of a field, and the largest stacks; `rows` of them at most.
void write_text(const Report &report, int field, size_t rows, std::ostream &out);

// `outermost;...;innermost N`, a line a stack; of two profiles `... BEFORE AFTER`. Brendan Gregg's
// format for flame graphs.
void write_folded(const Report &report, int field, std::ostream &out);

// gperftools' text format, which google-pprof reads (it knows no protobuf). One profile only.
void write_heap(const Report &report, std::ostream &out);

} // namespace hakmem::report

#endif
