/* Blocks of size 0. No locks. Called by layer.c. */
#include "secure/empty.h"

#include <errno.h>

#include "base/os.h"
#include "secure/blame.h"
#include "superslab/map.h"
#include "superslab/superslab.h"

#if HAK_SECURE

/* How many bytes are looked at for one that is free. */
#define EMPTY_SEARCH 256u

char *hak_secure_empty_base;
static uint8_t *states;
static uint32_t next;
static uint32_t is_making, is_refused;

static void make(void)
{
    uint32_t no = 0;
    if (!atomic_cas_strong(&is_making, &no, 1u)) {
        return; /* another thread does; or it was refused */
    }
    states = (uint8_t *)hak_os_map_guarded(EMPTY_BLOCKS);
    const size_t bytes = EMPTY_BLOCKS * SC_MIN_ALIGN;
    uintptr_t place = states ? (uintptr_t)hak_os_reserve(bytes + SS_UNIT_BYTES) : 0;
    char *base = (char *)((place + SS_UNIT_BYTES - 1) & ~(uintptr_t)(SS_UNIT_BYTES - 1));
    if (!base || hak_map_ensure(base, bytes)) {
        base = NULL;
    } else { /* hakmem's, and no block of the plain functions */
        hak_map_set(base, bytes / SS_UNIT_BYTES, TAG_FREE_UNIT, 0);
    }
    atomic_store_relaxed(&is_refused, base ? 0u : 1u);
    atomic_store_release(&hak_secure_empty_base, base);
}

static size_t index_of(const void *p)
{
    return (size_t)((const char *)p - hak_secure_empty_base) / SC_MIN_ALIGN;
}

void *hak_secure_empty_alloc(size_t alignment)
{
    if (HAK_UNLIKELY(!atomic_load_acquire(&hak_secure_empty_base))) {
        make();
        if (!atomic_load_acquire(&hak_secure_empty_base)) {
            return NULL;
        }
    }
    uint32_t step = (uint32_t)(alignment > SC_MIN_ALIGN ? alignment / SC_MIN_ALIGN : 1);
    for (uint32_t n = 0; n < EMPTY_SEARCH; n++) {
        size_t i = (atomic_add_relaxed(&next, step) + step - 1) / step * step % EMPTY_BLOCKS;
        uint8_t none = 0;
        if (atomic_cas_strong(&states[i], &none, (uint8_t)ENTRY_MALLOC)) {
            return hak_secure_empty_base + i * SC_MIN_ALIGN;
        }
    }
    return NULL;
}

static enum entry_family family_of(const void *p, const char *reason, const char *freed)
{
    if ((uintptr_t)p % SC_MIN_ALIGN) {
        hak_secure_blame(reason, p);
    }
    uint8_t state = atomic_load_relaxed(&states[index_of(p)]);
    if (!state) {
        hak_secure_blame(freed, p);
    }
    return (enum entry_family)state;
}

static enum entry_family freed_family(const void *p)
{
    return family_of(p, "invalid pointer freed (not the start of a block)", "block freed twice");
}

void hak_secure_empty_free(void *p)
{
    enum entry_family family = freed_family(p);
    if (family != ENTRY_MALLOC) {
        hak_secure_family_differs(p, family, ENTRY_MALLOC);
    }
    uint8_t used = (uint8_t)ENTRY_MALLOC;
    if (!atomic_cas_strong(&states[index_of(p)], &used, (uint8_t)0)) {
        hak_secure_blame("block freed twice", p);
    }
}

void hak_secure_empty_check(const void *p, enum secure_asker asker)
{
    static const char *const reasons[SECURE_N_ASKERS][2] = {
        {"invalid pointer freed (not the start of a block)", "block freed twice"},
        {"invalid pointer given to malloc_usable_size", "freed block given to malloc_usable_size"},
        {"invalid pointer given to realloc", "freed block given to realloc"},
    };
    (void)family_of(p, reasons[asker][0], reasons[asker][1]);
}

void hak_secure_empty_name(const void *p, enum entry_family family)
{
    atomic_store_relaxed(&states[index_of(p)], (uint8_t)family);
}

void hak_secure_empty_claim(const void *p, const struct entry_claim *claim)
{
    hak_secure_check_claim(p, freed_family(p), 0, claim);
    atomic_store_relaxed(&states[index_of(p)], (uint8_t)claim->next);
}

#endif
