/* Uniques and interned strings. U1, D12. Threads that make the same at once
   are in stress/unique.c. */
/* timeout: 240 */
#include "support/lives.h"

#include <pthread.h>

#define MANY 300

static struct test_child child;
TEST_ROOT const void *kept[NOTES_MAX];
static wane_weak weak[NOTES_MAX];

static void forget_all(void) { memset(kept, 0, sizeof kept); }

static const void *make(const void *bytes, size_t size) {
  wane_unique u = wane_unique_make(bytes, size);
  require(u.ptr != NULL);
  return u.ptr;
}

static void require_unique(const void *ptr, const void *bytes, size_t size) {
  size_t got = 77;
  wane_unique u = {ptr};
  require((uintptr_t)ptr % 16 == 0 && wane_base(ptr) == ptr);
  require(wane_unique_value(u, &got) == ptr && got == size);
  require(wane_unique_value(u, NULL) == ptr);
  require(size == 0 || memcmp(ptr, bytes, size) == 0);
  require(make(bytes, size) == ptr);
}

/* ---- Equal if and only if the bytes are ---- */

/* All sizes, from aligned and other addresses. */
static void equal_bytes_give_one_pointer(void **state) {
  (void)state;
  static char bytes[5020];
  errno = 77;
  for (size_t size = 0; size <= 5000; size += size < 300 ? 1 : 37) {
    for (size_t i = 0; i < size; i++) {
      bytes[i] = (char)(i * 7 + size);
    }
    const void *first = make(bytes, size);
    require_unique(first, bytes, size);
    for (size_t shift = 1; shift < 18; shift += 4) {
      static char shifted[5020];
      memcpy(shifted + shift, bytes, size);
      assert_ptr_equal(make(shifted + shift, size), first);
    }
    kept[0] = first;
    wane_keep_alive(first);
  }
  assert_int_equal(errno, 77);
  forget_all();
}

static void any_other_byte_gives_another_pointer(void **state) {
  (void)state;
  static const size_t sizes[] = {1,  2,  3,  4,  5,  7,   8,   9,   15,
                                 16, 17, 23, 24, 31, 32,  33,  47,  48,
                                 49, 63, 64, 65, 99, 127, 128, 129, 256};
  char bytes[256];
  for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
    memset(bytes, 5, sizeof bytes);
    const void *plain = make(bytes, sizes[s]);
    for (size_t i = 0; i < sizes[s]; i++) {
      for (int bit = 0; bit < 8; bit += 3) {
        bytes[i] ^= (char)(1 << bit);
        const void *other = make(bytes, sizes[s]);
        assert_ptr_not_equal(other, plain);
        require_unique(other, bytes, sizes[s]);
        bytes[i] ^= (char)(1 << bit);
      }
    }
    require_unique(plain, bytes, sizes[s]);
  }
}

/* Of zeros only the size differs: in one class of sizes, too. */
static void sizes_count(void **state) {
  (void)state;
  static const char zeros[600];
  for (size_t size = 0; size < sizeof zeros; size++) {
    kept[size] = make(zeros, size);
    require_unique(kept[size], zeros, size);
    for (size_t other = 0; other < size; other++) {
      assert_ptr_not_equal(kept[size], kept[other]);
    }
  }
  wane_collect();
  for (size_t size = 0; size < sizeof zeros; size++) {
    require_unique(kept[size], zeros, size);
  }
  forget_all();
}

static void nothing_is_a_value(void **state) {
  (void)state;
  const void *nothing = make(NULL, 0);
  assert_ptr_equal(make("", 0), nothing);
  assert_ptr_equal(make("abc", 0), nothing);
  assert_ptr_not_equal(make("", 1), nothing);
  require_unique(nothing, NULL, 0);
  wane_keep_alive(nothing);
}

static void large_values_are_shared_too(void **state) {
  (void)state;
  static const size_t sizes[] = {16376, 16384, 32760, 32768, 100000, 5000001};
  for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
    char *bytes = malloc(sizes[s]);
    assert_non_null(bytes);
    memset(bytes, 3, sizes[s]);
    const void *first = make(bytes, sizes[s]);
    require_unique(first, bytes, sizes[s]);
    bytes[sizes[s] / 2]++;
    const void *second = make(bytes, sizes[s]);
    assert_ptr_not_equal(first, second);
    require_unique(second, bytes, sizes[s]);
    bytes[sizes[s] / 2]--;
    require_unique(first, bytes, sizes[s]);
    free(bytes);
  }
}

/* Go: TestHandle. Values of many shapes, equal while held. */
static void values_of_all_shapes(void **state) {
  (void)state;
  const int ints[4] = {7, 77, 777, 7777};
  const struct {
    double z;
    char b[8];
  } mixed = {0.5, "184"};
  const char *const strings[] = {"foo", "bar", "", "x"};
  for (int i = 0; i < 3; i++) {
    require_unique(make(ints, sizeof ints), ints, sizeof ints);
    require_unique(make(&mixed, sizeof mixed), &mixed, sizeof mixed);
    require_unique(make(strings, sizeof strings), strings, sizeof strings);
    for (size_t s = 0; s < TEST_COUNT(strings); s++) {
      require_unique(make(strings[s], strlen(strings[s])), strings[s],
                     strlen(strings[s]));
    }
    wane_collect();
  }
}

/* Go: TestHandleUnsafeString, TestMakeClonesStrings: the bytes are copied. */
static void the_source_does_not_matter_later(void **state) {
  (void)state;
  char buffer[32];
  for (size_t i = 0; i < 1024; i++) {
    int length = snprintf(buffer, sizeof buffer, "%zu", i);
    kept[i] = make(buffer, (size_t)length);
  }
  memset(buffer, 0, sizeof buffer);
  for (size_t i = 0; i < 1024; i++) {
    int length = snprintf(buffer, sizeof buffer, "%zu", i);
    require_unique(kept[i], buffer, (size_t)length);
  }
  forget_all();
}

static void with_copied(void *object, size_t idx) {
  *(size_t *)object = idx;
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
  kept[2 * idx] = make(object, 64);
  kept[2 * idx + 1] = wane_intern(object);
}

static void the_source_is_not_kept(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_copied);
  test_settle();
  assert_most(notes_total(), MANY);
  for (size_t i = 0; i < MANY; i++) {
    size_t bytes[8] = {i};
    require_unique(kept[2 * i], bytes, 64);
  }
  forget_all();
}

/* ---- What a unique holds ---- */

struct nested {
  const void *next;
  size_t numbers[6];
};

static void with_pointer(void *object, size_t idx) {
  struct nested value = {object, {idx}};
  weak[idx] = wane_weak_make(object);
  kept[idx] = make(&value, sizeof value);
}

/* D12: they are scanned. */
static void pointers_in_a_unique_keep_alive(void **state) {
  (void)state;
  test_make_with(MANY, NULL, with_pointer);
  for (int i = 0; i < 2; i++) {
    test_scrub();
    wane_collect();
    assert_int_equal(test_weak_alive(weak, MANY), MANY);
  }
  forget_all();
  test_scrub();
  wane_collect();
  assert_in_range(test_weak_alive(weak, MANY), 0, 2 + MANY / 50);
}

#define DEPTH 20

/* weak[]: of every handle of every chain. */
static void with_chain(void *object, size_t idx) {
  const void *next = NULL;
  (void)object;
  for (size_t i = 0; i < DEPTH; i++) {
    struct nested value = {next, {idx, i}};
    next = make(&value, sizeof value);
    weak[idx * DEPTH + i] = wane_weak_make(next);
    require(make(&value, sizeof value) == next);
  }
  kept[idx] = next;
}

static void require_chain(size_t idx) {
  const struct nested *at = kept[idx];
  for (size_t i = DEPTH; i-- > 0; at = at->next) {
    require(at->numbers[0] == idx && at->numbers[1] == i);
    require_unique(at, at, sizeof *at);
  }
  require(at == NULL);
}

/* U1. Go: TestNestedHandle (#71846): the whole chain after one collection. */
static void a_chain_is_gone_after_one_collection(void **state) {
  (void)state;
  test_make_with(MANY, NULL, with_chain);
  wane_collect();
  for (size_t i = 0; i < MANY; i++) {
    require_chain(i);
  }
  for (size_t i = 0; i < MANY; i += 2) {
    kept[i] = NULL;
  }
  test_settle();
  size_t half = MANY / 2 * DEPTH;
  assert_in_range(test_weak_alive(weak, MANY * DEPTH), half,
                  half + DEPTH * (2 + MANY / 50));
  for (size_t i = 1; i < MANY; i += 2) {
    require_chain(i);
  }
  forget_all();
  test_settle();
  assert_in_range(test_weak_alive(weak, MANY * DEPTH), 0,
                  DEPTH * (2 + MANY / 50));
  test_make_with(MANY, NULL, with_chain); /* and made again */
  for (size_t i = 0; i < MANY; i++) {
    require_chain(i);
  }
  forget_all();
}

/* Both of a string's address bytes and its end make a word that looks like a
   pointer; an interned string is a leaf. */
static size_t spelled;

static void with_spelled(void *object, size_t idx) {
  char bytes[sizeof object + 1] = {0};
  memcpy(bytes, &object, sizeof object);
  weak[idx] = wane_weak_make(object);
  if (strlen(bytes) == 6) {
    kept[idx] = wane_intern(bytes);
    require(memcmp(kept[idx], bytes, sizeof object - 1) == 0);
    spelled++;
  }
}

static void interned_strings_are_leaves(void **state) {
  (void)state;
  spelled = 0;
  test_make_with(MANY, NULL, with_spelled);
  assert_true(spelled > MANY / 2);
  test_scrub();
  wane_collect();
  assert_in_range(test_weak_alive(weak, MANY), 0, 2 + MANY / 50);
  forget_all();
}

static void equal_strings_are_one(void **state) {
  (void)state;
  errno = 77;
  for (size_t i = 0; i < 2000; i++) {
    char *text = wane_printf("%zu and more", i * i);
    kept[i] = wane_intern(text);
    assert_ptr_not_equal(kept[i], text);
    assert_ptr_equal(wane_base(kept[i]), kept[i]);
    assert_string_equal(kept[i], text);
    assert_ptr_equal(wane_intern(kept[i]), kept[i]);
  }
  wane_collect();
  for (size_t i = 0; i < 2000; i++) {
    char *text = wane_printf("%zu and more", i * i);
    assert_ptr_equal(wane_intern(text), kept[i]);
  }
  const char *nothing = wane_intern("");
  assert_ptr_equal(wane_intern("\0x"), nothing);
  assert_ptr_not_equal(wane_intern("x"), nothing);
  assert_int_equal(errno, 77);
  forget_all();
}

/* ---- Deaths ---- */

static void with_dropped(void *object, size_t idx) {
  size_t value[4] = {idx, 1};
  (void)object;
  const void *ptr = make(value, sizeof value);
  char text[40];
  snprintf(text, sizeof text, "dropped %zu", idx);
  const char *string = wane_intern(text);
  weak[2 * idx] = wane_weak_make(ptr);
  weak[2 * idx + 1] = wane_weak_make(string);
  if (idx % 4 == 0) {
    kept[idx] = ptr;
    kept[10000 + idx] = string;
  }
}

/* U1: held ones stay what they are; the others leave. */
static void what_is_dropped_leaves(void **state) {
  (void)state;
  size_t count = 2000;
  for (int round = 0; round < 3; round++) {
    test_make_with(count, NULL, with_dropped);
    test_scrub();
    wane_collect(); /* without a drain */
    size_t held = count / 2;
    assert_in_range(test_weak_alive(weak, 2 * count), held,
                    held + 2 + count / 25);
    for (size_t i = 0; i < count; i += 4) {
      size_t value[4] = {i, 1};
      require_unique(kept[i], value, sizeof value);
      require(wane_intern(kept[10000 + i]) == kept[10000 + i]);
    }
    if (round == 1) {
      forget_all();
    }
  }
  forget_all();
}

struct server {
  size_t first;
  size_t count;
};

/* Requests of a hot server: each value is used once and dropped. */
static void serve(void *arg) {
  const struct server *server = arg;
  for (size_t i = server->first; i < server->first + server->count; i++) {
    size_t value[3] = {i, ~i, 17};
    const void *ptr = make(value, sizeof value);
    require(((const size_t *)ptr)[1] == ~i);
    if (i % 16 == 0) {
      char text[32];
      snprintf(text, sizeof text, "request %zu", i);
      require(strcmp(wane_intern(text), text) == 0);
    }
  }
}

/* U1, #71772: no cycle is asked for, and still nothing grows. */
static void a_hot_server_does_not_grow(void **state) {
  (void)state;
  struct server server = {0, test_scaled(300000, 10000)};
  size_t resident = 0;
  uint64_t committed = 0;
  for (int i = 0; i < 10; i++) {
    test_apart(serve, &server);
    server.first += server.count;
    if (i == 2) {
      resident = test_resident_bytes();
      committed = test_stats().heap_committed_bytes;
    }
  }
  assert_in_range(test_stats().heap_committed_bytes, 0,
                  committed + committed / 2 + (8u << 20));
  if (!TEST_ASAN && !TEST_TSAN) {
    assert_in_range(test_resident_bytes(), 0,
                    resident + resident / 2 + (8u << 20));
  }
}

/* All at once: afterwards the table is as small as before. */
static void serve_held(void *arg) {
  const struct server *server = arg;
  const void **all = wane_new_array(const void *, server->count);
  for (size_t i = 0; i < server->count; i++) {
    size_t value[3] = {i, ~i, 18};
    all[i] = make(value, sizeof value);
  }
  wane_collect();
  for (size_t i = 0; i < server->count; i++) {
    size_t value[3] = {i, ~i, 18};
    require(make(value, sizeof value) == all[i]);
  }
  memset(all, 0, server->count * sizeof *all);
}

static void a_full_table_becomes_small_again(void **state) {
  (void)state;
  struct server server = {0, test_scaled(300000, 10000)};
  struct server few = {0, 200};
  uint64_t before = test_live_bytes();
  test_apart(serve_held, &server);
  for (int i = 0; i < 25; i++) { /* it shrinks as it is used */
    test_scrub();
    wane_collect();
    test_apart(serve, &few);
    few.first += few.count;
  }
  assert_in_range(test_live_bytes(), 0, before + server.count * 2 + 100000);
}

/* ---- Costs ---- */

/* Go: TestMakeAllocs. Other threads of the library may allocate a little. */
static void a_hit_allocates_nothing(void **state) {
  (void)state;
  char bytes[1000];
  for (size_t i = 0; i < sizeof bytes; i++) {
    bytes[i] = (char)(1 + i % 100);
  }
  bytes[99] = '\0';
  for (size_t size = 0; size < sizeof bytes; size += 9) {
    kept[size] = make(bytes, size);
  }
  kept[2000] = wane_intern(bytes);
  uint64_t before = test_stats().allocated_objects;
  for (int round = 0; round < 100; round++) {
    for (size_t size = 0; size < sizeof bytes; size += 9) {
      require(make(bytes, size) == kept[size]);
      require(wane_unique_value((wane_unique){kept[size]}, NULL) == kept[size]);
    }
    require(wane_intern(bytes) == kept[2000]);
  }
  assert_in_range(test_stats().allocated_objects, before, before + 50);
  forget_all();
}

/* ---- Mistakes ---- */

static void value_of(void *ptr) {
  (void)wane_unique_value((wane_unique){ptr}, NULL);
}
static void make_of_null(void *arg) {
  (void)wane_unique_make(NULL, (size_t)(uintptr_t)arg);
}
static void intern_of_null(void *arg) { (void)wane_intern(arg); }

static void mistakes_are_fatal(void **state) {
  (void)state;
  static char static_data[64] __attribute__((aligned(16)));
  char *unique = (char *)make("twenty-four bytes here.", 24);
  char *other = wane_alloc(32);
  size_t *like = wane_alloc(32); /* ends as a unique of 24 bytes does */
  size_t *like_empty = wane_alloc(16);
  char local[16] = {0};
  char *heap = calloc(1, 100);
  memcpy(like, unique, 24);
  like[wane_size(like) / sizeof *like - 1] = 24;
  like_empty[wane_size(like_empty) / sizeof *like_empty - 1] = 0;
  void *ptrs[] = {NULL,
                  (void *)8,
                  unique + 1,
                  unique + 16,
                  unique + 23,
                  other,
                  like,
                  like_empty,
                  local,
                  heap,
                  static_data,
                  (void *)wane_intern("twenty-four bytes here."),
                  wane_strdup("twenty-four bytes here."),
                  (void *)UINTPTR_MAX};
  for (size_t i = 0; i < TEST_COUNT(ptrs); i++) {
    test_assert_fatal_only("wane_unique_value", value_of, ptrs[i]);
  }
  test_assert_fatal_only("wane_unique_make", make_of_null, (void *)1);
  test_assert_fatal_only("wane_unique_make", make_of_null, (void *)1000);
  test_assert_fatal_only("wane_intern", intern_of_null, NULL);
  require_unique(unique, "twenty-four bytes here.", 24);
  free(heap);
}

/* ---- No memory, fork ---- */

static void exhaust(const char *arg) {
  (void)arg;
  for (size_t i = 0; i < 1000; i++) {
    size_t value[3] = {i, 1, 2};
    kept[i] = make(value, sizeof value);
  }
  kept[1000] = wane_intern("known");
  test_use_up_memory();
  size_t none = 0;
  for (size_t i = 1000; i < 20000; i++) {
    size_t value[3] = {i, 1, 2};
    errno = 0;
    const void *ptr = wane_unique_make(value, sizeof value).ptr;
    require((ptr == NULL) == (errno == ENOMEM));
    none += ptr == NULL;
    kept[2000 + i] = ptr;
    if (none == 20) {
      break;
    }
  }
  require(none > 0);
  errno = 0;
  for (size_t i = 0; i < 1000; i++) { /* what there is needs no memory */
    size_t value[3] = {i, 1, 2};
    require_unique(kept[i], value, sizeof value);
  }
  require(wane_intern("known") == kept[1000] && errno == 0);
  test_drop_memory();
  test_scrub();
  wane_collect();
  for (size_t i = 0; i < 2000; i++) {
    size_t value[3] = {i, 1, 2};
    require(i >= 1000 || make(value, sizeof value) == kept[i]);
    require(make(value, sizeof value) != NULL);
  }
}

static void without_memory_what_is_there_is_found(void **state) {
  (void)state;
  test_exec("exhaust", "", "reserve_mb=64", &child);
  test_assert_exit_0(&child, "no memory");
}

static uint64_t over;

static void *make_and_drop(void *arg) {
  uintptr_t first = (uintptr_t)arg;
  while (test_get(&over) == 0) {
    for (size_t i = 0; i < 500; i++) {
      size_t value[2] = {first + i, 5};
      (void)make(value, sizeof value);
    }
    test_breathe();
  }
  return NULL;
}

static void use_in_child(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    size_t value[2] = {i, 6};
    require_unique(kept[i], value, sizeof value);
  }
  for (size_t i = 0; i < 2000; i++) {
    size_t value[2] = {i, 5};
    const void *ptr = make(value, sizeof value);
    require_unique(ptr, value, sizeof value);
  }
  test_settle();
  for (size_t i = 0; i < MANY; i++) {
    size_t value[2] = {i, 6};
    require_unique(kept[i], value, sizeof value);
  }
}

/* G4. */
static void a_child_has_the_uniques(void **state) {
  (void)state;
  if (TEST_TSAN) {
    skip(); /* its runtime deadlocks in children of threads */
  }
  pthread_t threads[2];
  for (size_t i = 0; i < MANY; i++) {
    size_t value[2] = {i, 6};
    kept[i] = make(value, sizeof value);
  }
  test_set(&over, 0);
  for (uintptr_t i = 0; i < 2; i++) {
    require(
        !pthread_create(&threads[i], NULL, make_and_drop, (void *)(1000 * i)));
  }
  for (size_t i = 0; i < test_scaled(20, 5); i++) {
    test_fork(use_in_child, NULL, &child);
    test_assert_exit_0(&child, "uniques in a child");
  }
  test_set(&over, 1);
  for (int i = 0; i < 2; i++) {
    require(!pthread_join(threads[i], NULL));
  }
  forget_all();
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"exhaust", exhaust}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equal_bytes_give_one_pointer),
      cmocka_unit_test(any_other_byte_gives_another_pointer),
      cmocka_unit_test(sizes_count),
      cmocka_unit_test(nothing_is_a_value),
      cmocka_unit_test(large_values_are_shared_too),
      cmocka_unit_test(values_of_all_shapes),
      cmocka_unit_test(the_source_does_not_matter_later),
      cmocka_unit_test(the_source_is_not_kept),
      cmocka_unit_test(pointers_in_a_unique_keep_alive),
      cmocka_unit_test(a_chain_is_gone_after_one_collection),
      cmocka_unit_test(interned_strings_are_leaves),
      cmocka_unit_test(equal_strings_are_one),
      cmocka_unit_test(what_is_dropped_leaves),
      cmocka_unit_test(a_hot_server_does_not_grow),
      cmocka_unit_test(a_full_table_becomes_small_again),
      cmocka_unit_test(a_hit_allocates_nothing),
      cmocka_unit_test(mistakes_are_fatal),
      cmocka_unit_test(without_memory_what_is_there_is_found),
      cmocka_unit_test(a_child_has_the_uniques),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
