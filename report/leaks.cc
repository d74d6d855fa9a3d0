// Leaks as text. No locks, no threads.
#include "report/leaks.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>

namespace hakmem::report
{
namespace
{

constexpr size_t MOST_HELD = 5; // call sites that are listed below one stack

// Values of an entry of a leak report.
struct Lost {
    int64_t bytes = 0, objects = 0, held_bytes = 0, held_objects = 0;

    void add(const Lost &other)
    {
        bytes += other.bytes;
        objects += other.objects;
        held_bytes += other.held_bytes;
        held_objects += other.held_objects;
    }
    int64_t all() const
    {
        return bytes + held_bytes;
    }
};

Lost lost_of(const Report &report, const Entry &entry)
{
    auto value = [&](const char *name) {
        int field = report.after.field(name);
        return field < 0 ? 0 : entry.values[static_cast<size_t>(field)];
    };
    return {value("direct_bytes"), value("direct_objects"), value("held_bytes"),
            value("held_objects")};
}

std::string count_of(int64_t n, const char *what)
{
    return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

std::string amount(int64_t bytes, int64_t objects)
{
    return readable_bytes(bytes) + " in " + count_of(objects, "block");
}

std::string padded(const std::string &text, size_t width)
{
    return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

std::string frame_text(const Report &report, int frame)
{
    return frame < 0 ? "[no stack]" : readable_frame(report.frames[static_cast<size_t>(frame)]);
}

// The parts of a pattern between its stars, from `at` on, each behind the one before.
bool matches_from(const std::string &pattern, const std::string &name, bool at_end)
{
    size_t at = 0, begin = 0;
    for (;;) {
        size_t star = pattern.find('*', begin);
        std::string part = pattern.substr(begin, star - begin);
        if (star == std::string::npos && at_end) {
            return name.size() >= at + part.size() &&
                   name.compare(name.size() - part.size(), part.size(), part) == 0;
        }
        size_t found = name.find(part, at);
        if (found == std::string::npos) {
            return false;
        }
        if (star == std::string::npos) {
            return true;
        }
        at = found + part.size();
        begin = star + 1;
    }
}

Suppression *suppression_of(const Report &report, const Entry &entry,
                            std::vector<Suppression> *suppressions)
{
    for (Suppression &one : *suppressions) {
        for (int id : entry.locations) {
            for (int number : report.locations[static_cast<size_t>(id)].frames) {
                const Frame &frame = report.frames[static_cast<size_t>(number)];
                if (matches(one.pattern, frame.function) || matches(one.pattern, frame.file) ||
                    matches(one.pattern, frame.module)) {
                    return &one;
                }
            }
        }
    }
    return nullptr;
}

struct Leak {
    const Entry *entry;
    Lost lost;
};

bool is_larger(const Leak &a, const Leak &b)
{
    return a.lost.all() > b.lost.all();
}

// By call site: those of one line are one row.
void write_sites(const Report &report, const std::vector<Leak> &leaks, size_t rows,
                 std::ostream &out)
{
    std::map<int, Lost> by_site;
    for (const Leak &leak : leaks) {
        by_site[report.site(*leak.entry)].add(leak.lost);
    }
    std::vector<std::pair<int, Lost>> sites(by_site.begin(), by_site.end());
    std::stable_sort(sites.begin(), sites.end(),
                     [](const auto &a, const auto &b) { return a.second.all() > b.second.all(); });
    out << "\n"
        << padded("lost", 12) << padded("blocks", 11) << padded("with them", 12)
        << padded("blocks", 11) << "  call site\n";
    for (size_t i = 0; i < sites.size() && i < rows; i++) {
        const Lost &lost = sites[i].second;
        out << padded(readable_bytes(lost.bytes), 12) << padded(std::to_string(lost.objects), 11)
            << padded(readable_bytes(lost.held_bytes), 12)
            << padded(std::to_string(lost.held_objects), 11) << "  "
            << frame_text(report, sites[i].first) << "\n";
    }
    if (sites.size() > rows) {
        out << "(" << sites.size() - rows << " more call sites)\n";
    }
}

void write_held(const Report &report, const Leak &leak, std::ostream &out)
{
    std::map<int, Lost> by_site;
    for (const Entry &held : leak.entry->held) {
        by_site[report.site(held)].add({held.values[0], held.values[1], 0, 0});
    }
    std::vector<std::pair<int, Lost>> sites(by_site.begin(), by_site.end());
    std::stable_sort(sites.begin(), sites.end(),
                     [](const auto &a, const auto &b) { return a.second.bytes > b.second.bytes; });
    out << "  and " << amount(leak.lost.held_bytes, leak.lost.held_objects)
        << " to which only these lead:\n";
    for (size_t i = 0; i < sites.size() && i < MOST_HELD; i++) {
        out << "    " << amount(sites[i].second.bytes, sites[i].second.objects) << ": "
            << frame_text(report, sites[i].first) << "\n";
    }
    if (sites.size() > MOST_HELD) {
        out << "    (" << sites.size() - MOST_HELD << " more call sites)\n";
    }
}

void write_stacks(const Report &report, const std::vector<Leak> &leaks, size_t rows,
                  std::ostream &out)
{
    out << "\nStacks, innermost call first:\n";
    for (size_t i = 0; i < leaks.size() && i < rows; i++) {
        const Leak &leak = leaks[i];
        out << "\n" << amount(leak.lost.bytes, leak.lost.objects) << "\n";
        // From the call site on: what the library does within says nothing.
        std::vector<int> stack = report.stack(*leak.entry);
        auto site = std::find(stack.begin(), stack.end(), report.site(*leak.entry));
        for (auto frame = site; frame != stack.end(); ++frame) {
            out << "    " << frame_text(report, *frame) << "\n";
        }
        if (stack.empty()) {
            out << "    [no stack]\n";
        }
        if (leak.lost.held_objects) {
            write_held(report, leak, out);
        }
    }
    if (leaks.size() > rows) {
        out << "\n(" << leaks.size() - rows << " more stacks)\n";
    }
}

void write_suppressed(const std::vector<Suppression> &suppressions, std::ostream &out)
{
    for (const Suppression &one : suppressions) {
        if (one.stacks) {
            out << "suppressed: " << amount(one.bytes, one.objects) << ", "
                << count_of(one.stacks, "stack") << ", by leak:" << one.pattern << "\n";
        }
    }
}

void write_head(const Report &report, const Lost &sum, std::ostream &out)
{
    const Profile &profile = report.after;
    std::string when = profile.reason == "exit" ? "at exit" : "by " + profile.reason;
    std::string whose = (profile.program.empty() ? "[unknown program]" : profile.program) +
                        ", pid " + std::to_string(profile.pid) + ", " + when;
    if (!sum.objects) {
        out << "no leaks of " << whose << "\n";
    } else {
        out << "leaks of " << whose << ": "
            << amount(sum.bytes + sum.held_bytes, sum.objects + sum.held_objects) << "\n";
    }
    if (!profile.whole) {
        out << "(the file was cut off: some stacks may be missing)\n";
    }
}

} // namespace

bool matches(const std::string &pattern, const std::string &name)
{
    std::string rest = pattern;
    bool at_begin = !rest.empty() && rest.front() == '^';
    rest.erase(0, at_begin ? 1 : 0);
    bool at_end = !rest.empty() && rest.back() == '$';
    rest.erase(rest.size() - (at_end ? 1 : 0));
    if (rest.empty() || name.empty()) {
        return false;
    }
    if (!at_begin) {
        return matches_from(rest, name, at_end);
    }
    size_t star = rest.find('*');
    std::string first = rest.substr(0, star);
    if (name.compare(0, first.size(), first) != 0) {
        return false;
    }
    return star == std::string::npos
               ? !at_end || name.size() == first.size()
               : matches_from(rest.substr(star + 1), name.substr(first.size()), at_end);
}

std::string read_suppressions(const std::string &path, std::vector<Suppression> *out)
{
    static const std::string kind = "leak:";
    errno = 0;
    std::ifstream file(path);
    if (!file) {
        return path + ": " + std::strerror(errno ? errno : EIO);
    }
    std::string line;
    for (size_t number = 1; std::getline(file, line); number++) {
        size_t begin = line.find_first_not_of(" \t\r"), end = line.find_last_not_of(" \t\r");
        line = begin == std::string::npos ? "" : line.substr(begin, end - begin + 1);
        if (line.empty() || line[0] == '#') {
            continue;
        }
        if (line.compare(0, kind.size(), kind) != 0 || line.size() == kind.size()) {
            return path + ": line " + std::to_string(number) + ": not `leak:PATTERN`";
        }
        Suppression one;
        one.pattern = line.substr(kind.size());
        out->push_back(one);
    }
    return file.bad() ? path + ": " + std::strerror(EIO) : "";
}

int64_t write_leaks(const Report &report, std::vector<Suppression> *suppressions, size_t rows,
                    std::ostream &out)
{
    std::vector<Leak> leaks;
    Lost sum;
    for (const Entry &entry : report.entries) {
        Lost lost = lost_of(report, entry);
        if (Suppression *one = suppression_of(report, entry, suppressions)) {
            one->stacks++;
            one->bytes += lost.all();
            one->objects += lost.objects + lost.held_objects;
        } else if (lost.objects) {
            leaks.push_back({&entry, lost});
            sum.add(lost);
        }
    }
    std::stable_sort(leaks.begin(), leaks.end(), is_larger);
    write_head(report, sum, out);
    if (!leaks.empty()) {
        write_sites(report, leaks, rows, out);
        write_stacks(report, leaks, rows, out);
        out << "\n";
    }
    write_suppressed(*suppressions, out);
    for (const std::string &complaint : report.complaints) {
        out << "no names: " << complaint << "\n";
    }
    return sum.objects;
}

} // namespace hakmem::report
