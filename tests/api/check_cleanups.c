/* check=cleanups: callbacks that can never run are found and explained. A6,
   F4; src/collect/check.h. */
/* no-variants */
/* timeout: 240 */
#include "support/child.h"

#include <fnmatch.h>
#include <sys/wait.h>

/* ---- What children do ---- */

struct node {
  long number;
  void *left;
  void *right;
};
WANE_TYPE(node_type, struct node, left, right);

/* Keeps what a child made alive, so that only the check speaks. */
#define KEEP 200000
TEST_ROOT void *keep[KEEP];
static size_t kept;

static void *kept_alive(void *object) {
  require(object != NULL && kept < KEEP);
  return keep[kept++] = object;
}

static void **cells(size_t count) {
  return kept_alive(wane_alloc(count * sizeof(void *)));
}

static struct node *node(void) {
  return kept_alive(wane_alloc_typed(&node_type, 1));
}

static void log_close(void *arg) { (void)arg; }
static void last_words(void *object) { (void)object; }

static wane_cleanup add(void *object, void *arg) {
  wane_cleanup cleanup = wane_add_cleanup(object, log_close, arg);
  require(cleanup.id != 0);
  return cleanup;
}

/* argument +8 -> typed +16 -> cells +24, inside -> object */
TEST_NOINLINE static void register_deep(void) {
  char *object = kept_alive(wane_alloc(64));
  struct node *typed = node();
  void **list = cells(4);
  void **arg = cells(6);
  arg[1] = typed;
  typed->number = (long)object; /* no pointer of this type */
  typed->right = &list[2];
  list[3] = object + 40;
  require(wane_add_cleanup(object + 8, log_close, arg + 5).id != 0);
  __asm__ volatile(""); /* no tail call */
}

static void deep(const char *arg) {
  (void)arg;
  register_deep();
  wane_collect();
}

static void again(const char *arg) {
  (void)arg;
  register_deep();
  for (int i = 0; i < 5; i++) {
    wane_collect();
  }
  register_deep();
  wane_collect();
  wane_collect();
}

static void ring(size_t count) {
  void **first = cells(2);
  void **last = first;
  for (size_t i = 1; i < count; i++) {
    void **next = cells(2);
    last[0] = next;
    last = next;
  }
  last[1] = first;
  wane_set_finalizer(first, last_words);
}

static void finalizer_ring(const char *arg) {
  ring((size_t)atoi(arg));
  wane_collect();
}

/* Nothing here is to be reported. */
static void healthy(const char *arg) {
  (void)arg;
  void **object = cells(8);
  void **other = cells(8);
  void **table = cells(8);
  add(object, NULL);
  add(object, (void *)1234);
  add(object, table);
  add(other, object);
  object[0] = object; /* to itself */
  object[1] = table;

  void **self = cells(8); /* points to itself, and to no ring */
  self[0] = self;
  self[1] = &self[1];
  self[7] = object;
  wane_set_finalizer(self, last_words);

  void **big = cells(100000);
  for (size_t i = 0; i < 100000; i++) {
    big[i] = big + i;
  }
  wane_set_finalizer(big, last_words);

  void **leaf = kept_alive(wane_alloc_leaf(64));
  void **hidden = cells(1);
  leaf[0] = hidden;
  add(hidden, leaf);

  void **first = cells(1); /* a chain */
  void **second = cells(1);
  first[0] = second;
  wane_set_finalizer(first, last_words);
  wane_set_finalizer(second, last_words);

  void **stopped = cells(1);
  void **way = cells(1);
  way[0] = stopped;
  require(wane_cleanup_stop(add(stopped, way)));

  void **cleared = cells(1);
  void **back = cells(1);
  cleared[0] = back;
  back[0] = cleared;
  wane_set_finalizer(cleared, last_words);
  wane_set_finalizer(cleared, NULL);

  static long data;
  require(wane_add_cleanup(&data, log_close, object).id == 0);
  for (int i = 0; i < 3; i++) {
    wane_collect();
  }
}

static void drop_many(void *arg) {
  (void)arg;
  for (int i = 0; i < 1000; i++) {
    void *object = wane_alloc(32);
    require(wane_add_cleanup(object, log_close, wane_alloc(32)).id != 0);
    wane_set_finalizer(wane_alloc(32), last_words);
  }
}

static void dying(const char *arg) {
  (void)arg;
  test_apart(drop_many, NULL);
  for (int i = 0; i < 3; i++) {
    wane_collect();
  }
}

static void net_and_copy(const char *arg) {
  (void)arg;
  void **object = cells(1);
  void **way = cells(1);
  void *args[3] = {NULL, way, NULL};
  way[0] = object;
  require(
      wane_add_safety_net_at(object, log_close, way, "over/there.c", 77).id !=
      0);
  require(wane_add_cleanup_copy(object, log_close, args, sizeof args).id != 0);
  wane_collect();
}

static void many(const char *arg) {
  for (int i = 0; i < atoi(arg); i++) {
    void **object = cells(1);
    void **way = cells(1);
    way[0] = object;
    add(object, way);
  }
  for (int i = 0; i < 5; i++) {
    wane_collect();
  }
}

/* A path of so many objects, the argument included. */
static void long_path(const char *arg) {
  void **object = cells(1);
  void **way = object;
  for (int i = atoi(arg); i > 0; i--) {
    void **before = cells(2);
    before[i % 2] = way;
    way = before;
  }
  add(object, way);
  wane_collect();
}

/* Of two ways the shorter is told. */
static void two_ways(const char *arg) {
  (void)arg;
  void **object = cells(1);
  void **way[5];
  for (size_t i = 0; i < 5; i++) {
    way[i] = cells(3);
  }
  way[0][0] = way[1];
  way[1][0] = way[2];
  way[2][0] = way[3];
  way[3][0] = object;
  way[0][2] = way[4];
  way[4][1] = object;
  add(object, way[0]);
  wane_collect();
}

static void **list_of(size_t count) {
  void **first = NULL;
  for (size_t i = 0; i < count; i++) {
    void **cell = wane_alloc(2 * sizeof(void *));
    require(cell != NULL);
    cell[0] = first;
    first = cell;
  }
  return kept_alive(first);
}

/* All share one argument that reaches much. */
static void shared_argument(const char *arg) {
  (void)arg;
  void **list = list_of(100000);
  for (int i = 0; i < 10000; i++) {
    add(cells(1), list);
  }
  wane_collect();
}

/* Each has its own, and all reach the same much: too much for one cycle. */
static void much_work(const char *arg) {
  (void)arg;
  void **list = list_of(200000);
  void **object = NULL;
  void **way = NULL;
  for (int i = 0; i < 150; i++) {
    object = cells(1);
    way = cells(1);
    way[0] = list;
    add(object, way);
  }
  void **more = cells(2); /* the last one never runs */
  more[0] = object;
  more[1] = list;
  way[0] = more;
  for (int i = 0; i < 2; i++) {
    wane_collect();
  }
}

/* One search alone is too much, and does not keep the others from theirs. */
static void huge_object(const char *arg) {
  (void)arg;
  void **huge = kept_alive(wane_alloc((size_t)520 << 20));
  void **object = cells(1);
  void **way = cells(1);
  add(cells(1), huge);
  way[0] = object;
  add(object, way);
  wane_collect();
  wane_collect();
}

/* Random graphs, compared with the closure of a matrix. */
enum { OBJECTS = 48, CLEANUPS = 16, FINALIZERS = 12 };

static void graph(struct test_random *random, size_t edges) {
  void **objects[OBJECTS];
  static bool reach[OBJECTS][OBJECTS]; /* in one step or more */
  memset(reach, 0, sizeof reach);
  kept = 0;
  for (size_t i = 0; i < OBJECTS; i++) {
    objects[i] = i % 3 == 0 ? (void **)node() : cells(4);
  }
  for (size_t e = 0; e < edges; e++) {
    size_t from = test_below(random, OBJECTS);
    size_t to = test_below(random, OBJECTS);
    size_t field =
        from % 3 == 0 ? 1 + test_below(random, 2) : test_below(random, 4);
    if (objects[from][field] == NULL) {
      objects[from][field] = (char *)objects[to] + test_below(random, 24);
      reach[from][to] = from != to; /* F4 */
    }
  }
  for (size_t k = 0; k < OBJECTS; k++) {
    for (size_t i = 0; i < OBJECTS; i++) {
      for (size_t j = 0; j < OBJECTS; j++) {
        reach[i][j] |= reach[i][k] && reach[k][j];
      }
    }
  }
  int cleanups = 0;
  int finalizers = 0;
  for (size_t i = 0; i < CLEANUPS; i++) {
    size_t object = test_below(random, OBJECTS);
    size_t arg = test_below(random, OBJECTS);
    if (object != arg) {
      add(objects[object], objects[arg]);
      cleanups += reach[arg][object];
    }
  }
  for (size_t i = 0; i < FINALIZERS; i++) {
    wane_set_finalizer(objects[i * 4], last_words);
    finalizers += reach[i * 4][i * 4];
  }
  fprintf(stderr, "expected %d %d\n", cleanups, finalizers);
  wane_collect();
}

static void graphs(const char *arg) {
  struct test_random random = {strtoull(arg, NULL, 0)};
  for (size_t i = 0; i < 12; i++) {
    graph(&random, 20 + 5 * i);
  }
}

/* ---- What they print ---- */

#define NEVER ", will never run: "
#define ITS_ARGUMENT "its argument reaches the object"

/* Lines that match the pattern (fnmatch). */
static size_t lines(const struct test_child *child, const char *pattern) {
  static char copy[sizeof child->text];
  size_t count = 0;
  char *save = NULL;
  memcpy(copy, child->text, sizeof copy);
  for (char *line = strtok_r(copy, "\n", &save); line != NULL;
       line = strtok_r(NULL, "\n", &save)) {
    count += fnmatch(pattern, line, 0) == 0;
  }
  return count;
}

static void run_with(const char *role, const char *arg, const char *options,
                     struct test_child *child) {
  test_exec(role, arg, options, child);
  test_assert_exit_0(child, role);
}

static void run(const char *role, const char *arg, struct test_child *child) {
  run_with(role, arg, "check=cleanups", child);
}

static void assert_lines(const struct test_child *child, const char *pattern,
                         size_t count) {
  if (lines(child, pattern) != count) {
    fail_msg("not %zu lines  %s\n%s", count, pattern, child->text);
  }
}

static const char deep_line[] =
    "wane: check: the cleanup log_close of object 0x* (64 bytes), registered "
    "at register_deep+0x* (test*)" NEVER ITS_ARGUMENT;
static const char deep_path[] =
    "wane: check:   argument 0x* (48 bytes) +8 -> 0x* (typed struct node, 24 "
    "bytes) +16 -> 0x* (32 bytes) +24 -> the object 0x*";

static void a_path_is_told_step_by_step(void **state) {
  (void)state;
  struct test_child child;
  run("deep", "", &child);
  assert_lines(&child, deep_line, 1);
  assert_lines(&child, deep_path, 1);
  assert_lines(&child, "wane: check: 1 cleanup will never run", 1);
  /* with WANE_BACKTRACE come lines of the calls */
  size_t calls = lines(&child, "wane: check:   called from *");
  assert_lines(&child, "*", 3 + calls);
  assert_true(calls == 0 || lines(&child, "*called from main+0x*") == 1);
}

static void off_it_says_nothing(void **state) {
  (void)state;
  struct test_child child;
  run_with("deep", "", NULL, &child);
  assert_string_equal(child.text, "");
  run_with("deep", "", "check=0", &child);
  assert_string_equal(child.text, "");
}

static void with_fail_it_aborts_after_the_report(void **state) {
  (void)state;
  struct test_child child;
  test_exec("deep", "", "check=cleanups:fail", &child);
  test_assert_aborted(&child, "check");
  assert_lines(&child, deep_line, 1);
  assert_lines(&child, deep_path, 1);
  assert_lines(&child, "wane: check: 1 cleanup will never run", 1);
  run_with("healthy", "", "check=cleanups:fail", &child);
  assert_string_equal(child.text, "");
}

static void each_is_told_once(void **state) {
  (void)state;
  struct test_child child;
  run("again", "", &child);
  assert_lines(&child, deep_line, 2);
  assert_lines(&child, "wane: check: 1 cleanup will never run", 2);
}

static void finalizers_in_rings_are_found(void **state) {
  (void)state;
  struct test_child child;
  static const char line[] =
      "wane: check: the finalizer last_words of object 0x* (16 bytes), "
      "registered at *ring+0x* (test*)" NEVER
      "the object reaches itself through others";
  run("finalizer_ring", "2", &child);
  assert_lines(&child, line, 1);
  assert_lines(&child,
               "wane: check:   object 0x* (16 bytes) +0 -> 0x* (16 bytes) +8 "
               "-> the object 0x*",
               1);
  run("finalizer_ring", "3", &child);
  assert_lines(&child, line, 1);
  assert_lines(&child,
               "wane: check:   object 0x* (16 bytes) +0 -> 0x* (16 bytes) +0 "
               "-> 0x* (16 bytes) +8 -> the object 0x*",
               1);
  assert_lines(&child, "wane: check: 1 finalizer will never run", 1);
  run("finalizer_ring", "1", &child); /* itself */
  assert_string_equal(child.text, "");
}

static void what_can_run_is_not_reported(void **state) {
  (void)state;
  struct test_child child;
  run("healthy", "", &child);
  assert_string_equal(child.text, "");
  run("dying", "", &child);
  assert_string_equal(child.text, "");
}

static void nets_give_their_place_and_copies_their_bytes(void **state) {
  (void)state;
  struct test_child child;
  run("net_and_copy", "", &child);
  assert_lines(&child,
               "wane: check: the safety net log_close of object 0x* (16 "
               "bytes), registered at over/there.c:77" NEVER ITS_ARGUMENT,
               1);
  assert_lines(&child,
               "wane: check:   copied arguments 0x* (32 bytes) +8 -> 0x* (16 "
               "bytes) +0 -> the object 0x*",
               1);
  assert_lines(&child, "wane: check: 2 cleanups will never run", 1);
}

static void fifty_are_told_in_a_cycle(void **state) {
  (void)state;
  static struct test_child child;
  run("many", "50", &child);
  assert_lines(&child, "*" NEVER ITS_ARGUMENT, 50);
  assert_lines(&child, "*looked at*", 0);
  run("many", "80", &child);
  if (strlen(child.text) == sizeof child.text - 1) {
    return; /* with backtraces it is more than is kept */
  }
  assert_lines(&child, "*" NEVER "*", 80);
  assert_lines(&child, "wane: check: 50 cleanups will never run", 1);
  assert_lines(&child, "wane: check: 30 cleanups will never run", 1);
  assert_lines(&child,
               "wane: check: in this cycle only 50 of 80 callbacks were looked "
               "at; *",
               1);
}

static void long_paths_keep_their_ends(void **state) {
  (void)state;
  struct test_child child;
  run("long_path", "16", &child);
  assert_lines(&child, "*more objects*", 0);
  assert_lines(&child, "wane: check:   * ->", 4 - 1);
  run("long_path", "17", &child);
  assert_lines(&child, "*... 1 more objects ... -> 0x*", 1);
  run("long_path", "5000", &child);
  assert_lines(&child, "*... 4984 more objects ... -> 0x*", 1);
  assert_lines(&child, "wane: check:   * ->", 4 - 1);
  assert_lines(&child, "wane: check:   *-> the object 0x*", 1);
}

static void of_two_ways_the_shorter_is_told(void **state) {
  (void)state;
  struct test_child child;
  run("two_ways", "", &child);
  assert_lines(&child,
               "wane: check:   argument 0x* (* bytes) +16 -> 0x* (* bytes) +8 "
               "-> the object 0x*",
               1);
}

static void a_shared_argument_is_searched_once(void **state) {
  (void)state;
  struct test_child child;
  double begin = test_now();
  run("shared_argument", "", &child);
  assert_string_equal(child.text, "");
  assert_true(test_now() - begin < 20);
}

static void too_much_work_is_cut_and_gone_on_with(void **state) {
  (void)state;
  struct test_child child;
  run("much_work", "", &child);
  /* at the first time, and with the finding */
  assert_lines(&child, "wane: check: in this cycle only *", 2);
  assert_lines(&child, "*" NEVER ITS_ARGUMENT, 1);
  if (sizeof(void *) == 8 && !TEST_ASAN && !TEST_TSAN) {
    run("huge_object", "", &child);
    assert_lines(&child, "wane: check: in this cycle only *", 2);
    assert_lines(&child, "*" NEVER ITS_ARGUMENT, 1);
  }
}

/* Reads the next number in text after the words; moves text on. */
static bool next_counts(const char **text, int *cleanups, int *finalizers) {
  const char *at = strstr(*text, "expected ");
  if (at == NULL || sscanf(at, "expected %d %d", cleanups, finalizers) != 2) {
    return false;
  }
  *text = at + 1;
  return true;
}

static void random_graphs_are_judged_as_by_a_matrix(void **state) {
  (void)state;
  for (int seed = 1; seed <= 10; seed++) {
    static struct test_child child;
    char arg[16];
    char expected[3][64];
    int cleanups;
    int finalizers;
    snprintf(arg, sizeof arg, "%d", seed);
    run("graphs", arg, &child);
    const char *at = child.text;
    while (next_counts(&at, &cleanups, &finalizers)) {
      const char *end = strstr(at, "expected ");
      int found = 0;
      int found_finalizers = 0;
      for (const char *line = at;
           (line = strstr(line, NEVER)) != NULL && (!end || line < end);
           line++) {
        bool is_cleanup = strncmp(line + strlen(NEVER), "its", 3) == 0;
        found += is_cleanup;
        found_finalizers += !is_cleanup;
      }
      if (end == NULL && strlen(child.text) == sizeof child.text - 1) {
        break; /* its end was not kept */
      }
      snprintf(expected[0], sizeof expected[0], "%d %d", cleanups, finalizers);
      snprintf(expected[1], sizeof expected[1], "%d %d", found,
               found_finalizers);
      assert_string_equal(expected[1], expected[0]);
    }
  }
}

int main(int argc, char **argv) {
  static const struct test_role roles[] = {
      {"deep", deep},
      {"again", again},
      {"finalizer_ring", finalizer_ring},
      {"healthy", healthy},
      {"dying", dying},
      {"net_and_copy", net_and_copy},
      {"many", many},
      {"long_path", long_path},
      {"two_ways", two_ways},
      {"shared_argument", shared_argument},
      {"much_work", much_work},
      {"huge_object", huge_object},
      {"graphs", graphs},
  };
  test_roles(argc, argv, roles, TEST_COUNT(roles));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_path_is_told_step_by_step),
      cmocka_unit_test(off_it_says_nothing),
      cmocka_unit_test(with_fail_it_aborts_after_the_report),
      cmocka_unit_test(each_is_told_once),
      cmocka_unit_test(finalizers_in_rings_are_found),
      cmocka_unit_test(what_can_run_is_not_reported),
      cmocka_unit_test(nets_give_their_place_and_copies_their_bytes),
      cmocka_unit_test(fifty_are_told_in_a_cycle),
      cmocka_unit_test(long_paths_keep_their_ends),
      cmocka_unit_test(of_two_ways_the_shorter_is_told),
      cmocka_unit_test(a_shared_argument_is_searched_once),
      cmocka_unit_test(too_much_work_is_cut_and_gone_on_with),
      cmocka_unit_test(random_graphs_are_judged_as_by_a_matrix),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
