/*
 * For tests of caches: things, which caches make for keys that are numbers,
 * and many threads that ask for them at once.
 */
#ifndef WANE_TEST_THINGS_H
#define WANE_TEST_THINGS_H

#include "lives.h"

#include <pthread.h>

struct thing {
  uint64_t number;
  uint64_t canary;
  const void *key; /* the cache's copy */
  void *other;
};

/* From here on keys fail: create_thing returns NULL with EXDEV. */
#define THINGS_FAIL (1u << 20)

/* Of a key that is a uint64_t. Never NULL. */
struct thing *thing_new(const void *key, size_t key_size);

/* How often create_thing was called. */
extern uint64_t things_created;
/* For caches: counts, and makes a thing or fails. */
void *create_thing(const void *key, size_t key_size, void *ctx);

typedef void *create_fn(const void *key, size_t key_size, void *ctx);

/* Never NULL. */
struct wane_cache *cache_new(create_fn *create, void *ctx, size_t keep_recent);

/* The number's thing, checked; or NULL. */
struct thing *get(struct wane_cache *c, uint64_t number);

/* ---- Threads that ask at once ---- */

#define ASKERS_MAX 300
#define ASKER_KEYS 20

struct asker {
  pthread_t thread;
  void *got[ASKER_KEYS];
  int error;
  double cpu_seconds;
};

extern struct asker askers[ASKERS_MAX];

/* Each calls fn with its struct. Main thread. */
void askers_run(void *(*fn)(void *arg), size_t count);
void askers_join(size_t count);
/* All of them ask for the numbers below ASKER_KEYS, which they begin with at
   the same moment, each with another one. */
void askers_get_all(struct wane_cache *c, size_t count);

#endif
