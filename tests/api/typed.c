/* wane_alloc_typed: scanned by the layout and by nothing else. API.md, D16. */
#include "support/child.h"

#define MANY 500

struct node {
  long number;
  struct node *left;
  uintptr_t lookalike; /* a pointer's bits, but no pointer field */
  struct node *right;
};
WANE_TYPE(node_type, struct node, left, right);

struct odd {
  char *name;
  size_t length;
  void *slot[2];
  double rest;
};
WANE_TYPE(odd_type, struct odd, name, slot[0], slot[1]);

TEST_ROOT struct node *holders[MANY];

enum field { LEFT, RIGHT, LOOKALIKE };
static enum field field;
static size_t elements;
static size_t element; /* where in the array the pointer is put */

static void *make_child(size_t idx) {
  struct node *holder = wane_alloc_typed(&node_type, elements);
  struct node *child = wane_alloc_typed(&node_type, 1);
  require(holder != NULL && child != NULL);
  holders[idx] = holder;
  if (field == LEFT) {
    holder[element].left = child;
  } else if (field == RIGHT) {
    holder[element].right = child;
  } else {
    holder[element].lookalike = (uintptr_t)child;
  }
  return child;
}

static void check_field(enum field which, size_t count, size_t at) {
  static uintptr_t hidden[MANY];
  size_t many = count > 100 ? 40 : MANY;
  field = which;
  elements = count;
  element = at;
  test_make_hidden(hidden, many, make_child);
  if (which == LOOKALIKE) {
    assert_dead(hidden, many);
  } else {
    assert_alive(hidden, many);
    memset(holders, 0, sizeof holders);
    assert_dead(hidden, many);
  }
  memset(holders, 0, sizeof holders);
}

static void pointer_fields_keep_alive(void **state) {
  (void)state;
  check_field(LEFT, 1, 0);
  check_field(RIGHT, 1, 0);
}

static void other_fields_do_not(void **state) {
  (void)state;
  check_field(LOOKALIKE, 1, 0);
}

static void every_element_of_an_array_is_scanned(void **state) {
  (void)state;
  static const size_t counts[] = {2, 7, 100, 1023, 1024, 1025, 5000};
  for (size_t i = 0; i < TEST_COUNT(counts); i++) {
    check_field(LEFT, counts[i], 0);
    check_field(RIGHT, counts[i], counts[i] - 1);
    check_field(LEFT, counts[i], counts[i] / 2);
    check_field(LOOKALIKE, counts[i], counts[i] - 1);
  }
}

static void typed_memory_is_zeroed_and_large_enough(void **state) {
  (void)state;
  for (size_t count = 0; count < 1500; count += 1 + count / 20) {
    struct odd *array = wane_alloc_typed(&odd_type, count);
    assert_non_null(array);
    assert_int_equal((uintptr_t)array % 16, 0);
    assert_true(wane_size(array) >= count * sizeof *array);
    assert_ptr_equal(wane_base((char *)array + count * sizeof *array / 2),
                     array);
    for (size_t i = 0; i < count; i++) {
      assert_null(array[i].name);
      assert_null(array[i].slot[1]);
    }
    memset(array, 0xff, count * sizeof *array);
  }
}

static void objects_of_a_type_without_pointers_hold_nothing(void **state) {
  (void)state;
  static const struct wane_type plain = {"plain", 24, 0, NULL};
  long *numbers = wane_alloc_typed(&plain, 10);
  assert_non_null(numbers);
  assert_true(wane_size(numbers) >= 240);
  wane_collect();
  assert_ptr_equal(wane_base(numbers), numbers);
}

/* The end of a typed object is that of its elements (D16). */
TEST_ROOT void *past_ends[MANY];

static void *make_past_end(size_t idx) {
  struct node *one = wane_alloc_typed(&node_type, 1);
  past_ends[idx] = (char *)one + wane_size(one);
  return one;
}

static void one_past_the_end_keeps_nothing(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_past_end);
  size_t expected = 0; /* where the next slot begins at once */
  for (size_t i = 0; i < MANY; i++) {
    expected += wane_base(past_ends[i]) == past_ends[i];
  }
  assert_in_range(test_survivors(hidden, MANY), 0, expected + MANY / 50);
  memset(past_ends, 0, sizeof past_ends);
}

static void *make_long_list(size_t idx) {
  struct node *head = NULL;
  for (int i = 0; i < 50; i++) {
    struct node *node = wane_alloc_typed(&node_type, 1);
    node->number = i;
    if (i % 2 == 0) {
      node->left = head;
    } else {
      node->right = head;
    }
    head = node;
  }
  holders[idx] = head;
  return head;
}

static void lists_of_typed_objects_stay_whole(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_long_list);
  assert_alive(hidden, MANY);
  for (size_t i = 0; i < MANY; i++) {
    struct node *node = holders[i];
    for (int number = 49; number >= 0; number--) {
      assert_int_equal(node->number, number);
      node = number % 2 == 0 ? node->left : node->right;
    }
    assert_null(node);
  }
  memset(holders, 0, sizeof holders);
  assert_true(test_live_bytes() < MANY * 50 * sizeof(struct node) / 10);
}

static void overflow_is_enomem(void **state) {
  (void)state;
  static const size_t counts[] = {SIZE_MAX, SIZE_MAX / 8, SIZE_MAX / 32,
                                  SIZE_MAX / 32 - 1, (size_t)1 << 58};
  for (size_t i = 0; i < TEST_COUNT(counts); i++) {
    volatile size_t count = counts[i];
    errno = 0;
    assert_null(wane_alloc_typed(&node_type, count));
    assert_int_equal(errno, ENOMEM);
  }
}

static void alloc_typed(void *type) { (void)wane_alloc_typed(type, 1); }

static void inconsistent_types_are_fatal(void **state) {
  (void)state;
  static const size_t unaligned[] = {4};
  static const size_t beyond[] = {0, 16};
  static const size_t wraps[] = {(size_t)-8};
  static const size_t good[] = {0};
  static struct wane_type types[] = {
      {"unaligned", 16, 1, unaligned}, {"beyond", 16, 2, beyond},
      {"wraps", 16, 1, wraps},         {"no offsets", 16, 1, NULL},
      {"size 0", 0, 1, good},          {"odd size", 20, 1, good},
      {NULL, 16, 1, unaligned},
  };
  test_assert_fatal("wane_alloc_typed", alloc_typed, NULL);
  for (size_t i = 0; i < TEST_COUNT(types); i++) {
    test_assert_fatal("wane_alloc_typed", alloc_typed, &types[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pointer_fields_keep_alive),
      cmocka_unit_test(other_fields_do_not),
      cmocka_unit_test(every_element_of_an_array_is_scanned),
      cmocka_unit_test(typed_memory_is_zeroed_and_large_enough),
      cmocka_unit_test(objects_of_a_type_without_pointers_hold_nothing),
      cmocka_unit_test(one_past_the_end_keeps_nothing),
      cmocka_unit_test(lists_of_typed_objects_stay_whole),
      cmocka_unit_test(overflow_is_enomem),
      cmocka_unit_test(inconsistent_types_are_fatal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
