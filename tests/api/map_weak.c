/* Weak maps: which entries go, when, and which may not. M1, E1, D11, D17;
   with threads in stress/map.c, at random in model/map.c. */
/* timeout: 240 */
#include "support/lives.h"
#include "support/maps.h"

#include <pthread.h>

#define MANY 300
#define FLAGS 4
#define KEYS WANE_WEAK_KEYS
#define VALUES WANE_WEAK_VALUES
#define BOTH (WANE_WEAK_KEYS | WANE_WEAK_VALUES)

TEST_ROOT struct wane_map *map;
TEST_ROOT void *kept[NOTES_MAX];

static void forget_all(void) {
  memset(kept, 0, sizeof kept);
  map = NULL;
}

/* ---- How many entries there are, asked in three ways that must agree ---- */

/* Without a drain: gone is gone when wane_collect returns. */
static TEST_NOINLINE size_t entries_now(void) {
  size_t shown = 0;
  size_t count = wane_map_count(map);
  wane_map_range(map, count_visit, &shown);
  if (shown != count) {
    fprintf(stderr, "%zu entries shown, %zu counted\n", shown, count);
  }
  require(shown == count);
  return count;
}

static size_t entries_left(void) {
  test_scrub();
  wane_collect();
  size_t count = entries_now();
  test_scrub();
  return count;
}

#define assert_few(count, of) assert_in_range((count), 0, 2 + (of) / 50)

/* ---- The weak side alone decides ---- */

static void *weak_side(unsigned flags, void *key, void *value) {
  return flags == VALUES ? value : key;
}

/* Entries whose weak side is dropped, and for every third is kept. */
static void with_entry(void *object, size_t idx) {
  unsigned flags = (unsigned)(uintptr_t)kept[NOTES_MAX - 1];
  void *partner = wane_alloc(48);
  void *key = flags == VALUES ? partner : object;
  void *value = flags == VALUES ? object : partner;
  wane_map_store(map, key, value);
  void *got = NULL;
  require(wane_map_load(map, key, &got) && got == value);
  if (idx % 3 == 0) {
    kept[2 * idx] = weak_side(flags, key, value);
    kept[2 * idx + 1] = flags == BOTH ? value : NULL;
  }
}

/* Of the kept ones the other side must be alive, and the entry there. */
static bool check_entry(const void *key, void *value, void *ctx) {
  unsigned flags = *(unsigned *)ctx;
  require(wane_base(key) == key && wane_base(value) == value);
  require(wane_size(flags == VALUES ? key : value) == 48);
  void *got = NULL;
  require(wane_map_load(map, key, &got) && got == value);
  return true;
}

static void an_entry_lives_as_long_as_its_weak_side(void **state) {
  (void)state;
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    map = wane_map_new(NULL, flags);
    kept[NOTES_MAX - 1] = (void *)(uintptr_t)flags;
    test_make_with(3 * MANY, NULL, with_entry);
    for (int i = 0; i < 3; i++) {
      assert_in_range(entries_left(), MANY, MANY + 2 + MANY / 25);
      wane_map_range(map, check_entry, &flags);
    }
    memset(kept, 0, sizeof kept);
    assert_few(entries_left(), MANY);
    assert_few(entries_left(), MANY);
  }
  forget_all();
}

/* With both flags an entry goes with the first of the two. */
static void with_one_side(void *object, size_t idx) {
  void *partner = wane_alloc(48);
  wane_map_store(map, idx % 2 == 0 ? object : partner,
                 idx % 2 == 0 ? partner : object);
  kept[idx] = partner;
}

static void with_both_weak_the_first_death_counts(void **state) {
  (void)state;
  map = wane_map_new(NULL, BOTH);
  test_make_with(2 * MANY, NULL, with_one_side);
  assert_few(entries_left(), 2 * MANY);
  forget_all();
}

/* ---- Ephemerons: what the map keeps alive is no use of the weak side ---- */

enum shape {
  SHAPE_SELF,  /* key and value are one object */
  SHAPE_BACK,  /* the held side points to the weak one */
  SHAPE_INNER, /* into its middle */
  SHAPE_LONG,  /* over three other objects */
  SHAPE_NEXT,  /* to the next entry's weak side: chains, a ring in the end */
  SHAPE_PAIRS, /* two entries to each other */
  SHAPE_MAP,   /* over the map itself: it reaches all its held sides */
  SHAPES
};

static enum shape shape;
static unsigned shape_flags;

static void *point_to(void *to, enum shape how) {
  void **cell = wane_alloc(how == SHAPE_LONG ? 4096 : 32);
  require(cell != NULL);
  if (how == SHAPE_LONG) {
    for (int i = 0; i < 3; i++) {
      void **front = wane_alloc(64);
      front[3] = to;
      to = front;
    }
    cell[500] = to;
  } else {
    cell[1] = how == SHAPE_INNER ? (char *)to + 40 : to;
    cell[2] = how == SHAPE_MAP ? map : NULL;
  }
  return cell;
}

/* kept[idx] is the weak side until all are made. */
static void with_shape(void *object, size_t idx) {
  void *to = object;
  if (shape == SHAPE_NEXT && idx > 0) {
    to = kept[idx - 1];
  } else if (shape == SHAPE_PAIRS && idx % 2 == 1) {
    to = kept[idx - 1];
  }
  void *held = shape == SHAPE_SELF ? object : point_to(to, shape);
  if (shape == SHAPE_PAIRS && idx % 2 == 1) { /* and back */
    void *before = NULL;
    require(shape_flags == VALUES ||
            wane_map_load(map, kept[idx - 1], &before));
    ((void **)kept[idx - 1])[7] = object;
  }
  kept[idx] = object;
  wane_map_store(map, shape_flags == VALUES ? held : object,
                 shape_flags == VALUES ? object : held);
}

static void make_shape(void *arg) {
  (void)arg;
  test_make_with(MANY, NULL, with_shape);
}

static void the_held_side_is_no_use_of_the_weak_one(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= VALUES; shape_flags++) {
    for (shape = SHAPE_SELF; shape < SHAPES; shape++) {
      map = wane_map_new(NULL, shape_flags);
      make_shape(NULL);
      for (int i = 0; i < 2; i++) {
        assert_int_equal(entries_left(), MANY);
      }
      memset(kept, 0, sizeof kept);
      assert_few(entries_left(), shape == SHAPE_NEXT ? 20 * MANY : MANY);
    }
  }
  forget_all();
}

/* A chain of entries, each value reaching the next key, with its first key
   held: all live. Then none, after one cycle. */
static TEST_NOINLINE void make_chain(void *arg) {
  size_t count = *(size_t *)arg;
  void *key = wane_alloc(32);
  kept[0] = key;
  for (size_t i = 0; i < count; i++) {
    void **link = wane_alloc(32);
    void *next = wane_alloc(32);
    link[1] = next;
    if (shape_flags == KEYS) {
      wane_map_store(map, key, link);
    } else {
      wane_map_store(map, link, key);
    }
    key = next;
  }
  require(wane_map_count(map) == count);
}

static void a_chain_lives_by_its_first_key_and_goes_at_once(void **state) {
  (void)state;
  size_t count = test_scaled(30000, 3000);
  for (shape_flags = KEYS; shape_flags <= VALUES; shape_flags++) {
    map = wane_map_new(NULL, shape_flags);
    test_apart(make_chain, &count);
    for (int i = 0; i < 3; i++) {
      assert_int_equal(entries_left(), count);
    }
    size_t left = count;
    for (int tries = 0; tries < 3 && left == count; tries++) {
      kept[0] = NULL; /* a stray word may keep the first key of one chain */
      left = entries_left();
    }
    assert_in_range(left, 0, count - 1);
  }
  forget_all();
}

/* Many chains of 20, of which a stray word can keep only one. */
static TEST_NOINLINE void make_chain_counted(size_t count) {
  void *key = wane_alloc(32);
  kept[wane_map_count(map) / count] = key;
  for (size_t i = 0; i < count; i++) {
    void **link = wane_alloc(32);
    link[1] = wane_alloc(32);
    if (shape_flags == KEYS) {
      wane_map_store(map, key, link);
    } else {
      wane_map_store(map, link, key);
    }
    key = link[1];
  }
}

static void make_many_chains(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    make_chain_counted(20);
  }
}

static void chains_go_in_one_cycle(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= VALUES; shape_flags++) {
    map = wane_map_new(NULL, shape_flags);
    test_apart(make_many_chains, NULL);
    for (int i = 0; i < 2; i++) {
      assert_int_equal(entries_left(), 20 * MANY);
    }
    for (size_t i = 0; i < MANY; i += 2) {
      kept[i] = NULL;
    }
    size_t half = 20 * MANY / 2;
    assert_in_range(entries_left(), half, half + 20 * (2 + MANY / 50));
    memset(kept, 0, sizeof kept);
    assert_in_range(entries_left(), 0, 20 * (2 + MANY / 50));
  }
  forget_all();
}

/* Over several maps: the value in one is a key in the next; also a strong map
   between, and maps as keys and values. */
static TEST_NOINLINE void make_over_maps(void *arg) {
  (void)arg;
  struct wane_map *other = wane_map_new(NULL, shape_flags);
  struct wane_map *strong = wane_map_new(NULL, 0);
  for (size_t i = 0; i < MANY; i++) {
    void *first = wane_alloc(32);
    void *second = wane_alloc(32);
    void **third = wane_alloc(32);
    bool keys = shape_flags == KEYS;
    kept[i] = first;
    wane_map_store(map, keys ? first : second, keys ? second : first);
    wane_map_store(other, keys ? second : third, keys ? third : second);
    wane_map_store(strong, third, strong);
    third[0] = first;
    third[1] = strong;
  }
  kept[MANY] = other;
}

static void entries_reach_over_maps(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= VALUES; shape_flags++) {
    map = wane_map_new(NULL, shape_flags);
    test_apart(make_over_maps, NULL);
    for (int i = 0; i < 2; i++) {
      assert_int_equal(entries_left(), MANY);
      assert_int_equal(wane_map_count(kept[MANY]), MANY);
    }
    memset(kept, 0, MANY * sizeof kept[0]);
    /* one straggler holds all: its third reaches the strong map */
    size_t left = entries_left();
    assert_true(left == MANY || left <= 2 + MANY / 50);
    assert_in_range(wane_map_count(kept[MANY]), left, MANY);
    kept[MANY] = NULL;
    assert_true(entries_left() == MANY || left <= 2 + MANY / 50);
  }
  forget_all();
}

/* ---- What never dies ---- */

static int static_data[40];

/* D17: NULL, static data and numbers as weak keys or values, with a held side
   that the map alone keeps alive. */
static void what_is_not_managed_never_dies(void **state) {
  (void)state;
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    map = wane_map_new(NULL, flags);
    for (size_t i = 0; i < 40; i++) {
      void *held = flags == BOTH ? word(i) : wane_alloc(64);
      void *weak = i == 0       ? NULL
                   : i % 2 == 0 ? (void *)&static_data[i]
                                : word(i);
      kept[0] = NULL;
      wane_map_store(map, flags == VALUES ? held : weak,
                     flags == VALUES ? weak : held);
    }
    for (int i = 0; i < 3; i++) {
      assert_int_equal(entries_left(), 40);
    }
    for (size_t i = 0; i < 40 && flags != VALUES; i++) {
      void *weak = i == 0       ? NULL
                   : i % 2 == 0 ? (void *)&static_data[i]
                                : word(i);
      void *held = NULL;
      assert_true(wane_map_load(map, weak, &held));
      assert_true(flags == BOTH ? held == word(i) : wane_base(held) == held);
      assert_true(wane_map_delete(map, weak));
    }
    assert_int_equal(wane_map_count(map), flags == VALUES ? 40 : 0);
  }
  forget_all();
}

/* ---- Pointers into objects ---- */

static void with_inner(void *object, size_t idx) {
  char *bytes = object;
  kept[idx] = object;
  wane_map_store(map, bytes + 1, bytes + 63);
  wane_map_store(map, bytes + 2, shape_flags == VALUES ? bytes + 5 : word(idx));
  wane_map_store(map, bytes, bytes);
}

static void pointers_into_objects_are_keys_and_values(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= BOTH; shape_flags++) {
    map = wane_map_new(NULL, shape_flags);
    test_make_with(MANY, NULL, with_inner);
    assert_int_equal(entries_left(), 3 * MANY);
    for (size_t i = 0; i < MANY; i++) {
      char *bytes = kept[i];
      void *value = NULL;
      assert_true(wane_map_load(map, bytes + 1, &value));
      assert_ptr_equal(value, bytes + 63);
      assert_true(wane_map_load(map, bytes + 2, &value));
      assert_true(value == (shape_flags == VALUES ? bytes + 5 : word(i)));
      assert_true(wane_map_load(map, bytes, &value));
      assert_ptr_equal(value, bytes);
      assert_false(wane_map_load(map, bytes + 3, NULL));
    }
    memset(kept, 0, sizeof kept);
    assert_in_range(entries_left(), 0, 3 * (2 + MANY / 50));
  }
  forget_all();
}

/* ---- Equal keys, by what is in them ---- */

struct number_key {
  uint64_t number;
  uint64_t check;
};

static uint64_t checked_hash(const void *key) {
  const struct number_key *k = key;
  require(k->check == ~k->number);
  struct test_random random = {k->number};
  return test_random(&random) & 255;
}
static bool checked_equal(const void *a, const void *b) {
  const struct number_key *left = a;
  const struct number_key *right = b;
  require(left->check == ~left->number && right->check == ~right->number);
  return left->number == right->number;
}
static const struct wane_map_ops checked_ops = {checked_hash, checked_equal};

static struct number_key *new_number(uint64_t number) {
  struct number_key *key = wane_alloc_leaf(sizeof *key);
  require(key != NULL);
  key->number = number;
  key->check = ~number;
  return key;
}

static void with_numbered(void *object, size_t idx) {
  (void)object;
  struct number_key *key = new_number(idx);
  struct number_key *equal = new_number(idx);
  wane_map_store(map, key, word(idx));
  wane_map_store(map, equal, word(idx + 1)); /* D11: key stays, and counts */
  kept[idx] = idx % 2 == 0 ? key : equal;
}

/* D11: the entry dies by the key object that it has. */
static void an_entry_goes_with_its_own_key_object(void **state) {
  (void)state;
  map = wane_map_new(&checked_ops, KEYS);
  test_make_with(2 * MANY, NULL, with_numbered);
  assert_in_range(entries_left(), MANY, MANY + 2 + MANY / 50);
  size_t odd = 0;
  for (size_t i = 0; i < 2 * MANY; i++) {
    void *value = NULL;
    bool found = wane_map_load(map, kept[i], &value);
    assert_true(found || i % 2 == 1);
    assert_true(!found || value == word(i + 1));
    odd += found && i % 2 == 1;
  }
  assert_few(odd, MANY);
  for (size_t i = 1; i < 2 * MANY; i += 2) { /* and comes again */
    wane_map_store(map, kept[i], word(i));
  }
  assert_int_equal(entries_left(), 2 * MANY);
  for (size_t i = 1; i < 2 * MANY; i += 2) {
    assert_true(wane_map_delete(map, kept[i]));
  }
  forget_all();
}

/* Each round the same numbers in new objects: a dying entry must not take the
   newer one with it, nor hide it. */
static TEST_NOINLINE void add_again(void *arg) {
  uintptr_t round = *(uintptr_t *)arg;
  for (size_t i = 0; i < MANY; i++) {
    struct number_key *key = new_number(i);
    void *value = wane_alloc(32);
    *(uintptr_t *)value = ~round;
    if (round % 3 == 0) {
      (void)wane_map_delete(map, key);
    }
    (void)wane_map_load_or_store(map, key, value, NULL);
    void *got = NULL;
    /* either it is ours, or somebody of before still lives */
    require(wane_map_load(map, key, &got) && ~*(uintptr_t *)got <= round);
    wane_keep_alive(key);
    wane_keep_alive(value);
  }
}

static void keys_come_again_after_their_deaths(void **state) {
  (void)state;
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    map = wane_map_new(&checked_ops, flags);
    for (uintptr_t round = 1; round <= 20; round++) {
      test_apart(add_again, &round);
      if (round % 2 == 0) {
        assert_few(entries_left(), MANY);
      }
      assert_in_range(wane_map_count(map), 0, MANY);
    }
  }
  forget_all();
}

/* ---- Threads, while keys die ---- */

static uint64_t over;
static uint64_t rounds_of_threads;

/* Keys of these threads are equal to each other's, and die at once. */
static TEST_NOINLINE void store_and_check(struct test_random *random,
                                          unsigned flags) {
  struct number_key *key = new_number(test_below(random, 40));
  struct number_key *value = new_number(key->number);
  void *got = NULL;
  bool loaded = false;
  switch (test_below(random, 4)) {
  case 0:
    wane_map_store(map, key, value);
    break;
  case 1:
    got = wane_map_load_or_store(map, key, value, &loaded);
    require(got != NULL && checked_equal(got, key));
    break;
  case 2:
    if (wane_map_swap(map, key, value, &got)) {
      require(checked_equal(got, key));
    }
    break;
  default:
    if (wane_map_load_and_delete(map, key, &got)) {
      require(checked_equal(got, key));
    }
  }
  if (wane_map_load(map, key, &got)) {
    require(checked_equal(got, key));
    require(wane_base(got) == got);
  }
  (void)flags;
}

static bool check_numbers(const void *key, void *value, void *ctx) {
  uint8_t *seen = ctx;
  const struct number_key *number = key;
  require(checked_equal(key, value));
  require(number->number >= 40 || seen[number->number] < 255);
  return true;
}

static void *dying_thread(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  uint8_t seen[40] = {0};
  unsigned flags = (uintptr_t)arg % FLAGS;
  while (test_get(&over) == 0) {
    for (int i = 0; i < 50; i++) {
      store_and_check(&random, flags);
    }
    wane_map_range(map, check_numbers, seen);
    test_add(&rounds_of_threads);
    test_breathe();
  }
  return NULL;
}

/* A key that is held is never lost because an equal one dies. */
static void keys_die_while_others_use_the_map(void **state) {
  (void)state;
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    pthread_t threads[3];
    map = wane_map_new(&checked_ops, flags);
    for (size_t i = 0; i < 40; i++) {
      kept[2 * i] = new_number(100 + i);
      kept[2 * i + 1] = new_number(100 + i);
      wane_map_store(map, kept[2 * i], kept[2 * i + 1]);
    }
    test_set(&over, 0);
    for (uintptr_t i = 0; i < 3; i++) {
      require(!pthread_create(&threads[i], NULL, dying_thread,
                              (void *)(4 * i + flags)));
    }
    double stop = test_now() + 0.7;
    while (test_now() < stop) {
      wane_collect();
      for (size_t i = 0; i < 40; i++) {
        void *value = NULL;
        require(wane_map_load(map, kept[2 * i], &value));
        require(value == kept[2 * i + 1]);
      }
      test_breathe();
    }
    test_set(&over, 1);
    for (int i = 0; i < 3; i++) {
      require(!pthread_join(threads[i], NULL));
    }
    assert_in_range(entries_left(), 40, 40 + 3);
  }
  assert_true(test_get(&rounds_of_threads) > 0);
  forget_all();
}

/* One thread adds keys, and drops them as another collects: an equal key's
   entry that this thread holds must stay, whatever dies. */
static void *holding_thread(void *arg) {
  unsigned flags = (unsigned)(uintptr_t)arg;
  for (uint64_t round = 0; test_get(&over) == 0; round++) {
    struct number_key *key = new_number(7);
    struct number_key *value = new_number(round);
    void *got = NULL;
    (void)wane_map_delete(map, key);
    wane_map_store(map, key, value); /* nobody else stores 7 */
    for (int i = 0; i < 20; i++) {
      require(wane_map_load(map, key, &got) && got == value);
    }
    require(flags == 0 || wane_map_count(map) >= 1);
    wane_keep_alive(key);
    wane_keep_alive(value);
    test_breathe();
  }
  return NULL;
}

static void a_death_never_takes_a_newer_entry(void **state) {
  (void)state;
  for (uintptr_t flags = 1; flags < FLAGS; flags++) {
    pthread_t thread;
    map = wane_map_new(&checked_ops, (unsigned)flags);
    test_set(&over, 0);
    require(!pthread_create(&thread, NULL, holding_thread, (void *)flags));
    for (size_t i = 0; i < test_scaled(300, 100); i++) {
      wane_collect();
      test_breathe();
    }
    test_set(&over, 1);
    require(!pthread_join(thread, NULL));
    assert_in_range(wane_map_count(map), 0, 1);
  }
  forget_all();
}

/* ---- Changes between cycles ---- */

/* The value changes: the old one's death means nothing, the new one's does. */
static void with_changed(void *object, size_t idx) {
  struct number_key *key = new_number(idx);
  void *next = wane_alloc(32);
  kept[2 * idx] = key;
  wane_map_store(map, key, object);
  switch (idx % 4) {
  case 0:
    wane_map_store(map, key, next);
    break;
  case 1:
    require(wane_map_swap(map, key, next, NULL));
    break;
  case 2:
    require(wane_map_compare_and_swap(map, key, object, next));
    break;
  default:
    require(wane_map_delete(map, key));
    wane_map_store(map, key, next);
  }
  kept[2 * idx + 1] = idx % 8 < 4 ? next : NULL;
}

static void the_last_value_counts(void **state) {
  (void)state;
  for (unsigned flags = VALUES; flags <= BOTH; flags++) {
    map = wane_map_new(&checked_ops, flags);
    test_make_with(8 * 100, NULL, with_changed);
    assert_in_range(entries_left(), 400, 400 + 2 + 10);
    for (size_t i = 0; i < 800; i++) {
      void *value = NULL;
      bool found = wane_map_load(map, kept[2 * i], &value);
      assert_true(found || i % 8 >= 4);
      assert_true(i % 8 >= 4 || value == kept[2 * i + 1]);
      kept[2 * i + 1] = NULL;
    }
    assert_few(entries_left(), 400);
    for (size_t i = 0; i < 800; i++) { /* the keys are held: comes again */
      wane_map_store(map, kept[2 * i], NULL);
    }
    assert_int_equal(entries_left(), 800);
  }
  forget_all();
}

/* M1: what was removed or replaced is not retained by a weak map either. */
static void with_removed(void *object, size_t idx) {
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
  bool as_value = idx % 2 == 0;
  void *key = as_value ? kept[0] : object;
  void *value = as_value ? object : kept[0];
  wane_map_store(map, key, value);
  switch (idx / 2 % 3) {
  case 0:
    require(wane_map_delete(map, key));
    break;
  case 1:
    require(wane_map_compare_and_delete(map, key, value));
    break;
  default:
    wane_map_store(map, key, NULL);
    require(wane_map_load_and_delete(map, key, NULL));
  }
}

static void removed_entries_retain_nothing(void **state) {
  (void)state;
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    notes_begin();
    map = wane_map_new(NULL, flags);
    kept[0] = wane_alloc(16);
    test_make_with(3000, NULL, with_removed);
    test_settle();
    assert_most(notes_total(), 3000);
    assert_int_equal(wane_map_count(map), 0);
  }
  forget_all();
}

/* The held side is let go in the cycle that clears the entry, or the next. */
static void with_noted_partner(void *object, size_t idx) {
  void *partner = wane_alloc(64);
  require(wane_add_cleanup(partner, note, note_tag(idx)).id != 0);
  bool keys = shape_flags == KEYS;
  wane_map_store(map, keys ? object : partner, keys ? partner : object);
}

static void the_held_side_dies_with_the_entry(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= VALUES; shape_flags++) {
    notes_begin();
    map = wane_map_new(NULL, shape_flags);
    test_make_with(3000, NULL, with_noted_partner);
    test_settle();
    assert_most(notes_total(), 3000);
    assert_few(entries_now(), 3000);
  }
  forget_all();
}

/* ---- Finalizers ---- */

static uint64_t seen_in_map;

/* D17: the entry is gone before the finalizer starts, and stays gone. */
static void finalize(void *object) {
  void *tag = (void *)~*(uintptr_t *)object;
  if (note_is_fresh(tag)) {
    if (shape_flags != VALUES && wane_map_load(map, object, NULL)) {
      test_add(&seen_in_map);
    }
    kept[note_idx(tag)] = object;
  }
  note(tag);
}

static void with_finalizer(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  wane_set_finalizer(object, finalize);
  wane_map_store(map, shape_flags == VALUES ? word(idx) : object,
                 shape_flags == VALUES ? object : word(idx));
}

static void a_finalizer_does_not_bring_the_entry_back(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= BOTH; shape_flags++) {
    notes_begin();
    map = wane_map_new(NULL, shape_flags);
    test_make_with(MANY, NULL, with_finalizer);
    assert_few(entries_left(), MANY);
    test_settle();
    assert_most(notes_total(), MANY);
    assert_int_equal(test_get(&seen_in_map), 0);
    size_t back = 0;
    for (size_t i = 0; i < MANY; i++) {
      void *key = shape_flags == VALUES ? word(i) : kept[i];
      back += kept[i] != NULL && wane_map_load(map, key, NULL);
      if (kept[i] != NULL) { /* and may come in again */
        wane_map_store(map, key, shape_flags == VALUES ? kept[i] : word(i));
      }
    }
    assert_int_equal(back, 0);
    assert_in_range(entries_left(), MANY - 10, MANY);
    memset(kept, 0, sizeof kept);
    assert_few(entries_left(), MANY);
  }
  forget_all();
}

/* What a dead finalizable object reaches is not dead (W6): its entries stay
   until it is. */
static void finalize_plain(void *object) {
  void **words = object;
  if (note_is_fresh(words[0])) {
    void *value = NULL;
    require(wane_map_load(map, words[1], &value) && value == words[0]);
  }
  note(words[0]);
}

static uint64_t seen_by_cleanups;
static size_t numbers_begin;

/* X3: no callback of an object sees an entry that was gone with it. */
static void see_no_entry(void *tag) {
  if (note_is_fresh(tag)) {
    void *key = new_number(note_idx(tag));
    if (wane_map_load(map, key, NULL) || wane_map_delete(map, key)) {
      test_add(&seen_by_cleanups);
    }
  }
  note(tag);
}

static void with_seeing_cleanup(void *object, size_t idx) {
  size_t number = numbers_begin + idx;
  struct number_key *key = new_number(number);
  void *weak = weak_side(shape_flags, key, object);
  (void)wane_add_cleanup(weak, see_no_entry, note_tag(number));
  wane_map_store(map, key, object);
}

static void no_cleanup_sees_its_entry(void **state) {
  (void)state;
  for (shape_flags = KEYS; shape_flags <= BOTH; shape_flags++) {
    notes_begin();
    map = wane_map_new(&checked_ops, shape_flags);
    for (size_t i = 0; i < 3; i++) { /* a key may live on: others each time */
      numbers_begin = 3000 * i;
      test_make_with(3000, NULL, with_seeing_cleanup);
      test_settle();
    }
    assert_in_range(notes_total(), 8000, 9000);
    assert_int_equal(seen_by_cleanups, 0);
  }
  forget_all();
}

static void with_reached_key(void *object, size_t idx) {
  void **words = object;
  words[0] = note_tag(idx);
  words[1] = wane_alloc(48);
  wane_map_store(map, words[1], words[0]);
  wane_set_finalizer(object, finalize_plain);
}

static void what_a_finalizer_reaches_keeps_its_entry(void **state) {
  (void)state;
  notes_begin();
  map = wane_map_new(NULL, KEYS);
  test_make_with(MANY, NULL, with_reached_key);
  test_scrub();
  wane_collect();
  assert_int_equal(entries_now(), MANY);
  require(wane_drain(30000));
  assert_most(notes_total(), MANY);
  test_scrub();
  test_settle();
  assert_few(entries_left(), MANY);
  forget_all();
}

/* ---- Many maps, much churn ---- */

static void with_own_maps(void *object, size_t idx) {
  kept[2 * idx] = wane_map_new(NULL, 1 + (unsigned)idx % 3);
  kept[2 * idx + 1] = idx % 2 == 0 ? object : NULL;
  for (size_t i = 0; i < 4; i++) {
    void *partner = wane_alloc(16);
    bool keys = idx % 3 != 1;
    char *weak = (char *)object + i;
    partner = idx % 3 == 2 ? word(i) : partner; /* both: an immortal */
    wane_map_store(kept[2 * idx], keys ? weak : partner, keys ? partner : weak);
  }
}

static void thousands_of_maps_lose_what_dies(void **state) {
  (void)state;
  size_t count = test_scaled(5000, 1000);
  test_make_with(count, NULL, with_own_maps);
  test_scrub();
  wane_collect();
  size_t late = 0;
  for (size_t i = 0; i < count; i++) {
    size_t entries = wane_map_count(kept[2 * i]);
    assert_true(entries == (i % 2 == 0 ? 4 : 0) || i % 2 == 1);
    late += i % 2 == 1 && entries != 0;
  }
  assert_few(late, count / 2);
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  forget_all();
}

static void churn(void *arg) {
  size_t count = *(size_t *)arg;
  for (size_t i = 0; i < count; i++) {
    void *key = wane_alloc(48);
    void **value = wane_alloc(48);
    value[0] = key;
    wane_map_store(map, key, value);
  }
}

/* Keys that nobody deletes, for many cycles: neither the map nor the process
   grows. */
static void churn_does_not_grow_a_weak_map(void **state) {
  (void)state;
  size_t count = test_scaled(20000, 2000);
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    uint64_t live = 0;
    size_t resident = 0;
    map = wane_map_new(NULL, flags);
    for (int i = 0; i < 40; i++) {
      test_apart(churn, &count);
      (void)entries_left();
      if (i == 10) {
        live = test_live_bytes();
        resident = test_resident_bytes();
      }
    }
    assert_few(entries_now(), count);
    assert_in_range(test_live_bytes(), 0, live + live / 10 + 65536);
    if (!TEST_ASAN && !TEST_TSAN) {
      assert_in_range(test_resident_bytes(), 0, resident + (16u << 20));
    }
  }
  forget_all();
}

/* Stays inside at one of the keys. */
static bool stay_inside(const void *key, void *value, void *ctx) {
  (void)value;
  if (key != ctx) {
    return true;
  }
  test_add(&rounds_of_threads);
  test_wait_for(&over);
  return false;
}

static void *range_thread(void *arg) {
  wane_map_range(map, stay_inside, arg);
  return NULL;
}

/* A range that is inside a visit for long holds one entry, which may be out by
   then: that must not retain all that comes and dies after it. */
static void a_long_visit_does_not_retain_what_comes_later(void **state) {
  (void)state;
  size_t count = test_scaled(20000, 3000);
  pthread_t threads[4];
  uint64_t live = 0;
  int percent = wane_set_gc_percent(-1); /* the map is full at the visit */
  map = wane_map_new(NULL, KEYS);
  test_apart(churn, &count);
  for (uintptr_t i = 0; i < 10; i++) {
    wane_map_store(map, word(i), NULL);
  }
  test_set(&over, 0);
  test_set(&rounds_of_threads, 0);
  for (uintptr_t i = 0; i < 4; i++) {
    require(!pthread_create(&threads[i], NULL, range_thread, word(i)));
  }
  assert_true(test_until(&rounds_of_threads, 4));
  for (uintptr_t i = 0; i < 10; i++) {
    assert_true(wane_map_delete(map, word(i)));
  }
  for (int i = 0; i < 30; i++) {
    test_apart(churn, &count);
    for (uintptr_t n = 0; n < 2000 && i % 2 == 0; n++) {
      wane_map_store(map, word(n), NULL);
      require(wane_map_delete(map, word(n)));
    }
    (void)entries_left();
    if (i == 5) {
      live = test_live_bytes();
    }
  }
  uint64_t after = test_live_bytes();
  test_set(&over, 1);
  for (int i = 0; i < 4; i++) {
    require(!pthread_join(threads[i], NULL));
  }
  wane_set_gc_percent(percent);
  assert_in_range(after, 0, live + 100 * count);
  forget_all();
}

/* A large weak map whose entries died shrinks as it is used. */
static void a_weak_map_shrinks_after_deaths(void **state) {
  (void)state;
  size_t count = test_scaled(200000, 5000);
  for (unsigned flags = 1; flags < FLAGS; flags++) {
    size_t few = 100;
    map = wane_map_new(NULL, flags);
    uint64_t empty = test_live_bytes();
    test_apart(churn, &count);
    uint64_t full = test_stats().heap_used_bytes;
    for (int i = 0; i < 20; i++) {
      test_apart(churn, &few);
      assert_few(entries_left(), i == 0 ? count : 1000);
    }
    require(full > empty);
    assert_in_range(test_live_bytes(), 0, empty + count * 2 + 65536);
  }
  forget_all();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_entry_lives_as_long_as_its_weak_side),
      cmocka_unit_test(with_both_weak_the_first_death_counts),
      cmocka_unit_test(the_held_side_is_no_use_of_the_weak_one),
      cmocka_unit_test(a_chain_lives_by_its_first_key_and_goes_at_once),
      cmocka_unit_test(chains_go_in_one_cycle),
      cmocka_unit_test(entries_reach_over_maps),
      cmocka_unit_test(what_is_not_managed_never_dies),
      cmocka_unit_test(pointers_into_objects_are_keys_and_values),
      cmocka_unit_test(an_entry_goes_with_its_own_key_object),
      cmocka_unit_test(keys_come_again_after_their_deaths),
      cmocka_unit_test(keys_die_while_others_use_the_map),
      cmocka_unit_test(a_death_never_takes_a_newer_entry),
      cmocka_unit_test(the_last_value_counts),
      cmocka_unit_test(removed_entries_retain_nothing),
      cmocka_unit_test(the_held_side_dies_with_the_entry),
      cmocka_unit_test(a_finalizer_does_not_bring_the_entry_back),
      cmocka_unit_test(no_cleanup_sees_its_entry),
      cmocka_unit_test(what_a_finalizer_reaches_keeps_its_entry),
      cmocka_unit_test(thousands_of_maps_lose_what_dies),
      cmocka_unit_test(churn_does_not_grow_a_weak_map),
      cmocka_unit_test(a_long_visit_does_not_retain_what_comes_later),
      cmocka_unit_test(a_weak_map_shrinks_after_deaths),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
