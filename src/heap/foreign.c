/* A treap of address ranges; see foreign.h. */
#include "foreign.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "../base/meta.h"
#include "../base/spin.h"
#include "context.h"

struct foreign_range {
  struct foreign_range *left; /* the first word, as wane__meta_take has it */
  struct foreign_range *right;
  uintptr_t start;
  uintptr_t end;
  uintptr_t stand_in;
  uint64_t priority; /* no child's is higher */
};

static struct wane__spin foreign_lock = WANE__SPIN_INIT(WANE__RANK_FOREIGN);
static size_t foreign_count;               /* of ranges. lock: foreign_lock */
static struct foreign_range *foreign_root; /* lock: foreign_lock; STW */
static uint64_t *foreign_filter; /* lock: foreign_lock; STW. NULL: no range
                                    was ever there */
static bool foreign_is_stale;    /* lock: foreign_lock */
static struct wane__meta_list foreign_unused; /* lock: meta */
struct wane__foreign_bounds wane__foreign_bounds = {.not_bytes = UINTPTR_MAX};

#define FILTER_BITS ((uintptr_t)1 << 18)
#define FILTER_BYTES (FILTER_BITS / 8)
#define FILTER_SHIFT 16
#define SORTED_MIN ((size_t)64)

static void filter_add_locked(const struct foreign_range *range) {
  uintptr_t first = range->start >> FILTER_SHIFT;
  uintptr_t last = (range->end - 1) >> FILTER_SHIFT;
  if (last - first >= FILTER_BITS) {
    memset(foreign_filter, 0xff, FILTER_BYTES);
    return;
  }
  for (uintptr_t i = first; i <= last; i++) {
    foreign_filter[i % FILTER_BITS / 64] |= (uint64_t)1 << i % 64;
  }
}

/* All ranges in order of address, for the markers: searching them touches fewer
   cache lines than the treap. All lock: foreign_lock; STW. */
static struct {
  uintptr_t *starts;
  const struct foreign_range **ranges;
  size_t count;
  size_t capacity;
  bool is_current;
} sorted;

/* Room for all; false: no memory. */
static bool sorted_make_room_locked(void) {
  size_t capacity = sorted.capacity != 0 ? sorted.capacity : SORTED_MIN;
  while (capacity < foreign_count) {
    capacity *= 2;
  }
  if (capacity == sorted.capacity) {
    return true;
  }
  uintptr_t *starts = wane__meta_alloc(capacity * sizeof *starts);
  const struct foreign_range **ranges =
      starts != NULL ? wane__meta_alloc(capacity * sizeof *ranges) : NULL;
  if (ranges == NULL) {
    return false;
  }
  sorted.starts = starts;
  sorted.ranges = ranges;
  sorted.capacity = capacity;
  return true;
}

/* In order. As deep as the treap, which is some times the logarithm of its
   size. */
static void sorted_add_locked(const struct foreign_range *tree) {
  for (; tree != NULL; tree = tree->right) {
    sorted_add_locked(tree->left);
    sorted.starts[sorted.count] = tree->start;
    sorted.ranges[sorted.count++] = tree;
  }
}

static void sorted_fill_locked(void) {
  sorted.count = 0;
  sorted.is_current = sorted_make_room_locked();
  if (sorted.is_current) {
    sorted_add_locked(foreign_root);
  }
}

/* The last range that does not begin behind the word has it, or none has. */
static uintptr_t sorted_search_locked(uintptr_t word) {
  const uintptr_t *at = sorted.starts;
  size_t left = sorted.count;
  while (left > 1) { /* without a branch that could be guessed wrong */
    size_t half = left / 2;
    at += at[half] <= word ? half : 0;
    left -= half;
  }
  if (left == 0 || *at > word) {
    return 0;
  }
  const struct foreign_range *range = sorted.ranges[at - sorted.starts];
  return word < range->end ? range->stand_in : 0;
}

static bool filter_holds_locked(uintptr_t word) {
  uintptr_t i = word >> FILTER_SHIFT;
  return (foreign_filter[i % FILTER_BITS / 64] >> i % 64 & 1) != 0;
}

static void filter_add_all_locked(const struct foreign_range *tree) {
  for (; tree != NULL; tree = tree->right) {
    filter_add_locked(tree);
    filter_add_all_locked(tree->left);
  }
}

void wane__foreign_prepare(void) {
  struct wane__context *self = wane__guard_enter_any();
  wane__spin_acquire(&foreign_lock);
  if (foreign_is_stale) {
    memset(foreign_filter, 0, FILTER_BYTES);
    filter_add_all_locked(foreign_root);
    foreign_is_stale = false;
  }
  if (!sorted.is_current && foreign_root != NULL) {
    sorted_fill_locked();
  }
  wane__spin_release(&foreign_lock);
  wane__guard_leave_any(self);
}

static bool foreign_overlaps_locked(uintptr_t start, uintptr_t end) {
  const struct foreign_range *at = foreign_root;
  while (at != NULL && (end <= at->start || start >= at->end)) {
    at = end <= at->start ? at->left : at->right;
  }
  return at != NULL;
}

/* Cuts a tree in two: what lies below key, and the rest. */
static void foreign_split(struct foreign_range *tree, uintptr_t key,
                          struct foreign_range **below,
                          struct foreign_range **rest) {
  while (tree != NULL) {
    if (tree->start < key) {
      *below = tree;
      below = &tree->right;
      tree = tree->right;
    } else {
      *rest = tree;
      rest = &tree->left;
      tree = tree->left;
    }
  }
  *below = *rest = NULL;
}

/* Puts two trees together at *at; all of the first lies below the second. */
static void foreign_join(struct foreign_range *below,
                         struct foreign_range *above,
                         struct foreign_range **at) {
  while (below != NULL && above != NULL) {
    if (below->priority >= above->priority) {
      *at = below;
      at = &below->right;
      below = below->right;
    } else {
      *at = above;
      at = &above->left;
      above = above->left;
    }
  }
  *at = below != NULL ? below : above;
}

static void foreign_insert_locked(struct foreign_range *fresh) {
  struct foreign_range **at = &foreign_root;
  while (*at != NULL && (*at)->priority >= fresh->priority) {
    at = fresh->start < (*at)->start ? &(*at)->left : &(*at)->right;
  }
  foreign_split(*at, fresh->start, &fresh->left, &fresh->right);
  *at = fresh;
}

/* Whoever reads the new start reads the new bytes, too. */
static void foreign_widen_locked(uintptr_t start, uintptr_t end) {
  struct wane__foreign_bounds *bounds = &wane__foreign_bounds;
  if (wane__foreign_is_any()) {
    uintptr_t low = ~bounds->not_start;
    uintptr_t high = low + ~bounds->not_bytes;
    start = start < low ? start : low;
    end = end > high ? end : high;
  }
  wane__store_release(&bounds->not_bytes, ~(end - start));
  wane__store_release(&bounds->not_start, ~start);
}

/* As good as random, whatever the distances between ranges are: the finalizer
   of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
   generators, 2014). */
static uint64_t foreign_mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

/* The filter, made at the first use. NULL: no memory. Guarded. */
static uint64_t *filter_get(void) {
  static uint64_t *made; /* set once. release, acquire */
  uint64_t *filter = wane__load_acquire(&made);
  uint64_t *none = NULL;
  if (filter == NULL && (filter = wane__meta_alloc(FILTER_BYTES)) != NULL &&
      !wane__cas(&made, &none, filter)) {
    filter = none; /* another thread was faster */
  }
  return filter;
}

int wane__foreign_add(uintptr_t start, uintptr_t end, uintptr_t stand_in) {
  struct foreign_range *fresh = wane__meta_take(&foreign_unused, sizeof *fresh);
  uint64_t *filter = fresh != NULL ? filter_get() : NULL;
  if (filter == NULL) {
    return ENOMEM;
  }
  *fresh = (struct foreign_range){.start = start,
                                  .end = end,
                                  .stand_in = stand_in,
                                  .priority = foreign_mix(start)};
  wane__spin_acquire(&foreign_lock);
  foreign_filter = filter;
  bool overlaps = foreign_overlaps_locked(start, end);
  if (!overlaps) {
    foreign_insert_locked(fresh);
    filter_add_locked(fresh);
    foreign_count++;
    sorted.is_current = false;
    foreign_widen_locked(start, end);
  }
  wane__spin_release(&foreign_lock);
  if (overlaps) {
    wane__meta_give(&foreign_unused, fresh);
  }
  return overlaps ? EINVAL : 0;
}

void wane__foreign_remove(uintptr_t start) {
  wane__spin_acquire(&foreign_lock);
  struct foreign_range **at = &foreign_root;
  while (*at != NULL && (*at)->start != start) {
    at = start < (*at)->start ? &(*at)->left : &(*at)->right;
  }
  struct foreign_range *range = *at;
  if (range != NULL) {
    foreign_join(range->left, range->right, at);
    foreign_is_stale = true;
    foreign_count--;
    sorted.is_current = false;
  }
  if (foreign_root == NULL) {
    wane__store_release(&wane__foreign_bounds.not_bytes, UINTPTR_MAX);
  }
  wane__spin_release(&foreign_lock);
  if (range != NULL) {
    wane__meta_give(&foreign_unused, range);
  }
}

static uintptr_t foreign_search(uintptr_t word) {
  const struct foreign_range *at = foreign_root;
  while (at != NULL && (word < at->start || word >= at->end)) {
    at = word < at->start ? at->left : at->right;
  }
  return at != NULL ? at->stand_in : 0;
}

/* With the lock, as the program may be adopting while it marks. */
uintptr_t wane__foreign_search_marking(uintptr_t word) {
  wane__spin_acquire(&foreign_lock);
  uintptr_t found = !filter_holds_locked(word) ? 0
                    : sorted.is_current        ? sorted_search_locked(word)
                                               : foreign_search(word);
  wane__spin_release(&foreign_lock);
  return found;
}

uintptr_t wane__foreign_search(uintptr_t word) {
  wane__spin_acquire(&foreign_lock);
  uintptr_t stand_in = foreign_search(word);
  wane__spin_release(&foreign_lock);
  return stand_in;
}

/* Takes over a tree's ranges, but for those of which no release will come. */
static void foreign_keep(struct foreign_range *tree) {
  if (tree == NULL) {
    return;
  }
  struct foreign_range *left = tree->left;
  struct foreign_range *right = tree->right;
  const struct wane__block *block = wane__block_at(tree->stand_in);
  if (block->state == WANE__BLOCK_LARGE && block->stands_for == tree->start) {
    foreign_insert_locked(tree);
    foreign_count++;
  } else {
    wane__meta_give(&foreign_unused, tree);
  }
  foreign_keep(left);
  foreign_keep(right);
}

void wane__foreign_rebuild(void) {
  struct foreign_range *all = foreign_root;
  foreign_root = NULL;
  foreign_count = 0;
  foreign_is_stale = foreign_filter != NULL;
  sorted.is_current = false;
  foreign_keep(all);
  if (foreign_root == NULL) {
    wane__store_release(&wane__foreign_bounds.not_bytes, UINTPTR_MAX);
  }
}

void wane__foreign_fork_prepare(void) { wane__spin_acquire(&foreign_lock); }

void wane__foreign_fork_parent(void) { wane__spin_release(&foreign_lock); }
