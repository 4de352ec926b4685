/* wane_base and wane_size: any value may be asked about. API.md, D16. */
#include "support/test.h"

#include <pthread.h>
#include <sys/mman.h>

static void assert_unknown(const void *ptr) {
  assert_null(wane_base(ptr));
  assert_int_equal(wane_size(ptr), 0);
}

static void interior_pointers_lead_to_the_start(void **state) {
  (void)state;
  static const size_t sizes[] = {1,    16,   17,    100,   1000,  1168,   4096,
                                 5000, 9000, 32768, 32769, 65536, 1 << 20};
  for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
    char *object =
        s % 2 == 0 ? wane_alloc(sizes[s]) : wane_alloc_leaf(sizes[s]);
    size_t usable = wane_size(object);
    assert_true(usable >= sizes[s]);
    for (size_t at = 0; at < usable; at += 1 + usable / 300) {
      assert_ptr_equal(wane_base(object + at), object);
      assert_int_equal(wane_size(object + at), usable);
    }
    assert_ptr_equal(wane_base(object + usable - 1), object);
    assert_ptr_not_equal(wane_base(object + usable), object);
    memset(object, 0x77, usable); /* all of it may be used */
  }
}

static void foreign_addresses_are_unknown(void **state) {
  (void)state;
  static int data;
  int local = 0;
  char *foreign = malloc(1000);
  char *mapped = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_unknown(NULL);
  assert_unknown(&data);
  assert_unknown(&local);
  assert_unknown(foreign);
  assert_unknown(mapped);
  assert_unknown(mapped + 65535);
  assert_unknown((void *)1);
  assert_unknown((void *)UINTPTR_MAX);
  assert_unknown((void *)(UINTPTR_MAX / 2));
  assert_unknown((void *)((uintptr_t)1 << 63));
  assert_unknown((void *)(uintptr_t)foreign_addresses_are_unknown);
  munmap(mapped, 65536);
  free(foreign);
}

/* Every address around the heap, used or not: an answer, and one that holds
   the address. */
static void any_address_of_the_heap_may_be_asked_about(void **state) {
  (void)state;
  char *object = wane_alloc(64);
  wane_collect();
  uintptr_t around = (uintptr_t)object & ~(uintptr_t)((1 << 21) - 1);
  for (intptr_t at = -(1 << 21); at < 1 << 23; at += 89) {
    const char *ptr = (const char *)(around + (uintptr_t)at);
    const char *base = wane_base(ptr);
    size_t size = wane_size(ptr);
    if (base == NULL) {
      assert_int_equal(size, 0);
    } else {
      assert_true(base <= ptr && ptr < base + size);
    }
  }
  wane_keep_alive(object);
}

static void dead_objects_are_unknown(void **state) {
  (void)state;
  static uintptr_t hidden[500];
  test_make_hidden(hidden, 500, test_make_small);
  assert_dead(hidden, 500);
  size_t known = 0;
  for (size_t i = 0; i < 500; i++) {
    known += wane_size(test_reveal(hidden[i])) != 0;
  }
  assert_in_range(known, 0, 12);
}

static void *make_large(size_t idx) {
  return wane_alloc(idx % 2 == 0 ? 40000 : 300000);
}

static void dead_large_objects_are_unknown(void **state) {
  (void)state;
  static uintptr_t hidden[100];
  test_make_hidden(hidden, 100, make_large);
  assert_dead(hidden, 100);
}

static void *ask_other_thread(void *arg) {
  require(wane_base(arg) == arg);
  require(wane_base((char *)arg + 5) == arg);
  require(wane_size(arg) >= 64);
  return NULL;
}

static void other_threads_objects_are_known(void **state) {
  (void)state;
  char *object = wane_alloc(64);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, ask_other_thread, object), 0);
  pthread_join(thread, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(interior_pointers_lead_to_the_start),
      cmocka_unit_test(foreign_addresses_are_unknown),
      cmocka_unit_test(any_address_of_the_heap_may_be_asked_about),
      cmocka_unit_test(dead_objects_are_unknown),
      cmocka_unit_test(dead_large_objects_are_unknown),
      cmocka_unit_test(other_threads_objects_are_known),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
