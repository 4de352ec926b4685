/*
 * The groups of one kind and class that no thread's cache owns, on three
 * lists: unswept since the last flip, swept with free slots, swept and full.
 * A flip makes all of them unswept by joining lists, whatever their length.
 * Large objects have two lists of the same sort.
 *
 * INV-list-1: at a flip the unswept lists are empty: the sweep of the cycle
 *   before is complete.
 */
#ifndef WANE_HEAP_CLASS_LIST_H
#define WANE_HEAP_CLASS_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "block.h"

/* A group that may have free slots, swept, owned by the caller; or NULL. */
struct wane__block *wane__class_take(enum wane__kind kind, unsigned class);
/* Gives a swept group back. has_room: it may have free slots. */
void wane__class_give(struct wane__block *block, bool has_room);

/* Takes some unswept group or large object; NULL if there is none. */
struct wane__block *wane__class_take_unswept(void);
/* What to do with a group after its sweep: to a list, or, if nothing in it
   is live, back to the free extents. Returns the bytes freed that way. */
size_t wane__class_file_swept(struct wane__block *block);

void wane__class_add_large(struct wane__block *block);

/* A group becomes unswept: a cache let go of it at a flip. STW. */
void wane__class_give_unswept_stw(struct wane__block *block);
void wane__class_flip_stw(void);

/* In the child of fork: the lists anew from the blocks' states. */
void wane__class_rebuild(void);

#endif
