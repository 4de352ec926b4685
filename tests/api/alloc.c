/* wane_alloc and its sisters: what one gets, what keeps it alive, and what is
   said when there is nothing to be had. API.md, heap; D16. */
#include "support/test.h"

#include <limits.h>

#define MANY 1000

static bool is_zero(const void *ptr, size_t size) {
  const unsigned char *bytes = ptr;
  for (size_t i = 0; i < size; i++) {
    if (bytes[i] != 0) {
      return false;
    }
  }
  return true;
}

typedef void *alloc_fn(size_t size);

/* 16-aligned, zeroed, at least as large as asked; then dirtied. */
static void check_fresh(alloc_fn *alloc, size_t size) {
  unsigned char *ptr = alloc(size);
  assert_non_null(ptr);
  assert_int_equal((uintptr_t)ptr % 16, 0);
  assert_true(is_zero(ptr, size));
  assert_true(wane_size(ptr) >= size);
  assert_ptr_equal(wane_base(ptr), ptr);
  memset(ptr, 0xee, size);
}

static void every_size_is_zeroed_and_aligned(void **state) {
  (void)state;
  for (size_t size = 0; size <= 70000; size += size < 4200 ? 1 : 37) {
    check_fresh(wane_alloc, size);
    check_fresh(wane_alloc_leaf, size);
  }
}

/* Memory that was used, died and is handed out again is zeroed once more. */
static void reused_memory_is_zeroed(void **state) {
  (void)state;
  static const size_t sizes[] = {1,    16,    24,    100,   256,   1000,
                                 3000, 10000, 32768, 32769, 70000, 1 << 20};
  for (int round = 0; round < 6; round++) {
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
      for (size_t n = 0; n < 1 + 65536 / sizes[s] && n < 300; n++) {
        check_fresh(n % 2 == 0 ? wane_alloc : wane_alloc_leaf, sizes[s]);
      }
    }
    wane_collect();
  }
}

static void size_0_gives_distinct_objects(void **state) {
  (void)state;
  void **objects = wane_new_array(void *, MANY);
  for (size_t i = 0; i < MANY; i++) {
    objects[i] = i % 2 == 0 ? wane_alloc(0) : wane_alloc_leaf(0);
    assert_non_null(objects[i]);
    assert_ptr_equal(wane_base(objects[i]), objects[i]);
  }
  wane_collect();
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(wane_base(objects[i]), objects[i]);
    for (size_t j = 0; j < i; j++) {
      assert_ptr_not_equal(objects[i], objects[j]);
    }
  }
}

static void unreachable_objects_die(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, test_make_small);
  assert_dead(hidden, MANY);
  test_make_hidden(hidden, MANY, test_make_leaf);
  assert_dead(hidden, MANY);
}

TEST_ROOT void *kept[MANY]; /* static data is a root */

static size_t keep_size;
static ptrdiff_t keep_offset; /* from the base; or, negative, past the end */

static void *make_kept(size_t idx) {
  char *object = wane_alloc(keep_size);
  size_t offset = keep_offset < 0 ? wane_size(object) : (size_t)keep_offset;
  kept[idx] = object + offset;
  return object;
}

static void interior_pointers_keep_alive(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  static const size_t sizes[] = {16, 48, 104, 500, 5000, 40000};
  for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
    for (int where = 0; where < 3; where++) {
      size_t count = sizes[s] > 1000 ? 50 : MANY;
      keep_size = sizes[s];
      keep_offset = where == 0   ? 1
                    : where == 1 ? (ptrdiff_t)sizes[s] / 2
                                 : (ptrdiff_t)sizes[s] - 1;
      test_make_hidden(hidden, count, make_kept);
      assert_alive(hidden, count);
      memset(kept, 0, sizeof kept);
      assert_dead(hidden, count);
    }
  }
}

/* Every other of a row of objects is dropped, so what lies before a kept
   pointer "one past its end" is in general not kept by its neighbour. */
static void a_pointer_past_the_end_keeps_nothing(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  static const size_t sizes[] = {40000, 32768 * 2, 100000};
  for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
    keep_size = sizes[s];
    keep_offset = -1;
    test_make_hidden(hidden, 40, make_kept);
    /* a past-the-end pointer may be the start of the next object */
    size_t expected = 0;
    for (size_t i = 0; i < 40; i++) {
      for (size_t j = 0; j < 40; j++) {
        expected += kept[j] == test_reveal(hidden[i]);
      }
    }
    assert_in_range(test_survivors(hidden, 40), expected, expected + 2);
    memset(kept, 0, sizeof kept);
  }
  keep_size = 64;
  test_make_hidden(hidden, 1, make_kept);
  assert_null(kept[0] == test_reveal(hidden[0]) ? kept[0] : NULL);
  memset(kept, 0, sizeof kept);
}

TEST_ROOT void *leaf_holders[MANY];

static void *make_in_leaf(size_t idx) {
  void **leaf = wane_alloc_leaf(4 * sizeof *leaf);
  leaf_holders[idx] = leaf;
  leaf[1] = wane_alloc(64);
  return leaf[1];
}

static void *make_in_scanned(size_t idx) {
  void **holder = wane_alloc(4 * sizeof *holder);
  leaf_holders[idx] = holder;
  holder[3] = wane_alloc_leaf(64);
  return holder[3];
}

static void leaf_objects_are_not_scanned(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_in_leaf);
  assert_dead(hidden, MANY);
  test_make_hidden(hidden, MANY, make_in_scanned);
  assert_alive(hidden, MANY);
  memset(leaf_holders, 0, sizeof leaf_holders);
  assert_dead(hidden, MANY);
}

static void aligned_objects_are_aligned(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 16, 100, 1000, 5000, 33000, 300000};
  for (size_t alignment = 1; alignment <= 2u << 20; alignment *= 2) {
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
      for (int i = 0; i < (alignment > 65536 ? 3 : 20); i++) {
        char *ptr = wane_alloc_aligned(sizes[s], alignment);
        assert_non_null(ptr);
        assert_int_equal((uintptr_t)ptr % alignment, 0);
        assert_int_equal((uintptr_t)ptr % 16, 0);
        assert_true(is_zero(ptr, sizes[s]));
        assert_true(wane_size(ptr) >= sizes[s]);
        assert_ptr_equal(wane_base(ptr), ptr);
        memset(ptr, 0xcc, sizes[s]);
      }
    }
  }
}

static void bad_alignment_is_einval(void **state) {
  (void)state;
  static const size_t bad[] = {0,    3,        24,       100,
                               4097, 4u << 20, SIZE_MAX, (size_t)1 << 63};
  for (size_t i = 0; i < TEST_COUNT(bad); i++) {
    errno = 0;
    assert_null(wane_alloc_aligned(64, bad[i]));
    assert_int_equal(errno, EINVAL);
  }
}

struct flexible {
  struct flexible *next;
  long count;
  void *items[];
};

struct big {
  char bytes[4096];
};

static void assert_no_memory(const void *ptr) {
  assert_null(ptr);
  assert_int_equal(errno, ENOMEM);
  errno = 0;
}

static void requests_that_cannot_be_met_are_enomem(void **state) {
  (void)state;
  volatile size_t many = SIZE_MAX / 8; /* out of the compiler's sight */
  volatile size_t most = SIZE_MAX;
  errno = 0;
  assert_no_memory(wane_alloc(most));
  assert_no_memory(wane_alloc(most - 15));
  assert_no_memory(wane_alloc(most - 32768));
  assert_no_memory(wane_alloc(most / 2));
  assert_no_memory(wane_alloc((size_t)PTRDIFF_MAX + 1));
  assert_no_memory(wane_alloc_leaf(most));
  assert_no_memory(wane_alloc_leaf((size_t)1 << 47));
  assert_no_memory(wane_alloc_aligned(most, 16));
  assert_no_memory(wane_alloc_aligned(most - 64, 64));
  assert_no_memory(wane_alloc_aligned(most - (2u << 20), 2u << 20));
  assert_no_memory(wane_new_array(struct big, many));
  assert_no_memory(wane_new_leaf_array(struct big, many));
  assert_no_memory(wane_new_array(char, most));
  assert_no_memory(wane_new_flex(struct flexible, items, many));
  assert_no_memory(wane_new_flex(struct flexible, items, most));
  check_fresh(wane_alloc, 1000);
}

/* A request refused is not counted as allocated. */
static void refused_requests_leave_the_numbers(void **state) {
  (void)state;
  assert_null(wane_alloc((size_t)1 << 40)); /* all that is reserved */
  struct wane_stats stats = test_stats();
  assert_true(stats.heap_used_bytes < (uint64_t)1 << 36);
  assert_true(stats.heap_peak_bytes < (uint64_t)1 << 36);
}

static void the_macros_give_what_they_name(void **state) {
  (void)state;
  struct big *one = wane_new(struct big);
  struct big *leaf = wane_new_leaf(struct big);
  void **array = wane_new_array(void *, 10);
  int *numbers = wane_new_leaf_array(int, 10);
  struct flexible *flex = wane_new_flex(struct flexible, items, 10);
  assert_true(wane_size(one) >= sizeof *one);
  assert_true(wane_size(leaf) >= sizeof *leaf);
  assert_true(wane_size(array) >= 10 * sizeof *array);
  assert_true(wane_size(numbers) >= 10 * sizeof *numbers);
  assert_true(wane_size(flex) >= sizeof *flex + 10 * sizeof flex->items[0]);
  assert_non_null(wane_new_array(void *, 0));
  assert_non_null(wane_new_flex(struct flexible, items, 0));
}

/* D16: successful calls keep errno, also when they collect on the way. */
static void success_keeps_errno(void **state) {
  (void)state;
  errno = 1234;
  for (size_t i = 0; i < 20000; i++) {
    (void)wane_alloc(i % 600);
    (void)wane_alloc_leaf(i % 5000);
    (void)wane_alloc_aligned(64, 64);
    assert_int_equal(errno, 1234);
  }
  void *large = wane_alloc(5 << 20);
  large = wane_realloc(large, 9 << 20);
  wane_pin(large);
  wane_unpin(large);
  wane_add_root(&state, sizeof state);
  wane_remove_root(&state);
  wane_thread_attach();
  wane_collect();
  (void)wane_strdup("text");
  (void)wane_printf("%d", 5);
  (void)wane_base(large);
  (void)wane_size(&state);
  (void)wane_set_gc_percent(100);
  (void)wane_set_memory_limit(wane_set_memory_limit(SIZE_MAX));
  (void)test_stats();
  assert_int_equal(errno, 1234);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_size_is_zeroed_and_aligned),
      cmocka_unit_test(reused_memory_is_zeroed),
      cmocka_unit_test(size_0_gives_distinct_objects),
      cmocka_unit_test(unreachable_objects_die),
      cmocka_unit_test(interior_pointers_keep_alive),
      cmocka_unit_test(a_pointer_past_the_end_keeps_nothing),
      cmocka_unit_test(leaf_objects_are_not_scanned),
      cmocka_unit_test(aligned_objects_are_aligned),
      cmocka_unit_test(bad_alignment_is_einval),
      cmocka_unit_test(requests_that_cannot_be_met_are_enomem),
      cmocka_unit_test(refused_requests_leave_the_numbers),
      cmocka_unit_test(the_macros_give_what_they_name),
      cmocka_unit_test(success_keeps_errno),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
