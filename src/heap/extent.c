/* Segregated lists of free runs with boundary tags (Knuth, TAOCP 1, 2.5);
   see extent.h. */
#include "extent.h"

#include <errno.h>

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "../base/os.h"
#include "../base/poison.h"
#include "outside.h"

#define EXTENT_EXACT 64u
#define EXTENT_LISTS (EXTENT_EXACT + 40)
/* How many to look at for a better fit, once there is one. */
#define EXTENT_LOOKS 32u

struct extent_space {
  struct wane__block *lists[EXTENT_LISTS];
  size_t blocks; /* in all */
  size_t free_blocks;
};

/* All lock: extent_lock. */
static struct wane__lock extent_lock = WANE__LOCK_INIT(WANE__RANK_PAGES);
static struct extent_space extent_heap;
static struct extent_space extent_outside;
static size_t extent_free_dirty_blocks; /* of the heap */
static size_t extent_released_bytes;
static uint32_t extent_now;
static bool extent_ends_outside; /* the arena's last block is */

/* Blocks of a neighbour in use change their state without the lock, but never
   to FREE and never from it. */
static bool extent_is_free(const struct wane__block *block) {
  return wane__load_relaxed(&block->state) == WANE__BLOCK_FREE;
}

/* The list for extents of a length: 1..64 by length, then by log2. */
static unsigned extent_list_of(size_t blocks) {
  if (blocks <= EXTENT_EXACT) {
    return (unsigned)blocks - 1;
  }
  return EXTENT_EXACT + 58 - (unsigned)__builtin_clzll(blocks - 1) - 1;
}

/* Of an extent outside the heap only the first and the last block's state is
   kept up: it may have millions. The others' is FREE or INSIDE. */
static void extent_set_ends(struct wane__block *block, size_t blocks,
                            enum wane__block_state state) {
  wane__store_relaxed(&block->state, (uint8_t)state);
  wane__store_relaxed(&block[blocks - 1].state, (uint8_t)state);
}

static void extent_link_locked(struct extent_space *space,
                               struct wane__block *block, size_t blocks) {
  struct wane__block **list = &space->lists[extent_list_of(blocks)];
  extent_set_ends(block, blocks, WANE__BLOCK_FREE);
  block->blocks = (uint32_t)blocks;
  block[blocks - 1].blocks = (uint32_t)blocks;
  block->prev = NULL;
  block->next = *list;
  if (*list != NULL) {
    (*list)->prev = block;
  }
  *list = block;
}

static void extent_unlink_locked(struct extent_space *space,
                                 struct wane__block *block) {
  if (block->next != NULL) {
    block->next->prev = block->prev;
  }
  if (block->prev != NULL) {
    block->prev->next = block->next;
  } else {
    space->lists[extent_list_of(block->blocks)] = block->next;
  }
  block->next = block->prev = NULL;
}

/* A word of which only the low half was written, with a small number, and whose
   high half is that of some old address, points to the first blocks at a
   multiple of 4 GiB. Stacks are full of such words, so nothing is placed there
   but what has half that length anyway. */
#define HALF_WORD_LOG2 32
#define HALF_WORD_BLOCKS 2u
/* The first growth may end up on both sides of these. */
#define GROWTHS 2

/* Blocks from the last such multiple to block. */
static size_t extent_from_half_word(const struct wane__block *block) {
  return (wane__block_start(block) & (((uintptr_t)1 << HALF_WORD_LOG2) - 1)) >>
         WANE__BLOCK_LOG2;
}

/* Blocks to skip at the front, so that blocks behind are aligned and hold none
   of those. */
static size_t extent_skip(const struct wane__block *block, size_t blocks,
                          size_t alignment) {
  const size_t period = (size_t)1 << (HALF_WORD_LOG2 - WANE__BLOCK_LOG2);
  size_t skip = -wane__block_idx(block) & (alignment - 1);
  size_t from = extent_from_half_word(block + skip);
  if (blocks >= period / 2 ||
      (from >= HALF_WORD_BLOCKS && from + blocks <= period)) {
    return skip;
  }
  skip += from < HALF_WORD_BLOCKS ? HALF_WORD_BLOCKS - from
                                  : period - from + HALF_WORD_BLOCKS;
  return skip + (-(wane__block_idx(block) + skip) & (alignment - 1));
}

static size_t extent_count_dirty(const struct wane__block *block,
                                 size_t blocks) {
  size_t dirty = 0;
  for (size_t i = 0; i < blocks; i++) {
    dirty += !block[i].clean;
  }
  return dirty;
}

static struct wane__block *extent_find_locked(const struct extent_space *space,
                                              size_t blocks, size_t alignment) {
  for (unsigned l = extent_list_of(blocks); l < EXTENT_LISTS; l++) {
    struct wane__block *best = NULL;
    unsigned left = EXTENT_LOOKS;
    for (struct wane__block *b = space->lists[l]; b != NULL && left > 0;
         b = b->next) {
      bool fits = b->blocks >= blocks + extent_skip(b, blocks, alignment);
      /* in the lists of mixed lengths, the shortest that fits */
      if (fits && (best == NULL || b->blocks < best->blocks)) {
        best = b;
      }
      left -= best != NULL;
      if (best != NULL && (l < EXTENT_EXACT || best->blocks == blocks)) {
        break;
      }
    }
    if (best != NULL) {
      return best;
    }
  }
  return NULL;
}

/* Puts a run on a list of the space, merged with free neighbours in it. */
static void extent_file_locked(struct extent_space *space,
                               struct wane__block *block, size_t blocks) {
  size_t count = wane__arena.committed >> WANE__BLOCK_LOG2;
  size_t idx = wane__block_idx(block);
  WANE_CHECK(idx > 0, "INV-block-4: block 0 is never in use");
  space->free_blocks += blocks;
  extent_set_ends(block, blocks, WANE__BLOCK_FREE); /* inside another, soon */
  if (!block->is_wall && extent_is_free(&block[-1])) {
    struct wane__block *left = block - block[-1].blocks;
    extent_unlink_locked(space, left);
    blocks += left->blocks;
    block = left;
  }
  idx = wane__block_idx(block);
  if (idx + blocks < count && !block[blocks].is_wall &&
      extent_is_free(&block[blocks])) {
    struct wane__block *right = block + blocks;
    extent_unlink_locked(space, right);
    blocks += right->blocks;
  }
  extent_link_locked(space, block, blocks);
}

/* Adds what the arena has grown by since it had before blocks. */
static void extent_add_locked(struct extent_space *space, size_t before) {
  bool is_outside = space == &extent_outside;
  struct wane__block *block = &wane__blocks[before];
  size_t grown = (wane__arena.committed >> WANE__BLOCK_LOG2) - before;
  block->is_wall = is_outside != extent_ends_outside;
  extent_ends_outside = is_outside;
  space->blocks += grown;
  extent_file_locked(space, block, grown);
}

static bool extent_grow_locked(size_t blocks) {
  size_t before = wane__arena.committed >> WANE__BLOCK_LOG2;
  if (!wane__arena_grow_locked(before == 0 ? blocks + 1 : blocks)) {
    return false;
  }
  if (before == 0) { /* INV-block-4 */
    wane__blocks[0].state = WANE__BLOCK_INSIDE;
    before = 1;
  }
  extent_add_locked(&extent_heap, before);
  return true;
}

/* The arena begins with the heap, whose first block is never used. */
static bool extent_grow_outside_locked(size_t blocks) {
  if (wane__arena.committed == 0 && !extent_grow_locked(1)) {
    return false;
  }
  size_t before = wane__arena.committed >> WANE__BLOCK_LOG2;
  if (!wane__arena_grow_outside_locked(blocks)) {
    return false;
  }
  extent_add_locked(&extent_outside, before);
  return true;
}

/* Takes blocks out of a free run that has room for them at the alignment. */
static struct wane__block *extent_cut_locked(struct extent_space *space,
                                             struct wane__block *block,
                                             size_t blocks, size_t alignment) {
  size_t have = block->blocks;
  size_t skip = extent_skip(block, blocks, alignment);
  extent_unlink_locked(space, block);
  if (skip > 0) {
    extent_link_locked(space, block, skip);
    block += skip;
    have -= skip;
  }
  if (have > blocks) {
    extent_link_locked(space, block + blocks, have - blocks);
  }
  block->blocks = (uint32_t)blocks;
  space->free_blocks -= blocks;
  /* until it is assigned, no neighbour may merge with it */
  extent_set_ends(block, blocks, WANE__BLOCK_INSIDE);
  return block;
}

/* A run changes sides: both its ends become walls, or cease to be. */
static void extent_flip_walls_locked(struct wane__block *block, size_t blocks) {
  size_t end = wane__block_idx(block) + blocks;
  block->is_wall = !block->is_wall;
  if (end < wane__arena.committed >> WANE__BLOCK_LOG2) {
    wane__blocks[end].is_wall = !wane__blocks[end].is_wall;
  } else {
    extent_ends_outside = !extent_ends_outside;
  }
}

/* Makes a run memory of the heap, none of whose blocks was touched, or
   addresses without memory. */
static bool extent_convert_memory(struct wane__block *block, size_t blocks,
                                  bool to_heap) {
  void *start = (void *)wane__block_start(block);
  size_t bytes = blocks << WANE__BLOCK_LOG2;
  if (!to_heap) {
    wane__poison_allow(start, bytes);
    return wane__os_decommit(start, bytes);
  }
  if (!wane__os_commit(start, bytes)) {
    return false;
  }
  for (size_t i = 0; i < blocks; i++) {
    wane__store_relaxed(&block[i].state, WANE__BLOCK_FREE);
    block[i].outside = WANE__OUTSIDE_NOT;
    block[i].clean = true;
  }
  return true;
}

/* Where the arena cannot grow: takes free blocks from one space for the other.
   False: there are not so many in a row, or the system says no. */
static bool extent_convert_locked(struct extent_space *from,
                                  struct extent_space *to, size_t blocks) {
  bool to_heap = to == &extent_heap;
  struct wane__block *block = extent_find_locked(from, blocks, 1);
  if (block == NULL) {
    return false;
  }
  block = extent_cut_locked(from, block, blocks, 1);
  extent_free_dirty_blocks -= to_heap ? 0 : extent_count_dirty(block, blocks);
  if (!extent_convert_memory(block, blocks, to_heap)) {
    extent_free_dirty_blocks += to_heap ? 0 : extent_count_dirty(block, blocks);
    extent_file_locked(from, block, blocks);
    return false;
  }
  from->blocks -= blocks;
  to->blocks += blocks;
  extent_flip_walls_locked(block, blocks);
  extent_file_locked(to, block, blocks);
  return true;
}

struct wane__block *wane__extent_take(size_t blocks, size_t alignment,
                                      bool grow) {
  struct extent_space *space = &extent_heap;
  size_t enough = blocks + alignment - 1;
  wane__lock_acquire(&extent_lock);
  struct wane__block *block = extent_find_locked(space, blocks, alignment);
  for (int i = 0; block == NULL && grow && i < GROWTHS &&
                  (extent_grow_locked(enough) ||
                   extent_convert_locked(&extent_outside, space, enough));
       i++) {
    block = extent_find_locked(space, blocks, alignment);
  }
  if (block != NULL) {
    block = extent_cut_locked(space, block, blocks, alignment);
    extent_free_dirty_blocks -= extent_count_dirty(block, blocks);
  } else {
    errno = ENOMEM;
  }
  wane__lock_release(&extent_lock);
  return block;
}

struct wane__block *wane__extent_take_outside(size_t blocks) {
  struct extent_space *space = &extent_outside;
  wane__lock_acquire(&extent_lock);
  struct wane__block *block = extent_find_locked(space, blocks, 1);
  for (int i = 0; block == NULL && i < GROWTHS &&
                  (extent_grow_outside_locked(blocks) ||
                   extent_convert_locked(&extent_heap, space, blocks));
       i++) {
    block = extent_find_locked(space, blocks, 1);
  }
  if (block != NULL) {
    block = extent_cut_locked(space, block, blocks, 1);
  } else {
    errno = ENOMEM;
  }
  wane__lock_release(&extent_lock);
  return block;
}

void wane__extent_give(struct wane__block *block, size_t blocks) {
  wane__lock_acquire(&extent_lock);
  extent_free_dirty_blocks += extent_count_dirty(block, blocks);
  for (size_t i = 0; i < blocks; i++) {
    wane__store_relaxed(&block[i].state, WANE__BLOCK_FREE);
    block[i].free_tick = extent_now;
  }
  extent_file_locked(&extent_heap, block, blocks);
  wane__lock_release(&extent_lock);
}

void wane__extent_give_outside(struct wane__block *block) {
  wane__lock_acquire(&extent_lock);
  extent_file_locked(&extent_outside, block, block->blocks);
  wane__lock_release(&extent_lock);
}

/* Releases the dirty stretch that starts at from, at most max blocks; the
   number of blocks it spans. */
static size_t extent_release_stretch_locked(struct wane__block *from,
                                            size_t max) {
  size_t n = 0;
  while (n < max && !from[n].clean) {
    n++;
  }
  size_t bytes = n << WANE__BLOCK_LOG2;
  if (!wane__os_release((void *)wane__block_start(from), bytes)) {
    return n; /* the memory stays ours: a cost, not a fault */
  }
  for (size_t i = 0; i < n; i++) {
    from[i].clean = true;
  }
  extent_free_dirty_blocks -= n;
  extent_released_bytes += bytes;
  return n;
}

static bool extent_is_due(const struct wane__block *block,
                          uint32_t before_tick) {
  return !block->clean && (int32_t)(block->free_tick - before_tick) < 0;
}

size_t wane__extent_release(size_t budget_bytes, uint32_t before_tick) {
  wane__lock_acquire(&extent_lock);
  size_t start = extent_released_bytes;
  for (unsigned l = EXTENT_LISTS; l-- > 0;) {
    for (struct wane__block *b = extent_heap.lists[l]; b != NULL; b = b->next) {
      size_t i = 0;
      while (i < b->blocks && extent_released_bytes - start < budget_bytes) {
        size_t left = budget_bytes - (extent_released_bytes - start);
        size_t max = left / WANE__BLOCK_BYTES + (left % WANE__BLOCK_BYTES != 0);
        max = max < b->blocks - i ? max : b->blocks - i;
        i += extent_is_due(b + i, before_tick)
                 ? extent_release_stretch_locked(b + i, max)
                 : 1;
      }
    }
  }
  size_t released = extent_released_bytes - start;
  wane__lock_release(&extent_lock);
  return released;
}

uint32_t wane__extent_tick(void) {
  wane__lock_acquire(&extent_lock);
  uint32_t now = ++extent_now;
  wane__lock_release(&extent_lock);
  return now;
}

void wane__extent_read_totals(struct wane__extent_totals *out) {
  wane__lock_acquire(&extent_lock);
  size_t used = extent_heap.blocks - extent_heap.free_blocks;
  size_t unused =
      (wane__arena.reserved - wane__arena.committed) >> WANE__BLOCK_LOG2;
  size_t outside = extent_outside.blocks - extent_outside.free_blocks;
  out->used_bytes = used << WANE__BLOCK_LOG2;
  out->free_dirty_bytes = extent_free_dirty_blocks << WANE__BLOCK_LOG2;
  out->released_bytes = extent_released_bytes;
  out->outside_used_blocks = outside;
  out->outside_left_blocks = unused + extent_outside.free_blocks;
  wane__lock_release(&extent_lock);
}

void wane__extent_fork_prepare(void) { wane__lock_acquire(&extent_lock); }

void wane__extent_fork_parent(void) { wane__lock_release(&extent_lock); }

void wane__extent_fork_child(void) { wane__lock_reset(&extent_lock); }

/* The stretch of the heap's blocks at i that is in no group, and is free from
   now on; its length. */
static size_t rebuild_heap(size_t i, size_t count) {
  size_t n = 0;
  for (; i + n < count && (n == 0 || !wane__blocks[i + n].is_wall); n++) {
    struct wane__block *block = &wane__blocks[i + n];
    if (block->state == WANE__BLOCK_SMALL ||
        block->state == WANE__BLOCK_LARGE) {
      break;
    }
    if (block->state == WANE__BLOCK_INSIDE) {
      /* without a group before it: a vanished thread had it */
      block->clean = false;
    }
    wane__store_relaxed(&block->state, WANE__BLOCK_FREE);
    wane__block_map[i + n].head = 0;
  }
  extent_free_dirty_blocks += extent_count_dirty(&wane__blocks[i], n);
  return n;
}

/* One run outside the heap: its length, if it is free from now on, else 0. A
   vanished thread had it, if it is neither free nor a group's, or it waited for
   a callback that will not run here. */
static size_t rebuild_outside(size_t i) {
  struct wane__block *block = &wane__blocks[i];
  if (block->state == WANE__BLOCK_LARGE || block->state == WANE__BLOCK_LOST) {
    return 0;
  }
  if (block->state == WANE__BLOCK_INSIDE) {
    for (size_t k = 0; k < block->blocks; k++) {
      wane__block_map[i + k].head = 0;
    }
    block->ticket++; /* whoever was to end it will not, or too late */
    if (!wane__os_unmap_to_reserve((void *)wane__block_start(block),
                                   (size_t)block->blocks << WANE__BLOCK_LOG2)) {
      block->state = WANE__BLOCK_LOST;
      return 0;
    }
  }
  return block->blocks;
}

/* The stretch of such runs at i, up to the next wall. */
static size_t rebuild_outside_stretch(size_t i, size_t count) {
  size_t n = 0;
  size_t run;
  do {
    run = rebuild_outside(i + n);
    n += run;
  } while (run != 0 && i + n < count && !wane__blocks[i + n].is_wall);
  return n;
}

void wane__extent_rebuild(void) {
  bool is_heap = true;
  extent_heap = (struct extent_space){.blocks = extent_heap.blocks};
  extent_outside = (struct extent_space){.blocks = extent_outside.blocks};
  extent_free_dirty_blocks = 0;
  size_t count = wane__arena.committed >> WANE__BLOCK_LOG2;
  for (size_t i = 1; i < count;) { /* INV-block-4 */
    struct wane__block *block = &wane__blocks[i];
    is_heap = is_heap != block->is_wall;
    size_t n =
        is_heap ? rebuild_heap(i, count) : rebuild_outside_stretch(i, count);
    struct extent_space *space = is_heap ? &extent_heap : &extent_outside;
    if (n != 0) {
      extent_link_locked(space, block, n);
      space->free_blocks += n;
    }
    i += n != 0 ? n : block->blocks;
  }
}

/* The arena grows with the lock held, until its new part has its wall. */
size_t wane__extent_block_count(void) {
  wane__lock_acquire(&extent_lock);
  size_t count = wane__arena.committed >> WANE__BLOCK_LOG2;
  wane__lock_release(&extent_lock);
  return count;
}
