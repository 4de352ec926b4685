/* collect/pauses: percentiles of the pauses, from above and within 1/16. */
#include "support/test.h"

#include "collect/pauses.h"

#define SAMPLES 20000

static uint64_t samples[SAMPLES];

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a;
  uint64_t y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void assert_close(uint64_t found, uint64_t exact) {
  assert_true(found >= exact);
  assert_true(found - exact <= exact / 16);
}

/* One program, one histogram: cases are of growing number. */
static void percentiles_are_upper_bounds_within_a_sixteenth(void **state) {
  (void)state;
  struct test_random random = {99};
  struct wane__pauses pauses;
  wane__pauses_read(&pauses);
  assert_int_equal(pauses.count, 0);
  assert_int_equal(pauses.p99_ns, 0);
  uint64_t total = 0;
  uint64_t max = 0;
  for (size_t i = 0; i < SAMPLES; i++) {
    uint64_t ns = test_random(&random) >> (24 + test_below(&random, 38));
    samples[i] = ns;
    wane__pauses_add(ns);
    total += ns;
    max = ns > max ? ns : max;
    size_t count = i + 1;
    if (count <= 200 ? count % 20 == 1 : count % 4000 == 0) {
      static uint64_t sorted[SAMPLES];
      memcpy(sorted, samples, count * sizeof *samples);
      qsort(sorted, count, sizeof *sorted, compare);
      wane__pauses_read(&pauses);
      assert_int_equal(pauses.count, count);
      assert_int_equal(pauses.total_ns, total);
      assert_int_equal(pauses.max_ns, max);
      assert_close(pauses.p50_ns, sorted[(count * 500 + 999) / 1000 - 1]);
      assert_close(pauses.p99_ns, sorted[(count * 990 + 999) / 1000 - 1]);
    }
  }
}

static void extreme_values_have_their_place(void **state) {
  (void)state;
  struct wane__pauses pauses;
  wane__pauses_add(UINT64_MAX);
  wane__pauses_add(0);
  wane__pauses_read(&pauses);
  assert_true(pauses.max_ns == UINT64_MAX);
  assert_int_equal(pauses.count, SAMPLES + 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(percentiles_are_upper_bounds_within_a_sixteenth),
      cmocka_unit_test(extreme_values_have_their_place),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
