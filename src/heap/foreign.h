/*
 * Which pages outside the arena the collector looks after: adopted ranges, and
 * for each the address of its stand-in, an object in the arena that is marked
 * and dies in its place (heap/outside.h).
 *
 * Whatever turns a word into an object asks here about words that are not in
 * the arena, and goes on with the stand-in's address. While there is no range,
 * that is one comparison, and of the marker's loop none.
 *
 * The ranges are disjoint and kept in a treap by address (Seidel, Aragon:
 * Randomized search trees, 1996). All who look take a lock, for moments:
 * threads of the program are guarded then, so that nobody holds it in a stop;
 * markers take it as well, since the program may adopt and give up ranges while
 * they mark. What they ask for is mostly beside the ranges, where malloc and
 * libraries are: for them there is a bit for each 64 KiB of address space,
 * modulo 16 GiB, in which a range was; for the others, a sorted array that is
 * made before a cycle, if ranges have come or gone.
 *
 * INV-foreign-1: a range is there from before its stand-in can be marked until
 *   its stand-in is dead, and not any more when its release begins.
 */
#ifndef WANE_HEAP_FOREIGN_H
#define WANE_HEAP_FOREIGN_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "block.h"

/* All ranges lie within these bounds, which only widen while there is one. They
   are in the library's own data, which is scanned, and either may be an address
   in a range: so they are kept as complements. */
struct wane__foreign_bounds {
  uintptr_t not_start;
  uintptr_t not_bytes; /* of 0: there is none. Both: written by release, this
                          one first; read by acquire, this one last */
};
extern struct wane__foreign_bounds wane__foreign_bounds;

/* Adds [start, end) for which an address of the arena stands in. 0, or an errno
   value: EINVAL, it overlaps with another; ENOMEM. Guarded. */
int wane__foreign_add(uintptr_t start, uintptr_t end, uintptr_t stand_in);
/* Removes the range that begins there, if there is one. Guarded. */
void wane__foreign_remove(uintptr_t start);

/* Before a cycle: forgets where ranges were that are gone, and sorts what there
   are. Not guarded. */
void wane__foreign_prepare(void);

/* The stand-in of the range that a word is in, or 0. Guarded; and by what was
   prepared before the cycle: markers, STW. */
uintptr_t wane__foreign_search(uintptr_t word);
uintptr_t wane__foreign_search_marking(uintptr_t word);

WANE_INLINE_SCAN bool wane__foreign_may_hold(uintptr_t word) {
  uintptr_t start = ~wane__load_acquire(&wane__foreign_bounds.not_start);
  return word - start < ~wane__load_acquire(&wane__foreign_bounds.not_bytes);
}

static inline bool wane__foreign_is_any(void) {
  return ~wane__load_acquire(&wane__foreign_bounds.not_bytes) != 0;
}

/* Guarded. */
static inline uintptr_t wane__foreign_stand_in(uintptr_t word) {
  return WANE_UNLIKELY(wane__foreign_may_hold(word))
             ? wane__foreign_search(word)
             : 0;
}

/* What a word leads to, as an address of the arena if there is one: a word into
   a range leads to its stand-in. Markers, STW. */
static inline uintptr_t wane__foreign_translate(uintptr_t word) {
  uintptr_t stand_in = 0;
  if (word - wane__arena.start >= wane__arena.committed &&
      wane__foreign_may_hold(word)) {
    stand_in = wane__foreign_search_marking(word);
  }
  return stand_in != 0 ? stand_in : word;
}

/* Around fork: it is whole in the child. */
void wane__foreign_fork_prepare(void);
void wane__foreign_fork_parent(void);
/* In the child, later: ranges whose stand-in is gone are. */
void wane__foreign_rebuild(void);

#endif
