/*
 * mutator/stop: threads that allocate faster than a cycle marks rest until it
 * has got on, and stops take them as they are. Meanwhile cycles are forced,
 * threads come and go, the process forks, and signals of the program arrive:
 * a handler may have to wait, but none is forgotten. D8, D9, G4, INV-stop-3.
 *
 * rest [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: none WANE_OPTIONS=dirty=none */
/* run: one_marker WANE_OPTIONS=mark_threads=1 */
/* skip: tsan, with which nobody rests, and whose runtime delays signals */
#include "support/lives.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "mutator/thread.h"

#define WORKERS ((size_t)6)
#define KEPT ((size_t)64)
#define SIGNAL (SIGRTMIN + 3)

static struct test_args args;
static double end;

static bool goes_on(void) { return test_now() < end; }

/* ---- What takes long to mark ---- */

struct node {
  uint64_t number;
  struct node *next;
  uint64_t check;
};

TEST_ROOT struct node *list;

static struct node *node_new(uint64_t number, struct node *next) {
  struct node *node = wane_new(struct node);
  require(node != NULL);
  *node = (struct node){number, next, number ^ 0x9e3779b97f4a7c15};
  return node;
}

static void node_check(const struct node *node, uint64_t number) {
  require(node->number == number && wane_base(node) == node);
  require(node->check == (number ^ 0x9e3779b97f4a7c15));
}

/* One after the other: no marker can share that with others. */
static void list_make(void) {
  for (uint64_t i = 0; i < test_scaled(400000, 40000); i++) {
    list = node_new(i, list);
  }
}

static void list_check(void) {
  uint64_t number = test_scaled(400000, 40000);
  for (const struct node *node = list; node != NULL; node = node->next) {
    number--;
    require(node->number == number);
  }
  require(number == 0);
}

/* ---- Those that rest ---- */

struct worker {
  pthread_t thread;
  struct wane__thread *record; /* atomic. NULL: none yet, or it has ended */
  uint64_t handled;            /* signals. atomic */
  uint64_t sent;
  uint64_t may_end; /* atomic */
};

static struct worker workers[WORKERS];
static __thread struct worker *self;

static void on_signal(int number) {
  int saved = errno;
  (void)number;
  require(self != NULL);
  (void)test_add(&self->handled);
  errno = saved;
}

/* What its own stack and registers alone hold. */
static TEST_NOINLINE void allocate_for_a_while(struct test_random *random) {
  struct node *volatile kept[KEPT] = {0};
  uint64_t numbers[KEPT] = {0};
  for (size_t i = 0; i < 20 * KEPT; i++) {
    size_t slot = test_below(random, KEPT);
    if (kept[slot] != NULL) {
      node_check(kept[slot], numbers[slot]);
    }
    numbers[slot] = test_random(random);
    kept[slot] = node_new(numbers[slot], NULL);
    size_t bytes = i % 16 == 0 ? 40000 : 400;
    require(wane_alloc(test_below(random, bytes)) != NULL);
  }
}

static void *work(void *arg) {
  struct worker *worker = arg;
  struct test_random random = {args.seed + (size_t)(worker - workers)};
  self = worker;
  require(wane_alloc(16) != NULL); /* attached from here on */
  __atomic_store_n(&worker->record, (struct wane__thread *)wane__self,
                   __ATOMIC_RELEASE);
  while (goes_on()) {
    allocate_for_a_while(&random);
    test_scrub();
  }
  test_wait_for(&worker->may_end);
  return NULL;
}

/* ---- What happens to them ---- */

static uint64_t rests_seen; /* by the thread that sends signals */

static void send_one(struct worker *worker) {
  struct wane__thread *record =
      __atomic_load_n(&worker->record, __ATOMIC_ACQUIRE);
  if (record == NULL) {
    return;
  }
  rests_seen += wane__load_relaxed(&record->rest) != 0;
  const union sigval none = {0};
  if (pthread_sigqueue(worker->thread, SIGNAL, none) == 0) {
    worker->sent++;
  }
}

static void *send_signals(void *arg) {
  struct test_random random = {args.seed + 100};
  while (goes_on()) {
    send_one(&workers[test_below(&random, WORKERS)]);
    if (test_below(&random, 50) == 0) {
      test_sleep_ms(1);
    }
  }
  return arg;
}

static void *collect(void *arg) {
  while (goes_on()) {
    wane_collect();
    test_sleep_ms(1);
  }
  return arg;
}

static void *live_for_a_moment(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  allocate_for_a_while(&random);
  return node_new(random.state, NULL);
}

/* Some are waited for, others end when they like. */
static void *make_threads(void *arg) {
  for (uintptr_t i = 0; goes_on(); i++) {
    pthread_t threads[3];
    for (size_t t = 0; t < 3; t++) {
      require(pthread_create(&threads[t], NULL, live_for_a_moment,
                             (void *)(3 * i + t)) == 0);
    }
    require(pthread_detach(threads[0]) == 0);
    for (size_t t = 1; t < 3; t++) {
      void *node;
      require(pthread_join(threads[t], &node) == 0);
      node_check(node, ((struct node *)node)->number);
    }
  }
  return arg;
}

static void use_child(void) {
  struct test_random random = {args.seed + 200};
  alarm(60);
  wane_collect();
  allocate_for_a_while(&random);
  wane_collect();
  list_check();
}

static void *fork_often(void *arg) {
  while (goes_on()) {
    int status = -1;
    pid_t pid = fork();
    require(pid >= 0);
    if (pid == 0) {
      use_child();
      _exit(0);
    }
    require(waitpid(pid, &status, 0) == pid && status == 0);
    test_sleep_ms(20);
  }
  return arg;
}

/* ---- */

static void run_beside_workers(void *(*const others[])(void *arg),
                               size_t count) {
  pthread_t threads[4];
  end = test_now() + args.seconds;
  memset(workers, 0, sizeof workers);
  for (size_t i = 0; i < WORKERS; i++) {
    require(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
  }
  for (size_t i = 0; i < count; i++) {
    require(pthread_create(&threads[i], NULL, others[i], NULL) == 0);
  }
  for (size_t i = 0; i < count; i++) {
    require(pthread_join(threads[i], NULL) == 0);
  }
  list_check();
}

/* All signals are handled before. */
static void end_workers(void) {
  for (size_t i = 0; i < WORKERS; i++) {
    struct worker *worker = &workers[i];
    double until = test_now() + 20;
    while (test_get(&worker->handled) != worker->sent && test_now() < until) {
      test_sleep_ms(1);
    }
    assert_int_equal(test_get(&worker->handled), worker->sent);
    test_set(&worker->may_end, 1);
    assert_int_equal(pthread_join(worker->thread, NULL), 0);
  }
}

static void stops_take_those_that_rest(void **state) {
  static void *(*const others[])(void *) = {collect, make_threads};
  (void)state;
  run_beside_workers(others, TEST_COUNT(others));
  end_workers();
}

static void handlers_run_after_a_rest(void **state) {
  static void *(*const others[])(void *) = {send_signals, collect};
  (void)state;
  rests_seen = 0;
  run_beside_workers(others, TEST_COUNT(others));
  end_workers();
  print_message("[          ] resting when a signal came: %lu of %lu\n",
                (unsigned long)rests_seen, (unsigned long)workers[0].sent);
  if (strcmp(test_stats().dirty_backend, "none") != 0) {
    assert_true(rests_seen > 0);
  }
}

static void processes_fork_while_threads_rest(void **state) {
  static void *(*const others[])(void *) = {fork_often, collect, make_threads,
                                            send_signals};
  (void)state;
  run_beside_workers(others, TEST_COUNT(others));
  end_workers();
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stops_take_those_that_rest),
      cmocka_unit_test(handlers_run_after_a_rest),
      cmocka_unit_test(processes_fork_while_threads_rest),
  };
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  args = test_args_read(argc, argv, 1.5);
  require(sigaction(SIGNAL, &action, NULL) == 0);
  wane_set_gc_percent(30); /* so that there is little to allocate meanwhile */
  list_make();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
