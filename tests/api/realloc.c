/* wane_realloc: D16. */
#include "support/child.h"

#define MANY 500

static void fill(unsigned char *ptr, size_t size, unsigned seed) {
  for (size_t i = 0; i < size; i++) {
    ptr[i] = (unsigned char)(i * 7 + seed);
  }
}

static bool is_filled(const unsigned char *ptr, size_t size, unsigned seed) {
  for (size_t i = 0; i < size; i++) {
    if (ptr[i] != (unsigned char)(i * 7 + seed)) {
      return false;
    }
  }
  return true;
}

static bool is_zero(const unsigned char *ptr, size_t from, size_t to) {
  while (from < to && ptr[from] == 0) {
    from++;
  }
  return from == to;
}

static void null_is_wane_alloc(void **state) {
  (void)state;
  void **object = wane_realloc(NULL, 100);
  assert_non_null(object);
  assert_true(wane_size(object) >= 100);
  assert_non_null(wane_realloc(NULL, 0));
  object[0] = wane_alloc(16);
  wane_collect();
  assert_ptr_equal(wane_base(object[0]), object[0]);
}

/* Contents kept up to the smaller size, zero from there, at every pair of
   sizes that matters, in both kinds. */
static void contents_are_kept_and_the_rest_is_zero(void **state) {
  (void)state;
  static const size_t sizes[] = {0,     1,     15,    16,     17,    40,
                                 100,   128,   129,   1000,   4095,  4097,
                                 32767, 32768, 32769, 50000,  65536, 65537,
                                 98304, 98305, 99000, 1 << 20};
  for (size_t a = 0; a < TEST_COUNT(sizes); a++) {
    for (size_t b = 0; b < TEST_COUNT(sizes); b++) {
      for (int leaf = 0; leaf < 2; leaf++) {
        unsigned seed = (unsigned)(a * 31 + b);
        unsigned char *old =
            leaf ? wane_alloc_leaf(sizes[a]) : wane_alloc(sizes[a]);
        fill(old, sizes[a], seed);
        unsigned char *now = wane_realloc(old, sizes[b]);
        size_t common = sizes[a] < sizes[b] ? sizes[a] : sizes[b];
        assert_non_null(now);
        assert_ptr_equal(wane_base(now), now);
        assert_true(wane_size(now) >= sizes[b]);
        assert_true(is_filled(now, common, seed));
        assert_true(is_zero(now, common, sizes[b]));
      }
    }
  }
}

/* What a shrinking cut off is not there when the object grows again. */
static void growing_after_shrinking_finds_zeros(void **state) {
  (void)state;
  struct test_random random = {5};
  unsigned char *object = wane_alloc(1);
  size_t size = 1;
  for (int i = 0; i < 3000; i++) {
    size_t limit = i % 3 == 0 ? 300 : i % 3 == 1 ? 40000 : 100000;
    size_t next = test_below(&random, limit);
    size_t common = size < next ? size : next;
    fill(object, size, 3);
    object = wane_realloc(object, next);
    assert_true(is_filled(object, common, 3));
    assert_true(is_zero(object, common, next));
    size = next;
  }
}

static void the_old_object_stays_unchanged(void **state) {
  (void)state;
  unsigned char *old = wane_alloc(1000);
  fill(old, 1000, 9);
  unsigned char *now = wane_realloc(old, 20000);
  assert_ptr_not_equal(now, old);
  fill(now, 20000, 77);
  wane_collect();
  assert_true(is_filled(old, 1000, 9));
  assert_ptr_equal(wane_base(old), old);
}

TEST_ROOT void *holders[MANY];

static void *make_in_leaf(size_t idx) {
  void **leaf = wane_alloc_leaf(16);
  leaf = wane_realloc(leaf, idx % 2 == 0 ? 24 : 3000);
  holders[idx] = leaf;
  leaf[1] = wane_alloc(48);
  return leaf[1];
}

static void *make_in_scanned(size_t idx) {
  void **object = wane_alloc(16);
  object = wane_realloc(object, idx % 2 == 0 ? 24 : idx < 10 ? 50000 : 3000);
  holders[idx] = object;
  object[1] = wane_alloc(48);
  return object[1];
}

static void the_kind_is_kept(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_in_leaf);
  assert_dead(hidden, MANY);
  test_make_hidden(hidden, MANY, make_in_scanned);
  assert_alive(hidden, MANY);
  memset(holders, 0, sizeof holders);
  assert_dead(hidden, MANY);
}

struct pair {
  void *pointer;
  uintptr_t lookalike;
  long rest;
};
WANE_TYPE(pair_type, struct pair, pointer);

static void typed_objects_grow_by_whole_elements(void **state) {
  (void)state;
  struct pair *array = wane_alloc_typed(&pair_type, 2);
  array[1].rest = 42;
  static const size_t sizes[] = {49,    72,    73,    1000,  32760,
                                 32761, 32767, 32768, 40001, 100000};
  for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
    array = wane_realloc(array, sizes[i]);
    assert_non_null(array);
    size_t whole = (sizes[i] + sizeof *array - 1) / sizeof *array;
    assert_true(wane_size(array) >= whole * sizeof *array);
    assert_int_equal(array[1].rest, 42);
    assert_null(array[whole - 1].pointer);
  }
}

static size_t typed_grown_to;
static bool typed_lookalike;

static void *make_in_typed(size_t idx) {
  struct pair *array = wane_alloc_typed(&pair_type, 1);
  array = wane_realloc(array, typed_grown_to * sizeof *array - 5);
  struct pair *last = &array[typed_grown_to - 1];
  void *object = wane_alloc(48);
  holders[idx] = array;
  if (typed_lookalike) {
    last->lookalike = (uintptr_t)object;
  } else {
    last->pointer = object;
  }
  return object;
}

static void the_type_is_kept(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  static const size_t grown[] = {2, 10, 300, 2000};
  for (size_t i = 0; i < TEST_COUNT(grown); i++) {
    typed_grown_to = grown[i];
    typed_lookalike = true;
    test_make_hidden(hidden, 100, make_in_typed);
    assert_dead(hidden, 100);
    typed_lookalike = false;
    test_make_hidden(hidden, 100, make_in_typed);
    assert_alive(hidden, 100);
    memset(holders, 0, sizeof holders);
  }
}

/* Pins do not carry over: the pin is the old object's. */
static void pins_stay_with_the_old_object(void **state) {
  (void)state;
  char *old = wane_alloc(64);
  wane_pin(old);
  char *now = wane_realloc(old, 5000);
  assert_ptr_not_equal(now, old);
  wane_unpin(old);
}

static void too_large_leaves_the_object(void **state) {
  (void)state;
  volatile size_t most = SIZE_MAX;
  unsigned char *object = wane_alloc(500);
  struct pair *typed = wane_alloc_typed(&pair_type, 3);
  fill(object, 500, 1);
  static const size_t less[] = {0, 1, 15, 40000};
  for (size_t i = 0; i < TEST_COUNT(less); i++) {
    errno = 0;
    assert_null(wane_realloc(object, most - less[i]));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(wane_realloc(typed, most - less[i]));
    assert_int_equal(errno, ENOMEM);
  }
  assert_true(is_filled(object, 500, 1));
  assert_ptr_equal(wane_base(typed), typed);
}

static void realloc_it(void *ptr) { (void)wane_realloc(ptr, 64); }

static void what_is_no_start_of_an_object_is_fatal(void **state) {
  (void)state;
  char *object = wane_alloc(64);
  char *large = wane_alloc(100000);
  int local = 0;
  static char data[16];
  char *foreign = malloc(64);
  test_assert_fatal("wane_realloc", realloc_it, object + 1);
  test_assert_fatal("wane_realloc", realloc_it, object + 16);
  test_assert_fatal("wane_realloc", realloc_it, large + 40000);
  test_assert_fatal("wane_realloc", realloc_it, &local);
  test_assert_fatal("wane_realloc", realloc_it, data);
  test_assert_fatal("wane_realloc", realloc_it, foreign);
  test_assert_fatal("wane_realloc", realloc_it, (void *)1);
  free(foreign);
  wane_keep_alive(object);
  wane_keep_alive(large);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(null_is_wane_alloc),
      cmocka_unit_test(contents_are_kept_and_the_rest_is_zero),
      cmocka_unit_test(growing_after_shrinking_finds_zeros),
      cmocka_unit_test(the_old_object_stays_unchanged),
      cmocka_unit_test(the_kind_is_kept),
      cmocka_unit_test(typed_objects_grow_by_whole_elements),
      cmocka_unit_test(the_type_is_kept),
      cmocka_unit_test(pins_stay_with_the_old_object),
      cmocka_unit_test(too_large_leaves_the_object),
      cmocka_unit_test(what_is_no_start_of_an_object_is_fatal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
