/*
 * wane_unique_* and wane_intern: two tables (table.h) of weak entries without
 * values, one of scanned objects and one of leaves. An entry's key is the
 * object, its value the number of bytes; it goes when the object is found dead.
 *
 * The objects of wane_unique_make end with a word that holds their size, which
 * wane_unique_value needs, and which tells, with a look into the table, whether
 * a pointer is a unique at all.
 *
 * A hit allocates nothing and takes no lock. Two that add equal bytes at once
 * meet at the same link (INV-table-1): the second finds the first's.
 */
#include "../../include/wane/unique.h"

#include <errno.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../../include/wane/lifetime.h"
#include "../base/check.h"
#include "../heap/hooks.h"
#include "../special/ephemeron.h"
#include "hash.h"
#include "table.h"

enum unique_sort { UNIQUE_BYTES, UNIQUE_STRINGS, UNIQUE_SORTS };

/* Roots; each made by the first call that needs it. atomic */
static struct wane__table *unique_tables[UNIQUE_SORTS];

static struct wane__table *unique_table(enum unique_sort sort) {
  /* pairs with the compare-and-swap below */
  struct wane__table *table = wane__load_acquire(&unique_tables[sort]);
  if (WANE_LIKELY(table != NULL)) {
    return table;
  }
  struct wane__table *fresh = wane__table_new(WANE__TABLE_WEAK_KEYS, false);
  if (fresh == NULL || wane__cas(&unique_tables[sort], &table, fresh)) {
    return fresh;
  }
  return table;
}

/* The bytes asked for, and the object that has them. */
struct unique_call {
  struct wane__context *self;
  const void *bytes;
  size_t size;
  uint64_t order;
  const void *object;
};

WANE_INLINE bool unique_match(void *ctx, struct wane__entry *entry) {
  struct unique_call *call = ctx;
  uintptr_t object;
  uintptr_t size;
  if (!wane__pair_load(call->self, &entry->pair, false, &object, &size) ||
      size != call->size ||
      memcmp((const void *)object, call->bytes, size) != 0) {
    return false;
  }
  call->object = (const void *)object;
  return true;
}

static size_t *unique_size_word(void *object) {
  return (size_t *)((char *)object + wane_size(object)) - 1;
}

static void *unique_new(const struct unique_call *call, enum unique_sort sort) {
  size_t with_size = call->size + sizeof(size_t);
  if (with_size < call->size) {
    errno = ENOMEM;
    return NULL;
  }
  void *object = sort == UNIQUE_BYTES ? wane_alloc(with_size)
                                      : wane_alloc_leaf(call->size);
  if (object == NULL) {
    return NULL;
  }
  if (call->size != 0) {
    memcpy(object, call->bytes, call->size);
  }
  if (sort == UNIQUE_BYTES) {
    *unique_size_word(object) = call->size;
  }
  return object;
}

/* What was not found; another thread may add it meanwhile. */
static WANE_NOINLINE const void *unique_add(struct unique_call *call,
                                            struct wane__table *table,
                                            enum unique_sort sort) {
  void *object = unique_new(call, sort);
  struct wane__entry *entry =
      object != NULL ? wane__table_entry_new(table, call->order) : NULL;
  if (entry == NULL) {
    return NULL;
  }
  wane__store_relaxed(&entry->pair.held, call->size);
  wane__store_relaxed(&entry->pair.weak, (uintptr_t)object);
  if (wane__table_add_unless(table, entry, unique_match, call) == NULL) {
    call->object = object;
  }
  wane_keep_alive(object);
  return call->object;
}

WANE_INLINE const void *unique_get(const char *name, enum unique_sort sort,
                                   const void *bytes, size_t size) {
  struct wane__table *table = unique_table(sort);
  if (WANE_UNLIKELY(table == NULL)) {
    return NULL;
  }
  struct unique_call call = {
      .self = wane__attach(),
      .bytes = bytes,
      .size = size,
      .order = wane__table_order(wane__hash_bytes(bytes, size))};
  if (WANE_UNLIKELY(call.self == NULL)) {
    wane__fatal(name, "out of memory for the thread's record");
  }
  if (WANE_LIKELY(wane__table_find(table, call.order, unique_match, &call) !=
                  NULL)) {
    return call.object;
  }
  return unique_add(&call, table, sort);
}

WANE_PUBLIC WANE_HOT wane_unique wane_unique_make(const void *bytes,
                                                  size_t size) {
  if (WANE_UNLIKELY(bytes == NULL && size != 0)) {
    wane__fatal("wane_unique_make", "bytes is NULL and size %zu", size);
  }
  wane_unique u = {unique_get("wane_unique_make", UNIQUE_BYTES,
                              size != 0 ? bytes : "", size)};
  wane_keep_alive(bytes);
  return u;
}

WANE_PUBLIC const void *wane_unique_value(wane_unique u, size_t *size) {
  void *base = wane_base(u.ptr);
  size_t usable = base != NULL ? wane_size(base) : 0;
  if (base == NULL || base != u.ptr || usable < sizeof(size_t)) {
    wane__fatal("wane_unique_value", "%p is no unique", u.ptr);
  }
  size_t bytes = *unique_size_word(base);
  if (bytes > usable - sizeof(size_t) ||
      wane_unique_make(u.ptr, bytes).ptr != u.ptr) {
    wane__fatal("wane_unique_value", "%p is no unique", u.ptr);
  }
  if (size != NULL) {
    *size = bytes;
  }
  return u.ptr;
}

WANE_PUBLIC WANE_HOT const char *wane_intern(const char *s) {
  if (WANE_UNLIKELY(s == NULL)) {
    wane__fatal("wane_intern", "the string is NULL");
  }
  const char *interned =
      unique_get("wane_intern", UNIQUE_STRINGS, s, strlen(s) + 1);
  wane_keep_alive(s);
  return interned;
}
