// What GCC and clang compile, and then what the program itself prints under each allocator: headers
// with many templates, and some instantiations of each.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Shape {
    std::map<std::string, std::vector<int>> rows;
    std::unordered_map<int, std::shared_ptr<std::string>> names;
    std::variant<int, double, std::string> value{N};

    void fill(int n)
    {
        for (int i = 0; i < n; i++) {
            rows[std::to_string(i * (N + 7919) % 1009)].push_back(i);
            names[i] = std::make_shared<std::string>(static_cast<size_t>(i % 90), 'a' + N % 26);
        }
    }

    size_t sum() const
    {
        size_t total = std::visit([](const auto &v) { return sizeof v; }, value);
        for (const auto &[name, list] : rows)
            total += name.size() * list.size();
        return std::accumulate(names.begin(), names.end(), total,
                               [](size_t t, const auto &p) { return t + p.second->size(); });
    }
};

template <int N> size_t shapes(int n)
{
    Shape<N> shape;
    shape.fill(n);
    if constexpr (N > 0)
        return shape.sum() + shapes<N - 1>(n);
    else
        return shape.sum();
}

int main()
{
    std::regex word("([a-z]+)-([0-9]+)");
    std::ostringstream text;
    for (int i = 0; i < 500; i++)
        text << "word-" << i << ' ';
    std::string all = text.str();
    size_t found = static_cast<size_t>(
        std::distance(std::sregex_iterator(all.begin(), all.end(), word), std::sregex_iterator()));
    std::cout << found << ' ' << shapes<3>(8000) << std::endl;
}
