/* heap/size_class: which slot serves a request, and the index of an offset. */
#include "support/test.h"

#include "heap/size_class.h"

static int set_up(void **state) {
  (void)state;
  wane__class_init();
  return 0;
}

static void classes_grow_and_are_aligned(void **state) {
  (void)state;
  for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
    const struct wane__class *class = &wane__classes[c];
    assert_int_equal(class->slot_bytes % WANE__GRANULE_BYTES, 0);
    assert_true(c == 0 || class->slot_bytes >= class[-1].slot_bytes);
    assert_true(class->slots >= 8);
    assert_true(class->blocks == 1 || class->blocks == 2 ||
                class->blocks == 4 || class->blocks == 8);
    assert_true((uint64_t) class->slots * class->slot_bytes <=
                (uint64_t) class->blocks * WANE__BLOCK_BYTES);
  }
}

static void the_class_of_a_size_is_the_smallest_that_fits(void **state) {
  (void)state;
  for (size_t bytes = 0; bytes <= WANE__SMALL_BYTES_MAX; bytes++) {
    unsigned c = wane__class_of(bytes);
    assert_true(c < WANE__CLASS_COUNT);
    assert_true(wane__classes[c].slot_bytes >= bytes);
    assert_true(c == 0 || wane__classes[c - 1].slot_bytes < bytes);
  }
}

/* An eighth, up to a granule, and a little more where slots are stretched. */
static void waste_is_bounded(void **state) {
  (void)state;
  for (size_t bytes = 1; bytes <= WANE__SMALL_BYTES_MAX; bytes++) {
    size_t slot = wane__classes[wane__class_of(bytes)].slot_bytes;
    size_t waste = slot - bytes;
    assert_true(waste < WANE__GRANULE_BYTES || waste * 6 <= slot);
  }
}

/* What is left over at the end of a group. */
static void groups_are_well_filled(void **state) {
  (void)state;
  for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
    const struct wane__class *class = &wane__classes[c];
    size_t group = (size_t) class->blocks * WANE__BLOCK_BYTES;
    size_t used = (size_t) class->slots * class->slot_bytes;
    assert_true(group - used <= group / 16);
  }
}

static void the_index_is_exact_for_every_offset(void **state) {
  (void)state;
  for (unsigned c = 0; c < WANE__CLASS_COUNT; c++) {
    const struct wane__class *class = &wane__classes[c];
    uint64_t granules =
        (uint64_t) class->blocks * WANE__BLOCK_BYTES / WANE__GRANULE_BYTES;
    uint64_t slot = class->slot_bytes / WANE__GRANULE_BYTES;
    for (uint64_t g = 0; g < granules; g++) {
      uint64_t idx = g * class->reciprocal >> 32;
      assert_int_equal(idx, g / slot);
      assert_true(idx <= class->slots); /* one 0 byte stands behind them */
    }
  }
}

static void large_objects_have_index_0_everywhere(void **state) {
  (void)state;
  assert_int_equal(wane__classes[WANE__CLASS_LARGE].reciprocal, 0);
  assert_int_equal(wane__classes[WANE__CLASS_LARGE].slot_bytes, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(classes_grow_and_are_aligned),
      cmocka_unit_test(the_class_of_a_size_is_the_smallest_that_fits),
      cmocka_unit_test(waste_is_bounded),
      cmocka_unit_test(groups_are_well_filled),
      cmocka_unit_test(the_index_is_exact_for_every_offset),
      cmocka_unit_test(large_objects_have_index_0_everywhere),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
