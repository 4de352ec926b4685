/*
 * Random graphs with weak pointers, cleanups whose arguments hold objects, and
 * finalizers that store their objects or set themselves again, against a
 * model that knows what each cycle must do.
 *
 * The model marks from the roots, from the arguments of waiting cleanups (A4)
 * and from what finalizable objects point to (F3). What it marks must be
 * whole, with no callback run and its weak pointer set. What it does not mark
 * has died: weak pointer NULL, then the finalizer or all the cleanups, once.
 * Stray words may keep some of these; they may only be late, and each as a
 * whole. Where other cycles come in between (stress), less is certain: then
 * only what the roots reach must live.
 *
 * lifetimes [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: one_marker WANE_OPTIONS=mark_threads=1,background=0 */
/* run: overflow WANE_OPTIONS=mark_threads=4,mark_stack=8192 */
/* run: stress WANE_OPTIONS=stress=alloc:70,verify=1 */
#include "support/lives.h"

#define NODES 2000
#define LINKS 4
#define CLEANUPS 3 /* per node; each has the first */
#define ROOTS 60
#define RECORDS (1u << 21)
#define ID_MARK (1ull << 63) /* so that no number looks like an address */

struct node {
  uint64_t id;
  struct node *links[LINKS];
  uint64_t link_ids[LINKS]; /* 0: none */
  uint64_t plan;            /* what the finalizer does */
  uint64_t check;           /* ~id */
};
WANE_TYPE(node_type, struct node, links[0], links[1], links[2], links[3]);

/* Of 2 and more the finalizer counts down, and sets itself again. */
enum { PLAN_NOTHING, PLAN_STORE, PLAN_AGAIN };

struct shadow_cleanup {
  wane_cleanup handle;
  uint32_t record; /* 0: none */
  int arg;         /* a node it holds, or -1 */
};

struct shadow {
  uint64_t id; /* 0: free */
  uintptr_t hidden;
  int links[LINKS];
  wane_weak weak; /* 0: a finalizer has run since */
  struct shadow_cleanup cleanups[CLEANUPS];
  uint64_t plan;
  uint32_t finalizer; /* its record of runs; 0: none */
  bool stored;        /* by its finalizer, in stored[] */
  bool touchable;     /* the roots reach it */
  bool marked;        /* the model's cycle marks it */
};

static struct test_random random_state;
static struct test_args args;
static struct shadow shadows[NODES];
static uint64_t next_id = 1;
static uint32_t next_record = 1;
static uint8_t runs[RECORDS]; /* atomic: by record */
TEST_ROOT struct node *roots[ROOTS];
static int root_shadow[ROOTS];
TEST_ROOT struct node *stored[NODES]; /* atomic: by finalizers */
static uint64_t deaths_due;
static uint64_t deaths_late;
static uint64_t deaths;

static size_t below(size_t limit) { return test_below(&random_state, limit); }

static uint8_t runs_of(uint32_t record) {
  return __atomic_load_n(&runs[record], __ATOMIC_SEQ_CST);
}

static void run_record(uint32_t record) {
  __atomic_fetch_add(&runs[record], 1, __ATOMIC_SEQ_CST);
}

static struct node *node_of(int idx) {
  return test_reveal(shadows[idx].hidden);
}

/* ---- Callbacks ---- */

struct cleanup_args {
  uint64_t record;
  struct node *held;
  uint64_t held_id;
};

static void check_node(const struct node *node, uint64_t id) {
  require(wane_base(node) == node);
  require(node->id == id && node->check == ~id);
}

static void clean_up(void *bytes) {
  const struct cleanup_args *copied = bytes;
  if (copied->held != NULL) { /* A4 */
    check_node(copied->held, copied->held_id);
  }
  run_record((uint32_t)copied->record);
}

/* The number of the record lies in the object, with its slot. */
static void finalize(void *object) {
  struct node *node = object;
  check_node(node, node->id);
  for (size_t i = 0; i < LINKS; i++) { /* F1: what it reaches is whole */
    require((node->links[i] != NULL) == (node->link_ids[i] != 0));
    if (node->links[i] != NULL) {
      check_node(node->links[i], node->link_ids[i]);
    }
  }
  uint32_t record = (uint32_t)(node->plan >> 8 & 0xffffffff);
  uint64_t slot = node->plan >> 40 & 0xffff;
  uint64_t plan = node->plan & 0xff;
  if (plan == PLAN_STORE) {
    __atomic_store_n(&stored[slot], node, __ATOMIC_SEQ_CST);
  } else if (plan >= PLAN_AGAIN) {
    node->plan -= plan == PLAN_AGAIN ? PLAN_AGAIN : 1;
    wane_set_finalizer(object, finalize);
  }
  run_record(record);
}

/* ---- What the program does ---- */

static uint32_t new_record(void) {
  require(next_record < RECORDS);
  return next_record++;
}

static TEST_NOINLINE void add_cleanup(int idx, size_t c, int arg) {
  struct shadow_cleanup *cleanup = &shadows[idx].cleanups[c];
  struct cleanup_args copied = {.record = new_record()};
  cleanup->record = (uint32_t)copied.record;
  cleanup->arg = arg == idx ? -1 : arg;
  if (cleanup->arg >= 0) {
    copied.held = node_of(cleanup->arg);
    copied.held_id = shadows[cleanup->arg].id;
  }
  cleanup->handle = wane_add_cleanup_copy((char *)node_of(idx) + below(64),
                                          clean_up, &copied, sizeof copied);
  require(cleanup->handle.id != 0);
}

static void set_link(int from, size_t l, int to) {
  struct node *node = node_of(from);
  shadows[from].links[l] = to;
  node->links[l] = to < 0 ? NULL : node_of(to);
  node->link_ids[l] = to < 0 ? 0 : shadows[to].id;
}

static void set_root(size_t r, int to) {
  root_shadow[r] = to;
  roots[r] = to < 0 ? NULL : node_of(to);
}

static TEST_NOINLINE void set_finalizer(int idx) {
  struct shadow *s = &shadows[idx];
  struct node *node = node_of(idx);
  s->finalizer = new_record();
  s->plan = below(2) == 0 ? PLAN_NOTHING : 1 + below(4);
  node->plan =
      ID_MARK | s->plan | (uint64_t)s->finalizer << 8 | (uint64_t)idx << 40;
  wane_set_finalizer(node, finalize);
}

static void clear_finalizer(int idx) {
  wane_set_finalizer(node_of(idx), NULL);
  shadows[idx].finalizer = 0;
}

static int touchable_node(void) {
  for (int tries = 0; tries < 100; tries++) {
    int idx = (int)below(NODES);
    if (shadows[idx].touchable) {
      return idx;
    }
  }
  return -1;
}

static int free_root(void) {
  size_t first = below(ROOTS);
  for (size_t i = 0; i < ROOTS; i++) {
    if (root_shadow[(first + i) % ROOTS] < 0) {
      return (int)((first + i) % ROOTS);
    }
  }
  return -1;
}

static TEST_NOINLINE void add_node(void) {
  int idx = (int)below(NODES);
  struct shadow *s = &shadows[idx];
  if (s->id != 0) {
    return;
  }
  int parent = touchable_node();
  int root = free_root();
  size_t l = below(LINKS);
  bool hang = parent >= 0 && shadows[parent].links[l] < 0 && below(4) != 0;
  if (!hang && root < 0) {
    return;
  }
  *s = (struct shadow){.id = next_id++ | ID_MARK, .links = {-1, -1, -1, -1}};
  struct node *node = below(2) == 0 ? wane_alloc(sizeof *node)
                                    : wane_alloc_typed(&node_type, 1);
  require(node != NULL && node->id == 0 && node->links[3] == NULL);
  node->id = s->id;
  node->check = ~s->id;
  s->hidden = test_hide(node);
  s->weak = wane_weak_make(node);
  for (size_t c = 0; c < CLEANUPS; c++) {
    s->cleanups[c].arg = -1;
  }
  add_cleanup(idx, 0, below(20) == 0 ? parent : -1);
  if (hang) {
    set_link(parent, l, idx);
  } else {
    set_root((size_t)root, idx);
  }
  s->touchable = true;
}

static void stop_cleanup(int idx, size_t c) {
  struct shadow_cleanup *cleanup = &shadows[idx].cleanups[c];
  if (cleanup->record != 0) {
    require(wane_cleanup_stop(cleanup->handle));
    require(!wane_cleanup_stop(cleanup->handle));
    *cleanup = (struct shadow_cleanup){.arg = -1};
  }
}

/* Only of what the roots reach, and nothing is lost by it. */
static void add_something(void) {
  int a = touchable_node();
  int b = touchable_node();
  size_t l = below(LINKS);
  size_t c = 1 + below(CLEANUPS - 1);
  if (a < 0 || below(2) == 0) {
    add_node();
    return;
  }
  struct shadow *s = &shadows[a];
  switch (below(6)) {
  case 0:
    if (s->finalizer == 0) {
      set_finalizer(a);
    }
    break;
  case 1:
    if (s->cleanups[c].record == 0) {
      add_cleanup(a, c, below(2) == 0 ? b : -1);
    }
    break;
  case 2:
    if (s->weak.id != 0) {
      require(wane_weak_value(s->weak) == node_of(a));
      require(wane_weak_make(node_of(a)).id == s->weak.id);
    }
    break;
  case 3:
    require(wane_weak_make((char *)node_of(a) + 1).id != s->weak.id);
    break;
  default:
    if (s->links[l] < 0) {
      set_link(a, l, b);
    }
  }
}

static void remove_something(void) {
  int a = touchable_node();
  if (a < 0) {
    return;
  }
  switch (below(8)) {
  case 0:
  case 1:
    set_root(below(ROOTS), -1);
    break;
  case 2:
    stop_cleanup(a, 1 + below(CLEANUPS - 1));
    break;
  case 3:
    if (shadows[a].finalizer != 0) {
      clear_finalizer(a);
    }
    break;
  case 4:
  case 5:
    if (shadows[a].stored) {
      shadows[a].stored = false;
      stored[a] = NULL;
    }
    break;
  default:
    set_link(a, below(LINKS), -1);
  }
}

/* ---- The model ---- */

static int mark_stack[NODES];
static size_t mark_depth;

static void mark(int idx, bool touch) {
  struct shadow *s = &shadows[idx < 0 ? 0 : idx];
  bool *bit = touch ? &s->touchable : &s->marked;
  if (idx >= 0 && !*bit) {
    *bit = true;
    mark_stack[mark_depth++] = idx;
  }
}

static void mark_all(bool touch) {
  while (mark_depth > 0) {
    int idx = mark_stack[--mark_depth];
    for (size_t l = 0; l < LINKS; l++) {
      mark(shadows[idx].links[l], touch);
    }
  }
}

static void mark_roots(bool touch) {
  for (size_t i = 0; i < NODES; i++) {
    *(touch ? &shadows[i].touchable : &shadows[i].marked) = false;
  }
  for (size_t r = 0; r < ROOTS; r++) {
    mark(root_shadow[r], touch);
  }
  for (int i = 0; i < NODES; i++) {
    if (shadows[i].stored) {
      mark(i, touch);
    }
  }
  mark_all(touch);
}

/* A4 and F3 besides. An object's pointer to itself does not count (F4). */
static void mark_as_the_collector(void) {
  mark_roots(false);
  for (int i = 0; i < NODES; i++) {
    const struct shadow *s = &shadows[i];
    for (size_t c = 0; s->id != 0 && c < CLEANUPS; c++) {
      mark(s->cleanups[c].record != 0 ? s->cleanups[c].arg : -1, false);
    }
    for (size_t l = 0; s->finalizer != 0 && l < LINKS; l++) {
      mark(s->links[l] == i ? -1 : s->links[l], false);
    }
  }
  mark_all(false);
}

/* ---- After a cycle ---- */

static void check_alive(int idx) {
  const struct shadow *s = &shadows[idx];
  const struct node *node = node_of(idx);
  check_node(node, s->id);
  for (size_t l = 0; l < LINKS; l++) {
    require((s->links[l] < 0 ? NULL : node_of(s->links[l])) == node->links[l]);
  }
  require(s->weak.id == 0 || wane_weak_value(s->weak) == node);
  require(s->finalizer == 0 || runs_of(s->finalizer) == 0);
  for (size_t c = 0; c < CLEANUPS; c++) {
    uint32_t record = s->cleanups[c].record;
    require(record == 0 || runs_of(record) == 0);
  }
}

/* All cleanups ran, or none. */
static bool cleanups_ran(const struct shadow *s) {
  uint8_t ran = runs_of(s->cleanups[0].record);
  require(ran <= 1);
  for (size_t c = 1; c < CLEANUPS; c++) {
    require(s->cleanups[c].record == 0 ||
            runs_of(s->cleanups[c].record) == ran);
  }
  return ran == 1;
}

/* The finalizer ran so often: what it did. */
static void finalizer_ran(int idx, uint8_t times) {
  struct shadow *s = &shadows[idx];
  uint64_t plan = s->plan;
  s->weak.id = 0;
  for (uint8_t i = 0; i < times; i++) {
    require(s->finalizer != 0);
    if (plan < PLAN_AGAIN) {
      s->finalizer = 0;
      s->stored = plan == PLAN_STORE;
    } else {
      plan = plan == PLAN_AGAIN ? PLAN_NOTHING : plan - 1;
    }
  }
  s->plan = plan;
  if (s->finalizer != 0) { /* counted anew */
    __atomic_store_n(&runs[s->finalizer], 0, __ATOMIC_SEQ_CST);
  }
}

/* What the model did not mark. dead: the weak pointer was NULL before the
   callbacks were waited for. */
static void check_unmarked(int idx, bool dead, bool exact) {
  struct shadow *s = &shadows[idx];
  bool had_weak = s->weak.id != 0;
  bool had_finalizer = s->finalizer != 0;
  uint8_t finalized = had_finalizer ? runs_of(s->finalizer) : 0;
  bool cleaned = cleanups_ran(s);
  require(!exact || finalized <= 1);
  if (had_weak && exact) {
    require(dead == (had_finalizer ? finalized == 1 : cleaned));
    require(!cleaned || !had_finalizer); /* X2 */
    deaths_due++;
    deaths_late += !dead;
  }
  if (finalized > 0) {
    finalizer_ran(idx, finalized);
  }
  if (cleaned) {
    require(s->finalizer == 0 && !s->stored);
    deaths++;
    *s = (struct shadow){0};
  } else if (s->stored) { /* W2, W4: a new one, unequal */
    s->weak = wane_weak_make(node_of(idx));
    require(s->weak.id != 0);
  }
}

static void check_all(void) {
  static bool dead[NODES];
  mark_as_the_collector();
  mark_roots(true);
  uint64_t before = test_stats().cycles_full;
  static uint64_t last;
  test_scrub();
  wane_collect();
  bool exact = before == last;
  for (int i = 0; i < NODES; i++) {
    const struct shadow *s = &shadows[i];
    dead[i] = s->id != 0 && s->weak.id != 0 && wane_weak_value(s->weak) == NULL;
  }
  test_scrub();
  require(wane_drain(30000));
  last = test_stats().cycles_full;
  exact = exact && last == before + 1;
  for (int i = 0; i < NODES; i++) {
    if (shadows[i].id == 0) {
      continue;
    }
    if (exact ? shadows[i].marked : shadows[i].touchable) {
      check_alive(i);
    } else {
      check_unmarked(i, dead[i], exact);
    }
  }
  mark_roots(true);
}

/* Rings with a finalizer in them (F4), and objects that the argument of their
   own cleanup reaches (A6), live until these are taken away. */
static TEST_NOINLINE void break_ring(int idx) {
  struct shadow *s = &shadows[idx];
  const void *held = wane_weak_value(s->weak);
  if (held == NULL) {
    return;
  }
  require(held == node_of(idx));
  if (s->finalizer != 0) {
    clear_finalizer(idx);
  }
  for (size_t c = 0; c < CLEANUPS; c++) {
    stop_cleanup(idx, c);
  }
  add_cleanup(idx, 0, -1);
  wane_keep_alive(held);
}

static void break_rings(void) {
  for (int i = 0; i < NODES; i++) {
    const struct shadow *s = &shadows[i];
    if (s->id != 0 && s->weak.id != 0 && !s->touchable && below(3) == 0) {
      break_ring(i);
    }
  }
}

/* A fresh thread, whose stack nobody scans afterwards. */
static void mutate(void *arg) {
  (void)arg;
  size_t additions = below(400);
  for (size_t i = 0; i < additions; i++) {
    add_something();
  }
  size_t removals = below(400);
  for (size_t i = 0; i < removals; i++) {
    remove_something();
    mark_roots(true);
  }
  if (below(8) == 0) {
    break_rings();
  }
}

static void break_rings_apart(void *arg) {
  (void)arg;
  break_rings();
}

static void each_cycle_does_what_it_must(void **state) {
  (void)state;
  random_state.state = args.seed;
  memset(root_shadow, -1, sizeof root_shadow);
  wane_set_gc_percent(-1); /* only cycles that are asked for */
  size_t rounds = 0;
  double end = test_now() + args.seconds;
  for (; test_now() < end && next_record < RECORDS - 10000; rounds++) {
    test_apart(mutate, NULL);
    check_all();
  }
  for (size_t r = 0; r < ROOTS; r++) {
    set_root(r, -1);
  }
  for (size_t i = 0; i < 20; i++) {
    test_apart(break_rings_apart, NULL);
    check_all();
    for (size_t n = 0; n < NODES; n++) {
      shadows[n].stored = false;
      stored[n] = NULL;
    }
  }
  printf("%zu rounds, %llu deaths, of %llu due %llu late\n", rounds,
         (unsigned long long)deaths, (unsigned long long)deaths_due,
         (unsigned long long)deaths_late);
  assert_true(deaths > 0);
  /* sanitizers leave more words behind */
  uint64_t few = deaths_due / (TEST_ASAN || TEST_TSAN ? 3 : 20);
  assert_in_range(deaths_late, 0, few + 100);
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_cycle_does_what_it_must),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
