/* Ephemerons. E1, D17, X3, W4, W6, F3, F4, A4-A6. Random graphs are in
   model/ephemerons.c; large ones, and readers on all cores, in
   stress/ephemerons.c. */
/* timeout: 240 */
/* run: one_marker WANE_OPTIONS=mark_threads=1,background=0 */
/* run: overflow WANE_OPTIONS=mark_threads=4,mark_stack=8192,verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
#include "support/lives.h"

#include <pthread.h>
#include <sys/mman.h>

#define MANY 300
#define PAIRS_MAX 20000

/* ---- Pairs, by number ---- */

TEST_ROOT struct wane_ephemeron *held[PAIRS_MAX];
TEST_ROOT void *keys[PAIRS_MAX];
static uintptr_t hidden_keys[PAIRS_MAX];
static uintptr_t hidden_values[PAIRS_MAX];
static wane_weak weak_keys[PAIRS_MAX];

static struct wane_ephemeron *pair_new(const void *key, void *value) {
  struct wane_ephemeron *e = wane_ephemeron_new(key, value);
  require(e != NULL && wane_base(e) == e);
  require(wane_ephemeron_key(e) == key && wane_ephemeron_value(e) == value);
  return e;
}

/* Held until all are made, so that no address comes up twice. */
TEST_ROOT void *made[3][PAIRS_MAX];

/* Remembered under idx, its key held in keys. */
static TEST_NOINLINE void pair_add(size_t idx, void *key, void *value) {
  held[idx] = pair_new(key, value);
  made[0][idx] = held[idx];
  made[1][idx] = key;
  keys[idx] = key;
  hidden_keys[idx] = test_hide(key);
  hidden_values[idx] = test_hide(value);
}

struct make_pairs {
  size_t count;
  void (*make)(size_t idx);
};

static void make_pairs_body(void *arg) {
  const struct make_pairs *args = arg;
  for (size_t i = 0; i < args->count; i++) {
    args->make(i);
  }
  memset(made, 0, sizeof made);
}

/* Calls make(i) in a thread of its own. */
static void make_pairs(size_t count, void (*make)(size_t idx)) {
  struct make_pairs args = {count, make};
  require(count <= PAIRS_MAX);
  test_apart(make_pairs_body, &args);
}

static void pairs_forget(void) {
  memset(held, 0, sizeof held);
  memset(keys, 0, sizeof keys);
  test_scrub();
}

/* How many are whole; each is that or gone, as its key is. Before anything is
   allocated after the cycle. */
static TEST_NOINLINE size_t pairs_count_whole(size_t count) {
  size_t whole = 0;
  for (size_t i = 0; i < count; i++) {
    const void *key = wane_ephemeron_key(held[i]);
    const void *value = wane_ephemeron_value(held[i]);
    bool alive = wane_base(test_reveal(hidden_keys[i])) != NULL;
    require(alive == (key != NULL) && alive == (value != NULL));
    if (alive) {
      require(key == test_reveal(hidden_keys[i]));
      require(value == test_reveal(hidden_values[i]));
      require(wane_base(value) != NULL);
    }
    whole += alive;
  }
  return whole;
}

static size_t pairs_whole(size_t count) {
  test_scrub();
  wane_collect();
  size_t whole = pairs_count_whole(count);
  test_scrub();
  return whole;
}

static TEST_NOINLINE size_t values_alive(size_t count) {
  size_t alive = 0;
  for (size_t i = 0; i < count; i++) {
    alive += wane_base(test_reveal(hidden_values[i])) != NULL;
  }
  return alive;
}

/* Whole over cycles; without the keys gone, values too. Main thread. */
static void check_pairs(size_t count) {
  for (int i = 0; i < 3; i++) {
    assert_int_equal(pairs_whole(count), count);
  }
  memset(keys, 0, sizeof keys);
  assert_in_range(pairs_whole(count), 0, 2 + count / 50);
  assert_in_range(values_alive(count), 0, 2 + count / 50);
  assert_in_range(pairs_whole(count), 0, 2 + count / 50);
  pairs_forget();
}

/* But for some that stray words may keep. */
#define FEW (2 + MANY / 50)
#define assert_about(actual, count)                                            \
  assert_in_range((actual), (count) > FEW ? (count)-FEW : 0, (count) + FEW)

/* ---- E1: shapes ---- */

/* Groups of so many that hold together. */
#define GROUP 10

static size_t group_first(size_t idx) { return idx - idx % GROUP; }
static size_t group_next(size_t idx) {
  return group_first(idx) + (idx + 1) % GROUP;
}

static void make_plain(size_t idx) {
  pair_add(idx, wane_alloc(64), wane_alloc(64));
}

static void make_pointing_back(size_t idx) {
  void **key = wane_alloc(64);
  void **value = wane_alloc(64);
  value[idx % 8] = key + idx % 8;
  if (idx % 3 == 0) {
    key[1] = value;
  }
  pair_add(idx, key, value);
}

static void make_of_one(size_t idx) {
  char *object = wane_alloc(64);
  pair_add(idx, object + idx % 64, object + idx % 7);
}

/* The key points to the ephemeron, and so does the value. */
static void make_pointing_to_it(size_t idx) {
  void **key = wane_alloc(64);
  void **value = wane_alloc(64);
  pair_add(idx, key, value);
  key[0] = held[idx];
  value[0] = held[idx];
  value[1] = key;
}

static void make_interior(size_t idx) {
  char *key = wane_alloc(100);
  char *value = wane_alloc_leaf(100);
  pair_add(idx, key + idx % 100, value + idx * 7 % 100);
}

struct node {
  uint64_t number;
  void *pointer;
  uint64_t lookalike;
};
WANE_TYPE(node_type, struct node, pointer);

static void *any_new(size_t sort) {
  switch (sort % 6) {
  case 0:
    return wane_alloc(16);
  case 1:
    return wane_alloc_leaf(48);
  case 2:
    return wane_alloc_typed(&node_type, 1 + sort % 5);
  case 3:
    return wane_alloc(100000 + sort);
  case 4:
    return wane_alloc_leaf(100000 + sort);
  default:
    return wane_alloc(0);
  }
}

static void make_any(size_t idx) {
  char *key = any_new(idx);
  char *value = any_new(idx / 6);
  bool inside = idx / 36 % 2 == 1;
  size_t key_size = wane_size(key);
  pair_add(idx, key + (inside ? key_size - 1 : 0),
           value + (inside ? wane_size(value) / 2 : 0));
}

/* The typed value's pointer holds the key, its lookalike another. */
static void make_typed(size_t idx) {
  struct node *key = wane_alloc_typed(&node_type, 1);
  struct node *value = wane_alloc_typed(&node_type, 1);
  value->pointer = key;
  value->lookalike = idx > 0 ? (uint64_t)keys[idx - 1] : 0;
  pair_add(idx, key, value);
}

static void make_with_ephemeron_as_key(size_t idx) {
  pair_add(idx, pair_new(NULL, wane_alloc(64)), wane_alloc(64));
}

/* Each value has a tree that only it reaches. */
static void make_tree(size_t idx) {
  void **value = wane_alloc(8 * sizeof *value);
  for (size_t i = 0; i < 8; i++) {
    void **below = value[i] = wane_alloc(16);
    below[0] = any_new(i);
  }
  pair_add(idx, wane_alloc(32), value);
}

/* E1, D17, D16. */
static void a_value_lives_with_its_key(void **state) {
  (void)state;
  static void (*const shapes[])(size_t) = {
      make_plain,          make_pointing_back, make_of_one,
      make_pointing_to_it, make_any,           make_with_ephemeron_as_key,
      make_typed,          make_interior,      make_tree};
  for (size_t i = 0; i < TEST_COUNT(shapes); i++) {
    make_pairs(MANY, shapes[i]);
    check_pairs(MANY);
  }
}

static bool one_root; /* for each group */

static void make_ring(size_t idx) {
  static uintptr_t group_keys[GROUP]; /* hidden */
  if (idx % GROUP == 0) {
    for (size_t i = 0; i < GROUP; i++) {
      void **key = wane_alloc(48);
      keys[idx + i] = key;
      group_keys[i] = test_hide(key);
    }
  }
  void **value = wane_alloc(64);
  value[3] = test_reveal(group_keys[group_next(idx) % GROUP]);
  pair_add(idx, test_reveal(group_keys[idx % GROUP]), value);
  if (one_root && idx % GROUP == GROUP - 1) { /* any one of them will do */
    size_t first = group_first(idx);
    for (size_t i = first; i < first + GROUP; i++) {
      keys[i] = i - first == idx / GROUP % GROUP ? keys[i] : NULL;
    }
  }
}

/* E1: several keys, each value points to the next one. */
static void rings_live_and_die_together(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    one_root = i == 1;
    make_pairs(MANY * GROUP, make_ring);
    check_pairs(MANY * GROUP);
  }
}

TEST_ROOT struct wane_ephemeron *heads[MANY];
static uintptr_t hidden_ends[MANY];
static uintptr_t hidden_nested[MANY * GROUP];

/* Ephemeron of ephemerons: only the outermost is held. */
static void make_nested(size_t idx) {
  void *value = wane_alloc(64);
  hidden_ends[idx] = test_hide(value);
  for (size_t i = 0; i < GROUP; i++) {
    void *key = wane_alloc(64);
    keys[idx * GROUP + i] = key;
    value = pair_new(key, value);
    made[0][idx * GROUP + i] = value;
    hidden_nested[idx * GROUP + i] = test_hide(value);
  }
  heads[idx] = value;
}

/* How many ephemerons can be reached from the head. */
static TEST_NOINLINE size_t nested_depth(size_t idx) {
  struct wane_ephemeron *e = heads[idx];
  for (size_t depth = 0; depth < GROUP; depth++) {
    void *value = wane_ephemeron_value(e);
    require((value == NULL) == (wane_ephemeron_key(e) == NULL));
    if (value == NULL) {
      return depth;
    }
    require(wane_base(value) == value);
    e = value;
  }
  require((void *)e == test_reveal(hidden_ends[idx]));
  return GROUP;
}

static TEST_NOINLINE size_t nested_with_depth(size_t depth) {
  size_t count = 0;
  for (size_t i = 0; i < MANY; i++) {
    count += nested_depth(i) == depth;
  }
  return count;
}

/* E1. */
static void ephemerons_may_be_values(void **state) {
  (void)state;
  make_pairs(MANY, make_nested);
  for (int i = 0; i < 2; i++) {
    test_scrub();
    wane_collect();
    assert_int_equal(nested_with_depth(GROUP), MANY);
  }
  assert_alive(hidden_ends, MANY);
  for (size_t i = 0; i < MANY; i++) { /* the sixth from outside */
    keys[i * GROUP + GROUP - 6] = NULL;
  }
  assert_dead(hidden_ends, MANY);
  assert_most(nested_with_depth(5), MANY);
  /* of each, six ephemerons are left */
  assert_in_range(test_survivors(hidden_nested, MANY * GROUP), MANY * 6,
                  MANY * 6 + 50);
  memset(heads, 0, sizeof heads);
  assert_dead(hidden_nested, MANY * GROUP);
  pairs_forget();
}

/* Three keys a value: alive as long as any of them. */
static void make_shared(size_t idx) {
  void *value = wane_alloc(64);
  for (size_t i = 0; i < 3; i++) {
    pair_add(3 * idx + i, wane_alloc(64), value);
  }
}

/* E1. */
static void a_value_may_have_several_keys(void **state) {
  (void)state;
  static uintptr_t values[MANY];
  make_pairs(MANY, make_shared);
  for (size_t i = 0; i < MANY; i++) {
    values[i] = hidden_values[3 * i];
  }
  for (size_t left = 3; left > 0; left--) {
    assert_alive(values, MANY);
    size_t whole = pairs_whole(3 * MANY);
    assert_in_range(whole, left * MANY, left * MANY + FEW);
    for (size_t i = 0; i < MANY; i++) {
      keys[3 * i + left - 1] = NULL;
    }
  }
  assert_dead(values, MANY);
  pairs_forget();
}

/* Five ephemerons with one key; the fifth has it as its value. */
static void make_same_key(size_t idx) {
  char *key = wane_alloc(64);
  for (size_t i = 0; i < 5; i++) {
    pair_add(5 * idx + i, key + i, i == 4 ? (void *)key : wane_alloc(64));
  }
}

/* E1. */
static void a_key_may_have_several_values(void **state) {
  (void)state;
  make_pairs(MANY, make_same_key);
  check_pairs(5 * MANY);
}

/* ---- D17: keys that never die ---- */

static int static_key;
static const int static_const = 5;
static uintptr_t unmanaged[6];

static void make_with_unmanaged_key(size_t idx) {
  void *value = wane_alloc(64);
  *(void **)value = value;
  hidden_values[idx] = test_hide(value);
  held[idx] = pair_new((void *)unmanaged[idx % TEST_COUNT(unmanaged)], value);
  made[0][idx] = held[idx];
}

/* D17. */
static void other_keys_hold_the_value_as_long_as_the_ephemeron(void **state) {
  (void)state;
  int local = 0;
  void *small = malloc(100);
  const void *all[] = {NULL,  &static_key, &static_const,
                       small, &local,      (void *)12345};
  memcpy(unmanaged, all, sizeof unmanaged);
  make_pairs(MANY, make_with_unmanaged_key);
  for (int i = 0; i < 3; i++) {
    assert_alive(hidden_values, MANY);
    for (size_t n = 0; n < MANY; n++) {
      assert_ptr_equal(wane_ephemeron_key(held[n]),
                       all[n % TEST_COUNT(unmanaged)]);
      assert_ptr_equal(wane_ephemeron_value(held[n]),
                       test_reveal(hidden_values[n]));
    }
  }
  pairs_forget();
  assert_dead(hidden_values, MANY);
  free(small);
}

static void make_with_unmanaged_value(size_t idx) {
  void *values[] = {NULL, &static_key, (void *)77};
  keys[idx] = wane_alloc(64);
  held[idx] = pair_new(keys[idx], values[idx % 3]);
  weak_keys[idx] = wane_weak_make(keys[idx]);
}

/* E1: the value is given back whatever it is, and goes with the key. */
static void values_may_be_anything(void **state) {
  (void)state;
  make_pairs(MANY, make_with_unmanaged_value);
  test_scrub();
  wane_collect();
  void *values[] = {NULL, &static_key, (void *)77};
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(wane_ephemeron_key(held[i]), keys[i]);
    assert_ptr_equal(wane_ephemeron_value(held[i]), values[i % 3]);
  }
  memset(keys, 0, sizeof keys);
  test_scrub();
  wane_collect();
  size_t gone = 0;
  for (size_t i = 0; i < MANY; i++) {
    bool dead = wane_weak_value(weak_keys[i]) == NULL;
    assert_true(dead == (wane_ephemeron_key(held[i]) == NULL));
    assert_true(!dead || wane_ephemeron_value(held[i]) == NULL);
    gone += dead;
  }
  assert_most(gone, MANY);
  pairs_forget();
}

/* ---- What holds what ---- */

static void make_dropped(size_t idx) {
  make_pointing_back(idx);
  hidden_keys[idx] = test_hide(held[idx]);
  held[idx] = NULL;
}

static void make_held_by_value(size_t idx) {
  make_pointing_to_it(idx);
  *(void **)keys[idx] = NULL;
  hidden_keys[idx] = test_hide(held[idx]);
  held[idx] = NULL;
}

static void make_unmanaged_dropped(size_t idx) {
  make_with_unmanaged_key(idx);
  hidden_keys[idx] = test_hide(held[idx]);
  held[idx] = NULL;
}

/* E1: though the keys live, and though a value holds its ephemeron. */
static void a_dead_ephemeron_holds_nothing(void **state) {
  (void)state;
  static void (*const shapes[])(size_t) = {make_dropped, make_held_by_value,
                                           make_unmanaged_dropped};
  memset(unmanaged, 0, sizeof unmanaged);
  for (size_t i = 0; i < TEST_COUNT(shapes); i++) {
    make_pairs(MANY, shapes[i]);
    if (shapes[i] == make_dropped) { /* whose keys hold some of the values */
      for (size_t n = 0; n < MANY; n++) {
        ((void **)keys[n])[1] = NULL;
      }
    }
    assert_dead(hidden_values, MANY);
    assert_dead(hidden_keys, MANY); /* of the ephemerons */
    pairs_forget();
  }
}

TEST_ROOT void *in_use[MANY];

/* What they return is alive as long as it is held. */
static void what_was_read_lives_while_it_is_held(void **state) {
  (void)state;
  make_pairs(MANY, make_plain);
  for (size_t i = 0; i < MANY; i++) {
    in_use[i] = i % 2 == 0 ? wane_ephemeron_value(held[i])
                           : wane_ephemeron_key(held[i]);
  }
  memset(keys, 0, sizeof keys);
  for (int i = 0; i < 2; i++) { /* a held key holds the value */
    size_t whole = pairs_whole(MANY);
    assert_in_range(whole, MANY / 2, MANY / 2 + FEW);
    for (size_t n = 0; n < MANY; n++) {
      assert_ptr_equal(wane_base(in_use[n]), in_use[n]);
    }
  }
  memset(in_use, 0, sizeof in_use);
  assert_in_range(pairs_whole(MANY), 0, FEW);
  pairs_forget();
}

static void make_inside_held(size_t idx) {
  make_plain(idx);
  in_use[idx] = (char *)held[idx] + 1 + idx % 8;
  hidden_keys[idx] = test_hide(held[idx]);
  held[idx] = NULL;
}

/* An ephemeron is an object like others: held by inner pointers, pinned, weakly
   pointed to. */
static void an_ephemeron_is_an_object(void **state) {
  (void)state;
  make_pairs(MANY, make_inside_held);
  assert_alive(hidden_keys, MANY);
  assert_alive(hidden_values, MANY);
  for (size_t i = 0; i < MANY; i++) {
    struct wane_ephemeron *e = test_reveal(hidden_keys[i]);
    assert_ptr_equal(wane_base(in_use[i]), e);
    assert_in_range(wane_size(e), 2 * sizeof(void *), 128);
    wane_pin(in_use[i]);
    weak_keys[i] = wane_weak_make(e);
  }
  memset(in_use, 0, sizeof in_use);
  assert_alive(hidden_values, MANY);
  for (size_t i = 0; i < MANY; i++) {
    wane_unpin(wane_weak_value(weak_keys[i]));
  }
  assert_dead(hidden_values, MANY);
  assert_dead(hidden_keys, MANY);
  size_t dead = 0;
  for (size_t i = 0; i < MANY; i++) {
    dead += wane_weak_value(weak_keys[i]) == NULL;
  }
  assert_most(dead, MANY);
  pairs_forget();
}

static void key_of_null(void *arg) {
  (void)arg;
  (void)wane_ephemeron_key(NULL);
}

static void value_of_null(void *arg) {
  (void)arg;
  (void)wane_ephemeron_value(NULL);
}

/* D1, D16. */
static void null_is_fatal(void **state) {
  (void)state;
  test_assert_fatal_only("wane_ephemeron_key", key_of_null, NULL);
  test_assert_fatal_only("wane_ephemeron_value", value_of_null, NULL);
}

/* D16. */
static void errno_is_kept(void **state) {
  (void)state;
  errno = 77;
  struct wane_ephemeron *e = wane_ephemeron_new(&e, NULL);
  assert_non_null(e);
  assert_ptr_equal(wane_ephemeron_key(e), &e);
  assert_null(wane_ephemeron_value(e));
  assert_int_equal(errno, 77);
}

/* ---- Callbacks ---- */

static uint64_t seen_alive;

static bool pair_is_gone(size_t idx) {
  struct wane_ephemeron *e = held[idx];
  return wane_ephemeron_key(e) == NULL && wane_ephemeron_value(e) == NULL &&
         wane_weak_value(weak_keys[idx]) == NULL;
}

/* Looks at its own pair, and whether another's ephemeron and weak pointer
   agree. */
static void see_gone(void *tag) {
  size_t idx = note_idx(tag);
  if (!note_is_fresh(tag)) {
    return;
  }
  if (!pair_is_gone(idx)) {
    test_add(&seen_alive);
  }
  size_t other = (idx * 7919 + 13) % 5000;
  if (held[other] != NULL) {
    void *key = wane_ephemeron_key(held[other]);
    if (wane_weak_value(weak_keys[other]) != key) {
      test_add(&seen_alive);
    }
    wane_keep_alive(key);
  }
  note(tag);
}

static void see_gone_object(void *object) {
  see_gone((void *)~*(uintptr_t *)object);
}

/* Ephemeron and weak pointer before or after the callback; in idx % 4 >= 2 the
   value holds the key. */
static void make_with_callback(size_t idx) {
  void **key = wane_alloc(64);
  void **value = wane_alloc(64);
  key[0] = (void *)~(uintptr_t)note_tag(idx);
  value[0] = idx % 4 >= 2 ? key : NULL;
  if (idx % 8 < 4) {
    pair_add(idx, key, value);
  }
  if (idx % 2 == 0) {
    require(wane_add_cleanup(key, see_gone, note_tag(idx)).id != 0);
  } else {
    wane_set_finalizer(key, see_gone_object);
  }
  if (idx % 8 >= 4) {
    pair_add(idx, key, value);
  }
  weak_keys[idx] = wane_weak_make(key);
  keys[idx] = NULL;
}

/* X1, X3. */
static void no_callback_sees_a_pair_of_its_object(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    notes_begin();
    memset(weak_keys, 0, sizeof weak_keys);
    make_pairs(5000, make_with_callback);
    test_settle();
    assert_most(notes_total(), 5000);
    notes_require_once(5000);
    assert_int_equal(test_get(&seen_alive), 0);
    pairs_forget();
  }
}

TEST_ROOT void *stored[MANY];

static void store_object(void *object) {
  void *tag = (void *)~*(uintptr_t *)object;
  if (!note_is_fresh(tag)) {
    return;
  }
  size_t idx = note_idx(tag);
  if (!pair_is_gone(idx)) {
    test_add(&seen_alive);
  }
  __atomic_store_n(&stored[idx], object, __ATOMIC_SEQ_CST);
  note(tag);
}

static void make_resurrected(size_t idx) {
  void **key = wane_alloc(64);
  key[0] = (void *)~(uintptr_t)note_tag(idx);
  wane_set_finalizer(key, store_object);
  pair_add(idx, key, wane_alloc(64));
  weak_keys[idx] = wane_weak_make(key);
  keys[idx] = NULL;
}

/* D17, X3: cleared before, for ever; a new one holds again. */
static void a_resurrected_key_has_lost_its_value(void **state) {
  (void)state;
  notes_begin();
  make_pairs(MANY, make_resurrected);
  test_settle();
  assert_most(notes_total(), MANY);
  assert_int_equal(test_get(&seen_alive), 0);
  assert_dead(hidden_values, MANY);
  for (size_t i = 0; i < MANY; i++) {
    if (stored[i] != NULL) {
      assert_true(pair_is_gone(i));
      assert_ptr_equal(wane_base(stored[i]), stored[i]);
      held[i] = pair_new(stored[i], wane_alloc(64));
    }
  }
  test_scrub();
  wane_collect();
  for (size_t i = 0; i < MANY; i++) {
    assert_true(stored[i] == NULL || wane_ephemeron_key(held[i]) == stored[i]);
    const void *value = wane_ephemeron_value(held[i]);
    assert_true(stored[i] == NULL || wane_base(value) == value);
  }
  memset(stored, 0, sizeof stored);
  pairs_forget();
}

static struct wane_queue *queue;

/* The key is what only a dead object with a finalizer reaches. */
static void make_reached(size_t idx) {
  void **object = wane_alloc(64);
  void **key = wane_alloc(64);
  object[idx % 8] = key;
  pair_add(idx, key, wane_alloc(64));
  weak_keys[idx] = wane_weak_make(object);
  wane_set_finalizer_on(queue, object, note);
  keys[idx] = NULL;
}

static TEST_NOINLINE size_t weak_keys_alive(size_t count) {
  size_t alive = 0;
  for (size_t i = 0; i < count; i++) {
    alive += wane_weak_value(weak_keys[i]) != NULL;
  }
  return alive;
}

/* W6, F3, E1: such a key is not dead before its object is freed. */
static void a_key_that_a_dead_object_reaches_holds_its_value(void **state) {
  (void)state;
  queue = wane_queue_new();
  assert_non_null(queue);
  make_pairs(MANY, make_reached);
  for (int i = 0; i < 3; i++) { /* dead, waiting on the queue */
    assert_int_equal(pairs_whole(MANY), MANY);
    assert_in_range(weak_keys_alive(MANY), 0, FEW);
    test_scrub();
  }
  assert_most(wane_queue_run(queue, SIZE_MAX), MANY);
  test_scrub();
  assert_in_range(pairs_whole(MANY), 0, FEW);
  assert_in_range(values_alive(MANY), 0, FEW);
  wane_queue_free(queue);
  pairs_forget();
}

/* The object reaches itself by way of the pair: object, key, value, object. */
static void make_finalizer_ring(size_t idx) {
  void **object = wane_alloc(64);
  void **key = wane_alloc(64);
  void **value = wane_alloc(64);
  object[1] = key;
  value[0] = object;
  hidden_ends[idx] = test_hide(object);
  pair_add(idx, key, value);
  wane_set_finalizer_on(queue, object, note);
  keys[idx] = NULL;
}

/* F4. */
static void a_ring_with_a_finalizer_and_a_pair_never_dies(void **state) {
  (void)state;
  queue = wane_queue_new();
  assert_non_null(queue);
  make_pairs(MANY, make_finalizer_ring);
  for (int i = 0; i < 3; i++) {
    assert_int_equal(pairs_whole(MANY), MANY);
    assert_int_equal(wane_queue_run(queue, SIZE_MAX), 0);
  }
  for (size_t i = 0; i < MANY; i++) {
    wane_set_finalizer(test_reveal(hidden_ends[i]), NULL);
  }
  assert_in_range(pairs_whole(MANY), 0, FEW);
  pairs_forget();
  wane_queue_free(queue);
}

static uint64_t whole_in_callback;
static uint64_t gone_in_callback;

static void count_pair(struct wane_ephemeron *e) {
  void *key = wane_ephemeron_key(e);
  void *value = wane_ephemeron_value(e);
  require((key == NULL) == (value == NULL));
  if (key == NULL) {
    test_add(&gone_in_callback);
  } else {
    require(wane_base(key) == key && wane_base(value) == value);
    require(*(void **)value == key);
    test_add(&whole_in_callback);
  }
}

static void counts_begin(void) {
  test_set(&whole_in_callback, 0);
  test_set(&gone_in_callback, 0);
}

static void finalize_ephemeron(void *object) {
  struct wane_ephemeron *e = object;
  count_pair(e);
  for (size_t i = 0; i < MANY; i++) {
    if (hidden_ends[i] == test_hide(e)) {
      __atomic_store_n(&stored[i], object, __ATOMIC_SEQ_CST);
    }
  }
}

/* The ephemeron has the finalizer. Of every second one the key is dead. */
static void make_finalized_ephemeron(size_t idx) {
  void **key = wane_alloc(64);
  void **value = wane_alloc(64);
  value[0] = key;
  pair_add(idx, key, value);
  wane_set_finalizer(held[idx], finalize_ephemeron);
  hidden_ends[idx] = test_hide(held[idx]);
  held[idx] = NULL;
  keys[idx] = idx % 2 == 0 ? key : NULL;
}

static TEST_NOINLINE size_t stored_whole(void) {
  size_t whole = 0;
  for (size_t i = 0; i < MANY; i++) {
    if (stored[i] != NULL) {
      const void *key = wane_ephemeron_key(stored[i]);
      const void *value = wane_ephemeron_value(stored[i]);
      require(keys[i] == NULL || key == keys[i]);
      require((key != NULL) == (value != NULL));
      require(key == NULL || wane_base(value) == value);
      whole += key != NULL;
    }
  }
  return whole;
}

/* F1, F3, E1: what it holds if its key is alive is there for the call; a
   resurrected one is an ephemeron as before. */
static void an_ephemeron_may_have_a_finalizer(void **state) {
  (void)state;
  counts_begin();
  make_pairs(MANY, make_finalized_ephemeron);
  test_settle();
  assert_about(test_get(&whole_in_callback), MANY / 2);
  assert_about(test_get(&gone_in_callback), MANY / 2);
  test_scrub();
  wane_collect();
  assert_about(stored_whole(), MANY / 2);
  memset(keys, 0, sizeof keys);
  test_scrub();
  wane_collect();
  assert_about(stored_whole(), 0);
  memset(stored, 0, sizeof stored);
  pairs_forget();
}

static void clean_up_with_pair(void *arg) { count_pair(arg); }

/* Only the argument of the cleanup holds the ephemeron. Of every second pair
   the key is dead, or is the object itself. */
static void make_argument(size_t idx) {
  void **object = wane_alloc(64);
  void **key = idx % 4 == 1 ? object : wane_alloc(64);
  void **value = wane_alloc(64);
  value[0] = key;
  pair_add(idx, key, value);
  require(wane_add_cleanup(object, clean_up_with_pair, held[idx]).id != 0);
  held[idx] = NULL;
  keys[idx] = idx % 2 == 0 ? key : NULL;
  made[2][idx] = object;
  in_use[idx] = idx % 8 < 4 ? NULL : object; /* these die later */
}

/* A4, A5, E1. The object as key with a value that holds it: no A6. */
static void arguments_of_cleanups_hold_ephemerons(void **state) {
  (void)state;
  counts_begin();
  make_pairs(MANY, make_argument);
  test_settle();
  size_t half = 152; /* of 300 */
  assert_about(test_get(&whole_in_callback), half / 2);
  assert_about(test_get(&gone_in_callback), half / 2);
  test_settle();
  memset(in_use, 0, sizeof in_use);
  test_settle();
  assert_about(test_get(&whole_in_callback), MANY / 2);
  assert_about(test_get(&gone_in_callback), MANY / 2);
  test_settle(); /* without the arguments */
  assert_in_range(values_alive(MANY), 0, FEW);
  pairs_forget();
}

static void note_argument(void *arg) { note(((void **)arg)[1]); }

/* The argument reaches the object by way of a pair whose key is another. */
static void make_blocked(size_t idx) {
  void **object = wane_alloc(64);
  void **value = wane_alloc(64);
  void **arg = wane_alloc(64);
  keys[idx] = wane_alloc(64);
  value[3] = object;
  arg[5] = pair_new(keys[idx], value);
  arg[1] = note_tag(idx);
  require(wane_add_cleanup(object, note_argument, arg).id != 0);
}

/* A6, E1: as long as that key lives. */
static void a_pair_may_hold_what_its_cleanup_waits_for(void **state) {
  (void)state;
  notes_begin();
  make_pairs(MANY, make_blocked);
  for (int i = 0; i < 3; i++) {
    test_settle();
    assert_int_equal(notes_total(), 0);
  }
  memset(keys, 0, MANY / 2 * sizeof keys[0]);
  test_settle();
  assert_most(notes_total(), MANY / 2);
  memset(keys, 0, sizeof keys);
  test_settle();
  assert_most(notes_total(), MANY);
}

static void make_with_cleanup(size_t idx) {
  make_pointing_back(idx);
  require(wane_add_cleanup(held[idx], note, note_tag(idx)).id != 0);
  weak_keys[idx] = wane_weak_make(held[idx]);
  held[idx] = idx % 2 == 0 ? held[idx] : NULL;
}

/* A1: the death of an ephemeron, not of its key or value. */
static void an_ephemeron_may_have_cleanups(void **state) {
  (void)state;
  notes_begin();
  make_pairs(MANY, make_with_cleanup);
  test_settle();
  assert_about(notes_total(), MANY / 2);
  assert_about(weak_keys_alive(MANY), MANY / 2);
  memset(keys, 0, sizeof keys);
  test_settle();
  assert_about(notes_total(), MANY / 2);
  memset(held, 0, sizeof held);
  test_settle();
  assert_most(notes_total(), MANY);
  pairs_forget();
}

/* ---- Cycles that come by themselves, and memory used again ---- */

#define OLD 4000

/* Two pairs for each key. */
static void make_old(size_t idx) {
  void *key = idx % 2 == 0 ? wane_alloc(64) : keys[idx - 1];
  pair_add(idx, key, wane_alloc(64));
  weak_keys[idx] = wane_weak_make((char *)key + 8);
}

TEST_ROOT void *fresh[1000];

/* Ephemeron and weak pointer say the same, whatever is swept already. */
static TEST_NOINLINE size_t count_dead_agreeing(void) {
  size_t dead = 0;
  for (size_t i = 0; i < OLD; i++) {
    void *key = wane_ephemeron_key(held[i]);
    void *value = wane_ephemeron_value(held[i]);
    char *weak = wane_weak_value(weak_keys[i]);
    require(weak == (key == NULL ? NULL : (char *)key + 8));
    require((value == NULL) == (key == NULL));
    require(key == NULL || key == test_reveal(hidden_keys[i]));
    wane_keep_alive(key);
    dead += key == NULL;
  }
  return dead;
}

/* X3, E1: from the moment they are found dead, also while memory is used
   again for objects of the same size. */
static void a_pair_never_shows_what_lies_there_next(void **state) {
  (void)state;
  (void)wane_set_gc_percent(20);
  for (int round = 0; round < 3; round++) {
    make_pairs(OLD, make_old);
    memset(keys, 0, sizeof keys);
    test_scrub();
    uint64_t cycles = test_stats().cycles_full;
    size_t dead = 0;
    for (size_t i = 0; dead < OLD - OLD / 50; i++) {
      require(i < 3000);
      for (size_t n = 0; n < TEST_COUNT(fresh); n++) {
        fresh[n] = wane_alloc(64);
        memset(fresh[n], 0xcc, 64);
      }
      dead = count_dead_agreeing();
      test_scrub();
    }
    assert_true(test_stats().cycles_full > cycles);
    for (int i = 0; i < 3; i++) {
      wane_collect();
      assert_true(count_dead_agreeing() >= dead);
    }
    pairs_forget();
  }
  memset(fresh, 0, sizeof fresh);
  (void)wane_set_gc_percent(100);
}

static struct wane_ephemeron *young;

/* A cycle at any moment of the making loses nothing. */
static void make_while_collecting(void *arg) {
  uint64_t *stop = arg;
  while (test_get(stop) == 0) {
    for (int i = 0; i < 100; i++) {
      uint64_t *key = wane_alloc(32);
      uint64_t *value = wane_alloc(32);
      key[1] = ~(uint64_t)i;
      value[1] = ~(uint64_t)i;
      struct wane_ephemeron *e = wane_ephemeron_new(key, value);
      __atomic_store_n(&young, e, __ATOMIC_RELEASE);
      value = NULL;
      const uint64_t *again = wane_ephemeron_value(e);
      require(again[1] == ~(uint64_t)i && wane_ephemeron_key(e) == key);
      require(key[1] == ~(uint64_t)i);
    }
  }
}

static void *make_while_collecting_thread(void *arg) {
  make_while_collecting(arg);
  return NULL;
}

static void ephemerons_are_made_while_cycles_run(void **state) {
  (void)state;
  static uint64_t stop;
  pthread_t threads[2];
  test_set(&stop, 0);
  for (size_t i = 0; i < 2; i++) {
    assert_int_equal(
        pthread_create(&threads[i], NULL, make_while_collecting_thread, &stop),
        0);
  }
  for (int i = 0; i < 100; i++) {
    wane_collect();
    struct wane_ephemeron *e = __atomic_load_n(&young, __ATOMIC_ACQUIRE);
    uint64_t *key = e == NULL ? NULL : wane_ephemeron_key(e);
    if (key != NULL) {
      uint64_t *value = wane_ephemeron_value(e);
      assert_true(value[1] == key[1]);
    }
    test_breathe();
  }
  test_set(&stop, 1);
  for (size_t i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
  }
}

/* ---- fork ---- */

static void let_keys_die(void *arg) {
  (void)arg;
  require(pairs_whole(MANY) == MANY);
  make_old(MANY);
  memset(keys, 0, MANY / 2 * sizeof keys[0]);
  size_t whole = pairs_whole(MANY);
  require(whole >= MANY / 2 && whole <= MANY / 2 + FEW);
  require(wane_ephemeron_value(held[MANY]) != NULL);
}

/* G4: the child's pairs are its own. */
static void a_child_has_the_pairs(void **state) {
  (void)state;
  static struct test_child child;
  make_pairs(MANY, make_ring);
  make_pairs(MANY, make_pointing_back);
  test_fork(let_keys_die, NULL, &child);
  test_assert_exit_0(&child, "pairs in a child");
  check_pairs(MANY);
}

/* ---- What the check of callbacks makes of them ---- */

static void run(const char *role, const char *arg, const char *options) {
  static struct test_child child;
  char what[200];
  snprintf(what, sizeof what, "%s %s with %s", role, arg, options);
  test_exec(role, arg, options, &child);
  test_assert_exit_0(&child, what);
}

TEST_ROOT void *checked[1];

static void check_callbacks(const char *arg) {
  (void)arg;
  void **object = wane_alloc(64);
  void **value = wane_alloc(64);
  void **argument = wane_alloc(64);
  checked[0] = object;
  value[1] = object;
  argument[2] = pair_new(object, value);
  require(wane_add_cleanup(object, note, argument).id != 0);
  wane_collect();
  wane_collect();
}

/* A6: a pair does not hold its own key. */
static void pairs_are_no_reason_for_complaints(void **state) {
  (void)state;
  run("check", "", "check=cleanups:fail");
}

/* ---- Shutdown ---- */

static void shut_down(const char *arg) {
  (void)arg;
  notes_begin();
  for (size_t i = 0; i < 1000; i++) {
    make_with_callback(i);
    keys[i] = test_reveal(hidden_keys[i]);
  }
  wane_shutdown(WANE_RUN_CLEANUPS);
  require(notes_total() == 1000);
  require(test_get(&seen_alive) == 0);
}

/* X3: at the end, too, as if everything had died. */
static void shutdown_ends_all_pairs(void **state) {
  (void)state;
  run("shutdown", "", "");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"check", check_callbacks},
      {"shutdown", shut_down},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_value_lives_with_its_key),
      cmocka_unit_test(rings_live_and_die_together),
      cmocka_unit_test(ephemerons_may_be_values),
      cmocka_unit_test(a_value_may_have_several_keys),
      cmocka_unit_test(a_key_may_have_several_values),
      cmocka_unit_test(other_keys_hold_the_value_as_long_as_the_ephemeron),
      cmocka_unit_test(values_may_be_anything),
      cmocka_unit_test(a_dead_ephemeron_holds_nothing),
      cmocka_unit_test(what_was_read_lives_while_it_is_held),
      cmocka_unit_test(an_ephemeron_is_an_object),
      cmocka_unit_test(null_is_fatal),
      cmocka_unit_test(errno_is_kept),
      cmocka_unit_test(no_callback_sees_a_pair_of_its_object),
      cmocka_unit_test(a_resurrected_key_has_lost_its_value),
      cmocka_unit_test(a_key_that_a_dead_object_reaches_holds_its_value),
      cmocka_unit_test(a_ring_with_a_finalizer_and_a_pair_never_dies),
      cmocka_unit_test(an_ephemeron_may_have_a_finalizer),
      cmocka_unit_test(arguments_of_cleanups_hold_ephemerons),
      cmocka_unit_test(a_pair_may_hold_what_its_cleanup_waits_for),
      cmocka_unit_test(an_ephemeron_may_have_cleanups),
      cmocka_unit_test(a_pair_never_shows_what_lies_there_next),
      cmocka_unit_test(ephemerons_are_made_while_cycles_run),
      cmocka_unit_test(a_child_has_the_pairs),
      cmocka_unit_test(pairs_are_no_reason_for_complaints),
      cmocka_unit_test(shutdown_ends_all_pairs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
