/*
 * The hash table below maps and uniques: one sorted list of all entries, and
 * an index of places in it to begin at (Shalev, Shavit: Split-ordered lists,
 * lock-free extensible hash tables, 2006; the list is Michael's: High
 * performance dynamic lock-free hash tables and list-based sets, 2002).
 *
 * The list is sorted by `order`, 64 mixed bits of the hash of which the lowest
 * three are ones. At level n the table has 2^n buckets, and an entry belongs to
 * the bucket that the n highest bits of its order tell. Where a bucket begins
 * there is a sentinel in the list, whose order has only zeros after those bits.
 * So when the table grows by a level nothing moves: each bucket is split by one
 * more sentinel. Sentinels are put in when their bucket is first used; until
 * then, searches begin at the next coarser one. Those that a level adds lie in
 * one array, its segment.
 *
 *   struct wane__table -> struct wane__index (level, segments)
 *                              |
 *                segments[n-1]: sentinel | sentinel | ...    2^(n-1) of level n
 *                                  |
 *   root ---> entry ---> entry ---> sentinel ---> entry ---> ...
 *
 * All links change by compare-and-swap only, no thread ever waits for another,
 * and no lock is held when a key is compared. What makes that simple is the
 * heap: an entry's memory is not used again while anybody holds its address,
 * so a compare-and-swap cannot be fooled.
 *
 * An entry comes to the list in front of all others of its order. Whoever adds
 * one has seen that the key is not among these, and the one link that the
 * addition changes is the same for all of them: if it still is as it was, no
 * other of this order has come. So no key is there twice (INV-table-1).
 *
 * An entry is out when its value is WANE__GONE, by a compare-and-swap of the
 * value, which also decides between those who change, compare and delete.
 * After that its link is frozen (bit 0 is set: nothing can be added behind it)
 * and it is unlinked, by its remover or by whoever comes along.
 *
 * A reader walks the links and looks at neither bit nor neighbours. It finds
 * every entry that is there all the time: links lead forward, a frozen one to
 * what followed when it was frozen, and entries that are added in front of
 * their equals are behind one that walks there. For the same reason a walk
 * over the whole table (wane__table_next_entry) shows no key twice.
 *
 * Weak entries are ephemerons (mark/ephemeron.h). When a sweep clears one, it
 * takes it out in the same manner (table_entry_cleared), with a limit on the
 * steps it takes: what is frozen and still linked is unlinked by later calls.
 *
 * Shrinking drops the finest level. Its sentinels are unlinked little by little
 * by those who add and remove entries, and then the next level may go. (If
 * entries only die, it waits for the next calls that add or remove some.) One
 * that is removed is not begun at; one that its maker links late is removed by
 * the maker, who looks at the index again afterwards.
 *
 * INV-table-1: of the entries that are not out, no two have equal keys.
 * INV-table-2: the list is sorted; a sentinel comes before all entries of its
 *   bucket.
 * INV-table-3: nothing is added behind a link with bit 0 set; an entry's never
 *   changes again, a sentinel's once, when it is unlinked.
 */
#ifndef WANE_TABLES_TABLE_H
#define WANE_TABLES_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/atomic.h"
#include "../base/attr.h"
#include "../mark/ephemeron.h"

/* What a table does to keep its entries' words. */
enum wane__table_mode {
  WANE__TABLE_STRONG,      /* both kept */
  WANE__TABLE_WEAK_KEYS,   /* the value as long as the key lives */
  WANE__TABLE_WEAK_VALUES, /* the key as long as the value lives */
  WANE__TABLE_WEAK_BOTH,
};

#define WANE__LINK_REMOVED ((uintptr_t)1)
#define WANE__ORDER_ENTRY 7u   /* in all orders of entries */
#define WANE__ORDER_CLAIMED 2u /* a sentinel that somebody puts in */
#define WANE__ORDER_READY 4u   /* or that is in */
#define WANE__TABLE_LEVELS 40u

struct wane__link {
  uintptr_t next; /* of the next link, 0 at the end; bit 0: removed */
  uint64_t order; /* entry: const; sentinel: 0 if unused */
};

/* Strong ones are allocated without pair.wait. The key is pair.weak, the value
   pair.held; the other way round if values are weak. */
struct wane__entry {
  struct wane__link link;
  struct wane__pair pair;
};

/* A segment whose sentinels are to be unlinked. */
struct wane__table_retired {
  struct wane__link *segment; /* NULL when that is done. atomic */
  size_t count;
  size_t next; /* atomic */
};

/* Const once it is in use. */
struct wane__index {
  size_t level;
  struct wane__table_retired *retired; /* when it last shrank, or NULL */
  struct wane__link *segments[];       /* of level 1 and up */
};

/* A share of the count; each is used by some of the threads. */
struct wane__table_cell {
  int64_t count;    /* atomic */
  uint32_t changes; /* relaxed; some may get lost */
  char unused[WANE_CACHE_LINE - sizeof(int64_t) - sizeof(uint32_t)];
};

/* A managed object. */
struct wane__table {
  struct wane__link root;
  struct wane__index *index; /* atomic */
  enum wane__table_mode mode;
  int64_t count;                    /* less cells. atomic */
  uint32_t fork_count;              /* of its process. atomic */
  struct wane__table_cell *cells;   /* or NULL. atomic */
  struct wane__ephemeron_type type; /* of weak entries */
};

/* NULL with ENOMEM. ends_at_shutdown: of weak entries. */
struct wane__table *wane__table_new(enum wane__table_mode mode,
                                    bool ends_at_shutdown);

/* Makes an order of a hash. */
WANE_INLINE uint64_t wane__table_order(uint64_t hash) {
  return hash | WANE__ORDER_ENTRY;
}

struct wane__link *wane__table_start_slow(struct wane__table *table,
                                          const struct wane__index *index,
                                          uint64_t order);

/* Of a bucket that is not 0. */
WANE_INLINE struct wane__link *
wane__index_sentinel(const struct wane__index *index, uint64_t bucket) {
  unsigned zeros = (unsigned)__builtin_ctzll(bucket);
  return &index->segments[index->level - zeros - 1][bucket >> (zeros + 1)];
}

/* It is in the list, and may be begun at. */
WANE_INLINE bool wane__sentinel_is_ready(const struct wane__link *sentinel) {
  /* pairs with the release of what made it ready */
  return (wane__load_acquire(&sentinel->order) & WANE__ORDER_READY) != 0 &&
         (wane__load_relaxed(&sentinel->next) & WANE__LINK_REMOVED) == 0;
}

/* Where to begin to look for an order. */
WANE_INLINE struct wane__link *wane__table_start(struct wane__table *table,
                                                 uint64_t order) {
  const struct wane__index *index = wane__load_acquire(&table->index);
  size_t level = index->level;
  uint64_t bucket = level != 0 ? order >> (64 - level) : 0;
  if (WANE_UNLIKELY(bucket == 0)) {
    return &table->root;
  }
  struct wane__link *start = wane__index_sentinel(index, bucket);
  if (WANE_LIKELY(wane__sentinel_is_ready(start))) {
    return start;
  }
  return wane__table_start_slow(table, index, order);
}

/* What follows a link, removed or not. */
WANE_INLINE struct wane__link *wane__link_next(const struct wane__link *link) {
  return (struct wane__link *)(wane__load_acquire(&link->next) &
                               ~WANE__LINK_REMOVED);
}

/* For readers: the first link of at least that order, or NULL. */
WANE_INLINE struct wane__link *wane__table_first(struct wane__table *table,
                                                 uint64_t order) {
  struct wane__link *link = wane__link_next(wane__table_start(table, order));
  while (link != NULL && wane__load_relaxed(&link->order) < order) {
    link = wane__link_next(link);
  }
  return link;
}

WANE_INLINE bool wane__link_is_entry(const struct wane__link *link) {
  return (wane__load_relaxed(&link->order) & 1) != 0;
}

/* The first entry from a link on, for walking over all: *passed, 0 at first, is
   the order of the last sentinel, in case one leads back. */
WANE_INLINE struct wane__entry *wane__table_next_entry(struct wane__link *link,
                                                       uint64_t *passed) {
  for (; link != NULL; link = wane__link_next(link)) {
    uint64_t order = wane__load_relaxed(&link->order);
    if (order < *passed) {
      continue;
    }
    if (wane__link_is_entry(link)) {
      return (struct wane__entry *)link;
    }
    *passed = order;
  }
  return NULL;
}

/* The place for a new entry: between two links. */
struct wane__place {
  struct wane__link *before;
  uintptr_t at; /* what follows, or 0 */
};
void wane__table_place(struct wane__table *table, uint64_t order,
                       struct wane__place *out);

/* A new entry, in no list; its words are 0. NULL with ENOMEM. */
struct wane__entry *wane__table_entry_new(struct wane__table *table,
                                          uint64_t order);
/* Puts an entry in; false if the place is not as it was. */
bool wane__table_add(struct wane__table *table, const struct wane__place *place,
                     struct wane__entry *entry);
/* Takes one out whose value the caller has set to WANE__GONE. */
void wane__table_remove(struct wane__table *table, struct wane__entry *entry);

/* In the child of a fork it counts anew, once: threads that are gone may have
   added or removed something and not counted it. */
size_t wane__table_count(struct wane__table *table);

/* Whether an entry is the one that a call looks for; called without any lock.
   What it finds there it keeps in ctx. */
typedef bool wane__table_match(void *ctx, struct wane__entry *entry);

/* The entry that matches, of those of an order from a link on; or NULL. */
WANE_INLINE struct wane__entry *wane__table_find_from(struct wane__link *link,
                                                      uint64_t order,
                                                      wane__table_match *match,
                                                      void *ctx) {
  while (link != NULL && wane__load_relaxed(&link->order) == order) {
    struct wane__entry *entry = (struct wane__entry *)link;
    if (match(ctx, entry)) {
      return entry;
    }
    link = wane__link_next(link);
  }
  return NULL;
}

WANE_INLINE struct wane__entry *wane__table_find(struct wane__table *table,
                                                 uint64_t order,
                                                 wane__table_match *match,
                                                 void *ctx) {
  return wane__table_find_from(wane__table_first(table, order), order, match,
                               ctx);
}

/* An entry that is in no list and never will be: a stale word may keep it, and
   then it must not count as one that dies. */
static inline void wane__entry_drop(struct wane__entry *entry) {
  wane__store_relaxed(&entry->pair.weak, WANE__GONE);
  wane__store_relaxed(&entry->pair.held, WANE__GONE);
}

/* Adds an entry, and returns NULL, unless there is one that matches: that. */
WANE_INLINE struct wane__entry *
wane__table_add_unless(struct wane__table *table, struct wane__entry *fresh,
                       wane__table_match *match, void *ctx) {
  for (;;) {
    struct wane__place place;
    wane__table_place(table, fresh->link.order, &place);
    struct wane__entry *found = wane__table_find_from(
        (struct wane__link *)place.at, fresh->link.order, match, ctx);
    if (found != NULL) {
      wane__entry_drop(fresh);
      return found;
    }
    if (wane__table_add(table, &place, fresh)) {
      return NULL;
    }
  }
}

#endif
