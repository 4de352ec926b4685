/* collect/pace: how much may be allocated until the next cycle. D19. */
#include "support/test.h"

#include "collect/pace.h"

#define MIB ((uint64_t)1 << 20)
#define NO_LIMIT UINT64_MAX

/* With a percentage that was set. */
static struct wane__pace_output pace(uint64_t live, int percent,
                                     uint64_t limit) {
  struct wane__pace_input in = {.live_bytes = live,
                                .threads = 1,
                                .is_percent_set = true,
                                .percent = percent,
                                .limit_bytes = limit};
  return wane__pace(&in);
}

static void growth_is_a_percentage_of_what_lives(void **state) {
  (void)state;
  assert_int_equal(pace(100 * MIB, 100, NO_LIMIT).growth_bytes, 100 * MIB);
  assert_int_equal(pace(100 * MIB, 50, NO_LIMIT).growth_bytes, 50 * MIB);
  assert_int_equal(pace(100 * MIB, 300, NO_LIMIT).growth_bytes, 300 * MIB);
  assert_in_range(pace(100 * MIB, 1, NO_LIMIT).growth_bytes, MIB - 1, MIB);
  assert_false(pace(100 * MIB, 100, NO_LIMIT).by_limit);
}

/* A quarter more, up to 64 MiB, until a percentage is set. */
static void an_untouched_pace_is_more_generous(void **state) {
  (void)state;
  struct wane__pace_input in = {
      .live_bytes = 100 * MIB, .percent = 100, .limit_bytes = NO_LIMIT};
  assert_int_equal(wane__pace(&in).growth_bytes, 125 * MIB);
  in.live_bytes = 1000 * MIB;
  assert_int_equal(wane__pace(&in).growth_bytes, 1064 * MIB);
  in.limit_bytes = 1500 * MIB;
  assert_int_equal(wane__pace(&in).growth_bytes, 500 * MIB);
}

static void each_allocating_thread_raises_the_minimum(void **state) {
  (void)state;
  struct wane__pace_input in = {.is_percent_set = true,
                                .percent = 100,
                                .threads = 1,
                                .limit_bytes = NO_LIMIT};
  uint64_t one = wane__pace(&in).growth_bytes;
  in.threads = 3;
  assert_int_equal(wane__pace(&in).growth_bytes, 3 * one);
}

static void small_heaps_grow_by_a_minimum(void **state) {
  (void)state;
  uint64_t empty = pace(0, 100, NO_LIMIT).growth_bytes;
  assert_true(empty >= MIB);
  assert_int_equal(pace(1000, 100, NO_LIMIT).growth_bytes, empty);
}

static void each_allocating_thread_has_its_minimum(void **state) {
  (void)state;
  struct wane__pace_input in = {.threads = 1,
                                .is_percent_set = true,
                                .percent = 100,
                                .limit_bytes = NO_LIMIT};
  uint64_t one = wane__pace(&in).growth_bytes;
  in.threads = 4;
  assert_int_equal(wane__pace(&in).growth_bytes, 4 * one);
  in.live_bytes = 1000 * MIB;
  assert_int_equal(wane__pace(&in).growth_bytes, 1000 * MIB);
}

/* Half as much again, and no more than a fixed amount. */
static void without_a_percentage_small_heaps_grow_more(void **state) {
  (void)state;
  for (uint64_t live = 8; live < 10000; live *= 2) {
    struct wane__pace_input in = {.live_bytes = live * MIB,
                                  .threads = 1,
                                  .percent = 100,
                                  .limit_bytes = NO_LIMIT};
    uint64_t growth = wane__pace(&in).growth_bytes;
    assert_in_range(growth, live * MIB, live * MIB * 3 / 2);
    assert_in_range(growth - live * MIB, 1, 100 * MIB);
  }
}

static void percent_0_is_1_and_negative_is_never(void **state) {
  (void)state;
  assert_int_equal(pace(500 * MIB, 0, NO_LIMIT).growth_bytes,
                   pace(500 * MIB, 1, NO_LIMIT).growth_bytes);
  assert_true(pace(500 * MIB, -1, NO_LIMIT).growth_bytes == UINT64_MAX);
}

static void a_limit_lowers_the_growth(void **state) {
  (void)state;
  struct wane__pace_output out = pace(100 * MIB, 100, 150 * MIB);
  assert_true(out.by_limit);
  assert_in_range(out.growth_bytes, 50 * MIB, 50 * MIB);
  out = pace(100 * MIB, -1, 150 * MIB);
  assert_true(out.by_limit);
  assert_in_range(out.growth_bytes, 50 * MIB, 50 * MIB);
  out = pace(100 * MIB, 100, 1000 * MIB);
  assert_false(out.by_limit);
  assert_int_equal(out.growth_bytes, 100 * MIB);
}

/* A live heap at or above the limit still has room to run in. */
static void at_the_limit_some_growth_is_left(void **state) {
  (void)state;
  for (uint64_t live = 90; live < 1000; live += 30) {
    struct wane__pace_output out = pace(live * MIB, 100, 100 * MIB);
    assert_true(out.by_limit);
    assert_true(out.growth_bytes >= live * MIB / 20);
    assert_true(out.growth_bytes <= live * MIB / 4);
  }
}

static void overhead_counts_against_the_limit(void **state) {
  (void)state;
  struct wane__pace_input in = {.live_bytes = 100 * MIB,
                                .threads = 1,
                                .overhead_bytes = 20 * MIB,
                                .percent = 100,
                                .limit_bytes = 160 * MIB};
  assert_int_equal(wane__pace(&in).growth_bytes, 40 * MIB);
}

static void extreme_numbers_do_not_overflow(void **state) {
  (void)state;
  uint64_t huge = (uint64_t)1 << 45;
  assert_true(pace(huge, 1000000, NO_LIMIT).growth_bytes >= huge);
  assert_true(pace(huge, 100, 1).growth_bytes >= MIB);
  assert_true(pace(0, 100, 1).growth_bytes >= MIB);
}

/* ---- Mapped files and adopted pages ---- */

static struct wane__pace_outside_input outside_of(uint64_t live) {
  return (struct wane__pace_outside_input){.live = live,
                                           .blocks_left = 1u << 25,
                                           .maps_max = 65530,
                                           .percent = 100,
                                           .limit_bytes = NO_LIMIT};
}

/* As many as live, if these are many; more, where a cycle is dear. */
static void mappings_may_double(void **state) {
  (void)state;
  struct wane__pace_outside_input in = outside_of(5000);
  assert_int_equal(wane__pace_outside(&in).count, 5000);
  in.percent = 50;
  assert_int_equal(wane__pace_outside(&in).count, 2500);
  in = outside_of(0);
  uint64_t small = wane__pace_outside(&in).count;
  assert_in_range(small, 256, 4096);
  in.heap_bytes = 256 * MIB;
  assert_true(wane__pace_outside(&in).count >= small + 1000);
}

/* Whatever lives, what lives and may come and what died of as many before it
   stays below the limit on mappings; and something may always come. */
static void mappings_stay_below_the_limit(void **state) {
  (void)state;
  for (uint64_t live = 0; live < 30000; live += 100) {
    struct wane__pace_outside_input in = outside_of(live);
    in.heap_bytes = 100000 * MIB;
    uint64_t count = wane__pace_outside(&in).count;
    assert_true(count >= 256);
    assert_true(live + 2 * count <= 36000);
    in.percent = -1; /* no cycles, but those that a limit asks for */
    assert_true(live + 2 * wane__pace_outside(&in).count <= 36000);
  }
}

static void addresses_may_take_a_part_of_what_is_left(void **state) {
  (void)state;
  struct wane__pace_outside_input in = outside_of(0);
  assert_in_range(wane__pace_outside(&in).blocks, 1u << 20, 1u << 24);
  in.blocks_left = 0;
  assert_true(wane__pace_outside(&in).blocks != 0);
}

/* Adopted bytes as if they were heap, within the memory limit. */
static void adopted_bytes_count_as_heap(void **state) {
  (void)state;
  struct wane__pace_outside_input in = outside_of(10);
  in.adopted_bytes = 500 * MIB;
  in.heap_bytes = 100 * MIB;
  assert_int_equal(wane__pace_outside(&in).adopted_bytes, 600 * MIB);
  in.limit_bytes = 800 * MIB;
  assert_int_equal(wane__pace_outside(&in).adopted_bytes, 100 * MIB);
  in.limit_bytes = 300 * MIB;
  assert_in_range(wane__pace_outside(&in).adopted_bytes, MIB, 50 * MIB);
  in.limit_bytes = NO_LIMIT;
  in.percent = -1;
  assert_true(wane__pace_outside(&in).adopted_bytes == UINT64_MAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mappings_may_double),
      cmocka_unit_test(mappings_stay_below_the_limit),
      cmocka_unit_test(addresses_may_take_a_part_of_what_is_left),
      cmocka_unit_test(adopted_bytes_count_as_heap),
      cmocka_unit_test(growth_is_a_percentage_of_what_lives),
      cmocka_unit_test(an_untouched_pace_is_more_generous),
      cmocka_unit_test(each_allocating_thread_raises_the_minimum),
      cmocka_unit_test(small_heaps_grow_by_a_minimum),
      cmocka_unit_test(each_allocating_thread_has_its_minimum),
      cmocka_unit_test(without_a_percentage_small_heaps_grow_more),
      cmocka_unit_test(percent_0_is_1_and_negative_is_never),
      cmocka_unit_test(a_limit_lowers_the_growth),
      cmocka_unit_test(at_the_limit_some_growth_is_left),
      cmocka_unit_test(overhead_counts_against_the_limit),
      cmocka_unit_test(extreme_numbers_do_not_overflow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
