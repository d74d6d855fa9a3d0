// The part of elfutils' libdw that names need, loaded when the program runs: nothing but a compiler
// is needed to build it. Types and functions have the names of libdw.so.1; symbols_test compares
// them with its header where that is installed.
#ifndef HAK_REPORT_LIBDW_H_
#define HAK_REPORT_LIBDW_H_

#include <cstddef>
#include <cstdint>

namespace hakmem::report::libdw
{

struct Dwfl;
struct Dwfl_Module;
struct Dwfl_Line;
struct Dwarf_CU;
struct Dwarf_Abbrev;
struct Dwarf_Files;
struct Elf;

using Dwarf_Addr = uint64_t;
using Dwarf_Word = uint64_t;

struct Dwarf_Attribute {
    unsigned code, form;
    unsigned char *valp;
    Dwarf_CU *cu;
};

struct Dwarf_Die {
    void *addr;
    Dwarf_CU *cu;
    Dwarf_Abbrev *abbrev;
    long padding;
};

// Elf64_Sym; what is in it is not read.
struct GElf_Sym {
    uint32_t name;
    unsigned char info, other;
    uint16_t section;
    uint64_t value, size;
};

// Its callbacks are libdw's own: void * stands for them.
struct Dwfl_Callbacks {
    void *find_elf, *find_debuginfo, *section_address;
    char **debuginfo_path;
};

// DWARF's numbers.
enum : unsigned {
    DW_TAG_class_type = 0x02,
    DW_TAG_structure_type = 0x13,
    DW_TAG_inlined_subroutine = 0x1d,
    DW_TAG_subprogram = 0x2e,
    DW_TAG_namespace = 0x39,
    DW_AT_abstract_origin = 0x31,
    DW_AT_specification = 0x47,
    DW_AT_call_file = 0x58,
    DW_AT_call_line = 0x59,
    DW_AT_linkage_name = 0x6e,
    DW_AT_MIPS_linkage_name = 0x2007
};

// FUNCTION(result, name, (arguments))
#define HAKMEM_LIBDW_FUNCTIONS(FUNCTION)                                                           \
    FUNCTION(Dwfl *, dwfl_begin, (const Dwfl_Callbacks *))                                         \
    FUNCTION(void, dwfl_end, (Dwfl *))                                                             \
    FUNCTION(const char *, dwfl_errmsg, (int))                                                     \
    FUNCTION(Dwfl_Module *, dwfl_report_offline, (Dwfl *, const char *, const char *, int))        \
    FUNCTION(int, dwfl_module_build_id, (Dwfl_Module *, const unsigned char **, Dwarf_Addr *))     \
    FUNCTION(Elf *, dwfl_module_getelf, (Dwfl_Module *, Dwarf_Addr *))                             \
    FUNCTION(                                                                                      \
        const char *, dwfl_module_addrinfo,                                                        \
        (Dwfl_Module *, Dwarf_Addr, Dwarf_Addr *, GElf_Sym *, uint32_t *, Elf **, Dwarf_Addr *))   \
    FUNCTION(Dwarf_Die *, dwfl_module_addrdie, (Dwfl_Module *, Dwarf_Addr, Dwarf_Addr *))          \
    FUNCTION(Dwfl_Line *, dwfl_module_getsrc, (Dwfl_Module *, Dwarf_Addr))                         \
    FUNCTION(const char *, dwfl_lineinfo,                                                          \
             (Dwfl_Line *, Dwarf_Addr *, int *, int *, Dwarf_Word *, Dwarf_Word *))                \
    FUNCTION(Dwarf_Attribute *, dwarf_attr, (Dwarf_Die *, unsigned, Dwarf_Attribute *))            \
    FUNCTION(Dwarf_Attribute *, dwarf_attr_integrate, (Dwarf_Die *, unsigned, Dwarf_Attribute *))  \
    FUNCTION(const char *, dwarf_formstring, (Dwarf_Attribute *))                                  \
    FUNCTION(int, dwarf_formudata, (Dwarf_Attribute *, Dwarf_Word *))                              \
    FUNCTION(Dwarf_Die *, dwarf_formref_die, (Dwarf_Attribute *, Dwarf_Die *))                     \
    FUNCTION(const char *, dwarf_diename, (Dwarf_Die *))                                           \
    FUNCTION(int, dwarf_tag, (Dwarf_Die *))                                                        \
    FUNCTION(int, dwarf_getscopes, (Dwarf_Die *, Dwarf_Addr, Dwarf_Die **))                        \
    FUNCTION(int, dwarf_getscopes_die, (Dwarf_Die *, Dwarf_Die **))                                \
    FUNCTION(Dwarf_Die *, dwarf_diecu, (Dwarf_Die *, Dwarf_Die *, uint8_t *, uint8_t *))           \
    FUNCTION(int, dwarf_getsrcfiles, (Dwarf_Die *, Dwarf_Files **, size_t *))                      \
    FUNCTION(const char *, dwarf_filesrc, (Dwarf_Files *, size_t, Dwarf_Word *, Dwarf_Word *))

// The functions, each a pointer under its name; null before load().
#define HAKMEM_LIBDW_DECLARE(result, name, arguments) extern result(*name) arguments;
HAKMEM_LIBDW_FUNCTIONS(HAKMEM_LIBDW_DECLARE)
#undef HAKMEM_LIBDW_DECLARE

// How files and their debug information are found: libdw's ways. Valid after load().
extern Dwfl_Callbacks callbacks;

// Loads the library; 0 without it, or if a function is missing. The file is HAK_REPORT_LIBDW
// where that is set.
int load();

} // namespace hakmem::report::libdw

#endif
