/* Queues: callbacks on a thread of one's choice. A13, D3, D4. */
/* timeout: 240 */
#include "support/lives.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#define MANY 300

static struct wane_queue *queue;
static pthread_t runner;
static uint64_t elsewhere; /* callbacks on other threads than runner */

static void note_here(void *tag) {
  if (!pthread_equal(runner, pthread_self())) {
    test_add(&elsewhere);
  }
  note(tag);
}

static void note_object_here(void *object) {
  note_here((void *)~*(uintptr_t *)object);
}

static void with_cleanup(void *object, size_t idx) {
  require(wane_add_cleanup_on(queue, object, note_here, note_tag(idx)).id != 0);
}

static void with_finalizer(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  wane_set_finalizer_on(queue, object, note_object_here);
}

static void with_either(void *object, size_t idx) {
  (idx % 2 == 0 ? with_cleanup : with_finalizer)(object, idx);
}

static void begin(void) {
  notes_begin();
  test_set(&elsewhere, 0);
  runner = pthread_self();
  queue = wane_queue_new();
  assert_non_null(queue);
}

static void collect(void) {
  test_scrub();
  wane_collect();
}

/* Is there something to run? Asked of poll and of epoll. */
static bool readable(int fd) {
  struct pollfd pollfd = {.fd = fd, .events = POLLIN};
  int polled = poll(&pollfd, 1, 0);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  require(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
  int waited = epoll_wait(epoll, &event, 1, 0);
  close(epoll);
  require(polled >= 0 && polled == waited);
  require(polled == 0 || pollfd.revents == POLLIN);
  return polled == 1;
}

/* A13. */
static void callbacks_run_only_in_queue_run(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, NULL, with_either);
  for (int i = 0; i < 3; i++) {
    test_settle(); /* D4: drain does not wait for them */
  }
  assert_int_equal(notes_total(), 0);
  assert_int_equal(wane_queue_run(queue, 0), 0);
  assert_int_equal(wane_queue_run(queue, 7), 7);
  assert_int_equal(notes_total(), 7);
  size_t rest = wane_queue_run(queue, SIZE_MAX);
  assert_most(7 + rest, MANY);
  assert_int_equal(notes_total(), 7 + rest);
  assert_int_equal(wane_queue_run(queue, SIZE_MAX), 0);
  assert_int_equal(test_get(&elsewhere), 0);
  notes_require_once(MANY);
  wane_queue_free(queue);
}

/* A13. */
static void the_fd_is_readable_while_callbacks_wait(void **state) {
  (void)state;
  begin();
  int fd = wane_queue_fd(queue);
  assert_true(fd >= 0 && wane_queue_fd(queue) == fd);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  assert_false(readable(fd));
  for (int round = 0; round < 5; round++) {
    test_make_with(MANY, NULL, with_either);
    collect();
    assert_true(readable(fd));
    assert_true(readable(fd));
    while (wane_queue_run(queue, 50) == 50) {
      collect();
    }
    assert_int_equal(wane_queue_run(queue, SIZE_MAX), 0);
    assert_false(readable(fd));
    collect();
  }
  test_make_with(MANY, NULL, with_either);
  collect();
  for (size_t i = 0; readable(fd); i++) { /* until the last one */
    assert_true(i <= 2 * MANY);
    assert_int_equal(wane_queue_run(queue, 1), 1);
  }
  assert_int_equal(wane_queue_run(queue, 1), 0);
  wane_queue_free(queue);
}

static void *collect_later(void *arg) {
  test_sleep_ms(100);
  wane_collect();
  return arg;
}

/* A13: an event loop wakes up. */
static void who_waits_for_the_fd_wakes_up(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, NULL, with_cleanup);
  struct pollfd pollfd = {.fd = wane_queue_fd(queue), .events = POLLIN};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, collect_later, NULL), 0);
  double end = test_now() + 20;
  int polled;
  do { /* poll may be interrupted: D9 */
    polled = poll(&pollfd, 1, 10000);
  } while (polled < 0 && errno == EINTR && test_now() < end);
  assert_int_equal(polled, 1);
  pthread_join(thread, NULL);
  assert_most(wane_queue_run(queue, SIZE_MAX), MANY);
  wane_queue_free(queue);
}

static uint64_t order_count;
static size_t order[10 * MANY];

static void note_order(void *tag) {
  order[test_add(&order_count)] = note_idx(tag);
  note(tag);
}

static size_t order_first;

static void with_order(void *object, size_t idx) {
  (void)wane_add_cleanup_on(queue, object, note_order,
                            note_tag(order_first + idx));
}

/* A13: in the order they were queued: that of the cycles. */
static void callbacks_run_in_the_order_of_queueing(void **state) {
  (void)state;
  begin();
  test_set(&order_count, 0);
  for (size_t round = 0; round < 10; round++) {
    order_first = round * MANY;
    test_make_with(MANY, NULL, with_order);
    collect();
  }
  while (wane_queue_run(queue, 13) > 0) {
  }
  uint64_t count = test_get(&order_count);
  assert_most(count, 10 * MANY);
  size_t stragglers = 0; /* kept by a stray word for a cycle or more */
  for (size_t i = 1; i < count; i++) {
    stragglers += order[i] / MANY < order[i - 1] / MANY;
  }
  assert_in_range(stragglers, 0, 20);
  wane_queue_free(queue);
}

/* D3: cleanups that wait go to the workers, finalizers to their thread. */
static void what_waits_in_a_freed_queue_runs_elsewhere(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, NULL, with_either);
  collect();
  assert_int_equal(wane_queue_run(queue, 10), 10);
  assert_int_equal(test_get(&elsewhere), 0);
  wane_queue_free(queue);
  assert_true(wane_drain(10000));
  assert_most(notes_total(), MANY);
  assert_int_equal(test_get(&elsewhere), notes_total() - 10);
  notes_require_once(MANY);
}

TEST_ROOT void *kept[MANY];
static wane_cleanup handles[MANY];

static void with_either_kept(void *object, size_t idx) {
  with_either(object, idx);
  if (idx % 2 == 0) {
    handles[idx] =
        wane_add_cleanup_on(queue, object, note_here, note_tag(MANY + idx));
  }
  kept[idx] = object;
}

/* D3: and what comes later; stopping and clearing work on. */
static void what_comes_after_a_queue_was_freed_runs_elsewhere(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, NULL, with_either_kept);
  wane_queue_free(queue);
  queue = wane_queue_new(); /* perhaps at the same address */
  for (size_t i = 0; i < MANY; i += 2) {
    assert_true(wane_cleanup_stop(handles[i]));
  }
  for (size_t i = 1; i < MANY; i += 10) {
    wane_set_finalizer(kept[i], NULL);
  }
  memset(kept, 0, sizeof kept);
  test_settle();
  assert_int_equal(wane_queue_run(queue, SIZE_MAX), 0);
  assert_most(notes_total(), MANY - MANY / 10);
  assert_int_equal(test_get(&elsewhere), notes_total());
  wane_queue_free(queue);
}

static uint64_t freed;

static void free_own(void *tag) {
  note_here(tag);
  if (notes_total() == 5 && test_add(&freed) == 0) {
    wane_queue_free(queue);
  }
}

static void with_free_own(void *object, size_t idx) {
  (void)wane_add_cleanup_on(queue, object, free_own, note_tag(idx));
}

/* Takes effect when that run returns. */
static void a_queue_may_be_freed_in_its_callback(void **state) {
  (void)state;
  static const size_t max[] = {5, 20, SIZE_MAX};
  for (size_t i = 0; i < TEST_COUNT(max); i++) {
    begin();
    test_set(&freed, 0);
    int fd = wane_queue_fd(queue);
    test_make_with(MANY, NULL, with_free_own);
    collect();
    size_t ran = wane_queue_run(queue, max[i]);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_in_range(ran, 5, max[i]);
    assert_true(wane_drain(10000));
    assert_most(notes_total(), MANY);
    assert_int_equal(test_get(&elsewhere), notes_total() - ran);
    notes_require_once(MANY);
  }
}

static struct wane_queue *other;

static void run_own(void *arg) {
  (void)arg;
  (void)wane_queue_run(queue, 1);
}

static void run_own_in_other(void *arg) {
  (void)arg;
  (void)wane_queue_run(other, 1);
}

static void (*callback)(void *arg);

static void with_callback(void *object, size_t idx) {
  if (idx % 2 == 0) {
    (void)wane_add_cleanup_on(queue, object, callback, NULL);
  } else {
    wane_set_finalizer_on(queue, object, callback);
  }
}

/* A child has nothing queued, so all is made in it. */
static void run_fatal(void *arg) {
  (void)arg;
  queue = wane_queue_new();
  callback = run_own;
  test_make_with(50, NULL, with_callback);
  wane_collect();
  (void)wane_queue_run(queue, SIZE_MAX);
}

static void with_other(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup_on(other, object, run_own, NULL);
}

static void running_a_queue_inside_itself_is_fatal(void **state) {
  (void)state;
  test_assert_fatal_only("wane_queue_run", run_fatal, NULL);
}

static void run_around(void *arg) {
  (void)arg;
  other = wane_queue_new();
  queue = wane_queue_new();
  callback = run_own_in_other;
  test_make_with(50, NULL, with_callback);
  test_make_with(50, NULL, with_other);
  wane_collect();
  (void)wane_queue_run(queue, SIZE_MAX);
}

static void running_a_queue_inside_itself_by_another_is_fatal(void **state) {
  (void)state;
  test_assert_fatal_only("wane_queue_run", run_around, NULL);
}

static uint64_t ran_other;

static void run_other(void *arg) {
  (void)arg;
  uint64_t n = wane_queue_run(other, 1);
  __atomic_fetch_add(&ran_other, n, __ATOMIC_SEQ_CST);
}

static void with_other_note(void *object, size_t idx) {
  (void)wane_add_cleanup_on(other, object, note_here, note_tag(idx));
}

static void another_queue_may_be_run_in_a_callback(void **state) {
  (void)state;
  begin();
  other = wane_queue_new();
  callback = run_other;
  test_make_with(MANY, NULL, with_callback);
  test_make_with(MANY, NULL, with_other_note);
  collect();
  test_set(&ran_other, 0);
  size_t ran = wane_queue_run(queue, MANY / 2);
  assert_int_equal(ran, MANY / 2);
  assert_int_equal(test_get(&ran_other), ran);
  assert_int_equal(notes_total(), ran);
  wane_queue_free(other);
  other = wane_queue_new();
  wane_queue_free(queue);
  assert_true(wane_drain(10000)); /* late callbacks may still use other */
}

static void use_null_run(void *arg) { (void)wane_queue_run(arg, 1); }
static void use_null_fd(void *arg) { (void)wane_queue_fd(arg); }
static void use_null_free(void *arg) { wane_queue_free(arg); }

static void null_is_fatal(void **state) {
  (void)state;
  test_assert_fatal_only("wane_queue_run", use_null_run, NULL);
  test_assert_fatal_only("wane_queue_fd", use_null_fd, NULL);
  test_assert_fatal_only("wane_queue_free", use_null_free, NULL);
}

static int fds_open(void) {
  int count = 0;
  for (int fd = 0; fd < 200; fd++) {
    count += fcntl(fd, F_GETFD) >= 0;
  }
  return count;
}

static void a_freed_queue_has_closed_its_fd(void **state) {
  (void)state;
  struct wane_queue *queues[20];
  int before = fds_open();
  for (int round = 0; round < 5; round++) {
    for (size_t i = 0; i < TEST_COUNT(queues); i++) {
      queues[i] = wane_queue_new();
      assert_non_null(queues[i]);
    }
    assert_in_range(fds_open(), before + 20, 200);
    for (size_t i = 0; i < TEST_COUNT(queues); i++) {
      int fd = wane_queue_fd(queues[i]);
      wane_queue_free(queues[i]);
      assert_int_equal(fcntl(fd, F_GETFD), -1);
    }
    assert_int_equal(fds_open(), before);
  }
}

static void run_without_fds(const char *arg) {
  struct rlimit limit = {20, 20};
  struct wane_queue *queues[64];
  size_t count = 0;
  (void)arg;
  require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  while (count < 64 && (queues[count] = wane_queue_new()) != NULL) {
    count++;
  }
  require(count > 0 && count < 64 && errno == EMFILE);
  wane_queue_free(queues[0]);
  errno = 77;
  queues[0] = wane_queue_new();
  require(queues[0] != NULL && errno == 77);
  for (size_t i = 0; i < count; i++) {
    wane_queue_free(queues[i]);
  }
}

static void without_a_file_descriptor_there_is_no_queue(void **state) {
  (void)state;
  static struct test_child child;
  test_exec("without_fds", "", NULL, &child);
  test_assert_exit_0(&child, "RLIMIT_NOFILE");
}

static void add_again(void *tag) {
  size_t idx = note_idx(tag);
  note_here(tag);
  if (idx < 3 * MANY) {
    void *object = wane_alloc(64);
    (void)wane_add_cleanup_on(queue, object, add_again, note_tag(idx + MANY));
    wane_keep_alive(object);
  }
  if (idx % 50 == 0) {
    wane_collect();
  }
}

static void with_add_again(void *object, size_t idx) {
  (void)wane_add_cleanup_on(queue, object, add_again, note_tag(idx));
}

/* A10: and what is queued meanwhile runs in this turn or the next. */
static void callbacks_may_queue_more(void **state) {
  (void)state;
  begin();
  test_make_with(MANY, NULL, with_add_again);
  for (int i = 0; i < 10; i++) {
    collect();
    while (wane_queue_run(queue, 100) > 0) {
    }
  }
  assert_most(notes_total(), 4 * MANY);
  notes_require_once(4 * MANY);
  assert_int_equal(test_get(&elsewhere), 0);
  wane_queue_free(queue);
}

static uint64_t ran_by_threads;

static void *run_beside(void *arg) {
  double end = test_now() + 20;
  while (test_now() < end && notes_total() < 20 * MANY - 20 * MANY / 50) {
    __atomic_fetch_add(&ran_by_threads, wane_queue_run(queue, 7),
                       __ATOMIC_SEQ_CST);
    sched_yield();
  }
  return arg;
}

/* Each callback runs once, whoever runs the queue. */
static void threads_may_share_a_queue(void **state) {
  (void)state;
  pthread_t threads[3];
  begin();
  test_set(&ran_by_threads, 0);
  for (size_t t = 0; t < 3; t++) {
    assert_int_equal(pthread_create(&threads[t], NULL, run_beside, NULL), 0);
  }
  for (size_t i = 0; i < 4; i++) {
    test_make_with(5 * MANY, NULL, with_either);
    collect();
    test_breathe();
  }
  for (size_t t = 0; t < 3; t++) {
    pthread_join(threads[t], NULL);
  }
  test_set(&ran_by_threads,
           test_get(&ran_by_threads) + wane_queue_run(queue, SIZE_MAX));
  assert_false(readable(wane_queue_fd(queue)));
  assert_most(notes_total(), 20 * MANY);
  assert_int_equal(notes_total(), test_get(&ran_by_threads));
  wane_queue_free(queue);
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"without_fds", run_without_fds}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(callbacks_run_only_in_queue_run),
      cmocka_unit_test(the_fd_is_readable_while_callbacks_wait),
      cmocka_unit_test(who_waits_for_the_fd_wakes_up),
      cmocka_unit_test(callbacks_run_in_the_order_of_queueing),
      cmocka_unit_test(what_waits_in_a_freed_queue_runs_elsewhere),
      cmocka_unit_test(what_comes_after_a_queue_was_freed_runs_elsewhere),
      cmocka_unit_test(a_queue_may_be_freed_in_its_callback),
      cmocka_unit_test(running_a_queue_inside_itself_is_fatal),
      cmocka_unit_test(running_a_queue_inside_itself_by_another_is_fatal),
      cmocka_unit_test(another_queue_may_be_run_in_a_callback),
      cmocka_unit_test(null_is_fatal),
      cmocka_unit_test(a_freed_queue_has_closed_its_fd),
      cmocka_unit_test(without_a_file_descriptor_there_is_no_queue),
      cmocka_unit_test(callbacks_may_queue_more),
      cmocka_unit_test(threads_may_share_a_queue),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
