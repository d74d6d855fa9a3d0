// hakmem-report: what the heap profiles of HAKMEM_PROFILE say. `hakmem report`, `hakmem profile`
// and `hakmem diff` start it; the command itself needs neither libdw nor C++.
//     hakmem-report [OPTIONS] PROFILE
//     hakmem-report [OPTIONS] --diff BEFORE AFTER
// Exit status 1 if a file cannot be read or written, 2 after bad usage, 3 if a leak report, as
// text, has leaks that nothing suppresses.
#include <getopt.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "report/leaks.h"
#include "report/page.h"
#include "report/pprof.h"
#include "report/profile.h"
#include "report/report.h"
#include "report/text.h"

using namespace hakmem::report;

namespace
{

enum { BAD_FILE = 1, BAD_USAGE = 2, LEAKS_FOUND = 3, DEFAULT_ROWS = 20, MOST_ROWS = 1000000 };

enum class Format { text, html, pprof, folded, heap };

struct Options {
    Format format = Format::text;
    std::string out = "-", field;
    size_t rows = DEFAULT_ROWS;
    bool is_diff = false;
    std::vector<std::string> files;
    std::vector<Suppression> suppressions;
};

const char usage[] = "usage: hakmem-report [--text|--html|--pprof|--folded|--heap] [--by FIELD] "
                     "[--rows N] [--suppressions FILE] [-o FILE] PROFILE\n"
                     "       hakmem-report [OPTIONS] --diff BEFORE AFTER\n";

const char help[] =
    "\n"
    "Shows a heap profile that libhakmem.so wrote (HAKMEM_PROFILE), with names from the files "
    "that\n"
    "were mapped.\n"
    "  --text        the call sites that hold most, and the largest stacks (default)\n"
    "  --html        one page: flame graph, table, time line; needs no network\n"
    "  --pprof       pprof's gzipped protobuf\n"
    "  --folded      folded stacks, for flame graph tools\n"
    "  --heap        gperftools' text format, for google-pprof\n"
    "  --by FIELD    what is counted: live_bytes (default), allocated_bytes, peak_bytes,\n"
    "                pinned_bytes, live_objects, ...: one of the profile's fields\n"
    "  --rows N      rows of --text (default 20)\n"
    "  --suppressions FILE\n"
    "                of a leak report: lines `leak:PATTERN`, of what is not shown\n"
    "  -o FILE       where it is written; - is standard output (default)\n"
    "  --diff        the difference between two profiles: what grew\n";

int bad_usage(const std::string &why)
{
    std::cerr << "hakmem-report: " << why << "\n" << usage;
    return BAD_USAGE;
}

// By getopt_long. 0, -1 after --help, or BAD_USAGE after saying why.
int read_options(int argc, char **argv, Options *options)
{
    enum { BY = 256, ROWS, DIFF, SUPPRESSIONS, FORMATS };
    static const option known[] = {
        {"by", required_argument, nullptr, BY},
        {"rows", required_argument, nullptr, ROWS},
        {"diff", no_argument, nullptr, DIFF},
        {"suppressions", required_argument, nullptr, SUPPRESSIONS},
        {"output", required_argument, nullptr, 'o'},
        {"help", no_argument, nullptr, 'h'},
        {"text", no_argument, nullptr, FORMATS + static_cast<int>(Format::text)},
        {"html", no_argument, nullptr, FORMATS + static_cast<int>(Format::html)},
        {"pprof", no_argument, nullptr, FORMATS + static_cast<int>(Format::pprof)},
        {"folded", no_argument, nullptr, FORMATS + static_cast<int>(Format::folded)},
        {"heap", no_argument, nullptr, FORMATS + static_cast<int>(Format::heap)},
        {nullptr, 0, nullptr, 0}};
    opterr = 0;
    for (int which; (which = getopt_long(argc, argv, "o:h", known, nullptr)) != -1;) {
        if (which == 'h') {
            std::cout << usage << help;
            return -1;
        }
        if (which == 'o') {
            options->out = optarg;
        } else if (which == BY) {
            options->field = optarg;
        } else if (which == SUPPRESSIONS) {
            std::string wrong = read_suppressions(optarg, &options->suppressions);
            if (!wrong.empty()) {
                std::cerr << "hakmem-report: " << wrong << "\n";
                return BAD_FILE;
            }
        } else if (which == DIFF) {
            options->is_diff = true;
        } else if (which == ROWS) {
            char *end;
            unsigned long rows = std::strtoul(optarg, &end, 10);
            if (*optarg < '0' || *optarg > '9' || *end || rows < 1 || rows > MOST_ROWS) {
                return bad_usage("--rows takes 1 to 1000000, not '" + std::string(optarg) + "'");
            }
            options->rows = rows;
        } else if (which >= FORMATS) {
            options->format = static_cast<Format>(which - FORMATS);
        } else {
            return bad_usage("'" + std::string(argv[optind - 1]) + "' is not understood");
        }
    }
    options->files.assign(argv + optind, argv + argc);
    size_t wanted = options->is_diff ? 2 : 1;
    if (options->files.size() != wanted) {
        return bad_usage(wanted == 2 ? "--diff needs two profiles" : "one profile is needed");
    }
    if (options->is_diff && options->format == Format::heap) {
        return bad_usage("--heap shows one profile; google-pprof --base takes two files of it");
    }
    return 0;
}

// Index of the field to show, or -1 after saying which there are.
int choose_field(const Profile &profile, const std::string &name)
{
    int field = profile.field(name.empty() ? "live_bytes" : name);
    if (field < 0 && name.empty()) {
        return 0;
    }
    if (field < 0) {
        std::string all;
        for (const std::string &one : profile.fields) {
            all += " " + one;
        }
        bad_usage("--by: '" + name + "' is no field of the profile; it has" + all);
    }
    return field;
}

std::string made(const Report &report, const Options &options, int field)
{
    std::ostringstream out;
    switch (options.format) {
    case Format::text:
        write_text(report, field, options.rows, out);
        break;
    case Format::html:
        write_page(report, field, out);
        break;
    case Format::folded:
        write_folded(report, field, out);
        break;
    case Format::heap:
        write_heap(report, out);
        break;
    case Format::pprof:
        return gzip(pprof_message(report));
    }
    return out.str();
}

int write_out(const std::string &text, const std::string &path)
{
    std::FILE *file = path == "-" ? stdout : std::fopen(path.c_str(), "wb");
    errno = file ? 0 : errno;
    bool is_written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
    is_written = file && (path == "-" ? std::fflush(file) : std::fclose(file)) == 0 && is_written;
    if (!is_written) {
        std::cerr << "hakmem-report: " << path << ": " << std::strerror(errno ? errno : EIO)
                  << "\n";
    }
    return is_written ? 0 : BAD_FILE;
}

} // namespace

int main(int argc, char **argv)
{
    Options options;
    if (int status = read_options(argc, argv, &options)) {
        return status < 0 ? 0 : status;
    }
    std::vector<Profile> profiles(options.files.size());
    for (size_t i = 0; i < profiles.size(); i++) {
        std::string wrong = read_profile_file(options.files[i], &profiles[i]);
        if (!wrong.empty()) {
            std::cerr << "hakmem-report: " << wrong << "\n";
            return BAD_FILE;
        }
    }
    int field = choose_field(profiles.back(), options.field);
    if (field < 0) {
        return BAD_USAGE;
    }
    Symbols symbols;
    Report report = options.is_diff ? make_diff(profiles[0], profiles[1], &symbols)
                                    : make_report(profiles[0], &symbols);
    if (options.format == Format::text && !options.is_diff && report.after.is_leaks()) {
        std::ostringstream out;
        int64_t n = write_leaks(report, &options.suppressions, options.rows, out);
        int status = write_out(out.str(), options.out);
        return status ? status : n ? LEAKS_FOUND : 0;
    }
    return write_out(made(report, options, field), options.out);
}
