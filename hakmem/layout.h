/* Where the allocator's numbers lie in a process, for who reads its memory from outside: a
   debugger, or the `hakmem` command (ask/README.md).

   There is one struct hak_layout a copy of hakmem, in its writable data, complete before the
   process starts and never written to. It is found by its magic number at a multiple of 64 that is
   followed by its own address: so neither a file's bytes nor a copy look like one, and a stripped,
   static program has one too. What it points to is never unmapped. Offsets are those of the variant
   that was built, so that one reader reads all. `version` changes with the meaning of a field. */
#ifndef HAKMEM_HAKMEM_LAYOUT_H
#define HAKMEM_HAKMEM_LAYOUT_H

#include "base/internal.h"

#include "ace/control.h"
#include "base/numbered.h"
#include "base/stats.h"
#include "owner/owner.h"

HAK_EXTERN_C_BEGIN

#define LAYOUT_VERSION 2u
#define LAYOUT_ALIGN   64u
#define LAYOUT_MAGIC   "\177hakmem-layout\n" /* 16 bytes with its NUL */

struct hak_layout {
    char magic[16];
    const struct hak_layout *self;
    uint32_t version, bytes; /* LAYOUT_VERSION, sizeof(struct hak_layout) */
    char release[16], variant[24];

    const struct hak_stats *stats; /* n_stats numbers, in stats.def's order */
    const struct numbered *superslabs;
    const struct hak_owner_table *owners;
    const struct control *control;
    const uint32_t *theap_epoch;
    const size_t *meta_bytes;
    const uint64_t *limit_soft, *limit_hard, *limit_cgroup; /* limit.h */

    uint32_t n_stats, n_classes, owner_most, control_bytes;
    uint32_t outbox_slots, owner_id_words;
    /* Offsets and sizes. */
    uint32_t numbered_n, owners_ids, owners_n_words;
    uint32_t superslab_bytes, superslab_base, superslab_slabs, superslab_mask;
    uint32_t slab_bytes, slab_owner, slab_size, slab_capacity, slab_n_free, slab_class;
    uint32_t owner_inbox_bytes, owner_state, owner_kind, owner_is_live, owner_n_slabs;
    uint32_t theap_owner, theap_bins, theap_limits, theap_spares, theap_outbox, theap_depot_blocks;
    uint32_t theap_metered, theap_has_metered;
    uint32_t bin_bytes, bin_room, spare_bytes, spare_count;
    uint32_t outbox_bytes, outbox_tag, outbox_count;
};

extern struct hak_layout hak_layout HAK_HIDDEN;

HAK_EXTERN_C_END

#endif
