// Text outputs. No locks, no threads.
#include "report/text.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>

namespace hakmem::report
{
namespace
{

struct Row {
    int frame;
    int64_t value = 0, before = 0, objects = 0;
};

std::string percent(int64_t part, int64_t whole)
{
    char text[24];
    double share = whole ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0;
    std::snprintf(text, sizeof text, "%.1f %%", share);
    return text;
}

std::string padded(const std::string &text, size_t width)
{
    return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

// `live_objects` for `live_bytes`; -1 without such a field.
int objects_of(const Profile &profile, int field)
{
    std::string name = profile.fields[static_cast<size_t>(field)];
    size_t at = name.rfind("_bytes");
    return at == std::string::npos ? -1 : profile.field(name.substr(0, at) + "_objects");
}

std::vector<Row> sites(const Report &report, int field)
{
    std::map<int, Row> rows;
    int objects = objects_of(report.after, field);
    for (const Entry &entry : report.entries) {
        int frame = report.site(entry);
        Row &row = rows[frame];
        row.frame = frame;
        row.value += entry.values[static_cast<size_t>(field)];
        row.before += report.is_diff ? entry.before[static_cast<size_t>(field)] : 0;
        row.objects += objects < 0 ? 0 : entry.values[static_cast<size_t>(objects)];
    }
    std::vector<Row> out;
    for (auto &[frame, row] : rows) {
        if (row.value != 0 || row.before != 0) {
            out.push_back(row);
        }
    }
    std::sort(out.begin(), out.end(), [](const Row &a, const Row &b) {
        return std::llabs(a.value - a.before) > std::llabs(b.value - b.before);
    });
    return out;
}

std::string frame_text(const Report &report, int frame)
{
    return frame < 0 ? "[no stack]" : readable_frame(report.frames[static_cast<size_t>(frame)]);
}

std::string seconds(uint64_t ms)
{
    char text[32];
    std::snprintf(text, sizeof text, "%.1f s", static_cast<double>(ms) / 1000);
    return text;
}

void describe(const Profile &profile, const char *what, std::ostream &out)
{
    out << what << (profile.program.empty() ? "[unknown program]" : profile.program) << ", pid "
        << profile.pid << ", after " << seconds(profile.elapsed_ms) << ": "
        << readable_bytes(static_cast<int64_t>(profile.live_bytes)) << " live, "
        << readable_bytes(static_cast<int64_t>(profile.resident_bytes)) << " resident\n";
    if (profile.partial) {
        out << "sampled while it ran: what was allocated before is not in it\n";
    }
    if (!profile.whole) {
        out << "(the file was cut off: some stacks may be missing)\n";
    }
}

void write_stack(const Report &report, const Entry &entry, int field, std::ostream &out)
{
    Field row = field_of(report.after.fields[static_cast<size_t>(field)]);
    size_t at = static_cast<size_t>(field);
    int64_t change = entry.values[at] - (report.is_diff ? entry.before[at] : 0);
    out << "\n" << (report.is_diff && change > 0 ? "+" : "") << readable(row, change);
    if (entry.tid >= 0) {
        out << " of thread " << entry.tid;
    }
    out << "\n";
    for (int frame : report.stack(entry)) {
        out << "    " << frame_text(report, frame) << "\n";
    }
}

void write_stacks(const Report &report, int field, size_t rows, std::ostream &out)
{
    size_t at = static_cast<size_t>(field);
    std::vector<const Entry *> largest;
    auto weight = [&](const Entry *entry) {
        return std::llabs(entry->values[at] - (report.is_diff ? entry->before[at] : 0));
    };
    for (const Entry &entry : report.entries) {
        if (weight(&entry) > 0) {
            largest.push_back(&entry);
        }
    }
    std::sort(largest.begin(), largest.end(),
              [&](const Entry *a, const Entry *b) { return weight(a) > weight(b); });
    largest.resize(std::min(largest.size(), rows));
    out << (largest.empty() ? "" : "\nLargest stacks, innermost call first:\n");
    for (const Entry *entry : largest) {
        write_stack(report, *entry, field, out);
    }
}

} // namespace

void write_text(const Report &report, int field, size_t rows, std::ostream &out)
{
    Field row = field_of(report.after.fields[static_cast<size_t>(field)]);
    if (report.is_diff) {
        describe(report.before, "before: ", out);
    }
    describe(report.after, report.is_diff ? "after:  " : "heap profile of ", out);
    if (report.after.period) {
        out << "estimates; one sample in "
            << readable_bytes(static_cast<int64_t>(report.after.period))
            << " of allocated memory\n";
    }
    std::vector<Row> found = sites(report, field);
    int64_t total = report.total(field);
    out << "\n";
    if (report.is_diff) {
        out << padded("before", 12) << padded("after", 12) << padded("change", 12);
    } else {
        out << padded(row.title, 12) << padded("share", 9) << padded("blocks", 11);
    }
    out << "  call site\n";
    for (size_t i = 0; i < found.size() && i < rows; i++) {
        const Row &site = found[i];
        int64_t change = site.value - site.before;
        if (report.is_diff) {
            out << padded(readable(row, site.before), 12) << padded(readable(row, site.value), 12)
                << padded((change > 0 ? "+" : "") + readable(row, change), 12);
        } else {
            out << padded(readable(row, site.value), 12) << padded(percent(site.value, total), 9)
                << padded(std::to_string(site.objects), 11);
        }
        out << "  " << frame_text(report, site.frame) << "\n";
    }
    if (found.size() > rows) {
        out << "(" << found.size() - rows << " more call sites)\n";
    }
    if (found.empty()) {
        out << "nothing\n";
        int peak = report.after.field("peak_bytes");
        if (peak >= 0 && peak != field && report.total(peak) > 0) {
            out << "(--by peak_bytes shows the moment when most was live)\n";
        }
    }
    write_stacks(report, field, std::min<size_t>(rows, 5), out);
    for (const std::string &complaint : report.complaints) {
        out << "\nno names: " << complaint << "\n";
    }
}

void write_folded(const Report &report, int field, std::ostream &out)
{
    std::map<std::string, std::pair<int64_t, int64_t>> lines;
    size_t at = static_cast<size_t>(field);
    for (const Entry &entry : report.entries) {
        std::vector<int> stack = report.stack(entry);
        std::string line;
        for (auto frame = stack.rbegin(); frame != stack.rend(); ++frame) {
            std::string name = report.frames[static_cast<size_t>(*frame)].function;
            std::replace(name.begin(), name.end(), ';', ':');
            line += (line.empty() ? "" : ";") + name;
        }
        auto &sums = lines[line.empty() ? "[no stack]" : line];
        sums.first += report.is_diff ? entry.before[at] : 0;
        sums.second += entry.values[at];
    }
    for (const auto &[line, sums] : lines) {
        if (report.is_diff && (sums.first || sums.second)) {
            out << line << " " << sums.first << " " << sums.second << "\n";
        } else if (!report.is_diff && sums.second > 0) {
            out << line << " " << sums.second << "\n";
        }
    }
}

void write_heap(const Report &report, std::ostream &out)
{
    const Profile &profile = report.after;
    static const char *const names[] = {"live_objects", "live_bytes", "allocated_objects",
                                        "allocated_bytes"};
    int fields[4];
    int64_t totals[4];
    for (int i = 0; i < 4; i++) {
        fields[i] = profile.field(names[i]);
        totals[i] = fields[i] < 0 ? 0 : report.total(fields[i]);
    }
    auto numbers = [&](const int64_t *of) {
        char text[128];
        std::snprintf(text, sizeof text,
                      "%6" PRId64 ": %8" PRId64 " [%6" PRId64 ": %8" PRId64 "] @", of[0], of[1],
                      of[2], of[3]);
        return std::string(text);
    };
    // The estimates are weighted already: `heapprofile` says that no rate is to be divided by.
    out << "heap profile: " << numbers(totals) << " heapprofile\n";
    for (const Stack &stack : profile.stacks) {
        int64_t values[4];
        for (int i = 0; i < 4; i++) {
            values[i] = fields[i] < 0 ? 0 : stack.values[static_cast<size_t>(fields[i])];
        }
        out << numbers(values);
        for (uint64_t address : stack.addresses) {
            char text[24];
            std::snprintf(text, sizeof text, " 0x%08" PRIx64, address);
            out << text;
        }
        out << "\n";
    }
    out << "\nMAPPED_LIBRARIES:\n";
    for (const Mapping &mapping : profile.mappings) {
        char text[96];
        std::snprintf(text, sizeof text, "%08" PRIx64 "-%08" PRIx64 " r-xp %08" PRIx64 " 00:00 0 ",
                      mapping.start, mapping.end, mapping.offset);
        out << text << mapping.path << "\n";
    }
}

} // namespace hakmem::report
