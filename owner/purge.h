/* Purging pages of slabs in use: those that hold free blocks only.

   The system is asked without any lock: the slab is away from its owner (bank.h), and
   comes back when the pages have gone. One slab is away for each thread that purges. Its free
   blocks are missing to its owner for so long; lookups, walks and frees see no difference. A page
   is asked for once until blocks are taken from its slab, whether the system purged it or refused
   (as it does for memory that is locked): so what is refused costs no call again and again.
 */
#ifndef HAKMEM_OWNER_PURGE_H
#define HAKMEM_OWNER_PURGE_H

#include "base/internal.h"

#include "owner/owner.h"

HAK_EXTERN_C_BEGIN

/* Purges such pages of the slab at `start`, if there is one. `tick`: only if no block was taken
   from it or came back since an earlier tick; 0: at once. Returns bytes. *whose: the owner to whom
   the slab has come back, else NULL. No lock held; inside the gate from beginning to end, so that
   no forked child finds a slab away (a fork in a signal handler excepted: there it stays away if
   its purger was another thread, and its blocks can be used and freed). */
size_t hak_owner_purge_slab(char *start, uint16_t tick, struct owner **whose);

HAK_EXTERN_C_END

#endif
