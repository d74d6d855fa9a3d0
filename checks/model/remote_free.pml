/* Remote free, slabs that change owner, orphans and fork, as heap/remote.c, depot.c, theap.c and
   tcache.c do it, for Spin. docs/remote_free.md says what is covered; inline definitions bear the names of
   the functions that they model.

   A step is one access to what another thread may touch: a lock, an inbox, a state, a slab's tag, a
   word behind a lock. What a thread does to its own bins and chains alone is joined to such a step.
   Memory is sequentially consistent.

   Sizes and menu (-D): below. Switches that break the protocol, and that the test wants found:
   BREAK_... */

#ifndef N_THREADS
#define N_THREADS 2
#endif
#ifndef N_SLABS /* 1 or 2 */
#define N_SLABS 1
#endif
#ifndef N_BLOCKS /* at most 3; a multiple of N_SLABS */
#define N_BLOCKS 2
#endif
#ifndef N_OPS /* a life of a thread */
#define N_OPS 2
#endif
#ifndef N_LIVES /* threads one after another in the first place; the others have one */
#define N_LIVES 1
#endif
#ifndef ALLOCATED /* 1: the program begins with all blocks */
#define ALLOCATED 0
#endif
#ifndef WITH_FORK
#define WITH_FORK 0
#endif
#ifndef WITH_TRIM
#define WITH_TRIM 0
#endif
#ifndef WITH_FULL_INBOX /* senders of a live heap may collect */
#define WITH_FULL_INBOX 0
#endif
#ifndef WITH_LATE_FREE /* frees by threads whose heap has ended */
#define WITH_LATE_FREE 0
#endif

/* Threads that do the same are told apart by their numbers alone: they take their first heap in the
   order of these, and what another order leads to is that with the numbers exchanged. */
#ifndef IN_ORDER
#define IN_ORDER (N_LIVES == 1 && !WITH_FORK)
#endif

/* What only the holder of a heap's lock touches may be one step, as long as each such step proves
   that its thread is the holder. FINE 1 makes each access a step of its own instead, and does not
   look at the lock. */
#ifndef FINE
#define FINE 1
#endif
#if FINE
#define LOCKED
#define assert_holder(h) skip
#else
#define LOCKED atomic
#define assert_holder(h) assert(lock[h] == me)
#endif

#define NIL 0 /* no block, no heap, no slab: all count from 1 */
#define N_HEAPS N_THREADS
#define SHARED (N_HEAPS + 1)
#define CHAIN_LIMIT 2
#define SLAB_OF(b) (((b) - 1) % N_SLABS + 1)
#define CAPACITY (N_BLOCKS / N_SLABS)

/* Where a block is. Kept beside the lists and compared at each step: so no block is in two
   places. */
#define SLAB 0
#define USER 1 /* the program has it */
#define HELD 2 /* a thread is just moving it: a local variable */
#define BIN 3
#define OUTBOX 4
#define INBOX 5
#define RETURNED 6
#define LEFT 7 /* HELD by a thread that a fork left behind: stays allocated */

#define LIVE 0
#define ORPHAN 1

byte place[N_BLOCKS + 1];
byte holder[N_BLOCKS + 1];     /* the thread, of a block HELD */
byte next_block[N_BLOCKS + 1]; /* first word */
byte next_chain[N_BLOCKS + 1]; /* second word, of a chain's head */

byte slab_owner[N_SLABS + 1]; /* the tag in the pointer map; NIL: in the pool */
byte n_free[N_SLABS + 1];

byte lock[N_HEAPS + 2];
byte inbox[N_HEAPS + 2];
bit state[N_HEAPS + 2];
byte returned[N_HEAPS + 2];
byte strays[N_HEAPS + 2];
byte bin[N_HEAPS + 1];
byte outbox[N_HEAPS + 1]; /* one slot; its target and length */
byte outbox_to[N_HEAPS + 1];
byte outbox_count[N_HEAPS + 1];

byte heaps_lock;
byte orphans;
byte next_orphan[N_HEAPS + 1];
byte n_heaps;
byte n_live;
bit has_shared;
byte owner[N_HEAPS + 1]; /* only for the check: the thread that has it */

byte n_running = N_THREADS;
#if IN_ORDER
byte n_begun; /* threads that have taken a heap */
#endif
byte inside[N_THREADS + 2]; /* how deep the thread is inside the gate */
byte n_inside;
bit hak_gate_closed;
byte child_of; /* the thread that forked, once the model goes on as the child */

hidden byte i_; /* of d_steps */
hidden byte j_;

#define some_user (place[1] == USER || place[2 % (N_BLOCKS + 1)] == USER || place[3 % (N_BLOCKS + 1)] == USER)
#define is_partial(s, h) (slab_owner[s] == (h) && n_free[s] > 0)
#define n_partial(h) (is_partial(1, h) || is_partial(N_SLABS, h))

/* --- the places of blocks --- */

inline moved(b, from, to)
{
    assert((b) != NIL && place[b] == from);
    place[b] = to;
    holder[b] = ((to) == HELD -> me : 0)
}

/* All blocks of the chain. A wrong or cyclic link meets a block that is elsewhere. */
inline moved_chain(first_, from, to)
{
    i_ = first_;
    do
    :: i_ == NIL -> break
    :: else -> moved(i_, from, to); i_ = next_block[i_]
    od
}

inline moved_chains(first_, from, to)
{
    j_ = first_;
    do
    :: j_ == NIL -> break
    :: else -> moved_chain(j_, from, to); j_ = next_chain[j_]
    od
}

/* --- gate.c --- */

/* A thread that is refused does without; here it waits, which is to do without for as long. */
inline hak_gate_enter()
{
#if WITH_FORK
    atomic {
        inside[me] > 0 || !hak_gate_closed ->
        n_inside = n_inside + (inside[me] == 0 -> 1 : 0);
        inside[me]++
    }
#else
    skip
#endif
}

inline hak_gate_leave()
{
#if WITH_FORK
    d_step { inside[me]--; n_inside = n_inside - (inside[me] == 0 -> 1 : 0) }
#else
    skip
#endif
}

/* --- locks --- */

inline hak_lock_acquire(l) { atomic { l == 0 -> l = me } }

inline hak_lock_release(l) { d_step { assert(l == me); l = 0 } }

/* Strays go before what is still unsent, as the recursion in C does it. */
inline take_strays(h)
{
    if
    :: strays[h] == NIL -> skip
    :: else ->
        i_ = strays[h];
        do
        :: next_block[i_] == NIL -> break
        :: else -> i_ = next_block[i_]
        od;
        next_block[i_] = unsent;
        unsent = strays[h];
        strays[h] = NIL
    fi
}

inline hak_theap_unlock(h)
{
#ifdef BREAK_UNLOCK_FORGETS_STRAYS
    hak_lock_release(lock[h])
#else
    d_step { take_strays(h); assert(lock[h] == me); lock[h] = 0 }
#endif
}

#ifdef BREAK_COLLECT_WITHOUT_LOCK
#define collector_acquire(h) skip
#define collector_release(h) d_step { take_strays(h) }
#else
#define collector_acquire(h) hak_lock_acquire(lock[h])
#define collector_release(h) hak_theap_unlock(h)
#endif

/* --- bank.c, heap lock held --- */

inline release_if_empty(s)
{
    if
    :: n_free[s] == CAPACITY ->
        slab_owner[s] = NIL;
        i_ = 1;
        do
        :: i_ > N_BLOCKS -> break
        :: else -> assert(SLAB_OF(i_) != s || place[i_] == SLAB); i_++
        od
    :: else -> skip
    fi
}

/* `list` ends as NIL. */
inline hak_bank_put_list(h, from)
{
    LOCKED {
        assert_holder(h);
        do
        :: list == NIL -> break
#ifndef BREAK_PUT_WITHOUT_LOOKING
        :: list != NIL && slab_owner[SLAB_OF(list)] != h ->
            d_step {
                assert(slab_owner[SLAB_OF(list)] != NIL);
                moved(list, from, HELD);
                follow = next_block[list];
                next_block[list] = strays[h];
                strays[h] = list;
                list = follow;
                follow = NIL
            }
#endif
        :: else ->
            d_step {
                slab = SLAB_OF(list);
                number = n_free[slab];
                moved(list, from, SLAB);
                list = next_block[list]
            }
            d_step {
                n_free[slab] = number + 1;
                if
                :: state[h] == ORPHAN -> release_if_empty(slab) /* keeps_empty is 0 */
                :: else -> skip
                fi;
                number = 0;
                slab = NIL
            }
        od
    }
}

inline hak_bank_release_empty(h)
{
    d_step {
        assert_holder(h);
        j_ = 1;
        do
        :: j_ > N_SLABS -> break
        :: j_ <= N_SLABS && slab_owner[j_] == h -> release_if_empty(j_); j_++
        :: else -> j_++
        od
    }
}

inline hak_bank_move_one(source, to)
{
    d_step {
        assert_holder(source);
        assert_holder(to);
        if
        :: is_partial(1, source) -> slab_owner[1] = to
        :: !is_partial(1, source) && is_partial(N_SLABS, source) -> slab_owner[N_SLABS] = to
        :: else -> skip
        fi
    }
}

inline hak_bank_move_all(source, to)
{
    d_step {
        assert_holder(source);
        assert_holder(to);
        j_ = 1;
        do
        :: j_ > N_SLABS -> break
        :: j_ <= N_SLABS && is_partial(j_, source) -> slab_owner[j_] = to; j_++
        :: else -> j_++
        od
    }
}

/* `list` is one block, of an own slab or of a fresh one; NIL if there is none. */
inline hak_bank_take(h)
{
    LOCKED {
        assert_holder(h);
        d_step {
            slab = (is_partial(1, h) -> 1 : (is_partial(N_SLABS, h) -> N_SLABS : NIL));
            if
            :: slab == NIL && slab_owner[1] == NIL -> slab = 1
            :: slab == NIL && slab_owner[1] != NIL && slab_owner[N_SLABS] == NIL -> slab = N_SLABS
            :: else -> skip
            fi;
            slab_owner[slab] = (slab == NIL -> NIL : h);
            number = n_free[slab]
        }
        if
        :: slab == NIL -> skip
        :: else ->
            d_step {
                i_ = 1;
                do
                :: i_ > N_BLOCKS -> break
                :: i_ <= N_BLOCKS && place[i_] == SLAB && SLAB_OF(i_) == slab -> break
                :: else -> i_++
                od;
                assert(i_ <= N_BLOCKS);
                list = i_;
                moved(list, SLAB, HELD);
                next_block[list] = NIL
            }
            d_step { n_free[slab] = number - 1; slab = NIL }
        fi;
        number = 0
    }
}

/* --- remote.c, heap.c: receiving --- */

/* `chain` is all that was in the inbox. */
inline exchange_inbox(h)
{
#ifdef BREAK_TAKE_WITHOUT_EXCHANGE
    chain = inbox[h];
    d_step { moved_chains(chain, INBOX, HELD); inbox[h] = NIL }
#else
    d_step { chain = inbox[h]; moved_chains(chain, INBOX, HELD); inbox[h] = NIL }
#endif
}

/* `list` is a list of the depot, which `returned` is, or NIL. */
inline hak_depot_take(h)
{
    LOCKED {
        assert_holder(h);
        list = returned[h];
        if
        :: list == NIL -> skip
        :: else -> d_step { moved_chain(list, RETURNED, HELD); returned[h] = next_chain[list] }
        fi
    }
}

inline put_chains(h)
{
    do
    :: chain == NIL -> break
    :: else ->
        d_step { list = chain; chain = next_chain[chain] }
        hak_bank_put_list(h, HELD)
    od
}

inline hak_remote_collect(h)
{
    LOCKED {
        do
        :: true ->
            hak_depot_take(h);
            if
            :: list == NIL -> break
            :: else -> hak_bank_put_list(h, HELD)
            fi
        od
    }
    if /* take_inbox looks first, and exchanges only if there is something */
#ifdef BREAK_LOOK_BEFORE_ORPHAN
    :: looked && !saw -> skip
#else
    :: inbox[h] == NIL -> skip
#endif
    :: else ->
        LOCKED {
            exchange_inbox(h);
#ifdef BREAK_DRAIN_TWICE
            list = chain;
            hak_bank_put_list(h, HELD);
#endif
            put_chains(h)
        }
    fi
}

/* `list` goes to the depot. */
inline hak_depot_put(h)
{
    d_step {
        assert_holder(h);
        next_chain[list] = returned[h];
        moved_chain(list, HELD, RETURNED);
        returned[h] = list;
        list = NIL
    }
}

/* Whether the depot has room is left open: either way. */
inline hak_remote_receive(h)
{
    if
    :: inbox[h] == NIL -> skip
    :: else ->
        LOCKED {
            exchange_inbox(h);
            do
            :: chain == NIL -> break
            :: else ->
                d_step { list = chain; chain = next_chain[chain] }
                if
                :: hak_depot_put(h)
                :: hak_bank_put_list(h, HELD)
                fi
            od
        }
    fi
}

inline hak_theap_tidy(h)
{
    hak_remote_collect(h);
    if
    :: h == SHARED -> skip
    :: else ->
        hak_bank_release_empty(h);
        if
        :: has_shared && n_partial(h) ->
#ifdef BREAK_MOVE_WITHOUT_TARGET_LOCK
            hak_bank_move_all(h, SHARED)
#else
            hak_lock_acquire(lock[SHARED]);
            hak_bank_move_all(h, SHARED);
            hak_lock_release(lock[SHARED])
#endif
        :: else -> skip
        fi
    fi
}

/* --- remote.c: sending --- */

/* Whether INBOX_MAX_BYTES is reached is left open, and with it whether the sender of a live heap
   collects. */
inline collect_for(h)
{
#ifndef BREAK_STATE_BEFORE_PUSH
    is_orphan = state[h];
#endif
    hak_gate_enter();
    if
#ifdef BREAK_ORPHAN_BY_TRY
    :: is_orphan && lock[h] != 0 -> skip
    :: atomic { is_orphan && lock[h] == 0 -> lock[h] = me };
#else
    :: is_orphan -> collector_acquire(h);
#endif
        hak_theap_tidy(h);
        collector_release(h)
    :: !is_orphan -> skip
#if WITH_FULL_INBOX
    :: !is_orphan -> collector_acquire(h); hak_theap_tidy(h); collector_release(h)
#endif
    fi;
    hak_gate_leave();
    is_orphan = 0
}

/* Sends the blocks from `head` on to `target`, then what is unsent, each to whom its slab's tag
   names now. */
inline send_chain()
{
    do
    :: head != NIL ->
#ifdef BREAK_STATE_BEFORE_PUSH
        is_orphan = state[target];
#endif
        d_step { link = inbox[target]; next_chain[head] = link }
        do
#ifdef BREAK_PUSH_BY_STORE
        :: d_step { moved_chain(head, HELD, INBOX); inbox[target] = head; head = NIL; link = NIL }; break
#else
        :: d_step { inbox[target] == link -> moved_chain(head, HELD, INBOX); inbox[target] = head; head = NIL; link = NIL };
            break
        :: d_step { inbox[target] != link -> link = inbox[target]; next_chain[head] = link }
#endif
        od;
        collect_for(target);
        target = NIL
    :: head == NIL && unsent != NIL ->
        d_step {
            head = unsent;
            unsent = next_block[head];
            next_block[head] = NIL;
            target = slab_owner[SLAB_OF(head)];
            assert(target != NIL)
        }
    :: else -> break
    od;
    skip /* Spin refuses a jump to a d_step that may follow */
}

/* The outbox's slot, if there is something in it. */
inline send_slot()
{
    if
    :: outbox[self] == NIL -> skip
    :: else ->
        d_step {
            head = outbox[self];
            target = outbox_to[self];
            moved_chain(head, OUTBOX, HELD);
            outbox[self] = NIL;
            outbox_to[self] = NIL;
            outbox_count[self] = 0
        }
        send_chain();
    fi
}

inline keep() { d_step { next_block[block] = bin[self]; moved(block, HELD, BIN); bin[self] = block; block = NIL; tag = NIL } }

inline hak_remote_free()
{
    if
    :: outbox[self] != NIL && (outbox_to[self] != tag || outbox_count[self] == CHAIN_LIMIT) -> send_slot()
    :: else -> skip
    fi;
    d_step {
        next_block[block] = outbox[self];
        moved(block, HELD, OUTBOX);
        outbox[self] = block;
        outbox_to[self] = tag;
        outbox_count[self] = outbox_count[self] + 1;
        block = NIL;
        tag = NIL
    }
}

inline hak_remote_free_now()
{
    d_step { head = block; next_block[head] = NIL; target = tag; block = NIL; tag = NIL }
    send_chain()
}

/* --- slabs change hands --- */

#ifdef BREAK_ADOPT_SLAB_WITHOUT_LOCK
#define try_source(s) atomic { s != self && n_partial(s) -> source = s }
#else
#define try_source(s) atomic { s != self && n_partial(s) && lock[s] == 0 -> lock[s] = me; source = s }
#endif

/* Which live heap is asked is left open, and whether one is. */
inline adopt_slab()
{
    if
    :: has_shared && n_partial(SHARED) ->
        hak_lock_acquire(lock[SHARED]);
        hak_bank_move_one(SHARED, self);
        hak_lock_release(lock[SHARED])
    :: else ->
        if
        :: try_source(1)
        :: try_source(2)
#if N_HEAPS > 2
        :: try_source(3)
#endif
        :: source = NIL
        fi;
        if
        :: source == NIL -> skip
        :: else ->
            hak_bank_move_one(source, self);
#ifndef BREAK_ADOPT_SLAB_WITHOUT_LOCK
            hak_lock_release(lock[source]);
#endif
            source = NIL
        fi
    fi
}

/* --- tcache.c --- */

/* One block into the bin, or a list of the depot whole. */
inline hak_tc_refill()
{
    send_slot(); /* in C: one time in SEND_EVERY */
#ifndef BREAK_REFILL_WITHOUT_LOCK
    hak_lock_acquire(lock[self]);
#endif
    hak_remote_receive(self);
    hak_depot_take(self);
    if
    :: list == NIL ->
        if
        :: n_partial(self) -> skip
        :: else -> adopt_slab()
        fi;
        hak_bank_take(self)
    :: else -> skip
    fi;
#ifndef BREAK_REFILL_WITHOUT_LOCK
    hak_theap_unlock(self);
#endif
    send_chain();
    d_step { moved_chain(list, HELD, BIN); bin[self] = list; list = NIL }
}

/* And an overflow, whose list may go to the depot (depot.c) instead of to the slabs: either way. */
inline hak_tc_flush()
{
    send_slot();
    hak_lock_acquire(lock[self]);
    d_step { list = bin[self]; moved_chain(list, BIN, HELD); bin[self] = NIL }
    if
    :: list != NIL -> hak_depot_put(self)
    :: hak_bank_put_list(self, HELD)
    fi;
    hak_theap_unlock(self);
    send_chain()
}

/* --- heap.c --- */

inline set_state(h, s)
{
    hak_lock_acquire(lock[h]);
    state[h] = s;
    hak_lock_release(lock[h])
}

inline hak_theap_acquire()
{
#if IN_ORDER
    atomic { heaps_lock == 0 && n_begun == me - 1 -> heaps_lock = me; n_begun++ }
#elif !defined BREAK_ADOPT_WITHOUT_LOCK
    hak_lock_acquire(heaps_lock);
#endif
    self = orphans;
    if
    :: self != NIL -> orphans = next_orphan[self]
    :: else -> d_step { n_heaps++; self = n_heaps; assert(self <= N_HEAPS); state[self] = ORPHAN }
    fi;
#ifndef BREAK_ADOPT_WITHOUT_LOCK
    hak_lock_release(heaps_lock);
#endif
    d_step { assert(owner[self] == NIL); owner[self] = me }
    set_state(self, LIVE);
    n_live++
}

inline link_orphan(h) { next_orphan[h] = orphans; orphans = h }

inline make_orphan()
{
    has_shared = 1; /* get_shared */
#ifdef BREAK_LOOK_BEFORE_ORPHAN
    d_step { looked = 1; saw = (inbox[self] != NIL) }
#endif
#ifndef BREAK_COLLECT_BEFORE_ORPHAN
    set_state(self, ORPHAN);
#endif
    hak_lock_acquire(lock[self]);
    hak_theap_tidy(self);
    hak_theap_unlock(self);
#ifdef BREAK_LOOK_BEFORE_ORPHAN
    d_step { looked = 0; saw = 0 }
#endif
#ifdef BREAK_COLLECT_BEFORE_ORPHAN
    set_state(self, ORPHAN);
#endif
    send_chain();
    hak_lock_acquire(heaps_lock);
    d_step { owner[self] = NIL; link_orphan(self) }
    hak_lock_release(heaps_lock);
    n_live--
}

inline heap_trim_one(h)
{
    collector_acquire(h);
    hak_remote_collect(h);
    hak_bank_release_empty(h);
    collector_release(h);
    send_chain()
}

#ifdef BREAK_FORK_KEEPS_COUNT
#define FORK_KEEPS_COUNT 1
#else
#define FORK_KEEPS_COUNT 0
#endif

#if WITH_FORK
inline fork_prepare()
{
    hak_gate_closed = 1;
#ifndef BREAK_FORK_WITHOUT_GATE
    n_inside == 0
#endif
}

inline fork_parent() { hak_gate_closed = 0 }

/* From here on the model is the child: the other threads stop where they are, and what they held
   stays allocated. */
inline other_threads_vanish()
{
    d_step {
        child_of = me;
        i_ = 1;
        do
        :: i_ > N_BLOCKS -> break
        :: i_ <= N_BLOCKS && holder[i_] != 0 && holder[i_] != me -> place[i_] = LEFT; holder[i_] = 0; i_++
        :: else -> i_++
        od;
        i_ = 1;
        do
        :: i_ > N_HEAPS -> break
        :: else -> owner[i_] = (owner[i_] == me -> me : 0); i_++
        od
    }
}

inline forget_inbox(h)
{
    d_step { moved_chains(inbox[h], INBOX, LEFT); inbox[h] = NIL }
}

/* All locks are free, and none is released. In C stale heaps are forgotten one by one, as they are wanted; here all at once. */
inline fork_child()
{
    other_threads_vanish();
    hak_gate_closed = 0;
    n_live = (FORK_KEEPS_COUNT -> n_live : 1);
    assert(heaps_lock == 0 && lock[SHARED] == 0);
    forget_inbox(SHARED);
    h = 1;
    do
    :: h > n_heaps -> break
    :: else ->
        assert(lock[h] == 0);
        forget_inbox(h);
        if
        :: h != self && state[h] == LIVE ->
            d_step {
                moved_chain(bin[h], BIN, LEFT);
                moved_chain(outbox[h], OUTBOX, LEFT);
                bin[h] = NIL;
                outbox[h] = NIL;
                outbox_to[h] = NIL;
                outbox_count[h] = 0
            }
            has_shared = 1;
            set_state(h, ORPHAN);
            hak_lock_acquire(lock[h]);
            hak_theap_tidy(h);
            hak_theap_unlock(h);
            send_chain();
#ifndef BREAK_FORK_FORGETS_HEAPS
            link_orphan(h);
#endif
        :: else -> skip
        fi;
        h++
    od;
    h = NIL
}
#endif

/* --- what the program does --- */

/* Where one executes it, some block is the program's. */
inline choose_block()
{
    if
    :: place[1] == USER -> block = 1
    :: N_BLOCKS >= 2 && place[2 % (N_BLOCKS + 1)] == USER -> block = 2
    :: N_BLOCKS >= 3 && place[3 % (N_BLOCKS + 1)] == USER -> block = 3
    fi;
    moved(block, USER, HELD);
    tag = slab_owner[SLAB_OF(block)];
    assert(tag != NIL)
}

/* Blocks of an owner without a thread are kept; a slot remembers that longer than it is true, so it
   is left open here. */
inline free_block()
{
    if
    :: keep()
    :: tag != self -> hak_remote_free()
    fi
}

inline malloc_block()
{
    if
    :: bin[self] == NIL -> hak_gate_enter(); hak_tc_refill(); hak_gate_leave()
    :: else -> skip
    fi;
    d_step {
        block = bin[self];
        if
        :: block != NIL -> bin[self] = next_block[block]; moved(block, BIN, USER)
        :: else -> skip
        fi;
        block = NIL
    }
}

proctype thread(byte me; byte lives)
{
    byte self, ops, block, tag, head, unsent, chain, list, follow, link, number, target, slab, source, h;
    bit is_orphan;
#ifdef BREAK_LOOK_BEFORE_ORPHAN
    bit looked, saw;
#endif
    {
        do
        :: lives == 0 -> break
        :: else ->
            lives--;
            hak_gate_enter();
            hak_theap_acquire();
            hak_gate_leave();
            ops = N_OPS;
            do
            :: atomic { ops > 0 && (!some_user || bin[self] != NIL || !ALLOCATED) -> ops-- }; malloc_block()
            :: atomic { ops > 0 && some_user -> ops--; choose_block() }; free_block()
            :: atomic { ops > 0 && bin[self] != NIL -> ops-- }; hak_gate_enter(); hak_tc_flush(); hak_gate_leave()
#if WITH_TRIM
            :: ops > 0 -> ops--; hak_gate_enter(); heap_trim_one(1); hak_gate_leave()
            :: ops > 0 && has_shared -> ops--; hak_gate_enter(); heap_trim_one(SHARED); hak_gate_leave()
#endif
#if WITH_FORK
            :: child_of == 0 && me == N_THREADS -> /* the parent goes on as if nothing had been */
                fork_prepare();
                if
                :: fork_parent()
                :: atomic { fork_child(); n_running = 2; run thread(N_THREADS + 1, 1) }
                fi
#endif
            :: break
            od;
            ops = 0;
            hak_gate_enter();
            hak_tc_flush();
            make_orphan();
            hak_gate_leave();
            self = NIL;
#if WITH_LATE_FREE
            if
            :: atomic { some_user -> choose_block() }; hak_remote_free_now()
            :: skip
            fi
#endif
        od;
        n_running--
    } unless { child_of != 0 && child_of != me && me <= N_THREADS }
}

/* --- when all threads have ended --- */

inline check_heap(h)
{
    assert(lock[h] == 0);
    assert(state[h] == ORPHAN || h > n_heaps);
    assert(inbox[h] == NIL && returned[h] == NIL && strays[h] == NIL);
    assert(bin[h] == NIL && outbox[h] == NIL && owner[h] == NIL);
    /* in the list of orphans, once */
    i_ = orphans;
    n = 0;
    do
    :: i_ == NIL || n > 1 -> break
    :: i_ != NIL && n <= 1 && i_ == h -> n++; i_ = next_orphan[i_]
    :: else -> i_ = next_orphan[i_]
    od;
    assert(n == (h <= n_heaps -> 1 : 0))
}

inline check_slab(s)
{
    i_ = 1;
    n = 0;
    do
    :: i_ > N_BLOCKS -> break
    :: i_ <= N_BLOCKS && place[i_] == SLAB && SLAB_OF(i_) == s -> n++; i_++
    :: else -> i_++
    od;
    assert(n == n_free[s]);
    /* nothing free stays with an orphan where only its own next thread would look */
    assert(n == 0 || slab_owner[s] == NIL || slab_owner[s] == SHARED)
}

init
{
    byte b = 1, n;
    atomic {
        state[SHARED] = ORPHAN;
        do
        :: b > N_BLOCKS -> break
        :: else ->
            if
            :: ALLOCATED -> place[b] = USER; slab_owner[SLAB_OF(b)] = 1
            :: else -> n_free[SLAB_OF(b)] = n_free[SLAB_OF(b)] + 1
            fi;
            b++
        od;
        b = 1;
        do
        :: b > N_THREADS -> break
        :: else -> run thread(b, (b == 1 -> N_LIVES : 1)); b++
        od
    }
    n_running == 0;
    d_step {
        b = 1;
        do
        :: b > N_BLOCKS -> break
        :: else -> assert(place[b] == SLAB || place[b] == USER || (place[b] == LEFT && child_of != 0)); b++
        od;
        b = 1;
        do
        :: b > N_HEAPS -> break
        :: else -> check_heap(b); b++
        od;
        assert(lock[SHARED] == 0 && heaps_lock == 0 && n_live == 0);
        assert(inbox[SHARED] == NIL && returned[SHARED] == NIL && strays[SHARED] == NIL);
        b = 1;
        do
        :: b > N_SLABS -> break
        :: else -> check_slab(b); b++
        od
    }
}
