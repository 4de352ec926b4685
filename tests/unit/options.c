/* base/options: the parser, fed with right and wrong strings. What the
   library prints is in api/options.c. */
#include "support/child.h"

#include <unistd.h>

#include "base/options.h"

/* Parses in a child, whose stderr must not disturb; returns by exit. */
struct parse {
  const char *text;
  int64_t *value; /* in wane__options */
  int64_t expected;
};

static void parse(void *arg) {
  const struct parse *args = arg;
  setenv("WANE_OPTIONS", args->text, 1);
  errno = 321;
  wane__options_init();
  require(errno == 321);
  require(*args->value == args->expected);
}

#define FIELD(name) (&wane__options.name)

static void values_are_set_or_left(void **state) {
  (void)state;
  const struct parse cases[] = {
      {"gc_percent=250", FIELD(gc_percent), 250},
      {"gc_percent=-1", FIELD(gc_percent), -1},
      {"gc_percent=-2", FIELD(gc_percent), 100},
      {"gc_percent=0x10", FIELD(gc_percent), 100},
      {"gc_percent=", FIELD(gc_percent), 100},
      {"gc_percent", FIELD(gc_percent), 100},
      {"gc_percent=7,gc_percent=8", FIELD(gc_percent), 8},
      {"gc_percent=7,gc_percent=x", FIELD(gc_percent), 7},
      {"GC_PERCENT=7", FIELD(gc_percent), 100},
      {"gc_percen=7", FIELD(gc_percent), 100},
      {"gc_percentt=7", FIELD(gc_percent), 100},
      {",,gc_percent=9,", FIELD(gc_percent), 9},
      {"nothing=1,gc_percent=9", FIELD(gc_percent), 9},
      {"stress=alloc", FIELD(stress), 1},
      {"stress=alloc:17", FIELD(stress), 17},
      {"stress=17", FIELD(stress), 17},
      {"stress=alloc:", FIELD(stress), 0},
      {"stress=alloc:-3", FIELD(stress), 0},
      {"stress=allocs", FIELD(stress), 0},
      {"help=0", FIELD(help), 0},
      {"verify=1", FIELD(verify), 1},
      {"verify=9223372036854775808", FIELD(verify), 0},
      {"fault=9223372036854775807", FIELD(fault), INT64_MAX},
      {"reserve_mb=64", FIELD(reserve_mb), 64},
      {"idle_ms=100", FIELD(idle_ms), 100},
      {"idle_ms=99", FIELD(idle_ms), wane__options.idle_ms},
      {"background=0,huge_pages=0,poison=1", FIELD(poison), 1},
  };
  for (size_t i = 0; i < TEST_COUNT(cases); i++) {
    struct test_child child;
    test_fork(parse, (void *)&cases[i], &child);
    test_assert_exit_0(&child, cases[i].text);
  }
}

/* Each row's own default and bounds are accepted, and what is beyond not. */
static void bounds_hold_for_every_option(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t *value;
    int64_t initial;
    int64_t lowest;
    int64_t highest;
  } rows[] = {
#define ROW(name, initial, lowest, highest, meaning)                           \
  {#name, FIELD(name), initial, lowest, highest},
      WANE__OPTIONS(ROW)
#undef ROW
  };
  for (size_t i = 0; i < TEST_COUNT(rows); i++) {
    assert_in_range(rows[i].initial - rows[i].lowest, 0,
                    (uint64_t)rows[i].highest - (uint64_t)rows[i].lowest);
    for (int which = 0; which < 2; which++) {
      int64_t bound = which == 0 ? rows[i].lowest : rows[i].highest;
      char text[100];
      struct test_child child;
      struct parse args = {text, rows[i].value, bound};
      snprintf(text, sizeof text, "%s=%lld", rows[i].name, (long long)bound);
      test_fork(parse, &args, &child);
      test_assert_exit_0(&child, text);
      if (bound == INT64_MAX) {
        continue;
      }
      long long beyond = which == 0 ? bound - 1 : bound + 1;
      args.expected = *rows[i].value;
      snprintf(text, sizeof text, "%s=%lld", rows[i].name, beyond);
      test_fork(parse, &args, &child);
      test_assert_exit_0(&child, text);
    }
  }
}

static void the_default_values_stand(void **state) {
  (void)state;
#define DEFAULT(name, initial, lowest, highest, meaning)                       \
  assert_true(wane__options.name == (initial));
  WANE__OPTIONS(DEFAULT)
#undef DEFAULT
}

int main(int argc, char **argv) {
  (void)argc;
  if (getenv("WANE_OPTIONS") != NULL) { /* the constructor has read them */
    unsetenv("WANE_OPTIONS");
    execv("/proc/self/exe", argv);
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_default_values_stand),
      cmocka_unit_test(values_are_set_or_left),
      cmocka_unit_test(bounds_hold_for_every_option),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
