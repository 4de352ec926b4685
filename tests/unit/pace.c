/* collect/pace: how much may be allocated until the next cycle, and while it
   marks beside the program. D19. model/pace puts these together. */
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

static void a_system_short_of_memory_gets_half_of_the_growth(void **state) {
  (void)state;
  struct wane__pace_input in = {.live_bytes = 100 * MIB,
                                .threads = 1,
                                .is_percent_set = true,
                                .percent = 100,
                                .limit_bytes = NO_LIMIT,
                                .is_pressed = true};
  assert_int_equal(wane__pace(&in).growth_bytes, 50 * MIB);
  in.percent = -1;
  assert_true(wane__pace(&in).growth_bytes == UINT64_MAX);
}

/* ---- Marking beside the program ---- */

static uint64_t growth_after(uint64_t live, uint64_t last_live,
                             uint64_t beside) {
  struct wane__pace_input in = {.live_bytes = live * MIB,
                                .last_live_bytes = last_live * MIB,
                                .beside_bytes = beside * MIB,
                                .threads = 1,
                                .is_percent_set = true,
                                .percent = 100,
                                .limit_bytes = NO_LIMIT};
  return wane__pace(&in).growth_bytes / MIB;
}

/* By how much more lives than before, between an eighth and a half of what was
   allocated beside the cycle. */
static void what_floats_does_not_raise_the_goal(void **state) {
  (void)state;
  assert_int_equal(growth_after(100, 100, 0), 100);
  assert_int_equal(growth_after(100, 50, 0), 100);
  assert_int_equal(growth_after(100, 100, 40), 95);
  assert_int_equal(growth_after(100, 300, 40), 95);
  assert_int_equal(growth_after(100, 90, 40), 90);
  assert_int_equal(growth_after(100, 10, 40), 80);
  assert_int_equal(growth_after(100, 0, 1000), 50);
  assert_int_equal(growth_after(0, 0, 1000), growth_after(0, 0, 0));
}

/* A quarter before it would have to, and so that half of the growth is run
   without a cycle. */
static void a_cycle_begins_early_enough(void **state) {
  (void)state;
  assert_int_equal(wane__pace_trigger(100 * MIB, 0), 100 * MIB);
  assert_int_equal(wane__pace_trigger(100 * MIB, 8 * MIB), 90 * MIB);
  assert_int_equal(wane__pace_trigger(100 * MIB, 1), 95 * MIB);
  assert_int_equal(wane__pace_trigger(100 * MIB, 60 * MIB), 50 * MIB);
  assert_int_equal(wane__pace_trigger(100 * MIB, (uint64_t)1 << 50), 50 * MIB);
  assert_true(wane__pace_trigger(UINT64_MAX, 60 * MIB) == UINT64_MAX);
  assert_int_equal(wane__pace_trigger(0, 60 * MIB), 0);
}

/* At once when it is more than was thought, slowly when it is less. */
static void what_is_allocated_beside_a_cycle_is_learned(void **state) {
  (void)state;
  struct wane__pace_last last = {
      .guess_bytes = 40 * MIB, .beside_bytes = 60 * MIB, .beside_ns = 10000000};
  assert_int_equal(wane__pace_beside(&last), 60 * MIB);
  last.beside_bytes = 20 * MIB;
  assert_int_equal(wane__pace_beside(&last), 35 * MIB);
  /* threads had to wait: the pace before tells what they wanted */
  last.before_bytes = 100 * MIB;
  last.before_ns = 10000000;
  assert_int_equal(wane__pace_beside(&last), 100 * MIB);
  last = (struct wane__pace_last){0};
  assert_int_equal(wane__pace_beside(&last), 0);
}

static uint64_t allowance(uint64_t used, uint64_t marked, bool is_ending) {
  struct wane__pace_marking in = {.used_bytes = used * MIB,
                                  .goal_bytes = 1600 * MIB,
                                  .expected_bytes = 800 * MIB,
                                  .marked_bytes = marked * MIB,
                                  .is_ending = is_ending};
  return wane__pace_allowance(&in) / MIB;
}

/* Half of the room at once, the rest with what is marked; and a sixteenth of
   the goal more where more is found than was expected, or at the end. */
static void what_may_be_allocated_grows_with_what_is_marked(void **state) {
  (void)state;
  assert_int_equal(allowance(1400, 0, false), 100);
  assert_int_equal(allowance(1400, 400, false), 150);
  assert_int_equal(allowance(1400, 800, false), 200);
  assert_int_equal(allowance(1400, 1100, false), 250);
  assert_int_equal(allowance(1400, 1400, false), 300);
  assert_int_equal(allowance(1400, 5000, false), 300);
  assert_int_equal(allowance(1400, 800, true), 300);
  for (uint64_t marked = 0; marked < 2000; marked++) {
    assert_true(allowance(1400, marked + 1, false) >=
                allowance(1400, marked, false));
  }
}

/* A cycle that begins late lets the program go on all the same; and the heap
   stays below 1.1 times the goal. */
static void a_late_cycle_has_some_room(void **state) {
  (void)state;
  for (uint64_t used = 1000; used <= 1625; used++) {
    assert_true(allowance(used, 0, false) >= 12);
    assert_true(used + allowance(used, 5000, true) <= 1760);
  }
}

static void marking_without_a_goal_does_not_overflow(void **state) {
  (void)state;
  struct wane__pace_marking in = {.used_bytes = 100 * MIB,
                                  .goal_bytes = UINT64_MAX / 2};
  for (int is_ending = 0; is_ending < 2; is_ending++) {
    in.is_ending = is_ending != 0;
    assert_in_range(wane__pace_allowance(&in), (uint64_t)1 << 60,
                    UINT64_MAX - 100 * MIB);
  }
  in = (struct wane__pace_marking){0};
  assert_int_equal(wane__pace_allowance(&in), 0);
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
      cmocka_unit_test(small_heaps_grow_by_a_minimum),
      cmocka_unit_test(each_allocating_thread_has_its_minimum),
      cmocka_unit_test(without_a_percentage_small_heaps_grow_more),
      cmocka_unit_test(percent_0_is_1_and_negative_is_never),
      cmocka_unit_test(a_limit_lowers_the_growth),
      cmocka_unit_test(at_the_limit_some_growth_is_left),
      cmocka_unit_test(overhead_counts_against_the_limit),
      cmocka_unit_test(extreme_numbers_do_not_overflow),
      cmocka_unit_test(a_system_short_of_memory_gets_half_of_the_growth),
      cmocka_unit_test(what_floats_does_not_raise_the_goal),
      cmocka_unit_test(a_cycle_begins_early_enough),
      cmocka_unit_test(what_is_allocated_beside_a_cycle_is_learned),
      cmocka_unit_test(what_may_be_allocated_grows_with_what_is_marked),
      cmocka_unit_test(a_late_cycle_has_some_room),
      cmocka_unit_test(marking_without_a_goal_does_not_overflow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
