// Puts data, script, style and the library for drawing into one page. No locks, no threads.
#include "report/page.h"

#include <cstdio>

#include "report/assets.h"

namespace hakmem::report
{
namespace
{

// Length of the UTF-8 sequence at `at`, or 0 if it is none.
size_t utf8_length(const std::string &text, size_t at)
{
    unsigned char first = static_cast<unsigned char>(text[at]);
    size_t n = first < 0x80   ? 1
               : first < 0xc2 ? 0
               : first < 0xe0 ? 2
               : first < 0xf0 ? 3
               : first < 0xf5 ? 4
                              : 0;
    if (n == 0 || at + n > text.size()) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((static_cast<unsigned char>(text[at + i]) & 0xc0) != 0x80) {
            return 0;
        }
    }
    return n;
}

std::string html_text(const std::string &text)
{
    std::string out;
    for (char c : text) {
        switch (c) {
        case '<':
            out += "&lt;";
            break;
        case '>':
            out += "&gt;";
            break;
        case '&':
            out += "&amp;";
            break;
        default:
            out += c;
        }
    }
    return out;
}

std::string list(const std::vector<int64_t> &values)
{
    std::string out = "[";
    for (int64_t value : values) {
        out += (out.size() > 1 ? "," : "") + std::to_string(value);
    }
    return out + "]";
}

std::string facts(const Profile &profile)
{
    return "{\"pid\":" + std::to_string(profile.pid) +
           ",\"reason\":" + json_string(profile.reason) +
           ",\"elapsed_ms\":" + std::to_string(profile.elapsed_ms) +
           ",\"period\":" + std::to_string(profile.period) +
           ",\"live\":" + std::to_string(profile.live_bytes) +
           ",\"resident\":" + std::to_string(profile.resident_bytes) +
           ",\"partial\":" + (profile.partial ? "true" : "false") +
           ",\"whole\":" + (profile.whole ? "true" : "false") + "}";
}

std::string fields(const Profile &profile)
{
    std::string out;
    for (const std::string &name : profile.fields) {
        Field field = field_of(name);
        out += std::string(out.empty() ? "" : ",") + "{\"name\":" + json_string(name) +
               ",\"unit\":" + json_string(field.unit) + ",\"title\":" + json_string(field.title) +
               "}";
    }
    return out;
}

std::string frames(const Report &report)
{
    std::string out;
    for (const Frame &frame : report.frames) {
        out += std::string(out.empty() ? "" : ",\n") + "[" + json_string(frame.function) + "," +
               json_string(frame.file) + "," + std::to_string(frame.line) + "," +
               json_string(frame.module) + "," + (frame.is_library ? "1" : "0") + "]";
    }
    return out;
}

std::string stacks(const Report &report)
{
    std::string out;
    for (const Entry &entry : report.entries) {
        std::vector<int> stack = report.stack(entry);
        std::vector<int64_t> outermost_first(stack.rbegin(), stack.rend());
        out += std::string(out.empty() ? "" : ",\n") + "{\"v\":" + list(entry.values) +
               (report.is_diff ? ",\"b\":" + list(entry.before) : "") +
               ",\"s\":" + list(outermost_first) +
               ",\"site\":" + std::to_string(report.site(entry)) + "}";
    }
    return out;
}

std::string points(const Profile &profile)
{
    std::string out;
    for (const Point &point : profile.points) {
        out += std::string(out.empty() ? "" : ",") + "[" + std::to_string(point.elapsed_ms) + "," +
               std::to_string(point.live_bytes) + "," + std::to_string(point.resident_bytes) + "]";
    }
    return out;
}

} // namespace

std::string json_string(const std::string &text)
{
    std::string out = "\"";
    for (size_t i = 0; i < text.size();) {
        size_t n = utf8_length(text, i);
        unsigned char c = static_cast<unsigned char>(text[i]);
        if (n == 0) {
            out += "\\ufffd";
        } else if (n == 1 && (c < 0x20 || c == '"' || c == '\\' || c == '<' || c == '&')) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
            out += escaped;
        } else {
            out += text.substr(i, n);
        }
        i += n ? n : 1;
    }
    return out + "\"";
}

std::string page_data(const Report &report, int field)
{
    std::string complaints;
    for (const std::string &text : report.complaints) {
        complaints += (complaints.empty() ? "" : ",") + json_string(text);
    }
    return "{\"diff\":" + std::string(report.is_diff ? "true" : "false") +
           ",\"chosen\":" + std::to_string(field) + ",\"after\":" + facts(report.after) +
           (report.is_diff ? ",\"before\":" + facts(report.before) : "") + ",\"fields\":[" +
           fields(report.after) + "],\n\"points\":[" + points(report.after) +
           "],\n\"complaints\":[" + complaints + "],\n\"frames\":[" + frames(report) +
           "],\n\"stacks\":[" + stacks(report) + "]}";
}

void write_page(const Report &report, int field, std::ostream &out)
{
    std::string program = report.after.program;
    std::string name =
        program.substr(program.rfind('/') == std::string::npos ? 0 : program.rfind('/') + 1);
    std::string title =
        html_text((report.is_diff ? "Two heap profiles of " : "Heap profile of ") + name);
    out << "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
           "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>"
        << title << "</title>\n<style>\n"
        << page_css << "</style>\n</head>\n<body>\n<header><h1>" << title
        << "</h1><button id=\"theme\" type=\"button\">light / dark</button></header>\n"
        << page_html << "<script type=\"application/json\" id=\"data\">" << page_data(report, field)
        << "</script>\n<script type=\"text/plain\" id=\"licenses\">\n"
        << bundle_licenses << "</script>\n<script>\n"
        << bundle_min_js << "</script>\n<script>\n"
        << page_js << "</script>\n</body>\n</html>\n";
}

} // namespace hakmem::report
