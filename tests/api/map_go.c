/* What Go's own tests ask of its concurrent maps, asked of ours: M1. Those of
   internal/sync/hashtriemap_test.go run with a good hash, a constant one
   (TestHashTrieMapBadHash) and one of four bits (TestHashTrieMapTruncHash);
   then those of sync/map_test.go. */
/* timeout: 240 */
#include "support/lives.h"

#include <pthread.h>
#include <sched.h>

#define DATA 128
#define THREADS 4
#define NEVER ((void *)UINTPTR_MAX) /* no key has this value */

static char data[DATA][12]; /* numbers in binary digits */
static const size_t four[] = {1, 105, 6, 85};
TEST_ROOT struct wane_map *map;

static void data_init(void) {
  for (size_t i = 0; i < DATA; i++) {
    size_t length = 0;
    for (size_t bit = 8; bit-- > 0;) {
      if (i >> bit != 0 || bit == 0) {
        data[i][length++] = (char)('0' + (i >> bit & 1));
      }
    }
  }
}

static bool in_four(size_t idx) {
  for (size_t i = 0; i < TEST_COUNT(four); i++) {
    if (four[i] == idx) {
      return true;
    }
  }
  return false;
}

static void *number(size_t i) { return (void *)i; }

/* ---- The three hashes ---- */

static uint64_t constant_hash(const void *key) {
  (void)key;
  return 0;
}
static uint64_t short_hash(const void *key) {
  return wane_string_keys.hash(key) & 15;
}
static bool strings_equal(const void *a, const void *b) {
  return strcmp(a, b) == 0;
}

static void with_each_hash(void (*body)(void)) {
  const struct wane_map_ops ops[] = {wane_string_keys,
                                     {constant_hash, strings_equal},
                                     {short_hash, strings_equal}};
  for (size_t i = 0; i < TEST_COUNT(ops); i++) {
    map = wane_map_new(&ops[i], 0);
    require(map != NULL);
    body();
  }
  map = NULL;
}

/* ---- What is expected ---- */

static void present(const char *key, size_t value) {
  void *got = NEVER;
  require(wane_map_load(map, key, &got) && got == number(value));
}
static void missing(const char *key) {
  void *got = NEVER;
  require(!wane_map_load(map, key, &got) && got == NULL);
}
static void stores(const char *key, size_t value) {
  bool loaded = true;
  void *got = wane_map_load_or_store(map, key, number(value), &loaded);
  require(!loaded && got == number(value));
}
static void loads(const char *key, size_t value) {
  bool loaded = false;
  void *got = wane_map_load_or_store(map, key, number(0), &loaded);
  require(loaded && got == number(value));
}
static void deletes(const char *key, size_t old) {
  require(wane_map_compare_and_delete(map, key, number(old)));
}
static void deletes_not(const char *key, void *old) {
  require(!wane_map_compare_and_delete(map, key, old));
}
static void swaps(const char *key, size_t old, size_t value) {
  require(wane_map_compare_and_swap(map, key, number(old), number(value)));
}
static void swaps_not(const char *key, void *old, size_t value) {
  require(!wane_map_compare_and_swap(map, key, old, number(value)));
}
static void swap_loads(const char *key, size_t old, size_t value) {
  void *got = NEVER;
  require(wane_map_swap(map, key, number(value), &got) && got == number(old));
}
static void swap_stores(const char *key, size_t value) {
  void *got = NEVER;
  require(!wane_map_swap(map, key, number(value), &got) && got == NULL);
}
static void delete_loads(const char *key, size_t old) {
  void *got = NEVER;
  require(wane_map_load_and_delete(map, key, &got) && got == number(old));
}
static void delete_loads_not(const char *key) {
  void *got = NEVER;
  require(!wane_map_load_and_delete(map, key, &got) && got == NULL);
}

static void fill(void) {
  for (size_t i = 0; i < DATA; i++) {
    missing(data[i]);
    stores(data[i], i);
    present(data[i], i);
    loads(data[i], i);
  }
}

static void all_missing(void) {
  for (size_t i = 0; i < DATA; i++) {
    missing(data[i]);
  }
}

/* ---- Threads, each with its number ---- */

struct part {
  void (*fn)(size_t id);
  size_t id;
};

static void *part_thread(void *arg) {
  const struct part *part = arg;
  part->fn(part->id);
  return NULL;
}

static struct part parts[THREADS];
static pthread_t threads[THREADS];

static void begin_all(void (*fn)(size_t id)) {
  for (size_t i = 0; i < THREADS; i++) {
    parts[i] = (struct part){fn, i};
    require(!pthread_create(&threads[i], NULL, part_thread, &parts[i]));
  }
}
static void join_all(void) {
  for (size_t i = 0; i < THREADS; i++) {
    require(!pthread_join(threads[i], NULL));
  }
}

/* A key that no other thread has. */
struct own_key {
  char text[40];
};
static struct own_key own_key(size_t i, size_t id) {
  struct own_key key;
  snprintf(key.text, sizeof key.text, "%.10s-%zu", data[i], id);
  return key;
}

/* The map takes the pointer, so the strings are managed. */
static const char *stored_key(size_t i, size_t id) {
  const char *copy = wane_strdup(own_key(i, id).text);
  require(copy != NULL);
  return copy;
}

static void fill_own(size_t id) {
  for (size_t i = 0; i < DATA; i++) {
    const char *key = stored_key(i, id);
    missing(key);
    stores(key, id);
    present(key, id);
    loads(key, id);
  }
}

static void own_all(size_t id, void (*check)(const char *key, size_t id)) {
  for (size_t i = 0; i < DATA; i++) {
    check(own_key(i, id).text, id);
  }
}

static void own_missing(const char *key, size_t id) {
  (void)id;
  missing(key);
}
static void own_present_1(const char *key, size_t id) { present(key, id + 1); }
static void own_present_2(const char *key, size_t id) { present(key, id + 2); }

static void run_all(void (*fn)(size_t id)) {
  begin_all(fn);
  join_all();
}

/* ---- LoadEmpty, LoadOrStore, All, Clear ---- */

static void load_or_store(void) {
  all_missing();
  fill();
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], i);
    loads(data[i], i);
  }
}

static uint8_t visits[DATA];

static bool visit(const void *key, void *value, void *ctx) {
  size_t i = (size_t)value;
  bool (*then)(const char *key, size_t i) =
      *(bool (**)(const char *, size_t))ctx;
  require(i < DATA && strcmp(key, data[i]) == 0);
  require(visits[i]++ == 0);
  return then(key, i);
}

static void visit_all(bool (*then)(const char *key, size_t i)) {
  for (size_t i = 0; i < DATA; i++) {
    stores(data[i], i);
  }
  memset(visits, 0, sizeof visits);
  wane_map_range(map, visit, &then);
  for (size_t i = 0; i < DATA; i++) {
    require(visits[i] == 1);
  }
}

static bool then_nothing(const char *key, size_t i) {
  (void)key, (void)i;
  return true;
}
static void all(void) { visit_all(then_nothing); }

static void clear_simple(void) {
  fill();
  wane_map_clear(map);
  all_missing();
}

static void meddle(size_t id) {
  for (size_t i = 0; i < DATA; i++) {
    deletes_not(data[i], NEVER);
    (void)wane_map_compare_and_swap(map, data[i], number(id), number(id + 1));
  }
}

static void clear_concurrent(void) {
  fill();
  begin_all(meddle);
  sched_yield();
  wane_map_clear(map);
  join_all();
  all_missing();
}

/* LoadEmpty; LoadOrStore; All; Clear/Simple; Clear/Concurrent. */
static void go_load_store_all_clear(void **state) {
  (void)state;
  with_each_hash(all_missing);
  with_each_hash(load_or_store);
  with_each_hash(all);
  with_each_hash(clear_simple);
  for (size_t i = 0; i < test_scaled(30, 5); i++) {
    with_each_hash(clear_concurrent);
  }
}

/* ---- CompareAndDelete ---- */

static void delete_one(size_t i) {
  deletes_not(data[i], NEVER);
  deletes(data[i], i);
  deletes_not(data[i], number(i));
}

static void compare_and_delete_all(void) {
  for (int round = 0; round < 3; round++) {
    fill();
    for (size_t i = 0; i < DATA; i++) {
      present(data[i], i);
      delete_one(i);
      missing(data[i]);
    }
    all_missing();
  }
}

static void others_intact(const char *key, size_t i, bool touched) {
  if (touched) {
    missing(key);
  } else {
    present(key, i);
  }
}

static void compare_and_delete_one(void) {
  fill();
  delete_one(15);
  for (size_t i = 0; i < DATA; i++) {
    others_intact(data[i], i, i == 15);
  }
}

static void compare_and_delete_multiple(void) {
  fill();
  for (size_t i = 0; i < TEST_COUNT(four); i++) {
    delete_one(four[i]);
  }
  for (size_t i = 0; i < DATA; i++) {
    others_intact(data[i], i, in_four(i));
  }
}

static bool then_compare_and_delete(const char *key, size_t i) {
  deletes(key, i);
  return true;
}
static void compare_and_delete_iterate(void) {
  visit_all(then_compare_and_delete);
  all_missing();
}

static void own_delete(const char *key, size_t id) {
  present(key, id);
  deletes(key, id);
  missing(key);
}
static void delete_own(size_t id) {
  fill_own(id);
  own_all(id, own_delete);
  own_all(id, own_missing);
}
static void compare_and_delete_unshared(void) { run_all(delete_own); }

static void delete_shared(size_t id) {
  (void)id;
  for (size_t i = 0; i < DATA; i++) {
    deletes_not(data[i], NEVER);
    (void)wane_map_compare_and_delete(map, data[i], number(i));
    missing(data[i]);
  }
  all_missing();
}
static void compare_and_delete_shared(void) {
  fill();
  run_all(delete_shared);
}

/* CompareAndDelete/{All, One, Multiple, Iterate, ConcurrentUnsharedKeys,
   ConcurrentSharedKeys}. */
static void go_compare_and_delete(void **state) {
  (void)state;
  with_each_hash(compare_and_delete_all);
  with_each_hash(compare_and_delete_one);
  with_each_hash(compare_and_delete_multiple);
  with_each_hash(compare_and_delete_iterate);
  for (size_t i = 0; i < test_scaled(10, 2); i++) {
    with_each_hash(compare_and_delete_unshared);
    with_each_hash(compare_and_delete_shared);
  }
}

/* ---- CompareAndSwap ---- */

static void swap_one(size_t i, size_t old) {
  swaps_not(data[i], NEVER, old + 1);
  swaps(data[i], old, old + 1);
  swaps_not(data[i], number(old), old + 1);
}

static void compare_and_swap_all(void) {
  fill();
  for (size_t j = 0; j < 3; j++) {
    for (size_t i = 0; i < DATA; i++) {
      present(data[i], i + j);
      swap_one(i, i + j);
      present(data[i], i + j + 1);
    }
  }
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], i + 3);
  }
}

static void compare_and_swap_one(void) {
  fill();
  swap_one(15, 15);
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], i == 15 ? 16 : i);
  }
}

static void compare_and_swap_multiple(void) {
  fill();
  for (size_t i = 0; i < TEST_COUNT(four); i++) {
    swap_one(four[i], four[i]);
  }
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], in_four(i) ? i + 1 : i);
  }
}

static void own_swap(const char *key, size_t id) {
  present(key, id);
  swaps(key, id, id + 1);
  present(key, id + 1);
}
static void compare_swap_own(size_t id) {
  fill_own(id);
  own_all(id, own_swap);
  own_all(id, own_present_1);
}
static void compare_and_swap_unshared(void) { run_all(compare_swap_own); }

static void own_swap_delete(const char *key, size_t id) {
  own_swap(key, id);
  deletes(key, id + 1);
  swaps_not(key, number(id + 1), id + 2);
  deletes_not(key, number(id + 1));
  missing(key);
}
static void compare_swap_delete_own(size_t id) {
  fill_own(id);
  own_all(id, own_swap_delete);
  own_all(id, own_missing);
}
static void compare_and_swap_with_delete(void) {
  run_all(compare_swap_delete_own);
}

static void compare_swap_shared(size_t id) {
  (void)id;
  for (size_t i = 0; i < DATA; i++) {
    swaps_not(data[i], NEVER, i + 1);
    (void)wane_map_compare_and_swap(map, data[i], number(i), number(i + 1));
    present(data[i], i + 1);
  }
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], i + 1);
  }
}
static void compare_and_swap_shared(void) {
  fill();
  run_all(compare_swap_shared);
}

/* CompareAndSwap/{All, One, Multiple, ConcurrentUnsharedKeys,
   ConcurrentUnsharedKeysWithDelete, ConcurrentSharedKeys}. */
static void go_compare_and_swap(void **state) {
  (void)state;
  with_each_hash(compare_and_swap_all);
  with_each_hash(compare_and_swap_one);
  with_each_hash(compare_and_swap_multiple);
  for (size_t i = 0; i < test_scaled(10, 2); i++) {
    with_each_hash(compare_and_swap_unshared);
    with_each_hash(compare_and_swap_with_delete);
    with_each_hash(compare_and_swap_shared);
  }
}

/* ---- Swap ---- */

static void swap_fill(void) {
  for (size_t i = 0; i < DATA; i++) {
    missing(data[i]);
    swap_stores(data[i], i);
    present(data[i], i);
    swap_loads(data[i], i, i);
  }
}

static void swap_all(void) {
  swap_fill();
  for (size_t j = 0; j < 3; j++) {
    for (size_t i = 0; i < DATA; i++) {
      present(data[i], i + j);
      swap_loads(data[i], i + j, i + j + 1);
      present(data[i], i + j + 1);
    }
  }
  for (size_t i = 0; i < DATA; i++) {
    swap_loads(data[i], i + 3, i + 3);
  }
}

static void swap_only_one(void) {
  swap_fill();
  swap_loads(data[15], 15, 16);
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], i == 15 ? 16 : i);
  }
}

static void swap_multiple(void) {
  swap_fill();
  for (size_t i = 0; i < TEST_COUNT(four); i++) {
    swap_loads(data[four[i]], four[i], four[i] + 1);
  }
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], in_four(i) ? i + 1 : i);
  }
}

static void swap_fill_own(size_t id) {
  for (size_t i = 0; i < DATA; i++) {
    const char *key = stored_key(i, id);
    missing(key);
    swap_stores(key, id);
    present(key, id);
    swap_loads(key, id, id);
  }
}

static void own_swap_plain(const char *key, size_t id) {
  present(key, id);
  swap_loads(key, id, id + 1);
  present(key, id + 1);
}
static void swap_own(size_t id) {
  swap_fill_own(id);
  own_all(id, own_swap_plain);
  own_all(id, own_present_1);
}
static void swap_unshared(void) { run_all(swap_own); }

static void swap_delete_own(size_t id) {
  swap_fill_own(id);
  for (size_t i = 0; i < DATA; i++) {
    const char *key = stored_key(i, id);
    own_swap_plain(key, id);
    deletes(key, id + 1);
    swap_stores(key, id + 2);
    present(key, id + 2);
  }
  own_all(id, own_present_2);
}
static void swap_with_delete(void) { run_all(swap_delete_own); }

static void swap_shared_part(size_t id) {
  (void)id;
  for (size_t i = 0; i < DATA; i++) {
    (void)wane_map_swap(map, data[i], number(i + 1), NULL);
    present(data[i], i + 1);
  }
  for (size_t i = 0; i < DATA; i++) {
    present(data[i], i + 1);
  }
}
static void swap_shared(void) {
  fill();
  run_all(swap_shared_part);
}

/* Swap/{All, One, Multiple, ConcurrentUnsharedKeys,
   ConcurrentUnsharedKeysWithDelete, ConcurrentSharedKeys}. */
static void go_swap(void **state) {
  (void)state;
  with_each_hash(swap_all);
  with_each_hash(swap_only_one);
  with_each_hash(swap_multiple);
  for (size_t i = 0; i < test_scaled(10, 2); i++) {
    with_each_hash(swap_unshared);
    with_each_hash(swap_with_delete);
    with_each_hash(swap_shared);
  }
}

/* ---- LoadAndDelete ---- */

static void load_delete_one(size_t i) {
  present(data[i], i);
  delete_loads(data[i], i);
  missing(data[i]);
  delete_loads_not(data[i]);
}

static void load_and_delete_all(void) {
  for (int round = 0; round < 3; round++) {
    fill();
    for (size_t i = 0; i < DATA; i++) {
      load_delete_one(i);
    }
    all_missing();
  }
}

static void load_and_delete_one(void) {
  fill();
  load_delete_one(15);
  for (size_t i = 0; i < DATA; i++) {
    others_intact(data[i], i, i == 15);
  }
}

static void load_and_delete_multiple(void) {
  fill();
  for (size_t i = 0; i < TEST_COUNT(four); i++) {
    load_delete_one(four[i]);
  }
  for (size_t i = 0; i < DATA; i++) {
    others_intact(data[i], i, in_four(i));
  }
}

static bool then_load_and_delete(const char *key, size_t i) {
  delete_loads(key, i);
  return true;
}
static void load_and_delete_iterate(void) {
  visit_all(then_load_and_delete);
  all_missing();
}

static void own_load_delete(const char *key, size_t id) {
  present(key, id);
  delete_loads(key, id);
  missing(key);
}
static void load_delete_own(size_t id) {
  fill_own(id);
  own_all(id, own_load_delete);
  own_all(id, own_missing);
}
static void load_and_delete_unshared(void) { run_all(load_delete_own); }

static void load_delete_shared(size_t id) {
  (void)id;
  for (size_t i = 0; i < DATA; i++) {
    (void)wane_map_load_and_delete(map, data[i], NULL);
    missing(data[i]);
  }
  all_missing();
}
static void load_and_delete_shared(void) {
  fill();
  run_all(load_delete_shared);
}

/* LoadAndDelete/{All, One, Multiple, Iterate, ConcurrentUnsharedKeys,
   ConcurrentSharedKeys}. */
static void go_load_and_delete(void **state) {
  (void)state;
  with_each_hash(load_and_delete_all);
  with_each_hash(load_and_delete_one);
  with_each_hash(load_and_delete_multiple);
  with_each_hash(load_and_delete_iterate);
  for (size_t i = 0; i < test_scaled(10, 2); i++) {
    with_each_hash(load_and_delete_unshared);
    with_each_hash(load_and_delete_shared);
  }
}

/* ---- TestConcurrentCache (#70970) ---- */

#define CACHED 5000

struct cached {
  uintptr_t key;
  uintptr_t weak;
};

static void uncache(void *args) {
  const struct cached *cached = args;
  (void)wane_map_compare_and_delete(map, (void *)cached->key,
                                    (void *)cached->weak);
}

static void cleanup_of(void *object, uintptr_t key, wane_weak weak) {
  struct cached cached = {key, weak.id};
  require(wane_add_cleanup_copy(object, uncache, &cached, sizeof cached).id);
}

static void *cache_get(uintptr_t key) {
  void *made = wane_alloc(32);
  wane_weak weak = wane_weak_make(made);
  for (;;) {
    bool loaded = false;
    void *found =
        wane_map_load_or_store(map, (void *)key, (void *)weak.id, &loaded);
    if (!loaded) {
      cleanup_of(made, key, weak);
      return made;
    }
    void *value = wane_weak_value((wane_weak){(uintptr_t)found});
    if (value != NULL) {
      return value;
    }
    if (wane_map_compare_and_swap(map, (void *)key, found, (void *)weak.id)) {
      cleanup_of(made, key, weak);
      return made;
    }
  }
}

static void get_twice(size_t id) {
  size_t count = test_scaled(100000, 6000) / THREADS;
  for (size_t i = id * count; i < (id + 1) * count; i++) {
    void *first = cache_get(1 + i % CACHED);
    void *second = cache_get(1 + i % CACHED);
    require(first == second);
    wane_keep_alive(first);
  }
}

/* A comparing swap and a comparing deletion of one value exclude each other:
   what was got and is held stays in the cache. */
static void go_concurrent_cache(void **state) {
  (void)state;
  map = wane_map_new(NULL, 0);
  run_all(get_twice);
  test_settle();
  test_settle();
  assert_in_range(wane_map_count(map), 0, CACHED / 20);
  map = NULL;
}

/* ---- sync/map_test.go ---- */

/* A plain map: a list. */
#define LISTED 200
static struct {
  const char *key;
  void *value;
} list[LISTED];
static size_t listed;

static size_t list_find(const char *key) {
  size_t i = 0;
  while (i < listed && strcmp(list[i].key, key) != 0) {
    i++;
  }
  return i;
}
static void *list_value(size_t i) { return i < listed ? list[i].value : NULL; }
static void list_remove(size_t i) {
  if (i < listed) {
    list[i] = list[--listed];
  }
}
static void list_set(size_t i, const char *key, void *value) {
  require(i < LISTED);
  if (i == listed) {
    list[listed++].key = key;
  }
  list[i].value = value;
}

static void swap_then_delete(const char *key, size_t i, void *value) {
  bool had = i < listed && list[i].value == value;
  require(wane_map_compare_and_swap(map, key, value, number(9)) == had);
  if (had) {
    require(wane_map_delete(map, key));
    list_remove(i);
  }
}

static void same_call(struct test_random *random, const char *key) {
  size_t i = list_find(key);
  bool had = i < listed;
  void *was = list_value(i);
  void *value = number(test_below(random, 4));
  void *got = NEVER;
  bool loaded;
  switch (test_below(random, had ? 8 : 7) + (test_below(random, 99) == 0)) {
  case 0:
    require(wane_map_load(map, key, &got) == had && got == was);
    break;
  case 1:
    wane_map_store(map, key, value);
    list_set(i, key, value);
    break;
  case 2:
    got = wane_map_load_or_store(map, key, value, &loaded);
    require(loaded == had && got == (had ? was : value));
    list_set(i, key, got);
    break;
  case 3:
    require(wane_map_load_and_delete(map, key, &got) == had && got == was);
    list_remove(i);
    break;
  case 4:
    require(wane_map_delete(map, key) == had);
    list_remove(i);
    break;
  case 5:
    require(wane_map_swap(map, key, value, &got) == had && got == was);
    list_set(i, key, value);
    break;
  case 6:
    swap_then_delete(key, i, value);
    break;
  case 7:
    loaded = wane_map_compare_and_delete(map, key, value);
    require(loaded == (had && was == value));
    list_remove(loaded ? i : listed);
    break;
  default:
    wane_map_clear(map);
    listed = 0;
  }
}

static bool visit_listed(const void *key, void *value, void *ctx) {
  size_t i = list_find(key);
  require(i < listed && list[i].value == value);
  ++*(size_t *)ctx;
  return true;
}

static void same_as_list(void) {
  static struct test_random random = {1};
  for (size_t round = 0; round < test_scaled(300, 30); round++) {
    listed = 0;
    wane_map_clear(map);
    for (int i = 0; i < 200; i++) {
      char *key = wane_strdup("...");
      size_t length = test_below(&random, 4);
      for (size_t c = 0; c < length; c++) {
        key[c] = (char)('a' + test_below(&random, 3));
      }
      key[length] = '\0';
      same_call(&random, key);
    }
    size_t count = 0;
    wane_map_range(map, visit_listed, &count);
    require(count == listed && wane_map_count(map) == listed);
  }
  listed = 0;
}

/* TestMapMatchesRWMutex, TestMapMatchesDeepCopy, TestMapMatchesHashTrieMap:
   random calls give what a plain map gives. The keys in the list are held by
   the map. */
static void go_matches_plain_map(void **state) {
  (void)state;
  with_each_hash(same_as_list);
}

#define RANGED 1024
static uint64_t range_over;

static void write_multiples(size_t id) {
  struct test_random random = {id};
  for (size_t i = 0; test_get(&range_over) == 0; i++) {
    for (size_t n = 1; n < RANGED; n++) {
      if (test_below(&random, RANGED) == 0) {
        wane_map_store(map, number(n), number(n * i * (id + 1)));
      } else {
        require(wane_map_load(map, number(n), NULL));
      }
    }
    test_breathe();
  }
}

static uint8_t ranged[RANGED + 1];

static bool visit_multiple(const void *key, void *value, void *ctx) {
  size_t n = (size_t)key;
  require(n >= 1 && n <= RANGED && ctx == ranged);
  require((size_t)value % n == 0);
  require(ranged[n]++ == 0);
  return true;
}

/* TestConcurrentRange. */
static void go_concurrent_range(void **state) {
  (void)state;
  map = wane_map_new(NULL, 0);
  for (size_t n = 1; n <= RANGED; n++) {
    wane_map_store(map, number(n), number(n));
  }
  test_set(&range_over, 0);
  begin_all(write_multiples);
  for (size_t round = 0; round < test_scaled(300, 20); round++) {
    memset(ranged, 0, sizeof ranged);
    wane_map_range(map, visit_multiple, ranged);
    for (size_t n = 1; n <= RANGED; n++) {
      require(ranged[n] == 1);
    }
  }
  test_set(&range_over, 1);
  join_all();
  map = NULL;
}

static void store_and_delete(void *object, size_t idx) {
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
  wane_map_store(map, object, NULL);
  require(wane_map_delete(map, object));
}

/* TestIssue40999, with a count: M1, deleted keys are not retained. */
static void go_issue_40999(void **state) {
  (void)state;
  notes_begin();
  map = wane_map_new(NULL, 0);
  wane_map_store(map, NULL, NULL);
  for (int i = 0; i < 5; i++) {
    test_make_with(100, NULL, store_and_delete);
    test_settle();
  }
  assert_most(notes_total(), 500);
  map = NULL;
}

static bool visit_inner(const void *key, void *value, void *ctx) {
  void *got = NEVER;
  bool loaded = true;
  require(ctx == NULL);
  if (key != number(42)) {
    require(wane_map_load(map, key, &got) && got == value);
  }
  (void)wane_map_load_or_store(map, number(42), "dummy", &loaded);
  require(!loaded);
  wane_map_store(map, number(42), "other");
  require(wane_map_load_and_delete(map, number(42), &got));
  require(strcmp(got, "other") == 0);
  return true;
}

static bool visit_outer(const void *key, void *value, void *ctx) {
  (void)value;
  wane_map_range(map, visit_inner, ctx);
  require(wane_map_delete(map, key) == (key != number(42)));
  return true;
}

/* TestMapRangeNestedCall (#46399). Key 42 comes and goes inside: whether it is
   shown is open. */
static void go_nested_range(void **state) {
  (void)state;
  map = wane_map_new(NULL, 0);
  wane_map_store(map, number(0), "hello");
  wane_map_store(map, number(1), "world");
  wane_map_store(map, number(2), "Go");
  wane_map_range(map, visit_outer, NULL);
  assert_int_equal(wane_map_count(map), 0);
  wane_map_range(map, visit_inner, map); /* shows nothing */
  map = NULL;
}

/* TestCompareAndSwap_NonExistingKey. */
static void go_compare_and_swap_of_nothing(void **state) {
  (void)state;
  map = wane_map_new(NULL, 0);
  assert_false(wane_map_compare_and_swap(map, map, NULL, number(42)));
  assert_int_equal(wane_map_count(map), 0);
}

static bool visit_nothing(const void *key, void *value, void *ctx) {
  (void)key, (void)value, (void)ctx;
  return true;
}

/* TestMapRangeNoAllocations (#62404), TestMapClearOneAllocation. */
static void go_range_and_clear_hardly_allocate(void **state) {
  (void)state;
  map = wane_map_new(NULL, 0);
  for (size_t i = 0; i < 500; i++) {
    wane_map_store(map, number(i), number(i));
  }
  uint64_t before = test_stats().allocated_objects;
  for (int i = 0; i < 1000; i++) {
    wane_map_range(map, visit_nothing, NULL);
    (void)wane_map_load(map, number((size_t)i), NULL);
    (void)wane_map_count(map);
  }
  uint64_t after = test_stats().allocated_objects;
  assert_in_range(after, before, before + 50); /* those of other threads */
  wane_map_clear(map);
  for (int i = 0; i < 1000; i++) {
    wane_map_clear(map);
  }
  assert_in_range(test_stats().allocated_objects, after, after + 2050);
  map = NULL;
}

static void store_load_clear(size_t id) {
  for (size_t i = 0; i < 100; i++) {
    wane_map_store(map, number(i % 10), number(i % 10 * 10));
    void *value = NULL;
    if (wane_map_load(map, number(id), &value)) {
      require(value == number(id * 10));
    }
    wane_map_clear(map);
  }
}

/* TestConcurrentClear. */
static void go_concurrent_clear(void **state) {
  (void)state;
  map = wane_map_new(NULL, 0);
  for (size_t i = 0; i < test_scaled(20, 4); i++) {
    run_all(store_load_clear);
    wane_map_clear(map);
    size_t count = 0;
    listed = 0;
    wane_map_range(map, visit_listed, &count); /* shows nothing */
    assert_int_equal(wane_map_count(map), 0);
  }
  map = NULL;
}

int main(void) {
  data_init();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(go_load_store_all_clear),
      cmocka_unit_test(go_compare_and_delete),
      cmocka_unit_test(go_compare_and_swap),
      cmocka_unit_test(go_swap),
      cmocka_unit_test(go_load_and_delete),
      cmocka_unit_test(go_concurrent_cache),
      cmocka_unit_test(go_matches_plain_map),
      cmocka_unit_test(go_concurrent_range),
      cmocka_unit_test(go_issue_40999),
      cmocka_unit_test(go_nested_range),
      cmocka_unit_test(go_compare_and_swap_of_nothing),
      cmocka_unit_test(go_range_and_clear_hardly_allocate),
      cmocka_unit_test(go_concurrent_clear),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
