/*
 * Extents: runs of free blocks, merged with their neighbours at once.
 *
 * Free extents hang on lists by length: one list for each length up to 64
 * blocks, one for each doubling above. The first and the last block of an
 * extent carry its length, so that a neighbour being freed finds it. Taking
 * prefers the shortest list that must fit, and cuts the front off.
 *
 * Memory of free blocks goes back to the system in two ways (see
 * collect/background): while the program allocates, what lies beyond the
 * goal; when it rests, everything. `clean` in a block's record says that its
 * memory reads as zero.
 */
#ifndef WANE_HEAP_EXTENT_H
#define WANE_HEAP_EXTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"

/* A run of blocks off all lists, the first and the last INSIDE; its first
   record's `blocks` is set. alignment is in blocks, a power of two. Grows the
   arena only if grow is true. NULL with ENOMEM. */
struct wane__block *wane__extent_take(size_t blocks, size_t alignment,
                                      bool grow);

/* Returns a run; merges it with free neighbours. */
void wane__extent_give(struct wane__block *block, size_t blocks);

/* Releases memory of free blocks that have been free since before tick, up
   to budget bytes, longest extents first. Returns the bytes released. */
size_t wane__extent_release(size_t budget_bytes, uint32_t before_tick);

/* Advances the clock by which freeing is dated. */
uint32_t wane__extent_tick(void);

/* Bytes of blocks in use, of free blocks that may have memory behind them,
   and given back so far. */
struct wane__extent_totals {
  size_t used_bytes;
  size_t free_dirty_bytes;
  size_t released_bytes;
};
void wane__extent_read_totals(struct wane__extent_totals *out);

/* In the child of fork: rebuilds the lists from the blocks' states. */
void wane__extent_rebuild(void);

#endif
