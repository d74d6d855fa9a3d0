/* What a raw profile says (docs/profile.md), for tests. */
#ifndef HAKMEM_TESTING_RAW_PROFILE_H
#define HAKMEM_TESTING_RAW_PROFILE_H

#include <algorithm>
#include <cstdint>
#include <gtest/gtest.h>
#include <map>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace hak_testing
{

struct Row {
    std::map<std::string, uint64_t> numbers;
    std::vector<uintptr_t> stack;
    std::string tid;
};

struct Profile {
    std::map<std::string, std::string> head;
    std::vector<Row> rows;
    std::vector<std::string> maps, points;
    bool is_whole = false;
};

inline Profile parse(const std::string &text)
{
    Profile profile;
    std::istringstream lines(text);
    std::string line;
    std::vector<std::string> fields;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string word, field;
        words >> word;
        if (word == "fields") {
            while (words >> field) {
                fields.push_back(field);
            }
        } else if (word == "stack") {
            Row row;
            for (const std::string &name : fields) {
                words >> row.numbers[name];
            }
            while (words >> field && field != ":") {
                row.tid = field;
            }
            while (words >> field) {
                row.stack.push_back(std::stoull(field, nullptr, 16));
            }
            profile.rows.push_back(row);
        } else if (word == "map") {
            profile.maps.push_back(line);
        } else if (word == "point") {
            profile.points.push_back(line);
        } else if (word == "end") {
            profile.is_whole = true;
        } else {
            profile.head[word] = line.substr(std::min(line.size(), word.size() + 1));
        }
    }
    return profile;
}
/* What `write` writes. */
inline Profile written(int (*write)(int fd))
{
    int fd = memfd_create("profile", 0);
    EXPECT_EQ(write(fd), 0);
    std::string text(size_t(lseek(fd, 0, SEEK_END)), 0);
    EXPECT_EQ(pread(fd, &text[0], text.size(), 0), ssize_t(text.size()));
    close(fd);
    return parse(text);
}

inline uint64_t total(const Profile &profile, const char *field)
{
    uint64_t sum = 0;
    for (const Row &row : profile.rows) {
        sum += row.numbers.at(field);
    }
    return sum;
}
} // namespace hak_testing

#endif
