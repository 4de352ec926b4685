/*
 * The queue of ranges still to be scanned: roots, large objects, and pages that
 * were written while marking. Markers take pieces of it, so that one large
 * array keeps all of them busy.
 */
#ifndef WANE_MARK_RANGE_H
#define WANE_MARK_RANGE_H

#include <stdbool.h>
#include <stdint.h>

struct wane_type;

#define WANE__RANGE_PIECE_BYTES 32768u

struct wane__mark_range {
  uintptr_t start; /* multiples of a word; of an element if typed */
  uintptr_t end;
  const struct wane_type *type; /* NULL: any word may be a pointer */
  bool is_written; /* of the heap: what is marked there is scanned again */
};

/* Reserves its memory, once; false with ENOMEM. */
bool wane__range_prepare(void);
/* False if it is full: the caller scans the range itself. */
bool wane__range_push(struct wane__mark_range range);
/* Takes a piece of at most 32 KiB, or one element. */
bool wane__range_take(struct wane__mark_range *out);
/* Empties it. */
void wane__range_fork_child(void);
/* A hint: exact when all markers are hungry. */
bool wane__range_is_left(void);

#endif
