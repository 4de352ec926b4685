/*
 * The Nth system call fails, for every N, once or from there on: a
 * registration works, or gives the zero handle with ENOMEM and leaves nothing
 * behind; threads that cannot be started are started later. Each N is a
 * process of its own (WANE_OPTIONS=fault=N).
 */
/* timeout: 240 */
#include "support/lives.h"

#define COUNT 6000

static uint64_t ran; /* by callbacks */
static uint64_t cleanups;
static uint64_t stopped;
static uint64_t finalizers;
static uint64_t nets;
static struct wane_queue *queue;
TEST_ROOT char *objects[COUNT];

static void run(void *arg) {
  (void)arg;
  test_add(&ran);
}

/* Counted, or no memory. */
static bool registered(wane_cleanup cleanup) {
  if (cleanup.id == 0) {
    require(errno == ENOMEM);
    errno = 0;
    return false;
  }
  require(errno == 0);
  cleanups++;
  return true;
}

static void register_some(char *object, size_t idx) {
  static const char bytes[100];
  wane_cleanup cleanup = wane_add_cleanup(object + idx % 64, run, NULL);
  if (registered(cleanup) && idx % 3 == 0) {
    require(wane_cleanup_stop(cleanup));
    stopped++;
  }
  (void)registered(wane_add_cleanup_copy(object, run, bytes, idx % 100));
  if (queue != NULL) {
    (void)registered(wane_add_cleanup_on(queue, object, run, NULL));
  }
  if (idx % 7 == 0) {
    nets += registered(wane_add_safety_net(object, run, NULL));
  }
}

static void finalize_some(char *object) {
  wane_set_finalizer(object, run);
  if (errno == ENOMEM) { /* not set, so it may be set */
    errno = 0;
    wane_set_finalizer(object, run);
  }
  if (errno == ENOMEM) {
    errno = 0;
    return;
  }
  finalizers++;
}

static void make_weak(char *object, size_t idx) {
  wane_weak weak = wane_weak_make(object + idx % 64);
  if (weak.id == 0) {
    require(errno == ENOMEM);
    require(wane_weak_value(weak) == NULL);
  } else {
    require(wane_weak_value(weak) == object + idx % 64);
    require(errno == 0);
    wane_weak again = wane_weak_make(object + idx % 64);
    require(again.id == weak.id);
  }
  errno = 0;
}

static void use_all(void *arg) {
  (void)arg;
  static int data;
  for (size_t i = 0; i < COUNT; i++) {
    errno = 0;
    objects[i] = wane_alloc(64);
    if (objects[i] == NULL) {
      require(errno == ENOMEM);
      continue;
    }
    register_some(objects[i], i);
    if (i % 4 == 0) {
      finalize_some(objects[i]);
    }
    make_weak(objects[i], i);
    wane_weak weak = wane_weak_make(&data);
    require(weak.id != 0 ? wane_weak_value(weak) == &data : errno == ENOMEM);
    require(wane_add_cleanup(&data, run, NULL).id == 0);
    if (i % 1500 == 0) {
      wane_collect();
    }
  }
  test_scrub();
  memset(objects, 0, sizeof objects);
}

static void make_queue(void) {
  errno = 0;
  queue = wane_queue_new();
  require(queue != NULL ||
          (errno == ENOMEM || errno == EMFILE || errno == ENFILE));
}

static void with_run(void *object, size_t idx) {
  (void)idx;
  cleanups += wane_add_cleanup(object, run, NULL).id != 0;
}

/* Registering again starts the threads that could not be started. */
static void all_have_run(void) {
  uint64_t due = 0;
  for (int i = 0; i < 3; i++) {
    test_make_with(20, NULL, with_run);
    test_scrub();
    wane_collect();
    require(wane_drain(10000));
    if (queue != NULL) {
      (void)wane_queue_run(queue, SIZE_MAX);
    }
    due = cleanups - stopped + finalizers;
  }
  require(test_get(&ran) <= due);
  require(test_get(&ran) >= due - due / 50 - 20);
}

static void count_nets(void) {
  struct wane_net known[4];
  size_t count = wane_read_nets(known, TEST_COUNT(known));
  require(count <= 1 && count >= (nets > 0));
  require(count == 0 || known[0].registered == nets);
}

/* arg: "1" if all later calls fail too, so that nothing recovers. */
static void use_lifetimes(const char *arg) {
  bool recovers = arg[0] != '1';
  make_queue();
  use_all(NULL);
  struct wane_stats stats = test_stats();
  require(stats.cleanups_registered == cleanups);
  require(stats.cleanups_stopped == stopped);
  require(stats.finalizers_registered == finalizers);
  count_nets();
  wane_collect();
  if (recovers) {
    require(cleanups > COUNT && finalizers > COUNT / 8);
    all_have_run();
  } else { /* perhaps there are no threads */
    (void)wane_drain(100);
    if (queue != NULL) {
      (void)wane_queue_run(queue, SIZE_MAX);
    }
    require(test_get(&ran) <= cleanups - stopped + finalizers);
  }
  wane_shutdown(recovers ? WANE_RUN_CLEANUPS : 0);
  if (recovers) {
    require(test_get(&ran) == cleanups - stopped + finalizers);
  }
}

static void fail_nth(int nth, int more) {
  char options[128];
  char what[200];
  static struct test_child child;
  snprintf(options, sizeof options, "fault=%d,fault_more=%d,background=%d", nth,
           more, nth % 2);
  snprintf(what, sizeof what, "lifetimes with %s", options);
  test_exec("lifetimes", more ? "1" : "0", options, &child);
  test_assert_exit_0(&child, what);
}

#define NTH_MAX (TEST_TSAN ? 15 : 50)

static void one_failing_call_is_got_over(void **state) {
  (void)state;
  for (int nth = 1; nth <= NTH_MAX; nth++) {
    fail_nth(nth, 0);
  }
}

static void calls_that_go_on_failing_are_survived(void **state) {
  (void)state;
  for (int nth = 1; nth <= NTH_MAX; nth++) {
    fail_nth(nth, 1);
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"lifetimes", use_lifetimes}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_failing_call_is_got_over),
      cmocka_unit_test(calls_that_go_on_failing_are_survived),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
