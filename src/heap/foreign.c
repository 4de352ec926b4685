/* A treap of address ranges; see foreign.h. */
#include "foreign.h"

#include <errno.h>
#include <stddef.h>

#include "../base/meta.h"
#include "../base/spin.h"

struct foreign_range {
  struct foreign_range *left; /* the first word, as wane__meta_take has it */
  struct foreign_range *right;
  uintptr_t start;
  uintptr_t end;
  uintptr_t stand_in;
  uintptr_t priority; /* no child's is higher */
};

static struct wane__spin foreign_lock = WANE__SPIN_INIT(WANE__RANK_FOREIGN);
static struct foreign_range *foreign_root;    /* lock: foreign_lock; STW */
static struct wane__meta_list foreign_unused; /* lock: meta */
struct wane__foreign_bounds wane__foreign_bounds = {.not_bytes = UINTPTR_MAX};

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

int wane__foreign_add(uintptr_t start, uintptr_t end, uintptr_t stand_in) {
  struct foreign_range *fresh = wane__meta_take(&foreign_unused, sizeof *fresh);
  if (fresh == NULL) {
    return ENOMEM;
  }
  *fresh = (struct foreign_range){
      .start = start,
      .end = end,
      .stand_in = stand_in,
      /* as good as random: starts differ in the bits of page numbers */
      .priority = (start >> 12) * 0x9e3779b97f4a7c15ull};
  wane__spin_acquire(&foreign_lock);
  bool overlaps = foreign_overlaps_locked(start, end);
  if (!overlaps) {
    foreign_insert_locked(fresh);
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
  }
  if (foreign_root == NULL) {
    wane__store_release(&wane__foreign_bounds.not_bytes, UINTPTR_MAX);
  }
  wane__spin_release(&foreign_lock);
  if (range != NULL) {
    wane__meta_give(&foreign_unused, range);
  }
}

uintptr_t wane__foreign_search_stw(uintptr_t word) {
  const struct foreign_range *at = foreign_root;
  while (at != NULL && (word < at->start || word >= at->end)) {
    at = word < at->start ? at->left : at->right;
  }
  return at != NULL ? at->stand_in : 0;
}

uintptr_t wane__foreign_search(uintptr_t word) {
  wane__spin_acquire(&foreign_lock);
  uintptr_t stand_in = wane__foreign_search_stw(word);
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
  } else {
    wane__meta_give(&foreign_unused, tree);
  }
  foreign_keep(left);
  foreign_keep(right);
}

void wane__foreign_rebuild(void) {
  struct foreign_range *all = foreign_root;
  foreign_root = NULL;
  foreign_keep(all);
  if (foreign_root == NULL) {
    wane__store_release(&wane__foreign_bounds.not_bytes, UINTPTR_MAX);
  }
}

void wane__foreign_fork_prepare(void) { wane__spin_acquire(&foreign_lock); }

void wane__foreign_fork_parent(void) { wane__spin_release(&foreign_lock); }
