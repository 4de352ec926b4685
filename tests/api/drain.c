/* Waiting for callbacks, stopping, and the numbers. G1, G2, G3, A12, D4. */
/* timeout: 240 */
#include "support/lives.h"

#include <pthread.h>
#include <unistd.h>

#define MANY 300

static uint64_t gates[2];    /* 1: open */
static uint64_t arrivals[2]; /* callbacks that came to it */

static void collect(void) {
  test_scrub();
  wane_collect();
}

static void close_gates(void) {
  for (size_t i = 0; i < 2; i++) {
    test_set(&gates[i], 0);
    test_set(&arrivals[i], 0);
  }
}

/* The first to come to a gate waits there. */
static void wait_at(void *arg) {
  uintptr_t gate = (uintptr_t)arg;
  bool first = test_add(&arrivals[gate]) == 0;
  while (first && test_get(&gates[gate]) == 0) {
    test_sleep_ms(1);
  }
}

static uintptr_t with_gate;

static void with_wait(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup(object, wait_at, (void *)with_gate);
}

/* Returns when one waits at the gate. */
static void block_at(uintptr_t gate) {
  with_gate = gate;
  test_make_with(20, NULL, with_wait);
  collect();
  assert_true(test_until(&arrivals[gate], 1));
}

static void draining_nothing_is_done_at_once(void **state) {
  (void)state;
  errno = 77;
  assert_true(wane_drain(0));
  assert_true(wane_drain(-1));
  assert_true(wane_drain(1000));
  assert_int_equal(errno, 77);
}

/* D4. */
static void draining_gives_up_in_time(void **state) {
  (void)state;
  close_gates();
  block_at(0);
  assert_false(wane_drain(0));
  double begin = test_now();
  assert_false(wane_drain(100));
  assert_true(test_now() - begin >= 0.099);
  test_set(&gates[0], 1);
  assert_true(wane_drain(-1));
}

static uint64_t drained;

static void *drain(void *arg) {
  require(wane_drain(-1));
  test_set(&drained, 1);
  return arg;
}

/* Not for what was queued after the call. */
static void draining_waits_for_what_was_queued_before(void **state) {
  (void)state;
  pthread_t thread;
  close_gates();
  test_set(&drained, 0);
  block_at(0);
  assert_int_equal(pthread_create(&thread, NULL, drain, NULL), 0);
  test_sleep_ms(100); /* it has begun */
  block_at(1);
  assert_int_equal(test_get(&drained), 0);
  test_set(&gates[0], 1);
  assert_true(test_until(&drained, 1));
  pthread_join(thread, NULL);
  assert_false(wane_drain(20));
  test_set(&gates[1], 1);
  assert_true(wane_drain(-1));
}

static void note_slowly(void *tag) {
  test_sleep_ms(1);
  note(tag);
}

static void note_object(void *object) {
  test_sleep_ms(1);
  note((void *)~*(uintptr_t *)object);
}

static void with_either(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  if (idx % 2 == 0) {
    (void)wane_add_cleanup(object, note_slowly, note_tag(idx));
  } else {
    wane_set_finalizer(object, note_object);
  }
}

/* Both kinds have returned, not only begun. */
static void after_draining_all_have_run(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    notes_begin();
    test_make_with(MANY, NULL, with_either);
    collect();
    assert_true(wane_drain(-1));
    assert_most(notes_total(), MANY);
    uint64_t now = notes_total();
    test_sleep_ms(5);
    assert_int_equal(notes_total(), now);
  }
}

static void *drain_often(void *arg) {
  for (int i = 0; i < 100; i++) {
    require(wane_drain(-1));
    if (i % 10 == 0) {
      wane_collect();
    }
  }
  return arg;
}

static void threads_may_drain_at_once(void **state) {
  (void)state;
  pthread_t threads[3];
  for (size_t t = 0; t < 3; t++) {
    assert_int_equal(pthread_create(&threads[t], NULL, drain_often, NULL), 0);
  }
  for (int i = 0; i < 3; i++) {
    notes_begin();
    test_make_with(MANY, NULL, with_either);
  }
  for (size_t t = 0; t < 3; t++) {
    pthread_join(threads[t], NULL);
  }
}

/* ---- What would wait for itself ---- */

static uint64_t calls;

/* Only the first, so that there is one line. */
static void call_drain(void *arg) {
  (void)arg;
  if (test_add(&calls) == 0) {
    (void)wane_drain(0);
  }
}
static void call_shutdown(void *arg) {
  (void)arg;
  if (test_add(&calls) == 0) {
    wane_shutdown(0);
  }
}
static void call_shutdown_run(void *arg) {
  (void)arg;
  if (test_add(&calls) == 0) {
    wane_shutdown(WANE_RUN_CLEANUPS);
  }
}

static void (*call)(void *arg);
static struct wane_queue *queue;

static void with_call(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup(object, call, NULL);
}
static void with_call_finalizer(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer(object, call);
}
static void with_call_on(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup_on(queue, object, call, NULL);
}
static void with_call_finalizer_on(void *object, size_t idx) {
  (void)idx;
  wane_set_finalizer_on(queue, object, call);
}

static void call_inside(void *arg) {
  void (*with)(void *object, size_t idx);
  memcpy(&with, arg, sizeof with);
  queue = wane_queue_new();
  test_make_with(20, NULL, with);
  wane_collect();
  (void)wane_queue_run(queue, SIZE_MAX);
  (void)wane_drain(5000);
}

static void waiting_inside_a_callback_is_fatal(void **state) {
  (void)state;
  static void (*const with[])(void *, size_t) = {
      with_call, with_call_finalizer, with_call_on, with_call_finalizer_on};
  for (size_t i = 0; i < TEST_COUNT(with); i++) {
    call = call_drain;
    test_assert_fatal_only("wane_drain", call_inside, (void *)&with[i]);
    call = call_shutdown;
    test_assert_fatal_only("wane_shutdown", call_inside, (void *)&with[i]);
    call = call_shutdown_run;
    test_assert_fatal_only("wane_shutdown", call_inside, (void *)&with[i]);
  }
}

static void shut_down_with(void *flags) { wane_shutdown(*(unsigned *)flags); }

static void unknown_flags_are_fatal(void **state) {
  (void)state;
  unsigned flags[] = {2, 3, 4, 1u << 31, UINT32_MAX};
  for (size_t i = 0; i < TEST_COUNT(flags); i++) {
    test_assert_fatal_only("wane_shutdown", shut_down_with, &flags[i]);
  }
}

/* ---- Shutting down ---- */

TEST_ROOT void *kept[MANY];

static void with_either_kept(void *object, size_t idx) {
  with_either(object, idx);
  kept[idx] = object;
}

/* What is queued runs, what is registered does not; the next registration
   starts the threads again. */
static void shutting_down_stops_the_threads_only(void **state) {
  (void)state;
  wane_shutdown(0);
  for (int i = 0; i < 3; i++) {
    notes_begin();
    test_make_with(MANY, NULL, with_either);
    collect();
    wane_shutdown(0);
    assert_most(notes_total(), MANY);
    wane_shutdown(0);
    assert_true(wane_drain(1000));
    notes_begin();
    test_make_with(MANY, NULL, with_either_kept);
    collect();
    wane_shutdown(0);
    assert_int_equal(notes_total(), 0);
    memset(kept, 0, sizeof kept);
    test_settle();
  }
}

/* What dies after a shutdown is not lost either. */
static void what_dies_after_a_shutdown_runs(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, NULL, with_either_kept);
  wane_shutdown(0);
  memset(kept, 0, sizeof kept);
  collect();
  void *object = wane_alloc(16); /* a registration at the latest */
  (void)wane_add_cleanup(object, note, NULL);
  assert_true(wane_drain(10000));
  assert_most(notes_total(), MANY);
}

static uint64_t callbacks_begun;
static uint64_t finalizers_done;
static uint64_t cleanups_done;
static uint64_t queued_done;
static pthread_t main_thread;
static wane_weak weak[MANY];

static void run_in_shutdown(void) {
  require(pthread_equal(main_thread, pthread_self()));
  test_add(&callbacks_begun);
  for (size_t i = 0; i < MANY; i++) {
    require(wane_weak_value(weak[i]) == NULL);
  }
  void *object = wane_alloc(32); /* not run: registered by a callback */
  (void)wane_add_cleanup(object, note, note_tag(0));
  wane_set_finalizer(object, note);
}

/* Those that waited come first; a few objects may not have died before. */
static void run_queued(void *arg) {
  require(pthread_equal(main_thread, pthread_self()));
  require(arg == NULL);
  if (test_get(&finalizers_done) == 0 && test_get(&cleanups_done) == 0) {
    test_add(&queued_done);
  }
}

static void run_finalizer(void *object) {
  uint64_t *words = object;
  require(words[1] == 0x1234567 && test_get(&cleanups_done) == 0);
  run_in_shutdown();
  test_add(&finalizers_done);
}

static void run_cleanup(void *arg) {
  require((uintptr_t)arg == 17);
  run_in_shutdown();
  test_add(&cleanups_done);
}

static void run_never(void *arg) {
  (void)arg;
  require(!"was stopped");
}

/* By idx: finalizer, cleanups, on the queue or not, stopped. */
static void with_all_sorts(void *object, size_t idx) {
  uint64_t *words = object;
  words[1] = 0x1234567;
  kept[idx] = object;
  weak[idx] = wane_weak_make(object);
  switch (idx % 6) {
  case 0:
    (void)wane_add_cleanup(object, run_cleanup, (void *)17);
    (void)wane_add_cleanup_on(queue, object, run_cleanup, (void *)17);
    break;
  case 1:
    wane_set_finalizer(object, run_finalizer);
    break;
  case 2:
    wane_set_finalizer_on(queue, object, run_finalizer);
    break;
  case 3:
    wane_set_finalizer(object, run_finalizer);
    (void)wane_add_cleanup(object, run_cleanup, (void *)17);
    break;
  case 4:
    wane_cleanup_stop(wane_add_cleanup(object, run_never, NULL));
    wane_set_finalizer(object, run_never);
    wane_set_finalizer(object, NULL);
    break;
  default: /* even a cycle, which would never die */
    words[0] = (uintptr_t)kept[idx - 1];
    *(void **)kept[idx - 1] = object;
    wane_set_finalizer(object, run_finalizer);
  }
}

static void with_queued(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup_on(queue, object, run_queued, NULL);
}

/* D4, A12: all that is registered, on this thread, as if all had died. */
static void run_shutdown(const char *arg) {
  (void)arg;
  main_thread = pthread_self();
  queue = wane_queue_new();
  notes_begin();
  test_make_with(50, NULL, with_queued);
  wane_collect();
  test_make_with(MANY, NULL, with_all_sorts);
  wane_shutdown(WANE_RUN_CLEANUPS);
  require(test_get(&finalizers_done) == MANY / 6 * 4);
  require(test_get(&cleanups_done) == MANY / 6 * 3);
  require(test_get(&queued_done) >= 47 && notes_total() == 0);
  struct wane_stats stats = test_stats();
  require(stats.finalizers_run == test_get(&finalizers_done));
  for (size_t i = 0; i < MANY; i++) {
    require(wane_weak_value(weak[i]) == NULL);
    require(wane_base(kept[i]) == kept[i]); /* the memory is still there */
  }
  wane_shutdown(0);
}

static void shutting_down_runs_what_is_registered(void **state) {
  (void)state;
  static struct test_child child;
  test_exec("shutdown", "", NULL, &child);
  test_assert_exit_0(&child, "shutdown");
}

static void say(void *arg) {
  (void)arg;
  dprintf(STDERR_FILENO, "ran\n");
}

static void with_saying(void *object, size_t idx) {
  kept[idx] = object;
  (void)wane_add_cleanup(object, say, NULL);
  (void)wane_add_cleanup_on(queue, object, say, NULL);
  wane_set_finalizer_on(queue, object, say);
}

static void with_blocking(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup(object, wait_at, (void *)0);
}

/* arg: "b": while a worker is busy; "x": by exit from main's middle. */
static void run_to_exit(const char *arg) {
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_saying);
  if (strchr(arg, 'b') != NULL) {
    test_make_with(20, NULL, with_blocking);
    wane_collect();
    require(test_until(&arrivals[0], 10));
  }
  memset(kept, 0, MANY / 2 * sizeof kept[0]);
  exit(0);
}

/* A12. */
static void nothing_runs_at_exit(void **state) {
  (void)state;
  static const char *const how[] = {"", "b"};
  static struct test_child child;
  for (size_t i = 0; i < TEST_COUNT(how); i++) {
    test_exec("to_exit", how[i], NULL, &child);
    test_assert_exit_0(&child, "exit");
    assert_string_equal(child.text, "");
  }
}

static void run_idle(const char *arg) {
  (void)arg;
  notes_begin();
  test_make_with(MANY, NULL, with_either);
  test_scrub();
  double end = test_now() + 15;
  while (notes_total() < MANY - MANY / 50 - 2 && test_now() < end) {
    test_sleep_ms(10);
  }
  require(notes_total() >= MANY - MANY / 50 - 2);
}

/* G3: with the time of two minutes made short. */
static void an_idle_programs_cleanups_come(void **state) {
  (void)state;
  static struct test_child child;
  test_exec("idle", "", "idle_ms=100", &child);
  test_assert_exit_0(&child, "idle");
}

/* ---- Numbers ---- */

/* Some stay behind, and some of earlier tests are late. */
#define assert_about(actual, count)                                            \
  assert_in_range((actual), (count)-10, (count) + 20)

static wane_cleanup handles[MANY];

static void with_counted(void *object, size_t idx) {
  handles[idx] = wane_add_cleanup(object, note, note_tag(idx));
  wane_set_finalizer(object, note);
  if (idx % 3 == 0) {
    require(wane_cleanup_stop(handles[idx]));
    (void)wane_cleanup_stop(handles[idx]);
  }
  if (idx % 5 == 0) {
    wane_set_finalizer(object, NULL);
    wane_set_finalizer(object, NULL);
  }
}

static void callbacks_are_counted(void **state) {
  (void)state;
  test_settle();
  struct wane_stats a = test_stats();
  notes_begin();
  test_make_with(MANY, NULL, with_counted);
  struct wane_stats b = test_stats();
  assert_int_equal(b.cleanups_registered - a.cleanups_registered, MANY);
  assert_int_equal(b.cleanups_stopped - a.cleanups_stopped, MANY / 3);
  assert_int_equal(b.finalizers_registered - a.finalizers_registered, MANY);
  assert_int_equal(b.finalizers_stopped - a.finalizers_stopped, MANY / 5);
  test_settle();
  struct wane_stats c = test_stats();
  assert_about(c.finalizers_queued - a.finalizers_queued, MANY - MANY / 5);
  assert_int_equal(c.finalizers_run, c.finalizers_queued);
  test_settle();
  struct wane_stats d = test_stats();
  assert_about(d.cleanups_queued - a.cleanups_queued, MANY - MANY / 3);
  assert_int_equal(d.cleanups_run, d.cleanups_queued);
  assert_int_equal(d.cleanups_registered, b.cleanups_registered);
  assert_int_equal(d.cleanups_stopped, b.cleanups_stopped);
}

/* G2. */
static void the_backlog_is_in_the_numbers(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  call = note;
  struct wane_stats a = test_stats();
  test_make_with(MANY, NULL, with_call_on);
  collect();
  struct wane_stats b = test_stats();
  uint64_t queued = b.cleanups_queued - a.cleanups_queued;
  assert_about(queued, MANY);
  size_t ran = wane_queue_run(queue, SIZE_MAX);
  assert_in_range(ran, queued - 10, queued);
  assert_in_range(test_stats().cleanups_run - a.cleanups_run, ran, ran + 20);
  wane_queue_free(queue);
}

static void dawdle(void *args) {
  (void)args;
  test_sleep_ms(1);
}

static void *produce_much(void *arg) {
  static const char bytes[256];
  for (;;) {
    void *object = wane_alloc(64);
    require(object != NULL);
    (void)wane_add_cleanup_copy(object, dawdle, bytes, sizeof bytes);
  }
  return arg;
}

/* In a process of its own, where the backlog is lost at exit. */
static void run_producer(const char *arg) {
  (void)arg;
  uint64_t backlog = 0;
  size_t before = test_resident_bytes();
  size_t grown = 0;
  pthread_t thread;
  require(pthread_create(&thread, NULL, produce_much, NULL) == 0);
  for (int i = 0; i < 30; i++) {
    test_sleep_ms(100);
    struct wane_stats stats = test_stats();
    uint64_t now = stats.cleanups_queued - stats.cleanups_run;
    backlog = now > backlog ? now : backlog;
    grown = test_resident_bytes() - before;
    require(grown < (size_t)1 << 30);
  }
  dprintf(STDOUT_FILENO, "backlog %llu, %zu MiB\n", (unsigned long long)backlog,
          grown >> 20);
  require(backlog > 0 && grown < (size_t)512 << 20);
  _exit(0);
}

/* G2: queued faster than they run, memory does not run away. */
static void a_fast_producer_is_slowed(void **state) {
  (void)state;
  static struct test_child child;
  test_exec("producer", "", NULL, &child);
  test_assert_exit_0(&child, "producer");
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"shutdown", run_shutdown},
      {"to_exit", run_to_exit},
      {"idle", run_idle},
      {"producer", run_producer},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(draining_nothing_is_done_at_once),
      cmocka_unit_test(draining_gives_up_in_time),
      cmocka_unit_test(draining_waits_for_what_was_queued_before),
      cmocka_unit_test(after_draining_all_have_run),
      cmocka_unit_test(threads_may_drain_at_once),
      cmocka_unit_test(waiting_inside_a_callback_is_fatal),
      cmocka_unit_test(unknown_flags_are_fatal),
      cmocka_unit_test(shutting_down_stops_the_threads_only),
      cmocka_unit_test(what_dies_after_a_shutdown_runs),
      cmocka_unit_test(shutting_down_runs_what_is_registered),
      cmocka_unit_test(nothing_runs_at_exit),
      cmocka_unit_test(an_idle_programs_cleanups_come),
      cmocka_unit_test(callbacks_are_counted),
      cmocka_unit_test(the_backlog_is_in_the_numbers),
      cmocka_unit_test(a_fast_producer_is_slowed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
