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
/* A table is made smaller when less than one entry of so many is in use. */
#define GROUP_SPARSE 8u

struct wane__stripe wane__stripes[WANE__STRIPES + 1] = {
    [0 ... WANE__STRIPES] = {.lock = WANE__SPIN_INIT(WANE__RANK_STRIPE)}};
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

/* The same for arrays of finalizers, by cache lines. lock: meta */
#define GROUP_LINES_MAX                                                        \
  ((WANE__BLOCK_BYTES / WANE__GRANULE_BYTES + 32) * sizeof(uint32_t) /         \
       WANE_CACHE_LINE +                                                       \
   2)
static struct wane__meta_list group_finalizable[GROUP_LINES_MAX];
static struct wane__spin groups_lock = WANE__SPIN_INIT(WANE__RANK_POOL);
static struct wane__finalizable *groups_first; /* lock: groups_lock; STW */

static void group_set_table(struct wane__block *group,
                            struct wane__specials *table) {
  if (group != NULL) {
    wane__store_relaxed(&group->specials, table);
  } else {
    wane__store_relaxed(&wane__statics, table);
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

static uintptr_t group_key(uint32_t ref) {
  uint32_t index = wane__ref_index(ref);
  return wane__ref_sort(ref) == WANE__SORT_WEAK
             ? wane__weak_slot_at(index)->pointer
             : index;
}

uint32_t wane__group_find_locked(const struct wane__block *group,
                                 enum wane__sort sort, uintptr_t key) {
  const struct wane__specials *table = wane__group_table(group);
  if (table == NULL || table->counts[sort] == 0) {
    return 0;
  }
  uint32_t mask = (1u << table->capacity_log2) - 1;
  for (uint32_t i = wane__specials_home(table, key);; i++) {
    uint32_t ref = table->entries[i & mask];
    if (ref == 0) {
      return 0;
    }
    if (ref != WANE__REF_REMOVED && wane__ref_sort(ref) == sort &&
        group_key(ref) == key) {
      return wane__ref_index(ref);
    }
  }
}

static uint32_t group_count(const struct wane__specials *table) {
  return table->counts[WANE__SORT_WEAK] + table->counts[WANE__SORT_CLEANUP];
}

/* The same references in a table of another size. */
static bool group_rehash(struct wane__block *group,
                         const struct wane__specials *old, uint32_t log2) {
  struct wane__specials *table = group_table_new(log2);
  if (table == NULL) {
    return false;
  }
  table->epoch = old->epoch;
  table->finalizable = old->finalizable;
  uint32_t ref;
  for (uint32_t at = 0; (ref = wane__group_next_locked(old, &at)) != 0; at++) {
    wane__specials_put(table, group_key(ref), ref);
  }
  struct wane__specials *dropped = wane__group_table(group);
  group_set_table(group, table);
  group_table_free(dropped);
  return true;
}

bool wane__group_grow_locked(struct wane__block *group) {
  struct wane__specials *table = wane__group_table(group);
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
  /* if most entries are removed ones, the same size will do */
  bool crowded =
      (uint64_t)group_count(table) * 2 >= 1ull << table->capacity_log2;
  return group_rehash(group, table, table->capacity_log2 + crowded);
}

void wane__group_remove_locked(struct wane__block *group, enum wane__sort sort,
                               uintptr_t key, uint32_t index) {
  struct wane__specials *table = wane__group_table(group);
  uint32_t ref = wane__ref(sort, index);
  uint32_t mask = (1u << table->capacity_log2) - 1;
  uint32_t i = wane__specials_home(table, key) & mask;
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
    if (specials->entries[*at] > WANE__REF_REMOVED) {
      return specials->entries[*at];
    }
  }
  return 0;
}

void wane__group_clear_locked(struct wane__specials *specials, uint32_t at) {
  specials->counts[wane__ref_sort(specials->entries[at])]--;
  uint32_t mask = (1u << specials->capacity_log2) - 1;
  bool ends_chain = specials->entries[(at + 1) & mask] == 0;
  specials->entries[at] = ends_chain ? 0 : WANE__REF_REMOVED;
  specials->used -= ends_chain;
}

/* ---- Slots with finalizers ---- */

static size_t group_finalizable_bytes(const struct wane__block *group) {
  size_t bytes = sizeof(struct wane__finalizable) +
                 wane__block_slots(group) * sizeof(uint32_t);
  return (bytes + WANE_CACHE_LINE - 1) & ~(size_t)(WANE_CACHE_LINE - 1);
}

bool wane__group_add_finalizable_locked(struct wane__block *group) {
  if (group->specials == NULL && !wane__group_grow_locked(group)) {
    return false;
  }
  size_t bytes = group_finalizable_bytes(group);
  struct wane__finalizable *fresh =
      wane__meta_take(&group_finalizable[bytes / WANE_CACHE_LINE], bytes);
  if (fresh == NULL) {
    return false;
  }
  memset(fresh, 0, bytes);
  fresh->group = group;
  wane__spin_acquire(&groups_lock);
  fresh->next = groups_first;
  if (groups_first != NULL) {
    groups_first->prev = fresh;
  }
  groups_first = fresh;
  wane__spin_release(&groups_lock);
  group->specials->finalizable = fresh;
  return true;
}

static void group_drop_finalizable(struct wane__finalizable *old) {
  wane__spin_acquire(&groups_lock);
  if (old->next != NULL) {
    old->next->prev = old->prev;
  }
  if (old->prev != NULL) {
    old->prev->next = old->next;
  } else {
    groups_first = old->next;
  }
  wane__spin_release(&groups_lock);
  size_t bytes = group_finalizable_bytes(old->group);
  wane__meta_give(&group_finalizable[bytes / WANE_CACHE_LINE], old);
}

/* True if of eight slots, whose mark bytes are 0, 1 or 2, some have not the
   current colour: they are free or dead. */
static bool group_has_other(const uint8_t *marks) {
  uint64_t word;
  memcpy(&word, marks, sizeof word);
  return word != 0x0101010101010101ull * wane__arena.colour;
}

void wane__group_visit_finalizable(const struct wane__finalizable *f,
                                   bool dead_only, wane__finalizer_visit *visit,
                                   void *ctx) {
  uintptr_t start = wane__block_start(f->group);
  uint8_t *marks = wane__block_marks(f->group);
  uint64_t head = wane__block_map[wane__block_idx(f->group)].head;
  size_t slot_bytes = wane__classes[f->group->class].slot_bytes;
  size_t count = wane__block_slots(f->group);
  for (size_t i = 0; i < count; i++) {
    if (dead_only && i % 8 == 0 && i + 8 <= count &&
        !group_has_other(marks + i)) {
      i += 7;
      continue;
    }
    if (f->slots[i] != 0 && (!dead_only || marks[i] != wane__arena.colour)) {
      struct wane__found object = {
          .base = start + i * slot_bytes, .mark = marks + i, .head = head};
      visit(ctx, &object, f->slots[i]);
    }
  }
}

void wane__group_visit_finalizable_in(const struct wane__finalizable *f,
                                      uintptr_t start, uintptr_t end,
                                      wane__finalizer_visit *visit, void *ctx) {
  const struct wane__block *group = f->group;
  uint64_t head = wane__block_map[wane__block_idx(group)].head;
  uint8_t *marks = wane__block_marks(group);
  uintptr_t at = wane__block_start(group);
  size_t count = wane__block_slots(group);
  size_t slot_bytes = count > 1 ? wane__classes[group->class].slot_bytes : 1;
  size_t first = count > 1 ? (start - at) / slot_bytes : 0;
  for (size_t i = first; i < count && at + i * slot_bytes < end; i++) {
    uint32_t index = wane__load_relaxed(&f->slots[i]);
    if (index != 0 &&
        (wane__load_relaxed(&marks[i]) & 3) != wane__arena.colour) {
      struct wane__found object = {
          .base = at + i * slot_bytes, .mark = marks + i, .head = head};
      visit(ctx, &object, index);
    }
  }
}

void wane__group_each_finalizable(bool dead_only, wane__finalizer_visit *visit,
                                  void *ctx) {
  wane__spin_acquire(&groups_lock);
  const struct wane__finalizable *f = groups_first;
  wane__spin_release(&groups_lock);
  for (; f != NULL; f = f->next) {
    wane__group_visit_finalizable(f, dead_only, visit, ctx);
  }
}

/* ---- The end of a table, and counts ---- */

/* If there is no memory for that, the large one stays. */
static void group_shrink(struct wane__block *group,
                         const struct wane__specials *table) {
  if (table == NULL || table->capacity_log2 <= GROUP_LOG2_MIN) {
    return;
  }
  uint32_t log2 = table->capacity_log2;
  while (log2 > GROUP_LOG2_MIN &&
         (uint64_t)group_count(table) * GROUP_SPARSE <= 1ull << log2) {
    log2--;
  }
  if (log2 < table->capacity_log2) {
    int saved = errno;
    (void)group_rehash(group, table, log2);
    errno = saved;
  }
}

void wane__group_trim_locked(struct wane__block *group) {
  struct wane__specials *table = group->specials;
  if (table == NULL || group_count(table) != 0 ||
      (table->finalizable != NULL && table->finalizable->count != 0)) {
    group_shrink(group, table);
    return;
  }
  group_set_table(group, NULL);
  if (table->epoch != wane__arena.epoch) {
    wane__sub(&wane__groups_undone, 1);
  }
  wane__sub(&wane__groups_with_records, 1);
  if (table->finalizable != NULL) {
    group_drop_finalizable(table->finalizable);
  }
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
    /* while marking nothing is to be swept yet */
    wane__groups_undone +=
        wane__blocks[i].waiting != NULL && !wane__is_marking();
  }
}
