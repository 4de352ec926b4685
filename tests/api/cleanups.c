/* Cleanups: when they run, with what, and when not. A1-A8, S1, D2, D5, D16.
   Where they run is in callbacks.c. */
/* timeout: 240 */
#include "support/lives.h"

#include <pthread.h>
#include <sys/mman.h>

#define MANY 300

static void with_note(void *object, size_t idx) {
  require(wane_add_cleanup(object, note, note_tag(idx)).id != 0);
}

/* A1, A8. Go: TestCleanup. */
static void a_cleanup_runs_once_after_its_object_died(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_note);
  test_settle();
  assert_most(notes_total(), MANY);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  notes_require_once(MANY);
}

TEST_ROOT void *kept[MANY];

static void with_note_kept(void *object, size_t idx) {
  with_note(object, idx);
  kept[idx] = (char *)object + idx % 64;
}

/* A1, A2: not while anything points anywhere into it. */
static void a_cleanup_does_not_run_while_its_object_lives(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_note_kept);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  assert_int_equal(notes_total(), 0);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
}

struct pair {
  void *first;
  void *second;
};
WANE_TYPE(pair_type, struct pair, first, second);

static void *make_of_any_kind(size_t idx) {
  switch (idx % 8) {
  case 0:
    return wane_alloc(1 + idx);
  case 1:
    return wane_alloc_leaf(1 + idx);
  case 2:
    return wane_alloc_typed(&pair_type, 1 + idx);
  case 3:
    return wane_alloc_aligned(100, 4096);
  case 4:
    return wane_alloc(0); /* Go: TestCleanupZeroSizedStruct */
  case 5:
    return wane_alloc(idx % 5 == 0 ? 300000 : 20000);
  case 6:
    return wane_alloc_leaf(idx % 5 == 0 ? 300000 : 40000);
  default:
    return wane_strdup("text");
  }
}

/* A1, A5: objects of any kind and size; none is kept by its cleanup. */
static void objects_of_any_kind_may_have_cleanups(void **state) {
  (void)state;
  uint64_t before = test_live_bytes();
  notes_begin();
  test_make_with(MANY, make_of_any_kind, with_note);
  test_settle();
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
  assert_in_range(test_live_bytes(), 0, before + 2000000);
}

static void with_three(void *object, size_t idx) {
  char *bytes = object;
  wane_cleanup a = wane_add_cleanup(bytes, note, note_tag(3 * idx));
  wane_cleanup b = wane_add_cleanup(bytes, note, note_tag(3 * idx + 1));
  wane_cleanup c = wane_add_cleanup(bytes, note, note_tag(3 * idx + 2));
  require(a.id != 0 && b.id != 0 && c.id != 0);
  require(a.id != b.id && b.id != c.id && a.id != c.id);
}

static void with_three_inside(void *object, size_t idx) {
  char *bytes = object;
  (void)wane_add_cleanup(bytes + 1, note, note_tag(3 * idx));
  (void)wane_add_cleanup(bytes + 24, note, note_tag(3 * idx + 1));
  (void)wane_add_cleanup(bytes + 63, note, note_tag(3 * idx + 2));
}

/* A3, A2. Go: TestCleanupMultiple, TestCleanupInteriorPointer. */
static void all_cleanups_of_an_object_run(void **state) {
  (void)state;
  static void (*const with[])(void *, size_t) = {with_three, with_three_inside};
  for (size_t w = 0; w < TEST_COUNT(with); w++) {
    notes_begin();
    test_make_with(MANY, NULL, with[w]);
    test_settle();
    assert_most(notes_total(), 3 * MANY);
    notes_require_once(3 * MANY);
    for (size_t i = 0; i < MANY; i++) { /* all or none */
      assert_int_equal(notes_of(3 * i), notes_of(3 * i + 1));
      assert_int_equal(notes_of(3 * i), notes_of(3 * i + 2));
    }
  }
}

#define ON_ONE 5000

static void with_very_many(void *object, size_t idx) {
  for (size_t i = 0; i < ON_ONE; i++) {
    with_note((char *)object + i % 64, idx * ON_ONE + i);
  }
}

/* A3. */
static void one_object_may_have_thousands(void **state) {
  (void)state;
  notes_begin();
  test_make_with(6, NULL, with_very_many);
  test_settle();
  assert_in_range(notes_total(), 3 * ON_ONE, 6 * ON_ONE);
  assert_int_equal(notes_total() % ON_ONE, 0);
  notes_require_once(6 * ON_ONE);
}

static wane_cleanup handles[NOTES_MAX];

static void with_two_handles(void *object, size_t idx) {
  handles[idx] = wane_add_cleanup(object, note, note_tag(idx));
  (void)wane_add_cleanup(object, note, note_tag(MANY + idx));
  require(wane_cleanup_stop(handles[idx]));
  wane_keep_alive(object);
}

/* S1: the other one is the proof that the death was seen. Go: TestCleanupStop,
   TestCleanupStopMultiple. */
static void a_stopped_cleanup_does_not_run(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_two_handles);
  assert_false(wane_cleanup_stop(handles[7]));
  test_settle();
  assert_most(notes_total(), MANY);
  for (size_t i = 0; i < MANY; i++) {
    assert_int_equal(notes_of(i), 0);
    assert_false(wane_cleanup_stop(handles[i]));
    assert_false(wane_cleanup_stop(handles[i]));
  }
}

static void with_five(void *object, size_t idx) {
  wane_cleanup cleanups[5];
  for (size_t i = 0; i < 5; i++) {
    cleanups[i] = wane_add_cleanup(object, note, note_tag(5 * idx + i));
    if (i == 1 || i == 3) {
      require(wane_cleanup_stop(cleanups[i]));
    }
  }
}

/* S1. Go: TestCleanupStopinterleavedMultiple. */
static void stopping_one_leaves_the_others(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_five);
  test_settle();
  assert_most(notes_total(), 3 * MANY);
  for (size_t i = 0; i < 5 * MANY; i++) {
    bool stopped = i % 5 == 1 || i % 5 == 3;
    assert_in_range(notes_of(i), 0, stopped ? 0 : 1);
  }
}

static void with_handle(void *object, size_t idx) {
  handles[idx] = wane_add_cleanup(object, note, note_tag(idx));
}

/* S1: however old, a handle hits nothing else. Go:
   TestCleanupStopAfterCleanupRuns. */
static void old_handles_are_harmless(void **state) {
  (void)state;
  static wane_cleanup old[20 * MANY];
  for (size_t round = 0; round < 20; round++) {
    notes_begin();
    test_make_with(MANY, NULL, with_handle);
    size_t stopped = 0; /* of objects that stray words keep */
    for (size_t i = 0; i < round * MANY; i++) {
      assert_true(old[i].id != handles[i % MANY].id);
      stopped += wane_cleanup_stop(old[i]);
    }
    assert_in_range(stopped, 0, 2 + round * MANY / 50);
    memcpy(&old[round * MANY], handles, MANY * sizeof old[0]);
    test_settle();
    assert_most(notes_total(), MANY);
  }
}

/* S1: zero, and numbers that never were handles. */
static void stopping_what_is_no_cleanup_is_harmless(void **state) {
  (void)state;
  struct test_random random = {4711};
  assert_false(wane_cleanup_stop((wane_cleanup){0}));
  for (int i = 0; i < 100000; i++) {
    uint64_t id = test_random(&random) >> test_below(&random, 64);
    assert_false(wane_cleanup_stop((wane_cleanup){id | UINT64_C(1) << 63}));
  }
  (void)wane_cleanup_stop((wane_cleanup){UINT64_MAX});
}

static wane_weak weak_args[NOTES_MAX];
static wane_weak weak_inner[NOTES_MAX];

static TEST_NOINLINE void **new_arg(size_t idx) {
  void **arg = wane_alloc(48);
  arg[1] = wane_alloc(32);
  arg[2] = (void *)~(uintptr_t)note_tag(idx);
  weak_args[idx] = wane_weak_make(arg);
  weak_inner[idx] = wane_weak_make(arg[1]);
  return arg;
}

static size_t args_alive(size_t count) {
  size_t alive = 0;
  for (size_t i = 0; i < count; i++) {
    bool here = wane_weak_value(weak_args[i]) != NULL;
    require(here == (wane_weak_value(weak_inner[i]) != NULL));
    alive += here;
  }
  test_scrub();
  return alive;
}

static void take_arg(void *arg) {
  void **words = arg;
  void *tag = (void *)~(uintptr_t)words[2];
  require(wane_base(words) == words && wane_base(words[1]) == words[1]);
  require(wane_weak_value(weak_args[note_idx(tag)]) == words ||
          !note_is_fresh(tag));
  note(tag);
}

static void with_managed_arg(void *object, size_t idx) {
  handles[idx] = wane_add_cleanup(object, take_arg, new_arg(idx));
  kept[idx] = object;
}

static void with_managed_arg_inside(void *object, size_t idx) {
  handles[idx] = wane_add_cleanup(object, note, (char *)new_arg(idx) + 17);
  kept[idx] = object;
}

/* A4. Go: TestCleanupInterfaceArgument. */
static void an_arg_lives_until_its_cleanup_has_run(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_managed_arg);
  for (int i = 0; i < 3; i++) {
    test_settle();
    assert_int_equal(args_alive(MANY), MANY);
  }
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_most(notes_total(), MANY);
  test_settle();
  assert_in_range(args_alive(MANY), 0, 2 + MANY / 50);
}

/* A4, S1: let go at once, while the object lives. */
static void the_arg_of_a_stopped_cleanup_is_let_go(void **state) {
  (void)state;
  static void (*const with[])(void *, size_t) = {with_managed_arg,
                                                 with_managed_arg_inside};
  for (size_t w = 0; w < TEST_COUNT(with); w++) {
    notes_begin();
    test_make_with(MANY, NULL, with[w]);
    test_settle();
    assert_int_equal(args_alive(MANY), MANY);
    for (size_t i = 0; i < MANY; i++) {
      assert_true(wane_cleanup_stop(handles[i]));
    }
    test_settle();
    assert_in_range(args_alive(MANY), 0, 2 + MANY / 50);
    memset(kept, 0, sizeof kept);
    test_settle();
    assert_int_equal(notes_total(), 0);
  }
}

static wane_weak weak_objects[NOTES_MAX];

static void with_cycle(void *object, size_t idx) {
  void **other = wane_alloc(64);
  void **words = object;
  words[0] = other;
  other[0] = words;
  words[1] = words;
  with_note(object, 2 * idx);
  with_note(other, 2 * idx + 1);
}

/* A5. */
static void objects_in_cycles_die(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_cycle);
  test_settle();
  assert_most(notes_total(), 2 * MANY);
  notes_require_once(2 * MANY);
}

static struct wane_queue *queue;
static uintptr_t hidden[MANY];

static void with_queued_hidden(void *object, size_t idx) {
  weak_objects[idx] = wane_weak_make(object);
  handles[idx] = wane_add_cleanup_on(queue, object, note, note_tag(idx));
  hidden[idx] = test_hide(object);
}

/* A5: the cleanup waits, the memory does not. D5: and cannot be stopped. */
static void memory_is_free_before_the_cleanup_ran(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  assert_non_null(queue);
  test_make_with(MANY, NULL, with_queued_hidden);
  assert_dead(hidden, MANY);
  size_t dead = 0;
  for (size_t i = 0; i < MANY; i++) {
    if (wane_weak_value(weak_objects[i]) == NULL) {
      assert_false(wane_cleanup_stop(handles[i]));
      dead++;
    }
  }
  assert_most(dead, MANY);
  assert_int_equal(notes_total(), 0);
  assert_int_equal(wane_queue_run(queue, SIZE_MAX), dead);
  assert_int_equal(notes_total(), dead);
  wane_queue_free(queue);
}

static void ignore(void *object) { (void)object; }

static void with_finalizer_first(void *object, size_t idx) {
  weak_objects[idx] = wane_weak_make(object);
  wane_set_finalizer_on(queue, object, ignore);
  handles[idx] = wane_add_cleanup(object, note, note_tag(idx));
}

/* S1, X2: while its object's finalizer comes first, it is not queued. */
static void a_cleanup_behind_a_finalizer_can_be_stopped(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_finalizer_first);
  test_scrub();
  wane_collect();
  for (size_t i = 0; i < MANY; i += 2) {
    assert_true(wane_cleanup_stop(handles[i]));
  }
  assert_most(wane_queue_run(queue, SIZE_MAX), MANY);
  for (size_t i = 1; i < MANY; i += 4) {
    assert_true(wane_cleanup_stop(handles[i]));
  }
  assert_int_equal(notes_total(), 0);
  test_settle();
  assert_most(notes_total(), MANY / 4);
  wane_queue_free(queue);
}

static void with_arg_that_reaches(void *object, size_t idx) {
  void **arg = wane_alloc(16);
  void **far = wane_alloc(16);
  arg[0] = far;
  far[0] = (char *)object + 8;
  handles[idx] = wane_add_cleanup(object, note, arg);
}

/* A6. */
static void a_cleanup_whose_arg_reaches_the_object_never_runs(void **state) {
  (void)state;
  notes_begin();
  test_make_with(20, NULL, with_arg_that_reaches);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  assert_int_equal(notes_total(), 0);
  for (size_t i = 0; i < 20; i++) {
    assert_true(wane_cleanup_stop(handles[i]));
  }
}

static void note_null(void *arg) {
  require(arg == NULL);
  note(note_tag(0));
}

static void with_null_arg(void *object, size_t idx) {
  (void)idx;
  require(wane_add_cleanup(object, note_null, NULL).id != 0);
}

/* A8. Go: TestCleanupNilInterface. */
static void arg_may_be_null(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_null_arg);
  test_settle();
  assert_most(notes_total(), MANY);
}

static int static_number = 7;
static int static_zero[1000];
static const int static_const[4] = {1, 2, 3, 4};

/* A8, D2: never dies. Data of other modules also. */
static void static_data_is_accepted(void **state) {
  (void)state;
  const void *ptrs[] = {&static_number,   &static_zero[999], static_const,
                        &static_const[3], "a literal",       stdout};
  uint64_t before = test_stats().cleanups_registered;
  notes_begin();
  for (size_t i = 0; i < TEST_COUNT(ptrs); i++) {
    errno = 77;
    assert_int_equal(wane_add_cleanup(ptrs[i], note, note_tag(i)).id, 0);
    assert_int_equal(wane_add_cleanup(ptrs[i], note, NULL).id, 0);
    assert_int_equal(wane_add_cleanup_copy(ptrs[i], note, "x", 1).id, 0);
    assert_int_equal(errno, 77);
  }
  test_settle();
  assert_int_equal(notes_total(), 0);
  assert_int_equal(test_stats().cleanups_registered, before);
}

static _Thread_local int thread_local_number;

static void add_cleanup(void *ptr) { (void)wane_add_cleanup(ptr, note, NULL); }

static void add_copy(void *ptr) {
  (void)wane_add_cleanup_copy(ptr, note, NULL, 0);
}

static void add_net(void *ptr) { (void)wane_add_safety_net(ptr, note, NULL); }

static void add_on(void *ptr) {
  (void)wane_add_cleanup_on(queue, ptr, note, NULL);
}

/* D1: the function called is the one named. */
static void assert_all_fatal(void *ptr) {
  queue = wane_queue_new();
  assert_non_null(queue);
  test_assert_fatal_only("wane_add_cleanup", add_cleanup, ptr);
  test_assert_fatal_only("wane_add_cleanup_copy", add_copy, ptr);
  test_assert_fatal_only("wane_add_safety_net", add_net, ptr);
  test_assert_fatal_only("wane_add_cleanup_on", add_on, ptr);
  wane_queue_free(queue);
}

/* A7, A8, D2. */
static void other_memory_is_fatal(void **state) {
  (void)state;
  int local = 0;
  void *small = malloc(100);
  void *large = malloc(1 << 20);
  void *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void (*function)(void *) = add_cleanup;
  void *code;
  memcpy(&code, &function, sizeof code);
  assert_true(small != NULL && large != NULL && mapped != MAP_FAILED);
  assert_all_fatal(NULL);
  assert_all_fatal(&local);
  assert_all_fatal(small);
  assert_all_fatal((char *)large + 5000);
  assert_all_fatal(mapped);
  assert_all_fatal(&thread_local_number);
  assert_all_fatal(code);
  assert_all_fatal((void *)1);
  assert_all_fatal((void *)UINTPTR_MAX);
  free(small);
  free(large);
  munmap(mapped, 8192);
}

/* Memory of the heap where no object lives. */
static void dead_objects_are_fatal(void **state) {
  (void)state;
  test_make_hidden(hidden, MANY, test_make_small);
  assert_dead(hidden, MANY);
  for (size_t i = MANY; i-- > 0;) {
    if (wane_base(test_reveal(hidden[i])) == NULL) {
      test_assert_fatal_only("wane_add_cleanup", add_cleanup,
                             test_reveal(hidden[i]));
      return;
    }
  }
}

/* ptr, its offset, arg's offset */
static void add_with_inner_arg(void *arg) {
  const size_t *offsets = arg;
  char *object = wane_alloc(64);
  switch (offsets[2]) {
  case 0:
    (void)wane_add_cleanup(object + offsets[0], note, object + offsets[1]);
    break;
  case 1:
    (void)wane_add_safety_net(object + offsets[0], note, object + offsets[1]);
    break;
  default:
    queue = wane_queue_new();
    (void)wane_add_cleanup_on(queue, object + offsets[0], note,
                              object + offsets[1]);
  }
}

/* A7. Go: TestCleanupPointerEqualsArg, TestCleanupUnreachablePointer. */
static void an_arg_inside_the_object_is_fatal(void **state) {
  (void)state;
  static const char *const names[] = {"wane_add_cleanup", "wane_add_safety_net",
                                      "wane_add_cleanup_on"};
  static const size_t offsets[][2] = {{0, 0}, {0, 8}, {40, 1}, {5, 63}};
  for (size_t n = 0; n < TEST_COUNT(names); n++) {
    for (size_t i = 0; i < TEST_COUNT(offsets); i++) {
      size_t args[3] = {offsets[i][0], offsets[i][1], n};
      test_assert_fatal_only(names[n], add_with_inner_arg, args);
    }
  }
}

/* Which word, the offset in the object. */
static void add_with_inner_word(void *arg) {
  const size_t *args = arg;
  uintptr_t words[9] = {0};
  char *object = wane_alloc(args[2]);
  words[args[0]] = (uintptr_t)object + args[1];
  (void)wane_add_cleanup_copy(object + 3, note, words, sizeof words);
}

/* A7. Go: TestCleanupUnreachableClosure. */
static void a_word_of_the_copy_inside_the_object_is_fatal(void **state) {
  (void)state;
  static const size_t args[][3] = {
      {0, 0, 64}, {1, 5, 64}, {8, 63, 64}, {4, 99999, 100000}};
  for (size_t i = 0; i < TEST_COUNT(args); i++) {
    test_assert_fatal_only("wane_add_cleanup_copy", add_with_inner_word,
                           (void *)args[i]);
  }
}

static void add_null_fn(void *ptr) { (void)wane_add_cleanup(ptr, NULL, NULL); }

static void add_null_fn_copy(void *ptr) {
  (void)wane_add_cleanup_copy(ptr, NULL, "x", 1);
}

static void add_null_fn_net(void *ptr) {
  (void)wane_add_safety_net(ptr, NULL, NULL);
}

static void add_null_fn_on(void *ptr) {
  (void)wane_add_cleanup_on(wane_queue_new(), ptr, NULL, NULL);
}

static void add_null_args(void *ptr) {
  (void)wane_add_cleanup_copy(ptr, note, NULL, 1);
}

static void add_on_null_queue(void *ptr) {
  (void)wane_add_cleanup_on(NULL, ptr, note, NULL);
}

/* A7, D2: with static data also. */
static void null_is_fatal(void **state) {
  (void)state;
  void *object = wane_alloc(64);
  void *ptrs[] = {object, &static_number};
  for (size_t i = 0; i < 2; i++) {
    void *ptr = ptrs[i];
    test_assert_fatal_only("wane_add_cleanup", add_null_fn, ptr);
    test_assert_fatal_only("wane_add_cleanup_copy", add_null_fn_copy, ptr);
    test_assert_fatal_only("wane_add_safety_net", add_null_fn_net, ptr);
    test_assert_fatal_only("wane_add_cleanup_on", add_null_fn_on, ptr);
    test_assert_fatal_only("wane_add_cleanup_copy", add_null_args, ptr);
    test_assert_fatal_only("wane_add_cleanup_on", add_on_null_queue, ptr);
  }
}

/* The size that each copy has. */
static size_t copy_size(size_t idx) {
  return sizeof(uintptr_t) + idx % 7 * 40 + idx % 5 + (idx == 33 ? 100000 : 0);
}

static void take_copy(void *args) {
  uintptr_t tag;
  const unsigned char *bytes = args;
  require(((uintptr_t)args & 15) == 0);
  memcpy(&tag, bytes, sizeof tag);
  size_t idx = note_idx((void *)tag);
  for (size_t i = sizeof tag; i < copy_size(idx); i++) {
    require(bytes[i] == (unsigned char)(idx + i));
  }
  memset(args, 0xee, copy_size(idx)); /* it is the callback's own */
  note((void *)tag);
}

/* From an address that is not aligned. */
static void with_copy(void *object, size_t idx) {
  size_t size = copy_size(idx);
  unsigned char *bytes = malloc(size + 1);
  uintptr_t tag = (uintptr_t)note_tag(idx);
  require(bytes != NULL);
  memcpy(bytes + 1, &tag, sizeof tag);
  for (size_t i = sizeof tag; i < size; i++) {
    bytes[1 + i] = (unsigned char)(idx + i);
  }
  require(wane_add_cleanup_copy(object, take_copy, bytes + 1, size).id != 0);
  memset(bytes, 0xdd, size + 1);
  free(bytes);
}

static void a_copy_is_of_any_size_and_aligned(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_copy);
  test_settle();
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
}

static void take_nothing(void *args) {
  (void)args;
  note(note_tag(0));
}

static void with_empty_copy(void *object, size_t idx) {
  const void *args = idx % 2 == 0 ? NULL : "x";
  require(wane_add_cleanup_copy(object, take_nothing, args, 0).id != 0);
}

static void a_copy_may_be_empty(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_empty_copy);
  test_settle();
  assert_most(notes_total(), MANY);
}

struct copied {
  void *tag;
  uint64_t pad[5];
  void **held;
};

static void take_held(void *args) {
  struct copied *copied = args;
  require(wane_base(copied->held) == copied->held);
  require(copied->held[2] == (void *)~(uintptr_t)copied->tag);
  note(copied->tag);
}

static void with_held_copy(void *object, size_t idx) {
  struct copied copied = {.tag = note_tag(idx), .held = new_arg(idx)};
  handles[idx] =
      wane_add_cleanup_copy(object, take_held, &copied, sizeof copied);
  kept[idx] = object;
}

/* A4: what words of the copy point to lives until it ran or was stopped. */
static void what_a_copy_points_to_lives(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_held_copy);
  test_settle();
  assert_int_equal(args_alive(MANY), MANY);
  for (size_t i = 0; i < MANY; i += 2) {
    assert_true(wane_cleanup_stop(handles[i]));
  }
  test_settle();
  assert_in_range(args_alive(MANY), MANY / 2, MANY / 2 + 2 + MANY / 50);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_most(notes_total(), MANY / 2);
  test_settle();
  assert_in_range(args_alive(MANY), 0, 2 + MANY / 50);
}

#define LOST_THREADS 4
#define LOST_EACH 10000

static void *lost_thread(void *arg) {
  size_t first = (uintptr_t)arg * LOST_EACH;
  for (size_t i = 0; i < LOST_EACH; i++) {
    void *object = wane_alloc(16);
    with_note(object, first + i);
    wane_keep_alive(object);
  }
  test_scrub();
  return NULL;
}

/* Go: TestCleanupLost. None is lost, whatever the threads do at once. */
static void no_cleanup_is_lost(void **state) {
  (void)state;
  pthread_t threads[LOST_THREADS];
  struct wane_stats before = test_stats();
  notes_begin();
  for (size_t t = 0; t < LOST_THREADS; t++) {
    assert_int_equal(pthread_create(&threads[t], NULL, lost_thread, (void *)t),
                     0);
  }
  for (size_t t = 0; t < LOST_THREADS; t++) {
    pthread_join(threads[t], NULL);
  }
  test_settle();
  struct wane_stats after = test_stats();
  uint64_t all = LOST_THREADS * LOST_EACH;
  assert_int_equal(after.cleanups_registered - before.cleanups_registered, all);
  assert_in_range(notes_total(), all - 10, all);
  notes_require_once(all);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_cleanup_runs_once_after_its_object_died),
      cmocka_unit_test(a_cleanup_does_not_run_while_its_object_lives),
      cmocka_unit_test(objects_of_any_kind_may_have_cleanups),
      cmocka_unit_test(all_cleanups_of_an_object_run),
      cmocka_unit_test(one_object_may_have_thousands),
      cmocka_unit_test(a_stopped_cleanup_does_not_run),
      cmocka_unit_test(stopping_one_leaves_the_others),
      cmocka_unit_test(old_handles_are_harmless),
      cmocka_unit_test(stopping_what_is_no_cleanup_is_harmless),
      cmocka_unit_test(an_arg_lives_until_its_cleanup_has_run),
      cmocka_unit_test(the_arg_of_a_stopped_cleanup_is_let_go),
      cmocka_unit_test(objects_in_cycles_die),
      cmocka_unit_test(memory_is_free_before_the_cleanup_ran),
      cmocka_unit_test(a_cleanup_behind_a_finalizer_can_be_stopped),
      cmocka_unit_test(a_cleanup_whose_arg_reaches_the_object_never_runs),
      cmocka_unit_test(arg_may_be_null),
      cmocka_unit_test(static_data_is_accepted),
      cmocka_unit_test(other_memory_is_fatal),
      cmocka_unit_test(dead_objects_are_fatal),
      cmocka_unit_test(an_arg_inside_the_object_is_fatal),
      cmocka_unit_test(a_word_of_the_copy_inside_the_object_is_fatal),
      cmocka_unit_test(null_is_fatal),
      cmocka_unit_test(a_copy_is_of_any_size_and_aligned),
      cmocka_unit_test(a_copy_may_be_empty),
      cmocka_unit_test(what_a_copy_points_to_lives),
      cmocka_unit_test(no_cleanup_is_lost),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
