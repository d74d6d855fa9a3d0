/* Doubly linked lists through fields of their members, which may be in several lists at once.
   `next` and `prev` name the fields; a list is a place for its first member and, if it has one,
   a place for its last. No locks: the list's owner has one. */
#ifndef HAKMEM_BASE_LIST_H
#define HAKMEM_BASE_LIST_H

#include "base/internal.h"

/* Puts `item` behind `after`, or first if that is NULL. */
#define LIST_INSERT(first, last, after, item, next, prev)                                          \
    ((item)->prev = (after), (item)->next = (item)->prev ? (item)->prev->next : *(first),          \
     *((item)->next ? &(item)->next->prev : (last)) = (item),                                      \
     *((item)->prev ? &(item)->prev->next : (first)) = (item))
#define LIST_APPEND(first, last, item, next, prev)                                                 \
    LIST_INSERT(first, last, *(last), item, next, prev)
#define LIST_REMOVE(first, last, item, next, prev)                                                 \
    (*((item)->prev ? &(item)->prev->next : (first)) = (item)->next,                               \
     *((item)->next ? &(item)->next->prev : (last)) = (item)->prev)

/* For a list that keeps no last member. */
#define LIST_NO_LAST(item) (&(__typeof__(item)){NULL})
#define LIST_PUSH(first, item, next, prev)                                                         \
    LIST_INSERT(first, LIST_NO_LAST(item), NULL, item, next, prev)
#define LIST_TAKE_OUT(first, item, next, prev)                                                     \
    LIST_REMOVE(first, LIST_NO_LAST(item), item, next, prev)

#endif
