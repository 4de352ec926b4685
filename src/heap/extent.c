/* Segregated lists of free runs with boundary tags (Knuth, TAOCP 1, 2.5);
   see extent.h. */
#include "extent.h"

#include <errno.h>

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/lock.h"
#include "../base/os.h"

#define EXTENT_EXACT 64u
#define EXTENT_LISTS (EXTENT_EXACT + 40)

/* All lock: extent_lock. */
static struct wane__lock extent_lock = WANE__LOCK_INIT(WANE__RANK_PAGES);
static struct wane__block *extent_lists[EXTENT_LISTS];
static size_t extent_free_dirty_blocks;
static size_t extent_free_blocks;
static size_t extent_released_bytes;
static uint32_t extent_now;

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

static void extent_link_locked(struct wane__block *block, size_t blocks) {
  struct wane__block **list = &extent_lists[extent_list_of(blocks)];
  block->blocks = (uint32_t)blocks;
  block[blocks - 1].blocks = (uint32_t)blocks;
  block->prev = NULL;
  block->next = *list;
  if (*list != NULL) {
    (*list)->prev = block;
  }
  *list = block;
}

static void extent_unlink_locked(struct wane__block *block) {
  if (block->next != NULL) {
    block->next->prev = block->prev;
  }
  if (block->prev != NULL) {
    block->prev->next = block->next;
  } else {
    extent_lists[extent_list_of(block->blocks)] = block->next;
  }
  block->next = block->prev = NULL;
}

/* Blocks to skip at the front so that the rest is aligned. */
static size_t extent_skip(const struct wane__block *block, size_t alignment) {
  return -wane__block_idx(block) & (alignment - 1);
}

static size_t extent_count_dirty(const struct wane__block *block,
                                 size_t blocks) {
  size_t dirty = 0;
  for (size_t i = 0; i < blocks; i++) {
    dirty += !block[i].clean;
  }
  return dirty;
}

static struct wane__block *extent_find_locked(size_t blocks, size_t alignment) {
  for (unsigned l = extent_list_of(blocks); l < EXTENT_LISTS; l++) {
    struct wane__block *best = NULL;
    for (struct wane__block *b = extent_lists[l]; b != NULL; b = b->next) {
      bool fits = b->blocks >= blocks + extent_skip(b, alignment);
      /* in the lists of mixed lengths, the shortest that fits */
      if (fits && (best == NULL || b->blocks < best->blocks)) {
        best = b;
      }
      if (best != NULL && l < EXTENT_EXACT) {
        break;
      }
    }
    if (best != NULL) {
      return best;
    }
  }
  return NULL;
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
  size_t grown = (wane__arena.committed >> WANE__BLOCK_LOG2) - before;
  struct wane__block *block = &wane__blocks[before];
  extent_free_blocks += grown;
  if (extent_is_free(&block[-1])) {
    struct wane__block *left = block - block[-1].blocks;
    grown += left->blocks;
    extent_unlink_locked(left);
    block = left;
  }
  extent_link_locked(block, grown);
  return true;
}

struct wane__block *wane__extent_take(size_t blocks, size_t alignment,
                                      bool grow) {
  wane__lock_acquire(&extent_lock);
  struct wane__block *block = extent_find_locked(blocks, alignment);
  if (block == NULL && grow && extent_grow_locked(blocks + alignment - 1)) {
    block = extent_find_locked(blocks, alignment);
  }
  if (block != NULL) {
    size_t have = block->blocks;
    size_t skip = extent_skip(block, alignment);
    extent_unlink_locked(block);
    if (skip > 0) {
      extent_link_locked(block, skip);
      block += skip;
      have -= skip;
    }
    if (have > blocks) {
      extent_link_locked(block + blocks, have - blocks);
    }
    block->blocks = (uint32_t)blocks;
    extent_free_blocks -= blocks;
    extent_free_dirty_blocks -= extent_count_dirty(block, blocks);
    /* until it is assigned, no neighbour may merge with it */
    wane__store_relaxed(&block->state, WANE__BLOCK_INSIDE);
    wane__store_relaxed(&block[blocks - 1].state, WANE__BLOCK_INSIDE);
  } else {
    errno = ENOMEM;
  }
  wane__lock_release(&extent_lock);
  return block;
}

void wane__extent_give(struct wane__block *block, size_t blocks) {
  wane__lock_acquire(&extent_lock);
  size_t count = wane__arena.committed >> WANE__BLOCK_LOG2;
  extent_free_blocks += blocks;
  extent_free_dirty_blocks += extent_count_dirty(block, blocks);
  for (size_t i = 0; i < blocks; i++) {
    wane__store_relaxed(&block[i].state, WANE__BLOCK_FREE);
    block[i].free_tick = extent_now;
  }
  size_t idx = wane__block_idx(block);
  WANE_CHECK(idx > 0, "INV-block-4: block 0 is never in use");
  if (extent_is_free(&block[-1])) {
    struct wane__block *left = block - block[-1].blocks;
    extent_unlink_locked(left);
    blocks += left->blocks;
    block = left;
  }
  idx = wane__block_idx(block);
  if (idx + blocks < count && extent_is_free(&block[blocks])) {
    struct wane__block *right = block + blocks;
    extent_unlink_locked(right);
    blocks += right->blocks;
  }
  extent_link_locked(block, blocks);
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
    for (struct wane__block *b = extent_lists[l]; b != NULL; b = b->next) {
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
  size_t blocks = wane__arena.committed >> WANE__BLOCK_LOG2;
  size_t used = blocks > 0 ? blocks - 1 - extent_free_blocks : 0;
  out->used_bytes = used << WANE__BLOCK_LOG2;
  out->free_dirty_bytes = extent_free_dirty_blocks << WANE__BLOCK_LOG2;
  out->released_bytes = extent_released_bytes;
  wane__lock_release(&extent_lock);
}

void wane__extent_rebuild(void) {
  wane__lock_reset(&extent_lock);
  for (unsigned l = 0; l < EXTENT_LISTS; l++) {
    extent_lists[l] = NULL;
  }
  extent_free_blocks = extent_free_dirty_blocks = 0;
  size_t count = wane__arena.committed >> WANE__BLOCK_LOG2;
  for (size_t i = 1; i < count;) { /* INV-block-4 */
    struct wane__block *block = &wane__blocks[i];
    if (block->state == WANE__BLOCK_SMALL ||
        block->state == WANE__BLOCK_LARGE) {
      i += block->blocks;
      continue;
    }
    size_t n = 0;
    for (; i < count && (wane__blocks[i].state == WANE__BLOCK_FREE ||
                         wane__blocks[i].state == WANE__BLOCK_INSIDE);
         i++, n++) {
      if (wane__blocks[i].state == WANE__BLOCK_INSIDE) {
        /* without a group before it: a vanished thread had it */
        wane__blocks[i].clean = false;
      }
      wane__blocks[i].state = WANE__BLOCK_FREE;
      wane__block_map[i].head = 0;
    }
    extent_free_blocks += n;
    extent_free_dirty_blocks += extent_count_dirty(block, n);
    extent_link_locked(block, n);
  }
}
