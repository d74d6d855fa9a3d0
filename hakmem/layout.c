/* The one struct hak_layout. Read by other processes alone. */
#include "hakmem/layout.h"

#include "ace/adapt.h"
#include "base/os.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "limit/limit.h"
#include "superslab/pool.h"

HAK_STATIC_ASSERT(sizeof LAYOUT_MAGIC == 16, "the magic number's field");
HAK_STATIC_ASSERT(sizeof HAKMEM_VERSION <= 16 && sizeof HAKMEM_VARIANT <= 24, "fields of texts");

/* Writable, so that it is in the process's own pages, which core files have. What runs when the
   process ends (show_stats.c) refers to it, and so a linker that drops what is not used keeps it.
 */
HAK_HIDDEN struct hak_layout hak_layout __attribute__((used, aligned(LAYOUT_ALIGN))) = {
    .magic = LAYOUT_MAGIC,
    .self = &hak_layout,
    .version = LAYOUT_VERSION,
    .bytes = sizeof(struct hak_layout),
    .release = HAKMEM_VERSION,
    .variant = HAKMEM_VARIANT,

    .stats = &hak_stats,
    .superslabs = &hak_pool_superslabs,
    .owners = &hak_owner_table,
    .control = &hak_adapt_control,
    .theap_epoch = &hak_theap_epoch,
    .meta_bytes = &hak_os_meta_mapped,
    .limit_soft = &hak_limit_soft_set,
    .limit_hard = &hak_limit_hard_set,
    .limit_cgroup = &hak_limit_cgroup,

    .n_stats = sizeof(struct hak_stats) / sizeof(int64_t),
    .n_classes = SC_N_CLASSES,
    .owner_most = OWNER_MAX,
    .control_bytes = sizeof(struct control),
    .outbox_slots = OUTBOX_SLOTS,
    .owner_id_words = OWNER_ID_WORDS,

    .numbered_n = offsetof(struct numbered, n),
    .owners_ids = offsetof(struct hak_owner_table, ids),
    .owners_n_words = offsetof(struct hak_owner_table, n_id_words),
    .superslab_bytes = sizeof(struct superslab),
    .superslab_base = offsetof(struct superslab, base),
    .superslab_slabs = offsetof(struct superslab, slabs),
    .superslab_mask = offsetof(struct superslab, slab_mask),
    .slab_bytes = sizeof(struct slab),
    .slab_owner = offsetof(struct slab, owner),
    .slab_size = offsetof(struct slab, size),
    .slab_capacity = offsetof(struct slab, capacity),
    .slab_n_free = offsetof(struct slab, n_free),
    .slab_class = offsetof(struct slab, size_class),
    .owner_inbox_bytes = offsetof(struct owner, inbox_bytes),
    .owner_state = offsetof(struct owner, state),
    .owner_kind = offsetof(struct owner, kind),
    .owner_is_live = offsetof(struct owner, is_live),
    .owner_n_slabs = offsetof(struct owner, bank.n_slabs),
    .theap_owner = offsetof(struct theap, owner),
    .theap_bins = offsetof(struct theap, bins),
    .theap_limits = offsetof(struct theap, limits),
    .theap_spares = offsetof(struct theap, spares),
    .theap_outbox = offsetof(struct theap, outbox),
    .theap_depot_blocks = offsetof(struct theap, depot_blocks),
    .theap_metered = offsetof(struct theap, metered),
    .theap_has_metered = offsetof(struct theap, has_metered),
    .bin_bytes = sizeof(struct bin),
    .bin_room = offsetof(struct bin, room),
    .spare_bytes = sizeof(struct spare),
    .spare_count = offsetof(struct spare, count),
    .outbox_bytes = sizeof(struct outbox_slot),
    .outbox_tag = offsetof(struct outbox_slot, tag),
    .outbox_count = offsetof(struct outbox_slot, count),
};
