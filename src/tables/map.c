/*
 * wane_map_*: what a map's calls do with the entries of its table (table.h).
 *
 * A map leads to its table by one word, so that clearing is one store of a
 * new table: calls that are under way end on the old one, as if they had ended
 * before.
 *
 * Each call finds the key's entry among those of its order and then does one
 * thing to the entry's value, with entry_load or entry_change. If the entry
 * went out meanwhile, it begins again, or the key is absent. Weak entries are
 * read and changed only in guarded sections that find them alive; keys are
 * compared outside of these, held by the comparing thread.
 */
#include "../../include/wane/map.h"

#include <errno.h>

#include "../../include/wane/lifetime.h"
#include "../base/check.h"
#include "../heap/hooks.h"
#include "../special/ephemeron.h"
#include "hash.h"
#include "table.h"

#define MAP_FLAGS (WANE_WEAK_KEYS | WANE_WEAK_VALUES)

struct wane_map {
  struct wane__table *table; /* atomic */
  struct wane_map_ops ops;   /* const; both NULL: words */
  enum wane__table_mode mode;
};

/* One call: what it was given, and what its entry has. */
struct call {
  struct wane__context *self;
  const struct wane_map *map;
  struct wane__table *table;
  uintptr_t key;
  uint64_t order;
  uintptr_t own_key;
  uintptr_t value;
};

static uint64_t string_hash(const void *key) {
  return wane__hash_bytes(key, strlen(key));
}

static bool string_equal(const void *a, const void *b) {
  return strcmp(a, b) == 0;
}

WANE_PUBLIC const struct wane_map_ops wane_string_keys = {string_hash,
                                                          string_equal};

WANE_INLINE struct call call_begin(const char *name, struct wane_map *m,
                                   const void *key) {
  struct call call = {.self = wane__self, .map = m, .key = (uintptr_t)key};
  if (WANE_UNLIKELY(m == NULL)) {
    wane__fatal(name, "the map is NULL");
  }
  if (WANE_UNLIKELY(!call.self->attached)) {
    call.self = wane__hooks.attach();
    if (call.self == NULL) {
      wane__fatal(name, "out of memory for the thread's record");
    }
  }
  uint64_t word = m->ops.hash != NULL ? m->ops.hash(key) : call.key;
  call.order = wane__table_order(wane__hash_word(word));
  call.table = wane__load_acquire(&m->table);
  return call;
}

/* The words keep alive what they point to up to here. */
WANE_INLINE void call_end(const struct call *call, uintptr_t word) {
  __asm__ volatile("" : : "r"(call->key), "r"(call->map), "r"(word) : "memory");
}

/* ---- Entries ---- */

static bool call_is_weak(const struct call *call) {
  return call->map->mode != WANE__TABLE_STRONG;
}

static bool entry_has_value_weak(const struct call *call) {
  return call->map->mode == WANE__TABLE_WEAK_VALUES;
}

/* Key and value of an entry that is not out. */
WANE_INLINE bool entry_load(const struct call *call,
                            const struct wane__entry *entry, uintptr_t *key,
                            uintptr_t *value) {
  enum wane__table_mode mode = call->map->mode;
  if (mode == WANE__TABLE_STRONG) {
    /* pairs with the release in wane__table_remove: with a key that is gone
       comes a value that is */
    *key = wane__load_acquire(&entry->pair.weak);
    *value = wane__load_acquire(&entry->pair.held);
    return *value != WANE__GONE;
  }
  if (mode == WANE__TABLE_WEAK_VALUES) {
    return wane__pair_load(call->self, &entry->pair, false, value, key);
  }
  return wane__pair_load(call->self, &entry->pair,
                         mode == WANE__TABLE_WEAK_BOTH, key, value);
}

/* The value alone, in a guard if the map is weak. */
static bool entry_read_value(const struct call *call,
                             const struct wane__entry *entry,
                             uintptr_t *value) {
  uintptr_t other;
  enum wane__table_mode mode = call->map->mode;
  if (mode == WANE__TABLE_STRONG) {
    *value = wane__load_acquire(&entry->pair.held);
    return *value != WANE__GONE;
  }
  if (mode == WANE__TABLE_WEAK_VALUES) {
    return wane__pair_read(&entry->pair, false, value, &other);
  }
  return wane__pair_read(&entry->pair, mode == WANE__TABLE_WEAK_BOTH, &other,
                         value);
}

static uintptr_t *entry_value_word(const struct call *call,
                                   struct wane__entry *entry) {
  return entry_has_value_weak(call) ? &entry->pair.weak : &entry->pair.held;
}

enum change { CHANGE_OUT, CHANGE_DIFFERS, CHANGE_DONE };

/* Sets an entry's value, if it is *expected or expected is NULL; WANE__GONE
   takes the entry out. *old is what it was. Weak entries: guarded. */
static enum change entry_change_guarded(const struct call *call,
                                        struct wane__entry *entry,
                                        const uintptr_t *expected,
                                        uintptr_t value, uintptr_t *old) {
  do {
    if (!entry_read_value(call, entry, old)) {
      return CHANGE_OUT;
    }
    if (expected != NULL && *old != *expected) {
      return CHANGE_DIFFERS;
    }
  } while (!wane__cas(entry_value_word(call, entry), old, value));
  if (wane__is_marking() && (call->map->mode == WANE__TABLE_WEAK_VALUES ||
                             call->map->mode == WANE__TABLE_WEAK_BOTH)) {
    wane__or(&entry->pair.wait, WANE__WAIT_CHANGED);
  }
  return CHANGE_DONE;
}

/* The same from outside, and takes the entry off the table. */
static enum change entry_change(const struct call *call,
                                struct wane__entry *entry,
                                const uintptr_t *expected, uintptr_t value,
                                uintptr_t *old) {
  enum change change;
  if (call_is_weak(call)) {
    wane__guard_enter(call->self);
    change = entry_change_guarded(call, entry, expected, value, old);
    wane__guard_leave(call->self); /* *old is on the stack */
  } else {
    change = entry_change_guarded(call, entry, expected, value, old);
  }
  if (change == CHANGE_DONE && value == WANE__GONE) {
    wane__table_remove(call->table, entry);
  }
  return change;
}

/* A wane__table_match: an entry that is not out and has the call's key. */
WANE_INLINE bool entry_matches(void *ctx, struct wane__entry *entry) {
  struct call *call = ctx;
  if (!entry_load(call, entry, &call->own_key, &call->value)) {
    return false;
  }
  return call->map->ops.equal == NULL
             ? call->own_key == call->key
             : call->map->ops.equal((const void *)call->key,
                                    (const void *)call->own_key);
}

WANE_INLINE struct wane__entry *entry_find(struct call *call) {
  return wane__table_find(call->table, call->order, entry_matches, call);
}

/* Finds the key's entry or adds one with the value; *added tells. NULL with
   ENOMEM. */
static struct wane__entry *entry_find_or_add(struct call *call, uintptr_t value,
                                             bool *added) {
  struct wane__entry *found = entry_find(call);
  *added = false;
  if (found != NULL) {
    return found;
  }
  struct wane__entry *fresh = wane__table_entry_new(call->table, call->order);
  if (fresh == NULL) {
    return NULL;
  }
  bool is_value_weak = entry_has_value_weak(call);
  wane__store_relaxed(&fresh->pair.held, is_value_weak ? call->key : value);
  wane__store_relaxed(&fresh->pair.weak, is_value_weak ? value : call->key);
  found = wane__table_add_unless(call->table, fresh, entry_matches, call);
  *added = found == NULL;
  return *added ? fresh : found;
}

/* ---- The calls ---- */

WANE_PUBLIC struct wane_map *wane_map_new(const struct wane_map_ops *ops,
                                          unsigned flags) {
  if (ops != NULL && (ops->hash == NULL || ops->equal == NULL)) {
    wane__fatal("wane_map_new", "ops without %s",
                ops->hash == NULL ? "hash" : "equal");
  }
  if ((flags & ~MAP_FLAGS) != 0) {
    errno = EINVAL;
    return NULL;
  }
  static const enum wane__table_mode modes[] = {
      [0] = WANE__TABLE_STRONG,
      [WANE_WEAK_KEYS] = WANE__TABLE_WEAK_KEYS,
      [WANE_WEAK_VALUES] = WANE__TABLE_WEAK_VALUES,
      [MAP_FLAGS] = WANE__TABLE_WEAK_BOTH,
  };
  struct wane_map *m = wane__heap_alloc_fast(WANE__KIND_SCAN, sizeof *m);
  if (m == NULL) {
    return NULL;
  }
  m->mode = modes[flags];
  m->ops = ops != NULL ? *ops : (struct wane_map_ops){0};
  m->table = wane__table_new(m->mode, true);
  return m->table != NULL ? m : NULL;
}

static void out_value(void **out, bool found, uintptr_t value) {
  if (out != NULL) {
    *out = found ? (void *)value : NULL;
  }
}

WANE_PUBLIC WANE_HOT bool wane_map_load(struct wane_map *m, const void *key,
                                        void **value) {
  struct call call = call_begin("wane_map_load", m, key);
  bool found = entry_find(&call) != NULL;
  out_value(value, found, call.value);
  call_end(&call, call.value);
  return found;
}

/* Stores a value whether the key is there or not. */
static bool map_swap(struct call *call, uintptr_t value, uintptr_t *previous) {
  for (;;) {
    bool added;
    struct wane__entry *entry = entry_find_or_add(call, value, &added);
    if (entry == NULL || added) {
      return false;
    }
    if (entry_change(call, entry, NULL, value, previous) == CHANGE_DONE) {
      return true;
    }
  }
}

WANE_PUBLIC void wane_map_store(struct wane_map *m, const void *key,
                                void *value) {
  struct call call = call_begin("wane_map_store", m, key);
  uintptr_t previous;
  (void)map_swap(&call, (uintptr_t)value, &previous);
  call_end(&call, (uintptr_t)value);
}

WANE_PUBLIC bool wane_map_swap(struct wane_map *m, const void *key, void *value,
                               void **previous) {
  struct call call = call_begin("wane_map_swap", m, key);
  uintptr_t old = 0;
  bool had = map_swap(&call, (uintptr_t)value, &old);
  out_value(previous, had, old);
  call_end(&call, (uintptr_t)value);
  return had;
}

WANE_PUBLIC void *wane_map_load_or_store(struct wane_map *m, const void *key,
                                         void *value, bool *loaded) {
  struct call call = call_begin("wane_map_load_or_store", m, key);
  bool added;
  const struct wane__entry *entry =
      entry_find_or_add(&call, (uintptr_t)value, &added);
  if (loaded != NULL) {
    *loaded = entry != NULL && !added;
  }
  call_end(&call, (uintptr_t)value);
  return entry == NULL ? NULL : added ? value : (void *)call.value;
}

/* Changes the value of a key that is there; false: it is not, or differs. */
static bool map_change(struct call *call, const uintptr_t *expected,
                       uintptr_t value, uintptr_t *old) {
  for (;;) {
    struct wane__entry *entry = entry_find(call);
    if (entry == NULL) {
      return false;
    }
    enum change change = entry_change(call, entry, expected, value, old);
    if (change != CHANGE_OUT) {
      return change == CHANGE_DONE;
    }
  }
}

WANE_PUBLIC bool wane_map_load_and_delete(struct wane_map *m, const void *key,
                                          void **value) {
  struct call call = call_begin("wane_map_load_and_delete", m, key);
  uintptr_t old = 0;
  bool found = map_change(&call, NULL, WANE__GONE, &old);
  out_value(value, found, old);
  call_end(&call, old);
  return found;
}

WANE_PUBLIC bool wane_map_delete(struct wane_map *m, const void *key) {
  struct call call = call_begin("wane_map_delete", m, key);
  uintptr_t old;
  bool found = map_change(&call, NULL, WANE__GONE, &old);
  call_end(&call, 0);
  return found;
}

WANE_PUBLIC bool wane_map_compare_and_swap(struct wane_map *m, const void *key,
                                           void *old_value, void *new_value) {
  struct call call = call_begin("wane_map_compare_and_swap", m, key);
  uintptr_t expected = (uintptr_t)old_value;
  uintptr_t old;
  bool done = map_change(&call, &expected, (uintptr_t)new_value, &old);
  call_end(&call, (uintptr_t)new_value);
  wane_keep_alive(old_value);
  return done;
}

WANE_PUBLIC bool wane_map_compare_and_delete(struct wane_map *m,
                                             const void *key, void *old_value) {
  struct call call = call_begin("wane_map_compare_and_delete", m, key);
  uintptr_t expected = (uintptr_t)old_value;
  uintptr_t old;
  bool done = map_change(&call, &expected, WANE__GONE, &old);
  call_end(&call, expected);
  return done;
}

static struct wane__context *range_self(void) {
  struct wane__context *self = wane__attach();
  if (self == NULL) {
    wane__fatal("wane_map_range", "out of memory for the thread's record");
  }
  return self;
}

WANE_PUBLIC void wane_map_range(struct wane_map *m,
                                bool (*visit)(const void *key, void *value,
                                              void *ctx),
                                void *ctx) {
  struct call call = {.map = m};
  if (m == NULL || visit == NULL) {
    wane__fatal("wane_map_range", "%s is NULL",
                m == NULL ? "the map" : "visit");
  }
  call.self = range_self();
  call.table = wane__load_acquire(&m->table);
  uint64_t passed = 0;
  struct wane__entry *entry =
      wane__table_next_entry(&call.table->root, &passed);
  while (entry != NULL) {
    uintptr_t key;
    uintptr_t value;
    if (entry_load(&call, entry, &key, &value)) {
      if (!visit((const void *)key, (void *)value, ctx)) {
        break;
      }
      call.self = range_self(); /* visit may have detached the thread */
    }
    entry = wane__table_next_entry(wane__link_next(&entry->link), &passed);
  }
  call_end(&call, 0);
}

WANE_PUBLIC void wane_map_clear(struct wane_map *m) {
  if (m == NULL) {
    wane__fatal("wane_map_clear", "the map is NULL");
  }
  struct wane__table *fresh = wane__table_new(m->mode, true);
  if (fresh != NULL) {
    wane__store(&m->table, fresh);
  }
}

WANE_PUBLIC size_t wane_map_count(struct wane_map *m) {
  if (m == NULL) {
    wane__fatal("wane_map_count", "the map is NULL");
  }
  return wane__table_count(wane__load_acquire(&m->table));
}
