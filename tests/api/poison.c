/* poison=1: using memory that the collector took back is found out where it
   happens. DESIGN.md, "What keeps it right". */
/* no-variants */
#include "support/child.h"

#include <sys/wait.h>
#include <unistd.h>

#define MANY 300

static uintptr_t hidden[MANY];

static void *make(size_t idx) {
  size_t sizes[] = {16, 64, 500, 3000, 20000, 100000};
  return memset(wane_alloc(sizes[idx % TEST_COUNT(sizes)]), 0x31, 16);
}

__attribute__((no_sanitize("address"))) static bool is_intact(size_t i) {
  const uint64_t *object = test_reveal(hidden[i]);
  return object[0] == 0x3131313131313131 && object[1] == 0x3131313131313131;
}

static void freed_memory_is_filled(const char *arg) {
  (void)arg;
  test_make_hidden(hidden, MANY, make);
  size_t intact = MANY - test_survivors(hidden, MANY);
  require(intact >= MANY - MANY / 20);
  intact = 0;
  for (size_t i = 0; i < MANY; i++) {
    intact += is_intact(i);
  }
  require(intact <= MANY / 20);
}

static void use_after_collect(const char *arg) {
  (void)arg;
  test_make_hidden(hidden, MANY, make);
  (void)test_survivors(hidden, MANY);
  uint64_t sum = 0;
  for (size_t i = 0; i < MANY; i++) {
    sum += *(volatile uint64_t *)test_reveal(hidden[i]);
  }
  require(sum != 0);
}

/* Everything that lives, and what is allocated anew, may be used. */
static void use_what_lives(const char *arg) {
  (void)arg;
  for (int round = 0; round < 4; round++) {
    for (size_t i = 0; i < 3000; i++) {
      size_t size = i % 100 == 0 ? 50000 + i : i % 700;
      unsigned char *object =
          i % 2 == 0 ? wane_alloc(size) : wane_alloc_leaf(size);
      for (size_t b = 0; b < size; b++) {
        require(object[b] == 0);
      }
      memset(object, 0x99, wane_size(object));
      if (i % 10 == 0) {
        size_t old = wane_size(object);
        object = wane_realloc(object, old / 2);
        object = wane_realloc(object, old * 2);
        memset(object, 0x98, wane_size(object));
      }
    }
    wane_collect();
  }
}

static void poison_fills_what_is_freed(void **state) {
  (void)state;
  struct test_child child;
  test_exec("filled", "", "poison=1", &child);
  test_assert_exit_0(&child, "filled");
}

static void live_and_new_memory_is_usable(void **state) {
  (void)state;
  struct test_child child;
  test_exec("use_what_lives", "", "poison=1", &child);
  test_assert_exit_0(&child, "use_what_lives");
}

static void address_sanitizer_reports_use_after_collection(void **state) {
  (void)state;
  if (!TEST_ASAN) {
    skip();
  }
  struct test_child child;
  test_exec("use_after_collect", "", "poison=1", &child);
  assert_false(WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0);
  assert_non_null(strstr(child.text, "AddressSanitizer"));
  assert_non_null(strstr(child.text, "use_after_collect"));
}

/* Without the option the sanitizer's shadow is left alone. */
static void without_poison_nothing_is_reported(void **state) {
  (void)state;
  struct test_child child;
  test_exec("use_after_collect", "", NULL, &child);
  test_assert_exit_0(&child, "without poison");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"filled", freed_memory_is_filled},
      {"use_after_collect", use_after_collect},
      {"use_what_lives", use_what_lives},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(poison_fills_what_is_freed),
      cmocka_unit_test(live_and_new_memory_is_usable),
      cmocka_unit_test(address_sanitizer_reports_use_after_collection),
      cmocka_unit_test(without_poison_nothing_is_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
