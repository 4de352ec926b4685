/* Tables of references to records; see group.h. */
#include "group.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "../base/check.h"
#include "../base/meta.h"
#include "cleanup.h"
#include "weak.h"

#define GROUP_LOG2_MIN 3u
#define GROUP_LOG2_MAX 31u
/* An entry that was removed: passed over by a search, used by an insertion. */
#define GROUP_REMOVED 1u

struct wane__stripe wane__stripes[WANE__STRIPES + 1] = {
    [0 ... WANE__STRIPES] = {.lock = WANE__LOCK_INIT(WANE__RANK_STRIPE)}};
struct wane__specials *wane__statics;
struct wane__pool wane__pools[WANE__SORT_COUNT] = {
    [WANE__SORT_WEAK] = WANE__POOL_INIT(sizeof(struct wane__weak_slot), false),
    [WANE__SORT_CLEANUP] = WANE__POOL_INIT(sizeof(struct wane__record), true),
    [WANE__SORT_FINALIZER] = WANE__POOL_INIT(sizeof(struct wane__record), true),
};
uint32_t wane__groups_with_records;
uint32_t wane__groups_undone;

/* Tables of each size that are not in use. lock: meta */
static struct wane__meta_list group_tables[GROUP_LOG2_MAX + 1];

static struct wane__specials *group_table(const struct wane__block *group) {
  return group != NULL ? group->specials : wane__statics;
}

static void group_set_table(struct wane__block *group,
                            struct wane__specials *table) {
  if (group != NULL) {
    wane__store_relaxed(&group->specials, table);
  } else {
    wane__statics = table;
  }
}

static size_t group_table_bytes(uint32_t log2) {
  return sizeof(struct wane__specials) + (sizeof(uint32_t) << log2);
}

static struct wane__specials *group_table_new(uint32_t log2) {
  size_t bytes = group_table_bytes(log2);
  if (log2 > GROUP_LOG2_MAX) {
    errno = ENOMEM;
    return NULL;
  }
  struct wane__specials *table = wane__meta_take(&group_tables[log2], bytes);
  if (table != NULL) {
    memset(table, 0, bytes);
    table->capacity_log2 = log2;
  }
  return table;
}

static void group_table_free(struct wane__specials *table) {
  wane__meta_give(&group_tables[table->capacity_log2], table);
}

/* Where a search for the key begins (Knuth's multiplicative hashing). */
static uint32_t group_home(const struct wane__specials *table, uintptr_t key) {
  return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >>
                    (64 - table->capacity_log2));
}

static uintptr_t group_key(uint32_t ref) {
  uint32_t index = wane__ref_index(ref);
  switch (wane__ref_sort(ref)) {
  case WANE__SORT_WEAK:
    return wane__weak_slot_at(index)->pointer;
  case WANE__SORT_FINALIZER:
    return wane__record_at(WANE__SORT_FINALIZER, index)->base;
  default:
    return index;
  }
}

uint32_t wane__group_find_locked(const struct wane__block *group,
                                 enum wane__sort sort, uintptr_t key) {
  const struct wane__specials *table = group_table(group);
  if (table == NULL || table->counts[sort] == 0) {
    return 0;
  }
  uint32_t mask = (1u << table->capacity_log2) - 1;
  for (uint32_t i = group_home(table, key);; i++) {
    uint32_t ref = table->entries[i & mask];
    if (ref == 0) {
      return 0;
    }
    if (ref != GROUP_REMOVED && wane__ref_sort(ref) == sort &&
        group_key(ref) == key) {
      return wane__ref_index(ref);
    }
  }
}

static void group_put(struct wane__specials *table, uintptr_t key,
                      uint32_t ref) {
  uint32_t mask = (1u << table->capacity_log2) - 1;
  uint32_t i = group_home(table, key) & mask;
  while (table->entries[i] > GROUP_REMOVED) {
    i = (i + 1) & mask;
  }
  table->used += table->entries[i] == 0;
  table->entries[i] = ref;
  table->counts[wane__ref_sort(ref)]++;
}

static uint32_t group_count(const struct wane__specials *table) {
  return table->counts[0] + table->counts[1] + table->counts[2];
}

/* The same references in a table of another size. */
static bool group_rehash(struct wane__block *group,
                         const struct wane__specials *old, uint32_t log2) {
  struct wane__specials *table = group_table_new(log2);
  if (table == NULL) {
    return false;
  }
  table->epoch = old->epoch;
  uint32_t ref;
  for (uint32_t at = 0; (ref = wane__group_next_locked(old, &at)) != 0; at++) {
    group_put(table, group_key(ref), ref);
  }
  struct wane__specials *dropped = group_table(group);
  group_set_table(group, table);
  group_table_free(dropped);
  return true;
}

bool wane__group_reserve_locked(struct wane__block *group) {
  struct wane__specials *table = group_table(group);
  if (table == NULL) {
    table = group_table_new(GROUP_LOG2_MIN);
    if (table == NULL) {
      return false;
    }
    /* only what lives gets records: nothing to deal with in this cycle */
    table->epoch = wane__arena.epoch;
    group_set_table(group, table);
    if (group != NULL) {
      wane__add(&wane__groups_with_records, 1);
    }
    return true;
  }
  uint64_t capacity = 1ull << table->capacity_log2;
  if ((uint64_t)(table->used + 1) * 4 <= capacity * 3) {
    return true;
  }
  /* if most entries are removed ones, the same size will do */
  bool crowded = (uint64_t)group_count(table) * 2 >= capacity;
  return group_rehash(group, table, table->capacity_log2 + crowded);
}

void wane__group_insert_locked(struct wane__block *group, enum wane__sort sort,
                               uintptr_t key, uint32_t index) {
  group_put(group_table(group), key, wane__ref(sort, index));
}

void wane__group_remove_locked(struct wane__block *group, enum wane__sort sort,
                               uintptr_t key, uint32_t index) {
  struct wane__specials *table = group_table(group);
  uint32_t ref = wane__ref(sort, index);
  uint32_t mask = (1u << table->capacity_log2) - 1;
  uint32_t i = group_home(table, key) & mask;
  while (table->entries[i] != ref) {
    WANE_ASSERT(table->entries[i] != 0,
                "INV-group-2: a registered record is in its group's table");
    i = (i + 1) & mask;
  }
  wane__group_clear_locked(table, i);
}

uint32_t wane__group_next_locked(const struct wane__specials *specials,
                                 uint32_t *at) {
  uint32_t capacity = 1u << specials->capacity_log2;
  for (; *at < capacity; ++*at) {
    if (specials->entries[*at] > GROUP_REMOVED) {
      return specials->entries[*at];
    }
  }
  return 0;
}

void wane__group_clear_locked(struct wane__specials *specials, uint32_t at) {
  specials->counts[wane__ref_sort(specials->entries[at])]--;
  uint32_t mask = (1u << specials->capacity_log2) - 1;
  bool ends_chain = specials->entries[(at + 1) & mask] == 0;
  specials->entries[at] = ends_chain ? 0 : GROUP_REMOVED;
  specials->used -= ends_chain;
}

void wane__group_trim_locked(struct wane__block *group) {
  struct wane__specials *table = group->specials;
  if (table == NULL || group_count(table) != 0) {
    return;
  }
  group_set_table(group, NULL);
  if (table->epoch != wane__arena.epoch) {
    wane__sub(&wane__groups_undone, 1);
  }
  wane__sub(&wane__groups_with_records, 1);
  group_table_free(table);
}

void wane__group_flip_stw(void) {
  WANE_ASSERT(wane__groups_undone == 0,
              "INV-group-1: deaths are dealt with before the next flip");
  wane__groups_undone = wane__groups_with_records;
}

void wane__group_recount(void) {
  size_t blocks = wane__arena.committed >> WANE__BLOCK_LOG2;
  wane__groups_with_records = wane__groups_undone = 0;
  for (size_t i = 0; i < blocks; i++) {
    const struct wane__specials *table = wane__blocks[i].specials;
    wane__groups_with_records += table != NULL;
    wane__groups_undone += table != NULL && table->epoch != wane__arena.epoch;
  }
}
