// Names of addresses of this very process.
#include "report/symbols.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "report/libdw.h"
#if __has_include(<elfutils/libdwfl.h>) && __has_include(<dwarf.h>)
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#define HAS_HEADER 1
#endif

namespace hakmem::report
{

// Not static: its name is in the symbol table.
__attribute__((noinline)) uint64_t here_i_am()
{
    return reinterpret_cast<uint64_t>(__builtin_extract_return_addr(__builtin_return_address(0)));
}

__attribute__((noinline)) uint64_t the_caller()
{
    uint64_t address = here_i_am();
    __asm__ volatile("" : "+r"(address));
    return address;
}

namespace
{

// The executable mappings of this process, without build IDs.
Profile self()
{
    Profile profile;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        std::istringstream words(line);
        std::string range, rights, offset, device, inode, path;
        words >> range >> rights >> offset >> device >> inode >> path;
        Mapping mapping;
        mapping.start = std::strtoull(range.c_str(), nullptr, 16);
        mapping.end = std::strtoull(range.c_str() + range.find('-') + 1, nullptr, 16);
        mapping.offset = std::strtoull(offset.c_str(), nullptr, 16);
        mapping.path = path;
        if (rights.find('x') != std::string::npos) {
            profile.mappings.push_back(mapping);
        }
    }
    return profile;
}

TEST(Symbols, FunctionOfThisProgram)
{
    Symbols symbols;
    std::vector<Frame> frames = symbols.frames(self(), the_caller());
    ASSERT_FALSE(frames.empty());
    EXPECT_EQ(frames.back().function, "hakmem::report::the_caller()");
    EXPECT_FALSE(frames.back().is_library);
    EXPECT_TRUE(symbols.complaints().empty());
}

TEST(Symbols, FunctionOfLibc)
{
    Symbols symbols;
    uint64_t address = reinterpret_cast<uint64_t>(&std::abort) + 1;
    std::vector<Frame> frames = symbols.frames(self(), address);
    ASSERT_FALSE(frames.empty());
    EXPECT_EQ(frames.back().function, "abort");
    EXPECT_TRUE(frames.back().is_library);
}

TEST(Symbols, OutsideOfEveryMapping)
{
    Symbols symbols;
    std::vector<Frame> frames = symbols.frames(self(), 0x10);
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(frames[0].function, "[unknown]");
    EXPECT_EQ(symbols.frames(Profile(), 0)[0].function, "[unknown]");
}

TEST(Symbols, AnotherBuildIsNotUsed)
{
    Symbols symbols;
    Profile profile = self();
    for (Mapping &mapping : profile.mappings) {
        mapping.build_id = "00ff";
    }
    std::vector<Frame> frames = symbols.frames(profile, the_caller());
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_NE(frames[0].function.find("symbols_test+0x"), std::string::npos) << frames[0].function;
    (void)symbols.frames(profile, the_caller());
    ASSERT_EQ(symbols.complaints().size(), 1u);
    EXPECT_NE(symbols.complaints()[0].find(": another build than the profile's"),
              std::string::npos);
}

TEST(Symbols, FilesThatAreGoneOrNoElf)
{
    Symbols symbols;
    Profile profile;
    for (const char *path : {"/no/such/file.so", "/proc/self/status", "[vdso]", "//anon"}) {
        uint64_t start = 0x1000 * (profile.mappings.size() + 1);
        Mapping mapping;
        mapping.start = start;
        mapping.end = start + 0x1000;
        mapping.path = path;
        profile.mappings.push_back(mapping);
    }
    EXPECT_EQ(symbols.frames(profile, 0x1011)[0].function, "file.so+0x10");
    EXPECT_EQ(symbols.frames(profile, 0x2011)[0].function, "status+0x10");
    EXPECT_EQ(symbols.frames(profile, 0x3011)[0].function, "[vdso]+0x10");
    EXPECT_EQ(symbols.frames(profile, 0x4011)[0].function, "anon+0x10");
    EXPECT_EQ(symbols.complaints().size(), 3u);
}

TEST(Symbols, WhatIsNotTheProgramsOwnCode)
{
    auto is_library = [](const char *function, const char *file, const char *module) {
        Frame frame;
        frame.function = function;
        frame.file = file;
        frame.module = module;
        return is_library_code(frame);
    };
    for (const char *name :
         {"zmalloc_usable", "xstrdup", "g_malloc0", "PyMem_RawRealloc",
          "operator new(unsigned long)", "std::vector<int>::resize(unsigned long)",
          "void std::vector<int>::f<int>(int)"}) {
        EXPECT_TRUE(is_library(name, "", "/usr/bin/server")) << name;
    }
    EXPECT_TRUE(is_library("f", "/usr/include/c++/12/map", "/usr/bin/server"));
    EXPECT_TRUE(is_library("f", "", "/lib/x86_64-linux-gnu/libc.so.6"));
    for (const char *name :
         {"answer", "Sessions::open(std::string const&)", "use(malloc_state*)"}) {
        EXPECT_FALSE(is_library(name, "server.c", "/usr/bin/server")) << name;
    }
}

TEST(Symbols, Demangling)
{
    EXPECT_EQ(demangle("_ZN1a1bEi"), "a::b(int)");
    EXPECT_EQ(demangle("_Znwm@@GLIBCXX_3.4"), "operator new(unsigned long)");
    EXPECT_EQ(demangle("malloc@GLIBC_2.2.5"), "malloc");
    EXPECT_EQ(demangle("_Zbroken"), "_Zbroken");
    EXPECT_EQ(demangle("_Z1fRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"),
              "f(std::string const&)");
}

TEST(Symbols, WithoutLibdwThereAreNoNamesAndItSaysSo)
{
    setenv("HAK_REPORT_LIBDW", "/no/such/library", 1);
    Symbols symbols;
    unsetenv("HAK_REPORT_LIBDW");
    std::vector<Frame> frames = symbols.frames(self(), the_caller());
    EXPECT_NE(frames[0].function.find("symbols_test+0x"), std::string::npos);
    (void)symbols.frames(self(), reinterpret_cast<uint64_t>(&std::abort) + 1);
    ASSERT_EQ(symbols.complaints().size(), 1u);
    EXPECT_EQ(symbols.complaints()[0], "libdw.so.1 is not installed (Debian: libdw1)");
}

#ifdef HAS_HEADER
TEST(Symbols, InterfaceIsThatOfTheHeader)
{
    EXPECT_EQ(sizeof(libdw::Dwarf_Die), sizeof(::Dwarf_Die));
    EXPECT_EQ(sizeof(libdw::Dwarf_Attribute), sizeof(::Dwarf_Attribute));
    EXPECT_EQ(sizeof(libdw::Dwfl_Callbacks), sizeof(::Dwfl_Callbacks));
    EXPECT_EQ(sizeof(libdw::GElf_Sym), sizeof(::GElf_Sym));
    EXPECT_EQ(offsetof(libdw::Dwfl_Callbacks, debuginfo_path),
              offsetof(::Dwfl_Callbacks, debuginfo_path));
#define SAME(name) EXPECT_EQ(static_cast<int>(libdw::name), static_cast<int>(::name)) << #name
    SAME(DW_TAG_class_type);
    SAME(DW_TAG_structure_type);
    SAME(DW_TAG_inlined_subroutine);
    SAME(DW_TAG_subprogram);
    SAME(DW_TAG_namespace);
    SAME(DW_AT_abstract_origin);
    SAME(DW_AT_specification);
    SAME(DW_AT_call_file);
    SAME(DW_AT_call_line);
    SAME(DW_AT_linkage_name);
    SAME(DW_AT_MIPS_linkage_name);
}
#endif

} // namespace
} // namespace hakmem::report
