/*
 * Random graphs of objects and ephemerons, with finalizers and cleanups now
 * and then, against a model that computes what each cycle must do by a plain
 * fix-point. E1, D17, X3, F3, A4, W6.
 *
 * The model marks from the roots, from the arguments of waiting cleanups and
 * from what objects with a finalizer point to; an ephemeron that is marked or
 * has a finalizer marks its value if its key is marked or is none. What it
 * marks must be whole. What it does not mark has died, but for what stray
 * words keep: that is counted and must be little. An ephemeron has lost both
 * words if and only if its key was found dead, which weak pointers tell
 * independently. Where other cycles come in between (stress), only what the
 * roots reach must live.
 *
 * Addresses are looked at in threads of their own, so that they are on no
 * stack when the next cycle comes.
 *
 * ephemerons [--seed N] [--seconds S]
 */
/* run: verify WANE_OPTIONS=verify=1 */
/* run: poison WANE_OPTIONS=poison=1 */
/* run: one_marker WANE_OPTIONS=mark_threads=1,background=0 */
/* run: four_markers WANE_OPTIONS=mark_threads=4,verify=1 */
/* run: overflow WANE_OPTIONS=mark_threads=4,mark_stack=8192 */
/* run: stress WANE_OPTIONS=stress=alloc:70,verify=1 */
#include "support/lives.h"

#define NODES 3000
#define LINKS 3
#define ROOTS 25
#define BIG_BYTES 40000

enum kind { PLAIN, TYPED, LEAF, BIG, EPHEMERON };

/* Of an ephemeron, links[0] is the key and links[1] the value. */
enum { KEY, VALUE };
#define NONE (-1)
#define CLEARED (-2)

struct node {
  uint64_t id;
  uint64_t check; /* ~id */
  struct node *links[LINKS];
};
WANE_TYPE(node_type, struct node, links[0], links[1], links[2]);

struct shadow {
  uint64_t id; /* 0: free */
  enum kind kind;
  uintptr_t hidden;
  int links[LINKS];
  size_t offsets[2]; /* of an ephemeron's words into their objects */
  wane_weak weak;
  wane_weak reborn; /* made by the finalizer */
  wane_cleanup cleanup;
  int cleanup_arg;
  bool has_cleanup;
  bool has_finalizer;
  bool stores;        /* the finalizer */
  bool stored;        /* by its finalizer, in stored[] */
  uint32_t cleaned;   /* atomic */
  uint32_t finalized; /* atomic */
  bool touchable;     /* the roots reach it */
  bool marked;        /* the model's cycle marks it */
  bool died;          /* its weak pointer was NULL after the cycle */
  bool gone;          /* and its finalizer has not brought it back */
};

static struct test_random random_state;
static struct test_args args;
static struct shadow shadows[NODES];
static uint64_t next_id = 1;
TEST_ROOT void *roots[ROOTS];
static int root_shadow[ROOTS];
TEST_ROOT void *stored[NODES]; /* atomic: by finalizers */
static uint64_t deaths_due, deaths_late, deaths, clears, clears_due, lived;

static size_t below(size_t limit) { return test_below(&random_state, limit); }

static void *object_of(int idx) { return test_reveal(shadows[idx].hidden); }

static bool is_ephemeron(int idx) { return shadows[idx].kind == EPHEMERON; }

/* What an ephemeron's word is to be. */
static void *word_of(const struct shadow *s, size_t which) {
  int to = s->links[which];
  return to < 0 ? NULL : (char *)object_of(to) + s->offsets[which];
}

/* ---- Callbacks ---- */

static void check_node(const struct node *node, uint64_t id) {
  require(wane_base(node) == node);
  require(node->id == id && node->check == ~id);
}

static void check_object(int idx) {
  if (is_ephemeron(idx)) {
    require(wane_base(object_of(idx)) == object_of(idx));
  } else {
    check_node(object_of(idx), shadows[idx].id);
  }
}

/* Both words, or none; what they point to is whole. */
static bool check_pair(int idx) {
  const struct shadow *s = &shadows[idx];
  struct wane_ephemeron *e = object_of(idx);
  if (s->links[KEY] == CLEARED) {
    require(wane_ephemeron_key(e) == NULL);
    require(wane_ephemeron_value(e) == NULL);
    return false;
  }
  const void *key = wane_ephemeron_key(e);
  const void *value = wane_ephemeron_value(e);
  bool gone = s->links[KEY] >= 0 && key == NULL;
  require(key == (gone ? NULL : word_of(s, KEY)));
  require(value == (gone ? NULL : word_of(s, VALUE)));
  if (key != NULL) {
    check_object(s->links[KEY]);
  }
  if (value != NULL) {
    check_object(s->links[VALUE]);
  }
  return !gone;
}

static void check_links(int idx) {
  const struct shadow *s = &shadows[idx];
  const struct node *node = object_of(idx);
  for (size_t l = 0; l < LINKS && s->kind != LEAF; l++) {
    require(node->links[l] ==
            (s->links[l] < 0 ? NULL : object_of(s->links[l])));
    if (s->links[l] >= 0) {
      check_object(s->links[l]);
    }
  }
}

/* The shadow of a dead object, whose finalizer is to run. Another that was at
   its address has been finalized. */
static int shadow_of_dead(const void *object) {
  for (int i = 0; i < NODES; i++) {
    const struct shadow *s = &shadows[i];
    if (s->id != 0 && s->hidden == test_hide(object) && s->has_finalizer &&
        s->finalized == 0) {
      return i;
    }
  }
  require(!"the object is known");
  return NONE;
}

static void finalize(void *object) {
  int idx = shadow_of_dead(object);
  struct shadow *s = &shadows[idx];
  require(wane_weak_value(s->weak) == NULL);
  if (is_ephemeron(idx)) {
    (void)check_pair(idx);
  } else {
    check_node(object, s->id);
    check_links(idx);
  }
  if (s->stores) {
    __atomic_store_n(&stored[idx], object, __ATOMIC_SEQ_CST);
  }
  s->reborn = wane_weak_make(object);
  __atomic_fetch_add(&s->finalized, 1, __ATOMIC_SEQ_CST);
}

struct cleanup_args {
  uint64_t idx;
  void *held;
};

static void clean_up(void *bytes) {
  const struct cleanup_args *copied = bytes;
  struct shadow *s = &shadows[copied->idx & 0xffffff];
  require(s->id != 0 && wane_weak_value(s->weak) == NULL);
  if (s->cleanup_arg >= 0) { /* A4 */
    check_object(s->cleanup_arg);
    require(object_of(s->cleanup_arg) == copied->held);
    if (is_ephemeron(s->cleanup_arg)) {
      (void)check_pair(s->cleanup_arg);
    }
  }
  __atomic_fetch_add(&s->cleaned, 1, __ATOMIC_SEQ_CST);
}

/* ---- The model ---- */

static bool *mark_bit(int idx, bool touch) {
  return touch ? &shadows[idx].touchable : &shadows[idx].marked;
}

static bool mark(int idx, bool touch) {
  if (idx < 0 || *mark_bit(idx, touch)) {
    return false;
  }
  *mark_bit(idx, touch) = true;
  return true;
}

/* What the fields of a node mark. An object's pointer to itself does not
   count for a finalizer (F4). */
static bool mark_fields(int idx, bool touch, bool for_finalizer) {
  const struct shadow *s = &shadows[idx];
  bool changed = false;
  if (s->kind == EPHEMERON) {
    int key = s->links[KEY];
    if (key == NONE || (key >= 0 && *mark_bit(key, touch))) {
      changed = mark(s->links[VALUE], touch);
    }
    return changed;
  }
  for (size_t l = 0; l < LINKS; l++) {
    if (!for_finalizer || s->links[l] != idx) {
      changed |= mark(s->links[l], touch);
    }
  }
  return changed;
}

/* touch: what the program can get at now; else what a cycle marks. */
static void mark_model(bool touch) {
  for (int i = 0; i < NODES; i++) {
    *mark_bit(i, touch) = false;
  }
  for (size_t r = 0; r < ROOTS; r++) {
    (void)mark(root_shadow[r], touch);
  }
  for (int i = 0; i < NODES; i++) {
    if (shadows[i].stored) {
      (void)mark(i, touch);
    }
    if (!touch && shadows[i].has_cleanup) {
      (void)mark(shadows[i].cleanup_arg, touch);
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (int i = 0; i < NODES; i++) {
      if (*mark_bit(i, touch)) {
        changed |= mark_fields(i, touch, false);
      } else if (!touch && shadows[i].has_finalizer) {
        changed |= mark_fields(i, touch, true);
      }
    }
  }
}

/* ---- What the program does, to what the roots reach ---- */

static int touchable_node(bool ephemeron) {
  for (int tries = 0; tries < 200; tries++) {
    int idx = (int)below(NODES);
    if (shadows[idx].touchable && is_ephemeron(idx) == ephemeron) {
      return idx;
    }
  }
  return NONE;
}

static int touchable_any(void) { return touchable_node(below(4) == 0); }

static int free_root(void) {
  size_t first = below(ROOTS);
  for (size_t i = 0; i < ROOTS; i++) {
    if (root_shadow[(first + i) % ROOTS] < 0) {
      return (int)((first + i) % ROOTS);
    }
  }
  return NONE;
}

static void set_link(int from, size_t l, int to) {
  struct node *node = object_of(from);
  shadows[from].links[l] = to;
  node->links[l] = to < 0 ? NULL : object_of(to);
}

static void set_root(size_t r, int to) {
  root_shadow[r] = to;
  roots[r] = to < 0 ? NULL : object_of(to);
}

static int new_node(void);

/* The value of an ephemeron is a new node, that nothing else holds, or one that
   is there. */
static void *new_object(struct shadow *s) {
  struct node *node = NULL;
  switch (s->kind) {
  case PLAIN:
    node = wane_alloc(sizeof *node + below(100));
    break;
  case TYPED:
    node = wane_alloc_typed(&node_type, 1);
    break;
  case LEAF:
    node = wane_alloc_leaf(sizeof *node);
    break;
  case BIG:
    node = wane_alloc(BIG_BYTES);
    break;
  case EPHEMERON:
    s->links[KEY] = below(12) == 0 ? NONE : touchable_any();
    s->links[VALUE] = below(12) == 0  ? NONE
                      : below(2) == 0 ? touchable_any()
                                      : new_node();
    for (size_t l = 0; l < 2; l++) {
      bool small = s->links[l] >= 0 && !is_ephemeron(s->links[l]);
      s->offsets[l] = small ? below(sizeof(struct node)) : 0;
    }
    return wane_ephemeron_new(word_of(s, KEY), word_of(s, VALUE));
  }
  require(node != NULL);
  node->id = s->id;
  node->check = ~s->id;
  return node;
}

/* A fresh node; whoever asks holds it. Its slot is taken before others are
   made for it. */
static TEST_NOINLINE int new_node(void) {
  int idx = (int)below(NODES);
  struct shadow *s = &shadows[idx];
  if (s->id != 0) {
    return NONE;
  }
  size_t kind = below(20);
  *s = (struct shadow){.id = next_id++ | 1ull << 63,
                       .kind = kind < 9    ? EPHEMERON
                               : kind < 14 ? PLAIN
                               : kind < 17 ? TYPED
                               : kind < 19 ? LEAF
                                           : BIG,
                       .links = {NONE, NONE, NONE},
                       .cleanup_arg = NONE};
  void *object = new_object(s);
  require(object != NULL);
  s->hidden = test_hide(object);
  s->weak = wane_weak_make(object);
  s->touchable = true;
  wane_keep_alive(object);
  return idx;
}

/* A place that can hold a new node: a root or a free link. */
static bool find_place(int *parent, size_t *link) {
  *parent = touchable_node(false);
  *link = below(LINKS);
  if (*parent >= 0 && below(5) != 0 && shadows[*parent].kind != LEAF &&
      shadows[*parent].links[*link] < 0) {
    return true;
  }
  *parent = NONE;
  int root = free_root();
  *link = (size_t)root;
  return root >= 0;
}

static TEST_NOINLINE void add_node(void) {
  int parent;
  size_t place;
  if (!find_place(&parent, &place)) {
    return;
  }
  int idx = new_node();
  if (idx < 0) {
    return;
  }
  if (parent >= 0) {
    set_link(parent, place, idx);
  } else {
    set_root(place, idx);
  }
}

/* Makes the value lead somewhere: chains and rings of pairs. */
static void link_nodes(void) {
  int from = touchable_node(false);
  size_t l = below(LINKS);
  if (from >= 0 && shadows[from].kind != LEAF && shadows[from].links[l] < 0) {
    set_link(from, l, touchable_any());
  }
}

static void add_callback(void) {
  int idx = touchable_any();
  if (idx < 0) {
    return;
  }
  struct shadow *s = &shadows[idx];
  if (below(3) == 0) {
    if (!s->has_finalizer) {
      s->has_finalizer = true;
      s->stores = below(3) == 0;
      wane_set_finalizer(object_of(idx), finalize);
    }
  } else if (!s->has_cleanup) {
    int arg = below(2) == 0 ? touchable_any() : NONE;
    s->cleanup_arg = arg == idx ? NONE : arg;
    struct cleanup_args copied = {(uint64_t)idx | 1ull << 63, NULL};
    copied.held = s->cleanup_arg < 0 ? NULL : object_of(s->cleanup_arg);
    s->has_cleanup = true;
    s->cleanup =
        wane_add_cleanup_copy(object_of(idx), clean_up, &copied, sizeof copied);
    require(s->cleanup.id != 0);
  }
}

static void remove_something(void) {
  int idx = touchable_any();
  if (idx < 0) {
    return;
  }
  struct shadow *s = &shadows[idx];
  switch (below(6)) {
  case 0:
  case 1:
    set_root(below(ROOTS), NONE);
    break;
  case 2:
    s->stored = false;
    stored[idx] = NULL;
    break;
  default:
    if (s->kind != EPHEMERON && s->kind != LEAF) {
      set_link(idx, below(LINKS), NONE);
    }
  }
}

/* Rings with a finalizer in them (F4) and cleanups whose argument reaches
   their object (A6) live until these are taken away. */
static TEST_NOINLINE void break_ring(int idx) {
  struct shadow *s = &shadows[idx];
  void *object = wane_weak_value(s->weak);
  if (object == NULL) {
    return;
  }
  if (s->has_finalizer) {
    wane_set_finalizer(object, NULL);
    s->has_finalizer = false;
  }
  if (s->has_cleanup) {
    require(wane_cleanup_stop(s->cleanup));
    s->has_cleanup = false;
  }
  wane_keep_alive(object);
}

static void break_rings(void) {
  for (int i = 0; i < NODES; i++) {
    if (shadows[i].id != 0 && !shadows[i].touchable && below(3) == 0) {
      break_ring(i);
    }
  }
}

static void mutate(void *arg) {
  (void)arg;
  size_t additions = below(1500);
  for (size_t i = 0; i < additions; i++) {
    size_t what = below(12);
    if (what < 7) {
      add_node();
    } else if (what < 11) {
      link_nodes();
    } else if (below(4) == 0) {
      add_callback();
    }
  }
  size_t removals = below(4) == 0 ? below(600) : below(60);
  for (size_t i = 0; i < removals; i++) {
    remove_something();
    mark_model(true);
  }
  if (below(8) == 0) {
    break_rings();
  }
}

/* ---- After a cycle ---- */

static bool is_exact; /* no other cycle ran since the last one looked at */

/* Before callbacks are waited for. */
static void note_deaths(void *arg) {
  (void)arg;
  for (int i = 0; i < NODES; i++) {
    struct shadow *s = &shadows[i];
    s->died = s->id != 0 && wane_weak_value(s->weak) == NULL;
  }
}

static void check_there(int idx) {
  struct shadow *s = &shadows[idx];
  check_object(idx);
  if (s->kind != EPHEMERON) {
    check_links(idx);
    return;
  }
  int key = s->links[KEY];
  bool whole = check_pair(idx);
  if (key < 0) {
    return;
  }
  require(whole == !shadows[key].died); /* X3, E1, D17 */
  require(!is_exact || whole || !shadows[key].marked);
  clears_due += is_exact && !shadows[key].marked;
  if (!whole) {
    clears++;
    s->links[KEY] = CLEARED;
    s->links[VALUE] = NONE;
  }
}

static void check_fate(int idx) {
  struct shadow *s = &shadows[idx];
  bool must_live = is_exact ? s->marked : s->touchable;
  lived += must_live;
  require(!must_live || !s->died);
  require(s->finalized == (s->died && s->has_finalizer ? 1u : 0u));
  require(s->cleaned == (s->gone && s->has_cleanup ? 1u : 0u)); /* X2 */
  require(!is_exact || s->gone == (s->died && !s->has_finalizer));
  if (is_exact && !s->marked) {
    deaths_due++;
    deaths_late += !s->died;
  }
  if (s->gone) {
    deaths++;
    *s = (struct shadow){0};
  } else if (s->died) {
    s->has_finalizer = false;
    s->stored = s->stores;
    s->finalized = 0;
    s->weak = s->reborn; /* the old one stays NULL */
  }
}

static void check_all(void *arg) {
  (void)arg;
  for (int i = 0; i < NODES; i++) {
    struct shadow *s = &shadows[i];
    s->gone =
        s->died && (!s->has_finalizer || wane_weak_value(s->reborn) == NULL);
  }
  for (int i = 0; i < NODES; i++) {
    if (shadows[i].id != 0 && !shadows[i].gone) {
      check_there(i);
    }
  }
  for (int i = 0; i < NODES; i++) {
    if (shadows[i].id != 0) {
      check_fate(i);
    }
  }
}

static void collect_and_check(void) {
  static uint64_t last;
  mark_model(false);
  mark_model(true);
  uint64_t before = test_stats().cycles_full;
  test_scrub();
  wane_collect();
  test_apart(note_deaths, NULL);
  require(wane_drain(30000));
  uint64_t now = test_stats().cycles_full;
  is_exact = before == last && now == before + 1;
  last = now;
  test_apart(check_all, NULL);
  mark_model(true);
}

static void break_rings_apart(void *arg) {
  (void)arg;
  break_rings();
  for (int i = 0; i < NODES; i++) {
    shadows[i].stored = false;
    stored[i] = NULL;
  }
}

static void each_cycle_does_what_it_must(void **state) {
  (void)state;
  random_state.state = args.seed;
  memset(root_shadow, -1, sizeof root_shadow);
  wane_set_gc_percent(-1); /* only cycles that are asked for */
  size_t rounds = 0;
  for (double end = test_now() + args.seconds; test_now() < end; rounds++) {
    test_apart(mutate, NULL);
    collect_and_check();
  }
  for (size_t r = 0; r < ROOTS; r++) {
    set_root(r, NONE);
  }
  for (int i = 0; i < 40; i++) {
    test_apart(break_rings_apart, NULL);
    collect_and_check();
  }
  size_t left = 0;
  for (size_t i = 0; i < NODES; i++) {
    left += shadows[i].id != 0;
  }
  printf("%zu rounds, %llu deaths, of %llu due %llu late; %llu pairs cleared "
         "of %llu due; %llu lived, %zu left\n",
         rounds, (unsigned long long)deaths, (unsigned long long)deaths_due,
         (unsigned long long)deaths_late, (unsigned long long)clears,
         (unsigned long long)clears_due, (unsigned long long)lived, left);
  assert_true(deaths > 0 && clears > 0);
  /* sanitizers leave words behind, and one can keep a large part of the graph
   */
  if (!TEST_ASAN && !TEST_TSAN) {
    assert_in_range(deaths_late, 0, deaths_due / 100 + 200);
  }
}

int main(int argc, char **argv) {
  args = test_args_read(argc, argv, 2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_cycle_does_what_it_must),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
