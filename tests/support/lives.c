/* See lives.h. */
#include "lives.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define WAIT_SECONDS (TEST_ASAN || TEST_TSAN ? 30 : 10)

bool test_until(const uint64_t *counter, uint64_t least) {
  double end = test_now() + WAIT_SECONDS;
  while (test_get(counter) < least) {
    if (test_now() > end) {
      return false;
    }
    test_sleep_ms(1);
  }
  return true;
}

void test_wait_for(const uint64_t *flag) {
  while (test_get(flag) == 0) {
    test_sleep_ms(1);
  }
}

static uint64_t notes[NOTES_MAX];
static uint64_t notes_all;
static uint64_t notes_turn; /* written while no test runs */

#define NOTE_BITS 20

void notes_begin(void) {
  __atomic_fetch_add(&notes_turn, 1, __ATOMIC_SEQ_CST);
  for (size_t i = 0; i < NOTES_MAX; i++) {
    test_set(&notes[i], 0);
  }
  test_set(&notes_all, 0);
}

void *note_tag(size_t idx) {
  require(idx < NOTES_MAX);
  return (void *)(uintptr_t)(test_get(&notes_turn) << NOTE_BITS | idx);
}

size_t note_idx(const void *tag) {
  return (uintptr_t)tag & ((1u << NOTE_BITS) - 1);
}

bool note_is_fresh(const void *tag) {
  return (uintptr_t)tag >> NOTE_BITS == test_get(&notes_turn);
}

void note(void *tag) {
  if (note_is_fresh(tag)) {
    test_add(&notes[note_idx(tag)]);
    test_add(&notes_all);
  }
}

uint64_t notes_of(size_t idx) { return test_get(&notes[idx]); }
uint64_t notes_total(void) { return test_get(&notes_all); }

void notes_require_once(size_t count) {
  for (size_t i = 0; i < count; i++) {
    require(notes_of(i) <= 1);
  }
}

void test_settle(void) {
  test_scrub();
  wane_collect();
  require(wane_drain(WAIT_SECONDS * 1000));
}

struct make_with {
  size_t count;
  void *(*make)(size_t idx);
  void (*with)(void *object, size_t idx);
};

TEST_ROOT void *made_with[NOTES_MAX];

static TEST_NOINLINE void make_with_one(const struct make_with *args,
                                        size_t idx) {
  void *object = args->make != NULL ? args->make(idx) : wane_alloc(64);
  require(object != NULL);
  made_with[idx] = object;
  args->with(object, idx);
}

static void make_with_body(void *arg) {
  const struct make_with *args = arg;
  require(args->count <= NOTES_MAX);
  for (size_t i = 0; i < args->count; i++) {
    make_with_one(args, i);
  }
  test_scrub();
  memset(made_with, 0, sizeof made_with);
}

void test_make_with(size_t count, void *(*make)(size_t idx),
                    void (*with)(void *object, size_t idx)) {
  struct make_with args = {count, make, with};
  test_apart(make_with_body, &args);
}

size_t test_weak_alive(const wane_weak *weak, size_t count) {
  size_t alive = 0;
  for (size_t i = 0; i < count; i++) {
    alive += wane_weak_value(weak[i]) != NULL;
  }
  return alive;
}

void test_crew_run(const struct test_crew *crew, size_t sorts,
                   uintptr_t first) {
  size_t count = 0;
  for (size_t i = 0; i < sorts; i++) {
    count += crew[i].count;
  }
  pthread_t *threads = calloc(count, sizeof *threads);
  require(threads != NULL);
  size_t t = 0;
  for (size_t i = 0; i < sorts; i++) {
    for (size_t n = 0; n < crew[i].count; n++, t++) {
      require(pthread_create(&threads[t], NULL, crew[i].fn,
                             (void *)(first + t)) == 0);
    }
  }
  for (t = 0; t < count; t++) {
    require(pthread_join(threads[t], NULL) == 0);
  }
  free(threads);
}

void test_collect_until(double end, uint64_t seed, unsigned pause_ms,
                        void (*then)(struct test_random *random)) {
  struct test_random random = {seed};
  while (test_now() < end) {
    wane_collect();
    if (then != NULL) {
      then(&random);
    }
    test_sleep_ms((unsigned)test_below(&random, pause_ms));
    test_breathe();
  }
}

void test_run_role(const char *role, const char *arg, const char *options) {
  static struct test_child child;
  char what[200];
  snprintf(what, sizeof what, "%s %s with %s", role, arg, options);
  test_exec(role, arg, options, &child);
  test_assert_exit_0(&child, what);
}

void test_assert_only_line(const struct test_child *child,
                           const char *function) {
  test_assert_aborted(child, function);
  char prefix[128];
  snprintf(prefix, sizeof prefix, "wane: %s: ", function);
  const char *end = strchr(child->text, '\n');
  if (strncmp(child->text, prefix, strlen(prefix)) != 0 || end == NULL ||
      end[1] != '\0') {
    fail_msg("not only a fatal line of %s: %s", function, child->text);
  }
}

void test_assert_fatal_only(const char *function, void (*fn)(void *arg),
                            void *arg) {
  struct test_child child;
  test_fork(fn, arg, &child);
  test_assert_only_line(&child, function);
}

void test_assert_complains(const struct test_child *child) {
  const char *end = strchr(child->text, '\n');
  bool one_line = end != NULL && end[1] == '\0';
  if (!WIFSIGNALED(child->status) || WTERMSIG(child->status) != SIGABRT ||
      !one_line || strncmp(child->text, "wane: ", 6) != 0 ||
      strncmp(child->text, "wane: internal", 14) == 0) {
    fail_msg("no complaint: status %#x: %s", (unsigned)child->status,
             child->text);
  }
}
