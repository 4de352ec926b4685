/* The arena's address space and the records of its blocks; see block.h. */
#include "block.h"

#include <errno.h>
#include <string.h>

#include "../base/atomic.h"
#include "../base/check.h"
#include "../base/meta.h"
#include "../base/options.h"
#include "../base/os.h"

#define ARENA_ALIGN (2u << 20)
#define ARENA_BYTES_MIN (8u << 20)
/* Of the arena's size, what is kept ready for records of objects to come: what
   the heap takes under a limit must not be lost for want of mark bytes. */
#define ARENA_META_READY 32u
/* The arena grows by an eighth of itself, within these bounds. */
#define ARENA_GROW_MIN (1u << 20)
#define ARENA_GROW_MAX (64u << 20)
/* For what is not the heap's by half of itself: these are addresses alone. */
#define ARENA_OUTSIDE_MIN ARENA_ALIGN
#define ARENA_OUTSIDE_MAX (1024u << 20)
/* Records for one byte of arena, in 1/256: block records and map (80 bytes
   in 32 KiB), marks (1/16 at worst), mark stacks and thread records. */
#define ARENA_META_256THS 20u
#define ARENA_META_FIXED ((size_t)512 << 20)
#define ARENA_META_FIXED_SMALL ((size_t)16 << 20)

struct wane__arena wane__arena = {
    .colour = 1, .fresh = 1, .dead = 2, .epoch = 1};
struct wane__block_map *wane__block_map;
struct wane__block *wane__blocks;

static size_t arena_meta_bytes(size_t arena_bytes, size_t left) {
  size_t fixed = left == SIZE_MAX ? ARENA_META_FIXED : ARENA_META_FIXED_SMALL;
  return arena_bytes / 256 * ARENA_META_256THS + fixed;
}

/* Under a limit on address space the program needs room as well: at most
   half of what is left is taken. */
static bool arena_reserve(size_t *bytes, void **arena, void **meta,
                          size_t *meta_bytes) {
  size_t left = wane__os_address_space_left();
  if (left != SIZE_MAX) {
    size_t fixed = ARENA_META_FIXED_SMALL + ARENA_ALIGN;
    size_t most = left / 2 > fixed ? (left / 2 - fixed) : 0;
    most = most / (256 + ARENA_META_256THS) * 256 & ~(size_t)(ARENA_ALIGN - 1);
    *bytes = *bytes < most ? *bytes : most;
  }
  for (; *bytes >= ARENA_BYTES_MIN; *bytes /= 2) {
    *meta_bytes = arena_meta_bytes(*bytes, left);
    if (left != SIZE_MAX && *bytes + *meta_bytes > left / 2) {
      continue;
    }
    *arena = wane__os_reserve(*bytes, ARENA_ALIGN);
    if (*arena == NULL) {
      continue;
    }
    *meta = wane__os_reserve(*meta_bytes, ARENA_ALIGN);
    if (*meta != NULL) {
      return true;
    }
    wane__os_unreserve(*arena, *bytes);
  }
  errno = ENOMEM;
  return false;
}

bool wane__arena_init(void) {
  if (wane__arena.start != 0) {
    return true;
  }
  size_t bytes = (size_t)wane__options.reserve_mb << 20;
  size_t meta_bytes;
  void *arena;
  void *meta;
  if (!arena_reserve(&bytes, &arena, &meta, &meta_bytes)) {
    return false;
  }
  wane__class_init();
  wane__meta_init(meta, meta_bytes);
  size_t blocks = bytes >> WANE__BLOCK_LOG2;
  wane__block_map = wane__meta_reserve(blocks * sizeof *wane__block_map);
  wane__blocks = wane__meta_reserve(blocks * sizeof *wane__blocks);
  wane__arena.reserved = bytes;
  wane__arena.start = (uintptr_t)arena;
  return true;
}

/* Commits the records of blocks [from, to) in an array of records. */
static bool arena_commit_records(void *array, size_t record_bytes, size_t from,
                                 size_t to) {
  uintptr_t mask = 65536 - 1;
  uintptr_t start = (uintptr_t)array + from * record_bytes;
  uintptr_t end = (uintptr_t)array + to * record_bytes;
  start &= ~mask; /* committed before, at least in part: harmless */
  end = (end + mask) & ~mask;
  return wane__os_commit((void *)start, end - start);
}

/* By how many bytes the arena grows, to have room for blocks; 0: it cannot. */
static size_t arena_growth(size_t blocks, size_t step) {
  const struct wane__arena *arena = &wane__arena;
  size_t need = blocks << WANE__BLOCK_LOG2;
  size_t grow = need > step ? need : step;
  if (arena->committed + grow > ARENA_ALIGN) { /* whole huge pages */
    grow += -(arena->committed + grow) & (ARENA_ALIGN - 1);
  }
  size_t left = arena->reserved - arena->committed;
  if (need > left) {
    errno = ENOMEM;
    return 0;
  }
  return grow > left ? left : grow;
}

/* Commits the records of the arena's next bytes. */
static bool arena_commit_next(size_t bytes) {
  size_t from = wane__arena.committed >> WANE__BLOCK_LOG2;
  size_t to = (wane__arena.committed + bytes) >> WANE__BLOCK_LOG2;
  return arena_commit_records(wane__block_map, sizeof *wane__block_map, from,
                              to) &&
         arena_commit_records(wane__blocks, sizeof *wane__blocks, from, to);
}

/* pairs with the acquire in wane__object_find */
static void arena_publish_locked(size_t bytes) {
  wane__store_release(&wane__arena.committed, wane__arena.committed + bytes);
}

bool wane__arena_grow_locked(size_t blocks) {
  struct wane__arena *arena = &wane__arena;
  size_t step = arena->committed / 8;
  step = step < ARENA_GROW_MIN ? ARENA_GROW_MIN : step;
  step = step > ARENA_GROW_MAX ? ARENA_GROW_MAX : step;
  size_t grow = arena_growth(blocks, step);
  if (grow == 0 ||
      !wane__meta_ensure((arena->committed + grow) / ARENA_META_READY) ||
      !arena_commit_next(grow) ||
      !wane__os_commit((void *)(arena->start + arena->committed), grow)) {
    return false;
  }
  /* the first part stays on small pages: so do small programs */
  if (wane__options.huge_pages != 0 && arena->committed >= ARENA_ALIGN) {
    wane__os_huge_pages((void *)(arena->start + arena->committed), grow);
  }
  size_t from = arena->committed >> WANE__BLOCK_LOG2;
  size_t to = (arena->committed + grow) >> WANE__BLOCK_LOG2;
  for (size_t i = from; i < to; i++) {
    wane__blocks[i].clean = true;
  }
  arena_publish_locked(grow);
  return true;
}

bool wane__arena_grow_outside_locked(size_t blocks) {
  size_t step = wane__arena.committed / 2;
  step = step < ARENA_OUTSIDE_MIN ? ARENA_OUTSIDE_MIN : step;
  step = step > ARENA_OUTSIDE_MAX ? ARENA_OUTSIDE_MAX : step;
  size_t grow = arena_growth(blocks, step);
  if (grow == 0 || !arena_commit_next(grow)) {
    return false;
  }
  arena_publish_locked(grow);
  return true;
}

/* Mark bytes come in multiples of a cache line, each size with its list. */
#define MARKS_SIZES ((WANE__BLOCK_BYTES / WANE__GRANULE_BYTES) / 64 + 2)
static struct wane__meta_list marks_lists[MARKS_SIZES]; /* lock: meta */

static size_t marks_bytes(unsigned class) {
  return ((size_t)wane__classes[class].slots + 1 + 63) & ~(size_t)63;
}

static void block_map_set(struct wane__block *block, uint8_t *marks,
                          unsigned class, enum wane__kind kind) {
  size_t first = wane__block_idx(block);
  uint64_t head = wane__block_start(block) |
                  (uint64_t) class << WANE__HEAD_CLASS_SHIFT |
                  (uint64_t)kind << WANE__HEAD_KIND_SHIFT | WANE__HEAD_USED;
  if (class == WANE__CLASS_LARGE) {
    head |= WANE__HEAD_LARGE;
  }
  for (size_t i = 0; i < block->blocks; i++) {
    /* pairs with the acquire in weak_target_lives, as the next line does: who
       sees these marks sees that the group before was dissolved */
    wane__store_release(&wane__block_map[first + i].marks, marks);
    wane__store_release(&wane__block_map[first + i].head, head);
    if (block->outside == WANE__OUTSIDE_NOT) {
      wane__store_relaxed(&wane__blocks[first + i].state, WANE__BLOCK_INSIDE);
    }
  }
}

bool wane__block_assign_small(struct wane__block *block, enum wane__kind kind,
                              unsigned class) {
  size_t bytes = marks_bytes(class);
  uint8_t *marks = wane__meta_take(&marks_lists[bytes / 64], bytes);
  if (marks == NULL) {
    return false;
  }
  memset(marks, 0, bytes);
  block->kind = (uint8_t)kind;
  block->class = (uint8_t) class;
  block->epoch = wane__arena.epoch;
  block->live = 0;
  block->next = NULL;
  block_map_set(block, marks, class, kind);
  wane__store_release(&block->state, WANE__BLOCK_SMALL);
  return true;
}

void wane__block_assign_large(struct wane__block *block, enum wane__kind kind,
                              size_t bytes, const struct wane_type *type) {
  block->kind = (uint8_t)kind;
  block->class = WANE__CLASS_LARGE;
  block->epoch = wane__arena.epoch;
  block->mark = wane__arena.fresh;
  block->mark_end = 0;
  block->large_bytes = bytes;
  block->large_type = type;
  block_map_set(block, &block->mark, WANE__CLASS_LARGE, kind);
  wane__store_release(&block->state, WANE__BLOCK_LARGE);
}

void wane__block_assign_outside(struct wane__block *block,
                                enum wane__outside sort, size_t bytes,
                                uintptr_t stands_for) {
  block->kind = WANE__KIND_LEAF;
  block->class = WANE__CLASS_LARGE;
  block->outside = (uint8_t)sort;
  block->epoch = wane__arena.epoch;
  block->mark = wane__arena.fresh;
  block->mark_end = 0;
  block->large_bytes = bytes;
  block->stands_for = stands_for;
  block_map_set(block, &block->mark, WANE__CLASS_LARGE, WANE__KIND_LEAF);
  wane__store_release(&block->state, WANE__BLOCK_LARGE);
}

void wane__block_unassign(struct wane__block *block) {
  size_t first = wane__block_idx(block);
  uint8_t *marks = wane__block_map[first].marks;
  bool small = block->state == WANE__BLOCK_SMALL;
  WANE_ASSERT(block->specials == NULL,
              "INV-group-2: records are gone before memory is used again");
  for (size_t i = 0; i < block->blocks; i++) {
    wane__store_relaxed(&wane__block_map[first + i].head, 0);
  }
  /* free only under the lock of the extents, when it can be merged */
  wane__store_relaxed(&block->state, WANE__BLOCK_INSIDE);
  if (block->outside != WANE__OUTSIDE_NOT) {
    return;
  }
  for (size_t i = 0; i < block->blocks; i++) {
    wane__store_relaxed(&block[i].state, WANE__BLOCK_INSIDE);
    block[i].clean = false;
  }
  if (small) {
    wane__meta_give(&marks_lists[marks_bytes(block->class) / 64], marks);
  }
}

void wane__block_check(const struct wane__block *block) {
#if WANE_CHECK_LEVEL >= 1
  const struct wane__block_map *map = &wane__block_map[wane__block_idx(block)];
  WANE_CHECK(map->head != 0 &&
                 wane__head_start(map->head) == wane__block_start(block),
             "INV-block-3: a group's map entry leads to its start");
  if (block->state != WANE__BLOCK_SMALL) {
    return;
  }
  size_t slots = wane__classes[block->class].slots;
  WANE_CHECK(map->marks[slots] == 0, "the byte behind the last slot is 0");
  uint8_t other = (uint8_t)(3 - wane__arena.colour);
  for (size_t i = 0;
       i < slots && block->epoch == wane__arena.epoch && !wane__is_marking();
       i++) {
    WANE_CHECK(map->marks[i] != other,
               "INV-block-2: no old colour in a swept group");
  }
#else
  (void)block;
#endif
}
