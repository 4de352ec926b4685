/* Weak pointers. W1-W10, X1, X3, D7; readers on all cores are in
   stress/lifetimes.c. */
/* timeout: 240 */
/* link: dl */
/* plugin: holder.c */
#include "support/lives.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define MANY 300

static wane_weak weak[40000];

static void with_weak(void *object, size_t idx) {
  weak[idx] = wane_weak_make(object);
  require(weak[idx].id != 0);
  require(wane_weak_value(weak[idx]) == object);
}

static TEST_NOINLINE size_t count_alive(size_t count) {
  size_t alive = 0;
  for (size_t i = 0; i < count; i++) {
    alive += wane_weak_value(weak[i]) != NULL;
  }
  return alive;
}

static size_t weak_alive(size_t count) {
  size_t alive = count_alive(count);
  test_scrub();
  return alive;
}

TEST_ROOT void *kept[NOTES_MAX];

static void with_weak_kept(void *object, size_t idx) {
  with_weak(object, idx);
  kept[idx] = object;
}

/* W1, W4, W7. Go: TestPointer. */
static void a_weak_pointer_gives_the_object_while_it_lives(void **state) {
  (void)state;
  assert_int_equal(wane_weak_make(NULL).id, 0);
  assert_null(wane_weak_value((wane_weak){0}));
  test_make_with(MANY, NULL, with_weak_kept);
  for (int i = 0; i < 3; i++) {
    for (size_t n = 0; n < MANY; n++) {
      assert_ptr_equal(wane_weak_value(weak[n]), kept[n]);
    }
    wane_collect();
  }
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  assert_in_range(weak_alive(MANY), 0, 2 + MANY / 50);
  wane_collect();
  assert_in_range(weak_alive(MANY), 0, 2 + MANY / 50);
}

/* W2: equal as long as the object lives, though nobody remembers a handle. */
static void the_same_pointer_gives_the_same_handle(void **state) {
  (void)state;
  test_make_with(MANY, NULL, with_weak_kept);
  for (int i = 0; i < 3; i++) {
    for (size_t n = 0; n < MANY; n++) {
      assert_int_equal(wane_weak_make(kept[n]).id, weak[n].id);
    }
    wane_collect();
  }
  memset(kept, 0, sizeof kept);
}

#define TEN 10

static wane_weak ten[4][TEN]; /* objects, interiors, and both again */

static void make_ten(void *arg) {
  char **objects = arg;
  for (size_t i = 0; i < TEN; i++) {
    objects[i] = wane_alloc(48);
    ten[0][i] = wane_weak_make(objects[i]);
    ten[1][i] = wane_weak_make(objects[i] + 1 + i);
    ten[2][i] = wane_weak_make(objects[i]);
    ten[3][i] = wane_weak_make(objects[i] + 1 + i);
  }
}

static void check_ten(void) {
  for (size_t i = 0; i < TEN; i++) {
    assert_int_equal(ten[0][i].id, ten[2][i].id);
    assert_int_equal(ten[1][i].id, ten[3][i].id);
    for (size_t n = 0; n < TEN; n++) {
      assert_true(ten[0][i].id != ten[1][n].id);
      assert_true(i == n || ten[0][i].id != ten[0][n].id);
      assert_true(i == n || ten[1][i].id != ten[1][n].id);
    }
  }
}

TEST_ROOT char *ten_objects[TEN];

/* W2, W3. Go: TestPointerEquality, with its last loop as it is meant. */
static void handles_are_equal_as_their_pointers_were(void **state) {
  (void)state;
  test_apart(make_ten, ten_objects);
  check_ten();
  for (size_t i = 0; i < TEN; i++) {
    assert_ptr_equal(wane_weak_value(ten[0][i]), ten_objects[i]);
    assert_ptr_equal(wane_weak_value(ten[1][i]), ten_objects[i] + 1 + i);
  }
  wane_collect();
  check_ten();
  memset(ten_objects, 0, sizeof ten_objects);
  test_scrub();
  wane_collect();
  check_ten(); /* for ever */
  size_t dead = 0;
  for (size_t i = 0; i < TEN; i++) { /* NULL together */
    bool alive = wane_weak_value(ten[0][i]) != NULL;
    assert_true(alive == (wane_weak_value(ten[1][i]) != NULL));
    dead += !alive;
  }
  assert_in_range(dead, TEN - 3, TEN);
  test_scrub();
}

static const size_t far_offsets[] = {0,      1,      0xffff, 0x10000, 0x10001,
                                     131072, 131088, 196608, 999999};

static void *make_far(size_t idx) {
  return idx % 2 == 0 ? wane_alloc(1000000) : wane_alloc_leaf(1000000);
}

static void with_far_offsets(void *object, size_t idx) {
  size_t count = TEST_COUNT(far_offsets);
  char *bytes = object;
  for (size_t i = 0; i < count; i++) {
    weak[idx * count + i] = wane_weak_make(bytes + far_offsets[i]);
    for (size_t n = 0; n < i; n++) {
      require(weak[idx * count + n].id != weak[idx * count + i].id);
    }
  }
  for (size_t i = 0; i < count; i++) {
    require(wane_weak_value(weak[idx * count + i]) == bytes + far_offsets[i]);
  }
}

/* W3. Go: TestIssue70739. */
static void offsets_beyond_64_kib_differ(void **state) {
  (void)state;
  test_make_with(20, make_far, with_far_offsets);
  wane_collect();
  size_t all = 20 * TEST_COUNT(far_offsets);
  assert_in_range(weak_alive(all), 0, 3 * TEST_COUNT(far_offsets));
}

static void with_all_offsets(void *object, size_t idx) {
  char *bytes = object;
  (void)idx;
  for (size_t i = 0; i < 40000; i++) {
    weak[i] = wane_weak_make(bytes + i);
  }
  for (size_t i = 0; i < 40000; i++) {
    require(wane_weak_value(weak[i]) == bytes + i);
    require(i == 0 || weak[i].id != weak[i - 1].id);
    require(wane_weak_make(bytes + i).id == weak[i].id);
  }
}

static void *make_wide(size_t idx) {
  (void)idx;
  return wane_alloc(40000);
}

/* W3, W8: thousands into one object, which go NULL together. */
static void an_object_may_have_a_weak_pointer_to_each_byte(void **state) {
  (void)state;
  size_t alive = 0;
  for (int i = 0; i < 5; i++) {
    test_make_with(1, make_wide, with_all_offsets);
    test_scrub();
    wane_collect();
    size_t count = weak_alive(40000);
    assert_true(count == 0 || count == 40000);
    alive += count != 0;
  }
  assert_in_range(alive, 0, 2);
}

/* Before and after the address was used again. */
static struct life {
  uintptr_t hidden;
  uint64_t id;
} lives[40000];

static void with_life(void *object, size_t idx) {
  lives[idx].hidden = test_hide(object);
  lives[idx].id = wane_weak_make(object).id;
}

static int compare_lives(const void *a, const void *b) {
  const struct life *left = a;
  const struct life *right = b;
  return (left->hidden > right->hidden) - (left->hidden < right->hidden);
}

/* W2: a new object at an old address gives an unequal one. */
static void a_new_object_at_an_old_address_is_another_one(void **state) {
  (void)state;
  static struct life old[2000];
  size_t reused = 0;
  for (int round = 0; round < 10 && reused == 0; round++) {
    test_make_with(TEST_COUNT(old), NULL, with_life);
    memcpy(old, lives, sizeof old);
    test_scrub();
    wane_collect();
    test_make_with(TEST_COUNT(lives), NULL, with_life);
    qsort(lives, TEST_COUNT(lives), sizeof lives[0], compare_lives);
    for (size_t i = 0; i < TEST_COUNT(old); i++) {
      const struct life *found = bsearch(&old[i], lives, TEST_COUNT(lives),
                                         sizeof lives[0], compare_lives);
      if (found != NULL) {
        assert_true(found->id != old[i].id);
        assert_null(wane_weak_value((wane_weak){old[i].id}));
        reused++;
      }
    }
  }
  assert_true(reused > 0);
}

/* Handles are never addresses, and no two objects have the same: of many
   lives, all ids differ. */
static int compare_ids(const void *a, const void *b) {
  const uint64_t *left = a;
  const uint64_t *right = b;
  return (*left > *right) - (*left < *right);
}

static uint64_t ids[20 * 2000];
static size_t ids_count;

static void with_id(void *object, size_t idx) {
  (void)idx;
  wane_weak handle = wane_weak_make(object);
  require(wane_base((void *)(uintptr_t)handle.id) == NULL);
  ids[ids_count++] = handle.id;
}

/* W2, W10: the slots are reused, the ids are not. */
static void ids_are_never_reused(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++) {
    test_make_with(2000, NULL, with_id);
    test_scrub();
    wane_collect();
  }
  assert_int_equal(ids_count, TEST_COUNT(ids));
  qsort(ids, ids_count, sizeof ids[0], compare_ids);
  for (size_t i = 1; i < ids_count; i++) {
    assert_true(ids[i] != ids[i - 1]);
  }
}

/* The API promises a lookup, however wrong the number. */
static void numbers_that_are_no_handles_give_null(void **state) {
  (void)state;
  struct test_random random = {99};
  test_make_with(MANY, NULL, with_weak_kept);
  for (int i = 0; i < 300000; i++) {
    uint64_t number = test_random(&random) >> test_below(&random, 64);
    if (i % 4 == 0) { /* near a true one: other generations and kinds */
      number = weak[test_below(&random, MANY)].id ^
               UINT64_C(1) << test_below(&random, 64);
    }
    const char *value = wane_weak_value((wane_weak){number});
    require(value == NULL || wane_weak_make(value).id == number);
  }
  assert_null(wane_weak_value((wane_weak){UINT64_MAX}));
  memset(kept, 0, sizeof kept);
}

/* W10: a handle costs nothing after the object's death. */
static void weak_pointers_to_the_dead_cost_nothing(void **state) {
  (void)state;
  uint64_t live = 0;
  size_t resident = 0;
  for (int i = 0; i < 30; i++) {
    test_make_with(20000, NULL, with_weak);
    test_scrub();
    wane_collect();
    if (i == 5) {
      live = test_stats().weak_handles_live;
      resident = test_resident_bytes();
    }
  }
  assert_in_range(test_stats().weak_handles_live, 0, live + 1000);
  if (!TEST_ASAN && !TEST_TSAN) {
    assert_in_range(test_resident_bytes(), 0, resident + (8u << 20));
  }
}

static void live_weak_pointers_are_counted(void **state) {
  (void)state;
  test_scrub();
  wane_collect();
  uint64_t before = test_stats().weak_handles_live;
  test_make_with(MANY, NULL, with_weak_kept);
  assert_in_range(test_stats().weak_handles_live, MANY, before + MANY);
  memset(kept, 0, sizeof kept);
}

static int static_number = 5;
static int static_zero[100];
static const int static_const = 8;

/* W7. Go: TestImmortalPointer. */
static void static_data_never_dies(void **state) {
  (void)state;
  const void *ptrs[] = {&static_number, &static_zero[1], &static_zero[2],
                        &static_const,  "literal",       stdout};
  wane_weak handles[TEST_COUNT(ptrs)];
  errno = 77;
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < TEST_COUNT(ptrs); i++) {
      wane_weak handle = wane_weak_make(ptrs[i]);
      assert_true(handle.id != 0);
      assert_ptr_equal(wane_weak_value(handle), ptrs[i]);
      assert_true(round == 0 || handle.id == handles[i].id);
      for (size_t n = 0; n < i; n++) {
        assert_true(handle.id != handles[n].id);
      }
      handles[i] = handle;
    }
    assert_int_equal(errno, 77);
    wane_collect();
    errno = 77;
  }
}

static void make_weak(void *ptr) { (void)wane_weak_make(ptr); }

static _Thread_local int thread_local_number;

/* W7, D1. */
static void other_memory_is_fatal(void **state) {
  (void)state;
  static uintptr_t hidden[MANY];
  int local = 0;
  void *small = malloc(100);
  void *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void (*function)(void *) = make_weak;
  void *code;
  memcpy(&code, &function, sizeof code);
  assert_true(small != NULL && mapped != MAP_FAILED);
  void *ptrs[] = {&local, small, mapped, &thread_local_number, code, (void *)8};
  for (size_t i = 0; i < TEST_COUNT(ptrs); i++) {
    test_assert_fatal_only("wane_weak_make", make_weak, ptrs[i]);
  }
  test_make_hidden(hidden, MANY, test_make_small);
  assert_dead(hidden, MANY);
  for (size_t i = MANY; i-- > 0;) {
    if (wane_base(test_reveal(hidden[i])) == NULL) {
      test_assert_fatal_only("wane_weak_make", make_weak,
                             test_reveal(hidden[i]));
      break;
    }
  }
  free(small);
  munmap(mapped, 8192);
}

static void *open_holder(void ***data) {
  void **(*holder)(size_t *);
  size_t count;
  void *module = dlopen(PLUGIN_HOLDER, RTLD_NOW | RTLD_LOCAL);
  require(module != NULL);
  void *symbol = dlsym(module, "holder_data");
  require(symbol != NULL);
  memcpy(&holder, &symbol, sizeof holder);
  *data = holder(&count);
  return module;
}

/* D7. */
static void data_of_closed_modules_is_dead(void **state) {
  (void)state;
  void **data;
  wane_weak old[10];
  for (size_t round = 0; round < TEST_COUNT(old); round++) {
    void *module = open_holder(&data);
    old[round] = wane_weak_make(&data[3]);
    assert_int_equal(wane_weak_make(&data[3]).id, old[round].id);
    assert_ptr_equal(wane_weak_value(old[round]), &data[3]);
    if (round % 2 == 0) {
      wane_collect();
    }
    assert_ptr_equal(wane_weak_value(old[round]), &data[3]);
    for (size_t i = 0; i < round; i++) {
      assert_true(old[i].id != old[round].id);
      assert_null(wane_weak_value(old[i]));
    }
    assert_int_equal(dlclose(module), 0);
    assert_null(wane_weak_value(old[round]));
    if (round % 3 == 0) {
      wane_collect();
      assert_null(wane_weak_value(old[round]));
    }
  }
}

static uint64_t seen_alive;

static void see_null(void *tag) {
  size_t idx = note_idx(tag);
  for (size_t i = 4 * idx; i < 4 * idx + 4; i++) {
    if (note_is_fresh(tag) && wane_weak_value(weak[i]) != NULL) {
      test_add(&seen_alive);
    }
  }
  note(tag);
}

static void see_null_object(void *object) {
  see_null((void *)~*(uintptr_t *)object);
}

/* Offsets in all orders, before and after the registration. */
static void with_callback(void *object, size_t idx) {
  char *bytes = object;
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  weak[4 * idx] = wane_weak_make(bytes + 40);
  weak[4 * idx + 1] = wane_weak_make(bytes);
  if (idx % 2 == 0) {
    (void)wane_add_cleanup(bytes + 8, see_null, note_tag(idx));
  } else {
    wane_set_finalizer(object, see_null_object);
  }
  weak[4 * idx + 2] = wane_weak_make(bytes + 63);
  weak[4 * idx + 3] = wane_weak_make(bytes + 8);
}

/* W4, X1, X3. Go: TestPointerCleanup, TestPointerFinalizer. */
static void no_callback_sees_its_object(void **state) {
  (void)state;
  for (int i = 0; i < 5; i++) {
    notes_begin();
    test_make_with(10000, NULL, with_callback);
    test_settle();
    assert_most(notes_total(), 10000);
    assert_int_equal(test_get(&seen_alive), 0);
  }
}

static void with_finalizer_kept(void *object, size_t idx) {
  with_weak_kept(object, idx);
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  wane_set_finalizer(object, see_null_object);
}

/* Go: TestPointerFinalizer: over cycles, while held. */
static void a_finalizer_does_not_change_weak_pointers(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_finalizer_kept);
  wane_collect();
  assert_int_equal(weak_alive(MANY), MANY);
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  assert_in_range(weak_alive(MANY), 0, 2 + MANY / 50);
  test_settle();
  test_settle();
  assert_in_range(weak_alive(MANY), 0, 2 + MANY / 50);
}

static struct wane_queue *queue;

/* weak[idx]: of A, which has the finalizer; weak[MANY + idx]: of its B. */
static void with_reached(void *object, size_t idx) {
  void **words = object;
  words[0] = (void *)~(uintptr_t)idx;
  words[1] = wane_alloc(64);
  weak[idx] = wane_weak_make(object);
  weak[MANY + idx] = wane_weak_make((char *)words[1] + 7);
  wane_set_finalizer_on(queue, object, note);
}

static size_t reached_alive(void) {
  size_t alive = 0;
  for (size_t i = 0; i < MANY; i++) {
    alive += wane_weak_value(weak[MANY + i]) != NULL;
  }
  test_scrub();
  return alive;
}

/* W6. */
static void what_a_dead_finalizable_object_reaches_is_not_dead(void **state) {
  (void)state;
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_reached);
  for (int i = 0; i < 3; i++) {
    test_scrub();
    wane_collect();
    assert_in_range(weak_alive(MANY), 0, 2 + MANY / 50);
    assert_int_equal(reached_alive(), MANY);
  }
  assert_most(wane_queue_run(queue, MANY), MANY);
  assert_int_equal(reached_alive(), MANY);
  test_scrub();
  wane_collect();
  assert_in_range(reached_alive(), 0, 2 + MANY / 50);
  wane_queue_free(queue);
}

static void *make_tiny(size_t idx) {
  return idx % 2 == 0 ? wane_alloc_leaf(1 + idx % 16) : wane_alloc(8);
}

/* Go: TestPointerTiny. */
static void tiny_objects_die_one_by_one(void **state) {
  (void)state;
  test_make_with(1000, make_tiny, with_weak);
  test_scrub();
  wane_collect();
  assert_in_range(weak_alive(1000), 0, 22);
}

/* W10: in memory that is not scanned. */
static void handles_may_lie_anywhere(void **state) {
  (void)state;
  wane_weak *in_malloc = malloc(MANY * sizeof *in_malloc);
  wane_weak *in_leaf = wane_alloc_leaf(MANY * sizeof *in_leaf);
  wane_weak *in_object = wane_alloc(MANY * sizeof *in_object);
  assert_non_null(in_malloc);
  test_make_with(MANY, NULL, with_weak_kept);
  memcpy(in_malloc, weak, MANY * sizeof *in_malloc);
  memcpy(in_leaf, weak, MANY * sizeof *in_leaf);
  memcpy(in_object, weak, MANY * sizeof *in_object);
  wane_collect();
  for (size_t i = 0; i < MANY; i++) {
    assert_ptr_equal(wane_weak_value(in_malloc[i]), kept[i]);
    assert_ptr_equal(wane_weak_value(in_leaf[i]), kept[i]);
    assert_ptr_equal(wane_weak_value(in_object[i]), kept[i]);
  }
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  size_t alive = 0;
  for (size_t i = 0; i < MANY; i++) {
    alive += wane_weak_value(in_object[i]) != NULL;
  }
  assert_in_range(alive, 0, 2 + MANY / 50);
  wane_keep_alive(in_object);
  free(in_malloc);
  test_scrub();
}

static void grow(void *arg) {
  (void)arg;
  for (size_t i = 0; i < 100; i++) {
    char *object = wane_alloc(16 + i * 500);
    wane_weak first = wane_weak_make(object);
    char *larger = wane_realloc(object, 16 + i * 520 + 100);
    wane_weak second = wane_weak_make(larger);
    require(wane_weak_value(first) == object);
    require(wane_weak_value(second) == larger);
    require((first.id == second.id) == (object == larger));
    wane_keep_alive(object);
    wane_keep_alive(larger);
  }
}

/* W2: a reallocated object has a new life if it moved. */
static void a_moved_object_gives_another_handle(void **state) {
  (void)state;
  test_apart(grow, NULL);
}

static pthread_barrier_t barrier;
static wane_weak made_by[4][5000];

static void *make_at_once(void *arg) {
  size_t me = (uintptr_t)arg;
  pthread_barrier_wait(&barrier);
  for (size_t i = 0; i < 5000; i++) {
    made_by[me][i] = wane_weak_make((char *)kept[i] + i % 3);
  }
  return NULL;
}

/* W2, whoever is first. */
static void threads_that_make_the_same_get_the_same(void **state) {
  (void)state;
  pthread_t threads[4];
  pthread_barrier_init(&barrier, NULL, 4);
  for (size_t i = 0; i < 5000; i++) {
    kept[i] = wane_alloc(16 + i % 100);
  }
  for (size_t t = 0; t < 4; t++) {
    assert_int_equal(pthread_create(&threads[t], NULL, make_at_once, (void *)t),
                     0);
  }
  for (size_t t = 0; t < 4; t++) {
    pthread_join(threads[t], NULL);
  }
  for (size_t i = 0; i < 5000; i++) {
    for (size_t t = 1; t < 4; t++) {
      assert_int_equal(made_by[t][i].id, made_by[0][i].id);
    }
    assert_ptr_equal(wane_weak_value(made_by[0][i]), (char *)kept[i] + i % 3);
  }
  pthread_barrier_destroy(&barrier);
  memset(kept, 0, sizeof kept);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_weak_pointer_gives_the_object_while_it_lives),
      cmocka_unit_test(the_same_pointer_gives_the_same_handle),
      cmocka_unit_test(handles_are_equal_as_their_pointers_were),
      cmocka_unit_test(offsets_beyond_64_kib_differ),
      cmocka_unit_test(an_object_may_have_a_weak_pointer_to_each_byte),
      cmocka_unit_test(a_new_object_at_an_old_address_is_another_one),
      cmocka_unit_test(ids_are_never_reused),
      cmocka_unit_test(numbers_that_are_no_handles_give_null),
      cmocka_unit_test(weak_pointers_to_the_dead_cost_nothing),
      cmocka_unit_test(live_weak_pointers_are_counted),
      cmocka_unit_test(static_data_never_dies),
      cmocka_unit_test(other_memory_is_fatal),
      cmocka_unit_test(data_of_closed_modules_is_dead),
      cmocka_unit_test(no_callback_sees_its_object),
      cmocka_unit_test(a_finalizer_does_not_change_weak_pointers),
      cmocka_unit_test(what_a_dead_finalizable_object_reaches_is_not_dead),
      cmocka_unit_test(tiny_objects_die_one_by_one),
      cmocka_unit_test(handles_may_lie_anywhere),
      cmocka_unit_test(a_moved_object_gives_another_handle),
      cmocka_unit_test(threads_that_make_the_same_get_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
