/* fork with mapped files and adopted pages: the child has what the parent had,
   and each unmaps and releases its own. G4, D18, P1, P2. */
/* skip: tsan, whose runtime deadlocks in children of threads */
/* timeout: 240 */
/* run: poison WANE_OPTIONS=poison=1 */
#include "support/files.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define MANY 200
#define FEW (2 + MANY / 50)
#define FILES 10

/* ---- Four sorts: own, shared, bytes alone, adopted ---- */

static const char *name_of(size_t idx) {
  static _Thread_local char name[32];
  snprintf(name, sizeof name, "file%zu", idx % FILES);
  return name;
}

static uint64_t number_of(size_t idx) { return idx % FILES; }
static size_t size_of(size_t idx) { return 4096 * (1 + idx % FILES); }
static size_t offset_of(size_t idx) { return idx * 7919 % size_of(idx); }

static void release(void *addr, size_t size, void *tag) {
  require(file_matches(addr, size, number_of(note_idx(tag)), 0));
  require(munmap(addr, size) == 0);
  note(tag);
}

static void *adopt(size_t idx) {
  size_t size = size_of(idx);
  void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(addr != MAP_FAILED);
  file_fill(addr, size, number_of(idx));
  require(wane_adopt(addr, size, release, note_tag(idx)) == 0);
  return addr;
}

static struct wane_mapped *shared[FILES];

static char *open_any(size_t idx) {
  struct wane_mapped *m;
  switch (idx % 4) {
  case 0:
    m = wane_mapped_open(name_of(idx));
    require(m != NULL);
    return (char *)m->data;
  case 1:
    m = wane_mapped_open_shared(name_of(idx));
    require(m != NULL);
    shared[idx % FILES] = m;
    return (char *)m->data;
  case 2:
    return (char *)wane_map_bytes(name_of(idx), NULL);
  default:
    return adopt(idx);
  }
}

static void *make_any(size_t idx) { return open_any(idx); }

TEST_ROOT char *kept[MANY];

static void keep(void *bytes, size_t idx) {
  kept[idx] = (char *)bytes + offset_of(idx);
}

static void forget(void *object, size_t idx) {
  (void)object;
  (void)idx;
}

static TEST_NOINLINE void check_bytes(const void *bytes, size_t idx) {
  require(file_matches(bytes, size_of(idx), number_of(idx), 0));
}

static void check_kept(void) {
  for (size_t i = 0; i < MANY; i++) {
    check_bytes(kept[i] - offset_of(i), i);
  }
  for (size_t i = 1; i < FILES; i += 2) { /* all of them are shared */
    require(wane_mapped_open_shared(name_of(i)) == shared[i]);
  }
  test_scrub();
}

/* Mappings of MANY: half of them are own or bytes. */
#define MAPS (MANY / 2 + FILES / 2)
#define ADOPTED (MANY / 4)

static void drop_kept(void) {
  memset(kept, 0, sizeof kept);
  memset(shared, 0, sizeof shared);
  test_settle();
}

/* ---- What lives at the fork ---- */

/* In the parent and in the child alike. */
static void use_and_drop(void *arg) {
  (void)arg;
  struct wane_stats before = test_stats();
  check_kept();
  test_settle();
  check_kept();
  require(notes_total() == 0);
  require(test_stats().files_mapped == before.files_mapped);
  test_make_with(MANY, make_any, forget); /* more */
  struct wane_mapped *m = wane_mapped_open(name_of(3));
  require(m != NULL);
  check_bytes(m->data, 3);
  wane_mapped_close(m);
  require(m->data == NULL);
  test_settle();
  check_kept();
  require(notes_total() >= ADOPTED - FEW && notes_total() <= ADOPTED);
  require(maps_of(NULL) >= MAPS && maps_of(NULL) <= MAPS + 2 * FEW);
  maps_require_counted();
  notes_begin(); /* what is kept has tags of the turn before */
  drop_kept();
  require(maps_of(NULL) <= 2 * FEW);
  maps_require_counted();
}

static struct test_child child;

static void each_process_has_what_lives_at_the_fork(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    notes_begin();
    test_make_with(MANY, make_any, keep);
    test_fork(use_and_drop, NULL, &child);
    test_assert_exit_0(&child, "uses what it inherits");
    check_kept();
    assert_in_range(maps_of(NULL), MAPS, MAPS + 2 * FEW);
    use_and_drop(NULL);
  }
}

static void drop_and_count(void *arg) {
  (void)arg;
  drop_kept();
  require(notes_total() >= ADOPTED - FEW && notes_total() <= ADOPTED);
  notes_require_once(MANY);
}

/* D18: a release runs in each process, when its copy dies there. */
static void release_runs_in_each_process(void **state) {
  (void)state;
  notes_begin();
  test_make_with(MANY, make_any, keep);
  test_fork(drop_and_count, NULL, &child);
  test_assert_exit_0(&child, "releases");
  assert_int_equal(notes_total(), 0);
  check_kept();
  drop_and_count(NULL);
}

/* ---- What is dead at the fork ---- */

static uint64_t gate;
static uint64_t arrivals;

static void wait_at_gate(void *arg) {
  (void)arg;
  test_add(&arrivals);
  while (test_get(&gate) == 0) {
    test_sleep_ms(1);
  }
}

static void with_waiting(void *object, size_t idx) {
  (void)idx;
  require(wane_add_cleanup(object, wait_at_gate, NULL).id != 0);
}

/* All the library's threads wait in callbacks, and deaths are queued. */
static void queue_many(void) {
  notes_begin();
  test_set(&gate, 0);
  test_set(&arrivals, 0);
  test_make_with(100, NULL, with_waiting);
  test_scrub();
  wane_collect();
  require(test_until(&arrivals, 2));
  test_make_with(MANY, make_any, forget);
  memset(shared, 0, sizeof shared);
  test_scrub();
  wane_collect();
  require(notes_total() == 0);
}

/* Its own are made and go, whatever waits in the parent. */
static void use_anew(void *arg) {
  (void)arg;
  test_set(&gate, 1);
  test_settle();
  size_t late = notes_total(); /* what stray words kept before */
  require(late <= FEW);
  uint64_t mapped = test_stats().files_mapped;
  size_t maps = maps_of(NULL);
  notes_begin();
  test_make_with(MANY, make_any, keep);
  require(test_stats().files_mapped - mapped >= MAPS - FEW);
  check_kept();
  test_settle();
  check_kept();
  drop_and_count(NULL);
  require(maps_of(NULL) <= maps + FEW);
  maps_require_counted();
}

/* G4. */
static void what_is_queued_runs_in_the_parent_only(void **state) {
  (void)state;
  queue_many();
  size_t maps = maps_of(NULL);
  for (int i = 0; i < 3; i++) {
    test_fork(use_anew, NULL, &child);
    test_assert_exit_0(&child, "queued before");
  }
  assert_int_equal(notes_total(), 0);
  assert_int_equal(maps_of(NULL), maps);
  test_set(&gate, 1);
  test_settle();
  assert_in_range(notes_total(), ADOPTED - FEW, ADOPTED);
  notes_require_once(MANY);
  assert_in_range(maps_of(NULL), 0, 2 * FEW);
  maps_require_counted();
}

/* What nobody in the child will ever release does not make it slow, or keep
   it from using all that the system allows. */
static void open_often(void *arg) {
  (void)arg;
  test_set(&gate, 1);
  double end = test_now() + 10;
  for (size_t i = 0; i < 20000; i++) {
    const char *bytes = wane_map_bytes(name_of(i), NULL);
    require(bytes != NULL && test_now() < end);
  }
  test_settle();
}

static void a_child_is_not_burdened_with_what_was_queued(void **state) {
  (void)state;
  queue_many();
  for (int i = 0; i < 20; i++) { /* and more */
    test_make_with(MANY, make_any, forget);
    memset(shared, 0, sizeof shared);
  }
  test_scrub();
  wane_collect();
  test_fork(open_often, NULL, &child);
  test_assert_exit_0(&child, "opens often");
  test_set(&gate, 1);
  test_settle();
  assert_in_range(maps_of(NULL), 0, 2 * FEW);
}

/* With fork=run: in the child's child. */
static void run_what_was_queued(void *arg) {
  (void)arg;
  test_set(&gate, 1);
  double end = test_now() + 10;
  while ((notes_total() < ADOPTED - FEW || maps_of(NULL) > 2 * FEW) &&
         test_now() < end) {
    void *object = wane_alloc(16); /* a registration starts the threads */
    (void)wane_add_cleanup(object, note, NULL);
    test_settle();
  }
  require(notes_total() >= ADOPTED - FEW && notes_total() <= ADOPTED);
  notes_require_once(MANY);
  require(maps_of(NULL) <= 2 * FEW);
  maps_require_counted();
}

static void run_fork_run(const char *arg) {
  (void)arg;
  static struct test_child grandchild;
  queue_many();
  size_t maps = maps_of(NULL);
  test_fork(run_what_was_queued, NULL, &grandchild);
  dprintf(STDERR_FILENO, "%s", grandchild.text);
  require(grandchild.status == 0);
  require(notes_total() == 0 && maps_of(NULL) == maps);
  test_set(&gate, 1);
  test_settle();
  require(notes_total() >= ADOPTED - FEW && notes_total() <= ADOPTED);
  require(maps_of(NULL) <= 2 * FEW);
}

static void a_child_that_asks_runs_what_was_queued(void **state) {
  (void)state;
  test_run_role("fork_run", "", "fork=run");
}

/* ---- A program that is busy ---- */

#define THREADS 3
static uint64_t stopping;

static void *open_and_drop(void *arg) {
  struct test_random random = {(uintptr_t)arg};
  while (test_get(&stopping) == 0) {
    size_t idx = test_below(&random, MANY);
    char *bytes = open_any(idx);
    check_bytes(bytes, idx);
    if (test_below(&random, 50) == 0) {
      wane_collect();
    }
    check_bytes(bytes, idx);
  }
  return NULL;
}

/* Whatever the others were doing: no lock is left, no opening half done. */
static void open_all(void *arg) {
  (void)arg;
  memset(shared, 0, sizeof shared);
  for (int round = 0; round < 2; round++) {
    notes_begin();
    size_t maps = maps_of(NULL);
    test_make_with(MANY, make_any, keep);
    for (size_t i = 1; i < FILES; i += 2) {
      struct wane_mapped *m = wane_mapped_open_shared(name_of(i));
      require(m == shared[i]);
    }
    test_settle();
    check_kept();
    drop_and_count(NULL);
    require(maps_of(NULL) <= maps + FEW);
  }
}

static void a_busy_program_may_fork(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  test_set(&stopping, 0);
  notes_begin();
  for (size_t t = 0; t < THREADS; t++) {
    assert_int_equal(
        pthread_create(&threads[t], NULL, open_and_drop, (void *)(t + 1)), 0);
  }
  for (int i = 0; i < 20; i++) {
    test_fork(open_all, NULL, &child);
    test_assert_exit_0(&child, "busy");
  }
  test_set(&stopping, 1);
  for (size_t t = 0; t < THREADS; t++) {
    pthread_join(threads[t], NULL);
  }
  memset(shared, 0, sizeof shared);
  test_settle();
  assert_in_range(maps_of(NULL), 0, 2 * FEW);
  maps_require_counted();
}

static void fork_again(void *arg) {
  static struct test_child inner;
  if (*(int *)arg > 0) {
    --*(int *)arg;
    test_fork(fork_again, arg, &inner);
    dprintf(STDERR_FILENO, "%s", inner.text);
    require(inner.status == 0);
  }
  check_kept();
  drop_and_count(NULL);
}

static void children_may_fork(void **state) {
  (void)state;
  int depth = 3;
  notes_begin();
  test_make_with(MANY, make_any, keep);
  test_fork(fork_again, &depth, &child);
  test_assert_exit_0(&child, "children of children");
  check_kept();
  drop_and_count(NULL);
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {{"fork_run", run_fork_run}};
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_process_has_what_lives_at_the_fork),
      cmocka_unit_test(release_runs_in_each_process),
      cmocka_unit_test(what_is_queued_runs_in_the_parent_only),
      cmocka_unit_test(a_child_is_not_burdened_with_what_was_queued),
      cmocka_unit_test(a_child_that_asks_runs_what_was_queued),
      cmocka_unit_test(a_busy_program_may_fork),
      cmocka_unit_test(children_may_fork),
  };
  files_begin();
  for (size_t i = 0; i < FILES; i++) {
    file_make(name_of(i), number_of(i), size_of(i));
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  files_end();
  return failed;
}
