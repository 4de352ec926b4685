/* WANE_OPTIONS: API.md, "Manner"; src/base/options.h has the table. */
/* no-variants */
#include "support/child.h"

#include <sys/wait.h>
#include <unistd.h>

static void use_heap(const char *arg) {
  (void)arg;
  for (int i = 0; i < 1000; i++) {
    require(wane_alloc(100) != NULL);
  }
  wane_collect();
  wane_collect();
}

/* How often text is in the output. */
static size_t occurrences(const struct test_child *child, const char *text) {
  size_t count = 0;
  for (const char *at = child->text; (at = strstr(at, text)) != NULL; at++) {
    count++;
  }
  return count;
}

static void run(const char *options, struct test_child *child) {
  test_exec("use_heap", "", options, child);
  test_assert_exit_0(child, options != NULL ? options : "no options");
}

static void without_options_nothing_is_said(void **state) {
  (void)state;
  struct test_child child;
  run(NULL, &child);
  assert_string_equal(child.text, "");
  run("", &child);
  assert_string_equal(child.text, "");
  run("gc_percent=50,mark_threads=2,verify=1,poison=1", &child);
  assert_string_equal(child.text, "");
}

static void unknown_keys_warn_and_change_nothing(void **state) {
  (void)state;
  struct test_child child;
  run("no_such_key=1", &child);
  assert_int_equal(occurrences(&child, "no_such_key"), 1);
  assert_int_equal(strncmp(child.text, "wane: ", 6), 0);
  run("no_such_key=1,trace=1,another", &child);
  assert_int_equal(occurrences(&child, "no_such_key"), 1);
  assert_int_equal(occurrences(&child, "another"), 1);
  assert_int_equal(occurrences(&child, "wane: gc "), 2);
}

static void bad_values_warn_and_change_nothing(void **state) {
  (void)state;
  static const char *const bad[] = {
      "trace=x",
      "trace=",
      "trace=2",
      "trace=-1",
      "trace=1x",
      "trace= ",
      "mark_threads=9999",
      "signal=65",
      "reserve_mb=1",
      "stress=-5",
      "gc_percent=-2",
      "stress=alloc:x",
      "trace",
      "trace=99999999999999999999",
      "mark_stack=1",
  };
  for (size_t i = 0; i < TEST_COUNT(bad); i++) {
    struct test_child child;
    char name[32];
    run(bad[i], &child);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(bad[i], "="), bad[i]);
    assert_int_equal(occurrences(&child, "wane: WANE_OPTIONS: "), 1);
    assert_int_equal(occurrences(&child, "\n"), 1);
    assert_non_null(strstr(child.text, name));
    assert_int_equal(occurrences(&child, "wane: gc "), 0);
  }
}

static void a_signal_that_is_not_real_time_warns(void **state) {
  (void)state;
  struct test_child child;
  run("signal=10", &child);
  assert_int_equal(occurrences(&child, "signal=10"), 1);
}

static void odd_strings_are_survived(void **state) {
  (void)state;
  static char overlong[5000];
  struct test_child child;
  memset(overlong, 'a', sizeof overlong - 1);
  run(overlong, &child);
  assert_int_equal(occurrences(&child, "\n"), 1);
  run(",,,", &child);
  run("=,=1,a=b=c", &child);
  run("trace=1,", &child);
  assert_int_equal(occurrences(&child, "wane: gc "), 2);
}

static const char *const names[] = {
    "help",       "trace",      "gc_percent", "mark_threads", "signal",
    "reserve_mb", "huge_pages", "background", "idle_ms",      "verify",
    "stress",     "poison",     "fault",      "mark_stack",   "dirty"};

static void help_lists_every_option_and_goes_on(void **state) {
  (void)state;
  struct test_child child;
  run("help=1", &child);
  for (size_t i = 0; i < TEST_COUNT(names); i++) {
    assert_non_null(strstr(child.text, names[i]));
  }
  assert_null(strstr(child.text, "| `"));
}

static void help_as_markdown_is_a_table(void **state) {
  (void)state;
  struct test_child child;
  run("help=markdown", &child);
  for (size_t i = 0; i < TEST_COUNT(names); i++) {
    char row[64];
    snprintf(row, sizeof row, "\n| `%s` |", names[i]);
    assert_int_equal(occurrences(&child, row), 1);
  }
  assert_int_equal(occurrences(&child, "\n| --- |"), 1);
}

/* And one about the tracker of written pages, before. */
static void trace_prints_a_line_for_each_cycle(void **state) {
  (void)state;
  struct test_child child;
  run("trace=1", &child);
  assert_int_equal(occurrences(&child, "wane: gc "), 2);
  assert_int_equal(occurrences(&child, "\n"), 3);
  assert_int_equal(strncmp(child.text, "wane: what is written", 21), 0);
  assert_non_null(strstr(child.text, "gc 1 @"));
  assert_non_null(strstr(child.text, "gc 2 @"));
  assert_int_equal(occurrences(&child, " forced"), 2);
}

static void stress_collects_at_every_nth_allocation(void **state) {
  (void)state;
  struct test_child child;
  run("stress=alloc:100,trace=1", &child);
  assert_in_range(occurrences(&child, "wane: gc "), 12, 13);
  run("stress=alloc:500,trace=1,background=0", &child);
  assert_in_range(occurrences(&child, "wane: gc "), 4, 5);
}

static void percent_is(const char *arg) {
  require(wane_set_gc_percent(100) == atoi(arg));
}

static void gc_percent_sets_the_start(void **state) {
  (void)state;
  static const char *const values[][2] = {{"gc_percent=37", "37"},
                                          {"gc_percent=-1", "-1"},
                                          {"gc_percent=0", "1"},
                                          {NULL, "100"}};
  for (size_t i = 0; i < TEST_COUNT(values); i++) {
    struct test_child child;
    test_exec("percent_is", values[i][1], values[i][0], &child);
    test_assert_exit_0(&child, values[i][0]);
  }
}

static void mark_threads_are(const char *arg) {
  wane_collect();
  require(test_stats().mark_threads == (uint64_t)atoi(arg));
}

static void mark_threads_sets_their_number(void **state) {
  (void)state;
  struct test_child child;
  test_exec("mark_threads_are", "1", "mark_threads=1", &child);
  test_assert_exit_0(&child, "mark_threads=1");
  test_exec("mark_threads_are", "3", "mark_threads=3", &child);
  test_assert_exit_0(&child, "mark_threads=3");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"use_heap", use_heap},
      {"percent_is", percent_is},
      {"mark_threads_are", mark_threads_are},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_options_nothing_is_said),
      cmocka_unit_test(unknown_keys_warn_and_change_nothing),
      cmocka_unit_test(bad_values_warn_and_change_nothing),
      cmocka_unit_test(a_signal_that_is_not_real_time_warns),
      cmocka_unit_test(odd_strings_are_survived),
      cmocka_unit_test(help_lists_every_option_and_goes_on),
      cmocka_unit_test(help_as_markdown_is_a_table),
      cmocka_unit_test(trace_prints_a_line_for_each_cycle),
      cmocka_unit_test(stress_collects_at_every_nth_allocation),
      cmocka_unit_test(gc_percent_sets_the_start),
      cmocka_unit_test(mark_threads_sets_their_number),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
