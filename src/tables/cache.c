/*
 * wane_cache_*: a table (table.h) of weak values, the values used last
 * (recent.h), and the creations under way.
 *
 * An entry keeps its key, a struct cache_key, as long as its value lives: the
 * bytes and the time of use go with the value.
 *
 * A miss becomes a flight: an object on the cache's list that stands for the
 * key while create runs. Whoever misses looks there first, and waits for a
 * flight of his key on a futex in it. A flight ends in this order: its value
 * goes into the table, it leaves the list, those who wait are woken. So there
 * is one flight of a key at a time, and whoever comes later finds the value.
 * (Singleflight, as groupcache has it.)
 *
 * Waiting in circles. While a thread is in a creator and waits for a flight,
 * its outermost flight says so. From the flight it is going to wait for it
 * follows these notes from owner to owner; if that leads back to itself, no
 * one in the circle could ever go on, which is fatal. Each thread notes before
 * it looks, so the last one of a circle sees all of it. Notes whose flight is
 * done count for nothing, so no circle is seen that is not there.
 *
 * A flight whose thread exits in create ends with ECANCELED. In the child of a
 * fork those of other threads are taken off the list when met.
 *
 * The list and the values used last are guarded by the stripe's lock of the
 * cache's own group (special/group.h), with which fork knows how to deal.
 *
 * INV-cache-1: of the flights on a cache's list no two have equal keys.
 */
#include "cache.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "../../include/wane/cache.h"
#include "../../include/wane/heap.h"
#include "../../include/wane/lifetime.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../collect/fork.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "../special/ephemeron.h"
#include "hash.h"
#include "recent.h"
#include "table.h"

struct cache_key {
  size_t size;
  struct wane__recent_item item;
  _Alignas(16) unsigned char bytes[]; /* scanned, so that what they point to
                                         lives as long as the value */
};

/* What a call asks for, and what it finds. */
struct asked {
  struct wane__context *self;
  const void *bytes;
  size_t size;
  uint64_t order;
  struct cache_key *key; /* the entry's */
  void *value;
  void *ctx; /* for create */
};

struct flight {
  struct flight *next;      /* on the cache's list. lock: stripe */
  struct cache_key *key;    /* const */
  void *value;              /* const once it is done, as is error */
  int error;                /* errno of a NULL value */
  uint32_t is_done;         /* a futex. seq_cst */
  uint32_t fork_count;      /* of its process. only fork changes it */
  struct flight *outer;     /* of the same thread, or NULL. const */
  struct flight *outermost; /* of the same thread. const */
  struct flight *waits_for; /* of the outermost. seq_cst */
  struct wane_cache *cache; /* const */
};

struct wane_cache {
  struct wane_cache_config config; /* const */
  struct wane__table *table;       /* const */
  struct flight *flights;          /* lock: recent.lock */
  struct wane__recent recent;
};

/* The innermost flight whose create the calling thread is in. */
static WANE_TLS struct flight *flight_self;

/* ---- Keys and entries ---- */

WANE_INLINE bool key_is_asked(const struct cache_key *key,
                              const struct asked *asked) {
  return key->size == asked->size &&
         memcmp(key->bytes, asked->bytes, asked->size) == 0;
}

static struct cache_key *key_new(const struct asked *asked) {
  struct cache_key *key = wane_new_flex(struct cache_key, bytes, asked->size);
  if (key != NULL) {
    key->size = asked->size;
    memcpy(key->bytes, asked->bytes, asked->size);
  }
  return key;
}

WANE_INLINE bool entry_match(void *ctx, struct wane__entry *entry) {
  struct asked *asked = ctx;
  uintptr_t value;
  uintptr_t key;
  if (!wane__pair_load(asked->self, &entry->pair, false, &value, &key) ||
      !key_is_asked((struct cache_key *)key, asked)) {
    return false;
  }
  asked->key = (struct cache_key *)key;
  asked->value = (void *)value;
  return true;
}

WANE_INLINE bool cache_find(struct wane_cache *c, struct asked *asked) {
  return wane__table_find(c->table, asked->order, entry_match, asked) != NULL;
}

/* Adds an entry for a key that has none, or finds the one that it has got;
   false: no memory. */
static bool cache_add(struct wane_cache *c, struct asked *asked,
                      struct cache_key *key, void *value) {
  struct wane__entry *entry = wane__table_entry_new(c->table, asked->order);
  if (entry == NULL) {
    return false;
  }
  wane__store_relaxed(&entry->pair.held, (uintptr_t)key);
  wane__store_relaxed(&entry->pair.weak, (uintptr_t)value);
  if (wane__table_add_unless(c->table, entry, entry_match, asked) == NULL) {
    asked->key = key;
    asked->value = value;
  }
  return true;
}

WANE_PUBLIC struct wane_cache *
wane_cache_new(const struct wane_cache_config *config) {
  if (config == NULL || config->create == NULL) {
    wane__fatal("wane_cache_new", "%s is NULL",
                config == NULL ? "config" : "create");
  }
  struct wane_cache *c = wane_new(struct wane_cache);
  if (c == NULL) {
    return NULL;
  }
  struct wane__found found = wane__block_slot_of((uintptr_t)c);
  c->config = *config;
  c->recent.lock = wane__stripe_of(wane__group_of(&found));
  c->recent.limit = config->keep_recent;
  c->table = wane__table_new(WANE__TABLE_WEAK_VALUES, true);
  return c->table != NULL ? c : NULL;
}

/* ---- Flights ---- */

/* create may have forked: the child's first call attaches it anew. */
static struct wane__context *cache_lock(struct wane_cache *c) {
  struct wane__context *self = wane__attach();
  if (self == NULL) {
    wane__fatal("wane_cache_get", "out of memory for the thread's record");
  }
  wane__guard_enter(self);
  wane__spin_acquire(&c->recent.lock->lock);
  return self;
}

static void cache_unlock(struct wane_cache *c, struct wane__context *self) {
  wane__spin_release(&c->recent.lock->lock);
  wane__guard_leave(self);
}

static bool flight_is_own(const struct flight *flight) {
  const struct flight *own = flight_self;
  while (own != NULL && own != flight) {
    own = own->outer;
  }
  return own != NULL;
}

/* Its thread has stayed in the parent of a fork. */
static bool flight_has_vanished(const struct flight *flight) {
  return flight->fork_count != wane__fork_count;
}

void wane__cache_forked(void) {
  for (struct flight *own = flight_self; own != NULL; own = own->outer) {
    own->fork_count = wane__fork_count;
  }
}

/* The flight of an equal key; if there is none, NULL, and `fresh` is it from
   now on. */
static struct flight *flight_find_or_add(struct wane_cache *c,
                                         const struct asked *asked,
                                         struct flight *fresh) {
  struct flight *found = NULL;
  struct wane__context *self = cache_lock(c);
  for (struct flight **at = &c->flights; *at != NULL;) {
    if (flight_has_vanished(*at)) {
      *at = (*at)->next;
    } else if (key_is_asked((*at)->key, asked)) {
      found = *at;
      break;
    } else {
      at = &(*at)->next;
    }
  }
  if (found == NULL) {
    fresh->next = c->flights;
    c->flights = fresh;
  }
  cache_unlock(c, self);
  return found;
}

static void flight_end(struct flight *flight, void *value, int error) {
  struct wane_cache *c = flight->cache;
  flight->value = value;
  flight->error = error;
  flight_self = flight->outer;
  struct wane__context *self = cache_lock(c);
  struct flight **at = &c->flights;
  while (*at != NULL && *at != flight) {
    WANE_CHECK((*at)->key->size != flight->key->size ||
                   memcmp((*at)->key->bytes, flight->key->bytes,
                          flight->key->size) != 0,
               "INV-cache-1: no two flights of a key");
    at = &(*at)->next;
  }
  if (*at != NULL) {
    *at = flight->next;
  }
  cache_unlock(c, self);
  wane__store(&flight->is_done, 1);
  wane__os_futex_wake(&flight->is_done, INT32_MAX);
}

/* The thread leaves from inside create. */
static void flight_left(void *flight) { flight_end(flight, NULL, ECANCELED); }

/* The calling thread, in a creator, is about to wait. */
static void flight_check_circle(struct flight *flight) {
  const struct flight *own = flight_self->outermost;
  wane__store(&flight_self->outermost->waits_for, flight);
  while (flight != NULL && wane__load(&flight->is_done) == 0) {
    if (flight->outermost == own) {
      wane__fatal("wane_cache_get",
                  "the key is being created by a thread that waits for this "
                  "one's creator");
    }
    flight = wane__load(&flight->outermost->waits_for);
  }
}

static void *flight_wait(struct flight *flight) {
  if (flight_is_own(flight)) {
    wane__fatal("wane_cache_get",
                "the key is being created by this thread: create asked for it");
  }
  if (flight_self != NULL) {
    flight_check_circle(flight);
  }
  int saved = errno;
  while (wane__load(&flight->is_done) == 0) {
    wane__os_futex_wait(&flight->is_done, 0, -1);
  }
  errno = saved;
  if (flight_self != NULL) {
    wane__store(&flight_self->outermost->waits_for, NULL);
  }
  return flight->value;
}

static void *flight_create(struct flight *flight, void *ctx) {
  const struct wane_cache_config *config = &flight->cache->config;
  void *value;
  pthread_cleanup_push(flight_left, flight);
  errno = 0;
  value = config->create(flight->key->bytes, flight->key->size, ctx);
  pthread_cleanup_pop(0);
  return value;
}

/* Runs create and stores what it returns in asked; else an errno value. */
static int flight_fly(struct flight *flight, struct asked *asked) {
  struct wane_cache *c = flight->cache;
  void *value = flight_create(flight, asked->ctx);
  int error = errno;
  if (value == NULL) {
    return error;
  }
  asked->self = wane__attach(); /* create may have forked */
  if (asked->self == NULL || !cache_add(c, asked, flight->key, value)) {
    return ENOMEM;
  }
  wane__recent_use(&c->recent, &asked->key->item, asked->value);
  return 0;
}

/* Runs create, unless another flight has ended since the miss. */
static void *flight_run(struct flight *flight, struct asked *asked) {
  int saved = errno;
  flight_self = flight;
  int error = 0;
  if (!cache_find(flight->cache, asked)) {
    error = flight_fly(flight, asked);
  }
  flight_end(flight, asked->value, error);
  errno = asked->value != NULL ? saved : error;
  return asked->value;
}

static WANE_NOINLINE void *cache_miss(struct wane_cache *c,
                                      struct asked *asked) {
  struct flight *fresh = wane_new(struct flight);
  struct cache_key *key = fresh != NULL ? key_new(asked) : NULL;
  if (key == NULL) {
    return NULL;
  }
  fresh->cache = c;
  fresh->key = key;
  fresh->fork_count = wane__fork_count;
  fresh->outer = flight_self;
  fresh->outermost = flight_self != NULL ? flight_self->outermost : fresh;
  struct flight *other = flight_find_or_add(c, asked, fresh);
  if (other == NULL) {
    return flight_run(fresh, asked);
  }
  void *value = flight_wait(other);
  if (value == NULL) {
    errno = other->error;
  }
  wane_keep_alive(other);
  return value;
}

WANE_INLINE void *cache_get(struct wane_cache *c, const void *key,
                            size_t key_size, void *ctx) {
  struct asked asked = {.self = wane__attach(),
                        .bytes = key_size != 0 ? key : "",
                        .size = key_size,
                        .ctx = ctx};
  asked.order = wane__table_order(wane__hash_bytes(asked.bytes, key_size));
  if (WANE_UNLIKELY(asked.self == NULL)) {
    return NULL;
  }
  void *value;
  if (WANE_LIKELY(cache_find(c, &asked))) {
    value = asked.value;
    wane__recent_use(&c->recent, &asked.key->item, value);
  } else {
    value = cache_miss(c, &asked);
  }
  wane_keep_alive(key);
  wane_keep_alive(c);
  wane_keep_alive(value);
  return value;
}

void *wane__cache_get_with(struct wane_cache *c, const void *key,
                           size_t key_size, void *ctx) {
  return cache_get(c, key, key_size, ctx);
}

WANE_PUBLIC WANE_HOT void *wane_cache_get(struct wane_cache *c, const void *key,
                                          size_t key_size) {
  if (WANE_UNLIKELY(c == NULL || (key == NULL && key_size != 0))) {
    wane__fatal("wane_cache_get", "%s is NULL",
                c == NULL ? "the cache" : "key");
  }
  return cache_get(c, key, key_size, c->config.ctx);
}

WANE_PUBLIC size_t wane_cache_count(struct wane_cache *c) {
  if (c == NULL) {
    wane__fatal("wane_cache_count", "the cache is NULL");
  }
  return wane__table_count(c->table);
}
