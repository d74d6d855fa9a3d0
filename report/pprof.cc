// Writes pprof's message by hand: it has five kinds of parts, and varints and strings are all that
// they hold. The numbers of the fields are those of profile.proto. No locks, no threads.
#include "report/pprof.h"

#include <algorithm>

namespace hakmem::report
{
namespace
{

// Numbers of the fields, message by message.
namespace profile_field
{
enum {
    SAMPLE_TYPE = 1,
    SAMPLE = 2,
    MAPPING = 3,
    LOCATION = 4,
    FUNCTION = 5,
    STRING_TABLE = 6,
    TIME_NANOS = 9,
    DURATION_NANOS = 10,
    PERIOD_TYPE = 11,
    PERIOD = 12,
    COMMENT = 13,
    DEFAULT_SAMPLE_TYPE = 14
};
}
namespace value_type_field
{
enum { TYPE = 1, UNIT = 2 };
}
namespace sample_field
{
enum { LOCATION_ID = 1, VALUE = 2, LABEL = 3 };
}
namespace label_field
{
enum { KEY = 1, NUMBER = 3 };
}
namespace mapping_field
{
enum {
    ID = 1,
    START = 2,
    LIMIT = 3,
    OFFSET = 4,
    FILENAME = 5,
    BUILD_ID = 6,
    HAS_FUNCTIONS = 7,
    HAS_FILENAMES = 8,
    HAS_LINES = 9,
    HAS_INLINES = 10
};
}
namespace location_field
{
enum { ID = 1, MAPPING_ID = 2, ADDRESS = 3, LINE = 4 };
}
namespace line_field
{
enum { FUNCTION_ID = 1, LINE = 2 };
}
namespace function_field
{
enum { ID = 1, NAME = 2, SYSTEM_NAME = 3, FILENAME = 4 };
}

class Message
{
  public:
    void number(int field, uint64_t value)
    {
        if (value) { // proto3: 0 is what a missing field means
            varint(static_cast<uint64_t>(field) << 3);
            varint(value);
        }
    }

    void bytes(int field, const std::string &value)
    {
        varint(static_cast<uint64_t>(field) << 3 | 2);
        varint(value.size());
        text_ += value;
    }

    void packed(int field, const std::vector<uint64_t> &values)
    {
        Message inner;
        for (uint64_t value : values) {
            inner.varint(value);
        }
        bytes(field, inner.text_);
    }

    const std::string &text() const
    {
        return text_;
    }

  private:
    void varint(uint64_t value)
    {
        for (; value >= 0x80; value >>= 7) {
            text_ += static_cast<char>(value | 0x80);
        }
        text_ += static_cast<char>(value);
    }

    std::string text_;
};

class Writer
{
  public:
    explicit Writer(const Report &report) : report_(report)
    {
        string("");
    }

    std::string write()
    {
        for (size_t i = 0; i < report_.after.fields.size(); i++) {
            Field field = field_of(report_.after.fields[i]);
            out_.bytes(profile_field::SAMPLE_TYPE, type(field.pprof, field.unit));
        }
        samples();
        mappings();
        locations();
        functions();
        out_.number(profile_field::TIME_NANOS, report_.after.time_ns);
        out_.number(profile_field::DURATION_NANOS, report_.after.elapsed_ms * 1000000);
        out_.bytes(profile_field::PERIOD_TYPE, type("space", "bytes"));
        out_.number(profile_field::PERIOD, report_.after.period);
        out_.packed(profile_field::COMMENT,
                    {string("hakmem: " + report_.after.program +
                            (report_.is_diff ? ", difference of two profiles" : ""))});
        if (report_.after.field("live_bytes") >= 0) {
            out_.number(profile_field::DEFAULT_SAMPLE_TYPE, string("inuse_space"));
        }
        for (const std::string &text : table_) {
            out_.bytes(profile_field::STRING_TABLE, text);
        }
        return out_.text();
    }

  private:
    uint64_t string(const std::string &text)
    {
        auto [at, is_new] = strings_.emplace(text, table_.size());
        if (is_new) {
            table_.push_back(text);
        }
        return at->second;
    }

    std::string type(const std::string &name, const std::string &unit)
    {
        Message made;
        made.number(value_type_field::TYPE, string(name));
        made.number(value_type_field::UNIT, string(unit));
        return made.text();
    }

    void samples()
    {
        for (const Entry &entry : report_.entries) {
            Message sample;
            std::vector<uint64_t> ids, values;
            for (int id : entry.locations) {
                ids.push_back(static_cast<uint64_t>(id) + 1);
            }
            for (size_t i = 0; i < entry.values.size(); i++) {
                int64_t before = report_.is_diff ? entry.before[i] : 0;
                values.push_back(static_cast<uint64_t>(entry.values[i] - before));
            }
            sample.packed(sample_field::LOCATION_ID, ids);
            sample.packed(sample_field::VALUE, values);
            if (entry.tid >= 0) {
                Message label;
                label.number(label_field::KEY, string("thread"));
                label.number(label_field::NUMBER, static_cast<uint64_t>(entry.tid));
                sample.bytes(sample_field::LABEL, label.text());
            }
            out_.bytes(profile_field::SAMPLE, sample.text());
        }
    }

    // The program's own comes first: pprof takes its name for the profile's. Every name is known
    // already, so that pprof does not look for the files.
    void mappings()
    {
        const Profile &profile = report_.after;
        for (bool own : {true, false}) {
            for (size_t i = 0; i < profile.mappings.size() && !report_.is_diff; i++) {
                if ((profile.mappings[i].path == profile.program) == own) {
                    mapping(profile.mappings[i], i + 1);
                }
            }
        }
    }

    void mapping(const Mapping &from, size_t id)
    {
        Message mapping;
        mapping.number(mapping_field::ID, id);
        mapping.number(mapping_field::START, from.start);
        mapping.number(mapping_field::LIMIT, from.end);
        mapping.number(mapping_field::OFFSET, from.offset);
        mapping.number(mapping_field::FILENAME, string(from.path));
        mapping.number(mapping_field::BUILD_ID, string(from.build_id));
        for (int known : {mapping_field::HAS_FUNCTIONS, mapping_field::HAS_FILENAMES,
                          mapping_field::HAS_LINES, mapping_field::HAS_INLINES}) {
            mapping.number(known, 1);
        }
        out_.bytes(profile_field::MAPPING, mapping.text());
    }

    void locations()
    {
        for (size_t i = 0; i < report_.locations.size(); i++) {
            const Location &from = report_.locations[i];
            Message location;
            location.number(location_field::ID, i + 1);
            location.number(location_field::MAPPING_ID, static_cast<uint64_t>(from.mapping + 1));
            // Of the call, as pprof wants it, not of the return.
            location.number(location_field::ADDRESS, from.address ? from.address - 1 : 0);
            for (int id : from.frames) {
                const Frame &frame = report_.frames[static_cast<size_t>(id)];
                Message line;
                line.number(line_field::FUNCTION_ID, function(frame));
                line.number(line_field::LINE, static_cast<uint64_t>(frame.line));
                location.bytes(location_field::LINE, line.text());
            }
            out_.bytes(profile_field::LOCATION, location.text());
        }
    }

    uint64_t function(const Frame &frame)
    {
        auto key = std::make_pair(frame.function, frame.file);
        return functions_.emplace(key, functions_.size() + 1).first->second;
    }

    void functions()
    {
        for (const auto &[key, id] : functions_) {
            Message function;
            function.number(function_field::ID, id);
            function.number(function_field::NAME, string(key.first));
            function.number(function_field::SYSTEM_NAME, string(key.first));
            function.number(function_field::FILENAME, string(key.second));
            out_.bytes(profile_field::FUNCTION, function.text());
        }
    }

    const Report &report_;
    Message out_;
    std::map<std::string, uint64_t> strings_;
    std::vector<std::string> table_;
    std::map<std::pair<std::string, std::string>, uint64_t> functions_;
};

} // namespace

std::string pprof_message(const Report &report)
{
    return Writer(report).write();
}

// Little-endian, as gzip's and deflate's numbers are.
void add(std::string *out, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        *out += static_cast<char>(value >> 8 * i);
    }
}

uint32_t crc32(const std::string &data)
{
    const uint32_t polynomial = 0xedb88320; // RFC 1952, bits reversed
    uint32_t crc = ~0u;
    for (char c : data) {
        crc ^= static_cast<unsigned char>(c);
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
        }
    }
    return ~crc;
}

// RFC 1952 around RFC 1951's stored blocks.
std::string gzip(const std::string &data)
{
    const size_t most = 0xffff;
    std::string out("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
    size_t at = 0;
    do {
        size_t n = std::min(most, data.size() - at);
        out += at + n == data.size() ? '\1' : '\0'; // the last one or not; stored
        add(&out, static_cast<uint32_t>(n), 2);
        add(&out, ~static_cast<uint32_t>(n), 2);
        out += data.substr(at, n);
        at += n;
    } while (at < data.size());
    add(&out, crc32(data), 4);
    add(&out, static_cast<uint32_t>(data.size()), 4);
    return out;
}

} // namespace hakmem::report
