/*
 * The Nth system call fails, for every N, once or from there on: allocations
 * succeed or give NULL with ENOMEM, nothing crashes, what was allocated stays
 * whole. Each N is a process of its own (WANE_OPTIONS=fault=N).
 */
#include "support/child.h"

#include <pthread.h>

#define SLOTS 64

struct item {
  struct item *next;
  size_t size;
  uint64_t words[];
};
WANE_TYPE(item_type, struct item, next);

TEST_ROOT struct item *items[SLOTS];
static size_t refused;

/* Counted, and never anything but ENOMEM. */
static void *checked(void *ptr) {
  if (ptr == NULL) {
    require(errno == ENOMEM);
    refused++;
  }
  errno = 0;
  return ptr;
}

static void item_check(const struct item *item) {
  for (int count = 0; item != NULL && count < 100; count++) {
    for (size_t i = 0; i < item->size; i++) {
      require(item->words[i] == ~(item->size * 31 + i));
    }
    item = item->next;
  }
}

static void item_add(struct test_random *random) {
  size_t slot = test_below(random, SLOTS);
  size_t words = test_below(random, 40) == 0 ? test_below(random, 20000)
                                             : test_below(random, 60);
  size_t bytes = sizeof(struct item) + words * sizeof(uint64_t);
  bool typed = test_below(random, 4) == 0;
  if (typed) {
    words = 0;
  }
  errno = 0;
  struct item *item =
      checked(typed ? wane_alloc_typed(&item_type, 1) : wane_alloc(bytes));
  if (item == NULL) {
    return;
  }
  require(item->next == NULL && item->size == 0);
  item->size = words;
  for (size_t i = 0; i < words; i++) {
    require(item->words[i] == 0);
    item->words[i] = ~(words * 31 + i);
  }
  item->next = test_below(random, 30) == 0 ? NULL : items[slot];
  items[slot] = item;
  if (!typed && test_below(random, 10) == 0) {
    size_t old = wane_size(item);
    unsigned char *larger = checked(wane_realloc(item, old + 100));
    item_check(larger != NULL ? (void *)larger : item);
  }
}

static void *allocate(void *arg) {
  struct test_random random = {(uintptr_t)arg + 1};
  for (int i = 0; i < 4000; i++) {
    item_add(&random);
    if (i % 1000 == 0) {
      wane_collect();
    }
  }
  for (size_t s = 0; s < SLOTS; s++) {
    item_check(items[s]);
  }
  return NULL;
}

/* arg: "1" if all later calls fail too, so that nothing recovers. */
static void use_everything(const char *arg) {
  bool recovers = arg[0] != '1';
  (void)allocate(NULL);
  pthread_t thread;
  int error = pthread_create(&thread, NULL, allocate, (void *)1);
  require(error == 0 || error == EAGAIN);
  if (error == 0) {
    pthread_join(thread, NULL);
  }
  struct wane_stats stats = test_stats();
  require(stats.size == sizeof stats);
  if (recovers) { /* one failure is got over, at the latest now */
    refused = 0;
    void *ptr = NULL;
    for (int i = 0; i < 3 && ptr == NULL; i++) {
      ptr = wane_alloc(100000);
    }
    require(ptr != NULL);
    require(wane_strdup("text") != NULL || wane_strdup("text") != NULL);
    wane_collect();
  }
  for (size_t s = 0; s < SLOTS; s++) {
    item_check(items[s]);
  }
}

/* From main(), before which the constructor has tried to start. */
static void use_pins_and_roots(const char *arg) {
  static uint64_t words[100];
  (void)arg;
  for (int i = 0; i < 300; i++) {
    void *object = checked(wane_alloc(64));
    if (object != NULL) {
      wane_pin(object);
    }
    if (i < 100) {
      wane_add_root(&words[i], sizeof words[i]);
    }
  }
  wane_collect();
}

static void fail_nth(int nth, int more, const char *role) {
  char options[128];
  char what[200];
  struct test_child child;
  snprintf(options, sizeof options, "fault=%d,fault_more=%d,background=%d", nth,
           more, nth % 2);
  snprintf(what, sizeof what, "%s with %s", role, options);
  test_exec(role, more ? "1" : "0", options, &child);
  bool fatal_record = strstr(child.text, "out of memory for the") != NULL;
  if (strcmp(role, "pins") != 0 || !fatal_record) {
    test_assert_exit_0(&child, what);
  }
}

#define NTH_MAX 60

static void one_failing_call_is_got_over(void **state) {
  (void)state;
  for (int nth = 1; nth <= NTH_MAX; nth++) {
    fail_nth(nth, 0, "everything");
  }
}

static void calls_that_go_on_failing_are_survived(void **state) {
  (void)state;
  for (int nth = 1; nth <= NTH_MAX; nth++) {
    fail_nth(nth, 1, "everything");
  }
}

/* wane_pin and wane_add_root cannot say so: fatal, with their line. */
static void pins_and_roots_work_or_say_why_not(void **state) {
  (void)state;
  for (int nth = 1; nth <= 30; nth++) {
    fail_nth(nth, nth % 2, "pins");
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"everything", use_everything},
      {"pins", use_pins_and_roots},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_failing_call_is_got_over),
      cmocka_unit_test(calls_that_go_on_failing_are_survived),
      cmocka_unit_test(pins_and_roots_work_or_say_why_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
