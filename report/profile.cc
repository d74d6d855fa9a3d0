// Reads raw heap profiles. No locks, no threads.
#include "report/profile.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include <sys/stat.h>

namespace hakmem::report
{
namespace
{

// A profile may come from elsewhere: its numbers are read strictly, and bounded by the line.
bool parse_number(const std::string &text, int base, uint64_t *value)
{
    if (text.empty() || text.size() > 20) {
        return false;
    }
    const char *digits = base == 16 ? "0123456789abcdefABCDEF" : "0123456789";
    if (text.find_first_not_of(digits) != std::string::npos) {
        return false;
    }
    errno = 0;
    *value = std::strtoull(text.c_str(), nullptr, base);
    return errno == 0;
}

bool parse_signed(const std::string &text, int64_t *value)
{
    bool negative = !text.empty() && text[0] == '-';
    uint64_t size;
    if (!parse_number(text.substr(negative ? 1 : 0), 10, &size) || size > INT64_MAX) {
        return false;
    }
    *value = negative ? -static_cast<int64_t>(size) : static_cast<int64_t>(size);
    return true;
}

bool parse_address(const std::string &text, uint64_t *value)
{
    return parse_number(text.compare(0, 2, "0x") == 0 ? text.substr(2) : text, 16, value);
}

// \n and \\ as the writer made them.
std::string unescape(const std::string &text)
{
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] == '\\' && i + 1 < text.size()) {
            i++;
            out += text[i] == 'n' ? '\n' : text[i];
        } else {
            out += text[i];
        }
    }
    return out;
}

// What follows the n-th word of a line.
std::string rest_after(const std::string &line, int n)
{
    size_t at = 0;
    for (; n > 0 && at != std::string::npos; n--) {
        at = line.find(' ', at);
        at = at == std::string::npos ? at : at + 1;
    }
    return at == std::string::npos ? "" : line.substr(at);
}

class Reader
{
  public:
    explicit Reader(Profile *profile) : profile_(profile)
    {
    }

    // "" or what is wrong with the line.
    std::string line(const std::string &text)
    {
        std::istringstream words(text);
        std::string key;
        words >> key;
        if (key == "program") {
            profile_->program = unescape(rest_after(text, 1));
        } else if (key == "reason") {
            words >> profile_->reason;
        } else if (key == "partial") {
            uint64_t number = 0;
            std::string wrong = one_number(words, &number);
            profile_->partial = number != 0;
            return wrong;
        } else if (key == "pid") {
            return signed_of(words, &profile_->pid);
        } else if (uint64_t *number = number_of(key)) {
            return one_number(words, number);
        } else if (key == "fields") {
            return fields(words);
        } else if (key == "stack") {
            return stack(words);
        } else if (key == "held") {
            return held(words);
        } else if (key == "point") {
            return point(words);
        } else if (key == "map") {
            return mapping(text, words);
        } else if (key == "end") {
            profile_->whole = true;
        }
        return "";
    }

  private:
    uint64_t *number_of(const std::string &key)
    {
        static const struct {
            const char *name;
            uint64_t Profile::*member;
        } numbers[] = {{"time_ns", &Profile::time_ns},
                       {"elapsed_ms", &Profile::elapsed_ms},
                       {"period", &Profile::period},
                       {"live_bytes", &Profile::live_bytes},
                       {"resident_bytes", &Profile::resident_bytes}};
        for (const auto &row : numbers) {
            if (key == row.name) {
                return &(profile_->*row.member);
            }
        }
        return nullptr;
    }

    static std::string one_number(std::istringstream &words, uint64_t *value)
    {
        std::string word;
        words >> word;
        return parse_number(word, 10, value) ? "" : "'" + word + "' is no number";
    }

    static std::string signed_of(std::istringstream &words, int64_t *value)
    {
        std::string word;
        words >> word;
        return parse_signed(word, value) ? "" : "'" + word + "' is no number";
    }

    std::string fields(std::istringstream &words)
    {
        if (!profile_->fields.empty()) {
            return "a second line 'fields'";
        }
        for (std::string word; words >> word;) {
            profile_->fields.push_back(word);
        }
        return profile_->fields.empty() ? "no fields" : "";
    }

    std::string stack(std::istringstream &words)
    {
        Stack stack;
        std::string word;
        if (profile_->fields.empty()) {
            return "a stack before the line 'fields'";
        }
        while (words >> word && word != ":") {
            int64_t value;
            if (word.compare(0, 4, "tid=") == 0) {
                if (!parse_signed(word.substr(4), &stack.tid)) {
                    return "'" + word + "' is no thread";
                }
            } else if (parse_signed(word, &value)) {
                stack.values.push_back(value);
            } else if (word.find('=') == std::string::npos) {
                return "'" + word + "' is no number";
            }
        }
        if (word != ":") {
            return "a stack without ':'";
        }
        if (stack.values.size() != profile_->fields.size()) {
            return "a stack with " + std::to_string(stack.values.size()) + " numbers for " +
                   std::to_string(profile_->fields.size()) + " fields";
        }
        std::string wrong = addresses(words, &stack.addresses);
        profile_->stacks.push_back(std::move(stack));
        return wrong;
    }

    static std::string addresses(std::istringstream &words, std::vector<uint64_t> *out)
    {
        for (std::string word; words >> word;) {
            uint64_t address;
            if (!parse_address(word, &address)) {
                return "'" + word + "' is no address";
            }
            out->push_back(address);
        }
        return "";
    }

    // Of the stack before it.
    std::string held(std::istringstream &words)
    {
        Held held;
        std::string word;
        if (profile_->stacks.empty()) {
            return "'held' before any stack";
        }
        for (int64_t *value : {&held.bytes, &held.objects}) {
            if (!(words >> word) || !parse_signed(word, value)) {
                return "'" + word + "' is no number";
            }
        }
        if (!(words >> word) || word != ":") {
            return "'held' without ':'";
        }
        std::string wrong = addresses(words, &held.addresses);
        profile_->stacks.back().held.push_back(std::move(held));
        return wrong;
    }

    std::string point(std::istringstream &words)
    {
        Point point;
        for (uint64_t *value : {&point.elapsed_ms, &point.live_bytes, &point.resident_bytes}) {
            std::string wrong = one_number(words, value);
            if (!wrong.empty()) {
                return wrong;
            }
        }
        profile_->points.push_back(point);
        return "";
    }

    std::string mapping(const std::string &text, std::istringstream &words)
    {
        Mapping mapping;
        std::string range, offset;
        words >> range >> offset >> mapping.build_id;
        size_t dash = range.find('-');
        if (dash == std::string::npos || !parse_address(range.substr(0, dash), &mapping.start) ||
            !parse_address(range.substr(dash + 1), &mapping.end) ||
            !parse_address(offset, &mapping.offset) || mapping.end <= mapping.start) {
            return "no mapping";
        }
        if (mapping.build_id == "-") {
            mapping.build_id.clear();
        }
        mapping.path = unescape(rest_after(text, 4));
        profile_->mappings.push_back(std::move(mapping));
        return "";
    }

    Profile *profile_;
};

} // namespace

int Profile::field(const std::string &name) const
{
    auto at = std::find(fields.begin(), fields.end(), name);
    return at == fields.end() ? -1 : static_cast<int>(at - fields.begin());
}

std::string read_profile(std::istream &in, Profile *profile)
{
    std::string line, version;
    *profile = Profile();
    std::getline(in, line);
    std::istringstream first(line);
    first >> version;
    if (version != "hakmem-profile") {
        return "not a heap profile of hakmem";
    }
    version.clear();
    first >> version;
    if (version != "1") {
        return "version '" + version + "' of the format; this program reads version 1";
    }
    Reader reader(profile);
    for (size_t number = 2; std::getline(in, line); number++) {
        bool cut = in.eof(); // no newline at its end: a file that was cut off, unless it is `end`
        std::string wrong = reader.line(line);
        if (!wrong.empty() && !cut) {
            return "line " + std::to_string(number) + ": " + wrong;
        }
        if (profile->whole) {
            break;
        }
    }
    return profile->fields.empty() ? "no line 'fields'" : "";
}

std::string read_profile_file(const std::string &path, Profile *profile)
{
    struct stat status;
    std::ifstream file;
    if (stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
        return path + ": " + std::strerror(EISDIR);
    }
    errno = 0;
    file.open(path, std::ios::binary);
    if (!file) {
        return path + ": " + std::strerror(errno ? errno : EIO);
    }
    std::string wrong = read_profile(file, profile);
    return wrong.empty() ? "" : path + ": " + wrong;
}

} // namespace hakmem::report
