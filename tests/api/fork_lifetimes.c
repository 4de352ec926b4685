/* fork with cleanups, finalizers, weak pointers and queues. G4, D18. */
/* skip: tsan, whose runtime deadlocks in children of threads */
/* timeout: 240 */
#include "support/lives.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY 300

static struct test_child child;
static struct wane_queue *queue;
TEST_ROOT void *kept[MANY];
static wane_weak weak[MANY];
static wane_cleanup handles[MANY];

static void note_object(void *object) { note((void *)~*(uintptr_t *)object); }

/* Four sorts: cleanup or finalizer, on the queue or not. */
static void with_any(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  kept[idx] = object;
  weak[idx] = wane_weak_make((char *)object + 8);
  switch (idx % 4) {
  case 0:
    handles[idx] = wane_add_cleanup(object, note, note_tag(idx));
    break;
  case 1:
    wane_set_finalizer(object, note_object);
    break;
  case 2:
    handles[idx] = wane_add_cleanup_on(queue, object, note, note_tag(idx));
    break;
  default:
    wane_set_finalizer_on(queue, object, note_object);
  }
}

static uint64_t notes_of_workers(void) {
  uint64_t sum = 0;
  for (size_t i = 0; i < MANY; i++) {
    sum += i % 4 < 2 ? notes_of(i) : 0;
  }
  return sum;
}

static bool readable(int fd) {
  struct pollfd pollfd = {.fd = fd, .events = POLLIN};
  return poll(&pollfd, 1, 0) == 1;
}

/* In the parent and in the child alike: all that is registered dies. */
static void let_all_die(void *arg) {
  (void)arg;
  for (size_t i = 0; i < MANY; i++) {
    require(wane_weak_value(weak[i]) == (char *)kept[i] + 8);
    require(wane_weak_make((char *)kept[i] + 8).id == weak[i].id);
  }
  require(notes_total() == 0);
  for (size_t i = 0; i < MANY; i += 20) {
    require(wane_cleanup_stop(handles[i]));
  }
  memset(kept, 0, sizeof kept);
  test_scrub();
  test_settle();
  size_t dead = 0;
  for (size_t i = 0; i < MANY; i++) {
    dead += wane_weak_value(weak[i]) == NULL;
  }
  test_scrub();
  require(dead >= MANY - MANY / 50 - 2);
  require(notes_of_workers() >= (MANY / 2 - MANY / 20) - 8);
  require(readable(wane_queue_fd(queue)));
  size_t ran = wane_queue_run(queue, SIZE_MAX);
  require(ran >= MANY / 2 - 8 && ran <= MANY / 2);
  require(!readable(wane_queue_fd(queue)));
  require(notes_total() <= MANY - MANY / 20);
  notes_require_once(MANY);
}

/* D18. */
static void what_was_registered_runs_in_each_process(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    notes_begin();
    queue = wane_queue_new();
    test_make_with(MANY, NULL, with_any);
    test_fork(let_all_die, NULL, &child);
    test_assert_exit_0(&child, "registered before");
    assert_int_equal(notes_total(), 0);
    assert_false(readable(wane_queue_fd(queue)));
    let_all_die(NULL);
    wane_queue_free(queue);
  }
}

static uint64_t gate;
static uint64_t arrivals;

static void wait_or_note(void *tag) {
  if (test_add(&arrivals) < 8) {
    while (test_get(&gate) == 0) {
      test_sleep_ms(1);
    }
  }
  note(tag);
}

static void wait_or_note_object(void *object) {
  wait_or_note((void *)~*(uintptr_t *)object);
}

static void with_waiting(void *object, size_t idx) {
  with_any(object, idx);
  if (idx % 4 == 0) {
    (void)wane_cleanup_stop(handles[idx]);
    (void)wane_add_cleanup(object, wait_or_note, note_tag(idx));
  } else if (idx % 4 == 1) {
    wane_set_finalizer(object, NULL);
    wane_set_finalizer(object, wait_or_note_object);
  }
  kept[idx] = NULL;
}

/* The child has none of it, and can do all of its own. */
static void have_nothing_queued(void *arg) {
  (void)arg;
  require(wane_drain(10000));
  require(!readable(wane_queue_fd(queue)));
  require(wane_queue_run(queue, SIZE_MAX) == 0);
  test_settle();
  size_t late = notes_total(); /* what stray words kept before */
  require(late <= 2 + MANY / 50);
  notes_begin();
  test_set(&gate, 1);
  test_make_with(MANY, NULL, with_any);
  let_all_die(NULL);
}

/* G4: though the parent's threads are all busy. */
static void what_is_queued_runs_in_the_parent_only(void **state) {
  (void)state;
  notes_begin();
  test_set(&gate, 0);
  test_set(&arrivals, 0);
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_waiting);
  test_scrub();
  wane_collect();
  assert_true(test_until(&arrivals, 2));
  for (int i = 0; i < 3; i++) {
    test_fork(have_nothing_queued, NULL, &child);
    test_assert_exit_0(&child, "queued before");
  }
  assert_true(readable(wane_queue_fd(queue)));
  assert_int_equal(notes_total(), 0);
  test_set(&gate, 1);
  test_settle();
  assert_most(notes_total(), MANY / 2);
  assert_most(wane_queue_run(queue, SIZE_MAX), MANY / 2);
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
  wane_queue_free(queue);
}

/* In the child with fork=run. */
static void run_what_was_queued(void *arg) {
  uint64_t begun = *(uint64_t *)arg; /* by the parent's threads */
  test_set(&gate, 1);
  require(readable(wane_queue_fd(queue)));
  size_t ran = wane_queue_run(queue, SIZE_MAX);
  require(ran >= MANY / 2 - 8 && ran <= MANY / 2);
  double end = test_now() + 10;
  while (notes_total() < MANY - 16 - begun && test_now() < end) {
    void *object = wane_alloc(16); /* a registration starts the threads */
    (void)wane_add_cleanup(object, note, NULL);
    test_settle();
  }
  require(notes_total() >= MANY - 16 - begun && notes_total() <= MANY);
  notes_require_once(MANY);
}

static void run_fork_run(const char *arg) {
  (void)arg;
  static struct test_child grandchild;
  queue = wane_queue_new();
  notes_begin();
  test_make_with(MANY, NULL, with_waiting);
  test_scrub();
  wane_collect();
  require(test_until(&arrivals, 2));
  test_sleep_ms(50);
  uint64_t begun = test_get(&arrivals);
  test_fork(run_what_was_queued, &begun, &grandchild);
  dprintf(STDERR_FILENO, "%s", grandchild.text);
  require(WIFEXITED(grandchild.status) && WEXITSTATUS(grandchild.status) == 0);
  require(notes_total() == 0);
  test_set(&gate, 1);
  test_settle();
  require(wane_queue_run(queue, SIZE_MAX) >= MANY / 2 - 8);
  notes_require_once(MANY);
}

/* G4, D18. */
static void a_child_that_asks_runs_what_was_queued(void **state) {
  (void)state;
  test_exec("fork_run", "", "fork=run", &child);
  test_assert_exit_0(&child, "fork=run");
}

static int pipes[2][2];

static void say(int end) { require(write(pipes[end][1], "x", 1) == 1); }

static void hear(int end) {
  char c;
  ssize_t n;
  do {
    n = read(pipes[end][0], &c, 1);
  } while (n < 0 && errno == EINTR);
  require(n == 1);
}

static void with_queued(void *object, size_t idx) {
  (void)wane_add_cleanup_on(queue, object, note, note_tag(idx));
}

/* Waits for the parent to look at its own, in between. */
static void use_own_fd(int fd) {
  require(wane_queue_fd(queue) == fd && !readable(fd));
  notes_begin();
  test_make_with(MANY, NULL, with_queued);
  test_scrub();
  wane_collect();
  require(readable(fd));
  say(1);
  hear(0); /* the parent's has become readable, and empty again */
  require(readable(fd));
  require(wane_queue_run(queue, SIZE_MAX) > 0);
  require(!readable(fd));
}

/* D18. */
static void the_childs_queue_has_its_own_fd(void **state) {
  (void)state;
  queue = wane_queue_new();
  int fd = wane_queue_fd(queue);
  require(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    use_own_fd(fd);
    _exit(0);
  }
  hear(1);
  assert_int_equal(wane_queue_fd(queue), fd);
  assert_false(readable(fd));
  notes_begin();
  test_make_with(MANY, NULL, with_queued);
  test_scrub();
  wane_collect();
  assert_true(readable(fd));
  assert_most(wane_queue_run(queue, SIZE_MAX), MANY);
  assert_false(readable(fd));
  say(0);
  int status = -1;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_false(readable(fd));
  for (int i = 0; i < 2; i++) {
    close(pipes[i][0]);
    close(pipes[i][1]);
  }
  wane_queue_free(queue);
}

/* One that waits in epoll in the parent, and the child that frees its own. */
static void free_in_child(void *arg) {
  int fd = *(int *)arg;
  wane_queue_free(queue);
  require(fcntl(fd, F_GETFD) == -1);
  test_settle();
}

static void a_queue_may_be_freed_in_the_child(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  int fd = wane_queue_fd(queue);
  test_make_with(MANY, NULL, with_queued);
  test_scrub();
  wane_collect();
  test_fork(free_in_child, &fd, &child);
  test_assert_exit_0(&child, "freed");
  assert_true(readable(fd));
  assert_most(wane_queue_run(queue, SIZE_MAX), MANY);
  wane_queue_free(queue);
}

static uint64_t freed;

static void free_and_wait(void *arg) {
  (void)arg;
  if (test_add(&freed) == 0) {
    wane_queue_free(queue);
    while (test_get(&gate) == 0) {
      test_sleep_ms(1);
    }
  }
}

static void with_free_and_wait(void *object, size_t idx) {
  (void)idx;
  (void)wane_add_cleanup_on(queue, object, free_and_wait, NULL);
}

static void with_queued_kept(void *object, size_t idx) {
  kept[idx] = object;
  with_queued(object, idx);
}

static void *run_queue(void *arg) {
  (void)wane_queue_run(queue, SIZE_MAX);
  return arg;
}

static void let_all_run(void *arg) {
  (void)arg;
  memset(kept, 0, sizeof kept);
  test_settle();
  require(notes_total() >= MANY - 8);
  notes_require_once(MANY);
}

/* D3: the run that was to close it is the parent's. */
static void a_queue_being_freed_is_free_in_the_child(void **state) {
  (void)state;
  pthread_t thread;
  notes_begin();
  test_set(&gate, 0);
  test_set(&freed, 0);
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_queued_kept);
  test_make_with(20, NULL, with_free_and_wait);
  test_scrub();
  wane_collect();
  assert_int_equal(pthread_create(&thread, NULL, run_queue, NULL), 0);
  assert_true(test_until(&freed, 1));
  test_fork(let_all_run, NULL, &child);
  test_set(&gate, 1);
  pthread_join(thread, NULL);
  test_assert_exit_0(&child, "freed in a callback");
  let_all_run(NULL);
}

/* Inside a callback, as the only thread of the child. */
static void work_inside(bool is_finalizer) {
  wane_weak handle = wane_weak_make(wane_alloc(64));
  for (int i = 0; i < 1000; i++) {
    memset(wane_alloc(200), 0xf3, 200);
  }
  wane_collect();
  (void)wane_weak_value(handle);
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_any);
  memset(kept, 0, sizeof kept);
  test_scrub();
  wane_collect();
  double end = test_now() + 10;
  /* a finalizer that forked keeps the others waiting (F7), cleanups run */
  size_t expected = is_finalizer ? MANY / 4 : MANY / 2;
  while (notes_of_workers() < expected - 8) {
    require(test_now() < end);
    test_sleep_ms(1);
  }
}

static void fork_inside(void *tag) {
  if ((note_idx(tag)) % 50 == 0) {
    pid_t pid = fork();
    require(pid >= 0);
    if (pid == 0) {
      work_inside(note_idx(tag) / 50 % 3 == 1);
      _exit(0);
    }
    int status = -1;
    require(waitpid(pid, &status, 0) == pid && status == 0);
  }
  note(tag);
}

static void fork_inside_object(void *object) {
  fork_inside((void *)~*(uintptr_t *)object);
}

static void with_fork(void *object, size_t idx) {
  *(uintptr_t *)object = ~(uintptr_t)note_tag(idx);
  switch (idx / 50 % 3) {
  case 0:
    (void)wane_add_cleanup(object, fork_inside, note_tag(idx));
    break;
  case 1:
    wane_set_finalizer(object, fork_inside_object);
    break;
  default:
    (void)wane_add_cleanup_on(queue, object, fork_inside, note_tag(idx));
  }
}

/* D18: a callback may fork. */
static void a_callback_may_fork(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_fork);
  test_settle();
  (void)wane_queue_run(queue, SIZE_MAX);
  assert_most(notes_total(), MANY);
  notes_require_once(MANY);
  wane_queue_free(queue);
}

static pid_t forked = -1;

static void fork_and_return(void *tag) {
  if (forked == -1) {
    forked = fork();
    require(forked >= 0);
  }
  note(tag);
}

static void with_fork_and_return(void *object, size_t idx) {
  (void)wane_add_cleanup_on(queue, object, fork_and_return, note_tag(idx));
}

/* The rest of the queue is the parent's; the child goes on from there. */
static void a_callback_may_return_in_the_child(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_fork_and_return);
  test_scrub();
  wane_collect();
  size_t ran = wane_queue_run(queue, SIZE_MAX);
  if (forked == 0) {
    require(ran == 1 && notes_total() == 1);
    require(wane_queue_run(queue, SIZE_MAX) == 0);
    notes_begin();
    test_make_with(MANY, NULL, with_any);
    let_all_die(NULL);
    _exit(0);
  }
  int status = -1;
  require(waitpid(forked, &status, 0) == forked);
  assert_int_equal(status, 0);
  assert_most(ran, MANY);
  wane_queue_free(queue);
}

static uint64_t stopping;

static void allocate_some(void *args) {
  char **words = args;
  for (int i = 0; i < 20; i++) {
    words[0] = wane_alloc(300);
  }
}

/* Registers, stops, makes weak pointers, all the time. */
static void *use_lifetimes(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  while (test_get(&stopping) == 0) {
    char *object = wane_alloc(16 + test_below(&random, 200));
    void *word = NULL;
    wane_weak handle = wane_weak_make(object + 3);
    wane_cleanup cleanup =
        wane_add_cleanup_copy(object, allocate_some, &word, sizeof word);
    if (test_below(&random, 3) == 0) {
      require(wane_cleanup_stop(cleanup));
    }
    if (test_below(&random, 4) == 0) {
      wane_set_finalizer(object, note);
    }
    require(wane_weak_value(handle) == object + 3);
    if (test_below(&random, 500) == 0) {
      wane_collect();
    }
    wane_keep_alive(object);
  }
  return NULL;
}

static void make_and_let_die(void *arg) {
  (void)arg;
  notes_begin();
  test_make_with(MANY, NULL, with_any);
  let_all_die(NULL);
  require(wane_drain(10000));
  wane_shutdown(0);
}

/* Whatever the others were in the middle of. Not under AddressSanitizer, whose
   own allocator is then locked in the child now and then, for ever. */
static void a_busy_program_may_fork(void **state) {
  (void)state;
  if (TEST_ASAN) {
    skip();
  }
  pthread_t threads[3];
  test_set(&stopping, 0);
  notes_begin();
  queue = wane_queue_new();
  for (uintptr_t t = 0; t < 3; t++) {
    assert_int_equal(
        pthread_create(&threads[t], NULL, use_lifetimes, (void *)(t + 1)), 0);
  }
  for (int i = 0; i < 20; i++) {
    test_fork(make_and_let_die, NULL, &child);
    test_assert_exit_0(&child, "busy");
  }
  test_set(&stopping, 1);
  for (size_t t = 0; t < 3; t++) {
    pthread_join(threads[t], NULL);
  }
  test_settle();
  make_and_let_die(NULL);
  wane_queue_free(queue);
}

static void shut_down(void *arg) {
  (void)arg;
  wane_shutdown(WANE_RUN_CLEANUPS);
  require(notes_total() == MANY);
  notes_require_once(MANY);
}

static void a_child_may_shut_down(void **state) {
  (void)state;
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_any);
  test_fork(shut_down, NULL, &child);
  test_assert_exit_0(&child, "shutdown");
  assert_int_equal(notes_total(), 0);
  let_all_die(NULL);
  wane_queue_free(queue);
}

static void fork_again(void *arg) {
  static struct test_child inner;
  if (*(int *)arg > 0) {
    --*(int *)arg;
    test_fork(fork_again, arg, &inner);
    dprintf(STDERR_FILENO, "%s", inner.text);
    require(inner.status == 0);
  }
  let_all_die(NULL);
}

static void children_may_fork(void **state) {
  (void)state;
  int depth = 3;
  notes_begin();
  queue = wane_queue_new();
  test_make_with(MANY, NULL, with_any);
  test_fork(fork_again, &depth, &child);
  test_assert_exit_0(&child, "children of children");
  let_all_die(NULL);
  wane_queue_free(queue);
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"fork_run", run_fork_run}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_was_registered_runs_in_each_process),
      cmocka_unit_test(what_is_queued_runs_in_the_parent_only),
      cmocka_unit_test(a_child_that_asks_runs_what_was_queued),
      cmocka_unit_test(the_childs_queue_has_its_own_fd),
      cmocka_unit_test(a_queue_may_be_freed_in_the_child),
      cmocka_unit_test(a_queue_being_freed_is_free_in_the_child),
      cmocka_unit_test(a_callback_may_fork),
      cmocka_unit_test(a_callback_may_return_in_the_child),
      cmocka_unit_test(a_busy_program_may_fork),
      cmocka_unit_test(a_child_may_shut_down),
      cmocka_unit_test(children_may_fork),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
