/* What the kinds of misuse have in common: misuse_kinds.c. */
#ifndef HAKMEM_PRELOAD_MISUSE_KINDS_H
#define HAKMEM_PRELOAD_MISUSE_KINDS_H

#include <signal.h>
#include <stddef.h>

#define MIB ((size_t)1 << 20)

/* What is needed: 1: sized delete; 2: hakmem's heaps; 3: free_sized; 4: nothing, but it is tried at
   one size alone. */
struct kind {
    const char *name, *text;
    void (*run)(void);
    int needs;
};
struct sized_kind {
    const char *name, *text;
    void (*run)(size_t size);
    int needs;
};
/* They end with a row without a name. */
extern const struct kind misuse_frees[];
extern const struct kind misuse_writes[];
extern const struct kind misuse_sizes[];
extern const struct sized_kind misuse_sized_frees[];
extern const struct sized_kind misuse_sized_writes[];
extern const struct sized_kind misuse_sized_reads[];
extern const struct sized_kind misuse_sized_sizes[];
extern const struct sized_kind misuse_sized_places[];

/* C++'s forms, whoever has them; hakmem's heaps and C23's frees, if they are there. */
extern void *_Znwm(size_t size) __attribute__((weak));
extern void *_Znam(size_t size) __attribute__((weak));
extern void _ZdlPv(void *p) __attribute__((weak));
extern void _ZdaPv(void *p) __attribute__((weak));
extern void _ZdlPvm(void *p, size_t size) __attribute__((weak));
extern void _ZdaPvm(void *p, size_t size) __attribute__((weak));
extern void _ZdlPvSt11align_val_t(void *p, size_t alignment) __attribute__((weak));
struct hak_heap;
extern struct hak_heap *(*heap_create)(void);
extern void (*heap_destroy)(struct hak_heap *heap);
extern void *(*heap_malloc)(struct hak_heap *heap, size_t size);
extern void *(*heap_realloc)(struct hak_heap *heap, void *p, size_t size);
extern void (*free_sized_)(void *p, size_t size);
extern void (*free_aligned_sized_)(void *p, size_t alignment, size_t size);

extern int is_harmed;
/* 1 while the program touches what it must not: a fault there is one that was meant. */
extern volatile sig_atomic_t is_touching;
/* What is read where nothing of the program's should be. */
extern volatile char seen;

/* Freed with a block of its size on either side of it still there. */
char *freed(size_t size);
/* Allocates some blocks; harmed if two are one. */
void go_on(size_t size);
void *free_it(void *p);
void in_thread(void *(*function)(void *), void *argument);
/* An address in a block. */
void *shifted(size_t size, size_t offset);
void bad_realloc(void *p, size_t size);
void touch(char *at, int value, size_t n);
/* 1 if one of n bytes has the value. */
int holds(const char *at, char value, size_t n);
/* A block between two others of its size; one that was freed then, and one that was freed before a
   hundred others. */
char *between(size_t size);
char *freed_between(size_t size);
char *freed_long_ago(size_t size);
/* As many are allocated as bring a freed block round again. */
void bring_round(size_t size);

#endif
