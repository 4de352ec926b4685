/* Where callbacks run, what they may do, and how they must not end; safety
   nets. A9, A10, A11, F7, D1. */
/* timeout: 240 */
#include "support/lives.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define MANY 300

static uint64_t gate; /* opened by 1 */
static uint64_t blocked;

/* The first comer waits at the gate; the rest are noted. */
static void block_or_note(void *tag) {
  if (test_add(&blocked) == 0) {
    while (test_get(&gate) == 0) {
      test_sleep_ms(1);
    }
  }
  note(tag);
}

static void with_blocking(void *object, size_t idx) {
  (void)wane_add_cleanup(object, block_or_note, note_tag(idx));
}

static void note_object(void *object) { note((void *)~*(uintptr_t *)object); }

static void with_finalizer(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(NOTES_MAX / 2 + idx);
  wane_set_finalizer(object, note_object);
}

static uint64_t notes_between(size_t first, size_t count) {
  uint64_t sum = 0;
  for (size_t i = first; i < first + count; i++) {
    sum += notes_of(i);
  }
  return sum;
}

static void until_between(size_t first, size_t count, uint64_t least) {
  double end = test_now() + (TEST_ASAN || TEST_TSAN ? 30 : 10);
  while (notes_between(first, count) < least) {
    assert_true(test_now() < end);
    test_sleep_ms(1);
  }
}

/* A9, F7. */
static void a_blocked_cleanup_ties_up_one_worker(void **state) {
  (void)state;
  notes_begin();
  test_set(&gate, 0);
  test_set(&blocked, 0);
  test_make_with(MANY, NULL, with_blocking);
  test_make_with(MANY, NULL, with_finalizer);
  wane_collect();
  until_between(0, MANY, MANY - MANY / 50 - 3);
  until_between(NOTES_MAX / 2, MANY, MANY - MANY / 50 - 2);
  uint64_t so_far = notes_between(0, MANY);
  assert_in_range(so_far, 0, MANY - 1);
  assert_false(wane_drain(20));
  test_set(&gate, 1);
  test_settle();
  assert_most(notes_between(0, MANY), MANY);
  notes_require_once(NOTES_MAX);
}

static void block_or_note_object(void *object) {
  block_or_note((void *)~*(uintptr_t *)object);
}

static void with_blocking_finalizer(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(NOTES_MAX / 2 + idx);
  wane_set_finalizer(object, block_or_note_object);
}

static void with_note(void *object, size_t idx) {
  (void)wane_add_cleanup(object, note, note_tag(idx));
}

/* F7: one thread for all finalizers, and cleanups never wait for it. */
static void a_blocked_finalizer_blocks_finalizers_alone(void **state) {
  (void)state;
  notes_begin();
  test_set(&gate, 0);
  test_set(&blocked, 0);
  test_make_with(MANY, NULL, with_blocking_finalizer);
  test_make_with(MANY, NULL, with_note);
  wane_collect();
  until_between(0, MANY, MANY - MANY / 50 - 2);
  test_sleep_ms(20);
  assert_int_equal(notes_between(NOTES_MAX / 2, MANY), 0);
  test_set(&gate, 1);
  test_settle();
  assert_most(notes_between(NOTES_MAX / 2, MANY), MANY);
}

static uint64_t inside;
static uint64_t met; /* 1: the first saw a second one */

static void meet(void *arg) {
  (void)arg;
  if (test_add(&inside) == 0 && test_until(&inside, 2)) {
    test_set(&met, 1);
  }
}

static void with_meeting(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup(object, meet, NULL);
}

/* A9. */
static void cleanups_run_at_the_same_time(void **state) {
  (void)state;
  test_set(&inside, 0);
  test_set(&met, 0);
  test_make_with(50, NULL, with_meeting);
  test_settle();
  assert_int_equal(test_get(&met), 1);
}

static pthread_t main_thread;

static uint64_t signals_open;

static void look_around(void *tag) {
  sigset_t set;
  static const int signals[] = {SIGINT,  SIGTERM, SIGHUP,  SIGUSR1, SIGUSR2,
                                SIGALRM, SIGCHLD, SIGPIPE, SIGPROF};
  require(!pthread_equal(pthread_self(), main_thread));
  require(pthread_sigmask(SIG_BLOCK, NULL, &set) == 0);
  for (size_t i = 0; i < TEST_COUNT(signals); i++) {
    if (sigismember(&set, signals[i]) != 1) {
      test_add(&signals_open);
    }
  }
  note(tag);
}

static void look_around_object(void *object) {
  look_around((void *)~*(uintptr_t *)object);
}

static void with_look(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  if (idx % 2 == 0) {
    (void)wane_add_cleanup(object, look_around, note_tag(idx));
  } else {
    wane_set_finalizer(object, look_around_object);
  }
}

/* The library's threads take no signal of the program. */
static void callbacks_run_on_threads_without_signals(void **state) {
  (void)state;
  notes_begin();
  main_thread = pthread_self();
  test_make_with(MANY, NULL, with_look);
  test_settle();
  assert_most(notes_total(), MANY);
  assert_int_equal(test_get(&signals_open), 0);
}

static pthread_t finalizer_thread;
static uint64_t finalizers_seen;
static uint64_t finalizers_inside;

static void one_at_a_time(void *object) {
  require(test_add(&finalizers_inside) == 0);
  if (test_add(&finalizers_seen) == 0) {
    finalizer_thread = pthread_self();
  }
  require(pthread_equal(finalizer_thread, pthread_self()));
  note_object(object);
  test_set(&finalizers_inside, 0);
}

static void with_one_at_a_time(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  wane_set_finalizer(object, one_at_a_time);
}

/* F7. */
static void finalizers_run_one_after_another_on_one_thread(void **state) {
  (void)state;
  notes_begin();
  test_make_with(2000, NULL, with_one_at_a_time);
  test_settle();
  assert_most(notes_total(), 2000);
}

struct seen {
  size_t idx;
  void *tag;
  uint64_t words[20];
  uint64_t late;
};

static void see(void *arg) {
  struct seen *seen = arg;
  for (size_t i = 0; i < TEST_COUNT(seen->words); i++) {
    require(seen->words[i] == seen->idx * 100 + i);
  }
  require(seen->late == ~(uint64_t)seen->idx);
  note(seen->tag);
  free(seen);
}

static void with_seen(void *object, size_t idx) {
  struct seen *seen = malloc(sizeof *seen);
  require(seen != NULL);
  seen->idx = idx;
  seen->tag = note_tag(idx);
  for (size_t i = 0; i < TEST_COUNT(seen->words); i++) {
    seen->words[i] = idx * 100 + i;
  }
  (void)wane_add_cleanup(object, see, seen);
  seen->late = ~(uint64_t)idx;
  wane_keep_alive(object);
}

/* A11: plain writes before the registration, and before keep_alive. */
static void what_happened_before_is_visible(void **state) {
  (void)state;
  notes_begin();
  test_make_with(2000, NULL, with_seen);
  test_settle();
  assert_most(notes_total(), 2000);
}

#define DEPTH 8

static void use_everything(void *arg);

/* A10: a new object with a cleanup that does the same, and all other calls. */
static TEST_NOINLINE void use_everything_inside(void *tag) {
  char *object = wane_alloc(64);
  char *other = wane_alloc(200);
  size_t depth = note_idx(tag);
  void *next = (char *)tag - 1;
  wane_weak weak = wane_weak_make(object + 5);
  wane_cleanup stopped = wane_add_cleanup(object, use_everything, NULL);
  require(wane_cleanup_stop(stopped) && !wane_cleanup_stop(stopped));
  if (depth > 0) {
    (void)wane_add_cleanup(object, use_everything, next);
    (void)wane_add_cleanup_copy(other, note, &next, sizeof next);
    wane_set_finalizer(other, use_everything);
    wane_set_finalizer(other, NULL);
  }
  if (depth % 3 == 0) {
    wane_collect();
  }
  require(wane_weak_value(weak) == object + 5);
  require(wane_base(object + 9) == object);
  wane_keep_alive(object);
  wane_keep_alive(other);
}

static void use_everything(void *tag) {
  require(note_idx(tag) <= DEPTH);
  use_everything_inside(tag);
  for (int i = 0; i < 200; i++) {
    memset(wane_alloc(100), 0xf7, 100);
  }
  test_scrub();
  note(tag);
}

static void with_everything(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup(object, use_everything, note_tag(DEPTH));
}

static void a_callback_may_do_almost_everything(void **state) {
  (void)state;
  notes_begin();
  test_make_with(20, NULL, with_everything);
  for (int i = 0; i < 100 && notes_of(0) < 18; i++) {
    test_settle();
  }
  assert_in_range(notes_of(0), 18, 20);
  for (size_t i = 1; i <= DEPTH; i++) {
    assert_in_range(notes_of(i), 18, 20);
  }
}

static wane_cleanup handles[MANY];

static void stop_all(void *tag) {
  size_t idx = note_idx(tag);
  require(!wane_cleanup_stop(handles[idx])); /* its own */
  for (size_t i = 0; i < MANY; i++) {
    (void)wane_cleanup_stop(handles[i]);
  }
  note(tag);
}

TEST_ROOT void *kept[MANY];

static void with_stop_all(void *object, size_t idx) {
  handles[idx] = wane_add_cleanup(object, stop_all, note_tag(idx));
  kept[idx] = idx == 0 ? NULL : object;
}

/* S1, A10: stopping from inside, oneself and those of live objects. */
static void a_cleanup_may_stop_others(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_stop_all);
  memset(&kept[1], 0, 19 * sizeof kept[0]);
  test_settle();
  uint64_t ran = notes_total();
  assert_in_range(ran, 1, 20);
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_in_range(notes_total(), ran, 20);
  notes_require_once(MANY);
}

/* ---- How callbacks must not end ---- */

static jmp_buf out;
static struct wane_queue *queue;

static uint64_t leavers;

/* Only the first, so that there is one line. */
static void leave_by_exit(void *arg) {
  (void)arg;
  if (test_add(&leavers) == 0) {
    pthread_exit(NULL);
  }
}

static void leave_by_cancel(void *arg) {
  (void)arg;
  if (test_add(&leavers) == 0) {
    pthread_cancel(pthread_self());
    pthread_testcancel();
    test_sleep_ms(1);
  }
}

static void leave_by_longjmp(void *arg) {
  (void)arg;
  longjmp(out, 1);
}

static void (*leave)(void *arg);

static void with_leaving(void *object, size_t idx) {
  (void)idx;
  if (queue != NULL) {
    (void)wane_add_cleanup_on(queue, object, leave, NULL);
  } else {
    (void)wane_add_cleanup(object, leave, NULL);
  }
}

static void with_leaving_finalizer(void *object, size_t idx) {
  (void)idx;
  if (queue != NULL) {
    wane_set_finalizer_on(queue, object, leave);
  } else {
    wane_set_finalizer(object, leave);
  }
}

static void run_leaving(const char *how) {
  leave = strchr(how, 'c') != NULL ? leave_by_cancel : leave_by_exit;
  queue = strchr(how, 'q') != NULL ? wane_queue_new() : NULL;
  test_make_with(20, NULL,
                 strchr(how, 'f') != NULL ? with_leaving_finalizer
                                          : with_leaving);
  wane_collect();
  if (queue != NULL) {
    (void)wane_queue_run(queue, 100);
  } else {
    (void)wane_drain(5000);
  }
}

/* A10. */
static void leaving_a_callback_by_its_threads_end_is_fatal(void **state) {
  (void)state;
  static const char *const how[] = {"e", "c", "fe", "fc", "qe", "qfc"};
  static struct test_child child;
  for (size_t i = 0; i < TEST_COUNT(how); i++) {
    test_exec("leaving", how[i], NULL, &child);
    test_assert_complains(&child);
  }
}

static void run_jumping(const char *arg) {
  leave = leave_by_longjmp;
  queue = wane_queue_new();
  test_make_with(20, NULL,
                 arg[0] == 'f' ? with_leaving_finalizer : with_leaving);
  wane_collect();
  if (setjmp(out) == 0) {
    (void)wane_queue_run(queue, 100);
    require(!"nothing ran");
  }
  wane_collect(); /* the library is not in the way of other things */
  require(wane_alloc(100) != NULL);
  (void)wane_queue_run(queue, 100);
}

/* A10, D1. */
static void leaving_a_callback_by_longjmp_is_noticed(void **state) {
  (void)state;
  static struct test_child child;
  test_exec("jumping", "", NULL, &child);
  test_assert_only_line(&child, "wane_queue_run");
  test_exec("jumping", "f", NULL, &child);
  test_assert_only_line(&child, "wane_queue_run");
}

/* ---- Safety nets ---- */

static int line_of_stopped;
static int line_of_needed;

static void with_net_stopped(void *object, size_t idx) {
  line_of_stopped = __LINE__ + 1;
  wane_cleanup net = wane_add_safety_net(object, note, note_tag(idx));
  require(net.id != 0);
  require(wane_cleanup_stop(net));
  wane_keep_alive(object);
}

static void with_net(void *object, size_t idx) {
  line_of_needed = __LINE__ + 1;
  require(wane_add_safety_net(object, note, note_tag(idx)).id != 0);
}

static void with_net_at(void *object, size_t idx) {
  (void)wane_add_safety_net_at(object, note, note_tag(idx), "other.c", 17);
}

static const struct wane_net *find_net(const struct wane_net *nets,
                                       size_t count, const char *file,
                                       int line) {
  for (size_t i = 0; i < count; i++) {
    if (nets[i].line == line && strcmp(nets[i].file, file) == 0) {
      return &nets[i];
    }
  }
  return NULL;
}

static void safety_nets_name_the_places_that_forget(void **state) {
  (void)state;
  struct wane_net nets[8];
  uint64_t before = test_stats().safety_nets_needed;
  assert_int_equal(wane_read_nets(NULL, 0), 0);
  notes_begin();
  test_make_with(MANY, NULL, with_net_stopped);
  test_make_with(MANY, NULL, with_net);
  test_make_with(100, NULL, with_net_at);
  test_settle();
  assert_int_equal(wane_read_nets(nets, 8), 3);
  const struct wane_net *stopped = find_net(nets, 3, __FILE__, line_of_stopped);
  const struct wane_net *needed = find_net(nets, 3, __FILE__, line_of_needed);
  const struct wane_net *other = find_net(nets, 3, "other.c", 17);
  assert_true(stopped != NULL && needed != NULL && other != NULL);
  assert_int_equal(stopped->registered, MANY);
  assert_int_equal(stopped->needed, 0);
  assert_int_equal(needed->registered, MANY);
  assert_most(needed->needed, MANY);
  assert_int_equal(other->registered, 100);
  assert_most(other->needed, 100);
  assert_int_equal(needed->needed + other->needed, notes_total());
  assert_int_equal(test_stats().safety_nets_needed - before, notes_total());
  assert_ptr_equal(needed, &nets[0]); /* most needed first */
  assert_ptr_equal(stopped, &nets[2]);
  struct wane_net first[2] = {{0}};
  assert_int_equal(wane_read_nets(first, 1), 3);
  assert_int_equal(first[0].line, line_of_needed);
  assert_null(first[1].file);
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"leaving", run_leaving},
      {"jumping", run_jumping},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(safety_nets_name_the_places_that_forget),
      cmocka_unit_test(a_blocked_cleanup_ties_up_one_worker),
      cmocka_unit_test(a_blocked_finalizer_blocks_finalizers_alone),
      cmocka_unit_test(cleanups_run_at_the_same_time),
      cmocka_unit_test(callbacks_run_on_threads_without_signals),
      cmocka_unit_test(finalizers_run_one_after_another_on_one_thread),
      cmocka_unit_test(what_happened_before_is_visible),
      cmocka_unit_test(a_callback_may_do_almost_everything),
      cmocka_unit_test(a_cleanup_may_stop_others),
      cmocka_unit_test(leaving_a_callback_by_its_threads_end_is_fatal),
      cmocka_unit_test(leaving_a_callback_by_longjmp_is_noticed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
