/* wane_pin, wane_add_root and their opposites: what they keep, and the
   mistakes that are fatal. API.md, D16. */
#include "support/child.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define MANY 500

static void *make_pinned(size_t idx) {
  char *object = wane_alloc(64);
  wane_pin(object + idx % 64);
  return object;
}

static void pinned_objects_live_until_unpinned(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_pinned);
  assert_alive(hidden, MANY);
  for (size_t i = 0; i < MANY; i++) {
    wane_unpin(test_reveal(hidden[i]));
  }
  assert_dead(hidden, MANY);
}

/* Counted, whichever pointers into the object were used. */
static void pins_are_counted(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_pinned);
  for (size_t i = 0; i < MANY; i++) {
    wane_pin((char *)test_reveal(hidden[i]) + 1);
    wane_pin((char *)test_reveal(hidden[i]) + 63);
  }
  for (int left = 2; left >= 0; left--) {
    assert_alive(hidden, MANY);
    for (size_t i = 0; i < MANY; i++) {
      wane_unpin((char *)test_reveal(hidden[i]) + 7);
    }
  }
  assert_dead(hidden, MANY);
}

static void *make_pinned_holder(size_t idx) {
  void **holder = wane_alloc(64);
  holder[idx % 8] = wane_alloc(64);
  wane_pin(holder);
  return holder[idx % 8];
}

static void what_pinned_objects_reach_lives(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_pinned_holder);
  assert_alive(hidden, MANY);
}

/* A million pins, one after the other, leave nothing behind. */
static void pinning_and_unpinning_goes_on_for_ever(void **state) {
  (void)state;
  for (int i = 0; i < 300000; i++) {
    void *object = wane_alloc(16 + (size_t)i % 200);
    wane_pin(object);
    wane_unpin(object);
  }
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, test_make_small);
  assert_dead(hidden, MANY);
}

static void *pin_in_thread(void *arg) {
  uintptr_t *hidden = arg;
  for (size_t i = 0; i < MANY; i++) {
    char *object = wane_alloc(48);
    wane_pin(object);
    hidden[i] = test_hide(object);
    if (i % 3 == 0) {
      wane_unpin(object);
      hidden[i] = 0;
    }
  }
  return NULL;
}

static void threads_pin_at_once(void **state) {
  (void)state;
  static uintptr_t hidden[4][MANY];
  pthread_t threads[4];
  for (size_t t = 0; t < 4; t++) {
    pthread_create(&threads[t], NULL, pin_in_thread, hidden[t]);
  }
  for (size_t t = 0; t < 4; t++) {
    pthread_join(threads[t], NULL);
  }
  wane_collect();
  for (size_t t = 0; t < 4; t++) {
    for (size_t i = 0; i < MANY; i++) {
      void *object = test_reveal(hidden[t][i]);
      if (hidden[t][i] != 0) {
        assert_ptr_equal(wane_base(object), object);
        wane_unpin(object);
      }
    }
  }
}

static void **table; /* unmanaged */

static void *make_in_table(size_t idx) { return table[idx] = wane_alloc(64); }

static void check_table(void) {
  static uintptr_t hidden[MANY];
  test_make_hidden(hidden, MANY, make_in_table);
  assert_dead(hidden, MANY); /* malloc and mmap are no roots */
  wane_add_root(table, MANY * sizeof *table);
  test_make_hidden(hidden, MANY, make_in_table);
  assert_alive(hidden, MANY);
  wane_remove_root(table);
  assert_dead(hidden, MANY);
}

static void added_roots_keep_alive_until_removed(void **state) {
  (void)state;
  table = malloc(MANY * sizeof *table);
  check_table();
  free(table);
  table = mmap(NULL, MANY * sizeof *table, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_table();
  munmap(table, MANY * sizeof *table);
}

static char *odd_roots; /* one of 24 bytes in each 32 */

static void *make_in_odd_root(size_t idx) {
  void *object = wane_alloc(64);
  memcpy(odd_roots + 32 * idx + 8, &object, sizeof object);
  return object;
}

/* Also those that begin and end within words. */
static void many_small_roots_keep_alive(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  odd_roots = malloc(MANY * 32);
  for (size_t i = 0; i < MANY; i++) {
    wane_add_root(odd_roots + 32 * i + 3, 24);
  }
  test_make_hidden(hidden, MANY, make_in_odd_root);
  assert_alive(hidden, MANY);
  for (size_t i = 0; i < MANY; i++) {
    wane_remove_root(odd_roots + 32 * i + 3);
  }
  assert_dead(hidden, MANY);
  free(odd_roots);
}

static void roots_of_size_0_hold_nothing(void **state) {
  (void)state;
  static char memory[64];
  wane_add_root(memory, 0);
  wane_collect();
  wane_remove_root(memory);
}

static void touching_roots_do_not_overlap(void **state) {
  (void)state;
  char *memory = calloc(1, 96);
  wane_add_root(memory + 32, 32);
  wane_add_root(memory, 32);
  wane_add_root(memory + 64, 32);
  wane_remove_root(memory + 32);
  wane_add_root(memory + 32, 32);
  wane_remove_root(memory);
  wane_remove_root(memory + 32);
  wane_remove_root(memory + 64);
  free(memory);
}

static void pin_it(void *ptr) { wane_pin(ptr); }
static void unpin_it(void *ptr) { wane_unpin(ptr); }

static void unpin_twice(void *ptr) {
  wane_pin(ptr);
  wane_pin((char *)ptr + 1);
  wane_unpin(ptr);
  wane_unpin(ptr);
  wane_unpin(ptr);
}

static void mistaken_pins_are_fatal(void **state) {
  (void)state;
  static char data[64];
  char *object = wane_alloc(64);
  test_assert_fatal("wane_pin", pin_it, NULL);
  test_assert_fatal("wane_pin", pin_it, data);
  test_assert_fatal("wane_pin", pin_it, &object);
  test_assert_fatal("wane_pin", pin_it, (void *)1);
  test_assert_fatal("wane_unpin", unpin_it, NULL);
  test_assert_fatal("wane_unpin", unpin_it, data);
  test_assert_fatal("wane_unpin", unpin_it, object);
  test_assert_fatal("wane_unpin", unpin_twice, object);
}

struct root_call {
  void *start;
  size_t size;
};

static void add_root(void *arg) {
  const struct root_call *call = arg;
  wane_add_root(call->start, call->size);
}

static void remove_root(void *start) { wane_remove_root(start); }

static void mistaken_roots_are_fatal(void **state) {
  (void)state;
  char *memory = calloc(1, 256);
  char *object = wane_alloc(64);
  wane_add_root(memory + 64, 64);
  const struct root_call wrong[] = {
      {NULL, 8},        {memory, SIZE_MAX}, {memory + 64, 64},
      {memory + 64, 0}, {memory + 60, 8},   {memory + 120, 80},
      {memory + 70, 1}, {memory, 256},      {object, 16},
      {object - 8, 16}, {memory + 64, 8},   {memory, SIZE_MAX - 7},
  };
  for (size_t i = 0; i < TEST_COUNT(wrong); i++) {
    test_assert_fatal("wane_add_root", add_root, (void *)&wrong[i]);
  }
  test_assert_fatal("wane_remove_root", remove_root, NULL);
  test_assert_fatal("wane_remove_root", remove_root, memory);
  test_assert_fatal("wane_remove_root", remove_root, memory + 65);
  wane_remove_root(memory + 64);
  test_assert_fatal("wane_remove_root", remove_root, memory + 64);
  free(memory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pinned_objects_live_until_unpinned),
      cmocka_unit_test(pins_are_counted),
      cmocka_unit_test(what_pinned_objects_reach_lives),
      cmocka_unit_test(pinning_and_unpinning_goes_on_for_ever),
      cmocka_unit_test(threads_pin_at_once),
      cmocka_unit_test(added_roots_keep_alive_until_removed),
      cmocka_unit_test(many_small_roots_keep_alive),
      cmocka_unit_test(roots_of_size_0_hold_nothing),
      cmocka_unit_test(touching_roots_do_not_overlap),
      cmocka_unit_test(mistaken_pins_are_fatal),
      cmocka_unit_test(mistaken_roots_are_fatal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
