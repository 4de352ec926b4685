/*
 * Maps, uniques, ephemerons and caches when there is no memory: at the Nth
 * system call (WANE_OPTIONS=fault=N, each N a process of its own), and in a
 * small heap that is full but for a few objects of random sizes. Each call
 * works or says ENOMEM and has changed nothing; what there was is whole; and
 * all works again when there is memory. M1, U1, E1, C1.
 */
/* timeout: 300 */
/* skip: asan tsan ubsan, whose runtimes need more than a small heap */
#include "support/lives.h"

#define KEYS 200

/* ---- What is in the tables, by number ---- */

struct object {
  uint64_t number;
  uint64_t canary;
};

#define CANARY 0x5afe7ab1e5ull

enum sort { WORDS, STRINGS, WEAK_KEYS, WEAK_VALUES, SORTS };

TEST_ROOT struct wane_map *maps[SORTS];
TEST_ROOT void *map_keys[SORTS][KEYS];
TEST_ROOT void *expected[SORTS][KEYS]; /* NULL: not in the map */
TEST_ROOT struct wane_cache *cache;
TEST_ROOT void *in_cache[KEYS];
TEST_ROOT struct wane_ephemeron *pairs[KEYS];
TEST_ROOT void *pair_keys[KEYS];
static uintptr_t pair_values[KEYS]; /* hidden */
TEST_ROOT const void *uniques[KEYS];
TEST_ROOT const char *strings[KEYS];
TEST_ROOT struct object *spare[KEYS]; /* values that are there already */
static struct test_random random_state;
static uint64_t refused; /* calls that had no memory */
static uint64_t served;

static size_t below(size_t limit) { return test_below(&random_state, limit); }

/* A call that may have set errno: whether it had memory. */
static bool had_memory(void) {
  bool had = errno != ENOMEM;
  require(errno == 0 || errno == ENOMEM);
  refused += !had;
  served += had;
  errno = 0;
  return had;
}

static void check_object(const struct object *object, uint64_t number) {
  require(wane_base(object) == object);
  require(object->number == number && object->canary == (CANARY ^ number));
}

static struct object *object_new(uint64_t number) {
  struct object *object = wane_alloc(sizeof *object);
  if (object != NULL) {
    *object = (struct object){number, CANARY ^ number};
  }
  return object;
}

/* ---- Maps ---- */

static size_t map_expected(enum sort sort) {
  size_t count = 0;
  for (size_t k = 0; k < KEYS; k++) {
    count += expected[sort][k] != NULL;
  }
  return count;
}

static void check_map_key(enum sort sort, size_t k) {
  void *value = (void *)1;
  bool found = wane_map_load(maps[sort], map_keys[sort][k], &value);
  require(found == (expected[sort][k] != NULL));
  require(value == expected[sort][k]);
}

static bool count_visit(const void *key, void *value, void *ctx) {
  require(key != NULL && value != NULL);
  ++*(size_t *)ctx;
  return true;
}

static void check_maps(void) {
  for (enum sort sort = 0; sort < SORTS; sort++) {
    for (size_t k = 0; maps[sort] != NULL && k < KEYS; k++) {
      check_map_key(sort, k);
      if (expected[sort][k] != NULL) {
        check_object(expected[sort][k],
                     ((struct object *)expected[sort][k])->number);
      }
    }
    size_t shown = 0;
    if (maps[sort] != NULL) {
      wane_map_range(maps[sort], count_visit, &shown);
      require(shown == map_expected(sort));
      require(wane_map_count(maps[sort]) == shown);
    }
    require(errno == 0);
  }
}

static void map_store(enum sort sort, size_t k, void *value) {
  wane_map_store(maps[sort], map_keys[sort][k], value);
  if (had_memory()) {
    expected[sort][k] = value;
  }
}

static void map_load_or_store(enum sort sort, size_t k, void *value) {
  bool loaded = true;
  void *old = expected[sort][k];
  void *got =
      wane_map_load_or_store(maps[sort], map_keys[sort][k], value, &loaded);
  if (had_memory()) {
    require(loaded == (old != NULL) && got == (loaded ? old : value));
    expected[sort][k] = got;
  } else {
    require(got == NULL && !loaded && old == NULL);
  }
}

static void map_swap(enum sort sort, size_t k, void *value) {
  void *previous = (void *)1;
  void *old = expected[sort][k];
  bool had = wane_map_swap(maps[sort], map_keys[sort][k], value, &previous);
  if (had_memory()) {
    require(had == (old != NULL) && previous == old);
    expected[sort][k] = value;
  } else {
    require(!had && previous == NULL);
  }
}

static void map_compare_and_swap(enum sort sort, size_t k, void *value) {
  void *old = expected[sort][k];
  bool right = below(4) != 0 && old != NULL;
  bool swapped = wane_map_compare_and_swap(maps[sort], map_keys[sort][k],
                                           right ? old : &random_state, value);
  if (had_memory()) {
    require(swapped == right);
    expected[sort][k] = swapped ? value : old;
  } else {
    require(!swapped);
  }
}

/* These need no memory. */
static void map_delete(enum sort sort, size_t k) {
  void *old = expected[sort][k];
  void *value = (void *)1;
  switch (below(3)) {
  case 0:
    require(wane_map_delete(maps[sort], map_keys[sort][k]) == (old != NULL));
    break;
  case 1:
    require(wane_map_load_and_delete(maps[sort], map_keys[sort][k], &value) ==
            (old != NULL));
    require(value == old);
    break;
  default:
    require(!wane_map_compare_and_delete(maps[sort], map_keys[sort][k],
                                         &random_state));
    require(old == NULL ||
            wane_map_compare_and_delete(maps[sort], map_keys[sort][k], old));
  }
  require(errno == 0);
  expected[sort][k] = NULL;
}

static void map_clear(enum sort sort) {
  wane_map_clear(maps[sort]);
  if (had_memory()) {
    memset(expected[sort], 0, sizeof expected[sort]);
  }
}

/* Any call, with a value that is there already. */
static TEST_NOINLINE void use_map(enum sort sort) {
  size_t k = below(KEYS);
  void *value = spare[below(KEYS)];
  if (maps[sort] == NULL || map_keys[sort][k] == NULL || value == NULL) {
    return;
  }
  errno = 0;
  switch (below(12)) {
  case 0:
  case 1:
    map_delete(sort, k);
    break;
  case 2:
    map_swap(sort, k, value);
    break;
  case 3:
    map_compare_and_swap(sort, k, value);
    break;
  case 4:
    if (below(20) == 0) {
      map_clear(sort);
    }
    break;
  case 5:
  case 6:
  case 7:
    map_load_or_store(sort, k, value);
    break;
  default:
    map_store(sort, k, value);
  }
  check_map_key(sort, k);
}

/* ---- The others ---- */

static uint64_t create_errno;

/* Sometimes fails itself. */
static void *create(const void *key, size_t key_size, void *ctx) {
  uint64_t number;
  (void)ctx;
  require(key_size >= sizeof number && (uintptr_t)key % 16 == 0);
  memcpy(&number, key, sizeof number);
  if (create_errno != 0) {
    errno = (int)create_errno;
    return NULL;
  }
  return object_new(number);
}

static void use_cache(void) {
  unsigned char key[1000] = {0};
  uint64_t k = below(KEYS);
  create_errno = below(10) == 0 ? EXDEV : 0;
  memcpy(key, &k, sizeof k);
  errno = 0;
  struct object *object = wane_cache_get(cache, key, sizeof k + (k * 37) % 900);
  if (object == NULL) {
    require(in_cache[k] == NULL);
    require(errno == ENOMEM || (errno == EXDEV && create_errno != 0));
    refused += errno == ENOMEM;
  } else {
    require(errno == 0);
    require(in_cache[k] == NULL || in_cache[k] == object);
    check_object(object, k);
    served++;
  }
  in_cache[k] = below(4) == 0 ? NULL : object;
  require(wane_cache_count(cache) <= KEYS + 1);
  errno = 0;
}

static void use_pair(void) {
  size_t k = below(KEYS);
  pairs[k] = NULL;
  errno = 0;
  struct object *key = object_new(k);
  struct object *value = key == NULL ? NULL : object_new(k + 1);
  if (value == NULL) {
    require(errno == ENOMEM);
    errno = 0;
    return;
  }
  pairs[k] = wane_ephemeron_new(key, value);
  pair_keys[k] = key;
  pair_values[k] = test_hide(value);
  require(had_memory() == (pairs[k] != NULL));
}

/* Of a few thousand values, so that a kept one is sometimes made anew. */
static void use_unique(void) {
  size_t k = below(KEYS);
  size_t number = below(5) * KEYS + k;
  char bytes[600] = {0};
  size_t size = sizeof number + k * 3;
  memcpy(bytes, &number, sizeof number);
  errno = 0;
  wane_unique unique = wane_unique_make(bytes, size);
  if (!had_memory()) {
    require(unique.ptr == NULL);
    return;
  }
  size_t size_found = 0;
  require(unique.ptr != NULL);
  require(memcmp(wane_unique_value(unique, &size_found), bytes, size) == 0);
  require(size_found == size);
  if (uniques[k] != NULL && memcmp(uniques[k], bytes, size) == 0) {
    require(uniques[k] == unique.ptr);
  }
  uniques[k] = unique.ptr;
}

static void use_string(void) {
  size_t k = below(KEYS);
  char text[40];
  snprintf(text, sizeof text, "%zu of %zu and more", below(5), k);
  errno = 0;
  const char *interned = wane_intern(text);
  if (!had_memory()) {
    require(interned == NULL);
    return;
  }
  require(strcmp(interned, text) == 0);
  if (strings[k] != NULL && strcmp(strings[k], text) == 0) {
    require(strings[k] == interned);
  }
  strings[k] = interned;
}

static void check_pairs(void) {
  for (size_t k = 0; k < KEYS; k++) {
    if (pairs[k] != NULL) {
      require(wane_ephemeron_key(pairs[k]) == pair_keys[k]);
      require(wane_ephemeron_value(pairs[k]) == test_reveal(pair_values[k]));
      check_object(pair_keys[k], k);
      check_object(test_reveal(pair_values[k]), k + 1);
    }
  }
}

static TEST_NOINLINE void use_something(void) {
  switch (below(8)) {
  case 0:
    use_cache();
    break;
  case 1:
    use_pair();
    break;
  case 2:
    use_unique();
    break;
  case 3:
    use_string();
    break;
  default:
    use_map(below(SORTS));
  }
}

static void check_everything(void) {
  errno = 0;
  check_maps();
  check_pairs();
  for (size_t k = 0; k < KEYS; k++) {
    require(in_cache[k] == NULL || wane_base(in_cache[k]) == in_cache[k]);
    if (in_cache[k] != NULL) {
      check_object(in_cache[k], k);
    }
  }
}

/* What is missing yet; whether all is there then. */
static bool make_tables(void) {
  static const unsigned flags[SORTS] = {0, 0, WANE_WEAK_KEYS, WANE_WEAK_VALUES};
  bool complete = true;
  for (enum sort sort = 0; sort < SORTS; sort++) {
    const struct wane_map_ops *ops = sort == STRINGS ? &wane_string_keys : NULL;
    errno = 0;
    maps[sort] =
        maps[sort] != NULL ? maps[sort] : wane_map_new(ops, flags[sort]);
    require(had_memory() == (maps[sort] != NULL));
    complete = complete && maps[sort] != NULL;
    for (size_t k = 0; k < KEYS; k++) {
      char text[32];
      snprintf(text, sizeof text, "key %zu", k);
      if (map_keys[sort][k] == NULL) {
        map_keys[sort][k] =
            sort == STRINGS ? (void *)wane_strdup(text) : object_new(k);
      }
      complete = complete && map_keys[sort][k] != NULL;
    }
  }
  for (size_t k = 0; k < KEYS; k++) {
    spare[k] = spare[k] != NULL ? spare[k] : object_new(k);
    complete = complete && spare[k] != NULL;
  }
  struct wane_cache_config config = {create, NULL, 3};
  errno = 0;
  cache = cache != NULL ? cache : wane_cache_new(&config);
  require(had_memory() == (cache != NULL));
  return complete && cache != NULL;
}

/* There is memory: every call has it. */
static void all_works(void) {
  require(make_tables());
  refused = 0;
  for (int i = 0; i < 20000; i++) {
    use_something();
  }
  require(refused == 0);
  check_everything();
  wane_collect();
  check_everything();
}

/* ---- The Nth call ---- */

/* arg: "1" if all later calls fail too, so that nothing recovers. */
static void use_tables(const char *arg) {
  bool recovers = arg[0] != '1';
  (void)make_tables();
  for (int i = 0; i < 20000; i++) {
    if (cache != NULL) {
      use_something();
    }
    if (i % 4000 == 3999) {
      check_everything();
      wane_collect();
      check_everything();
      (void)make_tables();
    }
  }
  if (recovers) {
    all_works();
  }
}

static void run(const char *role, const char *arg, const char *options) {
  static struct test_child child;
  char what[200];
  test_exec(role, arg, options, &child);
  snprintf(what, sizeof what, "%s %s with %s", role, arg, options);
  test_assert_exit_0(&child, what);
}

#define NTH_MAX 40

static void one_failing_call_is_got_over(void **state) {
  (void)state;
  for (int nth = 1; nth <= NTH_MAX; nth++) {
    char options[128];
    snprintf(options, sizeof options, "fault=%d,background=%d", nth, nth % 2);
    run("tables", "0", options);
  }
}

static void calls_that_go_on_failing_are_survived(void **state) {
  (void)state;
  for (int nth = 1; nth <= NTH_MAX; nth++) {
    char options[128];
    snprintf(options, sizeof options, "fault=%d,fault_more=1,background=%d",
             nth, nth % 2);
    run("tables", "1", options);
  }
}

/* ---- A full heap ---- */

#define BALLAST_MAX 400000

static const size_t ballast_sizes[] = {1 << 20, 40000, 8192, 2048, 1024, 512,
                                       256,     128,   64,   48,   32,   16};
TEST_ROOT void *ballast[BALLAST_MAX];
static size_t ballast_count;

static void *ballast_new(size_t bytes, bool leaf) {
  return leaf ? wane_alloc_leaf(bytes) : wane_alloc(bytes);
}

/* Until no object of any size can be had, scanned or not. */
static void fill_heap(void) {
  for (size_t i = 0; i < TEST_COUNT(ballast_sizes); i++) {
    for (int leaf = 1; leaf >= 0; leaf--) {
      void *object;
      while ((object = ballast_new(ballast_sizes[i], leaf != 0)) != NULL) {
        require(ballast_count < BALLAST_MAX);
        ballast[ballast_count++] = object;
      }
    }
  }
  errno = 0;
}

/* Some of the last and smallest, and sometimes of the others. */
static void free_some(size_t count) {
  for (size_t i = 0; i < count && ballast_count > 0; i++) {
    size_t from = below(3) == 0
                      ? below(ballast_count)
                      : ballast_count - 1 -
                            below(ballast_count < 2000 ? ballast_count : 2000);
    if (below(20) != 0 && wane_size(ballast[from]) > 5000) {
      continue;
    }
    ballast[from] = ballast[--ballast_count];
    ballast[ballast_count] = NULL;
  }
  test_scrub();
  wane_collect();
}

static void use_full_heap(const char *arg) {
  random_state.state = (uint64_t)atol(arg);
  (void)wane_set_gc_percent(-1); /* a full one is collected all the same */
  require(make_tables());
  for (int i = 0; i < 2000; i++) {
    use_something();
  }
  double end = test_now() + 5;
  for (int round = 0; round < 150 && test_now() < end; round++) {
    fill_heap();
    free_some(below(60));
    for (int i = 0; i < 40; i++) {
      use_something();
    }
    check_everything();
    if (round % 20 == 19) { /* some larger ones, too */
      free_some(300);
    }
  }
  fprintf(stderr, "%llu calls refused, %llu served\n",
          (unsigned long long)refused, (unsigned long long)served);
  require(refused > 100 && served > 1000);
  memset(ballast, 0, sizeof ballast);
  ballast_count = 0;
  test_scrub();
  wane_collect();
  all_works();
}

static void tables_stay_whole_in_a_full_heap(void **state) {
  (void)state;
  run("full", "1", "reserve_mb=64");
  run("full", "2", "reserve_mb=64,background=0,mark_threads=1");
  run("full", "3", "reserve_mb=64,poison=1");
}

/* ---- No memory in a cycle ---- */

#define MANY 60000

/* In managed memory; of the keys only those that are to live. */
TEST_ROOT struct wane_ephemeron **many_pairs;
TEST_ROOT void **many_keys;
TEST_ROOT struct wane_map *many_map; /* has the same pairs; or NULL */

static bool key_lives(size_t idx) { return idx / 10 % 2 == 0; }

/* There is memory for this object. */
static void *obtained(void *object) {
  if (object == NULL) {
    fprintf(stderr, "no memory\n");
    exit(0);
  }
  return object;
}

/* In groups of ten, of which every second one has its first key held: each
   value holds the next key. The keys are far apart, so that much memory is
   needed for notes about them. */
static void make_many(void *arg) {
  void **all_keys = obtained(wane_alloc(MANY * sizeof *all_keys));
  bool with_map = *(const char *)arg == 'm';
  many_map = with_map ? obtained(wane_map_new(NULL, WANE_WEAK_KEYS)) : NULL;
  many_pairs = obtained(wane_alloc(MANY * sizeof *many_pairs));
  many_keys = obtained(wane_alloc(MANY * sizeof *many_keys));
  for (size_t i = 0; i < MANY; i++) {
    all_keys[i] = obtained(wane_alloc(16));
    for (size_t n = 0; n < 10; n++) {
      (void)obtained(wane_alloc(16));
    }
    many_keys[i] = key_lives(i) && i % 10 == 0 ? all_keys[i] : NULL;
  }
  for (size_t n = 0; n < MANY; n++) {
    size_t i = n * 7919 % MANY;
    void **value = obtained(wane_alloc(32));
    value[1] = i % 10 != 9 ? all_keys[i + 1] : NULL;
    many_pairs[i] = obtained(wane_ephemeron_new(all_keys[i], value));
    if (with_map) {
      errno = 0;
      wane_map_store(many_map, all_keys[i], value);
      (void)obtained(errno == 0 ? value : NULL);
    }
  }
  memset(all_keys, 0, MANY * sizeof *all_keys);
}

static TEST_NOINLINE size_t count_late(void) {
  size_t late = 0;
  for (size_t i = 0; i < MANY; i++) {
    void *key = wane_ephemeron_key(many_pairs[i]);
    void *value = wane_ephemeron_value(many_pairs[i]);
    require((key != NULL) == (value != NULL));
    require(key == NULL ||
            (wane_base(key) == key && wane_base(value) == value));
    require(key != NULL || !key_lives(i));
    late += key != NULL && !key_lives(i);
  }
  return late;
}

/* arg: "map" or not. */
static void collect_pairs(const char *arg) {
  (void)wane_set_gc_percent(-1);
  test_apart(make_many, (void *)arg);
  for (int i = 0; i < 3; i++) {
    test_scrub();
    wane_collect();
    size_t late = count_late();
    bool ran = test_stats().cycles_full > 0; /* a cycle needs some calls */
    require(!ran || late <= MANY / 50);
    require(!ran || many_map == NULL ||
            wane_map_count(many_map) == MANY / 2 + late);
  }
}

/* All system calls from the nth on fail: is there memory for the objects? */
static bool collect_pairs_with(unsigned nth, const char *arg,
                               const char *more) {
  static struct test_child child;
  char options[128];
  snprintf(options, sizeof options, "fault=%u,fault_more=1,background=0%s", nth,
           more);
  test_exec("pairs", arg, options, &child);
  test_assert_exit_0(&child, options);
  return strstr(child.text, "no memory") == NULL;
}

static void mark_pairs_without_memory(const char *arg, const char *more) {
  unsigned below_first = 0;
  unsigned first = 1000;
  while (first - below_first > 1) {
    unsigned middle = (first + below_first) / 2;
    *(collect_pairs_with(middle, arg, more) ? &first : &below_first) = middle;
  }
  for (unsigned nth = first; nth < first + 9; nth++) {
    (void)collect_pairs_with(nth, arg, more);
  }
}

/* E1: no value is lost or held for want of memory. Failing calls begin about
   where the first cycle does. */
static void cycles_mark_pairs_without_memory(void **state) {
  (void)state;
  mark_pairs_without_memory("", ",mark_threads=1");
  mark_pairs_without_memory("", ",mark_threads=4");
  mark_pairs_without_memory("map", ",mark_threads=1");
  mark_pairs_without_memory("map", ",mark_threads=4,mark_stack=8192");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"tables", use_tables},
                                           {"full", use_full_heap},
                                           {"pairs", collect_pairs}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_failing_call_is_got_over),
      cmocka_unit_test(calls_that_go_on_failing_are_survived),
      cmocka_unit_test(tables_stay_whole_in_a_full_heap),
      cmocka_unit_test(cycles_mark_pairs_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
