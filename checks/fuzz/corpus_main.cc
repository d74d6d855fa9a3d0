/* corpus_main CORPUS.tar N [SEED]: runs every input of a corpus, then N inputs of random bytes; or,
   with one argument only, a single input as libFuzzer leaves it. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "checks/fuzz/api_fuzz.h"
#include "testing/rng.h"

namespace
{

using Bytes = std::vector<uint8_t>;

Bytes read_file(const char *path)
{
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        fprintf(stderr, "corpus_main: cannot read %s\n", path);
        exit(2);
    }
    return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

/* The inputs of a tar archive: short ones first, then by name. */
std::vector<Bytes> unpack(const char *archive)
{
    namespace fs = std::filesystem;
    std::string folder = fs::temp_directory_path() / "corpus_XXXXXX";
    if (!fs::exists(archive) || mkdtemp(folder.data()) == nullptr) {
        fprintf(stderr, "corpus_main: cannot unpack %s\n", archive);
        exit(2);
    }
    setenv("CORPUS", archive, 1);
    setenv("FOLDER", folder.c_str(), 1);
    if (system("tar -xf \"$CORPUS\" -C \"$FOLDER\"") != 0) {
        fs::remove_all(folder);
        fprintf(stderr, "corpus_main: tar cannot unpack %s\n", archive);
        exit(2);
    }
    std::vector<std::pair<size_t, std::string>> files;
    for (const fs::directory_entry &entry : fs::directory_iterator(folder)) {
        files.emplace_back(entry.file_size(), entry.path());
    }
    std::sort(files.begin(), files.end());
    std::vector<Bytes> inputs;
    for (const auto &file : files) {
        inputs.push_back(read_file(file.second.c_str()));
    }
    fs::remove_all(folder);
    return inputs;
}

Bytes random_input(uint64_t seed)
{
    hak_testing::Rng rng(seed);
    Bytes bytes(rng.below(600));
    for (uint8_t &byte : bytes) {
        byte = static_cast<uint8_t>(rng.next());
    }
    return bytes;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc == 2) {
        Bytes bytes = read_file(argv[1]);
        printf("%zu operations\n", hak_fuzz::run_api(bytes.data(), bytes.size()));
        return 0;
    }
    if (argc < 3) {
        fprintf(stderr, "usage: corpus_main CORPUS.tar N [SEED] | corpus_main INPUT\n");
        return 2;
    }
    std::vector<Bytes> inputs = unpack(argv[1]);
    uint64_t n = strtoull(argv[2], nullptr, 10),
             seed = argc > 3 ? strtoull(argv[3], nullptr, 10) : 1;
    size_t n_corpus = inputs.size(), n_steps = 0;
    for (uint64_t i = 0; i < n_corpus + n; i++) {
        /* What runs is named first: a failure aborts. */
        Bytes bytes = i < n_corpus ? inputs[i] : random_input(seed + i - n_corpus);
        fprintf(stderr, "\r%s %llu ", i < n_corpus ? "input" : "seed",
                static_cast<unsigned long long>(i < n_corpus ? i : seed + i - n_corpus));
        n_steps += hak_fuzz::run_api(bytes.data(), bytes.size());
    }
    fprintf(stderr, "\n");
    printf("%zu inputs of the corpus and %llu random ones, %zu operations\n", n_corpus,
           static_cast<unsigned long long>(n), n_steps);
    if ((hak_options.guard || hak_options.guard_bytes) && !hak_stat_get(guard_samples)) {
        fprintf(stderr, "corpus_main: nothing was guarded\n");
        return 1;
    }
    return n_corpus && n_steps ? 0 : 1;
}
