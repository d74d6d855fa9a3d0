// One HTML page that holds a profile, or the difference of two: it loads nothing.
#ifndef HAKMEM_REPORT_PAGE_H_
#define HAKMEM_REPORT_PAGE_H_

#include <ostream>
#include <string>

#include "report/report.h"

namespace hakmem::report
{

// `field` is what the page shows first.
void write_page(const Report &report, int field, std::ostream &out);

// The profile as the page's script reads it: JSON that may stand inside a script element.
std::string page_data(const Report &report, int field);

// Text as a JSON string: bytes that are no UTF-8 become U+FFFD, `<` is escaped.
std::string json_string(const std::string &text);

} // namespace hakmem::report

#endif
