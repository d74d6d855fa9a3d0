// Looks addresses up by libdwfl, which also finds separate debug files. No locks, no threads.
//
// Addresses of a stack are return addresses: the call lies before them, so what is looked up is the
// address less one.
#include "report/symbols.h"

#include <cxxabi.h>
#include <elf.h>

#include <fstream>
#include <map>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "report/libdw.h"

namespace hakmem::report
{

using namespace libdw;

namespace
{

std::string hex(uint64_t value)
{
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

std::string base_name(const std::string &path)
{
    size_t slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::string build_id_of(Dwfl_Module *module)
{
    const unsigned char *bits = nullptr;
    Dwarf_Addr address;
    int n = dwfl_module_build_id(module, &bits, &address);
    std::string out;
    for (int i = 0; i < n; i++) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", bits[i]);
        out += two;
    }
    return out;
}

bool begins(const std::string &text, const char *with)
{
    return text.compare(0, std::strlen(with), with) == 0;
}

const char *linkage_name(Dwarf_Die *die)
{
    Dwarf_Attribute attribute;
    Dwarf_Attribute *found = dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute);
    if (!found) {
        found = dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attribute);
    }
    return found ? dwarf_formstring(found) : nullptr;
}

// Where the function is declared: in its class or namespace.
Dwarf_Die declaration_of(Dwarf_Die die)
{
    for (unsigned name : {DW_AT_abstract_origin, DW_AT_specification}) {
        Dwarf_Attribute attribute;
        Dwarf_Die origin;
        if (dwarf_attr(&die, name, &attribute) && dwarf_formref_die(&attribute, &origin)) {
            die = origin;
        }
    }
    return die;
}

// The name with its classes and namespaces. Functions that no other file can see have no linkage
// name in DWARF.
std::string name_of(Dwarf_Die *die)
{
    const char *name = linkage_name(die);
    if (name) {
        return demangle(name);
    }
    Dwarf_Die declaration = declaration_of(*die), *scopes = nullptr;
    const char *plain = dwarf_diename(die);
    std::string out = plain ? plain : "";
    int n = plain ? dwarf_getscopes_die(&declaration, &scopes) : 0;
    for (int i = 1; i < n; i++) {
        unsigned tag = static_cast<unsigned>(dwarf_tag(&scopes[i]));
        const char *outer = dwarf_diename(&scopes[i]);
        if (tag == DW_TAG_namespace) {
            out = std::string(outer ? outer : "(anonymous namespace)") + "::" + out;
        } else if (outer && (tag == DW_TAG_class_type || tag == DW_TAG_structure_type)) {
            out = std::string(outer) + "::" + out;
        }
    }
    std::free(scopes);
    return out;
}

// The segments that are loaded; empty if the file is no ELF file of 64 bits.
std::vector<Elf64_Phdr> segments_of(const std::string &path)
{
    std::ifstream file(path, std::ios::binary);
    Elf64_Ehdr header = {};
    std::vector<Elf64_Phdr> found;
    file.read(reinterpret_cast<char *>(&header), sizeof header);
    for (unsigned i = 0; file && i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        file.seekg(static_cast<std::streamoff>(header.e_phoff + i * sizeof segment));
        file.read(reinterpret_cast<char *>(&segment), sizeof segment);
        if (file && segment.p_type == PT_LOAD) {
            found.push_back(segment);
        }
    }
    return found;
}

} // namespace

// std::string, as people write it.
static void shorten(std::string *name)
{
    static const std::string whole =
        "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >";
    for (size_t at = 0; (at = name->find(whole, at)) != std::string::npos;) {
        name->replace(at, whole.size(), "std::string");
    }
}

std::string demangle(const char *name)
{
    int status;
    std::string plain(name, std::strcspn(name, "@")); // less the version of the symbol
    char *made = begins(plain, "_Z") ? abi::__cxa_demangle(plain.c_str(), nullptr, nullptr, &status)
                                     : nullptr;
    std::string out = made ? made : plain;
    std::free(made);
    shorten(&out);
    return out;
}

static bool is_library_module(const std::string &module)
{
    static const char *const names[] = {"libc.so",   "libc-",    "libstdc++.so", "libc++.so",
                                        "libhakmem", "ld-linux", "libpthread"};
    std::string name = base_name(module);
    for (const char *one : names) {
        if (begins(name, one)) {
            return true;
        }
    }
    return false;
}

// zmalloc, xstrdup, g_malloc0, PyObject_Malloc: functions that ask malloc for their caller. The
// name counts, not the arguments' types.
static bool is_wrapper(const std::string &function)
{
    static const char *const words[] = {"malloc", "calloc",  "realloc",
                                        "strdup", "strndup", "memdup"};
    std::string name = function.substr(0, function.find('('));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const char *word : words) {
        if (name.find(word) != std::string::npos) {
            return true;
        }
    }
    return false;
}

bool is_library_code(const Frame &frame)
{
    // Its templates are compiled into the program: `std::vector<int>::push_back`, with a return
    // type before it where the name of a function template has one.
    static const char *const names[] = {"std::",      "__gnu_cxx::", "operator new",
                                        "void std::", "void* std::", "bool std::"};
    for (const char *one : names) {
        if (begins(frame.function, one)) {
            return true;
        }
    }
    return begins(frame.file, "/usr/include/") || is_library_module(frame.module) ||
           is_wrapper(frame.function);
}

struct Symbols::Impl {
    struct Module {
        Dwfl_Module *module = nullptr; // null if it cannot be used
        std::vector<Elf64_Phdr> segments;
    };
    bool has_libdw = load() != 0;
    Dwfl *dwfl = has_libdw ? dwfl_begin(&callbacks) : nullptr;
    std::map<std::string, Module> modules; // by path and build ID: two profiles may have two builds
    std::map<std::string, std::vector<Frame>> known;
    std::vector<std::string> complaints;

    ~Impl()
    {
        if (dwfl) {
            dwfl_end(dwfl);
        }
    }

    Dwfl_Module *open(const Mapping &mapping);
    const Module &module_of(const Mapping &mapping);
    static bool to_module(const Module &module, uint64_t offset, Dwarf_Addr *address);
    void inlined(Dwfl_Module *module, Dwarf_Addr address, std::vector<Frame> *out);
    std::vector<Frame> look_up(const Mapping &mapping, uint64_t offset);
};

Dwfl_Module *Symbols::Impl::open(const Mapping &mapping)
{
    if (mapping.path.empty() || mapping.path[0] != '/') {
        return nullptr; // [vdso], or memory that the program made code in
    }
    if (!dwfl) {
        if (complaints.empty()) {
            complaints.push_back("libdw.so.1 is not installed (Debian: libdw1)");
        }
        return nullptr;
    }
    // The name is what Dwfl tells modules apart by.
    std::string name = mapping.path + " " + mapping.build_id;
    Dwfl_Module *module = dwfl_report_offline(dwfl, name.c_str(), mapping.path.c_str(), -1);
    if (!module) {
        complaints.push_back(mapping.path + ": " + dwfl_errmsg(-1));
        return nullptr;
    }
    std::string found = build_id_of(module);
    if (!mapping.build_id.empty() && found != mapping.build_id) {
        complaints.push_back(mapping.path +
                             ": another build than the profile's: its names are not used");
        return nullptr;
    }
    return module;
}

const Symbols::Impl::Module &Symbols::Impl::module_of(const Mapping &mapping)
{
    auto [at, is_new] = modules.emplace(mapping.path + " " + mapping.build_id, Module());
    if (is_new) {
        at->second.module = open(mapping);
        at->second.segments = segments_of(mapping.path);
    }
    return at->second;
}

// An offset in the file -> the address that Dwfl has given to that place.
bool Symbols::Impl::to_module(const Module &module, uint64_t offset, Dwarf_Addr *address)
{
    Dwarf_Addr bias = 0;
    if (!module.module || !dwfl_module_getelf(module.module, &bias)) {
        return false;
    }
    for (const Elf64_Phdr &segment : module.segments) {
        if (offset >= segment.p_offset && offset - segment.p_offset < segment.p_filesz) {
            *address = offset - segment.p_offset + segment.p_vaddr + bias;
            return true;
        }
    }
    return false;
}

// Adds a frame for each call that was inlined at the address, innermost first, and leaves in *out's
// last frame the function that has code of its own. Nothing without DWARF.
void Symbols::Impl::inlined(Dwfl_Module *module, Dwarf_Addr address, std::vector<Frame> *out)
{
    Dwarf_Addr bias = 0;
    Dwarf_Die *unit = dwfl_module_addrdie(module, address, &bias);
    Dwarf_Die *scopes = nullptr, *outer = nullptr;
    int n = unit ? dwarf_getscopes(unit, address - bias, &scopes) : 0;
    int n_outer = n > 0 ? dwarf_getscopes_die(&scopes[0], &outer) : 0;
    Dwarf_Files *files = nullptr;
    size_t n_files = 0;
    if (unit) {
        Dwarf_Die cu;
        dwarf_diecu(unit, &cu, nullptr, nullptr);
        dwarf_getsrcfiles(&cu, &files, &n_files);
    }
    for (int i = 0; i < n_outer; i++) {
        unsigned tag = static_cast<unsigned>(dwarf_tag(&outer[i]));
        if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_subprogram) {
            continue;
        }
        std::string name = name_of(&outer[i]);
        if (!name.empty()) {
            out->back().function = name;
        }
        if (tag == DW_TAG_subprogram) {
            break;
        }
        out->back().inlined = true;
        Frame caller;
        Dwarf_Attribute attribute;
        Dwarf_Word file = 0, line = 0;
        if (dwarf_formudata(dwarf_attr(&outer[i], DW_AT_call_file, &attribute), &file) == 0 &&
            files && file < n_files) {
            const char *path = dwarf_filesrc(files, file, nullptr, nullptr);
            caller.file = path ? path : "";
        }
        if (dwarf_formudata(dwarf_attr(&outer[i], DW_AT_call_line, &attribute), &line) == 0) {
            caller.line = static_cast<int>(line);
        }
        caller.module = out->back().module;
        out->push_back(caller);
    }
    std::free(scopes);
    std::free(outer);
}

std::vector<Frame> Symbols::Impl::look_up(const Mapping &mapping, uint64_t offset)
{
    const Module &found = module_of(mapping);
    Dwfl_Module *module = found.module;
    Dwarf_Addr address = 0;
    std::vector<Frame> out(1);
    out[0].module = mapping.path;
    out[0].function = base_name(mapping.path) + "+" + hex(offset);
    if (to_module(found, offset, &address)) {
        Dwarf_Addr within;
        GElf_Sym symbol;
        const char *name =
            dwfl_module_addrinfo(module, address, &within, &symbol, nullptr, nullptr, nullptr);
        std::string plain = name ? demangle(name) : out[0].function;
        int line = 0;
        Dwfl_Line *source = dwfl_module_getsrc(module, address);
        const char *file =
            source ? dwfl_lineinfo(source, nullptr, &line, nullptr, nullptr, nullptr) : nullptr;
        out[0].file = file ? file : "";
        out[0].line = file ? line : 0;
        inlined(module, address, &out);
        // The symbol table has the linkage name of C++, where DWARF may have the short one alone.
        out.back().function = plain;
    }
    for (Frame &frame : out) {
        frame.is_library = is_library_code(frame);
    }
    return out;
}

Symbols::Symbols() : impl_(new Impl)
{
}

Symbols::~Symbols() = default;

std::vector<Frame> Symbols::frames(const Profile &profile, uint64_t return_address)
{
    uint64_t address = return_address - 1;
    for (const Mapping &mapping : profile.mappings) {
        if (address >= mapping.start && address < mapping.end) {
            uint64_t offset = address - mapping.start + mapping.offset;
            std::string key = mapping.path + " " + mapping.build_id + " " + hex(offset);
            auto found = impl_->known.find(key);
            if (found == impl_->known.end()) {
                found = impl_->known.emplace(key, impl_->look_up(mapping, offset)).first;
            }
            return found->second;
        }
    }
    Frame unknown;
    unknown.function = "[unknown]"; // code that the program made itself
    return {unknown};
}

const std::vector<std::string> &Symbols::complaints() const
{
    return impl_->complaints;
}

} // namespace hakmem::report
