/* Finalizers. F1-F6, D2, D6, X1, X2. Their thread is in callbacks.c. */
/* timeout: 240 */
#include "support/lives.h"

#include <sys/mman.h>

#define MANY 300

struct node {
  uint64_t tag; /* ~note_tag(idx): not an address */
  struct node *next;
  uint64_t canary;
  uint64_t pad;
};
WANE_TYPE(node_type, struct node, next);

#define CANARY 0xc0ffee1122334455ull

static uint64_t hidden_tag(size_t idx) {
  return ~(uint64_t)(uintptr_t)note_tag(idx);
}

static struct node *node_new(size_t idx, struct node *next) {
  struct node *node =
      idx % 2 == 0 ? wane_alloc(sizeof *node) : wane_alloc_typed(&node_type, 1);
  require(node != NULL);
  node->tag = hidden_tag(idx);
  node->next = next;
  node->canary = CANARY;
  return node;
}

static void *node_tag(const struct node *node) {
  require(node->canary == CANARY);
  return (void *)(uintptr_t)~node->tag;
}

static size_t node_idx(const struct node *node) {
  return note_idx(node_tag(node));
}

static void *make_node(size_t idx) { return node_new(idx, NULL); }

static void note_node(void *object) {
  require(wane_base(object) == object); /* D6 */
  note(node_tag(object));
}

static void with_finalizer(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer(object, note_node);
}

/* F1. Go: TestFinalizerType. */
static void a_finalizer_runs_once_with_its_object(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_node, with_finalizer);
  test_settle();
  assert_most(notes_total(), MANY);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  notes_require_once(MANY);
}

TEST_ROOT void *kept[MANY];

static void with_finalizer_kept(void *object, size_t idx) {
  with_finalizer(object, idx);
  kept[idx] = (char *)object + idx % sizeof(struct node);
}

static void a_finalizer_does_not_run_while_its_object_lives(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_node, with_finalizer_kept);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  assert_int_equal(notes_total(), 0);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_most(notes_total(), MANY);
}

#define LENGTH 1000

static void note_list(void *object) {
  size_t idx = node_idx(object);
  size_t length = 0;
  for (const struct node *node = object; node != NULL; node = node->next) {
    require(node_idx(node) == idx && wane_base(node) == node);
    length++;
  }
  require(length == LENGTH);
  note(node_tag(object));
}

static void *make_list(size_t idx) {
  struct node *node = NULL;
  for (size_t i = 0; i < LENGTH; i++) {
    node = node_new(idx, node);
  }
  return node;
}

static void with_list_finalizer(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer(object, note_list);
}

/* F1, F3: what it reaches is whole, too. */
static void what_a_dead_object_reaches_is_alive_for_the_call(void **state) {
  (void)state;
  notes_begin();
  test_make_with(60, make_list, with_list_finalizer);
  test_settle();
  assert_most(notes_total(), 60);
}

static uint64_t wrong_sizes;

/* The first word has the index, if there is one; the last word also. */
static void note_any(void *object) {
  size_t size = wane_size(object);
  const uint64_t *words = object;
  require(wane_base(object) == object && size >= 16);
  uint64_t last;
  memcpy(&last, (char *)object + size - sizeof last, sizeof last);
  if (last != words[0]) {
    test_add(&wrong_sizes);
  }
  note((void *)(uintptr_t)~words[0]);
}

static const size_t any_sizes[] = {16,    32,    48,     100,    1000,
                                   10000, 33000, 200000, 1 << 20};

static void *make_any(size_t idx) {
  size_t size = any_sizes[idx % TEST_COUNT(any_sizes)];
  void *object = idx / TEST_COUNT(any_sizes) % 3 == 0 ? wane_alloc_leaf(size)
                                                      : wane_alloc(size);
  require(object != NULL);
  uint64_t tag = hidden_tag(idx);
  memcpy(object, &tag, sizeof tag);
  memcpy((char *)object + wane_size(object) - sizeof tag, &tag, sizeof tag);
  return object;
}

static void with_any_finalizer(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer(object, note_any);
}

/* F1. Go: TestFinalizerInterfaceBig, tinyfin.go. */
static void objects_of_any_size_may_have_finalizers(void **state) {
  (void)state;
  uint64_t before = test_live_bytes();
  notes_begin();
  test_make_with(MANY, make_any, with_any_finalizer);
  test_settle();
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
  assert_int_equal(test_get(&wrong_sizes), 0);
  test_settle(); /* F5: now the memory comes back */
  assert_in_range(test_live_bytes(), 0, before + (6 << 20));
}

static void *make_empty(size_t idx) {
  (void)idx;
  return wane_alloc(0);
}

static void note_empty(void *object) {
  require(wane_base(object) == object);
  note(note_tag(0));
}

static void with_empty_finalizer(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer(object, note_empty);
}

/* Go: TestFinalizerZeroSizedStruct. */
static void empty_objects_may_have_finalizers(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_empty, with_empty_finalizer);
  test_settle();
  assert_most(notes_total(), MANY);
}

static void with_cleared(void *object, size_t idx) {
  wane_set_finalizer(object, NULL); /* none: fine */
  wane_set_finalizer(object, note_node);
  wane_set_finalizer(object, NULL);
  wane_set_finalizer(object, NULL);
  if (idx % 2 == 0) {
    wane_set_finalizer(object, note_node);
  }
}

/* F2. */
static void a_cleared_finalizer_does_not_run(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_node, with_cleared);
  test_settle();
  assert_most(notes_total(), MANY / 2);
  for (size_t i = 1; i < MANY; i += 2) {
    assert_int_equal(notes_of(i), 0);
  }
}

static int static_number = 3;
static const char static_text[] = "text";

/* F2. Go: TestFinalizerOnGlobal. */
static void static_data_is_ignored(void **state) {
  (void)state;
  uint64_t before = test_stats().finalizers_registered;
  void *ptrs[] = {&static_number, (void *)static_text, (void *)"literal"};
  errno = 77;
  for (int i = 0; i < 2; i++) {
    for (size_t p = 0; p < TEST_COUNT(ptrs); p++) {
      wane_set_finalizer(ptrs[p], note_node);
      wane_set_finalizer(ptrs[p], note_node);
      wane_set_finalizer(ptrs[p], NULL);
      wane_set_finalizer((char *)ptrs[p] + 1, note_node);
    }
  }
  assert_int_equal(errno, 77);
  assert_int_equal(test_stats().finalizers_registered, before);
}

static void set(void *object) { wane_set_finalizer(object, note_node); }
static void clear(void *object) { wane_set_finalizer(object, NULL); }
static void set_on(void *object) {
  wane_set_finalizer_on(wane_queue_new(), object, note_node);
}
static void clear_on(void *object) {
  wane_set_finalizer_on(wane_queue_new(), object, NULL);
}
static void set_on_null(void *object) {
  wane_set_finalizer_on(NULL, object, note_node);
}
static void clear_on_null(void *object) {
  wane_set_finalizer_on(NULL, object, NULL);
}

static void assert_all_fatal(void *object) {
  test_assert_fatal_only("wane_set_finalizer", set, object);
  test_assert_fatal_only("wane_set_finalizer", clear, object);
  test_assert_fatal_only("wane_set_finalizer_on", set_on, object);
  test_assert_fatal_only("wane_set_finalizer_on", clear_on, object);
}

static _Thread_local int thread_local_number;

/* F2, D1, D2. */
static void what_is_no_object_is_fatal(void **state) {
  (void)state;
  int local = 0;
  void *small = malloc(100);
  void *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(small != NULL && mapped != MAP_FAILED);
  assert_all_fatal(NULL);
  assert_all_fatal(&local);
  assert_all_fatal(small);
  assert_all_fatal(mapped);
  assert_all_fatal(&thread_local_number);
  char *object = wane_alloc(100);
  char *large = wane_alloc(100000);
  assert_all_fatal(object + 1);
  assert_all_fatal(object + 96);
  assert_all_fatal(large + 65536);
  test_assert_fatal_only("wane_set_finalizer_on", set_on_null, object);
  test_assert_fatal_only("wane_set_finalizer_on", clear_on_null, object);
  free(small);
  munmap(mapped, 8192);
}

/* F2. */
static void a_second_finalizer_is_fatal(void **state) {
  (void)state;
  void *object = node_new(0, NULL);
  wane_set_finalizer(object, note_node);
  test_assert_fatal_only("wane_set_finalizer", set, object);
  test_assert_fatal_only("wane_set_finalizer_on", set_on, object);
  static struct test_child child;
  test_fork(set, object, &child);
  assert_non_null(strstr(child.text, "finalizer already set"));
  wane_set_finalizer(object, NULL);
}

/* ---- Order ---- */

#define CHAINS 40
#define CHAIN 12

static void note_chain(void *object) {
  size_t idx = node_idx(object);
  require(idx % CHAIN == 0 || notes_of(idx - 1) == 1 ||
          !note_is_fresh(node_tag(object)));
  note(node_tag(object));
}

/* The head, at index 0 of its chain, points to 1, and so on. */
static void *make_chain(size_t idx) {
  struct node *node = NULL;
  for (size_t i = CHAIN; i-- > 0;) {
    node = node_new(idx * CHAIN + i, node);
    wane_set_finalizer(node, note_chain);
  }
  return node;
}

static void with_nothing(void *object, size_t idx) {
  (void)object;
  (void)idx;
}

/* F3, F5: N cycles for N. Go: tinyfin.go, mallocfin.go. */
static void a_chain_of_n_takes_n_cycles(void **state) {
  (void)state;
  notes_begin();
  uint64_t before = test_stats().cycles_full;
  test_make_with(CHAINS, make_chain, with_nothing);
  for (size_t i = 0; i < CHAIN; i++) {
    test_settle();
    uint64_t cycles = test_stats().cycles_full - before;
    for (size_t n = cycles; n < CHAIN; n++) { /* at most one per cycle */
      for (size_t c = 0; c < CHAINS; c++) {
        assert_int_equal(notes_of(c * CHAIN + n), 0);
      }
    }
  }
  assert_in_range(notes_total(), CHAINS * CHAIN * 9 / 10, CHAINS * CHAIN);
  notes_require_once(CHAINS * CHAIN);
}

/* Bs have the second half of the indices; As of some are cleared. */
static void note_b(void *object) {
  size_t idx = node_idx(object) - MANY;
  require(idx % 5 == 0 || notes_of(idx) == 1 ||
          !note_is_fresh(node_tag(object)));
  note(node_tag(object));
}

static void *make_pair(size_t idx) {
  struct node *b = node_new(MANY + idx, NULL);
  struct node *a = node_new(idx, b);
  wane_set_finalizer(a, note_node);
  wane_set_finalizer(b, note_b);
  if (idx % 5 == 0) {
    wane_set_finalizer(a, NULL);
  }
  return a;
}

/* Go: mallocfin.go. */
static void of_a_to_b_a_is_first(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_pair, with_nothing);
  for (int i = 0; i < 3; i++) {
    test_settle();
  }
  for (size_t i = 0; i < MANY; i += 5) {
    assert_int_equal(notes_of(i), 0);
  }
  assert_most(notes_total(), MANY / 5 * 4 + MANY);
  notes_require_once(2 * MANY);
}

static wane_weak weak[2 * MANY];
static wane_cleanup cleanups[MANY];
TEST_ROOT uintptr_t hidden[MANY];

static void *make_cycle(size_t idx) {
  struct node *b = node_new(MANY + idx, NULL);
  struct node *a = node_new(idx, b);
  b->next = a;
  wane_set_finalizer(a, note_node);
  weak[2 * idx] = wane_weak_make(a);
  weak[2 * idx + 1] = wane_weak_make(b);
  cleanups[idx] = wane_add_cleanup(b, note, note_tag(MANY + idx));
  hidden[idx] = test_hide(a);
  return a;
}

/* F4: until the finalizer is cleared. */
static void a_cycle_with_a_finalizer_never_dies(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_cycle, with_nothing);
  for (int i = 0; i < 3; i++) {
    test_settle();
    assert_alive(hidden, MANY);
  }
  assert_int_equal(notes_total(), 0);
  for (size_t i = 0; i < 2 * MANY; i++) {
    assert_non_null(wane_weak_value(weak[i]));
  }
  for (size_t i = 0; i < MANY; i++) {
    wane_set_finalizer(test_reveal(hidden[i]), NULL);
  }
  test_settle();
  assert_dead(hidden, MANY);
  assert_most(notes_total(), MANY);
}

struct selfish {
  uint64_t tag;
  void *self[3];
};
WANE_TYPE(selfish_type, struct selfish, self[0], self[1], self[2]);

static const size_t selfish_counts[] = {1, 2, 30, 1000, 5000, 40000};

static void note_selfish(void *object) {
  const struct selfish *selfish = object;
  require(selfish->self[0] == object);
  note((void *)(uintptr_t)~selfish->tag);
}

/* To the beginning, the middle and the end; from all parts. */
static void *make_selfish(size_t idx) {
  size_t count = selfish_counts[idx % TEST_COUNT(selfish_counts)];
  struct selfish *array = idx / TEST_COUNT(selfish_counts) % 2 == 0
                              ? wane_alloc(count * sizeof *array)
                              : wane_alloc_typed(&selfish_type, count);
  require(array != NULL);
  array[0].tag = hidden_tag(idx);
  for (size_t i = 0; i < count; i++) {
    array[i].self[0] = array;
    array[i].self[1] = &array[count - 1 - i].self[2];
    array[i].self[2] = (char *)&array[count] - 1;
  }
  return array;
}

static void with_selfish_finalizer(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer(object, note_selfish);
}

/* F4, with objects beyond 128 KiB, of words and typed. */
static void pointers_to_itself_do_not_keep_an_object(void **state) {
  (void)state;
  notes_begin();
  test_make_with(120, make_selfish, with_selfish_finalizer);
  test_settle();
  assert_most(notes_total(), 120);
  notes_require_once(120);
}

/* Large ones that others point to from the middle are held all the same. */
static void *make_selfish_chain(size_t idx) {
  struct selfish *first = make_selfish(idx);
  struct selfish *second = make_selfish(idx + MANY);
  size_t count = wane_size(first) / sizeof *first;
  first[count / 2].self[1] = &second[0].self[2];
  wane_set_finalizer(first, note_selfish);
  wane_set_finalizer(second, note_selfish);
  return first;
}

/* F3 with F4. */
static void objects_with_pointers_to_themselves_die_in_order(void **state) {
  (void)state;
  notes_begin();
  uint64_t before = test_stats().cycles_full;
  test_make_with(60, make_selfish_chain, with_nothing);
  test_settle();
  for (size_t i = 0; i < 60; i++) {
    assert_true(notes_of(i) >= notes_of(MANY + i));
  }
  if (test_stats().cycles_full == before + 1) {
    assert_most(notes_total(), 60);
  }
  test_settle();
  test_settle();
  assert_most(notes_total(), 120);
}

/* ---- Resurrection ---- */

TEST_ROOT struct node *stored[MANY];

static void store(void *object) {
  size_t idx = node_idx(object);
  if (note_is_fresh(node_tag(object))) {
    __atomic_store_n(&stored[idx], object, __ATOMIC_SEQ_CST);
  }
  note(node_tag(object));
}

static void with_store(void *object, size_t idx) {
  wane_set_finalizer(object, store);
  weak[idx] = wane_weak_make(object);
}

/* F6: it lives on, without a finalizer; W4: old weak pointers stay NULL. */
static void a_finalizer_may_store_its_object(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_node, with_store);
  test_settle();
  uint64_t ran = notes_total();
  assert_most(ran, MANY);
  for (int i = 0; i < 3; i++) {
    test_settle();
    for (size_t n = 0; n < MANY; n++) {
      if (notes_of(n) == 1) {
        assert_int_equal(node_idx(stored[n]), n);
        assert_ptr_equal(wane_base(stored[n]), stored[n]);
        assert_null(wane_weak_value(weak[n]));
        assert_true(wane_weak_make(stored[n]).id != weak[n].id);
      }
    }
  }
  for (size_t n = 0; n < MANY; n++) {
    hidden[n] = test_hide(stored[n]);
  }
  memset(stored, 0, sizeof stored);
  test_settle();
  assert_dead(hidden, MANY);
  notes_require_once(MANY);
}

#define ARMED 4

/* Sets itself again until it ran so often. */
static void arm_again(void *object) {
  struct node *node = object;
  note(node_tag(node));
  if (++node->pad < ARMED) {
    wane_set_finalizer(object, arm_again);
  }
}

static void check_armed(void *tag) {
  size_t idx = note_idx(tag) - MANY;
  require(!note_is_fresh(tag) ||
          (notes_of(idx) == ARMED && wane_weak_value(weak[idx]) == NULL));
  note(tag);
}

static void with_arm_again(void *object, size_t idx) {
  weak[idx] = wane_weak_make(object);
  wane_set_finalizer(object, arm_again);
  (void)wane_add_cleanup(object, check_armed, note_tag(MANY + idx));
}

/* F6, X2: cleanups come at the first death without a finalizer. Go:
   TestCleanupAfterFinalizer. */
static void a_finalizer_may_be_set_again_by_itself(void **state) {
  (void)state;
  notes_begin();
  uint64_t before = test_stats().cycles_full;
  test_make_with(MANY, make_node, with_arm_again);
  for (uint64_t i = 1; i <= ARMED; i++) {
    test_settle();
    uint64_t cycles = test_stats().cycles_full - before;
    for (size_t n = 0; n < MANY; n++) {
      assert_in_range(notes_of(n), 0, cycles);
      assert_true(cycles > ARMED || notes_of(MANY + n) == 0);
    }
  }
  test_settle();
  assert_most(notes_total(), (ARMED + 1) * MANY);
  for (size_t n = 0; n < MANY; n++) {
    assert_true(notes_of(n) <= ARMED && notes_of(MANY + n) <= 1);
  }
}

static struct wane_queue *queue;

static void with_queued(void *object, size_t idx) {
  wane_set_finalizer_on(queue, object, note_node);
  hidden[idx] = test_hide(object);
}

/* D6, F5: queued is live, however many cycles; then not. */
static void an_object_whose_finalizer_waits_is_live(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, make_node, with_queued);
  for (int i = 0; i < 3; i++) {
    assert_alive(hidden, MANY);
  }
  for (size_t i = 0; i < MANY; i++) {
    assert_int_equal(node_idx(test_reveal(hidden[i])), i);
  }
  size_t ran = wane_queue_run(queue, SIZE_MAX);
  assert_most(ran, MANY);
  assert_int_equal(notes_total(), ran);
  test_scrub();
  assert_dead(hidden, MANY);
  assert_int_equal(wane_queue_run(queue, SIZE_MAX), 0);
  wane_queue_free(queue);
}

static uint64_t early;

static void note_armed_queued(void *object) {
  void *tag = node_tag(object);
  if (note_is_fresh(tag) && wane_weak_value(weak[note_idx(tag)]) != NULL) {
    test_add(&early);
  }
  wane_set_finalizer(object, NULL); /* it has none: fine */
  note(tag);
}

static void with_weak_and_finalizer(void *object, size_t idx) {
  wane_set_finalizer(object, note_armed_queued);
  weak[idx] = wane_weak_make((char *)object + 9);
}

/* X1, W4. */
static void weak_pointers_are_null_in_the_finalizer(void **state) {
  (void)state;
  notes_begin();
  test_make_with(2 * MANY, make_node, with_weak_and_finalizer);
  test_settle();
  assert_most(notes_total(), 2 * MANY);
  assert_int_equal(test_get(&early), 0);
}

/* ---- Keeping alive ---- */

/* Go: TestEmptySlice, gcstring.go. One past the end of one may be the
   beginning of the next, which is kept, but not the object itself. */
static void with_pointer_past_the_end(void *object, size_t idx) {
  if (idx % 2 == 0) {
    wane_set_finalizer(object, note_node);
    kept[idx] = (char *)object + wane_size(object);
  }
}

static void *make_beside(size_t idx) {
  struct node *node = wane_alloc(sizeof *node);
  node->tag = hidden_tag(idx);
  node->canary = CANARY;
  return node;
}

static void a_pointer_past_the_end_keeps_nothing_alive(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_beside, with_pointer_past_the_end);
  test_settle();
  assert_in_range(notes_total(), MANY / 2 * 3 / 4, MANY / 2);
  memset(kept, 0, sizeof kept);
}

static void keep(void *object) { wane_keep_alive(object); }

static void held_to_the_end_of_the_scope(void *arg) {
  size_t idx = *(size_t *)arg;
  struct node *node = node_new(idx, NULL);
  wane_set_finalizer(node, note_node);
  WANE_DEFER(keep, node);
  for (int i = 0; i < 3; i++) {
    test_settle();
    require(notes_of(idx) == 0);
  }
}

/* Go: TestDeferKeepAlive. */
static void a_deferred_use_keeps_alive(void **state) {
  (void)state;
  notes_begin();
  for (size_t i = 0; i < 5; i++) {
    test_apart(held_to_the_end_of_the_scope, &i);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_finalizer_runs_once_with_its_object),
      cmocka_unit_test(a_finalizer_does_not_run_while_its_object_lives),
      cmocka_unit_test(what_a_dead_object_reaches_is_alive_for_the_call),
      cmocka_unit_test(objects_of_any_size_may_have_finalizers),
      cmocka_unit_test(empty_objects_may_have_finalizers),
      cmocka_unit_test(a_cleared_finalizer_does_not_run),
      cmocka_unit_test(static_data_is_ignored),
      cmocka_unit_test(what_is_no_object_is_fatal),
      cmocka_unit_test(a_second_finalizer_is_fatal),
      cmocka_unit_test(a_chain_of_n_takes_n_cycles),
      cmocka_unit_test(of_a_to_b_a_is_first),
      cmocka_unit_test(a_cycle_with_a_finalizer_never_dies),
      cmocka_unit_test(pointers_to_itself_do_not_keep_an_object),
      cmocka_unit_test(objects_with_pointers_to_themselves_die_in_order),
      cmocka_unit_test(a_finalizer_may_store_its_object),
      cmocka_unit_test(a_finalizer_may_be_set_again_by_itself),
      cmocka_unit_test(an_object_whose_finalizer_waits_is_live),
      cmocka_unit_test(weak_pointers_are_null_in_the_finalizer),
      cmocka_unit_test(a_pointer_past_the_end_keeps_nothing_alive),
      cmocka_unit_test(a_deferred_use_keeps_alive),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
