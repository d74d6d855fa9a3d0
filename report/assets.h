// The files that a page is made of, as text in the program. assets.py makes the source.
#ifndef HAKMEM_REPORT_ASSETS_H_
#define HAKMEM_REPORT_ASSETS_H_

namespace hakmem::report
{

extern const char page_css[], page_html[], page_js[], bundle_min_js[], bundle_licenses[];

} // namespace hakmem::report

#endif
