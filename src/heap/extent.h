/*
 * Extents: runs of free blocks, merged with their neighbours at once.
 *
 * Free extents hang on lists by length: one list for each length up to 64
 * blocks, one for each doubling above. The first and the last block of an
 * extent carry its length, so that a neighbour being freed finds it. Taking
 * prefers the shortest list that must fit, and cuts the front off.
 *
 * There are two spaces, which never merge: the heap's, and one for what is
 * not memory of the heap (heap/outside.h), whose free addresses are reserved
 * without access. Where one begins behind the other, the first block is a wall.
 * When the arena cannot grow any more, a free run of one is made one of the
 * other.
 *
 * Memory of free blocks of the heap goes back to the system in two ways (see
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

/* The same for addresses outside the heap, at which nothing is mapped when
   they are given back; `blocks` says how many. Taking grows the arena. */
struct wane__block *wane__extent_take_outside(size_t blocks);
void wane__extent_give_outside(struct wane__block *block);

/* Releases memory of free blocks that have been free since before tick, up
   to budget bytes, longest extents first. Returns the bytes released. */
size_t wane__extent_release(size_t budget_bytes, uint32_t before_tick);

/* Advances the clock by which freeing is dated. */
uint32_t wane__extent_tick(void);

/* Of the heap: bytes of blocks in use, of free blocks that may have memory
   behind them, and given back so far. */
struct wane__extent_totals {
  size_t used_bytes;
  size_t free_dirty_bytes;
  size_t released_bytes;
  size_t outside_used_blocks;
  size_t outside_left_blocks; /* that could still be taken */
};
void wane__extent_read_totals(struct wane__extent_totals *out);

/* Around fork: runs are whole in the child. */
void wane__extent_fork_prepare(void);
void wane__extent_fork_parent(void);
void wane__extent_fork_child(void);
/* In the child, later: rebuilds the lists from the blocks' states. */
void wane__extent_rebuild(void);

/* Blocks of the arena, all of which are known to be of one space or the other.
 */
size_t wane__extent_block_count(void);

#endif
