/* See things.h. */
#include "things.h"

#define CANARY 0x7ac4e0ff5a11edull

uint64_t things_created;
struct asker askers[ASKERS_MAX];

struct thing *thing_new(const void *key, size_t key_size) {
  struct thing *thing = wane_alloc(sizeof *thing);
  require(thing != NULL && key_size == sizeof thing->number);
  memcpy(&thing->number, key, sizeof thing->number);
  thing->canary = CANARY ^ thing->number;
  thing->key = key;
  return thing;
}

void *create_thing(const void *key, size_t key_size, void *ctx) {
  (void)ctx;
  test_add(&things_created);
  struct thing *thing = thing_new(key, key_size);
  if (thing->number >= THINGS_FAIL) {
    errno = EXDEV;
    return NULL;
  }
  return thing;
}

struct wane_cache *cache_new(create_fn *create, void *ctx, size_t keep_recent) {
  struct wane_cache_config config = {create, ctx, keep_recent};
  struct wane_cache *c = wane_cache_new(&config);
  require(c != NULL && wane_base(c) == c);
  memset(&config, 0xff, sizeof config); /* which is copied */
  return c;
}

struct thing *get(struct wane_cache *c, uint64_t number) {
  struct thing *thing = wane_cache_get(c, &number, sizeof number);
  if (thing != NULL) {
    require(thing->number == number && thing->canary == (CANARY ^ number));
    require(memcmp(thing->key, &number, sizeof number) == 0);
    require((uintptr_t)thing->key % 16 == 0);
  }
  return thing;
}

void askers_run(void *(*fn)(void *arg), size_t count) {
  memset(askers, 0, sizeof askers);
  for (size_t t = 0; t < count; t++) {
    assert_int_equal(pthread_create(&askers[t].thread, NULL, fn, &askers[t]),
                     0);
  }
}

void askers_join(size_t count) {
  for (size_t t = 0; t < count; t++) {
    assert_int_equal(pthread_join(askers[t].thread, NULL), 0);
  }
}

TEST_ROOT struct wane_cache *asked;
static pthread_barrier_t barrier;

static void *ask_for_all(void *arg) {
  struct asker *asker = arg;
  pthread_barrier_wait(&barrier);
  for (size_t i = 0; i < ASKER_KEYS; i++) {
    size_t key = (i + (size_t)(asker - askers)) % ASKER_KEYS;
    asker->got[key] = get(asked, key);
  }
  return NULL;
}

void askers_get_all(struct wane_cache *c, size_t count) {
  asked = c;
  require(pthread_barrier_init(&barrier, NULL, (unsigned)count) == 0);
  askers_run(ask_for_all, count);
  askers_join(count);
  pthread_barrier_destroy(&barrier);
  asked = NULL;
}
