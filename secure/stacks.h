/* Which calls allocated and freed a block: of one block in HAKMEM_SECURE_STACKS, said behind the
   line that ends the process. Off, nothing is there of it but a test in that line.

   A layer over the secure one sees every call. It draws which blocks are sampled, and keeps of each
   the two stacks in a table by the block's address. A record has the place that its address says,
   and stays until another sampled block has the same place, or the address is handed out again:
   STACKS_RECORDS of them at most, and the stacks, each distinct one once (stack.h says how many).

   State of a record: whoever writes it holds its `is_busy` for some stores, and gives up where
   another thread does, which then writes of another block. `block` is NULL where there is none. A
   thread that a forked child does not have may leave one busy: no more is said of it. No locks. */
#ifndef HAKMEM_SECURE_STACKS_H
#define HAKMEM_SECURE_STACKS_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct hak_line;
struct stack_trace;

#define STACKS_RECORDS HAK_TINY_OR(256u, 16384u)

/* One block in `rate` from now on, 0: none; at most 65,535. One thread at a time. 0, or ENOMEM. */
HAK_MUST_CHECK int hak_secure_stacks_start(uint32_t rate);
/* Behind what is in the line, and a newline each: who allocated the block, and who freed it, and
   the mappings of their code, of which the last stays in the line; nothing, if that is not known.
   `touched`, or NULL: who touched it is said first. */
void hak_secure_stacks_say(struct hak_line *line, const void *block,
                           const struct stack_trace *touched);

HAK_EXTERN_C_END

#endif
