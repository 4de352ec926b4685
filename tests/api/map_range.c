/* The hash map: range and clear, what a visit may do, use from callbacks and
   in children of fork. M1, D11, G4. */
/* timeout: 240 */
#include "support/lives.h"
#include "support/maps.h"

#include <pthread.h>
#include <sched.h>

static struct test_child child;
TEST_ROOT struct wane_map *map;
static uint64_t over;

/* ---- range ---- */

static bool stop_at_once(const void *key, void *value, void *ctx) {
  (void)key, (void)value;
  size_t *left = ctx;
  require(*left > 0);
  return --*left > 0;
}

static void false_ends_a_range(void **state) {
  (void)state;
  map = map_filled(NULL);
  for (size_t i = 1; i <= 50; i++) {
    size_t left = i;
    wane_map_range(map, stop_at_once, &left);
    assert_int_equal(left, 0);
  }
  map = NULL;
}

#define STABLE 200
#define OTHERS 100000 /* their keys begin here */

/* What a visit does to its own map. */
enum { INSIDE_GROW, INSIDE_SHRINK, INSIDE_NEST, INSIDE_COLLECT, INSIDE_SET };
static int does;
static uint8_t seen[STABLE];
static uintptr_t fresh = OTHERS;

static void do_inside(uintptr_t number) {
  size_t all = 0;
  switch (does) {
  case INSIDE_GROW: /* ever more, but not for ever */
    for (int i = 0; i < 20 && fresh < OTHERS + 10000; i++) {
      wane_map_store(map, word(fresh++), word(0));
    }
    break;
  case INSIDE_SHRINK:
    for (uintptr_t i = OTHERS; i < fresh; i++) {
      (void)wane_map_delete(map, word(i));
    }
    fresh = OTHERS;
    break;
  case INSIDE_NEST:
    wane_map_range(map, count_visit, &all);
    require(all == wane_map_count(map));
    break;
  case INSIDE_COLLECT:
    if (number % 10 == 0) {
      wane_collect();
    }
    break;
  default:
    wane_map_store(map, word(number), word(number));
    require(wane_map_swap(map, word(number), word(number), NULL));
  }
}

static bool visit_and_do(const void *key, void *value, void *ctx) {
  uintptr_t number = (uintptr_t)key / 2;
  require(ctx == seen);
  if (number < STABLE) {
    require(value == word(number));
    require(seen[number]++ == 0);
  }
  do_inside(number);
  return true;
}

static void store_stable_words(void) {
  map = wane_map_new(NULL, 0);
  for (uintptr_t i = 0; i < STABLE; i++) {
    wane_map_store(map, word(i), word(i));
  }
}

/* D11, M1: whatever the visit does, what is there all the time comes once. */
static void visit_may_use_its_map(void **state) {
  (void)state;
  store_stable_words();
  for (int round = 0; round < 10; round++) {
    does = round % 5;
    memset(seen, 0, sizeof seen);
    wane_map_range(map, visit_and_do, seen);
    for (size_t i = 0; i < STABLE; i++) {
      assert_int_equal(seen[i], 1);
    }
  }
  map = NULL;
}

static bool visit_and_delete(const void *key, void *value, void *ctx) {
  size_t *left = ctx;
  if (*left == 0) { /* cleared: what remains may be shown or not */
    require(!wane_map_load(map, key, NULL));
    return true;
  }
  require(wane_map_compare_and_delete(map, key, value));
  --*left;
  if (*left == 10) {
    wane_map_clear(map);
    *left = 0;
  }
  return true;
}

static void visit_may_delete_and_clear(void **state) {
  (void)state;
  for (size_t k = 0; k < 2; k++) {
    map = map_filled(k == 0 ? NULL : &number_ops);
    size_t left = 50;
    wane_map_range(map, visit_and_delete, &left);
    assert_int_equal(left, 0);
    assert_int_equal(wane_map_count(map), 0);
  }
  map = NULL;
}

/* Grows and shrinks the map by keys of its own, or clears it. */
static void *churn_thread(void *arg) {
  uintptr_t first = (uintptr_t)arg;
  struct test_random random = {first};
  while (test_get(&over) == 0) {
    size_t most = 1 + test_below(&random, hash_mask == 0 ? 50 : 3000);
    for (uintptr_t i = 0; i < most; i++) {
      wane_map_store(map, make_number(first + i), word(0));
    }
    for (uintptr_t i = 0; i < most; i++) {
      require(wane_map_delete(map, make_number(first + i)));
    }
    test_breathe();
  }
  return NULL;
}

static void *swap_thread(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  while (test_get(&over) == 0) {
    uintptr_t number = test_below(&random, STABLE);
    wane_map_store(map, make_number(number),
                   word(number + STABLE * test_below(&random, 9)));
    test_breathe();
  }
  return NULL;
}

static pthread_t writers[3];

/* A map of STABLE numbers, and threads that change it until writers_end. */
static void writers_begin(void) {
  map = wane_map_new(&number_ops, 0);
  for (uintptr_t i = 0; i < STABLE; i++) {
    wane_map_store(map, make_number(i), word(i));
  }
  test_set(&over, 0);
  for (uintptr_t i = 0; i < TEST_COUNT(writers); i++) {
    require(!pthread_create(&writers[i], NULL,
                            i == 2 ? swap_thread : churn_thread,
                            (void *)((i + 1) * OTHERS)));
  }
}

static void writers_end(void) {
  test_set(&over, 1);
  for (size_t i = 0; i < TEST_COUNT(writers); i++) {
    require(!pthread_join(writers[i], NULL));
  }
}

static bool see_number(const void *key, void *value, void *ctx) {
  require(ctx == NULL);
  uint64_t number = *(const uint64_t *)key;
  if (number < STABLE) {
    require((uintptr_t)value / 2 % STABLE == number);
    require(seen[number]++ == 0);
  }
  return true;
}

/* M1, D11. */
static void a_range_among_writers_shows_what_stays_once(void **state) {
  (void)state;
  static const uint64_t masks[] = {UINT64_MAX, 31, 0};
  for (size_t m = 0; m < TEST_COUNT(masks); m++) {
    hash_mask = masks[m];
    writers_begin();
    double stop = test_now() + 0.5;
    for (int rounds = 0; rounds < 10 || test_now() < stop; rounds++) {
      memset(seen, 0, sizeof seen);
      wane_map_range(map, see_number, NULL);
      for (size_t i = 0; i < STABLE; i++) {
        require(seen[i] == 1);
      }
      size_t count = wane_map_count(map); /* about as many */
      require(count >= STABLE - 10 && count <= STABLE + 2 * 3000 + 10);
    }
    writers_end();
    assert_int_equal(wane_map_count(map), STABLE);
  }
  hash_mask = UINT64_MAX;
  map = NULL;
}

#define FILLERS 3000

static size_t stable_seen;
static uint8_t fillers_seen[FILLERS];

/* In the middle takes the entry it is at away, and all others but the stable
   ones, and has the map shrink. */
static bool visit_and_empty(const void *key, void *value, void *ctx) {
  uintptr_t number = (uintptr_t)key / 2;
  uintptr_t first = *(uintptr_t *)ctx;
  if (number < STABLE) {
    require(value == word(number));
    require(seen[number]++ == 0);
    stable_seen++;
    return true;
  }
  require(number >= first && number < first + FILLERS);
  require(fillers_seen[number - first]++ == 0);
  if (stable_seen != STABLE / 2) {
    return true;
  }
  stable_seen++;
  require(wane_map_delete(map, key));
  for (uintptr_t i = first; i < first + FILLERS; i++) {
    require(wane_map_delete(map, word(i)) == (i != number));
  }
  for (uintptr_t i = 0; i < 2000; i++) { /* shrinks as it is used */
    wane_map_store(map, word(OTHERS - 1), NULL);
    require(wane_map_delete(map, word(OTHERS - 1)));
  }
  return true;
}

/* D11: wherever a range was when the map shrank, it shows nothing again. */
static void a_range_goes_on_when_the_map_has_shrunk(void **state) {
  (void)state;
  store_stable_words();
  for (uintptr_t round = 0; round < test_scaled(30, 10); round++) {
    uintptr_t first = OTHERS + round * FILLERS;
    for (uintptr_t i = first; i < first + FILLERS; i++) {
      wane_map_store(map, word(i), NULL);
    }
    memset(seen, 0, sizeof seen);
    memset(fillers_seen, 0, sizeof fillers_seen);
    stable_seen = 0;
    wane_map_range(map, visit_and_empty, &first);
    for (size_t i = 0; i < STABLE; i++) {
      assert_int_equal(seen[i], 1);
    }
    for (uintptr_t i = first; i < first + FILLERS; i++) {
      (void)wane_map_delete(map, word(i));
    }
    assert_int_equal(wane_map_count(map), STABLE);
  }
  map = NULL;
}

/* Shown keys, in the order of the range. */
TEST_ROOT const void *in_order[NOTES_MAX];
static size_t in_order_count;

static bool note_order(const void *key, void *value, void *ctx) {
  (void)value, (void)ctx;
  in_order[in_order_count++] = key;
  return true;
}

static uint64_t is_inside;

static bool stay_inside(const void *key, void *value, void *ctx) {
  (void)key, (void)value, (void)ctx;
  test_add(&is_inside);
  test_wait_for(&over);
  return false;
}

static void *range_thread(void *arg) {
  wane_map_range(map, stay_inside, arg);
  return NULL;
}

static void with_stored(void *object, size_t idx) {
  *(uint64_t *)object = idx;
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
  wane_map_store(map, object, word(idx));
}

/* M1: a range that is inside a visit retains no keys that were deleted, even
   if these are the very ones that it was about to come to. */
static void a_visit_does_not_retain_deleted_keys(void **state) {
  (void)state;
  size_t count = test_scaled(3000, 500);
  pthread_t thread;
  notes_begin();
  hash_mask = 0; /* one follows the other directly */
  map = wane_map_new(&number_ops, 0);
  test_make_with(count, NULL, with_stored);
  in_order_count = 0;
  wane_map_range(map, note_order, NULL);
  assert_int_equal(in_order_count, count);
  test_set(&over, 0);
  test_set(&is_inside, 0);
  require(!pthread_create(&thread, NULL, range_thread, NULL));
  assert_true(test_until(&is_inside, 1));
  for (size_t i = 0; i < in_order_count; i++) {
    assert_true(wane_map_delete(map, in_order[i]));
    in_order[i] = NULL;
  }
  test_settle();
  assert_most(notes_total(), count);
  test_set(&over, 1);
  require(!pthread_join(thread, NULL));
  hash_mask = UINT64_MAX;
  map = NULL;
}

/* ---- Threads that end inside a callback ---- */

enum { END_HASH = 1, END_EQUAL, END_VISIT };
static _Thread_local int ends_in;

static void end_in(int where) {
  if (ends_in == where) {
    pthread_exit(NULL);
  }
}

static uint64_t ending_hash(const void *key) {
  end_in(END_HASH);
  return number_hash(key) & 1;
}
static bool ending_equal(const void *a, const void *b) {
  end_in(END_EQUAL);
  return number_equal(a, b);
}
static bool ending_visit(const void *key, void *value, void *ctx) {
  (void)key, (void)value, (void)ctx;
  end_in(END_VISIT);
  return true;
}

static void *ending_thread(void *arg) {
  int where = (int)((uintptr_t)arg & 3);
  void *key = make_number(5);
  ends_in = where;
  if (where == END_VISIT) {
    wane_map_range(map, ending_visit, NULL);
  } else if (((uintptr_t)arg & 4) != 0) {
    wane_map_store(map, key, NULL);
  } else {
    (void)wane_map_delete(map, key);
  }
  require(!"the thread has ended");
  return NULL;
}

/* M1: no call holds a lock, so whoever ends in one leaves the map whole. */
static void a_thread_may_end_inside_a_callback(void **state) {
  (void)state;
  static const struct wane_map_ops ops = {ending_hash, ending_equal};
  for (unsigned flags = 0; flags < 4; flags++) {
    map = wane_map_new(&ops, flags);
    void *keys[10];
    for (size_t i = 0; i < TEST_COUNT(keys); i++) {
      keys[i] = make_number(i);
      wane_map_store(map, keys[i], word(i));
    }
    for (uintptr_t i = 0; i < 60; i++) {
      pthread_t thread;
      require(!pthread_create(&thread, NULL, ending_thread,
                              (void *)(i % 2 * 4 + 1 + i % 3)));
      require(!pthread_join(thread, NULL));
    }
    wane_collect();
    for (size_t i = 0; i < TEST_COUNT(keys); i++) {
      void *value = NULL;
      assert_true(wane_map_load(map, keys[i], &value) && value == word(i));
      assert_true(wane_map_delete(map, keys[i]));
    }
    assert_int_equal(wane_map_count(map), 0);
  }
  map = NULL;
}

/* ---- clear ---- */

#define CLEARED 64

static uint64_t turn;
static uint64_t arrived;

/* Who misses one of the keys finds none of them any more. */
static void *find_missing(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  for (uint64_t round = 1; round <= *(uint64_t *)arg; round++) {
    while (test_get(&turn) < round) {
      sched_yield();
    }
    while (wane_map_load(map, word(test_below(&random, CLEARED)), NULL)) {
    }
    for (uintptr_t i = 0; i < CLEARED; i++) {
      require(!wane_map_load(map, word(i), NULL));
    }
    wane_map_range(map, never_visit, NULL);
    test_add(&arrived);
  }
  return NULL;
}

/* M1: all entries at one moment. */
static void clear_is_of_all_at_once(void **state) {
  (void)state;
  uint64_t rounds = test_scaled(3000, 300);
  pthread_t threads[2];
  map = wane_map_new(NULL, 0);
  test_set(&turn, 0);
  test_set(&arrived, 0);
  for (uintptr_t i = 0; i < 2; i++) {
    require(!pthread_create(&threads[i], NULL, find_missing, &rounds));
  }
  for (uint64_t round = 1; round <= rounds; round++) {
    for (uintptr_t i = 0; i < CLEARED; i++) {
      wane_map_store(map, word(i), word(round));
    }
    test_set(&turn, round);
    sched_yield();
    wane_map_clear(map);
    while (test_get(&arrived) < 2 * round) {
      sched_yield();
    }
  }
  for (int i = 0; i < 2; i++) {
    require(!pthread_join(threads[i], NULL));
  }
  map = NULL;
}

/* ---- Callbacks of the library, fork ---- */

static void delete_entry(void *tag) {
  if (note_is_fresh(tag)) {
    require(wane_map_delete(map, word(note_idx(tag))));
    wane_map_store(map, word(NOTES_MAX + note_idx(tag)), word(1));
  }
  note(tag);
}

static void store_self(void *object) {
  void *tag = (void *)~*(uintptr_t *)object;
  if (note_is_fresh(tag)) {
    wane_map_store(map, word(note_idx(tag)), object);
  }
  note(tag);
}

static void with_user(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  if (idx % 2 == 0) {
    wane_map_store(map, word(idx), word(1));
    (void)wane_add_cleanup(object, delete_entry, note_tag(idx));
  } else {
    wane_set_finalizer(object, store_self);
  }
}

static void callbacks_may_use_maps(void **state) {
  (void)state;
  notes_begin();
  map = wane_map_new(NULL, 0);
  test_make_with(2000, NULL, with_user);
  test_settle();
  assert_most(notes_total(), 2000);
  size_t finalized = 0;
  for (uintptr_t i = 1; i < 2000; i += 2) {
    void *object = NULL;
    if (wane_map_load(map, word(i), &object)) {
      assert_ptr_equal(wane_base(object), object);
      assert_true(*(uintptr_t *)object == ~(uintptr_t)note_tag(i));
      finalized++;
    }
  }
  assert_most(finalized, 1000);
  assert_in_range(wane_map_count(map), 1900, 2000);
  map = NULL;
}

/* G4: in the child another thread may have stopped anywhere in a call. */
static void use_in_child(void *arg) {
  (void)arg;
  for (uintptr_t i = 0; i < STABLE; i++) {
    void *value = NULL;
    require(wane_map_load(map, make_number(i), &value));
    require((uintptr_t)value / 2 % STABLE == i);
  }
  for (uintptr_t i = 0; i < 6000; i++) {
    wane_map_store(map, make_number(OTHERS + i), word(i));
    wane_map_store(map, make_number(2 * OTHERS + i), word(i));
  }
  wane_collect();
  memset(seen, 0, sizeof seen);
  wane_map_range(map, see_number, NULL);
  for (uintptr_t i = 0; i < STABLE; i++) {
    require(seen[i] == 1);
    require(wane_map_delete(map, make_number(i)));
  }
  for (uintptr_t i = 0; i < 6000; i++) {
    require(wane_map_delete(map, make_number(OTHERS + i)));
    require(wane_map_delete(map, make_number(2 * OTHERS + i)));
  }
  size_t all = 0;
  wane_map_range(map, count_visit, &all);
  require(all == 0);
  require(wane_map_count(map) == 0);
  wane_map_clear(map);
  wane_map_store(map, make_number(1), word(1));
  require(wane_map_load(map, make_number(1), NULL));
}

static void a_child_goes_on_with_the_map(void **state) {
  (void)state;
  if (TEST_TSAN) {
    skip(); /* its runtime deadlocks in children of threads */
  }
  writers_begin();
  for (size_t i = 0; i < test_scaled(20, 5); i++) {
    test_fork(use_in_child, NULL, &child);
    test_assert_exit_0(&child, "map in a child");
  }
  writers_end();
  map = NULL;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(false_ends_a_range),
      cmocka_unit_test(visit_may_use_its_map),
      cmocka_unit_test(visit_may_delete_and_clear),
      cmocka_unit_test(a_range_among_writers_shows_what_stays_once),
      cmocka_unit_test(a_range_goes_on_when_the_map_has_shrunk),
      cmocka_unit_test(a_visit_does_not_retain_deleted_keys),
      cmocka_unit_test(a_thread_may_end_inside_a_callback),
      cmocka_unit_test(clear_is_of_all_at_once),
      cmocka_unit_test(callbacks_may_use_maps),
      cmocka_unit_test(a_child_goes_on_with_the_map),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
