/* Reads .eh_frame_hdr's table, the entry of the address (FDE), what it shares with others (CIE),
   and runs their instructions up to the address. No locks, no state. Called by unwind.c. */
#include "stack/cfi.h"

#include <string.h>

/* Registers of x86-64 by their DWARF numbers. */
enum { REG_FP = 6, REG_SP = 7, REG_RETURN = 16 };
/* Pointer encodings, DW_EH_PE_*. */
enum {
    PE_ABSOLUTE = 0x00,
    PE_ULEB = 0x01,
    PE_U16 = 0x02,
    PE_U32 = 0x03,
    PE_U64 = 0x04,
    PE_SLEB = 0x09,
    PE_S16 = 0x0a,
    PE_S32 = 0x0b,
    PE_S64 = 0x0c,
    PE_FORM = 0x0f,
    PE_FROM_PC = 0x10,
    PE_FROM_HEADER = 0x30,
    PE_BASE = 0x70,
    PE_OMIT = 0xff
};
/* Operators of expressions, DW_OP_*. */
enum { OP_DEREF = 0x06, OP_BREG_FP = 0x70 + REG_FP };
#define STATES_MOST 8u

struct reader {
    const uint8_t *at, *end;
};

static uint64_t read_uint(struct reader *in, size_t n)
{
    uint64_t value = 0;
    if ((size_t)(in->end - in->at) < n) {
        in->at = in->end;
        return 0;
    }
    memcpy(&value, in->at, n);
    in->at += n;
    return value;
}

static uint64_t read_uleb(struct reader *in)
{
    uint64_t value = 0;
    for (unsigned shift = 0; in->at < in->end && shift < 64; shift += 7) {
        uint8_t byte = *in->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            break;
        }
    }
    return value;
}

static int64_t read_sleb(struct reader *in)
{
    uint64_t value = 0;
    for (unsigned shift = 0; in->at < in->end && shift < 64;) {
        uint8_t byte = *in->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
        if (!(byte & 0x80)) {
            if (byte & 0x40 && shift < 64) {
                value |= ~UINT64_C(0) << shift;
            }
            break;
        }
    }
    return (int64_t)value;
}

static int64_t sign_extended(uint64_t value, unsigned bytes)
{
    unsigned shift = 64 - 8 * bytes;
    return (int64_t)(value << shift) >> shift;
}

/* A pointer as `encoding` says, without its indirection. */
static uint64_t read_encoded(struct reader *in, uint8_t encoding)
{
    uint64_t from = (encoding & PE_BASE) == PE_FROM_PC ? (uint64_t)(uintptr_t)in->at : 0;
    switch (encoding & PE_FORM) {
    case PE_ABSOLUTE:
    case PE_U64:
    case PE_S64:
        return from + read_uint(in, 8);
    case PE_ULEB:
        return from + read_uleb(in);
    case PE_SLEB:
        return from + (uint64_t)read_sleb(in);
    case PE_U16:
        return from + read_uint(in, 2);
    case PE_S16:
        return from + (uint64_t)sign_extended(read_uint(in, 2), 2);
    case PE_U32:
        return from + read_uint(in, 4);
    case PE_S32:
        return from + (uint64_t)sign_extended(read_uint(in, 4), 4);
    default:
        in->at = in->end;
        return 0;
    }
}

/* --- the table --- */

/* As every linker makes it: addresses of functions and of their entries, both as 32 bits from the
   header's beginning, in order. */
struct header_row {
    int32_t function, entry;
};

/* The entry that the table names for `pc`, or NULL. */
static const uint8_t *find_entry(const uint8_t *header, uintptr_t pc)
{
    if (header[0] != 1 || header[2] != PE_U32 || header[3] != (PE_FROM_HEADER | PE_S32)) {
        return NULL;
    }
    struct reader in = {header + 4, header + 4 + 16};
    (void)read_encoded(&in, header[1]);
    size_t n = read_uint(&in, 4), low = 0;
    const struct header_row *rows = (const struct header_row *)(const void *)in.at;
    int64_t wanted = (int64_t)(pc - (uintptr_t)header);
    while (n > 1) {
        size_t half = n / 2;
        if (rows[low + half].function <= wanted) {
            low += half;
            n -= half;
        } else {
            n = half;
        }
    }
    return n && rows[low].function <= wanted ? header + rows[low].entry : NULL;
}

/* --- instructions --- */

struct state {
    uint8_t cfa, fp, has_no_caller;
    int64_t cfa_offset, fp_offset, return_offset;
};

/* The instructions that have run hold at `location` and behind it. */
struct machine {
    uint64_t location, pc;
    uint64_t code_align;
    int64_t data_align;
    uint8_t encoding, is_augmented, is_signal, is_unsupported;
    struct state now, first, saved[STATES_MOST];
    unsigned n_saved;
};

static void set_cfa(struct machine *m, uint64_t reg, int64_t offset)
{
    m->now.cfa = reg == REG_SP ? CFI_FROM_SP : reg == REG_FP ? CFI_FROM_FP : CFI_UNSUPPORTED;
    m->now.cfa_offset = offset;
}

static void set_at_cfa(struct machine *m, uint64_t reg, int64_t offset)
{
    if (reg == REG_FP) {
        m->now.fp = CFI_FP_AT_CFA;
        m->now.fp_offset = offset;
    } else if (reg == REG_RETURN) {
        m->now.return_offset = offset;
        m->now.has_no_caller = 0;
    }
}

static void restore(struct machine *m, uint64_t reg)
{
    if (reg == REG_FP) {
        m->now.fp = m->first.fp;
        m->now.fp_offset = m->first.fp_offset;
    } else if (reg == REG_RETURN) {
        m->now.return_offset = m->first.return_offset;
        m->now.has_no_caller = m->first.has_no_caller;
    }
}

/* fp + offset, and with `is_cfa` the word there: what compilers write for a function that aligns
   its stack. Everything else is not understood. */
static void set_by_expression(struct machine *m, struct reader *in, int is_cfa)
{
    uint64_t length = read_uleb(in);
    if (length > (uint64_t)(in->end - in->at)) {
        length = (uint64_t)(in->end - in->at);
    }
    struct reader code = {in->at, in->at + length};
    in->at = code.end;
    int is_from_fp = read_uint(&code, 1) == OP_BREG_FP;
    int64_t offset = read_sleb(&code);
    int is_word = code.at < code.end && read_uint(&code, 1) == OP_DEREF;
    if (!is_from_fp || code.at != code.end || is_word != is_cfa) {
        if (is_cfa) {
            m->now.cfa = CFI_UNSUPPORTED;
        } else {
            m->is_unsupported = 1;
        }
    } else if (is_cfa) {
        m->now.cfa = CFI_AT_FP;
        m->now.cfa_offset = offset;
    } else {
        m->now.fp = CFI_FP_AT_FP;
        m->now.fp_offset = offset;
    }
}

static void skip_block(struct reader *in)
{
    uint64_t length = read_uleb(in);
    in->at = length < (uint64_t)(in->end - in->at) ? in->at + length : in->end;
}

/* An instruction of registers that matter here, or of none. */
static void run_expression(struct machine *m, struct reader *in)
{
    uint64_t reg = read_uleb(in);
    if (reg == REG_FP) {
        set_by_expression(m, in, 0);
        return;
    }
    m->is_unsupported |= reg == REG_RETURN;
    skip_block(in);
}

static void run_elsewhere(struct machine *m, uint64_t reg)
{
    m->is_unsupported |= reg == REG_FP || reg == REG_RETURN;
}

static void run_undefined(struct machine *m, uint64_t reg)
{
    if (reg == REG_RETURN) {
        m->now.has_no_caller = 1;
    }
}

static void run_remember(struct machine *m)
{
    if (m->n_saved < STATES_MOST) {
        m->saved[m->n_saved++] = m->now;
    } else {
        m->is_unsupported = 1;
    }
}

static void run_restore_state(struct machine *m)
{
    if (m->n_saved) {
        m->now = m->saved[--m->n_saved];
    }
}

/* Those whose operation is in the lower six bits; DW_CFA_* in the comments. */
static void run_extended(struct machine *m, struct reader *in, uint8_t op)
{
    uint64_t reg;
    switch (op) {
    case 0x00: /* nop */
        break;
    case 0x01: /* set_loc */
        m->location = read_encoded(in, m->encoding);
        break;
    case 0x02: /* advance_loc1, 2, 4 */
        m->location += read_uint(in, 1) * m->code_align;
        break;
    case 0x03:
        m->location += read_uint(in, 2) * m->code_align;
        break;
    case 0x04:
        m->location += read_uint(in, 4) * m->code_align;
        break;
    case 0x05: /* offset_extended */
        reg = read_uleb(in);
        set_at_cfa(m, reg, (int64_t)read_uleb(in) * m->data_align);
        break;
    case 0x06: /* restore_extended */
        restore(m, read_uleb(in));
        break;
    case 0x07: /* undefined */
        run_undefined(m, read_uleb(in));
        break;
    case 0x08: /* same_value */
        if (read_uleb(in) == REG_FP) {
            m->now.fp = CFI_FP_SAME;
        }
        break;
    case 0x09: /* register */
        run_elsewhere(m, read_uleb(in));
        (void)read_uleb(in);
        break;
    case 0x0a: /* remember_state */
        run_remember(m);
        break;
    case 0x0b: /* restore_state */
        run_restore_state(m);
        break;
    case 0x0c: /* def_cfa */
        reg = read_uleb(in);
        set_cfa(m, reg, (int64_t)read_uleb(in));
        break;
    case 0x0d: /* def_cfa_register */
        set_cfa(m, read_uleb(in), m->now.cfa_offset);
        break;
    case 0x0e: /* def_cfa_offset */
        m->now.cfa_offset = (int64_t)read_uleb(in);
        break;
    case 0x0f: /* def_cfa_expression */
        set_by_expression(m, in, 1);
        break;
    case 0x10: /* expression */
        run_expression(m, in);
        break;
    case 0x11: /* offset_extended_sf */
        reg = read_uleb(in);
        set_at_cfa(m, reg, read_sleb(in) * m->data_align);
        break;
    case 0x12: /* def_cfa_sf */
        reg = read_uleb(in);
        set_cfa(m, reg, read_sleb(in) * m->data_align);
        break;
    case 0x13: /* def_cfa_offset_sf */
        m->now.cfa_offset = read_sleb(in) * m->data_align;
        break;
    case 0x14: /* val_offset, val_offset_sf */
    case 0x15:
        run_elsewhere(m, read_uleb(in));
        (void)read_uleb(in);
        break;
    case 0x16: /* val_expression */
        run_elsewhere(m, read_uleb(in));
        skip_block(in);
        break;
    case 0x2e: /* GNU_args_size */
        (void)read_uleb(in);
        break;
    default:
        m->is_unsupported = 1;
    }
}

static void run(struct machine *m, struct reader in)
{
    while (in.at < in.end && m->location <= m->pc && !m->is_unsupported) {
        uint8_t op = *in.at++, low = op & 0x3f;
        switch (op >> 6) {
        case 1: /* advance_loc */
            m->location += low * m->code_align;
            break;
        case 2: /* offset */
            set_at_cfa(m, low, (int64_t)read_uleb(&in) * m->data_align);
            break;
        case 3: /* restore */
            restore(m, low);
            break;
        default:
            run_extended(m, &in, op);
        }
    }
}

/* --- entries --- */

/* The bytes of an entry behind its length; empty where it is the end, or of the long form. */
static struct reader open_entry(const uint8_t *at)
{
    struct reader in = {at, at + 4};
    uint64_t length = read_uint(&in, 4);
    in.end = in.at + (length == 0xffffffff ? 0 : length);
    return in;
}

/* Returns 1 if it is one that this reader understands. */
static int read_shared(struct machine *m, const uint8_t *at, struct reader *code)
{
    struct reader in = open_entry(at);
    if (in.at == in.end || read_uint(&in, 4) != 0) {
        return 0;
    }
    uint64_t version = read_uint(&in, 1);
    const char *augmentation = (const char *)in.at;
    while (read_uint(&in, 1)) {
    }
    m->code_align = read_uleb(&in);
    m->data_align = read_sleb(&in);
    uint64_t return_register = version == 1 ? read_uint(&in, 1) : read_uleb(&in);
    if ((version != 1 && version != 3) || return_register != REG_RETURN ||
        (augmentation[0] && augmentation[0] != 'z')) {
        return 0;
    }
    m->encoding = PE_ABSOLUTE;
    *code = in;
    m->is_augmented = augmentation[0] != 0;
    if (m->is_augmented) {
        uint64_t length = read_uleb(&in);
        code->at = in.at + length;
    }
    for (const char *c = augmentation[0] ? augmentation + 1 : ""; *c; c++) {
        if (*c == 'R') {
            m->encoding = (uint8_t)read_uint(&in, 1);
        } else if (*c == 'P') {
            (void)read_encoded(&in, (uint8_t)read_uint(&in, 1));
        } else if (*c == 'L') {
            (void)read_uint(&in, 1);
        } else if (*c == 'S') {
            m->is_signal = 1;
        } else {
            return 0;
        }
    }
    return 1;
}

/* 1 if the offsets are what a rule has room for, and the return address is below the CFA. */
static int is_plain(const struct state *state)
{
    return state->return_offset == -(int64_t)sizeof(void *) && state->cfa_offset >= -(1 << 23) &&
           state->cfa_offset < 1 << 23 && state->fp_offset >= -(1 << 23) &&
           state->fp_offset < 1 << 23;
}

struct cfi_rule hak_cfi_find(const void *header, uintptr_t pc)
{
    struct cfi_rule rule = {CFI_NONE, CFI_FP_SAME, 0, 0};
    const uint8_t *entry = find_entry((const uint8_t *)header, pc);
    if (!entry) {
        return rule;
    }
    struct machine m;
    memset(&m, 0, sizeof(m));
    struct reader in = open_entry(entry), code;
    const uint8_t *shared = in.at;
    shared -= read_uint(&in, 4);
    rule.cfa = CFI_UNSUPPORTED;
    if (in.at == in.end || !read_shared(&m, shared, &code)) {
        return rule;
    }
    uint64_t begin = read_encoded(&in, m.encoding);
    uint64_t size = read_encoded(&in, m.encoding & PE_FORM);
    if (pc - begin >= size) {
        rule.cfa = CFI_NONE;
        return rule;
    }
    if (m.is_augmented) {
        skip_block(&in);
    }
    m.location = begin;
    m.pc = pc;
    m.now.return_offset = 1;
    run(&m, code);
    m.first = m.now;
    run(&m, in);
    if (m.is_signal) {
        rule.cfa = CFI_SIGNAL;
    } else if (m.now.has_no_caller) {
        rule.cfa = CFI_OUTERMOST;
    } else if (!m.is_unsupported && is_plain(&m.now)) {
        rule = (struct cfi_rule){m.now.cfa, m.now.fp, (int32_t)m.now.cfa_offset,
                                 (int32_t)m.now.fp_offset};
    }
    return rule;
}
