/* hak_super_lookup while units change hands (superslab/lookup.c, hak_range_describe in ace/range.c,
   the records of ranges in ace/range_cache.c, hak_map_set in superslab/map.c).

   One unit and its map entry, two words: a tag and a number. An owner makes it, step by step as C does, part of a superslab (free,
   then a slab of one of two classes, or a span), or of a range, and frees it; descriptions are used again. Its region's
   description may describe another region (base 2) in between, as may the range's. Readers ask at any time. Checked:
   - no number is used with a table that never gave it (a fault in C), and no index is beyond the bitmap that was found;
   - a description that is believed holds the pointer;
   - a reader's answer was so at one moment of its call, or says that the memory is free or on its way to another owner;
   - a reader goes round again only if another process has got on: it never waits.

   BREAK_...: what the model must find. */
#ifndef N_CHANGES
#define N_CHANGES 2
#endif
#ifndef N_READERS
#define N_READERS 1
#endif

#define HERE  1 /* where the unit is */
#define THERE 2

/* tags */
#define NONE  0
#define FREE  1
#define SLAB  2 /* class 0: long bitmap, many blocks; SLAB + 1: class 1, a short one */
#define SPAN  4
#define RANGE 5

/* Numbers: superslab 0; ranges 0 and 1. Number 1 is none of a superslab: to use it as one is a fault. */
#define N_SUPERSLABS 1
#define N_RANGES     2

byte tag, ref;          /* the map's entry */
byte ss_base;           /* of superslab 0: 0, HERE or THERE */
byte slab_class;        /* of the unit's slab description; 2 if its pages were dropped */
bit bitmap_is_short;    /* where its `bits` points */
byte slab_version;      /* slabs made so far */
byte span;              /* 1 if a span starts at the unit */
byte range_base[N_RANGES], range_version[N_RANGES];
bit range_used[N_RANGES];
bit has_changed[N_READERS]; /* since the reader last looked: who goes round has seen it set */

/* What the unit is, for the answers' sake, and what it was since a reader began: a bit for each tag. */
byte truth = 1;
byte seen[N_READERS];   /* a set, begun by the reader */
#define BIT(kind) (1 << (kind))

/* Of each write; a part of its step. */
inline note_write()
{
    has_changed[0] = 1
#if N_READERS > 1
    ;
    has_changed[1] = 1
#endif
}

/* The tag's store is the moment at which the unit becomes something else. */
inline set_tag(new_tag)
{
    d_step {
        tag = new_tag;
        truth = BIT(new_tag);
        seen[0] = seen[0] | truth;
#if N_READERS > 1
        seen[1] = seen[1] | truth;
#endif
        note_write()
    }
}

/* hak_map_set: the number, then the tag. */
inline hak_map_set(new_tag, new_ref)
{
    d_step { ref = new_ref; note_write() };
    set_tag(new_tag)
}

inline superslab_cycle()
{
    d_step { ss_base = HERE; note_write() };
    hak_map_set(FREE, 0);
    if
    :: /* a slab */
        if
        :: class = 0
        :: class = 1
        fi;
        bitmap_is_short = class; /* hak_slab_init: each store by itself */
        slab_class = class;
        d_step { slab_version++; note_write() };
        hak_map_set(SLAB + class, 0);
        hak_map_set(FREE, 0)
    :: /* a span */
        span = 1;
        hak_map_set(SPAN, 0);
        span = 0;
        hak_map_set(FREE, 0)
    fi;
    /* unmap_superslab */
    hak_map_set(NONE, 0);
    slab_class = 2;
    bitmap_is_short = 0;
    d_step { ss_base = 0; note_write() };
    if
    :: d_step { ss_base = THERE; note_write() }; /* its description serves another region for a while */
        d_step { ss_base = 0; note_write() }
    :: skip
    fi
}

/* set_extent */
inline set_extent(n, base)
{
    d_step { range_version[n] = range_version[n] + 1; note_write() };
    d_step { range_base[n] = base; note_write() };
    d_step { range_version[n] = range_version[n] + 1; note_write() }
}

inline range_cycle()
{
    if
    :: number = 0
    :: number = 1
    fi;
    set_extent(number, HERE);
    range_used[number] = 1;
    hak_map_set(RANGE, number);
    range_used[number] = 0;
    if
    :: /* merged: its units become the other description's */
        hak_map_set(RANGE, 1 - number);
        set_extent(1 - number, HERE);
        set_extent(number, 0);
        number = 1 - number
    :: /* cut: its first units become another description's, and it begins behind them */
        set_extent(1 - number, HERE);
        set_extent(number, THERE);
        hak_map_set(RANGE, 1 - number);
        number = 1 - number
    :: skip
    fi;
    hak_map_set(NONE, 0);
    set_extent(number, 0);
    if
    :: set_extent(number, THERE);
        set_extent(number, 0)
    :: skip
    fi
}

active proctype owner()
{
    byte n, class, number;
    do
    :: n == N_CHANGES -> break
    :: n < N_CHANGES -> n++; superslab_cycle()
    :: n < N_CHANGES -> n++; range_cycle()
    od
}

/* --- the reader --- */

/* hak_pool_superslab_around */
inline superslab_around()
{
#ifdef BREAK_BELIEVES_NUMBER
    assert(r < N_SUPERSLABS);
    found = 1
#else
    found = (r < N_SUPERSLABS);
    if
    :: found -> base = ss_base;
        found = (base == HERE)
    :: else -> skip
    fi
#endif
}

inline lookup_slab()
{
    c = slab_class;
    c = (c == 2 -> 0 : c); /* dropped pages read as zero: class 0, and no bitmap */
    is_short = bitmap_is_short;
    /* An index of class 0 may be beyond the short bitmap. */
#ifdef BREAK_BELIEVES_INDEX
    assert(!(c == 0 && is_short))
#else
    skip
#endif
    ;
    answer = SLAB + c
}

inline hak_range_describe()
{
    assert(r < N_RANGES);
    do
    :: true ->
        version = range_version[r];
        base = range_base[r];
        /* bytes and state; then the version again */
        if
        :: range_version[r] % 2 == 1 -> found = 0; break
        :: range_version[r] % 2 == 0 && range_version[r] == version -> found = (base == HERE); break
        :: else -> skip /* another process has got on */
        fi
    od;
#ifdef BREAK_BELIEVES_RANGE
    found = 1;
    assert(base == HERE);
#endif
    answer = (found -> RANGE : FREE)
}

proctype reader(byte me)
{
    byte t, r, slabs, base, c, version, answer;
    bit found, is_short;
    d_step { seen[me] = truth; has_changed[me] = 0 };
    do
    :: true ->
        t = tag;
        r = ref;
        if
        :: t == NONE || t == FREE -> answer = t; break
        :: t == RANGE -> hak_range_describe()
        :: else ->
            superslab_around();
            slabs = slab_version;
            if
            :: !found -> answer = FREE
            :: found && t == SPAN -> answer = (span -> SPAN : FREE)
            :: else -> lookup_slab()
            fi
        fi;
#ifdef BREAK_DOES_NOT_LOOK_AGAIN
        break
#else
        if
        :: tag != t || ref != r -> skip
        :: else ->
#ifdef BREAK_FORGETS_VERSION
            break
#else
            /* Numbers of ranges have a version of their own. */
            if
            :: t == RANGE || slabs == slab_version -> break
            :: else -> skip
            fi
#endif
        fi;
        /* Round again: only since another process has got on since the last round. */
        d_step { assert(has_changed[me]); has_changed[me] = 0; t = 0; r = 0; slabs = 0; answer = 0; found = 0 }
#endif
    od;
    /* Was so at a moment of the call; or free, or without an owner, which a change goes through. A slab of the other class is neither. */
    assert((seen[me] & BIT(answer)) || answer == FREE || answer == NONE);
    /* What stays the same all the time is reported as it is. */
    assert(seen[me] != BIT(SLAB) || answer == SLAB || answer == FREE)
}

init
{
    atomic {
        run reader(0);
#if N_READERS > 1
        run reader(1)
#endif
    }
}
