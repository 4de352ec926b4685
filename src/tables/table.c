/* The list and its index; see table.h. */
#include "table.h"

#include <errno.h>
#include <string.h>

#include "../base/check.h"
#include "../collect/fork.h"
#include "../heap/heap.h"
#include "hash.h"

#define LEVEL_FIRST 3u   /* what the first growth leads to */
#define LEVEL_CELLS 7u   /* from here on, threads count in cells */
#define LEVEL_SHRINKS 5u /* smaller tables do not */
#define CELLS 8u
/* Changes of a count between two looks at whether the table's size is right. */
#define CELL_LOOKS 16u
/* A table shrinks when there are so many buckets for each entry. */
#define SHRINK_LOG2 3u
/* One call unlinks so many sentinels of a retired segment, or such a share. */
#define RETIRE_MIN 32u
#define RETIRE_SHARE 64u
/* Steps in which a sweep may find the place of an entry it takes out. */
#define CLEAR_STEPS 64u

static const size_t entry_pointers[] = {
    offsetof(struct wane__entry, link.next)};

/* The index of a table that has not grown. */
static const struct wane__index index_empty;

static void table_entry_cleared(const struct wane__ephemeron_type *type,
                                void *object);

struct wane__table *wane__table_new(enum wane__table_mode mode,
                                    bool ends_at_shutdown) {
  wane__hash_init();
  struct wane__table *table =
      wane__heap_alloc_fast(WANE__KIND_SCAN, sizeof *table);
  if (table == NULL) {
    return NULL;
  }
  table->mode = mode;
  table->fork_count = wane__fork_count;
  table->index = (struct wane__index *)&index_empty;
  table->type = (struct wane__ephemeron_type){
      .type = {.name = wane__type_of_library,
               .size = sizeof(struct wane__entry),
               .pointer_count = 1,
               .pointer_offsets = entry_pointers},
      .pair_offset = offsetof(struct wane__entry, pair),
      .is_both_weak = mode == WANE__TABLE_WEAK_BOTH,
      .weak_changes = mode != WANE__TABLE_WEAK_KEYS,
      .ends_at_shutdown = ends_at_shutdown,
      .cleared_bytes = sizeof(struct wane__entry) + sizeof(struct wane_type *),
      .on_cleared = table_entry_cleared,
  };
  if (mode != WANE__TABLE_STRONG && ends_at_shutdown) {
    wane__store_relaxed(&wane__ephemerons_exist, true);
  }
  return table;
}

/* ---- The list ---- */

/* From a link that is not after `last` to the place behind all links up to it,
   unlinking removed ones on the way; at most so many steps. False: the first
   link has been removed, or there are more steps. */
static bool list_seek(struct wane__link *start, uint64_t last, size_t steps,
                      struct wane__place *out) {
restart:
  out->before = start;
  out->at = wane__load_acquire(&start->next);
  if ((out->at & WANE__LINK_REMOVED) != 0) {
    return false;
  }
  while (out->at != 0) {
    struct wane__link *link = (struct wane__link *)out->at;
    uintptr_t next = wane__load_acquire(&link->next);
    if (steps-- == 0) {
      return false;
    }
    if ((next & WANE__LINK_REMOVED) != 0) {
      uintptr_t expected = out->at;
      if (!wane__cas(&out->before->next, &expected,
                     next & ~WANE__LINK_REMOVED)) {
        goto restart;
      }
      out->at = next & ~WANE__LINK_REMOVED;
    } else if (wane__load_relaxed(&link->order) > last) {
      break;
    } else {
      out->before = link;
      out->at = next;
    }
  }
  return true;
}

/* The same from the best place to start at. */
static void table_seek(struct wane__table *table, uint64_t order, uint64_t last,
                       struct wane__place *out) {
  while (!list_seek(wane__table_start(table, order), last, SIZE_MAX, out)) {
  }
}

void wane__table_place(struct wane__table *table, uint64_t order,
                       struct wane__place *out) {
  table_seek(table, order, order - 1, out);
}

/* ---- Sentinels ---- */

/* Takes a sentinel that is in the list out of it. */
static void sentinel_remove(struct wane__table *table,
                            struct wane__link *sentinel) {
  uint64_t order = wane__load(&sentinel->order);
  struct wane__place place;
  wane__or(&sentinel->next, WANE__LINK_REMOVED);
  table_seek(table, order, order, &place);
  /* the index does not have this one any more, so two that are removed at once
     cannot come to lead to each other */
  struct wane__link *coarser = wane__table_start(table, order);
  wane__store(&sentinel->next, (uintptr_t)coarser | WANE__LINK_REMOVED);
}

/* True if the table's index still has the segment that the sentinel is in. */
static bool sentinel_is_current(struct wane__table *table,
                                const struct wane__link *sentinel,
                                size_t level) {
  const struct wane__index *index = wane__load(&table->index);
  return level <= index->level &&
         (uintptr_t)sentinel - (uintptr_t)index->segments[level - 1] <
             sizeof *sentinel << (level - 1);
}

/* Puts an unused sentinel in; false if somebody else does, or has. */
static bool sentinel_make(struct wane__table *table,
                          const struct wane__index *index, uint64_t bucket,
                          struct wane__link *start) {
  struct wane__link *sentinel = wane__index_sentinel(index, bucket);
  uint64_t order = bucket << (64 - index->level);
  uint64_t unused = 0;
  if (!wane__cas(&sentinel->order, &unused, order | WANE__ORDER_CLAIMED)) {
    return false;
  }
  struct wane__place place;
  uintptr_t expected;
  do {
    while (!list_seek(start, order, SIZE_MAX, &place)) {
      start = &table->root; /* it was removed meanwhile: rare */
    }
    wane__store_relaxed(&sentinel->next, place.at);
    expected = place.at;
  } while (!wane__cas(&place.before->next, &expected, (uintptr_t)sentinel));
  wane__store(&sentinel->order, order | WANE__ORDER_READY);
  size_t level = index->level - (size_t)__builtin_ctzll(bucket);
  if (!sentinel_is_current(table, sentinel, level)) {
    sentinel_remove(table, sentinel);
    return false;
  }
  return true;
}

/* The finest sentinel that is ready, after an attempt to make the best one. */
struct wane__link *wane__table_start_slow(struct wane__table *table,
                                          const struct wane__index *index,
                                          uint64_t order) {
  uint64_t best = order >> (64 - index->level);
  uint64_t bucket = best;
  struct wane__link *start = &table->root;
  while ((bucket &= bucket - 1) != 0) {
    if (wane__sentinel_is_ready(wane__index_sentinel(index, bucket))) {
      start = wane__index_sentinel(index, bucket);
      break;
    }
  }
  return sentinel_make(table, index, best, start)
             ? wane__index_sentinel(index, best)
             : start;
}

/* ---- Counting, growing, shrinking ---- */

static int64_t table_sum(const struct wane__table *table) {
  const struct wane__table_cell *cells = wane__load_acquire(&table->cells);
  int64_t count = wane__load_relaxed(&table->count);
  for (unsigned i = 0; cells != NULL && i < CELLS; i++) {
    count += wane__load_relaxed(&cells[i].count);
  }
  return count;
}

/* Counts by hand, and freezes what a thread that is gone left half removed. */
static WANE_NOINLINE void table_recount(struct wane__table *table) {
  int64_t count = -table_sum(table);
  uint64_t passed = 0;
  struct wane__entry *entry = wane__table_next_entry(&table->root, &passed);
  while (entry != NULL) {
    if (wane__load_relaxed(&entry->pair.weak) == WANE__GONE ||
        wane__load_relaxed(&entry->pair.held) == WANE__GONE) {
      wane__or(&entry->link.next, WANE__LINK_REMOVED);
    } else {
      count++;
    }
    entry = wane__table_next_entry(wane__link_next(&entry->link), &passed);
  }
  wane__add_relaxed(&table->count, count);
}

size_t wane__table_count(struct wane__table *table) {
  uint32_t forks = wane__load_relaxed(&table->fork_count);
  if (WANE_UNLIKELY(forks != wane__fork_count) &&
      wane__cas(&table->fork_count, &forks, wane__fork_count)) {
    table_recount(table);
  }
  int64_t count = table_sum(table);
  return count > 0 ? (size_t)count : 0;
}

/* Adds to the calling thread's count; true: time to look at the size. */
static bool table_count_add(struct wane__table *table, int64_t change) {
  struct wane__table_cell *cells = wane__load_acquire(&table->cells);
  if (cells == NULL) {
    wane__add_relaxed(&table->count, change);
    return true;
  }
  struct wane__table_cell *cell = &cells[((uintptr_t)wane__self >> 12) % CELLS];
  uint32_t changes = wane__load_relaxed(&cell->changes) + 1;
  wane__store_relaxed(&cell->changes, changes);
  wane__add_relaxed(&cell->count, change);
  return changes % CELL_LOOKS == 0;
}

static size_t index_bytes(size_t level) {
  return sizeof(struct wane__index) + level * sizeof(struct wane__link *);
}

/* An index of another level, as far as it agrees with an old one. */
static struct wane__index *index_new(const struct wane__index *old,
                                     size_t level) {
  size_t shared = old->level < level ? old->level : level;
  struct wane__index *index =
      wane__heap_alloc_fast(WANE__KIND_SCAN, index_bytes(level));
  if (index == NULL) {
    return NULL;
  }
  memcpy(index, old, index_bytes(shared));
  index->level = level;
  for (size_t n = shared; n < level; n++) {
    index->segments[n] =
        wane_alloc(((size_t)1 << n) * sizeof(struct wane__link));
    if (index->segments[n] == NULL) {
      return NULL;
    }
  }
  return index;
}

/* From a certain size on, threads count apart. */
static void table_split_count(struct wane__table *table) {
  struct wane__table_cell *cells = wane_alloc_leaf(CELLS * sizeof *cells);
  struct wane__table_cell *none = NULL;
  if (cells != NULL) {
    (void)wane__cas(&table->cells, &none, cells);
  }
}

/* From that level up, unless another thread did. Without memory the table stays
   as it is, only slower: errno is kept. */
static void table_grow(struct wane__table *table, size_t level) {
  struct wane__index *old = wane__load_acquire(&table->index);
  if (old->level != level || level == WANE__TABLE_LEVELS) {
    return;
  }
  int saved = errno;
  struct wane__index *fresh =
      index_new(old, old->level < LEVEL_FIRST ? LEVEL_FIRST : old->level + 1);
  if (fresh != NULL && wane__cas(&table->index, &old, fresh) &&
      fresh->level >= LEVEL_CELLS && table->cells == NULL) {
    table_split_count(table);
  }
  errno = saved;
}

/* The same down, when the level given up last is gone. */
static void table_shrink(struct wane__table *table, size_t level) {
  struct wane__index *old = wane__load_acquire(&table->index);
  if (old->level != level ||
      (old->retired != NULL &&
       wane__load_acquire(&old->retired->segment) != NULL)) {
    return;
  }
  int saved = errno;
  struct wane__table_retired *retired =
      wane__heap_alloc_fast(WANE__KIND_SCAN, sizeof *retired);
  struct wane__index *fresh =
      retired != NULL ? index_new(old, level - 1) : NULL;
  if (fresh != NULL) {
    retired->segment = old->segments[level - 1];
    retired->count = (size_t)1 << (level - 1);
    fresh->retired = retired;
    (void)wane__cas(&table->index, &old, fresh);
  }
  errno = saved;
}

/* After a change of the count. */
static void table_look(struct wane__table *table) {
  size_t level = wane__load_acquire(&table->index)->level;
  size_t count = wane__table_count(table);
  if (count > (size_t)1 << level) {
    table_grow(table, level);
  } else if (level > LEVEL_SHRINKS && count >> (level - SHRINK_LOG2) == 0) {
    table_shrink(table, level);
  }
}

/* Unlinks some sentinels of a retired segment, if there is one. */
static void table_retire_some(struct wane__table *table) {
  struct wane__table_retired *retired =
      wane__load_acquire(&table->index)->retired;
  struct wane__link *segment =
      retired != NULL ? wane__load_acquire(&retired->segment) : NULL;
  if (WANE_LIKELY(segment == NULL)) {
    return;
  }
  size_t portion = retired->count / RETIRE_SHARE;
  portion = portion > RETIRE_MIN ? portion : RETIRE_MIN;
  size_t first = wane__add(&retired->next, portion);
  if (first >= retired->count) {
    wane__store_release(&retired->segment, NULL);
    return;
  }
  size_t end = first + portion;
  end = end < retired->count ? end : retired->count;
  for (size_t i = first; i < end; i++) {
    uint64_t order = 0;
    /* nobody begins to put it in any more; whoever has begun removes it */
    if (!wane__cas(&segment[i].order, &order, WANE__ORDER_CLAIMED) &&
        (order & WANE__ORDER_READY) != 0) {
      sentinel_remove(table, &segment[i]);
    }
  }
}

/* ---- Entries ---- */

struct wane__entry *wane__table_entry_new(struct wane__table *table,
                                          uint64_t order) {
  struct wane__entry *entry =
      table->mode == WANE__TABLE_STRONG
          ? wane__heap_alloc_fast(WANE__KIND_SCAN,
                                  offsetof(struct wane__entry, pair.wait))
          : wane__typed_alloc(&table->type.type, 1);
  if (entry != NULL) {
    entry->link.order = order;
  }
  return entry;
}

bool wane__table_add(struct wane__table *table, const struct wane__place *place,
                     struct wane__entry *entry) {
  uintptr_t expected = place->at;
  WANE_CHECK((place->at & WANE__LINK_REMOVED) == 0,
             "INV-table-3: nothing is added behind a frozen link");
  wane__store_relaxed(&entry->link.next, place->at);
  WANE_CHECK(place->at == 0 ||
                 wane__load_relaxed(&((struct wane__link *)place->at)->order) >=
                     entry->link.order,
             "INV-table-2: an entry goes before those of its order");
  if (!wane__cas(&place->before->next, &expected, (uintptr_t)entry)) {
    return false;
  }
  if (table_count_add(table, 1)) {
    table_look(table);
  }
  table_retire_some(table);
  return true;
}

void wane__table_remove(struct wane__table *table, struct wane__entry *entry) {
  struct wane__place place;
  if (table->mode ==
      WANE__TABLE_STRONG) { /* M1: not even a stale entry keeps */
    wane__store_release(&entry->pair.weak, WANE__GONE); /* its key */
  }
  wane__or(&entry->link.next, WANE__LINK_REMOVED);
  table_seek(table, entry->link.order, entry->link.order, &place);
  if (table_count_add(table, -1)) {
    table_look(table);
  }
  table_retire_some(table);
}

/* A sweep has cleared the entry; nothing may be allocated here. If its value
   was WANE__GONE before, its remover sees to it. */
static void table_entry_cleared(const struct wane__ephemeron_type *type,
                                void *object) {
  struct wane__table *table =
      (struct wane__table *)((char *)type - offsetof(struct wane__table, type));
  struct wane__entry *entry = object;
  struct wane__place place;
  wane__or(&entry->link.next, WANE__LINK_REMOVED);
  struct wane__link *start = wane__table_start(table, entry->link.order);
  (void)list_seek(start, entry->link.order, CLEAR_STEPS, &place);
  (void)table_count_add(table, -1);
}
