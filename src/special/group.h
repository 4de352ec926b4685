/*
 * Which records the objects of a group have: for each group that has any, a
 * small table of its own, reached from its block record. A group without
 * records costs a sweep one load; there is no list per object or per block to
 * walk, so n records of one group, or of one object, are made and found in
 * O(n).
 *
 * The table is open-addressed and holds references: two bits of sort and the
 * index of a record in the sort's pool. What a record is found by, its key, is
 * - of a weak handle: the pointer that it was made from;
 * - of a cleanup: its own index. Nobody looks for a cleanup by its object.
 * Finalizers, of which an object has one at most, are not in the table, but in
 * an array with a place for each slot (struct wane__finalizable).
 *
 * Static data belong to no group; weak handles to it are in one table of their
 * own (wane__statics).
 *
 * Locks. Tables are guarded by one lock of 64, the stripe, chosen by the
 * group's place; statics have one more. A stripe also holds supplies of free
 * records. Every user is guarded (heap/context.h) or holds the cycle lock, so
 * that no stripe is held while the world is stopped.
 *
 * INV-group-1: while a group is unswept, its table holds records of objects
 *   that died in the last cycle until wane__death_sweep has been there, and
 *   only it removes those.
 * INV-group-2: a record in the table belongs to the object that is, or was
 *   last, at its address: records are removed before a slot can be used
 *   again.
 *
 * A table that is made, or found, in an unswept group may be added to: the
 * caller holds a live object, and what the sweeper does concerns dead ones.
 */
#ifndef WANE_SPECIAL_GROUP_H
#define WANE_SPECIAL_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/attr.h"
#include "../base/spin.h"
#include "../heap/block.h"
#include "pool.h"

enum wane__sort {
  WANE__SORT_WEAK,
  WANE__SORT_CLEANUP,
  WANE__SORT_FINALIZER,
  WANE__SORT_COUNT
};

#define WANE__STRIPES 64u

struct wane__stripe {
  struct wane__spin lock;
  struct wane__pool_supply supplies[WANE__SORT_COUNT]; /* lock: lock */
  /* Counts since the start, for the statistics. lock: lock; read relaxed */
  uint64_t registered[WANE__SORT_COUNT];
  uint64_t queued[WANE__SORT_COUNT]; /* weak: cleared */
  uint64_t stopped[WANE__SORT_COUNT];
} WANE_ALIGNED(WANE_CACHE_LINE);

/* The finalizers of a group: for each slot the index of its record, or 0. An
   object has one at most, so that nothing need be searched to set one, and a
   stop can compare the slots with the mark bytes. */
struct wane__finalizable {
  struct wane__finalizable *next; /* all of them. lock: groups_lock; STW */
  struct wane__finalizable *prev;
  struct wane__block *group; /* const */
  uint32_t count;            /* that are not 0. lock: stripe */
  uint32_t slots[];          /* lock: stripe */
};

struct wane__specials {
  struct wane__finalizable *finalizable; /* or NULL. lock: stripe */
  uint32_t capacity_log2;
  uint32_t used;  /* entries that are not empty; those removed count */
  uint32_t epoch; /* cycle whose deaths have been dealt with */
  uint32_t counts[WANE__SORT_COUNT]; /* of references in the table */
  uint32_t entries[];
};

extern struct wane__stripe wane__stripes[WANE__STRIPES + 1];
extern struct wane__specials *wane__statics; /* lock: the last stripe */
/* One for each sort. */
extern struct wane__pool wane__pools[WANE__SORT_COUNT];

/* Groups that have a table; and those whose deaths of the last cycle have not
   been dealt with, where one with a table and ephemerons that wait counts
   twice. atomic, seq_cst */
extern uint32_t wane__groups_with_records;
extern uint32_t wane__groups_undone;

/* The group that holds an object; its stripe. NULL: the statics. */
static inline struct wane__stripe *
wane__stripe_of(const struct wane__block *group) {
  return &wane__stripes[group == NULL ? WANE__STRIPES
                                      : wane__block_idx(group) % WANE__STRIPES];
}

/* A reference in a table: what it refers to. */
static inline enum wane__sort wane__ref_sort(uint32_t ref) {
  return (enum wane__sort)((ref >> WANE__POOL_INDEX_BITS) - 1);
}
static inline uint32_t wane__ref_index(uint32_t ref) {
  return ref & ((1u << WANE__POOL_INDEX_BITS) - 1);
}
static inline uint32_t wane__ref(enum wane__sort sort, uint32_t index) {
  return ((uint32_t)sort + 1) << WANE__POOL_INDEX_BITS | index;
}

/* All with the stripe's lock held. */

static inline struct wane__specials *
wane__group_table(const struct wane__block *group) {
  return group != NULL ? group->specials : wane__statics;
}

/* An entry that was removed: passed over by a search, used by an insertion. */
#define WANE__REF_REMOVED 1u

/* Where a search for the key begins (Knuth's multiplicative hashing). */
static inline uint32_t wane__specials_home(const struct wane__specials *table,
                                           uintptr_t key) {
  return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >>
                    (64 - table->capacity_log2));
}

/* Puts a reference in a table in which there is room. */
static inline void wane__specials_put(struct wane__specials *table,
                                      uintptr_t key, uint32_t ref) {
  uint32_t mask = (1u << table->capacity_log2) - 1;
  uint32_t i = wane__specials_home(table, key);
  while (table->entries[i] > WANE__REF_REMOVED) {
    i = (i + 1) & mask;
  }
  table->used += table->entries[i] == 0;
  table->entries[i] = ref;
  table->counts[wane__ref_sort(ref)]++;
}

/* The record of that sort and key; 0 if there is none. */
uint32_t wane__group_find_locked(const struct wane__block *group,
                                 enum wane__sort sort, uintptr_t key);
/* Makes a table, or a larger one; false with ENOMEM. */
bool wane__group_grow_locked(struct wane__block *group);
/* Makes room for one more, at most 3/4 of the table in use; false with
   ENOMEM. */
static inline bool wane__group_reserve_locked(struct wane__block *group) {
  const struct wane__specials *table = wane__group_table(group);
  return (WANE_LIKELY(table != NULL) &&
          WANE_LIKELY(table->used < 3ul << table->capacity_log2 >> 2)) ||
         wane__group_grow_locked(group);
}
/* Adds a record that is not there; there is room. */
static inline void wane__group_insert_locked(struct wane__block *group,
                                             enum wane__sort sort,
                                             uintptr_t key, uint32_t index) {
  wane__specials_put(wane__group_table(group), key, wane__ref(sort, index));
}
/* Removes a record that is there. */
void wane__group_remove_locked(struct wane__block *group, enum wane__sort sort,
                               uintptr_t key, uint32_t index);
/* Walks the table: the next reference at or after *at, which is moved on; 0 at
   the end. The entry may be cleared by wane__group_clear_locked. */
uint32_t wane__group_next_locked(const struct wane__specials *specials,
                                 uint32_t *at);
/* Clears the entry that wane__group_next_locked gave last. */
void wane__group_clear_locked(struct wane__specials *specials, uint32_t at);
/* Drops the table if nothing is left in it; a smaller one if little is. */
void wane__group_trim_locked(struct wane__block *group);

/* Where the record's index for an object's finalizer is; NULL: no object of
   its group has one. Stripe held. */
static inline uint32_t *
wane__group_finalizer_locked(const struct wane__block *group,
                             const struct wane__found *object) {
  if (group->specials == NULL || group->specials->finalizable == NULL) {
    return NULL;
  }
  return &group->specials->finalizable
              ->slots[object->mark - wane__block_marks(group)];
}
/* Makes sure that there is such a place; false with ENOMEM. */
bool wane__group_add_finalizable_locked(struct wane__block *group);

/* Visits the objects with finalizers, and their records' indices; dead_only:
   those of the old colour. The visitor may take the finalizer out. Stripe
   held, or STW. */
typedef void wane__finalizer_visit(void *ctx, const struct wane__found *object,
                                   uint32_t index);
void wane__group_visit_finalizable(const struct wane__finalizable *f,
                                   bool dead_only, wane__finalizer_visit *visit,
                                   void *ctx);
/* The same for all groups. STW, or while marking: groups that get their first
   finalizer meanwhile may be left out. */
void wane__group_each_finalizable(bool dead_only, wane__finalizer_visit *visit,
                                  void *ctx);
/* The unmarked ones of a group that lie, if only in part, in [start, end).
   While marking. */
void wane__group_visit_finalizable_in(const struct wane__finalizable *f,
                                      uintptr_t start, uintptr_t end,
                                      wane__finalizer_visit *visit, void *ctx);

/* A flip: the deaths of all groups with records are to be dealt with. STW. */
void wane__group_flip_stw(void);
/* Counts again after fork, when nobody else runs. */
void wane__group_recount(void);

#endif
