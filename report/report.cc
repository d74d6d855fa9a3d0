// Joins profiles and names. No locks, no threads.
#include "report/report.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <tuple>

namespace hakmem::report
{
namespace
{

const Field known_fields[] = {
    {"live_bytes", "inuse_space", "bytes", "live"},
    {"live_objects", "inuse_objects", "count", "live blocks"},
    {"allocated_bytes", "alloc_space", "bytes", "allocated"},
    {"allocated_objects", "alloc_objects", "count", "allocations"},
    {"peak_bytes", "peak_space", "bytes", "live at the peak"},
    {"peak_objects", "peak_objects", "count", "blocks at the peak"},
    {"pinned_bytes", "pinned_space", "bytes", "pinned"},
    {"freed_objects", "freed_objects", "count", "freed blocks"},
    {"lifetime_ms", "lifetime", "milliseconds", "lifetime"},
    {"direct_bytes", "direct_space", "bytes", "lost"},
    {"direct_objects", "direct_objects", "count", "lost blocks"},
    {"held_bytes", "held_space", "bytes", "lost with them"},
    {"held_objects", "held_objects", "count", "blocks lost with them"},
};

using FrameKey = std::tuple<std::string, std::string, int, std::string, bool>;

class Builder
{
  public:
    Builder(Report *report, Symbols *symbols) : report_(report), symbols_(symbols)
    {
    }

    // The location of an address of a profile.
    int location(const Profile &profile, uint64_t address)
    {
        auto key = std::make_pair(&profile, address);
        auto found = by_address_.find(key);
        if (found != by_address_.end()) {
            return found->second;
        }
        Location made;
        for (const Frame &frame : symbols_->frames(profile, address)) {
            made.frames.push_back(intern(frame));
        }
        if (!report_->is_diff) {
            made.address = address;
            for (size_t i = 0; i < profile.mappings.size(); i++) {
                const Mapping &mapping = profile.mappings[i];
                if (address - 1 >= mapping.start && address - 1 < mapping.end) {
                    made.mapping = static_cast<int>(i);
                }
            }
        }
        int id = add(made);
        by_address_[key] = id;
        return id;
    }

  private:
    int intern(const Frame &frame)
    {
        FrameKey key(frame.function, frame.file, frame.line, frame.module, frame.inlined);
        auto [at, is_new] = frames_.emplace(key, static_cast<int>(report_->frames.size()));
        if (is_new) {
            report_->frames.push_back(frame);
        }
        return at->second;
    }

    // Joined profiles have one location for the same frames, whatever their addresses were.
    int add(const Location &location)
    {
        int id = static_cast<int>(report_->locations.size());
        if (report_->is_diff) {
            auto [at, is_new] = by_frames_.emplace(location.frames, id);
            if (!is_new) {
                return at->second;
            }
        }
        report_->locations.push_back(location);
        return id;
    }

    Report *report_;
    Symbols *symbols_;
    std::map<FrameKey, int> frames_;
    std::map<std::pair<const Profile *, uint64_t>, int> by_address_;
    std::map<std::vector<int>, int> by_frames_;
};

const Mapping *mapping_of(const Profile &profile, const std::string &path)
{
    for (const Mapping &mapping : profile.mappings) {
        if (mapping.path == path) {
            return &mapping;
        }
    }
    return nullptr;
}

bool is_same_program(const Profile &a, const Profile &b)
{
    const Mapping *one = mapping_of(a, a.program), *other = mapping_of(b, b.program);
    return one && other && one->path == other->path && one->build_id == other->build_id;
}

// What must be equal for two stacks to be the same one.
std::string key_of(const Report &report, const Entry &entry, bool with_lines)
{
    std::string key = std::to_string(entry.tid);
    for (int id : report.stack(entry)) {
        const Frame &frame = report.frames[static_cast<size_t>(id)];
        key += "\n" + frame.function;
        if (with_lines) {
            key += "\t" + frame.file + "\t" + std::to_string(frame.line);
        }
    }
    return key;
}

// What is below main in every stack says nothing.
bool is_below_main(const std::string &function)
{
    static const char *const names[] = {
        "_start",  "__libc_start_main",      "__libc_start_main_impl",
        "__clone", "__libc_start_call_main", "clone3",
        "__clone3"};
    return std::find(std::begin(names), std::end(names), function) != std::end(names);
}

} // namespace

Field field_of(const std::string &name)
{
    for (const Field &field : known_fields) {
        if (name == field.name) {
            return field;
        }
    }
    size_t n = name.size();
    const char *unit = n > 6 && name.compare(n - 6, 6, "_bytes") == 0 ? "bytes"
                       : n > 3 && name.compare(n - 3, 3, "_ms") == 0  ? "milliseconds"
                                                                      : "count";
    return {name.c_str(), name.c_str(), unit, name.c_str()};
}

std::vector<int> Report::stack(const Entry &entry) const
{
    std::vector<int> out;
    for (int id : entry.locations) {
        const std::vector<int> &here = locations[static_cast<size_t>(id)].frames;
        out.insert(out.end(), here.begin(), here.end());
    }
    while (out.size() > 1 && is_below_main(frames[static_cast<size_t>(out.back())].function)) {
        out.pop_back();
    }
    return out;
}

int Report::site(const Entry &entry) const
{
    std::vector<int> all = stack(entry);
    for (int id : all) {
        const Frame &frame = frames[static_cast<size_t>(id)];
        if (!frame.is_library && frame.function != "[unknown]") {
            return id;
        }
    }
    return all.empty() ? -1 : all.front();
}

int64_t Report::total(int field) const
{
    int64_t sum = 0;
    for (const Entry &entry : entries) {
        sum += entry.values[static_cast<size_t>(field)];
    }
    return sum;
}

int64_t Report::total_before(int field) const
{
    int64_t sum = 0;
    for (const Entry &entry : entries) {
        sum += is_diff ? entry.before[static_cast<size_t>(field)] : 0;
    }
    return sum;
}

Report make_report(const Profile &profile, Symbols *symbols)
{
    Report report;
    report.after = profile;
    Builder builder(&report, symbols);
    for (const Stack &stack : report.after.stacks) {
        Entry entry;
        entry.values = stack.values;
        entry.tid = stack.tid;
        for (uint64_t address : stack.addresses) {
            entry.locations.push_back(builder.location(report.after, address));
        }
        for (const Held &held : stack.held) {
            Entry other;
            other.values = {held.bytes, held.objects};
            for (uint64_t address : held.addresses) {
                other.locations.push_back(builder.location(report.after, address));
            }
            entry.held.push_back(other);
        }
        report.entries.push_back(entry);
    }
    report.complaints = symbols->complaints();
    return report;
}

Report make_diff(const Profile &before, const Profile &after, Symbols *symbols)
{
    Report report;
    report.is_diff = true;
    report.before = before;
    report.after = after;
    Builder builder(&report, symbols);
    bool with_lines = is_same_program(before, after);
    std::map<std::string, size_t> by_key;
    size_t n = after.fields.size();
    for (const Profile *profile : {&report.before, &report.after}) {
        for (const Stack &stack : profile->stacks) {
            Entry entry;
            entry.tid = before.pid == after.pid ? stack.tid : -1;
            for (uint64_t address : stack.addresses) {
                entry.locations.push_back(builder.location(*profile, address));
            }
            std::string key = key_of(report, entry, with_lines);
            auto [at, is_new] = by_key.emplace(key, report.entries.size());
            if (is_new) {
                entry.values.assign(n, 0);
                entry.before.assign(n, 0);
                report.entries.push_back(entry);
            }
            Entry &joined = report.entries[at->second];
            std::vector<int64_t> &sums = profile == &report.before ? joined.before : joined.values;
            for (size_t i = 0; i < n; i++) {
                int field = profile->field(after.fields[i]);
                sums[i] += field < 0 ? 0 : stack.values[static_cast<size_t>(field)];
            }
        }
    }
    report.complaints = symbols->complaints();
    return report;
}

std::string readable_bytes(int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = static_cast<double>(bytes);
    size_t unit = 0;
    while (std::fabs(value) >= 1024 && unit < 4) {
        value /= 1024;
        unit++;
    }
    char text[40];
    std::snprintf(text, sizeof text, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

std::string readable(const Field &field, int64_t value)
{
    std::string unit = field.unit;
    return unit == "bytes"          ? readable_bytes(value)
           : unit == "milliseconds" ? std::to_string(value) + " ms"
                                    : std::to_string(value);
}

std::string readable_frame(const Frame &frame)
{
    const std::string &from = frame.file.empty() ? frame.module : frame.file;
    std::string name = from.substr(from.rfind('/') == std::string::npos ? 0 : from.rfind('/') + 1);
    if (frame.file.empty()) {
        bool named = frame.function.compare(0, name.size() + 1, name + "+") == 0;
        return name.empty() || named ? frame.function : frame.function + " (" + name + ")";
    }
    return frame.function + " " + name + (frame.line ? ":" + std::to_string(frame.line) : "");
}

} // namespace hakmem::report
