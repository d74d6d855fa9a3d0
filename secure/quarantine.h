/* Where the containers of freed large blocks wait: in the quarantine, then ready for the next
   block, or stuck where the system refused to make them touchable again. Theirs are the records
   (large_internal.h), whose lock is held where it says so. */
#ifndef HAKMEM_SECURE_QUARANTINE_H
#define HAKMEM_SECURE_QUARANTINE_H

#include "base/internal.h"

#include <stddef.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct large;

/* A freed and sealed block goes into the quarantine; what leaves it becomes ready or goes back.
   Inside the gate, no lock held. */
void hak_secure_quarantine_take(struct large *large);
/* A ready container of at least so many bytes, which is the caller's; NULL if there is none. Any
   thread; no lock held. */
struct large *hak_secure_quarantine_ready(size_t bytes);
/* The container goes back to the plain functions. Inside the gate, no lock held. */
void hak_secure_quarantine_give_back(struct large *large);
/* It becomes touchable, all of it, and has no pages. Returns 0 or an errno value. */
HAK_MUST_CHECK int hak_secure_quarantine_open(struct large *large);
/* It is freed, and no list has it: it is tried again later. Inside the gate, no lock held. */
void hak_secure_quarantine_stick(struct large *large);
/* The same while the gate is closed. */
void hak_secure_quarantine_stick_later(struct large *large);
/* All that waits goes back. Returns whether there was some. Inside the gate, no lock held. */
int hak_secure_quarantine_flush(void);
int hak_secure_quarantine_is_stuck(void);
/* Whether a flush would find anything. */
int hak_secure_quarantine_is_any(void);
/* Whether what waits is freed and known, and its bytes are counted. The lock is held. */
int hak_secure_quarantine_verify(void);

HAK_EXTERN_C_END

#endif
