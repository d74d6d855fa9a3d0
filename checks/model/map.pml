/* The flat array of tags (superslab/map.c): one unit, its leaf's tag and the flat array's, written by the unit's owner (hak_map_set)
   while frees make the array and fill the tag in (hak_map_view_extend, fill).

   The owner's stores go through a store buffer, as on x86, which is emptied at any time, at a fence and before blocks are handed
   out. Owners follow each other under locks, so that one process plays all of them: it makes the unit a slab of one of two classes
   and of one of two heaps, changes its heap, and frees it when no block is out. Frees hold a block while they fill. With MISUSE
   there is one that holds none: a pointer that was freed twice. Checked:
   - who holds a block reads 0 or a tag of its class, before and after it fills;
   - at the end the array has 0 or the leaf's tag, and no tag that is not a slab's.

   BREAK_...: what the model must find. */
#ifndef N_CHANGES
#define N_CHANGES 4
#endif
#ifndef N_FREES
#define N_FREES 2
#endif

#define FREE        1
#define SLAB(c, o)  (2 + 2 * (c) + (o))
#define IS_SLAB(t)  ((t) >= 2)
#define CLASS(t)    (((t) - 2) / 2)

byte leaf = FREE, flat;
bit is_there;            /* the array */
bit is_out;              /* blocks may be taken: the unit is a slab, and its owner has written so */
byte n_held, n_ended;

/* The owner's store buffer: up to two stores, the older one first. */
#define NOTHING 0
#define LEAF    1
#define FLAT    2
byte where[2], what[2];

inline reach_memory()
{
    if
    :: where[0] == LEAF -> leaf = what[0]
    :: where[0] == FLAT -> flat = what[0]
    fi;
    where[0] = where[1];
    what[0] = what[1];
    where[1] = NOTHING;
    what[1] = 0
}

active proctype store_buffer()
{
end:
    do
    :: atomic { where[0] != NOTHING -> reach_memory() }
    od
}

inline store(place, value)
{
    atomic {
        where[1] == NOTHING;
        if
        :: where[0] == NOTHING -> where[0] = place; what[0] = value
        :: else -> where[1] = place; what[1] = value
        fi
    }
}

/* The owner reads its own stores first. */
inline load_flat(result)
{
    atomic {
        if
        :: where[1] == FLAT -> result = what[1]
        :: where[1] != FLAT && where[0] == FLAT -> result = what[0]
        :: else -> result = flat
        fi
    }
}

inline fence()
{
    where[0] == NOTHING
}

inline hak_map_set(tag)
{
    shown = (IS_SLAB(tag) -> tag : 0);
#ifdef BREAK_ARRAY_BEFORE_LEAF
    if
    :: is_there -> store(FLAT, shown)
    :: else -> skip
    fi;
    store(LEAF, tag);
    fence()
#else
    store(LEAF, tag);
#ifndef BREAK_SETS_WITHOUT_FENCE
    fence();
#endif
    if
    :: is_there ->
        load_flat(seen);
        if
        :: seen != shown -> store(FLAT, shown)
        :: else -> skip
        fi
    :: else -> skip
    fi
#endif
}

active proctype owner()
{
    byte n, class, heap, tag = FREE, shown, seen;
    do
    :: n == N_CHANGES -> break
    :: n < N_CHANGES && tag == FREE ->
        n++;
        if
        :: class = 0
        :: class = 1
        fi;
        if
        :: heap = 0
        :: heap = 1
        fi;
        tag = SLAB(class, heap);
        hak_map_set(tag);
        atomic { fence(); is_out = 1 }
    :: n < N_CHANGES && tag != FREE -> /* another heap's, with blocks out */
        n++;
        heap = 1 - heap;
        tag = SLAB(class, heap);
        hak_map_set(tag);
        fence()
    :: atomic { n < N_CHANGES && tag != FREE && n_held == 0 -> is_out = 0 };
        n++;
        tag = FREE;
        hak_map_set(tag);
        fence()
    od;
    fence();
    n_ended++
}

inline fill()
{
    is_there = 1; /* hak_map_view_extend */
    t = leaf;
    if
    :: IS_SLAB(t) ->
#ifdef BREAK_FILLS_BY_STORE
        flat = t;
        filled = 1;
#else
        atomic { filled = (flat == 0); flat = (filled -> t : flat) };
#endif
#ifndef BREAK_FILLS_WITHOUT_LOOKING
        if
        :: filled && leaf != t -> atomic { flat = (flat == t -> 0 : flat) }
        :: else -> skip
        fi
#endif
    :: else -> skip
    fi
}

/* What whoever holds a block may see: the heap may be the one before. */
inline look()
{
    atomic { t = flat; assert(t == 0 || CLASS(t) == class) }
}

proctype frees()
{
    byte n, t, class;
    bit filled;
    do
    :: n == N_FREES -> break
    :: n < N_FREES ->
        n++;
        if
        :: atomic { is_out -> n_held++; class = CLASS(leaf) };
            look();
            fill();
            look();
            n_held--
        :: skip
        fi
    od;
    n_ended++
}

#ifdef MISUSE
proctype frees_twice()
{
    byte t;
    bit filled;
    fill();
    n_ended++
}
#endif

init
{
    atomic {
        run frees();
#ifdef MISUSE
        run frees_twice()
#else
        run frees()
#endif
    };
    n_ended == 3;
    assert(flat == 0 || flat == leaf)
}
