/*
 * wane_cache_*: a map of weak values (tables/map.c), the values used last
 * (tables/recent.h), and the creations under way.
 *
 * The map's keys are struct cache_key: what is asked for, and in the cache's
 * own ones the bytes and the time of use besides. An entry keeps its key as
 * long as its value lives, so all of that goes together.
 *
 * A miss becomes a flight: an object on the cache's list that stands for the
 * key while create runs. Whoever misses looks there first, and waits for a
 * flight of his key on a futex in it. A flight ends in this order: its value
 * goes into the map, it leaves the list, those who wait are woken. So there is
 * one flight of a key at a time, and whoever comes later finds the value.
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
 * fork those of vanished threads are taken off the list when met.
 *
 * The list and the values used last are guarded by the stripe's lock of the
 * cache's own group (special/group.h), with which fork knows how to deal.
 *
 * INV-cache-1: of the flights on a cache's list no two have equal keys.
 */
#include "../../include/wane/cache.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "../../include/wane/heap.h"
#include "../../include/wane/lifetime.h"
#include "../base/check.h"
#include "../base/os.h"
#include "../collect/fork.h"
#include "../heap/heap.h"
#include "../heap/hooks.h"
#include "hash.h"
#include "map.h"
#include "recent.h"

struct cache_key {
  const void *bytes;
  size_t size;
  /* of the cache's own keys only */
  struct wane__recent_item item;
  _Alignas(16) unsigned char copy[];
};

struct flight {
  struct flight *next;          /* on the cache's list. lock: stripe */
  struct cache_key *key;        /* const */
  void *value;                  /* const once it is done, as is error */
  int error;                    /* errno of a NULL value */
  uint32_t is_done;             /* a futex. seq_cst */
  uint32_t fork_count;          /* of its process. const */
  struct flight *outer;         /* of the same thread, or NULL. const */
  struct flight *outermost;     /* of the same thread. const */
  struct flight *waits_for;     /* of the outermost. seq_cst */
  struct wane_cache *cache;     /* const */
};

struct wane_cache {
  struct wane_cache_config config; /* const */
  struct wane_map *map;            /* const */
  struct flight *flights;          /* lock: recent.lock */
  struct wane__recent recent;
};

/* The innermost flight whose create the calling thread is in. */
static WANE_TLS struct flight *flight_self;

static uint64_t key_hash(const void *key) {
  const struct cache_key *k = key;
  return wane__hash_bytes(k->bytes, k->size);
}

static bool key_equal(const void *a, const void *b) {
  const struct cache_key *x = a;
  const struct cache_key *y = b;
  return x->size == y->size && memcmp(x->bytes, y->bytes, x->size) == 0;
}

static const struct wane_map_ops cache_ops = {key_hash, key_equal};

/* The bytes are scanned: while the value lives, what they point to does. */
static struct cache_key *key_copy(const struct cache_key *key) {
  struct cache_key *copy =
      wane_new_flex(struct cache_key, copy, key->size);
  if (copy == NULL) {
    return NULL;
  }
  memcpy(copy->copy, key->bytes, key->size);
  copy->bytes = copy->copy;
  copy->size = key->size;
  return copy;
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
  c->map = wane_map_new(&cache_ops, WANE_WEAK_VALUES);
  return c->map != NULL ? c : NULL;
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

/* Its thread was not the one that forked. */
static bool flight_has_vanished(const struct flight *flight) {
  return WANE_UNLIKELY(flight->fork_count != wane__fork_count) &&
         !flight_is_own(flight);
}

/* The flight of an equal key; if there is none, NULL, and `fresh` is it from
   now on. */
static struct flight *flight_find_or_add(struct wane_cache *c,
                                         struct flight *fresh) {
  struct flight *found = NULL;
  struct wane__context *self = cache_lock(c);
  for (struct flight **at = &c->flights; *at != NULL;) {
    if (flight_has_vanished(*at)) {
      *at = (*at)->next;
    } else if (key_equal((*at)->key, fresh->key)) {
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
static void flight_left(void *flight) {
  flight_end(flight, NULL, ECANCELED);
}

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

static void *flight_create(struct flight *flight) {
  const struct wane_cache_config *config = &flight->cache->config;
  void *value;
  pthread_cleanup_push(flight_left, flight);
  errno = 0;
  value = config->create(flight->key->bytes, flight->key->size, config->ctx);
  pthread_cleanup_pop(0);
  return value;
}

/* Runs create, unless another flight has ended since the miss. */
static void *flight_run(struct flight *flight) {
  struct wane_cache *c = flight->cache;
  const void *own_key;
  void *value;
  int saved = errno;
  flight->outer = flight_self;
  flight->outermost =
      flight_self != NULL ? flight_self->outermost : flight;
  flight_self = flight;
  if (wane__map_load_entry(c->map, flight->key, &own_key, &value)) {
    flight_end(flight, value, 0);
    return value;
  }
  value = flight_create(flight);
  int error = errno;
  if (value != NULL) {
    value = wane_map_load_or_store(c->map, flight->key, value, NULL);
    error = ENOMEM; /* if that failed */
  }
  if (value != NULL) {
    wane__recent_use(&c->recent, &flight->key->item, value);
  }
  flight_end(flight, value, error);
  errno = value != NULL ? saved : error;
  return value;
}

static WANE_NOINLINE void *cache_miss(struct wane_cache *c,
                                      const struct cache_key *key) {
  struct flight *fresh = wane_new(struct flight);
  if (fresh == NULL) {
    return NULL;
  }
  fresh->cache = c;
  fresh->fork_count = wane__fork_count;
  fresh->outermost = fresh;
  fresh->key = key_copy(key);
  if (fresh->key == NULL) {
    return NULL;
  }
  struct flight *other = flight_find_or_add(c, fresh);
  if (other == NULL) {
    return flight_run(fresh);
  }
  void *value = flight_wait(other);
  if (value == NULL) {
    errno = other->error;
  }
  wane_keep_alive(other);
  return value;
}

WANE_PUBLIC WANE_HOT void *wane_cache_get(struct wane_cache *c, const void *key,
                                          size_t key_size) {
  if (WANE_UNLIKELY(c == NULL || (key == NULL && key_size != 0))) {
    wane__fatal("wane_cache_get", "%s is NULL", c == NULL ? "the cache" : "key");
  }
  struct cache_key asked = {.bytes = key_size != 0 ? key : "",
                            .size = key_size};
  const void *own_key;
  void *value;
  if (WANE_LIKELY(wane__map_load_entry(c->map, &asked, &own_key, &value))) {
    wane__recent_use(&c->recent, &((struct cache_key *)own_key)->item, value);
  } else {
    value = cache_miss(c, &asked);
  }
  wane_keep_alive(key);
  wane_keep_alive(c);
  wane_keep_alive(value);
  return value;
}

WANE_PUBLIC size_t wane_cache_count(struct wane_cache *c) {
  if (c == NULL) {
    wane__fatal("wane_cache_count", "the cache is NULL");
  }
  return wane_map_count(c->map);
}
